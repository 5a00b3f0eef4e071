"""Sentences of four domains that people rated as clearly positive or clearly negative (real; an extract)."""

from typing import NamedTuple

import numpy as np

from shared.data import extract

LICENCE = "MIT (the archive vaderSentiment 3.3.2, which holds the ratings)"
CITATION = "Hutto & Gilbert (2014), VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text, ICWSM-14"
SHA256 = "62c01b0fbc3b3b448e1d364ec0cc54868838dda96e3bece627e20374474ef0e6"
SETS = ("tweets", "movies", "products", "editorials")


class Domain(NamedTuple):
    """1,500 texts. opinion (1500,): the mean over all raters, half above .3 and half below -.3, in -4..4. ratings (1500, 15), whole
    numbers -4..4, one column a rater, but not the same person down a column. features (1500, 64) = (MiniLM embedding - mean)
    components^T. texts: the first 5.
    """

    opinion: np.ndarray
    ratings: np.ndarray
    features: np.ndarray
    texts: list[str]


def load(name: str) -> Domain:
    """The texts of one domain: "tweets", "movies" (reviews), "products" (reviews) or "editorials".

    Raises ValueError for another name, DataError for a damaged file.
    """
    if name not in SETS:
        raise ValueError(f"name must be one of {', '.join(SETS)}, not {name!r}")
    with np.load(extract("vader_domains.npz", SHA256)) as packed:
        parts = {field: packed[f"{name}_{field}"] for field in Domain._fields}
    return Domain(
        parts["opinion"].astype(float), parts["ratings"].astype(int), parts["features"].astype(float), parts["texts"].tolist()
    )


def projection() -> tuple[np.ndarray, np.ndarray]:
    """(mean (384,), components (64, 384)) that make the features of a text from its MiniLM embedding; fitted on all 6,000 texts."""
    with np.load(extract("vader_domains.npz", SHA256)) as packed:
        return packed["mean"], packed["components"].astype(np.float32)
