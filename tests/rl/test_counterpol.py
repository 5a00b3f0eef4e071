"""Counterpol: dynamics against gymnasium, gradients against differences, the search against closed forms."""

import json
import zipfile

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import rel_entr

from replications.rl.counterpol import method
from replications.rl.counterpol.weights import agents, train

WIDTHS = (4, 5, 2)
HOW = {"k": 0.0, "delta": 0.0, "rho": 1.0, "lr": 0.02, "clip": 1.0, "inner": 5, "outer": 1, "episodes": 8}


def rngs(n: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, i]) for i in range(n)]


def policies(n: int, widths: method.Widths = WIDTHS, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(5).normal(0, 0.7, (n, method.n_parameters(widths))).astype(dtype)


# ---------------------------------------------------------------- environments


@pytest.mark.parametrize(("env", "name"), [(method.CARTPOLE, "CartPole-v1"), (method.ACROBOT, "Acrobot-v1")])
def test_dynamics_are_those_of_gymnasium(env, name):
    gymnasium = pytest.importorskip("gymnasium", reason="pip install gymnasium: a peer of this test alone")
    theirs, rng, over = gymnasium.make(name), np.random.default_rng(0), 0
    assert theirs.spec.max_episode_steps == env.horizon
    for swing in (False, True):
        theirs.reset(seed=int(swing))
        state, seen, found = np.array([theirs.unwrapped.state], float), [], []
        for _ in range(150):
            # random, or with the motion of the last joint, which ends Acrobot's episodes
            action = (env.n_actions - 1) * (state[0, 3] > 0) if swing else rng.integers(env.n_actions)
            x, *outcome = theirs.step(int(action))[:3]
            state, *ours = env.step(state, np.array([action]))
            seen.append([*x, *outcome])
            found.append([*env.observe(state)[0], *np.ravel(ours)])
            if outcome[1]:
                break
        np.testing.assert_allclose(found, seen, atol=1e-5)
        over += seen[-1][-1]
    assert over


@pytest.mark.parametrize(("env", "bound"), [(method.CARTPOLE, 0.05), (method.ACROBOT, 0.1)])
def test_starts(env, bound):
    starts = env.start(np.random.default_rng(0), 4000)
    assert starts.shape == (4000, 4) and np.abs(starts).max() == pytest.approx(bound, rel=1e-3)


# ---------------------------------------------------------------- policies


def test_probabilities_by_hand():
    theta = policies(2, (3, 4, 2, 3), float)
    x = np.random.default_rng(1).normal(size=(7, 3))
    w1, b1, w2, b2, w3, b3 = np.split(theta[1], np.cumsum([12, 4, 8, 2, 6]))
    h = np.tanh(np.tanh(x @ w1.reshape(3, 4) + b1) @ w2.reshape(4, 2) + b2) @ w3.reshape(2, 3) + b3
    np.testing.assert_allclose(method.probabilities(theta, (3, 4, 2, 3), x)[1], np.exp(h) / np.exp(h).sum(1, keepdims=True))
    assert method.tanh(np.float32([-200, 0, 200])).tolist() == [-1, 0, 1]


def test_initial_policy():
    theta = method.initial((4, 500, 2), np.random.default_rng(0))
    (w1, b1), (w2, b2) = method.layers(theta, (4, 500, 2))
    assert w1.std() == pytest.approx(0.5, rel=0.05) and w2.std() == pytest.approx(0.01 / 500**0.5, rel=0.05)
    assert not b1.any() and not b2.any() and theta.dtype == np.float32


def test_draw_follows_the_probabilities():
    pi = np.array([0.2, 0.5, 0.3])
    drawn = method.draw(np.broadcast_to(pi, (100_000, 3)), np.linspace(0, 1, 100_000, endpoint=False))
    np.testing.assert_allclose(np.bincount(drawn) / 100_000, pi, atol=1e-4)


# ---------------------------------------------------------------- episodes


def test_rollout_is_an_episode_by_itself():
    """Each recorded episode again, alone and step by step, from the recorded actions."""
    theta, n = policies(3), 4
    batch = method.rollout(method.CARTPOLE, WIDTHS, theta, rngs(3), n)
    for r, rng in enumerate(rngs(3)):
        states, u = method.CARTPOLE.start(rng, n), rng.random((500, n), dtype=np.float32)
        for i, state in enumerate(states):
            length = int(batch.taken[:, r, i].sum())
            assert batch.taken[:length, r, i].all() and batch.returns[r, i] == length
            for t in range(length):
                pi = method.probabilities(theta[r], WIDTHS, state[None])[0]
                assert batch.action[t, r, i] == (u[t, i] >= pi[0])
                np.testing.assert_allclose(batch.x[t, r, i], state, rtol=1e-5)
                state, _, done = (a[0] for a in method.CARTPOLE.step(state[None], batch.action[t, r, i][None]))
                assert done == (t == length - 1)


def test_a_run_does_not_depend_on_its_neighbours():
    theta = policies(3)
    together = method.rollout(method.CARTPOLE, WIDTHS, theta, rngs(3), 6)
    alone = method.rollout(method.CARTPOLE, WIDTHS, theta[1:2], rngs(3)[1:2], 6)
    np.testing.assert_array_equal(together.returns[1], alone.returns[0])


def test_greedy_takes_the_most_probable_action():
    theta = policies(1)
    batch = method.rollout(method.CARTPOLE, WIDTHS, theta, rngs(1), 5, greedy=True)
    x, action, _ = batch.steps(0)
    np.testing.assert_array_equal(action, method.probabilities(theta[0], WIDTHS, x).argmax(axis=1))


def test_returns_to_go():
    taken = np.array([[1, 1], [1, 0], [1, 0]], bool)[:, None]
    reward = np.array([[1, -2], [10, 0], [100, 0]], np.float32)[:, None]
    batch = method.Batch(np.arange(6.0).reshape(3, 1, 2, 1), np.zeros((3, 1, 2), int), reward, taken)
    x, _, to_go = batch.steps(0)
    assert dict(zip(x[:, 0], to_go, strict=True)) == {0: 111, 1: -2, 2: 110, 4: 100}
    assert batch.returns.tolist() == [[111, -2]]


# ---------------------------------------------------------------- gradient and search


def test_gradient_against_differences():
    theta, pivot = policies(2, dtype=float)
    rng = np.random.default_rng(2)
    x, action, to_go = rng.normal(size=(9, 4)), rng.integers(2, size=9), rng.normal(size=9)

    def objective(theta):
        pi, q = method.probabilities(theta, WIDTHS, x), method.probabilities(pivot, WIDTHS, x)
        score = np.log(pi[np.arange(9), action])
        return 0.3 / 4 * ((to_go - 0.5) * score).sum() + 0.7 * rel_entr(q, pi).sum(1).mean()

    found = method.gradient(theta, pivot, WIDTHS, (x, action, to_go), drive=0.3, baseline=0.5, k=0.7, episodes=4)
    steps = 1e-6 * np.eye(len(theta))
    np.testing.assert_allclose(found, [(objective(theta + e) - objective(theta - e)) / 2e-6 for e in steps], atol=1e-7)


BANDIT = method.Environment(
    1, 2, 1, lambda rng, n: np.zeros((n, 4)), lambda s: np.ones((*s.shape[:-1], 1)), lambda s, a: (s, a * 1.0, a > -1)
)  # two arms that pay 0 and 1: J is the probability of the second


def bandit(theta: np.ndarray) -> np.ndarray:
    return method.probabilities(theta, (1, 2), np.ones((1, 1)))[..., 0, 1]


def test_search_finds_the_minimiser_of_the_bandit():
    """Both baselines, and three leashes, side by side."""
    ks, baselines = np.array([0.0, 0.01, 0.1] * 2), ["batch"] * 3 + ["target"] * 3
    how = HOW | {"lr": 0.03, "inner": 150, "episodes": 600, "k": ks, "baseline": baselines}
    found = method.search(BANDIT, (1, 2), np.zeros((6, 4)), np.full(6, 0.9), rngs(6), **how)
    for k, p in zip(ks, bandit(found.path[-40:]).mean(axis=0), strict=True):
        # (p - R*)² + k KL(1/2 || p)
        best = minimize_scalar(
            lambda p, k=k: (p - 0.9) ** 2 - k / 2 * np.log(4 * p * (1 - p)), bounds=(0.5, 0.99), method="bounded"
        ).x
        assert p == pytest.approx(best, abs=0.01)


def test_moving_pivot_lets_the_leash_go():
    how = HOW | {"lr": 0.05, "episodes": 200, "k": 0.3, "clip": 10.0}
    short, long = (
        method.search(BANDIT, (1, 2), np.zeros((1, 4)), np.array([0.95]), rngs(1), **how | {"inner": inner, "outer": outer})
        for inner, outer in ((80, 1), (8, 10))
    )
    assert len(short.path) == len(long.path) == 81
    assert bandit(long.theta)[0] > bandit(short.theta)[0] + 0.05


def test_nothing_moves_where_the_return_is_the_target():
    """The exact gradient of the bandit, every arm once: J - R* = 0, and the leash has no slope at its pivot."""
    steps = np.ones((2, 1)), np.array([0, 1]), np.array([0.0, 1.0])
    assert not method.gradient(np.zeros(4), np.zeros(4), (1, 2), steps, drive=0.0, baseline=0.5, k=1.0, episodes=2).any()


def test_a_target_out_of_reach_is_the_policy_gradient():
    theta, how = policies(2, dtype=float)[:1], HOW | {"inner": 1, "clip": 1e12}
    high = method.search(method.CARTPOLE, WIDTHS, theta, np.array([1e6]), rngs(1), **how)
    plain = method.search(method.CARTPOLE, WIDTHS, theta, np.array([np.inf]), rngs(1), rule="plain", **how)
    moves = [found.theta[0] - theta[0] for found in (high, plain)]
    assert moves[0] @ moves[1] / np.linalg.norm(moves[0]) / np.linalg.norm(moves[1]) > 0.999
    down = method.search(method.CARTPOLE, WIDTHS, theta, np.array([0.0]), rngs(1), rule="plain", **how)
    np.testing.assert_allclose(down.theta[0] - theta[0], -moves[1], atol=1e-12)


def test_search_is_adam_on_clipped_gradients():
    """Two updates by hand."""
    theta, how = policies(1, dtype=float), HOW | {"inner": 2, "clip": 0.05, "k": 0.2, "rho": 3.0}
    found = method.search(method.CARTPOLE, WIDTHS, theta, np.array([90.0]), rngs(1), **how)
    now, m, v, rng = theta[0].copy(), 0.0, 0.0, rngs(1)
    for i in (1, 2):
        batch = method.rollout(method.CARTPOLE, WIDTHS, now[None], rng, 8)
        steps, J = batch.steps(0), batch.returns.mean()
        g = method.gradient(now, theta[0], WIDTHS, steps, drive=2 * (J - 90) / 9, baseline=steps[2].mean(), k=0.2, episodes=8)
        assert np.linalg.norm(g) > 0.05 and found.returns[i - 1, 0] == pytest.approx(J)
        g *= 0.05 / np.linalg.norm(g)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        now = now - 0.02 * (m / (1 - 0.9**i)) / (np.sqrt(v / (1 - 0.999**i)) + 1e-8)
        np.testing.assert_allclose(found.path[i, 0], now, atol=1e-9)
    assert found.steps.tolist() == [2] and not found.reached.any()


def test_search_stops_within_delta():
    theta = policies(2)
    J = method.rollout(method.CARTPOLE, WIDTHS, theta, rngs(2), 8).returns.mean(axis=1)
    found = method.search(method.CARTPOLE, WIDTHS, theta, J + np.array([1.9, 40.0]), rngs(2), **HOW | {"delta": 2.0})
    assert found.reached[0] and found.steps.tolist()[0] == 0 and found.steps[1] > 0
    np.testing.assert_array_equal(found.path[:, 0], np.tile(theta[0], (len(found.path), 1)))
    assert np.isnan(found.returns[1:, 0]).all()


def test_shuffled_returns_have_lost_their_sense():
    how = HOW | {"inner": 60, "episodes": 200, "shuffle": [False, True]}
    found = method.search(BANDIT, (1, 2), np.zeros((2, 4)), np.full(2, 0.95), rngs(2), **how)
    sense, none = bandit(found.theta)
    assert sense > 0.85 and none < 0.7 and found.steps.tolist() == [60, 60]


def test_noise_has_its_scales():
    found = method.noisy(np.zeros(2000), [0.1, 3.0], 2, np.random.default_rng(0))
    np.testing.assert_allclose(found.std(axis=1), [0.1, 0.1, 3.0, 3.0], rtol=0.05)


# ---------------------------------------------------------------- measures


def test_divergence_by_hand():
    theta, x = policies(3, dtype=float), np.random.default_rng(3).normal(size=(6, 4))
    p, q = method.probabilities(theta[0], WIDTHS, x), method.probabilities(theta[2], WIDTHS, x)
    assert method.divergence(theta[0], theta, WIDTHS, x)[[0, 2]] == pytest.approx([0, rel_entr(p, q).sum(1).mean()])


def test_visited_inputs_are_those_of_the_run():
    batch = method.rollout(method.CARTPOLE, WIDTHS, policies(2), rngs(2), 3)
    met = {tuple(x) for x in batch.steps(1)[0]}
    found = method.visited(batch, 1, 300, np.random.default_rng(0))
    assert found.shape == (300, 4) and {tuple(x) for x in found} == met


def test_closed_gap():
    assert method.closed_gap(np.array([100, 75, 50, 25, 125]), np.array([50] * 5), np.array([100] * 5)).tolist() == [
        1,
        0.5,
        0,
        -0.5,
        0.5,
    ]


def test_paths_are_compared_at_equal_return():
    straight = method.smooth(np.array([0.0, 10, 20]), np.ones(3), np.array([0.0, 1, 2]))
    assert method.kl_at(straight, 15) == pytest.approx(1.5) and method.kl_at(straight, 99) == 2
    # means of 30 and 10 in one block, the second three times as heavy; the block counts from its first policy on
    bent = method.smooth(np.array([0.0, 30, 10, 40]), np.array([1, 1, 3, 1]), np.array([0.0, 2, 4, 8]))
    assert bent.returns.tolist() == [0, 15, 15, 40] and method.kl_at(bent, 15) == 2
    down = method.smooth(np.array([50.0, 20, 30, 10]), np.ones(4), np.array([0.0, 1, 2, 3]))
    assert down.returns.tolist() == [50, 25, 25, 10] and method.kl_at(down, 25) == 1
    double = method.Path(straight.returns * 2, straight.kl * 8)
    assert method.log_ratio(double, straight) == pytest.approx(np.log(8 / 2))  # at 20: 8 against 2
    short = method.Path(straight.returns / 4, straight.kl)
    assert method.log_ratio(short, straight) == pytest.approx(np.log(2 / 0.5))  # it ends at 5
    still = method.Path(np.zeros(1), np.zeros(1))
    assert method.log_ratio(still, straight) == 0  # at 0, where both have their first policy
    ahead = method.Path(np.array([5.0, 20]), np.array([0.0, 1]))
    end = method.Path(np.array([0.0, 5]), np.array([0.0, 1]))
    assert method.log_ratio(ahead, end) == -np.inf and method.log_ratio(end, method.Path(np.array([5.0]), np.zeros(1))) == np.inf


# ---------------------------------------------------------------- weights and agents


def test_kept_weights_are_the_recorded_ones():
    folder = train.Path(train.__file__).parent
    record = json.loads((folder / "provenance.json").read_text())
    for name in train.ENVIRONMENTS:
        path, returns, seeds = train.read(folder / f"{name}.safetensors")
        assert path.shape[:2] == returns.shape == (len(path), len(seeds)) and path.shape[2] == method.n_parameters(
            train.widths(name)
        )
        places = [[train.place(curve, level) for level in train.LEVELS[name]] for curve in returns.T]
        assert places == record["files"][f"{name}.safetensors"]["places"]


def test_agents_of_stable_baselines(tmp_path):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    sizes = {"mlp_extractor.policy_net.0": (6, 4), "mlp_extractor.policy_net.2": (5, 6), "action_net": (2, 5), "value_net": (1, 5)}
    state = {f"{k}.weight": torch.tensor(rng.normal(size=s)) for k, s in sizes.items()}
    state |= {f"{k}.bias": torch.tensor(rng.normal(size=s[0])) for k, s in sizes.items()}
    with zipfile.ZipFile(tmp_path / "a2c.zip", "w") as archive, archive.open("policy.pth", "w") as file:
        torch.save(state, file)
    theta, widths = agents.load(tmp_path / "a2c.zip")
    assert widths == (4, 6, 5, 2) and theta.dtype == np.float32
    x = rng.normal(size=(3, 4))
    h = x
    for name in list(sizes)[:2]:
        h = np.tanh(h @ state[f"{name}.weight"].numpy().T + state[f"{name}.bias"].numpy())
    z = h @ state["action_net.weight"].numpy().T + state["action_net.bias"].numpy()
    np.testing.assert_allclose(method.probabilities(theta, widths, x), method.softmax(z), rtol=1e-5)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive, archive.open("policy.pth", "w") as file:
        torch.save({"q_net.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="no actor"):
        agents.load(tmp_path / "other.zip")


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: method.layers(np.zeros(3), (2, 2)), "theta must have 6 parameters"),
        (lambda: method.rollout(BANDIT, (1, 2), np.zeros(4), rngs(1), 2), "theta must be finite"),
        (lambda: method.rollout(BANDIT, (1, 2), np.full((1, 4), np.nan), rngs(1), 2), "theta must be finite"),
        (lambda: method.rollout(BANDIT, (1, 2), np.zeros((2, 4)), rngs(1), 2), "rngs must be one generator"),
        (lambda: method.rollout(BANDIT, (1, 2), np.zeros((1, 4)), rngs(1), 0), "episodes at least 1"),
        (lambda: method.search(BANDIT, (1, 2), np.zeros((1, 4)), np.zeros(2), rngs(1), **HOW), "targets must be 1 numbers"),
        (lambda: method.search(BANDIT, (1, 2), np.zeros((1, 4)), np.zeros(1), rngs(1), rule="x", **HOW), "rule must be"),
        (
            lambda: method.search(BANDIT, (1, 2), np.zeros((1, 4)), np.zeros(1), rngs(1), **HOW | {"k": -1.0}),
            "k must not be negative",
        ),
        (lambda: method.search(BANDIT, (1, 2), np.zeros((1, 4)), np.zeros(1), rngs(1), **HOW | {"rho": 0.0}), "must be positive"),
        (lambda: method.noisy(np.zeros(2), [0.0], 1, rngs(1)[0]), "scales positive"),
        (lambda: method.closed_gap(np.zeros(1), np.ones(1), np.ones(1)), "no gap to close"),
        (lambda: train.place(np.array([1.0, 2.0]), 3), "never comes to 3"),
    ],
)
def test_errors_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
