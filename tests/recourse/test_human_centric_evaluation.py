"""Tests of the human-centric evaluation: hand-made cases, brute force, the printed numbers, and tiny files of the hub's form."""

import json
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from replications.recourse.human_centric_evaluation import method
from shared.data import DataError, countereval
from shared.place import ROOT

DATA = ROOT / "replications/recourse/human_centric_evaluation/data"
SPLITS = {"metric": (88, 28), "question": (79, 36)}  # printed errors of 192, asked cold and fine-tuned


@pytest.fixture(scope="module")
def items():
    table = pd.read_csv(DATA / "items.csv.gz")
    for system in ("zero", "tuned"):
        table[system] = [[method.answered(word) for word in row.split()] for row in table[system]]
    return table


@pytest.fixture(scope="module")
def printed():
    return json.loads((DATA / "printed.json").read_text())


# --- labels and prompts -----------------------------------------------------------------------------------------------


def test_cuts_at_their_edges():
    assert method.label(np.array([1, 2.99, 3.0, 3.99, 4.0, 6]), "trust").tolist() == [0, 0, 1, 1, 2, 2]
    # 1.25 m + 2.5 reaches 2 at m = -0.4 and 3 at m = 0.4
    assert method.label(np.array([-2, -0.41, -0.39, 0, 0.39, 0.41, 2]), "complexity").tolist() == [0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("mean", "scale"), [(0.5, "trust"), (6.1, "trust"), (2.5, "complexity"), (np.nan, "fairness"), (3, "beauty")]
)
def test_label_refuses(mean, scale):
    with pytest.raises(ValueError, match="scale" if scale == "beauty" else "mean"):
        method.label(mean, scale)


def test_the_first_named_label_is_the_answer():
    assert [method.answered(r) for r in ("Medium, not high", "I say HIGH", "low", "no idea")] == [1, 2, 0, -1]


def test_messages_hold_the_parts_in_order():
    item = {"role": "R.", "lead": "L.", "text": "T.", "ask": "A:"}
    system, user = method.messages(item, {"trust": "belief.", "fairness": "no bias."}, [("one?", "high"), ("two?", "low")])
    assert (system["role"], user["role"]) == ("system", "user") and user["content"] == "T. A:"
    assert system["content"] == (
        "R. The definition of trust: belief. The definition of fairness: no bias. "
        'Example prompt 1: "one?" Example output 1: "high". Example prompt 2: "two?" Example output 2: "low". L.'
    )
    assert method.messages(item, {"trust": "belief."})[0]["content"] == "R. The definition of trust: belief. L."


WORDS = {"low": 3, "medium": 7, "high": 5, "a": 1, "b": 2}


def tokenizer(text, add_special_tokens=True):
    assert not add_special_tokens, "a chat template has written them already"
    return SimpleNamespace(input_ids=[WORDS[word] for word in text.split()])


def test_label_log_probs_are_the_softmax_at_the_last_word():
    table = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    model = lambda ids, logits_to_keep: SimpleNamespace(logits=table[ids.cumsum(-1)][:, -logits_to_keep:])  # noqa: E731
    got = method.label_log_probs(model, tokenizer, ["a b a", "b"])
    for row, total in zip(got, (4, 2), strict=True):  # the sum of all words up to the last
        p = np.exp(table[total].double().numpy())
        assert np.allclose(np.exp(row), (p / p.sum())[[3, 7, 5]], rtol=1e-6)


def test_label_log_probs_refuse_a_cut_label():
    pieces = lambda text, add_special_tokens: SimpleNamespace(input_ids=[1, 2] if text == "medium" else [3])  # noqa: E731
    with pytest.raises(ValueError, match="tokenizer"):
        method.label_log_probs(None, pieces, ["a"])


# --- answers ----------------------------------------------------------------------------------------------------------


def test_counted_and_unanimous():
    answers = np.array([[0, 0, 2, 0], [1, 1, 1, 1], [2, 1, 0, 0]])
    assert method.counted(answers).tolist() == [[3, 0, 1], [0, 4, 0], [2, 1, 1]]
    assert method.unanimous(answers).tolist() == [False, True, False]
    for bad in (answers[0], np.array([[0, -1]])):
        with pytest.raises(ValueError, match="answers"):
            method.counted(bad)


