"""Unit tests of the Stein density replication, against closed forms, finite differences and scikit-learn."""

import numpy as np
import pytest
from scipy.stats import kstest, norm
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression

from replications.causal.stein_density_estimation import method
from shared.data import DataError, actg175
from tests.leaks import constants_that_tell

QUARTIC = method.polynomial(2, 0.25)
NORMAL = method.polynomial(2, 0.0)
UNIT_NORMAL = method.polynomial(1, 0.5, power=2)  # N(theta, 1)
GRID = np.linspace(-8, 8, 4001)
KERNELS = [method.inverse_multiquadric, method.gaussian]
FAMILIES = {"polynomial": (method.polynomial(3, 0.02), 1), "tanh": (method.TANH, 5)}


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def study(rng):
    """Confounded units: covariates, treatment, outcome, and the order that splits them."""
    y = rng.normal(size=(120, 1))
    x = np.column_stack([y[:, 0] + 0.5 * rng.normal(size=120), 3 + 2 * rng.normal(size=120)])
    a = (rng.random(120) < 1 / (1 + np.exp(-x[:, 0]))).astype(float)
    return x, a, y, rng.permutation(120)


def slope(function, at, step=1e-5):
    """Central differences of a function of one array, along each of its entries, on new last axes."""
    moves = step * np.eye(at.size).reshape(at.size, *at.shape)
    return np.stack([(function(at + m) - function(at - m)) / (2 * step) for m in moves], axis=-1)


# ---------------------------------------------------------------- families


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_those_of_statistics_and_base(name, rng):
    family, d = FAMILIES[name]
    for y in rng.normal(size=(3, d)):
        t = slope(lambda z: family.statistics(z[None])[0], y)
        b = slope(lambda z: family.base(z[None])[0], y)
        assert np.allclose(family.gradients(y[None])[0], t, atol=1e-7)
        assert np.allclose(family.base_gradient(y[None])[0], b, atol=1e-7)


def test_families_are_what_they_say():
    y = np.array([[0.5], [-2.0]])
    assert np.allclose(method.polynomial(3, 0.02).statistics(y), [[0.5, 0.25, 0.125], [-2, 4, -8]])
    assert np.allclose(method.polynomial(3, 0.02).base(y), [-0.02 * 0.0625, -0.02 * 16])
    y = np.array([[1.0, -2.0, 0.5, 3.0, -0.1]])
    quadratic = (1 + 4 + 0.25 + 9 + 0.01) / 2 - 0.6 * 1 * -2 - 0.2 * 1 * (0.5 + 3 - 0.1)
    assert method.TANH.base(y) == pytest.approx(-quadratic)
    assert np.allclose(method.TANH.statistics(y), np.tanh([[3.0, -0.1]]))


def test_density_and_draws_of_the_normal(rng):
    mean, sd = 0.7, 1.3
    theta = np.array([mean / sd**2, -1 / (2 * sd**2)])
    assert np.allclose(method.density(NORMAL, theta, GRID), norm(mean, sd).pdf(GRID), atol=1e-6)
    y = method.draw(NORMAL, theta, 20_000, rng, GRID)
    assert y.shape == (20_000, 1) and kstest(y[:, 0], norm(mean, sd).cdf).pvalue > 0.01
    coarse = np.linspace(-8, 8, 161)  # on a coarse grid a shift by half a cell would be seen
    assert method.draw(NORMAL, theta, 100_000, rng, coarse).mean() == pytest.approx(mean, abs=0.015)


def test_draws_of_the_tanh_family_against_quadrature(rng):
    theta = np.array([1.0, -0.7])
    y = method.draw_tanh(theta, 40_000, rng)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    root = np.linalg.cholesky(np.linalg.inv(method.CHAIN)[3:, 3:])
    z = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2) @ root.T
    w = np.outer(weights, weights).ravel() * np.exp(np.tanh(z) @ theta)
    assert y.shape == (40_000, 5)
    assert np.allclose(np.tanh(y[:, 3:]).mean(axis=0), w @ np.tanh(z) / w.sum(), atol=0.02)
    assert np.allclose(np.cov(y[:, 3:].T), np.cov(z.T, aweights=w), atol=0.06)
    # y_1 given the others is Gaussian: its regression on them is read off the precision
    assert np.allclose(np.linalg.lstsq(y[:, 1:], y[:, 0])[0], [0.6, 0.2, 0.2, 0.2], atol=0.03)


