"""CounterBench (Chen, Singh, Ma & Tang 2025, arXiv 2502.11008): deterministic causal rules over invented names.

A question gives rules ("Blaf and Trune together cause Vork"), perhaps an observation, and asks whether a name would occur under an
intervention. Here are the exact reader and solver of such questions, what needs no reasoning at all (the parity of the word "not"),
the prompts of the paper's three ways of asking, and CoIn's loop with a model that answers one rule at a time.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

CONTRACT = (
    "Each statement is a rule. A name occurs if one of the rules that lead to it is satisfied, and does not occur otherwise; "
    "'causes not' means that it does not occur if the rule is satisfied, and occurs otherwise. "
    "A name that no rule leads to occurs only if it is said to."
)
NAME = re.compile(r"\b(?!We\b|Would\b|Assume\b)[A-Z][a-z]+\b")


@dataclass(frozen=True)
class Literal:
    """A name that occurs, or (negated) that does not."""

    name: str
    negated: bool = False

    def __str__(self) -> str:
        return f"not {self.name}" if self.negated else self.name

    def holds(self, values: Mapping[str, bool]) -> bool:
        """Whether it is so, given which names occur."""
        return values[self.name] != self.negated


@dataclass(frozen=True)
class Rule:
    """effect := causes joined by "and" or "or", inverted where the text says "causes not"."""

    causes: tuple[Literal, ...]
    joined: str
    effect: Literal

    def __str__(self) -> str:
        verb = " together cause " if self.joined == "and" and len(self.causes) > 1 else " causes "
        return f" {self.joined} ".join(map(str, self.causes)) + verb + str(self.effect)

    def value(self, values: Mapping[str, bool]) -> bool:
        """Whether the effect's name occurs, given whether each cause's does."""
        met = (all if self.joined == "and" else any)(cause.holds(values) for cause in self.causes)
        return met != self.effect.negated


@dataclass(frozen=True)
class Question:
    """A parsed item: rules in the order of the text, what was observed, what is set by the intervention, the name asked for."""

    rules: tuple[Rule, ...]
    observed: Mapping[str, bool]
    do: Mapping[str, bool]
    target: str


class Cyclic(ValueError):
    """The rules lead in a circle: there is no order in which to compute them."""


def literals(text: str) -> tuple[list[Literal], str]:
    """The names of one side of a rule and the word that joins them: "Vork or not Trune" -> [Vork, not Trune], "or"."""
    found = [Literal(name, bool(no)) for no, name in re.findall(rf"(not )?({NAME.pattern})", text)]
    if not found:
        raise ValueError(f"text: no name in the rule {text!r}")
    return found, "or" if re.search(r"\bor\b", text) else "and"


def read_rules(context: str) -> tuple[Rule, ...]:
    """Rules of "We know that A causes B, B or not C causes D and E, F, and ...": a rule for each effect.

    Raises ValueError where a clause is none of these.
    """
    body = context.partition(". ")[0].strip().rstrip(".").removeprefix("We know that ")
    rules: list[Rule] = []
    for clause in re.split(r",\s*(?:and\s+)?", body):
        left, verb, right = re.match(r"(.*?)(?: together)?( causes? |$)(.*)", clause).groups()
        if verb:
            causes, joined = literals(left)
            effects, _ = literals(right)
        elif rules:  # "A causes B, C": the comma goes on with the effects
            causes, joined, (effects, _) = rules[-1].causes, rules[-1].joined, literals(left)
        else:
            raise ValueError(f"context: no rule in {context!r}")
        rules += [Rule(tuple(causes), joined, effect) for effect in effects]
    return tuple(rules)


def read(context: str, query: str) -> Question:
    """Parse an item of the benchmark. Raises ValueError naming the text that is not of its form."""
    observed = re.search(r"We observed (.*)$", context)
    asked = re.search(rf"Would ({NAME.pattern}) occur", query)
    if not asked:
        raise ValueError(f"query: asks for no name: {query!r}")
    done = query.replace(asked.group(), "").partition(" instead of ")[0]
    facts = [literals(part)[0] if part else [] for part in (observed.group(1) if observed else "", done)]
    seen, do = ({literal.name: not literal.negated for literal in part} for part in facts)
    rules = read_rules(context)
    if asked.group(1) not in {name for rule in rules for name in [rule.effect.name, *(c.name for c in rule.causes)]}:
        raise ValueError(f"query: asks for {asked.group(1)}, which is in no rule")
    return Question(rules, seen, do, asked.group(1))


def order(rules: Sequence[Rule]) -> list[str]:
    """Names with causes before effects, in the order of the text where that leaves a choice. Raises Cyclic."""
    names = list(dict.fromkeys(name for rule in rules for name in [*(c.name for c in rule.causes), rule.effect.name]))
    parents = {name: {c.name for rule in rules if rule.effect.name == name for c in rule.causes} for name in names}
    ordered: list[str] = []
    while len(ordered) < len(names):
        ready = [name for name in names if name not in ordered and parents[name] <= set(ordered)]
        if not ready:
            raise Cyclic(f"rules: they lead in a circle among {sorted(set(names) - set(ordered))}")
        ordered.append(ready[0])
    return ordered


def world(rules: Sequence[Rule], roots: Mapping[str, bool], do: Mapping[str, bool]) -> dict[str, bool]:
    """Every name's value: as set by `do`, else by its rules (any one that makes it occur), else as a root (default: absent)."""
    values: dict[str, bool] = {}
    for name in order(rules):
        own = [rule for rule in rules if rule.effect.name == name]
        values[name] = do[name] if name in do else any(r.value(values) for r in own) if own else roots.get(name, False)
    return values


