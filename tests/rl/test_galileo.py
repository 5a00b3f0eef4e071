"""GALILEO: worlds, networks, the adversarial parts and scores against closed forms and independent computations."""

import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from sklearn.linear_model import LinearRegression, Ridge

from replications.rl.galileo import method
from shared import data, seeding
from shared.data import d4rl, tcga


def rngs(*seeds: int) -> list[torch.Generator]:
    return [seeding.torch_rng(seed, "test") for seed in seeds]


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=rngs(seed)[0])


# ----------------------------------------------------------------------------------------------------------- worlds


def test_feedback_follows_its_equations():
    seen = method.gnfc(np.random.default_rng(0), 400, 50, 0.2, 0.5)
    y, past = seen.states[..., 0], seen.states[..., 1]
    np.testing.assert_allclose(seen.outcomes[:, :-1], y[:, 1:])
    np.testing.assert_allclose(past[:, 7], y[:, :7].sum(1))
    noise = seen.actions - (62.5 - y) / 15
    on = np.abs(noise) > 1e-9
    assert abs(on.mean() - 0.5) < 0.02 and np.abs(noise).max() <= 0.2
    assert 0.2 < on[:, 3].mean() < 0.8, "a coin for each trajectory, not one for all"
    assert stats.kstest(noise[on], stats.uniform(-0.2, 0.4).cdf).pvalue > 0.01
    step = seen.outcomes - y - seen.actions
    assert stats.kstest(step.ravel(), stats.norm(0, 2).cdf).pvalue > 0.01
    assert np.abs(y[:, 0] - 50 * np.arange(400) / 400).std() < 1.3


@pytest.mark.parametrize("wrong", [(0, 5, 0.1, 0.1), (3, 0, 0.1, 0.1), (3, 5, -0.1, 0.1), (3, 5, 0.1, 1.2)])
def test_feedback_names_bad_input(wrong):
    with pytest.raises(ValueError, match="must be >= 1"):
        method.gnfc(np.random.default_rng(0), *wrong)


@pytest.mark.parametrize("formula", method.FORMULAS)
def test_best_dose_is_stationary_or_at_the_end(formula):
    rng = np.random.default_rng(1)
    x = rng.uniform(0.1, 1, (30, 4))
    v = rng.uniform(0.1, 1, (3, 4))
    v[2] *= 0.7
    best, grid = method.best_dose(x, v, formula), np.linspace(0, 1, 2001)
    curve = method.dose_response(x, grid[None].repeat(30, 0), v, formula)
    inside = best < 1
    assert inside.any()
    if formula == "cubic":  # a local optimum where b >= .75
        slope = np.gradient(curve, grid, axis=1)
        np.testing.assert_allclose([np.interp(b, grid, s) for b, s in zip(best[inside], slope[inside], strict=True)], 0, atol=0.2)
    else:
        np.testing.assert_allclose(grid[curve.argmax(1)][inside], best[inside], atol=0.002)
    one, two, three = (x[0] @ v.T).tolist()
    by_hand = {
        "cubic": 10 * (one + 12 * 0.3 * (0.3 - 0.75 * two / three) ** 2), "sine": 10 * (one + np.sin(np.pi * two / three * 0.3)),
        "quadratic": 10 * (one + 12 * two * 0.3 - 12 * three * 0.09),
    }  # fmt: skip
    assert abs(method.dose_response(x[:1], np.array([[0.3]]), v, formula)[0, 0] - by_hand[formula]) < 1e-9


