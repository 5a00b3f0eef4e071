"""Bijective causal models: splines against a peer and autograd, likelihoods and counterfactuals against closed forms."""

import ast
import functools
import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd.functional import jacobian
from torch.distributions import Normal

from replications.causal.bijective_models import method
from replications.causal.bijective_models.weights import train
from shared import seeding


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def numbers():
    return np.random.default_rng(0)


def doubles(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------ splines


@functools.cache
def peer():
    """The unconstrained spline of transformers' VITS. Its functions are read from the file: importing it all takes seconds."""
    found = importlib.util.find_spec("transformers")
    if found is None:
        pytest.skip("transformers is not installed")
    tree = ast.parse((Path(found.origin).parent / "models/vits/modeling_vits.py").read_text())
    names = ("_unconstrained_rational_quadratic_spline", "_rational_quadratic_spline")
    tree.body = [node for node in tree.body if getattr(node, "name", None) in names]
    space = {"torch": torch, "nn": torch.nn, "np": np, "torch_compilable_check": lambda *_: None}
    exec(compile(tree, "modeling_vits.py", "exec"), space)
    return space[names[0]]


@pytest.mark.parametrize("bins", [2, 8])
def test_spline_is_that_of_transformers(bins):
    x, raw = 3 * doubles(200, 2), 2 * doubles(200, 2, 3 * bins - 1, seed=2)
    widths, heights, slopes = raw.split([bins, bins, bins - 1], -1)
    wanted, log_slope = peer()(
        x, widths, heights, slopes + method.EVEN_SLOPE, tail_bound=2.5, min_bin_width=1e-3, min_bin_height=1e-3, min_derivative=1e-3
    )
    got, got_log_slope = method.spline(x, raw, 2.5)
    torch.testing.assert_close(got, wanted, atol=1e-9, rtol=0)
    torch.testing.assert_close(got_log_slope, log_slope, atol=1e-7, rtol=0)
    assert (x.abs() > 2.5).any() and torch.equal(got[x.abs() > 2.5], x[x.abs() > 2.5])


def test_spline_inverts_rises_and_knows_its_slope():
    raw = 3 * doubles(1, 14).expand(500, 14)
    x = torch.linspace(-3.5, 3.5, 500, dtype=torch.float64).requires_grad_()
    y, log_slope = method.spline(x, raw, 3.0)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope.log(), log_slope)
    assert (y.diff() > 0).all() and y.diff().max() < 0.5
    torch.testing.assert_close(method.spline_inverse(y, raw, 3.0), x, atol=1e-9, rtol=0)


def test_raw_zeros_are_the_identity():
    x = 2 * doubles(50)
    y, log_slope = method.spline(x, torch.zeros(50, 14, dtype=torch.float64), 3.0)
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), atol=1e-12, rtol=0)


# -------------------------------------------------------------------------------------------------------------- flows


def flow(d: int, c: int, blocks: int = 1) -> method.Flow:
    """A flow in float64 whose constants are not those of the start."""
    made = method.Flow(d, c, torch.Generator().manual_seed(3), blocks, width=8).double()
    for p in made.networks.parameters():
        p.data *= 1.5
    made.log_scale.data, made.shift.data = 0.3 * doubles(blocks, d), doubles(blocks, d, seed=2)
    return made


@pytest.mark.parametrize("d, c, blocks", [(1, 1, 1), (2, 1, 2), (2, 2, 1)])
def test_flow_inverts_and_its_log_determinant_is_that_of_autograd(d, c, blocks):
    made, v, condition = flow(d, c, blocks), doubles(40, d), doubles(40, c, seed=4)
    u, log_det = made(v, condition)
    torch.testing.assert_close(made.inverse(u, condition), v, atol=1e-6, rtol=0)
    for k in range(5):
        matrix = jacobian(lambda row, k=k: made(row[None], condition[k : k + 1])[0][0], v[k])
        torch.testing.assert_close(torch.linalg.slogdet(matrix)[1], log_det[k].detach())
    assert (made(v, condition + 1)[0] - u).abs().max() > 0.05


def test_couplings_are_the_papers_and_every_outcome_depends_on_the_other():
    made, condition = flow(2, 1), doubles(1, 1)
    assert made.couplings == (((0, 1), ()), ((1,), (0,)), ((0,), (1,)))
    assert (jacobian(lambda v: made(v, condition)[0], doubles(1, 2)).squeeze().abs() > 1e-4).all()
    assert len(method.Flow(2, 1, torch.Generator(), 2).networks) == 6 and len(flow(1, 1).networks) == 1


