"""MNIST from its package is MNIST."""

import numpy as np
import pytest

from shared.data import DataError, from_mirror, mnist


@pytest.mark.parametrize("part", ["train", "test"])
def test_the_package_holds_the_papers_own_file(part):
    try:
        x, y = mnist.load(part)
        original = np.load(from_mirror("mnist", "mnist.npz"))
    except DataError as error:
        pytest.skip(str(error))
    np.testing.assert_array_equal(x, original[f"x_{part}"])
    np.testing.assert_array_equal(y, original[f"y_{part}"])


def test_bad_part():
    with pytest.raises(ValueError, match="part must be train or test, not 'all'"):
        mnist.load("all")
