"""The half of CounterBench that is kept here, and the reader of the benchmark's own file."""

import json

import pytest

from shared.data import counterbench


def test_the_extract_is_half_of_the_benchmark():
    table = counterbench.load()
    assert table.type.value_counts().to_dict() == {"basic": 125, "joint": 125, "nested": 125, "conditional": 125}
    assert (table.answer == "yes").sum() == 247 and set(table.answer) == {"yes", "no"}
    assert set(table["size"]) == set(range(5, 10)) and set(table.names) <= set(range(5))
    assert table.id.is_unique


def test_a_file_of_the_benchmark_is_read_and_a_record_without_a_field_is_named(tmp_path):
    file = tmp_path / "questions.json"
    about = {"reasoning_type": "basic", "graph_id": "graph5", "story_id": "nonsense_3"}
    whole = {"id": "7", "query": "Would Bab occur?", "context": "We know that ...", "expected_answer": "no", "metadata": about}
    file.write_text(json.dumps([whole]))
    assert counterbench.load(file).iloc[0][["id", "answer", "type", "size", "names"]].tolist() == [7, "no", "basic", 5, 3]
    file.write_text(json.dumps([{key: value for key, value in whole.items() if key != "metadata"}]))
    with pytest.raises(ValueError, match="no field 'metadata'"):
        counterbench.load(file)
