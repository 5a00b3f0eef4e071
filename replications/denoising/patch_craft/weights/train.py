"""Crafts the targets and trains every network that the notebook reads, on one core.

    python -m replications.denoising.patch_craft.weights.train [--seeds 1000 1001 ...] [--steps 400] [--out FOLDER]

A seed has its own bursts of training photographs, first weights and order of tiles, which its arms share; only target and loss
differ between them, and which tiles are left out. It is one file of fp16 tensors: for each condition the networks of its arms and,
of every tile, the covariance and the mean that selection looks at, in units of the noise's variance and sd. provenance.json holds
hashes, settings, seconds, first losses and mean gains on validation images.
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from replications.denoising.patch_craft import method
from shared import denoise, seeding, zoo
from shared.data import ai_benchmark

BURSTS, OFFSETS, TILE, STRIDE = 40, 4, 40, 8  # bursts a seed, crafted images a burst, pixels of a tile and between tiles
PATCH, SEARCH, BINS = 21, 8, 60
STEPS, BATCH, FIRST = 400, 8, 6  # FIRST: steps whose losses the notebook repeats
PATCH_CRAFT = "patch-craft"
ALL_ARMS = (
    "supervised",
    "second shot",
    PATCH_CRAFT,
    "all tiles",
    "random drop",
    "neighbour frame",
    "Noise2Void",
    "Neighbor2Neighbor",
)
CONDITIONS = {  # noise, motion in pixels, arms
    "corr20k3": ("corr20k3", 8, ALL_ARMS),
    "white20": ("white20", 8, ("supervised", PATCH_CRAFT, "Noise2Void", "Neighbor2Neighbor")),
    "corr20k3_still": ("corr20k3", 0, (PATCH_CRAFT, "neighbour frame")),
}


class Tiles(NamedTuple):
    """Tiles (m, 3, s, s) of a seed's middle frames: noisy, clean, as a second camera took them, of the next frame."""

    y: Tensor
    clean: Tensor
    second: Tensor
    neighbour: Tensor


def bursts(seed: int, condition: str, count: int = BURSTS) -> list[method.Burst]:
    """The first `count` of a seed's bursts; past every other one flies a piece of another photograph."""
    noise, motion, _ = CONDITIONS[condition]
    photographs = ai_benchmark.load("train")
    order = seeding.rng(seed, "photographs").permutation(len(photographs))
    return [
        method.burst(
            photographs[order[i]], photographs[order[-1 - i]] if i % 2 else None, denoise.NOISES[noise], motion,
            seeding.rng(seed, f"burst {i}"), seeding.torch_rng(seed, f"noise {i}"),
        )
        for i in range(count)
    ]  # fmt: skip


def tiles(shots: list[method.Burst]) -> Tiles:
    """The tiles of bursts, in order."""
    middle = len(shots[0].noisy) // 2
    parts = [(s.noisy[middle], s.clean[middle], s.second, s.noisy[middle + 1]) for s in shots]
    return Tiles(*(torch.cat([cut(image) for image in images]) for images in zip(*parts, strict=True)))


def cut(image: Tensor) -> Tensor:
    """All tiles of an image (3, h, h)."""
    return torch.stack([image[:, r : r + TILE, c : c + TILE] for r, c in method.places(image.shape[-1], TILE, STRIDE)])


def crafted(shot: method.Burst, rng: np.random.Generator) -> Tensor:
    """Tiles of the crafted frame, each from one of a few random offsets of the patch grid."""
    matches = method.match(shot.noisy, PATCH, SEARCH)
    offsets = rng.choice(PATCH**2, OFFSETS, replace=False)
    versions = torch.stack([cut(method.craft(shot.noisy, matches, PATCH, divmod(int(o), PATCH))) for o in offsets])
    return versions[rng.integers(OFFSETS, size=versions.shape[1]), np.arange(versions.shape[1])]


def fit(seed: int, arm: str, of: Tiles, target: Tensor | None, statistics: tuple, steps: int, stop_after: int | None = None):
    """The network of an arm, and its losses; target (m, 3, s, s) are crafted tiles, which only three arms look at."""
    m = len(of.y)
    kept = np.ones(m, dtype=bool)
    if arm in (PATCH_CRAFT, "random drop"):
        kept = method.select(*statistics, BINS)
    if arm == "random drop":
        kept = seeding.rng(seed, "drop").permutation(kept)
    order = np.concatenate([p[kept[p]] for p in map(seeding.rng(seed, "order").permutation, [m] * (1 + 4 * steps * BATCH // m))])
    rows = torch.as_tensor(order[: steps * BATCH].reshape(steps, BATCH))
    chance = seeding.torch_rng(seed, arm)
    targets = {"supervised": of.clean, "second shot": of.second, "neighbour frame": of.neighbour, "all tiles": target}
    if arm in (PATCH_CRAFT, "random drop"):
        targets[arm] = target - statistics[1][kept].mean()
    losses = {"Noise2Void": denoise.noise2void, "Neighbor2Neighbor": denoise.neighbor2neighbor}
    batches = [(of.y[r], targets[arm][r] if arm in targets else chance) for r in rows]
    net = denoise.Net(seeding.torch_rng(seed, "network"))
    return net, denoise.train(net, batches, losses.get(arm, denoise.to_target), stop_after=stop_after)


@torch.inference_mode()
def gain(net: torch.nn.Module, noise: str) -> float:
    """Mean gain of PSNR over the noisy input on validation images, dB."""
    y, clean = denoise.noisy("validation", noise), denoise.images("validation")
    return float((denoise.psnr(net(y), clean) - denoise.psnr(y, clean)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeding.seeds(3))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    for seed in tqdm(arguments.seeds):
        make(seed, arguments.steps, arguments.out / f"seed_{seed}.safetensors")


def make(seed: int, steps: int, path: Path) -> None:
    """Train and keep all of a seed's networks."""
    start, tensors, scores, first = time.process_time(), {}, {}, {}
    for condition, (noise, _, arms) in CONDITIONS.items():
        shots = bursts(seed, condition)
        of = tiles(shots)
        target = torch.cat([crafted(shot, seeding.rng(seed, f"offsets {i}")) for i, shot in enumerate(shots)])
        covariance, mean = method.statistics(of.y, target)
        sigma = denoise.NOISES[noise].sigma
        tensors[f"{condition}/covariance"] = torch.as_tensor(covariance / sigma**2)
        tensors[f"{condition}/mean"] = torch.as_tensor(mean / sigma)
        for arm in arms:
            net, losses = fit(seed, arm, of, target, (covariance, mean), steps)
            tensors |= {f"{condition}/{arm}/{name}": value for name, value in net.state_dict().items()}
            scores[f"{condition}/{arm}"] = gain(net, noise)
            first[f"{condition}/{arm}"] = [round(x, 6) for x in losses[:FIRST]]
    zoo.keep(
        path, tensors, scores, seed=seed, data="ai-benchmark photographs, simulated bursts", steps=steps, first_losses=first,
        scores_are="mean gain of PSNR over the noisy input on validation images, dB",
        seconds_of_one_core=round(time.process_time() - start),
    )  # fmt: skip


if __name__ == "__main__":
    main()
