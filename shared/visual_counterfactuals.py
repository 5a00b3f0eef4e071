"""What counterfactual images are measured by, one number an image, and two reference rows that any method should beat.

Images are (n, channels, height, width) in [0, 1]. Scores (n, K) are log-probabilities of classes up to a number per row; whose they
are decides what is measured: the explained classifier's say whether a counterfactual is valid, an oracle's whether it is realistic.
"""

from collections.abc import Callable

import torch
from torch import Tensor

SEEN = 0.1  # change of a pixel that counts as one


def flipped(scores: Tensor, target: Tensor) -> Tensor:
    """1 where the target class (n,) is the likeliest, else 0: (n,)."""
    return (scores.argmax(1) == target).float()


def probability(scores: Tensor, of: Tensor) -> Tensor:
    """The probability (n,) of the classes `of` (n,)."""
    return scores.softmax(1).gather(1, of[:, None])[:, 0]


def changes(x: Tensor, other: Tensor) -> dict[str, Tensor]:
    """How far images `other` are from x, each (n,): mean absolute and squared difference, share of values changed by more than .1.

    Raises ValueError for other shapes or values out of [0, 1].
    """
    if x.ndim != 4 or x.shape != other.shape:
        raise ValueError(
            f"x and other must have one shape (n, channels, height, width), not {tuple(x.shape)}, {tuple(other.shape)}"
        )
    for name, images in (("x", x), ("other", other)):
        if not ((images >= 0) & (images <= 1)).all():  # NaN is neither
            raise ValueError(f"{name} must lie in [0, 1]")
    gap = (other - x).abs().flatten(1)
    return {"L1": gap.mean(1), "L2": gap.square().mean(1), "changed": (gap > SEEN).float().mean(1)}


def nearest(x: Tensor, target: Tensor, pool: Tensor, labels: Tensor) -> Tensor:
    """Reference row: of each image's target class (n,) the real image in `pool` with labels (m,) that is nearest in L2.

    Raises ValueError when a target is no label of the pool.
    """
    if not torch.isin(target, labels).all():
        raise ValueError("target must be classes that occur among the labels of the pool")
    apart = torch.cdist(x.flatten(1), pool.flatten(1))  # (n, m)
    return pool[apart.masked_fill(labels != target[:, None], torch.inf).argmin(1)]


def attack(log_odds: Callable[[Tensor], Tensor], x: Tensor, *, goal: float, step: float, passes: int) -> Tensor:
    """Reference row: an adversarial change of pixels, steps against the gradient's sign until log_odds (n,) are at `goal` or below.

    log_odds: of the predicted class against the target, for images; may be random. step: of a pixel, in (0, 1]. An image rests once
    it is there. Raises ValueError for another step or no passes.
    """
    if not 0 < step <= 1 or passes < 1:
        raise ValueError(f"step must be in (0, 1] and passes at least 1, not {step} and {passes}")
    for _ in range(passes):
        asked = x.clone().requires_grad_()
        odds = log_odds(asked)
        (slope,) = torch.autograd.grad(odds.sum(), asked)
        going = (odds.detach() > goal)[:, None, None, None]
        x = torch.where(going, (x - step * slope.sign()).clamp(0, 1), x)
    return x


def slant(x: Tensor) -> Tensor:
    """How far the ink of images leans, (n,): its covariance of column and row by its variance of rows, pixels right for one down.

    Ink is the sum over channels; NaN for an image without any, or in one row.
    """
    ink = x.sum(1) / x.sum((1, 2, 3))[:, None, None]  # (n, height, width), a distribution
    rows, columns = (torch.arange(size, dtype=x.dtype) for size in x.shape[2:])
    down = rows - (ink.sum(2) @ rows)[:, None]  # (n, height)
    right = columns - (ink.sum(1) @ columns)[:, None]
    both = torch.einsum("nhw,nh,nw->n", ink, down, right)
    return both / (ink.sum(2) * down.square()).sum(1)
