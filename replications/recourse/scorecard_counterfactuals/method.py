"""Optimal counterfactuals for a scorecard, a regression on binned features (Navas-Palencia 2021).

A person is a row of bin numbers, codes (p,), one per feature. Each bin has a value w_ij, and x_i = w_ij is the value of the
person's bin. The score is s = b0 + sum_i b_i x_i. A counterfactual is another row of bin numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, linprog, milp
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from scipy.special import expit
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

Vector = NDArray[np.float64]
Codes = NDArray[np.int64]
Move = Literal["free", "fixed", "up", "down"]
STRICT = 1e-6  # an accepted score is at least this [released code]


# ---------------------------------------------------------------- the scorecard


@dataclass(frozen=True)
class Bins:
    """The bins of one feature: m ordinary ones, then one per special code, then one for what was missing or never seen.

    Ordinary bins of numbers are (-inf, e_1], (e_1, e_2], ..., (e_{m-1}, inf), those of words are sets of levels.
    """

    name: str
    edges: Vector  # (m - 1,) ascending, of numbers, or of the rank of a level
    special: tuple[float, ...]
    levels: Mapping[str, int] | None  # rank of each level by its mean outcome; None for numbers
    worth: Vector  # (m + specials + 1,): w_ij

    @property
    def ordinary(self) -> int:
        return len(self.edges) + 1

    def index(self, values: pd.Series) -> Codes:
        """Bin numbers (n,) of raw values (n,)."""
        return _index(values, self.edges, self.special, self.levels)

    def label(self, j: int) -> str:
        """Bin j in words."""
        if j >= self.ordinary:
            return f"code {self.special[j - self.ordinary]:g}" if j < self.ordinary + len(self.special) else "unseen"
        if self.levels is not None:
            return ", ".join(level for level, rank in self.levels.items() if np.searchsorted(self.edges, rank) == j)
        low, high = np.floor(np.r_[-np.inf, self.edges, np.inf][[j, j + 1]])
        if j == len(self.edges):
            return f"over {low:.0f}"
        return f"up to {high:.0f}" if j == 0 else f"{high:.0f}" if high == low + 1 else f"{low + 1:.0f} to {high:.0f}"

    def nearest(self, value: float, j: int) -> float:
        """The nearest whole number to `value` in ordinary bin j of whole numbers: the edge, not the middle."""
        low, high = np.floor(np.r_[-np.inf, self.edges, np.inf][[j, j + 1]])
        return float(np.clip(value, low + 1, high))


def _index(values: pd.Series, edges: Vector, special: tuple[float, ...], levels: Mapping[str, int] | None) -> Codes:
    m = len(edges) + 1
    numbers = values if levels is None else values.map(levels)
    index = np.searchsorted(edges, numbers.to_numpy(float))  # NaN sorts last
    for at, code in enumerate(special):
        index[values.to_numpy() == code] = m + at
    index[numbers.isna().to_numpy()] = m + len(special)
    return index


def fit_bins(
    values: pd.Series, y: NDArray, *, special: tuple[float, ...] = (), max_bins: int = 6, min_share: float = 0.05,
    target: Literal["binary", "continuous"] = "binary",
) -> Bins:  # fmt: skip
    """Bins of one feature from raw values (n,) and outcomes y (n,): the leaves of a decision tree, each >= min_share of the rows.

    Values of the bins are weights of evidence for a binary y (1 is the event), means of y for a continuous one. Levels of words
    are first ranked by their mean y. Raises ValueError for y of the wrong length or kind.
    """
    y = np.asarray(y, dtype=float)
    if y.shape != (len(values),) or not np.isfinite(y).all() or (target == "binary" and set(np.unique(y)) != {0, 1}):
        raise ValueError(f"y must be finite, of shape ({len(values)},), and hold both 0 and 1 if binary")
    levels = None
    if not pd.api.types.is_numeric_dtype(values):
        order = pd.Series(y, index=values.index).groupby(values).mean().sort_values(kind="stable").index
        levels = {level: rank for rank, level in enumerate(order)}
    numbers = (values if levels is None else values.map(levels)).to_numpy(float)
    regular = ~np.isin(numbers, special) & np.isfinite(numbers)
    tree = {"binary": DecisionTreeClassifier, "continuous": DecisionTreeRegressor}[target](
        max_leaf_nodes=max_bins, min_samples_leaf=int(np.ceil(min_share * len(values))), random_state=0
    )
    fitted = tree.fit(numbers[regular, None], y[regular]).tree_
    edges = np.sort(fitted.threshold[fitted.feature >= 0])
    index = _index(values, edges, special, levels)
    n_bins = len(edges) + 2 + len(special)
    measure = weight_of_evidence if target == "binary" else bin_means
    return Bins(str(values.name), edges, special, levels, measure(index, y, n_bins))


def weight_of_evidence(index: Codes, y: NDArray, n_bins: int) -> Vector:
    """w_j (n_bins,) = ln of the share of non-events (y = 0) in bin j over the share of events; 0 for an empty bin."""
    events, non_events = (np.bincount(index[y == v], minlength=n_bins) for v in (1, 0))
    # half a person in either count keeps the logarithm finite; w_j = ln (n_0j / n_0) / (n_1j / n_1)
    w = np.log((non_events + 0.5) / (y == 0).sum()) - np.log((events + 0.5) / (y == 1).sum())
    return np.where(events + non_events > 0, w, 0.0)


def bin_means(index: Codes, y: NDArray, n_bins: int) -> Vector:
    """w_j (n_bins,) = mean of y in bin j; the mean of all y for an empty bin."""
    n = np.bincount(index, minlength=n_bins)
    return np.where(n > 0, np.bincount(index, y, n_bins) / np.maximum(n, 1), y.mean())


def information_value(bins: Bins, values: pd.Series, y: NDArray) -> float:
    """sum_j (share of non-events in bin j - share of events in bin j) w_j, >= 0: how much a feature tells of y."""
    index = bins.index(values)
    shares = [np.bincount(index[y == v], minlength=len(bins.worth)) / (y == v).sum() for v in (0, 1)]
    return float((shares[0] - shares[1]) @ bins.worth)


@dataclass(frozen=True)
class Scorecard:
    """s = intercept + coef . x over p binned features, and what is known of the rows it was fitted on."""

    bins: tuple[Bins, ...]
    intercept: float
    coef: Vector  # (p,)
    mean: Vector  # (p,), of x over the rows
    factor: Vector  # (p, p) lower triangular F, with F F' the inverse covariance of x

    def codes(self, frame: pd.DataFrame) -> Codes:
        """Bin numbers (n, p) of raw rows."""
        return np.stack([b.index(frame[b.name]) for b in self.bins], axis=1)

    def values(self, codes: Codes) -> Vector:
        """x (..., p) of bin numbers (..., p)."""
        return np.stack([b.worth[codes[..., i]] for i, b in enumerate(self.bins)], axis=-1)

    def score(self, codes: Codes) -> Vector:
        """s (...) of bin numbers (..., p): log-odds of y = 1 for a binary outcome, y itself for a continuous one."""
        return self.intercept + self.values(codes) @ self.coef

    def span(self) -> tuple[float, float]:
        """The lowest and the highest score of any row."""
        points = [b.worth * c for b, c in zip(self.bins, self.coef, strict=True)]
        return self.intercept + sum(p.min() for p in points), self.intercept + sum(p.max() for p in points)

    def units(self, of: Literal["points", "values"] = "points") -> Vector:
        """r_i (p,): 1 / range over the bins of b_i w_ij, as in the released code, or of w_ij, so that a feature's range costs 1."""
        scale = np.abs(self.coef) if of == "points" else np.ones(len(self.bins))
        return 1 / (scale * np.array([np.ptp(b.worth) for b in self.bins]))


