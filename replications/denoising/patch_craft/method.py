"""Patch-craft self-supervised training for correlated image denoising (Vaksman & Elad 2022, arXiv 2211.09919)."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from shared.checks import finite
from shared.denoise import Noise, draw, halved

# ---------------------------------------------------------------- bursts


class Burst(NamedTuple):
    """Frames of one scene, clean and noisy, (t, 3, h, w); the middle one is to be denoised. `second` (3, h, w): what a second
    camera on the very same spot would have taken of the middle frame, its noise independent."""

    clean: Tensor
    noisy: Tensor
    second: Tensor


def burst(
    photograph: NDArray, other: NDArray | None, noise: Noise, motion: int, rng: np.random.Generator, noise_rng: torch.Generator,
    *, frames: int = 5, side: int = 96, inset: int = 40, fastest: int = 12,
) -> Burst:  # fmt: skip
    """A simulated burst: windows of a photograph, shaken, before which perhaps a piece of another photograph flies past.

    photograph, other: (h, w, 3) uint8. Each frame but the middle one is displaced by up to `motion` pixels either way, in steps of
    half a pixel: windows are cut before the photograph is halved. Of `other` a square of `inset` pixels moves in a random direction
    by a speed between 0 and `fastest` pixels a frame; it starts anywhere in the middle frame. Noise is drawn for each frame.
    Raises ValueError for an even number of frames or a photograph smaller than a window with room to move.
    """
    room = 2 * motion
    if frames < 3 or frames % 2 == 0:
        raise ValueError(f"frames must be odd and at least 3, not {frames}")
    if min(photograph.shape[:2]) < 2 * side + 2 * room:
        raise ValueError(f"photograph must be at least {2 * side + 2 * room} pixels wide and high, not {photograph.shape}")
    middle = frames // 2
    corner = np.array([rng.integers(room, size - 2 * side - room + 1) for size in photograph.shape[:2]])
    steps = rng.integers(-room, room + 1, size=(frames, 2))
    steps[middle] = 0
    big = np.stack([photograph[r : r + 2 * side, c : c + 2 * side] for r, c in corner + steps])  # (t, 2 side, 2 side, 3)
    if other is not None:
        angle, speed = rng.uniform(0, 2 * np.pi), 2 * rng.uniform(0, fastest)
        start = rng.integers(0, 2 * (side - inset) + 1, size=2)
        r, c = (rng.integers(0, size - 2 * inset + 1) for size in other.shape[:2])
        piece = other[r : r + 2 * inset, c : c + 2 * inset]
        for t, frame in enumerate(big):
            row, column = np.round(start + (t - middle) * speed * np.array([np.sin(angle), np.cos(angle)])).astype(int)
            _paste(frame, piece, row, column)
    clean = torch.stack([halved(frame) for frame in big])
    return Burst(clean, clean + draw(clean.shape, noise, noise_rng), clean[middle] + draw(clean.shape[1:], noise, noise_rng))


def _paste(frame: NDArray, piece: NDArray, row: int, column: int) -> None:
    """Puts a piece on a frame at a corner that may lie outside of it."""
    (h, w), (ph, pw) = frame.shape[:2], piece.shape[:2]
    top, left, bottom, right = max(row, 0), max(column, 0), min(row + ph, h), min(column + pw, w)
    if top < bottom and left < right:
        frame[top:bottom, left:right] = piece[top - row : bottom - row, left - column : right - column]


# ---------------------------------------------------------------- matching and crafting


def match(frames: Tensor, patch: int, search: int) -> NDArray[np.intp]:
    """For every patch of the middle frame the most similar one in the other frames: (h + patch - 1, w + patch - 1, 3), its frame
    and its displacement down and to the right (the paper's patch matching; official code, `find_nn`).

    frames: (t, 3, h, w), t odd. Frames are reflected at the border by patch - 1 pixels, so that patches that reach over it count;
    entry (i, j) belongs to the patch whose upper left corner lies at (i, j) of the reflected frame. Similar is least in mean
    squared difference; displacements go to `search` pixels each way, and beyond the reflected frame stands -1, which never matches.
    Raises ValueError for other shapes, NaN, or a patch or search that does not fit.
    """
    stack, middle = _frames(frames, patch, search)
    margin = patch - 1
    padded = np.pad(stack, ((0, 0), (0, 0), (margin, margin), (margin, margin)), mode="reflect")
    h, w = padded.shape[2:]
    beyond = np.pad(padded, ((0, 0), (0, 0), (search, search), (search, search)), constant_values=-1.0)
    best = np.full((h - margin, w - margin), np.inf, dtype=np.float32)
    found = np.zeros((*best.shape, 3), dtype=np.intp)
    for t in (t for t in range(len(stack)) if t != middle):
        for down in range(-search, search + 1):
            rows = slice(search + down, search + down + h)
            for right in range(-search, search + 1):
                difference = beyond[t, :, rows, search + right : search + right + w] - padded[middle]
                distance = _box_sums(np.einsum("chw,chw->hw", difference, difference), patch)
                better = distance < best
                best[better] = distance[better]
                found[better] = t, down, right
    return found


def _box_sums(values: NDArray, side: int) -> NDArray:
    """Sums over all side x side boxes of values (h, w): (h - side + 1, w - side + 1), by cumulative sums."""
    for axis in (0, 1):
        sums = np.cumsum(np.moveaxis(values, axis, 0), axis=0)
        sums[side:] = sums[side:] - sums[:-side]
        values = np.moveaxis(sums[side - 1 :], 0, axis)
    return values


def craft(frames: Tensor, matches: NDArray[np.intp], patch: int, offset: tuple[int, int]) -> Tensor:
    """The middle frame rebuilt of matched patches, side by side on a grid that starts at `offset` (0..patch - 1 each): (3, h, w).

    Each pixel is copied from one patch; nothing is averaged, so that the noise stays what it is (the paper's patch-craft frames).
    Raises ValueError when matches or offset do not fit.
    """
    _, _, h, w = frames.shape
    margin = patch - 1
    if matches.shape != (h + margin, w + margin, 3):
        raise ValueError(f"matches must be ({h + margin}, {w + margin}, 3), not {matches.shape}")
    if not all(0 <= o < patch for o in offset):
        raise ValueError(f"offset must be two numbers 0..{margin}, not {offset}")
    padded = functional.pad(frames, (margin,) * 4, mode="reflect").numpy()
    rows, columns = (np.arange(margin, margin + size) for size in (h, w))
    # upper left corner of the patch that covers each row and column
    top, left = (
        (places - (o + margin) % patch) // patch * patch + (o + margin) % patch
        for places, o in zip((rows, columns), offset, strict=True)
    )
    t, down, right = np.moveaxis(matches[np.ix_(top, left)], -1, 0)  # (h, w) each
    return torch.as_tensor(padded[t, :, rows[:, None] + down, columns + right]).permute(2, 0, 1).contiguous()


def _frames(frames: Tensor, patch: int, search: int) -> tuple[NDArray[np.float32], int]:
    stack = finite("frames", frames, 4).astype(np.float32)
    if len(stack) < 3 or len(stack) % 2 == 0:
        raise ValueError(f"frames must be an odd number of at least 3, not {len(stack)}")
    if not 1 <= patch <= min(stack.shape[2:]) or search < 0:
        raise ValueError(f"patch must be 1..{min(stack.shape[2:])} and search at least 0, not {patch} and {search}")
    return stack, len(stack) // 2


# ---------------------------------------------------------------- tiles and their selection


def places(side: int, tile: int, stride: int) -> NDArray[np.intp]:
    """Upper left corners (m, 2) of all tiles of an image of side x side pixels, row by row."""
    steps = np.arange(0, side - tile + 1, stride)
    return np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)


def statistics(y: Tensor, target: Tensor) -> tuple[NDArray, NDArray]:
    """Covariance of z = target - y with y, and mean of z, (m,) each, over the pixels and channels of tiles (m, 3, s, s).

    Where the target's noise is independent of y's, the covariance is minus the variance of y's noise; a tile without a good match
    goes below (the paper's statistical analysis).
    """
    z, y = (target - y).flatten(1).double(), y.flatten(1).double()
    covariance = (z * y).mean(1) - z.mean(1) * y.mean(1)
    return covariance.numpy(), z.mean(1).numpy()


def least_covariance(covariance: NDArray, bins: int) -> float:
    """The covariance up to which tiles are dropped, so that both tails of the histogram weigh the same (official code).

    With c* the peak: the largest v < c* for which sum_{v <= c < c*} p(c) |c - c*| > sum_{c > c*} p(c) |c - c*|. Where the lower
    tail is not the heavier one there is no such v and -inf, which keeps all, is returned. Raises ValueError for other shapes
    or NaN.
    """
    count, edges = np.histogram(finite("covariance", covariance, 1), bins)
    centre = (edges[1:] + edges[:-1]) / 2
    peak = count.argmax()
    moment = count * np.abs(centre - centre[peak])
    down_from_peak = np.cumsum(moment[:peak][::-1])
    heavier = np.flatnonzero(down_from_peak > moment[peak + 1 :].sum())
    return float(centre[peak - 1 - heavier[0]]) if len(heavier) else -np.inf


def select(covariance: NDArray, mean: NDArray, bins: int, deviations: float = 3.0) -> NDArray[np.bool_]:
    """Which tiles (m,) to keep: covariance above `least_covariance`, then a mean within `deviations` sd of the kept tiles' mean."""
    kept = covariance > least_covariance(covariance, bins)
    return kept & (np.abs(mean - mean[kept].mean()) < deviations * mean[kept].std())
