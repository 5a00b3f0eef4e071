"""Explanations of contextual decisions by counterfactual contexts (Forel, Parmentier & Vidal 2023).

A history is n pairs of a context, a row of X (n, p) scaled to [0, 1], and an outcome, a row of Y (n, q), such as demands or travel
times. In a context x (p,) the pairs get weights w(x) (n,), >= 0 with sum 1, and the decision z*(x) is the one of the least
weighted cost. Asked "why not z_alt?", the answer is the nearest context in which z_alt would be at least as good as z*(x0)
(a relative explanation), or as good as any decision (an absolute one). Distances are L1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import highspy
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, hstack, vstack
from scipy.sparse.csgraph import dijkstra
from scipy.special import ndtr, ndtri

Vector = NDArray[np.float64]
Status = Literal["optimal", "limit", "infeasible"]
SLACK = 1e-9  # by which a mean may be missed, as a share of its largest coefficient; the solver itself allows 1e-6
TIE = 1e-3  # a neighbour is at least this much nearer than who is not one [released code]
AS_GOOD = 1e-6  # a decision is as good as another when its cost is at most this much higher


# ---------------------------------------------------------------- decisions: z*(x) = argmin_z sum_i w_i(x) c(z, y_i)


class Decisions(Protocol):
    """A decision problem on a history of n outcomes. A decision is an array of numbers."""

    def cost(self, z: Vector) -> Vector:
        """c(z, y_i) (n,) of decision z in every outcome of the history."""

    def decide(self, w: Vector) -> Vector:
        """argmin_z sum_i w_i c(z, y_i) for weights w (n,)."""


class Newsvendor:
    """Order quantities z (q,) >= 0 of q products within a budget: sum_k z_k <= budget. Costs are money, quantities units."""

    def __init__(self, demand: Vector, over: Vector, under: Vector, budget: float):
        """demand (n, q) >= 0; over, under (q,) > 0: cost of one unit too many and too few. Raises ValueError otherwise."""
        if demand.ndim != 2 or not (np.isfinite(demand).all() and (demand >= 0).all()):
            raise ValueError("demand must be of shape (n, q), finite and not negative")
        if over.shape != demand.shape[1:] or under.shape != over.shape or not ((over > 0).all() and (under > 0).all()):
            raise ValueError(f"over and under must hold {demand.shape[1]} positive numbers each")
        if not budget > 0:
            raise ValueError(f"budget must be positive, not {budget}")
        self.demand, self.over, self.under, self.budget = demand, over, under, budget
        self._order = np.argsort(demand, axis=0, kind="stable")
        self._lengths = np.diff(np.take_along_axis(demand, self._order, axis=0), axis=0, prepend=0.0)  # (n, q)

    def cost(self, z: Vector) -> Vector:
        # c(z, y) = sum_k over_k (z_k - y_k)+ + under_k (y_k - z_k)+
        return np.maximum(z - self.demand, 0) @ self.over + np.maximum(self.demand - z, 0) @ self.under

    def decide(self, w: Vector) -> Vector:
        """Exact: the cost of product k is linear between demands, with slope over_k F - under_k (1 - F); steepest fall first."""
        below = np.vstack([np.zeros(len(self.over)), np.cumsum(w[self._order], axis=0)[:-1]])  # F on each piece, (n, q)
        slope = self.over * below - self.under * (1 - below)
        steepest = np.argsort(slope, axis=None, kind="stable")
        length = np.where(slope < -1e-12, self._lengths, 0.0).ravel()[steepest]
        spent = np.cumsum(length)
        taken = np.empty(slope.size)
        taken[steepest] = np.clip(self.budget - (spent - length), 0, length)
        return taken.reshape(slope.shape).sum(axis=0)


class ShortestPath:
    """Paths z (q,), 1 on the arcs that they use, from a source to a target; outcomes are the times (n, q) > 0 of the arcs."""

    def __init__(self, times: Vector, arcs: NDArray[np.int64], source: int, target: int):
        """arcs (q, 2): tail and head, nodes numbered from 0. Raises ValueError for wrong shapes or times."""
        if times.ndim != 2 or not (np.isfinite(times).all() and (times > 0).all()):
            raise ValueError("times must be of shape (n, q), finite and positive")
        if arcs.shape != (times.shape[1], 2):
            raise ValueError(f"arcs must be of shape ({times.shape[1]}, 2), not {arcs.shape}")
        self.times, self.arcs, self.source, self.target = times, arcs, source, target
        self.nodes = int(arcs.max()) + 1
        self._at = {(int(a), int(b)): k for k, (a, b) in enumerate(arcs)}

    def cost(self, z: Vector) -> Vector:
        return self.times @ z

    def decide(self, w: Vector) -> Vector:
        """Dijkstra on the weighted mean times: the cost is linear. Raises ValueError where no path exists."""
        graph = csr_array((w @ self.times, self.arcs.T), shape=(self.nodes, self.nodes))
        _, before = dijkstra(graph, indices=self.source, return_predecessors=True)
        z, node = np.zeros(len(self.arcs)), self.target
        while node != self.source:
            if before[node] < 0:
                raise ValueError(f"arcs hold no path from {self.source} to {self.target}")
            z[self._at[int(before[node]), int(node)]] = 1.0
            node = before[node]
        return z


class Choice:
    """A list of m decisions of another problem, z the number of one: (1,). Nothing else may be decided."""

    def __init__(self, problem: Decisions, options: Sequence[Vector]):
        self._costs = np.stack([problem.cost(z) for z in options])  # (m, n)

    def cost(self, z: Vector) -> Vector:
        return self._costs[int(z[0])]

    def decide(self, w: Vector) -> Vector:
        return np.array([float((self._costs @ w).argmin())])


def grid(length: int) -> NDArray[np.int64]:
    """Arcs (2 length (length - 1), 2) to the right and down of a square grid; the first node is 0, the last length^2 - 1."""
    node = np.arange(length**2).reshape(length, length)
    right = np.stack([node[:, :-1].ravel(), node[:, 1:].ravel()], axis=1)
    return np.vstack([right, np.stack([node[:-1].ravel(), node[1:].ravel()], axis=1)])


# ---------------------------------------------------------------- the solver


class Nearest(NamedTuple):
    """The nearest point (p,) that qualifies, None where none is known.

    `limit`: not proven, `point` is the best known. bound: no qualifying point is nearer. nodes, iterations: of branch and bound and
    of the simplex method, over all programmes that were solved.
    """

    status: Status
    point: Vector | None
    distance: float
    bound: float
    nodes: int
    iterations: int


class Solved(NamedTuple):
    """What the solver found: the columns v, None where none is known, their cost, and a lower bound on the least cost."""

    status: Status
    v: Vector | None
    value: float
    bound: float
    nodes: int
    iterations: int


def minimise(
    cost: Vector, low: Vector, high: Vector, whole: NDArray[np.bool_], rows: csr_array, row_low: Vector, row_high: Vector,
    node_limit: int,
) -> Solved:  # fmt: skip
    """min cost . v, low <= v <= high, row_low <= rows v <= row_high, v whole where asked: HiGHS, one thread, gap 0."""
    solver = highspy._Highs()  # exported by highspy; its child highspy.Highs prints a banner before it can be told not to
    options = {
        "output_flag": False, "threads": 1, "presolve": "off", "mip_rel_gap": 0.0, "mip_abs_gap": 1e-7, "mip_max_nodes": node_limit,
    }  # fmt: skip
    for name, value in options.items():
        solver.setOptionValue(name, value)
    solver.passModel(
        rows.shape[1], rows.shape[0], rows.nnz, int(highspy.MatrixFormat.kRowwise), int(highspy.ObjSense.kMinimize), 0.0, cost,
        low, high, row_low, row_high, rows.indptr.astype(np.int32), rows.indices.astype(np.int32), rows.data,
        whole.astype(np.int32),
    )  # fmt: skip
    solver.run()
    status, info = solver.getModelStatus(), solver.getInfo()
    nodes, iterations = max(int(info.mip_node_count), 0), int(info.simplex_iteration_count)
    if status in (highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnboundedOrInfeasible):
        return Solved("infeasible", None, np.inf, np.inf, nodes, iterations)
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    v = np.array(solver.getSolution().col_value) if found else None
    value = float(info.objective_function_value) if found else np.inf
    proven = status == highspy.HighsModelStatus.kOptimal
    return Solved("optimal" if proven else "limit", v, value, float(info.mip_dual_bound), nodes, iterations)


# ---------------------------------------------------------------- the nearest point of a tree ensemble


def _float32_below(c: Vector) -> Vector:
    """The largest float32 <= c: trees compare float32(x) <= c, so nothing changes when c is replaced by it."""
    rounded = c.astype(np.float32)
    return np.where(rounded > c, np.nextafter(rounded, np.float32(-np.inf)), rounded).astype(float)


@dataclass(frozen=True)
class Forest:
    """T trees as the fixed part of a programme: binaries b_fj = 1[x_f > c_fj], then one y_v per leaf v of all trees.

    cuts: per feature, ascending; levels: per feature the values that it may have, None for any number; leaf_of: per tree, the
    leaf (0 ... n_leaves - 1, over all trees) of a node, -1 for inner ones; rows: (m, cuts + leaves).
    """

    trees: tuple
    cuts: tuple[Vector, ...]
    levels: tuple[Vector | None, ...]
    leaf_of: tuple[NDArray[np.int64], ...]
    rows: csr_array
    row_low: Vector
    row_high: Vector

    @property
    def n_cuts(self) -> int:
        return sum(map(len, self.cuts))

    @property
    def n_leaves(self) -> int:
        return self.rows.shape[1] - self.n_cuts

    def leaves(self, x: Vector) -> NDArray[np.int64]:
        """The leaf of each tree, (m, T), for points x (m, p)."""
        x = x.astype(np.float32)
        return np.stack([leaf[tree.apply(x)] for tree, leaf in zip(self.trees, self.leaf_of, strict=True)], axis=1)


def forest(
    trees: Sequence, n_features: int, *, levels: Mapping[int, Vector] | None = None, groups: Sequence[Sequence[int]] = ()
) -> Forest:
    """Lay out fitted scikit-learn trees (their `tree_`) for `nearest`; done once per ensemble.

    levels: the values, ascending, of a column that is not any number, such as k / range for integers. groups: one-hot columns of
    which exactly one is 1; their levels are 0 and 1. Raises ValueError for no trees, or columns out of range.
    """
    used = [*(levels or {}), *(f for group in groups for f in group)]
    if len(trees) == 0 or any(not 0 <= f < n_features for f in used) or max(t.feature.max() for t in trees) >= n_features:
        raise ValueError(f"trees must hold a tree, and columns must lie below n_features = {n_features}")
    binary = dict.fromkeys((f for group in groups for f in group), np.array([0.0, 1.0]))
    values = tuple((binary | dict(levels or {})).get(f) for f in range(n_features))
    below = [_cut_below(tree, values) for tree in trees]
    # a group's columns need their b, whether or not a tree asks for them
    asked = [np.concatenate([c[t.feature == f] for t, c in zip(trees, below, strict=True)]) for f in range(n_features)]
    cuts = tuple(np.unique(np.r_[a, 0.0] if f in binary else a) for f, a in enumerate(asked))
    first = np.cumsum([0, *map(len, cuts)])
    terms: list[tuple[list, list, float, float]] = []
    for f, c in enumerate(cuts):
        # b_fj >= b_f,j+1
        terms += [([j, j + 1], [1, -1], 0, np.inf) for j in range(first[f], first[f] + len(c) - 1)]
    # one-hot: sum_f x_f = 1
    terms += [([first[f] for f in group], [1] * len(group), 1, 1) for group in groups]
    leaf_of, at = [], int(first[-1])
    for tree, c in zip(trees, below, strict=True):
        inner = tree.children_left >= 0
        leaf = np.where(inner, -1, at - first[-1] + np.cumsum(~inner) - 1)
        terms += _tree_rows(tree, c, leaf + first[-1], cuts, first)
        leaf_of.append(leaf)
        at += int((~inner).sum())
    row = np.repeat(np.arange(len(terms)), [len(t[0]) for t in terms])
    column, value = (np.concatenate([t[part] for t in terms]) for part in (0, 1))
    rows = csr_array(coo_array((value.astype(float), (row, column)), shape=(len(terms), at)))
    bounds = np.array([t[2:] for t in terms], dtype=float)
    return Forest(tuple(trees), cuts, values, tuple(leaf_of), rows, bounds[:, 0], bounds[:, 1])


def _cut_below(tree, levels: tuple[Vector | None, ...]) -> Vector:
    """Each node's threshold (nodes,), replaced by the largest value <= it that the feature can have; -inf where there is none."""
    cut = _float32_below(tree.threshold)
    for node in np.flatnonzero(tree.feature >= 0):
        values = levels[tree.feature[node]]
        if values is not None:
            lower = values.astype(np.float32)
            lower = lower[lower <= cut[node]]
            cut[node] = lower[-1] if len(lower) else -np.inf
    return cut


