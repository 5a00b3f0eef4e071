"""Counterfactual explanation policies (Deshmukh et al. 2023): the least change of a policy that brings it to a wanted return.

Two classic-control environments, softmax policies side by side, the search, its rivals, and the measures. "Released code" is the
authors' repository, read and not copied.

Shapes: R runs, N episodes of a run, T steps, d inputs, A actions, P parameters. A policy is a vector (P,) of float32 or float64
whose parts are the weights and biases of a tanh network with `widths` (d, hidden, ..., A); many of them are an array (R, P).
"""

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

Array = NDArray[np.floating]
Widths = tuple[int, ...]
Rngs = Sequence[np.random.Generator]


# ---------------------------------------------------------------- environments


class Environment(NamedTuple):
    """Episodes side by side: states (..., 4) in float64, actions (...) whole numbers from 0 on, at most `horizon` steps."""

    n_inputs: int
    n_actions: int
    horizon: int  # steps after which an episode is cut
    start: Callable[[np.random.Generator, int], Array]  # first states (n, 4)
    observe: Callable[[Array], Array]  # what a policy sees of states (..., 4): (..., d)
    step: Callable[[Array, NDArray], tuple[Array, Array, NDArray]]  # next states, rewards (...), whether the episode is over (...)


GRAVITY, CART, POLE, HALF_LENGTH, FORCE, SECONDS = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02  # m/s², kg, kg, m, N, s a step
FARTHEST, STEEPEST = 2.4, 12 * 2 * np.pi / 360  # m from the middle, radians from upright


def cartpole_step(state: Array, action: NDArray) -> tuple[Array, Array, NDArray]:
    """One step of CartPole-v1 from states (..., 4): place (m), speed, angle (rad), angular speed; actions 0 (left) or 1 (right).

    Returns states (..., 4), rewards (...) that are all 1, and whether the pole fell or the cart left (...).
    """
    x, speed, angle, turning = np.moveaxis(state, -1, 0)
    sin, cos, mass = np.sin(angle), np.cos(angle), CART + POLE
    # Barto, Sutton & Anderson 1983, without friction
    push = (np.where(action == 1, FORCE, -FORCE) + POLE * HALF_LENGTH * turning**2 * sin) / mass
    spin = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4 / 3 - POLE * cos**2 / mass))
    pull = push - POLE * HALF_LENGTH * spin * cos / mass
    # explicit Euler
    state = np.stack([x + SECONDS * speed, speed + SECONDS * pull, angle + SECONDS * turning, turning + SECONDS * spin], axis=-1)
    done = (np.abs(state[..., 0]) > FARTHEST) | (np.abs(state[..., 2]) > STEEPEST)
    return state, np.ones(done.shape), done


def _acrobot_rates(state: Array, torque: Array) -> Array:
    """Time derivatives (4, ...) of Acrobot's states (4, ...): masses, lengths, inertias 1, centres at 1/2 (Sutton & Barto)."""
    a, b, da, db = state
    cos_b, sin_b = np.cos(b), np.sin(b)
    d1 = 3.5 + cos_b  # m l_c1² + m (l_1² + l_c2² + 2 l_1 l_c2 cos b) + 2 I
    d2 = 1.25 + 0.5 * cos_b
    phi2 = 0.5 * GRAVITY * np.sin(a + b)  # cos(x - pi / 2) = sin x
    phi1 = -0.5 * db**2 * sin_b - db * da * sin_b + 1.5 * GRAVITY * np.sin(a) + phi2
    ddb = (torque + d2 / d1 * phi1 - 0.5 * da**2 * sin_b - phi2) / (1.25 - d2**2 / d1)
    return np.stack([da, db, -(d2 * ddb + phi1) / d1, ddb])


def acrobot_step(state: Array, action: NDArray) -> tuple[Array, Array, NDArray]:
    """One step of Acrobot-v1 from states (..., 4): two angles (rad), their speeds; actions 0, 1, 2 are torques -1, 0, 1.

    Returns states (..., 4), rewards (...), -1 until the tip is one length above the bar and 0 then, and whether it is (...).
    """
    y, torque, h = np.moveaxis(state, -1, 0), action - 1.0, 0.2
    # Runge & Kutta, fourth order
    k1 = _acrobot_rates(y, torque)
    k2 = _acrobot_rates(y + h / 2 * k1, torque)
    k3 = _acrobot_rates(y + h / 2 * k2, torque)
    k4 = _acrobot_rates(y + h * k3, torque)
    y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    angles = (y[:2] + np.pi) % (2 * np.pi) - np.pi
    state = np.stack([*angles, np.clip(y[2], -4 * np.pi, 4 * np.pi), np.clip(y[3], -9 * np.pi, 9 * np.pi)], axis=-1)
    done = -np.cos(angles[0]) - np.cos(angles[0] + angles[1]) > 1
    return state, done - 1.0, done


