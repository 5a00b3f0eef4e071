"""How noisy is a stretch of ECG: Han et al., "Diffusion-Based Electrocardiography Noise Quantification via Anomaly Detection".

A diffusion model learns pictures (log scalograms) of clean ECG. A new picture is noised a little, denoised by the model and
compared with itself: what the model cannot reproduce counts as noise. `scalogram` and `to_bytes` make the picture, `Autoencoder`
and `Denoiser` are the networks, `partial_denoise` is the model's correction, `psnr` the score, and `standardised_w1` says how far
apart the scores of two groups lie. `add_noise` makes noise of three kinds, which we need where the paper has human labels.

Conventions: ECG (..., T) in mV. A picture is (32, 72) bytes, the highest frequency on top; networks see pictures (N, 1, 32, 72) in
[-1, 1]. a = alpha_bar, float64 (1000,), falling, its index t = 0..999.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from scipy.fft import fft, fftfreq, ifft, irfft, rfft, rfftfreq
from scipy.stats import wasserstein_distance
from torch import Tensor, nn
from torch.nn import functional as F

from shared.checks import finite

Kind = Literal["baseline", "static", "burst"]
KINDS: tuple[Kind, ...] = ("baseline", "static", "burst")
FREQUENCIES = np.linspace(0.5, 40, 32)  # Hz
CYCLES = np.linspace(2, 8, 32)  # widths of the wavelets, lowest frequency first
COLUMNS = 72
FLOOR, CEILING = -8.0, 0.0  # log10 mV^2: what is shown as byte 0 and as byte 255


# ------------------------------------------------------------------------------------------------------- pictures


def scalogram(x: np.ndarray, rate: float) -> np.ndarray:
    """Log power (n, 32, 72), log10 mV^2, of n segments `x` (n, T) in mV at `rate` Hz; row 0 is 40 Hz, the last is .5 Hz.

    T must be even and a multiple of 72. Raises ValueError for other lengths, a rate of 80 Hz or less, NaN, or no segment.
    """
    x = finite("x", x, 2)
    n = x.shape[1]
    if n % (2 * COLUMNS) or rate <= 2 * FREQUENCIES[-1]:
        raise ValueError(f"x must have a multiple of {2 * COLUMNS} samples at more than 80 Hz, not {n} at {rate}")
    margin = n // 5  # mirrored, so that the ends meet without a jump
    hz = fftfreq(n + 2 * margin, 1 / rate)
    # a wavelet of c cycles at f is a Gaussian of sd c / (5 f) seconds, so of sd 5 f / (2 pi c) Hz, without negative frequencies
    z = (hz - FREQUENCIES[:, None]) * (2 * np.pi * CYCLES / (5 * FREQUENCIES))[:, None]
    filters = (2 * np.exp(-(z**2) / 2) * (hz > 0)).astype(np.float32)  # (32, T'): a sine of 1 mV has power 1
    rows = np.empty((len(x), len(FREQUENCIES), COLUMNS))
    middle = margin + n // COLUMNS * np.arange(COLUMNS) + n // COLUMNS // 2
    spectra = fft(np.pad(x, [(0, 0), (margin, margin)], "reflect").astype(np.float32))
    for row, spectrum in zip(rows, spectra, strict=True):
        power = np.abs(ifft(filters * spectrum)) ** 2
        # linear resize in time to 72 columns: the middle of a column lies between two samples
        row[:] = np.log10((power[:, middle - 1] + power[:, middle]) / 2 + 1e-12)
    return rows[:, ::-1]


def to_bytes(s: np.ndarray) -> np.ndarray:
    """Log power clipped to -8..0 and rounded to 0..255, uint8, any shape."""
    return np.round((np.clip(s, FLOOR, CEILING) - FLOOR) / (CEILING - FLOOR) * 255).astype(np.uint8)


def to_unit(picture: np.ndarray) -> Tensor:
    """Pictures (..., 32, 72) of bytes as network input (N, 1, 32, 72) in [-1, 1], N the product of the leading axes."""
    return torch.as_tensor(picture).reshape(-1, 1, *picture.shape[-2:]).float() / 127.5 - 1


def from_unit(x: Tensor) -> np.ndarray:
    """Network output (N, 1, 32, 72) clipped to [-1, 1] and rounded to bytes (N, 32, 72)."""
    return ((x[:, 0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()


# ----------------------------------------------------------------------------------------------- noise, for the truth


def noise(kind: Kind, n: int, length: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """`n` stretches of noise (n, length) with mean square 1 each, at `rate` Hz.

    baseline: three sines of .1 to .4 Hz and a straight drift. static: white between 8 and 100 Hz. burst: white between 1 and 40 Hz
    under one Hann window of two seconds. Raises ValueError for another kind.
    """
    seconds = np.arange(length) / rate
    if kind == "baseline":
        hz, phase = rng.uniform(0.1, 0.4, (3, n, 1)), rng.uniform(0, 2 * np.pi, (3, n, 1))
        x = np.sin(2 * np.pi * hz * seconds + phase).sum(0) + rng.normal(size=(n, 1)) * np.linspace(-1, 1, length)
    elif kind in ("static", "burst"):
        low, high = (8, 100) if kind == "static" else (1, 40)
        hz = rfftfreq(length, 1 / rate)
        x = irfft(rfft(rng.normal(size=(n, length))) * ((hz >= low) & (hz <= high)), length)
        if kind == "burst":
            middle = rng.uniform(1, seconds[-1] - 1, (n, 1))
            x = x * np.where(np.abs(seconds - middle) < 1, np.cos(np.pi / 2 * (seconds - middle)) ** 2, 0)
    else:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    return x / np.sqrt((x**2).mean(1, keepdims=True))


def add_noise(x: np.ndarray, kind: Kind, snr: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Segments `x` (n, T), mV, with noise of one kind at ratios `snr` (n,), dB. Raises ValueError for NaN or shapes."""
    x, snr = finite("x", x, 2), finite("snr", snr, 1)
    if len(snr) != len(x):
        raise ValueError(f"snr must have one number per segment, {len(x)}, not {len(snr)}")
    # SNR = 10 log10(var(ecg) / mean square of the noise)
    scale = x.std(1) / 10 ** (snr / 20)
    return x + scale[:, None] * noise(kind, *x.shape, rate, rng)


