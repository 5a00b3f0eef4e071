"""Train kept networks anew and compare their scores with those on record: what `make fresh` does beside rerunning the notebooks.

python -m shared.workflow.retrain [--only ...]

New files go to build/weights/<family>/<slug>; what is committed stays as it is. On another processor the same seed ends in other
weights, so scores may differ by a twentieth; a script that no longer makes what is on record is off by more.
"""

import argparse
import math
import shutil
import subprocess
import sys

from shared import zoo
from shared.place import ROOT
from shared.workflow import sources

RELATIVE, ABSOLUTE = 0.05, 0.02


def differing(recorded: dict[str, dict[str, float]], found: dict[str, dict[str, float]]) -> list[str]:
    """A line for each score on record that was not found again, within 5 % or .02."""
    lines = []
    for file, scores in recorded.items():
        for name, old in scores.items():
            new = found.get(file, {}).get(name, math.nan)
            if not math.isclose(old, new, rel_tol=RELATIVE, abs_tol=ABSOLUTE):
                lines.append(f"{file} {name}: {old:g} on record, {new:g} now")
    return lines


def retrain(paper: str) -> list[str]:
    """Run a paper's weights/train.py into build/; what differs from the record. Raises CalledProcessError when it fails."""
    out = ROOT / "build" / "weights" / paper
    shutil.rmtree(out, ignore_errors=True)
    module = f"replications.{paper.replace('/', '.')}.weights.train"
    subprocess.run([sys.executable, "-m", module, "--out", str(out)], cwd=ROOT, check=True)
    return differing(zoo.scores(sources.folder(paper) / "weights"), zoo.scores(out))


def main() -> int:
    parser = argparse.ArgumentParser(description="Train kept networks anew and compare their scores.")
    parser.add_argument("--only", default="", help="family/slug, a family, or several")
    arguments = parser.parse_args()
    try:
        papers = [paper for paper in sources.papers(arguments.only) if zoo.scores(sources.folder(paper) / "weights")]
    except sources.UnknownPaper as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    bad = 0
    for paper in papers:
        print(f"{paper}: training its networks anew ...", flush=True)
        try:
            lines = retrain(paper)
        except subprocess.CalledProcessError as error:
            lines = [f"weights/train.py ended with status {error.returncode}"]
        for line in lines:
            print(f"error: {paper}: {line}", file=sys.stderr)
        print(f"{paper}: {'its scores are those on record' if not lines else 'NOT what is on record'}")
        bad += bool(lines)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
