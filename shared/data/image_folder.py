"""Images in a folder that has a subfolder for each class, such as CelebA sorted by one of its attributes."""

from pathlib import Path

import numpy as np
from PIL import Image

from shared.data import DataError

SUFFIXES = (".png", ".jpg", ".jpeg")


def load(folder: Path, side: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(images (N, side, side, 3) uint8 in 0..255, labels (N,) int64, the names of the classes: the subfolders, sorted).

    Each image is cut to the largest square in its middle and resized to `side` pixels; images stand in the order of their names,
    class by class. Raises DataError when there is no folder, no subfolder, or none of PNG or JPEG in one.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not classes:
        raise DataError(f"{folder} must be a folder with a subfolder for each class, with PNG or JPEG images in it")
    files = [sorted(path for path in part.iterdir() if path.suffix.lower() in SUFFIXES) for part in classes]
    if not all(files):
        raise DataError(f"{classes[[len(part) for part in files].index(0)]} holds no image: PNG or JPEG files are wanted")
    images = np.stack([_square(path, side) for part in files for path in part])
    labels = np.repeat(np.arange(len(files)), [len(part) for part in files])
    return images, labels, [part.name for part in classes]


def _square(path: Path, side: int) -> np.ndarray:
    with Image.open(path) as picture:
        short = min(picture.size)
        left, top = ((length - short) // 2 for length in picture.size)
        middle = picture.convert("RGB").crop((left, top, left + short, top + short))
        return np.asarray(middle.resize((side, side), Image.Resampling.BILINEAR))
