"""What a method is given: an array as floats, or an error that names it."""

import numpy as np
import pytest

from shared.checks import finite


def test_a_good_array_comes_back_as_floats():
    found = finite("x", [[1, 2], [3, 4]], 2)
    assert found.dtype == float and found.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("value", [[1.0], np.empty((0, 2)), 3.0])
def test_other_shapes_are_named(value):
    with pytest.raises(ValueError, match="x must be a non-empty array with 2 axes"):
        finite("x", value, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(bad):
    with pytest.raises(ValueError, match="y contains NaN or infinite values"):
        finite("y", [1.0, bad], 1)
