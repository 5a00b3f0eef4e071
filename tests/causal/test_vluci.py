"""Unit tests of the hidden-confounder replication, against closed forms and independent computations."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm, truncnorm
from torch import distributions

from replications.causal.vluci import method
from shared.data import nhefs
from tests.leaks import constants_that_tell

FAR = 50.0  # ELU is the identity on positive numbers: a network far to the right is linear


def torch_rngs(*seeds):
    return [torch.Generator().manual_seed(s) for s in seeds]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def linear(weights, constant, layers=2) -> list:
    """A network of one member in float64 that computes inputs @ weights + constant; weights (in, out)."""
    w = torch.as_tensor(weights, dtype=torch.float64)
    one = torch.eye(w.shape[1], dtype=torch.float64)
    bias = torch.as_tensor(constant, dtype=torch.float64).expand(w.shape[1])
    middle = [(one[None], torch.zeros(1, 1, w.shape[1], dtype=torch.float64))] * (layers - 2)
    return [(w[None], torch.full((1, 1, w.shape[1]), FAR, dtype=torch.float64)), *middle, (one[None], (bias - FAR)[None, None])]


def linear_model(a=0.3, b=0.8, tau=1.5, g=0.7, s=0.5, of_t=0.0, **more) -> method.Latent:
    """logit = a x + of_t u; y = b x + tau t + g u + s e; the encoder is the exact posterior where of_t = 0. One column of x."""
    shrink, sd = g / (g**2 + s**2), s / np.sqrt(g**2 + s**2)
    encoder = linear([[-shrink * b, 0.0], [-shrink * tau, 0.0], [shrink, 0.0]], [0.0, np.log(sd)])
    sigma = torch.full((1, 1), np.log(s), dtype=torch.float64)
    parts = {"prior": None, "covariates": None} | more
    return method.Latent(encoder, linear([[a], [of_t]], 0.1), linear([[b, b], [g, g]], [0.0, tau]), sigma, **parts)


def linear_data(n=6, seed=3) -> method.Data:
    rng = np.random.default_rng(seed)
    x, t = rng.normal(size=(1, n, 1)), np.resize([0.0, 1.0], (1, n))
    return method.Data(*(torch.as_tensor(v) for v in (x, t, rng.normal(size=(1, n)))))


def small(n=120, d=3, seed=0, c=1.0) -> method.Study:
    rng = np.random.default_rng(seed)
    return method.simulate(rng.normal(size=(n, d)), rng.normal(size=n), c, 0.5, rng)


# ---------------------------------------------------------------- studies


def test_simulated_studies(rng):
    x, u = rng.normal(size=(40_000, 2)), rng.normal(size=40_000)
    study = method.simulate(x, u, 1.3, 0.5, np.random.default_rng(2))
    again = np.random.default_rng(2)
    a, b, bend = again.normal(size=(3, 2)) / np.sqrt(2)
    drivers = np.column_stack([np.ones(len(u)), x, u])
    p = 1 / (1 + np.exp(-drivers @ [0, *a, 1.3]))
    assert np.abs(drivers.T @ (study.t - p)).max() / len(u) < 0.008  # the score of a logistic model is 0 at the truth
    assert np.allclose(study.mu0, x @ b + np.sin(x @ bend) + u)
    assert np.allclose(study.mu1 - study.mu0, 1 + np.tanh(x[:, 0]) / 2)
    seen, unseen = (np.where(study.t == arm, study.mu1, study.mu0) for arm in (1, 0))
    e, e_other = study.y - seen, study.other - unseen
    assert e.std() == pytest.approx(0.5, abs=0.01) and e_other.std() == pytest.approx(0.5, abs=0.01)
    assert abs(np.corrcoef(e, e_other)[0, 1]) < 0.02
    free = method.simulate(x, u, 0.0, 0.5, np.random.default_rng(2))
    assert abs(np.corrcoef(free.t, u)[0, 1]) < 0.02 and np.array_equal(free.mu0, study.mu0)


def test_units_are_those_of_the_rows():
    study = small()
    scaled, unit = method.in_units(study, np.arange(80))
    assert scaled.y[:80].mean() == pytest.approx(0) and scaled.y[:80].std() == pytest.approx(1)
    assert unit == pytest.approx(study.y[:80].std())
    for name in ("y", "other", "mu0", "mu1"):
        assert np.allclose(getattr(scaled, name) * unit + study.y[:80].mean(), getattr(study, name))
    assert np.array_equal(scaled.u, study.u) and len(scaled.take(np.arange(5)).x) == 5


def test_treatments_are_shuffled_within_strata_only(rng):
    t, order = (rng.random(100) < 0.5).astype(float), rng.normal(size=100)
    out = method.shuffled_treatments(t, order, 10, rng)
    ranks = np.argsort(order)
    assert np.array_equal(out[ranks].reshape(10, 10).sum(1), t[ranks].reshape(10, 10).sum(1))
    changed = (out != t)[ranks].reshape(10, 10).any(1)
    assert changed.mean() > 0.7  # in all blocks, not in one


# ---------------------------------------------------------------- networks


def test_network_against_torch_and_its_start():
    layers = method.network([3, 5, 4, 2], torch_rngs(0, 1))
    x = torch.randn(2, 7, 3, generator=torch_rngs(5)[0])
    for member in range(2):
        modules = []
        for w, b in layers:
            module = torch.nn.Linear(*w.shape[1:])
            module.weight.data, module.bias.data = w[member].T, b[member, 0]
            modules += [module, torch.nn.ELU()]
        assert torch.allclose(torch.nn.Sequential(*modules[:-1])(x[member]), method.output(layers, x)[member], atol=1e-6)
        assert torch.allclose(torch.nn.Sequential(*modules[:-2])(x[member]), method.hidden(layers, x)[member], atol=1e-6)
    wide = method.network([25, 400], torch_rngs(0))[0][0]
    assert 0.195 < wide.max() <= 0.2 and -0.2 <= wide.min() < -0.195


def test_training_stops_where_the_held_out_loss_was_least():
    p = torch.zeros(2, 1)
    goal = torch.tensor([[0.2], [0.35]])
    best = method.train([p], lambda _: (p - 1).square().sum(1), lambda: (p - goal).square().sum(1), 60, every=1, learning_rate=2e-2)
    assert torch.allclose(p, goal, atol=0.02) and (best < 4e-4).all() and not p.requires_grad
    late = torch.zeros(2, 1)
    method.train(
        [late],
        lambda _: (late - 1).square().sum(1),
        lambda: (late - goal).square().sum(1),
        60,
        first=30,
        every=1,
        learning_rate=2e-2,
    )
    assert (late > 0.4).all()  # nothing is kept before step `first`


def test_a_member_that_was_stopped_stays_stopped():
    looks = iter(torch.tensor([[3.0, 9], [2, 8], [5, 7], [5, 6], [5, 5], [0, 4]]))
    p = torch.zeros(2, 1)
    best = method.train([p], lambda _: -p.sum(1), lambda: next(looks), 6, every=1, learning_rate=1.0, decay=0.0)
    assert best.tolist() == [2, 4] and torch.allclose(p, torch.tensor([[2.0], [6.0]]), atol=0.01)


def test_training_decays_and_looks_at_every_tenth_step():
    p, looks = torch.ones(1, 1), []

    def held_out():
        looks.append(float(p.detach()))
        return p.detach()[:, 0] ** 2

    method.train([p], lambda _: 0 * p.sum(1), held_out, 25, learning_rate=1e-2, decay=0.1)
    assert len(looks) == 3 and float(p) == pytest.approx(1 - 25 * 1e-2, abs=1e-2)


@pytest.mark.parametrize("kind", ["T", "S", "balanced"])
def test_outcome_models_find_a_line_and_members_do_not_meet(kind, rng):
    studies = []
    for seed in (0, 1):
        s = small(200, 2, seed, c=0.0)
        y = s.x[:, 0] + s.t * (1 + seed)
        studies.append(s._replace(y=y))
    data = method.stacked(studies)
    both = method.fit_outcomes(data, data, torch_rngs(3, 4), kind, 150)(data.x)
    for seed in (0, 1):
        effect = (both[1] - both[0])[seed]
        if kind != "balanced":
            assert effect.mean() == pytest.approx(1 + seed, abs=0.1)
            assert (both[0][seed] - data.x[seed, :, 0]).square().mean() < 0.02
    one = method.stacked(studies[1:])
    alone = method.fit_outcomes(one, one, torch_rngs(4), kind, 150)(one.x)
    assert torch.allclose(alone[0][0], both[0][1], atol=0.02)


def test_balanced_model_is_pulled_and_s_model_sees_the_treatment_as_a_number():
    study = small(300, 3)
    study = study._replace(t=(study.x[:, 0] + 0.5 * study.u > 0).astype(float), y=study.x[:, 0])
    data = method.stacked([study])
    plain, balanced = (method.fit_outcomes(data, data, torch_rngs(0), kind, 60)(data.x) for kind in ("T", "balanced"))
    errors = [(data.y - method.factual(*m, data.t)).square().mean() for m in (plain, balanced)]
    assert errors[1] > errors[0] + 0.02  # what tells the arms apart is what tells the outcome
    assert method.fit_outcomes(data, data, torch_rngs(0), "S", 20)(data.x)[0].shape == (1, 300)


def test_mean_gap_and_carry_over_by_hand():
    features = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [0.0, 4.0]]])
    t = torch.tensor([[1.0, 1.0, 0.0]])
    assert method.mean_gap(features, t).tolist() == [2.0**2 + 4.0**2]
    assert method.carry_over(torch.tensor([5.0, 5.0]), torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0])).tolist() == [7.0, 2.0]
    assert method.factual(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0])).tolist() == [1.0, 4.0]


# ---------------------------------------------------------------- the latent model


def test_densities_and_divergences():
    m, s, m0, s0 = (torch.tensor(v) for v in ([[0.3, -1.0]], [[0.5, 2.0]], [[0.1, 0.4]], [[1.5, 0.7]]))
    known = distributions.kl_divergence(distributions.Normal(m, s), distributions.Normal(m0, s0)).sum(-1)
    assert torch.allclose(method.gaussian_kl(m, s, m0, s0), known)
    standard = distributions.kl_divergence(distributions.Normal(m, s), distributions.Normal(0.0, 1.0)).sum(-1)
    assert torch.allclose(method.gaussian_kl(m, s), standard)
    assert method.log_normal(torch.tensor(1.2), torch.tensor(0.3), torch.tensor(0.4)) == pytest.approx(
        norm(0.3, np.exp(0.4)).logpdf(1.2)
    )


def test_elbo_of_the_exact_posterior_is_the_evidence():
    """Where u does not touch t all is Gaussian; draws of +1 and -1 have the moments that the bound needs, so it is exact."""
    model, data = linear_model(), linear_data()
    bound = sum(method.elbo(model, data, torch.full((1, 6, 1), e, dtype=torch.float64)) for e in (1.0, -1.0)) / 2
    x, t, y = (v[0].numpy() for v in data)
    p = 1 / (1 + np.exp(-(0.3 * x[:, 0] + 0.1)))
    evidence = np.log(np.where(t == 1, p, 1 - p)) + norm(0.8 * x[:, 0] + 1.5 * t, np.sqrt(0.7**2 + 0.5**2)).logpdf(y)
    assert float(bound) == pytest.approx(evidence.mean(), abs=1e-9)
    worse = model._replace(encoder=linear([[0.0, 0.0], [0.0, 0.0], [0.4, 0.0]], [0.0, -0.5]))
    assert sum(method.elbo(worse, data, torch.full((1, 6, 1), e, dtype=torch.float64)) for e in (1.0, -1.0)) / 2 < bound
    half = method.elbo(model, data, torch.zeros(1, 6, 1), 0.5) - method.elbo(model, data, torch.zeros(1, 6, 1))
    assert float(half) == pytest.approx(float(method.gaussian_kl(*method.gaussian(model.encoder, *data)).mean()) / 2)


def test_doubly_variational_elbo_by_hand():
    prior = linear([[0.2, 0.1], [0.5, 0.0]], [-0.3, -0.2])
    model, data = linear_model(of_t=0.9, prior=prior), linear_data()
    noise = torch.as_tensor(np.random.default_rng(1).normal(size=(1, 6, 1)))
    x, t, y = (v[0].numpy() for v in data)
    q_t = distributions.Normal(torch.as_tensor(0.2 * x[:, 0] + 0.5 * t - 0.3), torch.as_tensor(np.exp(0.1 * x[:, 0] - 0.2)))
    shrink, sd = 0.7 / 0.74, 0.5 / np.sqrt(0.74)
    q_y = distributions.Normal(torch.as_tensor(shrink * (y - 0.8 * x[:, 0] - 1.5 * t)), torch.full((6,), sd, dtype=torch.float64))
    u_t, u_y = ((q.mean + q.stddev * noise[0, :, 0]).numpy() for q in (q_t, q_y))
    p = 1 / (1 + np.exp(-(0.3 * x[:, 0] + 0.9 * u_t + 0.1)))
    of_t = np.log(np.where(t == 1, p, 1 - p)) - distributions.kl_divergence(q_t, distributions.Normal(0.0, 1.0)).numpy()
    of_y = norm(0.8 * x[:, 0] + 1.5 * t + 0.7 * u_y, 0.5).logpdf(y) - distributions.kl_divergence(q_y, q_t).numpy()
    assert float(method.elbo(model, data, noise)) == pytest.approx((of_t + of_y).mean(), abs=1e-9)


def test_cevae_adds_the_density_of_the_covariates():
    data, noise = linear_data(), torch.zeros(1, 6, 1, dtype=torch.float64)
    plain = linear_model()
    with_x = plain._replace(covariates=linear([[1.1, 0.2]], [0.4, -0.1]))
    u = method.posterior_mean(plain, data)[0, :, 0].numpy()
    known = norm(1.1 * u + 0.4, np.exp(0.2 * u - 0.1)).logpdf(data.x[0, :, 0].numpy()).mean()
    assert float(method.elbo(with_x, data, noise) - method.elbo(plain, data, noise)) == pytest.approx(known)


def test_warm_up():
    assert [method.warm_up(s, 300, 2.0) for s in (0, 50, 100, 299)] == [0, 1, 2, 2]


def test_encoder_finds_the_posterior_in_closed_form():
    """The decoders are the truth and stay as they are; only the encoder learns."""
    rng = np.random.default_rng(0)
    n = 2000
    x, t, u = rng.normal(size=(1, n, 1)), rng.integers(2, size=(1, n)).astype(float), rng.normal(size=(1, n))
    y = 0.8 * x[..., 0] + 1.5 * t + 0.7 * u + 0.5 * rng.normal(size=(1, n))
    data = method.Data(*(torch.as_tensor(v, dtype=torch.float32) for v in (x, t, y)))
    truth = linear_model()
    single = [[(w.float(), b.float()) for w, b in layers] for layers in truth[1:3]]
    model = method.Latent(method.network([3, 32, 32, 2], torch_rngs(0)), *single, truth.log_sigma.float(), None, None)
    noise = method.draws(torch_rngs(1), n, 1)

    def loss(step):
        return -method.elbo(model, data, method.draws(torch_rngs(step), n, 1))

    method.train(method._flat(model.encoder), loss, lambda: -method.elbo(model, data, noise), 250, learning_rate=1e-2)
    mean, sd = method.gaussian(model.encoder, *data)
    exact = 0.7 / 0.74 * (data.y - 0.8 * data.x[..., 0] - 1.5 * data.t)
    assert (mean[..., 0] - exact).square().mean().sqrt() < 0.05
    assert sd.mean() == pytest.approx(0.5 / np.sqrt(0.74), abs=0.05)


def test_fitted_model_keeps_a_known_sigma_and_learns_another():
    data = method.stacked([small(150, 2, s) for s in (0, 1)])
    known, _ = method.fit_latent(data, data, torch_rngs(0, 1), sigma=torch.tensor([0.4, 0.6]), steps=30)
    assert torch.allclose(known.log_sigma.exp()[:, 0], torch.tensor([0.4, 0.6]))
    learned, bound = method.fit_latent(data, data, torch_rngs(0, 1), steps=60)
    assert ((learned.log_sigma.exp() - method.START_SIGMA).abs() > 0.01).all() and bound.shape == (2,)
    alone, other = method.fit_latent(data._replace(x=data.x[1:], t=data.t[1:], y=data.y[1:]), method.Data(*(v[1:] for v in data)),
                                     torch_rngs(1), steps=60)  # fmt: skip
    assert float(bound[1]) == pytest.approx(float(other[0]), abs=1e-3)
    assert torch.allclose(alone.log_sigma[0], learned.log_sigma[1], atol=1e-3)
    strict, _ = method.fit_latent(data, data, torch_rngs(0, 1), kl_weight=100.0, steps=90)
    assert method.posterior_mean(strict, data).std() < 0.3 * method.posterior_mean(learned, data).std()


def test_looks_begin_after_the_warm_up_and_use_mirrored_draws(monkeypatch):
    data, seen = method.stacked([small(100, 4)]), {}

    def spy(parameters, loss, held_out, steps, first=0):
        seen.update(steps=steps, first=first, value=held_out())
        return seen["value"]

    monkeypatch.setattr(method, "train", spy)
    model, _ = method.fit_latent(data, data, torch_rngs(0), steps=90)
    again = torch_rngs(0)
    method.start_latent(4, again)
    noise = method.draws(again, 100, 1)
    assert (seen["steps"], seen["first"]) == (90, 30)
    assert torch.allclose(-seen["value"], (method.elbo(model, data, noise) + method.elbo(model, data, -noise)) / 2)
    assert model.log_sigma.exp().item() == pytest.approx(method.START_SIGMA)


def test_variants_have_the_parts_they_need():
    plain, double, cevae = (method.start_latent(4, torch_rngs(0), **kw) for kw in ({}, {"double": True}, {"covariates": True}))
    assert plain.prior is plain.covariates is None and plain.encoder[0][0].shape == (1, 6, 32)
    assert double.prior[0][0].shape == (1, 5, 32) and double.prior[-1][0].shape == (1, 32, 2)
    assert cevae.covariates[0][0].shape == (1, 1, 32) and cevae.covariates[-1][0].shape == (1, 32, 8)
    data = method.stacked([small(100, 4)])
    before = [cevae.covariates[0][0].clone()]
    fitted, _ = method.fit_latent(data, data, torch_rngs(0), covariates=True, double=True, steps=20)
    assert not torch.allclose(fitted.covariates[0][0], before[0])


def test_interval_in_closed_form():
    model, data = linear_model(), linear_data()
    data = method.Data(*(v.expand(1, 6, *v.shape[2:]) for v in data))
    mean, sd = method.gaussian(model.encoder, *data)
    low, high = method.counterfactual_interval(model, data, torch_rngs(0), n_draws=1500)
    centre = 0.8 * data.x[..., 0] + 1.5 * (1 - data.t) + 0.7 * mean[..., 0]
    half = 1.96 * np.sqrt(0.7**2 * float(sd[0, 0, 0]) ** 2 + 0.5**2)
    assert torch.allclose((low + high) / 2, centre, atol=0.2) and ((low + high) / 2 - centre).mean().abs() < 0.06
    assert ((high - low) / 2).mean() == pytest.approx(half, abs=0.05)
    low, high = method.counterfactual_interval(model, data, torch_rngs(0), n_draws=1500, sigma=False)
    half = 1.96 * 0.7 * float(sd[0, 0, 0])
    assert torch.allclose((high - low) / 2, torch.full_like(low, half), atol=0.06)
    m0, m1 = method.outcomes(model, data.x, mean)
    assert torch.allclose(m1 - m0, torch.full_like(m0, 1.5)) and torch.allclose(m0, centre - 1.5 * (1 - data.t))


# ---------------------------------------------------------------- the selection model


def test_probit_and_mills_ratio(rng):
    x = np.column_stack([np.ones(20_000), rng.normal(size=20_000)])
    b = np.array([0.3, -0.8])
    t = (x @ b + rng.normal(size=20_000) > 0).astype(float)
    found = method.probit(x, t)
    assert np.allclose(found, b, atol=0.04)
    p = norm.cdf(x @ found)  # the score equations, written with the probability
    assert np.abs(((t - p) * norm.pdf(x @ found) / (p * (1 - p))) @ x / len(x)).max() < 1e-5
    index = np.array([-1.2, 0.0, 0.7])
    treated = [truncnorm(-i, np.inf).mean() for i in index]
    others = [truncnorm(-np.inf, -i).mean() for i in index]
    assert np.allclose(method.mills(index, np.ones(3)), treated) and np.allclose(method.mills(index, np.zeros(3)), others)


def test_heckman_removes_the_bias_of_a_normal_confounder(rng):
    n = 100_000
    x, u = rng.normal(size=(n, 2)), rng.normal(size=n)
    t = (0.2 + x @ [1.0, -0.5] + u > 0).astype(float)
    y = x @ [0.5, 1.0] + t * (1 + 0.4 * x[:, 1]) + 0.9 * u + 0.3 * rng.normal(size=n)
    effect = method.heckman(x, t, y)
    points = effect(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    assert np.allclose(points, [1.0, 1.0, 1.4], atol=0.12)
    assert method.heckman(x, t, y - 0.9 * u)(x).mean() == pytest.approx(1.0, abs=0.05)


# ---------------------------------------------------------------- the case that cannot be decided

P = method.Linear(a=0.6, c=0.8, s_t=0.9, b=0.5, tau=1.0, g=0.7, s_y=1.0)


def test_linear_covariance_against_a_sample(rng):
    x, u, e, f = rng.normal(size=(4, 400_000))
    t = P.a * x + P.c * u + P.s_t * e
    y = P.b * x + P.tau * t + P.g * u + P.s_y * f
    assert np.allclose(method.covariance(P), np.cov([x, t, y, u]), atol=0.03)


def test_twins_have_one_law_and_one_bound(rng):
    data = rng.multivariate_normal(np.zeros(3), method.covariance(P)[:3, :3], 500)
    bounds, full = [], method.covariance(P)[:3, :3]
    known = multivariate_normal(np.zeros(3), full).logpdf(data).mean() - norm.logpdf(data[:, 0]).mean()
    for tau in (1.0, 1.3, 0.7):
        other = method.twin(P, tau)
        assert other.tau == tau and np.abs(method.covariance(other)[:3, :3] - full).max() < 1e-12
        weights, sd = method.linear_posterior(other)
        bounds.append(method.linear_elbo(other, data, weights, sd))
        assert method.linear_elbo(other, data, weights * 1.1, sd) < bounds[-1] > method.linear_elbo(other, data, weights, sd * 1.1)
    assert np.allclose(bounds, known, atol=1e-10)
    with pytest.raises(ValueError, match="variance of y"):
        method.twin(P, 9.0)


def test_linear_posterior_is_the_regression_of_u(rng):
    sample = rng.multivariate_normal(np.zeros(4), method.covariance(P), 200_000)
    weights, sd = method.linear_posterior(P)
    found, rest, *_ = np.linalg.lstsq(sample[:, :3], sample[:, 3], rcond=None)
    assert np.allclose(weights, found, atol=0.02) and sd == pytest.approx(np.sqrt(rest[0] / 200_000), abs=0.01)


# ---------------------------------------------------------------- measures, bad input, data


def test_measures(rng):
    a, b = rng.normal(size=(2, 3, 50))
    assert np.allclose(method.correlation(a, b), [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)])
    assert np.allclose(method.rmse(a, b), [np.sqrt(np.mean((x - y) ** 2)) for x, y in zip(a, b, strict=True)])


def test_bad_input(rng):
    study, data = small(), method.stacked([small()])
    bad = [
        (lambda: method.simulate(study.x, study.u[:9], 1, 0.5, rng), "u must"),
        (lambda: method.simulate(study.x * np.nan, study.u, 1, 0.5, rng), "x contains"),
        (lambda: method.simulate(study.x, study.u, 1, -1.0, rng), "noise"),
        (lambda: method.in_units(study._replace(y=0 * study.y), np.arange(9)), "y is constant"),
        (lambda: method.stacked([]), "studies"),
        (lambda: method.stacked([study, small(50)]), "one shape"),
        (lambda: method.stacked([study._replace(t=study.t + 1)]), "t must"),
        (lambda: method.stacked([study._replace(y=study.y[:3])]), "t and y"),
        (lambda: method.fit_outcomes(data, data, torch_rngs(0), "R"), "kind"),
        (lambda: method.fit_latent(data, data, torch_rngs(0), sigma=torch.tensor([-1.0])), "sigma"),
        (lambda: method.heckman(study.x, study.t, study.y * np.nan), "y contains"),
    ]
    for call, message in bad:
        with pytest.raises(ValueError, match=message):
            call()


def test_smokers():
    people = nhefs.load()
    assert people.x.shape == (1566, 9) and not people.x.isna().any().any() and np.isfinite(people.y).all()
    assert set(people.w) == {0, 1} and people.w.sum() == 403
    assert people.y[people.w == 1].mean() - people.y[people.w == 0].mean() == pytest.approx(2.54, abs=0.01)  # the book, 12.1
    assert constants_that_tell(people.x, people.w) == []
