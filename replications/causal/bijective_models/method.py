"""Counterfactuals from models that are bijective in their noise (Nasr-Esfahany, Alizadeh & Shah, 2023).

An outcome v = f(t, u) is invertible in the latent u for each action t. A counterfactual is then three steps: abduct
u = f^-1(t, v), act t -> t', predict v' = f(t', u). A fitted f answers correctly if its latent obeys the independence of
the structure: U independent of T (Markovian), of the instrument (IV), or of T given Z (backdoor). Here f^-1 is a flow of
rational-quadratic splines (Durkan et al., 2019), and one log likelihood per structure says which independence it is held to.
Written from the paper and from reading the authors' scripts, which carry no licence; nothing is copied from them.

Tensors are float, one row a unit: v (n, d) outcomes, t (n, 1) actions, z (n, 1) covariates, i (n, 1) instruments. Flows
want all of them scaled to about [-3, 3]. A log likelihood is (n,), in nats.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAST = 1e-3  # least width and height of a bin, as a share of the interval, and least slope at a knot
EVEN_SLOPE = math.log(math.expm1(1 - LEAST))  # raw slope 0 becomes a slope of 1, so that raw zeros are the identity
COUPLINGS = (((0, 1), ()), ((1,), (0,)), ((0,), (1,)))  # (columns moved, columns read) of one block, two outcomes


def _checked(**tensors: Tensor) -> None:
    """Raises ValueError naming the tensor that is not (n, columns), is empty, is not finite, or has another n."""
    n = len(next(iter(tensors.values())))
    for name, value in tensors.items():
        if value.ndim != 2 or value.numel() == 0 or len(value) != n:
            raise ValueError(f"{name} must have shape (n, columns) with n = {n} > 0, not {tuple(value.shape)}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} contains NaN or infinite values")


def _same(**arrays: np.ndarray) -> None:
    """Raises ValueError naming the array that is empty, not finite, or not of the shape of the first."""
    shape = np.shape(next(iter(arrays.values())))
    for name, value in arrays.items():
        if np.shape(value) != shape or not np.size(value):
            raise ValueError(f"{name} must have the shape {shape} and not be empty, not {np.shape(value)}")
        if not np.isfinite(value).all():
            raise ValueError(f"{name} contains NaN or infinite values")


# ------------------------------------------------------------------------------------------------------------ splines


def _checked_raw(x: Tensor, raw: Tensor) -> None:
    if raw.shape[:-1] != x.shape or raw.shape[-1] < 5 or raw.shape[-1] % 3 != 2:
        raise ValueError(f"raw must have shape {(*x.shape, '3 K - 1')} with K >= 2, not {tuple(raw.shape)}")


class _Bin(NamedTuple):
    """The bin that a value falls into; each (...)."""

    left: Tensor
    width: Tensor
    bottom: Tensor
    height: Tensor
    slope: Tensor  # at the left knot
    next_slope: Tensor  # at the right knot


def _bin(value: Tensor, raw: Tensor, bound: float, inverse: bool) -> _Bin:
    """The bin of value (...) on the input side, or on the output side if inverse; raw (..., 3 K - 1)."""
    bins = (raw.shape[-1] + 1) // 3
    sizes = LEAST + (1 - LEAST * bins) * torch.softmax(raw[..., : 2 * bins].unflatten(-1, (2, bins)), -1)  # (..., 2, K)
    knots = F.pad(2 * bound * torch.cumsum(sizes, -1) - bound, (1, 0), value=-bound)  # (..., 2, K + 1)
    slopes = F.pad(LEAST + F.softplus(raw[..., 2 * bins :] + EVEN_SLOPE), (1, 1), value=1.0)  # (..., K + 1)
    place = (value[..., None] >= knots[..., int(inverse), 1:-1]).sum(-1, keepdim=True)  # (..., 1), 0 .. K - 1
    corner, far = (torch.gather(knots, -1, (place + step)[..., None, :].expand(*place.shape[:-1], 2, 1)) for step in (0, 1))
    (left, bottom), (right, top) = (c[..., 0].unbind(-1) for c in (corner, far))
    slope, next_slope = (torch.gather(slopes, -1, place + step)[..., 0] for step in (0, 1))
    return _Bin(left, right - left, bottom, top - bottom, slope, next_slope)


def spline(x: Tensor, raw: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Increasing map of x (...) and the log of its slope (...), nats; the identity outside [-bound, bound].

    raw: (..., 3 K - 1) unconstrained: K widths, K heights, K - 1 slopes at the inner knots. Zeros give the identity.
    Raises ValueError if the last axis of raw is no 3 K - 1 with K >= 2 or its other axes are not those of x.
    """
    _checked_raw(x, raw)
    inside = x.abs() < bound
    b = _bin(torch.where(inside, x, 0.0), raw, bound, inverse=False)
    # Durkan et al. (2019), eq. 4 and 5, with s = height / width and xi = (x - left) / width:
    # y = bottom + height (s xi^2 + slope xi (1 - xi)) / (s + (next_slope + slope - 2 s) xi (1 - xi))
    s, xi = b.height / b.width, (torch.where(inside, x, 0.0) - b.left) / b.width
    product = xi * (1 - xi)
    below = s + (b.next_slope + b.slope - 2 * s) * product
    y = b.bottom + b.height * (s * xi**2 + b.slope * product) / below
    # dy / dx = s^2 (next_slope xi^2 + 2 s xi (1 - xi) + slope (1 - xi)^2) / (the same denominator)^2
    above = b.next_slope * xi**2 + 2 * s * product + b.slope * (1 - xi) ** 2
    log_slope = 2 * torch.log(s) + torch.log(above) - 2 * torch.log(below)
    return torch.where(inside, y, x), torch.where(inside, log_slope, 0.0)


