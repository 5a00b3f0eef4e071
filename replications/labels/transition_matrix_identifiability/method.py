"""Identifiability of Label Noise Transition Matrix (Liu, Cheng & Zhang 2023, arXiv 2202.02016).

Noisy labels Z_1..Z_p of a thing are independent given its true class Y, each drawn through T[i, j] = P(Z = j | Y = i). Only the
law of (Z_1..Z_p) is seen. When does it tell T, and the classes' shares q, up to the names of the classes? And what stands in for
labels that nobody gave: the labels of nearest neighbours, or parts of the features?
"""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, linear_sum_assignment
from scipy.special import softmax
from sklearn.cluster import KMeans

from shared.checks import finite as _checked

Array = NDArray[np.floating]
Labels = NDArray[np.integer]
Generator = np.random.Generator


# ---------------------------------------------------------------- what a law of several labels tells


def law(q: Array, views: Sequence[Array]) -> Array:
    """The joint law of views that are independent given the class: q (K,) and matrices (K, a), (K, b), ... -> (a, b, ...).

    A view is a noisy label (T, K x K) or any other discrete variable with its table P(value | class). Raises ValueError unless q
    and each row of each view are distributions of fitting sizes.
    """
    q, views = np.asarray(q), [np.asarray(v) for v in views]
    if q.ndim != 1 or not (q >= 0).all() or not abs(q.sum() - 1) < 1e-8:
        raise ValueError(f"q must be a distribution of shape (K,), not {q}")
    given = {id(v): v for v in views}.values()  # p labels through one T are one matrix to check
    if not views or any(
        v.ndim != 2 or len(v) != len(q) or not (v >= 0).all() or not (abs(v.sum(1) - 1) < 1e-8).all() for v in given
    ):
        raise ValueError(f"views must be matrices of {len(q)} rows of probabilities that sum to 1")
    cells = q[:, None]  # (K, values so far)
    for view in views:
        # P(z_1, .., z_p) = sum_i q_i prod_v P(z_v | i)
        cells = (cells[:, :, None] * view[:, None, :]).reshape(len(q), -1)
    return cells.sum(0).reshape([v.shape[1] for v in views])


def copied(seen: Array) -> Array:
    """The law (..., b, b) of labels and a copy of the last of them, from that of the labels (..., b)."""
    return seen[..., None] * np.eye(seen.shape[-1])


def kruskal_rank(m: Array) -> int:
    """The largest r such that every r rows of m (K, a) are linearly independent: 0..min(K, a). Raises ValueError for no matrix."""
    m = _checked("m", m, 2)
    fits = (
        r for r in range(min(m.shape), 0, -1)
        if all(np.linalg.matrix_rank(m[list(rows)]) == r for rows in combinations(range(len(m)), r))
    )  # fmt: skip
    return next(fits, 0)


def kruskal_suffices(views: Sequence[Array]) -> bool:
    """Whether the condition holds under which q and the views (K, .) follow from their law, up to the classes' names."""
    # sum_v Kr(M_v) >= 2 K + p - 1
    return sum(map(kruskal_rank, views)) >= 2 * len(views[0]) + len(views) - 1


def solutions(
    target: Array, observe: Callable[[Array, Array], Array], k: int, starts: int, rng: Generator, tolerance: float = 1e-4
) -> tuple[Array, Array]:
    """All (q (S, K), T (S, K, K)) that explain a law: observe(q, T) is within `tolerance` of `target`, as a vector.

    One search from each of `starts` random points, least squares in softmax coordinates; S <= starts found one.
    Raises ValueError when no search did.
    """

    def unpack(theta: Array) -> tuple[Array, Array]:
        e = np.ones((k + 1, k))  # the last logit of a row is 0
        e[:, :-1] = np.exp(np.clip(theta.reshape(k + 1, k - 1), -50, 50))
        rows = e / e.sum(1, keepdims=True)
        return rows[0], rows[1:]

    def residual(theta: Array) -> Array:
        return (observe(*unpack(theta)) - target).ravel()

    found = []
    for start in rng.normal(size=(starts, (k + 1) * (k - 1))):
        fit = least_squares(residual, start, method="lm", max_nfev=4000)
        if np.sqrt(2 * fit.cost) < tolerance:
            found.append(unpack(fit.x))
    if not found:
        raise ValueError(f"none of {starts} searches explains the law within {tolerance}: more starts, or another model")
    return np.stack([q for q, _ in found]), np.stack([t for _, t in found])


