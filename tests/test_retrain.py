"""`make fresh` on kept networks: trained anew, compared by score."""

import pytest

from shared.workflow import retrain
from tests import toy

TRAIN = """
import argparse
from pathlib import Path
import torch
from shared import zoo

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default=Path(__file__).parent)
zoo.keep(parser.parse_args().out / "net.safetensors", {"w": torch.zeros(2)}, {"loss": LOSS})
"""


@pytest.fixture
def house(tmp_path):
    repository = toy.repository(tmp_path / "house")
    weights = toy.paper(repository) / "weights"
    weights.mkdir()
    (weights / "train.py").write_text(TRAIN.replace("LOSS", "0.5"))
    assert toy.call(repository, "replications.timeseries.toy.weights.train").returncode == 0
    return repository


def test_the_same_scores_are_told_as_such_and_the_committed_file_stays(house):
    committed = house / "replications/timeseries/toy/weights/net.safetensors"
    before = committed.stat().st_mtime_ns
    run = toy.call(house, "shared.workflow.retrain", "--only", "timeseries/toy")
    assert (run.returncode, "its scores are those on record" in run.stdout) == (0, True), run.stderr
    assert (house / "build/weights/timeseries/toy/net.safetensors").exists()
    assert committed.stat().st_mtime_ns == before


def test_a_script_that_makes_something_else_is_found_out(house):
    (house / "replications/timeseries/toy/weights/train.py").write_text(TRAIN.replace("LOSS", "0.6"))
    run = toy.call(house, "shared.workflow.retrain")
    assert run.returncode == 1
    assert "net.safetensors loss: 0.5 on record, 0.6 now" in run.stderr


def test_a_script_that_fails_is_named(house):
    (house / "replications/timeseries/toy/weights/train.py").write_text("raise SystemExit(3)")
    run = toy.call(house, "shared.workflow.retrain")
    assert (run.returncode, "timeseries/toy: weights/train.py ended with status 3" in run.stderr) == (1, True)


def test_a_missing_score_differs():
    assert retrain.differing({"a": {"loss": 1.0}}, {}) == ["a loss: 1 on record, nan now"]
    assert retrain.differing({"a": {"loss": 1.0, "accuracy": 0.5}}, {"a": {"loss": 1.04, "accuracy": 0.51}}) == []