def fit_scorecard(
    bins: list[Bins], frame: pd.DataFrame, y: NDArray, *, target: Literal["binary", "continuous"] = "binary"
) -> Scorecard:
    """Regress y (n,) on the bins' values of the rows: logistic with a weak L2 penalty, or least squares."""
    x = np.stack([b.worth[b.index(frame[b.name])] for b in bins], axis=1)  # (n, p)
    model = LogisticRegression(C=100, max_iter=1000) if target == "binary" else LinearRegression()
    model.fit(x, y)
    return Scorecard(tuple(bins), float(np.ravel(model.intercept_)[0]), np.ravel(model.coef_), *centre(x))


def centre(x: Vector) -> tuple[Vector, Vector]:
    """Mean (p,) and factor F (p, p) of rows x (n, p): F F' = inverse covariance. Raises ValueError for a singular covariance."""
    covariance = np.atleast_2d(np.cov(x.T))
    if np.linalg.matrix_rank(covariance) < x.shape[1]:
        raise ValueError("x has a singular covariance: leave out a feature that is constant or follows from others")
    return x.mean(axis=0), np.linalg.cholesky(np.linalg.inv(covariance))


# ---------------------------------------------------------------- a query, and what an answer costs


class Query(NamedTuple):
    """One person: bin numbers start (p,), and per feature the bins that may be moved to, as p arrays of bin numbers."""

    start: Codes
    offers: tuple[Codes, ...]


