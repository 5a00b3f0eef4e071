"""Detecting errors in a numerical response via any regression model (Zhou, Mueller, Kumar, Wang & Lei 2023, arXiv 2305.16583).

Which recorded numbers are wrong? A number's residual is divided by how uncertain its prediction is: because numbers scatter there
(aleatoric), and because the model knows little there (epistemic). A regression model is any function that is given rows and numbers
to learn from, and rows to predict: learner(x (n, p), y (n,), new (m, p)) -> (m,).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist
from scipy.stats import rankdata
from sklearn import config_context
from sklearn.tree import ExtraTreeRegressor

from shared.checks import finite as _checked

Array = NDArray[np.floating]
Rows = NDArray[np.bool_]
Generator = np.random.Generator
Learner = Callable[[Array, Array, Array], Array]
FLOOR = 1e-5  # of an uncertainty, so that a score stays finite


# ---------------------------------------------------------------- regression models


def kernel_ridge(width: float, ridge: float) -> Learner:
    """Ridge regression with a Gaussian kernel exp(-|a - b|^2 / (2 width^2)), about the mean of y. width, ridge > 0."""

    def learn(x: Array, y: Array, new: Array) -> Array:
        kernel = np.exp(-cdist(x, x, "sqeuclidean") / (2 * width**2))
        solved = cho_solve(cho_factor(kernel + ridge * np.eye(len(x))), y - y.mean())
        return np.exp(-cdist(new, x, "sqeuclidean") / (2 * width**2)) @ solved + y.mean()

    return learn


def additive_ridge(width: float, ridge: float) -> Learner:
    """The same with a sum of one-dimensional Gaussian kernels: predictions add up smooth functions of one covariate each."""

    def kernel(a: Array, b: Array) -> Array:
        return np.exp(-((a[:, None] - b) ** 2) / (2 * width**2)).sum(-1)  # (a, b)

    def learn(x: Array, y: Array, new: Array) -> Array:
        solved = cho_solve(cho_factor(kernel(x, x) + ridge * np.eye(len(x))), y - y.mean())
        return kernel(new, x) @ solved + y.mean()

    return learn


def trees(n: int, least: int = 3) -> Learner:
    """The mean of n extremely randomised trees with at least `least` rows a leaf (scikit-learn's, without its checks of input)."""

    def learn(x: Array, y: Array, new: Array) -> Array:
        x, new, y = np.ascontiguousarray(x, np.float32), np.ascontiguousarray(new, np.float32), np.ascontiguousarray(y[:, None])
        with config_context(skip_parameter_validation=True, assume_finite=True):
            random = np.random.RandomState(0)  # one stream for all trees: the same rows give the same trees again
            grown = [ExtraTreeRegressor(min_samples_leaf=least, random_state=random).fit(x, y, check_input=False) for _ in range(n)]
        return np.mean([tree.tree_.predict(new)[:, 0] for tree in grown], axis=0)

    return learn


def linear_ridge(ridge: float) -> Learner:
    """Linear regression with a free intercept and the sum of squared slopes weighted by ridge > 0."""

    def learn(x: Array, y: Array, new: Array) -> Array:
        centre = x - x.mean(0)
        slopes = np.linalg.solve(centre.T @ centre + ridge * np.eye(x.shape[1]), centre.T @ (y - y.mean()))
        return (new - x.mean(0)) @ slopes + y.mean()

    return learn


# ---------------------------------------------------------------- scores


class Parts(NamedTuple):
    """Of each row (n,): the absolute residual r, the aleatoric sigma and the epistemic u, all in units of y."""

    r: Array
    sigma: Array
    u: Array


def assign(n: int, folds: int, rng: Generator) -> NDArray[np.integer]:
    """A fold, 0 to folds - 1, for each of n rows, at random and as many rows in each as in another (or one more)."""
    return rng.permutation(n) % folds


def predict_all(learner: Learner, x: Array, y: Array, kept: Rows, fold: NDArray[np.integer]) -> Array:
    """Predictions of every row (n,) by models that have not seen it: kept rows out of fold, others by a model of all kept rows.

    fold: (n,), the fold of each row. Raises ValueError when a fold holds no kept row.
    """
    if set(fold[kept]) != set(fold):
        raise ValueError("kept must hold at least one row of each fold")
    predicted = np.empty(len(y))
    for k in np.unique(fold):
        held, others = kept & (fold == k), kept & (fold != k)
        predicted[held] = learner(x[others], y[others], x[held])
    if not kept.all():
        predicted[~kept] = learner(x[kept], y[kept], x[~kept])
    return predicted


def parts(learner: Learner, x: Array, y: Array, rng: Generator, *, folds: int, subsamples: int, kept: Rows | None = None) -> Parts:
    """Residuals and uncertainties of all rows from models of the kept ones (all, when none is given).

    x: (n, p). y: (n,). subsamples: models behind u, each of 80 % of the kept rows, drawn without replacement.
    Raises ValueError for other shapes, NaN, fewer than two subsamples or folds, or a fold without rows.
    """
    x, y, kept = _data(x, y, kept)
    if subsamples < 2:
        raise ValueError(f"subsamples must be at least 2, not {subsamples}")
    n = len(y)
    r = np.abs(y - predict_all(learner, x, y, kept, assign(n, folds, rng)))
    # sigma_i = sqrt(|E[r^2 | x_i]|): the squared out-of-fold residuals are regressed on x; a regression may go below 0
    sigma = np.sqrt(np.abs(predict_all(learner, x, r**2, kept, assign(n, folds, rng))))
    # u_i = sd over subsamples of the prediction of row i
    again = []
    for _ in range(subsamples):
        drawn = rng.permutation(np.flatnonzero(kept))[: round(0.8 * kept.sum())]
        again.append(predict_all(learner, x, y, np.isin(np.arange(n), drawn), assign(n, folds, rng)))
    return Parts(r, sigma, np.std(again, axis=0))


def arithmetic(p: Parts) -> Array:
    """The veracity score S_a = r / (u + sigma), high where a number looks wrong."""
    return p.r / np.maximum(p.u + p.sigma, FLOOR)


def geometric(p: Parts) -> Array:
    """The veracity score S_g = r / sqrt(u sigma)."""
    return p.r / np.maximum(np.sqrt(p.u * p.sigma), FLOOR)


def permuted(p: Parts, rng: Generator) -> Parts:
    """The uncertainties of a row given to another."""
    order = rng.permutation(len(p.r))
    return Parts(p.r, p.sigma[order], p.u[order])


# ---------------------------------------------------------------- filtering

COARSE = (0.05, 0.10, 0.15, 0.20)  # shares of rows that are dropped
FINE = np.arange(-4, 5) / 100  # around the best of them


def r_squared(learner: Learner, x: Array, y: Array, kept: Rows, fold: NDArray[np.integer]) -> float:
    """1 - SSE / SST of predictions by models of the kept rows, over the recorded y of *all* rows: so dropping is not free."""
    predicted = predict_all(learner, x, y, kept, fold)
    return float(1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum())


class Filtered(NamedTuple):
    """The share to drop, which rows stay (n,), and the R^2 of each share that was tried."""

    share: float
    kept: Rows
    tried: dict[float, float]


def choose_share(learner: Learner, x: Array, y: Array, score: Array, rng: Generator, *, folds: int) -> Filtered:
    """How many of the rows with the highest scores to drop: of 5, 10, 15, 20 %, then of the best +- 4 %, the one with the best R^2.

    score: (n,), from models of all rows. A row is in the same fold for every share, so that shares are compared alike.
    Raises ValueError for shapes that do not fit, or when dropping leaves a fold without rows.
    """
    x, y, _ = _data(x, y, None)
    if np.shape(score) != y.shape:
        raise ValueError(f"score must have shape {y.shape}, not {np.shape(score)}")
    suspicion = rankdata(-np.asarray(score), method="ordinal")  # 1 for the most suspicious
    fold = assign(len(y), folds, rng)
    tried: dict[float, float] = {}

    def try_share(share: float) -> None:
        share = round(share, 2)
        if share not in tried:
            tried[share] = r_squared(learner, x, y, suspicion > round(share * len(y)), fold)

    for share in COARSE:
        try_share(share)
    for step in FINE + max(tried, key=tried.get):
        try_share(step)
    best = max(tried, key=tried.get)
    return Filtered(best, suspicion > round(best * len(y)), tried)


# ---------------------------------------------------------------- tests


def p_values(calibration: Array, scores: Array, *, valid: bool) -> Array:
    """p-values (m,) that numbers with these scores (m,) are like the clean ones with calibration scores (c,).

    valid: (1 + #{calibration >= score}) / (c + 1), which is at most uniform; else the released code's share of calibration scores
    that are larger, which is 0 beyond the largest. Raises ValueError for empty or NaN input.
    """
    calibration, scores = np.sort(_checked("calibration", calibration, 1)), _checked("scores", scores, 1)
    c = len(calibration)
    if valid:
        return (1 + c - np.searchsorted(calibration, scores, side="left")) / (c + 1)
    return 1 - np.searchsorted(calibration, scores - 1e-8, side="right") / c


# ---------------------------------------------------------------- the paper's simulations


class Simulated(NamedTuple):
    """Covariates (n, 5), recorded numbers (n,), and which of them are wrong (n,)."""

    x: Array
    y: Array
    wrong: Rows


def simulate(design: str, n: int, shift: float, share: float, rng: Generator) -> Simulated:
    """The paper's simulation "H" (scatter depends on x) or "L" (linear, it does not), with a share of the numbers shifted.

    H: y = f(x1) +- g(x1) + .5 e with f = (x - 1)^2 (x + 1), g = 2 sqrt(x - .5) from x = .5 on and a fair coin for the sign; a tenth
    of x1 lies in (-1.5, -.5), the others in (-.5, 1.5). L: y = x1 - x2 + x3 - x4 + x5 + .5 e. All others U(-1.5, 1.5).
    Raises ValueError for another design, a share outside [0, 1) or n < 1.
    """
    if design not in ("H", "L"):
        raise ValueError(f"design must be H or L, not {design!r}")
    if not 0 <= share < 1 or n < 1:
        raise ValueError(f"share must be in [0, 1) and n at least 1, not {share} and {n}")
    x = rng.uniform(-1.5, 1.5, (n, 5))
    noise = 0.5 * rng.standard_normal(n)
    if design == "H":
        x1 = x[:, 0] = np.where(rng.random(n) < 0.1, rng.uniform(-1.5, -0.5, n), rng.uniform(-0.5, 1.5, n))
        branch = np.where(rng.random(n) < 0.5, -1, 1) * 2 * np.sqrt(np.maximum(x1 - 0.5, 0))
        y = (x1 - 1) ** 2 * (x1 + 1) + branch + noise
    else:
        y = x @ [1.0, -1, 1, -1, 1] + noise
    wrong = np.isin(np.arange(n), rng.permutation(n)[: round(share * n)])
    return Simulated(x, y + shift * wrong, wrong)


def _data(x: Array, y: Array, kept: Rows | None) -> tuple[Array, Array, Rows]:
    x, y = _checked("x", x, 2), _checked("y", y, 1)
    kept = np.ones(len(y), bool) if kept is None else np.asarray(kept)
    if len(x) != len(y) or kept.shape != y.shape or kept.dtype != bool:
        raise ValueError(f"x, y and kept must have n rows each, kept true or false; not {x.shape}, {y.shape}, {kept.shape}")
    return x, y, kept
