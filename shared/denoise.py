"""The denoising bench: the same photographs, the same noise and the same measures for every method of the family.

Images are (n, 3, h, w) float32 in [0, 1] when clean; noisy ones are not clipped, since clipping would give the noise a mean.
A method is a function of noisy images and what is known of their noise. One decorated function is one more row of every table:

    @denoiser("mine")
    def mine(y: Tensor, noise: Noise) -> Tensor: ...  # (n, 3, h, w) both

Trained methods share one small network, one optimiser and one schedule, so that only data and loss differ between them.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torch.nn import functional

from shared import seeding
from shared.data import ai_benchmark

# ---------------------------------------------------------------- images and noise


class Noise(NamedTuple):
    """Gaussian noise of standard deviation `sigma` (of the range 0..1), smoothed by a box of `box` x `box` pixels; 1: white."""

    sigma: float
    box: int


NOISES = {"white20": Noise(20 / 255, 1), "corr20k3": Noise(20 / 255, 3)}
DENOISERS: dict[str, Callable[[Tensor, Noise], Tensor]] = {}


def halved(photograph: np.ndarray) -> Tensor:
    """A photograph (h, w, 3) uint8 at half its size, (3, h // 2, w // 2) in [0, 1]: means of 2 x 2 pixels, which also averages away
    what noise it has of its own."""
    return functional.avg_pool2d(torch.as_tensor(photograph).permute(2, 0, 1).float() / 255, 2)


@cache
def images(part: ai_benchmark.Part, side: int = 128) -> Tensor:
    """The bench's images, (30, 3, side, side) for validation and test: the centres of halved photographs, in a fixed order."""
    whole = [halved(photograph) for photograph in ai_benchmark.load(part)]
    return torch.stack([x[:, (x.shape[1] - side) // 2 :, (x.shape[2] - side) // 2 :][:, :side, :side] for x in whole])


def draw(shape: Sequence[int], noise: Noise, rng: torch.Generator) -> Tensor:
    """Noise of a shape (..., h, w): white noise, summed over a box and divided by the box's width, so that its sd stays sigma."""
    *rest, h, w = shape
    white = torch.randn(*rest, h + noise.box - 1, w + noise.box - 1, generator=rng)
    sums = functional.avg_pool2d(white.flatten(0, -3)[None], noise.box, stride=1) * noise.box
    return noise.sigma * sums.reshape(shape)


@cache
def noisy(part: ai_benchmark.Part, name: str) -> Tensor:
    """The bench's images with noise of that name: each image has a seed of its own, so that every method sees the same tensors."""
    clean = images(part)
    noises = [draw(x.shape, NOISES[name], seeding.torch_rng(i, f"bench {part} {name}")) for i, x in enumerate(clean)]
    return clean + torch.stack(noises)


# ---------------------------------------------------------------- measures


def psnr(estimate: Tensor, clean: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (n,) in dB of images (n, 3, h, w), the estimate clipped to [0, 1]: -10 log10(MSE)."""
    _same(estimate, clean)
    return -10 * (estimate.clamp(0, 1) - clean).square().mean((1, 2, 3)).log10()


def ssim(estimate: Tensor, clean: Tensor) -> Tensor:
    """Structural similarity (n,) of images (n, 3, h, w), the estimate clipped to [0, 1] (Wang et al. 2004)."""
    _same(estimate, clean)
    pairs = zip(estimate.clamp(0, 1).numpy(), clean.numpy(), strict=True)
    return torch.tensor([structural_similarity(x, y, channel_axis=0, data_range=1) for x, y in pairs])


def _same(estimate: Tensor, clean: Tensor) -> None:
    if estimate.shape != clean.shape or estimate.ndim != 4:
        raise ValueError(f"estimate and clean must be images of one shape, not {tuple(estimate.shape)} and {tuple(clean.shape)}")
    if not torch.isfinite(estimate).all():
        raise ValueError("estimate contains NaN or infinite values")


# ---------------------------------------------------------------- rows


def denoiser(name: str) -> Callable:
    """Makes `def f(y, noise) -> estimate` a row of the bench. Raises ValueError for a name that is taken."""

    def register(function: Callable[[Tensor, Noise], Tensor]) -> Callable:
        if name in DENOISERS:
            raise ValueError(f"a denoiser named {name!r} exists; choose another name")
        DENOISERS[name] = function
        return function

    return register


def score(names: Iterable[str], noise: str, part: ai_benchmark.Part = "test") -> pd.DataFrame:
    """Table of method, image, psnr (dB) and ssim for denoisers by name. Raises KeyError for an unknown name."""
    y, clean = noisy(part, noise), images(part)
    rows = []
    for name in names:
        estimate = DENOISERS[name](y, NOISES[noise])
        rows.append(
            pd.DataFrame({"method": name, "image": range(len(y)), "psnr": psnr(estimate, clean), "ssim": ssim(estimate, clean)})
        )
    return pd.concat(rows, ignore_index=True)


@denoiser("noisy input")
def untouched(y: Tensor, noise: Noise) -> Tensor:
    """The images as they came."""
    return y


@denoiser("Gaussian blur")
def blur(y: Tensor, noise: Noise) -> Tensor:
    """A Gaussian blur, told the noise: its width has the best mean PSNR on validation images with that noise."""
    return _blurred(y, _width(noise))


@cache
def _width(noise: Noise) -> float:
    clean = images("validation")
    y = clean + torch.stack([draw(x.shape, noise, seeding.torch_rng(i, "blur")) for i, x in enumerate(clean)])
    return max(np.arange(0.4, 2.01, 0.2), key=lambda width: psnr(_blurred(y, width), clean).mean().item())


def _blurred(y: Tensor, width: float) -> Tensor:
    return torch.as_tensor(gaussian_filter(y.numpy(), (0, 0, width, width)))


# ---------------------------------------------------------------- the network that trained rows share


class Net(nn.Module):
    """Images (n, 3, h, w), h and w even -> denoised ones: y less the noise that convolutions on 2 x 2 pixels at once see in it.

    These are a linear convolution of 3 x 3 plus five with ReLU and `width` channels, of images less their mean colours; both
    start at 0, so that every training starts at the identity. With the mean they would hardly learn in a few hundred steps.
    """

    def __init__(self, rng: torch.Generator, width: int = 20):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise([12, *[width] * 4, 12]))
        self.linear = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, generator=rng)
            nn.init.zeros_(layer.bias)
        for last in (self.layers[-1], self.linear):
            nn.init.zeros_(last.weight)

    def forward(self, y: Tensor) -> Tensor:
        cells = functional.pixel_unshuffle(4 * (y - y.mean((2, 3), keepdim=True)), 2)  # (n, 12, h/2, w/2)
        x = cells
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return y - functional.pixel_shuffle(self.layers[-1](x) + self.linear(cells), 2)


def train(
    net: nn.Module, batches: Iterable[tuple], loss: Callable[..., Tensor], lr: float = 0.004, stop_after: int | None = None
) -> list[float]:
    """Adam on loss(net, *batch), a step a batch, with a cosine from `lr` to 0. Returns every step's loss.

    `stop_after` ends after so many steps, on the way.
    """
    batches, losses = list(batches), []
    optimiser = torch.optim.Adam(net.parameters(), lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, len(batches))
    for batch in batches[:stop_after]:
        value = loss(net, *batch)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        losses.append(value.item())
    return losses


# ---------------------------------------------------------------- losses


def to_target(net: nn.Module, y: Tensor, target: Tensor) -> Tensor:
    """Mean squared distance of denoised images to a target each: clean images, or other noisy ones of the same scene."""
    return functional.mse_loss(net(y), target)


def noise2void(net: nn.Module, y: Tensor, rng: torch.Generator, share: float = 0.04) -> Tensor:
    """Noise2Void (Krull et al. 2019): some pixels take a random neighbour's colour; the network must tell what stood there.

    A pixel is chosen with probability `share`; its stand-in lies in the 5 x 5 pixels around it, never itself. Mean squared distance
    to the noisy value over chosen pixels. Right where noise is independent from pixel to pixel.
    """
    n, _, h, w = y.shape
    chosen = torch.rand(n, 1, h, w, generator=rng) < share
    offset = torch.randint(24, (n, 1, h, w), generator=rng)
    offset = offset + (offset >= 12)  # 0..24 without 12, the centre
    around = functional.unfold(functional.pad(y, (2, 2, 2, 2), mode="reflect"), 5).reshape(n, 3, 25, h, w)
    stand_in = around.gather(2, offset[:, None].expand(n, 3, 1, h, w))[:, :, 0]
    error = net(torch.where(chosen, stand_in, y)) - y
    return (error * chosen).square().sum() / (3 * chosen.sum()).clamp_min(1)


def neighbor2neighbor(net: nn.Module, y: Tensor, rng: torch.Generator, gamma: float = 1.0) -> Tensor:
    """Neighbor2Neighbor (Huang et al. 2021): two adjacent pixels of every 2 x 2 make two half-size images, one the other's target.

    The second term, weighed by gamma, allows for the two not being of quite the same scene: their difference must be what it is
    between the same pixels of the denoised whole image. Right where noise is independent from pixel to pixel.
    """
    pairs = torch.tensor([[0, 1], [0, 2], [1, 0], [1, 3], [2, 0], [2, 3], [3, 1], [3, 2]])
    n, _, h, w = y.shape
    which = pairs[torch.randint(8, (n, h // 2, w // 2), generator=rng)].permute(3, 0, 1, 2)  # (2, n, h/2, w/2)
    with torch.no_grad():
        whole = _picked(net(y), which)
    first, second = _picked(y, which)
    denoised = net(first)
    consistency = denoised - second - (whole[0] - whole[1])
    return functional.mse_loss(denoised, second) + gamma * consistency.square().mean()


def _picked(y: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    n, c, h, w = y.shape
    cells = functional.pixel_unshuffle(y, 2).reshape(n, c, 4, h // 2, w // 2)
    first, second = (cells.gather(2, index[:, None, None].expand(n, c, 1, h // 2, w // 2))[:, :, 0] for index in which)
    return first, second
