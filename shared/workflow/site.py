"""Build the site from what is committed; nothing is executed.

python -m shared.workflow.site

Pages are written to build/site/source and made into build/site/html by Sphinx (settings and hand-written pages: docs/).
"""

import html
import json
import math
import re
import shutil
import statistics
import sys
import time
from importlib.metadata import files
from itertools import groupby
from pathlib import Path

import nbformat
from sphinx.cmd.build import build_main

from shared import notebooks, record
from shared.ledger import MARKS, MIME
from shared.place import ROOT
from shared.workflow import results, sources

WIDEST = 100.0  # positions beyond this many units are drawn at the edge
TICKS = (-100, -10, -1, 0, 1, 10, 100)


# ---------------------------------------------------------------- the picture of claims


def place_on_axis(claim: record.Claim, value: float, unit: float) -> float:
    """How far a value lies on the claimed side (> 0) of the claim's threshold, in `unit`; for a band, from its nearer edge."""
    if claim.within:
        return min(value - claim.within[0], claim.within[1] - value) / unit
    return ((value - claim.above) if claim.above is not None else (claim.below - value)) / unit


def unit_of(claim: record.Claim, sample: list[float]) -> float:
    """The claim's threshold where it is not 0 (for a band half its width), else the standard deviation of the repeats, else 1."""
    if claim.within:
        return (claim.within[1] - claim.within[0]) / 2
    threshold = abs(claim.above if claim.above is not None else claim.below)
    return threshold or (statistics.stdev(sample) if len(sample) > 1 else 0.0) or 1.0


def percent(position: float) -> float:
    """A position in units as per cent of the axis: logarithmic beyond about one unit, 50 at the threshold."""
    bent = math.copysign(math.log1p(abs(position)), position) / math.log1p(WIDEST)
    return 50 + 50 * max(-1.0, min(1.0, bent))


def bar(kind: str, claim: record.Claim, part: dict, unit: float) -> str:
    """The interval of an effect or a placebo as a line on the axis."""
    ends = sorted(percent(place_on_axis(claim, part[q], unit)) for q in ("low", "mean", "high"))
    return f'<span class="{kind}" style="left:{ends[0]:.2f}%;width:{ends[-1] - ends[0]:.2f}%"></span>'


def claim_line(claim: record.Claim, entry: dict, link: str) -> str:
    """One claim: its placebo, its interval, and its verdict as a mark that links to the paper's page."""
    unit = unit_of(claim, entry["effect"]["sample"])
    at = percent(place_on_axis(claim, entry["effect"]["mean"], unit))
    said = html.escape(f"{MARKS[entry['verdict']]}: {claim.says} {results.interval(entry['effect'])}", quote=True)
    return (
        f'<a class="line {entry["verdict"]}" href="{link}" title="{said}" aria-label="{said}">'
        f"{bar('placebo', claim, entry['placebo'], unit)}{bar('bar', claim, entry['effect'], unit)}"
        f'<span class="sign" style="left:{at:.2f}%"></span></a>'
    )


def picture(blocks: list[tuple[str, str, str, list[str]]]) -> str:
    """The picture of claims: blocks of (attributes, link, label, lines), an axis above them and a key below."""
    ticks = "".join(
        f'<span style="left:{percent(t):.2f}%"{edge}>{t}</span>'
        for t, edge in zip(TICKS, (' class="first"', *[""] * 5, ' class="last"'), strict=True)
    )
    body = "".join(
        f'<div class="paper" {attributes}><a href="{link}">{label}</a><div class="lines">{"".join(lines)}</div></div>'
        for attributes, link, label, lines in blocks
    )
    key = "".join(f'<span class="{v} verdict"><i></i>{v}</span>' for v in results.VERDICTS)
    return (
        f'<div class="claims"><div class="axis"><span></span><div class="ticks">{ticks}</div></div>{body}</div>'
        f'<p class="key">{key}<span class="line-of-placebo"><i></i>placebo</span></p>'
        "<p>Right of the middle is the side on which the paper puts its claim. Each line is a claim: the effect's 95 % interval, "
        "its verdict as colour and shape, and the placebo's interval in grey. The unit is the claim's own threshold, or where that "
        "is 0 the standard deviation between repeats; the axis is logarithmic beyond one unit.</p>"
    )


