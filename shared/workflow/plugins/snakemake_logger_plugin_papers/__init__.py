"""Snakemake's events as one line a paper: how many of how many, which are running, about how long it will take.

Found by snakemake through its naming convention (`--logger papers`); rerun.py puts this folder on its path.
"""

import os
import sys
import time

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from shared.workflow.results import typical_seconds

# a failed notebook has said so itself, with the place of its traceback
SAID_BY_THE_JOB = ("CalledProcessError", "At least one job did not complete", "Exiting because a job execution failed")


class LogHandler(LogHandlerBase):
    def __post_init__(self) -> None:
        self.total, self.finished, self.waiting = 0, 0, {}
        self.jobs, self.running = {}, {}  # job id -> paper; paper -> when it started
        self.workers = os.cpu_count() or 1

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def emit(self, record) -> None:
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:
            self.total = record.stats.get("notebook", 0)
        elif event == LogEvent.RESOURCES_INFO and getattr(record, "cores", None):
            self.workers = int(record.cores)
        elif event == LogEvent.JOB_INFO:
            self.started(record)
        elif event == LogEvent.JOB_FINISHED:
            self.ended(record.job_id, "done")
        elif event == LogEvent.JOB_ERROR:
            self.ended(record.jobid, "FAILED")
        elif record.levelname == "ERROR" and not any(known in record.getMessage() for known in SAID_BY_THE_JOB):
            print(record.getMessage(), file=sys.stderr, flush=True)

    def started(self, record) -> None:
        if record.rule_name == "data_package":
            self.say(f"installing data package {record.wildcards['name']} {record.wildcards['version']}")
        elif record.rule_name == "notebook":
            paper = f"{record.wildcards['family']}/{record.wildcards['slug']}"
            self.jobs[record.jobid] = paper
            self.running[paper] = time.monotonic()
            expected = typical_seconds(paper)
            self.say(f"{paper} started" + (f", took {expected:.0f} s last time" if expected else ""))

    def ended(self, job, how: str) -> None:
        paper = self.jobs.pop(job, None)
        if paper is None:
            return
        seconds = time.monotonic() - self.running.pop(paper)
        self.finished += 1
        running = f"; running: {', '.join(self.running)}" if self.running else ""
        self.say(f"{paper} {how} in {seconds:.0f} s{running}{self.time_left(seconds)}")

    def time_left(self, last: float) -> str:
        """Work left over the workers, taking a paper whose time is unknown to be like the last one."""
        now = time.monotonic()
        left = sum(max(0.0, (typical_seconds(p) or last) - (now - begun)) for p, begun in self.running.items())
        left += last * (self.total - self.finished - len(self.running))
        return f"; about {left / self.workers:.0f} s left" if left else ""

    def say(self, text: str) -> None:
        print(f"[{self.finished}/{self.total}] {text}", flush=True)
