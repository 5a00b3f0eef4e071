"""Domain counterfactuals: models, likelihood, training and yardsticks against closed forms and independent computations."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import multivariate_normal
from torch.autograd.functional import jacobian

from replications.causal.domain_counterfactuals import method
from replications.causal.domain_counterfactuals.weights import train
from shared import seeding

M, D = 4, 3


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def close(got: torch.Tensor, wanted: torch.Tensor, atol: float = 1e-6, rtol: float = 1e-5) -> None:
    np.testing.assert_allclose(got.detach().numpy(), wanted.detach().numpy(), rtol, atol)


@pytest.fixture
def model() -> method.Model:
    """A model with all its parts away from 0 and 1, and a leaky slope of .3."""
    lower, scale, bias = numbers(D, M, M).tril(-1), 0.4 * numbers(D, M, seed=1), numbers(D, M, seed=2)
    return method.Model(lower, scale, bias, numbers(M, M, seed=3), numbers(M, seed=4), torch.tensor(0.3, dtype=torch.float64))


def by_hand(model: method.Model, eps: np.ndarray, d: int) -> np.ndarray:
    """One unit's observation (m,), mechanism after mechanism."""
    z = np.zeros(M)
    for j in range(M):
        z[j] = sum(float(model.lower[d, j, i]) * z[i] for i in range(j)) + math.exp(model.log_scale[d, j]) * eps[j]
    z += model.bias[d].numpy()
    return np.linalg.solve(model.unmix.numpy(), np.where(z > 0, z, 0.3 * z)) + model.offset.numpy()


def test_predict_runs_mechanism_after_mechanism(model):
    eps = numbers(D, 5, M, seed=5)
    got = method.predict(model, eps)
    wanted = [[by_hand(model, unit.numpy(), d) for unit in eps[d]] for d in range(D)]
    np.testing.assert_allclose(got, wanted, rtol=1e-9)


def test_abduct_inverts_predict(model):
    eps = numbers(D, 50, M, seed=5)
    close(method.abduct(model, method.predict(model, eps)), eps)


def test_counterfactual_keeps_the_noise_and_changes_the_domain(model):
    eps = numbers(D, 5, M, seed=5)
    answers = method.counterfactual(model, method.predict(model, eps))
    assert answers.shape == (D, D, 5, M)
    for d, other in ((0, 1), (2, 0), (1, 1)):
        np.testing.assert_allclose(answers[d, other, 3], by_hand(model, eps[d, 3].numpy(), other), rtol=1e-8)


def test_stacks_answer_as_their_models_do(model):
    models = [
        model,
        model._replace(bias=model.bias + 1, slope=torch.tensor(0.7).double(), unmix=model.unmix.T, offset=-model.offset),
    ]
    x = numbers(2, D, 6, M, seed=6)
    together = method.stacked(models)
    for function in (method.counterfactual, method.log_density):
        for got, one, seen in zip(function(together, x), models, x, strict=True):
            close(got, function(one, seen))


def test_log_density_is_the_change_of_variables(model):
    x = method.predict(model, numbers(D, 4, M, seed=7))
    got = method.log_density(model, x)
    for d in range(D):
        for k in range(4):

            def noise(unit, d=d):
                return method.abduct(model, x.clone().index_put((torch.tensor(d), torch.tensor(0)), unit))[d, 0]

            log_det = torch.linalg.slogdet(jacobian(noise, x[d, k]))[1]
            eps = method.abduct(model, x)[d, k]
            wanted = multivariate_normal.logpdf(eps, np.zeros(M)) + log_det
            assert abs(got[d, k] - wanted) < 1e-9


