"""Repairing without retraining: counterfactual distributions (Wang, Ustun & Calmon 2019).

Inputs x take finitely many values, the n cells. A distribution over inputs is a vector p (n,) of weights >= 0; the methods
that move one normalise it. Group 0 is the one whose distribution is moved, group 1 is never touched. h (n,) is the fixed
classifier, the probability that a person in each cell is called 1; y (n,) the probability of the true outcome 1 there.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, linprog
from scipy.sparse import csr_array, diags_array
from scipy.spatial.distance import cdist
from scipy.special import rel_entr
from sklearn.metrics import roc_auc_score

Vector = NDArray[np.float64]


# ---------------------------------------------------------------- disparities and their influence functions


class Disparity(NamedTuple):
    """M and its influence function psi, each a function of a distribution p (n,): a float, and (n,) with mean 0 under p."""

    value: Callable[[Vector], float]
    influence: Callable[[Vector], Vector]


def rate_terms(metric: str, h: Vector, y: Vector) -> tuple[Vector, Vector]:
    """a (n,) and b (n,) such that a group's rate is E[a] / E[b]: `fpr`, `fnr`, `fdr` or `cal`.

    Raises ValueError for another metric, and for h (n,) or y (n,) that are no probabilities.
    """
    _check_shares(h=h, y=y)
    if metric == "fpr":  # P(called 1 | outcome 0)
        return h * (1 - y), 1 - y
    if metric == "fnr":  # P(called 0 | outcome 1)
        return (1 - h) * y, y
    if metric == "fdr":  # P(outcome 0 | called 1)
        return h * (1 - y), h
    if metric == "cal":  # E |P(outcome 1 | x) - h|
        return np.abs(y - h), np.ones_like(h)
    raise ValueError(f"metric must be fpr, fnr, fdr or cal, not {metric!r}")


def rate(metric: str, p: Vector, h: Vector, y: Vector) -> float:
    """A group's rate in [0, 1] under p (n,). Raises ValueError where nobody is in the rate's denominator."""
    _check(p=p)
    a, b = rate_terms(metric, h, y)
    if len(p) != len(a):
        raise ValueError(f"p must have one weight per cell, {len(a)}, not {len(p)}")
    if p @ b <= 0:
        raise ValueError(f"{metric}: p puts no weight on anyone whom the rate counts")
    return float(p @ a / (p @ b))


def rate_gap(metric: str, h: Vector, y0: Vector, other: float) -> Disparity:
    """The rate of group 0 minus that of group 1, which is `other` (Table 1). y0 (n,) is P(Y = 1 | x, group 0)."""
    a, b = rate_terms(metric, h, y0)

    def influence(p: Vector) -> Vector:
        p = p / p.sum()
        mean_a, mean_b = p @ a, p @ b
        # psi = (E[b] a - E[a] b) / E[b]^2  (Appendix C)
        return (mean_b * a - mean_a * b) / mean_b**2

    return Disparity(lambda p: rate(metric, p, h, y0) - other, influence)


def alignment(h: Vector, p1: Vector, weight: float) -> Disparity:
    """Distribution alignment: KL(Yhat_0 || Yhat_1) + weight KL(P || P1), both in nats; P1 is p1 (n,), positive where p is.

    Zero where p is p1, which is its only optimum when weight > 0. The influence function is that of the present p.
    Raises ValueError for bad h or p1.
    """
    _check(p1=p1)
    _check_shares(h=h)
    p1 = p1 / p1.sum()
    called1 = p1 @ h

    def value(p: Vector) -> float:
        p = p / p.sum()
        called = p @ h
        outputs = kl(np.array([called, 1 - called]), np.array([called1, 1 - called1]))
        return outputs + (weight * kl(p, p1) if weight else 0)

    def influence(p: Vector) -> Vector:
        p = p / p.sum()
        called = p @ h
        # psi = log[p0 (1 - p1) / ((1 - p0) p1)] (h - p0) + weight (log P/P1 - E[log P/P1])  (Prop. 5)
        psi = np.log(called * (1 - called1) / ((1 - called) * called1)) * (h - called)
        if weight:
            ratio = np.log(np.divide(p, p1, out=np.ones_like(p), where=p > 0))
            psi = psi + weight * (ratio - p @ ratio)
        return psi

    return Disparity(value, influence)


def mixture(parts: list[Disparity], weights: list[float]) -> Disparity:
    """sum_k w_k |M_k| and its influence function, such as equalised odds from FPR and FNR (Prop. 4)."""
    # the released code turns each part by its own sign, so that gaps of opposite sign do not cancel
    return Disparity(
        lambda p: sum(w * abs(m.value(p)) for m, w in zip(parts, weights, strict=True)),
        lambda p: sum(w * np.sign(m.value(p)) * m.influence(p) for m, w in zip(parts, weights, strict=True)),
    )


# ---------------------------------------------------------------- distributional descent (Algorithm 1)


class Descent(NamedTuple):
    """weights (iterations + 1, n): c(x), by which any sample of group 0 is re-weighted; gaps (iterations + 1,): M, signed."""

    weights: Vector
    gaps: Vector

    @property
    def best(self) -> Vector:
        """The weights (n,) of the iterate with the smallest |M|."""
        return self.weights[np.abs(self.gaps).argmin()]


Turn = Callable[[Vector], Vector]  # what a control does to psi (n,) before a step: reverse or permute it


def _factor(disparity: Disparity, p: Vector, step: float, turn: Turn) -> Vector:
    """One step down |M| from p (n,): the factors (n,) by which its weights change, all positive."""
    psi = turn(np.sign(disparity.value(p)) * disparity.influence(p))
    psi = psi - p @ psi / p.sum()  # mean 0 also where `turn` has lost it
    # P~(x) = P(x) (1 - e psi(x)), with e cut below 1 / max(psi)
    return 1 - min(step, 1 / (1 + 1e-4) / max(psi.max(), 1e-12)) * psi


def descent(disparity: Disparity, p: Vector, *, step: float = 0.1, iterations: int = 100, turn: Turn = lambda psi: psi) -> Descent:
    """Descend |M| from group 0's distribution p (n,), exactly: a weight per cell and no sampling. Raises ValueError for bad p."""
    _check(p=p)
    c = np.ones(len(p))
    weights, gaps = [c], [disparity.value(p)]
    for _ in range(iterations):
        c = c * _factor(disparity, p * c, step, turn)
        weights.append(c)
        gaps.append(disparity.value(p * c))
    return Descent(np.array(weights), np.array(gaps))


