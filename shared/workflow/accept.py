"""Promote what ran into replications/, and write the scoreboard and the gallery anew from the accepted ledgers.

python -m shared.workflow.accept [--only ...]
"""

import argparse
import json
import sys

from shared import notebooks, record
from shared.place import ROOT, write_whole
from shared.workflow import results, scoreboard, sources

VOLATILE = ("provenance", "run")  # differ from run to run; they do not alone make a result a new one


class NotAcceptable(ValueError):
    """A result that cannot be promoted; the message names the paper and the remedy."""


def accept(paper: str) -> str:
    """Promote one paper's last run; returns what was done, in a word. Raises NotAcceptable when it is stale or missing."""
    built, run = results.built(paper), results.run_record(paper)
    if built is None or run is None:
        raise NotAcceptable(f"{paper} has not run at laptop parameters: make ONLY={paper}")
    now = sources.digests(paper)
    stale = sorted(k for k in now.keys() | run["digests"].keys() if now.get(k) != run["digests"].get(k))
    if stale:
        raise NotAcceptable(f"{paper} changed since it ran ({', '.join(stale)}): make ONLY={paper}")
    target = sources.notebook(paper)
    try:
        clean = notebooks.normalise(notebooks.read(ROOT / "build" / "laptop" / paper / target.name))
    except notebooks.NotebookError as error:
        raise NotAcceptable(f"{paper}: {error}") from error
    ledger = built | {"run": {"seconds": run["seconds"], "peak_mb": run["peak_mb"]}}
    old = results.accepted(paper)
    same = old is not None and all(old.get(k) == ledger[k] for k in ledger if k not in VOLATILE)
    same = same and all(old["provenance"][k] == ledger["provenance"][k] for k in ("parameters", "seed"))
    if same and notebooks.normalise(notebooks.read(target)) == clean:
        return "unchanged"
    notebooks.write(clean, target)
    write_whole(sources.folder(paper) / "ledger.json", (json.dumps(ledger, indent=1, ensure_ascii=False) + "\n").encode())
    return "accepted"


def main() -> int:
    parser = argparse.ArgumentParser(description="Promote what ran.")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    refused = 0
    try:
        for paper in sources.papers(arguments.only):
            try:
                print(f"{paper}: {accept(paper)}")
            except NotAcceptable as error:
                refused += 1
                print(f"error: {error}", file=sys.stderr)
        scoreboard.write()
    except (sources.UnknownPaper, record.RecordError, scoreboard.MarkersMissing) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
