"""T-COL: advice by mixing a person with prototypes, chunk by chunk (Wang et al. 2023), and the rivals it is judged against.

All methods: method(problem, x (n, d), rng, **knobs) -> (n, k, d) in the encoded space of `problem.table`, where d are columns and
p features; every answer is a row that the person could become (`Table.project`) and that the model accepts, or NaN. All raise
ValueError for an x that is empty, not finite or of another width than the table.
"""

from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import expit
from sklearn.cluster import KMeans

from shared.recourse.measures import TOLERANCE
from shared.recourse.problem import Problem
from shared.recourse.table import Table

Array = NDArray[np.float64]
Rule = Literal["good", "near", "rep", "cos", "cen", "random"]
Score = Literal["fcs", "ncs", "rss"]


# ---------------------------------------------------------------- rows as the method sees them


@dataclass(frozen=True)
class Encoder:
    """One number per feature: a category by its smoothed mean of y (target encoding), standardised, rows then of length 1."""

    worth: Array  # (d, p): what a column adds to a feature
    mean: Array  # (p,)
    std: Array  # (p,)

    def standard(self, x: Array) -> Array:
        """Standardised features (..., p) of rows x (..., d)."""
        return (x @ self.worth - self.mean) / self.std

    def unit(self, x: Array) -> Array:
        """Standardised features (..., p), each row divided by its length: what T-COL and its models see."""
        v = self.standard(x)
        return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-12)


def fit_encoder(table: Table, least: float = 20.0, smoothing: float = 10.0) -> Encoder:
    """The encoder of a table's rows and labels; a level seen `least` times counts half, the mean of y the other half."""
    worth = np.zeros((table.X.shape[1], len(table.features)))
    for i, f in enumerate(table.features):
        worth[f.columns, i] = 1.0
        if f.kind == "onehot":
            block = table.X[:, f.columns]
            count = block.sum(0)
            mean = block.T @ table.y / np.maximum(count, 1)
            # worth of a level = w mean of y in it + (1 - w) mean of y, w = 1 / (1 + exp(-(n - least) / smoothing))
            trust = expit((count - least) / smoothing)
            worth[f.columns, i] = trust * mean + (1 - trust) * table.y.mean()
    v = table.X @ worth
    return Encoder(worth, v.mean(0), np.where(v.std(0) > 0, v.std(0), 1.0))


def owner(table: Table) -> NDArray[np.int64]:
    """The number of the feature behind each column, (d,)."""
    return np.repeat(np.arange(len(table.features)), [f.width for f in table.features])


def differs(table: Table, z: Array, x: Array) -> NDArray[np.bool_]:
    """Which features of rows z differ from rows x, (..., features) of (..., d) each, which must broadcast; of NaN none does."""
    return np.logical_or.reduceat(np.abs(z - x) > TOLERANCE, [f.columns.start for f in table.features], axis=-1)


# ---------------------------------------------------------------- T-COL


def prototypes(problem: Problem, x: Array, rule: Rule, n: int, rng: np.random.Generator, *, as_released: bool = False) -> Array:
    """n prototypes (people, n, d) for people x (people, d): rows of the table with y = 1, in the order of the rule.

    near: smallest distance of unit rows; cos: largest cosine; good: most features equal; rep: largest score of the model; cen:
    nearest to n k-means centres; random: anyone. `as_released` has the rules as coded: distances and cosines cut to whole numbers,
    cosines in ascending order, no feature ever equal. Raises ValueError when fewer than n rows have y = 1.
    """
    table, encoder = problem.table, fit_encoder(problem.table)
    wanted = table.X[table.y == 1]  # (m, d)
    if not 1 <= n <= len(wanted):
        raise ValueError(f"n must lie between 1 and the {len(wanted)} rows of the wanted class, not {n}")
    u, v = encoder.unit(x), encoder.unit(wanted)
    if rule == "cen":
        centres = KMeans(n, n_init=1, random_state=int(rng.integers(2**31))).fit(v).cluster_centers_
        return np.broadcast_to(wanted[cdist(centres, v).argmin(1)], (len(x), n, x.shape[1]))
    if rule == "near":
        cost = np.trunc(cdist(u, v)) if as_released else cdist(u, v)
    elif rule == "cos":
        cost = np.trunc(u @ v.T) if as_released else -u @ v.T
    elif rule == "good":
        cost = np.array([differs(table, wanted, row).sum(-1) * (not as_released) for row in x])
    elif rule == "rep":
        cost = np.broadcast_to(-problem.model.score(wanted), (len(x), len(wanted)))
    elif rule == "random":
        cost = rng.random((len(x), len(wanted)))
    else:
        raise ValueError(f"rule {rule!r} is not one of good, near, rep, cos, cen, random")
    return wanted[np.argsort(cost, axis=1, kind="stable")[:, :n]]


