"""Choosing among effect estimators without seeing any effect (Curth & van der Schaar, 2023).

Candidates are fitted on one sample; a criterion gives each of them a loss on a validation sample, with nuisances of its own
fitted there; the candidate of least mean loss is picked and judged by its true error on a third sample. Equations are numbered
E1-E13 in the order of the method. Written from the paper and from reading the authors' code, which carries no licence; nothing
is copied from it.

Of n people, x is what the learners see, (n, d); w says who was treated, 0 or 1; y is the outcome; p is the probability of being
treated, in (0, 1); mu0 and mu1 are the expected outcomes without and with treatment; the effect is tau = mu1 - mu0. All but x are
of shape (n,). Outcomes have no unit.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeCV
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import NearestNeighbors

Array = NDArray[np.float64]

# the 22 of the 55 columns that outcomes depend on; one stands twice, as in the released code
NUMERIC = [0, 3, 4, 16, 17, 18, 20, 21, 22, 23, 24, 24, 25, 30, 31, 32, 33, 39, 40, 41, 53, 54]
STEPS = np.linspace(-1, 1, 9)  # values of the constant
TINY = 1e-6  # no propensity is nearer to 0 or 1 than this


def _vectors(**values: Array) -> list[Array]:
    """Equally long finite vectors; of the names w is 0 or 1 with both present, p in (0, 1). Raises ValueError naming one."""
    arrays = {name: np.asarray(value, dtype=float) for name, value in values.items()}
    n = len(next(iter(arrays.values()))) if arrays else 0
    for name, value in arrays.items():
        if value.shape != (n,) or n == 0 or not np.isfinite(value).all():
            raise ValueError(f"{name} must be finite and of shape ({n},), not empty, but is of shape {value.shape}")
        if name == "w" and set(np.unique(value)) != {0.0, 1.0}:
            raise ValueError("w must hold 0 and 1, both of them and nothing else")
        if name == "p" and not ((value > 0) & (value < 1)).all():
            raise ValueError("p must lie in (0, 1): with 0 or 1 nobody is comparable")
    return list(arrays.values())


def _matrix(name: str, x: Array, rows: int | None = None) -> Array:
    x = np.asarray(x, dtype=float)
    if x.ndim != 2 or x.size == 0 or not np.isfinite(x).all() or (rows is not None and len(x) != rows):
        raise ValueError(f"{name} must be a finite, non-empty matrix (n, d), one row per person, not of shape {x.shape}")
    return x


# ---------------------------------------------------------------- people whose effects are known


class Sample(NamedTuple):
    """People as the module's first lines describe them, with the truth that only a simulation knows."""

    x: Array  # (n, d)
    w: Array
    y: Array
    mu0: Array
    mu1: Array
    p: Array

    @property
    def tau(self) -> Array:
        """The true effects (n,)."""
        return self.mu1 - self.mu0

    def take(self, rows: NDArray[np.int64]) -> "Sample":
        """The people at these row numbers."""
        return Sample(*(values[rows] for values in self))


def simulate(covariates: Array, sp_1: float, xi: float, binarised: bool, rng: np.random.Generator) -> Sample:
    """One draw of the paper's process on covariates (n, 55), each of mean 0 and standard deviation 1.

    sp_1: rate of effect modifiers, 0 to 0.4; at 0 nobody has an effect. xi: strength of confounding, 0 for a coin. binarised:
    whether learners see the cut columns on which outcomes depend, or the raw ones. The same generator state gives the same people,
    coefficients, noise and coin throws for every xi and binarised. Raises ValueError for another number of columns or a bad rate.
    """
    covariates = _matrix("covariates", covariates)
    n, columns = covariates.shape
    if columns <= max(NUMERIC):
        raise ValueError(f"covariates must have at least {max(NUMERIC) + 1} columns, not {columns}")
    k = len(NUMERIC)
    scale = columns / k
    if not 0 <= sp_1 * scale <= 1 or xi < 0:
        raise ValueError(f"sp_1 must lie in [0, {1 / scale:.2f}] and xi be >= 0, not {sp_1} and {xi}")
    # (E1)  z_j = 1(x_j > c_j), c_j the value of a random person
    cuts = covariates[rng.integers(n, size=columns), np.arange(columns)]
    z = (covariates > cuts)[:, NUMERIC].astype(float)
    products = _products(z, rng)
    b0, b1, b2 = rng.random(k) < 0.3 * scale, rng.random(k) < sp_1 * scale, rng.random(products.shape[1]) < 0.2 * scale
    # (E2)  mu0 = c + z b0 + products b2,  tau = z b1 - mean(z b1)
    mu0 = rng.choice(STEPS) + z @ b0 + products @ b2
    tau = z @ b1 - (z @ b1).mean()
    seen = covariates.copy()
    if binarised:
        seen[:, NUMERIC] = z
    # (E3)  p = expit(xi zscore(x b0)): who would fare well anyway is treated more often
    drive = seen[:, NUMERIC] @ b0
    p = np.clip(expit(xi * (drive - drive.mean()) / drive.std()), TINY, 1 - TINY)
    w = (rng.random(n) < p).astype(float)
    y = mu0 + w * tau + rng.normal(0, 0.1, n)
    return Sample(seen, w, y, mu0, mu0 + tau, p)


