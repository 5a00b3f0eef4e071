"""NoisyNER (Hedderich, Zhu & Klakow 2021): seven automatic taggings of one Estonian news corpus, by different name lists (real).

The tags of people are not among them: the clean corpus has terms of its own. The words are not here either.
"""

import numpy as np

from shared.data import extract

TAGS = ("O", "LOC", "ORG", "PER")
LICENCE = "CC BY 4.0"
CITATION = "Hedderich, Zhu & Klakow (2021), Analysing the Noise Model Error for Realistic Noisy Label Data, AAAI 35(9)"
SHA256 = "9170d8c99abce394be8a5f05512f3a844194be9d61152f114dddb6b07c402e6b"


def load() -> np.ndarray:
    """Tags (7, 217253) uint8, places in TAGS: row s for set s + 1, a column a word, in the order of the text.

    B- and I- are dropped and so is the split into sentences, which the released files lack. Raises DataError for a damaged file.
    """
    with np.load(extract("noisyner_io.npz", SHA256)) as packed:
        return packed["sets"]
