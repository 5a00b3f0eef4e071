"""Regretful decisions under label noise (Nagaraj, Liu, Calmon & Ustun 2025, arXiv 2504.09330).

Labels are 0 or 1. `clean` y and `noisy` y~ are integers of shape (n,), u = [y != y~] is a flip, T[y, y~] a noise matrix (2, 2).
A stack of m models says `predictions` (m, n), 0 or 1, about n people; `x` (n, d) are covariates of similar size, as standardised.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from shared import labels
from shared.checks import finite

Array = NDArray[np.floating]
Labels = NDArray[np.integer]
Generator = np.random.Generator
Loss = Callable[[Array], tuple[Array, Array]]


# ---------------------------------------------------------------- noise and what can be said about a flip


def noise(kind: str, rate: float) -> Array:
    """T (2, 2): "symmetric" flips both labels at `rate`, "class-conditional" only clean ones, so that a noisy 1 is a clean 1.

    Raises ValueError for another kind or a rate outside [0, 1].
    """
    t = labels.uniform(2, rate)
    if kind == "class-conditional":
        t[0] = [1, 0]
    elif kind != "symmetric":
        raise ValueError(f"kind must be symmetric or class-conditional, not {kind!r}")
    return t


def clean_shares(noisy: Labels, t: Array) -> Array:
    """Shares (2,) of the clean labels that noisy ones (n,) and T tell, in [0, 1]. Raises ValueError when T is singular."""
    seen = np.bincount(_binary("noisy", noisy), minlength=2) / len(noisy)
    if np.isclose(np.linalg.det(t), 0):
        raise ValueError("T is singular: noisy labels do not tell the clean ones' shares")
    # pi~ = T' pi
    share = np.clip(np.linalg.solve(np.transpose(t), seen)[1], 0, 1)
    return np.array([1 - share, share])


def flip_probability(noisy: Labels, t: Array) -> Array:
    """P(u = 1 | y~) (n,) for each noisy label (n,): Bayes' rule with the clean shares of all, nothing about the person's x.

    Raises ValueError for other labels than 0 and 1, T singular, or a noisy label that cannot occur under T.
    """
    noisy = _binary("noisy", noisy)
    # P(u = 1 | y~) = T[1 - y~, y~] pi(1 - y~) / (T[y~, y~] pi(y~) + T[1 - y~, y~] pi(1 - y~))
    return labels.posterior(t, clean_shares(noisy, t))[1 - noisy, noisy]


def flip_probability_given(p: Array, noisy: Labels, t: Array) -> Array:
    """P(u = 1 | x, y~) (n,) from p = P(y = 1 | x) (n,) of a model of the clean label, and noisy labels (n,).

    Raises ValueError when shapes differ or p is outside (0, 1).
    """
    p, noisy = finite("p", p, 1), _binary("noisy", noisy)
    if p.shape != noisy.shape or (p <= 0).any() or (p >= 1).any():
        raise ValueError(f"p must hold numbers in (0, 1), one for each of {len(noisy)} labels")
    own = np.where(noisy == 1, p, 1 - p)  # P(y = y~ | x)
    # the same rule with P(y | x) in place of pi(y)
    flipped, kept = t[1 - noisy, noisy] * (1 - own), t[noisy, noisy] * own
    return flipped / (flipped + kept)


def plausible(noisy: Labels, t: Array, m: int, eps: float, rng: Generator, *, tries: int = 200) -> Labels:
    """Clean labels (m, n) that noisy ones (n,) could have come from: flips drawn from `flip_probability`, kept when typical.

    eps > 0: how far the flips of either noisy label may be from their expected number, as a share of it, or by one flip where that
    is more. tries: batches of m draws.
    Raises ValueError for m or eps that are not positive, and when fewer than m draws were typical in all batches.
    """
    if m < 1 or eps <= 0:
        raise ValueError(f"m and eps must be positive, not {m} and {eps}")
    noisy, p, found = _binary("noisy", noisy), flip_probability(noisy, t), []
    for _ in range(tries):
        u = rng.random((m, len(noisy))) < p
        # typical: | #flips of label j - expected | <= eps expected, for j = 0 and 1; one flip is always near enough
        gap = [np.abs((u[:, own] - p[own]).sum(1)) - max(eps * p[own].sum(), 1) for own in (noisy == 0, noisy == 1)]
        found += list(u[np.max(gap, axis=0) <= 1e-9])
        if len(found) >= m:
            return noisy ^ np.array(found[:m])
    raise ValueError(f"{len(found)} of {m * tries} draws were typical, {m} are needed: use a larger eps than {eps}")


# ---------------------------------------------------------------- mistakes and regret


def regret(predicted: Labels, clean: Labels, noisy: Labels) -> Labels:
    """1 where a mistake comes unforeseen, or a foreseen one does not come, else 0. Broadcasts over (m, n).

    Raises ValueError when an argument has other values than 0 and 1.
    """
    predicted, clean, noisy = (_binary(name, y) for name, y in (("predicted", predicted), ("clean", clean), ("noisy", noisy)))
    true, anticipated = predicted != clean, predicted != noisy
    # r = |e - e~|, e = 1[f != y], e~ = 1[f != y~]
    return (true ^ anticipated).astype(int)


def in_doubt(mistakes: Labels, low: float = 0.1, high: float = 0.9) -> float:
    """The share of people whose mistake comes in some trainings and not in others: a frequency in [low, high] over (m, n)."""
    frequency = _binary("mistakes", mistakes).mean(0)
    return float(((frequency >= low) & (frequency <= high)).mean())


# ---------------------------------------------------------------- learners


def logistic(x: Array, targets: Array, *, weights: Array | None = None, ridge: float = 1e-4, steps: int = 50) -> Array:
    """Logistic regressions (m, 1 + d), intercept first, one for each row of targets (m, n), by Newton's method, all at once.

    weights: (m, n), of a person's loss, >= 0. ridge: penalty ridge / 2 |w|^2 on the mean loss.
    Raises ValueError for shapes that do not fit, NaN, or when a fit does not settle in `steps`.
    """
    x, targets = finite("x", x, 2), finite("targets", targets, 2)
    weights = np.ones_like(targets) if weights is None else finite("weights", weights, 2)
    if targets.shape != weights.shape or targets.shape[1] != len(x) or (weights < 0).any():
        raise ValueError(f"targets and weights >= 0 must be of shape (m, {len(x)}), not {targets.shape} and {weights.shape}")
    x = np.column_stack([np.ones(len(x)), x])  # (n, p)
    i, j = np.triu_indices(x.shape[1])
    products = x[:, i] * x[:, j]  # (n, p (p + 1) / 2): the upper half of every X'WX is a row of W @ products
    penalty = ridge * weights.sum(1)[:, None]  # (m, 1)
    w, curvature = np.zeros((len(targets), x.shape[1])), np.empty((len(targets), x.shape[1], x.shape[1]))
    for _ in range(steps):
        s = expit(w @ x.T)  # (m, n)
        curvature[:, i, j] = curvature[:, j, i] = (weights * s * (1 - s)) @ products
        curvature += penalty[:, :, None] * np.eye(x.shape[1])
        # w <- w + (X' W X + R)^-1 (X' (y - s) - R w)
        change = np.linalg.solve(curvature, ((weights * (targets - s)) @ x - penalty * w)[..., None])[..., 0]
        w += change
        if np.abs(change).max() < 1e-5:  # Newton: what is left is of the order of its square
            return w
    raise ValueError(f"a fit did not settle in {steps} steps: use a larger ridge than {ridge}")


def hedge(x: Array, noisy: Labels, t: Array, how: str, *, ridge: float = 1e-4) -> Array:
    """Logistic regression (1, 1 + d) of the clean label from noisy ones (n,) and T, how: "backward" or "forward" correction.

    By L-BFGS from 0: either loss can fall far from 0, where Newton steps go astray. ridge as in `logistic`.
    Raises ValueError for shapes that do not fit, NaN, another `how`, or T singular (backward).
    """
    x, noisy = finite("x", x, 2), _binary("noisy", noisy)
    if noisy.shape != (len(x),):
        raise ValueError(f"noisy must be of shape ({len(x)},), not {noisy.shape}")
    if how not in ("backward", "forward"):
        raise ValueError(f"how must be backward or forward, not {how!r}")
    ones = np.column_stack([np.ones(len(x)), x])
    by_person = (backward_loss if how == "backward" else forward_loss)(noisy, t)

    def loss(w: Array) -> tuple[float, Array]:
        value, slope = by_person(ones @ w)
        return value.mean() + ridge / 2 * w @ w, slope @ ones / len(x) + ridge * w

    return minimize(loss, np.zeros(ones.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x[None]


def backward_loss(noisy: Labels, t: Array) -> Loss:
    """The corrected cross-entropy T^-1 (l(z, 0), l(z, 1))' at y~, and its slope in z, as a function of scores z (n,)."""
    # l(z, y) = log(1 + e^z) - y z is linear in y, and the rows of T^-1 sum to 1: y becomes T^-1[y~, 1], outside [0, 1]
    target = labels.backward(np.array([[0.0, 1.0]]), t)[0][noisy]
    return lambda z: (np.logaddexp(0, z) - target * z, expit(z) - target)


