"""CounterBench: 500 yes-or-no counterfactual questions over invented names and deterministic rules (half of the benchmark)."""

import gzip
import json
from pathlib import Path

import pandas as pd

from shared.data import extract

LICENCE = "MIT, of the repository that re-publishes this half; the benchmark's own licence was not seen"
CITATION = "Chen, Singh, Ma & Tang (2025), CounterBench: A Benchmark for Counterfactuals Reasoning in Large Language Models"
SHA256 = "596bb5b3bd48fa1bb3c192504bd80a0802039af5f2248bf3bab36ead77b5e53e"


def load(path: Path | None = None) -> pd.DataFrame:
    """A row a question: id, context (the rules), query, answer ("yes" or "no"), type (basic, joint, nested, conditional), size
    (names in its graph, as the benchmark says: 5..9) and names (which of the benchmark's sets of invented names, 0..4).

    path: a JSON file (or .json.gz) of the benchmark's records instead of the half that is kept here, such as its full
    data_balanced_alpha_V1.json. Raises DataError for a damaged extract, ValueError for a record without one of the fields.
    """
    path = path or extract("counterbench.json.gz", SHA256)
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return pd.DataFrame([_row(record, path) for record in json.loads(content)])


def _row(record: dict, path: Path) -> dict:
    try:
        about = record["metadata"]
        return {
            "id": int(record["id"]),
            "context": record["context"],
            "query": record["query"],
            "answer": record["expected_answer"],
            "type": about["reasoning_type"],
            "size": int(about["graph_id"].removeprefix("graph")),
            "names": int(about["story_id"].removeprefix("nonsense_")),
        }
    except KeyError as missing:
        raise ValueError(f"{path}: a record has no field {missing}; its fields are {', '.join(record)}") from missing