def query(card: Scorecard, start: Codes, moves: list[Move]) -> Query:
    """The ordinary bins that a person may move to: those of another value, on the allowed side for `up` and `down`.

    Who stands in a special or unseen bin has no value there to move from. Raises ValueError for bins that do not exist.
    """
    sizes = [len(b.worth) for b in card.bins]
    if start.shape != (len(sizes),) or (start < 0).any() or (start >= sizes).any():
        raise ValueError(f"start must hold one bin number per feature, below {sizes}")
    offers = []
    for b, j, move in zip(card.bins, start, moves, strict=True):
        to = np.arange(b.ordinary)
        allowed = {"free": to >= 0, "fixed": to < 0, "up": to > j, "down": to < j}[move]
        offers.append(to[allowed & (b.worth[to] != b.worth[j]) & (j < b.ordinary)])
    return Query(start, tuple(offers))


def proximity(card: Scorecard, start: Codes, codes: Codes, unit: Vector) -> Vector:
    """sum_i r_i |x_i - x'_i| (...) from start (p,) to codes (..., p)."""
    return np.abs(card.values(codes) - card.values(start)) @ unit


def closeness(card: Scorecard, codes: Codes) -> Vector:
    """|| F' (x' - mu) ||_1 (...) of codes (..., p): an L1 Mahalanobis distance to the centre of the rows."""
    return np.abs((card.values(codes) - card.mean) @ card.factor).sum(axis=-1)


# ---------------------------------------------------------------- the mixed-integer programme


@dataclass
class Program:
    """A mixed-integer programme in the making: columns with bounds, rows low <= A v <= high."""

    bounds: list[tuple[float, float, bool]] = field(default_factory=list)  # low, high, whole number
    rows: list[tuple[NDArray, NDArray, float, float]] = field(default_factory=list)  # columns, coefficients, low, high

    def columns(self, n: int, low: float = 0.0, high: float = np.inf, *, whole: bool = False) -> NDArray:
        """Add n columns; their numbers (n,)."""
        first = len(self.bounds)
        self.bounds += [(low, high, whole)] * n
        return np.arange(first, first + n)

    def row(self, *terms: tuple, low: float = -np.inf, high: float = np.inf) -> None:
        """Add low <= sum of the terms <= high; a term is (columns, coefficients), numbers or arrays."""
        pairs = [np.broadcast_arrays(np.atleast_1d(c), v) for c, v in terms]
        self.rows.append((np.concatenate([c for c, _ in pairs]), np.concatenate([v for _, v in pairs]).astype(float), low, high))

    def solve(self, cost: Vector, node_limit: int, *, relax: bool = False) -> OptimizeResult:
        """Minimise cost . v with HiGHS, relative gap 0; scipy's result. `relax` drops the whole numbers."""
        low, high, whole = (np.array(v) for v in zip(*self.bounds, strict=True))
        at = np.repeat(np.arange(len(self.rows)), [len(c) for c, *_ in self.rows])
        columns, values = (np.concatenate([r[part] for r in self.rows]) for part in (0, 1))
        matrix = csr_array((values, (at, columns)), shape=(len(self.rows), len(low)))
        rows = LinearConstraint(matrix, [r[2] for r in self.rows], [r[3] for r in self.rows])
        # presolve costs more than it saves on programmes this small
        options = {"node_limit": node_limit, "mip_rel_gap": 0.0, "presolve": False}
        return milp(cost, integrality=whole * (not relax), bounds=Bounds(low, high), constraints=rows, options=options)