def explanations(question: Question) -> list[dict[str, bool]]:
    """Abduction: all values of the roots that agree with the observation, those with the fewest present first; may be empty.

    Roots that are set had the other value in the actual world ("not A instead of A"). Raises Cyclic.
    """
    caused = {rule.effect.name for rule in question.rules}
    roots = [name for name in order(question.rules) if name not in caused]
    actual = {name: not value for name, value in question.do.items() if name in roots}
    free = [name for name in roots if name not in actual]
    found = []
    for chosen in sorted(itertools.product([False, True], repeat=len(free)), key=sum):
        exogenous = actual | dict(zip(free, chosen, strict=True))
        factual = world(question.rules, exogenous, {})
        if all(factual.get(name) == value for name, value in question.observed.items()):
            found.append(exogenous)
    return found


def solve(question: Question) -> bool:
    """Y_do given what was observed: abduction of the roots, action, prediction (Pearl 2009, 7.1).

    The first of the explanations is taken; an observation that has none is dropped, and every root is absent then. Raises Cyclic.
    """
    roots = next(iter(explanations(question)), {})
    return world(question.rules, roots, question.do)[question.target]


def structure(context: str, query: str) -> str:
    """The item's text with its names replaced by V0, V1, ... in the order in which they come: equal for renamed items."""
    places: dict[str, str] = {}
    text = " ".join(f"{context} {query}".replace(".", " ").split())
    return NAME.sub(lambda name: places.setdefault(name.group(), f"V{len(places)}"), text)


def rule_set(context: str) -> str:
    """The rules alone, with numbered names: equal for questions that ask differently of the same rules."""
    return structure(context.partition(". ")[0], "")


# The prompts. Every way of asking gets the same contract and the same two worked questions: none is told more of what rules mean.