def _acrobot_sees(state: Array) -> Array:
    a, b, da, db = np.moveaxis(state, -1, 0)
    return np.stack([np.cos(a), np.sin(a), np.cos(b), np.sin(b), da, db], axis=-1)


CARTPOLE = Environment(4, 2, 500, lambda rng, n: rng.uniform(-0.05, 0.05, (n, 4)), lambda state: state, cartpole_step)
ACROBOT = Environment(6, 3, 500, lambda rng, n: rng.uniform(-0.1, 0.1, (n, 4)), _acrobot_sees, acrobot_step)


# ---------------------------------------------------------------- policies


def n_parameters(widths: Widths) -> int:
    """P of a network."""
    return sum((a + 1) * b for a, b in pairwise(widths))


def layers(theta: Array, widths: Widths) -> list[tuple[Array, Array]]:
    """The parts of policies (..., P): weights (..., a, b) and biases (..., 1, b) of every layer.

    Raises ValueError when P does not fit the widths.
    """
    if theta.shape[-1] != n_parameters(widths):
        raise ValueError(f"theta must have {n_parameters(widths)} parameters for widths {widths}, not {theta.shape[-1]}")
    parts, at, lead = [], 0, theta.shape[:-1]
    for a, b in pairwise(widths):
        weights, at = theta[..., at : at + a * b].reshape(*lead, a, b), at + a * b
        parts.append((weights, theta[..., at : at + b].reshape(*lead, 1, b)))
        at += b
    return parts


def initial(widths: Widths, rng: np.random.Generator) -> Array:
    """A nearly indifferent policy (P,) in float32: weights N(0, 1 / a), the last layer's a hundred times smaller, biases 0."""
    pieces = [(rng.standard_normal(a * b) / np.sqrt(a), np.zeros(b)) for a, b in pairwise(widths)]
    pieces[-1] = (0.01 * pieces[-1][0], pieces[-1][1])
    return np.concatenate([part for piece in pieces for part in piece]).astype(np.float32)


def tanh(z: Array) -> Array:
    """Hyperbolic tangent by one exponential, which is twice as fast as numpy's and right to the last digit but one of 1."""
    with np.errstate(over="ignore"):  # exp(2 z) = inf gives 1
        e = np.exp(2 * z)
    e += 1
    # tanh z = 1 - 2 / (e^{2 z} + 1)
    return np.subtract(1, np.divide(2, e, out=e), out=e)


def forward(parts: list[tuple[Array, Array]], x: Array) -> list[Array]:
    """The activations of every layer for inputs (..., n, d), inputs first, logits (..., n, A) last."""
    found = [x]
    for i, (weights, bias) in enumerate(parts):
        z = found[-1] @ weights + bias
        found.append(tanh(z) if i < len(parts) - 1 else z)
    return found


def softmax(z: Array) -> Array:
    """Probabilities along the last axis, which is short: action by action is faster than numpy's reductions."""
    e = np.exp(z - reduce(np.maximum, np.moveaxis(z, -1, 0))[..., None])
    return e / reduce(np.add, np.moveaxis(e, -1, 0))[..., None]


def draw(pi: Array, u: Array) -> NDArray:
    """Actions (...) from probabilities (..., A) by numbers u (...) in [0, 1)."""
    below, action = np.zeros_like(u), np.zeros(u.shape, int)
    for p in np.moveaxis(pi, -1, 0)[:-1]:
        below += p
        action += u >= below
    return action


def probabilities(theta: Array, widths: Widths, x: Array) -> Array:
    """pi(. | x): (..., n, A) of policies (..., P) at inputs (n, d) or (..., n, d)."""
    return softmax(forward(layers(theta, widths), x.astype(theta.dtype))[-1])


