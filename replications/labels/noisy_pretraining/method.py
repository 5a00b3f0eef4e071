"""Understanding and mitigating the label noise in pre-training on downstream tasks (Chen et al. 2023, arXiv 2309.17002)."""

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

ROTATIONS = 4
WIDTHS, STRIDES = (16, 48, 64, 96), (2, 2, 2, 1)
FEATURES = WIDTHS[-1]

# ---------------------------------------------------------------- pre-training


class Backbone(nn.Sequential):
    """Images (n, 3, 32, 32) in [-1, 1] -> features (n, 96), not negative: four 3 x 3 convolutions, a mean over space."""

    def __init__(self, rng: torch.Generator):
        layers, width = [], 3
        for out, stride in zip(WIDTHS, STRIDES, strict=True):
            layers += [_drawn(nn.Conv2d(width, out, 3, stride, padding=1, bias=False), rng), nn.BatchNorm2d(out), nn.ReLU()]
            width = out
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _drawn(layer: nn.Conv2d | nn.Linear, rng: torch.Generator) -> nn.Module:
    nn.init.kaiming_normal_(layer.weight, generator=rng)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def pixels(images: Tensor) -> Tensor:
    """Images (n, 32, 32, 3) uint8 -> (n, 3, 32, 32) float in [-1, 1]. Raises ValueError for another shape or type."""
    if images.ndim != 4 or images.shape[1:] != (32, 32, 3) or images.dtype != torch.uint8:
        raise ValueError(f"images must be (n, 32, 32, 3) uint8, not {tuple(images.shape)} {images.dtype}")
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def turned(images: Tensor, turns: Tensor) -> Tensor:
    """Images (n, 3, 32, 32), each turned by 90 degrees as often as `turns` (n,) says, 0..3."""
    out = images.clone()
    for k in range(1, ROTATIONS):
        out[turns == k] = torch.rot90(images[turns == k], k, (2, 3))
    return out.contiguous(memory_format=torch.channels_last)


