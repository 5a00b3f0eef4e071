"""NoisyNER (Hedderich, Zhu & Klakow 2021): seven automatic taggings of one Estonian news corpus, by different name lists (real).

The tags of people are not among them: the clean corpus has terms of its own. The words are not here either.
"""

import hashlib
from pathlib import Path

import numpy as np

from shared.data import DataError

TAGS = ("O", "LOC", "ORG", "PER")
LICENCE = "CC BY 4.0"
CITATION = "Hedderich, Zhu & Klakow (2021), Analysing the Noise Model Error for Realistic Noisy Label Data, AAAI 35(9)"
FILE = Path(__file__).parent / "extracts" / "noisyner_io.npz"
SHA256 = "9170d8c99abce394be8a5f05512f3a844194be9d61152f114dddb6b07c402e6b"


def load() -> np.ndarray:
    """Tags (7, 217253) uint8, places in TAGS: row s for set s + 1, a column a word, in the order of the text.

    B- and I- are dropped and so is the split into sentences, which the released files lack. Raises DataError for a damaged file.
    """
    if not FILE.exists() or hashlib.sha256(FILE.read_bytes()).hexdigest() != SHA256:
        raise DataError(f"{FILE} is missing or damaged: it is part of this repository, restore it from there")
    with np.load(FILE) as packed:
        return packed["sets"]