def backward(parts: list[tuple[Array, Array]], activations: list[Array], dz: Array) -> Array:
    """The gradient (P,) of a sum whose gradient by the logits (n, A) is dz, for one policy."""
    pieces: list[Array] = []
    for i in reversed(range(len(parts))):
        pieces = [(activations[i].T @ dz).ravel(), dz.sum(axis=0), *pieces]
        if i:
            dz = (dz @ parts[i][0].T) * (1 - activations[i] ** 2)
    return np.concatenate(pieces)


# ---------------------------------------------------------------- episodes


class Batch(NamedTuple):
    """Episodes of R policies, at most T steps: inputs (T, R, N, d); actions, rewards, whether the step was taken (T, R, N)."""

    x: Array
    action: NDArray
    reward: Array
    taken: NDArray

    @property
    def returns(self) -> Array:
        """Undiscounted return (R, N) of every episode."""
        return self.reward.sum(axis=0)

    def steps(self, r: int) -> tuple[Array, NDArray, Array]:
        """Inputs (M, d), actions (M,) and returns from then on G (M,) of all steps that run r took."""
        taken = self.taken[:, r]
        # G_t = r_t + r_{t+1} + ...
        to_go = np.cumsum(self.reward[::-1, r], axis=0)[::-1]
        return self.x[:, r][taken], self.action[:, r][taken], to_go[taken]


def rollout(env: Environment, widths: Widths, theta: Array, rngs: Rngs, episodes: int, *, greedy: bool = False) -> Batch:
    """`episodes` fresh episodes of each policy (R, P), run r by its own generator rngs[r], whatever runs beside it.

    Actions are drawn from the policy, or its most probable ones if greedy.
    Raises ValueError for theta of another shape or not finite, another number of generators, or episodes < 1.
    """
    if theta.ndim != 2 or not len(theta) or not np.isfinite(theta).all():
        raise ValueError(f"theta must be finite, of shape (R, P), not {theta.shape}")
    if len(rngs) != len(theta) or episodes < 1:
        raise ValueError(
            f"rngs must be one generator for each of {len(theta)} runs, not {len(rngs)}; episodes at least 1, not {episodes}"
        )
    R, N, T = len(theta), episodes, env.horizon
    state = np.stack([env.start(rng, N) for rng in rngs])  # (R, N, 4)
    u = np.concatenate([rng.random((T, N), dtype=np.float32) for rng in rngs], axis=1)  # (T, R N)
    x, action = np.zeros((T, R * N, env.n_inputs), theta.dtype), np.zeros((T, R * N), np.int8)
    reward, taken = np.zeros((T, R * N), np.float32), np.zeros((T, R * N), bool)
    # what goes on: runs `on` (r,), of each the episodes at `who` (r, n) of R N, and which of them are alive
    on, who, alive, t = np.arange(R), np.arange(R * N).reshape(R, N), np.ones((R, N), bool), 0
    parts = layers(theta, widths)
    while t < T and len(on):
        now = env.observe(state).astype(theta.dtype)  # (r, n, d)
        z = forward(parts, now)[-1]
        chosen = z.argmax(axis=-1) if greedy else draw(softmax(z), u[t][who])
        state, gain, done = env.step(state, chosen)
        x[t][who], action[t][who], reward[t][who], taken[t][who] = now, chosen, gain * alive, alive
        alive, t = alive & ~done, t + 1
        still, n = alive.any(axis=1), alive.sum(axis=1).max()
        if not still.all() or n < 0.8 * alive.shape[1]:  # drop runs that are over, and episodes that are over in every run
            first = np.argsort(~alive[still], axis=1, kind="stable")[:, :n]
            on, who, alive = on[still], *(np.take_along_axis(a[still], first, axis=1) for a in (who, alive))
            state, parts = np.take_along_axis(state[still], first[..., None], axis=1), layers(theta[on], widths)
    x, action, reward, taken = (a[:t].reshape(t, R, N, *a.shape[2:]) for a in (x, action, reward, taken))
    return Batch(x, action, reward, taken)


# ---------------------------------------------------------------- the search


