"""Human ratings of counterfactual explanations, answered by language models (Domnich et al. 2025, arXiv 2410.21131).

An item is one of eight scales asked about one scenario. n: items, r: runs (each item is asked r times), d: width of an embedding.
Labels and answers are codes: 0 low, 1 medium, 2 high, and -1 where there is none.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import prod

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifier

LABELS = ("low", "medium", "high")
SCALES = (
    "satisfaction", "feasibility", "consistency", "completeness", "trust", "understandability", "fairness", "complexity",
)  # fmt: skip
MOST = 1_000_000  # assignments of labels that are enumerated together


# --- labels and prompts of the paper ----------------------------------------------------------------------------------


def label(mean: np.ndarray, scale: str) -> np.ndarray:
    """The label of items whose raters gave these means, any shape: 1 to 6, and -2 to 2 on the scale `complexity`.

    Raises ValueError for a mean outside of that, NaN, or an unknown scale.
    """
    if scale not in SCALES:
        raise ValueError(f"scale: one of {', '.join(SCALES)}, not {scale!r}")
    mean = np.asarray(mean, float)
    least, most = (-2, 2) if scale == "complexity" else (1, 6)
    if not ((mean >= least) & (mean <= most)).all():
        raise ValueError(f"mean: ratings of {scale} lie in {least} ... {most}")
    # v = mean - 1, or 1.25 mean + 2.5 for complexity;  low: v < 2, medium: 2 <= v < 3, high: v >= 3
    value = 1.25 * mean + 2.5 if scale == "complexity" else mean - 1
    return np.digitize(value, [2, 3])


def answered(reply: str) -> int:
    """The label that a reply names first, -1 if none."""
    found = re.search("|".join(LABELS), reply.lower())
    return LABELS.index(found.group()) if found else -1


def messages(item: Mapping[str, str], definitions: Mapping[str, str], examples: Sequence[tuple[str, str]] = ()) -> list[dict]:
    """The chat that asks about an item: a system and a user message.

    item: its `role` (of the rater), `lead` (into the explanation), `text` and `ask`. definitions: of the scales named in the system
    message, the item's own alone or all eight. examples: worked prompts with their answers.
    """
    named = " ".join(f"The definition of {scale}: {text}" for scale, text in definitions.items())
    worked = " ".join(f'Example prompt {i}: "{ask}" Example output {i}: "{answer}".' for i, (ask, answer) in enumerate(examples, 1))
    system = " ".join(filter(None, [item["role"], named, worked, item["lead"]]))
    return [{"role": "system", "content": system}, {"role": "user", "content": f"{item['text']} {item['ask']}"}]


@torch.no_grad()
def label_log_probs(model, tokenizer, prompts: Sequence[str]) -> np.ndarray:
    """log p(label | prompt) of the next word, shape (len(prompts), 3), natural logarithm; prompts end where the answer begins.

    Raises ValueError where the tokenizer cuts a label into pieces.
    """
    words = [tokenizer(name, add_special_tokens=False).input_ids for name in LABELS]
    if any(len(word) != 1 for word in words):
        raise ValueError(f"tokenizer: cuts one of {', '.join(LABELS)} into pieces, {words}")
    rows = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer(prompt, add_special_tokens=False).input_ids])
        rows.append(model(ids, logits_to_keep=1).logits[0, -1].double().log_softmax(-1)[torch.tensor(words)[:, 0]].numpy())
    return np.array(rows)


# --- what the printed answers say -------------------------------------------------------------------------------------


def counted(answers: np.ndarray) -> np.ndarray:
    """How often each label was answered (n, 3), from answers (n, r) without -1."""
    answers = np.asarray(answers)
    if answers.ndim != 2 or not np.isin(answers, range(len(LABELS))).all():
        raise ValueError("answers: an array (n, r) of the codes 0, 1 and 2 is needed")
    return (answers[:, :, None] == np.arange(len(LABELS))).sum(1)


def unanimous(answers: np.ndarray) -> np.ndarray:
    """Whether all answers to an item agree (n,), from answers (n, r)."""
    return (answers == answers[:, :1]).all(1)


def shuffled(answers: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Answers (n, r) with every run dealt anew among the items of the same group (n,)."""
    dealt = np.array(answers)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        dealt[rows] = rng.permuted(answers[rows], axis=0)  # each column for itself
    return dealt