def mixes(m: int) -> NDArray[np.bool_]:
    """All ways (2^m, m) to take m features from the prototype (True) or the person (False), the person alone first."""
    return np.array(list(product((False, True), repeat=m)))


def chunk_scores(p: Array, s: Array, score: Score) -> Array:
    """Scores (..., 2^m) of all mixes of a chunk of m features, prototype part p (..., m) and person part s (..., m).

    A part of length 0 has cosine 0 with everything. Raises ValueError for an unknown score.
    """
    c = np.where(mixes(p.shape[-1]), p[..., None, :], s[..., None, :])  # (..., 2^m, m)
    lengths = np.linalg.norm(p, axis=-1)[..., None] * np.linalg.norm(c, axis=-1)
    cos = (p[..., None, :] * c).sum(-1) / np.maximum(lengths, 1e-8)
    far = np.linalg.norm(s[..., None, :] - c, axis=-1)
    if score == "fcs":  # sigmoid(cos(p, c)) + share of c equal to s
        return expit(cos) + (c == s[..., None, :]).mean(-1)
    if score == "ncs":  # cos(p, c) / exp|s - c|
        return cos / np.exp(far)
    if score == "rss":  # exp(cos(p, c)) / sigmoid|s - c|
        return np.exp(cos) / expit(far)
    raise ValueError(f"score {score!r} is not one of fcs, ncs, rss")


def best_bits(p: Array, s: Array, score: Score, depth: int, order: NDArray[np.int64]) -> NDArray[np.bool_]:
    """What to copy from the prototype, bool (..., features): the best mix of each chunk of `depth` features in `order`, linked.

    p, s: unit rows (..., features) of prototype and person. order: the features' numbers, each once.
    """
    bits = np.zeros(p.shape, dtype=bool)
    for start in range(0, len(order), depth):
        chunk = order[start : start + depth]
        # local greedy tree: argmax over the mixes of one chunk, the other chunks unseen
        best = chunk_scores(p[..., chunk], s[..., chunk], score).argmax(-1)
        bits[..., chunk] = mixes(len(chunk))[best]
    return bits


