"""CIFAR-10 and people's labels of it: the order of the two agrees."""

import numpy as np
import pytest

from shared.data import DataError, cifar10, from_mirror


def installed(load, *arguments):
    try:
        return load(*arguments)
    except DataError as error:
        pytest.skip(str(error))


def test_images_and_labels():
    x, y = installed(cifar10.load, "test")
    assert x.shape == (10_000, 32, 32, 3) and x.dtype == np.uint8
    assert (np.bincount(y) == 1000).all() and (y == cifar10.load_labels("test")).all()
    assert x[y == 8].mean((0, 1, 2))[2] > x[y == 4].mean((0, 1, 2))[2] + 20  # ships lie in more blue than deer


def test_people_label_the_same_images():
    _, y = installed(cifar10.load, "train", 1)
    wrong = {kind: (installed(cifar10.human_labels, kind)[:10_000] != y).mean() for kind in cifar10.HUMAN}
    assert 0.08 < wrong["aggregate"] < 0.10 and 0.39 < wrong["worst"] < 0.42
    assert all(0.16 < wrong[f"random{i}"] < 0.19 for i in (1, 2, 3))


@pytest.mark.parametrize("kind", cifar10.HUMAN)
def test_the_package_holds_the_authors_own_labels(kind):
    original = np.load(installed(from_mirror, "cifar10n", "cifar10n.npz"))
    np.testing.assert_array_equal(installed(cifar10.human_labels, kind), original[cifar10.HUMAN[kind]])
    np.testing.assert_array_equal(installed(cifar10.load_labels, "train"), original["clean_label"])


def test_bad_arguments():
    with pytest.raises(ValueError, match="part must be train or test, not 'all'"):
        cifar10.load("all")
    with pytest.raises(ValueError, match="part must be train or test, not 'all'"):
        cifar10.load_labels("all")
    with pytest.raises(ValueError, match="batches must be 1 to 5, not 6"):
        cifar10.load("train", 6)
    with pytest.raises(ValueError, match="kind must be one of aggregate, random1"):
        cifar10.human_labels("best")
