"""MCD, multi-objective counterfactuals for design (Regenwetter, Abu Obaideh & Ahmed 2023).

A design is a row (p,): numbers, whole numbers and categories, which are codes 0, 1, .... Asked is which changes to one design, the
query, bring its predicted performances y = P(x) into target ranges. A genetic search keeps every row that it ever evaluated; from
this archive a handful of good and different answers is drawn afterwards, without asking the predictor again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from shared.recourse.problem import Problem
from shared.recourse.table import Table

Array = np.ndarray
ETA_CROSS, ETA_MUTATE = 15.0, 20.0  # how near to its parents a child stays [released code, through pymoo]
WEIGHTS = (1.0, 0.3, 0.5)  # of proximity, sparsity and manifold in a score [released code]
REVERT = (0.2, 0.5)  # of the Beta that the share of reverted cells is drawn from [released code]


# ---------------------------------------------------------------- designs and queries


@dataclass(frozen=True)
class Space:
    """Which rows (p,) exist: each array is (p,). A frozen feature has low = high = its value in the query."""

    low: Array
    high: Array
    steps: Array  # grid points per unit, counted from 0: 1 for whole numbers and categories; 0 where any number will do
    span: Array  # the range that a difference is divided by; a category's is not used
    category: Array  # bool

    def __post_init__(self):
        shapes = {name: value.shape for name, value in vars(self).items()}
        if len(set(shapes.values())) != 1 or self.low.ndim != 1:
            raise ValueError(f"low, high, steps, span and category must be of one shape (p,), not {shapes}")
        if not (self.low <= self.high).all() or not (self.span[~self.category] > 0).all():
            raise ValueError("low must not exceed high, and span must be above 0")

    def holds(self, rows: Array) -> Array:
        """Which rows (n, p) keep to the ranges, bool (n,)."""
        return ((rows >= self.low) & (rows <= self.high)).all(axis=1)

    def repair(self, rows: Array) -> Array:
        """Rows (n, p) clipped to the ranges and rounded to the grid."""
        grid = np.where(self.steps > 0, self.steps, 1.0)
        return np.clip(np.where(self.steps > 0, np.round(rows * grid) / grid, rows), self.low, self.high)

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """n rows (n, p) drawn uniformly; each code of a category is as likely."""
        half = np.where(self.category, 0.499, 0.0)
        return self.repair(rng.uniform(self.low - half, self.high + half, (n, len(self.low))))


class Target(NamedTuple):
    """What one performance must be: low <= y <= high, and where `classes` are given, one of them."""

    low: float = -np.inf
    high: float = np.inf
    classes: tuple[float, ...] | None = None

    def miss(self, y: Array) -> Array:
        """By how much y (n,) misses, >= 0."""
        # g = max(y - high, low - y) <= 0; for classes g = 1 - [y is one of them]
        out = np.maximum(0.0, np.maximum(y - self.high, self.low - y))
        return out if self.classes is None else out + ~np.isin(y, self.classes)


@dataclass(frozen=True)
class Query:
    """A design x (p,) to change; predict: rows (n, p) -> y (n, r), one target each; `bonus`: columns of y to be made small as well.

    reference (m, p), m >= 3: real designs that answers should look like. Raises ValueError for a bad x or too few of these.
    """

    x: Array
    space: Space
    predict: Callable[[Array], Array]
    targets: Sequence[Target]
    reference: Array
    bonus: tuple[int, ...] = ()

    def __post_init__(self):
        p = self.space.low.shape
        if self.x.shape != p or not np.isfinite(self.x).all():
            raise ValueError(f"x must be finite, of shape {p}, not {self.x.shape}")
        if self.reference.shape[1:] != p or len(self.reference) < 3 or not np.isfinite(self.reference).all():
            raise ValueError(f"reference must be finite, of shape (m >= 3, {p[0]}), not {self.reference.shape}")


class Archive(NamedTuple):
    """Evaluated designs: rows (n, p); y (n, r); costs (n, b + 3), bonus, proximity, sparsity, manifold; miss (n,), 0 if valid."""

    rows: Array
    y: Array
    costs: Array
    miss: Array

    def take(self, which: Array) -> "Archive":
        return Archive(*(part[which] for part in self))

    def join(self, other: "Archive") -> "Archive":
        return Archive(*(np.concatenate(parts) for parts in zip(self, other, strict=True)))

    @property
    def valid(self) -> "Archive":
        return self.take(self.miss == 0)


def gower(a: Array, b: Array, space: Space) -> Array:
    """Gower's distance (n, m) of rows a (n, p) and b (m, p), in [0, 1] for rows inside `span`."""
    number, p = ~space.category, len(space.span)
    total = np.zeros((len(a), len(b)))
    # 1/p (sum over numbers |a - b| / span + how many categories differ)
    if number.any():
        total += cdist(a[:, number] / space.span[number], b[:, number] / space.span[number], "cityblock")
    if space.category.any():
        total += space.category.sum() * cdist(a[:, space.category], b[:, space.category], "hamming")
    return total / p


