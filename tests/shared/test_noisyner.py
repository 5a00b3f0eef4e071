"""The extract of NoisyNER is the released files without B- and I-."""

import gzip

import numpy as np
import pytest

from shared.data import DataError, from_mirror, noisyner


def test_shape_and_shares():
    sets = noisyner.load()
    assert sets.shape == (7, 217_253) and sets.max() == 3
    np.testing.assert_allclose((sets[6] == 0).mean(), 0.935, atol=5e-4)


def test_released_files():
    try:
        folder = from_mirror("noisyner")
    except DataError as error:
        pytest.skip(str(error))
    for number, found in enumerate(noisyner.load(), 1):
        with gzip.open(folder / f"NoisyNER_labelset{number}.labels.gz", "rt", encoding="utf-8") as file:
            released = [line.strip().rpartition("-")[2] for line in file if line.strip()]
        assert released == [noisyner.TAGS[tag] for tag in found]
