"""Makes counts.csv and shares.csv from the released predictions and id lists.

    python replications/labels/tacred_noise/released/make.py CLONE

CLONE is a clone of xhay-p/re-tacred-reannotation. Kept are counts only: no sentence, id or label of TACRED, which is licensed, and
nothing of the repository's code (GPL-3.0).
"""

import csv
import io
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

LISTS = ("allneg", "Pallneg", "negpos", "Pnegpos")
MODELS = {"lstm": "lstm-parnn", "parnn": "lstm-parnn", "cnn": "cnn", "gcn": "gcn-cgcn", "cgcn": "gcn-cgcn", "bilstm": "bilstm"}
NEGATIVE = "0"  # no_relation


class _Plain(pickle.Unpickler):
    """Reads lists and strings: a pickle can otherwise run code."""

    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"{module}.{name} is not plain data")


def content(clone: str, path: str) -> bytes:
    return subprocess.run(["git", "-C", clone, "show", f"HEAD:{path}"], check=True, capture_output=True).stdout


def outcome(gold: str, told: str) -> str:
    if gold == told:
        return "TN" if gold == NEGATIVE else "TP"
    return "FP" if gold == NEGATIVE else "FN" if told == NEGATIVE else "other"


def main(clone: str) -> None:
    listed = {}
    for name in LISTS:
        ids = _Plain(io.BytesIO(content(clone, f"crt/sids/{name}_noisy_test_ids.pkl"))).load()
        listed[name] = set(ids["test"])
    rows, shares = Counter(), []
    for model, folder in MODELS.items():
        gold, told = Counter(), Counter()
        for kind in ("c", "inc"):
            path = f"models/{folder}/visualisation/results/log_files/{kind}_{model}_test.tsv"
            for row in csv.DictReader(io.StringIO(content(clone, path).decode()), delimiter="\t"):
                a, b = row["ground_truth"], row["prediction"]
                gold[a] += 1
                told[b] += 1
                rows[model, outcome(a, b), *(int(row["sentence_id"] in listed[name]) for name in LISTS)] += 1
        n = gold.total()
        alike = sum(gold[k] * told[k] for k in gold if k != NEGATIVE) / n**2
        shares.append((model, n, round(gold[NEGATIVE] / n, 5), round(told[NEGATIVE] / n, 5), round(alike, 5)))
    here = Path(__file__).parent
    for name, header, lines in (
        ("counts.csv", ("model", "outcome", *LISTS, "examples"), [(*key, n) for key, n in sorted(rows.items())]),
        ("shares.csv", ("model", "examples", "gold_negative", "told_negative", "alike_positive"), shares),
    ):
        with (here / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *lines])


if __name__ == "__main__":
    main(sys.argv[1])
