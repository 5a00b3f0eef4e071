"""Counterfactual fairness in mortgage lending via matching and randomization (Ghoba & Colaner 2021).

Race is 1 for an African-American and 0 for a non-Hispanic White applicant, shape (n,). A pair is a row of `pairs` (m, 2): the
index of a person of race 1, then that of the matched person of race 0. `near` (n, d) holds the covariates in which a match is
sought, in units of their standard deviation; people of one stratum agree on everything else. A fitted predictor is a function
f of covariates (n, p) and race (n,) that gives the probability of the bad outcome (n,), in [0, 1].
"""

from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import beta
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression

Predictor = Callable[[np.ndarray, np.ndarray], np.ndarray]


# ---------------------------------------------------------------- matching and balance


def standardise(x: np.ndarray) -> np.ndarray:
    """Columns of x (n, d) with mean 0 and standard deviation 1, over the values that are there; NaN, not reported, becomes 0.

    People with and without a value must not share a stratum. Raises ValueError when x is infinite or a column does not vary.
    """
    if x.ndim != 2 or np.isinf(x).any():
        raise ValueError("x must be of shape (n, d) and not infinite")
    sd = np.nanstd(x, axis=0)
    if not (sd > 0).all():
        raise ValueError(f"x has columns that do not vary: {np.flatnonzero(~(sd > 0)).tolist()}")
    return np.nan_to_num((x - np.nanmean(x, axis=0)) / sd)


def match(near: np.ndarray, race: np.ndarray, strata: np.ndarray, caliper: float, candidates: int = 10) -> np.ndarray:
    """Pairs (m, 2) of a person of race 1 and one of race 0, one to one, without replacement, best pairs first.

    near: (n, d), in standard deviations; strata: (n,) integers, a pair lies within one; caliper: the largest Euclidean distance,
    not reached; candidates: how many nearest people of race 0 are considered for each of race 1. People without a free candidate
    stay unmatched. Raises ValueError for bad shapes, NaN, a race other than 0 and 1, or a caliper that is not positive.
    """
    _checked(near, race)
    if strata.shape != race.shape:
        raise ValueError("strata must be of shape (n,)")
    if not caliper > 0:
        raise ValueError(f"caliper must be positive, not {caliper}")
    edges = [_edges(near, race, rows, caliper, candidates) for rows in _groups(strata)]
    distance, one, zero = (np.concatenate(part) for part in zip(*edges, strict=True))
    taken, pairs = np.zeros(len(race), bool), []
    # greedy: j(i) = argmin ||x_i - x_j|| over those still free, the closest pair of all first
    for edge in np.lexsort((zero, one, distance)):
        i, j = one[edge], zero[edge]
        if not taken[i] and not taken[j]:
            taken[[i, j]] = True
            pairs.append((i, j))
    return np.array(pairs, dtype=int).reshape(-1, 2)


def _groups(strata: np.ndarray) -> list[np.ndarray]:
    """The row indices of each stratum."""
    order = np.argsort(strata, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(strata[order])) + 1)


def _edges(near: np.ndarray, race: np.ndarray, rows: np.ndarray, caliper: float, candidates: int) -> tuple[np.ndarray, ...]:
    """Distance (e,), person of race 1 (e,) and person of race 0 (e,) of all candidate pairs in one stratum's rows."""
    one, zero = rows[race[rows] == 1], rows[race[rows] == 0]
    if not len(one) or not len(zero):
        return np.empty(0), np.empty(0, int), np.empty(0, int)
    ranks = np.arange(1, min(candidates, len(zero)) + 1)
    distance, nearest = cKDTree(near[zero]).query(near[one], k=ranks, distance_upper_bound=caliper)  # (|one|, candidates)
    found = np.nonzero(np.isfinite(distance))
    return distance[found].round(9), one[found[0]], zero[nearest[found]]  # rounded: a tie is a tie on any processor


def propensity_logit(x: np.ndarray, race: np.ndarray) -> np.ndarray:
    """log P(A = 1 | x) / P(A = 0 | x) for each person (n,), by logistic regression of race (n,) on covariates x (n, p).

    Columns of x should be of similar size, as after `standardise`.
    """
    _checked(x, race)
    return LogisticRegression(C=1e4, solver="newton-cholesky", tol=1e-10).fit(x, race).decision_function(x)


