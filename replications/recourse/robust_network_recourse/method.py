"""Robust counterfactual explanations for neural networks with probabilistic guarantees (Hamman et al. 2023), T-Rex.

A model is a function m from points (..., d) to the probability of the wanted class (...), in [0, 1]. Features are scaled
to [0, 1], which is the unit of sigma and of every distance. Points in a batch never influence one another.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Model = Callable[[Tensor], Tensor]


# ---------------------------------------------------------------- models that are retrained


@dataclass(frozen=True)
class Networks:
    """g ReLU networks d-h-h-1 as one batch of weights: layer l is (g, n_in, n_out) and (g, 1, n_out)."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    def logits(self, x: Tensor) -> Tensor:
        """Logits (g, n) of points x, (n, d) for all networks or (g, n, d) with points of their own for each."""
        h = x.expand(len(self.weights[0]), *x.shape[-2:])  # (g, n, d)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            h = torch.relu(h) if i < len(self.weights) - 1 else h
        return h.squeeze(-1)

    def accept(self, x: Tensor) -> Tensor:
        """Which networks accept which points: bool (g, n) for x (n, d)."""
        with torch.no_grad():
            return self.logits(x) > 0

    def one(self, index: int) -> Model:
        """Network `index` as a model m."""
        weights, biases = [w[index] for w in self.weights], [b[index, 0] for b in self.biases]

        def m(x: Tensor) -> Tensor:
            h = x
            for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
                h = h @ weight + bias
                h = torch.relu(h) if i < len(weights) - 1 else h
            return torch.sigmoid(h.squeeze(-1))

        return m


def train(
    x: Tensor, y: Tensor, rows: Tensor, generator: torch.Generator, *, hidden: int = 64, epochs: int = 30, batch: int = 256,
    learning_rate: float = 1e-3,
) -> Networks:  # fmt: skip
    """Train g networks at once on points x (n, d) with labels y (n,) in {0, 1}; rows (g, k) are the rows that each may see.

    Each has initial weights and batches of its own: Adam, cross-entropy, PyTorch's default initialisation.
    Raises ValueError when x or y is not finite, or a class is missing.
    """
    if not torch.isfinite(x).all() or x.ndim != 2:
        raise ValueError("x must be finite, of shape (n, d)")
    if y.shape != x.shape[:1] or set(y.unique().tolist()) != {0.0, 1.0}:
        raise ValueError("y must be of shape (n,), with both classes 0.0 and 1.0")
    g, k = rows.shape
    sizes = [x.shape[1], hidden, hidden, 1]
    weights, biases = [], []
    for n_in, n_out in pairwise(sizes):
        bound = n_in**-0.5
        weights.append(torch.empty(g, n_in, n_out).uniform_(-bound, bound, generator=generator).requires_grad_())
        biases.append(torch.empty(g, 1, n_out).uniform_(-bound, bound, generator=generator).requires_grad_())
    networks = Networks(tuple(weights), tuple(biases))
    adam = torch.optim.Adam([*weights, *biases], lr=learning_rate, fused=True)
    for _ in range(epochs):
        order = torch.rand(g, k, generator=generator).argsort(dim=1)
        order = rows.gather(1, order)  # (g, k)
        for chosen in order.split(batch, dim=1):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(networks.logits(x[chosen]), y[chosen], reduction="none")
            adam.zero_grad()
            loss.mean(dim=1).sum().backward()  # a sum over networks: each gets its own gradient
            adam.step()
    return Networks(tuple(w.detach() for w in weights), tuple(b.detach() for b in biases))


def all_rows(n: int, copies: int) -> Tensor:
    """rows for `train`: every network sees all n rows (other weights and batches only, "WI"); (copies, n)."""
    return torch.arange(n).expand(copies, n)


def leave_out(n: int, copies: int, share: float, generator: torch.Generator) -> Tensor:
    """rows for `train`: each network lacks a random `share` in [0, 1) of n rows ("LO"); (copies, n - left out)."""
    if not 0 <= share < 1:
        raise ValueError(f"share must lie in [0, 1), not {share}")
    return torch.rand(copies, n, generator=generator).argsort(dim=1)[:, : n - round(share * n)]


