"""A small network that fills in the hidden patches of the second of two frames.

Frames are (n, 3, side, side) in [0, 1]; `seen` are masks (n, side / PATCH, side / PATCH), bool: which patches are visible.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

PATCH = 4  # pixels
WIDTHS = (32, 64)  # channels at half and at a quarter of the frames' resolution
HEADS = 4


class TwoFramePredictor(nn.Module):
    """A U-Net with attention between patches, from both masked frames to frame 1, as a change of frame 0's visible patches.

    rng: draws the first weights. The last layer starts at 0: a new network copies frame 0.
    """

    def __init__(self, rng: torch.Generator):
        super().__init__()
        fine, coarse = WIDTHS
        self.stem = nn.Conv2d(4 * 8, fine, 3, padding=1)
        self.enter = Block(fine)
        self.down = nn.Conv2d(fine, coarse, 2, 2)
        self.coarse = nn.ModuleList([Block(coarse), Attention(coarse), Block(coarse), Attention(coarse), Block(coarse)])
        self.up = nn.ConvTranspose2d(coarse, fine, 2, 2)
        self.merge = nn.Conv2d(2 * fine, fine, 1)
        self.leave = Block(fine)
        self.out = nn.Conv2d(fine, 4 * 3, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                bound = (3 / layer.weight[0].numel()) ** 0.5
                nn.init.uniform_(layer.weight, -bound, bound, generator=rng)
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.out.weight)

    def features(self, x0: Tensor, x1: Tensor, seen0: Tensor, seen1: Tensor) -> Tensor:
        """What the network makes of each patch (n, channels, side / PATCH, side / PATCH)."""
        return self._encode(_given(x0, x1, seen0, seen1))[1]

    def forward(self, x0: Tensor, x1: Tensor, seen0: Tensor, seen1: Tensor) -> Tensor:
        """Frame 1 (n, 3, side, side), also where it was visible. Values may leave [0, 1] a little."""
        given = _given(x0, x1, seen0, seen1)
        fine, coarse = self._encode(given)
        h = self.leave(self.merge(torch.cat([fine, self.up(coarse)], 1)))
        return given[:, :3] + functional.pixel_shuffle(self.out(functional.silu(h)), 2) + 0.5

    def _encode(self, given: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.enter(self.stem(functional.pixel_unshuffle(given, 2)))
        coarse = self.down(fine)
        for layer in self.coarse:
            coarse = layer(coarse)
        return fine, coarse


class Block(nn.Module):
    """x + conv(silu(conv(silu(norm(x)))))."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(functional.silu(self.first(functional.silu(self.norm(x)))))


class Attention(nn.Module):
    """Every patch looks at every other one; places are told by a learnt code of `side` x `side` places."""

    def __init__(self, width: int, side: int = 8):
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.place = nn.Parameter(torch.zeros(width, side, side))
        self.ask, self.give = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, width, h, w = x.shape
        parts = self.ask(self.norm(x) + self.place).reshape(n, 3, HEADS, width // HEADS, h * w).transpose(3, 4)
        mixed = functional.scaled_dot_product_attention(*parts.unbind(1))  # (n, heads, patches, width / heads)
        return x + self.give(mixed.transpose(2, 3).reshape(n, width, h, w))


def pixels(seen: Tensor) -> Tensor:
    """A mask of patches (n, g, g) as one of pixels (n, 1, PATCH g, PATCH g), float."""
    return seen[:, None].float().repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)


def _given(x0: Tensor, x1: Tensor, seen0: Tensor, seen1: Tensor) -> Tensor:
    """Both frames around 0 with their hidden patches at 0, and both masks: (n, 8, side, side)."""
    first, second = pixels(seen0), pixels(seen1)
    if x0.shape != x1.shape or x0.shape[2:] != first.shape[2:] or x1.shape[2:] != second.shape[2:]:
        raise ValueError(f"frames {tuple(x0.shape)}, {tuple(x1.shape)} and masks {tuple(seen0.shape)} do not fit")
    return torch.cat([(x0 - 0.5) * first, (x1 - 0.5) * second, first, second], 1)
