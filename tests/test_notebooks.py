"""Reading, checking and normalising notebooks; figures with their sidecars."""

import json

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from shared import figures, notebooks, place, seeding
from shared.source import show_source
from tests import toy


def notebook(parameters: str = "n: int = 5  # repeats\nrate: float = 0.1  # per step\nnames: list[str] = ['a']  # sets"):
    return new_notebook(cells=[new_code_cell(parameters, metadata={"tags": ["parameters"]})])


@pytest.mark.parametrize("given", [{}, {"n": 3}, {"rate": 1}, {"rate": 0.5, "names": ["b"]}])
def test_good_parameters(given):
    notebooks.check_parameters(notebook(), given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"m": 3}, r"unknown parameter 'm'; the notebook has: n, rate, names"),
        ({"n": 0.5}, r"'n' must be int, not float \(0.5\)"),
        ({"n": True}, r"'n' must be int, not bool"),
        ({"rate": "1e-3"}, r"'rate' must be float, not str"),
        ({"names": "b"}, r"'names' must be list\[str\], not str"),
    ],
)
def test_bad_parameters(given, told):
    with pytest.raises(notebooks.NotebookError, match=told):
        notebooks.check_parameters(notebook(), given)


def test_no_parameters_cell():
    with pytest.raises(notebooks.NotebookError, match="one cell tagged 'parameters', found 0"):
        notebooks.check_parameters(new_notebook(), {})


def test_read(tmp_path):
    with pytest.raises(notebooks.NotebookError, match="no such notebook"):
        notebooks.read(tmp_path / "a.ipynb")
    (tmp_path / "a.ipynb").write_text("{")
    with pytest.raises(notebooks.NotebookError, match="not a notebook"):
        notebooks.read(tmp_path / "a.ipynb")


def ran(*outputs):
    cell = new_code_cell("1", outputs=list(outputs), execution_count=1, metadata={"papermill": {"duration": 1}, "tags": []})
    return new_notebook(
        cells=[cell], metadata={"papermill": {"end_time": "now"}, "language_info": {"version": "3.11.7", "name": "python"}}
    )


def test_normalise():
    bar = new_output(
        "stream",
        name="stderr",
        text="\r 50%|#####     | 1/2 [00:01<00:01,  1.0s/it]\r100%|##########| 2/2 [00:02<00:00, 1.1it/s]\n",
    )
    clean = notebooks.normalise(ran(new_output("stream", name="stdout", text="1.0"), bar))
    assert clean.cells[0].metadata == {}
    assert [o.name for o in clean.cells[0].outputs] == ["stdout"]
    assert clean.cells[0].execution_count == 1
    assert set(clean.metadata) == {"kernelspec", "language_info"}
    assert notebooks.normalise(clean) == clean


def test_a_warning_is_not_normalised_away():
    with pytest.raises(notebooks.NotebookError, match="overflow encountered"):
        notebooks.normalise(ran(new_output("stream", name="stderr", text="RuntimeWarning: overflow encountered")))


def test_write_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.ipynb"
    notebooks.write(notebook(), path)
    assert nbformat.read(path, as_version=4).cells[0].source == notebook().cells[0].source
    before = path.read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(place.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        notebooks.write(new_notebook(), path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """The working directory is a replication's folder; nothing of the pipeline is set."""
    home = toy.paper(tmp_path)
    monkeypatch.chdir(home)
    monkeypatch.delenv("REPLICATIONS_OUT", raising=False)
    return tmp_path


def test_results_go_under_build_when_nothing_is_set(inside):
    assert place.out() == inside / "build" / "interactive" / "timeseries" / "toy"


def test_outside_a_replication(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="run a notebook from its own folder"):
        place.out()


def test_figure_and_sidecar(inside):
    figures.use_style()
    fig, ax = plt.subplots()
    ax.plot([0, 1], label="a line")
    ax.set(title="left", xlabel="time, s", ylabel="height, m")
    ax.legend()
    shown = figures.save(fig, "line")
    written = place.out() / "figures" / "line.png"
    assert written.read_bytes() == shown.data
    assert 700 < Image.open(written).width < 900
    assert not plt.fignum_exists(fig.number)
    sidecar = json.loads(written.with_suffix(".json").read_text())
    assert {"figure", "alt", "notebook", "parameters", "seed", "commit", "versions"} == set(sidecar)
    assert sidecar["alt"] == "left: height, m against time, s; legend: a line"
    output = new_output("display_data", {"image/png": "..."}, metadata={"image/png": shown._repr_png_()[1]})
    kept = notebooks.normalise(ran(output)).cells[0].outputs[0].metadata
    assert kept == {"image/png": {"figure": "line", "alt": sidecar["alt"]}}
    assert sidecar["notebook"] == "replications/timeseries/toy/toy.ipynb"


def test_provenance_names_the_first_seed(inside, monkeypatch):
    assert place.provenance()["seed"] == 1000 == seeding.seeds(1)[0]
    monkeypatch.setattr(place, "parameters", lambda: {"first_seed": 1006})
    assert place.provenance()["seed"] == 1006
    assert seeding.seeds(2, 1006) == [1006, 1007]
    for bad in ({"n": 0}, {"n": 1, "first": 7}):
        with pytest.raises(ValueError, match="must be at least"):
            seeding.seeds(**bad)


def test_same_figure_same_bytes(inside):
    def draw():
        fig, ax = plt.subplots()
        ax.plot([0, 1])
        return figures.save(fig, "line").data

    assert draw() == draw()


def test_figure_that_is_too_heavy(inside):
    fig, ax = plt.subplots(figsize=(12, 12))
    ax.imshow(np.random.default_rng(0).random((900, 900, 3)), interpolation="nearest")
    with pytest.raises(ValueError, match=r"figure 'noise' is \d+ kB, over 120 kB: draw fewer points"):
        figures.save(fig, "noise")
    plt.close(fig)
    assert not (place.out() / "figures" / "noise.png").exists()


def test_palette_is_safe_for_the_colour_blind():
    import seaborn as sns

    figures.use_style()
    assert sns.color_palette() == sns.color_palette("colorblind")


def test_show_source():
    shown = show_source(toy.paper)
    assert shown.data.startswith("```python\ndef paper(")
    with pytest.raises(TypeError):
        show_source(3)
