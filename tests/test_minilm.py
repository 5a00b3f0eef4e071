"""Sentence embeddings from the package of MiniLM's weights."""

import importlib.metadata

import numpy as np
import pytest

from shared.data import cebab, minilm, vader_domains, vader_ratings


@pytest.fixture(autouse=True)
def weights():
    try:
        importlib.metadata.distribution(minilm.FILE.distribution)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"package {minilm.FILE.distribution} is not installed: make ONLY=recourse/human_centric_evaluation installs it")


def test_sentences_of_one_meaning_are_near():
    e = minilm.embed(["The bank refused the loan.", "The loan was declined by the bank.", "A cat sleeps."])
    assert np.allclose((e**2).sum(1), 1)
    assert e[0] @ e[1] > 0.7 > 0.3 > e[0] @ e[2]
    with pytest.raises(ValueError, match="texts"):
        minilm.embed([])


@pytest.mark.parametrize("name", vader_ratings.SETS)
def test_kept_features_are_its_embeddings(name):
    rated = vader_ratings.load(name)
    found = (minilm.embed(rated.texts[:2]) - rated.mean) @ rated.components.T
    np.testing.assert_allclose(found, rated.features[:2], atol=5e-3)  # kept as float16


@pytest.mark.parametrize("name", vader_domains.SETS)
def test_kept_features_of_four_domains_are_its_embeddings(name):
    domain, (mean, components) = vader_domains.load(name), vader_domains.projection()
    found = (minilm.embed(domain.texts[:2]) - mean) @ components.T
    np.testing.assert_allclose(found, domain.features[:2], atol=5e-3)  # kept as float16


def test_kept_bytes_of_reviews_are_its_embeddings():
    reviews = cebab.load("train")
    np.testing.assert_allclose(minilm.embed(reviews.texts[:2]), reviews.embeddings[:2], atol=3e-3)  # kept as bytes