def inverse_propensity_weights(logit: np.ndarray, race: np.ndarray) -> np.ndarray:
    """Weights (n,) that make people of race 0 resemble those of race 1: 1 for race 1, the odds e^logit for race 0.

    The odds are scaled so that both races weigh the same in all.
    """
    # w = 1 for A = 1, e(x) / (1 - e(x)) for A = 0
    odds = np.exp(logit)
    return np.where(race == 1, 1.0, odds * (race == 1).sum() / odds[race == 0].sum())


def spread(x: np.ndarray, race: np.ndarray) -> np.ndarray:
    """The standard deviation (d,) by which imbalance is measured, before and after matching: pooled over both races."""
    _checked(x, race)
    # sd_k = sqrt((s_1k^2 + s_0k^2) / 2)
    return np.sqrt((x[race == 1].var(axis=0, ddof=1) + x[race == 0].var(axis=0, ddof=1)) / 2)


def imbalance(x: np.ndarray, race: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Standardised mean difference (d,) of covariates x (n, d) between the races, in units of sd (d,)."""
    _checked(x, race)
    # SMD_k = (mean_1k - mean_0k) / sd_k
    return (x[race == 1].mean(axis=0) - x[race == 0].mean(axis=0)) / sd


# ---------------------------------------------------------------- unfairness in the data


def differences(y: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Y_i(A = 1) - Y_j(i)(A = 0) for each pair (m,), in the unit of the outcome y (n,); their mean D is the matched gap."""
    return y[pairs[:, 0]].astype(float) - y[pairs[:, 1]]


def randomization_test(d: np.ndarray, rng: np.random.Generator, draws: int = 10_000) -> float:
    """Two-sided p-value in (0, 1] of the sharp null that race changes nobody's outcome, from pair differences d (m,).

    Race is swapped inside each pair by a fair coin, `draws` times. Raises ValueError when d is empty or not finite.
    """
    if d.ndim != 1 or not len(d) or not np.isfinite(d).all():
        raise ValueError("d must be finite, of shape (m,), with at least one pair")
    unequal = d[d != 0]
    # S* = sum_i s_i d_i with s_i = +1 or -1; p = (1 + #{|S*| >= |S|}) / (1 + draws)
    swapped = np.array([rng.choice((-1.0, 1.0), len(unequal)) @ unequal for _ in range(draws)])
    as_extreme = np.abs(swapped) >= abs(unequal.sum()) - 1e-9
    return (1 + as_extreme.sum()) / (1 + draws)


def sensitivity(d: np.ndarray, level: float = 0.05) -> float:
    """Rosenbaum's Gamma: the largest bias in the odds of being the Black member that leaves a positive gap significant.

    d: pair differences (m,); only their signs count (McNemar's test, one-sided at `level`). Below 1, the gap is not significant
    even without hidden bias. Raises ValueError when no pair differs.
    """
    worse, unequal = int((d > 0).sum()), int((d != 0).sum())
    if unequal == 0:
        raise ValueError("d holds no pair whose members differ")
    # the p at which P(Binomial(unequal, p) >= worse) = level, with p = Gamma / (1 + Gamma)
    p = beta.ppf(level, worse, unequal - worse + 1) if worse else 0.0
    return float(p / (1 - p))


def alike_pairs(
    near: np.ndarray, race: np.ndarray, strata: np.ndarray, caliper: float, pairs: np.ndarray, candidates: int = 10
) -> np.ndarray:
    """White-White pairs (k, 2), the null of `match`: the White members of `pairs`, matched with the other Whites the same way.

    The first of each pair stands for race 1.
    """
    white = np.flatnonzero(race == 0)
    role = np.isin(white, pairs[:, 1]).astype(int)
    return white[match(near[white], role, strata[white], caliper, candidates)]


# ---------------------------------------------------------------- learning


LEARNERS = {
    "logistic": lambda seed: LogisticRegression(max_iter=500),
    "hgb": lambda seed: HistGradientBoostingClassifier(max_iter=80, early_stopping=False, random_state=seed),
    "forest": lambda seed: RandomForestClassifier(n_estimators=40, min_samples_leaf=10, random_state=seed),
}


def fit(
    learner: str, x: np.ndarray, race: np.ndarray, y: np.ndarray, seed: int, weights: np.ndarray | None = None, aware: bool = True
) -> Predictor:
    """A predictor of y (n,) in {0, 1} from covariates x (n, p) and, when `aware`, race (n,); weights (n,) or all equal.

    learner: one of LEARNERS, with the same settings for any training data; columns of x of similar size, as after `standardise`.
    Raises ValueError for an unknown learner, NaN, bad shapes, or one class only.
    """
    if learner not in LEARNERS:
        raise ValueError(f"learner must be one of {', '.join(LEARNERS)}, not {learner!r}")
    _checked(x, race)
    if y.shape != race.shape or set(np.unique(y)) != {0, 1}:
        raise ValueError("y must be of shape (n,), with both classes 0 and 1")

    def design(x: np.ndarray, race: np.ndarray) -> np.ndarray:
        return np.column_stack([race, x]) if aware else x  # (n, p + 1) or (n, p)

    model = LEARNERS[learner](seed).fit(design(x, race), y, sample_weight=weights)
    return lambda x, race: model.predict_proba(design(x, race))[:, 1]


def swap_races(race: np.ndarray, pairs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Race (n,) with the two members of each pair exchanged by a fair coin: a trial by design, where race causes nothing."""
    swapped, chosen = race.copy(), pairs[rng.random(len(pairs)) < 0.5]
    swapped[chosen] = race[chosen[:, ::-1]]
    return swapped


def unmatched(race: np.ndarray, pool: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    """Rows (2 m,) drawn from `pool` (row indices) without replacement: m people of each race, whoever they are.

    Raises ValueError when the pool holds fewer than m of one race.
    """
    groups = [pool[race[pool] == a] for a in (1, 0)]
    if min(map(len, groups)) < m:
        raise ValueError(f"pool holds {len(groups[0])} people of race 1 and {len(groups[1])} of race 0, m is {m}")
    return np.concatenate([rng.choice(group, m, replace=False) for group in groups])


# ---------------------------------------------------------------- unfairness of a predictor


def scores(f: Predictor, x: np.ndarray) -> np.ndarray:
    """What f says of each person with covariates x (n, p) as White and as Black: f(x, 0) and f(x, 1), (n, 2)."""
    return np.column_stack([f(x, np.full(len(x), a)) for a in (0, 1)])


def flip_gaps(said: np.ndarray) -> np.ndarray:
    """f(x, 1) - f(x, 0) for each person (n,), from `scores` (n, 2): the same person, the other race. Its mean is F."""
    return said[:, 1] - said[:, 0]


def pair_gaps(said: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """f(x_i, 1) - f(x_j(i), 0) for each pair (m,), from `scores` (n, 2): two similar people, as they are. Its mean is G."""
    return said[pairs[:, 0], 1] - said[pairs[:, 1], 0]


def split_decisions(said: np.ndarray, pairs: np.ndarray, flagged: float = 0.2) -> float:
    """Share of pairs in [0, 1] of whom one member is flagged and the other is not, when the riskiest share `flagged` is.

    said: `scores` (n, 2); each member counts as what it is.
    """
    one, zero = said[pairs[:, 0], 1], said[pairs[:, 1], 0]
    threshold = np.quantile(np.concatenate([one, zero]), 1 - flagged)
    return float(((one > threshold) != (zero > threshold)).mean())


# ---------------------------------------------------------------- checks


def _checked(x: np.ndarray, race: np.ndarray) -> None:
    if x.ndim != 2 or not len(x) or not np.isfinite(x).all():
        raise ValueError("covariates must be finite, of shape (n, d), with n > 0")
    if race.shape != x.shape[:1] or set(np.unique(race)) != {0, 1}:
        raise ValueError("race must be of shape (n,), with both 0 and 1")
