"""Validation can fail: a copy of a notebook is mutated, one way at a time, and pytest --nbval must say so."""

import base64
import copy
import io
import shutil
import xml.etree.ElementTree as ET

import matplotlib.pyplot as plt
import nbformat
import pytest

from shared.ledger import MIME
from shared.workflow import figurediff, validation
from tests import toy


def unchanged(notebook, cells):
    pass


def number_beyond_tolerance(notebook, cells):
    text = cells["experiment"].outputs[0].text
    cells["experiment"].outputs[0].text = f"{float(text) * 1.05:.3f}\n"


def changed_figure(notebook, cells):
    cells["figure"].source = cells["figure"].source.replace("ax.plot(x + 1, lw=2)\n", "")


def raised_exception(notebook, cells):
    cells["experiment"].source = "raise ValueError('broken')"


def stripped_outputs(notebook, cells):
    for cell in cells.values():
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def missing_output(notebook, cells):
    cells["experiment"].outputs = []


def cells_run_in_another_order(notebook, cells):
    cells["experiment"].execution_count, cells["figure"].execution_count = 5, 4


def flipped_verdict(notebook, cells):
    for output in cells["verdicts"].outputs:
        output.data[MIME]["mean_is_positive"]["verdict"] = "fails"


def measure_outside_its_interval(notebook, cells):
    effect = cells["verdicts"].outputs[0].data[MIME]["mean_is_positive"]["effect"]
    effect["low"], effect["high"] = effect["low"] + 1, effect["high"] + 1


def killed_kernel(notebook, cells):
    cells["experiment"].source = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"


MUTATIONS = {
    number_beyond_tolerance: "number",
    changed_figure: "of the picture has no match",
    raised_exception: "broken",
    stripped_outputs: "cannot be validated",
    missing_output: "outputs are",
    cells_run_in_another_order: "cannot be validated",
    flipped_verdict: "verdict holds instead of fails",
    measure_outside_its_interval: "outside the accepted interval",
    killed_kernel: "the kernel died",
}


@pytest.fixture(scope="module")
def validated(tmp_path_factory) -> dict[str, list]:
    """What pytest --nbval says of an accepted notebook and of its mutated copies: {name: its test cases, with their text}."""
    repository = toy.repository(tmp_path_factory.mktemp("house") / "repository")
    home = toy.paper(repository)
    for module, only in (("run", ["timeseries/toy"]), ("accept", [])):
        done = toy.call(repository, f"shared.workflow.{module}", *only)
        assert done.returncode == 0, done.stderr
    copies = []
    for mutation in (unchanged, *MUTATIONS):
        folder = home.with_name(mutation.__name__)
        shutil.copytree(home, folder)
        notebook = nbformat.read(folder / "toy.ipynb", as_version=4)
        mutation(notebook, {cell.id: cell for cell in notebook.cells})
        (folder / "toy.ipynb").unlink()
        copies.append(folder / f"{folder.name}.ipynb")
        nbformat.write(notebook, copies[-1])
    report = repository / "report.xml"
    options = ["-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider", "--continue-on-collection-errors", f"--junitxml={report}"]
    toy.call(repository, "pytest", "--nbval", *options, *map(str, copies))
    cases = [(case, ET.tostring(case, encoding="unicode")) for case in ET.parse(report).getroot().iter("testcase")]
    return {copy.stem: [(case, text) for case, text in cases if copy.stem in text] for copy in copies}


def test_unchanged_passes_on_two_workers(validated):
    cases = [case for case, _ in validated["unchanged"]]
    assert len(cases) == len(toy.CELLS)
    assert not any(len(case) for case in cases)  # no failure, error or skip


@pytest.mark.parametrize(("mutation", "message"), MUTATIONS.items(), ids=lambda m: getattr(m, "__name__", ""))
def test_mutations_fail(validated, mutation, message):
    failed = [
        text for case, text in validated[mutation.__name__] if case.find("failure") is not None or case.find("error") is not None
    ]
    assert failed, validated[mutation.__name__]
    assert message in failed[0], failed[0]