class Outcome(NamedTuple):
    """What is asked of the answer: low <= f <= high, f the score or its probability, and the `aim` of the soft |f - aim|."""

    low: float = STRICT
    high: float = np.inf
    of: Literal["score", "probability"] = "score"
    aim: float | None = None


ACCEPT = Outcome()  # a score of at least 1e-6


class Solution(NamedTuple):
    """`codes` (k, p) is None unless one was found; `objectives` are sums over the k answers; gap is relative."""

    status: Literal["optimal", "limit", "infeasible"]
    codes: Codes | None
    objectives: dict[str, float]
    gap: float
    nodes: int


Objectives = Mapping[Literal["proximity", "closeness", "outcome", "features", "values"], float]
BOTH: Objectives = {"proximity": 1.0, "closeness": 1.0}


def solve(
    card: Scorecard, asked: Query, unit: Vector, *, objectives: Objectives = BOTH,
    order: Literal["weighted", "hierarchical"] = "weighted", max_changes: int = 3, k: int = 1, outcome: Outcome = ACCEPT,
    diverse: tuple[str, ...] = (), tolerance: float = 0.1, node_limit: int = 5000, relax: bool = False,
) -> Solution:  # fmt: skip
    """The k best counterfactuals at once, each of at most `max_changes` moves. unit (p,) are the r_i.

    objectives: weights; `features` and `values` are soft diversity, which is maximised. `hierarchical` solves them in falling
    order of weight, each later one with the earlier ones within `tolerance` of their optimum. diverse: hard diversity of
    "features" (another set of moved features) or "values" (never the same bin twice). `relax` rounds the relaxation instead.
    Raises ValueError for k < 1, max_changes < 0, unknown objectives or kinds of diversity, a unit that is not p positive numbers,
    and `outcome` without an aim.
    """
    kinds = {"features", "values"}
    unknown = (set(objectives) - kinds - {"proximity", "closeness", "outcome"}) | (set(diverse) - kinds)
    if k < 1 or max_changes < 0 or unknown:
        raise ValueError(f"k must be >= 1, max_changes >= 0, and objectives and diverse of known names, not {sorted(unknown)}")
    if unit.shape != (len(card.bins),) or not (np.isfinite(unit) & (unit > 0)).all():
        raise ValueError(f"unit must hold {len(card.bins)} positive numbers, one per feature")
    if "outcome" in objectives and outcome.aim is None:
        raise ValueError("outcome must have an aim where it is an objective")
    program = Program()
    copies = [_copy(program, card, asked, unit, max_changes, outcome) for _ in range(k)]
    terms = {name: [c[name] for c in copies] for name in ("proximity", "closeness", "outcome")}
    terms |= _diversity(program, asked, copies, diverse)
    costs = {name: _dense(len(program.bounds), terms[name]) for name in objectives}
    nodes, proven = 0, True
    if order == "weighted":
        steps = [sum(weight * costs[name] for name, weight in objectives.items())]
    else:
        steps = [costs[name] for name in sorted(objectives, key=lambda name: -objectives[name])]
    for cost in steps:
        found = program.solve(cost, node_limit, relax=relax)
        nodes += found.mip_node_count or 0
        proven &= found.status == 0
        if found.x is None:
            return Solution("infeasible" if found.status == 2 else "limit", None, {}, np.inf, nodes)
        # |obj - obj*| <= tolerance |obj*|
        program.row(
            (np.arange(len(cost)), cost), low=found.fun - tolerance * abs(found.fun), high=found.fun + tolerance * abs(found.fun)
        )
    codes = np.stack([_chosen(asked, c["z"], found.x) for c in copies])
    objectives = {name: float(c @ found.x) for name, c in costs.items()}
    return Solution("optimal" if proven else "limit", codes, objectives, float(found.mip_gap or 0), nodes)