def test_networks_leave_the_global_generator_alone_and_follow_their_own(rng):
    before = torch.get_rng_state()
    a, b, other = (method.network((2, 5, 3), torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a[0].weight, b[0].weight) and not torch.equal(a[0].weight, other[0].weight)
    assert a[0].weight.abs().max() <= 2**-0.5 and a[2].bias.abs().max() <= 5**-0.5
    x = torch.randn(4, 2, generator=rng)
    torch.testing.assert_close(a(x), torch.relu(x @ a[0].weight.T + a[0].bias) @ a[2].weight.T + a[2].bias)


def linear(v, t):
    """f^-1 of v = 0.5 t + exp(0.3 t) u, one outcome."""
    return (v - 0.5 * t) * torch.exp(-0.3 * t), -0.3 * t[:, 0]


def test_likelihoods_of_linear_models_are_gaussian():
    v, t, z = doubles(30, 1), doubles(30, 1, seed=2), doubles(30, 1, seed=3)
    location, scale = 0.5 * t, torch.exp(0.3 * t)
    wanted = Normal(location, scale).log_prob(v)[:, 0]
    torch.testing.assert_close(method.log_markovian(linear, v, t), wanted)
    # U given z is N(2 z, 0.7^2)
    prior = lambda u, z: ((u - 2 * z) / 0.7, torch.full_like(z[:, 0], -np.log(0.7)))  # noqa: E731
    shifted = Normal(location + scale * 2 * z, 0.7 * scale).log_prob(v)[:, 0]
    torch.testing.assert_close(method.log_backdoor(linear, prior, v, t, z), shifted)
    # T given u and i is N(u + 3 i, exp(0.2 i)^2)
    action = lambda both: torch.stack([both[:, 0] + 3 * both[:, 1], 0.2 * both[:, 1]], 1)  # noqa: E731
    u, i = (v - location) / scale, z
    joint = wanted + Normal(u + 3 * i, torch.exp(0.2 * i)).log_prob(t)[:, 0]
    torch.testing.assert_close(method.log_instrument(linear, action, v, t, i), joint)


def test_log_normal_of_two_columns():
    u = doubles(6, 2)
    torch.testing.assert_close(method.log_normal(u), Normal(0, 1).log_prob(u).sum(1))


def test_fit_follows_the_cosine(rng):
    net = torch.nn.Linear(1, 1, bias=False)
    net.weight.data.zero_()
    method.fit([net], lambda x: net(x * 0 + 1)[:, 0], [torch.ones(5, 1)], rng, 40, 5, 0.01)
    # Adam moves by the rate when the gradient is constant: the sum of 0.01 (1 + cos(pi k / 40)) / 2
    assert net.weight.item() == pytest.approx(0.01 * (40 / 2 + 0.5), rel=1e-3)


def test_a_fitted_flow_gives_the_counterfactuals_of_a_linear_model(rng):
    t, u = torch.randn(2, 4000, 1, generator=rng)
    v = 0.5 * t + 0.6 * torch.exp(0.3 * t) * u
    made = method.Flow(1, 1, rng, width=16)
    method.fit([made], lambda v, t: method.log_markovian(made, v, t), [v, t], rng, 120, 200, 0.02)
    after = t.roll(1, 0)
    truth = 0.5 * after + torch.exp(0.3 * (after - t)) * (v - 0.5 * t)
    got = method.counterfactual(made, v, t, after)
    assert method.explained_change(v.numpy(), truth.numpy(), got.numpy()) > 0.9
    torch.testing.assert_close(method.counterfactual(made, v, t, t), v, atol=1e-4, rtol=0)


# ----------------------------------------------------------------------------------- counterfactuals without a network


def test_quantile_matching_keeps_ranks(numbers):
    t = np.repeat([0.0, 1.0], 100) + np.tile(np.linspace(-0.01, 0.01, 100), 2)
    v = np.concatenate([numbers.permutation(100), 1000 + 3.0 * numbers.permutation(100)])
    units = np.zeros(3), np.array([0.0, 41.0, 99.0]), np.ones(3)
    np.testing.assert_array_equal(method.quantile_matching(t, v, units, 100), [1000, 1123, 1297])
    beyond = np.zeros(1), np.array([500.0]), np.ones(1)
    np.testing.assert_array_equal(method.quantile_matching(t, v, beyond, 100), [1297])


def test_quantile_matching_is_the_counterfactual_of_a_monotone_model(numbers):
    t, u = numbers.normal(size=(2, 4_000))
    v, after = np.exp(0.5 * t + u), np.roll(t, 1)
    pick = np.abs(t) + np.abs(after) + np.abs(u) < 2
    units = t[pick], v[pick], after[pick]
    got = method.quantile_matching(t, v, units, 200)
    assert np.corrcoef(np.log(got), (0.5 * after + u)[pick])[0, 1] > 0.98


def test_ratio_of_means_is_right_when_the_action_multiplies(numbers):
    t = numbers.uniform(0, 2 * np.pi, 200_000)
    v = method.ellipse_factor(t) * numbers.exponential(size=(len(t), 2))
    units = t[:50], v[:50], t[50:100]
    truth = v[:50] * method.ellipse_factor(t[50:100]) / method.ellipse_factor(t[:50])
    assert method.percentage_error(truth, method.ratio_of_means(t, v, units)) < 5


def test_scores_by_hand():
    truth, got = np.array([[2.0, 4.0], [1.0, 10.0]]), np.array([[1.0, 5.0], [1.0, 10.0]])
    assert method.percentage_error(truth, got) == pytest.approx(100 * (0.5 + 0.25) / 4)
    factual, truth = np.array([0.0, 0.0]), np.array([1.0, 3.0])
    assert method.explained_change(factual, truth, factual) == 0 and method.explained_change(factual, truth, truth) == 1
    assert method.explained_change(factual, truth, np.array([1.0, 2.0])) == pytest.approx(0.9)


def test_scales(numbers):
    v = 5 + 3 * numbers.normal(size=(100, 2))
    scaled = method.range_scale(v).forward(v)
    torch.testing.assert_close(scaled.amax(0), torch.full((2,), 2.95))
    torch.testing.assert_close(scaled.amin(0), torch.full((2,), -2.95))
    np.testing.assert_allclose(method.range_scale(v).inverse(scaled), v, rtol=1e-5)
    standard = method.standard_scale(v).forward(v).numpy()
    np.testing.assert_allclose([standard.mean(0), standard.std(0)], [[0, 0], [1, 1]], atol=1e-5)


# ----------------------------------------------------------------------------------------------------------- generators


def test_ellipses_follow_their_laws(numbers):
    w, c = world = method.ellipse_world(numbers)
    assert ((w >= 1) & (w <= 2)).all() and ((c >= -1) & (c <= 1)).all()
    data, n = method.ellipses(world, 40_000, numbers), 40_000
    assert np.abs(data.z).max() <= 0.5 and data.z.std() == pytest.approx(12**-0.5, rel=0.02)
    b = data.v[:, 1] / (2 + np.sin(data.t))
    r = data.v[:, 0] / (b * (2 + np.cos(data.t)))
    uniform, exponential = b - np.exp(w[2] * data.z + c[2]), (r - 1) / np.exp(w[1] * data.z + c[1])
    assert uniform.min() >= -1e-9 and uniform.max() <= 1 + 1e-9 and uniform.mean() == pytest.approx(0.5, abs=0.01)
    assert exponential.min() >= -1e-9 and exponential.mean() == pytest.approx(1, abs=0.02)
    assert exponential.std() == pytest.approx(1, abs=0.03)
    turn = np.exp(1j * (data.t - w[0] * data.z - c[0]))
    assert abs(turn.mean() - np.exp(-0.5)) < 4 / np.sqrt(n)  # the characteristic function of N(0, 1) at 1
    assert ((data.t >= 0) & (data.t < 2 * np.pi)).all() and data.v.min() > 0.1


def test_chunks_follow_their_laws(numbers):
    data = method.chunks(40_000, numbers)
    assert set(data.i) == set(np.arange(-1, 1.25, 0.25))
    a = 1.2 * data.i
    e = (data.t - a - 0.8 * data.u * (1 + 0.3 * np.tanh(a))) / 0.4
    assert e.mean() == pytest.approx(0, abs=0.02) and e.std() == pytest.approx(1, abs=0.02)
    assert all(abs(np.mean((e * data.u)[data.i == level])) < 0.06 for level in (-1, 1))
    assert abs(np.corrcoef(data.i, data.u)[0, 1]) < 0.02 and data.u.std() == pytest.approx(1, abs=0.02)
    capacity, size = np.exp(0.6 * data.u), np.exp(0.7 * data.t)
    np.testing.assert_allclose(np.exp(-data.v), 1 / capacity + 0.7 / size)  # transfer times add up
    exogenous = method.chunks(40_000, np.random.default_rng(0), method.flipping, pull=0.0)
    assert abs(np.corrcoef(exogenous.t, exogenous.u)[0, 1]) < 0.02 < np.corrcoef(data.t, data.u)[0, 1]
    assert exogenous.t.std() == pytest.approx(data.t.std(), rel=0.02)
    np.testing.assert_allclose(exogenous.v, np.tanh(2 * exogenous.t) * exogenous.u + 0.3 * exogenous.t)
    powerless = method.chunks(40_000, numbers, strength=0.0)
    assert abs(np.corrcoef(powerless.i, powerless.t)[0, 1]) < 0.02


# -------------------------------------------------------------------------------------------------- training and the zoo


def test_truth_and_factual_of_the_studies():
    study = train.ellipse_study(0, 500, True, 50)
    t, after = study.actions
    np.testing.assert_allclose(study.truth[:, 0] / study.seen[:, 0], (2 + np.cos(after)) / (2 + np.cos(t)))
    np.testing.assert_allclose(study.truth[:, 1] / study.seen[:, 1], (2 + np.sin(after)) / (2 + np.sin(t)))
    np.testing.assert_allclose(study.outcomes(study.test["v"]), study.seen, rtol=1e-4)
    assert not torch.equal(study.test["z"], study.test["z permuted"])
    assert torch.equal(study.test["z"].sort(0)[0], study.test["z permuted"].sort(0)[0])
    one, other = (train.chunk_study(0, arm, 500, 50) for arm in ("instrument", "instrument, labels permuted"))
    assert torch.equal(one.train["t"], other.train["t"]) and not torch.equal(one.train["i"], other.train["i"])
    data = method.chunks(500, seeding.rng(0, "chunks train"))
    np.testing.assert_array_equal(one.train["i"][:, 0], data.i)
    assert torch.equal(one.train["i"].sort(0)[0], other.train["i"].sort(0)[0])
    np.testing.assert_allclose(one.truth[:, 0], method.log_throughput(np.roll(one.actions[0], 1), _capacity(one)))


def _capacity(study):
    """The latent log capacity that log throughput and size leave no choice about."""
    return -np.log(np.exp(-study.seen[:, 0]) - 0.7 * np.exp(-0.7 * study.actions[0])) / 0.6


@pytest.mark.parametrize("name", [*train.ELLIPSE_ARMS, *train.CHUNK_ARMS])
def test_each_arm_sees_only_what_its_structure_allows(name):
    ellipse = name in train.ELLIPSE_ARMS
    study = train.ellipse_study(0, 200, True, 20) if ellipse else train.chunk_study(0, name, 200, 20)
    model = train.arm(name, 0, "first", {"bins": 4, "width": 8})
    assert sum(len(m.networks) for m in model.modules.values() if isinstance(m, method.Flow)) == (6 if ellipse else 1)
    got = model.counterfactual(study.test)
    moved = model.counterfactual({k: v + 1 if k in ("z", "z permuted", "i") else v for k, v in study.test.items()})
    assert torch.equal(got, moved) == (name != "xz")
    assert np.isfinite(model.held_out(study.test))


def test_the_zoo_is_the_recorded_one():
    folder = Path(train.__file__).parent
    record = json.loads((folder / "provenance.json").read_text())
    assert train.SETTINGS.items() <= record.items()
    assert {p.name for p in folder.glob("*.safetensors")} == set(record["files"])
    for name, known in record["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == known["sha256"]


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("call, name", [
    (lambda: method.spline(doubles(3), doubles(3, 7), 3.0), "raw"),
    (lambda: method.spline(doubles(3), doubles(2, 8), 3.0), "raw"),
    (lambda: method.spline_inverse(doubles(3), doubles(3, 4), 3.0), "raw"),
    (lambda: method.explained_change(np.ones(3), np.ones((3, 1)), np.ones((3, 1))), "factual"),
    (lambda: method.percentage_error(np.ones((3, 1)), np.full((3, 1), np.nan)), "estimate"),
    (lambda: method.quantile_matching(np.ones(3), np.ones(2), (np.ones(1),) * 3, 1), "v must"),
    (lambda: method.Flow(3, 1, torch.Generator()), "d must"),
    (lambda: flow(1, 1)(doubles(3, 1) * torch.nan, doubles(3, 1)), "v contains"),
    (lambda: flow(1, 1)(doubles(3, 1), doubles(2, 1)), "condition"),
    (lambda: flow(1, 1).inverse(doubles(3), doubles(3, 1)), "u must"),
    (lambda: method.fit([flow(1, 1)], lambda v: v[:, 0], [doubles(3)], torch.Generator(), 1, 2, 0.1), "rows"),
    (lambda: method.quantile_matching(np.ones(3), np.ones(3), (np.ones(1),) * 3, 4), "k must"),
    (lambda: method.ratio_of_means(np.ones(3), np.ones((3, 2)), (np.ones(1), np.ones((1, 2)), np.ones(1))), "t leaves"),
    (lambda: method.standard_scale(np.ones((3, 1))), "constant"),
    (lambda: method.range_scale(np.full((3, 1), np.nan)), "NaN"),
    (lambda: method.ellipses((np.ones(3), np.ones(3)), 0, np.random.default_rng(0)), "n must"),
    (lambda: method.chunks(0, np.random.default_rng(0)), "n must"),
    (lambda: method.chunks(5, np.random.default_rng(0), pull=2.0), "pull"),
])  # fmt: skip
def test_bad_input_is_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()


def test_a_diverging_fit_is_an_error(rng):
    net = torch.nn.Linear(1, 1)
    with pytest.raises(FloatingPointError, match="rate"):
        method.fit([net], lambda x: net(x)[:, 0] * torch.nan, [torch.ones(5, 1)], rng, 2, 2, 0.1)
