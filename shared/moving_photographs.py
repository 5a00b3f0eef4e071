"""Scenes of moving pieces of photographs, of which everything is known: who owns each pixel, where it goes, and what would have
been seen had something moved otherwise.

A scene is a background and up to k sprites, drawn in their order: the last is in front. Frames are (n, 3, side, side) in [0, 1];
displacements are whole pixels, down and to the right. All is batched, and lies on the device of the generator.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import ConvexHull
from torch import Tensor

SIDE, SPRITE = 32, 16  # pixels of a frame and, at most, of a sprite
REACH = 4  # pixels that the camera can move
SOLID = 0.85  # share of its convex hull that a shape fills at most


class Scenes(NamedTuple):
    """n scenes. background (n, 3, SIDE + 2 REACH, SIDE + 2 REACH); texture (n, k, 3, SPRITE, SPRITE); shape (n, k, SPRITE, SPRITE),
    bool, all False where there is no sprite; place (n, k, 2): the corner of a sprite's box before anything moves."""

    background: Tensor
    texture: Tensor
    shape: Tensor
    place: Tensor


class Frame(NamedTuple):
    """image (n, 3, SIDE, SIDE), and owner (n, SIDE, SIDE): 0 the background, j the sprite j - 1."""

    image: Tensor
    owner: Tensor


def shapes(count: int, rng: np.random.Generator) -> Tensor:
    """Masks (count, SPRITE, SPRITE), bool: connected, not convex, 8 to 16 pixels wide and high. Smooth noise above a threshold."""
    made = []
    while len(made) < count:
        noise = ndimage.gaussian_filter(rng.standard_normal((SPRITE, SPRITE)), rng.uniform(1.5, 2.5))
        parts, _ = ndimage.label(noise > np.quantile(noise, rng.uniform(0.4, 0.7)))
        shape = parts == np.bincount(parts[parts > 0]).argmax()
        rows, columns = (np.flatnonzero(shape.any(axis)) for axis in (1, 0))
        if min(np.ptp(rows), np.ptp(columns)) >= 7 and solidity(shape) <= SOLID:
            made.append(shape)
    return torch.as_tensor(np.stack(made))


def solidity(shape: np.ndarray) -> float:
    """The share of its convex hull that a shape (h, w), bool, fills."""
    corners = np.argwhere(shape)[:, None] + np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    return shape.sum() / ConvexHull(corners.reshape(-1, 2)).volume