def _tree_rows(tree, cut: Vector, column: NDArray, cuts: tuple[Vector, ...], first: NDArray) -> list[tuple]:
    """Rows of one tree as (columns, coefficients, low, high); column: of each leaf node."""
    under = [[] for _ in range(tree.node_count)]  # leaves under a node
    rows = []
    for node in reversed(range(tree.node_count)):  # children have higher numbers than their parent
        left, right = tree.children_left[node], tree.children_right[node]
        if left < 0:
            under[node] = [column[node]]
            continue
        under[node] = under[left] + under[right]
        f = tree.feature[node]
        b = first[f] + np.searchsorted(cuts[f], cut[node])
        # sum of y over the right subtree <= b, over the left subtree <= 1 - b
        rows.append(([*under[right], b], [1] * len(under[right]) + [-1], -np.inf, 0))
        rows.append(([*under[left], b], [1] * (len(under[left]) + 1), -np.inf, 1))
    # sum_v y_tv = 1
    return [*rows, (under[0], [1] * len(under[0]), 1, 1)]


def _stops(cuts: Vector, levels: Vector | None, x0: float, low: float, high: float) -> tuple[Vector, int, int]:
    """For each interval j of (c_j, c_j+1] its point nearest to x0 within [low, high] (m + 1,), and the first and last in reach.

    Out of reach the point of the nearest interval in reach is repeated.
    """
    if levels is not None:
        allowed = levels[(levels >= low - 1e-9) & (levels <= high + 1e-9)]
        low, high = allowed[[0, -1]]
    home, least, most = np.searchsorted(cuts, np.float32([x0, low, high]))
    ends = np.r_[-np.inf, cuts, np.inf]
    if levels is None:
        upper = np.clip(ends[1:], low, high)
        lower = np.clip(np.nextafter(ends[:-1].astype(np.float32), np.float32(np.inf)).astype(float), low, high)
        stops = np.clip(x0, lower, upper)
    else:
        inside = np.searchsorted(cuts, allowed.astype(np.float32))
        best = [allowed[inside == j] for j in range(least, most + 1)]
        near = [a[np.abs(a - x0).argmin()] if len(a) else np.nan for a in best]
        stops = np.r_[np.zeros(least), near, np.zeros(len(cuts) - most)]
    stops[home] = x0  # exact, though x0 may lie between a cut and the next float32
    stops[:least], stops[most + 1 :] = stops[least], stops[most]
    return stops, int(least), int(most)


