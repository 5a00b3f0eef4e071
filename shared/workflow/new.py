"""Scaffold a replication: python -m shared.workflow.new FAMILY/SLUG"""

import re
import sys

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from shared import notebooks, record
from shared.workflow import sources

FAMILIES = "recourse vision video text lm llm multimodal causal timeseries labels denoising diffusion audio rl graphs".split()

RECORD = """\
title: The paper's title
authors: Family names
year: 2000
arxiv: null
code: null
question: One plain sentence, about a concrete person or thing, that a reader wants answered.
packages: []        # data packages that the laptop run needs, pinned in requirements-data.txt
claims: []          # one entry a claim; the fields are in shared/record.py
deviations: []      # {what: , why: , matters: }
parameters:
  paper: {n_seeds: 10}
next: ""
"""

METHOD = '''\
"""The algorithm of <the paper>, and nothing else: pure, typed, no plots, no files."""
'''

CELLS = (
    ("md", "## 1. The paper's title\n\nCitation. The question in a concrete person's terms, and why it matters: three lines, no outcome."),
    ("py", "import method\n\nfrom shared import figures, seeding\nfrom shared.ledger import Ledger\nfrom shared.source import show_source\n\nfigures.use_style()"),
    ("md", "## 2. Claims"),
    ("py", "ledger = Ledger.here()\nledger"),
    ("md", "## 3. Parameters"),
    ("parameters", "n_seeds: int = 5  # repeats behind every interval (paper: 10)"),
    ("md", "## 4. Data"),
    ("md", "## 5. Method\n\nThe equation, with the paper's number."),
    ("py", "show_source(figures.use_style)  # in its place: the function of method.py that is the equation"),
    ("md", "## 6. Sanity"),
    ("md", "## 7. Experiment"),
    ("py", "seeds = seeding.seeds(n_seeds)"),
    ("md", "## 8. Figures"),
    ("md", "## 9. Verdicts"),
    ("py", "ledger.verdicts()"),
    ("md", "## 10. What differs from the paper"),
    ("py", "ledger.deviations()"),
)  # fmt: skip


def scaffold(paper: str) -> None:
    """Write the three files of `family/slug`. Raises ValueError for a bad name, FileExistsError when it is there."""
    family, _, slug = paper.partition("/")
    if family not in FAMILIES or not re.fullmatch(r"[a-z][a-z0-9_]*", slug):
        raise ValueError(f"{paper!r} is not <family>/<slug>: the slug is snake_case, the family one of {', '.join(FAMILIES)}")
    home = sources.folder(paper)
    home.mkdir(parents=True, exist_ok=False)
    (home / "paper.yaml").write_text(RECORD, encoding="utf-8")
    (home / "method.py").write_text(METHOD, encoding="utf-8")
    notebook = new_notebook(cells=[_cell(number, *cell) for number, cell in enumerate(CELLS)])
    notebooks.write(notebooks.normalise(notebook), sources.notebook(paper))


def _cell(number: int, kind: str, source: str):
    if kind == "md":
        return new_markdown_cell(source, id=f"c{number}")
    return new_code_cell(source, id=f"c{number}", metadata={"tags": ["parameters"]} if kind == "parameters" else {})


def main() -> int:
    paper = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        scaffold(paper)
        record.read(sources.folder(paper) / "paper.yaml")
    except ValueError as error:
        print(f"error: {error}; for example: make new SLUG=causal/my_paper", file=sys.stderr)
        return 2
    except FileExistsError:
        print(f"error: replications/{paper} exists already", file=sys.stderr)
        return 2
    print(f"wrote replications/{paper}/: fill in paper.yaml, method.py and the notebook, then make ONLY={paper}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