TASKS = {
    "standard": "Reply with one line only: 'Answer: yes' or 'Answer: no'.",
    "causal_cot": (
        "Think in five short steps: 1) name the causal graph, 2) name the type of the query, 3) write the query as a formula, "
        "4) list the rules that matter, 5) derive the answer from them. End with 'Answer: yes' or 'Answer: no'."
    ),
    "coin": (
        "Work as an algorithm, in short lines.\n"
        "Phase 1, extract: write the target, what the question sets, what is observed, and each rule as 'name := formula'.\n"
        "Phase 2, iterate: a set name keeps its value and its own rule is ignored. Again and again take a name whose causes all "
        "have a value, causes before effects, and write its value by its rule. On a contradiction or a dead end go back to the "
        "last choice and derive it again. Stop when the target has a value and check it once.\n"
        "End with 'Answer: yes' or 'Answer: no'."
    ),
}
WORKED = (
    (
        "We know that Dax causes not Mib, Mib causes Pell, Pell and not Dax together cause Rast, Rast causes Wug, and Wug causes "
        "Tovo.\nWould Tovo occur if not Dax instead of Dax?",
        {
            "standard": "Answer: yes",
            "causal_cot": (
                "1) Dax -> Mib -> Pell -> Rast -> Wug -> Tovo, Dax -> Rast\n"
                "2) counterfactual\n"
                "3) Tovo under do(Dax = false)\n"
                "4) Mib := not Dax; Pell := Mib; Rast := Pell and not Dax; Wug := Rast; Tovo := Wug\n"
                "5) Dax is false, so Mib is true, so Pell is true; Pell is true and Dax false, so Rast is true, so Wug is true, "
                "so Tovo is true\n"
                "Answer: yes"
            ),
            "coin": (
                "Phase 1\ntarget: Tovo\nset: Dax = false\nobserved: nothing\n"
                "Mib := not Dax\nPell := Mib\nRast := Pell and not Dax\nWug := Rast\nTovo := Wug\n"
                "Phase 2\nDax = false\nMib = not Dax = not false = true\nPell = Mib = true\n"
                "Rast = Pell and not Dax = true and not false = true and true = true\nWug = Rast = true\nTovo = Wug = true\n"
                "check: no contradiction, Tovo = true\nAnswer: yes"
            ),
        },
    ),
    (
        "We know that Sarn causes Plon, Plon causes not Harb, Harb and Sarn together cause Gell, Gell or Onk causes Vesh, and Vesh "
        "causes not Quor. We observed Onk.\nWould Quor occur if not Sarn instead of Sarn?",
        {
            "standard": "Answer: no",
            "causal_cot": (
                "1) Sarn -> Plon -> Harb -> Gell -> Vesh -> Quor, Sarn -> Gell, Onk -> Vesh\n"
                "2) counterfactual with an observation\n"
                "3) Quor under do(Sarn = false), given Onk\n"
                "4) Plon := Sarn; Harb := not Plon; Gell := Harb and Sarn; Vesh := Gell or Onk; Quor := not Vesh\n"
                "5) Sarn is false, so Plon is false, so Harb is true; Sarn is false, so Gell is false; Onk is true, so Vesh is "
                "true, so Quor is false\n"
                "Answer: no"
            ),
            "coin": (
                "Phase 1\ntarget: Quor\nset: Sarn = false\nobserved: Onk = true\n"
                "Plon := Sarn\nHarb := not Plon\nGell := Harb and Sarn\nVesh := Gell or Onk\nQuor := not Vesh\n"
                "Phase 2\nSarn = false\nOnk = true\nPlon = Sarn = false\nHarb = not Plon = not false = true\n"
                "Gell = Harb and Sarn = true and false = false\nVesh = Gell or Onk = false or true = true\n"
                "Quor = not Vesh = not true = false\ncheck: no contradiction, Quor = false\nAnswer: no"
            ),
        },
    ),
)


def prompt(kind: str, context: str, query: str) -> str:
    """What a model is asked; only the end differs between questions. kind: standard, causal_cot or coin. Raises ValueError."""
    if kind not in TASKS:
        raise ValueError(f"kind must be one of {', '.join(TASKS)}, not {kind!r}")
    worked = "\n\n".join(f"Example.\n{asked}\n\n{answers[kind]}" for asked, answers in WORKED)
    return f"{CONTRACT}\n{TASKS[kind]}\n\n{worked}\n\nYour turn.\n{context.strip().rstrip('.')}.\n{query}"


