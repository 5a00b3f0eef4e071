"""What would outcomes look like if everybody were treated? Counterfactual densities by kernel Stein discrepancies.

Martinez-Taboada & Kennedy (2023) fit a density q, known up to its constant, to the law of Y^1. The discrepancy between the two
is the squared norm of E xi(Y^1), where xi is the Stein feature of q; only treated outcomes are seen, so that the expectation
is replaced by a doubly robust estimate, a mean of phi(Z) = A / pi(X) (xi(Y) - beta(X)) + beta(X). Equations are numbered
S1-S10 below, in the order of the method; the paper's own numbers were not at hand.

Everything is a choice of weights v on the treated outcomes: each estimator, doubly robust or not, minimises
|sum_i v_i xi(Y_i)|^2. For exponential families that is a quadratic in the parameter, solved in closed form.

Arrays: y (n, d) outcomes, x (n, c) covariates, a (n,) treatment, 0 or 1, weights v (n,), zero on the untreated, whose outcomes
are never used (they must only be finite). theta (p,) is the natural parameter, in units of one over the statistic.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist, pdist
from scipy.special import expit

from shared.checks import finite as _checked

Array = NDArray[np.float64]


class Family(NamedTuple):
    """An exponential family q(y) ~ exp(theta . T(y) + b(y)); its constant is never needed.

    Each function takes y (n, d): statistics gives T (n, p), gradients its gradient (n, p, d), base gives b (n,), base_gradient
    its gradient (n, d).
    """

    statistics: Callable[[Array], Array]
    gradients: Callable[[Array], Array]
    base: Callable[[Array], Array]
    base_gradient: Callable[[Array], Array]


class Features(NamedTuple):
    """What the discrepancy needs of the treated outcomes y (t, d): nothing here depends on theta or on weights."""

    y: Array  # (t, d)
    gradients: Array  # (t, p, d) of the statistics
    base_gradient: Array  # (t, d)
    kernel: Array  # (t, t): k(y_i, y_j)
    slope: Array  # (t, t): L_ij with grad_{y_j} k(y_i, y_j) = L_ij (y_i - y_j)


class Fold(NamedTuple):
    """The nuisance models of one fold: fitted on one part of the units, evaluated on the others."""

    rows: NDArray[np.intp]  # (m,) units to evaluate on
    pi: Array  # (m,) propensity there, inside the clip
    donors: NDArray[np.intp]  # (t,) treated units of the training part, disjoint from rows
    factor: tuple  # Cholesky factor of K + t penalty I, (t, t)
    cross: Array  # (m, t): kernel between rows and donors


# ---------------------------------------------------------------- families


def polynomial(degree: int, tail: float, power: int = 4) -> Family:
    """On the line, log q = theta_1 y + ... + theta_degree y^degree - tail y^power + const; tail >= 0.

    With degree 2 and tail 0, the normal: theta = (mean / variance, -1 / (2 variance)).
    """
    if degree < 1 or tail < 0 or power <= degree:
        raise ValueError(f"need degree >= 1, tail >= 0 and power > degree, not {degree}, {tail} and {power}")
    order = np.arange(1, degree + 1)
    return Family(
        statistics=lambda y: y**order,
        gradients=lambda y: (order * y ** (order - 1))[:, :, None],
        base=lambda y: -tail * y[:, 0] ** power,
        base_gradient=lambda y: -tail * power * y ** (power - 1),
    )


CHAIN = np.eye(5)  # precision of the Gaussian part of the five-dimensional family
CHAIN[0, 1:] = CHAIN[1:, 0] = -0.6, -0.2, -0.2, -0.2


def _tanh_gradients(y: Array) -> Array:
    gradients = np.zeros((len(y), 2, 5))
    gradients[:, [0, 1], [3, 4]] = 1 - np.tanh(y[:, 3:]) ** 2
    return gradients


# Liu et al. (2019): log q = theta_1 tanh(y_4) + theta_2 tanh(y_5) - y' CHAIN y / 2 + const, the constant not in closed form
TANH = Family(
    statistics=lambda y: np.tanh(y[:, 3:]),
    gradients=_tanh_gradients,
    base=lambda y: -np.einsum("ni,ij,nj->n", y, CHAIN, y) / 2,
    base_gradient=lambda y: -y @ CHAIN,
)


def density(family: Family, theta: Array, grid: Array) -> Array:
    """The normalised density (g,) of a family on the line at an even grid (g,) that holds nearly all of its mass."""
    log = family.statistics(grid[:, None]) @ theta + family.base(grid[:, None])
    weight = np.exp(log - log.max())
    return weight / (weight.sum() * (grid[1] - grid[0]))


def draw(family: Family, theta: Array, n: int, rng: np.random.Generator, grid: Array) -> Array:
    """n draws (n, 1) from a family on the line: inversion of the distribution function between points of an even grid (g,)."""
    distribution = np.cumsum(density(family, theta, grid))
    return np.interp(rng.random(n), distribution / distribution[-1], grid + (grid[1] - grid[0]) / 2)[:, None]


def draw_tanh(theta: Array, n: int, rng: np.random.Generator) -> Array:
    """n exact draws (n, 5) from TANH: rejection from its Gaussian part, whose weight exp(theta . T) is bounded."""
    theta, kept = _checked("theta", theta, 1), np.empty((0, 5))
    root = np.linalg.cholesky(np.linalg.inv(CHAIN))
    while len(kept) < n:
        y = rng.normal(size=(4 * n, 5)) @ root.T
        accept = rng.random(len(y)) < np.exp(TANH.statistics(y) @ theta - np.abs(theta).sum())
        kept = np.concatenate([kept, y[accept]])
    return kept[:n]


# ---------------------------------------------------------------- kernels, as functions kappa of s = |y - y'|^2 / l^2


def inverse_multiquadric(s: Array, order: int) -> list[Array]:
    """kappa(s) = (1 + s)^(-1/2) and its first `order` derivatives in s >= 0, each of the shape of s."""
    inverse = s + 1
    np.reciprocal(inverse, out=inverse)  # in place: large temporaries cost more than the arithmetic
    values = [np.sqrt(inverse)]
    for j in range(order):
        values.append(inverse * values[-1])
        values[-1] *= -(j + 0.5)
    return values


def gaussian(s: Array, order: int) -> list[Array]:
    """kappa(s) = exp(-s / 2) and its first `order` derivatives in s >= 0, each of the shape of s."""
    value = s * -0.5
    np.exp(value, out=value)
    return [value, *((-0.5) ** j * value for j in range(1, order + 1))]


# ---------------------------------------------------------------- the discrepancy


def features(family: Family, y: Array, scale: float | None = None, kernel: Callable = inverse_multiquadric) -> Features:
    """Everything about outcomes y (t, d) that fits share. scale: l, the unit of y; None for sqrt(d), or 1 on the line."""
    y = _checked("y", y, 2)
    scale = np.sqrt(y.shape[1]) if scale is None else scale
    if not scale > 0:
        raise ValueError(f"scale must be positive, not {scale}")
    k, first = kernel(cdist(y / scale, y / scale, "sqeuclidean"), 1)
    # (S1)  grad_{y'} k(y, y') = -2 kappa'(s) (y - y') / l^2
    return Features(y, family.gradients(y), family.base_gradient(y), k, -2 * first / scale**2)


def stein_matrix(score: Array, y: Array, scale: float = 1.0, kernel: Callable = inverse_multiquadric) -> Array:
    """H (t, t) with H_ij = <xi(y_i), xi(y_j)>, from the scores (t, d) of q at y (t, d), scale l > 0."""
    score, y = _checked("score", score, 2), _checked("y", y, 2)
    if score.shape != y.shape:
        raise ValueError(f"score and y must have one shape, not {score.shape} and {y.shape}")
    s = cdist(y / scale, y / scale, "sqeuclidean")
    k, first, second = kernel(s, 2)
    cross = score @ y.T  # s_i . y_j
    toward = np.diag(cross)[:, None] - cross  # s_i . (y_i - y_j)
    # (S2)  h(y, y') = s . s' k + s . grad_{y'} k + s' . grad_y k + trace(grad_y grad_{y'} k)
    gradients = -2 * first / scale**2 * (toward + toward.T)
    return score @ score.T * k + gradients - (2 * y.shape[1] * first + 4 * second * s) / scale**2


def _drift(f: Features, score: Array, v: Array) -> Array:
    """(t, d): sum_j v_j (score_j k(y_i, y_j) + grad_{y_j} k(y_i, y_j)), the embedded Stein feature at y_i."""
    pulled = f.slope @ (v[:, None] * np.column_stack([np.ones(len(v)), f.y]))
    return f.kernel @ (v[:, None] * score) + f.y * pulled[:, :1] - pulled[:, 1:]


def _spread(matrix: Array, v: Array, gradients: Array) -> Array:
    """(t, p, d): matrix (t, t) times v (t,) times gradients (t, p, d)."""
    return (matrix @ (v[:, None, None] * gradients).reshape(len(v), -1)).reshape(gradients.shape)


def quadratic(f: Features, v: Array) -> tuple[Array, Array]:
    """M (p, p) and u (p,) of the discrepancy |sum_i v_i xi(y_i)|^2 = theta' M theta + 2 u' theta + const; v (t,), any sign."""
    v = _checked("v", v, 1)
    if len(v) != len(f.y):
        raise ValueError(f"v must have one weight per outcome, {len(f.y)}, not {len(v)}")
    weighted = v[:, None, None] * f.gradients
    # (S3)  M_lm = sum_ij v_i v_j k_ij grad T_l(y_i) . grad T_m(y_j)
    m = np.einsum("ipd,iqd->pq", weighted, _spread(f.kernel, v, f.gradients))
    # (S4)  u_l = sum_ij v_i v_j grad T_l(y_i) . (k_ij grad b(y_j) + grad_{y_j} k_ij)
    return m, np.einsum("ipd,id->p", weighted, _drift(f, f.base_gradient, v))


def minimum(m: Array, u: Array, ridge: float = 1e-6) -> Array:
    """theta (p,) where theta' M theta + 2 u' theta is least, M (p, p) positive semidefinite, with a small ridge."""
    # (S5)  theta = -(M + ridge trace(M) / p I)^-1 u
    return -np.linalg.solve(m + ridge * np.trace(m) / len(u) * np.eye(len(u)), u)


def fit(f: Features, v: Array) -> Array:
    """theta (p,) of least discrepancy for weights v (t,) on the outcomes; the same for any multiple of v."""
    return minimum(*quadratic(f, v))


# ---------------------------------------------------------------- nuisance models and weights


def logistic(x: Array, a: Array, at: Array, *, ridge: float = 1.0, most_steps: int = 50) -> Array:
    """P(A = 1 | x) at `at` (m, c): logistic regression on standardised covariates, fitted to x (n, c) and a (n,) by Newton.

    ridge: on half the squared coefficients, the intercept free. Raises RuntimeError when most_steps do not suffice.
    """
    z, z_at = (np.column_stack([np.ones(len(r)), (r - x.mean(axis=0)) / x.std(axis=0)]) for r in (x, at))
    w, penalty = np.zeros(z.shape[1]), ridge * (np.arange(z.shape[1]) > 0)
    for _ in range(most_steps):
        p = expit(z @ w)
        step = np.linalg.solve(z.T @ ((p * (1 - p))[:, None] * z) + np.diag(penalty), z.T @ (a - p) - penalty * w)
        w = w + step
        if np.abs(step).max() < 1e-8:
            return expit(z_at @ w)
    raise RuntimeError(f"no optimum after {most_steps} Newton steps: raise ridge")


def fit_fold(
    x_pi: Array, x_beta: Array, a: Array, train: NDArray, rows: NDArray, *, penalty: float, clip: float = 0.05
) -> Fold:  # fmt: skip
    """Nuisance models fitted on the units `train`, for the units `rows`, two disjoint arrays of row numbers.

    x_pi, x_beta (n, c): what the propensity and the outcome model see of the covariates; a model made wrong on purpose sees
    shuffled rows. a (n,): 0 or 1. penalty: of the kernel ridge regression, > 0, per donor; its kernel is Gaussian, as wide as
    the median distance of the donors. clip: the propensity is kept in [clip, 1 - clip]. Raises ValueError for overlapping
    parts, for a training part without both kinds of units, and for a covariate that is constant in it.
    """
    x_pi, x_beta, a = _checked("x_pi", x_pi, 2), _checked("x_beta", x_beta, 2), _checked("a", a, 1)
    if not len(x_pi) == len(x_beta) == len(a):
        raise ValueError(f"x_pi, x_beta and a must have one length, not {len(x_pi)}, {len(x_beta)} and {len(a)}")
    if np.intersect1d(train, rows).size:
        raise ValueError("train and rows must be disjoint, or the outcome model would be judged on its own outcomes")
    if not set(a[train]) == {0.0, 1.0}:
        raise ValueError("a must hold treated (1) and untreated (0) units, and nothing else, in every training part")
    if not (penalty > 0 and 0 <= clip < 0.5):
        raise ValueError(f"need penalty > 0 and 0 <= clip < 0.5, not {penalty} and {clip}")
    donors = train[a[train] == 1]
    if not (x_pi[train].std(axis=0).all() and x_beta[donors].std(axis=0).all()):
        raise ValueError("every covariate of x_pi and x_beta must vary, among the treated of every training part too")
    z = (x_beta - x_beta[donors].mean(axis=0)) / x_beta[donors].std(axis=0)
    z = z / np.median(pdist(z[donors]))
    gram, cross = (gaussian(cdist(z[r], z[donors], "sqeuclidean"), 0)[0] for r in (donors, rows))
    # (S6)  beta(x) = sum_j w_j(x) xi(Y_j),  w(x) = (K + t penalty I)^-1 k(x), over the t treated units of `train`
    factor = cho_factor(gram + len(donors) * penalty * np.eye(len(donors)))
    return Fold(rows, logistic(x_pi[train], a[train], x_pi[rows]).clip(clip, 1 - clip), donors, factor, cross)


def fit_folds(x_pi: Array, x_beta: Array, a: Array, order: NDArray, *, penalty: float, clip: float = 0.05) -> list[Fold]:
    """Two folds: halves of the units in `order` (n,), a permutation of the rows, each evaluated by the models of the other.

    The rest as in `fit_fold`. Raises ValueError where it does, and for an order that is not a permutation.
    """
    if not np.array_equal(np.sort(order), np.arange(len(a))):
        raise ValueError(f"order must be a permutation of the {len(a)} rows")
    halves = np.array_split(np.asarray(order), 2)
    return [fit_fold(x_pi, x_beta, a, *pair, penalty=penalty, clip=clip) for pair in (halves, halves[::-1])]


def naive_weights(a: Array) -> Array:
    """(n,): every treated unit alike, sum 1."""
    return a / a.sum()


def ipw_weights(a: Array, folds: list[Fold]) -> Array:
    """(n,): inverse propensities of the treated units, normalised to sum 1."""
    v = np.zeros(len(a))
    for fold in folds:
        v[fold.rows] = a[fold.rows] / fold.pi
    return v / v.sum()


def plug_in_weights(a: Array, folds: list[Fold]) -> Array:
    """(n,): the outcome model alone, v_j = mean_i w_j(X_i)."""
    v = np.zeros(len(a))
    for fold in folds:
        v[fold.donors] += cho_solve(fold.factor, fold.cross.sum(axis=0)) / len(a)
    return v


def doubly_robust_weights(a: Array, folds: list[Fold]) -> Array:
    """(n,): the weight of each treated outcome in the mean of phi(Z); may be negative, sums to about 1.

    With theta out of the weights, the nuisance models are fitted once for every theta.
    """
    v = np.zeros(len(a))
    for fold in folds:
        ratio = a[fold.rows] / fold.pi
        # (S7)  v = (c, d): c_i = A_i / (n pi_i),  d_j = sum_i (1 - A_i / pi_i) w_j(X_i) / n
        v[fold.rows] += ratio / len(a)
        v[fold.donors] += cho_solve(fold.factor, fold.cross.T @ (1 - ratio)) / len(a)
    return v


# ---------------------------------------------------------------- inference


def doubly_robust_values(values: Array, a: Array, folds: list[Fold]) -> Array:
    """phi of any function of the outcome: values (n, p), used on the treated only, to (n, p); its mean is v' values."""
    phi = np.empty_like(values)
    for fold in folds:
        beta = fold.cross @ cho_solve(fold.factor, values[fold.donors])
        ratio = (a[fold.rows] / fold.pi)[:, None]
        # (S8)  phi(Z) = A / pi(X) (f(Y) - beta(X)) + beta(X)
        phi[fold.rows] = ratio * (values[fold.rows] - beta) + beta
    return phi


