"""Speech enhancement with a diffusion from clean to noisy spectrograms, SGMSE+ (Richter et al. 2022, arXiv 2208.05830)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

# ---------------------------------------------------------------- the process


class Process(NamedTuple):
    """dx = gamma (y - x) dt + g(t) dw, t from 0 to 1: speech drifts to `y` at the rate gamma while noise of sd s(t) is added.

    gamma = 0: no drift, so that reverse sampling starts at Gaussian noise (variance exploding).
    """

    gamma: float = 1.5
    s_min: float = 0.05
    s_max: float = 0.5

    @property
    def log_ratio(self) -> float:
        """L = log(s_max / s_min)."""
        return float(torch.tensor(self.s_max / self.s_min, dtype=torch.float64).log())

    def g(self, t: Tensor) -> Tensor:
        """g(t) = s_min (s_max / s_min)^t sqrt(2 L)."""
        return self.s_min * torch.exp(self.log_ratio * t) * (2 * self.log_ratio) ** 0.5

    def kept(self, t: Tensor) -> Tensor:
        """e^(-gamma t), the weight of the clean spectrogram in the mean; that of y is 1 minus it."""
        return torch.exp(-self.gamma * t)

    def sd(self, t: Tensor) -> Tensor:
        """s(t)^2 = s_min^2 ((s_max / s_min)^(2 t) - e^(-2 gamma t)) L / (gamma + L)."""
        growth = torch.exp(2 * self.log_ratio * t) - torch.exp(-2 * self.gamma * t)
        return (self.s_min**2 * growth * self.log_ratio / (self.gamma + self.log_ratio)).sqrt()


def complex_normal(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Complex numbers with E|z|^2 = 1, half of it in each part."""
    return torch.randn(*shape, dtype=torch.complex64, generator=rng, device=rng.device)


