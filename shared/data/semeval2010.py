"""SemEval-2010 Task 8: sentences with two marked nouns and the relation between these, as embeddings (real; an extract)."""

from typing import NamedTuple

import numpy as np

from shared.data import extract

LICENCE = "CC BY 3.0"
CITATION = "Hendrickx et al. (2010), SemEval-2010 Task 8: Multi-way classification of semantic relations between pairs of nominals"
SHA256 = "06c34f6c4e45bd219eb52de30df577aec786f8c0464e2242c2164e107abd705b"


class Part(NamedTuple):
    """features (n, 128): of each sentence; labels (n,): places in names; names (19,): "Other" and nine relations, each both ways.

    Features are principal components, of the training sentences, of four mean vectors of MiniLM-L6-v2: over the first noun, the
    second, the words between, and the sentence.
    """

    features: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]


def load(part: str) -> Part:
    """The sentences of "train" (8,000) or "test" (2,717), in the order of the task's files.

    Raises ValueError for another part, DataError for a damaged file.
    """
    if part not in ("train", "test"):
        raise ValueError(f"part must be train or test, not {part!r}")
    with np.load(extract("semeval2010.npz", SHA256)) as packed:
        features, labels = packed[f"{part}_features"].astype(float), packed[f"{part}_labels"].astype(int)
        return Part(features, labels, tuple(packed["names"].tolist()))
