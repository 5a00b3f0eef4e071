"""CEBaB: estimating the causal effects of concepts on a model of texts (Abraham et al. 2022, arXiv 2205.14140).

The explainers that the paper compares, as rows of `shared.concept_bench`.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orth
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from shared.concept_bench import Kit, Queries, estimator
from shared.data.cebab import ASPECTS, VALUES

Array = NDArray[np.floating]
Labels = NDArray[np.integer]

# ---------------------------------------------------------------- explainers


@estimator("zero")
def zero(queries: Queries, kit: Kit) -> Array:
    """No effect at all: what an error means without an estimate."""
    return np.zeros_like(queries.proba)


@estimator("random")
def random(queries: Queries, kit: Kit) -> Array:
    """The difference of two vectors of uniform numbers, each divided by its sum (CEBaB's random explainer)."""
    drawn = kit.rng.random((len(queries.proba), 2, queries.proba.shape[1]))
    before, after = np.moveaxis(drawn / drawn.sum(2, keepdims=True), 1, 0)
    return after - before


@estimator("conexp")
def conexp(queries: Queries, kit: Kit) -> Array:
    """Conditional expectations: mean prediction over training reviews with the new value, minus that over those with the old."""
    proba = kit.black_box.predict_proba(kit.train.embeddings)
    means = np.array(
        [[proba[kit.train.aspects[:, aspect] == value].mean(0) for value in range(len(VALUES))] for aspect in range(len(ASPECTS))]
    )  # (4, 3, k)
    return means[queries.aspect, queries.after] - means[queries.aspect, queries.before]


def one_hot(aspects: Labels) -> Array:
    """Aspects (n, 4) with values 0..2, or -1 for unlabelled -> (n, 12): three columns an aspect, zeros for -1."""
    return (aspects[:, :, None] == np.arange(len(VALUES))).reshape(len(aspects), -1).astype(float)


@estimator("s_learner")
def s_learner(queries: Queries, kit: Kit) -> Array:
    """A logistic regression of the black box's answer on aspects; its change when one aspect is set to the new value.

    Fitted to training reviews' labels and the black box's most probable stars. A query's aspects are read from its words, the one
    in question too: a query that is read as having the new value already has effect 0 (official code).
    """
    model = LogisticRegression(max_iter=1000).fit(one_hot(kit.train.aspects), kit.black_box.predict(kit.train.embeddings))
    read = kit.read_aspects(queries.embeddings)
    told = read.copy()
    told[np.arange(len(told)), queries.aspect] = queries.after
    effect = np.zeros_like(queries.proba)
    places = np.searchsorted(kit.black_box.classes_, model.classes_)  # numbers of stars that the black box never answers have none
    effect[:, places] = model.predict_proba(one_hot(told)) - model.predict_proba(one_hot(read))
    return effect


def matches(queries: Queries, kit: Kit, target: Labels) -> Array:
    """Which training reviews each query may be matched to (m, n): the target value, and fewest differences in other aspects.

    A training review's unlabelled aspects, and all of the query's, are read from the words.
    """
    train = np.where(kit.train.aspects >= 0, kit.train.aspects, kit.read_aspects(kit.train.embeddings))
    wanted = kit.read_aspects(queries.embeddings)
    wanted[np.arange(len(wanted)), queries.aspect] = target
    differ = (wanted[:, None, :] != train).astype(np.int8)  # (m, n, 4)
    own = np.take_along_axis(differ, queries.aspect[:, None, None], axis=2)[:, :, 0]  # (m, n)
    distance = differ.sum(2) + len(ASPECTS) * own  # a wrong value of the aspect in question is worse than all others wrong
    return distance == distance.min(1, keepdims=True)


def _sampled(queries: Queries, kit: Kit, target: Labels) -> Array:
    """Prediction for a review drawn among the matches of each query, minus the query's own (m, k)."""
    drawn = (matches(queries, kit, target) * kit.rng.random((len(target), len(kit.train.stars)))).argmax(1)
    return kit.black_box.predict_proba(kit.train.embeddings)[drawn] - queries.proba


@estimator("approx")
def approx(queries: Queries, kit: Kit) -> Array:
    """Approximate counterfactuals: the black box's answer to a real review that has the new value and shares the other aspects."""
    return _sampled(queries, kit, queries.after)


@estimator("approx, value ignored")
def approx_ignoring(queries: Queries, kit: Kit) -> Array:
    """`approx` that looks for the value the review has already."""
    return _sampled(queries, kit, queries.before)


@estimator("approx, mean of matches")
def approx_mean(queries: Queries, kit: Kit) -> Array:
    """The mean answer to all matches instead of one drawn among them (ours)."""
    weights = matches(queries, kit, queries.after).astype(float)
    proba = kit.black_box.predict_proba(kit.train.embeddings)
    return weights @ proba / weights.sum(1, keepdims=True) - queries.proba


# ---------------------------------------------------------------- explainers that look inside the black box


def null_space(x: Array, labels: Labels, rounds: int = 10) -> Array:
    """The projection (d, d) that takes from x (n, d) the directions in which a linear classifier tells labels (n,).

    Iterated null space projection (Ravfogel et al. 2020): each round fits a logistic regression to what is left of x, and removes
    its directions. Ten rounds in CEBaB's official code.
    """
    projection = np.eye(x.shape[1])
    for _ in range(rounds):
        found = orth((LogisticRegression(max_iter=1000).fit(x @ projection, labels).coef_ @ projection).T, rcond=1e-6)  # (d, 2)
        projection -= found @ found.T
    return projection


@estimator("inlp")
def inlp(queries: Queries, kit: Kit) -> Array:
    """The black box's answer to an embedding without the aspect, minus its answer: one effect, whatever the new value."""
    effect = np.zeros_like(queries.proba)
    for aspect in np.unique(queries.aspect):
        labels = kit.train.aspects[:, aspect]
        rows, known = queries.aspect == aspect, labels >= 0
        projection = null_space(kit.train.embeddings[known], labels[known])
        effect[rows] = kit.black_box.predict_proba(queries.embeddings[rows] @ projection) - queries.proba[rows]
    return effect


def states(model: MLPClassifier, x: Array) -> Array:
    """What the black box makes of embeddings (n, d) before its last layer, (n, hidden)."""
    return np.tanh(x @ model.coefs_[0] + model.intercepts_[0])


@estimator("tcav")
def tcav(queries: Queries, kit: Kit) -> Array:
    """Slopes of the black box's probabilities along the concept's direction in its states, from the old value to the new one.

    The direction of a value is its weight vector in a logistic regression of the aspect on states, of length 1 (Kim et al. 2018).
    """
    inner, asked = states(kit.black_box, kit.train.embeddings), states(kit.black_box, queries.embeddings)
    head = kit.black_box.coefs_[1]  # (hidden, k)
    proba = softmax(asked @ head + kit.black_box.intercepts_[1], axis=1)
    effect = np.zeros_like(queries.proba)
    for aspect in np.unique(queries.aspect):
        labels = kit.train.aspects[:, aspect]
        rows, known = queries.aspect == aspect, labels >= 0
        weights = LogisticRegression(max_iter=1000).fit(inner[known], labels[known]).coef_  # (3, hidden)
        unit = weights / np.linalg.norm(weights, axis=1, keepdims=True)
        rise = (unit[queries.after[rows]] - unit[queries.before[rows]]) @ head  # (rows, k), of the logits
        effect[rows] = proba[rows] * (rise - (proba[rows] * rise).sum(1, keepdims=True))  # softmax' slope
    return effect


# ---------------------------------------------------------------- effects of an aspect


def average_effects(effect: Array, aspect: Labels, before: Labels, after: Labels) -> Array:
    """CaCE (4, 3, 3, ...): mean of effects (m, ...) by aspect, old and new value; NaN where there is no pair (eq. 2)."""
    table = np.full((len(ASPECTS), len(VALUES), len(VALUES), *effect.shape[1:]), np.nan)
    for key in {*zip(aspect.tolist(), before.tolist(), after.tolist(), strict=True)}:
        rows = (aspect == key[0]) & (before == key[1]) & (after == key[2])
        table[key] = effect[rows].mean(0)
    return table