def forward_loss(noisy: Labels, t: Array) -> Loss:
    """The cross-entropy of q = (T' (1 - s, s)')_y~ for s = 1 / (1 + e^-z), and its slope in z, as a function of scores z (n,)."""
    down, up = t[0, noisy], t[1, noisy]

    def loss(z: Array) -> tuple[Array, Array]:
        s = expit(z)
        q = np.maximum(down * (1 - s) + up * s, 1e-12)
        return -np.log(q), (down - up) * s * (1 - s) / q

    return loss


def probability(w: Array, x: Array) -> Array:
    """P(y = 1 | x) (m, n) of logistic regressions (m, 1 + d) for people x (n, d)."""
    return expit(w[:, :1] + w[:, 1:] @ np.transpose(x))


def network_probability(
    x: Array, targets: Array, new: Array, rng: Generator, *, sizes: tuple[int, ...] = (5, 2), steps: int = 150, lr: float = 0.05
) -> Array:
    """P(y = 1 | x) (m, k) for new people (k, d) by m ReLU networks with hidden layers of these sizes, one for each row of targets.

    targets: (m, n) for people x (n, d). All networks start from the same weights and are trained by Adam on all people at once.
    Raises ValueError for shapes that do not fit or NaN.
    """
    x, targets, new = finite("x", x, 2), finite("targets", targets, 2), finite("new", new, 2)
    if targets.shape[1] != len(x) or new.shape[1] != x.shape[1]:
        raise ValueError(f"targets must be of shape (m, {len(x)}) and new of (k, {x.shape[1]}), not {targets.shape}, {new.shape}")
    m, widths = len(targets), [x.shape[1], *sizes, 1]
    # Glorot & Bengio (2010): uniform within sqrt(6 / (fan in + fan out)); the last column is the bias
    layers = [
        np.repeat(rng.uniform(-1, 1, (1, o, i + 1)) * (6 / (i + o)) ** 0.5, m, axis=0).astype(np.float32)
        for i, o in pairwise(widths)
    ]  # each (m, out, in + 1)
    targets, means, squares = targets[:, None].astype(np.float32), [0 * w for w in layers], [0 * w for w in layers]
    for step in range(1, steps + 1):
        hidden, z = _scores(layers, x)
        gradients, error = [], (expit(z) - targets) / len(x)  # of the mean cross-entropy in z, (m, 1, n)
        for w, a in zip(layers[::-1], hidden[::-1], strict=True):
            gradients.insert(0, np.concatenate([error @ np.swapaxes(a, 1, 2), error.sum(2, keepdims=True)], axis=2))
            error = np.swapaxes(w[:, :, :-1], 1, 2) @ error * (a > 0) if w is not layers[0] else error
        for w, mean, square, g in zip(layers, means, squares, gradients, strict=True):
            mean += 0.1 * (g - mean)
            square += 0.001 * (g**2 - square)
            w -= lr * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return expit(_scores(layers, new)[1][:, 0]).astype(float)