def pretrain(
    images: Tensor, turns: Tensor, labels: Tensor, classes: int, rng: torch.Generator, *, epochs: int, batch: int, lr: float,
    stop_after: int | None = None,
) -> tuple[list[nn.Sequential], Tensor]:  # fmt: skip
    """Networks that tell `classes` labels from turned images, one a row of labels; nothing but the labels differs between them.

    images: (n, 3, 32, 32) in [-1, 1], upright; turns: (n,) 0..3; labels: (arms, n) 0..classes-1, perhaps wrong. Every arm starts at
    the same weights and sees the same batches: mirrored with probability 1/2, then turned. SGD with Nesterov momentum .9, weight
    decay 5e-4, a cosine from `lr` to 0 over all epochs; what is left of an epoch after full batches is dropped.
    Returns (a network an arm: a Backbone, then its linear head, in evaluation mode; losses (steps, arms)). `stop_after` ends after
    so many steps, on the way. Raises ValueError when shapes or labels do not fit, or a batch is larger than the set.
    """
    n = len(images)
    if turns.shape != (n,) or labels.ndim != 2 or labels.shape[1] != n:
        raise ValueError(f"turns must be ({n},) and labels (arms, {n}), not {tuple(turns.shape)} and {tuple(labels.shape)}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must be 0..{classes - 1}")
    if not 1 <= batch <= n:
        raise ValueError(f"batch must be 1..{n}, not {batch}")
    start = nn.Sequential(Backbone(rng), _drawn(nn.Linear(FEATURES, classes), rng)).to(memory_format=torch.channels_last)
    nets = [deepcopy(start) for _ in labels]
    optimisers = [torch.optim.SGD(net.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4) for net in nets]
    steps = epochs * (n // batch)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps) for optimiser in optimisers]
    losses = []
    for rows in _batches(n, batch, epochs, rng)[:stop_after]:
        mirrored = torch.rand(batch, generator=rng)[:, None, None, None] < 0.5
        shown = turned(torch.where(mirrored, images[rows].flip(3), images[rows]), turns[rows])  # (batch, 3, 32, 32)
        losses.append([_step(*arm, shown, y[rows]) for *arm, y in zip(nets, optimisers, schedules, labels, strict=True)])
    return [net.eval() for net in nets], torch.tensor(losses)


def _batches(n: int, batch: int, epochs: int, rng: torch.Generator) -> Sequence[Tensor]:
    """Rows of every step: 0..n-1 in a fresh random order each epoch."""
    return [rows for _ in range(epochs) for rows in torch.randperm(n, generator=rng)[: n // batch * batch].split(batch)]


def _step(net, optimiser, schedule, images: Tensor, labels: Tensor) -> float:
    loss = functional.cross_entropy(net(images), labels)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()
    return loss.item()


# ---------------------------------------------------------------- what a shift does to pictures


def shifted(images: Tensor) -> dict[str, Tensor]:
    """Images (n, 3, 32, 32) in [-1, 1] under five shifts, each of the same shape and range, by name.

    Contrast x 0.3; a 5 x 5 box blur; pixels of 4 x 4; colours inverted; a sketch: bright paper, dark where brightness has an edge
    (Sobel's gradient, divided by its largest value in the image).
    """
    padded = functional.pad(images, (2, 2, 2, 2), mode="replicate")
    grey = functional.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")  # (n, 1, 34, 34)
    sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
    edges = functional.conv2d(grey, torch.stack([sobel, sobel.T])[:, None]).norm(dim=1, keepdim=True)  # (n, 1, 32, 32)
    return {
        "low contrast": 0.3 * images,
        "blur": functional.avg_pool2d(padded, 5, stride=1),
        "coarse pixels": functional.interpolate(functional.avg_pool2d(images, 4), scale_factor=4),
        "inverted": -images,
        "sketch": (1 - 2 * edges / edges.amax((2, 3), keepdim=True).clamp_min(1e-2)).expand(-1, 3, -1, -1),
    }


# ---------------------------------------------------------------- the spectrum of features


def spectrum(features: Tensor) -> Tensor:
    """Singular values (min(n, d),), falling, of features (n, d): each row of length 1, less the row's own mean (section on SVD).

    The centring is over a row's features, as in the official code, and not over images. Raises ValueError for other shapes, NaN or
    a row of zeros.
    """
    features = _finite("features", features, 2)
    length = features.norm(dim=1, keepdim=True)
    if (length == 0).any():
        raise ValueError("features has a row of zeros, which has no direction")
    rows = features / length
    return torch.linalg.svdvals(rows - rows.mean(1, keepdim=True))


def sve(values: Tensor) -> float:
    """Singular value entropy -sum_j p_j log p_j, p_j = s_j / sum s, in nats: 0 for one direction, log d for d equal ones."""
    return float(torch.special.entr(_shares(values)).sum())


def lsvr(values: Tensor) -> float:
    """Largest singular value ratio -log(s_1 / sum s), in nats: 0 for one direction, log d for d equal ones."""
    return -float(_shares(values).max().log())


def _shares(values: Tensor) -> Tensor:
    values = _finite("values", values, 1)
    if (values < 0).any() or values.sum() == 0:
        raise ValueError("values must be singular values: none below 0, not all 0")
    return values / values.sum()


# ---------------------------------------------------------------- heads on frozen features


class Probe(nn.Module):
    """Linear heads on the frozen features of m backbones, one each: (m, n, d) -> (the features, logits (m, n, classes)).

    All m start at the same weights. With `hidden` the features first pass the adapter of NMTune (section 4, official code):
    z = f + a * MLP(f), MLP a linear layer, batch normalisation, ReLU and a linear layer, a (d,) learned from 1.
    """

    def __init__(self, m: int, d: int, classes: int, rng: torch.Generator, hidden: int = 0):
        super().__init__()
        self.weight, self.bias = self._layer(m, d, classes, rng)
        self.hidden = hidden
        if hidden:
            self.weight_in, self.bias_in = self._layer(m, d, hidden, rng)
            self.weight_out, self.bias_out = self._layer(m, hidden, d, rng)
            self.norm = nn.BatchNorm1d(m * hidden)
            self.scale = nn.Parameter(torch.ones(m, 1, d))

    @staticmethod
    def _layer(m: int, inputs: int, outputs: int, rng: torch.Generator) -> tuple[nn.Parameter, nn.Parameter]:
        bound = inputs**-0.5  # torch's own start of a linear layer
        weight, bias = ((2 * torch.rand(1, rows, outputs, generator=rng) - 1) * bound for rows in (inputs, 1))
        return nn.Parameter(weight.repeat(m, 1, 1)), nn.Parameter(bias.repeat(m, 1, 1))

    def forward(self, f: Tensor) -> tuple[Tensor, Tensor]:
        z = f
        if self.hidden:
            h = torch.baddbmm(self.bias_in, f, self.weight_in).transpose(0, 1)  # (n, m, hidden)
            h = self.norm(h.flatten(1)).reshape(h.shape).transpose(0, 1)  # (m, n, hidden), each unit with its own mean and variance
            z = f + self.scale * torch.baddbmm(self.bias_out, h.relu(), self.weight_out)
        return z, torch.baddbmm(self.bias, z, self.weight)


def consistency(z: Tensor, f: Tensor) -> Tensor:
    """Mean squared difference (m,) of z (m, n, d) and f (m, n, d), each row divided by its length; f is not trained (L_MSE)."""
    return (functional.normalize(z, dim=-1) - functional.normalize(f, dim=-1).detach()).square().mean((1, 2))


def covariance(z: Tensor) -> Tensor:
    """sum_{i != j} C_ij^2 / d (m,), C the covariance over a batch of z (m, n, d) (L_COV)."""
    centred = z - z.mean(1, keepdim=True)
    c = centred.mT @ centred / (z.shape[1] - 1)  # (m, d, d)
    return (c.square().sum((1, 2)) - c.diagonal(dim1=1, dim2=2).square().sum(1)) / z.shape[2]


def dominance(z: Tensor) -> Tensor:
    """Mean share (m,) of the five largest singular values of a batch z (m, n, d), not centred, among all (-L_SVD)."""
    values = torch.linalg.svdvals(z)
    return (values / values.sum(1, keepdim=True))[:, :5].mean(1)


def regularisers(z: Tensor, f: Tensor) -> Tensor:
    """The three terms of NMTune (m,), by the official code's weights; the last is wanted large."""
    return 1.0 * consistency(z, f) + 0.04 * covariance(z) - 0.001 * dominance(z)


def fit(
    probe: Probe, features: Tensor, labels: Tensor, rng: torch.Generator, penalty: Callable[[Tensor, Tensor], Tensor] | None = None,
    *, epochs: int, batch: int, lr: float,
) -> Probe:  # fmt: skip
    """The probe trained on features (m, n, d) and labels (m, n): cross-entropy, and penalty(z, f) (m,) if there is one.

    AdamW with weight decay 1e-4, a cosine from `lr` to 0; the m heads see the same rows in a batch and do not touch each other.
    Returns the probe in evaluation mode. Raises ValueError when shapes do not fit, for NaN, or a batch larger than the set.
    """
    features = _finite("features", features, 3)
    m, n, _ = features.shape
    if labels.shape != (m, n):
        raise ValueError(f"labels must be ({m}, {n}), one a row of features, not {tuple(labels.shape)}")
    if not 2 <= batch <= n:
        raise ValueError(f"batch must be 2..{n}, not {batch}")
    steps = _batches(n, batch, epochs, rng)
    optimiser = torch.optim.AdamW(probe.parameters(), lr, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, len(steps))
    probe.train()
    for rows in steps:
        z, logits = probe(features[:, rows])  # (m, batch, d), (m, batch, classes)
        losses = functional.cross_entropy(logits.transpose(1, 2), labels[:, rows], reduction="none").mean(1)
        if penalty is not None:
            losses = losses + penalty(z, features[:, rows])
        optimiser.zero_grad()
        losses.sum().backward()
        optimiser.step()
        schedule.step()
    return probe.eval()


@torch.inference_mode()
def accuracy(probe: Probe, features: Tensor, labels: Tensor) -> Tensor:
    """Share (m,) of rows of features (m, n, d) whose label (m, n) the head tells."""
    return (probe(features)[1].argmax(-1) == labels).float().mean(1)


def whitener(features: Tensor) -> Callable[[Tensor], Tensor]:
    """PCA whitening of features (m, n, d), a map of (m, n', d): mean 0, covariance 1 but for directions of next to no variance."""
    mean = features.mean(1, keepdim=True)
    _, values, directions = torch.linalg.svd((features - mean) / (features.shape[1] - 1) ** 0.5, full_matrices=False)
    values = values.clamp_min(1e-3 * values[:, :1])
    return lambda other: (other - mean) @ (directions.mT / values[:, None, :])


def _finite(name: str, value: Tensor, ndim: int) -> Tensor:
    if value.ndim != ndim or value.numel() == 0 or not torch.isfinite(value).all():
        raise ValueError(f"{name} must be finite numbers with {ndim} axes, not of shape {tuple(value.shape)}")
    return value
