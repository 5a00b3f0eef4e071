"""CEBaB: restaurant reviews, and people's rewritings of them that change one aspect (real; an extract of v1.1)."""

from typing import NamedTuple

import numpy as np

from shared.data import extract

LICENCE = "CC BY 4.0"
CITATION = "Abraham et al. (2022), CEBaB: Estimating the Causal Effects of Real-World Concepts on NLP Model Behavior, NeurIPS 2022"
SHA256 = "c5f887e4b9b7e73acfb06ac3ab56a0053c8be1fa9102e7ca1c60cdedd9d2724c"
ASPECTS = ("food", "service", "ambiance", "noise")
VALUES = ("Negative", "unknown", "Positive")


class Reviews(NamedTuple):
    """n reviews. texts: their words. aspects (n, 4): majority labels, places in VALUES, or -1 where people were not asked or had no
    majority. stars (n,): majority 1..5, or 0 for none. family (n,): reviews edited from one original have one number. is_original
    (n,). edited (n,): the aspect that was edited, a place in ASPECTS, or -1 for an original. embeddings (n, 384): MiniLM-L6-v2,
    length about 1, stored with one byte a dimension.
    """

    texts: list[str]
    aspects: np.ndarray
    stars: np.ndarray
    family: np.ndarray
    is_original: np.ndarray
    edited: np.ndarray
    embeddings: np.ndarray


def load(split: str) -> Reviews:
    """The reviews of "train" (CEBaB's train_exclusive: 1,755, one of each family), "dev" (1,673) or "test" (1,689).

    Raises ValueError for another split, DataError for a damaged file.
    """
    if split not in ("train", "dev", "test"):
        raise ValueError(f"split must be train, dev or test, not {split!r}")
    with np.load(extract("cebab.npz", SHA256)) as packed:
        part = {name: packed[f"{split}_{name}"] for name in ("aspects", "stars", "family", "edited")}
        return Reviews(
            texts=bytes(packed[f"{split}_texts"]).decode().split("\n"),
            is_original=packed[f"{split}_is_original"],
            embeddings=packed[f"{split}_bytes"] * packed["scale"],
            **{name: array.astype(int) for name, array in part.items()},
        )
