"""RAD: the share of a system's right answers that stay right when the question is turned into another one about the same fact.

Rosenberg, Gat, Feder & Reichart (2021), Are VQA Systems RAD? Measuring Robustness to Augmented Data with Focused Interventions,
arXiv:2106.04484. Arrays `right` (..., n) hold, for any number of systems, whether each of n answers was right.
"""

import re
from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from shared.data.easy_vqa import COLOURS, SHAPES

# ---------------------------------------------------------------- the measure


def rad(right: ArrayLike, right_after: ArrayLike) -> NDArray[np.float64]:
    """RAD (...,) of answers right before (..., n) and after (..., n) the augmentation, bool; NaN where none was right before.

    RAD(D, D'; f) = |J(D; f) and J(D'; f)| / |J(D; f)|, J the items answered rightly.
    Raises ValueError for other shapes, no items, or anything but truth values.
    """
    before, after = _truths("right", right), _truths("right_after", right_after)
    if before.shape != after.shape:
        raise ValueError(f"right and right_after must have one shape, not {before.shape} and {after.shape}")
    count = before.sum(-1)
    return np.divide((before & after).sum(-1), count, out=np.full(count.shape, np.nan), where=count > 0)


def rad_in_common(right: ArrayLike, right_after: ArrayLike) -> tuple[NDArray[np.float64], int]:
    """RAD (systems,) on the items that every system got right before, and how many they are; both arguments (systems, n)."""
    before, after = _truths("right", right), _truths("right_after", right_after)
    common = before.all(0)
    return rad(before[:, common], after[:, common]) if common.any() else np.full(len(before), np.nan), int(common.sum())


def compatible(said: ArrayLike, about: ArrayLike, said_after: ArrayLike) -> NDArray[np.float64]:
    """Consistency without correctness (...,): how often "yes" is said of the very property that was named before, and only of it.

    said (..., n): the property named for the open question; about (n,): the one that the variant asks for; said_after (..., n).
    """
    return ((np.asarray(said) == np.asarray(about)) == (np.asarray(said_after) == "yes")).mean(-1)


def _truths(name: str, value: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(value)
    if array.dtype != bool or array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"{name} must be truth values (..., n) of at least one item, not {array.dtype} of shape {array.shape}")
    return array


# ---------------------------------------------------------------- the paper's three augmentations

TEMPLATES = {  # of an original question, and of the question whose answer is then yes
    "colours": (r"what colou?r (is|are) (.+)", "is the color of {1} {answer}"),
    "how many": (r"how many (.+?)(?: are(?: there)?)?( in .+)?", "are there {answer} {0}{1}"),
    "what kind": (r"what kind of (.+?) (is|are) (this|that|these|those)", "{1} {2} {0} {answer}"),
}


def augment(kind: str, question: str, answer: str) -> str | None:
    """The yes/no question, answered by yes, about what an open question and its answer say; None if it has not the kind's form.

    kind: of TEMPLATES. "What color is the shirt?", "red" -> "Is the color of the shirt red?". Raises ValueError for another kind.
    """
    if kind not in TEMPLATES:
        raise ValueError(f"kind must be one of {list(TEMPLATES)}, not {kind!r}")
    pattern, form = TEMPLATES[kind]
    found = re.fullmatch(pattern, question.strip().rstrip("?").strip().lower())
    if found is None or answer in ("yes", "no"):
        return None
    text = form.format(*(part or "" for part in found.groups()), answer=answer.lower())
    return f"{text[0].upper()}{text[1:]}?"


# ---------------------------------------------------------------- augmentations whose truth is certain, for easy-VQA