def mixed(
    problem: Problem, x: Array, protos: Array, rng: np.random.Generator, *, score: Score = "fcs", depth: int = 3,
    bits: Literal["best", "random", "shuffled"] = "best", shuffle: bool = False,
) -> Array:  # fmt: skip
    """Prototypes (people, n, d) mixed with people x (people, d), kept where the model accepts the mix; (people, n, d).

    score: see `chunk_scores`. depth: features in a chunk, which are taken in the table's order, or with `shuffle` in a random one.
    bits: of the best mix; or copied at random, each with chance 1/2 or as many as in the best mix.
    Raises ValueError for a bad knob.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, not {depth}")
    if bits not in ("best", "random", "shuffled"):
        raise ValueError(f"bits {bits!r} is not one of best, random, shuffled")
    encoder = fit_encoder(problem.table)
    p = encoder.unit(protos)  # (people, n, features)
    s = np.broadcast_to(encoder.unit(x)[:, None], p.shape)
    order = rng.permutation(p.shape[-1]) if shuffle else np.arange(p.shape[-1])
    copied = best_bits(p, s, score, depth, order)
    if bits == "random":
        copied = rng.random(copied.shape) < 0.5
    elif bits == "shuffled":
        copied = rng.permuted(copied, axis=-1)
    return accepted(problem, np.where(copied[..., owner(problem.table)], protos, x[:, None]), x)


def t_col(
    problem: Problem, x: Array, rng: np.random.Generator, *, rule: Rule = "good", n: int = 10, as_released: bool = False, **mix
) -> Array:
    """T-COL's answers (people, n, d) to people x (people, d): each of n prototypes of a rule, mixed with the person.

    rule, n, as_released: see `prototypes`; mix: see `mixed`. Raises ValueError for a bad x or knob.
    """
    _check(problem.table, x)
    return mixed(problem, x, prototypes(problem, x, rule, n, rng, as_released=as_released), rng, **mix)


CONDITIONS: dict[str, tuple[Rule, Score]] = {
    "a": ("good", "fcs"), "b": ("near", "ncs"), "c": ("rep", "rss"), "d": ("cos", "rss"), "e": ("cen", "rss"),
}  # fmt: skip
METHODS = {f"t_col_{name}": partial(t_col, rule=rule, score=score) for name, (rule, score) in CONDITIONS.items()}


def accepted(problem: Problem, z: Array, x: Array) -> Array:
    """Rows z (n, k, d) made possible for people x (n, d), NaN where the model refuses them."""
    z = problem.table.project(z, x)
    return np.where(problem.accepts(z)[..., None], z, np.nan)


# ---------------------------------------------------------------- rivals


def nearest_rows(problem: Problem, x: Array, rng: np.random.Generator, *, n: int = 10) -> Array:
    """The n nearest accepted rows (people, n, d) of the table, standardised features; what may not move stays the person's."""
    _check(problem.table, x)
    standard = fit_encoder(problem.table).standard
    real = problem.table.X[problem.accepts(problem.table.X)]
    return first(problem, _nearest(x, real, cdist(standard(x), standard(real)), 10 * n), x, n)


def revert(problem: Problem, x: Array, rng: np.random.Generator, *, n: int = 10, ask: bool = True) -> Array:
    """The nearest accepted rows (people, n, d), features put back one by one, always the one that leaves the largest score.

    It ends where the model would accept no further one. Without `ask` a random number of changed features is put back at random,
    and the row is kept if accepted.
    """
    table, z = problem.table, nearest_rows(problem, x, rng, n=n)
    changed = differs(table, z, x[:, None])  # (people, n, p)
    if not ask:
        rank = np.where(changed, rng.random(changed.shape), np.inf).argsort(-1).argsort(-1)
        back = changed & (rank < rng.integers(changed.sum(-1) + 1)[..., None])
        return accepted(problem, np.where(back[..., owner(table)], x[:, None], z), x)
    one = np.eye(len(table.features), dtype=bool)[:, owner(table)]  # (p, d)
    rows = np.argwhere(changed.any(-1))
    while len(rows):
        i, j = rows.T
        start, person = z[i, j], x[i]
        options = np.where(one, person[:, None], start[:, None])  # (rows, p, d)
        score = np.full(options.shape[:2], -np.inf)
        asked = differs(table, start, person)
        score[asked] = problem.model.score(options[asked])
        best = score.argmax(-1)
        good = score.max(-1) >= problem.threshold
        rows = rows[good]
        z[tuple(rows.T)] = options[good, best[good]]
    return z


