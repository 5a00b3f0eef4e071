"""Label noise: draws against their matrix, Bayes' rule by hand, the corrected loss in expectation."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from shared import labels

T = np.array([[0.8, 0.2, 0.0], [0.1, 0.6, 0.3], [0.0, 0.0, 1.0]])


def test_uniform():
    np.testing.assert_allclose(labels.uniform(4, 0.3), [[0.7 if i == j else 0.1 for j in range(4)] for i in range(4)])


def test_draws_follow_their_row():
    rng = np.random.default_rng(0)
    clean = np.repeat(np.arange(3, dtype=np.uint8), 40_000)
    noisy = labels.corrupt(clean, T, rng.random(len(clean)))
    assert noisy.dtype == np.uint8
    found = labels.transition(clean, noisy, 3)
    np.testing.assert_allclose(found, T, atol=0.01)
    np.testing.assert_allclose(found, confusion_matrix(clean, noisy, normalize="true"))


def test_what_flips_at_a_low_rate_flips_at_a_higher_one():
    rng = np.random.default_rng(0)
    clean, u = rng.integers(10, size=2000), rng.random(2000)
    flips = [labels.corrupt(clean, labels.uniform(10, rate), u) != clean for rate in (0.0, 0.1, 0.3)]
    assert not flips[0].any() and (flips[2] | ~flips[1]).all() and 0.25 < flips[2].mean() < 0.35


def test_counts_and_classes_that_do_not_occur():
    clean, noisy = np.array([0, 0, 0, 2]), np.array([0, 1, 1, 2])
    assert labels.counts(clean, noisy, 3).tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 1]]
    np.testing.assert_allclose(labels.transition(clean, noisy, 3), [[1 / 3, 2 / 3, 0], [0, 0, 0], [0, 0, 1]])


def test_posterior_by_hand():
    np.testing.assert_allclose(labels.posterior(labels.uniform(2, 0.2), np.array([0.5, 0.5])), [[0.8, 0.2], [0.2, 0.8]])
    p, pi = 0.4, 0.3  # class 0 never flips: of those labelled 0, p pi / (1 - pi + p pi) are flipped, of those labelled 1 none
    found = labels.posterior(np.array([[1, 0], [p, 1 - p]]), np.array([1 - pi, pi]))
    np.testing.assert_allclose(found, [[(1 - pi) / (1 - pi + p * pi), 0], [p * pi / (1 - pi + p * pi), 1]])


def test_backward_is_right_on_average():
    losses = np.random.default_rng(0).random((5, 3))
    np.testing.assert_allclose(labels.backward(losses, T) @ T.T, losses)  # mean over the noisy label, for each clean one


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: labels.uniform(1, 0.1), "k must be at least 2"),
        (lambda: labels.uniform(3, 1.2), "rate must be in"),
        (lambda: labels.corrupt(np.array([0, 3]), T, np.zeros(2)), r"clean must be whole numbers 0\.\.2"),
        (lambda: labels.corrupt(np.array([0]), T, np.zeros(2)), "clean and u must have one shape"),
        (lambda: labels.corrupt(np.array([0]), T, np.ones(1)), r"u must hold numbers in \[0, 1\)"),
        (lambda: labels.corrupt(np.array([0]), T[:2], np.zeros(1)), "T must be a square matrix"),
        (lambda: labels.corrupt(np.array([0]), T * 2, np.zeros(1)), "T must be a square matrix"),
        (lambda: labels.counts(np.array([0]), np.array([5]), 3), r"noisy must be whole numbers 0\.\.2"),
        (lambda: labels.counts(np.array([0.5]), np.array([1]), 3), "clean must be whole numbers"),
        (lambda: labels.counts(np.array([0]), np.array([1, 1]), 3), "clean and noisy must have one shape"),
        (lambda: labels.posterior(T, np.array([0.5, 0.5])), "prior must be a distribution of 3 classes"),
        (lambda: labels.posterior(np.array([[1.0, 0], [1, 0]]), np.array([0.5, 0.5])), "noisy label 1 cannot occur"),
        (lambda: labels.backward(np.zeros((2, 2)), T), r"losses must have shape \(n, 3\)"),
        (lambda: labels.backward(np.zeros((2, 2)), np.full((2, 2), 0.5)), "T is singular"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
