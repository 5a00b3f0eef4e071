"""`make compare`: what a run changed, shown before it is accepted."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from shared.workflow import compare
from tests import toy


def png(width: int = 40, at: int = 5) -> bytes:
    pixels = np.full((30, width, 3), 255, dtype=np.uint8)
    pixels[at] = 0
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="png")
    return out.getvalue()


def entry(verdict: str, mean: float, placebo: float = 0.0) -> dict:
    return {
        "verdict": verdict,
        "effect": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1},
        "placebo": {"mean": placebo, "low": placebo - 0.1, "high": placebo + 0.1},
    }


@pytest.mark.parametrize(
    ("new", "told"),
    [
        (entry("holds", 1.05), None),
        (entry("undecided", 1.05), "verdict holds → undecided"),
        (entry("holds", 1.2), "effect left the accepted interval"),
        (entry("holds", 1.2, 0.3), "effect and placebo left the accepted interval"),
    ],
)
def test_claims(new, told):
    changes = compare.claims({"a": entry("holds", 1.0)}, {"a": new})
    assert [change[1] for change in changes] == ([told] if told else [])


def test_claims_that_came_and_went():
    changes = compare.claims({"a": entry("holds", 1.0)}, {"b": entry("holds", 1.0)})
    assert [change[:2] for change in changes] == [("a", "claim gone"), ("b", "new claim")]


def test_figures_that_changed_came_and_went():
    old = {"same": png(), "moved": png(), "gone": png()}
    changes = compare.figures(old, {"same": png(), "moved": png(at=9), "new": png()})
    assert changes == [("moved", png(), png(at=9)), ("gone", png(), None), ("new", None, png())]


def test_difference_is_white_where_the_pictures_agree():
    shown = np.asarray(Image.open(io.BytesIO(compare.difference(png(40, 5), png(50, 9)))))
    assert shown.shape == (30, 50)
    assert set(np.flatnonzero((shown[:, :40] < 255).any(axis=1))) == {5, 9}
    assert (shown[9, 40:] == 0).all()  # the larger of the two sizes


def test_from_a_run_to_the_page(tmp_path):
    repository = toy.repository(tmp_path / "house")
    home = toy.paper(repository)
    assert "has not run" in toy.call(repository, "shared.workflow.compare").stdout
    assert toy.call(repository, "shared.workflow.run", "timeseries/toy").returncode == 0
    assert toy.call(repository, "shared.workflow.accept").returncode == 0
    same = toy.call(repository, "shared.workflow.compare")
    assert (same.returncode, same.stdout) == (0, "nothing changed in 1 papers\n")
    notebook = home / "toy.ipynb"  # edited where it stands, so that the accepted pictures are still in it
    notebook.write_text(notebook.read_text().replace("ax.plot(x + 1,", "ax.plot(x + 2,").replace("effect=x,", "effect=-x,"))
    assert toy.call(repository, "shared.workflow.run", "timeseries/toy").returncode == 0
    told = toy.call(repository, "shared.workflow.compare").stdout
    assert told == "changed: timeseries/toy; side by side in build/compare.html\n"
    page = (repository / "build" / "compare.html").read_text()
    assert "verdict holds → fails" in page and "<h3>effects</h3>" in page and page.count("<img") == 3
    accepted = json.loads((home / "ledger.json").read_text())
    assert accepted["claims"]["mean_is_positive"]["verdict"] == "holds"  # comparing accepts nothing
    assert "no replication 'a/b'" in toy.call(repository, "shared.workflow.compare", "--only", "a/b").stderr
