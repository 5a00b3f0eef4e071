"""A folder of pictures, a subfolder a class: three small PNGs."""

import numpy as np
import pytest
from PIL import Image

from shared.data import DataError, image_folder


@pytest.fixture
def folder(tmp_path):
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = (10, 20, 30)  # the square in the middle
    pictures = {"smile/b.png": wide, "smile/a.png": np.full((6, 6), 200, np.uint8), "plain/c.png": np.full((4, 4, 3), 7, np.uint8)}
    for name, pixels in pictures.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "smile" / "notes.txt").write_text("not a picture")
    return tmp_path


def test_three_pictures(folder):
    images, labels, classes = image_folder.load(folder, 2)
    assert classes == ["plain", "smile"] and labels.tolist() == [0, 1, 1]
    assert images.shape == (3, 2, 2, 3) and images.dtype == np.uint8
    assert (images[0] == 7).all() and (images[1] == 200).all() and (images[2] == (10, 20, 30)).all()


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(DataError, match="subfolder for each class"):
        image_folder.load(tmp_path / "nowhere", 2)
    (folder / "another").mkdir()
    with pytest.raises(DataError, match=r"another holds no image"):
        image_folder.load(folder, 2)