def spline_inverse(y: Tensor, raw: Tensor, bound: float) -> Tensor:
    """The x (...) that `spline` maps to y (...); raw (..., 3 K - 1) and errors as there."""
    _checked_raw(y, raw)
    inside = y.abs() < bound
    inner = torch.where(inside, y, 0.0)
    b = _bin(inner, raw, bound, inverse=True)
    # Durkan et al. (2019), eq. 6 to 8: the root of a xi^2 + b xi + c in [0, 1]
    s, rise = b.height / b.width, inner - b.bottom
    curve = rise * (b.next_slope + b.slope - 2 * s)
    qa, qb, qc = b.height * (s - b.slope) + curve, b.height * b.slope - curve, -s * rise
    xi = 2 * qc / (-qb - torch.sqrt((qb**2 - 4 * qa * qc).clamp(min=0)))
    return torch.where(inside, b.left + xi * b.width, y)


# -------------------------------------------------------------------------------------------------------------- flows


def network(sizes: Iterable[int], rng: torch.Generator) -> nn.Sequential:
    """ReLU network with layers of these sizes; weights and biases uniform within 1 / sqrt(inputs), drawn from rng."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layer = nn.utils.skip_init(nn.Linear, inputs, outputs)  # leaves the global generator alone
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator=rng)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Flow(nn.Module):
    """An invertible map of outcomes v (n, d) to latents (n, d), given a condition (n, c); d is 1 or 2.

    A block moves columns of v by splines whose knots a network reads off the condition and the other column, in three
    couplings (one if d = 1), then shifts and scales every column by constants. The condition enters nowhere else.
    """

    def __init__(self, d: int, c: int, rng: torch.Generator, blocks: int = 1, bins: int = 8, width: int = 32, bound: float = 3.0):
        super().__init__()
        if d not in (1, 2):
            raise ValueError(f"d must be 1 or 2, not {d}")
        self.bound, self.couplings = bound, (COUPLINGS if d == 2 else (((0,), ()),)) * blocks
        self.per_block = len(self.couplings) // blocks
        sizes = [(c + len(read), width, width, (3 * bins - 1) * len(moved)) for moved, read in self.couplings]
        self.networks = nn.ModuleList(network(s, rng) for s in sizes)
        self.log_scale, self.shift = (nn.Parameter(torch.zeros(blocks, d)) for _ in range(2))

    def _raw(self, k: int, v: Tensor, condition: Tensor) -> Tensor:
        moved, read = self.couplings[k]
        return self.networks[k](torch.cat([condition, v[:, list(read)]], 1)).unflatten(1, (len(moved), -1))  # (n, m, 3 K - 1)

    def forward(self, v: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (n, d) and log |d latent / d v| (n,), nats. Raises ValueError for bad shapes, NaN or no rows."""
        _checked(v=v, condition=condition)
        log_det = v.new_zeros(len(v))
        for k, (moved, _) in enumerate(self.couplings):
            out, log_slope = spline(v[:, list(moved)], self._raw(k, v, condition), self.bound)
            v, log_det = _replaced(v, moved, out), log_det + log_slope.sum(1)
            if (k + 1) % self.per_block == 0:
                block = k // self.per_block
                v, log_det = v * self.log_scale[block].exp() + self.shift[block], log_det + self.log_scale[block].sum()
        return v, log_det

    def inverse(self, u: Tensor, condition: Tensor) -> Tensor:
        """The outcomes (n, d) whose latents are u (n, d). Raises ValueError for bad shapes, NaN or no rows."""
        _checked(u=u, condition=condition)
        for k, (moved, _) in reversed(list(enumerate(self.couplings))):
            if (k + 1) % self.per_block == 0:
                block = k // self.per_block
                u = (u - self.shift[block]) * (-self.log_scale[block]).exp()
            u = _replaced(u, moved, spline_inverse(u[:, list(moved)], self._raw(k, u, condition), self.bound))
        return u