def test_log_density_of_a_linear_model_is_gaussian(model):
    linear = model._replace(slope=torch.tensor(1.0).double())
    x = numbers(D, 6, M, seed=8)
    mixing = np.linalg.inv(linear.unmix.numpy())
    for d in range(D):
        f = np.linalg.inv(np.eye(M) - linear.lower[d].numpy()) @ np.diag(np.exp(linear.log_scale[d].numpy()))
        mean = mixing @ linear.bias[d].numpy() + linear.offset.numpy()
        wanted = multivariate_normal.logpdf(x[d], mean, mixing @ f @ f.T @ mixing.T)
        np.testing.assert_allclose(method.log_density(linear, x)[d], wanted, rtol=1e-8)


def test_blur_counts_softly(model):
    x = method.predict(model, numbers(D, 40, M, seed=7))
    exact = method.log_density(model, x)
    close(method.log_density(model, x, 1e-9), exact)
    z = (x - model.offset) @ model.unmix.T
    z = torch.where(z > 0, z, z / 0.3)
    soft = (1 / (1 + torch.exp(z / 0.5)) - (z < 0).double()).sum(-1) * -math.log(0.3)
    close(method.log_density(model, x, 0.5), exact + soft)


def test_the_soft_count_has_the_gradient_that_the_plain_one_lacks():
    """x = leaky(z), z ~ N(mean, 1): the loss has its minimum at the true offset, 0; the plain gradient is not 0 there."""
    x = numbers(1, 200_000, 1, seed=9) + 0.2
    x = torch.where(x > 0, x, 0.5 * x)
    rows = [torch.zeros(1, 1, 1), torch.zeros(1, 1), torch.full((1, 1), 0.2), torch.eye(1)]
    gradient = {}
    for blur in (0.0, 0.05):
        offset = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        model = method.Model(*(r.double() for r in rows), offset, torch.tensor(0.5).double())
        (gradient[blur],) = torch.autograd.grad(-method.log_density(model, x, blur).mean(), offset)
    # -E[(z - mean) dz/dx], with dz/dx = 1 above 0 and 2 below, is the density of z at 0
    assert abs(gradient[0.05]) < 0.02 and abs(gradient[0.0] - multivariate_normal.pdf(0.2)) < 0.02


def test_free_rows_and_tied():
    assert method.free_rows(4, 1).tolist() == [False, False, False, True]
    assert method.free_rows(4, 3, first=True).tolist() == [True, True, True, False]
    assert method.free_rows(4, 4).all() and not method.free_rows(4, 0).any()
    p = method.Parameters(numbers(D, M, M + 2), numbers(M, M, seed=1), numbers(M, seed=2))
    model = method.tied(p, method.free_rows(M, 2), torch.tensor(0.5))
    for d in range(D):
        for j in range(M):
            row = p.rows[d if j >= 2 else 0, j]
            assert torch.equal(model.lower[d, j, :j], row[:j]) and not model.lower[d, j, j:].any()
            assert model.log_scale[d, j] == row[M] and model.bias[d, j] == row[M + 1]


def test_composed_is_the_model_of_the_raw_data(model):
    matrix, mean, x = numbers(M, M, seed=10), numbers(M, seed=11), numbers(D, 7, M, seed=12)
    white = (x - mean) @ matrix.T
    raw = method.composed(model, matrix, mean)
    close(method.abduct(raw, x), method.abduct(model, white))
    difference = method.log_density(raw, x) - method.log_density(model, white)
    close(difference, torch.linalg.slogdet(matrix)[1].expand(D, 7))


def test_whitening_and_rotation():
    x = numbers(500, M) @ numbers(M, M, seed=1)
    root = method.whitening(x)
    np.testing.assert_allclose(np.cov((x @ root.T).T), np.eye(M), atol=1e-8)
    close(root, root.T)
    turn = method.rotation(np.random.default_rng(0), M)
    close(turn @ turn.T, torch.eye(M))
    # uniform over rotations: the mean of the first entry is 0, which QR alone misses
    assert abs(np.mean([method.rotation(np.random.default_rng(s), 2)[0, 0] for s in range(400)])) < 0.12