def discrepancy_gradient(f: Features, v: Array, theta: Array) -> Array:
    """(t, p): what each outcome adds, per unit of its weight, to the gradient of the discrepancy at theta (p,)."""
    score = np.einsum("ipd,p->id", f.gradients, theta) + f.base_gradient
    kernel, slope = _spread(f.kernel, v, f.gradients), _spread(f.slope, v, f.gradients)
    pulled = _spread(f.slope, v, f.gradients * f.y[:, None])
    # (S9)  d/dtheta_l <xi(y), xibar> = <d_l xi(y), xibar> + <xi(y), d_l xibar>,  xibar = sum_i v_i xi(y_i)
    own = np.einsum("ipd,id->ip", f.gradients, _drift(f, score, v))
    others = np.einsum("id,ipd->ip", score, kernel) + (pulled - f.y[:, None] * slope).sum(axis=-1)
    return own + others


def sandwich(f: Features, v: Array, m: Array, theta: Array, phi: Callable[[Array], Array]) -> Array:
    """Covariance (p, p) of theta, the fit with weights v (t,) and their matrix m (p, p) of `quadratic`.

    phi: takes the gradient (t, p) at the outcomes to one value per unit (n, p), whose mean is v' gradient.
    """
    values = phi(discrepancy_gradient(f, v, theta))
    inverse = np.linalg.inv(m)
    # (S10)  M^-1 S M^-1 / n, S the covariance of the gradient of <phi(Z), mean phi>
    return inverse @ np.atleast_2d(np.cov(values.T)) @ inverse / len(values)