def dice_random(problem: Problem, x: Array, rng: np.random.Generator, *, n: int = 10, sample: int = 1000) -> Array:
    """DiCE's random search (people, n, d): in `sample` copies of a person one more feature a round gets a random value.

    Ends after two rounds or more with n different accepted rows, of which n are drawn; or after a round per movable feature.
    """
    table = problem.table
    _check(table, x)
    low, high = table.movable(x)
    columns = owner(table)
    movable = np.stack([(low < high)[:, f.columns].any(1) for f in table.features], 1)  # (people, p)
    drawn = _random_rows(table, x, sample, rng)
    z, open_ = np.repeat(x[:, None], sample, 1), np.arange(len(x))
    pool = [np.empty((0, x.shape[1])) for _ in x]
    for turn in range(1, movable.sum(1).max() + 1):
        keys = rng.random((len(open_), sample, len(table.features)))
        moved = np.where(movable[open_, None], keys, -1.0).argmax(-1)[..., None] == columns  # (open, sample, d)
        z[open_] = np.where(moved, drawn[open_], z[open_])
        yes = problem.accepts(z[open_])
        for i, rows, ok in zip(open_, z[open_], yes, strict=True):
            pool[i] = np.unique(np.concatenate([pool[i], rows[ok]]), axis=0)
        open_ = np.array([i for i in open_ if turn < 2 or len(pool[i]) < n], dtype=int)
        if len(open_) == 0:
            break
    found = np.full((len(x), n, x.shape[1]), np.nan)
    for i, rows in enumerate(pool):
        chosen = rng.permutation(len(rows))[:n]
        found[i, : len(chosen)] = rows[chosen]
    return tidy(problem, found, x)


def dice_kdtree(problem: Problem, x: Array, rng: np.random.Generator, *, n: int = 10) -> Array:
    """DiCE's k-d tree (people, n, d): of the 10 n nearest accepted rows those near and with few changes."""
    return tidy(problem, first(problem, _sparse_first(problem, x, 10 * n), x, n), x)


