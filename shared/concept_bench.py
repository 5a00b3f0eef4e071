"""Concept effects on a model of texts, as CEBaB scores them (Abraham et al. 2022): pairs of reviews, estimators, three errors.

An estimator says how a black box's output would change had one aspect of a review been another. It sees the review and training
data, never the rewritten review; the truth is the black box's own change when a person rewrites the review. Pairs stand in both
orders, so that one query's rewriting is another's review: each query has to be answered by itself. One decorated function is one
more row of every table:

    @estimator("mine")
    def mine(queries: Queries, kit: Kit) -> Array: ...  # (m, k)
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from shared.data.cebab import Reviews

Array = NDArray[np.floating]
Labels = NDArray[np.integer]

ESTIMATORS: dict[str, Callable] = {}


class Pairs(NamedTuple):
    """m ordered pairs of a review and its rewriting: rows base and other, the aspect, its values before and after, each (m,)."""

    base: Labels
    other: Labels
    aspect: Labels
    before: Labels
    after: Labels


class Queries(NamedTuple):
    """What an estimator may see of m pairs: the base review's embedding (m, d), words, prediction (m, k); aspect, before, after."""

    embeddings: Array
    texts: list[str]
    proba: Array
    aspect: Labels
    before: Labels
    after: Labels


class Kit(NamedTuple):
    """What an estimator may use: training reviews, the black box, what reads aspects (n, 4) from embeddings (n, d), and chance.

    Any fitted classifier of embeddings may stand as black box where an estimator only asks it (`predict`, `predict_proba`).
    """

    train: Reviews
    black_box: MLPClassifier
    read_aspects: Callable[[Array], Labels]
    rng: np.random.Generator


def estimator(name: str) -> Callable:
    """Makes `def f(queries, kit) -> effects (m, k)` a row of the bench. Raises ValueError for a name that is taken."""

    def register(function: Callable[[Queries, Kit], Array]) -> Callable:
        if name in ESTIMATORS:
            raise ValueError(f"an estimator named {name!r} exists; choose another name")
        ESTIMATORS[name] = function
        return function

    return register


def pairs(reviews: Reviews) -> Pairs:
    """Every ordered pair of a family that differs by one edit: original and edit, both ways, and two edits of the same aspect.

    The aspect's values are the validated labels, not what the editor was asked for; pairs whose label is missing or did not change
    are left out (CEBaB, section 4 and official code, which keeps missing labels as a value of their own).
    """
    found = []
    for family in np.unique(reviews.family):
        rows = np.flatnonzero(reviews.family == family)
        for i in rows:
            for j in rows:
                edits = {int(reviews.edited[row]) for row in (i, j)} - {-1}
                if i == j or len(edits) != 1:  # two originals, or edits of two aspects
                    continue
                aspect = edits.pop()
                before, after = reviews.aspects[[i, j], aspect]
                if min(before, after) >= 0 and before != after:
                    found.append((i, j, aspect, before, after))
    return Pairs(*np.array(found, dtype=int).reshape(-1, 5).T)


def ask(reviews: Reviews, of: Pairs, black_box: MLPClassifier) -> Queries:
    """The queries of some pairs: nothing of the rewriting."""
    x = reviews.embeddings[of.base]
    return Queries(x, [reviews.texts[i] for i in of.base], black_box.predict_proba(x), of.aspect, of.before, of.after)


def effects(reviews: Reviews, of: Pairs, black_box: MLPClassifier) -> Array:
    """ICaCE (m, k): how the black box's output changes from the review to its rewriting (CEBaB, eq. 1)."""
    return black_box.predict_proba(reviews.embeddings[of.other]) - black_box.predict_proba(reviews.embeddings[of.base])


def errors(true: Array, estimated: Array) -> dict[str, Array]:
    """The three errors (m,) of estimated effects (m, k): L2 distance, 1 - cosine (1 where either is zero), difference of lengths.

    Effects are rounded to four digits first, as in the official code. Raises ValueError for other shapes or NaN.
    """
    true, estimated = np.round(true, 4), np.round(estimated, 4)
    if true.ndim != 2 or true.shape != estimated.shape:
        raise ValueError(f"true and estimated must have one shape (m, k), not {true.shape} and {estimated.shape}")
    if not np.isfinite(true).all() or not np.isfinite(estimated).all():
        raise ValueError("true and estimated must be finite numbers")
    lengths = np.linalg.norm(true, axis=1), np.linalg.norm(estimated, axis=1)
    product = lengths[0] * lengths[1]
    cosine = np.divide((true * estimated).sum(1), product, out=np.zeros(len(true)), where=product > 0)
    return {"L2": np.linalg.norm(true - estimated, axis=1), "cosine": 1 - cosine, "norm": np.abs(lengths[0] - lengths[1])}


def black_box(x: Array, stars: Labels, *, hidden: int, alpha: float, epochs: int, seed: int) -> MLPClassifier:
    """A classifier of stars 1..5 from embeddings (n, d): one tanh layer, Adam, `epochs` passes, L2 penalty alpha.

    Reviews without majority stars (0) are left out. Raises ValueError when a number of stars does not occur.
    """
    rated = stars > 0
    if set(np.unique(stars[rated])) != set(range(1, 6)):
        raise ValueError("stars must hold each of 1..5")
    model = MLPClassifier((hidden,), activation="tanh", alpha=alpha, random_state=seed)
    for _ in range(epochs):
        model.partial_fit(x[rated], stars[rated], classes=np.arange(1, 6))
    return model


def aspect_reader(train: Reviews, c: float) -> Callable[[Array], Labels]:
    """What tells aspects (n, 4) of embeddings (n, d): a logistic regression for each aspect, on reviews whose label is known."""
    models = []
    for labels in train.aspects.T:
        known = labels >= 0
        models.append(LogisticRegression(C=c, max_iter=1000).fit(train.embeddings[known], labels[known]))
    return lambda x: np.column_stack([model.predict(x) for model in models])


def score(names: Sequence[str], reviews: Reviews, of: Pairs, kit: Kit) -> dict[str, dict[str, Array]]:
    """The errors (m,) of estimators by name; the kit's chance is theirs in turn. Raises KeyError for an unknown name."""
    true = effects(reviews, of, kit.black_box)
    queries = ask(reviews, of, kit.black_box)
    return {name: errors(true, ESTIMATORS[name](queries, kit)) for name in names}
