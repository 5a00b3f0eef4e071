"""Pickled arrays are read, and nothing that could run code."""

import io
import os
import pickle

import numpy as np
import pytest

from shared.data import DataError, pickles


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL))
def test_arrays_are_read(protocol):
    given = {"a": np.arange(6.0).reshape(2, 3), "b": [np.array([1, 2], np.uint8), "word", 3]}
    found = pickles.arrays(io.BytesIO(pickle.dumps(given, protocol=protocol)))
    np.testing.assert_array_equal(found["a"], given["a"])
    np.testing.assert_array_equal(found["b"][0], given["b"][0])
    assert found["b"][1:] == given["b"][1:]


@pytest.mark.parametrize("other", [print, os.system, np.load])
def test_nothing_else_is(other):
    with pytest.raises(DataError, match="no part of an array"):
        pickles.arrays(io.BytesIO(pickle.dumps([other])))
