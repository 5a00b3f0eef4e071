"""How about twenty people rated the feeling of tweets and of sentences from product reviews (real; an extract)."""

from typing import NamedTuple

import numpy as np

from shared.data import extract

LICENCE = "MIT (the archive vaderSentiment 3.3.2, which holds the ratings)"
CITATION = "Hutto & Gilbert (2014), VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text, ICWSM-14"
SHA256 = "0960a7c0e4413ef4964f3b51800c2fb2f51f86e563c03d9a3d274efbbb14cf26"
SETS = ("tweets", "products")


class Rated(NamedTuple):
    """ratings (2000, 20), -4 to 4, one column a rater, but not the same person down a column. features (2000, 32) of the texts.

    mean (384,) and components (32, 384): features = (MiniLM embedding - mean) components^T. texts: the first 20, to check it.
    """

    ratings: np.ndarray
    features: np.ndarray
    mean: np.ndarray
    components: np.ndarray
    texts: list[str]


def load(name: str) -> Rated:
    """The first 2,000 texts of "tweets" or "products". Raises ValueError for another name, DataError for a damaged file."""
    if name not in SETS:
        raise ValueError(f"name must be one of {', '.join(SETS)}, not {name!r}")
    with np.load(extract("vader_ratings.npz", SHA256)) as packed:
        parts = {field: packed[f"{name}_{field}"] for field in Rated._fields}
    return Rated(
        parts["ratings"].astype(int), parts["features"].astype(float), parts["mean"], parts["components"], parts["texts"].tolist()
    )