def test_doses_crowd_around_the_best_one():
    x = np.random.default_rng(2).uniform(0, 1, (4000, 5))
    seen, v = method.doses(np.random.default_rng(3), x, "quadratic", 40.0)
    rows = seen.states[:, 0]
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1)
    np.testing.assert_allclose(np.linalg.norm(v, axis=1), 1)
    best = method.best_dose(rows, v, "quadratic")
    beta = stats.beta(40.0, 39 / best - 38)
    assert stats.kstest(beta.cdf(seen.actions[:, 0]), "uniform").pvalue > 0.01
    noise = seen.outcomes - method.dose_response(rows, seen.actions, v, "quadratic")
    assert abs(noise.std() - 0.2) < 0.01
    with pytest.raises(ValueError, match="bias must be >= 1"):
        method.doses(np.random.default_rng(3), x, "sine", 0.5)
    with pytest.raises(ValueError, match="columns must vary"):
        method.doses(np.random.default_rng(3), x * [1, 1, 0, 1, 1], "sine")


# ------------------------------------------------------------------------------------------------- unit space and networks


@pytest.fixture
def feedback():
    seen = [method.gnfc(np.random.default_rng(s), 30, 6, 0.2, 0.5) for s in (0, 1)]
    return seen, *method.framed(seen)


def test_frame_turns_back(feedback):
    seen, unit, frame = feedback
    for run in (0, 1):
        states = frame.low[run, :2] + frame.span[run, :2] * unit.states[run]
        np.testing.assert_allclose(states, seen[run].states, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(
            frame.y[run, 0] + frame.y[run, 1] * unit.outcomes[run, ..., 0], seen[run].outcomes, rtol=1e-4, atol=1e-3
        )
        assert torch.allclose(frame.low[run, 0], frame.y[run, 0]) and torch.allclose(frame.span[run, 0], frame.y[run, 1])
        ends = unit.actions[run].min(), unit.actions[run].max()
        np.testing.assert_allclose(ends, (0.1 / 1.2, 1.1 / 1.2), atol=1e-5)
    with pytest.raises(ValueError, match="NaN"):
        method.framed([seen[0]._replace(actions=seen[0].actions * np.nan)])


def test_advance_is_the_next_state(feedback):
    _, unit, frame = feedback
    got = method.feedback_advance(frame)(unit.states[:, :, 2], unit.outcomes[:, :, 2])
    torch.testing.assert_close(got, unit.states[:, :, 3], atol=1e-4, rtol=1e-4)


def test_runs_do_not_see_their_neighbours(feedback):
    _, unit, frame = feedback
    settings = method.Settings(hidden=(8,), iterations=3, trajectories=4, pretraining=2)
    yes, no = torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    both = method.galileo(
        unit, method.Arms(yes, yes, ~no & torch.tensor([False, True])), rngs(5, 6), settings, method.feedback_advance(frame)
    )
    alone = method.Data(*(p[1:] for p in unit)), method.Frame(*(p[1:] for p in frame))
    one = method.galileo(alone[0], method.Arms(yes[1:], yes[1:], yes[1:]), rngs(6), settings, method.feedback_advance(alone[1]))
    for a, b in zip(both.model.parameters(), one.model.parameters(), strict=True):
        torch.testing.assert_close(a[1:], b, atol=1e-4, rtol=1e-3)


def test_gaussian_is_scipys():
    law = method.gaussian(rngs(0), 3, (5,), 0.4)
    x, y = numbers(1, 7, 3), numbers(1, 7, 1, seed=1)
    hidden = np.tanh(x[0].numpy() @ law.layers[0][0][0].detach().numpy())
    mean = (np.tanh(hidden @ law.layers[1][0][0].detach().numpy()) + 0.8) / 1.6
    np.testing.assert_allclose(law.log_prob(x, y)[0].detach(), stats.norm(mean, 0.4).logpdf(y[0]), rtol=1e-4)


def test_fit_finds_a_line_and_counts_weights():
    x = numbers(1, 600, 1, seed=2)
    kind = (numbers(1, 600, 1, seed=3) > 0).float()
    y = 0.5 + 0.1 * (2 * kind - 1) * x
    settings = method.Settings(hidden=(16,), batch=200, rate=2e-2, std=0.1)
    law = method.fit(x, y, rngs(0), settings, 150, weights=kind)  # only rows of the rising kind count
    assert (law.mean(x)[kind == 1] - y[kind == 1]).abs().mean() < 0.02
    with pytest.raises(ValueError, match="inputs and targets must be finite"):
        method.fit(x, y * np.nan, rngs(0), settings, 1)


def test_inverse_propensity():
    law = method.gaussian(rngs(0), 2, (4,), 0.05)
    states, actions = numbers(1, 50, 2), 0.5 + 0.3 * numbers(1, 50, 1, seed=1)
    density = stats.norm(law.mean(states).detach(), 0.05).pdf(actions)
    wanted = np.clip(1 / density, 0.05, 20)
    np.testing.assert_allclose(method.inverse_propensity(law, states, actions), wanted / wanted.mean(), rtol=1e-3)


# ------------------------------------------------------------------------------------------------------------ adversarial


def test_gae_is_the_discounted_sum():
    reward, values = numbers(2, 3, 5), numbers(2, 3, 6, seed=1)
    got = method.gae(reward, values, 0.9, 0.7)
    for t in range(5):
        wanted = sum((0.9 * 0.7) ** (k - t) * (reward[..., k] + 0.9 * values[..., k + 1] - values[..., k]) for k in range(t, 5))
        torch.testing.assert_close(got[..., t], wanted)
    # lambda = 1: the discounted return minus the value
    wanted = sum(0.9**k * reward[..., k] for k in range(5)) + 0.9**5 * values[..., 5] - values[..., 0]
    torch.testing.assert_close(method.gae(reward, values, 0.9, 1.0)[..., 0], wanted)


def test_rewards_and_the_classifiers_views():
    classifiers = method.network(rngs(0, 1), [4, 5, 1])  # two classifiers of one run
    s, a, y = numbers(1, 6, 2), numbers(1, 6, 1, seed=1), numbers(1, 6, 1, seed=2)
    odds = method.logits(classifiers, s, a, y)
    torch.testing.assert_close(odds[1], method.logits(classifiers, s, a, y + 1)[1])  # D(x, a) is blind to x'
    assert (odds[0] - method.logits(classifiers, s, a, y + 1)[0]).abs().min() > 1e-6
    d = 1 / (1 + np.exp(-odds.detach().numpy()))
    np.testing.assert_allclose(method.rewards(odds).detach(), -np.log(1 - d), rtol=1e-4)


def test_surrogate_takes_the_pessimistic_side():
    old = torch.zeros(1, 4, 1)
    log_ratio = torch.tensor([2.0, 2.0, 0.5, 0.5]).log().reshape(1, 4, 1)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0]).reshape(1, 4, 1)
    assert float(method.surrogate(log_ratio, old, advantages, 0.2)) == pytest.approx((1.2 - 2.0 + 0.5 - 0.8) / 4)


