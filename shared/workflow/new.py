"""Scaffold a replication: python -m shared.workflow.new FAMILY/SLUG"""

import re
import sys

import jupytext

from shared import notebooks, record
from shared.workflow import sources

FAMILIES = "recourse vision video text lm llm multimodal causal timeseries labels denoising diffusion audio rl graphs".split()

RECORD = """\
title: The paper's title
authors: Family names
year: 2000
arxiv: null
code: null
data: real          # what the laptop run measures on: real, simulated or both
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


def equation(x: float) -> float:
    """What it computes, with shapes, units and the equation's number."""
    return x
'''

NOTEBOOK = """\
# %% [markdown]
# # 1. The paper's title
#
# Citation. Then the question, concretely, and why it matters: three lines, no outcome.

# %%
import method

from shared import figures, seeding
from shared.ledger import Ledger
from shared.source import show_source

figures.use_style()

# %% [markdown]
# ## 2. Claims

# %%
ledger = Ledger.here()
ledger

# %% [markdown]
# ## 3. Parameters

# %% tags=["parameters"]
n_seeds: int = 5  # repeats behind every interval (paper: 10)

# %% [markdown]
# ## 4. Data

# %% [markdown]
# ## 5. Method
#
# The equation, with the paper's number, and under it the function that is the equation.

# %%
show_source(method.equation)

# %% [markdown]
# ## 6. Sanity

# %% [markdown]
# ## 7. Experiment

# %%
seeds = seeding.seeds(n_seeds)

# %% [markdown]
# ## 8. Figures

# %% [markdown]
# ## 9. Verdicts

# %%
ledger.verdicts()

# %% [markdown]
# ## 10. What differs from the paper

# %%
ledger.deviations()
"""


def scaffold(paper: str) -> None:
    """Write the three files of `family/slug`. Raises ValueError for a bad name, FileExistsError when it is there."""
    family, _, slug = paper.partition("/")
    if family not in FAMILIES or not re.fullmatch(r"[a-z][a-z0-9_]*", slug):
        raise ValueError(f"{paper!r} is not <family>/<slug>: the slug is snake_case, the family one of {', '.join(FAMILIES)}")
    home = sources.folder(paper)
    home.mkdir(parents=True, exist_ok=False)
    (home / "paper.yaml").write_text(RECORD, encoding="utf-8")
    (home / "method.py").write_text(METHOD, encoding="utf-8")
    notebooks.write(notebooks.normalise(jupytext.reads(NOTEBOOK, "py:percent")), sources.notebook(paper))


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