def test_start_is_alike_in_all_domains():
    begun = method.start(numbers(5, M, M), 3)
    assert begun.rows.shape == (5, 3, M, M + 2) and not begun.rows.any() and not begun.offset.any()
    close(begun.unmix, numbers(5, M, M))


def test_world_changes_only_its_set_and_nests():
    three, two = (method.world(np.random.default_rng(3), 6, n, (1, 4), 0.5) for n in (3, 2))
    same = [j for j in range(6) if j not in (1, 4)]
    for part in (three.lower, three.bias):
        assert (part[:, same] == part[:1, same]).all() and (part[0, 4] != part[1, 4]).any() and (part[1, 4] != part[2, 4]).any()
    assert torch.equal(three.lower[:2], two.lower) and torch.equal(three.bias[:2], two.bias)
    assert (three.lower.triu() == 0).all() and (three.lower[:, 4, :4] != 0).all() and not three.log_scale.any()
    assert (three.bias[:, 1] == three.bias[:, 4]).all() and (three.bias[:, same] == 0).all()
    most = max(float(method.world(np.random.default_rng(s), 6, 5, (1, 4), 0.5, 10).bias.abs().max()) for s in range(100))
    assert 0.97 * 2 * math.sqrt(3) < most < 2 * math.sqrt(3)
    weights = torch.cat([method.world(np.random.default_rng(s), 6, 3, (5,), 0.5, 10).lower[:, 5, :5].flatten() for s in range(100)])
    assert abs(weights.std() - 1) < 0.05


def test_world_scales_latents_and_keeps_the_determinant():
    truth = method.world(np.random.default_rng(3), 6, 3, (4, 5), 0.5)
    eps = numbers(3, 20_000, 6)
    x = method.predict(truth, eps)
    y = method.predict(truth._replace(unmix=torch.eye(6).double()), eps).reshape(-1, 6)
    # x = G (y / spread): the spread is the pooled one, and |det G| = 1
    log_det = torch.linalg.slogdet(truth.unmix)[1]
    assert abs(log_det - y.std(0).log().sum()) < 0.06
    mixing = torch.linalg.lstsq(y / y.std(0), x.reshape(-1, 6)).solution.T
    close(mixing @ torch.diag(1 / y.std(0)) @ truth.unmix, torch.eye(6).double(), atol=0.05, rtol=0)


def test_transport_maps_mean_and_covariance():
    x = torch.stack([numbers(300, 3, seed=s) @ numbers(3, 3, seed=s + 5) + s for s in range(2)])
    moved = method.transport(x)
    np.testing.assert_allclose(np.cov(moved[0, 1].T), np.cov(x[1].T), rtol=1e-6)
    close(moved[0, 1].mean(0), x[1].mean(0))
    close(moved[1, 1], x[1])
    a, b = (np.cov(part.T) for part in x)
    root = sqrtm(a)
    plan = np.linalg.inv(root) @ sqrtm(root @ b @ root) @ np.linalg.inv(root)
    np.testing.assert_allclose(moved[0, 1], (x[0] - x[0].mean(0)).numpy() @ plan.real.T + x[1].mean(0).numpy(), rtol=1e-6)


def test_error_by_hand():
    x, truth, answer = numbers(D, 20, 2), numbers(D, D, 20, 2, seed=1), numbers(D, D, 20, 2, seed=2)
    pairs = []
    for d in range(D):
        for other in range(D):
            if d != other:
                spread = torch.cat([x[d], x[other]]).var(0, correction=0)
                pairs.append(((answer - truth)[d, other] ** 2 / spread).mean())
    close(method.error(answer, truth, x), torch.stack(pairs).mean())
    close(method.error(truth, truth, x), torch.tensor(0.0).double())