# ---------------------------------------------------------------- the comparison itself


def stream(text: str) -> list:
    return [{"output_type": "stream", "name": "stdout", "text": text}]


@pytest.mark.parametrize(
    ("old", "new", "agree"),
    [
        ("accuracy 0.912", "accuracy 0.915", True),  # within 1 %
        ("accuracy 0.912", "accuracy 0.932", False),
        ("accuracy 0.03", "accuracy 0.04", True),  # one unit in the last printed place
        ("12 pairs", "13 pairs", False),  # a count
        ("a 1.0", "b 1.0", False),
        ("nan", "1.0", False),
        ("1.20e-05", "1.21e-05", True),
        ("1.20e-05", "1.30e-05", False),
        ("-0.50", "0.50", False),
        ("x  1.00\ny  2.00", "x 1.00\ny 2.00", True),  # alignment moves with the digits
        ("1.0", "1.0 2.0", False),
    ],
)
def test_text(old, new, agree):
    assert (not validation.differences(stream(old), stream(new))) == agree


def test_stderr_is_not_compared():
    noise = {"output_type": "stream", "name": "stderr", "text": "50%|#####"}
    assert not validation.differences(stream("1.0"), [noise, *stream("1.0")])


def test_cell_tolerance():
    assert validation.differences(stream("0.50"), stream("0.55"))
    assert not validation.differences(stream("0.50"), stream("0.55"), tolerance=0.2)


def ledger_output(**changes) -> list:
    part = {"mean": 1.0, "low": 0.5, "high": 1.5, "n": 5, "interval": "t", "sample": [1.0]}
    claim = {"verdict": "holds", "effect": part | changes, "placebo": part}
    return [{"output_type": "execute_result", "data": {MIME: {"a": claim}, "text/markdown": f"effect {claim['effect']['mean']}"}}]


def test_ledger_measures():
    assert not validation.differences(ledger_output(), ledger_output(mean=1.4))  # inside the accepted interval
    assert validation.differences(ledger_output(), ledger_output(mean=1.6))
    assert validation.differences(ledger_output(), ledger_output(n=4))
    exact = {"interval": "exact", "low": 1.0, "high": 1.0}
    assert not validation.differences(ledger_output(**exact), ledger_output(**exact))
    assert validation.differences(ledger_output(**exact), ledger_output(**exact | {"high": 1.001}))


def picture(shift: float = 0.0, series: int = 2, width: float = 7.2, bars: bool = False) -> bytes:
    fig, ax = plt.subplots(figsize=(width, 4.2), dpi=110)
    x = [i / 50 for i in range(51)]
    for k in range(series):
        ax.plot(x, [v * v + k * 0.4 + shift for v in x], lw=1.8, label=f"series {k}")
    if bars:
        ax.errorbar([0.5], [1.5], 0.2)
    ax.set(xlim=(0, 1), ylim=(0, 2))
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png")
    plt.close(fig)
    return buffer.getvalue()


def test_figures():
    own_width = 1.8 / 72 / 3.2 * 2  # the line's width (points) in the units of the y axis
    assert not figurediff.difference(picture(), picture())
    assert not figurediff.difference(picture(), picture(shift=own_width))
    assert "no match" in figurediff.difference(picture(), picture(series=1))
    assert "no match" in figurediff.difference(picture(series=1), picture(series=2))
    assert "no match" in figurediff.difference(picture(), picture(shift=0.3))
    assert "size" in figurediff.difference(picture(), picture(width=6.0))


def test_figure_in_a_cell():
    def output(png: bytes) -> list:
        return [{"output_type": "execute_result", "data": {"image/png": base64.b64encode(png).decode(), "text/plain": "<Image>"}}]

    assert not validation.differences(output(picture()), copy.deepcopy(output(picture())))
    assert validation.differences(output(picture()), output(picture(series=1)))