def _copy(program: Program, card: Scorecard, asked: Query, unit: Vector, max_changes: int, outcome: Outcome) -> dict:
    """The columns and rows of one counterfactual; its objectives as terms, its z_ij (a list of p arrays) and a_i (p,)."""
    p, x = len(unit), card.values(asked.start)
    z = [program.columns(len(bins), high=1, whole=True) for bins in asked.offers]
    a, moved = program.columns(p, high=1), program.columns(p, low=-np.inf)
    t, m = program.columns(2 * p), program.columns(2 * p)  # t+ then t-, m+ then m-
    for i, bins in enumerate(asked.offers):
        # a_i = sum_j z_ij <= 1
        program.row((a[i], 1), (z[i], -1), low=0, high=0)
        # x'_i = x_i + sum_j (w_ij - x_i) z_ij
        program.row((moved[i], 1), (z[i], -(card.bins[i].worth[bins] - x[i])), low=x[i], high=x[i])
        # t+ - t- = x_i - x'_i
        program.row((t[i], 1), (t[p + i], -1), (moved[i], 1), low=x[i], high=x[i])
        # m+ - m- = sum_j F_ji (x'_j - mu_j)
        level = -card.factor[:, i] @ card.mean
        program.row((m[i], 1), (m[p + i], -1), (moved, -card.factor[:, i]), low=level, high=level)
    # sum_i a_i <= c
    program.row((a, 1), high=max_changes)
    return {
        "z": z, "a": a, "proximity": (t, np.tile(unit, 2)), "closeness": (m, np.ones(2 * p)),
        "outcome": _outcome(program, card, moved, outcome),
    }  # fmt: skip


def _outcome(program: Program, card: Scorecard, moved: NDArray, outcome: Outcome) -> tuple:
    """Rows that hold the outcome within its bounds; the soft objective |f - aim| as a term."""
    f, bounds = (moved, card.coef), np.array([outcome.low, outcome.high]) - card.intercept  # s - b0 = b . x'
    shift = card.intercept
    if outcome.of == "probability":
        knots, level, slope = piecewise_sigmoid(*card.span())
        s, h = program.columns(len(slope), high=1, whole=True), program.columns(len(slope), low=-np.inf)
        # one segment: sum s_r = 1, sum h_r = b0 + b . x', knot_r s_r <= h_r <= knot_r+1 s_r
        program.row((s, 1), low=1, high=1)
        program.row((h, 1), (moved, -card.coef), low=card.intercept, high=card.intercept)
        for r in range(len(slope)):
            program.row((h[r], 1), (s[r], -knots[r]), low=0)
            program.row((h[r], 1), (s[r], -knots[r + 1]), high=0)
        # f = sum_r slope_r h_r + level_r s_r
        f, bounds, shift = (np.r_[h, s], np.r_[slope, level]), np.array([outcome.low, outcome.high]), 0.0
    program.row(f, low=bounds[0], high=bounds[1])
    if outcome.aim is None:
        return (), ()
    q = program.columns(2)
    # q+ - q- = f - aim
    program.row((q, [1, -1]), (f[0], -f[1]), low=shift - outcome.aim, high=shift - outcome.aim)
    return q, np.ones(2)


