"""What `make test` runs: unit tests, registry tests and the validation of every committed notebook, or one paper's share.

python -m shared.workflow.test [--only ...] [pytest options]
"""

import argparse
import subprocess
import sys

from shared import record
from shared.place import ROOT
from shared.workflow import packages, sources


def targets(papers: list[str], everything: bool) -> list[str]:
    """What pytest is given: all of tests/, or the papers' own tests and their rows of the registry; then the notebooks."""
    notebooks = [str(sources.notebook(paper).relative_to(ROOT)) for paper in papers]
    if everything:
        return ["tests", *notebooks]
    files = [ROOT / "tests" / paper.split("/")[0] / f"test_{paper.split('/')[1]}.py" for paper in papers]
    rows = [f"tests/test_registry.py::test_complete[{paper}]" for paper in papers]
    return [str(file.relative_to(ROOT)) for file in files if file.exists()] + rows + notebooks


def main() -> int:
    parser = argparse.ArgumentParser(description="Test everything, or one paper's share.")
    parser.add_argument("--only", default="")
    arguments, options = parser.parse_known_args()
    try:
        papers = sources.papers(arguments.only)
        for name in sorted({n for p in papers for n in record.read(sources.folder(p) / "paper.yaml").packages}):
            packages.install(name)
    except (sources.UnknownPaper, record.RecordError, packages.PackageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # loadfile: the cells of one notebook stay together, in order, on one worker
    command = [sys.executable, "-m", "pytest", "--nbval", "-n", "2", "--dist", "loadfile", "--durations", "8"]
    return subprocess.run(command + targets(papers, not arguments.only.strip()) + options, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
