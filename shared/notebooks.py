"""Reading, checking and normalising notebooks."""

import ast
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from shared import place

_ACCEPTED = {"list": list, "str": str, "bool": bool, "int": int, "float": (int, float)}


class NotebookError(ValueError):
    """A notebook that cannot be used as it is; the message names it and the remedy."""


def read(path: str | Path) -> NotebookNode:
    """Read a notebook. Raises NotebookError when the file is missing or is not a notebook."""
    path = Path(path)
    if not path.exists():
        raise NotebookError(f"{path}: no such notebook")
    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise NotebookError(f"{path}: not a notebook ({error}); restore it with git checkout") from error


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells that are not empty."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def check_parameters(notebook: NotebookNode, given: dict) -> None:
    """Check names and types of `given` against the notebook's `parameters` cell (papermill would only warn).

    Raises NotebookError naming the unknown parameter or the wrong type, and what is expected.
    """
    try:
        known = place.parameter_names(notebook)
    except ValueError as error:
        raise NotebookError(str(error)) from error
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    types = {n.target.id: ast.unparse(n.annotation) for n in ast.parse(cell.source).body if isinstance(n, ast.AnnAssign)}
    for name, value in given.items():
        if name not in known:
            raise NotebookError(f"unknown parameter {name!r}; the notebook has: {', '.join(known)}")
        wanted = types[name].split("[")[0]
        expected = _ACCEPTED.get(wanted)
        if expected is None:
            raise NotebookError(f"parameter {name!r} is annotated {types[name]!r}; use one of {', '.join(_ACCEPTED)}")
        if not isinstance(value, expected) or (isinstance(value, bool) and wanted != "bool"):
            raise NotebookError(f"parameter {name!r} must be {types[name]}, not {type(value).__name__} ({value!r})")


def normalise(notebook: NotebookNode) -> NotebookNode:
    """A copy without what changes from run to run: timings, papermill's records, progress bars, kernel details.

    Raises NotebookError when a cell wrote anything else to stderr: a warning is mended, not committed.
    """
    clean = nbformat.from_dict(notebook)
    clean.metadata = nbformat.from_dict({
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    })  # fmt: skip
    for number, cell in enumerate(clean.cells):
        for key in ("papermill", "execution", "ExecuteTime"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                left = without_progress(output.text)
                if left:
                    raise NotebookError(f"cell {number} wrote to stderr; mend the cause:\n{left}")
        cell.outputs = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
        for output in cell.outputs:
            png = output.get("metadata", {}).get("image/png", {})
            described = {key: png[key] for key in ("alt", "figure") if key in png}  # what shared.figures.save says of a picture
            output.get("metadata", {}).clear()
            if "image/png" in output.get("data", {}):
                if described:
                    output.metadata["image/png"] = nbformat.from_dict(described)
                output.data["image/png"] = output.data["image/png"].strip()
    return clean


def without_progress(text: str) -> str:
    """What is left of a stderr stream once tqdm's bars are taken out."""
    parts = re.split(r"[\r\n]", text)
    return "\n".join(p for p in parts if p.strip() and not re.search(r"\d+%\||\d+it \[|[\d?]+it/s|\| \d+/\d+ \[", p))


def write(notebook: NotebookNode, path: str | Path) -> None:
    """Write a notebook wholly or not at all, one space of indent and a final newline, so that diffs stay small."""
    place.write_whole(Path(path), (nbformat.writes(notebook, indent=1).rstrip("\n") + "\n").encode())