def gradient(
    theta: Array,
    pivot: Array,
    widths: Widths,
    steps: tuple[Array, NDArray, Array],
    *,
    drive: float,
    baseline: float,
    k: float,
    episodes: int,
) -> Array:
    """The gradient (P,) of drive * J(pi) + k E_s KL(pi_pivot(.|s) || pi(.|s)) at policy theta (P,), with pivot (P,).

    steps: one batch's (`Batch.steps`), of as many `episodes`. baseline is taken off every return to go.
    drive = 2 (J - R*) / rho² for Counterpol; -1 climbs, +1 descends. The states of the second term are held fixed.
    """
    x, action, to_go = steps
    parts = layers(theta, widths)
    activations = forward(parts, x)
    pi = softmax(activations[-1])
    taken = np.eye(widths[-1], dtype=theta.dtype)[action]
    # grad J = E[sum_t (G_t - b) grad log pi(a_t|s_t)], and grad_z log pi(a) = e_a - pi
    dz = (drive / episodes * (to_go - baseline))[:, None] * (taken - pi)
    # grad_z KL(q || softmax z) = softmax z - q
    if k:
        dz += k / len(x) * (pi - probabilities(pivot, widths, x))
    return backward(parts, activations, dz.astype(theta.dtype))


class Search(NamedTuple):
    """The runs of a search; S + 1 policies a run, of which the first is the one to start from."""

    path: Array  # (S + 1, R, P); after a run's end its last policy
    returns: Array  # (S + 1, R): the batch's mean return of each policy; NaN after a run's end
    steps: NDArray  # (R,): updates made
    reached: NDArray  # (R,): whether a batch came within delta of the target

    @property
    def theta(self) -> Array:
        """The policies that the runs end with (R, P)."""
        return self.path[-1]


def search(
    env: Environment, widths: Widths, theta: Array, targets: Array, rngs: Rngs, *,
    rule: str | Sequence[str] = "counterpol", k: float | Array = 0.0, baseline: str | Sequence[str] = "batch",
    shuffle: bool | Sequence[bool] = False, delta: float, rho: float, lr: float, clip: float, inner: int, outer: int, episodes: int,
) -> Search:  # fmt: skip
    """Counterpol from policies (R, P) to returns `targets` (R,), and its rivals; rule, k, baseline, shuffle for all or by run.

    rule: "counterpol", or "plain": the policy gradient up or down, whichever way the target lies (an infinite target: up for ever).
    k: weight of the leash, >= 0. baseline: "target" as in the released code, or "batch": the mean of G_t over the batch's steps.
    shuffle: the returns G_t change places among the steps of a batch, which takes the gradient's sense (a placebo).
    delta, rho: band of the stop and scale, in returns. lr, clip: Adam's rate and the gradient's largest norm. A run stops as soon
    as its batch of `episodes` is within delta; the pivot moves to the run's own policy after every `inner` updates, of which there
    are `outer` rounds.
    Raises ValueError for targets of another shape or NaN, k < 0, an unknown rule or baseline, or rho, lr, clip, inner or outer
    that is not positive; what `rollout` raises.
    """
    targets = np.asarray(targets, float)
    if targets.shape != theta.shape[:1] or np.isnan(targets).any():
        raise ValueError(f"targets must be {len(theta)} numbers, one a run, not of shape {targets.shape} or NaN")
    rule, k, baseline, shuffle = (np.broadcast_to(value, len(theta)) for value in (rule, k, baseline, shuffle))
    if not (np.isin(rule, ["counterpol", "plain"]).all() and np.isin(baseline, ["batch", "target"]).all()):
        raise ValueError(f"rule must be counterpol or plain, baseline batch or target, not {set(rule)}, {set(baseline)}")
    if not (k >= 0).all() or min(rho, lr, clip, inner, outer) <= 0:
        raise ValueError("k must not be negative; rho, lr, clip, inner and outer must be positive")
    now, pivot, live = theta.copy(), theta.copy(), np.arange(len(theta))
    path, returns = [theta], []
    moments, steps, reached = np.zeros((2, *theta.shape), theta.dtype), np.zeros(len(theta), int), np.zeros(len(theta), bool)
    for i in range(inner * outer + 1):
        batch = rollout(env, widths, now[live], [rngs[r] for r in live], episodes)
        J = batch.returns.mean(axis=1)
        returns.append(np.full(len(theta), np.nan))
        returns[i][live] = J
        # stop as soon as |J - R*| < delta
        reached[live] = np.abs(J - targets[live]) < delta
        on = np.flatnonzero(~reached[live])
        if i == inner * outer or not len(on):
            break
        if i % inner == 0:
            pivot = now.copy()
        for j in on:
            r, part = live[j], batch.steps(j)
            if shuffle[r]:
                part = (*part[:2], rngs[r].permutation(part[2]))
            # (J - R*)² / rho², or its sign alone
            drive = 2 * (J[j] - targets[r]) / rho**2 if rule[r] == "counterpol" else np.sign(J[j] - targets[r])
            b = targets[r] if baseline[r] == "target" else part[2].mean()
            g = gradient(now[r], pivot[r], widths, part, drive=drive, baseline=b, k=k[r], episodes=episodes)
            g *= min(1.0, clip / (np.linalg.norm(g) + 1e-12))
            # Adam (Kingma & Ba 2015)
            moments[:, r] = 0.9 * moments[0, r] + 0.1 * g, 0.999 * moments[1, r] + 0.001 * g**2
            mean, square = moments[0, r] / (1 - 0.9 ** (i + 1)), moments[1, r] / (1 - 0.999 ** (i + 1))
            now[r] -= lr * mean / (np.sqrt(square) + 1e-8)
            steps[r] += 1
        live = live[on]
        path.append(now.copy())
    return Search(np.stack(path), np.stack(returns), steps, reached)


