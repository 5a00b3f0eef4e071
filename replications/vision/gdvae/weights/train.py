"""Trains every network that the notebook compares, on one core, a file a seed.

    python -m replications.vision.gdvae.weights.train [--seeds 1000 ...] [--digits 4 9] [--images FOLDER] [--out FOLDER]

Half of the training images of two classes train the arms of the GdVAE and the black box; the other half trains the oracle, which
nothing else may ask. The arms start at the same weights and see the same batches: `plain` (gamma 0), `trained` (gamma 1),
`scrambled` (round trips to another image's code) and `blind` (gamma 1, the decoder does not see the label). `plain_longer` is
`plain` after as much time as `trained` takes. With --images the classes are a folder's two subfolders.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from replications.vision.gdvae import method
from shared import seeding, zoo
from shared.data import image_folder, mnist

ARMS = {
    "plain": {"gamma": 0.0, "scrambled": False},
    "trained": {"gamma": 1.0, "scrambled": False},
    "scrambled": {"gamma": 1.0, "scrambled": True},
    "blind": {"gamma": 1.0, "scrambled": False},
}
NETS = (*ARMS, "plain_longer")
DIGITS = (4, 9)
LATENT = 10
ALGORITHM = {"rounds": 3, "samples": 20}
TRAINING = {"batch": 64, "lr": 5e-4}
STEPS = 800
LONGER = 2.0  # steps of gamma 0 in the time of one of gamma 1
FIRST = 5  # steps whose losses the notebook repeats
HELD_OUT = 500  # test images that scores are of

Pictures = tuple[torch.Tensor, torch.Tensor]


def pictures(part: str, digits: tuple[int, ...] = DIGITS) -> Pictures:
    """MNIST's images (n, 1, 28, 28) in [0, 1] of some digits, and their classes (n,): places in `digits`."""
    images, labels = mnist.load(part)
    kept = np.isin(labels, digits)
    return scaled(images[kept, None]), torch.as_tensor(np.searchsorted(digits, labels[kept]))


def scaled(images: np.ndarray) -> torch.Tensor:
    """uint8 images as floats in [0, 1]."""
    return torch.as_tensor(images).float() / 255


def halves(seed: int, train: Pictures) -> tuple[Pictures, Pictures]:
    """A seed's half of the training images for the models, and the other one for the oracle."""
    rows = torch.as_tensor(seeding.rng(seed, "halves").permutation(len(train[0])))
    return tuple(tuple(part[half] for part in train) for half in rows.tensor_split(2))