# ---------------------------------------------------------------- pages


def front(papers: dict[str, dict]) -> str:
    """The front page: what this is, the scoreboard, all claims at once."""
    total = sum(len(ledger["claims"]) for ledger in papers.values())
    blocks = []
    for paper, ledger in papers.items():
        known, link = read(paper), f"papers/{paper}.html"
        lines = [claim_line(c, ledger["claims"][c.id], f"{link}#{anchor(c.id)}") for c in known.claims]
        blocks.append((attributes(paper, ledger), link, paper.split("/")[1].replace("_", " "), lines))
    columns = ("paper", *(MARKS[v] for v in results.VERDICTS), "family", "year", "data", "seconds")
    numeric = {"year", "seconds", *(MARKS[v] for v in results.VERDICTS)}
    heads = "".join(f'<th scope="col"{_n(c in numeric)}><button type="button">{c}</button></th>' for c in columns)
    rows = "".join(row(paper, ledger) for paper, ledger in papers.items())
    return f"""# Replications of papers on counterfactuals and on noise, claim by claim

One notebook a paper: what it claims, its algorithm, our experiment on real data where it can be had, and whether the claim held.
Each claim has our number with a 95 % interval, a *placebo* that must not pass, and a [verdict computed from the two](verdicts.md).
A claim that fails is a result, and is shown as one. So far {len(papers)} papers with {total} claims.

## Scoreboard

```{{raw}} html
<div class="filters">{menus(papers)}<span id="shown" aria-live="polite"></span></div>
<div class="wide"><table id="all-papers"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>
```

## All claims at once

```{{raw}} html
{picture(blocks)}
```

```{{toctree}}
:hidden:

papers/index
gallery
verdicts
```
"""


def menus(papers: dict[str, dict]) -> str:
    """The three filters of the scoreboard."""
    choices = {
        "family": sorted({paper.split("/")[0] for paper in papers}),
        "verdict": results.VERDICTS,
        "data": sorted({read(paper).data for paper in papers}),
    }
    return "".join(
        f'<label>{name}<select name="{name}"><option value="">all</option>'
        + "".join(f"<option>{choice}</option>" for choice in choices[name])
        + "</select></label>"
        for name in choices
    )


def attributes(paper: str, ledger: dict) -> str:
    """What the filters read."""
    verdicts = " ".join(sorted({c["verdict"] for c in ledger["claims"].values()}))
    return f'data-family="{paper.split("/")[0]}" data-verdict="{verdicts}" data-data="{read(paper).data}"'


def row(paper: str, ledger: dict) -> str:
    """A row of the scoreboard."""
    known = read(paper)
    counts = "".join(f'<td class="n" data-sort="{n}">{n or ""}</td>' for n in results.counts(ledger))
    return (
        f'<tr {attributes(paper, ledger)}><td><a href="papers/{paper}.html">{html.escape(known.title)}</a></td>'
        f'{counts}<td>{paper.split("/")[0]}</td><td class="n">{known.year}</td><td>{known.data}</td>'
        f'<td class="n">{ledger["run"]["seconds"]:.0f}</td></tr>'
    )


def families(papers: dict[str, dict]) -> str:
    """The page of all papers, a section a family; the navigation follows it."""
    parts = ["# Papers"]
    for family, members in groupby(papers, key=lambda paper: paper.split("/")[0]):
        pages = "\n".join(f"{read(paper).title} <{paper}>" for paper in members)
        parts.append(f"```{{toctree}}\n:caption: {family}\n:maxdepth: 1\n\n{pages}\n```")
    return "\n\n".join(parts)


def gallery(papers: dict[str, dict]) -> str:
    """Every paper's first figure with its question and verdicts."""
    cards = []
    for paper, ledger in papers.items():
        known, figure = read(paper), figures(paper)[0]
        verdicts = ", ".join(
            f'<span class="verdict {v}">{n} {v}</span>' for v, n in zip(results.VERDICTS, results.counts(ledger), strict=True) if n
        )
        cards.append(
            f'<div><a href="papers/{paper}.html"><img src="_static/figures/{paper}/{figure["figure"]}.png" '
            f'alt="{html.escape(figure["alt"], quote=True)}" loading="lazy"></a>'
            f'<p><a href="papers/{paper}.html">{html.escape(known.title)}</a></p>'
            f"<p>{html.escape(known.question)}</p><p>{verdicts}</p></div>"
        )
    return f'# Gallery\n\n```{{raw}} html\n<div class="gallery">{"".join(cards)}</div>\n```\n'