OPEN = {"colour": "what color is the shape?", "shape": "what shape is in the image?"}
OPEN_ANEW = {"colour": "what is the color of the shape?", "shape": "what shape does the image contain?"}
THERE = {"colour": "is there a {} shape?", "shape": "is there a {}?"}
NOT_THERE = {"colour": "is there not a {} shape?", "shape": "is there not a {}?"}
UNSEEN = {  # phrasings that the training set has not, in words that it has; the first of a colour is the paper's own
    "colour": ("is the color of the shape {}?", "is the shape {}?"),
    "shape": ("is the shape a {}?", "is the shape in the image a {}?"),
}
PROPERTIES = {"colour": COLOURS, "shape": SHAPES}
PARAPHRASE, KNOWN, NEGATED, SWAPPED = "open, other words", "yes/no", "negated", "swapped"


def pairs(facts: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """All pairs of an original and its variant about pictures whose colour and shape are known (index `picture`).

    Columns: `property`, `augmentation`, `variant` (the variant's answer if it is yes or no, else "open"), `about` (the property's
    value that the variant names), `picture`, `question`, `answer`, `question_after`, `answer_after`. Where another value than the
    picture's is named, it is drawn once a picture and property. Every yes/no augmentation has as many variants of either answer.
    """
    rows = []
    for kind, values in PROPERTIES.items():
        for picture, own in facts[kind].items():
            other = str(rng.choice([value for value in values if value != own]))
            for row in _of_picture(kind, own, other):
                rows.append((kind, row[0], row[1], row[2], picture, *row[3:]))
    names = ["property", "augmentation", "variant", "about", "picture", "question", "answer", "question_after", "answer_after"]
    table = pd.DataFrame(rows, columns=names)
    return table.sort_values(["property", "augmentation", "variant", "picture"], ignore_index=True)


def _of_picture(kind: str, own: str, other: str) -> list[tuple[str, ...]]:
    """Rows (augmentation, variant, about, question, answer, question after, answer after) of one property of a picture."""
    there, away = THERE[kind].format, NOT_THERE[kind].format
    rows = [(PARAPHRASE, "open", own, OPEN[kind], own, OPEN_ANEW[kind], own)]
    for value, yes in ((own, "yes"), (other, "no")):
        no, second = ("no", other) if yes == "yes" else ("yes", own)
        rows += [
            (form, yes, value, OPEN[kind], own, form.format(value), yes) for form in UNSEEN[kind]
        ] + [
            (KNOWN, yes, value, OPEN[kind], own, there(value), yes),
            (NEGATED, no, value, there(value), yes, away(value), no),
            (SWAPPED, no, second, there(value), yes, there(second), no),
        ]  # fmt: skip
    return rows


# ---------------------------------------------------------------- statistics over systems


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Rank correlation of two arrays (n,), ties at their mean rank; 0 where one of them is constant: then it orders nothing.

    Raises ValueError for NaN.
    """
    if np.isnan(a).any() or np.isnan(b).any():
        raise ValueError("a and b must have no NaN: a system without a RAD has no rank")
    a, b = rankdata(a), rankdata(b)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def jackknife(statistic: Callable[[NDArray], float], groups: ArrayLike) -> NDArray[np.float64]:
    """Pseudo-values (g,) of a statistic of rows, leaving out one of g groups at a time: g s - (g - 1) s_without.

    statistic(rows): of the rows, numbers, that remain; groups (n,): whose row it is. Their mean is the statistic less its bias to
    first order, their t-interval Tukey's interval. Raises ValueError for fewer than three groups.
    """
    groups = np.asarray(groups)
    names = np.unique(groups)
    if len(names) < 3:
        raise ValueError(f"groups must be at least 3, not {len(names)}")
    whole = statistic(np.arange(len(groups)))
    without = np.array([statistic(np.flatnonzero(groups != name)) for name in names])
    return len(names) * whole - (len(names) - 1) * without


def resampled(
    statistic: Callable[[NDArray], float], groups: ArrayLike, rng: np.random.Generator, draws: int
) -> NDArray[np.float64]:
    """The statistic (draws,) of bootstrap samples, each of as many groups as there are, drawn with all their rows."""
    groups = np.asarray(groups)
    rows = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    return np.array([statistic(np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])) for _ in range(draws)])
