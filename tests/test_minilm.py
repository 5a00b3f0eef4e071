"""Sentence embeddings from the package of MiniLM's weights."""

import importlib.metadata

import numpy as np
import pytest

from shared.data import minilm


def test_sentences_of_one_meaning_are_near():
    try:
        importlib.metadata.distribution(minilm.FILE.distribution)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"package {minilm.FILE.distribution} is not installed: make ONLY=recourse/human_centric_evaluation installs it")
    e = minilm.embed(["The bank refused the loan.", "The loan was declined by the bank.", "A cat sleeps."])
    assert np.allclose((e**2).sum(1), 1)
    assert e[0] @ e[1] > 0.7 > 0.3 > e[0] @ e[2]
    with pytest.raises(ValueError, match="texts"):
        minilm.embed([])