def _products(z: Array, rng: np.random.Generator) -> Array:
    """Products (n, 22) of random disjoint pairs, triples and quadruples of the 22 columns: 10, 7 and 5 of them."""
    k, found = z.shape[1], []
    for size in (2, 3, 4):
        order = rng.permutation(k)
        found += [z[:, order[i : i + size]].prod(axis=1) for i in range(0, k - size, size)]
    return np.stack(found, axis=1)


def split(sample: Sample, sizes: list[int], rng: np.random.Generator) -> list[Sample]:
    """Disjoint random samples of the given sizes. Raises ValueError when there are too few people."""
    if sum(sizes) > len(sample.y) or min(sizes) < 1:
        raise ValueError(f"sizes must be positive and add up to at most {len(sample.y)}, not {sizes}")
    order = rng.permutation(len(sample.y))
    return [sample.take(rows) for rows in np.split(order[: sum(sizes)], np.cumsum(sizes)[:-1])]


# ---------------------------------------------------------------- regressors and learners


def ridge() -> RidgeCV:
    """Linear regression with the penalty, 1e-4 to 1e4, chosen by leave-one-out error."""
    return RidgeCV(alphas=np.logspace(-4, 4, 9))


class Stumps:
    """Boosted trees of one cut each, by least squares; what sklearn's histogram booster gives at depth 1, several times quicker.

    Cuts are 15 quantiles of each column that leave at least 20 people on either side; 100 cuts are made at rate 0.3, a setting
    of the paper's grid.
    """

    def fit(self, x: Array, y: Array, sample_weight: Array | None = None) -> "Stumps":
        """Fit to x (n, d), y (n,), weights (n,) >= 0."""
        weight = np.ones(len(y)) if sample_weight is None else sample_weight
        cuts = np.quantile(x, np.arange(1, 16) / 16, axis=0, method="lower")  # (15, d)
        at, self.column = np.nonzero(np.diff(cuts, axis=0, prepend=np.nan) != 0)  # equal quantiles are one cut
        self.cut = cuts[at, self.column]
        z = (x[:, self.column] > self.cut).astype(float)
        wide = (z.sum(axis=0) >= 20) & ((1 - z).sum(axis=0) >= 20)
        self.column, self.cut, z = self.column[wide], self.cut[wide], z[:, wide]
        centre = np.average(z, axis=0, weights=weight)
        z -= centre
        norm = weight @ z**2
        self.constant, self.height = np.average(y, weights=weight), np.zeros(len(norm))
        residual = y - self.constant
        for _ in range(100 if len(norm) else 0):
            # (E4)  j = argmax (sum v z_j r)^2 / (sum v z_j^2);  r <- r - rate z_j (sum v z_j r) / (sum v z_j^2),  v the weights
            push = (weight * residual) @ z
            j = np.argmax(push**2 / norm)
            step = 0.3 * push[j] / norm[j]
            self.height[j] += step
            residual -= step * z[:, j]
        self.constant -= centre @ self.height
        return self

    def predict(self, x: Array) -> Array:
        """Predictions (n,) at x (n, d)."""
        return self.constant + (x[:, self.column] > self.cut) @ self.height


def trees() -> HistGradientBoostingRegressor:
    """Boosted trees of depth 3, so that two columns can interact; 100 of them at rate 0.3, a setting of the paper's grid."""
    return HistGradientBoostingRegressor(max_iter=100, learning_rate=0.3, max_depth=3, max_bins=32, early_stopping=False)


Make = Callable[[], Any]  # a regressor with fit(x, y[, sample_weight]) and predict(x)


class Kind(NamedTuple):
    """A kind of regressor: for models with the treatment among their inputs, and for all others."""

    joint: Make
    plain: Make


# with stumps an S-learner could only have a constant effect; depths were chosen by factual error on seeds 0 and 1
REGRESSORS = {"ridge": Kind(ridge, ridge), "trees": Kind(trees, Stumps)}
LEARNERS = ("S", "S-ext", "T", "DR", "R")