def binary_solutions(pair: Array, kept: Array) -> tuple[Array, Array, Array]:
    """Every explanation of the law (2, 2) of two labels of two classes: q_1, e_0 and e_1 (n,) for each s in `kept` (n,).

    s = P(Z = 0 | Y = 0) > P(Z = 0); e_0 and e_1 are the rates at which class 0 and class 1 flip. NaN where s leaves no probability.
    Raises ValueError for another shape.
    """
    pair, kept = _checked("pair", pair, 2), _checked("kept", kept, 1)
    if pair.shape != (2, 2):
        raise ValueError(f"pair must be of shape (2, 2), not {pair.shape}")
    a = pair.sum(1)[0]  # P(Z = 0), the mean of s and t = P(Z = 0 | Y = 1)
    v = pair[0, 0] - a**2  # P(Z_1 = Z_2 = 0) - P(Z = 0)^2, their variance
    with np.errstate(divide="ignore"):
        # a law on two points with mean a and variance v: (s - a) (a - t) = v, q_1 = (s - a) / (s - t)
        t = a - v / (kept - a)
    q1 = (kept - a) / (kept - t)
    valid = (t >= 0) & (t <= 1) & (kept > a) & (kept <= 1)
    return tuple(np.where(valid, x, np.nan) for x in (q1, 1 - kept, t))


def error(estimate: Array, t: Array) -> float:
    """Mean over classes of the L1 distance of a row of T, 0..2, under the names of the classes that fit best.

    estimate, t: (K, a). Raises ValueError for other shapes.
    """
    estimate, t = _checked("estimate", estimate, 2), _checked("t", t, 2)
    if estimate.shape != t.shape:
        raise ValueError(f"estimate and t must have one shape, not {estimate.shape} and {t.shape}")
    distance = np.abs(estimate[:, None] - t[None]).sum(2)  # (K estimated, K true)
    return float(distance[linear_sum_assignment(distance)].mean())


# ---------------------------------------------------------------- labels of neighbours


def neighbours(x: Array) -> NDArray[np.int64]:
    """The first and second nearest of the other rows, by cosine: x (n, d) -> (n, 2). Raises ValueError for fewer than 3 rows."""
    x = _checked("x", x, 2).astype(np.float32)
    if len(x) < 3:
        raise ValueError(f"x must have at least 3 rows, not {len(x)}")
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    found = []
    for first in range(0, len(x), 1000):
        near = x[first : first + 1000] @ x.T  # (b, n)
        rows = np.arange(len(near))
        near[rows, first + rows] = -np.inf  # not oneself
        one = near.argmax(1)
        near[rows, one] = -np.inf
        found.append(np.stack([one, near.argmax(1)], axis=1))
    return np.concatenate(found)


def triples(a: Labels, b: Labels, c: Labels, k: int) -> Array:
    """Shares (K, K, K) of the triples of labels a, b and c (n,). Raises ValueError unless they are 0..k-1 and equally many."""
    stacked = np.stack([np.asarray(v) for v in (a, b, c)])
    if stacked.ndim != 2 or not stacked.size or stacked.dtype.kind not in "iu" or stacked.min() < 0 or stacked.max() >= k:
        raise ValueError(f"a, b and c must be whole numbers 0..{k - 1} of one shape (n,)")
    n = stacked.shape[1]
    return np.bincount(np.ravel_multi_index(tuple(stacked.astype(np.int64)), (k, k, k)), minlength=k**3).reshape(k, k, k) / n


def moment_loss(q: Array, t: Array, c: Array, order: int = 3) -> tuple[Array, Array, Array]:
    """Distance of a model's moments from observed ones, for B models at once, and its gradient: (B,), (B, K), (B, K, K).

    q (B, K) shares, t (B, K, K), c (B, K, K, K) laws of three labels. order: 3, or 2 to leave the triples out.
    """
    c1, c2 = c.sum((2, 3)), c.sum(3)
    # p1 = q T;  p2[a, b] = sum_i q_i T_ia T_ib;  p3[a, b, c] = sum_i q_i T_ia T_ib T_ic
    # loss = ||p1 - c1|| + ||p2 - c2|| + ||p3 - c3||, norms and not their squares
    weighted = (q[:, :, None] * t).transpose(0, 2, 1)  # (B, a, i)
    loss, r1 = _unit((q[:, None] @ t)[:, 0] - c1)
    l2, r2 = _unit(weighted @ t - c2)
    g1, g2 = r1[:, None, :], t @ (r2 + r2.transpose(0, 2, 1))
    loss, by_t, by_q = loss + l2, g1 + g2, g1 + g2 / 2
    if order == 3:
        shape = c.shape
        both = (t[..., None] * t[..., None, :]).reshape(*t.shape[:2], -1)  # (B, i, b c)
        l3, r3 = _unit((weighted @ both).reshape(shape) - c)
        sides = r3 + r3.transpose(0, 2, 1, 3) + r3.transpose(0, 3, 1, 2)
        g3 = both @ sides.reshape(*shape[:2], -1).transpose(0, 2, 1)  # (B, i, a)
        loss, by_t, by_q = loss + l3, by_t + g3, by_q + g3 / 3
    return loss, (t * by_q).sum(2), q[:, :, None] * by_t