def dice_genetic(problem: Problem, x: Array, rng: np.random.Generator, *, n: int = 10, generations: int = 30) -> Array:
    """DiCE's genetic search (people, n, d): 10 n rows per person, at first the nearest accepted ones, bred; the n fittest.

    Loss: max(0, 2 (threshold - score)) + 0.2 distance + 0.2 share of changed features.
    """
    table, size = problem.table, 10 * n
    columns, people = owner(table), np.arange(len(x))[:, None]
    numbers = [f.columns.start for f in table.features if f.kind != "onehot"]
    weight = 1 / table.spread[[f.kind != "onehot" for f in table.features]]

    def loss(z: Array) -> Array:
        hinge = np.maximum(0, 2 * (problem.threshold - problem.model.score(z.reshape(-1, z.shape[-1])))).reshape(z.shape[:2])
        far = (np.abs(z - x[:, None])[..., numbers] * weight).sum(-1) / weight.sum()
        moved = differs(table, z, x[:, None]).mean(-1)
        return hinge + 0.2 * far + 0.2 * moved

    z = table.project(_sparse_first(problem, x, size), x)
    z = np.where(np.isnan(z), _random_rows(table, x, size, rng), z)
    cost = loss(z)
    for _ in range(generations):
        ranked = np.argsort(cost, axis=1, kind="stable")
        z, cost = z[people, ranked], cost[people, ranked]
        mother, father = (z[people, rng.integers(size // 2, size=(len(x), size - n))] for _ in range(2))
        fate = rng.random((len(x), size - n, len(table.features)))[..., columns]  # a gene is a feature
        child = np.where(fate < 0.4, mother, np.where(fate < 0.8, father, _random_rows(table, x, size - n, rng)))
        z = np.concatenate([z[:, :n], child], 1)
        # a twin of an earlier row would only crowd the list
        cost = np.concatenate([cost[:, :n], loss(child)], 1) + 10.0 * twins(z)
    ranked = np.argsort(cost, axis=1, kind="stable")[:, :n]
    return tidy(problem, np.where((cost[people, ranked] < 10)[..., None], accepted(problem, z[people, ranked], x), np.nan), x)


def tidy(problem: Problem, z: Array, x: Array, quantile: float = 0.1) -> Array:
    """DiCE's afterthought: small changes of numbers (n, k, d) are taken back, the widest feature first, while the model accepts.

    Small: up to the 10 % quantile of the table's |value - median|, or its median where that is less.
    """
    spread = np.abs(problem.table.X - np.median(problem.table.X, axis=0))
    small = np.quantile(spread, quantile, axis=0)  # (d,), never above the median
    numbers = [i for i, f in enumerate(problem.table.features) if f.kind != "onehot"]
    for i in sorted(numbers, key=lambda i: -small[problem.table.features[i].columns.start]):
        column = problem.table.features[i].columns.start
        near = np.abs(z[..., column] - x[:, None, column]) <= small[column]
        z = _undo(problem, z, x, near[..., None] & (np.arange(len(problem.table.features)) == i))
    return z


def twins(z: Array) -> NDArray[np.bool_]:
    """Which rows of z (n, k, d) repeat an earlier one of the same person, bool (n, k); rows of NaN are no one's twins."""
    same = cdist_all(z) <= TOLERANCE  # (n, k, k)
    return np.tril(same, -1).any(-1)


def cdist_all(z: Array) -> Array:
    """City-block distances (n, k, k) among each person's rows z (n, k, d)."""
    return np.stack([cdist(rows, rows, "cityblock") for rows in z])


def first(problem: Problem, z: Array, x: Array, n: int) -> Array:
    """The first n different rows (people, n, d) of z (people, k, d) that are accepted once made possible, then NaN."""
    z = accepted(problem, z, x)
    useless = np.isnan(z).any(-1) | twins(z)
    ranked = np.argsort(useless, axis=1, kind="stable")[:, :n]
    people = np.arange(len(x))[:, None]
    return np.where(useless[people, ranked][..., None], np.nan, z[people, ranked])


def _sparse_first(problem: Problem, x: Array, k: int) -> Array:
    """The k nearest accepted rows (people, k, d) in encoded space, ordered by distance plus changes, each scaled to [0, 1]."""
    table = problem.table
    _check(table, x)
    real = table.X[problem.accepts(table.X)]
    z = _nearest(x, real, cdist(x, real), k)
    far = np.linalg.norm(z - x[:, None], axis=-1)
    moved = differs(table, z, x[:, None]).sum(-1)
    cost = sum((v - np.nanmin(v, 1, keepdims=True)) / np.maximum(np.ptp(v, axis=1, keepdims=True), 1e-12) for v in (far, moved))
    return z[np.arange(len(x))[:, None], np.argsort(cost, axis=1, kind="stable")]


def _nearest(x: Array, real: Array, distance: Array, k: int) -> Array:
    """The k rows (people, k, d) of real (m, d) with the least distance (people, m), NaN where there are fewer."""
    z = np.full((len(x), k, x.shape[1]), np.nan)
    z[:, : len(real)] = real[np.argsort(distance, axis=1, kind="stable")[:, :k]]
    return z


def _random_rows(table: Table, x: Array, k: int, rng: np.random.Generator) -> Array:
    """k rows (people, k, d) that each person could become, every feature uniform over what it may be."""
    low, high = table.movable(x)[:, :, None]
    return table.project(low + (high - low) * rng.random((len(x), k, x.shape[1])), x)


def _undo(problem: Problem, z: Array, x: Array, which: NDArray[np.bool_]) -> Array:
    """z (n, k, d) with features `which` (n, k, p) put back to the person's where they differ and the model still accepts."""
    back = np.where(which[..., owner(problem.table)], x[:, None], z)
    differs = (np.abs(back - z) > TOLERANCE).any(-1)  # only these are asked about
    back[~differs] = np.nan
    return np.where(problem.accepts(back)[..., None], back, z)


def _check(table: Table, x: Array) -> None:
    if x.ndim != 2 or x.shape[1] != table.X.shape[1] or len(x) == 0 or not np.isfinite(x).all():
        raise ValueError(f"x must be finite, of shape (n, {table.X.shape[1]}) with n >= 1, not {x.shape}")