def sampled_descent(
    disparity: Disparity, audit: Vector, holdout: Vector, rng: np.random.Generator, *, step: float = 0.1, iterations: int = 100,
    turn: Turn = lambda psi: psi, boots: int = 5,
) -> tuple[Descent, Vector]:  # fmt: skip
    """Algorithm 1 with resampling: each psi comes from a fresh sample of group 0, drawn with the last step's factors.

    audit, holdout: people per cell (n,). The weights c(x) multiply up on the hold-out copy, and M is the mean over `boots`
    weighted resamples of it; these M are the second result, (iterations + 1, boots). Every cell of a sample stays in it.
    Raises ValueError for bad counts.
    """
    _check(audit=audit, holdout=holdout)
    counts, c = audit, np.ones(len(audit))
    weights, resampled = [c], [[disparity.value(holdout)] * boots]
    for _ in range(iterations):
        factor = _factor(disparity, counts, step, turn)
        counts, c = _resample(counts, factor, rng), c * factor
        weights.append(c)
        resampled.append([disparity.value(_resample(holdout, c, rng)) for _ in range(boots)])
    return Descent(np.array(weights), np.mean(resampled, axis=1)), np.array(resampled)


def _resample(counts: Vector, weights: Vector, rng: np.random.Generator) -> Vector:
    p = counts * weights
    drawn = rng.multinomial(int(counts.sum()), p / p.sum())
    return np.where(counts > 0, np.maximum(drawn, 1), 0).astype(float)  # "drop-safe"