# ------------------------------------------------------------------------------------------------------ diffusion


def alpha_bar(n: int = 1000, first: float = 1e-4, last: float = 0.02) -> np.ndarray:
    """a_t (n,) of DDPM: a_t = prod_{s <= t} (1 - beta_s), with beta rising linearly."""
    return np.cumprod(1 - np.linspace(first, last, n))


def noised(z: Tensor, e: Tensor, a: Tensor | float) -> Tensor:
    """z_t, the shape of `z` and `e`; `a` is a_t, a number or (N, 1, 1, 1)."""
    # z_t = sqrt(a_t) z + sqrt(1 - a_t) e
    return a**0.5 * z + (1 - a) ** 0.5 * e


@torch.inference_mode()
def partial_denoise(model: Callable[[Tensor, Tensor], Tensor], z: Tensor, e: Tensor, start: int, spacing: int) -> Tensor:
    """`z` (N, C, H, W) noised by `e` to step `start` and brought back by DDIM (eta = 0) over start, start - spacing, ... down to 0.

    model: (z_t, t (N,)) -> the noise in z_t. Start 30 and spacing 10 visit 30, 20, 10, 0: four calls. Raises ValueError for steps
    outside 1..999 or a spacing below 1.
    """
    a = alpha_bar()
    if not 1 <= start < len(a) or spacing < 1:
        raise ValueError(f"start must lie in 1..{len(a) - 1} and spacing be positive, not {start} and {spacing}")
    steps = np.arange(start, -1, -spacing)
    z = noised(z, e, float(a[start]))
    for t, now, after in zip(steps, a[steps], [*a[steps[1:]], 1.0], strict=True):
        predicted = model(z, torch.full((len(z),), int(t), device=z.device))
        # z_0 = (z_t - sqrt(1 - a_t) e) / sqrt(a_t),   z' = sqrt(a') z_0 + sqrt(1 - a') e
        z0 = (z - (1 - now) ** 0.5 * predicted) / now**0.5
        z = noised(z0, predicted, float(after))
    return z