def test_shuffled_deals_each_run_within_its_group():
    groups = np.repeat([0, 1], 30)
    answers = np.arange(60)[:, None] + np.array([0, 100, 200])  # every answer is another number
    dealt = method.shuffled(answers, groups, np.random.default_rng(0))
    for group in (0, 1):
        assert (np.sort(dealt[groups == group], axis=0) == answers[groups == group]).all()
    order = dealt - np.array([0, 100, 200])
    assert (order[:, 0] != order[:, 1]).mean() > 0.9 and (order[:, 0] != np.arange(60)).mean() > 0.9
    assert (answers == np.arange(60)[:, None] + np.array([0, 100, 200])).all()  # the input is left alone


# --- possible labels --------------------------------------------------------------------------------------------------


def test_confusion_by_hand():
    counts = np.array([[3, 1, 0], [0, 0, 4], [1, 1, 2]])
    assert method.confusion(np.array([0, 2, 0]), counts).tolist() == [[4, 2, 2], [0, 0, 0], [0, 0, 4]]
    assert method.confusion(np.array([[0, 2, 0], [1, 1, 1]]), counts)[1].tolist() == [[0, 0, 0], [4, 2, 6], [0, 0, 0]]


def toy(seed):
    """Two systems and six items of two scales: answers, and what would be printed of them."""
    rng = np.random.default_rng(seed)
    scale, labels = np.array(["a", "b", "a", "b", "a", "b"]), rng.integers(3, size=6)
    answers = {s: np.where(rng.random((6, 4)) < 0.6, labels[:, None], rng.integers(3, size=(6, 4))) for s in ("one", "two")}
    counts = {s: np.array([[(row == k).sum() for k in range(3)] for row in a]) for s, a in answers.items()}

    def shown(y):
        errors = {s: {n: sum(4 - counts[s][i][y[i]] for i in range(6) if scale[i] == n) for n in "ab"} for s in counts}
        shares = {}
        for s in counts:
            table = np.zeros((3, 3))
            for i in range(6):
                table[y[i]] += counts[s][i]
            shares[s] = np.array([[round(v / max(row.sum(), 1), 2) for v in row] for row in table])
        return errors, shares

    return scale, labels, counts, shown


@pytest.mark.parametrize("seed", range(3))
def test_assignments_agree_with_brute_force(seed):
    scale, labels, counts, shown = toy(seed)
    errors, shares = shown(labels)
    wanted = []
    for y in product(range(3), repeat=6):
        e, s = shown(y)
        if e == errors and all(np.allclose(s[name], shares[name]) for name in s):
            wanted.append(y)
    got = method.assignments(counts, scale, errors, shares)
    assert sorted(map(tuple, got.tolist())) == sorted(wanted) and tuple(labels) in wanted


def test_too_many_labellings_are_an_error():
    counts = {"s": np.full((14, 3), 1)}
    scale = np.repeat(["a", "b"], 7)
    with pytest.raises(ValueError, match="too many"):
        method.assignments(counts, scale, {"s": {"a": 14, "b": 14}}, {"s": np.zeros((3, 3))})


def test_compatible_keeps_labellings_with_a_partner():
    first, second = np.array([[0, 1], [0, 2], [1, 1]]), np.array([[1, 0], [1, 1], [2, 2]])
    a, b = method.compatible(first, second, [(1, 0), (0, 1)])  # first's columns 1, 0 are second's 0, 1
    assert a.tolist() == [[0, 1], [1, 1]] and b.tolist() == [[1, 0], [1, 1]]
    a, b = method.compatible(np.array([[0, 1], [0, 2], [1, 0]]), np.array([[1, 2], [2, 2]]), [(1, 0)])
    assert a.tolist() == [[0, 1], [0, 2]] and b.tolist() == [[1, 2], [2, 2]]
    a, b = method.compatible(first, second, [])
    assert len(a) == len(b) == 3


def test_settled_constant_and_medium():
    labellings, scale = np.array([[0, 1, 2, 2], [0, 1, 1, 2]]), np.array(["trust", "trust", "trust", "fairness"])
    assert method.settled(labellings).tolist() == [0, 1, -1, 2]
    with pytest.raises(ValueError, match="contradict"):
        method.settled(labellings[:0])
    every = np.array([*scale, *(name for name in method.SCALES if name not in scale)])
    more = np.hstack([labellings, np.zeros((2, 6), int)])
    assert method.best_constant(more, every)["trust"] == pytest.approx(2 / 3)
    assert method.best_constant(more, every)["fairness"] == 1
    assert method.fewest_medium(more, every)["trust"] == pytest.approx(1 / 3)
    assert method.fewest_medium(more, every)["fairness"] == 0


