"""CounterBench's reader and solver, against enumeration of all worlds and against texts whose answer is plain."""

import itertools
import json
import re

import numpy as np
import pytest

from replications.llm.counterbench import method
from replications.llm.counterbench.answers import record
from shared.data import counterbench

QUERY = "Would Cac occur if not Aba instead of Aba?"


def text(*rules, observed=""):
    return f"We know that {', '.join(rules)}.{observed}"


@pytest.fixture(scope="module")
def table():
    return counterbench.load()


@pytest.mark.parametrize(
    ("rules", "observed", "wanted"),
    [
        (("Aba causes Bab", "and Bab causes Cac"), "", False),
        (("Aba causes not Bab", "and Bab causes Cac"), "", True),
        (("Aba causes not Bab", "Bab causes not Cac"), "", False),
        (("not Aba causes Bab", "Bab cause Cac"), "", True),
        (("Aba or Dad causes Cac",), " We observed Dad", True),
        (("Aba and Dad together cause Cac",), " We observed Dad.", False),
        (("Aba causes Bab", "Bab and Dad together cause not Cac"), " We observed Dad", True),
        (("Aba causes Bab, Eve", "and Eve causes Cac"), "", False),
        (("Dad causes Bab", "Bab or Aba causes Cac"), " We observed Bab", True),  # abduction: Dad explains it
        (("Aba causes Bab", "Bab or Dad causes Cac"), " We observed Cac", False),  # Aba, which was there, explains it
        (("Dad causes not Bab", "Bab or Aba causes Cac"), " We observed not Bab", False),  # so Dad was there
    ],
)
def test_answers_of_plain_texts(rules, observed, wanted):
    assert method.solve(method.read(text(*rules, observed=observed), QUERY)) is wanted


def test_joint_and_nested_questions_set_both_names():
    joint = method.read(text("Aba causes Bab", "Bab causes Cac"), "Would Cac occur if not Aba and not Bab?")
    nested = method.read(
        text("Aba causes Bab", "Bab causes Cac"),
        "Assume not Aba, and based on this assumption, further suppose not Bab. Would Cac occur?",
    )
    assert joint.do == nested.do == {"Aba": False, "Bab": False}
    assert joint.target == nested.target == "Cac"


def test_observations_are_read_with_their_sign():
    assert method.read(text("Aba causes Cac", observed=" We observed not Bab and Dad. "), QUERY).observed == {
        "Bab": False,
        "Dad": True,
    }


def test_the_solver_is_enumeration_on_the_real_questions(table):
    """Every assignment that satisfies all equations at once, tried one by one; roots but the set one absent."""
    for row in table[(table["size"] <= 6) & (table.type != "conditional")].drop_duplicates("id").head(60).to_dict("records"):
        question = method.read(row["context"], row["query"])
        names = sorted({n for rule in question.rules for n in [rule.effect.name, *(c.name for c in rule.causes)]})
        worlds = []
        for values in itertools.product([False, True], repeat=len(names)):
            value = dict(zip(names, values, strict=True))
            for name in names:
                own = [rule for rule in question.rules if rule.effect.name == name]
                met = [
                    (all if r.joined == "and" else any)(value[c.name] ^ c.negated for c in r.causes) ^ r.effect.negated for r in own
                ]
                if value[name] != question.do.get(name, any(met)):
                    break
            else:
                worlds.append(value)
        assert [world[question.target] for world in worlds] == [method.solve(question)], row["id"]


def test_all_questions_are_read_and_written_back(table):
    """Names of every text, and every rule read again from its own words."""
    for row in table.drop_duplicates("structure" if "structure" in table else "context").to_dict("records"):
        rules = method.read_rules(row["context"])
        named = {n for rule in rules for n in [rule.effect.name, *(c.name for c in rule.causes)]}
        assert named == set(method.NAME.findall(row["context"].partition(". ")[0]))
        assert [method.read_rules(f"We know that {rule}.")[0] for rule in rules] == list(rules)


def test_a_circle_is_named():
    with pytest.raises(method.Cyclic, match="circle among \\['Aba', 'Cac'\\]"):
        method.solve(method.read(text("Aba causes Cac", "Cac causes Aba"), "Would Cac occur if not Bab?"))


def test_steps_state_their_rule_and_facts():
    rule = method.read_rules(text("Aba and not Bab together cause not Cac"))[0]
    assert method.step(rule, {"Aba": True, "Bab": False}).endswith(
        "\nRule: Aba and not Bab together cause not Cac. Aba is true, Bab is false. So Cac is"
    )
    assert len(method.cases(rule)) == 4
    assert [rule.value(case) for case in method.cases(rule)] == [True, True, False, True]


def test_the_worked_steps_are_true():
    for line in method.STEPS.strip().split("\n"):
        said, facts, so = line.removeprefix("Rule: ").split(". ")
        values = {name: word == "true" for name, word in (fact.split(" is ") for fact in facts.split(", "))}
        assert f"So Mib is {str(method.read_rules(f'We know that {said}.')[0].value(values)).lower()}." == so


@pytest.mark.parametrize(("asked", "answers"), method.WORKED)
def test_the_worked_answers_are_true(asked, answers):
    """Each value that CoIn's worked answer derives, and the answer of every way of asking, is the solver's."""
    question = method.read(*asked.split("\n"))
    values = method.world(question.rules, question.observed, question.do)
    derived = dict(re.findall(r"^(\w+) = .*?(true|false)$", answers["coin"].partition("Phase 2\n")[2], re.MULTILINE))
    assert {name: value == "true" for name, value in derived.items()} == values
    assert {method.said(text) for text in answers.values()} == {"yes" if method.solve(question) else "no"}
    assert answers.keys() == method.TASKS.keys()