def verdicts_page(text: str) -> str:
    """The hand-written page with its picture: one line a verdict, from made-up intervals."""
    claim = record.Claim(
        id="example",
        says="Made up.",
        where="nowhere",
        source="ours",
        kind="order",
        effect="effect",
        above=1.0,
        placebo="mechanism taken out",
    )
    made_up = {"holds": ((2, 3, 4.5), (0.2, 0.7, 1.3)), "fails": ((-1, -0.3, 0.4), (-0.5, 0, 0.5)),
               "undecided": ((0.3, 1.4, 2.6), (-0.4, 0.2, 0.8)), "void": ((2, 3, 4.5), (1.6, 2.4, 3.6))}  # fmt: skip
    blocks = []
    for verdict, parts in made_up.items():
        effect, placebo = (dict(zip(("low", "mean", "high"), part, strict=True)) for part in parts)
        entry = {"verdict": verdict, "effect": effect | {"sample": []}, "placebo": placebo}
        blocks.append(("", "#why-a-placebo", verdict, [claim_line(claim, entry, "#why-a-placebo")]))
    shown = f"```{{raw}} html\n<p>Four made-up claims, one for each verdict:</p>{picture(blocks)}\n```"
    return text.replace("{{ example }}", shown)


def page(paper: str, ledger: dict) -> nbformat.NotebookNode:
    """A paper's page: question, claims, figures with their sidecars, deviations, then the notebook and the method's source."""
    known = read(paper)
    notebook = notebooks.read(sources.notebook(paper))
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"^(#+ )", r"#\1", cell.source, flags=re.M)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(MIME, None)
            if "image/png" in output.get("data", {}):
                cell.metadata["mystnb"] = {"image": {"alt": output.metadata["image/png"]["alt"]}}
    method = (sources.folder(paper) / "method.py").read_text(encoding="utf-8")
    before = [header(paper, known), claims(known, ledger), pictures(paper), deviations(known), "## The notebook"]
    after = f"## method.py\n\n```python\n{method}\n```"
    cells = [nbformat.v4.new_markdown_cell(text, id=f"page-{i}") for i, text in enumerate(before)]
    notebook.cells = [*cells, *notebook.cells, nbformat.v4.new_markdown_cell(after, id="page-method")]
    return notebook


def header(paper: str, known: record.Paper) -> str:
    """Title, citation, links, question."""
    links = [f"arXiv {known.arxiv}"] if known.arxiv else []
    links += [f"official code: {known.code}"] if known.code else []
    links += [f"data: {known.data}", f"`replications/{paper}`"]
    return f"# {known.title}\n\n{known.authors} ({known.year}). {' · '.join(links)}\n\n**{known.question}**"


def claims(known: record.Paper, ledger: dict) -> str:
    """Every claim with its verdict sentence, and the picture of them."""
    parts = []
    for claim in known.claims:
        entry = ledger["claims"][claim.id]
        theirs = f" The paper's number: {claim.paper} ({claim.source})." if claim.paper is not None else ""
        parts.append(
            f'<div class="claim" id="{anchor(claim.id)}"><p>'
            f'<span class="verdict {entry["verdict"]}">{MARKS[entry["verdict"]]}</span> '
            f"{_text(claim.says)} ({_text(claim.where)})</p>"
            f"<p>Measured: {_text(claim.effect)} = <strong>{results.interval(entry['effect'])}</strong>, "
            f"{entry['effect']['n']} repeats "
            f"({_text(claim.repeat)}); it holds when {_text(claim.rule)}.</p>"
            f"<p>Placebo: {results.interval(entry['placebo'])}. {_text(claim.placebo)}{_text(theirs)}</p></div>"
        )
    blocks = [
        ("", f"#{anchor(c.id)}", c.id.replace("_", " "), [claim_line(c, ledger["claims"][c.id], f"#{anchor(c.id)}")])
        for c in known.claims
    ]
    return f"## Claims\n\n```{{raw}} html\n{''.join(parts)}{picture(blocks)}\n```"


