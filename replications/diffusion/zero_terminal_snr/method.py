"""Zero terminal SNR: Lin, Liu, Li & Yang, "Common Diffusion Noise Schedules and Sample Steps are Flawed".

A diffusion model learns to undo x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps. The usual schedules stop at an a_T > 0, so the
last training image still tells the brightness of x_0, while sampling starts from noise that does not. The paper's
four repairs are here, one function each: `rescale_zero_terminal_snr`, v prediction (`v_target`, `split`), the
trailing `sample_steps`, and `guide`. `gaussian_brightness` gives the exact outcome of any schedule and step list for
Gaussian data; `Denoiser` is a small network for 28 x 28 images.

Conventions: a = alpha_bar, a float64 array (T,) in [0, 1], falling; its index t = 0..T-1 is the paper's t - 1.
Images are (B, C, H, W) in [-1, 1].
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Prediction = Literal["eps", "v"]
Spacing = Literal["leading", "linspace", "trailing"]
Model = Callable[[Tensor, int], Tensor]  # (x_t, t) -> eps_hat or v_hat, the shape of x_t


# ---------------------------------------------------------------------------------------------------- schedules


def alpha_bar_from_betas(betas: np.ndarray) -> np.ndarray:
    """a_t, shape (T,), of the noise steps `betas` (T,), each in [0, 1]. Raises ValueError for other betas."""
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or len(betas) < 2 or not ((betas >= 0) & (betas <= 1)).all():
        raise ValueError("betas must be one row of at least two numbers in [0, 1]")
    # a_t = prod_{s <= t} (1 - beta_s) (section 2)
    return np.cumprod(1 - betas)


def linear_schedule(n: int = 1000, first: float = 1e-4, last: float = 0.02) -> np.ndarray:
    """a_t (n,) of DDPM: beta rises linearly."""
    return alpha_bar_from_betas(np.linspace(first, last, n))


def stable_diffusion_schedule(n: int = 1000, first: float = 0.00085, last: float = 0.012) -> np.ndarray:
    """a_t (n,) of Stable Diffusion ("scaled linear"): the root of beta rises linearly."""
    return alpha_bar_from_betas(np.linspace(first**0.5, last**0.5, n) ** 2)


def cosine_schedule(n: int = 1000, shift: float = 0.008, largest: float = 0.999) -> np.ndarray:
    """a_t (n,) of Nichol & Dhariwal, with beta clipped at `largest`."""
    f = np.cos((np.linspace(0, 1, n + 1) + shift) / (1 + shift) * np.pi / 2) ** 2
    return alpha_bar_from_betas(np.minimum(1 - f[1:] / f[:-1], largest))


def rescale_zero_terminal_snr(alpha_bar: np.ndarray) -> np.ndarray:
    """a_t (T,) shifted and scaled so that the last is exactly 0 and the first is kept (algorithm 1).

    Raises ValueError unless `alpha_bar` falls strictly within [0, 1].
    """
    a = np.asarray(alpha_bar, np.float64)
    if a.ndim != 1 or len(a) < 2 or not (np.diff(a) < 0).all() or not 0 <= a[-1] < a[0] <= 1:
        raise ValueError("alpha_bar must be one row that falls strictly within [0, 1]")
    root = np.sqrt(a)
    # sqrt(a_t) <- (sqrt(a_t) - sqrt(a_T)) * sqrt(a_1) / (sqrt(a_1) - sqrt(a_T)) (algorithm 1)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def betas_from_alpha_bar(alpha_bar: np.ndarray) -> np.ndarray:
    """The noise steps beta_t (T,) behind a_t (T,): beta_t = 1 - a_t / a_{t-1}, and beta_1 = 1 - a_1."""
    a = np.asarray(alpha_bar, np.float64)
    return 1 - np.concatenate([a[:1], a[1:] / a[:-1]])


def snr(alpha_bar: np.ndarray) -> np.ndarray:
    """Signal-to-noise ratio (T,), a ratio of variances."""
    # SNR(t) = a_t / (1 - a_t) (section 2)
    return alpha_bar / (1 - alpha_bar)


def sample_steps(n_train: int, n_sample: int, spacing: Spacing) -> np.ndarray:
    """The `n_sample` training steps, 0-based and falling, that a sampler visits out of 0..n_train-1 (table 2).

    Raises ValueError when `n_sample` is not in 1..n_train or `spacing` is unknown.
    """
    if not 1 <= n_sample <= n_train:
        raise ValueError(f"n_sample must lie in 1..{n_train}, not {n_sample}")
    if spacing == "leading":  # arange(1, T + 1, floor(T / S)): never starts at T unless S = T
        t = np.arange(1, n_train + 1, n_train // n_sample)[:n_sample]
    elif spacing == "linspace":  # round(linspace(1, T, S)): both ends
        t = 1 + np.round(np.linspace(0, n_train - 1, n_sample))
    elif spacing == "trailing":  # round(flip(arange(T, 0, -T / S))): always starts at T
        t = np.round(np.arange(n_train, 0, -n_train / n_sample)[:n_sample])[::-1]
    else:
        raise ValueError(f"spacing must be leading, linspace or trailing, not {spacing!r}")
    return t[::-1].astype(int) - 1


# ------------------------------------------------------------------------------- forward process and predictions


def add_noise(x0: Tensor, eps: Tensor, a: Tensor | float) -> Tensor:
    """The noised image x_t, shape of `x0`; `a` is a_t, a number or (B, 1, 1, 1). Raises ValueError on shapes."""
    if x0.shape != eps.shape:
        raise ValueError(f"eps must have the shape of x0, {tuple(x0.shape)}, not {tuple(eps.shape)}")
    # x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps (section 2)
    return a**0.5 * x0 + (1 - a) ** 0.5 * eps


def v_target(x0: Tensor, eps: Tensor, a: Tensor | float) -> Tensor:
    """The velocity that a v network learns, shape of `x0`; `a` as in `add_noise`."""
    # v_t = sqrt(a_t) eps - sqrt(1 - a_t) x_0 (section 3.2)
    return a**0.5 * eps - (1 - a) ** 0.5 * x0


def split(output: Tensor, x: Tensor, a: float, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """(x0_hat, eps_hat) that a network's `output` at x_t = `x` implies, both of the shape of `x`.

    Raises ValueError for eps prediction at a_t = 0: there x_t is the noise, and x_0 cannot be had from it.
    """
    if prediction == "v":
        # x0_hat = sqrt(a_t) x_t - sqrt(1 - a_t) v,   eps_hat = sqrt(a_t) v + sqrt(1 - a_t) x_t
        return a**0.5 * x - (1 - a) ** 0.5 * output, a**0.5 * output + (1 - a) ** 0.5 * x
    if prediction != "eps":
        raise ValueError(f"prediction must be eps or v, not {prediction!r}")
    if a == 0:
        raise ValueError("prediction must be v where a_t = 0: noise says nothing about x_0 (paper, section 3.2)")
    # x0_hat = (x_t - sqrt(1 - a_t) eps) / sqrt(a_t)
    return (x - (1 - a) ** 0.5 * output) / a**0.5, output


def offset_noise(eps: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """The folk remedy: `eps` (B, C, H, W) plus `strength` times one standard normal number per image and channel."""
    return eps + strength * torch.randn(eps.shape[:2], generator=rng)[:, :, None, None]


# ------------------------------------------------------------------------------------------------------ sampling


def ddim_step(x0_hat: Tensor, eps_hat: Tensor, a_next: float) -> Tensor:
    """The next, less noisy image of deterministic DDIM (eta = 0); `a_next` is 1 after the last step."""
    # x' = sqrt(a') x0_hat + sqrt(1 - a') eps_hat
    return a_next**0.5 * x0_hat + (1 - a_next) ** 0.5 * eps_hat


@torch.inference_mode()
def sample(model: Model, start: Tensor, steps: np.ndarray, alpha_bar: np.ndarray, prediction: Prediction) -> Tensor:
    """Finished, unclipped images, shape of `start` (B, C, H, W), by DDIM from `start` along the falling `steps`.

    Raises ValueError when `steps` do not fall strictly within the schedule or `start` is not finite.
    """
    steps = np.asarray(steps)
    if len(steps) == 0 or (np.diff(steps) >= 0).any() or not 0 <= steps.min() <= steps.max() < len(alpha_bar):
        raise ValueError(f"steps must fall strictly within 0..{len(alpha_bar) - 1}")
    if not torch.isfinite(start).all():
        raise ValueError("start must be finite")
    x = start
    for t, a, a_next in zip(steps, alpha_bar[steps], [*alpha_bar[steps[1:]], 1.0], strict=True):
        x0_hat, eps_hat = split(model(x, int(t)), x, float(a), prediction)
        x = ddim_step(x0_hat, eps_hat, float(a_next))
    return x


def guide(unconditional: Tensor, conditional: Tensor, weight: float, phi: float) -> Tensor:
    """Classifier-free guidance of two network outputs (B, C, H, W), `phi` of the way to the conditional's spread.

    weight 1 is no guidance; phi 0 is plain guidance, phi 1 gives every image the spread of `conditional`.
    Raises ValueError when phi is not in [0, 1].
    """
    if not 0 <= phi <= 1:
        raise ValueError(f"phi must lie in [0, 1], not {phi}")
    # o = u + w (c - u) (section 3.4)
    output = unconditional + weight * (conditional - unconditional)
    # o_rescaled = o * std(c) / std(o), over all axes but the batch (section 3.4)
    axes = tuple(range(1, output.ndim))
    rescaled = output * (conditional.std(axes, keepdim=True) / output.std(axes, keepdim=True))
    # o_final = phi o_rescaled + (1 - phi) o (section 3.4)
    return phi * rescaled + (1 - phi) * output


# ------------------------------------------------------------------------------------- the exact law, no network


def principal_axes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean (D,), axes (K, D), variance (K,)) of the Gaussian fitted to N rows of D numbers, K <= min(N - 1, D).

    The axes are orthonormal rows; directions without variance are left out. Raises ValueError for one row or NaN.
    """
    if x.ndim != 2 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError("x must be a finite matrix with at least two rows")
    mean = x.mean(0)
    d = x - mean
    # eigenvectors w of the small matrix d d' / (N - 1) give those of the large one, d' d / (N - 1): d' w
    variance, w = np.linalg.eigh(d @ d.T / (len(x) - 1))
    kept = variance > 1e-10 * variance[-1]
    axes = w[:, kept].T @ d
    return mean, axes / np.linalg.norm(axes, axis=1, keepdims=True), variance[kept]


