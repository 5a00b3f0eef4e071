"""A notebook opened in JupyterLab: *Run all* from its own folder, an edited parameter, *Run all* again; only build/ is written.

Slow, so not part of `make test`, which executes every notebook in its folder as well:
`pytest -m interactive tests/test_interactive.py`.
"""

import re
import subprocess

import pytest
from nbclient import NotebookClient

from shared import notebooks
from shared.place import ROOT
from shared.workflow import sources


def changed_files() -> str:
    return subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.interactive
@pytest.mark.parametrize("paper", sources.papers())
def test_run_all_twice(paper, monkeypatch):
    monkeypatch.delenv("REPLICATIONS_OUT", raising=False)
    before = changed_files()
    notebook = notebooks.read(sources.notebook(paper))
    client = NotebookClient(notebook, resources={"metadata": {"path": sources.folder(paper)}}, kernel_name="python3", timeout=1200)
    with client.setup_kernel():
        for _ in range(2):
            for index, cell in enumerate(notebook.cells):
                client.execute_cell(cell, index)
            parameters = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
            parameters.source = re.sub(
                r"^(n_seeds: int = )(\d+)", lambda m: f"{m[1]}{int(m[2]) + 1}", parameters.source, flags=re.M
            )
    assert changed_files() == before
    assert (ROOT / "build" / "interactive" / paper / "ledger.json").exists()
