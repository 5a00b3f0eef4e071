"""Where a running notebook is, where its results go, and what they came from."""

import ast
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

from shared import seeding

ROOT = Path(__file__).resolve().parents[1]
_VERSIONED = ("numpy", "scipy", "pandas", "sklearn", "matplotlib", "torch", "transformers", "diffusers")
_DISTRIBUTION = {"sklearn": "scikit-learn"}


def here() -> Path:
    """The folder of the running replication, which is the working directory. Raises FileNotFoundError elsewhere."""
    folder = Path.cwd()
    if not (folder / "paper.yaml").exists():
        raise FileNotFoundError(
            f"{folder} has no paper.yaml: run a notebook from its own folder, replications/<family>/<slug>/ "
            "(make lab and make ONLY=<family>/<slug> do)"
        )
    return folder


def out() -> Path:
    """Where results are written: the folder the pipeline names, else `build/interactive/<family>/<slug>/`.

    Never the accepted ledger or figures: those change through `make accept` alone.
    """
    folder = here()
    named = os.environ.get("REPLICATIONS_OUT")
    path = Path(named) if named else folder.parents[2] / "build" / "interactive" / folder.parent.name / folder.name
    path.mkdir(parents=True, exist_ok=True)
    return path


def parameter_names(notebook: dict) -> list[str]:
    """The names assigned in the notebook's one cell tagged `parameters`. Raises ValueError unless there is one."""
    cells = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"expected one cell tagged 'parameters', found {len(cells)}")
    statements = ast.parse("".join(cells[0]["source"])).body
    return [node.target.id for node in statements if isinstance(node, ast.AnnAssign)]


def parameters() -> dict:
    """The running notebook's parameters as they are now, edited or injected. Empty outside a notebook."""
    folder = here()
    notebook = folder / f"{folder.name}.ipynb"
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not notebook.exists():
        return {}
    names = parameter_names(json.loads(notebook.read_text(encoding="utf-8")))
    return {name: shell.user_ns[name] for name in names if name in shell.user_ns}


def commit() -> str | None:
    """The commit of the checkout, with `+` when files differ from it; None outside a git checkout."""
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return run.stdout.strip() or None


def provenance() -> dict:
    """What a result came from: notebook, parameters, first seed, commit and the versions of the loaded libraries."""
    folder = here()
    given = parameters()
    versions = {"python": sys.version.split()[0]}
    for name in _VERSIONED:
        if name in sys.modules:
            versions[name] = importlib.metadata.version(_DISTRIBUTION.get(name, name))
    return {
        "notebook": f"replications/{folder.parent.name}/{folder.name}/{folder.name}.ipynb",
        "parameters": given,
        "seed": given.get("first_seed", seeding.FIRST_REPORTED),
        "commit": commit(),
        "versions": versions,
    }


def write_whole(path: Path, content: bytes) -> None:
    """Write a file wholly or not at all: a full disk or an interruption leaves the earlier file as it was."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
