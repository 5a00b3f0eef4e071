"""CounTS, counterfactual time series (Yan & Wang, 2023), reconstructed from the abstract; its rivals; worlds with a known truth.

A person's series x has a global cause u_g (their health) and local ones u_t; x and u_g give the class y. A counterfactual keeps the
person's u and asks what x' would have given the other class. Equations are ours, E1-E9 in the order of the method.

M alike networks (a seed, a world) are trained and searched side by side. x is (M, N, T, D): N series of T times and D channels; y
is (M, N), 0 or 1; u is (M, N, 1 + T), u_g first. Nothing is shared between networks and Adam works number by number, so that each
comes out as if it were alone. Floats are of single precision.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, relu

from shared.checks import finite

Array = NDArray
Parameters = dict[str, Tensor]  # each with a leading axis of M
Score = Callable[[Tensor], Tensor]  # x (M, N, T, D) to logits of class 1, (M, N)

LATE = 10  # the class reads the last ten values of channel A
A, B, C = 0, 1, 2  # acts on the class; betrays u_g and does nothing; noise


def _checked(x: Tensor, y: Tensor | None = None) -> None:
    """Raises ValueError naming x or y where they are not a batch of finite series and their classes."""
    if x.ndim != 4 or 0 in x.shape or not torch.isfinite(x).all():
        raise ValueError(f"x must be finite, not empty and of shape (M, N, T, D), not {tuple(x.shape)}")
    if y is not None and (y.shape != x.shape[:2] or not ((y == 0) | (y == 1)).all()):
        raise ValueError(f"y must hold 0 and 1 and be of shape {tuple(x.shape[:2])}, not {tuple(y.shape)}")


# ---------------------------------------------------------------- worlds


class People(NamedTuple):
    """Series x (n, T, 3), classes y (n,), and what nobody sees: u (n,), and the noise e (n,) of the class."""

    x: Array
    y: Array
    u: Array
    e: Array


def outcome(x: Array, u: Array, e: Array) -> Array:
    """The true mechanism, (..., n) of 0 and 1, for x (..., n, T, 3): it reads the last ten of A, u and e, never B or C."""
    # E1: y = 1[2 mean(A_{T-9..T}) + u + .2 e > 0]
    return (2 * x[..., -LATE:, A].mean(-1) + u + 0.2 * e > 0).astype(int)


def simulate(
    world: Literal["additive", "multiplied", "no u"], noise: float, n: int, rng: np.random.Generator, times: int = 20
) -> People:
    """n people of a world. Channel A is an AR(1), B = u + noise e_t, C is noise.

    additive: A's coefficient is .8. multiplied: it is .8 / (1 + exp(-2u)), so that u acts on A too. no u: u is 0 for everyone, B is
    noise alone. noise > 0 is B's; times >= 10. Raises ValueError for other values.
    """
    if world not in ("additive", "multiplied", "no u") or n < 1 or noise <= 0 or times < LATE:
        raise ValueError(f"world, noise, n or times is out of range: {world!r}, {noise}, {n}, {times}")
    u = rng.standard_normal(n) * (world != "no u")
    phi = 0.8 / (1 + np.exp(-2 * u)) if world == "multiplied" else np.full(n, 0.8)
    steps = rng.standard_normal((n, times)) * np.sqrt(1 - phi**2)[:, None]
    a = np.empty_like(steps)
    a[:, 0] = rng.standard_normal(n)  # stationary, variance 1
    # E2: A_t = phi A_{t-1} + sqrt(1 - phi^2) e_t;  B_t = u + s e_t;  C_t = e_t
    for t in range(1, times):
        a[:, t] = phi * a[:, t - 1] + steps[:, t]
    x = np.stack([a, u[:, None] + noise * rng.standard_normal((n, times)), rng.standard_normal((n, times))], axis=-1)
    e = rng.standard_normal(n)
    return People(x, outcome(x, u, e), u, e)


def plant(series: Array, y: Array, rng: np.random.Generator, correlation: float = 0.9, noise: float = 0.2) -> Array:
    """Series (n, T) with a second channel, (n, T, 2): a coin of -1 or 1 per series, correlated with its class, plus noise.

    The class was there before the coin, so that the channel does nothing. Raises ValueError for series that are no finite table,
    for y that is not a 0 or 1 for each, and for a correlation outside [0, 1].
    """
    series = finite("series", series, 2)
    if np.shape(y) != series.shape[:1] or not np.isin(y, (0, 1)).all():
        raise ValueError(f"y must hold 0 and 1 and be of shape {series.shape[:1]}, not {np.shape(y)}")
    if not 0 <= correlation <= 1:
        raise ValueError(f"correlation must lie in [0, 1], not {correlation}")
    # E3: P(coin = sign of the class) = (1 + correlation) / 2
    agrees = rng.random(len(y)) < (1 + correlation) / 2
    coin = np.where(agrees, 2 * y - 1, 1 - 2 * y)
    return np.stack([series, coin[:, None] + noise * rng.standard_normal(series.shape)], axis=-1)


# ---------------------------------------------------------------- the networks


class Arm(NamedTuple):
    """What is trained. latent: with u; False is the plain network, whose u is 0. reconstruct: weight a >= 0 of log p(x | u).
    residual: the class is decoded from x - E[x | u] in place of x (ours)."""

    latent: bool = True
    reconstruct: float = 0.0
    residual: bool = False


def parameters(models: int, times: int, channels: int, rng: torch.Generator, hidden: int = 32) -> Parameters:
    """Random weights, uniform within 1/sqrt(inputs) as torch's: encoders p(u | x) and q(u | x, y), decoders of x and y."""
    cells, latents = times * channels, 1 + times
    layers = {
        "p1": (cells, hidden), "p2": (hidden, 2 * latents), "q1": (cells + 1, hidden), "q2": (hidden, 2 * latents),
        "x1": (1, hidden // 2), "x2": (hidden // 2, cells), "xt": (1, channels),
        "z1": (cells + times, 2 * hidden), "y1": (2 * hidden + 1, 2 * hidden), "y2": (2 * hidden, 1),
    }  # fmt: skip
    p = {}
    for name, (inputs, outputs) in layers.items():
        for kind, rows in (("w", inputs), ("b", 1)):
            p[f"{kind}_{name}"] = ((2 * torch.rand(models, rows, outputs, generator=rng) - 1) / inputs**0.5).requires_grad_()
    p["log_sd"] = torch.zeros(models, 1, 1, channels, requires_grad=True)
    return p


def _linear(x: Tensor, p: Parameters, layer: str) -> Tensor:
    return torch.baddbmm(p[f"b_{layer}"], x, p[f"w_{layer}"])  # (M, rows, outputs)


def infer(x: Tensor, p: Parameters, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and log variance (within -8 and 8), (M, N, 1 + T) each, of p(u | x), or of q(u | x, y) where y (M, N) is given."""
    flat, net = x.flatten(2), "p"
    if y is not None:
        flat, net = torch.cat([flat, 2 * y.unsqueeze(-1) - 1], dim=-1), "q"
    # E4: q(u | x, y) = N(m, diag v), (m, log v) = W_2 relu(W_1 [x, y]), and p(u | x) alike
    mean, log_variance = _linear(relu(_linear(flat, p, f"{net}1")), p, f"{net}2").chunk(2, dim=-1)
    return mean, log_variance.clamp(-8, 8)


def expected_series(u: Tensor, p: Parameters) -> Tensor:
    """E[x | u], (M, N, T, D): what the global cause does at each time, and that time's own cause, alike at all times."""
    shared = _linear(relu(_linear(u[..., :1], p, "x1")), p, "x2")  # (M, N, T D)
    # E5: E[x_t | u] = (V_2 relu(V_1 u_g))_t + v u_t + c
    own = u[..., 1:, None] * p["w_xt"].unsqueeze(1) + p["b_xt"].unsqueeze(1)  # (M, N, T, D)
    return shared.view(own.shape) + own


def logit(x: Tensor, u: Tensor, p: Parameters, arm: Arm) -> Tensor:
    """log odds of class 1, (M, N), given the series and the causes."""
    seen = x - expected_series(u, p) if arm.residual else x
    # E6: z = relu(W [x, u_1..T]), log odds = W' relu(W'' [z, u_g])
    z = relu(_linear(torch.cat([seen.flatten(2), u[..., 1:]], dim=-1), p, "z1"))
    return _linear(relu(_linear(torch.cat([z, u[..., :1]], dim=-1), p, "y1")), p, "y2").squeeze(-1)


def kl(mean: Tensor, log_variance: Tensor, mean_0: Tensor, log_variance_0: Tensor) -> Tensor:
    """KL(N(mean, v) || N(mean_0, v_0)) in nats, diagonal, summed over the last axis."""
    # E7: 1/2 sum log(v_0 / v) + (v + (m - m_0)^2) / v_0 - 1
    ratio = (log_variance.exp() + (mean - mean_0) ** 2) / log_variance_0.exp()
    return 0.5 * (log_variance_0 - log_variance + ratio - 1).sum(-1)


def loss(x: Tensor, y: Tensor, seen: Tensor, noise: Tensor, p: Parameters, arm: Arm, kl_weight: float) -> Tensor:
    """The negative bound, nats per person, (M,). seen: the series that the encoders read; noise (M, N, 1 + T) standard normal."""
    if not arm.latent:
        return binary_cross_entropy_with_logits(logit(x, torch.zeros_like(noise), p, arm), y, reduction="none").mean(1)
    mean, log_variance = infer(seen, p, y)
    u = mean + torch.exp(0.5 * log_variance) * noise
    # E8: -E_q[log p(y | z(x, u_t), u_g)] - a E_q[log p(x | u)] + KL(q(u | x, y) || p(u | x))
    total = binary_cross_entropy_with_logits(logit(x, u, p, arm), y, reduction="none")
    if arm.reconstruct:
        error = 0.5 * ((x - expected_series(u, p)) / p["log_sd"].exp()) ** 2 + p["log_sd"]
        total = total + arm.reconstruct * error.flatten(2).sum(-1)
    return (total + kl_weight * kl(mean, log_variance, *infer(seen, p))).mean(1)


def train(
    x: Tensor, y: Tensor, arm: Arm, rng: torch.Generator, *, steps: int = 200, batch: int = 64, rate: float = 0.01,
    hidden: int = 32, permuted: bool = False,
) -> Parameters:  # fmt: skip
    """Train M networks of an arm, each on its own x (M, N, T, D) and y (M, N); the rate falls to 0 over the last half.

    The KL term's weight rises from 0 to 1 over the first third. permuted: the encoders read another person's series throughout.
    Raises ValueError for series or classes out of shape or range.
    """
    _checked(x, y)
    p = parameters(len(x), x.shape[2], x.shape[3], rng, hidden)
    seen = x[:, torch.randperm(x.shape[1], generator=rng)] if permuted else x
    y = y.to(x.dtype)
    adam = torch.optim.Adam(p.values(), lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda i: min(1.0, 2 * (1 - i / steps)))
    for step in range(steps):
        rows = torch.randint(x.shape[1], (batch,), generator=rng)
        noise = torch.randn(len(x), batch, 1 + x.shape[2], generator=rng)
        adam.zero_grad()
        loss(x[:, rows], y[:, rows], seen[:, rows], noise, p, arm, min(1.0, 3 * step / steps)).sum().backward()
        adam.step()
        schedule.step()
    return {name: w.detach() for name, w in p.items()}


def predictor(p: Parameters, arm: Arm) -> Score:
    """Log odds of a series with u the mean of p(u | x), inferred from the very series that is given; u = 0 for a plain network."""

    def score(x: Tensor) -> Tensor:
        u = infer(x, p)[0] if arm.latent else x.new_zeros(*x.shape[:2], 1 + x.shape[2])
        return logit(x, u, p, arm)

    return score


def abduct(x: Tensor, p: Parameters, arm: Arm) -> Tensor:
    """u*, (M, N, 1 + T): the mean of q(u | x, y_pred). The class that enters is the predicted one, not the true one."""
    return infer(x, p, (predictor(p, arm)(x) > 0).to(x.dtype))[0]


# ---------------------------------------------------------------- counterfactuals


def search(
    score: Score, x: Tensor, target: Tensor, *, weight: float, steps: int = 100, rate: float = 0.05,
    bounds: tuple[float, float] | None = None,
) -> Tensor:  # fmt: skip
    """x' (M, N, T, D) near x that the score gives class `target` (M, N), by Adam, the rate falling to 0.

    weight >= 0 is that of the absolute change, per cell; bounds keep x' inside. Raises ValueError for x that is no batch of finite
    series, a target that is not 0 and 1, or a negative weight.
    """
    _checked(x, target)
    if weight < 0:
        raise ValueError(f"weight must not be negative, not {weight}")
    changed = x.clone().requires_grad_()
    adam = torch.optim.Adam([changed], lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda i: 1 - i / steps)
    for _ in range(steps):
        # E9: x' = argmin max(0, 1 - s(x')) + l |x' - x|_1, s the log odds of the target
        short = relu(1 - (2 * target - 1) * score(changed))
        (gradient,) = torch.autograd.grad(short.sum() + weight * (changed - x).abs().sum(), changed)
        changed.grad = gradient
        adam.step()
        schedule.step()
        if bounds:
            changed.data.clamp_(*bounds)
    return changed.detach()


def mask_search(score: Score, x: Tensor, target: Tensor, towards: Tensor, *, weight: float, steps: int = 100) -> Tensor:
    """x' = x + m (towards - x) with the smallest mask m in [0, 1], found by `search`, that gives the class `target`."""
    mask = search(
        lambda m: score(torch.lerp(x, towards, m)), torch.zeros_like(x), target, weight=weight, steps=steps, bounds=(0, 1)
    )
    return torch.lerp(x, towards, mask)


def class_means(x: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The mean training series of each person's target class, (M, N, T, D), from x (M, n, T, D) and y (M, n)."""
    shares = torch.stack([1 - y, y], dim=1).to(x.dtype)  # (M, 2, n)
    means = (shares @ x.flatten(2) / shares.sum(-1, keepdim=True)).unflatten(-1, x.shape[2:])  # (M, 2, T, D)
    return torch.stack([m[t] for m, t in zip(means, target.long(), strict=True)])


def native_guide(x: Tensor, target: Tensor, train_x: Tensor, train_class: Tensor) -> Tensor:
    """The nearest training series, (M, N, T, D), to which the network gives the target class; train_class is (M, n)."""
    distance = torch.cdist(x.flatten(2), train_x.flatten(2))  # (M, N, n)
    distance.masked_fill_(train_class.unsqueeze(1) != target.unsqueeze(-1), torch.inf)
    return torch.stack([rows[i] for rows, i in zip(train_x, distance.argmin(-1), strict=True)])


def move_top(importance: Tensor, x: Tensor, towards: Tensor, share: float) -> Tensor:
    """x with the `share` of cells of largest importance (M, N, T, D) set to `towards`. Raises ValueError unless 0 < share < 1."""
    if not 0 < share < 1:
        raise ValueError(f"share must lie in (0, 1), not {share}")
    k = max(1, round(share * x[0, 0].numel()))
    threshold = importance.flatten(2).topk(k, dim=-1).values[..., -1:, None]
    return torch.where(importance >= threshold, towards, x)


def occlusion(score: Score, x: Tensor) -> Tensor:
    """|change of the score when a cell is set to 0|, (M, N, T, D)."""
    before, found = score(x), torch.zeros_like(x)
    for t in range(x.shape[2]):
        for d in range(x.shape[3]):
            without = x.clone()
            without[..., t, d] = 0
            found[..., t, d] = (before - score(without)).abs()
    return found


def integrated_gradients(score: Score, x: Tensor, points: int = 16) -> Tensor:
    """|x times the mean gradient of the score on the way from 0 to x|, midpoint rule, (M, N, T, D)."""
    total = torch.zeros_like(x)
    for k in range(points):
        here = (x * (k + 0.5) / points).requires_grad_()
        total += torch.autograd.grad(score(here).sum(), here)[0]
    return (x * total / points).abs()


# ---------------------------------------------------------------- measures


def change_ratio(change: Array, active: Array) -> float:
    """Share of the absolute change (N, T, D) that falls on active cells, in [0, 1]; NaN without change. active (T, D) is 0 or 1."""
    size = np.abs(change)
    return float((size * active).sum() / size.sum()) if size.any() else float("nan")


def resized(change: Array, size: float) -> Array:
    """`change` (N, T, D) by one factor for all people, so that its mean absolute value is `size`; 0 stays 0."""
    own = np.abs(change).mean()
    return change * (size / own) if own else change


def world_flips(people: People, change: Array, target: Array, judged: Array, size: float) -> float:
    """Share of the judged people, (n,) boolean, whose class becomes `target` (n,) under the true mechanism, own u and e kept.

    The change (n, T, 3) is first brought to a mean absolute value of `size` over the judged.
    """
    x = people.x[judged] + resized(change[judged], size)
    return float((outcome(x, people.u[judged], people.e[judged]) == target[judged]).mean())


def nearest_distance(x: Array, others: Array) -> Array:
    """Root mean square difference of each series (n, T) to the nearest of `others` (m, T), (n,)."""
    return np.sqrt(((x[:, None] - others[None]) ** 2).mean(-1).min(1))


def nearest_class(x: Array, train_x: Array, train_y: Array) -> Array:
    """Class (n,) of the nearest training series: a judge that the searched networks know nothing of."""
    return train_y[((x[:, None] - train_x[None]) ** 2).sum(-1).argmin(1)]


def convolution_judge(train_x: Array, train_y: Array, rng: np.random.Generator, kernels: int = 100) -> Callable[[Array], Array]:
    """Classes (n,) of series (n, T), by ridge regression on the share of positive values and the maximum of random convolutions.

    train_x is (m, T), train_y (m,) of 0 and 1. The penalty is 1 per training series, for standardised features.
    """
    weights = rng.standard_normal((kernels, 7))
    weights -= weights.mean(1, keepdims=True)
    bias = rng.uniform(-1, 1, kernels)

    def features(x: Array) -> Array:
        padded = np.pad(x, ((0, 0), (3, 3)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, 7, axis=1)  # (n, T, 7)
        response = windows @ weights.T + bias  # (n, T, kernels)
        return np.concatenate([(response > 0).mean(1), response.max(1)], axis=1)

    raw = features(train_x)
    centre, spread = raw.mean(0), raw.std(0) + 1e-6
    z = (raw - centre) / spread
    # by hand: to import scikit-learn takes longer than all judges do
    slopes = z.T @ np.linalg.solve(z @ z.T + len(z) * np.eye(len(z)), train_y - train_y.mean())
    return lambda x: ((features(x) - centre) / spread @ slopes + train_y.mean() > 0.5).astype(int)