def propensity(x: Array, w: Array) -> LogisticRegressionCV:
    """Logistic regression of w on x, its penalty among five chosen by 5-fold accuracy, as in the released code."""
    (w,) = _vectors(w=w)
    settings = {"Cs": [1e-5, 1e-3, 1e-2, 0.1, 1.0], "cv": 5, "scoring": "accuracy", "l1_ratios": (0,)}
    model = LogisticRegressionCV(**settings, solver="newton-cholesky", use_legacy_attributes=False)
    return model.fit(_matrix("x", x, len(w)), w)


def treated(model: LogisticRegression | LogisticRegressionCV, x: Array) -> Array:
    """Estimated propensities (n,), kept 1e-6 away from 0 and 1, which only rounding reaches."""
    return np.clip(model.predict_proba(x)[:, 1], TINY, 1 - TINY)


class Estimate(NamedTuple):
    """What a learner says of some people: effects, and outcomes if it has a model of them."""

    tau: Array  # (n,)
    mu0: Array | None = None  # (n,)
    mu1: Array | None = None


Learner = Callable[[Array], Estimate]


def s_learner(make: Make, x: Array, w: Array, y: Array, extended: bool = False) -> Learner:
    """One model of y on (x, w), or on (x, w, x w) if extended."""

    # (E5)  tau(x) = f(x, 1) - f(x, 0)
    def design(x: Array, w: Array) -> Array:
        return np.column_stack([x, w, x * w[:, None]] if extended else [x, w])

    model = make().fit(design(x, w), y)

    def estimate(new: Array) -> Estimate:
        both = np.concatenate([design(new, np.full(len(new), arm)) for arm in (0.0, 1.0)])  # (2n, .), one call is quicker
        mu0, mu1 = np.split(model.predict(both), 2)
        return Estimate(mu1 - mu0, mu0, mu1)

    return estimate


def t_learner(make: Make, x: Array, w: Array, y: Array) -> Learner:
    """Two models of y on x, one per arm."""
    models = [make().fit(x[w == arm], y[w == arm]) for arm in (0, 1)]

    # (E6)  tau(x) = f1(x) - f0(x)
    def estimate(new: Array) -> Estimate:
        mu0, mu1 = (model.predict(new) for model in models)
        return Estimate(mu1 - mu0, mu0, mu1)

    return estimate


def dr_learner(make: Make, x: Array, w: Array, y: Array, p: Array, mu0: Array, mu1: Array) -> Learner:
    """A regression of the doubly robust pseudo-outcome on x."""
    model = make().fit(x, pseudo_dr(y, w, p, mu0, mu1))
    return lambda new: Estimate(model.predict(new))


def r_learner(make: Make, x: Array, w: Array, y: Array, p: Array, m: Array) -> Learner:
    """The effect that best explains what is left of y by what is left of w."""
    # (E7)  regress (y - m) / (w - p) on x with weights (w - p)^2
    model = make().fit(x, (y - m) / (w - p), sample_weight=(w - p) ** 2)
    return lambda new: Estimate(model.predict(new))


def fit_learners(kind: Kind, x: Array, w: Array, y: Array, p: Array) -> dict[str, Learner]:
    """All five learners with one kind of regressor, named as in LEARNERS; nuisances in-sample, as in the paper's main runs.

    p: propensities of these people, estimated. Raises ValueError naming the argument that is of the wrong shape, empty or NaN.
    """
    w, y, p = _vectors(w=w, y=y, p=p)
    x = _matrix("x", x, len(w))
    two = t_learner(kind.plain, x, w, y)
    _, mu0, mu1 = two(x)
    return {
        "S": s_learner(kind.joint, x, w, y),
        "S-ext": s_learner(kind.joint, x, w, y, extended=True),
        "T": two,
        "DR": dr_learner(kind.plain, x, w, y, p, mu0, mu1),
        "R": r_learner(kind.plain, x, w, y, p, kind.plain().fit(x, y).predict(x)),
    }


def candidates(train: Sample) -> dict[str, Learner]:
    """The ten candidates by name, learner and regressor apart by a space: `S ridge` to `R trees`."""
    p = treated(propensity(train.x, train.w), train.x)
    fitted = {name: fit_learners(kind, train.x, train.w, train.y, p) for name, kind in REGRESSORS.items()}
    return {f"{learner} {name}": fitted[name][learner] for name in REGRESSORS for learner in LEARNERS}


# ---------------------------------------------------------------- losses