def nearest(
    trees: Forest, x0: Vector, values: Vector, *, at_most: float | Vector = 0.0, weights: Vector | None = None,
    low: Vector | None = None, high: Vector | None = None, excluded: Vector | None = None, node_limit: int = 5000,
) -> Nearest:  # fmt: skip
    """The nearest point to x0 (p,), by sum_f weights_f |x_f - x0_f|, at which the trees' mean leaf value is at most `at_most`.

    values: (leaves,), or (m, leaves) with at_most (m,) where all of m means must be; further columns belong to free variables (as
    in `explain_path_by_duality`). To ask for a score of at least s, give minus the leaves' scores and at_most = -s. low, high:
    (p,), what each column may become; x0 must lie between. excluded: (m, p), points whose combinations of leaves are ruled out.
    The answer is checked in the trees themselves. Raises ValueError for wrong shapes, NaN, or an x0 out of reach or, in a column
    with levels, off its levels.
    """
    p, n_leaves = len(trees.cuts), trees.n_leaves
    low = np.full(p, -np.inf) if low is None else low
    high = np.full(p, np.inf) if high is None else high
    weights = np.ones(p) if weights is None else weights
    values = np.atleast_2d(values)
    at_most = np.broadcast_to(np.asarray(at_most, dtype=float), len(values))
    _checked(x0, low, high, weights, p)
    if values.shape[1] < n_leaves or not np.isfinite(values).all():
        raise ValueError(f"values must be finite and have a column for each of {n_leaves} leaves")
    x0 = x0.astype(float)
    for f, allowed in enumerate(trees.levels):
        if allowed is not None:
            level = allowed[np.abs(allowed - x0[f]).argmin()]
            if abs(level - x0[f]) > 1e-6:
                raise ValueError(f"x0 must have one of its levels in column {f}, not {x0[f]}")
            x0[f] = level
    free = values.shape[1] - n_leaves
    stops = [_stops(c, v, *at) for c, v, *at in zip(trees.cuts, trees.levels, x0, low, high, strict=True)]
    # distance = sum_f d_f0 + sum_j (d_fj - d_f,j-1) b_fj, d_fj = w_f |stop_fj - x0_f|
    d = [w * np.abs(s - x) for w, (s, _, _), x in zip(weights, stops, x0, strict=True)]
    cost = np.r_[np.concatenate([np.diff(v) for v in d]), np.zeros(n_leaves + free)]
    b_low = np.concatenate([np.arange(len(c)) < s[1] for c, s in zip(trees.cuts, stops, strict=True)])
    b_high = np.concatenate([np.arange(len(c)) < s[2] for c, s in zip(trees.cuts, stops, strict=True)])
    lows = np.r_[b_low, np.zeros(n_leaves), np.full(free, -np.inf)].astype(float)
    highs = np.r_[b_high, np.ones(n_leaves), np.full(free, np.inf)].astype(float)
    # y is whole where b is; saying so lets the solver branch and reason on leaves too
    whole = np.arange(len(cost)) < trees.n_cuts + n_leaves
    # (1/T) sum_t value(leaf of t) <= at_most, scaled
    means = np.hstack([values[:, :n_leaves] / len(trees.trees), values[:, n_leaves:]])
    scale = np.maximum(np.abs(means).max(axis=1), 1e-300)
    nodes = iterations = 0
    ruled_out = [] if excluded is None or len(excluded) == 0 else list(trees.leaves(excluded))
    while True:
        rows, row_low, row_high = _with_rows(trees, means / scale[:, None], at_most / scale, ruled_out)
        solved = minimise(cost, lows, highs, whole, rows, row_low, row_high, node_limit)
        nodes, iterations = nodes + solved.nodes, iterations + solved.iterations
        offset = sum(v[0] for v in d)
        if solved.v is None:
            return Nearest(solved.status, None, np.inf, max(solved.bound + offset, 0.0), nodes, iterations)
        counts = np.add.reduceat(np.r_[solved.v[: trees.n_cuts].round(), 0], np.cumsum([0, *map(len, trees.cuts)])[:-1])
        counts[[len(c) == 0 for c in trees.cuts]] = 0
        x = np.array([s[int(j)] for (s, _, _), j in zip(stops, counts, strict=True)])
        leaves = trees.leaves(x[None])[0]
        if solved.v[trees.n_cuts + leaves].min() < 0.5:
            raise RuntimeError("the programme and the trees disagree on the leaves of its solution")
        # with free variables the rows cannot be checked by the leaves alone
        if free or (means[:, leaves].sum(axis=1) <= at_most + SLACK * scale).all():
            distance = float(weights @ np.abs(x - x0))
            bound = min(max(solved.bound + offset, 0.0), distance)
            return Nearest(solved.status, x, distance, bound, nodes, iterations)
        ruled_out.append(leaves)