# ---------------------------------------------------------------- the rival that needs the constant


def fit_likelihood(family: Family, y: Array, v: Array, grid: Array, *, most_steps: int = 200) -> Array:
    """theta (p,) of the largest weighted likelihood of y (t, 1) on the line, the constant by quadrature on an even grid (g,).

    Newton's steps with halving. Weights v (t,) may be negative. Raises RuntimeError when there is no maximum: weighted moments
    that no density of the family on the grid has.
    """
    y, v = _checked("y", y, 2), _checked("v", v, 1)
    wanted = v @ family.statistics(y) / v.sum()
    t, base = family.statistics(grid[:, None]), family.base(grid[:, None])

    def value(theta: Array) -> float:
        log = t @ theta + base
        return np.log(np.exp(log - log.max()).sum()) + log.max() - wanted @ theta

    theta = np.zeros(len(wanted))
    theta[1:2] = -0.5  # integrable without a tail
    for _ in range(most_steps):
        p = density(family, theta, grid)
        p = p / p.sum()
        mean = p @ t
        centred = t - mean
        step = np.linalg.solve((p[:, None] * centred).T @ centred, wanted - mean)
        gain, size = step @ (wanted - mean), 1.0
        if gain < 1e-16:
            return theta
        while value(theta + size * step) > value(theta) - 0.1 * size * gain and size > 1e-8:
            size /= 2
        theta = theta + size * step
    raise RuntimeError(f"no maximum after {most_steps} steps: the weighted moments are beyond the family, or the grid too short")