# ---------------------------------------------------------------- the discrepancy


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_values_and_derivatives(kernel):
    known = {method.inverse_multiquadric: lambda s: (1 + s) ** -0.5, method.gaussian: lambda s: np.exp(-s / 2)}[kernel]
    s, step = np.array([0.0, 0.3, 2.0, 9.0]), 1e-5
    k, first, second = kernel(s, 2)
    assert np.allclose(k, known(s))
    assert np.allclose(first, (kernel(s + step, 0)[0] - kernel(s - step, 0)[0]) / (2 * step), atol=1e-8)
    assert np.allclose(second, (kernel(s + step, 1)[1] - kernel(s - step, 1)[1]) / (2 * step), atol=1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
def test_stein_matrix_against_differences(kernel, rng):
    """Langevin's operator applied to both arguments of the kernel, by differences of the kernel alone."""
    y, score, scale = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), 1.7

    def k(one, two):
        return kernel(((one - two) ** 2).sum(keepdims=True) / scale**2, 0)[0][0]

    def known(i, j):
        of_one = slope(lambda z: k(z, y[j]), y[i])
        of_two = slope(lambda z: k(y[i], z), y[j])
        mixed = slope(lambda z: slope(lambda w: k(w, z), y[i], 1e-4), y[j], 1e-4)
        return score[i] @ score[j] * k(y[i], y[j]) + score[i] @ of_two + score[j] @ of_one + np.trace(mixed)

    h = method.stein_matrix(score, y, scale, kernel)
    assert np.allclose(h, [[known(i, j) for j in range(4)] for i in range(4)], atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_quadratic_is_the_discrepancy(name, kernel, rng):
    """theta' M theta + 2 u' theta differs from v' H v by a constant, with weights of both signs."""
    family, d = FAMILIES[name]
    y, v, scale = rng.normal(size=(12, d)), rng.normal(size=12), 1.4
    m, u = method.quadratic(method.features(family, y, scale, kernel), v)

    def value(theta):
        score = np.einsum("ipd,p->id", family.gradients(y), theta) + family.base_gradient(y)
        return v @ method.stein_matrix(score, y, scale, kernel) @ v

    thetas = rng.normal(size=(5, len(u)))
    rest = [value(theta) - theta @ m @ theta - 2 * u @ theta for theta in thetas]
    assert np.ptp(rest) < 1e-9 and np.isclose(rest[0], value(np.zeros(len(u))))
    best = method.minimum(m, u, ridge=0)
    assert all(value(best) < value(best + 0.01 * e) for e in (*np.eye(len(u)), *-np.eye(len(u))))
    assert np.allclose(method.fit(method.features(family, y, scale, kernel), 3 * v), method.minimum(m, u))


def test_minimum_has_the_ridge_it_says():
    m, u = np.array([[2.0, 0.0], [0.0, 4.0]]), np.array([1.0, 2.0])
    assert np.allclose(method.minimum(m, u, ridge=0.1), [-1 / 2.3, -2 / 4.3])


def test_default_scale_is_the_root_of_the_dimension(rng):
    y = rng.normal(size=(3, 5))
    assert method.features(method.TANH, y).kernel[0, 1] == pytest.approx((1 + ((y[0] - y[1]) ** 2).sum() / 5) ** -0.5)


def test_normal_mean_in_closed_form(rng):
    """For N(theta, 1) the fit is a mean with weights v_i sum_j v_j k_ij, and 0 for {a, -a}."""
    y, v = rng.normal(size=(30, 1)), rng.random(30)
    f = method.features(UNIT_NORMAL, y, kernel=method.gaussian)
    weight = v * (np.exp(-((y - y.T) ** 2) / 2) @ v)
    assert method.fit(f, v)[0] == pytest.approx(weight @ y[:, 0] / weight.sum(), rel=1e-5)
    pair = method.features(UNIT_NORMAL, np.array([[1.3], [-1.3]]))
    assert method.fit(pair, np.ones(2))[0] == pytest.approx(0, abs=1e-12)


def test_discrepancy_of_the_truth_vanishes_like_one_over_n(rng):
    """Under the truth n v' H v has mean E h(Y, Y), whatever n: the off-diagonal part has mean 0."""
    y = method.draw(QUARTIC, np.array([0.4, 1.0]), 4000, rng, GRID)
    parts = np.array_split(y, 20)
    matrices = [method.stein_matrix(0.4 + 2 * part - part**3, part) for part in parts]
    scaled, diagonal = np.mean([200 * h.mean() for h in matrices]), np.mean([np.trace(h) / 200 for h in matrices])
    assert scaled == pytest.approx(diagonal, rel=0.35)
    assert np.mean([200 * method.stein_matrix(-part, part).mean() for part in parts]) > 3 * scaled  # not N(0, 1)


# ---------------------------------------------------------------- nuisance models and weights


def by_hand(x_pi, x_beta, a, values, train, rows, penalty, clip):
    """Propensity and regression of `values` at `rows`, from scikit-learn."""
    z = (x_pi - x_pi[train].mean(axis=0)) / x_pi[train].std(axis=0)
    pi = LogisticRegression(tol=1e-10).fit(z[train], a[train]).predict_proba(z[rows])[:, 1].clip(clip, 1 - clip)
    donors = train[a[train] == 1]
    z = (x_beta - x_beta[donors].mean(axis=0)) / x_beta[donors].std(axis=0)
    i, j = np.triu_indices(len(donors), 1)
    width = np.median(np.linalg.norm(z[donors][i] - z[donors][j], axis=1))
    ridge = KernelRidge(alpha=penalty * len(donors), kernel="rbf", gamma=1 / (2 * width**2))
    return pi, ridge.fit(z[donors], values[donors]).predict(z[rows])


def test_weights_and_values_against_scikit_learn(study, rng):
    """The weights of any function of the outcome give the mean of phi, and phi is the textbook formula, fold by fold."""
    x, a, y, order = study
    shuffled = rng.permutation(x)
    values = np.sin(y) + y**2
    folds = method.fit_folds(shuffled, x, a, order, penalty=0.02, clip=0.4)
    phi, plug_in, ipw = np.empty(120), 0, np.zeros(120)
    halves = np.array_split(order, 2)
    for train, rows in (halves, halves[::-1]):
        pi, beta = by_hand(shuffled, x, a, values, train, rows, 0.02, 0.4)
        phi[rows] = a[rows] / pi * (values[rows, 0] - beta[:, 0]) + beta[:, 0]
        plug_in += beta.sum() / 120
        ipw[rows] = a[rows] / pi
    assert pi.min() == 0.4 or pi.max() == 0.6  # the clip matters here
    assert np.allclose(method.doubly_robust_values(values, a, folds)[:, 0], phi)
    assert method.doubly_robust_weights(a, folds) @ values[:, 0] == pytest.approx(phi.mean())
    assert method.plug_in_weights(a, folds) @ values[:, 0] == pytest.approx(plug_in)
    assert np.allclose(method.ipw_weights(a, folds), ipw / ipw.sum())
    assert np.allclose(method.naive_weights(a), np.where(a == 1, 1 / a.sum(), 0))
    for v in (method.doubly_robust_weights(a, folds), method.plug_in_weights(a, folds)):
        assert (v[a == 0] == 0).all()


def test_a_wide_kernel_gives_the_aipw_mean(study):
    """For N(theta, 1) and l to infinity, theta is the AIPW mean, here normalised by the AIPW mean of 1."""
    x, a, y, order = study
    folds = method.fit_folds(x, x, a, order, penalty=0.01)
    mean, one = np.empty(120), np.empty(120)
    halves = np.array_split(order, 2)
    for train, rows in (halves, halves[::-1]):
        for out, values in ((mean, y), (one, np.ones_like(y))):
            pi, beta = by_hand(x, x, a, values, train, rows, 0.01, 0.05)
            out[rows] = a[rows] / pi * (values[rows, 0] - beta[:, 0]) + beta[:, 0]
    v = method.doubly_robust_weights(a, folds)
    fitted = method.minimum(*method.quadratic(method.features(UNIT_NORMAL, y, scale=1e3), v), ridge=0)
    assert fitted[0] == pytest.approx(mean.mean() / one.mean(), abs=1e-4)
    assert v.sum() == pytest.approx(1, abs=0.1)


def test_folds_are_disjoint_and_cover_everybody(study):
    x, a, _, order = study
    folds = method.fit_folds(x, x, a, order, penalty=0.01)
    assert sorted(np.concatenate([f.rows for f in folds])) == list(range(120))
    for f in folds:
        assert not set(f.rows) & set(f.donors) and (a[f.donors] == 1).all()


# ---------------------------------------------------------------- inference


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_is_the_influence_of_a_weight(name, rng):
    """d theta / d v = -M^-1 F', F the gradient per outcome, at the fit; and v' F is the gradient of the discrepancy."""
    family, d = FAMILIES[name]
    y, v = rng.normal(size=(25, d)), rng.random(25)
    f = method.features(family, y)
    m, u = method.quadratic(f, v)
    theta = method.minimum(m, u, ridge=0)
    other = theta + rng.normal(size=len(theta))
    assert np.allclose(v @ method.discrepancy_gradient(f, v, other), 2 * (m @ other + u))
    moved = slope(lambda w: method.minimum(*method.quadratic(f, w), ridge=0), v)
    assert np.allclose(moved, -np.linalg.solve(m, method.discrepancy_gradient(f, v, theta).T), rtol=1e-4, atol=1e-6)


def test_sandwich_against_the_jackknife(rng):
    y = method.draw(QUARTIC, np.array([0.4, 1.0]), 200, rng, GRID)
    f, v = method.features(QUARTIC, y), np.full(200, 1 / 200)
    left_out = np.array([method.fit(f, np.where(np.arange(200) == i, 0, v)) for i in range(200)])
    jackknife = 199 * np.cov(left_out.T, bias=True)
    found = method.sandwich(f, v, method.quadratic(f, v)[0], method.fit(f, v), lambda g: g)
    assert np.allclose(found, jackknife, rtol=0.1, atol=1e-4)


def test_doubly_robust_where_one_model_is_wrong():
    """With pi or beta fitted on shuffled covariates the fit stays nearer the truth than the naive one; with both, it does not."""
    theta, errors = np.array([0.4, 1.0]), []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        y = method.draw(QUARTIC, theta, 600, rng, GRID)
        x = y + 0.7 * rng.normal(size=(600, 1))
        a = (rng.random(600) < (1 / (1 + np.exp(-1.3 * x[:, 0]))).clip(0.1, 0.9)).astype(float)
        f, on, wrong, order = method.features(QUARTIC, y[a == 1]), a == 1, rng.permutation(x), rng.permutation(600)
        pairs = [(wrong, x), (x, wrong), (wrong, wrong)]
        weights = [method.doubly_robust_weights(a, method.fit_folds(*pair, a, order, penalty=1e-3)) for pair in pairs]
        errors.append([np.linalg.norm(method.fit(f, v[on]) - theta) for v in (*weights, method.naive_weights(a))])
    pi_wrong, beta_wrong, both_wrong, naive = np.mean(errors, axis=0)
    assert max(pi_wrong, beta_wrong) < naive / 2 and both_wrong > 0.8 * naive


# ---------------------------------------------------------------- the rival that needs the constant


def test_likelihood_of_the_normal_is_weighted_moments(rng):
    y, v = rng.normal(size=(50, 1)), rng.random(50) - 0.2
    mean = v @ y[:, 0] / v.sum()
    variance = v @ (y[:, 0] - mean) ** 2 / v.sum()
    theta = method.fit_likelihood(NORMAL, y, v, GRID)
    assert np.allclose(theta, [mean / variance, -1 / (2 * variance)], rtol=1e-4)


def test_likelihood_finds_the_truth_and_refuses_the_impossible(rng):
    theta = np.array([0.4, 1.0])
    y = method.draw(QUARTIC, theta, 20_000, rng, GRID)
    assert np.allclose(method.fit_likelihood(QUARTIC, y, np.ones(20_000), GRID), theta, atol=0.05)
    with pytest.raises((RuntimeError, np.linalg.LinAlgError)):
        method.fit_likelihood(QUARTIC, np.array([[0.0], [1.0]]), np.array([2.0, -1.0]), GRID)  # a negative second moment


# ---------------------------------------------------------------- errors and data


def test_errors_name_the_argument(study):
    x, a, y, order = study
    f = method.features(UNIT_NORMAL, y)
    half, rest = np.array_split(order, 2)
    bad = [
        ("y", lambda: method.features(UNIT_NORMAL, y[:, 0])),
        ("y contains NaN", lambda: method.features(UNIT_NORMAL, np.array([[np.nan]]))),
        ("scale", lambda: method.features(UNIT_NORMAL, y, scale=0.0)),
        ("v must have one weight", lambda: method.quadratic(f, np.ones(3))),
        ("score and y", lambda: method.stein_matrix(y[:3], y)),
        ("degree", lambda: method.polynomial(0, 0.1)),
        ("disjoint", lambda: method.fit_fold(x, x, a, half, np.r_[rest, half[:1]], penalty=0.1)),
        ("order", lambda: method.fit_folds(x, x, a, order[1:], penalty=0.1)),
        ("a must hold", lambda: method.fit_fold(x, x, np.ones_like(a), half, rest, penalty=0.1)),
        ("penalty", lambda: method.fit_fold(x, x, a, half, rest, penalty=0.0)),
        ("must vary", lambda: method.fit_fold(x, np.ones_like(x), a, half, rest, penalty=0.1)),
        ("one length", lambda: method.fit_fold(x, x[:5], a, half, rest, penalty=0.1)),
        ("x_pi", lambda: method.fit_fold(np.empty((0, 2)), x, a, half, rest, penalty=0.1)),
    ]
    for message, call in bad:
        with pytest.raises(ValueError, match=message):
            call()


def test_actg175_is_the_trial_and_no_filled_cells_tell():
    try:
        table = actg175.load()
    except DataError as error:
        pytest.skip(str(error))
    assert table.shape == (2139, 26) and table["arms"].value_counts().tolist() == [561, 532, 524, 522]
    assert [name for name in table if table[name].isna().any()] == ["cd496"]
    assert np.corrcoef(np.sqrt(table["cd40"]), np.sqrt(table["cd420"]))[0, 1] > 0.5
    assert constants_that_tell(table.drop(columns="cd420"), table["cd420"] > table["cd420"].median()) == []