READING = "{}\n\n{}\nDoes the text say that {} causes {}? Reply with one line only: 'Answer: yes' or 'Answer: no'."


def reading(context: str, rng: np.random.Generator) -> list[tuple[str, bool]]:
    """A control: whether a text has a rule, asked of one of its plain rules "A causes B" (true) and of "B causes A" (false).

    Empty for a text without such a rule. A model that cannot tell the two apart is right in one of them.
    """
    rules = read_rules(context)
    plain = [r for r in rules if len(r.causes) == 1 and not r.causes[0].negated and not r.effect.negated]
    if not plain:
        return []
    rule = plain[rng.integers(len(plain))]
    ends = rule.causes[0].name, rule.effect.name
    return [(READING.format(CONTRACT, context, *names), truth) for names, truth in ((ends, True), (ends[::-1], False))]


def said(text: str) -> str | None:
    """The answer that a text ends with, "yes" or "no"; None when it gives none."""
    found = re.findall(r"answer(?: is)?\W*\b(yes|no)\b", text.lower())
    return found[-1] if found else None


# CoIn's loop as code, in which a model only ever answers one rule: an extra of ours, not the paper's prompt.

STEPS = """Rule: Dax causes Mib. Dax is true. So Mib is true.
Rule: Dax causes Mib. Dax is false. So Mib is false.
Rule: Dax causes not Mib. Dax is true. So Mib is false.
Rule: Dax causes not Mib. Dax is false. So Mib is true.
Rule: not Dax causes Mib. Dax is false. So Mib is true.
Rule: Dax and Tovo together cause Mib. Dax is true, Tovo is true. So Mib is true.
Rule: Dax and Tovo together cause Mib. Dax is true, Tovo is false. So Mib is false.
Rule: Dax or Tovo causes Mib. Dax is false, Tovo is true. So Mib is true.
Rule: Dax or Tovo causes Mib. Dax is false, Tovo is false. So Mib is false.
"""


def step(rule: Rule, values: Mapping[str, bool]) -> str:
    """The prompt of one step: worked lines, the rule, its causes' values; " true" or " false" comes next."""
    facts = ", ".join(f"{name} is {str(values[name]).lower()}" for name in dict.fromkeys(c.name for c in rule.causes))
    return f"{STEPS}Rule: {rule}. {facts}. So {rule.effect.name} is"


def cases(rule: Rule) -> list[dict[str, bool]]:
    """Every assignment of true and false to the causes of a rule: the steps that CoIn's loop can meet."""
    names = list(dict.fromkeys(cause.name for cause in rule.causes))
    return [dict(zip(names, values, strict=True)) for values in itertools.product([False, True], repeat=len(names))]


def guided(question: Question, answer: Callable[[Rule, Mapping[str, bool]], bool]) -> bool:
    """CoIn's phase 2 with `answer(rule, values of its causes)` in place of the rule's own truth.

    Set names keep their value and lose their rules; other names without a rule have their observed value, else false. A later
    observation is not used: forward propagation has no place for it. Raises Cyclic.
    """
    values: dict[str, bool] = {}
    for name in order(question.rules):
        own = [rule for rule in question.rules if rule.effect.name == name]
        if name in question.do:
            values[name] = question.do[name]
        elif own:
            values[name] = any(answer(rule, {c.name: values[c.name] for c in rule.causes}) for rule in own)
        else:
            values[name] = question.observed.get(name, False)
    return values[question.target]


def parity(context: str, word: str = "not") -> str:
    """The answer of a rule that infers nothing: "yes" when the text has an odd number of `word`."""
    return "yes" if len(re.findall(rf"\b{word}\b", context)) % 2 else "no"


def without_negations(question: Question) -> Question:
    """The question as read by someone who skips every "not" in its rules: the placebo of the solver."""
    plain = [Rule(tuple(Literal(c.name) for c in r.causes), r.joined, Literal(r.effect.name)) for r in question.rules]
    return replace(question, rules=tuple(plain))