def oracle(classes: int, rng: torch.Generator, shape=(1, 28)) -> nn.Sequential:
    """Another architecture than the encoder's: images -> scores (n, classes)."""
    channels, side = shape
    layers = nn.Conv2d(channels, 10, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(10, 20, 5, padding=2), nn.ReLU()
    head = nn.MaxPool2d(2), nn.Flatten(), nn.Linear(20 * (side // 4) ** 2, 32), nn.ReLU(), nn.Linear(32, classes)
    return method.drawn(nn.Sequential(*layers, *head), rng)


def empty(name: str, log_py: torch.Tensor, rng: torch.Generator, shape=(1, 28)) -> nn.Module:
    """A network of that name at its first weights."""
    if name in ("oracle", "black_box"):
        return (oracle if name == "oracle" else method.black_box)(len(log_py), rng, shape)
    return method.GdVAE(log_py, rng, latent=LATENT, shape=shape, blind=name == "blind")


def start(name: str, seed: int, models: Pictures) -> nn.Module:
    """The seed's network of that name before its first step."""
    images, labels = models
    log_py = torch.bincount(labels).div(len(labels)).log()
    return empty(name, log_py, seeding.torch_rng(seed, "oracle" if name == "oracle" else "weights"), tuple(images.shape[1:3]))


def trained(name: str, seed: int, models: Pictures, steps: int, only: int | None = None) -> tuple[list[method.GdVAE], torch.Tensor]:
    """`method.train` of an arm, with the seed's generator; of `plain` also after more steps. `only`: so many of the steps."""
    stops = [steps, round(LONGER * steps)] if name == "plain" else [steps]
    settings = TRAINING | ALGORITHM | ARMS[name]
    return method.train(start(name, seed, models), *models, seeding.torch_rng(seed, "training"), stops=stops, only=only, **settings)


def networks(seed: int, train: Pictures, steps: int) -> tuple[dict[str, nn.Module], dict]:
    """All of a seed's networks by name; the first losses, the losses (10 means) and the seconds of each arm."""
    models, others = halves(seed, train)
    nets, about = {}, {"first_losses": {}, "losses": {}, "seconds_of_one_core": {}}
    for name in ARMS:
        begun = time.process_time()
        made, parts = trained(name, seed, models, steps)
        nets |= zip([name, "plain_longer"], made, strict=False)
        about["first_losses"][name] = [round(x, 5) for x in parts.sum(1)[:FIRST].tolist()]
        about["losses"][name] = [round(part.sum(1).mean().item(), 4) for part in parts[:steps].tensor_split(10)]
        about["seconds_of_one_core"][name] = round(time.process_time() - begun, 1)
    for name, (images, labels) in {"black_box": models, "oracle": others}.items():
        rng = seeding.torch_rng(seed, f"training of {name}")
        nets[name] = method.fit(start(name, seed, models), images, labels, rng, steps=steps, **TRAINING)
    return nets, about


@torch.no_grad()
def scores(nets: dict[str, nn.Module], seed: int, test: Pictures) -> dict[str, float]:
    """Held-out accuracies of all, and squared errors of pixels and of probabilities (local-L2) of the arms."""
    images, labels = (part[:HELD_OUT] for part in test)
    found = {}
    for name, net in nets.items():
        rng = seeding.torch_rng(seed, f"scores of {name}")
        said = (method.classify(net, images, rng, **ALGORITHM)[0] if name in NETS else net(images)).argmax(1)
        found[f"{name} accuracy"] = (said == labels).double().mean().item()
        if name in NETS:
            found |= {f"{name} {key}": value for key, value in errors(net, images, rng).items()}
    return found


def errors(net: method.GdVAE, images: torch.Tensor, rng: torch.Generator) -> dict[str, float]:
    """Mean squared error of the reconstruction's pixels, and of the probability obtained where .25 is wanted (local-L2)."""
    given, z = method.classify(net, images, rng, **ALGORITHM)
    c, k = given.argmax(1), method.rival(given, given.argmax(1))
    one, p = torch.ones(len(z)), torch.full((len(z),), 0.25)
    again = method.picture(net, method.local_l2(net.rule(), z, c, k, p.logit()), c, k, p)
    obtained = method.classify(net, again, rng, **ALGORITHM)[0].softmax(1).gather(1, c[:, None])[:, 0]
    rebuilt = method.picture(net, z, c, k, one)
    return {"reconstruction": (rebuilt - images).square().mean().item(), "probability": (obtained - p).square().mean().item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeding.seeds(5))
    parser.add_argument("--digits", type=int, nargs=2, default=DIGITS)
    parser.add_argument("--images", type=Path, help="a folder with subfolders `train` and `test`, each with one a class")
    parser.add_argument("--side", type=int, default=64, help="pixels that --images are resized to")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    if given.images:
        sets = [image_folder.load(given.images / part, given.side) for part in ("train", "test")]
        train, test = ((scaled(x.transpose(0, 3, 1, 2)), torch.as_tensor(y)) for x, y, _ in sets)
    else:
        train, test = (pictures(part, tuple(sorted(given.digits))) for part in ("train", "test"))
    for seed in given.seeds:
        nets, about = networks(seed, train, given.steps)
        tensors = {f"{name}.{key}": value for name, net in nets.items() for key, value in net.state_dict().items()}
        about |= {"seed": seed, "data": str(given.images or f"MNIST, digits {given.digits}"), "steps": given.steps}
        zoo.keep(given.out / f"networks_{seed}.safetensors", tensors, scores(nets, seed, test), **about)
        print(seed, about["seconds_of_one_core"], flush=True)


if __name__ == "__main__":
    main()
