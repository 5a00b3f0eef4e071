"""A bad paper.yaml is refused with its file and key."""

import pytest

from shared import record
from tests import toy


def refused(tmp_path, text: str) -> str:
    path = tmp_path / "paper.yaml"
    path.write_text(text)
    with pytest.raises(record.RecordError) as caught:
        record.read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_reads(tmp_path):
    (tmp_path / "paper.yaml").write_text(toy.RECORD)
    assert record.read(tmp_path / "paper.yaml").claim("mean_is_positive").above == 0


def test_unknown_key(tmp_path):
    assert "venue: unknown key" in refused(tmp_path, toy.RECORD + "venue: ICML\n")


def test_unknown_key_of_a_claim_names_the_claim(tmp_path):
    message = refused(tmp_path, toy.RECORD.replace("above: 0.0", "above: 0.0, abvoe: 1"))
    assert "claims.mean_is_positive.abvoe: unknown key" in message


@pytest.mark.parametrize("rules", ["", "above: 0.0, below: 1.0,", "within: [1, 0],"])
def test_one_rule(tmp_path, rules):
    assert "claims.mean_is_positive" in refused(tmp_path, toy.RECORD.replace("above: 0.0,", rules))


def test_missing_key(tmp_path):
    assert "question: Field required" in refused(tmp_path, toy.RECORD.replace("question: Does", "# Does"))


def test_claim_twice(tmp_path):
    head, entry = toy.RECORD.split("claims:\n")
    lines = entry.split("parameters:")[0]
    assert "used twice: mean_is_positive" in refused(tmp_path, f"{head}claims:\n{lines}{lines}")


def test_not_yaml(tmp_path):
    assert "not valid YAML" in refused(tmp_path, "title: [")


def test_no_file(tmp_path):
    with pytest.raises(record.RecordError, match="no such file"):
        record.read(tmp_path / "paper.yaml")