def test_likelihood_weights_favour_what_looks_less_real():
    gap = torch.tensor([0.0, 1.0, 2.0, 5.0]).reshape(1, 4, 1)
    got = method.likelihood_weights(gap, torch.tensor([5.0]), torch.full((1, 1, 1), 0.1))
    np.testing.assert_allclose(got.ravel(), np.array([0.4, 0.2, 0, 0]) + 0.5, rtol=1e-5)
    # a perfect model: A is constant, and so is the weight
    flat = method.likelihood_weights(torch.ones(1, 4, 1), torch.tensor([0.0]), torch.full((1, 1, 1), 0.1))
    assert np.ptp(flat.numpy()) == 0


def test_classifier_loss():
    odds, labels = numbers(2, 1, 8), (numbers(1, 8, seed=1) > 0).float()
    d = torch.sigmoid(odds)
    cross = -(labels * d.log() + (1 - labels) * (1 - d).log())
    doubt = -(d * d.log() + (1 - d) * (1 - d).log())
    torch.testing.assert_close(method.classifier_loss(odds, labels, 0.3), (cross - 0.3 * doubt).mean(2).sum(0))


def test_rollout_reproduces_a_known_system(feedback):
    _, unit, frame = feedback
    model, clone = method.gaussian(rngs(0, 1), 3, (4,), 0.1), method.gaussian(rngs(2, 3), 2, (4,), 0.2)
    noise, advance = numbers(2, 5, 7, 2), method.feedback_advance(frame)
    made = method.rollout(model, clone, unit.states[:, :7, 0], noise, advance)
    assert made.states.shape == (2, 7, 5, 2)
    torch.testing.assert_close(made.actions[:, :, 3], clone.mean(made.states[:, :, 3]).detach() + 0.2 * noise[:, 3, :, :1])
    both = torch.cat([made.states[:, :, 3], made.actions[:, :, 3]], -1)
    torch.testing.assert_close(made.outcomes[:, :, 3], model.mean(both).detach() + 0.1 * noise[:, 3, :, 1:])
    torch.testing.assert_close(made.states[:, :, 4], advance(made.states[:, :, 3], made.outcomes[:, :, 3]))