def _with_rows(trees: Forest, means: Vector, at_most: Vector, ruled_out: list[NDArray]) -> tuple[csr_array, Vector, Vector]:
    """The fixed rows, the rows of means, and a no-good cut sum_t y_{t, v_t} <= T - 1 per combination of leaves ruled out."""
    free = means.shape[1] - trees.n_leaves
    cuts = np.zeros((len(ruled_out), trees.n_leaves + free))
    for row, leaves in zip(cuts, ruled_out, strict=True):
        row[leaves] = 1
    more = csr_array(np.hstack([np.zeros((len(means) + len(cuts), trees.n_cuts)), np.vstack([means, cuts])]))
    fixed = hstack([trees.rows, csr_array((trees.rows.shape[0], free))], format="csr") if free else trees.rows
    row_high = np.r_[trees.row_high, at_most, np.full(len(cuts), len(trees.trees) - 1.0)]
    return vstack([fixed, more], format="csr"), np.r_[trees.row_low, np.full(more.shape[0], -np.inf)], row_high


def _checked(x0: Vector, low: Vector, high: Vector, weights: Vector, p: int) -> None:
    if x0.shape != (p,) or not np.isfinite(x0).all():
        raise ValueError(f"x0 must be finite, of shape ({p},), not {x0.shape}")
    if low.shape != (p,) or high.shape != (p,) or not ((low <= x0) & (x0 <= high)).all():
        raise ValueError(f"low and high must be of shape ({p},), with x0 between them")
    if weights.shape != (p,) or not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"weights must hold {p} finite numbers that are not negative")