def pictures(paper: str) -> str:
    """Every figure with what made it."""
    depth = "../" * 2
    shown = []
    for figure in figures(paper):
        facts = {
            "figure": figure["figure"],
            "code": figure["notebook"],
            "parameters": ", ".join(f"{k} = {v}" for k, v in figure["parameters"].items()),
            "seed": figure["seed"],
            "commit": figure["commit"],
            "versions": ", ".join(f"{k} {v}" for k, v in figure["versions"].items()),
        }
        listed = "".join(f"<dt>{k}</dt><dd>{_text(str(v))}</dd>" for k, v in facts.items())
        shown.append(
            f'<img src="{depth}_static/figures/{paper}/{figure["figure"]}.png" '
            f'alt="{html.escape(figure["alt"], quote=True)}" loading="lazy">'
            f'<details class="sidecar"><summary>what made this figure</summary><dl>{listed}</dl></details>'
        )
    return f"## Figures\n\n```{{raw}} html\n{''.join(shown)}\n```"


def deviations(known: record.Paper) -> str:
    """What differs from the paper."""
    rows = "\n".join(f"| {d.what} | {d.why} | {d.matters} |" for d in known.deviations)
    return f"## What differs from the paper\n\n| what differs | why | what it changes |\n|---|---|---|\n{rows}"


# ---------------------------------------------------------------- files


def read(paper: str) -> record.Paper:
    """The record of `family/slug`."""
    return record.read(sources.folder(paper) / "paper.yaml")


def figures(paper: str) -> list[dict]:
    """The sidecars of a paper's figures, by name."""
    return [json.loads(p.read_text(encoding="utf-8")) for p in sorted((ROOT / "figures" / paper).glob("*.json"))]


def anchor(claim_id: str) -> str:
    """The fragment of a claim on its paper's page."""
    return f"claim-{claim_id.replace('_', '-')}"


def _text(words: str) -> str:
    return html.escape(words)


def _n(numeric: bool) -> str:
    return ' class="n"' if numeric else ""


def write(source: Path) -> int:
    """Write every page into an empty folder `source`; the number of papers."""
    papers = results.all_accepted()
    shutil.copytree(ROOT / "docs", source)
    for paper in papers:
        shutil.copytree(ROOT / "figures" / paper, source / "_static" / "figures" / paper, ignore=shutil.ignore_patterns("*.json"))
    mathjax = next(f for f in files("sphinx-mathjax-offline") if f.name == "tex-svg.js").locate()
    (source / "_static" / "mathjax").mkdir()
    shutil.copy(mathjax, source / "_static" / "mathjax")
    (source / "index.md").write_text(front(papers), encoding="utf-8")
    (source / "gallery.md").write_text(gallery(papers), encoding="utf-8")
    (source / "papers").mkdir()
    (source / "papers" / "index.md").write_text(families(papers), encoding="utf-8")
    hand_written = source / "verdicts.md"
    hand_written.write_text(verdicts_page(hand_written.read_text(encoding="utf-8")), encoding="utf-8")
    for paper, ledger in papers.items():
        target = source / "papers" / f"{paper}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        notebooks.write(page(paper, ledger), target)
    return len(papers)


def main() -> int:
    started = time.monotonic()
    source, target = (ROOT / "build" / "site" / name for name in ("source", "html"))
    shutil.rmtree(source.parent, ignore_errors=True)
    n_papers = write(source)
    code = build_main(["-b", "html", "-q", "-W", "--keep-going", "-j", "auto", str(source), str(target)])
    if code == 0:
        pages = list(target.rglob("*.html"))
        weight = sum(p.stat().st_size for p in target.rglob("*") if p.is_file()) / 1e6
        print(
            f"{n_papers} papers, {len(pages)} pages, {weight:.0f} MB in {time.monotonic() - started:.0f} s: {target / 'index.html'}"
        )
    return code


if __name__ == "__main__":
    sys.exit(main())
