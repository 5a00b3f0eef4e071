"""The pipeline: what is stale, what a failure leaves behind, and what bad input is told."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests import toy

LIGHT = {
    "imports": "import method\nimport numpy as np\n\nfrom shared import seeding\nfrom shared.ledger import Ledger",
    "figure": "",
}


def rerun(repository, *arguments):
    return toy.call(repository, "shared.workflow.rerun", *arguments)


def done(run) -> set[str]:
    """The papers that a rerun reports as done."""
    return {line.split()[1] for line in run.stdout.splitlines() if " done in " in line}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Two papers that have run; the second reads through shared.seeding no more than the first, and one more module."""
    repository = toy.repository(tmp_path_factory.mktemp("house") / "repository")
    (repository / "shared" / "extra.py").write_text("from shared import further\n\nVALUE = further.VALUE\n")
    (repository / "shared" / "further.py").write_text("VALUE = 1\n")
    toy.paper(repository, "causal/one", **LIGHT)
    toy.paper(repository, "causal/two", **LIGHT | {"claims": toy.CELLS["claims"] + "\nfrom shared.extra import VALUE"})
    first = rerun(repository)
    assert first.returncode == 0, first.stdout + first.stderr
    assert done(first) == {"causal/one", "causal/two"}
    return repository


def test_progress_and_closing_table(house):
    (house / "replications/causal/one/method.py").write_text(toy.METHOD + "# again\n")
    out = rerun(house).stdout
    assert "[0/1] causal/one started, took" in out
    assert "[1/1] causal/one done in" in out
    table = [line.split() for line in out.splitlines() if line.startswith("causal/")]
    assert [row[0] for row in table] == ["causal/one", "causal/two"]
    assert table[0][1:5] == ["1", "0", "0", "0"]
    assert int(table[0][6]) > 10  # MB


def test_nothing_changed_nothing_runs(house):
    run = rerun(house)
    assert run.returncode == 0
    assert not done(run)


def test_a_method_reruns_its_paper_alone(house):
    (house / "replications/causal/two/method.py").write_text(toy.METHOD + "\n\nCONSTANT = 1\n")
    assert done(rerun(house)) == {"causal/two"}


def test_a_shared_module_reruns_who_imports_it_even_indirectly(house):
    (house / "shared/further.py").write_text("VALUE = 2\n")
    assert done(rerun(house)) == {"causal/two"}


def test_touching_without_changing_reruns_nothing(house):
    for path in (house / "shared").glob("*.py"):
        os.utime(path)
    assert not done(rerun(house))


def test_what_is_accepted_is_not_stale(house):
    assert toy.call(house, "shared.workflow.accept").returncode == 0
    assert not done(rerun(house))
    assert "unchanged" in toy.call(house, "shared.workflow.accept").stdout


def test_stale_results_are_not_accepted(house):
    method = house / "replications/causal/one/method.py"
    before = method.read_text()
    method.write_text(before + "\n\nANOTHER = 1\n")
    run = toy.call(house, "shared.workflow.accept", "--only", "causal/one")
    assert run.returncode == 1
    assert "causal/one changed since it ran (replications/causal/one/method.py): make ONLY=causal/one" in run.stderr
    method.write_text(before)


@pytest.mark.parametrize(
    ("breakage", "told"),
    [
        ("raise ValueError('the lake is empty')", "ValueError: the lake is empty"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "DeadKernelError: Kernel died"),
    ],
    ids=["raises", "killed"],
)
def test_a_failure_leaves_earlier_results_and_the_others_go_on(house, breakage, told):
    one, two = house / "replications/causal/one", house / "replications/causal/two"
    built = house / "build/laptop/causal/one/ledger.json"
    before = {path: path.read_text() for path in (built, one / "ledger.json", one / "one.ipynb")}
    toy.write_notebook(one, **LIGHT | {"experiment": breakage})
    (two / "method.py").write_text(toy.METHOD + f"\n\nWORD = {told!r}\n")
    run = rerun(house)
    assert run.returncode != 0
    assert done(run) == {"causal/two"}
    assert told in run.stderr
    traceback = house / "build/laptop/causal/one.failed/traceback.txt"
    assert f"FAILED, traceback in {traceback.relative_to(house)}" in run.stdout
    assert told.split(":")[0] in traceback.read_text()
    (one / "one.ipynb").write_text(before[one / "one.ipynb"])
    assert {path: path.read_text() for path in before} == before
    assert "1     0         0    0" in rerun(house).stdout  # and it runs again once mended


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "causal/onne"], "no replication 'causal/onne': did you mean causal/one"),
        (["--only", "nowhere"], "no replication 'nowhere'"),
    ],
)
def test_unknown_paper(house, arguments, told):
    for module in ("rerun", "accept", "test"):
        run = toy.call(house, f"shared.workflow.{module}", *arguments)
        assert run.returncode == 2
        assert told in run.stderr