def random_reweighting(p: Vector, divergence: float, rng: np.random.Generator) -> Vector:
    """A control for descent: Q (n,) = P exp(t z), z standard normal and t >= 0 such that KL(Q || P) is `divergence` nats.

    Raises ValueError for a bad p, and for a divergence that no t reaches.
    """
    _check(p=p)
    z = rng.standard_normal(len(p))

    def tilted(t: float) -> Vector:
        q = p * np.exp(t * (z - z.max()))
        return q / q.sum()

    if not 0 <= divergence <= kl(tilted(50), p):
        raise ValueError(f"divergence must lie between 0 and {kl(tilted(50), p):.3f} nats, not {divergence:.3f}")
    return tilted(brentq(lambda t: kl(tilted(t), p) - divergence, 0, 50))


# ---------------------------------------------------------------- the preprocessor


def transport(cells: NDArray, p: Vector, q: Vector) -> csr_array:
    """T (n, n): T[u, v] is the probability that a person of group 0 in cell u is shown to h as one in cell v.

    The cheapest way to turn p (n,) into q (n,), a change from u to v costing their L1 distance; cells is (n, d). Cells
    without weight in p stay as they are. Raises ValueError for p or q that are no distributions, and for bad cells.
    """
    _check(p=p, q=q)
    if cells.ndim != 2 or not len(cells) == len(p) == len(q) or not np.isfinite(cells).all():
        raise ValueError("cells must be a finite table (n, d) with a row for each weight of p and q")
    p, q = p / p.sum(), q / q.sum()
    common = np.minimum(p, q)  # the cost is a metric, so what p and q share in a cell may stay there
    giving, taking = np.flatnonzero(p > common), np.flatnonzero(q > common)
    flow = csr_array((len(p), len(p)))
    if len(giving):
        moved = _cheapest(cdist(cells[giving], cells[taking], "cityblock"), (p - q)[giving], (q - p)[taking])
        u, v = np.nonzero(moved)
        flow = csr_array((moved[u, v], (giving[u], taking[v])), shape=flow.shape)
    # T(v | u) = g(u, v) / P(u)
    flow = diags_array(1 / np.where(p > 0, p, 1)) @ flow
    return csr_array(flow + diags_array(np.maximum(1 - flow.sum(axis=1), 0)))  # no negative share from rounding


def _cheapest(cost: NDArray, supply: Vector, demand: Vector, near: int = 8) -> NDArray:
    """argmin_g sum c g over g (k, m) >= 0 with row sums `supply` (k,) and column sums `demand` (m,): a linear programme.

    Solved over the `near` cheapest routes of each cell, and again with every route that the dual prices call too dear, until
    there is none: the optimum over all routes, several times faster.
    """
    k, m = cost.shape
    total = supply.sum()
    supply, demand = supply / total, demand / demand.sum()  # the solver's tolerances are absolute
    used = _corner_routes(supply, demand)
    np.put_along_axis(used, cost.argsort(axis=1, kind="stable")[:, :near], True, axis=1)
    np.put_along_axis(used, cost.argsort(axis=0, kind="stable")[:near], True, axis=0)
    while True:
        u, v = np.nonzero(used)
        route = np.arange(len(u))
        sums = csr_array((np.ones(2 * len(u)), (np.r_[u, k + v], np.r_[route, route])), shape=(k + m, len(u)))
        # the last sum follows from the others
        solved = linprog(cost[u, v], A_eq=sums[:-1], b_eq=np.r_[supply, demand[:-1]], method="highs")
        if not solved.success:
            raise RuntimeError(f"the transport programme was not solved: {solved.message}")
        price = np.r_[solved.eqlin.marginals, 0]
        cheaper = ~used & (cost - price[:k, None] - price[None, k:] < -1e-9)
        if not cheaper.any():
            flow = np.zeros((k, m))
            flow[u, v] = np.maximum(solved.x, 0)
            sent = flow.sum(axis=1)
            # the solver keeps its sums to 1e-7 of all people, which can be much of a rare cell: no cell sends more than it has
            return flow * (total * supply / np.where(sent > 0, sent, 1))[:, None]
        used |= cheaper


def _corner_routes(supply: Vector, demand: Vector) -> NDArray[np.bool_]:
    """Routes (k, m) over which some transport is feasible: the north-west corner rule."""
    ends = np.cumsum(supply), np.cumsum(demand)
    cuts = np.unique(np.r_[0, *ends])
    middles = (cuts[1:] + cuts[:-1]) / 2
    used = np.zeros((len(supply), len(demand)), dtype=bool)
    rows, columns = (np.minimum(np.searchsorted(end, middles), len(end) - 1) for end in ends)
    used[rows, columns] = True
    return used


