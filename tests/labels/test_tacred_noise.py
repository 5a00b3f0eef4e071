"""Cleaning by neighbours: F1 against scikit-learn, noise by count, neighbours by brute force, classifiers against scikit-learn."""

import gzip

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from replications.labels.tacred_noise import method
from shared.data import DataError, from_mirror, semeval2010


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# ---------------------------------------------------------------- scores


def test_micro_f1_is_scikit_learn_s(rng):
    gold, told = rng.integers(5, size=(2, 400))
    assert method.micro_f1(gold, told) == pytest.approx(f1_score(gold, told, labels=[1, 2, 3, 4], average="micro"))
    assert method.micro_f1(gold, gold) == 1 and method.micro_f1(gold, gold * 0) == 0


def test_f1_of_counts_by_hand():
    precision, recall = 6 / (6 + 1 + 3), 6 / (6 + 2 + 3)
    assert method.f1_of_counts(6, 1, 2, 3) == pytest.approx(2 * precision * recall / (precision + recall))


# ---------------------------------------------------------------- noise


def test_noise_by_count(rng):
    clean = rng.integers(4, size=5000)
    noisy = method.mislabel(clean, 4, 0.2, 0.1, rng)
    positives = (clean != 0).sum()
    assert ((clean != 0) & (noisy == 0)).sum() == round(0.2 * positives)
    moved = (clean != 0) & (noisy != 0) & (noisy != clean)
    assert moved.sum() == round(0.1 * (positives - round(0.2 * positives))) and noisy.max() == 3
    assert (noisy[clean == 0] == 0).all()
    from_one = noisy[moved & (clean == 1)]
    assert 0.3 < (from_one == 2).mean() < 0.7  # any other relation


def test_the_hardest_are_lost(rng):
    clean, ease = np.ones(100, int), rng.random(100)
    noisy = method.mislabel(clean, 3, 0.3, 0.0, rng, ease)
    assert ease[noisy == 0].max() < ease[noisy == 1].min() and (noisy == 0).sum() == 30


# ---------------------------------------------------------------- classifiers


def blobs(rng, n=300, k=3, d=4):
    centres = 0.8 * rng.standard_normal((k, d))
    y = rng.integers(k, size=n)
    return torch.as_tensor(centres[y] + rng.standard_normal((n, d)), dtype=torch.float32), torch.as_tensor(y)


HOW = {"epochs": 25, "batch": 75, "lr": 0.1, "decay": 0.0}


def test_classifiers_are_logistic_regressions_of_their_own_examples(rng):
    x, y = blobs(rng)
    other = (y + 1) % 3
    used = torch.ones(3, len(y), dtype=torch.bool)
    used[1, 150:] = False
    models = method.fit(x, torch.stack([y, y, other]), used, 3, torch.Generator().manual_seed(0), **HOW)
    found = method.probabilities(models, x)
    assert found.shape == (3, 300, 3) and torch.allclose(found.sum(2), torch.ones(3, 300))
    for i, rows in enumerate((slice(None), slice(150))):
        theirs = LogisticRegression(C=1e4).fit(x[rows], y[rows]).predict_proba(x)
        np.testing.assert_allclose(found[i], theirs, atol=0.08)
        assert np.abs(found[i].numpy() - theirs).mean() < 0.02
    assert torch.allclose(found[2], found[0].roll(1, 1), atol=1e-3)


def test_weight_decay_and_batches(rng):
    x, y = blobs(rng)
    one = torch.ones(1, len(y), dtype=torch.bool)
    norms = [method.fit(x, y[None], one, 3, torch.Generator().manual_seed(0), **HOW | {"decay": d}).w.norm() for d in (0.0, 5.0)]
    assert norms[1] < 0.7 * norms[0]


def test_out_of_fold_predictions_come_from_others(rng):
    x = torch.as_tensor(rng.standard_normal((300, 200)), dtype=torch.float32)  # enough to learn any labels by heart
    y = torch.as_tensor(rng.integers(2, size=300))
    told = method.out_of_fold(x, y, 2, 5, torch.Generator().manual_seed(0), **HOW)
    assert told.shape == (300, 2) and 0.4 < (told.argmax(1) == y).float().mean() < 0.6


# ---------------------------------------------------------------- suspects


def nearest(x, seed, pool, k):
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return pool[np.argsort(1 - unit[pool] @ unit[seed], kind="stable")[:k]]


def test_neighbours_by_brute_force(rng):
    x = rng.standard_normal((60, 5)) * rng.uniform(0.1, 9, (60, 1))  # lengths do not matter to a cosine
    seeds, pool = np.arange(20), np.arange(20, 60)
    found = method.neighbours(x, seeds, np.arange(10, 30), pool, 3)
    assert set(found.row) == {int(r) for s in seeds for r in nearest(x, s, pool, 3)} and len(set(found.row)) == len(found.row)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for row, label in zip(found.row, found.label, strict=True):
        reach = [s for s in seeds if row in nearest(x, s, pool, 3)]
        assert label == 10 + max(reach, key=lambda s: unit[s] @ unit[row])