def test_train_finds_a_gaussian_and_keeps_its_best_look():
    """One coordinate, linear: the loss falls to the entropy, and the kept parameters are those of the least loss."""
    x = torch.stack([2 + 3 * numbers(400, 1), 3 * numbers(400, 1, seed=1) - 1]).float()[None]
    free, slope, seen = method.free_rows(1, 1)[None], torch.ones(1), []

    def look(step, model):
        seen.append((step, -method.log_density(model, x).mean((-2, -1))))
        return seen[-1][1] if step != 150 else torch.tensor([0.0])

    begun = method.start(torch.eye(1)[None], 2)
    trained = method.train(begun, free, slope, lambda step: x, 200, 0.1, 50, look, 0.0)
    assert [step for step, _ in seen] == [50, 100, 150, 200]
    entropy = np.mean([math.log(float(part.std())) for part in x[0]]) + 0.5 * math.log(2 * math.pi * math.e)
    assert abs(seen[-1][1].item() - entropy) < 0.01
    kept = -method.log_density(method.tied(trained, free, slope), x).mean((-2, -1))
    close(kept, seen[2][1])
    # a model that diverges keeps its earlier look, and does not stop the others
    losses = iter([[1.0, 1.0], [torch.nan, 0.5], [2.0, 0.7], [1.5, 0.6]])
    places = []

    def diverging(step, model):
        places.append(model.offset.clone())
        return torch.tensor(next(losses))

    two = method.Parameters(*(p.repeat_interleave(2, 0) for p in begun))
    kept = method.train(two, free.expand(2, 1), slope.expand(2), lambda step: x.expand(2, 2, 400, 1), 20, 0.05, 5, diverging, 0.0)
    assert torch.equal(kept.offset[0], places[0][0]) and torch.equal(kept.offset[1], places[1][1])
    assert not begun.rows.any()


def test_train_follows_its_schedule():
    """With a loss linear in the offset, Adam moves by the rate: rising over a twentieth, then on a cosine."""
    places = []
    x = torch.full((1, 1, 1, 1), 50.0)
    begun = method.start(torch.eye(1)[None], 1)
    method.train(begun, method.free_rows(1, 0)[None], torch.ones(1), lambda s: x, 40, 1e-4, 1,
                 lambda s, m: places.append(m.offset.item()) or torch.zeros(1), 0.0)  # fmt: skip
    steps = np.diff([0.0, *places])
    wanted = [1e-4 * min(20 * (s + 1) / 40, 1) * (1 + math.cos(math.pi * s / 40)) / 2 for s in range(40)]
    np.testing.assert_allclose(np.abs(steps), wanted, rtol=0.02, atol=4e-6)
    short = []
    method.train(begun, method.free_rows(1, 0)[None], torch.ones(1), lambda s: x, 40, 1e-4, 1,
                 lambda s, m: short.append(m.offset.item()) or torch.zeros(1), 0.0, 3)  # fmt: skip
    assert short == places[:3]


def test_train_is_adam_with_the_papers_betas():
    """The gradient of the offset turns round at the second step: momentum .5 g then -.25 g, corrected g and -g / 3."""
    places = [0.0]
    batches = [torch.full((1, 1, 1, 1), x) for x in (500.0, -500.0)]
    begun = method.start(torch.eye(1)[None], 1)
    method.train(begun, method.free_rows(1, 0)[None], torch.ones(1), batches.__getitem__, 1000, 1e-3, 1,
                 lambda s, m: places.append(m.offset.item()) or torch.zeros(1), 0.0, 2)  # fmt: skip
    first, second = np.diff(places)
    rates = [1e-3 * (s + 1) / 50 for s in range(2)]
    assert abs(first - rates[0]) < 1e-7 and abs(second / rates[1] + 1 / 3) < 0.01