def assess(query: Query, rows: Array, y: Array | None = None) -> Archive:
    """Performances and costs of rows (n, p); one call of the predictor a row, none where y (n, r) is known."""
    y = query.predict(rows) if y is None else y
    if y.shape != (len(rows), len(query.targets)):
        raise ValueError(f"y must be of shape ({len(rows)}, {len(query.targets)}), one column a target, not {y.shape}")
    proximity = gower(rows, query.x[None], query.space)[:, 0]
    sparsity = (rows != query.x).mean(axis=1)  # the share of features that differ
    near = np.partition(gower(rows, query.reference, query.space), 2, axis=1)[:, :3]
    costs = np.column_stack([y[:, list(query.bonus)], proximity, sparsity, near.mean(axis=1)])  # manifold: the 3 nearest
    return Archive(rows, y, costs, sum(t.miss(y[:, j]) for j, t in enumerate(query.targets)))


# ---------------------------------------------------------------- the search: NSGA-II on mixed rows


def fronts(costs: Array, need: int | None = None) -> Array:
    """The front (n,) of each row of costs (n, m), 0 for those that no row dominates; n for what is left after `need` rows."""
    a, b = costs[:, None], costs[None]
    dominates = (a <= b).all(axis=2) & (a < b).any(axis=2)  # (n, n)
    number, left, at = np.full(len(costs), len(costs)), dominates.sum(axis=0), 0
    while (number == len(costs)).any() and (need is None or (number < len(costs)).sum() < need):
        first = (left == 0) & (number == len(costs))
        number[first] = at
        left = left - dominates[first].sum(axis=0)
        at += 1
    return number


def crowding(costs: Array) -> Array:
    """Deb's crowding distance (n,) within one front (n, m): the mean over objectives of the gap between the two neighbours."""
    gap = np.zeros(len(costs))
    for column in costs.T:
        order = np.argsort(column, kind="stable")
        spread = np.ptp(column)
        ends = np.r_[-np.inf, column[order], np.inf]
        if spread > 0:
            gap[order] += (ends[2:] - ends[:-2]) / spread
    return gap / costs.shape[1]


def survivors(costs: Array, miss: Array, n: int) -> Array:
    """Which n rows live on: valid before invalid; those by front, then the loneliest of the last front; these by how they miss."""
    valid, wrong = np.flatnonzero(miss == 0), np.flatnonzero(miss > 0)
    best = valid
    if len(valid) > n:
        number = fronts(costs[valid], n)
        last = np.sort(number)[n - 1]
        sure, split = valid[number < last], valid[number == last]
        apart = np.argsort(-crowding(costs[split]), kind="stable")
        best = np.concatenate([sure, split[apart[: n - len(sure)]]])
    return np.concatenate([best, wrong[np.argsort(miss[wrong], kind="stable")[: n - len(best)]]])


def children(parents: Array, space: Space, rng: np.random.Generator) -> Array:
    """Two children each (2 n, p) of pairs of parents (2, n, p): crossover of most pairs, then mutation of a cell in p."""
    a, b = parents
    n, p = a.shape
    crossed = (rng.random((n, 1)) < 0.9) & (rng.random((n, p)) < 0.5)
    swap = rng.random((n, p)) < 0.5
    # simulated binary crossover: (a + b) / 2 -+ beta (a - b) / 2, with beta about 1
    u = rng.random((n, p))
    beta = np.where(u < 0.5, 2 * u, 1 / (2 - 2 * u)) ** (1 / (ETA_CROSS + 1))
    beta[:, space.category] = 1.0  # a category is only exchanged
    shift = np.where(crossed, np.where(swap, -beta, beta) - 1, 0.0) * (a - b) / 2
    both = np.concatenate([a + shift, b - shift])
    # polynomial mutation: x + delta (high - low); a category is drawn anew
    u = rng.random((2 * n, p))
    delta = np.where(u < 0.5, (2 * u) ** (1 / (ETA_MUTATE + 1)) - 1, 1 - (2 - 2 * u) ** (1 / (ETA_MUTATE + 1)))
    mutant = np.where(space.category, space.draw(2 * n, rng), both + delta * (space.high - space.low))
    return space.repair(np.where(rng.random((2 * n, p)) < 1 / p, mutant, both))