def draw(photographs: Tensor, masks: Tensor, n: int, rng: torch.Generator, sprites: int = 3) -> Scenes:
    """n scenes of 1 to `sprites` sprites anywhere in the frame, which often touch or overlap.

    photographs (m, 3, h, w), float in [0, 1]; masks as from `shapes`. Sprites that are missing are the hindmost ones. Raises
    ValueError for photographs smaller than a background.
    """
    if min(photographs.shape[2:]) < SIDE + 2 * REACH:
        raise ValueError(f"photographs must have at least {SIDE + 2 * REACH} pixels a side, not {tuple(photographs.shape[2:])}")

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=rng, device=rng.device)

    def cut(count: int, side: int) -> Tensor:
        rows, columns = (integers(0, size - side + 1, count)[:, None] + _to(side, rng.device) for size in photographs.shape[2:])
        which = integers(0, len(photographs), count)[:, None, None, None]
        return photographs[which, _to(3, rng.device)[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]

    missing = sprites - integers(1, sprites + 1, n)
    there = _to(sprites, rng.device) >= missing[:, None]
    return Scenes(
        cut(n, SIDE + 2 * REACH),
        cut(n * sprites, SPRITE).unflatten(0, (n, sprites)),
        masks[integers(0, len(masks), n, sprites)] & there[:, :, None, None],
        integers(-SPRITE // 4, SIDE - 3 * SPRITE // 4 + 1, n, sprites, 2),
    )


def motions(scenes: Scenes, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Displacements of sprites (n, k, 2), which include the camera's, and of the background (n, 2).

    Three sprites in four move, by up to REACH pixels down or up and left or right; and in a third of the scenes the camera.
    """
    n, k, _ = scenes.place.shape

    def steps(*shape: int) -> Tensor:
        return torch.randint(-REACH, REACH + 1, shape, generator=rng, device=rng.device)

    moves, pans = (torch.rand(*shape, 1, generator=rng, device=rng.device) < p for shape, p in (((n, k), 3 / 4), ((n,), 1 / 3)))
    camera = steps(n, 2) * pans
    return steps(n, k, 2) * moves + camera[:, None], camera


def render(scenes: Scenes, moved: Tensor | None = None, camera: Tensor | None = None) -> Frame:
    """The scenes with sprites displaced by `moved` (n, k, 2) and the background by `camera` (n, 2), up to REACH; None: not."""
    n, k, _ = scenes.place.shape
    device = scenes.place.device
    corner = torch.full((n, 2), REACH, device=device) - (0 if camera is None else camera)
    at = corner[:, :, None] + _to(SIDE, device)  # (n, 2, SIDE) of the background
    each, colour = _to(n, device)[:, None, None, None], _to(3, device)[:, None, None]
    image = scenes.background[each, colour, at[:, 0, None, :, None], at[:, 1, None, None, :]]
    owner = torch.zeros(n, SIDE, SIDE, dtype=torch.long, device=device)
    masks, rows, columns = _placed(scenes, moved)
    for j in range(k):
        texture = scenes.texture[each, j, colour, rows[:, j, None, :, None], columns[:, j, None, None, :]]
        image = torch.where(masks[:, j, None], texture, image)
        owner = torch.where(masks[:, j], j + 1, owner)
    return Frame(image, owner)


def covers(scenes: Scenes, moved: Tensor | None = None) -> Tensor:
    """What of the frame each sprite would cover if no other were in front of it (n, k, SIDE, SIDE), bool."""
    return _placed(scenes, moved)[0]


def touch(masks: Tensor) -> Tensor:
    """Whether two masks (..., 2, SIDE, SIDE) overlap or have pixels side by side (...), bool."""
    one, other = masks.unbind(-3)
    rows, columns = one[..., 1:, :] & other[..., :-1, :], one[..., 1:] & other[..., :-1]
    back = other[..., 1:, :] & one[..., :-1, :], other[..., 1:] & one[..., :-1]
    return torch.stack([part.flatten(-2).any(-1) for part in (one & other, rows, columns, *back)]).any(0)


def _placed(scenes: Scenes, moved: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The sprites' masks in the frame, and which row and column of a sprite lies at each of the frame's (n, k, SIDE)."""
    n, k, _ = scenes.place.shape
    device = scenes.place.device
    place = scenes.place if moved is None else scenes.place + moved
    at = _to(SIDE, device) - place[..., None]  # (n, k, 2, SIDE)
    inside = (at >= 0) & (at < SPRITE)
    rows, columns = at.clamp(0, SPRITE - 1).unbind(2)
    each, sprite = _to(n, device)[:, None, None, None], _to(k, device)[:, None, None]
    shape = scenes.shape[each, sprite, rows[..., None], columns[:, :, None]]
    return shape & inside[:, :, 0, :, None] & inside[:, :, 1, None], rows, columns


def tracks(before: Frame, after: Frame, moved: Tensor, camera: Tensor) -> tuple[Tensor, Tensor]:
    """How far each pixel of a first, undisplaced frame goes (n, SIDE, SIDE, 2), and whether it is visible in the second."""
    n, device = len(camera), camera.device
    steps = torch.cat([camera[:, None], moved], 1)[_to(n, device)[:, None, None], before.owner]  # (n, SIDE, SIDE, 2)
    rows, columns = _to(SIDE, device)[:, None] + steps[..., 0], _to(SIDE, device) + steps[..., 1]
    inside = (rows >= 0) & (rows < SIDE) & (columns >= 0) & (columns < SIDE)
    there = after.owner[_to(n, device)[:, None, None], rows.clamp(0, SIDE - 1), columns.clamp(0, SIDE - 1)]
    return steps, inside & (there == before.owner)


def _to(stop: int, device: torch.device) -> Tensor:
    return torch.arange(stop, device=device)