@pytest.mark.parametrize("split", SPLITS)
def test_printed_numbers_are_of_one_piece(items, printed, split):
    part = items[items.split == split]
    assert len(part) == 48 and set(part.scale.value_counts()) == {6}
    counts = {s: method.counted(np.array(part[s].tolist())) for s in ("zero", "tuned")}
    errors = printed["errors"][split]
    assert tuple(sum(errors[s].values()) for s in counts) == SPLITS[split]
    shares = {s: np.array([row.split() for row in printed["shares"][split][s]], float) for s in counts}
    labellings = method.assignments(counts, part.scale.to_numpy(), errors, shares)
    for s, count in counts.items():
        tables = method.confusion(labellings, count)
        assert (tables == tables[0]).all() and 192 - np.trace(tables[0]) == sum(errors[s].values())
    per_label = {tuple(np.bincount(row)) for row in labellings}
    # the question-wise counts stand in another notebook of the authors
    assert per_label == {tuple(printed["labels"].get(split, (14, 16, 18)))}


def test_unanimous_items_as_counted_by_hand(items):
    agree = {s: items[s].map(lambda row: len(set(row)) == 1).groupby(items.split).sum().tolist() for s in ("zero", "tuned")}
    ours = {s: [int(method.unanimous(np.array(p[s].tolist())).sum()) for _, p in items.groupby("split")] for s in agree}
    assert ours == agree == {"zero": [39, 42], "tuned": [39, 43]}


# --- other raters -----------------------------------------------------------------------------------------------------


def test_folds_keep_groups_whole_and_even():
    groups = np.repeat(np.arange(11), 3)
    fold = method.folds(groups, 5, np.random.default_rng(0))
    assert all(len(set(fold[groups == g])) == 1 for g in range(11))
    assert sorted(np.bincount(fold) // 3) == [2, 2, 2, 2, 3]
    assert (fold != method.folds(groups, 5, np.random.default_rng(1))).any()


def test_folds_are_even_in_each_stratum():
    within, rng = np.repeat(["a", "b", "c"], [10, 6, 4]), np.random.default_rng(0)
    largest = set()
    for _ in range(30):
        fold = method.folds(np.arange(20), 5, rng, within)
        for name, size in (("a", 10), ("b", 6), ("c", 4)):
            counts = np.bincount(fold[within == name], minlength=5)
            assert counts.sum() == size and np.ptp(counts) <= 1
            largest.add((name, counts.argmax() if name == "b" else None))
    assert {f for name, f in largest if name == "b"} == set(range(5))  # the odd one falls into any fold


@pytest.mark.parametrize("n_folds", [1, 4])
def test_folds_refuse(n_folds):
    with pytest.raises(ValueError, match="n_folds"):
        method.folds(np.array([0, 0, 1, 2]), n_folds, np.random.default_rng(0))


def test_out_of_fold_trains_on_the_rest():
    fold = np.array([0, 1, 0, 2])
    seen = []

    def predict(train, test):
        seen.append((train.tolist(), test.tolist()))
        return 10 * test

    assert method.out_of_fold(predict, fold).tolist() == [0, 10, 20, 30]
    assert seen == [([1, 3], [0, 2]), ([0, 2, 3], [1]), ([0, 1, 2], [3])]


def test_summaries_and_by_key():
    assert method.commonest(np.array([2, 0, 2, 0, 1])) == 0 and method.commonest(np.array([1, 2, 2])) == 2
    assert [method.middle(np.array(v)) for v in ([0, 1], [1, 2], [0, 2, 2], [0, 0, 2], [2])] == [0, 1, 1, 1, 2]
    key, labels = np.array(["a", "a", "b", "a", "c"]), np.array([2, 2, 0, 0, 0])
    said = method.by_key(key, labels, np.array([0, 1, 2]), np.array([3, 4, 2]), method.commonest)
    assert said.tolist() == [2, 2, 0]  # a: 2; c is new: 2, the commonest of all; b: 0


@pytest.mark.parametrize("alpha", [0.1, 1.0, 30.0])
def test_ridge_solves_the_normal_equations(alpha):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(120, 8)), rng.integers(3, size=120)
    train, test = np.arange(20), np.arange(20, 120)
    centre = x[train].mean(0)
    score = []
    for k in range(3):
        y = np.where(labels[train] == k, 1.0, -1.0)
        z = x[train] - centre
        w = np.linalg.solve(z.T @ z + alpha * np.eye(8), z.T @ (y - y.mean()))
        score.append((x[test] - centre) @ w + y.mean())
    assert method.ridge(x, labels, train, test, alpha).tolist() == np.argmax(score, axis=0).tolist()


