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


def test_each_label_is_drawn_from_its_own_law():
    laws = np.tile([[0.7, 0.3, 0.0], [0.0, 0.2, 0.8], [0.5, 0.0, 0.5], [0.0, 1.0, 0.0]], (30_000, 1))
    clean = np.tile(np.array([0, 1, 0, 2], np.uint8), 30_000)
    noisy = labels.corrupt_each(clean, laws, np.random.default_rng(0).random(len(clean)))
    assert noisy.dtype == np.uint8
    found = [np.bincount(noisy[i::4], minlength=3) / 30_000 for i in range(4)]
    np.testing.assert_allclose(found, laws[:4], atol=0.01)
    assert labels.corrupt_each(np.array([1]), laws[1:2], np.array([0.19])) == 1  # kept where u < laws[., clean]


def test_noise_of_the_instance():
    rng, x = np.random.default_rng(0), np.random.default_rng(1).normal(size=(4000, 3))
    clean = rng.integers(4, size=4000)
    laws = labels.instance(x, clean, 4, 0.3, np.random.default_rng(2))
    np.testing.assert_allclose(laws.sum(1), 1)
    flip = 1 - laws[np.arange(4000), clean]
    assert abs(flip.mean() - 0.3) < 0.01 and abs(flip.std() - 0.1) < 0.01 and (flip > 0).all() and (flip < 1).all()
    cut = 1 - labels.instance(x, clean, 4, 0.05, np.random.default_rng(2))[np.arange(4000), clean]
    assert cut.min() > 0 and cut.mean() > 0.07  # N(.05, .1) cut at 0 has mean .05 + .1 phi(.5) / Phi(.5)
    rows = np.flatnonzero(clean == 0)  # two classes i, j other than the own: log odds are linear in x, whoever the instance is
    odds = np.log(laws[rows, 1] / laws[rows, 2])
    assert np.abs(x[rows] @ np.linalg.lstsq(x[rows], odds)[0] - odds).max() < 1e-6


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
        (lambda: labels.corrupt_each(np.array([0]), T[:1] * 2, np.zeros(1)), "laws must be probabilities"),
        (lambda: labels.corrupt_each(np.array([0]), T, np.zeros(1)), "that of laws"),
        (lambda: labels.instance(np.zeros((2, 3)), np.array([0]), 2, 0.2, np.random.default_rng(0)), "x must be finite numbers"),
        (lambda: labels.instance(np.zeros((1, 3)), np.array([0]), 2, 1.0, np.random.default_rng(0)), "rate must be in"),
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