def revert(rows: Array, x: Array, share: float, rng: np.random.Generator) -> Array:
    """Rows (n, p) in which each cell went back to the query's x (p,) with probability `share`: what makes answers sparse."""
    return np.where(rng.random(rows.shape) < share, x, rows)


def search(
    query: Query, start: Archive, rng: np.random.Generator, *, pop_size: int = 60, generations: int = 40,
    revert_beta: tuple[float, float] | None = REVERT, weights: Array | None = None,
) -> Archive:  # fmt: skip
    """`start` and pop_size x generations new rows, every one of them; no row twice, so fewer where a small space is used up.

    The first population is `start`, so real designs, with the query. revert_beta: of the share of cells that go back to the query,
    drawn once a mating; None never reverts. weights (b + 3,): minimise the weighted sum of the costs in place of each of them.
    Raises ValueError where start is empty, pop_size < 2 or generations < 0.
    """
    if len(start.rows) == 0 or pop_size < 2 or generations < 0:
        raise ValueError("start must not be empty, pop_size at least 2 and generations at least 0")
    archive, seen = [start], {row.tobytes() for row in start.rows}
    people = start
    for _ in range(generations):
        aims = people.costs if weights is None else people.costs @ np.asarray(weights)[:, None]  # (n, m)
        people = people.take(survivors(aims, people.miss, pop_size))
        rows = _offspring(query, people.rows, pop_size, seen, revert_beta, rng)
        if len(rows) == 0:
            break
        archive.append(assess(query, rows))
        people = people.join(archive[-1])
    return Archive(*(np.concatenate(parts) for parts in zip(*archive, strict=True)))