# ---------------------------------------------------------------- rivals, and how all are judged


def group_threshold(metric: str, score: Vector, p: Vector, y: Vector, target: float) -> Vector:
    """Decisions (n,) in [0, 1] of a cut-off on group 0's score (n,) that makes its `fpr` or `fnr` the target, exactly.

    Cells at the cut-off are called 1 with the probability that is left to reach it. Raises ValueError for other metrics,
    for bad weights, and for a score that is not finite.
    """
    _check(p=p)
    _check_shares(y=y)
    if score.shape != p.shape or not np.isfinite(score).all():
        raise ValueError("score must be finite, with one number per weight of p")
    counted = p * _counted(metric, y)
    called = {"fpr": target, "fnr": 1 - target}[metric] * counted.sum()  # how much of `counted` must be called 1
    ranks, rank = np.unique(-score, return_inverse=True)
    mass = np.bincount(rank, counted, minlength=len(ranks))
    above = np.cumsum(mass) - mass
    share = np.where(mass > 0, np.clip((called - above) / np.where(mass > 0, mass, 1), 0, 1), above < called)
    return share[rank]


def random_flips(metric: str, h: Vector, p: Vector, y: Vector, target: float) -> csr_array:
    """A preprocessor T (n, n) that brings group 0's `fpr` or `fnr` down to the target by chance alone.

    People called 1 (fpr) or 0 (fnr) are shown, with one same probability, as a random person of the group called otherwise.
    h is 0 or 1. Raises ValueError for other metrics, and for a target above the present rate.
    """
    now = rate(metric, p, h, y)
    if target > now:
        raise ValueError(f"target must be at most the present rate {now:.3f}, not {target:.3f}")
    _counted(metric, y)
    wrong = h if metric == "fpr" else 1 - h  # whom the rate may count
    moved = (1 - target / now) * wrong
    others = p * (1 - wrong)
    return csr_array(diags_array(1 - moved) + csr_array(moved[:, None]) @ csr_array(others[None] / others.sum()))


def reweighing(group: NDArray, y: NDArray) -> Vector:
    """Training weights (n,) that make two groups (n,) and y (n,) in {0, 1} independent (Kamiran & Calders 2012)."""
    s = np.unique(group, return_inverse=True)[1]
    joint = np.bincount(2 * s + y, minlength=4).reshape(2, 2) / len(y)
    # w = P(group) P(y) / P(group, y)
    return (np.outer(joint.sum(axis=1), joint.sum(axis=0)) / joint)[s, y]


def auc(score: Vector, positive: Vector, negative: Vector) -> float:
    """Area under the ROC curve of score (n,), with weights positive (n,) and negative (n,) of the outcomes 1 and 0 per cell."""
    outcome = np.repeat([1, 0], len(score))
    return float(roc_auc_score(outcome, np.r_[score, score], sample_weight=np.r_[positive, negative]))


def kl(q: Vector, p: Vector) -> float:
    """KL(Q || P) in nats for weights q (n,) and p (n,); infinite where q has weight and p has none."""
    return float(rel_entr(q / q.sum(), p / p.sum()).sum())


def _counted(metric: str, y: Vector) -> Vector:
    if metric not in ("fpr", "fnr"):
        raise ValueError(f"metric must be fpr or fnr, not {metric!r}")
    return 1 - y if metric == "fpr" else y


def _check(**weights: Vector) -> None:
    for name, p in weights.items():
        if p.ndim != 1 or not np.isfinite(p).all() or (p < 0).any() or p.sum() <= 0:
            raise ValueError(f"{name} must be a vector of finite weights >= 0, not all 0")


def _check_shares(**shares: Vector) -> None:
    if len({v.shape for v in shares.values()}) > 1:
        raise ValueError(f"{' and '.join(shares)} must have one number per cell each")
    for name, v in shares.items():
        if v.ndim != 1 or not ((v > -1e-9) & (v < 1 + 1e-9)).all():  # a plan's rows sum to 1 up to rounding; NaN fails
            raise ValueError(f"{name} must be a vector of probabilities")