def test_reading_asks_a_rule_and_its_reverse():
    rng = np.random.default_rng(0)
    (rule, yes), (reverse, no) = method.reading(text("Aba causes Bab", "not Bab causes Cac", "Aba causes not Dad"), rng)
    assert (yes, no) == (True, False) and "that Aba causes Bab?" in rule and "that Bab causes Aba?" in reverse
    assert method.reading(text("Aba and Bab together cause Cac", "Cac causes not Dad"), rng) == []


def test_asked_questions_are_fresh_and_their_donors_readable():
    table = record.questions()
    fresh, asked = record.fresh(table), record.asked(table)
    assert len(fresh) > 400 and 5 < table.rule_set.nunique() - fresh.rule_set.nunique() <= record.VALIDATION
    for _, row in fresh.iterrows():
        assert method.rule_set(row["donor"]) != row["rule_set"]
        method.read(row["donor"], row["query"])  # raises where the donor does not have the name that is asked for
    assert not asked.structure.duplicated().any() and set(asked.type.value_counts()) == {record.QUESTIONS // 4}
    assert asked.head(8).equals(record.asked(table, 8)) and set(asked.id) <= set(fresh.id)


def test_guided_is_the_solver_with_true_steps_and_follows_wrong_ones():
    question = method.read(text("Aba causes Bab", "Bab or Dad causes Cac", observed=" We observed Dad"), QUERY)
    assert method.guided(question, method.Rule.value) is True
    assert method.guided(question, lambda rule, values: not rule.value(values)) is False
    cut = method.read(text("Aba causes Bab", "Bab causes Cac"), "Would Cac occur if not Aba and not Bab?")
    asked = []
    method.guided(cut, lambda rule, values: asked.append(rule.effect.name) or True)
    assert asked == ["Cac"]


def test_parity_counts_whole_words():
    assert method.parity("Aba causes not Bab, Noto causes nothing") == "yes"
    assert method.parity("not not") == "no"
    assert method.parity("Aba causes Bab", "causes") == "yes"


def test_an_observation_is_explained_by_roots_with_the_set_one_as_it_was():
    rules = text("Aba causes Bab", "Bab or Dad causes Cac", "Eve or Dad causes Fif", observed=" We observed Fif")
    least, *more = method.explanations(method.read(rules, QUERY))
    assert least == {"Aba": True, "Dad": True, "Eve": False} or least == {"Aba": True, "Dad": False, "Eve": True}
    assert [sum(roots.values()) for roots in more] == [2, 3]
    assert all(roots["Aba"] for roots in [least, *more])
    back = method.read(rules, "Would Cac occur if Aba instead of not Aba?")
    assert not any(roots["Aba"] for roots in method.explanations(back)) and method.solve(back)
    contradicted = method.read(text("Aba causes Bab", "Bab causes Cac", observed=" We observed not Bab"), QUERY)
    assert method.explanations(contradicted) == [] and method.solve(contradicted) is False
    assert method.world(method.read_rules(text("Aba or Dad causes Cac")), {}, {}) == {"Aba": False, "Dad": False, "Cac": False}


def test_rule_sets_forget_names_observation_and_query():
    one = text("Aba causes Bab", "Bab causes Cac", observed=" We observed Bab")
    assert method.rule_set(one) == method.rule_set("We know that Xux causes Yuy, Yuy causes Zuz. ")
    assert method.rule_set(one) != method.rule_set(text("Aba causes Bab", "Aba causes Cac"))


def test_structure_is_equal_for_renamed_items_only():
    one = method.structure(text("Aba causes Bab", "Bab causes Cac"), QUERY)
    assert one == method.structure("We know that Xux causes Yuy, Yuy causes Zuz. ", "Would Zuz occur if not Xux instead of Xux?")
    assert one != method.structure(text("Aba causes Bab", "Aba causes Cac"), QUERY)


def test_skipping_negations_leaves_none():
    question = method.without_negations(method.read(text("not Aba causes not Bab", "Bab causes Cac"), QUERY))
    assert not any(rule.effect.negated or any(c.negated for c in rule.causes) for rule in question.rules)
    assert question.do == {"Aba": False}


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        ("Answer: yes", "yes"),
        ("The answer is **No**.", "no"),
        ("Answer: no\nAnswer: Yes", "yes"),
        ("Lumbo := Frim", None),
        ("yes", None),
    ],
)
def test_the_last_answer_counts(reply, wanted):
    assert method.said(reply) == wanted


def test_prompts_share_the_contract_and_end_with_the_question():
    made = [method.prompt(kind, "We know that Aba causes Cac. ", QUERY) for kind in method.TASKS]
    assert all(p.startswith(method.CONTRACT) and p.endswith(f"We know that Aba causes Cac.\n{QUERY}") for p in made)
    assert len(set(made)) == 3


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match="kind must be one of standard"):
        method.prompt("other", "", "")
    with pytest.raises(ValueError, match="query: asks for no name"):
        method.read(text("Aba causes Cac"), "What now?")
    with pytest.raises(ValueError, match="query: asks for Cac, which is in no rule"):
        method.read(text("Aba causes Bab"), QUERY)
    with pytest.raises(ValueError, match="context: no rule"):
        method.read_rules("We know that Aba.")
    file = tmp_path / "questions.json"
    file.write_text(json.dumps([{"id": "1", "query": QUERY, "context": text("Aba causes Cac")}]))
    with pytest.raises(ValueError, match="no field 'metadata'"):
        counterbench.load(file)