def pseudo_dr(y: Array, w: Array, p: Array, mu0: Array, mu1: Array) -> Array:
    """A noisy outcome (n,) whose expectation given x is the effect if p is right, or if mu0 and mu1 are."""
    y, w, p, mu0, mu1 = _vectors(y=y, w=w, p=p, mu0=mu0, mu1=mu1)
    # (E8)  Y_DR = (w/p - (1-w)/(1-p)) y + (1 - w/p) mu1 - (1 - (1-w)/(1-p)) mu0
    return (w / p - (1 - w) / (1 - p)) * y + (1 - w / p) * mu1 - (1 - (1 - w) / (1 - p)) * mu0


def squared_distance(estimate: Estimate, target: Array) -> Array:
    """(tau - target)^2, (n,): the loss of plug-in criteria, of pseudo-outcome criteria but R, and of the oracle."""
    return (estimate.tau - target) ** 2


def r_loss(estimate: Estimate, y: Array, w: Array, p: Array, m: Array) -> Array:
    """Squared error (n,) of the effect in explaining what is left of y by what is left of w."""
    # (E9)  ((y - m) - tau (w - p))^2
    return ((y - m) - estimate.tau * (w - p)) ** 2


def factual_error(estimate: Estimate, y: Array, w: Array, weights: Array | float = 1.0) -> Array:
    """Weighted squared error (n,) of the outcome under the treatment that was given; infinite if outcomes are not modelled."""
    if estimate.mu0 is None or estimate.mu1 is None:
        return np.full(len(y), np.inf)
    # (E10)  weight (w mu1 + (1 - w) mu0 - y)^2
    return weights * (w * estimate.mu1 + (1 - w) * estimate.mu0 - y) ** 2


def inverse_propensity(w: Array, p: Array) -> Array:
    """Weights (n,), mean about 1, under which both arms look like everybody."""
    w, p = _vectors(w=w, p=p)
    # (E11)  w q / p + (1 - w) (1 - q) / (1 - p),  q = mean(w)
    return w * w.mean() / p + (1 - w) * (1 - w.mean()) / (1 - p)


def influence_loss(estimate: Estimate, y: Array, w: Array, p: Array, mu0: Array, mu1: Array) -> Array:
    """Plug-in distance (n,) corrected to first order by its influence function (Alaa & van der Schaar, 2019); may be negative."""
    t, b = mu1 - mu0, 2 * w * (w - p) / (p * (1 - p))
    # (E12)  (1 - B) t^2 + B y (t - tau) - (w - p) (t - tau)^2 + tau^2,  B = 2 w (w - p) / (p (1 - p))
    return (1 - b) * t**2 + b * y * (t - estimate.tau) - (w - p) * (t - estimate.tau) ** 2 + estimate.tau**2


def matched_effects(x: Array, w: Array, y: Array) -> Array:
    """Difference (n,) of each person to the nearest one, in Euclidean distance, of the other arm; treated minus untreated."""
    effects = np.empty(len(y))
    for arm in (0, 1):
        others = NearestNeighbors(n_neighbors=1).fit(x[w != arm])
        nearest = others.kneighbors(x[w == arm], return_distance=False)[:, 0]
        effects[w == arm] = (2 * arm - 1) * (y[w == arm] - y[w != arm][nearest])
    return effects


# ---------------------------------------------------------------- criteria


class Nuisances(NamedTuple):
    """Predictions (n,) of each person by models that have not seen that person."""

    mu0: Array
    mu1: Array
    m: Array  # expected outcome whatever the treatment


def cross_fit(make: Make, x: Array, w: Array, y: Array, folds: list) -> Nuisances:
    """Outcomes over folds, a list of (rows to fit, rows to predict) in which every row is predicted once."""
    mu0, mu1, m = (np.empty(len(y)) for _ in range(3))
    for fit, held in folds:
        _, mu0[held], mu1[held] = t_learner(make, x[fit], w[fit], y[fit])(x[held])
        m[held] = make().fit(x[fit], y[fit]).predict(x[held])
    return Nuisances(mu0, mu1, m)


def cross_fit_propensity(x: Array, w: Array, penalty: float, folds: list) -> Array:
    """Propensities (n,) over folds, with one inverse penalty for all of them."""
    p = np.empty(len(w))
    for fit, held in folds:
        p[held] = treated(LogisticRegression(C=penalty, solver="newton-cholesky").fit(x[fit], w[fit]), x[held])
    return p


Criterion = Callable[[Estimate], Array]  # the losses (n,) of one candidate's estimate on the validation sample