@pytest.mark.parametrize(
    ("parameters", "told"),
    [("{seeds: 5}", "unknown parameter 'seeds'; the notebook has: n_seeds"), ("{n_seeds: many}", "'n_seeds' must be int, not str")],
)
def test_bad_parameters(house, parameters, told):
    record = house / "replications/causal/one/paper.yaml"
    record.write_text(toy.RECORD.replace("{n_seeds: 5}", parameters))
    run = toy.call(house, "shared.workflow.run", "causal/one", "--profile", "paper")
    record.write_text(toy.RECORD)
    assert run.returncode == 1
    assert told in run.stderr
    assert not (house / "build/paper").exists()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("venue: ICML", "causal/one/paper.yaml:\n  venue: unknown key"),
        (
            "packages: [no-such-data]",
            "package 'no-such-data' is not pinned: add a line no-such-data==<version> to requirements-data.txt",
        ),
    ],
)
def test_a_bad_record_stops_before_anything_runs(house, line, told):
    record = house / "replications/causal/one/paper.yaml"
    record.write_text(f"{toy.RECORD}{line}\n")
    run = rerun(house)
    record.write_text(toy.RECORD)
    assert run.returncode == 2
    assert told in run.stderr


def start(house) -> subprocess.Popen:
    """A rerun of a paper that takes a while, in a process group of its own, once its kernel works."""
    toy.write_notebook(
        house / "replications/causal/one", **LIGHT | {"experiment": "import time\n\nopen('working', 'w')\ntime.sleep(60)"}
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "shared.workflow.rerun", "--only", "causal/one"], cwd=house, env=toy.environment_of(house),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # tests that were started in the background ignore Ctrl-C, and so would their children; a terminal's do not
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    for _ in range(600):
        if (house / "replications/causal/one/working").exists():
            return process
        time.sleep(0.1)
    process.kill()
    raise AssertionError(process.communicate())


def processes_in(folder) -> list:
    """The processes, kernels among them, whose working directory lies in a folder."""
    return [p for p in psutil.process_iter(["cwd"]) if (p.info["cwd"] or "").startswith(str(folder))]


def test_two_at_once_and_interrupting(house):
    """A second make is refused; Ctrl-C ends the first, its kernel too, and leaves earlier results as they were."""
    built = house / "build/laptop/causal/one/ledger.json"
    before = built.read_text()
    process = start(house)
    second = rerun(house)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does on Ctrl-C
    out, err = process.communicate(timeout=60)
    (house / "replications/causal/one/working").unlink()
    toy.write_notebook(house / "replications/causal/one", **LIGHT)

    assert second.returncode == 2
    assert "another make is running in this checkout" in second.stderr
    assert process.returncode == 130, (out, err)
    assert "earlier results were left as they were" in err
    assert built.read_text() == before
    for _ in range(100):
        if not (left := processes_in(house)):
            break
        time.sleep(0.1)
    assert not left
    assert rerun(house).returncode == 0


def test_scaffold(house):
    """`make new` writes a paper that is complete but for its claims, its data, its figures and its results."""
    run = toy.call(house, "shared.workflow.new", "rl/fresh")
    assert run.returncode == 0, run.stderr
    assert toy.call(house, "shared.workflow.new", "rl/fresh").returncode == 2
    assert "snake_case" in toy.call(house, "shared.workflow.new", "rl/Not-A-Slug").stderr
    test = toy.call(house, "pytest", "tests/test_registry.py::test_complete[rl/fresh]", "-q", "-p", "no:cacheprovider")
    assert "paper.yaml has no claims yet" in test.stdout
    record = house / "replications/rl/fresh/paper.yaml"
    claim = toy.RECORD.partition("claims:")[2].partition("parameters:")[0]
    record.write_text(record.read_text().replace("claims: []", f"claims:{claim}#"))
    test = toy.call(house, "pytest", "tests/test_registry.py::test_complete[rl/fresh]", "-q", "-p", "no:cacheprovider")
    assert "has no figure" in test.stdout, test.stdout  # everything before it passes: sections, cells, parameters, method
    for path in record.parent.glob("*"):
        path.unlink()
    record.parent.rmdir()


def test_scoreboard_needs_its_markers(house):
    readme = house / "README.md"
    text = readme.read_text()
    readme.write_text(text.replace("<!-- end of scoreboard -->", ""))
    run = toy.call(house, "shared.workflow.accept")
    readme.write_text(text)
    assert run.returncode == 2
    assert "README.md needs the lines" in run.stderr


def test_accepted_ledger_has_what_a_reader_needs(house):
    ledger = json.loads((house / "replications/causal/two/ledger.json").read_text())
    claim = ledger["claims"]["mean_is_positive"]
    assert len(claim["effect"]["sample"]) == claim["effect"]["n"] == 4
    assert {"parameters", "commit", "versions"} <= set(ledger["provenance"])
    assert {"seconds", "peak_mb"} <= set(ledger["run"])