def noisy(theta: Array, scales: Sequence[float], draws: int, rng: np.random.Generator) -> Array:
    """Policies (len(scales) * draws, P): theta (P,) plus Gaussian noise of each scale on every parameter.

    Raises ValueError for draws < 1 or a scale that is not positive.
    """
    if draws < 1 or min(scales, default=0) <= 0:
        raise ValueError(f"draws must be at least 1 and scales positive, not {draws}, {scales}")
    noise = rng.standard_normal((len(scales), draws, len(theta)))
    return (theta + np.asarray(scales)[:, None, None] * noise).reshape(-1, len(theta)).astype(theta.dtype)


# ---------------------------------------------------------------- measures


def visited(batch: Batch, r: int, n: int, rng: np.random.Generator) -> Array:
    """n of the inputs (n, d) that run r met, drawn with replacement, each of its steps equally likely."""
    return rng.choice(batch.steps(r)[0], n)


def divergence(theta: Array, others: Array, widths: Widths, x: Array) -> Array:
    """Mean over inputs (n, d) of KL(pi(.|x) || pi'(.|x)) in nats, (...) for one policy (P,) against others (..., P)."""
    p, q = probabilities(theta.astype(float), widths, x), probabilities(others.astype(float), widths, x)
    return (p * np.log(p / q)).sum(axis=-1).mean(axis=-1)


def closed_gap(attained: Array, first: Array, target: Array) -> Array:
    """1 - |J - R*| / |J_0 - R*|, elementwise: 1 where the target is attained, 0 where nothing moved, negative where it moved away.

    Raises ValueError where J_0 is the target.
    """
    if (np.asarray(first) == target).any():
        raise ValueError("first must differ from target: there is no gap to close")
    return 1 - np.abs(attained - target) / np.abs(first - target)


class Path(NamedTuple):
    """A run, smoothed: returns that go one way (n,), and the KL to the first policy at each (n,)."""

    returns: Array
    kl: Array


def smooth(returns: Array, episodes: Array, kl: Array) -> Path:
    """Isotonic returns of a run's policies (n,) in the direction from its first to its last, each weighted by its episodes (n,)."""
    fit = isotonic_regression(returns, weights=episodes, increasing=bool(returns[-1] >= returns[0]))
    return Path(fit.x, kl)


def kl_at(path: Path, level: float) -> float:
    """The KL where the path first comes to a return, linear between policies; at its ends beyond them."""
    first = np.r_[True, np.diff(path.returns) != 0]
    order = np.argsort(path.returns[first])
    return float(np.interp(level, path.returns[first][order], path.kl[first][order]))


def log_ratio(rival: Path, ours: Path) -> float:
    """log KL of the rival's path over ours, at the return that ours ended with or, if the rival came less far, its nearest.

    Plus or minus infinity where one of them has not left its first policy at that return (KL 0), 0 where neither has.
    """
    level = np.clip(ours.returns[-1], rival.returns.min(), rival.returns.max())
    kl = kl_at(rival, level), kl_at(ours, level)
    with np.errstate(divide="ignore"):  # log 0 = -inf
        return float(np.log(kl[0]) - np.log(kl[1])) if max(kl) > 0 else 0.0
