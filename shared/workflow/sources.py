"""Which replications there are, and what each one's result depends on."""

import ast
import difflib
import hashlib
import json
from functools import cache
from pathlib import Path

from shared.place import ROOT

GENERATED = {"ledger.json"}


class UnknownPaper(ValueError):
    """A family/slug that does not exist; the message names the nearest that do."""


def papers(only: str = "") -> list[str]:
    """All replications as sorted `family/slug`, or those that `only` (a family, a family/slug, or several) names.

    Raises UnknownPaper naming what does not exist and what was perhaps meant.
    """
    everything = sorted(p.parent.relative_to(ROOT / "replications").as_posix() for p in ROOT.glob("replications/*/*/paper.yaml"))
    if not only.strip():
        return everything
    chosen = []
    for name in only.replace(",", " ").split():
        name = name.strip("/").removeprefix("replications/")
        found = [paper for paper in everything if paper == name or paper.split("/")[0] == name]
        if not found:
            near = difflib.get_close_matches(name, everything, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(everything) or 'none yet'}"
            raise UnknownPaper(f"no replication {name!r}: {hint}")
        chosen += found
    return sorted(set(chosen))


def folder(paper: str) -> Path:
    """The folder of `family/slug`."""
    return ROOT / "replications" / paper


def notebook(paper: str) -> Path:
    """The notebook of `family/slug`."""
    return folder(paper) / f"{folder(paper).name}.ipynb"


def digests(paper: str) -> dict[str, str]:
    """What the result of `family/slug` depends on, by content: {path relative to the root: short sha256}.

    These are the notebook's cells (not its outputs), every other file of its folder but generated ones, and each module
    of `shared` or `replications` that it imports, directly or not. Nothing else makes a result stale.
    """
    home, main = folder(paper), notebook(paper)
    own = [p for p in sorted(home.rglob("*")) if p.is_file() and p != main and not _ignored(p.relative_to(home))]
    cells = _cells(main)
    modules = _reachable(cells, home)
    result = {_relative(main): _digest(json.dumps(cells).encode())}
    return result | {_relative(path): _file_digest(path) for path in sorted({*own, *modules})}


def modules(paper: str) -> set[str]:
    """The modules of `shared` and `replications` that a paper's notebook imports, directly or not, as paths."""
    return {_relative(path) for path in _reachable(_cells(notebook(paper)), folder(paper))}


def _ignored(path: Path) -> bool:
    return path.name in GENERATED or any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


@cache
def _file_digest(path: Path) -> str:
    return _digest(path.read_bytes())


def _cells(path: Path) -> list[list]:
    """[type, source, tags] of every cell; empty when the notebook is missing."""
    if not path.exists():
        return []
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [[c["cell_type"], "".join(c["source"]), c["metadata"].get("tags", [])] for c in cells]


def _reachable(cells: list[list], home: Path) -> set[Path]:
    code = "\n".join(source for kind, source, _ in cells if kind == "code")
    code = "\n".join(line for line in code.splitlines() if not line.lstrip().startswith(("%", "!")))
    queue, found = _imports(code, home), set()
    while queue:
        path = queue.pop()
        if path not in found:
            found.add(path)
            queue |= _file_imports(path)
    return found


@cache
def _file_imports(path: Path) -> set[Path]:
    return _imports(path.read_text(encoding="utf-8"), path.parent)


def _imports(code: str, home: Path) -> set[Path]:
    """The files of this repository that `code`, run in folder `home`, imports."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {path for name in names for path in _files(name, home)}


def _files(name: str, home: Path) -> list[Path]:
    """The files that `import name` runs: each package's __init__ on the way and the module itself."""
    parts = name.split(".")
    if parts[0] not in ("shared", "replications"):
        local = home / f"{name}.py"
        return [local] if len(parts) == 1 and local.exists() and home != ROOT else []
    ways = [ROOT.joinpath(*parts[: i + 1]) for i in range(len(parts))]
    files = [way / "__init__.py" for way in ways] + [way.with_suffix(".py") for way in ways]
    return [file for file in files if file.exists()]