def _replaced(v: Tensor, moved: tuple[int, ...], new: Tensor) -> Tensor:
    """v (n, d) with its columns `moved` replaced by new (n, len(moved)); the network of a coupling reads none of them."""
    columns = list(v.unbind(1))
    for column, values in zip(moved, new.unbind(1), strict=True):
        columns[column] = values
    return torch.stack(columns, 1)


# ------------------------------------------------------------------------------------------ one likelihood a structure


def log_normal(u: Tensor) -> Tensor:
    """Log density (n,) of rows u (n, d) under N(0, I), nats."""
    return -(u**2).sum(1) / 2 - u.shape[1] * math.log(2 * math.pi) / 2


def log_markovian(flow: Callable, v: Tensor, condition: Tensor) -> Tensor:
    """U is independent of everything that the flow sees. With condition (t, z) this is baseline-xz, with t baseline-x."""
    # log p(v | t) = log N(u_hat) + log |d u_hat / d v|,  u_hat = f^-1(t, v)
    u, log_det = flow(v, condition)
    return log_normal(u) + log_det


def log_instrument(flow: Callable, action: Callable, v: Tensor, t: Tensor, i: Tensor) -> Tensor:
    """U is independent of I and may move T: `action` (n, d + 1) -> (n, 2), mean and log sd of t given u_hat and i."""
    # log p(v, t | i) = log N(u_hat) + log |d u_hat / d v| + log p(t | u_hat, i)
    u, log_det = flow(v, t)
    mean, log_sd = action(torch.cat([u, i], 1)).split(1, 1)
    return log_normal(u) + log_det + log_normal((t - mean) * torch.exp(-log_sd)) - log_sd[:, 0]


