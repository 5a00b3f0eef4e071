"""What a run changed, before `make accept`: accepted and new side by side in one local page.

python -m shared.workflow.compare [--only ...]

The page is build/compare.html: verdicts that changed, effects whose new mean left the accepted interval, and each changed
figure as old, new and difference. Where nothing changed, one line says so.
"""

import argparse
import base64
import html
import io
import subprocess
import sys

import nbformat
import numpy as np
from nbformat import NotebookNode
from PIL import Image

from shared import notebooks, record
from shared.place import ROOT, write_whole
from shared.workflow import results, sources

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .3rem .8rem; border-bottom: 1px solid #bbb; text-align: left; }
.pictures { display: grid; grid-template-columns: repeat(3, 1fr); gap: 1rem; }
.pictures img { width: 100%; border: 1px solid #bbb; }
figure { margin: 0; } h3 { margin-bottom: .3rem; }
"""


def pictures(notebook: NotebookNode) -> dict[str, bytes]:
    """The figures in a notebook's outputs as PNG, by the name under which `shared.figures.save` saved them."""
    found = {}
    for cell in notebooks.code_cells(notebook):
        for output in cell.outputs:
            name = output.get("metadata", {}).get("image/png", {}).get("figure")
            if name:
                found[name] = base64.b64decode(output.data["image/png"])
    return found


def accepted_pictures(paper: str) -> dict[str, bytes]:
    """The accepted figures; an edited cell may have lost its output, so those that git last saw come first."""
    target = sources.notebook(paper)
    shown = ["git", "show", f"HEAD:./{target.relative_to(ROOT).as_posix()}"]
    committed = subprocess.run(shown, cwd=ROOT, capture_output=True, text=True, check=False)
    known = pictures(nbformat.reads(committed.stdout, as_version=4)) if committed.returncode == 0 else {}
    return known | pictures(notebooks.read(target))


def moved(old: dict, new: dict) -> bool:
    """Whether the new mean lies outside the accepted interval."""
    return not old["low"] <= new["mean"] <= old["high"]


def claims(old: dict, new: dict) -> list[tuple[str, str, dict | None, dict | None]]:
    """Claims that changed: (id, what changed, accepted entry, new entry); an entry is None where the claim is missing."""
    changes = []
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        if before is None or after is None:
            what = "new claim" if before is None else "claim gone"
        elif before["verdict"] != after["verdict"]:
            what = f"verdict {before['verdict']} → {after['verdict']}"
        else:
            parts = [part for part in ("effect", "placebo") if moved(before[part], after[part])]
            what = f"{' and '.join(parts)} left the accepted interval" if parts else ""
        if what:
            changes.append((name, what, before, after))
    return changes


def figures(old: dict[str, bytes], new: dict[str, bytes]) -> list[tuple[str, bytes | None, bytes | None]]:
    """Figures whose pixels changed, appeared or went: (name, accepted PNG, new PNG)."""
    names = dict.fromkeys([*old, *new])
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def difference(old: bytes, new: bytes) -> bytes:
    """Where two pictures differ, as a PNG: white where they agree, darker the more they differ; the larger of both sizes."""
    a, b = (Image.open(io.BytesIO(png)).convert("RGB") for png in (old, new))
    size = (max(a.width, b.width), max(a.height, b.height))
    canvases = []
    for picture in (a, b):
        canvas = Image.new("RGB", size, "white")
        canvas.paste(picture)
        canvases.append(np.asarray(canvas, dtype=int))  # (height, width, 3)
    distance = np.abs(canvases[0] - canvases[1]).max(axis=2)
    out = io.BytesIO()
    Image.fromarray((255 - distance).astype(np.uint8)).save(out, format="png")
    return out.getvalue()


def section(paper: str) -> str:
    """One paper's changes as HTML, empty where there are none."""
    old, new = results.accepted(paper), results.built(paper)
    if new is None:
        return ""
    ran = notebooks.read(ROOT / "build" / "laptop" / paper / sources.notebook(paper).name)
    changed_claims = claims(old["claims"] if old else {}, new["claims"])
    changed_figures = figures(accepted_pictures(paper), pictures(ran))
    if not changed_claims and not changed_figures:
        return ""
    rows = "".join(
        f"<tr><td>{name}</td><td>{html.escape(what)}</td><td>{_entry(before)}</td><td>{_entry(after)}</td></tr>"
        for name, what, before, after in changed_claims
    )
    table = f"<table><tr><th>claim</th><th>what changed</th><th>accepted</th><th>new</th></tr>{rows}</table>" if rows else ""
    shown = []
    for name, before, after in changed_figures:
        third = difference(before, after) if before and after else None
        images = "".join(_image(label, png) for label, png in (("accepted", before), ("new", after), ("difference", third)))
        shown.append(f'<h3>{html.escape(name)}</h3><div class="pictures">{images}</div>')
    return f"<h2>{paper}</h2>{table}{''.join(shown)}"


def _entry(entry: dict | None) -> str:
    if entry is None:
        return "none"
    return f"{entry['verdict']}: {results.interval(entry['effect'])}; placebo {results.interval(entry['placebo'])}"


def _image(label: str, png: bytes | None) -> str:
    if png is None:
        return f"<figure><figcaption>{label}: none</figcaption></figure>"
    data = base64.b64encode(png).decode()
    return f'<figure><figcaption>{label}</figcaption><img alt="{label}" src="data:image/png;base64,{data}"></figure>'


def main() -> int:
    parser = argparse.ArgumentParser(description="Show what the last run changed.")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    try:
        papers = sources.papers(arguments.only)
        sections = {paper: text for paper in papers if (text := section(paper))}
    except (sources.UnknownPaper, record.RecordError, notebooks.NotebookError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    ran = [paper for paper in papers if results.built(paper) is not None]
    for paper in sorted(set(papers) - set(ran)):
        print(f"{paper} has not run: make ONLY={paper}")
    if not sections:
        print(f"nothing changed in {len(ran)} papers")
        return 0
    page = ROOT / "build" / "compare.html"
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Accepted and new</title><style>{STYLE}</style>'
    write_whole(page, f"{head}<h1>Accepted and new</h1>{''.join(sections.values())}</html>\n".encode())
    print(f"changed: {', '.join(sections)}; side by side in {page.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
