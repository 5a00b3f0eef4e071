"""Records what a larger model writes when it is asked the benchmark's questions, greedily; 90 seconds a question on one core.

    python -m replications.llm.counterbench.answers.record MODEL.gguf [--out FOLDER] [--questions 40] [--file QUESTIONS.json]

The notebook reads answers.parquet; it cannot compute these answers again, because the model does not come with the environment.
Needs `xllamacpp`; the template of a chat is Qwen's. Without --out the answers on record are replaced.
Ours are of Qwen2.5-Coder-1.5B-Instruct, 4 bits a weight (Q4_K_M), whose file has the SHA-256 in the table.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from replications.llm.counterbench import method
from shared import lm, seeding, zoo
from shared.data import counterbench

SEED = 1000
VALIDATION = 12  # rule sets on which the prompts were written; their questions are not asked
CHAT = (  # the model's own template, for a reply that is begun
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
QUESTIONS = 40
READINGS = 60  # questions of the reading control
LONG, SHORT = {"max_tokens": 400, "temperature": 0}, {"max_tokens": 16, "temperature": 0}


def questions(file: Path | None = None) -> pd.DataFrame:
    """The benchmark's questions with their structure and rule set."""
    table = counterbench.load(file)
    table["structure"] = [method.structure(c, q) for c, q in zip(table.context, table["query"], strict=True)]
    return table.assign(rule_set=table.context.map(method.rule_set))


def fresh(table: pd.DataFrame) -> pd.DataFrame:
    """The questions that may be asked, with a `donor`: the rules of another rule set in the same names.

    The donor's rules have every name that the question sets or asks for, so that its text reads as well as the right one; a
    question for which there is no donor is left out, as are those of the rule sets on which the prompts were written.
    """
    sets = np.array(sorted(table.rule_set.unique()))
    spent = seeding.rng(0, "validation").choice(sets, VALIDATION, replace=False)
    rng, donors = seeding.rng(SEED, "donors"), []
    for _, row in table.iterrows():
        named = set(method.NAME.findall(row["query"]))
        others = table[(table.names == row["names"]) & (table.rule_set != row["rule_set"])].context.unique()
        fits = [text for text in others if named <= set(method.NAME.findall(text))]
        donors.append(rng.choice(fits) if fits else None)
    found = table.assign(donor=donors)
    return found[~found.rule_set.isin(spent) & found.donor.notna()].reset_index(drop=True)


def asked(table: pd.DataFrame, n: int = QUESTIONS) -> pd.DataFrame:
    """The first n fresh questions in a drawn order, the four types in turn, no two of one structure."""
    drawn = fresh(table).sample(frac=1, random_state=seeding.rng(SEED, "order")).drop_duplicates("structure")
    turn = drawn.groupby("type").cumcount()
    return drawn.assign(turn=turn).sort_values(["turn", "type"]).head(n).reset_index(drop=True)


def prompts(row: pd.Series) -> dict[str, str]:
    """The prompts of a question: the three ways of asking, and CoIn with the donor's rules."""
    kinds = {kind: method.prompt(kind, row["context"], row["query"]) for kind in method.TASKS}
    return kinds | {"other_rules": method.prompt("coin", row["donor"], row["query"])}


def reading(table: pd.DataFrame) -> pd.DataFrame:
    """The reading control, of one text of each rule set in a drawn order: columns prompt, truth, rule_set; pairs stand together."""
    rng = seeding.rng(SEED, "reading")
    one = table.drop_duplicates("rule_set").sample(frac=1, random_state=rng)
    rows = [(*pair, rules) for text, rules in zip(one.context, one.rule_set, strict=True) for pair in method.reading(text, rng)]
    return pd.DataFrame(rows, columns=["prompt", "truth", "rule_set"])


def writer(model: Path):
    """reply(prompt, max_tokens) of a GGUF file: what the model writes, greedily, and its answer (`text`, `answer`, `forced`).

    Where the text gives no answer (it was cut, or ended without one), "Answer:" is put after it and the likelier of " yes" and
    " no" is taken: `forced` is true then.
    """
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel = str(model), 2048, 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(settings)

    def reply(prompt: str, max_tokens: int) -> dict:
        said = [{"role": "user", "content": prompt}]
        request = {"messages": said, "max_tokens": max_tokens, "temperature": 0, "seed": 0}
        text = server.handle_chat_completions(request)["choices"][0]["message"]["content"]
        if answer := method.said(text):
            return {"text": text, "answer": answer, "forced": False}
        forced = {
            "prompt": f"{CHAT.format(prompt)}{text}\nAnswer:",
            "max_tokens": 1,
            "temperature": 0,
            "grammar": 'root ::= " yes" | " no"',
        }
        return {"text": text, "answer": server.handle_completions(forced)["choices"][0]["text"].strip(), "forced": True}

    return reply


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--file", type=Path, help="the benchmark's JSON, in place of the half kept here")
    parser.add_argument("--name", default="Qwen2.5-Coder-1.5B-Instruct-Q4_K_M", help="of the model, for the record")
    arguments = parser.parse_args()
    table, reply = questions(arguments.file), writer(arguments.model)
    name = f"{arguments.name}@{zoo.digest(arguments.model)}"
    responses = lm.Responses(arguments.out / "answers.parquet", name, fresh=True)

    def ask(texts: list[str], decoding: dict) -> None:
        responses.get(texts, decoding, lambda unique: [reply(text, decoding["max_tokens"]) for text in unique])

    for _, row in asked(table, arguments.questions).iterrows():
        short, *long = prompts(row).values()
        ask([short], SHORT)
        ask(long, LONG)
        print(row["id"], row["type"], flush=True)
    ask(list(reading(table).prompt[:READINGS]), SHORT)


if __name__ == "__main__":
    main()