# --- measures of recourse papers --------------------------------------------------------------------------------------

TEXT = "Imagine. Current outcome: No. “To get it, you would need to make the following changes: {}” The rest of the values stays."
AGE = TEXT.format("Change your age from 20 to 25. And, raise your income from 0$ to 1500$ per month. Obtain a degree.")
HOURS = TEXT.format("Increase your average hours per week from 20 to 50. And, lower your index from 32.5 to 26.")


def test_changes():
    assert method.changes(AGE) == [
        "Change your age from 20 to 25",
        "raise your income from 0$ to 1500$ per month",
        "Obtain a degree",
    ]
    assert method.changes(HOURS) == ["Increase your average hours per week from 20 to 50", "lower your index from 32.5 to 26"]
    with pytest.raises(ValueError, match="text"):
        method.changes("nothing here")


def test_immovable():
    assert method.immovable(AGE) and not method.immovable(HOURS)  # "average" is no age
    for what in (
        "race",
        "sex",
        "marital status from single",
        "gender from male to female",
        "relationship status from divorced to married",
        "country you were born in",
    ):
        assert method.immovable(TEXT.format(f"Change your {what}."))


def test_distance():
    assert method.distance(AGE) == pytest.approx(5 / 20 + 1 + 1)
    assert method.distance(HOURS) == pytest.approx(30 / 20 + 6.5 / 32.5)


def test_every_printed_text_can_be_read(items):
    asked = {text: method.changes(text) for text in items.text.unique()}
    assert len(asked) == 23 and {len(c) for c in asked.values()} == {1, 2, 3, 5, 6}
    assert sum(map(method.immovable, asked)) == 6


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path):
    """Two scenarios and three raters in the hub's form; rater 7 gave no answer to the first item."""
    pd.DataFrame({"Question": ["You  are\nrich.", "You are poor."]}).to_csv(tmp_path / countereval.QUESTIONS)
    marks = {"0": [2, 3, 4, 5, 6, 1, 2, -1] * 2, "7": [None, 3, 4, 5, 6, 1, 2, 1] * 2, "205": [4, 3, 4, 5, 6, 1, 2, 0] * 2}
    table = {"Question ID": range(16), "Scenario": ["x"] * 16, "Metric": ["y"] * 16, **marks}
    pd.DataFrame(table).to_csv(tmp_path / countereval.RATINGS)
    return tmp_path


def test_ratings_of_the_hub(hub):
    items = countereval.load(str(hub))
    assert items.scenario.tolist() == [0] * 8 + [1] * 8 and items.scale.tolist() == list(method.SCALES) * 2
    assert items.text[0] == "You are rich." and items.text[8] == "You are poor."
    assert items["mean"][:8].tolist() == [3, 3, 4, 5, 6, 1, 2, 0]
    labels = [int(method.label(m, s)) for m, s in zip(items["mean"], items.scale, strict=True)]
    assert labels[:8] == [1, 1, 2, 2, 2, 0, 0, 1]


def test_ratings_of_another_form_are_an_error(hub):
    pd.read_csv(hub / countereval.RATINGS).iloc[:-1].to_csv(hub / countereval.RATINGS)
    with pytest.raises(DataError, match="found 3 raters and 15 rows for 2"):
        countereval.load(str(hub))
    (hub / countereval.QUESTIONS).unlink()
    with pytest.raises(DataError, match="has no survey_question"):
        countereval.load(str(hub))


def test_a_name_that_is_nowhere_says_what_to_do():
    with pytest.raises(DataError, match="into a folder and name it"):
        countereval.folder("no such name/at/all")
