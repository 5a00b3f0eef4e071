"""Pre-trains every backbone that the notebook probes, on one core; a seed's arms side by side.

    python -m replications.labels.noisy_pretraining.weights.train [--seeds 1000 1001 ...] [--epochs 25] [--out FOLDER]

A seed's arms have the same first weights and see the same batches; only labels differ: none wrong, 5, 10, 20 or 30 % of them, one
person's labels (`random1`), or the worst of three people's (`worst`). `again` has no wrong label and starts elsewhere: what a seed
alone changes. Backbones are kept as fp16 safetensors, a file a seed; provenance.json holds hashes, accuracies, seconds and losses.
"""

import argparse
import hashlib
import json
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from replications.labels.noisy_pretraining import method
from shared import labels as noise
from shared import seeding
from shared.data import cifar10

RATES = (0.0, 0.05, 0.1, 0.2, 0.3)
PEOPLE = ("random1", "worst")
N_IMAGES = 10_000
CLASSES = len(cifar10.CLASSES) * method.ROTATIONS
TRAINING = {"epochs": 25, "batch": 256, "lr": 0.1}
FIRST = 8  # steps whose losses the notebook repeats


@cache
def pictures() -> tuple[torch.Tensor, np.ndarray]:
    """The images to pre-train on, (10000, 3, 32, 32) in [-1, 1], and their classes (10000,) 0..9: the first batch of CIFAR-10."""
    images, labels = cifar10.load("train", 1)
    return method.pixels(torch.as_tensor(images)), labels.astype(np.int64)


def turns(seed: int) -> np.ndarray:
    """How often each image is turned by 90 degrees (10000,): drawn once, so that a picture has one label."""
    return seeding.rng(seed, "turns").integers(method.ROTATIONS, size=N_IMAGES)


def joint(classes: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """The label (n,) 0..39 that a network learns: class and rotation."""
    return classes * method.ROTATIONS + turns


def arms(seed: int, classes: np.ndarray) -> dict[str, np.ndarray]:
    """Labels (n,) of every arm but `again`. Noise flips the joint label to any other; people err about the class alone."""
    clean, u = joint(classes, turns(seed)), seeding.rng(seed, "flips").random(N_IMAGES)
    made = {f"rate_{rate:g}": noise.corrupt(clean, noise.uniform(CLASSES, rate), u) for rate in RATES}
    return made | {kind: joint(cifar10.human_labels(kind)[:N_IMAGES].astype(np.int64), turns(seed)) for kind in PEOPLE}


def fit(seed: int, stream: str, labels: np.ndarray, epochs: int, stop_after: int | None = None):
    """`method.pretrain` on the labels (arms, n), with the seed's generator of that stream."""
    images, _ = pictures()
    rng = seeding.torch_rng(seed, stream)
    return method.pretrain(
        images, torch.as_tensor(turns(seed)), torch.as_tensor(labels), CLASSES, rng, stop_after=stop_after,
        **TRAINING | {"epochs": epochs},
    )  # fmt: skip


@torch.inference_mode()
def scores(net: torch.nn.Module, seed: int, labels: np.ndarray) -> dict[str, float]:
    """Shares of the pre-training images told as labelled, as they truly are and, where wrong, as wrongly labelled."""
    images, classes = pictures()
    shown = method.turned(images, torch.as_tensor(turns(seed)))
    said = torch.cat([net(part).argmax(1) for part in shown.split(1000)]).numpy()
    true = joint(classes, turns(seed))
    wrong = labels != true
    return {
        "wrong_labels": round(float(wrong.mean()), 4),
        "as_labelled": round(float((said == labels).mean()), 4),
        "truly": round(float((said == true).mean()), 4),
        "memorised": round(float((said == labels)[wrong].mean()), 4) if wrong.any() else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeding.seeds(5))
    parser.add_argument("--epochs", type=int, default=TRAINING["epochs"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    _, classes = pictures()
    for seed in arguments.seeds:
        start = time.process_time()
        sets = arms(seed, classes)
        nets, losses = fit(seed, "pretraining", np.stack(list(sets.values())), arguments.epochs)
        again, lost = fit(seed, "again", sets["rate_0"][None], arguments.epochs)
        sets["again"] = sets["rate_0"]
        nets, losses = dict(zip(sets, [*nets, *again], strict=True)), torch.cat([losses, lost], dim=1)
        keep(arguments.out / f"backbones_{seed}.safetensors", nets, losses, arguments.epochs, {
            "seconds_of_one_core": round(time.process_time() - start),
            "arms": {name: scores(nets[name], seed, labels) for name, labels in sets.items()},
        })  # fmt: skip


def keep(path: Path, nets: dict[str, torch.nn.Module], losses: torch.Tensor, epochs: int, about: dict) -> None:
    """Write the backbones, without their heads, and note what is known about them."""
    tensors = {f"{arm}.{key}": _small(value) for arm, net in nets.items() for key, value in net[0].state_dict().items()}
    save_file(tensors, path)
    for place, arm in enumerate(about["arms"].values()):
        arm["first_losses"] = [round(x, 4) for x in losses[:FIRST, place].tolist()]
        arm["losses"] = [round(part[:, place].mean().item(), 3) for part in losses.tensor_split(20)]
    note = path.parent / "provenance.json"
    record = json.loads(note.read_text()) if note.exists() else {"files": {}}
    record |= {"data": "CIFAR-10, first training batch", "training": TRAINING | {"epochs": epochs}, "torch": torch.__version__}
    record["files"][path.name] = {"sha256": digest(path), **about}
    note.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    print(path.name, about["seconds_of_one_core"], about["arms"], flush=True)


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _small(value: torch.Tensor) -> torch.Tensor:
    return (value.half() if value.is_floating_point() else value).contiguous()


if __name__ == "__main__":
    main()
