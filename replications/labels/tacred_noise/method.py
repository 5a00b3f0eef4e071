"""Noise in relation classification dataset TACRED: characterization and reduction (Parekh, Anand & Awekar 2023, arXiv 2311.12298).

Label 0 stands for "no relation" (negative), 1..K-1 for relations (positive). Suspicious negatives are found as nearest neighbours:
of positives that a model takes for negatives (intrinsic), or of examples that an expert had to relabel (extrinsic).
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn import functional

from shared.checks import finite as _checked

Array = NDArray[np.floating]
Labels = NDArray[np.integer]
Indices = NDArray[np.int64]
Generator = np.random.Generator
NEGATIVE = 0


# ---------------------------------------------------------------- scores


def f1_of_counts(tp: float, fp: float, fn: float, other: float) -> float:
    """Micro F1 over relations: `other` positives were told another relation, which costs precision and recall. 0 where tp is 0.

    Raises ValueError for a negative count.
    """
    if min(tp, fp, fn, other) < 0:
        raise ValueError(f"counts must not be negative: tp {tp}, fp {fp}, fn {fn}, other {other}")
    # precision = tp / (tp + fp + other), recall = tp / (tp + fn + other)
    return 2 * tp / (2 * tp + fp + fn + 2 * other) if tp else 0.0


def micro_f1(gold: Labels, told: Labels) -> float:
    """Micro F1 over relations of labels (n,). Raises ValueError for other shapes."""
    gold, told = _labels("gold", gold), _labels("told", told)
    if gold.shape != told.shape:
        raise ValueError(f"gold and told must have one shape, not {gold.shape} and {told.shape}")
    is_right, positive, found = gold == told, gold != NEGATIVE, told != NEGATIVE
    return f1_of_counts(
        (is_right & positive).sum(), (~positive & found).sum(), (positive & ~found).sum(), (~is_right & positive & found).sum()
    )


# ---------------------------------------------------------------- noise with known truth


def mislabel(clean: Labels, k: int, rate: float, confused: float, rng: Generator, ease: Array | None = None) -> Labels:
    """Labels (n,) of which a share `rate` of the positives became negative, and a share `confused` of the others another relation.

    k: number of labels, at least 3 where positives are confused. ease: (n,), how easy each example is; the positives that become
    negative are those with the least ease, at random without it. Raises ValueError for shares outside [0, 1], labels not in 0..k-1,
    too few labels to confuse, or shapes that do not fit.
    """
    clean = _labels("clean", clean)
    if not (0 <= rate <= 1 and 0 <= confused <= 1):
        raise ValueError(f"rate and confused must be in [0, 1], not {rate} and {confused}")
    if clean.min() < 0 or clean.max() >= k or (confused and k < 3):
        raise ValueError(f"clean must have labels 0..k-1, and k be 3 or more where positives are confused, not k = {k}")
    ease = rng.random(len(clean)) if ease is None else _checked("ease", ease, 1)
    if ease.shape != clean.shape:
        raise ValueError(f"ease must have shape {clean.shape}, not {ease.shape}")
    noisy = clean.copy()
    positives = np.flatnonzero(clean != NEGATIVE)
    positives = positives[np.argsort(ease[positives], kind="stable")]
    lost, rest = np.split(positives, [round(rate * len(positives))])
    noisy[lost] = NEGATIVE
    moved = rng.permutation(rest)[: round(confused * len(rest))]
    noisy[moved] = 1 + (clean[moved] - 1 + rng.integers(1, k - 1, len(moved))) % (k - 1)
    return noisy


# ---------------------------------------------------------------- classifiers, several at once


class Classifiers(NamedTuple):
    """F softmax regressions: weights (d, F, K) and offsets (F, K)."""

    w: Tensor
    b: Tensor


def probabilities(classifiers: Classifiers, x: Tensor) -> Tensor:
    """x (n, d) -> (F, n, K)."""
    logits = torch.tensordot(x, classifiers.w, 1) + classifiers.b  # (n, F, K)
    return logits.softmax(2).transpose(0, 1)


def fit(
    x: Tensor, labels: Tensor, used: Tensor, k: int, rng: torch.Generator, *, epochs: int, batch: int, lr: float, decay: float
) -> Classifiers:
    """A softmax regression for each set of labels, by AdamW with a cosine rate, all on the same batches.

    x: (n, d). labels: (F, n), 0..k-1. used: (F, n), the examples that each one learns from.
    epochs: passes over all n. batch: examples of a step. lr: the first rate, falling to 0. decay: of AdamW. Raises ValueError for
    shapes that do not fit, x that is not finite, labels outside 0..k-1, or a classifier that is given no example.
    """
    f, n = labels.shape
    if used.shape != labels.shape or len(x) != n or not bool(((labels >= 0) & (labels < k)).all()):
        raise ValueError(f"labels and used must be (F, n) for x (n, d), labels 0..{k - 1}")
    if not bool(x.isfinite().all()):
        raise ValueError("x contains NaN or infinity")
    if not bool(used.any(1).all()):
        raise ValueError("used leaves a classifier without examples")
    classifiers = Classifiers(torch.zeros(x.shape[1], f, k, requires_grad=True), torch.zeros(f, k, requires_grad=True))
    optimiser = torch.optim.AdamW(classifiers, lr, weight_decay=decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * -(-n // batch))
    for _ in range(epochs):
        for rows in torch.randperm(n, generator=rng).split(batch):
            logits = torch.tensordot(x[rows], classifiers.w, 1) + classifiers.b  # (b, F, K)
            loss = functional.cross_entropy(logits.flatten(0, 1), labels[:, rows].T.flatten(), reduction="none")
            optimiser.zero_grad()
            (loss * used[:, rows].T.flatten()).sum().div(len(rows)).backward()
            optimiser.step()
            schedule.step()
    return Classifiers(classifiers.w.detach(), classifiers.b.detach())


def out_of_fold(x: Tensor, labels: Tensor, k: int, folds: int, rng: torch.Generator, **training) -> Tensor:
    """Probabilities (n, K) of each example by a classifier that did not learn from it. labels: (n,). See `fit` for the rest."""
    fold = torch.randperm(len(x), generator=rng) % folds
    used = torch.stack([fold != i for i in range(folds)])
    told = probabilities(fit(x, labels.expand(folds, -1), used, k, rng, **training), x)  # (folds, n, K)
    return told[fold, torch.arange(len(x))]


# ---------------------------------------------------------------- suspects


class Suspects(NamedTuple):
    """Rows of suspicious examples (s,), each once, and the label that its seed stands for (s,)."""

    row: Indices
    label: Labels


def neighbours(x: Array, seeds: Indices, seed_labels: Labels, pool: Indices, k: int) -> Suspects:
    """The k rows of the pool that are nearest to each seed by cosine; a row that several seeds reach takes the nearest's label.

    x: (n, d). seeds, pool: rows of x. Raises ValueError when the pool has fewer than k rows or seeds and labels differ in length.
    """
    x = _checked("x", x, 2)
    if len(seeds) != len(seed_labels):
        raise ValueError(f"seeds and seed_labels must be equally long, not {len(seeds)} and {len(seed_labels)}")
    if len(pool) < k:
        raise ValueError(f"pool has {len(pool)} rows, fewer than k = {k}")
    if not len(seeds):
        return Suspects(np.empty(0, np.int64), np.empty(0, np.int64))
    distance, at = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(x[pool]).kneighbors(x[seeds])
    found = np.asarray(pool)[at.ravel()]
    order = np.argsort(distance.ravel(), kind="stable")
    row, first = np.unique(found[order], return_index=True)
    return Suspects(row, np.repeat(seed_labels, k)[order][first])


def intrinsic(x: Array, labels: Labels, told: Labels, k: int) -> Suspects:
    """Negatives next to false negatives: positives by label that a model takes for negatives; told: (n,), out of fold.

    x: (n, d). labels: (n,). Raises ValueError for shapes that do not fit.
    """
    labels, told = _labels("labels", labels), _labels("told", told)
    if labels.shape != told.shape:
        raise ValueError(f"labels and told must have one shape, not {labels.shape} and {told.shape}")
    seeds = np.flatnonzero((labels != NEGATIVE) & (told == NEGATIVE))
    return neighbours(x, seeds, labels[seeds], np.flatnonzero(labels == NEGATIVE), k)


def extrinsic(x: Array, labels: Labels, checked: Indices, expert: Labels, k: int, *, positives: bool) -> Suspects:
    """Examples next to those an expert relabelled. x: (n, d). labels: (n,). checked: rows (c,); expert: their true labels (c,).

    Seeds are negatives that became relations, and their neighbours negatives; with positives=True also relabelled positives,
    whose neighbours are positives of the seed's old label. Checked examples themselves are never suspects. Raises ValueError when
    checked and expert differ in length.
    """
    labels, expert = _labels("labels", labels), _labels("expert", expert)
    if len(checked) != len(expert):
        raise ValueError(f"checked and expert must be equally long, not {len(checked)} and {len(expert)}")
    unchecked = np.setdiff1d(np.arange(len(labels)), checked)
    changed = labels[checked] != expert
    was = labels[checked]
    olds = [NEGATIVE, *(np.unique(was[changed & (was != NEGATIVE)]) if positives else ())]
    found = []
    for old in olds:
        pool, seeds = unchecked[labels[unchecked] == old], changed & (was == old)
        if len(pool):  # else every example of this label was checked
            found.append(neighbours(x, checked[seeds], expert[seeds], pool, min(k, len(pool))))
    if not found:
        return Suspects(np.empty(0, np.int64), np.empty(0, np.int64))
    return Suspects(*(np.concatenate(part) for part in zip(*found, strict=True)))


def _labels(name: str, labels: Labels) -> Labels:
    labels = np.asarray(labels)
    if labels.ndim != 1 or not len(labels) or labels.dtype.kind not in "iu":
        raise ValueError(f"{name} must be whole numbers of shape (n,), not {labels.dtype} {labels.shape}")
    return labels