def consensus(c: Array, rng: Generator, steps: int, *, lr: float = 0.1, order: int = 3) -> tuple[Array, Array]:
    """HOC, high-order consensus: (q (B, K), T (B, K, K)) whose moments come nearest to laws of three labels, c (B, K, K, K).

    Adam on logits; T starts at softmax(5 I - 1), which names the classes, q near equal shares. The iterate with the lowest loss is
    kept. Raises ValueError for other shapes, laws that do not sum to 1, another order or no steps.
    """
    c = _checked("c", c, 4)
    b, k = c.shape[:2]
    if c.shape[1:] != (k, k, k) or not np.allclose(c.sum((1, 2, 3)), 1):
        raise ValueError(f"c must hold laws of shape (B, K, K, K) that sum to 1, not {c.shape}")
    if order not in (2, 3) or steps < 1:
        raise ValueError(f"order must be 2 or 3 and steps at least 1, not {order} and {steps}")
    logits = np.concatenate([1 / k + 0.1 * rng.random((b, 1, k)), np.tile(5 * np.eye(k) - 1, (b, 1, 1))], axis=1)  # q, then T
    chunks = np.array_split(np.arange(b), -(-b // 32))  # that fit a processor's cache
    p = np.concatenate([_adam(logits[some], c[some], steps, lr, order) for some in chunks])
    return p[:, 0], p[:, 1:]


def _adam(logits: Array, c: Array, steps: int, lr: float, order: int) -> Array:
    """The best q and T, stacked (B, 1 + K, K), that Adam meets on its way from logits of that shape."""
    m, v = np.zeros_like(logits), np.zeros_like(logits)
    best, kept = np.full(len(c), np.inf), np.zeros_like(logits)
    for step in range(1, steps + 1):
        p = softmax(logits, axis=2)
        loss, by_q, by_t = moment_loss(p[:, 0], p[:, 1:], c, order)
        better = loss < best
        best[better], kept[better] = loss[better], p[better]
        g = np.concatenate([by_q[:, None], by_t], axis=1)
        g = p * (g - (p * g).sum(2, keepdims=True))  # through the softmax
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        logits = logits - lr * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return kept


def _unit(r: Array) -> tuple[Array, Array]:
    """Lengths (B,) of r (B, ...) and r over them, the gradient of the length."""
    length = np.sqrt((r**2).reshape(len(r), -1).sum(1))
    return length, r / np.maximum(length, 1e-12).reshape(-1, *[1] * (r.ndim - 1))


# ---------------------------------------------------------------- other estimates, from a classifier of the noisy labels


def anchors(p: Array, quantile: float = 1.0) -> Array:
    """T (K, K) whose row i is p at an anchor of class i: p (n, K) probabilities of the noisy label, the row that is largest in i.

    quantile: below 1, the row at that quantile of p[:, i] instead of the largest (Patrini et al. 2017 take 0.97).
    Raises ValueError unless quantile is in (0, 1].
    """
    p = _checked("p", p, 2)
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must be in (0, 1], not {quantile}")
    at = int(np.ceil(quantile * len(p))) - 1
    return p[np.argsort(p, axis=0, kind="stable")[at]]


def confident(p: Array, noisy: Labels) -> Array:
    """T (K, K) by confident learning (Northcutt et al. 2021): p (n, K) out-of-sample probabilities of the noisy labels (n,).

    A row counts for the likeliest class among those that it reaches as well as the rows labelled so do on average. A class that no
    row counts for keeps its labels. Raises ValueError when a class has no label.
    """
    p, noisy = _checked("p", p, 2), np.asarray(noisy)
    k = p.shape[1]
    told = np.bincount(noisy, minlength=k)
    if len(noisy) != len(p) or len(told) != k or (told == 0).any():
        raise ValueError(f"noisy must hold {len(p)} labels 0..{k - 1}, each class among them")
    bar = np.array([p[noisy == j, j].mean() for j in range(k)])
    reached = np.where(p >= bar, p, -1)
    use = reached.max(1) >= 0
    joint = np.bincount(noisy[use] * k + reached.argmax(1)[use], minlength=k * k).reshape(k, k)  # noisy label, class
    joint = joint * (told / np.maximum(joint.sum(1), 1))[:, None]  # as many of each noisy label as there are
    columns = joint.sum(0)
    return np.where(columns > 0, joint / np.maximum(columns, 1e-12), np.eye(k)).T


# ---------------------------------------------------------------- parts of the features as further labels

CORNERS = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])  # of a tetrahedron: four classes, equally far apart
SIGNS = np.array([1, -1, -1])  # of what the two groups of features share, by coordinate