def test_every_arm_trains_what_it_should(feedback):
    _, unit, frame = feedback
    unit, frame = method.Data(*(p[[0] * 4] for p in unit)), method.Frame(*(p[[0] * 4] for p in frame))
    settings = method.Settings(hidden=(8,), iterations=2, trajectories=4, pretraining=1, policy_rate=0.0, rate=1e-2)
    arms = method.Arms(*torch.tensor([[1, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1]]).bool())
    before = method.gaussian(rngs(0, 0, 0, 0), 3, (8,), settings.std)
    after = method.galileo(unit, arms, rngs(0, 0, 0, 0), settings, method.feedback_advance(frame)).model
    moved = (after.log_std - before.log_std).abs().flatten() > 1e-6
    assert moved.tolist() == arms.likelihood.tolist()  # without PPO the model moves by likelihood alone
    with pytest.raises(ValueError, match="advance must be given"):
        method.galileo(unit, arms, rngs(0, 0, 0, 0), settings)


def test_adversary_corrects_an_outcome_that_is_off():
    """One step, no likelihood: a model that starts near .5 is pulled to real outcomes of .8, unless labels are permuted."""
    n = 400
    states, actions = torch.rand(1, n, 1, 1, generator=rngs(0)[0]), torch.rand(1, n, 1, 1, generator=rngs(1)[0])
    world = method.Data(*(part[[0, 0]] for part in (states, actions, 0.8 + 0.05 * numbers(1, n, 1, 1))))
    few = {"iterations": 40, "trajectories": 60, "pretraining": 2, "likelihood_steps": 1, "value_steps": 1, "classifier_rate": 1e-2}
    settings = method.Settings(hidden=(8,), gamma=0.0, std=0.1, policy_rate=2e-2, rate=3e-4, **few)
    no = torch.zeros(2, dtype=torch.bool)
    model = method.galileo(world, method.Arms(no, no, torch.tensor([False, True])), rngs(3, 3), settings).model
    informed, permuted = model.mean(torch.cat([world.states, world.actions], -1)[:, :, 0]).mean((1, 2))
    assert informed > 0.65 > permuted, (informed, permuted)


# ---------------------------------------------------------------------------------------------------------------- scores


def test_mise_integrates_polynomials():
    grid = np.linspace(-1, 2, 9)
    predicted, truth = np.stack([grid, 2 * grid])[None], np.zeros((1, 2, 9))
    wanted = np.mean([quad(lambda a: a**2, -1, 2)[0], quad(lambda a: 4 * a**2, -1, 2)[0]])
    np.testing.assert_allclose(method.mise(predicted, truth, np.array([3 / 8])), wanted)
    with pytest.raises(ValueError, match="2\\^m \\+ 1"):
        method.mise(predicted[..., :8], truth[..., :8], np.array([1.0]))