def piecewise_sigmoid(low: float, high: float, segments: int = 15, points: int = 100) -> tuple[Vector, Vector, Vector]:
    """Knots (segments + 1,), levels and slopes (segments,) of the continuous piecewise linear L1 fit to the sigmoid."""
    knots, s = np.linspace(low, high, segments + 1), np.linspace(low, high, points)
    hats = np.maximum(1 - np.abs(s[:, None] - knots) / (knots[1] - knots[0]), 0)  # (points, knots), linear interpolation
    eye = np.eye(points)
    # min sum |hats v - sigmoid|
    fit = linprog(
        np.r_[np.zeros(segments + 1), np.ones(2 * points)], A_eq=np.hstack([hats, eye, -eye]), b_eq=expit(s),
        bounds=[(0, 1)] * (segments + 1) + [(0, None)] * (2 * points),
    )  # fmt: skip
    v = fit.x[: segments + 1]
    slope = np.diff(v) / np.diff(knots)
    return knots, v[:-1] - slope * knots[:-1], slope


def _diversity(program: Program, asked: Query, copies: list[dict], diverse: tuple[str, ...]) -> dict:
    """u and d for every pair of copies, hard rows where asked, and minus their sums as soft terms."""
    soft = {"features": [], "values": []}
    for first, second in combinations(copies, 2):
        u = np.array([_xor(program, a, b) for a, b in zip(first["a"], second["a"], strict=True)])
        soft["features"].append((u, -np.ones(len(u))))
        if "features" in diverse:
            program.row((u, 1), low=1)  # sum_i u_i >= 1
        for i in range(len(asked.offers)):
            d = np.array([_xor(program, a, b) for a, b in zip(first["z"][i], second["z"][i], strict=True)], dtype=int)
            soft["values"].append((d, -np.ones(len(d))))
            if "values" in diverse and len(d):
                program.row((d, 1), ([first["a"][i], second["a"][i]], -1), low=-1)  # sum_j d_ij >= a_ki + a_li - 1
    return soft


def _xor(program: Program, a: int, b: int) -> int:
    u = program.columns(1, high=1, whole=True)[0]
    program.row((u, 1), (a, -1), (b, -1), high=0)  # u <= a + b
    program.row((u, 1), (a, 1), (b, 1), high=2)  # u <= 2 - a - b
    program.row((u, 1), (a, -1), (b, 1), low=0)  # u >= a - b
    program.row((u, 1), (a, 1), (b, -1), low=0)  # u >= b - a
    return u


def _dense(n: int, terms: list[tuple]) -> Vector:
    cost = np.zeros(n)
    for columns, values in terms:
        cost[np.asarray(columns, dtype=int)] += values
    return cost


def _chosen(asked: Query, z: list[NDArray], v: Vector) -> Codes:
    """Bin numbers (p,) that columns v say; for a relaxation, the largest share of a feature that moves by half or more."""
    codes = asked.start.copy()
    for i, columns in enumerate(z):
        if len(columns) and v[columns].sum() >= 0.5:
            codes[i] = asked.offers[i][v[columns].argmax()]
    return codes


# ---------------------------------------------------------------- the judge: enumeration


def enumerate_moves(asked: Query, max_changes: int) -> Codes:
    """Every row (m, p) that at most `max_changes` moves can reach, the start among them."""
    rows, changes = asked.start[None], np.zeros(1, dtype=int)
    for i, bins in enumerate(asked.offers):
        open_ = np.flatnonzero(changes < max_changes)
        more = np.repeat(rows[open_], len(bins), axis=0)
        more[:, i] = np.tile(bins, len(open_))
        rows, changes = np.vstack([rows, more]), np.r_[changes, np.repeat(changes[open_] + 1, len(bins))]
    return rows


def accepted(card: Scorecard, codes: Codes) -> NDArray[np.bool_]:
    """Which rows (..., p) the scorecard itself accepts: s >= 1e-6."""
    return card.score(codes) >= STRICT


def compatible(start: Codes, codes: Codes, diverse: tuple[str, ...]) -> NDArray[np.bool_]:
    """Which pairs of rows (m, p) are diverse, (m, m): "features": other features move; "values": none moves to the same bin."""
    moved = codes != start
    good = np.ones((len(codes), len(codes)), dtype=bool)
    if "features" in diverse:
        sets = moved @ (1 << np.arange(moved.shape[1]))
        good &= sets[:, None] != sets
    if "values" in diverse:
        for i in range(moved.shape[1]):
            good &= ~((codes[:, None, i] == codes[:, i]) & moved[:, i])
    return good


