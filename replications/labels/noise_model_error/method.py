"""Analysing the noise model error for realistic noisy label data (Hedderich, Zhu & Klakow 2021, arXiv 2101.09763).

A noise model M[i, j] = P(noisy = j | clean = i) is estimated from pairs of a clean and a noisy label. How wrong is the estimate on
average, for a given number of pairs and a way to draw them? And how much does it matter to a classifier that is trained through it?
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, hstack
from scipy.stats import binom
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor
from torch.nn import functional

from shared import labels
from shared.checks import finite as _checked

Array = NDArray[np.floating]
Counts = NDArray[np.integer]
Generator = np.random.Generator


# ---------------------------------------------------------------- noise

FLIPS = (7, 9, 0, 4, 2, 1, 3, 5, 6, 8)  # where each of ten classes goes under single-flip noise [released code]
SHARES = {  # and, for multi-flip noise, in which shares of the level
    0: {8: 1 / 2, 9: 1 / 2}, 1: {7: 1}, 2: {0: 1 / 3, 3: 2 / 3}, 3: {2: 1 / 2, 8: 1 / 2},
    4: {0: 1 / 5, 1: 1 / 5, 5: 1 / 5, 6: 1 / 5, 8: 1 / 5}, 5: {6: 1 / 2, 8: 1 / 2}, 6: {5: 1 / 2, 8: 1 / 2},
    7: {1: 1 / 3, 4: 1 / 6, 9: 1 / 2}, 8: {2: 3 / 4, 9: 1 / 4}, 9: {0: 1 / 3, 4: 1 / 3, 8: 1 / 3},
}  # fmt: skip


def synthetic(kind: str, level: float) -> Array:
    """The paper's noise of ten classes, M (10, 10): "uniform", "single-flip" or "multi-flip", each off the diagonal with `level`.

    Raises ValueError for another kind or a level outside [0, 1].
    """
    if kind not in ("uniform", "single-flip", "multi-flip"):
        raise ValueError(f"kind must be uniform, single-flip or multi-flip, not {kind!r}")
    m = labels.uniform(10, level)
    if kind != "uniform":
        m = np.diag(np.full(10, 1 - level))
        for i, j in enumerate(FLIPS):
            for to, share in ({j: 1} if kind == "single-flip" else SHARES[i]).items():
                m[i, to] += level * share
    return m


def matrix(counts: Counts) -> Array:
    """M (..., K, K) from counts of pairs (..., K, K): shares within each clean class, zeros for a class without pairs.

    Raises ValueError when counts are not square, whole or are negative.
    """
    counts = np.asarray(counts)
    if counts.ndim < 2 or counts.shape[-1] != counts.shape[-2] or counts.dtype.kind not in "iu" or (counts < 0).any():
        raise ValueError(f"counts must be whole numbers >= 0 of shape (..., K, K), not {counts.dtype} {counts.shape}")
    return counts / np.maximum(counts.sum(-1, keepdims=True), 1)


# ---------------------------------------------------------------- the error of an estimate


def squared_error(m: Array, estimate: Array) -> Array:
    """SE = sum_ij (M_ij - estimate_ij)^2, of m (K, K) and estimates (..., K, K): (...). Raises ValueError for other shapes."""
    if np.ndim(m) != 2 or np.shape(estimate)[-2:] != np.shape(m):
        raise ValueError(f"estimate must end with m's shape (K, K), {np.shape(m)}, and has {np.shape(estimate)}")
    return ((m - estimate) ** 2).sum((-2, -1))


def expected_fixed(m: Array, n_i: int) -> float:
    """E[SE] when n_i pairs are drawn from each clean class (the paper's theorem on fixed sampling).

    m: (K, K), rows that sum to 1. Raises ValueError for another m or n_i < 1.
    """
    m = _matrix(m)
    if n_i < 1:
        raise ValueError(f"n_i must be at least 1, not {n_i}")
    # E[SE] = sum_i sum_j M_ij (1 - M_ij) / n_i: a row is a multinomial draw over n_i
    return float((m * (1 - m)).sum() / n_i)


def expected_variable(m: Array, shares: Array, n: int, *, complete: bool) -> float:
    """E[SE] when n pairs are drawn from the pool, so that class i gets n_i ~ Binomial(n, shares_i).

    m: (K, K). shares: (K,), of the clean classes. complete: False sums over n_i = 1..n-1, as the released code does; True also over
    n_i = n and n_i = 0, where the row is estimated as zeros. Raises ValueError for other shapes, shares of another sum, n < 1.
    """
    m, shares = _matrix(m), _checked("shares", shares, 1)
    if shares.shape != (len(m),) or (shares < 0).any() or not np.isclose(shares.sum(), 1):
        raise ValueError(f"shares must be a distribution of {len(m)} classes, not {shares}")
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    r = np.arange(1, n + 1 if complete else n)
    inverse = (binom.pmf(r[:, None], n, shares) / r[:, None]).sum(0)  # (K,): E[1 / n_i; n_i > 0]
    # E[SE] = sum_i E[1 / n_i] sum_j M_ij (1 - M_ij)
    error = ((m * (1 - m)).sum(1) * inverse).sum()
    # + sum_i (1 - pi_i)^n sum_j M_ij^2: a class that nobody drew
    return float(error + ((1 - shares) ** n * (m**2).sum(1)).sum() * complete)


# ---------------------------------------------------------------- estimates from drawn pairs


def draw_fixed(pool: Counts, n_i: int, times: int, rng: Generator, *, replace: bool = False) -> Counts:
    """Counts (times, K, K) of n_i pairs from each clean class of a pool with counts (K, K).

    Raises ValueError when, without replacement, a class has fewer than n_i pairs.
    """
    pool = _pool(pool)
    if not replace and (pool.sum(1) < n_i).any():
        raise ValueError(f"n_i = {n_i} pairs cannot be drawn from a class of {pool.sum(1).min()} without replacement")
    if replace:
        return np.stack([rng.multinomial(n_i, row / row.sum(), times) for row in pool], axis=1)
    return np.stack([rng.multivariate_hypergeometric(row, n_i, times) for row in pool], axis=1)


def draw_variable(pool: Counts, n: int, times: int, rng: Generator, *, replace: bool = False) -> Counts:
    """Counts (times, K, K) of n pairs from the whole pool. Raises ValueError when the pool is smaller and nothing is put back."""
    pool = _pool(pool)
    if not replace and pool.sum() < n:
        raise ValueError(f"n = {n} pairs cannot be drawn from a pool of {pool.sum()} without replacement")
    flat = pool.ravel()
    drawn = rng.multinomial(n, flat / flat.sum(), times) if replace else rng.multivariate_hypergeometric(flat, n, times)
    return drawn.reshape(times, *pool.shape)


def draw_stretches(clean: NDArray, noisy: NDArray, k: int, n: int, length: int, times: int, rng: Generator) -> Counts:
    """Counts (times, K, K) of n / length stretches of `length` neighbouring words each, from labels (N,) in the text's order.

    Raises ValueError when n is not a multiple of length or the labels do not fit.
    """
    if n % length:
        raise ValueError(f"n = {n} is not a multiple of length = {length}")
    labels.counts(clean, noisy, k)  # its checks
    pair = np.asarray(clean, np.int64) * k + noisy
    begin = rng.integers(len(pair) - length + 1, size=(times, n // length, 1))
    drawn = pair[begin + np.arange(length)].reshape(times, n)
    return np.stack([np.bincount(row, minlength=k * k) for row in drawn]).reshape(times, k, k)


# ---------------------------------------------------------------- tagging by a list of names


def tag_by_list(words: Sequence[str], sentences: NDArray, names: dict[str, int]) -> NDArray[np.int64]:
    """Tags (n,) of words (n,): the longest name of the list that begins at a word, within its sentence, tags it whole; else 0.

    names: {words with spaces between: tag}. Raises ValueError when words and sentences differ in length.
    """
    if len(words) != len(sentences):
        raise ValueError(f"words and sentences must be equally long, not {len(words)} and {len(sentences)}")
    longest = max((name.count(" ") + 1 for name in names), default=0)
    tags, at = np.zeros(len(words), np.int64), 0
    while at < len(words):
        for length in range(longest, 0, -1):
            end = at + length
            inside = end <= len(words) and sentences[end - 1] == sentences[at]
            if inside and (tag := names.get(" ".join(words[at:end]))) is not None:
                tags[at:end] = tag
                at = end
                break
        else:
            at += 1
    return tags


def entities(tags: NDArray, sentences: NDArray) -> set[tuple[int, int, int]]:
    """(first word, last word, tag) of each stretch of one tag other than 0 within a sentence; tags and sentences: (n,)."""
    change = np.flatnonzero((np.diff(tags) != 0) | (np.diff(sentences) != 0))
    first, last = np.r_[0, change + 1], np.r_[change, len(tags) - 1]
    return {(int(a), int(b), int(tags[a])) for a, b in zip(first, last, strict=True) if tags[a]}


def f1(tags: NDArray, gold: NDArray, sentences: NDArray) -> float:
    """F1 of whole entities: right when first word, last word and tag are. tags, gold, sentences: (n,).

    Raises ValueError for other shapes. 0 when nothing is found.
    """
    if not np.shape(tags) == np.shape(gold) == np.shape(sentences) or np.ndim(tags) != 1 or not len(tags):
        raise ValueError("tags, gold and sentences must have one shape (n,)")
    found, true = entities(np.asarray(tags), sentences), entities(np.asarray(gold), sentences)
    return 2 * len(found & true) / max(len(found) + len(true), 1)


# ---------------------------------------------------------------- a tagger trained through noise models


def word_vectors(
    words: Sequence[str], sentences: NDArray, d: int, common: int = 1000
) -> tuple[dict[str, int], NDArray[np.float32]]:
    """Place of each word in a vocabulary, and vectors (vocabulary + 1, 2 d + 5) of it, the last all zeros (for beyond a sentence).

    d numbers from the word's pieces of 1 to 4 letters, d from the `common` most frequent words on its left and right (positive
    pointwise mutual information), both by singular value decomposition, and five of its shape. No tag is used.
    Raises ValueError when words and sentences differ in length.
    """
    if len(words) != len(sentences):
        raise ValueError(f"words and sentences must be equally long, not {len(words)} and {len(sentences)}")
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    at = np.array([vocabulary[word] for word in words])
    pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), min_df=3, lowercase=False).fit_transform(vocabulary)
    v = len(vocabulary)
    frequent = np.full(v, -1)
    frequent[np.argsort(-np.bincount(at, minlength=v), kind="stable")[:common]] = np.arange(min(common, v))
    beside = np.flatnonzero(np.diff(sentences) == 0)  # words with a right neighbour in the sentence
    sides = []
    for a, b in ((at[beside], at[beside + 1]), (at[beside + 1], at[beside])):
        seen = frequent[b] >= 0
        sides.append(coo_array((np.ones(seen.sum()), (a[seen], frequent[b[seen]])), shape=(v, min(common, v))).tocsr())
    together = hstack(sides).tocoo()
    of_word, of_other = (np.asarray(together.sum(axis)).ravel() for axis in (1, 0))
    information = np.log(together.data * together.sum() / of_word[together.row] / of_other[together.col])
    near = coo_array((np.maximum(information, 0), (together.row, together.col)), shape=together.shape).tocsr()
    blocks = [TruncatedSVD(d, random_state=0).fit_transform(part) for part in (pieces, near)]
    shape = [[w[0].isupper(), w.isupper(), w.islower(), w.isdigit(), not w.isalpha()] for w in vocabulary]
    vectors = np.column_stack([*(b / b.std(0) for b in blocks), np.array(shape, float)])
    return vocabulary, np.vstack([vectors, np.zeros(vectors.shape[1])]).astype(np.float32)


def windows(rows: NDArray, sentences: NDArray, reach: int, beyond: int) -> NDArray[np.int64]:
    """Vocabulary rows (n, 2 reach + 1) around each word, `beyond` outside its sentence; rows and sentences: (n,)."""
    at = np.arange(len(rows))[:, None] + np.arange(-reach, reach + 1)
    inside = np.clip(at, 0, len(rows) - 1)
    same = (at == inside) & (sentences[inside] == sentences[:, None])
    return np.where(same, rows[inside], beyond)


class Task(NamedTuple):
    """What the taggers learn from. vectors (words, d) of the vocabulary; window (n, w), its rows around each word of the pool."""

    vectors: Tensor
    window: Tensor
    noisy: Tensor  # (n,)
    clean_rows: Tensor  # (c,): the words whose clean tags are known
    clean: Tensor  # (c,)


class Taggers(NamedTuple):
    """F networks of one hidden layer: (F, w d, hidden), (F, 1, hidden), (F, hidden, K), (F, 1, K)."""

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor


def scores(taggers: Taggers, x: Tensor) -> Tensor:
    """x (F, b, w d) -> logits (F, b, K)."""
    return torch.baddbmm(taggers.b2, functional.relu(torch.baddbmm(taggers.b1, x, taggers.w1)), taggers.w2)


def forward_loss(logits: Tensor, noisy: Tensor, m: Tensor) -> Tensor:
    """Mean over rows of -log(softmax(logits) M + 1e-7)[noisy]: logits (F, b, K), noisy (F, b), m (F, K, K) -> (F,)."""
    told = torch.log(logits.softmax(-1) @ m + 1e-7)  # the noise layer: P(noisy | x) = P(clean | x) M
    return -told.gather(2, noisy[..., None]).mean((1, 2))


def train(
    task: Task, m: Tensor, rng: torch.Generator, *, hidden: int, epochs: int, batch: int, factor: int, lr: float
) -> Taggers:  # fmt: skip
    """A tagger for each noise model m (F, K, K), held fixed, all from the same first weights and on the same batches.

    An epoch is one pass over the clean words by cross-entropy and then one over `factor` times as many words of the pool, drawn
    afresh, through the noise model (with factor 0 only the first). Two Adams, as in the released code.
    Raises ValueError when m is not (F, K, K) or a tag is not 0..K-1.
    """
    if m.ndim != 3 or m.shape[1] != m.shape[2] or max(task.noisy.max(), task.clean.max()) >= m.shape[1]:
        raise ValueError(f"m must be (F, K, K) with a row for each tag, not {tuple(m.shape)}")
    f, k = m.shape[:2]
    width = task.window.shape[1] * task.vectors.shape[1]
    shapes = (width, hidden), (1, hidden), (hidden, k), (1, k)
    limits = width**-0.5, width**-0.5, hidden**-0.5, hidden**-0.5
    drawn = [(2 * torch.rand(shape, generator=rng) - 1) * limit for shape, limit in zip(shapes, limits, strict=True)]
    taggers = Taggers(*(p.expand(f, *p.shape).clone().requires_grad_() for p in drawn))
    by_clean, by_noisy = (torch.optim.Adam(taggers, lr, fused=True) for _ in range(2))

    def step(optimiser: torch.optim.Adam, rows: Tensor, tags: Tensor, models: Tensor) -> None:
        x = task.vectors[task.window[rows]].flatten(1).expand(f, -1, -1)  # (F, b, w d)
        loss = forward_loss(scores(taggers, x), tags.expand(f, -1), models)
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()

    identity, n, c = torch.eye(k).expand(f, k, k), len(task.noisy), len(task.clean)
    for _ in range(epochs):
        for part in torch.randperm(c, generator=rng).split(batch):
            step(by_clean, task.clean_rows[part], task.clean[part], identity)
        for rows in torch.randint(n, (factor * c,), generator=rng).split(batch) if factor else ():
            step(by_noisy, rows, task.noisy[rows], m)
    return Taggers(*(p.detach() for p in taggers))


@torch.no_grad()
def tag(taggers: Taggers, vectors: Tensor, window: Tensor, rows: int = 2000) -> Tensor:
    """The most probable tags (F, n) of words with vocabulary rows window (n, w)."""
    f = len(taggers.w1)
    return torch.cat([scores(taggers, vectors[part].flatten(1).expand(f, -1, -1)).argmax(2) for part in window.split(rows)], 1)


def _matrix(m: Array) -> Array:
    m = _checked("m", m, 2)
    if m.shape[0] != m.shape[1] or (m < 0).any() or not np.allclose(m.sum(1), 1):
        raise ValueError("m must be square, with rows of probabilities that sum to 1")
    return m


def _pool(pool: Counts) -> Counts:
    matrix(pool)  # its checks
    pool = np.asarray(pool)
    if pool.ndim != 2 or (pool.sum(1) == 0).any():
        raise ValueError("pool must be (K, K) with at least one pair in each clean class")
    return pool