def test_bad_input_is_named(model):
    x = numbers(D, 5, M)
    for bad in (x[:2], x[..., :3], x[:, :0], torch.where(x > 1, torch.nan, x)):
        with pytest.raises(ValueError, match="x "):
            method.abduct(model, bad)
    with pytest.raises(ValueError, match="k must"):
        method.free_rows(4, 5)
    with pytest.raises(ValueError, match="free must"):
        method.tied(method.start(torch.eye(M), D), torch.ones(3, dtype=torch.bool), torch.tensor(0.5))
    with pytest.raises(ValueError, match="changed"):
        method.world(np.random.default_rng(0), 6, 3, (6,), 0.5)
    with pytest.raises(ValueError, match="changed"):
        method.world(np.random.default_rng(0), 6, 3, (), 0.5)
    with pytest.raises(ValueError, match="2 domains"):
        method.error(x[:1, None], x[:1, None], x[:1])
    for function in (method.transport, method.whitening):
        with pytest.raises(ValueError, match="more units"):
            function(x[:, :M])
    with pytest.raises(FloatingPointError):
        loss = torch.tensor([torch.nan])
        begun = method.start(torch.eye(1)[None], 1)
        method.train(
            begun, method.free_rows(1, 1)[None], torch.ones(1), lambda s: torch.ones(1, 1, 1, 1), 1, 0.1, 1, lambda *_: loss, 0.0
        )


def test_plan_gives_every_arm_of_a_claim_the_same_worlds():
    plan = train.plan([0, 1])
    for fits in plan.values():
        assert len(set(fits)) == len(fits)
    worlds = {arm: {f[:4] for f in plan["3"] if f.arm == arm and f.slope == train.SLOPE and f.changed in train.POSITIONS}
              for arm in ("2", "dense", "misplaced", "1", "4")}  # fmt: skip
    assert worlds["2"] == worlds["dense"] and worlds["misplaced"] == worlds["1"] < worlds["2"]
    grid = {(len(f.changed), f.arm) for f in plan["3"] if f.changed[-1] == 5 and f.arm in "1234"}
    assert grid == {(size, k) for size in (1, 2, 3, 4) for k in "1234"}


def test_copies_are_the_first_two_domains():
    fit = train.Fit(0, (4, 5), 5, True, "2")
    truth, two = train.world(fit), train.world(fit._replace(domains=2, copies=False))
    for d in range(5):
        assert torch.equal(truth.lower[d], two.lower[d % 2]) and torch.equal(truth.bias[d], two.bias[d % 2])
    x = train.units(fit, "test", 4)
    assert x.shape == (5, 4, 6) and not torch.equal(x[0], x[2])


def test_digits_are_turned_and_parts_are_apart():
    data = train.digits(0)
    assert [data[part].shape for part in ("train", "valid", "test")] == [(4, 1000, 12), (4, 300, 12), (4, 497, 12)]
    np.testing.assert_allclose(data["train"].reshape(-1, 12).std(0), 1, rtol=1e-3)
    assert sorted(data["order"]) == list(range(1797))
    shown = data["images"].reshape(4, -1, 64)
    flat = (shown[:, 1300:] - data["mean"]) @ np.linalg.pinv(data["components"])
    np.testing.assert_allclose(flat, data["test"], atol=1e-8)
    assert np.abs(shown[1] - shown[0]).mean() > 0.1


def test_stack_losses_are_those_of_the_data():
    fits = [train.Fit(0, (4, 5), 3, False, arm) for arm in ("2", "dense")]
    both = train.stack(train.bench(fits, "cpu"), fits, 2, 0.0)
    begun = train.first_parameters(fits, 2)
    raw = both.raw(both.model(begun))
    x = train.units(fits[0], "valid", train.TRAINING["n_valid"])
    wanted = -method.log_density(raw, x.expand(4, *x.shape)).mean((-2, -1))
    close(both.losses(both.model(begun)).double(), wanted, atol=1e-4, rtol=0)
    close(begun.unmix[0], begun.unmix[2])  # the starts of a seed are alike for all arms
    assert not torch.equal(begun.unmix[0], begun.unmix[1])
    assert seeding.seeds(10) == list(range(1000, 1010))