def sequential_set(good: NDArray[np.bool_], k: int) -> list[int] | None:
    """One by one the cheapest row that is diverse from all before, of rows sorted by cost; None where they run out."""
    chosen, open_ = [], np.ones(len(good), dtype=bool)
    for _ in range(k):
        if not open_.any():
            return None
        chosen.append(int(open_.argmax()))
        open_ &= good[chosen[-1]]
        open_[chosen[-1]] = False
    return chosen


def best_set(cost: Vector, good: NDArray[np.bool_], k: int) -> list[int] | None:
    """The k diverse rows of the least total cost, exactly, by branch and bound; cost (m,) ascending. None where there are none."""
    best, total = sequential_set(good, k), np.inf
    if best is not None:
        total = cost[best].sum()

    def extend(chosen: list[int], open_: NDArray, spent: float) -> None:
        nonlocal best, total
        left = k - len(chosen)
        if left == 0:
            best, total = chosen, spent
            return
        for at, i in enumerate(open_):
            if spent + left * cost[i] >= total - 1e-12:  # all that follow cost at least as much
                return
            rest = open_[at + 1 :]
            extend([*chosen, int(i)], rest[good[i, rest]], spent + cost[i])

    extend([], np.arange(len(cost)), 0.0)
    return best


def soft_sets(cost: Vector, start: Codes, codes: Codes, weight: float) -> tuple[float, float]:
    """Three rows at once, and one by one, under soft diversity: sum of costs - weight x sum over pairs of u, at its least.

    u counts the features that one row of a pair moves and the other does not. cost (m,) of codes (m, p), in any order. Rows of
    one feature set are alike but for their cost, so that the cheapest of each set is enough.
    """
    moved = codes != start
    order = np.argsort(cost, kind="stable")
    _, first = np.unique(moved[order] @ (1 << np.arange(moved.shape[1])), return_index=True)
    cost, moved = cost[order[first]], moved[order[first]]
    gain = weight * (moved[:, None] != moved).sum(axis=-1)  # (sets, sets)
    pair = cost[:, None] + cost - gain
    joint = (pair[:, :, None] + cost - gain[:, None, :] - gain[None, :, :]).min()
    one = cost.argmin()
    two = pair[one].argmin()
    return float(joint), float((pair[one, two] + cost - gain[one] - gain[two]).min())


# ---------------------------------------------------------------- cheap rivals; each gives codes (p,), or None where it fails


def greedy(card: Scorecard, asked: Query, unit: Vector, max_changes: int, by: Literal["ratio", "gain"]) -> Codes | None:
    """Take, again and again, the one move with the most gain of score (`gain`), or gain per cost (`ratio`), until accepted.

    Gain beyond what is still missing counts for nothing; the last move is the cheapest that is enough, where there is one.
    """
    codes = asked.start
    for left in range(max_changes, 0, -1):
        open_ = tuple(bins if codes[i] == asked.start[i] else bins[:0] for i, bins in enumerate(asked.offers))
        steps = enumerate_moves(Query(codes, open_), 1)[1:]
        if len(steps) == 0 or accepted(card, codes):
            break
        cost, gain, enough = proximity(card, codes, steps, unit), card.score(steps) - card.score(codes), accepted(card, steps)
        if left == 1 and enough.any():
            codes = steps[np.where(enough, cost, np.inf).argmin()]
            break
        useful = np.minimum(gain, STRICT - card.score(codes))
        # all bins of a feature share one gain per cost, up to rounding: then the longest step
        keys = (gain, (useful / cost).round(9)) if by == "ratio" else (-cost, useful.round(9))
        codes = steps[np.lexsort(keys)[-1]]
    return codes if accepted(card, codes) else None