# ---------------------------------------------------------------- the nearest point of k nearest neighbours


def nearest_neighbours(
    X: Vector, k: int, x0: Vector, values: Vector, *, at_most: float = 0.0, excluded: Vector | None = None, node_limit: int = 5000
) -> Nearest:
    """The nearest point to x0 (p,) whose k nearest rows of X (n, p) have a mean value of at most `at_most`.

    values: (n,), or (m, n) where all of m means must be. Distances are L1; the point stays in [0, 1], or in x0's range where that
    lies outside. excluded: (m, k), sets of neighbours that are ruled out. A neighbour must be nearer by 1e-3 than who is none, so
    ties are passed over. Raises ValueError for wrong shapes and for k not in 1 ... n - 1.
    """
    n, p = X.shape
    values = np.atleast_2d(values)
    _checked(x0, np.minimum(0, x0), np.maximum(1, x0), np.ones(p), p)
    if values.shape[1] != n or not np.isfinite(values).all():
        raise ValueError(f"values must be finite and have a column for each of {n} rows of X")
    if not 0 < k < n:
        raise ValueError(f"k must lie in 1 ... {n - 1}, not {k}")
    # x_f = first stop + sum_j delta_fj, filled one after the other, so that |x_f - X_if| is linear: slope -1 left of X_if, else +1
    stops = [np.unique(np.r_[0.0, 1.0, X[:, f], x0[f]]) for f in range(p)]
    start, lengths = np.array([s[0] for s in stops]), [np.diff(s) for s in stops]
    pieces = np.concatenate(lengths)
    feature = np.repeat(np.arange(p), list(map(len, lengths)))
    end = np.concatenate([s[1:] for s in stops])

    def slopes(points: Vector) -> Vector:
        return np.where(end <= points[..., feature], -1.0, 1.0)

    m = len(pieces)
    # columns: delta (m), beta (m) "piece is entered", lambda (n) "is a neighbour", r
    rows = _rows_of_pieces(pieces, feature, n + 1)
    far = float(sum(s[-1] - s[0] for s in stops))  # M
    constant = np.abs(start - X).sum(axis=1)
    zeros, eye, one = np.zeros((n, m)), np.eye(n), np.ones((n, 1))
    # s_i <= r + (1 - lambda_i) M
    rows.append((np.hstack([slopes(X), zeros, far * eye, -one]), np.full(n, -np.inf), far - constant))
    # s_i >= r + 1e-3 - lambda_i M
    rows.append((np.hstack([slopes(X), zeros, far * eye, -one]), TIE - constant, np.full(n, np.inf)))
    # sum_i lambda_i = k
    member = np.hstack([np.zeros((1, 2 * m)), np.ones((1, n)), np.zeros((1, 1))])
    rows.append((member, np.array([float(k)]), np.array([float(k)])))
    # (1/k) sum_i lambda_i value_i <= at_most, scaled
    scale = np.maximum(np.abs(values).max(axis=1), 1e-300) / k
    means = np.hstack([np.zeros((len(values), 2 * m)), values / k / scale[:, None], np.zeros((len(values), 1))])
    rows.append((means, np.full(len(values), -np.inf), at_most / scale))
    for chosen in [] if excluded is None else excluded:
        rows.append((np.isin(np.arange(2 * m + n + 1) - 2 * m, chosen).astype(float)[None], -np.inf, float(k - 1)))
    matrix = csr_array(np.vstack([r[0] for r in rows]))
    row_low, row_high = (np.concatenate([np.broadcast_to(r[part], len(r[0])) for r in rows]).astype(float) for part in (1, 2))
    cost = np.r_[slopes(x0), np.zeros(m + n + 1)]
    highs = np.r_[pieces, np.ones(m + n), far]
    whole = np.r_[np.zeros(m, bool), np.ones(m + n, bool), False]
    solved = minimise(cost, np.zeros(len(cost)), highs, whole, matrix, row_low, row_high, node_limit)
    offset = float(np.abs(start - x0).sum())
    if solved.v is None:
        return Nearest(solved.status, None, np.inf, max(solved.bound + offset, 0.0), solved.nodes, solved.iterations)
    x = start + np.bincount(feature, solved.v[:m], minlength=p)
    distance = float(np.abs(x - x0).sum())
    bound = min(max(solved.bound + offset, 0.0), distance)
    return Nearest(solved.status, x, distance, bound, solved.nodes, solved.iterations)