# ---------------------------------------------------------------- stability


def _around(x: Tensor, noise: Tensor, sigma: float) -> Tensor:
    if noise.ndim != 2 or noise.shape[1] != x.shape[-1]:
        raise ValueError(f"noise must be of shape (k, {x.shape[-1]}), not {tuple(noise.shape)}")
    return x.unsqueeze(-2) + sigma * noise  # (n, k, d)


def relaxed_stability(m: Model, x: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """The computable Stability (n,) of points x (n, d), from standard normal noise (k, d) shared by all points."""
    near = m(_around(x, noise, sigma))  # (n, k)
    # R^(x, m) = (1/k) sum_i m(x_i) - (1/k) sum_i |m(x) - m(x_i)|
    return near.mean(-1) - (m(x).unsqueeze(-1) - near).abs().mean(-1)


def stability(m: Model, x: Tensor, noise: Tensor, sigma: float, gamma: Tensor) -> Tensor:
    """Stability (n,) with the Lipschitz constants gamma (n,) of m around each point, as in the theorem."""
    near = _around(x, noise, sigma)
    distance = sigma * noise.norm(dim=-1)  # (k,)
    # R(x, m) = (1/k) sum_i [ m(x_i) - gamma_m ||x - x_i|| ]
    return (m(near) - gamma.unsqueeze(-1) * distance).mean(-1)


def local_lipschitz(values: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """An estimate (...) of a model's Lipschitz constant around x, from its values (..., k) at x + sigma noise, noise (k, d).

    It is the largest slope between k/2 pairs of these points, so never above the true constant.
    """
    half = len(noise) // 2
    rise = (values[..., :half] - values[..., half : 2 * half]).abs()
    run = sigma * (noise[:half] - noise[half : 2 * half]).norm(dim=-1)
    # gamma = max |m(x_i) - m(x_j)| / ||x_i - x_j||
    return (rise / run).amax(-1)


def bound(k: int, epsilon: float, gamma_m: Tensor, gamma_changed: Tensor, sigma: float) -> Tensor:
    """Theorem 1: with at least this probability, M(x) >= R(x, m) - epsilon. Lipschitz constants (n,), result (n,) in [0, 1].

    Its premise: for every M, Z = (1/k) sum_i (m(x_i) - M(x_i)) lies within epsilon / 2 of its mean on average over the x_i.
    """
    # 1 - exp(-k e^2 / (8 (gamma_m + gamma_M)^2 sigma^2))
    return 1 - torch.exp(-k * epsilon**2 / (8 * (gamma_m + gamma_changed) ** 2 * sigma**2))


# ---------------------------------------------------------------- searches


def closest_counterfactual(
    m: Model, x: Tensor, *, beta: float = 0.0, steps: int = 60, rate: float = 0.02, bisections: int = 6, start: float = 1.0
) -> Tensor:
    """The base search: closest accepted points (n, d) to x (n, d) by an elastic-net attack; NaN rows where none was found.

    ISTA on c max(-logit, 0) + ||x' - x||_2^2 + beta ||x' - x||_1 in [0, 1]^d, the trade-off c by bisection: beta 0 is the
    closest in L2, beta 1 in L1.
    """
    _checked(x)
    low, high = torch.zeros(len(x)), torch.full((len(x),), torch.inf)
    c = torch.full((len(x),), start)
    best, best_cost = torch.full_like(x, torch.nan), torch.full((len(x),), torch.inf)
    for _ in range(bisections):
        z = x.clone()
        for step in range(steps):
            z.requires_grad_()
            loss = c * torch.relu(-torch.logit(m(z), eps=1e-6)) + ((z - x) ** 2).sum(-1)
            (gradient,) = torch.autograd.grad(loss.sum(), z)
            with torch.no_grad():
                z = z - rate * (1 - step / steps) ** 0.5 * gradient
                # shrinkage: S_beta(z) moves each coordinate towards x by rate * beta, and not past it
                z = x + (z - x).sign() * ((z - x).abs() - rate * beta).clamp(min=0)
                z = z.clamp(0, 1)
                cost = ((z - x) ** 2).sum(-1) + beta * (z - x).abs().sum(-1)
                reached = m(z) > 0.5
                better = reached & (cost < best_cost)
                best[better], best_cost[better] = z[better], cost[better]
        high = torch.where(reached, c.minimum(high), high)
        low = torch.where(reached, low, c.maximum(low))
        c = torch.where(high.isinf(), c * 10, (low + high) / 2)
    return best


Direction = Callable[[Tensor], Tensor]


def walk(m: Model, x0: Tensor, direction: Direction, *, steps: int = 20, rate: float = 0.01, radius: float = 0.2) -> Tensor:
    """Paths (steps + 1, n, d) from accepted points x0 (n, d): normalised steps of `rate` inside an L2 ball and [0, 1]^d.

    A step that leaves the accepted region is not taken. T-Rex, SNS and the controls differ in `direction` (n, d) alone.
    """
    _checked(x0)
    path = [x0]
    for _ in range(steps):
        x = path[-1]
        g = direction(x)
        # x <- x + rate g / ||g||_2, projected on the ball around x0 and clipped to the range of the data
        moved = x + rate * g / g.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        offset = moved - x0
        moved = x0 + offset * (radius / offset.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
        moved = moved.clamp(0, 1)
        with torch.no_grad():
            path.append(torch.where((m(moved) > 0.5).unsqueeze(-1), moved, x))
    return torch.stack(path)


def _gradient(score: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(score(x).sum(), x)[0]


def stability_direction(m: Model, sigma: float, k: int, generator: torch.Generator) -> Direction:
    """T-Rex:I, the gradient of the relaxed Stability through both of its terms, with fresh noise each step."""
    return lambda x: _gradient(lambda z: relaxed_stability(m, z, torch.randn(k, x.shape[1], generator=generator), sigma), x)


def confidence_direction(m: Model) -> Direction:
    """The control for Stability: the gradient of m itself."""
    return lambda x: _gradient(m, x)


def random_direction(x0: Tensor, generator: torch.Generator) -> Direction:
    """The control for any gradient: one random direction per point."""
    fixed = torch.randn(x0.shape, generator=generator)
    return lambda x: fixed


def turned_direction(direction: Direction, x0: Tensor, generator: torch.Generator) -> Direction:
    """`direction` turned towards a random one per point, by 45 degrees where the two are orthogonal: a wasteful walk."""
    fixed = torch.nn.functional.normalize(torch.randn(x0.shape, generator=generator), dim=-1)
    return lambda x: torch.nn.functional.normalize(direction(x), dim=-1) + fixed


def sns_direction(m: Model, generator: torch.Generator, points: int = 20, jitter: float = 1e-3) -> Direction:
    """Stable neighbour search (Black et al. 2022): the gradient of the line integral of m from the origin to x."""
    shares = torch.arange(1, points + 1) / points

    def line_integral(z: Tensor) -> Tensor:
        # sum_{i=1..20} m(i x / 20)
        return m(shares[:, None, None] * z).sum(0)

    return lambda x: _gradient(line_integral, x + jitter * torch.randn(x.shape, generator=generator))


def stop_at(path: Tensor, reached: Tensor) -> Tensor:
    """The point (n, d) of each path (s, n, d) at its first step where `reached` (s, n) is true, the last one where it never is."""
    first = torch.where(reached.any(0), reached.int().argmax(0), len(path) - 1)
    return path[first, torch.arange(path.shape[1])]


def at_travel(path: Tensor, travel: Tensor) -> Tensor:
    """The point (n, d) of each path (s, n, d) at L2 distance `travel` (n,) from its start, interpolated; else the farthest."""
    distance = (path - path[0]).norm(dim=-1)  # (s, n)
    beyond = distance >= travel - 1e-7
    later = torch.where(beyond.any(0), beyond.int().argmax(0), distance.argmax(0))
    earlier = (later - 1).clamp(min=0)
    points = torch.arange(path.shape[1])
    a, b = distance[earlier, points], distance[later, points]
    share = ((travel - a) / (b - a).clamp(min=1e-12)).clamp(0, 1).unsqueeze(-1)
    return path[earlier, points] + share * (path[later, points] - path[earlier, points])


def trex_iterative(
    m: Model, x0: Tensor, *, sigma: float, tau: float, k: int, generator: torch.Generator, steps: int = 20, rate: float = 0.01,
    radius: float = 0.2,
) -> Tensor:  # fmt: skip
    """T-Rex:I: from counterfactuals x0 (n, d), climb the relaxed Stability until it reaches tau in [0, 1]; (n, d)."""
    path = walk(m, x0, stability_direction(m, sigma, k, generator), steps=steps, rate=rate, radius=radius)
    return stop_when_stable(m, path, sigma=sigma, tau=tau, k=k, generator=generator)


def stop_when_stable(m: Model, path: Tensor, *, sigma: float, tau: float, k: int, generator: torch.Generator) -> Tensor:
    """The point (n, d) of each path (s, n, d) at its first relaxed Stability of at least tau, on fresh noise; else its last."""
    with torch.no_grad():
        reached = [relaxed_stability(m, x, torch.randn(k, x.shape[1], generator=generator), sigma) >= tau for x in path]
    return stop_at(path, torch.stack(reached))


def nearest_accepted(m: Model, x: Tensor, training: Tensor) -> Tensor:
    """For each x (n, d) the nearest training point (n, d) that m accepts. Raises ValueError when m accepts none."""
    with torch.no_grad():
        accepted = training[m(training) > 0.5]
    if len(accepted) == 0:
        raise ValueError("training holds no point that m accepts")
    return accepted[torch.cdist(x, accepted).argmin(1)]


def trex_nearest(m: Model, x: Tensor, training: Tensor, *, sigma: float, tau: float, k: int, generator: torch.Generator) -> Tensor:
    """T-Rex:NN: for each x (n, d) the nearest training point that m accepts with relaxed Stability of at least tau; (n, d).

    The plain nearest accepted point where none reaches tau.
    """
    noise = torch.randn(k, x.shape[1], generator=generator)
    with torch.no_grad():
        # R^ <= m(x) for any noise, so only points with m(x) >= tau can pass
        able = training[m(training) >= max(tau, 0.5)]
        stable = [part[relaxed_stability(m, part, noise, sigma) >= tau] for part in able.split(512)]
    stable = torch.cat(stable) if stable else able
    return nearest_accepted(m, x, stable if len(stable) else training)


def gradient_counterfactual(
    m: Model,
    x: Tensor,
    *,
    distance_weight: float | Tensor,
    worst_change: float | Tensor = 0.0,
    steps: int = 300,
    rate: float = 0.01,
) -> Tensor:
    """Wachter's search (worst_change 0) and ROAR's: accepted points (n, d) near x, NaN rows where none was found.

    Both knobs are one number for all points or one each, (n,). Minimises the cross-entropy of the wanted class plus
    distance_weight ||x' - x||_1. ROAR takes the logit after the worst change of a local linear model's weights by at most
    worst_change each: logit - worst_change ||x'||_1.
    """
    _checked(x)
    z = x.clone().requires_grad_()
    adam = torch.optim.Adam([z], lr=rate)
    for _ in range(steps):
        logit = torch.logit(m(z), eps=1e-6) - worst_change * z.abs().sum(-1)
        loss = torch.nn.functional.softplus(-logit) + distance_weight * (z - x).abs().sum(-1)
        adam.zero_grad()
        loss.sum().backward()
        adam.step()
        with torch.no_grad():
            z.clamp_(0, 1)
    found = z.detach()
    return torch.where((m(found) > 0.5).unsqueeze(-1), found, torch.nan)


def _checked(x: Tensor) -> None:
    if x.ndim != 2 or not torch.isfinite(x).all():
        raise ValueError("points must be finite, of shape (n, d)")