def prune(card: Scorecard, asked: Query, unit: Vector, codes: Codes) -> Codes:
    """Make one moved feature cheaper, or undo it, by what saves most, as long as the row stays accepted."""
    while True:
        moved = np.flatnonzero(codes != asked.start)
        options = [np.where(np.arange(len(codes)) == i, j, codes) for i in moved for j in [asked.start[i], *asked.offers[i]]]
        options = np.array([codes, *options])
        cost = np.where(accepted(card, options), proximity(card, asked.start, options, unit), np.inf)
        if cost.min() >= cost[0] - 1e-12:
            return codes
        codes = options[cost.argmin()]


def random_search(
    card: Scorecard, asked: Query, unit: Vector, max_changes: int, rng: np.random.Generator, tries: int = 200, pruned: int = 5
) -> Codes | None:
    """Of `tries` random rows of `max_changes` moves, prune the cheapest few that are accepted (DiCE-random, in bins)."""
    movable = [i for i, bins in enumerate(asked.offers) if len(bins)]
    if not movable:
        return None
    rows = np.tile(asked.start, (tries, 1))
    for row in rows:
        for i in rng.permutation(movable)[:max_changes]:
            row[i] = rng.choice(asked.offers[i])
    rows = rows[accepted(card, rows)]
    if len(rows) == 0:
        return None
    cheapest = rows[np.argsort(proximity(card, asked.start, rows, unit), kind="stable")[:pruned]]
    better = np.array([prune(card, asked, unit, codes) for codes in cheapest])
    return better[proximity(card, asked.start, better, unit).argmin()]


def nearest_row(card: Scorecard, asked: Query, unit: Vector, rows: Codes, max_changes: int) -> Codes | None:
    """The cheapest accepted row of `rows` (n, p) that the allowed moves reach."""
    reached = [(rows[:, i] == asked.start[i]) | np.isin(rows[:, i], bins) for i, bins in enumerate(asked.offers)]
    usable = np.all(reached, axis=0) & ((rows != asked.start).sum(axis=1) <= max_changes) & accepted(card, rows)
    if not usable.any():
        return None
    rows = rows[usable]
    return rows[proximity(card, asked.start, rows, unit).argmin()]


# ---------------------------------------------------------------- outside measures of realism


def neighbour_distance(codes: Codes, rows: Codes, nth: int = 5) -> NDArray:
    """In how many features each of codes (m, p) differs from its nth nearest of rows (n, p): (m,)."""
    return np.array([np.partition((rows != c).sum(axis=1), nth - 1)[nth - 1] for c in codes])


def chow_liu(rows: Codes, sizes: list[int], smooth: float = 0.5) -> list[tuple[int, int, Vector]]:
    """The best tree of pairs for rows (n, p) with sizes[i] bins (Chow & Liu 1968).

    A list of (i, parent, log P(i | parent)), the table (bins of the parent, bins of i); the root's parent is itself, and its
    table is the same in every row. `smooth` is added to each count.
    """
    p = len(sizes)

    def joint(i: int, j: int) -> Vector:
        pair = np.bincount(rows[:, i] * sizes[j] + rows[:, j], minlength=sizes[i] * sizes[j]).reshape(sizes[i], sizes[j]) + smooth
        return pair / pair.sum()

    information = np.zeros((p, p))
    for i, j in combinations(range(p), 2):
        q = joint(i, j)
        information[i, j] = (q * np.log(q / np.outer(q.sum(axis=1), q.sum(axis=0)))).sum()
    tree = minimum_spanning_tree(-information)
    order, parents = breadth_first_order(tree, 0, directed=False)
    alone = np.bincount(rows[:, 0], minlength=sizes[0]) + smooth
    parts = [(0, 0, np.tile(np.log(alone / alone.sum()), (sizes[0], 1)))]
    for i in order[1:]:
        q = joint(parents[i], i)
        parts.append((int(i), int(parents[i]), np.log(q / q.sum(axis=1, keepdims=True))))
    return parts


def log_density(tree: list[tuple[int, int, Vector]], codes: Codes) -> Vector:
    """log P (m,) of rows codes (m, p) in nats."""
    return sum(table[codes[:, parent], codes[:, i]] for i, parent, table in tree)