def _rows_of_pieces(pieces: Vector, feature: NDArray, others: int) -> list[tuple]:
    """delta_j <= length_j beta_j, and delta_j >= length_j beta_j+1 where j + 1 is of the same feature; `others` columns follow."""
    here = np.eye(len(pieces))
    after = np.flatnonzero(feature[1:] == feature[:-1])
    entered = np.hstack([here, -np.diag(pieces), np.zeros((len(here), others))])
    filled = np.hstack([here[after], -pieces[after, None] * here[after + 1], np.zeros((len(after), others))])
    return [(entered, -np.inf, 0.0), (filled, 0.0, np.inf)]


# ---------------------------------------------------------------- weights w(x)


class Weighting(Protocol):
    """Weights w(x) of a history, and the nearest context in which sums that they weigh are small."""

    def weights(self, x: Vector) -> Vector:
        """w (m, n) for contexts x (m, p)."""

    def nearest(self, x0: Vector, d: Vector, at_most: float, excluded: Sequence[Vector], node_limit: int) -> Nearest:
        """min ||x - x0||_1: sum_i w_i(x) d_i <= at_most for all d (m, n), and x is not among contexts `excluded` or their like."""


class ForestWeights:
    """w_i(x) = (1/T) sum_t 1[i in leaf_t(x)] / (rows of the history in leaf_t(x)), all rows, not a tree's bootstrap sample."""

    def __init__(self, trees: Forest, X: Vector):
        """X (n, p): the history's contexts. Raises ValueError where a leaf holds none of them."""
        self.trees, self.X = trees, X
        members = trees.leaves(X)  # (n, T)
        count = np.bincount(members.ravel(), minlength=trees.n_leaves)
        if (count == 0).any():
            raise ValueError("X must have a row in every leaf of trees: they must have been fitted on it")
        rows = np.repeat(np.arange(len(X)), members.shape[1])
        # (leaves, n): means over the members of each leaf
        self.means = csr_array((1 / count[members.ravel()], (members.ravel(), rows)), shape=(trees.n_leaves, len(X)))

    def weights(self, x: Vector) -> Vector:
        leaves = self.trees.leaves(x)  # (m, T)
        pick = csr_array(
            (np.full(leaves.size, 1 / leaves.shape[1]), leaves.ravel(), np.arange(0, leaves.size + 1, leaves.shape[1])),
            shape=(len(x), self.trees.n_leaves),
        )
        return (pick @ self.means).toarray()

    def nearest(self, x0: Vector, d: Vector, at_most: float, excluded: Sequence[Vector], node_limit: int) -> Nearest:
        # D_tv = mean of d_i in leaf v: a regression forest with re-labelled leaves
        values = (self.means @ d.T).T
        return nearest(self.trees, x0, values, at_most=at_most, excluded=np.array(excluded), node_limit=node_limit)


