"""RAD against tables by hand, the pairs against their pictures, and the statistics against scipy and numpy."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from replications.multimodal.rad_vqa import method
from shared import seeding
from shared.data import easy_vqa, vqa_v2

ITEMS = np.arange(1, 6)
BEFORE, AFTER = np.isin(ITEMS, [1, 2, 3, 5]), np.isin(ITEMS, [2, 3, 4])

# ---------------------------------------------------------------- the measure


def test_rad_by_hand():
    assert method.rad(BEFORE, AFTER) == 0.5
    both = method.rad(np.stack([BEFORE, AFTER, ITEMS > 9]), np.stack([AFTER, BEFORE, AFTER]))
    assert np.allclose(both, [2 / 4, 2 / 3, np.nan], equal_nan=True)


def test_rad_in_common_by_hand():
    found, items = method.rad_in_common(np.stack([BEFORE, AFTER]), np.stack([ITEMS == 2, ITEMS > 0]))
    assert (found.tolist(), items) == ([0.5, 1.0], 2)
    none, items = method.rad_in_common(np.stack([BEFORE, ~BEFORE]), np.stack([AFTER, AFTER]))
    assert np.isnan(none).all() and items == 0


@pytest.mark.parametrize("bad", [BEFORE.astype(float), np.zeros(0, bool), np.array(True)])
def test_rad_wants_truth_values(bad):
    with pytest.raises(ValueError, match=r"right must be truth values"):
        method.rad(bad, AFTER)
    with pytest.raises(ValueError, match=r"right_after must be truth values"):
        method.rad(AFTER, bad)


def test_rad_wants_one_shape():
    with pytest.raises(ValueError, match="one shape"):
        method.rad(BEFORE, AFTER[1:])


def test_compatible_does_not_need_to_be_right():
    said, after = np.array(["red", "red", "blue", "blue"]), np.array(["yes", "no", "no", "no"])
    assert method.compatible(said, np.repeat("red", 4), after) == 0.75


# ---------------------------------------------------------------- augmentations


@pytest.mark.parametrize(
    ("kind", "question", "answer", "expected"),
    [
        ("colours", "What color is the shirt?", "red", "Is the color of the shirt red?"),
        ("colours", "What colour are the man's shoes?", "black", "Is the color of the man's shoes black?"),
        ("how many", "How many dogs are there?", "2", "Are there 2 dogs?"),
        ("how many", "How many dogs are in the car?", "2", "Are there 2 dogs in the car?"),
        ("how many", "How many people", "10", "Are there 10 people?"),
        ("what kind", "What kind of food is this?", "Pizza", "Is this food pizza?"),
        ("what kind", "What kind of birds are these?", "gulls", "Are these birds gulls?"),
        ("colours", "What is this?", "red", None),
        ("how many", "Is it red?", "yes", None),
        ("colours", "What color is the shirt?", "yes", None),
    ],
)
def test_augment(kind, question, answer, expected):
    assert method.augment(kind, question, answer) == expected


def test_augment_wants_a_kind():
    with pytest.raises(ValueError, match="kind must be one of"):
        method.augment("where", "Where is it?", "here")


@pytest.fixture(scope="module")
def facts():
    names = [("red", "circle"), ("teal", "triangle"), ("red", "rectangle"), ("gray", "circle")]
    return pd.DataFrame(names, columns=["colour", "shape"], index=pd.Index([3, 5, 8, 9], name="picture"))


def holds(question: str, own: dict[str, str]) -> bool:
    """Whether yes is right: the question names what the picture has, or denies what it has not."""
    words = question.strip("?").split()
    named = {word for values in method.PROPERTIES.values() for word in values} & set(words)
    assert len(named) == 1
    return (named <= set(own.values())) != ("not" in words)


def test_answers_before_and_after_are_true(facts):
    for pair in method.pairs(facts, seeding.rng(0)).itertuples():
        own = facts.loc[pair.picture].to_dict()
        for question, answer in ((pair.question, pair.answer), (pair.question_after, pair.answer_after)):
            right = ("yes" if holds(question, own) else "no") if answer in ("yes", "no") else own[pair.property]
            assert answer == right
        assert pair.variant == (pair.answer_after if pair.answer_after in ("yes", "no") else "open")
        assert pair.about in pair.question_after or pair.augmentation == method.PARAPHRASE


def test_as_many_variants_of_either_answer_and_one_other_value(facts):
    pairs = method.pairs(facts, seeding.rng(0))
    counts = pairs.groupby(["property", "augmentation", "variant"]).size()
    assert (counts == len(facts)).all() and len(counts) == 2 * (5 * 2 + 1)
    assert (pairs.groupby(["picture", "property"]).about.nunique() == 2).all()
    negated = pairs[pairs.augmentation == method.NEGATED]
    assert (negated.answer != negated.answer_after).all()
    swapped = pairs[pairs.augmentation == method.SWAPPED]
    assert (swapped.answer != swapped.answer_after).all()


def test_the_first_unseen_phrasing_of_colours_is_the_papers():
    ours = method.UNSEEN["colour"][0].format("red")
    assert method.augment("colours", method.OPEN["colour"], "red").lower() == ours


# ---------------------------------------------------------------- statistics


def test_spearman_is_scipys():
    a, b = seeding.rng(0, "spearman").integers(6, size=(2, 30))
    assert method.spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert method.spearman(a, np.ones(30)) == 0
    with pytest.raises(ValueError, match="no NaN"):
        method.spearman([1.0, np.nan, 2.0], [1, 2, 3])


def test_pseudo_values_of_a_mean_are_means_of_groups():
    values, groups = seeding.rng(0, "jackknife").normal(size=12), np.repeat(list("dacb"), 3)
    found = method.jackknife(lambda rows: values[rows].mean(), groups)
    assert np.allclose(found, [values[groups == g].mean() for g in "abcd"])
    with pytest.raises(ValueError, match="at least 3"):
        method.jackknife(lambda rows: 0.0, [1, 1, 2])


def test_bootstrap_draws_whole_groups():
    groups, seen = np.array([0, 0, 1, 2, 2, 2]), []
    method.resampled(lambda rows: seen.append(np.sort(rows)) or 0.0, groups, seeding.rng(0), 200)
    assert {len(rows) for rows in seen} > {3, 9}  # three times a group of one, three times the group of three
    for rows in seen:
        for group in range(3):
            times = np.bincount(rows, minlength=6)[groups == group]
            assert (times == times[0]).all()


def test_jackknife_and_bootstrap_agree():
    rng = seeding.rng(0, "agree")
    common = rng.normal(size=30)
    a, b = common + rng.normal(size=(2, 30))
    statistic = lambda rows: method.spearman(a[rows], b[rows])  # noqa: E731
    pseudo = method.jackknife(statistic, np.arange(30))
    boot = method.resampled(statistic, np.arange(30), rng, 600)
    assert pseudo.std(ddof=1) / 30**0.5 == pytest.approx(boot.std(), rel=0.3)


# ---------------------------------------------------------------- data


def test_contradictions_are_found():
    rows = [(0, "what color is the shape?", "red"), (0, "is there not a circle?", "no"), (0, "is there a blue shape?", "no")]
    told = pd.DataFrame(rows, columns=["picture", "question", "answer"])
    assert easy_vqa.facts(told).to_dict("index") == {0: {"colour": "red", "shape": "circle"}}
    for question, answer in (("is there a red shape?", "no"), ("is no red shape present?", "yes"), ("is there a triangle?", "yes")):
        more = pd.concat([told, pd.DataFrame([(0, question, answer)], columns=told.columns)])
        with pytest.raises(ValueError, match="picture 0 is told"):
            easy_vqa.facts(more)


def test_facts_are_in_the_pictures():
    pictures, questions = easy_vqa.load("test")
    facts = easy_vqa.facts(questions)
    assert pictures.shape == (1000, 64, 64, 3) and len(questions) == 9673
    rgb = {"black": (0, 0, 0), "blue": (0, 0, 255), "brown": (165, 42, 42), "gray": (128, 128, 128), "green": (0, 255, 0),
           "red": (255, 0, 0), "teal": (0, 128, 128), "yellow": (255, 255, 0)}  # fmt: skip
    for picture, colour in facts.colour.items():
        assert (pictures[picture] == rgb[colour]).all(2).sum() > 10
    with pytest.raises(ValueError, match="part must be"):
        easy_vqa.load("val")


def test_vqa_v2_file_of_ten_lines(tmp_path):
    asked = [("What color is the bus?", "red"), ("How many dogs are there?", "2"), ("What kind of cake is this?", "cheese"),
             ("Is it raining?", "no")]  # fmt: skip
    questions, annotations = tmp_path / "q.json", tmp_path / "a.json"
    ids = [{"image_id": 7 + i // 2, "question_id": 70 + i} for i in range(4)]
    questions.write_text(json.dumps({"questions": [one | {"question": q} for one, (q, _) in zip(ids, asked, strict=True)]}))
    rows = [one | {"multiple_choice_answer": a, "question_type": "-"} for one, (_, a) in zip(ids, asked, strict=True)]
    annotations.write_text(json.dumps({"annotations": rows[::-1]}))
    table = vqa_v2.load(questions, annotations)
    assert list(table.itertuples(index=False, name=None)) == [(7 + i // 2, *pair) for i, pair in enumerate(asked)]
    built = [method.augment(kind, q, a) for _, q, a in table.itertuples(index=False) for kind in method.TEMPLATES]
    assert [text for text in built if text] == ["Is the color of the bus red?", "Are there 2 dogs?", "Is this cake cheese?"]
    annotations.write_text(json.dumps({"annotations": rows[1:]}))
    with pytest.raises(ValueError, match="1 rows fit no row"):
        vqa_v2.load(questions, annotations)