def perturbed(process: Process, x0: Tensor, to: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """x_t = e^(-gamma t) x0 + (1 - e^(-gamma t)) to + s(t) z of spectrograms (n, f, frames) at times t (n,)."""
    kept, sd = process.kept(t)[:, None, None], process.sd(t)[:, None, None]
    return kept * x0 + (1 - kept) * to + sd * z


# ---------------------------------------------------------------- sampling


def sample(
    score: Callable[[Tensor, Tensor], Tensor], around: Tensor, to: Tensor, process: Process, draw: Callable[[], Tensor], steps: int,
    *, r: float = 0.5, corrector: bool = True, t_start: float = 1.0, t_end: float = 0.03, watch: Callable | None = None,
) -> Tensor:  # fmt: skip
    """The paper's predictor-corrector sampler: a spectrogram like `around`, by steps from t_start to t_end and from there to 0.

    score(x, t) with t (1,): what a network says of x_t. around: the mean at the start, y itself where the process drifts to y, else
    zeros. to: where the process drifts to. draw(): complex normal numbers of that shape, one draw to start and one or two a step.
    Calls the score 2 `steps` times, or `steps` times without the corrector. watch(t, x) sees x before every step.
    Raises ValueError for less than one step, times out of order or NaN in `around`.
    """
    if steps < 1 or not 0 < t_end <= t_start <= 1:
        raise ValueError(f"steps must be at least 1 and 0 < t_end <= t_start <= 1, not {steps}, {t_end} and {t_start}")
    if not torch.isfinite(torch.view_as_real(around)).all():
        raise ValueError("around contains NaN or infinite values")
    times = torch.linspace(t_start, t_end, steps, device=around.device)
    sizes = torch.cat([times[:-1] - times[1:], times[-1:]])  # the last one leads from t_end to 0
    x = around + process.sd(times[:1]) * draw()
    mean = x
    for t, dt in zip(times.split(1), sizes, strict=True):
        if watch:
            watch(t, x)
        if corrector:  # annealed Langevin: epsilon = 2 (r s(t))^2
            epsilon = 2 * (r * process.sd(t)) ** 2
            x = x + epsilon * score(x, t) + (2 * epsilon).sqrt() * draw()
        # reverse diffusion: x - [gamma (y - x) - g^2 score] dt, then g sqrt(dt) z
        drift = process.gamma * (to - x) - process.g(t) ** 2 * score(x, t)
        mean = x - drift * dt
        x = mean + process.g(t) * dt.sqrt() * draw()
    return mean


# ---------------------------------------------------------------- an exact score


def mixture_score(process: Process, x: Tensor, y: Tensor, t: Tensor, weights: Tensor, variances: Tensor, noise: float) -> Tensor:
    """The score of p_t(x_t | y) where x0 is a mixture of complex normals CN(0, v_k) and y = x0 + CN(0, noise).

    Of x0 given y component k is CN(m_k, c_k), m_k = v_k / (v_k + noise) y, c_k = v_k noise / (v_k + noise), with a weight
    proportional to w_k CN(y; 0, v_k + noise). So x_t given y is a mixture of CN(e^(-gamma t) m_k + (1 - e^(-gamma t)) y,
    e^(-2 gamma t) c_k + s^2), and the score of a complex normal is -(x - mean) / variance.
    """
    total = variances + noise  # (k,)
    log_weight = weights.log() - total.log() - y.abs().square()[..., None] / total  # (..., k)
    kept = process.kept(t)
    mean = kept * (variances / total) * y[..., None] + (1 - kept) * y[..., None]
    spread = kept**2 * variances * noise / total + process.sd(t) ** 2
    off = x[..., None] - mean
    share = (log_weight - spread.log() - off.abs().square() / spread).softmax(-1)
    return -(share * off / spread).sum(-1)


def mixture_posterior(y: Tensor, weights: Tensor, variances: Tensor, noise: float) -> Tensor:
    """E[x0 | y] in the same setting: what a regressor would learn, sum_k share_k v_k / (v_k + noise) y."""
    total = variances + noise
    share = (weights.log() - total.log() - y.abs().square()[..., None] / total).softmax(-1)
    return (share * variances / total).sum(-1) * y


# ---------------------------------------------------------------- the network


class Block(nn.Module):
    """A residual block: normalise, scale and shift by what the time's features say, two convolutions of 3 x 3."""

    def __init__(self, width: int, features: int, dilation: int = 1):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(4, width) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=(1, d), dilation=(1, d)) for d in (1, dilation))
        self.film = nn.Linear(features, 2 * width)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        scale, shift = self.film(features)[:, :, None, None].chunk(2, 1)
        h = self.convs[0](functional.silu(self.norms[0](x) * (1 + scale) + shift))
        return x + self.convs[1](functional.silu(self.norms[1](h)))


