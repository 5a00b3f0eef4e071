"""Execute one notebook.

python -m shared.workflow.run FAMILY/SLUG [--profile laptop|paper]

Results appear in build/<profile>/<family>/<slug>/ and, for the laptop profile, in figures/<family>/<slug>/, only once
the whole notebook has succeeded. A failure leaves every earlier result as it was and its traceback in
build/<profile>/<family>/<slug>.failed/.
"""

import argparse
import errno
import json
import os
import re
import resource
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

import papermill
from papermill.exceptions import PapermillExecutionError

from shared import notebooks, record
from shared.place import ROOT, write_whole
from shared.workflow import sources

# one thread: results of parallel sums depend on the number of threads, and papers run side by side
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class RunFailed(RuntimeError):
    """A notebook that did not run through; the message says where and where its traceback is."""


def run(paper: str, profile: str) -> None:
    """Execute `family/slug` at the parameters of `profile` and put its results in place. Raises RunFailed."""
    home = sources.folder(paper)
    parameters = record.read(home / "paper.yaml").parameters.get(profile, {})
    digests = sources.digests(paper)
    notebooks.check_parameters(notebooks.read(sources.notebook(paper)), parameters)

    done = ROOT / "build" / profile / paper
    part, failed, old = (done.with_name(f"{done.name}.{state}") for state in ("part", "failed", "old"))
    for left_over in (part, failed, old):
        shutil.rmtree(left_over, ignore_errors=True)
    part.mkdir(parents=True)

    executed = part / f"{home.name}.ipynb"
    os.environ.update(ONE_THREAD, REPLICATIONS_OUT=str(part))
    started = time.monotonic()
    try:
        papermill.execute_notebook(
            sources.notebook(paper), executed, parameters=parameters, cwd=home, kernel_name="python3",
            progress_bar=False, log_output=False, record_timing=False,
            extra_arguments=["--log-level=CRITICAL"],  # ipykernel warns of the loopback, and of being stopped
        )  # fmt: skip
        if not (part / "ledger.json").exists():
            raise RunFailed("the notebook never called ledger.verdicts(), so there is no ledger.json")
        measures = {"seconds": round(time.monotonic() - started, 1)} | _compute(executed) | {"digests": digests}
        write_whole(part / "run.json", (json.dumps(measures, indent=1) + "\n").encode())
    except BaseException as error:  # also a killed kernel, a full disk, Ctrl-C: keep what there is, then re-raise
        what = _traceback(error)
        with suppress(OSError):  # a full disk has no room for it
            (part / "traceback.txt").write_text(what, encoding="utf-8")
        part.rename(failed)
        if isinstance(error, KeyboardInterrupt):
            raise
        last = what.strip().splitlines()[-1]
        remedy = "; make room on the disk and run make again" if getattr(error, "errno", None) == errno.ENOSPC else ""
        where = (failed / "traceback.txt").relative_to(ROOT)
        raise RunFailed(
            f"{paper} failed: {last}{remedy}\n  traceback: {where}\n  earlier results were left as they were"
        ) from error
    if done.exists():
        done.rename(old)
    part.rename(done)
    shutil.rmtree(old, ignore_errors=True)
    if profile == "laptop":
        refresh_figures(done / "figures", ROOT / "figures" / paper)


def refresh_figures(new: Path, shown: Path) -> None:
    """Bring `shown` up to date with `new`, replacing only pictures and sidecars that changed, so that history stays small."""
    shown.mkdir(parents=True, exist_ok=True)
    names = {p.stem for p in new.glob("*.png")}
    for path in shown.glob("*"):
        if path.stem not in names:
            path.unlink()
    for name in sorted(names):
        picture, sidecar = (shown / f"{name}{suffix}" for suffix in (".png", ".json"))
        if (
            not picture.exists()
            or picture.read_bytes() != (new / picture.name).read_bytes()
            or _said(sidecar) != _said(new / sidecar.name)
        ):
            for suffix in (".png", ".json"):
                write_whole(shown / f"{name}{suffix}", (new / f"{name}{suffix}").read_bytes())


def _said(sidecar: Path) -> list:
    """What a sidecar says beyond the commit and the versions, which differ from run to run."""
    content = json.loads(sidecar.read_text(encoding="utf-8"))
    return [content.get(key) for key in ("alt", "parameters", "seed")]


def _compute(executed: Path) -> dict:
    """The cells' own seconds, the kernel's processor seconds and its peak memory in MB."""
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "cell_seconds": round(sum(c["metadata"].get("papermill", {}).get("duration") or 0 for c in cells), 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1024),
    }


def _traceback(error: BaseException) -> str:
    if isinstance(error, PapermillExecutionError):
        text = f"cell {error.cell_index}:\n{error.source}\n\n" + "\n".join(error.traceback)
        return re.sub(r"\x1b\[[0-9;]*m", "", text)
    return f"{type(error).__name__}: {error}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Execute one notebook.")
    parser.add_argument("paper", metavar="FAMILY/SLUG")
    parser.add_argument("--profile", choices=("laptop", "paper"), default="laptop")
    arguments = parser.parse_args()
    try:
        for paper in sources.papers(arguments.paper):
            run(paper, arguments.profile)
    except (RunFailed, OSError, sources.UnknownPaper, record.RecordError, notebooks.NotebookError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted: {arguments.paper}; earlier results were left as they were", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