def pseudo_criteria(y: Array, w: Array, fitted: Nuisances, p: Array) -> dict[str, Criterion]:
    """The DR and the R criterion, from cross-fitted outcome nuisances and propensities p."""
    return {
        "DR": partial(squared_distance, target=pseudo_dr(y, w, p, fitted.mu0, fitted.mu1)),
        "R": partial(r_loss, y=y, w=w, p=p, m=fitted.m),
    }


def criteria(sample: Sample, rng: np.random.Generator, n_folds: int = 5) -> dict[str, Criterion]:
    """Every criterion by name on a validation sample: kind, learner and regressor apart by spaces, such as `plug-in S ridge`.

    Kinds: `factual`, `weighted factual`, `plug-in`, `pseudo`, and beside the paper's default list `true p` (pseudo with known
    propensities), `permuted` (pseudo whose outcomes belong to somebody else), `also` (four more of the released code), `oracle`.
    Nuisances are fitted once and shared. rng: folds and the permutation. Raises ValueError for n_folds < 2 or a bad sample.
    """
    w, y, p_true = _vectors(w=sample.w, y=sample.y, p=sample.p)
    x = _matrix("x", sample.x, len(w))
    if n_folds < 2:
        raise ValueError(f"n_folds must be at least 2, not {n_folds}")
    folds = list(StratifiedKFold(n_folds, shuffle=True, random_state=int(rng.integers(2**31))).split(x, w))
    mixed = rng.permutation(y)
    model = propensity(x, w)
    p, held_p = treated(model, x), cross_fit_propensity(x, w, model.C_, folds)
    found = {"factual": partial(factual_error, y=y, w=w)}
    found["weighted factual"] = partial(factual_error, y=y, w=w, weights=inverse_propensity(w, p))
    for name, kind in REGRESSORS.items():
        # (E13)  plug-in: (tau - tau_c)^2 with tau_c a learner fitted on this very sample
        for learner, estimate in fit_learners(kind, x, w, y, p).items():
            found[f"plug-in {learner} {name}"] = partial(squared_distance, target=estimate(x).tau)
        fitted = cross_fit(kind.plain, x, w, y, folds)
        versions = {"pseudo": (y, held_p), "true p": (y, p_true), "permuted": (mixed, held_p)}
        for version, (outcome, given) in versions.items():
            pseudo = pseudo_criteria(outcome, w, fitted, given)
            found |= {f"{version} {learner} {name}": criterion for learner, criterion in pseudo.items()}
        adjusted = w * (y - fitted.mu0) + (1 - w) * (fitted.mu1 - y)
        found[f"also RA {name}"] = partial(squared_distance, target=adjusted)
        found[f"also IF {name}"] = partial(influence_loss, y=y, w=w, p=held_p, mu0=fitted.mu0, mu1=fitted.mu1)
    found["also PW"] = partial(squared_distance, target=(w / p - (1 - w) / (1 - p)) * y)
    found["also matching"] = partial(squared_distance, target=matched_effects(x, w, y))
    return found | {"oracle": partial(squared_distance, target=sample.tau)}


def pick(scores: Mapping[str, float]) -> str:
    """The candidate of least mean loss; the first of equals. Raises ValueError where none can be scored."""
    best = min(scores, key=scores.get)
    if not np.isfinite(scores[best]):
        raise ValueError("no candidate can be scored: every mean loss is infinite or NaN")
    return best


def lead(losses: Mapping[str, Array]) -> float:
    """By how many standard errors of the difference the best candidate leads the second; 0 for equals."""
    best, second = sorted(losses.values(), key=np.mean)[:2]
    gap = second - best
    error = gap.std(ddof=1) / np.sqrt(len(gap))
    return float(gap.mean() / error) if error > 0 else 0.0


def pehe(tau: Array, truth: Array) -> float:
    """Root mean squared error of effects (n,), in the outcome's unit."""
    tau, truth = _vectors(tau=tau, truth=truth)
    return float(np.sqrt(np.mean((tau - truth) ** 2)))


def congeniality(picks: Mapping[str, str], part: int) -> float:
    """How much more often plug-in criteria pick their own make than the other criteria do, -1 to 1.

    picks: by criterion, plug-in and pseudo ones, the name of the candidate. part: of a name split at spaces, -2 compares learners,
    -1 regressors. Mean over plug-in criteria of [own pick is of its make] minus [share of all other criteria whose pick is].
    """
    parts = {criterion: candidate.split()[part] for criterion, candidate in picks.items()}
    gains = []
    for criterion, found in parts.items():
        if criterion.startswith("plug-in"):
            make = criterion.split()[part]
            gains.append((found == make) - np.mean([other == make for name, other in parts.items() if name != criterion]))
    return float(np.mean(gains))