def gaussian_gain(variance: np.ndarray, alpha_bar: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The factor (K,) by which DDIM with the ideal denoiser multiplies a deviation, one per data variance (K,).

    For data N(mu, variance) the ideal denoiser is E[x_0 | x_t] = mu + g y with y = x_t - sqrt(a_t) mu, so each DDIM step
    multiplies y by a number and the finished image is mu + gain * y_start.
    """
    if (np.asarray(variance) < 0).any():
        raise ValueError("variance must not be negative")
    gain = np.ones_like(variance, np.float64)
    for a, a_next in zip(alpha_bar[steps], [*alpha_bar[steps[1:]], 1.0], strict=True):
        # g = sqrt(a) lam / (a lam + 1 - a);   y' = (sqrt(a') g + sqrt(1 - a') (1 - sqrt(a) g) / sqrt(1 - a)) y
        g = np.sqrt(a) * variance / (a * variance + 1 - a)
        gain = gain * (np.sqrt(a_next) * g + np.sqrt(1 - a_next) * (1 - np.sqrt(a) * g) / np.sqrt(1 - a))
    return gain


def gaussian_brightness(
    mean: np.ndarray, axes: np.ndarray, variance: np.ndarray, alpha_bar: np.ndarray, steps: np.ndarray, true_start: bool
) -> tuple[float, float]:
    """(mean, sd) of the mean pixel of images that DDIM and the ideal denoiser make of N(mean, axes' diag(variance) axes).

    mean (D,); axes (K, D) orthonormal rows; variance (K,), zero in every other direction. The start is pure noise
    N(0, I), as samplers have it, or with `true_start` the noised data that the network was trained on.
    """
    gain = gaussian_gain(variance, alpha_bar, steps)
    a = alpha_bar[steps[0]]
    share = axes.mean(1)  # (K,): what one unit along an axis adds to the mean pixel
    # y_start ~ N(0, a lam + 1 - a) truly, N(-sqrt(a) mu, 1) from pure noise: that shift is the flaw
    shift = 0 * gain if true_start else -np.sqrt(a) * (axes @ mean)
    spread = np.sqrt(a * variance + 1 - a) if true_start else np.ones_like(gain)
    return float(mean.mean() + share @ (gain * shift)), float(np.sqrt(np.sum((share * gain * spread) ** 2)))


# ------------------------------------------------------------------------------------------- network and measures


class _Block(nn.Module):
    """A residual block whose scale and shift come from the time and class embedding."""

    def __init__(self, channels: int, embedding: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.embed = nn.Linear(embedding, 2 * channels)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.embed(e)[:, :, None, None].chunk(2, 1)
        r = self.conv1(F.silu(self.norm1(h)))
        return h + self.conv2(F.silu(self.norm2(r) * (1 + scale) + shift))


class Denoiser(nn.Module):
    """A class-conditional network for 28 x 28 grey images that works on 7 x 7 maps of 4 x 4 pixel patches.

    forward: x (B, 1, 28, 28), t (B,) in 0..999, label (B,) in 0..classes, where `classes` means "no label".
    """

    def __init__(self, channels: int = 32, blocks: int = 4, classes: int = 10):
        super().__init__()
        self.no_label = classes
        self.label = nn.Embedding(classes + 1, 128)
        self.time = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 128))
        self.place = nn.Parameter(torch.zeros(1, channels, 7, 7))
        self.enter = nn.Conv2d(16, channels, 3, padding=1)
        self.blocks = nn.ModuleList(_Block(channels, 128) for _ in range(blocks))
        self.norm = nn.GroupNorm(8, channels)
        self.leave = nn.Conv2d(channels + 16, 16, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        angle = t[:, None] * torch.exp(torch.linspace(0, -np.log(1e4), 32))  # (B, 32)
        e = F.silu(self.time(torch.cat([angle.sin(), angle.cos()], 1)) + self.label(label))  # (B, 128)
        patches = F.pixel_unshuffle(x, 4)  # (B, 1, 28, 28) -> (B, 16, 7, 7)
        h = self.enter(patches) + self.place
        for block in self.blocks:
            h = block(h, e)
        out = self.leave(torch.cat([F.silu(self.norm(h)), patches], 1))
        return F.pixel_shuffle(out, 4)  # (B, 16, 7, 7) -> (B, 1, 28, 28)


def training_loss(
    net: nn.Module,
    x0: Tensor,
    label: Tensor,
    alpha_bar: np.ndarray,
    prediction: Prediction,
    rng: torch.Generator,
    drop_label: float = 0.1,
    offset: float = 0.0,
) -> Tensor:
    """The mean squared error of the network's prediction at random t, for images x0 (B, C, H, W), label (B,).

    drop_label: share of images whose label is withheld, for guidance. offset: strength of `offset_noise`.
    """
    t = torch.randint(len(alpha_bar), (len(x0),), generator=rng)
    eps = torch.randn(x0.shape, generator=rng)
    label = torch.where(torch.rand(len(x0), generator=rng) < drop_label, net.no_label, label)
    if offset:
        eps = offset_noise(eps, offset, rng)
    a = torch.as_tensor(alpha_bar, dtype=torch.float32)[t][:, None, None, None]
    target = v_target(x0, eps, a) if prediction == "v" else eps
    # L = E || target - net(x_t, t) ||^2, t uniform on 1..T, weight 1 (section 3.2)
    return F.mse_loss(net(add_noise(x0, eps, a), t, label), target)


def conditional(net: nn.Module, label: Tensor, weight: float = 1.0, phi: float = 0.0) -> Model:
    """The model (x, t) -> output for fixed labels (B,); with weight other than 1 it is guided (`guide`)."""
    nothing = torch.full_like(label, net.no_label)

    def model(x: Tensor, t: int) -> Tensor:
        time = torch.full((len(x),), t)
        with_label = net(x, time, label)
        return with_label if weight == 1 else guide(net(x, time, nothing), with_label, weight, phi)

    return model


class Features(nn.Module):
    """A small classifier of 28 x 28 grey images; `features` (B, 32) feed the Frechet distance, forward the logits."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 16, 32),
        )  # fmt: skip
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(32, classes))

    def features(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def brightness(x: Tensor) -> np.ndarray:
    """m(x) = the mean pixel of each image (B, C, H, W), as an array (B,)."""
    return x.mean((1, 2, 3)).double().numpy()


def contrast(x: Tensor) -> float:
    """The standard deviation over the pixels of one image, averaged over the images (B, C, H, W)."""
    return float(x.double().std((1, 2, 3)).mean())


def frechet_distance(f: np.ndarray, g: np.ndarray) -> float:
    """Frechet distance between Gaussians fitted to two sets of features (N, K) and (M, K); the square, as FID has it.

    Raises ValueError when the shapes differ or a set has no more rows than columns (a singular covariance).
    """
    if f.ndim != 2 or g.ndim != 2 or f.shape[1] != g.shape[1]:
        raise ValueError("f and g must be matrices with the same number of columns")
    if min(len(f), len(g)) <= f.shape[1]:
        raise ValueError(f"f and g must have more than {f.shape[1]} rows each, one per image")
    f, g = f.astype(np.float64), g.astype(np.float64)
    cf, cg = np.cov(f, rowvar=False), np.cov(g, rowvar=False)
    # |mean_f - mean_g|^2 + tr(C_f + C_g - 2 (C_f C_g)^{1/2}); the eigenvalues of C_f C_g are real and not negative
    roots = np.sqrt(np.maximum(np.linalg.eigvals(cf @ cg).real, 0))
    return float(np.sum((f.mean(0) - g.mean(0)) ** 2) + np.trace(cf) + np.trace(cg) - 2 * roots.sum())