def _scores(layers: list[Array], x: Array) -> tuple[list[Array], Array]:
    """What enters each layer, (1 or m, in, n), and the scores z (m, 1, n)."""
    hidden = [np.transpose(x).astype(np.float32)[None]]
    for w in layers:
        z = w[:, :, :-1] @ hidden[-1] + w[:, :, -1:]
        hidden.append(np.maximum(z, 0))
    return hidden[:-1], z


# ---------------------------------------------------------------- whom to doubt


def ambiguity(predictions: Labels, plausible: Labels) -> Array:
    """The share (n,) of plausible worlds in which the model trained there errs on the person. Both (m, n).

    Raises ValueError when shapes differ or for other values than 0 and 1.
    """
    predictions, plausible = _binary("predictions", predictions), _binary("plausible", plausible)
    if predictions.shape != plausible.shape or predictions.ndim != 2:
        raise ValueError(f"predictions and plausible must have one shape (m, n), not {predictions.shape} and {plausible.shape}")
    # a_i = 1/m sum_k 1[f_k(x_i) != y^_ki]
    return (predictions != plausible).mean(0)


def disagreement(predictions: Labels) -> Array:
    """How much plausible models (m, n) differ about a person, (n,), no label of theirs needed: 4 m / (m - 1) p (1 - p).

    Unbiased for independent models. Raises ValueError for fewer than two models or other values than 0 and 1.
    """
    predictions = _binary("predictions", predictions)
    if predictions.ndim != 2 or len(predictions) < 2:
        raise ValueError(f"predictions must be of shape (m, n) with m >= 2, not {predictions.shape}")
    p = predictions.mean(0)
    return 4 * len(predictions) / (len(predictions) - 1) * p * (1 - p)