def test_linear_is_scikit_learns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 3))
    y = x @ [1, -2, 0.5] + rng.normal(size=60)
    for penalty, peer in ((0.0, LinearRegression()), (0.3, Ridge(0.3 * 60))):
        peer.fit(x, y)
        np.testing.assert_allclose(method.linear(x, y, penalty), [peer.intercept_, *peer.coef_], rtol=1e-7)
    grid = np.linspace(0, 3, 5)
    np.testing.assert_allclose(method.slope(grid, np.stack([1 - 2 * grid, 3 * grid])), [-2, 3])


def test_collinear_slope_is_the_minimum_norm_fit():
    y = np.linspace(0, 60, 50)
    a = (62.5 - y) / 15
    spans = 70.0, 6.0
    table = np.stack([y / spans[0], a / spans[1]], 1)
    ridge = Ridge(1e-6).fit(table, y + a)
    np.testing.assert_allclose(method.collinear_slope(*spans), ridge.coef_[1] / spans[1], rtol=1e-3)


def test_response_and_control():
    seen = [method.gnfc(np.random.default_rng(0), 30, 6, 0.2, 0.5)]
    _, frame = method.framed(seen)
    model = method.gaussian(rngs(0), 3, (4,), 0.1)
    states, actions = torch.rand(1, 5, 2), torch.rand(1, 3)
    got = method.response(model, frame, states, actions)
    one = torch.cat([states[0, 4], actions[0, 2:]]).reshape(1, 1, 3)
    torch.testing.assert_close(got[0, 4, 2], frame.y[0, 0] + frame.y[0, 1] * model.mean(one)[0, 0, 0].detach())
    seen_states = []

    def choose(s):
        seen_states.append(s)
        return 62.5 - s[:, 0]

    cost = method.control(choose, np.full(4000, 10.0), 3, np.random.default_rng(0))
    assert abs(cost - 4) < 0.2  # what the noise leaves
    np.testing.assert_allclose(seen_states[2][:, 1], 10 + seen_states[1][:, 0])


# ---------------------------------------------------------------------------------------------------------- data of the paper


def test_d4rl_reader(tmp_path):
    h5py = pytest.importorskip("h5py", reason="D4RL files need h5py: make ONLY=rl/galileo installs it")
    table = {"observations": np.arange(12.0).reshape(6, 2), "actions": np.zeros((6, 1)), "rewards": np.arange(6.0)}
    table |= {"terminals": [0, 0, 1, 0, 0, 0], "timeouts": [0, 0, 0, 0, 1, 0]}
    with h5py.File(tmp_path / "hopper.hdf5", "w") as file:
        for name, rows in table.items():
            file[name] = rows
    seen = d4rl.read(tmp_path / "hopper.hdf5")
    np.testing.assert_array_equal(seen.rewards, [0, 1, 3])  # last steps of episodes, and of the file, have no successor
    np.testing.assert_array_equal(seen.next_observations, [[2, 3], [4, 5], [8, 9]])
    with h5py.File(tmp_path / "hopper.hdf5", "a") as file:
        file["next_observations"] = table["observations"] + 1
    seen = d4rl.read(tmp_path / "hopper.hdf5")
    assert len(seen.rewards) == 6 and seen.terminals.dtype == bool and seen.next_observations[5, 1] == 12
    with h5py.File(tmp_path / "hopper.hdf5", "a") as file:
        del file["actions"]
    with pytest.raises(data.DataError, match="lacks"):
        d4rl.read(tmp_path / "hopper.hdf5")


def test_tcga_reader(tmp_path):
    path = tmp_path / "tcga.p"
    path.write_bytes(pickle.dumps({"rnaseq": np.arange(6.0).reshape(3, 2)}, protocol=2))
    np.testing.assert_array_equal(tcga.read(path), [[0, 1], [2, 3], [4, 5]])
    path.write_bytes(pickle.dumps({"other": 1}))
    with pytest.raises(data.DataError, match="no rnaseq"):
        tcga.read(path)
    path.write_bytes(pickle.dumps({"rnaseq": print}))
    with pytest.raises(data.DataError, match="no part of an array"):
        tcga.read(path)