def _offspring(query: Query, people: Array, n: int, seen: set[bytes], revert_beta, rng: np.random.Generator) -> Array:
    """n children (n, p) of random pairs that were never evaluated, fewer if 100 matings give no more; adds them to `seen`."""
    new = []
    for _ in range(100):
        pairs = people[rng.integers(len(people), size=(2, (n + 1) // 2))]  # (2, n / 2, p)
        rows = children(pairs, query.space, rng)
        if revert_beta is not None:
            rows = revert(rows, query.x, rng.beta(*revert_beta), rng)
        for row in rows + 0.0:  # + 0.0: no -0.0, which is equal to 0.0 but written otherwise
            if row.tobytes() not in seen and len(new) < n:
                seen.add(row.tobytes())
                new.append(row)
        if len(new) == n:
            break
    return np.array(new).reshape(-1, people.shape[1])


# ---------------------------------------------------------------- drawing answers from an archive


def score(archive: Archive, weights: Sequence[float] = WEIGHTS) -> Array:
    """Weighted sum (n,) of the costs, small is good."""
    return archive.costs @ np.asarray(weights, dtype=float)


def sample(archive: Archive, k: int, space: Space, weights: Sequence[float] = WEIGHTS, *, diversity: float = 0.3,
           among: int = 2000) -> Array:  # fmt: skip
    """Numbers of up to k valid rows, good and different; all valid ones where there are no more. Asks no predictor.

    `among`: only so many best ones are looked at. diversity > 0: the larger, the more a difference counts against the score.
    """
    valid = np.flatnonzero(archive.miss == 0)
    if len(valid) <= k:
        return valid
    s = score(archive, weights)[valid]
    s = (s - s.min()) / (np.ptp(s) or 1.0)
    best = np.sort(np.argsort(s, kind="stable")[:among]) if k > 1 else [s.argmin()]
    # M_ij = a_i a_j Gower(i, j), a = (1 - s)^(1 / diversity)
    a = (1 - s[best]) ** (1 / diversity)
    rows = archive.rows[valid[best]]
    return valid[best][greedy(gower(rows, rows, space) * np.outer(a, a), k)]


def greedy(m: Array, k: int) -> list[int]:
    """k numbers from a symmetric matrix (n, n): its largest entry's pair, then whoever is least close to those chosen."""
    chosen = [int(i) for i in np.unravel_index(m.argmax(), m.shape)][:k]
    nearest = m[chosen].min(axis=0)
    while len(chosen) < k:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, m[chosen[-1]])
    return chosen


def hypervolume(costs: Array, worst: Array) -> float:
    """The volume between points (n, 3) and the point `worst` (3,) that they dominate together, each the smaller the better."""
    inside = costs[(costs < worst).all(axis=1)]
    inside = inside[np.argsort(inside[:, 2], kind="stable")]
    edges = np.r_[inside[:, 2], worst[2]]
    stairs, volume = np.array([[-np.inf, worst[1]], [worst[0], -np.inf]]), 0.0  # of the layer, ascending in the first cost
    for point, thick in zip(inside[:, :2], np.diff(edges), strict=True):
        if not (stairs <= point).all(axis=1).any():
            stairs = np.vstack([stairs[(stairs < point).any(axis=1)], point])
            stairs = stairs[np.argsort(stairs[:, 0], kind="stable")]
        # a layer's area: each step reaches to the next one's first cost, and from its second cost up to the worst
        volume += thick * (np.diff(stairs[1:, 0]) * (worst[1] - stairs[1:-1, 1])).sum()
    return float(volume)


# ---------------------------------------------------------------- the rivals


def random_crossover(query: Query, donors: Array, share: float, n: int, rng: np.random.Generator) -> Array:
    """n rows (n, p): each cell the query's, or with probability `share` that of one random donor of (m, p) a row."""
    return revert(donors[rng.integers(len(donors), size=n)], query.x, 1 - share, rng)


def growing_spheres(query: Query, n: int, rng: np.random.Generator, smallest: float = 0.01) -> Array:
    """n rows (n, p) at growing distance of the query: the first at `smallest`, the last at 1, in root mean square of the ranges.

    A category is drawn anew with the distance for its probability.
    """
    radius = np.geomspace(smallest, 1.0, n)[:, None]
    step = rng.normal(size=(n, len(query.x)))
    step *= radius * np.sqrt(step.shape[1]) / np.linalg.norm(step, axis=1, keepdims=True)
    anew = np.where(rng.random(step.shape) < radius, query.space.draw(n, rng), query.x)
    return query.space.repair(np.where(query.space.category, anew, query.x + step * query.space.span))


# ---------------------------------------------------------------- people in place of designs


def mcd(
    problem: Problem,
    x: Array,
    rng: np.random.Generator,
    *,
    k: int = 5,
    pop_size: int = 60,
    generations: int = 20,
    n_start: int = 500,
) -> Array:
    """Up to k answers for each row x (n, d), encoded (n, k, d), NaN rows where fewer are found. What may not move is x's own.

    The search starts from the person and from those of `n_start` random rows of the table that the person may become; where these
    are fewer than pop_size, rows drawn at random from what the person may become make up for them.
    """
    table = problem.table
    known = table.X[rng.permutation(len(table.X))[:n_start]]
    asked, score_of = _compact(table, known), problem.model.score(known)[:, None]
    low, high = table.movable(x)
    answers = np.full((len(x), k, x.shape[1]), np.nan)
    for i, row in enumerate(_compact(table, x)):
        space = _space(table, low[i], high[i], row)
        query = Query(
            row, space, lambda rows: problem.model.score(_expand(table, rows))[:, None], [Target(problem.threshold)], asked
        )
        real = space.holds(asked)
        more = space.draw(max(pop_size - int(real.sum()), 0), rng)
        start = assess(query, asked[real], score_of[real]).join(assess(query, np.vstack([row, more])))
        archive = search(query, start, rng, pop_size=pop_size, generations=generations)
        chosen = sample(archive, k, space)
        answers[i, : len(chosen)] = _expand(table, archive.rows[chosen])
    return answers


def _compact(table: Table, x: Array) -> Array:
    """Encoded rows (n, d) with a category as one code, (n, p)."""
    return np.stack([x[:, f.columns].argmax(1) if f.kind == "onehot" else x[:, f.columns.start] for f in table.features], axis=1)


def _expand(table: Table, rows: Array) -> Array:
    """The way back, (n, p) -> (n, d)."""
    blocks = zip(table.features, rows.T, strict=True)
    return np.hstack([np.eye(f.width)[v.astype(int)] if f.kind == "onehot" else v[:, None] for f, v in blocks])


def _space(table: Table, low: Array, high: Array, row: Array) -> Space:
    """What a person, row (p,), may become, from the encoded bounds low and high (d,)."""
    category = np.array([f.kind == "onehot" for f in table.features])
    first = np.array([f.columns.start for f in table.features])
    held = low[first] == high[first]
    integer = [max(f.high - f.low, 1) if f.kind == "integer" else 0.0 for f in table.features]
    top = np.where(category, [f.width - 1 for f in table.features], high[first])
    low_p, high_p = np.where(held, row, np.where(category, 0, low[first])), np.where(held, row, top)
    return Space(low_p, high_p, np.where(category, 1.0, integer), np.ones(len(row)), category)