def log_backdoor(flow: Callable, prior: Callable, v: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """U is independent of T given Z: the flow never sees z, and the law of the latent, a second flow, never sees t."""
    # log p(v | t, z) = log p(u_hat | z) + log |d u_hat / d v|,  p(u | z) = N(w) |d w / d u|,  w = prior(u, z)
    u, log_det = flow(v, t)
    return log_markovian(prior, u, z) + log_det


def fit(
    modules: list[nn.Module],
    log_likelihood: Callable,
    rows: list[Tensor],
    rng: torch.Generator,
    steps: int,
    batch: int,
    rate: float,
) -> None:
    """Maximum likelihood for the modules, in place: Adam, gradient norm at most 5, rate falling to 0 on a cosine.

    log_likelihood: a batch of each of `rows` (n, columns) -> (batch,), nats. rng draws the batches, with replacement.
    Raises ValueError for bad rows, and FloatingPointError if the likelihood becomes NaN or infinite.
    """
    _checked(**{f"rows[{k}]": row for k, row in enumerate(rows)})
    parameters = [p for module in modules for p in module.parameters()]
    optimiser = torch.optim.Adam(parameters, rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: (1 + math.cos(math.pi * step / steps)) / 2)
    for step in range(steps):
        pick = torch.randint(len(rows[0]), (batch,), generator=rng).to(rows[0].device)
        loss = -log_likelihood(*(row[pick] for row in rows)).mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the likelihood is {-loss.item()} at step {step}: take a smaller rate")
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimiser.step()
        schedule.step()


# ----------------------------------------------------------------------------------------------------- counterfactuals


class Scale(NamedTuple):
    """An affine map of columns (n, d) and its inverse, with constants (d,) taken from training data."""

    centre: np.ndarray
    spread: np.ndarray  # > 0

    def forward(self, v: np.ndarray) -> Tensor:
        return torch.tensor((v - self.centre) / self.spread, dtype=torch.float32)

    def inverse(self, v: Tensor) -> np.ndarray:
        return v.double().cpu().numpy() * self.spread + self.centre


def standard_scale(v: np.ndarray) -> Scale:
    """Columns of v (n, d) get mean 0 and standard deviation 1. Raises ValueError for a constant column or NaN."""
    return _usable(Scale(v.mean(0), v.std(0)))


def range_scale(v: np.ndarray, reach: float = 2.95) -> Scale:
    """Columns of v (n, d) get the range [-reach, reach], inside a flow's bound. Raises ValueError as `standard_scale`."""
    low, high = v.min(0), v.max(0)
    return _usable(Scale((low + high) / 2, (high - low) / (2 * reach)))


def _usable(scale: Scale) -> Scale:
    if not (scale.spread > 0).all():
        raise ValueError("v has a constant column, or contains NaN: it cannot be scaled")
    return scale


@torch.no_grad()
def counterfactual(flow: Flow, v: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """What v (n, d) would have been: the condition (n, c) was `before` and would have been `after`."""
    # v' = f(t', f^-1(t, v)): abduct, act, predict
    return flow.inverse(flow(v, before)[0], after)


def quantile_matching(t: np.ndarray, v: np.ndarray, units: tuple[np.ndarray, np.ndarray, np.ndarray], k: int) -> np.ndarray:
    """The Markovian case without a model: v' has the same rank among units with action near t' as v among those near t.

    t, v: (n,) observed. units: actions, outcomes and counterfactual actions, (m,) each. k: how many observed units, nearest
    by rank of their action, stand for one action; at most n. Returns (m,). Raises ValueError for another k, other shapes or NaN.
    """
    _same(t=t, v=v)
    _same(before=units[0], seen=units[1], after=units[2])
    if not 1 <= k <= len(t):
        raise ValueError(f"k must be within 1 and {len(t)}, not {k}")
    order, (before, seen, after) = np.argsort(t), units
    near = [
        v[order][np.clip(np.searchsorted(t[order], a) - k // 2, 0, len(t) - k)[:, None] + np.arange(k)] for a in (before, after)
    ]
    # F(v' | t') = F(v | t), for increasing f and U independent of T
    rank = (near[0] < seen[:, None]).sum(1)  # (m,), 0 .. k
    return np.take_along_axis(np.sort(near[1], 1), np.minimum(rank, k - 1)[:, None], 1)[:, 0]


def ratio_of_means(t: np.ndarray, v: np.ndarray, units: tuple[np.ndarray, np.ndarray, np.ndarray], bins: int = 60) -> np.ndarray:
    """A control without a latent: v multiplied by E[v | t'] / E[v | t], the means taken over equal bins of [0, 2 pi).

    t (n,), v (n, d) > 0 observed; units: (m,), (m, d), (m,) as in `quantile_matching`. Returns (m, d). Raises ValueError if a
    bin holds no observed unit.
    """
    place, before, after = (np.minimum(a * (bins / (2 * np.pi)), bins - 1).astype(int) for a in (t, units[0], units[2]))
    count = np.bincount(place, minlength=bins)
    if not count.all():
        raise ValueError(f"t leaves {np.count_nonzero(count == 0)} of {bins} bins empty: take fewer bins or more units")
    mean = np.stack([np.bincount(place, column, bins) / count for column in v.T], 1)  # (bins, d)
    return units[1] * mean[after] / mean[before]


def percentage_error(truth: np.ndarray, estimate: np.ndarray) -> float:
    """Mean absolute percentage error over units and outcomes, (n, d) each; truth is nowhere 0. Raises ValueError for NaN."""
    _same(truth=truth, estimate=estimate)
    return float(100 * np.mean(np.abs(estimate - truth) / np.abs(truth)))


def explained_change(factual: np.ndarray, truth: np.ndarray, estimate: np.ndarray) -> float:
    """R2 of counterfactuals against "nothing would have changed": 1 is perfect, 0 is that guess.

    All three of one shape, (n,) or (n, 1). Raises ValueError for other shapes or NaN.
    """
    _same(truth=truth, factual=factual, estimate=estimate)
    # R2 = 1 - MSE(estimate) / MSE(factual)
    return float(1 - np.mean((estimate - truth) ** 2) / np.mean((factual - truth) ** 2))


# ----------------------------------------------------------------------------------------------------------- generators


class Ellipses(NamedTuple):
    """Units of the paper's backdoor data: covariate z and angle t, (n,) each, and v (n, 2) = (x, y) > 0."""

    z: np.ndarray
    t: np.ndarray  # within [0, 2 pi)
    v: np.ndarray


def ellipse_world(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The constants w (3,) in [1, 2] and c (3,) in [-1, 1] that a data set's units share."""
    return rng.uniform(1, 2, 3), rng.uniform(-1, 1, 3)


def ellipses(world: tuple[np.ndarray, np.ndarray], n: int, rng: np.random.Generator) -> Ellipses:
    """n > 0 units: a covariate moves the angle t and the two radii (r, b) of the ellipse that a unit lies on."""
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    (w, c), z = world, rng.uniform(-0.5, 0.5, n)
    # t = (w0 z + c0 + N(0, 1)) mod 2 pi,  r = 1 + exp(w1 z + c1) Exp(1),  b = exp(w2 z + c2) + U(0, 1)
    t = (w[0] * z + c[0] + rng.normal(size=n)) % (2 * np.pi)
    r = 1 + np.exp(w[1] * z + c[1]) * rng.exponential(size=n)
    b = np.exp(w[2] * z + c[2]) + rng.uniform(size=n)
    # x = r b (2 + cos t),  y = b (2 + sin t)
    return Ellipses(z, t, np.stack([r * b, b], 1) * ellipse_factor(t))


def ellipse_factor(t: np.ndarray) -> np.ndarray:
    """What an angle t (n,) multiplies (r b, b) by: (n, 2), within [1, 3]."""
    return np.stack([2 + np.cos(t), 2 + np.sin(t)], 1)


class Chunks(NamedTuple):
    """Units of the streaming stand-in, (n,) each: instrument, log chunk size, latent log capacity, log throughput."""

    i: np.ndarray  # within [-1, 1], nine levels
    t: np.ndarray
    u: np.ndarray
    v: np.ndarray


def log_throughput(t: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Log throughput of a chunk of log size t on a path of latent log capacity u; increasing in u, saturating in t."""
    # log(C S / (S + 0.7 C)),  C = exp(0.6 u),  S = exp(0.7 t)
    capacity, size = np.exp(0.6 * u), np.exp(0.7 * t)
    return np.log(capacity * size / (size + 0.7 * capacity))


def flipping(t: np.ndarray, u: np.ndarray) -> np.ndarray:
    """An outcome that is bijective in u for every t but 0, and decreasing in u where t < 0."""
    return np.tanh(2 * t) * u + 0.3 * t


def chunks(
    n: int, rng: np.random.Generator, outcome: Callable = log_throughput, strength: float = 1.2, pull: float = 1.0
) -> Chunks:
    """n > 0 chunks. A policy (the instrument) moves the size by `strength`; of what else moves it, the share `pull`
    within [0, 1] is the path's own capacity u, which confounds size and throughput, and the rest another draw of u's law."""
    if n < 1 or not 0 <= pull <= 1:
        raise ValueError(f"n must be at least 1, and pull within 0 and 1, not {n} and {pull}")
    i, u, other = rng.integers(9, size=n) / 4 - 1, rng.normal(size=n), rng.normal(size=n)
    # t = a + 0.8 q (1 + 0.3 tanh a) + 0.4 e,  a = strength i;  q = u for a confounded size
    a, q = strength * i, pull * u + np.sqrt(1 - pull**2) * other
    t = a + 0.8 * q * (1 + 0.3 * np.tanh(a)) + 0.4 * rng.normal(size=n)
    return Chunks(i, t, u, outcome(t, u))
