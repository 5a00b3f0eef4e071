"""What has run and what is accepted: reading ledgers, run records, and the closing table."""

import json
from collections import Counter

from shared.place import ROOT
from shared.workflow import sources

VERDICTS = ("holds", "fails", "undecided", "void")


def accepted(paper: str) -> dict | None:
    """The accepted `ledger.json` of `family/slug`, or None."""
    return _json(sources.folder(paper) / "ledger.json")


def built(paper: str, profile: str = "laptop") -> dict | None:
    """The `ledger.json` of the last successful run, or None."""
    return _json(ROOT / "build" / profile / paper / "ledger.json")


def run_record(paper: str, profile: str = "laptop") -> dict | None:
    """Seconds, peak memory and source digests of the last successful run, or None."""
    return _json(ROOT / "build" / profile / paper / "run.json")


def is_current(paper: str, profile: str = "laptop") -> bool:
    """Whether the last run succeeded, through the workflow, and its sources are still the same."""
    done = ROOT / "build" / profile / paper / ".done"
    record = run_record(paper, profile)
    return done.exists() and record is not None and record["digests"] == sources.digests(paper)


def typical_seconds(paper: str) -> float | None:
    """Seconds of the last run here, else those recorded when the ledger was accepted, else None."""
    for known in (run_record(paper), (accepted(paper) or {}).get("run")):
        if known:
            return known["seconds"]
    return None


def all_accepted() -> dict[str, dict]:
    """The accepted ledgers by `family/slug`."""
    return {paper: ledger for paper in sources.papers() if (ledger := accepted(paper))}


def interval(part: dict) -> str:
    """Mean and 95 % interval of a ledger's effect or placebo as text."""
    return f"{part['mean']:.3g} [{part['low']:.3g}, {part['high']:.3g}]"


def counts(ledger: dict) -> list[int]:
    """How many claims hold, fail, are undecided, are void."""
    tally = Counter(claim["verdict"] for claim in ledger["claims"].values())
    return [tally[v] for v in VERDICTS]


def closing_table(papers: list[str], profile: str) -> str:
    """Paper, claims holds/fails/undecided/void, seconds, peak memory; failures with where their traceback is."""
    width = max(map(len, papers), default=5)
    lines = [f"{'paper':{width}}  holds fails undecided void  seconds  peak MB"]
    for paper in papers:
        failed = ROOT / "build" / profile / f"{paper}.failed" / "traceback.txt"
        ledger, record = built(paper, profile), run_record(paper, profile)
        if failed.parent.exists():
            lines.append(f"{paper:{width}}  FAILED, traceback in {failed.relative_to(ROOT)}")
        elif ledger is None or record is None:
            lines.append(f"{paper:{width}}  has not run")
        else:
            holds, fails, undecided, void = counts(ledger)
            lines.append(
                f"{paper:{width}}  {holds:5d} {fails:5d} {undecided:9d} {void:4d}  {record['seconds']:7.0f}  {record['peak_mb']:7d}"
            )
    return "\n".join(lines)


def _json(path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
