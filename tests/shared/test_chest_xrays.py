"""The chest X-rays as they come from the package."""

import numpy as np
import pytest

from shared.data import DataError, chest_xrays


def test_parts_are_complete():
    try:
        parts = {part: chest_xrays.load(part) for part in ("train", "test")}
    except DataError as missing:
        pytest.skip(str(missing))
    for part, counts in (("train", [1264, 1268]), ("test", [319, 315])):
        x, y = parts[part]
        assert x.shape == (sum(counts), 28, 28)
        assert x.dtype == np.uint8
        assert np.bincount(y).tolist() == counts
        assert 50 < x.mean() < 200


def test_another_part_is_refused():
    with pytest.raises(ValueError, match="part"):
        chest_xrays.load("valid")
