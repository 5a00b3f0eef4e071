"""What `make` does once the environment stands: rerun what is stale and close with a table.

python -m shared.workflow.rerun [--only ...] [--profile laptop|paper] [--force] [--time]

Snakemake decides what is stale and runs it; this checks the request, keeps a second run out, spares snakemake's start
when nothing has changed, and prints the table.
"""

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from shared import record
from shared.place import ROOT
from shared.workflow import packages, results, sources


class Busy(RuntimeError):
    """Another run holds this checkout."""


@contextmanager
def alone():
    """Hold this checkout's lock. The system frees it when the process ends, however it ends. Raises Busy."""
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build" / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy("another make is running in this checkout; wait for it to end, or stop it with Ctrl-C there") from None
        yield


def snakemake(only: str, profile: str, force: bool) -> int:
    """Run the workflow; its exit code."""
    command = [
        sys.executable, "-m", "snakemake", "--cores", "all", "--keep-going", "--rerun-triggers", "params", "mtime",
        "--rerun-incomplete", "--nolock", "--resources", "pip=1", "--logger", "papers", "--quiet", "all",
        "--config", f"only={only}", f"profile={profile}",
    ]  # fmt: skip
    plugins = Path(__file__).parent / "plugins"
    path = os.pathsep.join(filter(None, [str(plugins), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        command + (["--forcerun", "notebook"] if force else []), cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, process_group=0
    )
    try:
        return process.wait()
    except KeyboardInterrupt:
        print("\nstopping ...", file=sys.stderr, flush=True)
        stop(process)
        raise


def stop(process: subprocess.Popen, patience: float = 20.0) -> None:
    """Ask snakemake and its notebooks to put things away, and end them when they have not after `patience` seconds."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # a kernel ends itself when its parent is gone
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description="Rerun what is out of date.")
    parser.add_argument("--only", default="", help="family/slug, a family, or several")
    parser.add_argument("--profile", choices=("laptop", "paper"), default="laptop")
    parser.add_argument("--force", action="store_true", help="rerun even what is up to date")
    parser.add_argument("--time", action="store_true", help="also print the pipeline's own overhead")
    arguments = parser.parse_args()
    try:
        papers = sources.papers(arguments.only)
        for paper in papers:  # every record must be readable before anything runs
            for name in record.read(sources.folder(paper) / "paper.yaml").packages:
                packages.pin(name)
        with alone():
            started = time.monotonic()
            current = all(results.is_current(paper, arguments.profile) for paper in papers)
            if arguments.force or not current:  # starting snakemake takes seconds
                code = snakemake(" ".join(papers) if arguments.only else "", arguments.profile, arguments.force)
            else:
                code = 0
            wall = time.monotonic() - started
    except (Busy, sources.UnknownPaper, record.RecordError, packages.PackageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; earlier results were left as they were; run make again to go on", file=sys.stderr)
        return 130
    print("\n" + results.closing_table(papers, arguments.profile))
    if arguments.time:
        print("\n" + overhead(papers, arguments.profile, wall))
    return code


def overhead(papers: list[str], profile: str, wall: float) -> str:
    """Wall time less the notebooks' own compute over the cores: what the pipeline itself costs."""
    cores = os.cpu_count() or 1
    compute = sum(results.run_record(paper, profile)["cell_seconds"] for paper in papers)
    per = (wall - compute / cores) / len(papers)
    return f"{wall:.1f} s of wall time, {compute:.1f} s of cells on {cores} cores: {per:.1f} s of overhead a notebook"


if __name__ == "__main__":
    sys.exit(main())