class Net(nn.Module):
    """A small U-Net of spectrograms: (n, inputs, 256, frames) and times (n,) -> (n, 2, 256, frames); frames a multiple of 8.

    Works on cells of 4 frequencies x 2 frames, at three resolutions. `multi`: every resolution also reads the shrunk input, and
    writes its own share of the output, which are added up (NCSN++'s progressive growing); without it a plain U-Net, whose time
    features are wider instead, so that it has as many weights.
    """

    WIDTHS = (40, 48, 48)
    CELL = (4, 2)

    def __init__(self, inputs: int, multi: bool, rng: torch.Generator):
        super().__init__()
        down, up = list(zip(self.WIDTHS, self.WIDTHS[1:], strict=False)), list(zip(self.WIDTHS[1:], self.WIDTHS, strict=False))
        per_cell = self.CELL[0] * self.CELL[1]
        self.multi, features = multi, 48 if multi else 78
        self.time = nn.Sequential(nn.Linear(16, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU())
        self.first = nn.Conv2d(inputs * per_cell, self.WIDTHS[0], 3, padding=1)
        self.place = nn.Parameter(torch.zeros(self.WIDTHS[0], 256 // self.CELL[0], 1))  # what is usual at a frequency
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in down)
        self.up = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in up)
        self.encode = nn.ModuleList(Block(width, features) for width in self.WIDTHS)
        self.decode = nn.ModuleList(Block(width, features, 1 + (width == self.WIDTHS[-1])) for width in self.WIDTHS)
        self.read = nn.ModuleList(nn.Conv2d(inputs * per_cell, width, 1) for width in self.WIDTHS[1:] if multi)
        self.write = nn.ModuleList(nn.Conv2d(width, 2 * per_cell, 3, padding=1) for width in self.WIDTHS[: 3 if multi else 1])
        for parameter in self.parameters():
            if parameter.ndim > 1 and parameter is not self.place:
                nn.init.kaiming_normal_(parameter, nonlinearity="linear", generator=rng)
        for layer in (*(block.convs[1] for block in (*self.encode, *self.decode)), *self.write):
            nn.init.zeros_(layer.weight)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        waves = t[:, None] * torch.pi * 2 ** torch.arange(8, device=t.device)
        features = self.time(torch.cat([waves.sin(), waves.cos()], 1))
        n, c, f, frames = x.shape
        high, wide = self.CELL
        cells = (
            x.reshape(n, c, f // high, high, frames // wide, wide).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
        )  # (n, 8 c, 64, frames / 2)
        h, passed = self.first(cells) + self.place, []
        for level, block in enumerate(self.encode):
            if level:
                h, cells = self.down[level - 1](h), functional.avg_pool2d(cells, 2)
                if self.multi:
                    h = h + self.read[level - 1](cells)
            h = block(h, features)
            passed.append(h)
        out = 0
        for level in (2, 1, 0):
            if level < 2:
                h = self.up[level](functional.interpolate(h, scale_factor=2.0)) + passed[level]
            h = self.decode[level](h, features)
            if self.multi or level == 0:
                grown = functional.interpolate(out, scale_factor=2.0) if level < 2 and self.multi else out
                out = grown + self.write[level](functional.silu(h))
        return out.reshape(n, 2, high, wide, f // high, frames // wide).permute(0, 1, 4, 2, 5, 3).reshape(n, 2, f, frames)


def channels(*spectrograms: Tensor) -> Tensor:
    """Complex (n, f, frames) each -> real and imaginary parts as channels (n, 2 k, f, frames)."""
    return torch.cat([part[:, None] for c in spectrograms for part in (c.real, c.imag)], 1)


def estimated_noise(net: nn.Module, process: Process, x: Tensor, y: Tensor, to: Tensor, t: Tensor, spread: float) -> Tensor:
    """What z in x_t a network sees, (n, f, frames) complex; t (n,). The score is -z / s(t).

    If clean minus noisy were CN(0, spread^2), then x_t - e^(-gamma t) y - (1 - e^(-gamma t)) to would be CN(0, v), v = s^2 +
    (e^(-gamma t) spread)^2, and the best guess of z would be s / v times it. The network adds to that guess, on the scale of its
    error.
    """
    kept, sd = process.kept(t)[:, None, None], process.sd(t)[:, None, None]
    v = sd**2 + (kept * spread) ** 2
    off = (x - kept * y - (1 - kept) * to) / v.sqrt()
    f = net(channels(off, y / spread), t)
    return (sd * off + kept * spread * torch.complex(f[:, 0], f[:, 1])) / v.sqrt()


def regressed(net: nn.Module, y: Tensor, spread: float) -> Tensor:
    """The same network as a regressor: clean spectrograms from noisy ones, y plus what the network adds; t = 0."""
    f = net(channels(y / spread), torch.zeros(len(y), device=y.device))
    return y + spread * torch.complex(f[:, 0], f[:, 1])


def score_loss(net: nn.Module, process: Process, x0: Tensor, y: Tensor, to: Tensor, t: Tensor, z: Tensor, spread: float) -> Tensor:
    """Denoising score matching, mean over bins of |s(t) score(x_t) + z|^2 (the paper sums over bins and takes half)."""
    return (estimated_noise(net, process, perturbed(process, x0, to, t, z), y, to, t, spread) - z).abs().square().mean()


def regression_loss(net: nn.Module, x0: Tensor, y: Tensor, spread: float) -> Tensor:
    """Mean squared error of the compressed spectrogram, in units of spread^2."""
    return (regressed(net, y, spread) - x0).abs().square().mean() / spread**2
