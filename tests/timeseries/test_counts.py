"""Networks and search against independent computations, worlds against their law, measures against closed forms."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from replications.timeseries.counts import method
from shared import seeding

M, N, T, D = 2, 5, 12, 3


def rng(stream: str = "") -> torch.Generator:
    return seeding.torch_rng(0, stream)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(M, N, T, D, generator=rng("x"))


@pytest.fixture
def p() -> dict:
    p = method.parameters(M, T, D, rng("p"), hidden=8)
    p["log_sd"].data.fill_(0.3)
    p["log_sd"].data[..., 1] = -0.4
    return p


def layer(p: dict, name: str, k: int) -> nn.Linear:
    """The k-th network's layer, as torch's own."""
    weight = p[f"w_{name}"][k]
    linear = nn.Linear(*weight.shape)
    linear.weight, linear.bias = nn.Parameter(weight.T.detach()), nn.Parameter(p[f"b_{name}"][k, 0].detach())
    return linear


# ---------------------------------------------------------------- worlds


@pytest.mark.parametrize("world", ["additive", "multiplied", "no u"])
def test_worlds_follow_their_law(world):
    people = method.simulate(world, 0.5, 20_000, np.random.default_rng(0), times=14)
    a, b, c = np.moveaxis(people.x, -1, 0)
    assert a.shape == (20_000, 14)
    assert a.var(0) == pytest.approx(np.ones(14), abs=0.05) and c.std() == pytest.approx(1, abs=0.01)
    if world == "no u":
        assert not people.u.any()
    else:
        assert people.u.std() == pytest.approx(1, abs=0.02)
    noise = b - people.u[:, None]
    assert noise.std() == pytest.approx(0.5, abs=0.01) and abs(np.corrcoef(noise[:, 0], people.u + c[:, 1])[0, 1]) < 0.03
    for low, high in ((-9, -1.0), (1.0, 9)):
        some = (people.u > low) & (people.u < high) if world != "no u" else slice(None)
        slope = (a[some, 1:] * a[some, :-1]).mean() / (a[some, :-1] ** 2).mean()
        wanted = (0.8 / (1 + np.exp(-2 * people.u[some]))).mean() if world == "multiplied" else 0.8
        assert slope == pytest.approx(wanted, abs=0.03)


def test_the_class_reads_the_last_ten_of_a_and_what_is_hidden():
    people = method.simulate("additive", 0.5, 500, np.random.default_rng(1), times=15)
    by_hand = [2 * sum(q[5:, 0]) / 10 + u + 0.2 * e > 0 for q, u, e in zip(people.x, people.u, people.e, strict=True)]
    assert (people.y == by_hand).all() and 0.4 < people.y.mean() < 0.6
    other = people.x.copy()
    other[:, :5, 0] = other[:, :, 1:] = 9
    assert (method.outcome(other, people.u, people.e) == people.y).all()


def test_the_planted_channel_is_a_noisy_coin():
    y = np.random.default_rng(0).integers(2, size=20_000)
    series = np.zeros((20_000, 3))
    both = method.plant(series, y, np.random.default_rng(1), correlation=0.6, noise=0.1)
    coin = np.sign(both[..., 1].mean(1))
    assert not both[..., 0].any() and np.corrcoef(coin, y)[0, 1] == pytest.approx(0.6, abs=0.02)
    assert (both[..., 1] - coin[:, None]).std() == pytest.approx(0.1, abs=0.01)


# ---------------------------------------------------------------- networks


def test_encoders_are_two_layer_networks(x, p):
    y = torch.tensor([[0, 1, 0, 1, 1], [1, 1, 0, 0, 0]])
    for net, given in (("p", None), ("q", y)):
        mean, log_variance = method.infer(x, p, given)
        for k in range(M):
            flat = x[k].reshape(N, T * D)
            if given is not None:
                flat = torch.cat([flat, torch.where(y[k] == 1, 1.0, -1.0)[:, None]], dim=1)
            out = layer(p, f"{net}2", k)(F.relu(layer(p, f"{net}1", k)(flat)))
            assert torch.allclose(mean[k], out[:, : 1 + T], atol=1e-5)
            assert torch.allclose(log_variance[k], out[:, 1 + T :], atol=1e-5)


def test_decoders_read_what_they_should(x, p):
    u = torch.randn(M, N, 1 + T, generator=rng("u"))
    series = method.expected_series(u, p)
    residual = method.Arm(residual=True)
    for k in range(M):
        common = layer(p, "x2", k)(F.relu(layer(p, "x1", k)(u[k, :, :1]))).view(N, T, D)
        by_hand = torch.stack([common[:, t] + layer(p, "xt", k)(u[k, :, 1 + t, None]) for t in range(T)], dim=1)
        assert torch.allclose(series[k], by_hand, atol=1e-5)
        for arm, seen in ((method.Arm(), x[k]), (residual, x[k] - by_hand)):
            z = F.relu(layer(p, "z1", k)(torch.cat([seen.reshape(N, -1), u[k, :, 1:]], dim=1)))
            out = layer(p, "y2", k)(F.relu(layer(p, "y1", k)(torch.cat([z, u[k, :, :1]], dim=1))))
            assert torch.allclose(method.logit(x, u, p, arm)[k], out[:, 0], atol=1e-5)


def test_kl_is_that_of_torch():
    m, v, m0, v0 = torch.randn(4, 3, 6, generator=rng())
    wanted = kl_divergence(Normal(m, (v / 2).exp()), Normal(m0, (v0 / 2).exp())).sum(-1)
    assert torch.allclose(method.kl(m, v, m0, v0), wanted, rtol=1e-4)
    assert not method.kl(m, v, m, v).any()


def test_loss_is_the_negative_bound(x, p):
    y = torch.tensor([[0.0, 1, 0, 1, 1], [1, 1, 0, 0, 0]])
    noise, other = torch.randn(M, N, 1 + T, generator=rng("e")), x.flip(1)
    arm = method.Arm(reconstruct=0.7, residual=True)
    (m, v), (m0, v0) = method.infer(other, p, y), method.infer(other, p)
    u = m + (v / 2).exp() * noise
    log_y = torch.distributions.Bernoulli(logits=method.logit(x, u, p, arm)).log_prob(y)
    log_x = Normal(method.expected_series(u, p), p["log_sd"].exp().expand(x.shape)).log_prob(x) + 0.5 * np.log(2 * np.pi)
    divergence = kl_divergence(Normal(m, (v / 2).exp()), Normal(m0, (v0 / 2).exp())).sum(-1)
    for weight in (0.0, 0.4):
        bound = log_y + 0.7 * log_x.sum((2, 3)) - weight * divergence
        assert torch.allclose(method.loss(x, y, other, noise, p, arm, weight), -bound.mean(1), rtol=1e-4)
    without = method.loss(x, y, other, noise, p, method.Arm(residual=True), 0.4)
    assert torch.allclose(without, (0.4 * divergence - log_y).mean(1), rtol=1e-4)
    plain = torch.distributions.Bernoulli(logits=method.logit(x, 0 * noise, p, method.Arm())).log_prob(y)
    assert torch.allclose(method.loss(x, y, other, noise, p, method.Arm(latent=False), 1.0), -plain.mean(1), rtol=1e-4)


def test_abduction_reads_the_predicted_class(x, p):
    arm = method.Arm()
    predicted = method.logit(x, method.infer(x, p)[0], p, arm) > 0
    assert torch.equal(method.predictor(p, arm)(x) > 0, predicted)
    assert torch.allclose(method.abduct(x, p, arm), method.infer(x, p, predicted.float())[0])
    zero = method.logit(x, torch.zeros(M, N, 1 + T), p, arm)
    assert torch.allclose(method.predictor(p, method.Arm(latent=False))(x), zero)


# ---------------------------------------------------------------- training


@pytest.fixture(scope="module")
def world() -> tuple[torch.Tensor, torch.Tensor, list]:
    people = [method.simulate("additive", 0.5, 1200, np.random.default_rng(s)) for s in (0, 1)]
    return torch.tensor(np.stack([q.x for q in people])).float(), torch.tensor(np.stack([q.y for q in people])), people


def test_training_learns_the_class_and_the_cause(world):
    x, y, people = world
    arm = method.Arm(reconstruct=1.0)
    p = method.train(x, y, arm, rng("train"), steps=60, hidden=16)
    assert ((method.predictor(p, arm)(x) > 0) == y).float().mean() > 0.85
    u = method.abduct(x, p, arm)[..., 0].numpy()
    assert min(abs(np.corrcoef(one, q.u)[0, 1]) for one, q in zip(u, people, strict=True)) > 0.9
    strange = method.train(x, y, arm, rng("train"), steps=20, hidden=16, permuted=True)
    u = method.infer(x, strange)[0][..., 0].numpy()
    assert max(abs(np.corrcoef(one, q.u)[0, 1]) for one, q in zip(u, people, strict=True)) < 0.5


def test_networks_do_not_touch_each_other(world):
    x, y, _ = world
    swapped = torch.stack([x[0], 5 * x[1].flip(0)])
    arm = method.Arm(reconstruct=0.5)
    one, two = (method.train(z, y, arm, rng(), steps=5, hidden=8) for z in (x, swapped))
    assert all(torch.allclose(one[name][0], two[name][0], atol=1e-6) for name in one)
    assert not torch.allclose(one["w_q1"][1], two["w_q1"][1])


def test_the_first_step_has_no_kl_and_the_rate_falls(world, monkeypatch):
    weights, real = [], method.loss
    monkeypatch.setattr(method, "loss", lambda *args: weights.append(args[-1]) or real(*args))
    x, y, _ = world
    p = method.train(x[:, :50], y[:, :50], method.Arm(), rng(), steps=9, hidden=4)
    assert weights == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1])
    assert all(not w.requires_grad for w in p.values())
    start = method.parameters(2, 20, 3, rng(), 4)["w_y2"]
    one = method.train(x[:, :50], y[:, :50], method.Arm(latent=False), rng(), steps=1, hidden=4, rate=0.02)["w_y2"]
    assert (one - start).abs().max().item() == pytest.approx(0.02, rel=1e-3)


# ---------------------------------------------------------------- counterfactuals


def test_search_finds_the_cheapest_cell_and_stops_at_the_margin():
    slopes = torch.zeros(4, 2)
    slopes[1, 0], slopes[2, 1] = 2.0, 0.5
    x = torch.zeros(1, 2, 4, 2)
    score = lambda z: (z * slopes).sum((2, 3))  # noqa: E731
    found = method.search(score, x, torch.tensor([[1, 0]]), weight=0.6, steps=150)
    assert found[0, 0, 1, 0].item() == pytest.approx(0.5, abs=0.03) and found[0, 1, 1, 0].item() == pytest.approx(-0.5, abs=0.03)
    found[:, :, 1, 0] = 0
    assert found.abs().max() < 0.03
    assert method.search(score, x, torch.tensor([[1, 0]]), weight=1e6).abs().max() < 0.02
    assert method.search(score, x, torch.tensor([[1, 0]]), weight=0.1, bounds=(0, 0.2)).max().item() == pytest.approx(0.2)
    done = torch.full((1, 2, 4, 2), 3.0)
    assert torch.equal(method.search(score, done, torch.ones(1, 2), weight=0.1), done)  # valid from the start: nothing changes


def test_rivals(x):
    score = lambda z: 3 * z[..., 4, 0] + z[..., 5, 1] ** 2  # noqa: E731
    importance = method.integrated_gradients(score, x)
    assert torch.allclose(importance[..., 4, 0], 3 * x[..., 4, 0].abs(), atol=1e-5)
    assert torch.allclose(importance[..., 5, 1], x[..., 5, 1] ** 2, atol=1e-4)
    assert torch.allclose(importance, method.occlusion(score, x), atol=1e-4)
    moved = method.move_top(importance, x, torch.full_like(x, 7.0), 2 / 36)
    assert ((moved == 7).flatten(2).sum(-1) == 2).all() and (moved[..., 4, 0] == 7).all()
    mask = method.mask_search(score, torch.zeros_like(x), torch.ones(M, N), torch.ones_like(x), weight=0.5, steps=200)
    assert mask[..., 4, 0].numpy() == pytest.approx(1 / 3, abs=0.05) and mask.min() >= 0 and mask.max() <= 1


def test_class_means_and_native_guide(x):
    y = torch.tensor([[0, 1, 0, 1, 1], [1, 1, 0, 0, 0]])
    target = 1 - y
    means, guide = method.class_means(x, y, target), method.native_guide(x, target, x, y)
    for k in range(M):
        for i in range(N):
            others = [j for j in range(N) if y[k, j] == target[k, i]]
            assert torch.allclose(means[k, i], x[k, others].mean(0), atol=1e-5)
            nearest = min(others, key=lambda j: (x[k, i] - x[k, j]).norm().item())
            assert torch.equal(guide[k, i], x[k, nearest])


# ---------------------------------------------------------------- measures


def test_ratio_and_size():
    change = np.array([[[1.0, -3.0], [0.0, 0.0]], [[2.0, 0.0], [-2.0, 0.0]]])
    active = np.array([[1, 0], [1, 0]])
    assert method.change_ratio(change, active) == 5 / 8 and np.isnan(method.change_ratio(0 * change, active))
    assert np.abs(method.resized(change, 0.25)).mean() == pytest.approx(0.25)
    assert method.resized(change, 0.5)[0, 0, 1] == -1.5 and not method.resized(0 * change, 1.0).any()


def test_world_flips_by_hand():
    people = method.People(np.zeros((4, 10, 3)), np.array([1, 1, 0, 1]), np.array([1.0, 3.0, -1.0, 0.5]), np.array([0, 0, 0, 10.0]))
    change = np.zeros((4, 10, 3))
    change[:3, :, 0] = [[-1.0], [-1.0], [1.0]]  # 2 mean(A) moves by 2
    change[3, :, 1] = 3.0  # on B: nothing happens
    judged, size = np.ones(4, bool), np.abs(change).mean()
    target = np.array([0, 0, 1, 0])
    assert method.world_flips(people, change, target, judged, size) == 0.5
    assert method.world_flips(people, change, target, judged, 0.4 * size) == 0
    assert method.world_flips(people, change, target, judged, 2 * size) == 0.75
    alone = np.array([False, True, False, False])  # the factor is that of the judged
    assert (
        method.world_flips(people, change, target, alone, 1 / 3) == 0
        and method.world_flips(people, change, target, alone, 0.6) == 1
    )
    others = people._replace(u=np.array([1.0, 1.0, -1.0, 0]))
    assert method.world_flips(others, change, target, judged, size) == 0.75
    noisy = people._replace(u=np.array([-0.5, 0, 0, 0]), e=np.array([4.0, 0, 0, 0]))  # -.5 + .8 > 0: e is kept
    only = np.array([True, False, False, False])
    assert method.world_flips(noisy, change, np.ones(4), only, 0.0) == 1


def test_judges():
    g = np.random.default_rng(0)
    t = np.arange(24)
    y = g.integers(2, size=120)
    x = np.sin(2 * np.pi * t / np.where(y, 6, 12)[:, None] + 6 * g.random((120, 1))) + 0.2 * g.standard_normal((120, 24))
    judge = method.convolution_judge(x[:80], y[:80], np.random.default_rng(1))
    assert (judge(x[80:]) == y[80:]).mean() > 0.9
    found, apart = method.nearest_class(x[80:], x[:80], y[:80]), method.nearest_distance(x[80:], x[:80])
    for i in (0, 7):
        distances = [np.sqrt(np.mean((x[80 + i] - row) ** 2)) for row in x[:80]]
        assert apart[i] == pytest.approx(min(distances)) and found[i] == y[np.argmin(distances)]


def test_bad_input_is_named(x):
    with pytest.raises(ValueError, match="world, noise"):
        method.simulate("none", 0.5, 10, np.random.default_rng(0))
    with pytest.raises(ValueError, match="world, noise"):
        method.simulate("additive", 0.5, 10, np.random.default_rng(0), times=9)
    with pytest.raises(ValueError, match="correlation must lie"):
        method.plant(np.zeros((2, 3)), np.array([0, 1]), np.random.default_rng(0), correlation=2)
    with pytest.raises(ValueError, match="y must hold"):
        method.plant(np.zeros((2, 3)), np.array([-1, 1]), np.random.default_rng(0))
    with pytest.raises(ValueError, match="series contains NaN"):
        method.plant(np.full((2, 3), np.nan), np.array([0, 1]), np.random.default_rng(0))
    with pytest.raises(ValueError, match="x must be finite"):
        method.train(x * torch.nan, torch.ones(M, N), method.Arm(), rng())
    with pytest.raises(ValueError, match="y must hold"):
        method.train(x, torch.full((M, N), 2), method.Arm(), rng())
    with pytest.raises(ValueError, match="y must hold"):
        method.search(lambda z: z.sum((2, 3)), x, torch.ones(N), weight=0.1)
    with pytest.raises(ValueError, match="weight must not"):
        method.search(lambda z: z.sum((2, 3)), x, torch.ones(M, N), weight=-1)
    with pytest.raises(ValueError, match="share must lie"):
        method.move_top(x, x, x, 1.0)