def unconfidence(p: Array) -> Array:
    """1 - the probability of the likelier label, for P(y = 1 | x) (n,)."""
    return np.minimum(p, 1 - p)


def label_unconfidence(p: Array, noisy: Labels) -> Array:
    """1 - the probability that a model trained on noisy labels gives to the person's own one: 1 - p(y~_i | x_i), (n,).

    Raises ValueError when shapes differ.
    """
    p, noisy = finite("p", p, 1), _binary("noisy", noisy)
    if p.shape != noisy.shape:
        raise ValueError(f"p and noisy must have one shape (n,), not {p.shape} and {noisy.shape}")
    return np.where(noisy == 1, 1 - p, p)


def order(doubt: Array, rng: Generator) -> NDArray[np.intp]:
    """People (n,) from the least to the most doubtful, ties by lot. Raises ValueError for NaN or no people."""
    doubt = finite("doubt", doubt, 1)
    return np.lexsort((rng.random(len(doubt)), doubt))


def curve(doubt: Array, outcome: Array, rng: Generator) -> Array:
    """The mean outcome among the 1, 2, ..., n least doubtful people, (n,). Raises ValueError when shapes differ."""
    doubt, outcome = finite("doubt", doubt, 1), finite("outcome", outcome, 1)
    if doubt.shape != outcome.shape:
        raise ValueError(f"doubt and outcome must have one shape (n,), not {doubt.shape} and {outcome.shape}")
    return np.cumsum(outcome[order(doubt, rng)]) / np.arange(1, len(outcome) + 1)


def _binary(name: str, y: Labels) -> Labels:
    y = np.asarray(y)
    if y.size == 0 or not ((y == 0) | (y == 1)).all():
        raise ValueError(f"{name} must be labels 0 and 1, at least one")
    return y.astype(int)
