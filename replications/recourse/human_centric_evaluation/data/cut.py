"""Cut `items.csv.gz` and `printed.json` from what the official error-analysis notebook printed (see SOURCE.md).

python cut.py <git directory of anitera/CounterEval>
"""

import json
import re
import subprocess
import sys
from ast import literal_eval
from html import unescape
from pathlib import Path

import pandas as pd

COMMIT = "e24ac83337e7510abf5f872b0aedb2ffe202e8a2"
NOTEBOOK = "code/error_analysis_confusion_matrices.ipynb"
CELLS = {5: ("question", "tuned"), 6: ("metric", "tuned"), 7: ("question", "zero"), 8: ("metric", "zero")}  # printed answers
PREPARATION = "code/data_preparation.ipynb"
ERRORS = 16  # the cell with errors per scale
# rows: human label low, medium, high; columns: answer; shares of the row as the four figures of cells 11-14 write them
FIGURES = {
    "question": {"tuned": [".88 .12 .00", ".12 .65 .22", ".00 .07 .93"], "zero": [".85 .15 .00", ".40 .11 .49", ".07 .03 .90"]},
    "metric": {"tuned": [".96 .04 .00", ".11 .70 .19", ".00 .10 .90"], "zero": [".82 .14 .04", ".34 .16 .50", ".25 .08 .67"]},
}
LABELS = {"question": [15, 18, 15]}  # rows of the confusion table that code/Llama_31_8b_inference.ipynb prints
PROMPT = re.compile(
    r"system<\|end_header_id\|>\s*(You are .*?) +The definition of (\w+): +(.*?) ?(The following .*?) ?<\|eot_id\|>.*?"
    r"user<\|end_header_id\|>\s*"
    r"(Imagine you are in this scenario: .*?) (Please rate as .*?:)\s*<\|eot_id\|>",
    re.S,
)


def notebook(git: str, path: str) -> dict:
    show = ["git", f"--git-dir={git}", "show", f"{COMMIT}:{path}"]
    return json.loads(subprocess.run(show, capture_output=True, check=True, text=True).stdout)


def table(cell: dict, split: str, system: str) -> pd.DataFrame:
    """One row per item of a printed table: its parts and the four answers of one system."""
    page = "".join(cell["outputs"][0]["data"]["text/html"])
    rows = []
    for prompt, answers in re.findall(r"<th>(\[.*?)</th>\s*<td>(.*?)</td>", page, re.S):
        # a prompt is a Python list of one text, cut off before its last quote
        plain = unescape(prompt).replace("\\n", "\n").replace("\\xa0", " ").replace("\\'", "'")
        role, scale, definition, lead, text, ask = (" ".join(part.split()) for part in PROMPT.search(plain).groups())
        rows.append([split, scale, text, role, definition, lead, ask, answers.strip("[]").replace(", ", " ")])
    return pd.DataFrame(rows, columns=["split", "scale", "text", "role", "definition", "lead", "ask", system])


if __name__ == "__main__":
    cells = notebook(sys.argv[1], NOTEBOOK)["cells"]
    tables = {key: table(cells[i], *key) for i, key in CELLS.items()}
    both = [tables[split, "zero"].merge(tables[split, "tuned"], validate="one_to_one") for split in ("metric", "question")]
    items = pd.concat(both, ignore_index=True)
    items.insert(2, "scenario", items["text"].map({text: i for i, text in enumerate(sorted(set(items["text"])))}))
    here = Path(__file__).parent
    items.to_csv(here / "items.csv.gz", index=False, compression={"method": "gzip", "mtime": 0})
    lines = "".join("".join(output.get("text", [])) for output in cells[ERRORS]["outputs"]).splitlines()
    errors = {}
    for system, split, counts in (re.match(r"Errors per metric for (zero|ft)_(\w+?): (.*)", line).groups() for line in lines):
        split = "question" if split == "qsplit" else "metric"
        errors.setdefault(split, {})["tuned" if system == "ft" else "zero"] = literal_eval(counts)
    code = "".join("".join(cell["source"]) for cell in notebook(sys.argv[1], PREPARATION)["cells"])
    rows = literal_eval(re.search(r"dataset\.iloc\[(\[.*?\])\]", code).group(1))  # said to be the metric-wise test set
    content = {"commit": COMMIT, "errors": errors, "shares": FIGURES, "labels": LABELS, "listed_rows": rows}
    (here / "printed.json").write_text(json.dumps(content, indent=1) + "\n")
