"""Counterfactual world modelling: prompts that move a patch, and what a masked predictor answers (Venkatesh et al. 2023,
arXiv 2312.06721).

Frames are (n, 3, side, side) in [0, 1]. Patches lie on a grid of g x g; masks of patches are (n, g, g), bool, True where a patch is
visible; patches are named by row and column (n, 2). A predictor is a function of both frames and both masks that gives frame 1.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph
from torch import Tensor
from torch.nn import functional

from shared import moving_photographs
from shared.moving_photographs import Frame, Scenes
from shared.two_frame_predictor import PATCH, pixels

Predictor = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Masks = tuple[Tensor, Tensor]
SHIFTS = torch.tensor([(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0)])  # patches

# ---------------------------------------------------------------- masks of training


def factored(n: int, grid: int, most: int, rng: torch.Generator) -> Masks:
    """The temporally factored mask: frame 0 whole, and of frame 1 a random number, 0 to `most`, of random patches."""
    count = torch.randint(most + 1, (n,), generator=rng, device=rng.device)
    return torch.ones(n, grid, grid, dtype=torch.bool, device=rng.device), chosen(count, grid**2, rng).view(n, grid, grid)


def uniform(n: int, grid: int, least: int, most: int, rng: torch.Generator) -> Masks:
    """The usual mask of video: `least` to `most` random patches, anywhere in the two frames."""
    count = torch.randint(least, most + 1, (n,), generator=rng, device=rng.device)
    return chosen(count, 2 * grid**2, rng).view(n, 2, grid, grid).unbind(1)


def tube(n: int, grid: int, least: int, most: int, rng: torch.Generator) -> Masks:
    """VideoMAE's mask: as many patches as in `uniform`, or one more, at the same places in both frames."""
    count = torch.randint(least, most + 1, (n,), generator=rng, device=rng.device)
    seen = chosen((count + 1) // 2, grid**2, rng).view(n, grid, grid)
    return seen, seen


def chosen(count: Tensor, places: int, rng: torch.Generator) -> Tensor:
    """Random subsets (n, places), bool, of count (n,) places each."""
    order = torch.rand(len(count), places, generator=rng, device=rng.device).argsort(1)
    return order.argsort(1) < count[:, None]


def loss(prediction: Tensor, x1: Tensor, seen1: Tensor) -> Tensor:
    """Mean squared error on the hidden patches of frame 1."""
    hidden = 1 - pixels(seen1)
    return ((prediction - x1).square() * hidden).sum() / (3 * hidden.sum())


# ---------------------------------------------------------------- counterfactual prompts


def counterfactual(x0: Tensor, active: Tensor, shift: Tensor, passive: Tensor) -> tuple[Tensor, Tensor]:
    """Frame 1 of a prompt and what of it is visible: the active patch's content `shift` (n, 2) patches on, passive ones in place.

    x1 is a copy of x0 with the content of active (n, 2) at active + shift; visible are that place and passive (n, g, g). With a
    shift of 0 it is the static prompt. Raises ValueError when a shifted patch would leave the frame.
    """
    target = active + shift
    grid = passive.shape[-1]
    if (active < 0).any() or (active >= grid).any() or (target < 0).any() or (target >= grid).any():
        raise ValueError(f"active and active + shift must be patches 0..{grid - 1}")
    each = torch.arange(len(x0), device=x0.device)
    tiles = x0.unflatten(3, (grid, PATCH)).unflatten(2, (grid, PATCH)).clone()  # (n, 3, g, P, g, P)
    tiles[each, :, target[:, 0], :, target[:, 1]] = tiles[each, :, active[:, 0], :, active[:, 1]].clone()
    seen = passive.clone()
    seen[each, target[:, 0], target[:, 1]] = True
    return tiles.flatten(4, 5).flatten(2, 3), seen


def passives(active: Tensor, grid: int, count: int, far: int, rng: torch.Generator) -> Tensor:
    """Random passive patches (n, g, g), `count` each, at least `far` rows or columns from the active patch (n, 2)."""
    at = torch.arange(grid, device=active.device)
    rows, columns = ((at - active[:, i, None]).abs() for i in (0, 1))  # (n, g)
    near = torch.maximum(rows[:, :, None], columns[:, None]).flatten(1) < far
    score = torch.rand(near.shape, generator=rng, device=rng.device) + near
    return (score.argsort(1).argsort(1) < count).view(-1, grid, grid) & ~near.view(-1, grid, grid)


@torch.inference_mode()
def answers(net: Predictor, x0: Tensor, active: Tensor, shift: Tensor, passive: Tensor, batch: int = 64) -> Tensor:
    """Predictions (n, 3, side, side) for one prompt a frame: x0 whole, frame 1 as in `counterfactual`."""
    x1, seen1 = counterfactual(x0, active, shift, passive)
    seen0 = torch.ones_like(seen1)
    parts = zip(*(part.split(batch) for part in (x0, x1, seen0, seen1)), strict=True)
    return torch.cat([net(*part) for part in parts])


# ---------------------------------------------------------------- scenes to prompt, and what is true of them


def prompt_scenes(photographs: Tensor, masks: Tensor, n: int, rng: torch.Generator) -> tuple[Scenes, Tensor, Tensor]:
    """n scenes with an object to move, the last sprite: in front, and inside of the frame wherever `SHIFTS` may move it.

    Also the active patch (n, 2), the farthest from the object's centre of those that it covers by three quarters, and two of the
    background (2, n, 2), in random order, without any object and as nearly as possible at the same distance.
    """
    kept, found = [], 0
    while found < n:
        scenes = moving_photographs.draw(photographs, masks, 4 * n, rng)
        owner = moving_photographs.render(scenes).owner
        active, background, fit = prompts(owner, scenes.place.shape[1])
        kept.append([part[fit] for part in (*scenes, active, background.transpose(0, 1))])
        found += int(fit.sum())
    *parts, active, background = (torch.cat(part)[:n] for part in zip(*kept, strict=True))
    swap = torch.rand(n, 1, 1, generator=rng, device=rng.device) < 0.5
    return Scenes(*parts), active, torch.where(swap, background.flip(1), background).transpose(0, 1)


def prompts(owner: Tensor, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """The active (n, 2) and the background patches (2, n, 2) of each frame's target, as in `prompt_scenes`, and whether it fits."""
    mask = owner == target
    side, device = owner.shape[1], owner.device
    grid = side // PATCH
    covered, any_object = (functional.avg_pool2d(part[:, None].float(), PATCH)[:, 0] for part in (mask, owner > 0))
    at = torch.arange(side, device=device)
    centre = torch.stack([mean_over(at[:, None].expand(side, side), mask), mean_over(at.expand(side, side), mask)], 1)
    middle = PATCH * torch.arange(grid, device=device) + (PATCH - 1) / 2
    apart = torch.hypot(middle[:, None] - centre[:, 0, None, None], middle - centre[:, 1, None, None])  # (n, g, g)
    inner = torch.zeros(grid, grid, dtype=torch.bool, device=device)
    inner[1:-1, 1:-1] = True
    good, empty = inner & (covered >= 0.75), inner & (any_object == 0)
    active = apart.masked_fill(~good, -1).flatten(1).argmax(1)
    gap = (apart - apart.flatten(1).gather(1, active[:, None])[:, :, None]).abs()
    background = gap.masked_fill(~empty, torch.inf).flatten(1).topk(2, largest=False).indices.T
    border = mask.clone()
    border[:, PATCH:-PATCH, PATCH:-PATCH] = False
    fit = good.flatten(1).any(1) & (empty.sum((1, 2)) >= 2) & ~border.flatten(1).any(1)
    return *(torch.stack([part // grid, part % grid], -1) for part in (active, background)), fit


def moved(scenes: Scenes, shift: Tensor) -> Frame:
    """The scenes rendered again with the object `shift` (n, 2) patches on, and all else as it was."""
    displaced = torch.zeros_like(scenes.place)
    displaced[:, -1] = PATCH * shift
    return moving_photographs.render(scenes, displaced)


def outside(patches: Tensor, side: int) -> Tensor:
    """Pixels (n, side, side), bool, that lie in none of the patches (n, m, 2)."""
    grid = side // PATCH
    inside = torch.zeros(len(patches), grid, grid, dtype=torch.bool, device=patches.device)
    inside[torch.arange(len(patches), device=patches.device)[:, None], patches[..., 0], patches[..., 1]] = True
    return pixels(inside)[:, 0] == 0


def errors(prediction: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error (n,) over the pixels of a mask (n, side, side)."""
    return mean_over((prediction - truth).square().mean(1), mask)


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """Means (n,) of values (n, h, w), or (h, w), over a mask (n, h, w), bool; NaN where it is empty."""
    return (values * mask).sum((1, 2)) / mask.sum((1, 2))


# ---------------------------------------------------------------- segments


def change(prediction: Tensor, static: Tensor) -> Tensor:
    """How much a prompt changes each pixel of the prediction (..., side, side): mean absolute difference over colours."""
    return (prediction - static).abs().mean(-3)


def kept(changes: Tensor, active: Tensor, threshold: float, most_area: float = 0.75, most_corners: int = 2) -> Tensor:
    """Which samples (n, s), bool, the filters keep: those in which the place that the active patch left changes by the threshold on
    average, at most `most_area` of the pixels change by it, and at most `most_corners` of the frame's corners.

    changes (n, s, side, side), active (n, 2). The official filters `patch_magnitude`, `flow_area` and `num_corners`.
    """
    side = changes.shape[-1]
    left = ~outside(active[:, None], side)[:, None]  # (n, 1, side, side)
    moved_away = (changes * left).sum((2, 3)) / left.sum((2, 3)) >= threshold
    flows = changes >= threshold
    corners = flows[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].sum(2)
    return moved_away & (flows.float().mean((2, 3)) <= most_area) & (corners <= most_corners)


def averaged(changes: Tensor, valid: Tensor, keep: Tensor) -> Tensor:
    """Mean over samples (n, side, side) of changes (n, s, side, side), each pixel over the kept samples (n, s) in which it is valid
    (n, s, side, side), bool; over all samples where none is kept, and 0 where a pixel is never valid."""
    keep = keep | ~keep.any(1, keepdim=True)
    weight = (valid & keep[:, :, None, None]).float()
    return (changes * weight).sum(1) / weight.sum(1).clamp_min(1)


def blob(active: Tensor, side: int) -> Tensor:
    """Baseline: minus the distance to the centre of the active patch (n, side, side), pixels."""
    at = torch.arange(side, device=active.device)
    centre = PATCH * active + (PATCH - 1) / 2
    return -torch.hypot((at - centre[:, :1])[:, :, None], (at - centre[:, 1:])[:, None])


def region_growing(image: NDArray, active: NDArray, step: float) -> NDArray:
    """Baseline: minus the length of the shortest way (side, side) from the active patch (2,) through an image (3, side, side).

    A step to a neighbour is as long as their colours differ (Euclidean), and `step` longer.
    """
    side = image.shape[1]
    number = np.arange(side**2).reshape(side, side)
    lengths, ends = [], []
    for one, other in (((slice(None), slice(1, None)), (slice(None), slice(None, -1))), ((slice(1, None),), (slice(None, -1),))):
        lengths.append(np.linalg.norm(image[(slice(None), *one)] - image[(slice(None), *other)], axis=0).ravel() + step)
        ends.append(np.stack([number[one].ravel(), number[other].ravel()]))
    graph = sparse.coo_array((np.concatenate(lengths), np.concatenate(ends, 1)), shape=(side**2, side**2)).tocsr()
    row, column = PATCH * active
    start = number[row : row + PATCH, column : column + PATCH].ravel()
    return -csgraph.dijkstra(graph, directed=False, indices=start, min_only=True).reshape(side, side)


def motion_covariance(changes: Tensor) -> Tensor:
    """Which pixels move together: correlations over samples (p, p) of changes (s, p); 0 for a pixel that never changes."""
    centred = changes - changes.mean(0)
    unit = centred / centred.norm(dim=0).clamp_min(1e-12)
    return unit.T @ unit


def sample_energies(net: Predictor, x0: Tensor, rounds: int, samples: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Changes (rounds * samples, side, side) under random prompts of one frame (3, side, side), and the active patches.

    In the first round all inner patches are as likely; later ones by the energy, the mean change so far of their pixels (official
    code: more samples where things are likely to move).
    """
    grid = x0.shape[-1] // PATCH
    inner = torch.zeros(grid, grid)
    inner[1:-1, 1:-1] = 1
    energy, changes, places = inner, [], []
    for _ in range(rounds):
        at = torch.multinomial(energy.flatten(), samples, replacement=True, generator=rng)
        active = torch.stack([at // grid, at % grid], 1)
        shift = SHIFTS[torch.randint(len(SHIFTS), (samples,), generator=rng)]
        passive = passives(active, grid, 1, 3, rng)
        frames = x0.expand(samples, -1, -1, -1)
        answer, static = (answers(net, frames, active, step, passive) for step in (shift, torch.zeros_like(shift)))
        changes.append(change(answer, static))
        places.append(active)
        energy = inner * functional.avg_pool2d(torch.cat(changes).mean(0)[None], PATCH)[0]
    return torch.cat(changes), torch.cat(places)


# ---------------------------------------------------------------- key points, flow and occlusion


@torch.inference_mode()
def key_points(net: Predictor, x0: Tensor, x1: Tensor, count: int) -> tuple[Tensor, list[float]]:
    """Patches of frame 1 (count, 2) whose reveal lowers the error most, chosen greedily, and the error after each.

    x0, x1: (3, side, side) of one clip. The error is the mean squared one over the whole of frame 1, revealed patches at 0.
    """
    grid = x0.shape[-1] // PATCH
    seen, places, found = torch.zeros(grid**2, dtype=torch.bool), [], []
    for _ in range(count):
        options = torch.eye(grid**2, dtype=torch.bool) | seen
        masks = options.view(-1, grid, grid)
        frames = [x.expand(len(masks), -1, -1, -1) for x in (x0, x1)]
        answer = torch.where(pixels(masks) > 0, x1, net(*frames, torch.ones_like(masks), masks))
        error = (answer - x1).square().mean((1, 2, 3)).masked_fill(seen, torch.inf)
        seen[error.argmin()] = True
        places.append(error.argmin())
        found.append(error.min().item())
    at = torch.stack(places)
    return torch.stack([at // grid, at % grid], 1), found


@torch.inference_mode()
def responses(net: Predictor, x0: Tensor, x1: Tensor, marked: Tensor, seen1: Tensor, size: float) -> Tensor:
    """What a marker on patches of x0 does to the prediction (n, side, side): the difference quotient, mean over colours and masks.

    marked (n, g, g): where a marker of `size` is added to x0 on one side, and taken away on the other. seen1 (n, m, g, g): m masks
    of frame 1, x1 (n, 3, side, side) its truth. A visible patch of frame 1 tells nothing, and counts in no mean.
    """
    n, m = seen1.shape[:2]
    bump = size * pixels(marked)
    frames = [part.repeat_interleave(m, 0) for part in (x0 + bump, x0 - bump, x1)]
    masks = seen1.flatten(0, 1)
    plus, minus = (net(frame, frames[2], torch.ones_like(masks), masks) for frame in frames[:2])
    hidden = 1 - pixels(masks)
    difference = ((plus - minus).mean(1, keepdim=True) * hidden / (2 * size)).view(n, m, *x0.shape[2:])
    return difference.sum(1) / hidden.view(n, m, *x0.shape[2:]).sum(1).clamp_min(1)


def landed(response: Tensor, patch: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """How far a marker went (n, 2), pixels, and how strong it is there (n,): to the window of a patch's size with the greatest mean
    response (n, side, side), at most `reach` rows and columns from the marked patch (n, 2)."""
    return nearest_best(functional.avg_pool2d(response[:, None], PATCH, 1)[:, 0], patch, reach)


def block_matching(x0: Tensor, x1: Tensor, patch: Tensor, reach: int) -> Tensor:
    """Baseline: how far (n, 2) a patch (n, 2) of x0 went to the window of x1 most like it, at most `reach` rows and columns."""
    row, column = (PATCH * patch[:, i, None] + torch.arange(PATCH) for i in (0, 1))
    each, colour = torch.arange(len(x0))[:, None, None, None], torch.arange(3)[:, None, None]
    block = x0[each, colour, row[:, None, :, None], column[:, None, None]]  # (n, 3, P, P)
    windows = x1.unfold(2, PATCH, 1).unfold(3, PATCH, 1)  # (n, 3, w, w, P, P)
    gap = (windows - block[:, :, None, None]).square().sum((1, 4, 5))
    return nearest_best(-gap, patch, reach)[0]


def nearest_best(score: Tensor, patch: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Of windows by their upper left corner, with a score (n, w, w): how far from the patch (n, 2) the best one within reach lies
    (n, 2), and its score (n,)."""
    width = score.shape[1]
    at = torch.arange(width)
    far = ((at - PATCH * patch[:, :1]).abs()[:, :, None] > reach) | ((at - PATCH * patch[:, 1:]).abs()[:, None] > reach)
    best = score.masked_fill(far, -torch.inf).flatten(1).max(1)
    return torch.stack([best.indices // width, best.indices % width], 1) - PATCH * patch, best.values


# ---------------------------------------------------------------- contact


def contact_scenes(photographs: Tensor, masks: Tensor, n: int, horizon: int, rng: torch.Generator) -> tuple[Scenes, Tensor, Tensor]:
    """n scenes of two sprites, their steady velocities (n, 2, 2), pixels a frame, and whether they will touch (n,): half of them.

    Frames 0 to 2 are to be seen: in these both sprites are wholly inside, and apart. They touch or not in frames 3 to `horizon`.
    Velocities are random, up to 3 pixels down or up and left or right; half of the sprites rest, but not both of a scene. Every
    clip has a scene of its own: of clips that share one, a read-out would learn the scene.
    """
    kept, found = {False: [], True: []}, {False: 0, True: 0}

    def inside(scenes: Scenes, moved: Tensor) -> Tensor:
        covered = moving_photographs.covers(scenes, moved)
        whole = (covered.sum((2, 3)) == scenes.shape.sum((2, 3))).all(1)
        return whole & ~moving_photographs.touch(covered)

    while min(found.values()) < n // 2:
        scenes = moving_photographs.draw(photographs, masks, 4 * n, rng, sprites=2)
        fit = scenes.shape.any((2, 3)).all(1) & inside(scenes, torch.zeros_like(scenes.place))
        scenes = Scenes(*(part[fit] for part in scenes))
        n_tried = len(scenes.place)
        velocity = torch.randint(-3, 4, (n_tried, 2, 2), generator=rng) * (torch.rand(n_tried, 2, 1, generator=rng) < 0.5)
        fit = (velocity != 0).any((1, 2)) & inside(scenes, velocity)
        scenes, velocity = Scenes(*(part[fit] for part in scenes)), velocity[fit]
        seen = inside(scenes, 2 * velocity)
        touching = [moving_photographs.touch(moving_photographs.covers(scenes, t * velocity)) for t in range(3, horizon + 1)]
        later = torch.stack(touching).any(0)
        for label in kept:
            fit = seen & (later == label)
            kept[label].append([part[fit] for part in (*scenes, velocity)])
            found[label] += int(fit.sum())
    halves = [[torch.cat(part)[: n // 2] for part in zip(*kept[label], strict=True)] for label in kept]
    *parts, velocity = (torch.cat(both) for both in zip(*halves, strict=True))
    return Scenes(*parts), velocity, torch.arange(2).repeat_interleave(n // 2).bool()


def grid_flow(net: Predictor, x0: Tensor, x1: Tensor, seen1: Tensor, size: float, reach: int) -> tuple[Tensor, Tensor]:
    """Flow (n, 16, 2) of every other patch in both directions, and these patches (16, 2); four markers, 16 pixels apart, share a
    pass. seen1 (n, m, g, g): masks as in `responses`; reach: less than half of the 16 pixels.
    """
    n, grid = len(x0), seen1.shape[-1]
    every = torch.cartesian_prod(torch.arange(0, grid, 2), torch.arange(0, grid, 2))
    flow = torch.zeros(n, len(every), 2)
    for group in torch.cartesian_prod(torch.tensor([0, 2]), torch.tensor([0, 2])):
        members = ((every - group) % 4 == 0).all(1).nonzero()[:, 0]
        marked = torch.zeros(n, grid, grid, dtype=torch.bool)
        marked[:, every[members, 0], every[members, 1]] = True
        parts = zip(*(part.split(64) for part in (x0, x1, marked, seen1)), strict=True)
        response = torch.cat([responses(net, *part, size) for part in parts])
        for j in members:
            flow[:, j] = landed(response, every[j].expand(n, 2), reach)[0].float()
    return flow, every
