"""230 colour photographs, 625 x 357 to 1024 x 682: animals, things, streets and parks. Split once and for all by the files' hashes.

Licence: the package is Apache 2.0 and says nothing about where its photographs come from; nothing is copied from it into this
repository but small pictures in figures. Its 30 files with painted objects (`*_segmented.jpg`) repeat others and are left out.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from shared.data import DataError, PackageFile

# SHA256: of the photographs' own hashes, sorted, one after the other
COUNT, HELD_OUT = 230, 30  # photographs, and those in each of validation and test
SHA256 = "07328772871db7fdcf544663d3788102d699f4ebded90cde8c580c1d8d54d9c6"
LICENCE = PackageFile(
    distribution="ai-benchmark",
    suffix="ai_benchmark-0.1.2.dist-info/LICENSE.md",
    sha256="99169b810a2a0029880e648ca258300125b32c7d6e85b3f4161e797e89030dcf",
    licence="Apache 2.0 (the package; the photographs' origin and own licence are not stated)",
    citation="Ignatov et al. 2019, AI Benchmark: all about deep learning on smartphones in 2019; arXiv:1910.06663",
)
Part = Literal["train", "validation", "test"]


@cache
def load(part: Part) -> list[np.ndarray]:
    """The photographs of a part, each (h, w, 3) uint8 of its own size, in the order of their files' hashes.

    train: 170, validation: 30, test: 30. They are read once: do not write into them. Raises ValueError for another part,
    DataError when the package is missing or damaged.
    """
    slices = {"test": slice(HELD_OUT), "validation": slice(HELD_OUT, 2 * HELD_OUT), "train": slice(2 * HELD_OUT, None)}
    if part not in slices:
        raise ValueError(f"part must be one of {', '.join(slices)}, not {part!r}")
    return [np.array(Image.open(file)) for file in _files()[slices[part]]]


@cache
def _files() -> list[Path]:
    folder = LICENCE.path().parent.parent / "ai_benchmark" / "data"
    files = [file for file in folder.glob("*/*.jpg") if not file.stem.endswith("_segmented")]
    by_hash = {hashlib.sha256(file.read_bytes()).hexdigest(): file for file in files}
    if len(by_hash) != COUNT or hashlib.sha256("".join(sorted(by_hash)).encode()).hexdigest() != SHA256:
        raise DataError("the photographs of ai-benchmark are incomplete or damaged; remove the package and install it again")
    return [by_hash[digest] for digest in sorted(by_hash)]
