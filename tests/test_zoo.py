import json

import pytest
import torch

from shared import zoo


@pytest.fixture
def kept(tmp_path):
    path = tmp_path / "weights" / "net.safetensors"
    zoo.keep(path, {"w": torch.tensor([0.1, -2.0]), "n": torch.tensor([3])}, {"loss": 0.123456}, seed=1000)
    return path


def test_what_is_read_is_what_was_kept_up_to_half_precision(kept):
    found = zoo.read(kept)
    assert found["w"].dtype == torch.float32
    assert found["w"].tolist() == pytest.approx([0.1, -2.0], rel=2**-11)
    assert found["n"].tolist() == [3]
    assert zoo.record(kept) | {"sha256": "", "torch": ""} == {"sha256": "", "torch": "", "scores": {"loss": 0.1235}, "seed": 1000}


def test_a_second_file_leaves_the_first_entry(kept):
    zoo.keep(kept.with_name("other.safetensors"), {"w": torch.zeros(1)}, {"loss": 1.0})
    assert set(json.loads((kept.parent / "provenance.json").read_text())["files"]) == {"net.safetensors", "other.safetensors"}
    assert zoo.read(kept)
    assert zoo.scores(kept.parent) == {"net.safetensors": {"loss": 0.1235}, "other.safetensors": {"loss": 1.0}}
    assert zoo.scores(kept.parent / "nowhere") == {}


def test_a_changed_file_is_not_read(kept):
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"not the file that provenance.json describes.*train.py"):
        zoo.read(kept)


def test_a_missing_file_or_entry_is_named(kept):
    with pytest.raises(ValueError, match=r"no record of else.safetensors, only of net.safetensors"):
        zoo.read(kept.with_name("else.safetensors"))
    kept.unlink()
    with pytest.raises(ValueError, match=r"net.safetensors is missing"):
        zoo.read(kept)


@pytest.mark.parametrize(
    ("tensors", "scores", "named"),
    [
        ({"w": torch.tensor([float("nan")])}, {"loss": 1.0}, "tensors: w"),
        ({"w": torch.tensor([1e6])}, {"loss": 1.0}, "beyond fp16"),
        ({"w": torch.zeros(2**21 + 1)}, {"loss": 1.0}, "larger than 4 MiB"),
        ({"w": torch.zeros(1)}, {}, "scores: .*at least one"),
        ({"w": torch.zeros(1)}, {"loss": float("inf")}, "scores"),
    ],
)
def test_nothing_is_written_of_what_cannot_be_kept(tmp_path, tensors, scores, named):
    with pytest.raises(ValueError, match=named):
        zoo.keep(tmp_path / "w.safetensors", tensors, scores)
    assert not list(tmp_path.iterdir())