def test_intrinsic_by_hand():
    x = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, 0.2]])
    labels, told = np.array([2, 0, 1, 0, 0]), np.array([0, 0, 1, 1, 0])  # only the first is a false negative
    found = method.intrinsic(x, labels, told, 1)
    assert found.row.tolist() == [1] and found.label.tolist() == [2]


def test_extrinsic_by_hand():
    x = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 0.02], [0.05, 1]])
    labels = np.array([0, 0, 1, 1, 0, 2])
    checked, expert = np.array([0, 2, 4]), np.array([2, 2, 0])  # a negative and a positive were wrong
    found = method.extrinsic(x, labels, checked, expert, 1, positives=False)
    assert found.row.tolist() == [1] and found.label.tolist() == [2]  # row 4 is nearer, but it was checked
    found = method.extrinsic(x, labels, checked, expert, 1, positives=True)
    assert dict(zip(found.row.tolist(), found.label.tolist(), strict=True)) == {1: 2, 3: 2}  # row 5 has another label
    everybody = method.extrinsic(x, labels, np.arange(6), np.roll(labels, 1), 1, positives=True)
    assert not len(everybody.row)  # nobody is left to be a suspect


def test_semeval_is_the_task_s_own():
    train, test = semeval2010.load("train"), semeval2010.load("test")
    assert train.features.shape == (8000, 128) and test.features.shape == (2717, 128) and np.isfinite(test.features).all()
    assert len(train.names) == 19 and train.names[0] == "Other" and (train.labels == 0).sum() == 1410
    try:
        folder = from_mirror("semeval2010-task8")
    except DataError as error:
        pytest.skip(str(error))
    for part, name in ((train, "TRAIN_FILE.TXT.gz"), (test, "TEST_FILE_FULL.TXT.gz")):
        lines = gzip.decompress((folder / name).read_bytes()).decode().replace("\r", "").strip().split("\n\n")
        assert [block.strip().split("\n")[1].strip() for block in lines] == [part.names[label] for label in part.labels]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda r: method.f1_of_counts(1, -1, 0, 0), "counts must not be negative"),
        (lambda r: method.micro_f1(np.zeros(3, int), np.zeros(2, int)), "gold and told must have one shape"),
        (lambda r: method.micro_f1(np.zeros(3), np.zeros(3, int)), "gold must be whole numbers"),
        (lambda r: method.mislabel(np.ones(3, int), 2, 1.5, 0, r), "rate and confused must be in"),
        (lambda r: method.mislabel(np.ones(3, int), 2, 0.5, 0, r, np.zeros(2)), "ease must have shape"),
        (lambda r: method.mislabel(np.ones(3, int), 2, 0.5, 0.1, r), "clean must have labels 0..k-1, and k be 3 or more"),
        (lambda r: method.mislabel(np.full(3, 4), 4, 0.5, 0.1, r), "clean must have labels 0..k-1"),
        (lambda r: method.intrinsic(np.ones((4, 2)), np.ones(4, int), np.ones(3, int), 1), "labels and told must have one shape"),
        (
            lambda r: method.extrinsic(np.ones((4, 2)), np.ones(4, int), np.arange(2), np.ones(3, int), 1, positives=False),
            "checked and expert must be equally long",
        ),
        (lambda r: method.neighbours(np.ones((4, 2)), np.array([0]), np.array([1, 2]), np.array([1]), 1), "must be equally long"),
        (lambda r: method.neighbours(np.ones((4, 2)), np.array([0]), np.array([1]), np.array([1]), 2), "fewer than k = 2"),
        (lambda r: method.neighbours(np.full((4, 2), np.nan), np.array([0]), np.array([1]), np.array([1]), 1), "x contains NaN"),
    ],
)
def test_bad_input_is_named(call, words, rng):
    with pytest.raises(ValueError, match=words):
        call(rng)


def test_bad_training_data_are_named():
    x, y = torch.zeros(4, 2), torch.zeros(1, 4, dtype=torch.long)
    g = torch.Generator()
    with pytest.raises(ValueError, match="labels and used must be"):
        method.fit(x, y + 5, torch.ones(1, 4, dtype=torch.bool), 3, g, **HOW)
    with pytest.raises(ValueError, match="x contains NaN"):
        method.fit(x * np.nan, y, torch.ones(1, 4, dtype=torch.bool), 3, g, **HOW)
    with pytest.raises(ValueError, match="without examples"):
        method.fit(x, y, torch.zeros(1, 4, dtype=torch.bool), 3, g, **HOW)
