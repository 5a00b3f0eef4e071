"""A miniature repository with one or two quick papers, for testing the pipeline itself."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]

RECORD = """\
title: A toy paper
authors: Nobody
year: 2000
data: simulated
question: Does a sample of numbers lie above zero?
claims:
  - {id: mean_is_positive, says: The mean is positive., where: abstract, source: abstract, kind: order,
     effect: mean, above: 0.0, placebo: The same numbers less their mean.}
parameters:
  paper: {n_seeds: 5}
"""
METHOD = '"""A toy method."""\n\n\ndef shifted(x: float) -> float:\n    """x plus a half."""\n    return x + 0.5\n'
CELLS = {
    "imports": "import method\nimport numpy as np\n\nfrom shared import figures, seeding\nfrom shared.ledger import Ledger",
    "claims": "ledger = Ledger.here()\nledger",
    "parameters": "n_seeds: int = 4  # repeats (paper: 5)",
    "experiment": "draws = [seeding.rng(s).normal(1, 0.1) for s in seeding.seeds(n_seeds)]\n"
    "x = np.array([method.shifted(draw) for draw in draws])\nprint(f'{x.mean():.3f}')",
    "figure": "import matplotlib.pyplot as plt\n\nfig, ax = plt.subplots(figsize=(4, 3))\nax.plot(x, lw=2)\n"
    "ax.plot(x + 1, lw=2)\nax.set(xlabel='seed', ylabel='effect', ylim=(0, 3))\nfigures.save(fig, 'effects')",
    "verdicts": "ledger.measure('mean_is_positive', effect=x, placebo=x - x.mean())\nledger.verdicts()",
}


def repository(folder: Path) -> Path:
    """A copy of the house with no papers in it."""
    folder.mkdir(parents=True)
    hidden = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "shared", folder / "shared", ignore=hidden)
    (folder / "tests").mkdir()
    (folder / "replications").mkdir()
    for name in (
        "Snakefile",
        "Makefile",
        "conftest.py",
        "pyproject.toml",
        "requirements-data.txt",
        "README.md",
        "tests/test_registry.py",
    ):
        shutil.copy(ROOT / name, folder / name)
    return folder


def paper(repository: Path, name: str = "timeseries/toy", **changed: str) -> Path:
    """Add a paper whose notebook has CELLS, some changed by name (empty: left out). Returns its folder."""
    home = repository / "replications" / name
    home.mkdir(parents=True)
    (home / "paper.yaml").write_text(RECORD)
    (home / "method.py").write_text(METHOD)
    write_notebook(home, **changed)
    return home


def write_notebook(home: Path, **changed: str) -> None:
    """Write the notebook of `home` from CELLS, some of them changed."""
    cells = [new_markdown_cell("# A toy", id="title")]
    for label, source in (CELLS | changed).items():
        if source:
            cells.append(new_code_cell(source, id=label, metadata={"tags": ["parameters"]} if label == "parameters" else {}))
    nbformat.write(new_notebook(cells=cells), home / f"{home.name}.ipynb")


def call(repository: Path, module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run `python -m module arguments` in the miniature repository; its code, stdout and stderr."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=repository, env=environment_of(repository, **environment),
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def environment_of(repository: Path, **more: str) -> dict:
    """The environment in which `shared` is the miniature repository's own."""
    return os.environ | {"PYTHONPATH": str(repository), "MPLBACKEND": "agg"} | more


def ledger(home: Path) -> dict:
    """The accepted ledger of a paper's folder."""
    return json.loads((home / "ledger.json").read_text())