# --- which labels the printed errors leave possible -------------------------------------------------------------------


def confusion(labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Confusion table (..., 3, 3), rows the label, columns the answer, from labels (..., n) and answer counts (n, 3)."""
    # C[a, b] = sum_i 1{label_i = a} counts[i, b]
    return np.einsum("...ia,ib->...ab", labels[..., None] == np.arange(len(LABELS)), counts)


def assignments(
    counts: Mapping[str, np.ndarray], scale: np.ndarray, errors: Mapping[str, Mapping[str, int]], shares: Mapping[str, np.ndarray]
) -> np.ndarray:
    """All labellings (K, n) of one split's items under which every system makes exactly the printed errors.

    counts[system] (n, 3): answers by label. scale (n,): names. errors[system][scale]: printed number of wrong answers.
    shares[system] (3, 3): the printed confusion table, each row divided by its sum and rounded to two decimals.
    Raises ValueError when the scales alone leave more than a million labellings.
    """
    places, choices = [], []
    for name in np.unique(scale):
        rows = np.flatnonzero(scale == name)
        every = np.array(list(product(range(len(LABELS)), repeat=len(rows))), np.int8)  # (3^m, m)
        # errors = answers that are not the label
        wrong = {s: c[rows].sum() - c[rows][np.arange(len(rows)), every].sum(1) for s, c in counts.items()}
        places.append(rows)
        choices.append(every[np.all([wrong[s] == errors[s][name] for s in counts], axis=0)])
    if (size := prod(map(len, choices))) > MOST:
        raise ValueError(f"errors: they leave {size} labellings, too many to list")
    picked = np.indices([len(c) for c in choices]).reshape(len(choices), -1)  # (scales, K)
    whole = np.empty((size, len(scale)), np.int8)
    for rows, choice, pick in zip(places, choices, picked, strict=True):
        whole[:, rows] = choice[pick]
    for system, count in counts.items():
        table = confusion(whole, count)
        # the printed share is C[a, b] / sum_b C[a, b], rounded;  a row without items was drawn as zeros
        share = table / np.maximum(table.sum(-1, keepdims=True), 1)
        whole = whole[(np.abs(share - shares[system]) <= 0.005 + 1e-9).all((-2, -1))]
    return whole


def compatible(first: np.ndarray, second: np.ndarray, same: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """The labellings (K1, n1) and (K2, n2) of two splits that fit one of the other's. `same`: pairs of columns of one item."""
    left, right = np.array(same, int).reshape(-1, 2).T
    fits = (first[:, None, left] == second[None, :, right]).all(-1)  # (K1, K2)
    return first[fits.any(1)], second[fits.any(0)]


def settled(labellings: np.ndarray) -> np.ndarray:
    """The label of each item (n,) where all labellings (K, n) agree, else -1. Raises ValueError for no labelling."""
    if len(labellings) == 0:
        raise ValueError("labellings: none is left, so the printed numbers contradict each other")
    return np.where(np.ptp(labellings, axis=0) == 0, labellings[0], -1)


def best_constant(labellings: np.ndarray, scale: np.ndarray) -> dict[str, float]:
    """Accuracy per scale of its commonest label, chosen in hindsight, under the labelling (K, n) that favours it most."""
    counts = [(labellings[:, scale == name, None] == np.arange(len(LABELS))).mean(1).max() for name in SCALES]
    return dict(zip(SCALES, map(float, counts), strict=True))


def fewest_medium(labellings: np.ndarray, scale: np.ndarray) -> dict[str, float]:
    """Share of items per scale labelled medium, under the labelling (K, n) with the fewest."""
    return {name: float((labellings[:, scale == name] == 1).mean(1).min()) for name in SCALES}


# --- raters that are not language models ------------------------------------------------------------------------------


def folds(groups: np.ndarray, n_folds: int, rng: np.random.Generator, within: np.ndarray | None = None) -> np.ndarray:
    """A fold 0 ... n_folds - 1 for each item (n,): whole groups (n,) are dealt at random, evenly in every stratum of `within` (n,).

    Raises ValueError for fewer than two folds, or fewer groups than folds.
    """
    if not 2 <= n_folds <= len(np.unique(groups)):
        raise ValueError(f"n_folds: {n_folds} is not in 2 ... {len(np.unique(groups))}, the number of groups")
    fold = np.empty(len(groups), int)
    for stratum in np.unique(within) if within is not None else [None]:
        rows = np.ones(len(groups), bool) if stratum is None else within == stratum
        names, position = np.unique(groups[rows], return_inverse=True)
        fold[rows] = (rng.permutation(len(names)) + rng.integers(n_folds))[position] % n_folds
    return fold


def out_of_fold(predict: Callable[[np.ndarray, np.ndarray], np.ndarray], fold: np.ndarray) -> np.ndarray:
    """Predictions (n,), each by predict(training rows, test rows) from the items of other folds (n,)."""
    said = np.empty(len(fold), int)
    for f in np.unique(fold):
        said[fold == f] = predict(np.flatnonzero(fold != f), np.flatnonzero(fold == f))
    return said


def commonest(labels: np.ndarray) -> int:
    """The label that stands most often, the lowest of equals."""
    return int(np.bincount(labels).argmax())


def middle(labels: np.ndarray) -> int:
    """The label nearest to the mean, the lower one at a half."""
    return int(np.ceil(labels.mean() - 0.5))


def by_key(
    key: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, summary: Callable[[np.ndarray], int]
) -> np.ndarray:
    """For each test row the summary of the training labels with the same key, of all training labels where the key is new."""
    known = {k: summary(labels[train][key[train] == k]) for k in np.unique(key[train])}
    return np.array([known.get(k, summary(labels[train])) for k in key[test]])


def ridge(x: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, alpha: float) -> np.ndarray:
    """Labels of the test rows of x (n, d) by ridge regression on the codes -1 and 1 of each label, penalty `alpha`."""
    return RidgeClassifier(alpha=alpha).fit(x[train], labels[train]).predict(x[test])


# --- what recourse papers measure -------------------------------------------------------------------------------------

# what nobody can decide to change, by the words of the survey
IMMOVABLE = re.compile(r"\b(age|gender|sex|race|relationship status|marital status|country you were born in)\b", re.I)
NUMBERS = re.compile(r"from \D{0,2}(\d+(?:\.\d+)?)\D.*?to \D{0,2}(\d+(?:\.\d+)?)")


def changes(text: str) -> list[str]:
    """The single changes that an explanation asks for, in its order. Raises ValueError where the text has none."""
    found = re.search(r"following changes: (.*?)[.\s]*[”\"]", text)
    if not found:
        raise ValueError(f"text: no list of changes in {text[:60]!r}")
    return re.split(r"\.\s+(?:And, )?", found.group(1))


def immovable(text: str) -> bool:
    """Whether an explanation asks for what nobody can decide: another age, sex, race, relationship status or birthplace."""
    return any(IMMOVABLE.search(change) for change in changes(text))


def distance(text: str) -> float:
    """Sum over the changes: of a number from a to b |b - a| / |a|, and 1 for words or from 0."""
    total = 0.0
    for change in changes(text):
        found = NUMBERS.search(change)
        a, b = map(float, found.groups()) if found else (0.0, 1.0)
        total += abs(b - a) / abs(a) if a else 1.0
    return total