def feature_groups(y: Labels, separation: float, shared: float, rng: Generator) -> tuple[Array, Array]:
    """Two groups of features (n, 3) of classes y (n,), 0..3: a corner of a tetrahedron, `separation` times, and normal noise.

    shared: the size, 0..1, of the correlation of a coordinate's noise between the groups given the class; 0 makes them independent.
    Each group's own law is the same whatever it is. Raises ValueError for another class, shared outside [0, 1).
    """
    y = np.asarray(y)
    if y.ndim != 1 or y.dtype.kind not in "iu" or not y.size or y.min() < 0 or y.max() > 3:
        raise ValueError("y must be whole numbers 0..3 of shape (n,)")
    if not 0 <= shared < 1:
        raise ValueError(f"shared must be in [0, 1), not {shared}")
    common, *own = rng.normal(size=(3, len(y), 3))
    centre = separation * CORNERS[y]
    first, second = (np.sqrt(shared) * sign * common + np.sqrt(1 - shared) * e for sign, e in zip((1, SIGNS), own, strict=True))
    return centre + first, centre + second


def bayes_class(groups: Sequence[Array], separation: float, shared: float = 0.0) -> Labels:
    """The likeliest class (n,) given one group or both, as `feature_groups` draws them from equally frequent classes."""
    away = [g[:, None] - separation * CORNERS for g in groups]  # (n, K, 3) each
    if len(away) == 1:
        return (away[0] ** 2).sum(2).argmin(1)
    a, b = away
    # -2 log density of two standard normals with correlation r, up to what no class changes: (a^2 - 2 r a b + b^2) / (1 - r^2)
    r = shared * SIGNS
    return ((a**2 - 2 * r * a * b + b**2) / (1 - r**2)).sum(2).argmin(1)


def codes(x: Array, values: int, rng: Generator) -> Labels:
    """x (n, d) as one of `values` codes (n,): the nearest centre of k-means. No label is used."""
    return KMeans(values, n_init=1, random_state=int(rng.integers(2**31))).fit_predict(_checked("x", x, 2)).astype(np.int64)


def latent_classes(counts: Array, k: int, starts: int, steps: int, rng: Generator) -> tuple[Array, list[Array]]:
    """q (K,) and tables (K, a), (K, b), (K, c) of the latent class model of three views, from the counts of their values (a, b, c).

    Expectation-maximisation from `starts` random tables, `steps` steps each; the likeliest is kept.
    Raises ValueError for counts that are negative or all 0.
    """
    counts = _checked("counts", counts, 3)
    if (counts < 0).any() or counts.sum() == 0:
        raise ValueError("counts must be >= 0 and not all 0")
    observed = counts / counts.sum()
    q = np.full((starts, k), 1 / k)
    views = [rng.dirichlet(np.ones(size), (starts, k)) for size in counts.shape]  # (S, K, a) each
    for _ in range(steps + 1):
        # E: P(i | a, b, c) = q_i A_ia B_ib C_ic / sum over i
        joint = np.einsum("si,sia,sib,sic->siabc", q, *views)
        cells = np.maximum(joint.sum(1, keepdims=True), 1e-300)
        likelihood = (observed * np.log(cells[:, 0])).sum((1, 2, 3))
        before = q, views
        # M: shares of what the cells say
        share = observed * joint / cells
        q = share.sum((2, 3, 4))
        views = [share.sum(other) / np.maximum(q, 1e-300)[..., None] for other in ((3, 4), (2, 4), (2, 3))]
    best = likelihood.argmax()
    q, views = before  # the tables whose likelihood that was
    return q[best], [v[best] for v in views]
