"""Label noise: transition matrices, labels drawn through them, and losses corrected by them.

T[i, j] = P(noisy = j | clean = i), of shape (K, K), rows that sum to 1; labels are whole numbers 0..K-1.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, softmax

Array = NDArray[np.floating]
Labels = NDArray[np.integer]


def uniform(k: int, rate: float) -> Array:
    """T (k, k) of symmetric noise: 1 - rate on the diagonal, the rest in equal parts on the other classes.

    Raises ValueError for fewer than two classes or a rate outside [0, 1].
    """
    if k < 2:
        raise ValueError(f"k must be at least 2 classes, not {k}")
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be in [0, 1], not {rate}")
    return np.where(np.eye(k, dtype=bool), 1 - rate, rate / (k - 1))


def corrupt(clean: Labels, t: Array, u: Array) -> Labels:
    """Noisy labels (n,) of clean ones (n,), drawn through T with one uniform number each, u (n,) in [0, 1).

    A label is kept where u < T[i, i]; so with the same u, what flips at a low rate flips at every higher one.
    Raises ValueError when T is not a transition matrix or the shapes or labels do not fit.
    """
    t = _transition(t)
    clean = _labels("clean", clean, len(t))
    return corrupt_each(clean, t[clean], u)


def corrupt_each(clean: Labels, laws: Array, u: Array) -> Labels:
    """Noisy labels (n,) of clean ones (n,), each drawn from a law of its own, laws (n, K), by one uniform number, u (n,) in [0, 1).

    As in `corrupt`, a label is kept where u < laws[., clean]. Raises ValueError when laws are no probabilities, or the shapes or
    labels do not fit.
    """
    laws, u = np.asarray(laws, float), np.asarray(u, float)
    if laws.ndim != 2 or not np.isfinite(laws).all() or (laws < 0).any() or not np.allclose(laws.sum(1), 1):
        raise ValueError("laws must be probabilities of shape (n, K) whose rows sum to 1")
    k = laws.shape[1]
    clean = _labels("clean", clean, k)
    if not u.shape == clean.shape == laws.shape[:1]:
        raise ValueError(f"clean and u must have one shape (n,), that of laws, not {clean.shape}, {u.shape} and {laws.shape}")
    if ((u < 0) | (u >= 1)).any():
        raise ValueError("u must hold numbers in [0, 1)")
    own_first = (clean[:, None].astype(np.int64) + np.arange(k)) % k  # (n, K): y, y + 1, ..., y - 1
    steps = np.cumsum(np.take_along_axis(laws, own_first, axis=1), axis=1)[:, :-1]  # (n, K - 1)
    place = (u[:, None] >= steps).sum(1)
    return np.take_along_axis(own_first, place[:, None], axis=1)[:, 0].astype(clean.dtype)


def instance(x: Array, clean: Labels, k: int, rate: float, rng: np.random.Generator) -> Array:
    """Laws (n, k) of noise that depends on the instance, P(noisy | clean label y, x): a linear model of x says where a flip goes.

    x (n, d). Instance i flips at a rate q_i ~ N(rate, 0.1) within (0, 1); a flip goes to class j != y at softmax(x W)_j without y,
    with one W (d, k) of standard normal numbers for all. As Xia et al. 2020 do and later code simplifies it. The longer x, the more
    nearly each instance has a single target. Raises ValueError when shapes or labels do not fit, or for a rate outside (0, 1).
    """
    x, clean = np.asarray(x, float), _labels("clean", clean, k)
    if x.ndim != 2 or len(x) != len(clean) or not np.isfinite(x).all():
        raise ValueError(f"x must be finite numbers of shape (n, d), one row a label, not {x.shape} for {len(clean)} labels")
    if not 0 < rate < 1:
        raise ValueError(f"rate must be in (0, 1), not {rate}")
    low, high = ndtr((np.array([0, 1]) - rate) / 0.1)
    q = rate + 0.1 * ndtri(low + (high - low) * rng.random(len(x)))  # a normal cut to (0, 1)
    logits = x @ rng.normal(size=(x.shape[1], k))
    own = np.arange(k) == clean[:, None]
    return np.where(own, 1 - q[:, None], q[:, None] * softmax(np.where(own, -np.inf, logits), axis=1))


def counts(clean: Labels, noisy: Labels, k: int) -> NDArray[np.int64]:
    """How often each pair occurs, (k, k): clean along rows, noisy along columns.

    Raises ValueError when shapes differ or labels are not 0..k-1.
    """
    clean, noisy = _labels("clean", clean, k), _labels("noisy", noisy, k)
    if clean.shape != noisy.shape:
        raise ValueError(f"clean and noisy must have one shape (n,), not {clean.shape} and {noisy.shape}")
    return np.bincount(clean.astype(np.int64) * k + noisy, minlength=k * k).reshape(k, k)


def transition(clean: Labels, noisy: Labels, k: int) -> Array:
    """The estimate of T (k, k) from pairs of labels (n,): shares within each clean class, zeros for a class that does not occur.

    Raises ValueError when shapes differ or labels are not 0..k-1.
    """
    n = counts(clean, noisy, k)
    return n / np.maximum(n.sum(1, keepdims=True), 1)


def posterior(t: Array, prior: Array) -> Array:
    """P(clean = i | noisy = j) (K, K), columns that sum to 1, by Bayes' rule from T and the clean classes' shares `prior` (K,).

    Raises ValueError when T is not a transition matrix, prior is not a distribution of its size, or a noisy label cannot occur.
    """
    t, prior = _transition(t), np.asarray(prior, float)
    if prior.shape != (len(t),) or (prior < 0).any() or not np.isclose(prior.sum(), 1):
        raise ValueError(f"prior must be a distribution of {len(t)} classes, not {prior}")
    joint = prior[:, None] * t
    if (joint.sum(0) == 0).any():
        raise ValueError(f"noisy label {int(np.argmin(joint.sum(0)))} cannot occur under T and prior")
    return joint / joint.sum(0)


def backward(losses: Array, t: Array) -> Array:
    """Losses (n, K) of the clean classes -> (n, K) of the noisy ones, whose mean over the noise is the clean loss: losses T^-T.

    The backward correction of Natarajan et al. 2013 and Patrini et al. 2017, eq. 6. Raises ValueError when T is singular.
    """
    t, losses = _transition(t), np.asarray(losses, float)
    if losses.ndim != 2 or losses.shape[1] != len(t):
        raise ValueError(f"losses must have shape (n, {len(t)}), not {losses.shape}")
    if np.linalg.matrix_rank(t) < len(t):
        raise ValueError("T is singular: the backward correction does not exist")
    return np.linalg.solve(t, losses.T).T


def _labels(name: str, y: Labels, k: int) -> Labels:
    y = np.asarray(y)
    if y.ndim != 1 or y.dtype.kind not in "iu" or ((y < 0) | (y >= k)).any():
        raise ValueError(f"{name} must be whole numbers 0..{k - 1} in one shape (n,)")
    return y


def _transition(t: Array) -> Array:
    t = np.asarray(t, float)
    if t.ndim != 2 or t.shape[0] != t.shape[1] or not np.isfinite(t).all() or (t < 0).any() or not np.allclose(t.sum(1), 1):
        raise ValueError("T must be a square matrix of probabilities whose rows sum to 1")
    return t