class NeighbourWeights:
    """w_i(x) = 1/k for the k rows of the history that are nearest to x in L1."""

    def __init__(self, X: Vector, k: int):
        self.X, self.k = X, k

    def weights(self, x: Vector) -> Vector:
        w = np.zeros((len(x), len(self.X)))
        np.put_along_axis(w, self._neighbours(x), 1 / self.k, axis=1)
        return w

    def nearest(self, x0: Vector, d: Vector, at_most: float, excluded: Sequence[Vector], node_limit: int) -> Nearest:
        sets = self._neighbours(np.array(excluded)) if excluded else None
        return nearest_neighbours(self.X, self.k, x0, d, at_most=at_most, excluded=sets, node_limit=node_limit)

    def _neighbours(self, x: Vector) -> NDArray[np.int64]:
        distance = np.abs(x[:, None] - self.X).sum(axis=-1)  # (m, n)
        return np.argsort(distance, axis=1, kind="stable")[:, : self.k]


# ---------------------------------------------------------------- explanations


class Explanation(NamedTuple):
    """The nearest context that explains: `at` as in Nearest, with all nodes and iterations; cuts: rounds of the loop, less one;
    `already`: x0 itself qualifies, so that there is nothing to explain.
    """

    at: Nearest
    cuts: int
    already: bool = False


def decide(weighting: Weighting, problem: Decisions, x: Vector) -> Vector:
    """z*(x), the decision in context x (p,)."""
    return problem.decide(weighting.weights(x[None])[0])


def excess(weighting: Weighting, problem: Decisions, x: Vector, alternative: Vector, rival: Vector | None = None) -> Vector:
    """How much more the alternative costs than the rival in contexts x (m, p): (m,); None: than the best decision there is."""
    w = weighting.weights(x)
    if rival is not None:
        # sum_i w_i(x) (c(z_alt, y_i) - c(z, y_i))
        return w @ (problem.cost(alternative) - problem.cost(rival))
    return np.array([v @ (problem.cost(alternative) - problem.cost(problem.decide(v))) for v in w])


def explain(
    weighting: Weighting, problem: Decisions, x0: Vector, alternative: Vector, *,
    kind: Literal["relative", "absolute"] = "relative", max_cuts: int = 50, node_limit: int = 5000,
) -> Explanation:  # fmt: skip
    """The nearest context to x0 (p,) in which the alternative is as good as z*(x0), or as any decision.

    An absolute one is found by cuts: solve, decide anew in the context found, and where that decision is better add it as a rival
    and rule this combination of leaves, or of neighbours, out. When `max_cuts` are spent the status is `limit` and `at.bound` a
    lower bound on the distance. Raises ValueError for an unknown kind.
    """
    if kind not in ("relative", "absolute"):
        raise ValueError(f"kind must be relative or absolute, not {kind!r}")
    chosen = decide(weighting, problem, x0)
    if excess(weighting, problem, x0[None], alternative, chosen)[0] <= AS_GOOD:
        return Explanation(Nearest("optimal", x0, 0.0, 0.0, 0, 0), 0, already=True)
    rivals, excluded = [chosen], []
    nodes = iterations = 0
    for cuts in range(max_cuts + 1):
        d = problem.cost(alternative) - np.stack([problem.cost(z) for z in rivals])  # (rivals, n)
        at = weighting.nearest(x0, d, AS_GOOD, excluded, node_limit)
        nodes, iterations = nodes + at.nodes, iterations + at.iterations
        at = at._replace(nodes=nodes, iterations=iterations)
        if kind == "relative" or at.status != "optimal" or excess(weighting, problem, at.point[None], alternative)[0] <= AS_GOOD:
            return Explanation(at, cuts)
        rivals.append(decide(weighting, problem, at.point))
        excluded.append(at.point)  # follows from the rival but for rounding [released code]
    return Explanation(at._replace(status="limit", point=None, distance=np.inf), max_cuts)