# ------------------------------------------------------------------------------------------------------- networks


class Block(nn.Module):
    """A residual block; with an embedding e (N, 64) its scale and shift depend on the diffusion step."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, channels), nn.GroupNorm(4, channels)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.embed = nn.Linear(64, 2 * channels)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.embed(e)[:, :, None, None].chunk(2, 1)
        r = self.conv1(F.silu(self.norm1(h)))
        return h + self.conv2(F.silu(self.norm2(r) * (1 + scale) + shift))


class Denoiser(nn.Module):
    """A U-Net of two levels that predicts the noise in z_t, on patches of `patch` x `patch` pixels.

    forward: z (N, channels, H, W), t (N,) in 0..999; H and W divisible by `patch`.
    """

    def __init__(self, channels: int, patch: int = 1, widths: tuple[int, int] = (24, 40)):
        super().__init__()
        self.patch, inner, (a, b) = patch, channels * patch**2, widths
        self.time = nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64))
        self.enter, self.leave = nn.Conv2d(inner, a, 3, padding=1), nn.Conv2d(a, inner, 3, padding=1)
        self.down, self.middle, self.up = Block(a), Block(b), Block(a)
        self.shrink, self.grow = nn.Conv2d(a, b, 3, 2, 1), nn.Conv2d(b, a, 3, padding=1)
        self.norm = nn.GroupNorm(4, a)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        angle = t[:, None] * torch.exp(torch.linspace(0, -np.log(1e4), 32, device=z.device))  # (N, 32)
        e = F.silu(self.time(torch.cat([angle.sin(), angle.cos()], 1)))  # (N, 64)
        skip = self.down(self.enter(F.pixel_unshuffle(z, self.patch)), e)  # (N, c, H, W) -> (N, a, H / patch, W / patch)
        h = self.middle(self.shrink(skip), e)  # (N, b, H / 2 patch, W / 2 patch)
        h = self.up(self.grow(F.interpolate(h, skip.shape[2:])) + skip, e)
        return F.pixel_shuffle(self.leave(F.silu(self.norm(h))), self.patch)


class Autoencoder(nn.Module):
    """Pictures (N, 1, 32, 72) to latents (N, 2, 8, 18) and back; `scale` makes latents of the training pictures of variance 1."""

    def __init__(self, width: int = 32):
        super().__init__()
        c = width
        self.encoder = nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(16, c, 3, 1, 1), nn.SiLU(), nn.Conv2d(c, 2, 3, 1, 1))
        self.decoder = nn.Sequential(
            nn.Conv2d(2, c, 3, 1, 1), nn.SiLU(), nn.Conv2d(c, c, 3, 1, 1), nn.GroupNorm(4, c), nn.SiLU(),
            nn.Conv2d(c, 16, 3, 1, 1), nn.PixelShuffle(4),
        )  # fmt: skip
        self.register_buffer("scale", torch.ones(()))

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x) * self.scale

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z / self.scale)


def noise_loss(net: nn.Module, z: Tensor, rng: torch.Generator) -> Tensor:
    """The loss of the denoiser for clean latents or pictures z (N, C, H, W), at random t and noise from the CPU generator `rng`."""
    a = torch.as_tensor(alpha_bar(), dtype=torch.float32)
    t = torch.randint(len(a), (len(z),), generator=rng)
    e = torch.randn(z.shape, generator=rng).to(z.device)
    # L = E || e - net(z_t, t) ||^2, t uniform
    return F.mse_loss(net(noised(z, e, a[t][:, None, None, None].to(z.device)), t.to(z.device)), e)


def reconstruction_loss(net: Autoencoder, x: Tensor, rng: torch.Generator) -> Tensor:
    """The mean squared error of the autoencoder for pictures x (N, 1, 32, 72) in [-1, 1]; it draws nothing from `rng`."""
    return F.mse_loss(net.decode(net.encode(x)), x)


def fit(
    net: nn.Module, x: Tensor, loss: Callable, steps: int, rng: torch.Generator, rate=2e-3, batch=16, stop=None
) -> list[Tensor]:
    """Train `net` in place on x (N, ...) by AdamW and leave the moving average of its weights in it; returns the losses.

    loss: (net, batch, rng) -> a number. The rate rises over 50 steps and falls to 0 by a cosine over all `steps`; `stop` ends
    early on the way. The average forgets at .99 a step, faster at first.
    """
    average = [p.detach().clone() for p in net.parameters()]
    optimiser = torch.optim.AdamW(net.parameters(), rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: min(1, (i + 1) / 50) * (1 + np.cos(np.pi * i / steps)) / 2)
    losses = []
    for i in range(steps if stop is None else stop):
        pick = torch.randint(len(x), (batch,), generator=rng)
        optimiser.zero_grad()
        value = loss(net, x[pick.to(x.device)], rng)
        value.backward()
        optimiser.step()
        schedule.step()
        losses.append(value.detach())
        torch._foreach_lerp_(average, [p.detach() for p in net.parameters()], 1 - min(0.99, (1 + i) / (10 + i)))
    with torch.no_grad():
        for p, kept in zip(net.parameters(), average, strict=True):
            p.copy_(kept)
    return losses


# ------------------------------------------------------------------------------------------------ scores and measures


def psnr(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio (N,), dB, of pictures (N, 32, 72) of bytes; infinite if equal. Raises ValueError on shapes."""
    if picture.shape != other.shape or picture.ndim != 3:
        raise ValueError(f"other must have the shape of picture, (N, H, W), not {other.shape} for {picture.shape}")
    error = ((picture.astype(float) - other) ** 2).mean((1, 2))
    # PSNR = 10 log10(255^2 / MSE)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / error)


