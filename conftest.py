"""Notebook validation: `pytest --nbval` with the project's comparison, and nbval's known traps closed.

It stands here and not in tests/ because it serves the notebooks in replications/ too.
"""

import os
import time
from queue import Empty

import nbformat
import pytest
from nbval import plugin
from nbval.kernel import RunningKernel

from shared.workflow import validation
from shared.workflow.run import ONE_THREAD

os.environ.update(ONE_THREAD)


class Kernel(RunningKernel):
    """A kernel whose death is noticed within a second, not after the whole cell timeout."""

    def await_reply(self, msg_id, timeout=None):
        deadline = time.monotonic() + (timeout or float("inf"))
        while time.monotonic() < deadline:
            if not self.is_alive():
                raise RuntimeError("the kernel died while executing this cell (killed, or out of memory?)")
            try:
                return super().await_reply(msg_id, timeout=1)
            except Empty:
                continue
        raise Empty


class Cell(plugin.IPyNbCell):
    """A cell compared by `validation.differences`; the first failure of a notebook stops it."""

    def setup(self):
        if self.parent.broken:
            pytest.skip(f"not run: {self.parent.broken} failed")
        super().setup()

    def runtest(self):
        try:
            super().runtest()
        except (RuntimeError, plugin.NbCellError) as error:
            if "Cell outputs differ" not in str(error):  # without this cell's names the next ones tell nothing
                self.parent.broken = self.name
            raise

    def compare_outputs(self, test, ref, skip_compare=None):
        tolerance = self.cell.metadata.get("tolerance", validation.TOLERANCE)
        self.comparison_traceback = validation.differences(ref, test, tolerance)
        return not self.comparison_traceback

    def repr_failure(self, excinfo):
        if isinstance(excinfo.value, RuntimeError):
            return f"{self.path.name}, {self.name}: {excinfo.value}\n\n{self.cell.source}"
        return super().repr_failure(excinfo)


class Notebook(plugin.IPyNbFile):
    """A committed notebook; one that was never executed, or in another order, is an error and not a vacuous pass."""

    broken = ""

    def collect(self):
        reason = validation.incomplete(nbformat.read(self.path, as_version=4))
        if reason:
            raise self.CollectError(f"{self.path.name} cannot be validated: {reason}; run it with make, then make accept")
        for cell in super().collect():
            if cell.cell.source.strip():
                yield Cell.from_parent(self, name=cell.name, cell_num=cell.cell_num, cell=cell.cell, options=cell.options)

    def setup(self):
        self.kernel = Kernel("python3", cwd=str(self.path.parent))


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    """Our collector in place of nbval's, which has no option for it."""
    collectors = yield
    return [Notebook.from_parent(parent, path=file_path) if isinstance(c, plugin.IPyNbFile) else c for c in collectors]