def explain_path_by_duality(
    weighting: ForestWeights, problem: ShortestPath, x0: Vector, alternative: Vector, *, node_limit: int = 5000
) -> Nearest:
    """An absolute explanation of a path by one programme: node prices u certify that the alternative is a shortest path.

    Mean times of arc k in context x are g_k = (1/T) sum_tv y_tv mean_v(times_k). The path z is shortest if and only if some u
    has u_head - u_tail <= g_k on every arc, and sum_k g_k z_k <= u_target - u_source.
    """
    means = weighting.means @ problem.times  # (leaves, q)
    tail, head = np.eye(problem.nodes)[problem.arcs.T]  # (q, nodes) each
    ends = np.eye(problem.nodes)[problem.target] - np.eye(problem.nodes)[problem.source]
    rows = np.vstack([np.hstack([-means.T, head - tail]), np.r_[means @ alternative, -ends]])
    return nearest(weighting.trees, x0, rows, at_most=np.r_[np.zeros(len(tail)), AS_GOOD], node_limit=node_limit)


# ---------------------------------------------------------------- cheap rivals; `qualifies` maps contexts (m, p) to bool (m,)

Test = Callable[[Vector], NDArray[np.bool_]]


def nearest_of(points: Vector, x0: Vector, qualifies: Test) -> Vector | None:
    """The nearest of points (m, p) that qualifies; None where none does. With the history's contexts: the obvious cheap answer."""
    good = points[qualifies(points)]
    return good[np.abs(good - x0).sum(axis=1).argmin()] if len(good) else None


def snap(x: Vector, levels: Sequence[Vector | None]) -> Vector:
    """Points x (m, p) with each column that has levels at the nearest of them."""
    x = x.copy()
    for f, allowed in enumerate(levels):
        if allowed is not None:
            x[:, f] = allowed[np.abs(x[:, f, None] - allowed).argmin(axis=1)]
    return x


def redraw(x0: Vector, tries: int, rng: np.random.Generator, levels: Sequence[Vector | None]) -> Vector:
    """Points (tries, p): x0 with a random set of its features, of random size, drawn anew from [0, 1], then snapped."""
    keep = rng.random((tries, len(x0))) < rng.random((tries, 1))
    return snap(np.where(keep, x0, rng.random((tries, len(x0)))), levels)


def pull_back(x: Vector, x0: Vector, qualifies: Test, levels: Sequence[Vector | None], steps: int = 10) -> Vector:
    """Bring x (p,) nearer: each feature in turn, largest change first, back to x0's value, or towards it by bisection."""
    for f in np.argsort(-np.abs(x - x0)):
        bad, good = 0.0, 1.0  # share of the change that is kept

        def kept(share: float, x: Vector = x, f: int = f) -> Vector:
            trial = x.copy()
            trial[f] = x0[f] + share * (x[f] - x0[f])
            return snap(trial[None], levels)

        if qualifies(kept(0.0))[0]:
            good = 0.0
        for _ in range(steps if good else 0):
            middle = (bad + good) / 2
            bad, good = (bad, middle) if qualifies(kept(middle))[0] else (middle, good)
        x = kept(good)[0]
    return x


def cells(trees: Forest, x0: Vector) -> Vector:
    """The point nearest to x0 (p,) in each of all cells that the trees cut the space into: (prod_f (cuts_f + 1), p)."""
    axes = [_stops(c, v, x, -np.inf, np.inf)[0] for c, v, x in zip(trees.cuts, trees.levels, x0, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


# ---------------------------------------------------------------- simulated histories: contexts (n, p), outcomes (n, q)


def simulate_newsvendor(n: int, products: int, spurious: int, rng: np.random.Generator) -> tuple[Vector, Vector]:
    """Contexts (n, 2 + spurious), normal, and demands (n, products): normal, mean 3, cut to [0, 100] [released code].

    The first feature sets the spread of the first half of the products, the second that of the others; the rest set nothing.
    """
    x = rng.standard_normal((n, 2 + spurious))
    # sd = exp(x_1) or exp(x_2)
    sd = np.exp(x[:, (np.arange(products) >= (products - 1) / 2).astype(int)])
    below, above = ndtr(-3 / sd), ndtr(97 / sd)
    return x, np.clip(3 + sd * ndtri(below + rng.random(sd.shape) * (above - below)), 0, 100)


def simulate_times(arcs: int, features: int, rng: np.random.Generator) -> Callable[[int], tuple[Vector, Vector]]:
    """A sampler m -> contexts (m, features) from U(0.5, 1.5), times (m, arcs) of the released code; B is drawn here, once."""
    b = rng.integers(2, size=(arcs, features))

    def sample(m: int) -> tuple[Vector, Vector]:
        x = rng.uniform(0.5, 1.5, (m, features))
        # time_k = (B x)_k / p + U(0, 1)
        return x, x @ b.T / features + rng.random((m, arcs))

    return sample