@torch.inference_mode()
def clean_up(
    denoiser: Denoiser, autoencoder: Autoencoder | None, picture: np.ndarray, start: int, spacing: int, rng: torch.Generator
) -> np.ndarray:
    """What the model makes of pictures (N, 32, 72) of bytes, bytes again; without an autoencoder the diffusion is on pixels."""
    x = to_unit(picture).to(next(denoiser.parameters()).device)
    z = autoencoder.encode(x) if autoencoder else x
    e = torch.randn(z.shape, generator=rng).to(z.device)
    z = partial_denoise(denoiser, z, e, start, spacing)
    return from_unit(autoencoder.decode(z) if autoencoder else z)


def score(denoiser, autoencoder, picture, start: int, spacing: int, rng: torch.Generator, draws: int = 1) -> np.ndarray:
    """PSNR (draws, N), dB, of pictures (N, 32, 72) against what `clean_up` makes of them; the draws differ in the noise e alone."""
    return np.stack([psnr(picture, clean_up(denoiser, autoencoder, picture, start, spacing, rng)) for _ in range(draws)])


def standardised_w1(clean: np.ndarray, noisy: np.ndarray) -> float:
    """Wasserstein-1 distance of two groups of scores (n,), (m,), after standardising by the mean and sd of both together.

    Two point masses of shares p and 1 - p are 1 / sqrt(p (1 - p)) apart, so 2 is the largest for equal groups. Raises ValueError
    for NaN or infinite scores, or when all are equal.
    """
    clean, noisy = finite("clean", clean, 1), finite("noisy", noisy, 1)
    pooled = np.concatenate([clean, noisy])
    if np.ptp(pooled) == 0:
        raise ValueError("clean and noisy must not all be equal")
    # W1((clean - mean) / sd, (noisy - mean) / sd), mean and sd of the pooled scores
    return wasserstein_distance(clean, noisy) / pooled.std()
