"""Adversarial counterfactual environment model learning (GALILEO; Chen, Yu, Zhu et al., NeurIPS 2023).

Data come from a policy that reacts to the state, so that action and state go together and a network fitted by likelihood may
learn the action's effect with the wrong sign. GALILEO weights the likelihood towards what the worst of all policies would visit;
the weights come from two classifiers of real against generated transitions, which also reward the model as in adversarial
imitation. Written from the paper and from notes on the authors' code; nothing is copied.

Tensors are float32 with a leading axis of runs: R models are trained side by side, each with a generator of its own, so that no run
depends on its neighbours. n is the number of trajectories, T their length, d the width of a state. Networks see the
*unit* space, in which each column of the data spans 0 to 1 (actions a sixth less); an outcome is one number, the next y.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import romb
from torch import Tensor
from torch.nn import functional as F

GOAL, GAIN, SPREAD = 62.5, 15.0, 2.0  # the feedback policy's aim, its divisor, and the standard deviation of a step
ACTION_MARGIN = 1.2  # the unit interval of the action over the range that was seen
LOG_LIKELIHOOD_MAX, WEIGHT_OF_STD, TRUST = 10.0, 5.0, 0.1
Layers = list[tuple[Tensor, Tensor]]  # weights (R, in, out) and biases (R, 1, out)
Advance = Callable[[Tensor, Tensor], Tensor]  # states (R, n, d) and next y (R, n, 1), unit space, to next states


# ------------------------------------------------------------------------------------------------------------------ worlds


class Trajectories(NamedTuple):
    """What was seen, in its own units."""

    states: np.ndarray  # (n, T, d)
    actions: np.ndarray  # (n, T)
    outcomes: np.ndarray  # (n, T): the next y


def gnfc(rng: np.random.Generator, n: int, horizon: int, size: float, rate: float) -> Trajectories:
    """General negative feedback control: a = (62.5 - y) / 15 + noise, y' = y + a + N(0, 4). States are (y, sum of past y).

    The noise is uniform on [-size, size] with probability `rate`, a coin for each trajectory and step, else 0.
    Trajectories start at N(50 i / n, 1). Raises ValueError unless n, horizon >= 1, size >= 0 and 0 <= rate <= 1.
    """
    if n < 1 or horizon < 1 or size < 0 or not 0 <= rate <= 1:
        raise ValueError(f"n and horizon must be >= 1, size >= 0 and rate in [0, 1], not {n}, {horizon}, {size}, {rate}")
    y = np.empty((n, horizon + 1))
    y[:, 0] = 50 * np.arange(n) / n + rng.normal(size=n)
    actions = (rng.random((n, horizon)) < rate) * rng.uniform(-size, size, (n, horizon))
    noise = SPREAD * rng.normal(size=(n, horizon))
    for t in range(horizon):
        actions[:, t] += (GOAL - y[:, t]) / GAIN
        y[:, t + 1] = y[:, t] + actions[:, t] + noise[:, t]  # the effect of a on y' is +1 in every state
    past = np.cumsum(y[:, :-1], 1) - y[:, :-1]
    return Trajectories(np.stack([y[:, :-1], past], -1), actions, y[:, 1:])


FORMULAS = ("cubic", "sine", "quadratic")


def dose_response(x: np.ndarray, dose: np.ndarray, v: np.ndarray, formula: str) -> np.ndarray:
    """Expected outcome of people x (n, d) with rows of norm 1 at doses (n, k) in [0, 1]; v (3, d) unit vectors; scale 10.

    Raises ValueError for another formula than those of FORMULAS.
    """
    if formula not in FORMULAS:
        raise ValueError(f"formula must be one of {FORMULAS}, not {formula!r}")
    one, two, three = (x @ v.T).T[..., None]
    if formula == "cubic":
        return 10 * (one + 12 * dose * (dose - 0.75 * two / three) ** 2)
    if formula == "sine":
        return 10 * (one + np.sin(np.pi * two / three * dose))
    return 10 * (one + 12 * two * dose - 12 * three * dose**2)


def best_dose(x: np.ndarray, v: np.ndarray, formula: str) -> np.ndarray:
    """The optimum (n,) of the dose-response curve as SCIGAN takes it, in [0, 1]."""
    _, two, three = (x @ v.T).T
    b = 0.75 * two / three
    best = {"cubic": np.where(b >= 0.75, b / 3, 1.0), "sine": three / (2 * two), "quadratic": two / (2 * three)}
    return np.clip(best[formula], 0.001, 1.0)


def doses(rng: np.random.Generator, x: np.ndarray, formula: str, bias: float = 2.0) -> tuple[Trajectories, np.ndarray]:
    """One person a trajectory of one step: doses ~ Beta(bias, b) with the mode at the best dose, outcomes with noise N(0, .04).

    x (n, d) real covariates, scaled here to [0, 1] by column and to norm 1 by row; also gives v (3, d). bias >= 1; 1 is none.
    Raises ValueError for a smaller bias and for columns of x that are not finite or do not vary.
    """
    if bias < 1:
        raise ValueError(f"bias must be >= 1, not {bias}")
    if not np.isfinite(x).all() or (np.ptp(x, axis=0) == 0).any():
        raise ValueError("x must be finite and its columns must vary")
    x = (x - x.min(0)) / np.ptp(x, axis=0)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    v = rng.uniform(0, 10, (3, x.shape[1]))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    best = best_dose(x, v, formula)
    # the mode (bias - 1) / (bias + b - 2) of the Beta distribution is the best dose
    dose = rng.beta(bias, (bias - 1) / best + 2 - bias)[:, None]
    outcome = dose_response(x, dose, v, formula) + 0.2 * rng.normal(size=dose.shape)
    return Trajectories(x[:, None], dose, outcome), v


# --------------------------------------------------------------------------------------------------------------- unit space


class Frame(NamedTuple):
    """Low ends and spans of what was seen, (R, columns): the state's d columns and the action. An outcome is on y's scale."""

    low: Tensor
    span: Tensor
    y: Tensor  # (R, 2): low end and span of the outcome


class Data(NamedTuple):
    """Trajectories in unit space."""

    states: Tensor  # (R, n, T, d)
    actions: Tensor  # (R, n, T, 1)
    outcomes: Tensor  # (R, n, T, 1)


def framed(runs: Sequence[Trajectories], y_column: int | None = 0) -> tuple[Data, Frame]:
    """Trajectories of equal shapes, one a run, in unit space, with their frame.

    y_column: the state's column that the outcome is the next value of, so that both have one scale; None if there is none.
    Raises ValueError for NaN.
    """
    states, actions, outcomes = (np.stack([getattr(run, name) for run in runs]) for name in Trajectories._fields)
    if not all(np.isfinite(part).all() for part in (states, actions, outcomes)):
        raise ValueError("runs contain NaN or infinite values")
    table = np.concatenate([states, actions[..., None]], -1)
    low, high = table.min((1, 2)), table.max((1, 2))
    margin = 0.5 * (ACTION_MARGIN - 1) * (high - low)[:, -1]
    low[:, -1], high[:, -1] = low[:, -1] - margin, high[:, -1] + margin
    y_low, y_high = outcomes.min((1, 2)), outcomes.max((1, 2))
    if y_column is not None:
        y_low = low[:, y_column] = np.minimum(y_low, low[:, y_column])
        y_high = high[:, y_column] = np.maximum(y_high, high[:, y_column])
    span = high - low
    table = (table - low[:, None, None]) / span[:, None, None]
    unit = (outcomes - y_low[:, None, None]) / (y_high - y_low)[:, None, None]
    tensors = [torch.tensor(part, dtype=torch.float32) for part in (table, unit, low, span, np.stack([y_low, y_high - y_low], 1))]
    return Data(tensors[0][..., :-1], tensors[0][..., -1:], tensors[1][..., None]), Frame(*tensors[2:])


def feedback_advance(frame: Frame) -> Advance:
    """Next states (y', sum + y) in unit space; the sum's low end is 0."""

    def advance(states: Tensor, y: Tensor) -> Tensor:
        now = frame.y[:, None, :1] + frame.y[:, None, 1:] * states[..., :1]
        return torch.cat([y, states[..., 1:] + now / frame.span[:, None, 1:2]], -1)

    return advance


# ----------------------------------------------------------------------------------------------------------------- networks


def network(rngs: Sequence[torch.Generator], sizes: Sequence[int]) -> Layers:
    """Layers of R networks, each drawn by its own generator; weights N(0, 1 / in), those of the last layer a tenth of that."""
    layers = []
    for depth, (i, o) in enumerate(pairwise(sizes)):
        scale = (0.1 if depth == len(sizes) - 2 else 1.0) / i**0.5
        weights = torch.stack([scale * torch.randn(i, o, generator=rng) for rng in rngs])
        layers.append((weights.requires_grad_(), torch.zeros(len(rngs), 1, o, requires_grad=True)))
    return layers


def forward(layers: Layers, x: Tensor) -> Tensor:
    """Outputs (R, N, out) at inputs (R, N, in), tanh between layers."""
    for weights, bias in layers[:-1]:
        x = torch.tanh(torch.baddbmm(bias, x, weights))
    return torch.baddbmm(layers[-1][1], x, layers[-1][0])


class Gaussian(NamedTuple):
    """A conditional normal law of one number in unit space; its standard deviation does not depend on the state."""

    layers: Layers
    log_std: Tensor  # (R, 1, 1)

    def mean(self, x: Tensor) -> Tensor:
        """Means (R, N, 1) at inputs (R, N, in), within -1/8 and 9/8."""
        # (tanh + .8) / 1.6
        return (torch.tanh(forward(self.layers, x)) + 0.8) / 1.6

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """Log densities (R, N, 1) of y (R, N, 1)."""
        return -0.5 * ((y - self.mean(x)) / self.log_std.exp()) ** 2 - self.log_std - 0.5 * np.log(2 * np.pi)

    def parameters(self) -> list[Tensor]:
        return [*(p for layer in self.layers for p in layer), self.log_std]


def gaussian(rngs: Sequence[torch.Generator], width_in: int, hidden: Sequence[int], std: float) -> Gaussian:
    """A new Gaussian network a run, with this starting standard deviation."""
    layers = network(rngs, [width_in, *hidden, 1])
    return Gaussian(layers, torch.full((len(rngs), 1, 1), float(np.log(std)), requires_grad=True))


def _normal(rngs: Sequence[torch.Generator], *shape: int) -> Tensor:
    return torch.stack([torch.randn(*shape, generator=rng) for rng in rngs])


def _some(rngs: Sequence[torch.Generator], n: int, k: int) -> Tensor:
    """k of n indices a run (R, k), drawn with replacement."""
    return torch.stack([torch.randint(n, (k,), generator=rng) for rng in rngs])


def _rows(data: Data, index: Tensor) -> Data:
    """Of every run the trajectories index (R, k), steps joined: (R, k T, ...)."""
    runs = torch.arange(len(index))[:, None]
    return Data(*(part[runs, index].flatten(1, 2) for part in data))


# ------------------------------------------------------------------------------------------------------- supervised training


def fit(
    inputs: Tensor, targets: Tensor, rngs: Sequence[torch.Generator], settings: "Settings", steps: int,
    weights: Tensor | None = None, look: Callable[[int, Gaussian], None] | None = None,
) -> Gaussian:  # fmt: skip
    """A Gaussian network by (weighted) likelihood, settings.batch random rows a step; one a run.

    inputs (R, N, in), targets (R, N, 1), weights (R, N, 1) >= 0; look(step, model) is called after every step.
    Raises ValueError unless inputs and targets are finite and have the same first two axes.
    """
    if inputs.shape[:2] != targets.shape[:2] or not (torch.isfinite(inputs).all() and torch.isfinite(targets).all()):
        raise ValueError(f"inputs and targets must be finite with equal first axes, not {inputs.shape[:2]}, {targets.shape[:2]}")
    model = gaussian(rngs, inputs.shape[-1], settings.hidden, settings.std)
    optimiser = torch.optim.Adam(model.parameters(), settings.rate)
    runs = torch.arange(len(rngs))[:, None]
    for step in range(1, steps + 1):
        rows = _some(rngs, inputs.shape[1], settings.batch)
        logs = model.log_prob(inputs[runs, rows], targets[runs, rows]).clamp(max=LOG_LIKELIHOOD_MAX)
        _descend(optimiser, -(logs if weights is None else logs * weights[runs, rows]).mean((1, 2)))
        if look:
            look(step, model)
    return model


def _descend(optimiser: torch.optim.Optimizer, losses: Tensor) -> None:
    """One step on the sum of the runs' losses (R,), which leaves each run its own gradient."""
    optimiser.zero_grad()
    losses.sum().backward()
    optimiser.step()


@torch.no_grad()
def inverse_propensity(clone: Gaussian, states: Tensor, actions: Tensor, low: float = 0.05, high: float = 20.0) -> Tensor:
    """IPW weights (R, N, 1): 1 / clone's density of the action, clipped, then scaled to mean 1 a run."""
    # w = 1 / kappa(a | x)
    weights = (-clone.log_prob(states, actions)).exp().clamp(low, high)
    return weights / weights.mean(1, keepdim=True)


# ------------------------------------------------------------------------------------------------------------------ GALILEO


class Settings(NamedTuple):
    """What the training of every method has in common, and GALILEO's own."""

    hidden: tuple[int, ...] = (64, 64)  # of model, clone, classifiers and value
    std: float = 0.3  # at which models start, in unit space
    clone_std: float = 0.3
    batch: int = 500  # rows of a supervised step
    rate: float = 3e-3  # of likelihood and value steps (Adam)
    iterations: int = 100
    trajectories: int = 10  # generated, and real ones a likelihood step
    pretraining: int = 100  # steps of the clone before the first iteration
    likelihood_steps: int = 5
    policy_steps: int = 4  # PPO steps on one set of rollouts
    policy_rate: float = 1e-3
    value_steps: int = 4
    classifier_steps: int = 2
    classifier_rate: float = 1e-3
    noise: float = 0.02  # on the classifiers' inputs in training
    clip: float = 0.2
    entropy: float = 1e-3
    gamma: float = 0.99
    lam: float = 0.95


class Arms(NamedTuple):
    """What each run does, bool (R,)."""

    likelihood: Tensor  # likelihood steps on real data
    weighted: Tensor  # and these weighted by the classifiers
    permuted: Tensor  # classifiers learn from permuted labels: the placebo


class Players(NamedTuple):
    """All networks. The classifiers are stacked, (2 R, ...): first those of (x, a, x'), then those of (x, a), x' set to 0."""

    model: Gaussian
    clone: Gaussian
    classifiers: Layers
    value: Layers


@torch.no_grad()
def rollout(model: Gaussian, clone: Gaussian, starts: Tensor, noise: Tensor, advance: Advance | None) -> Data:
    """Trajectories (R, n, T, .) of the clone in the model from starts (R, n, d); noise (R, T, n, 2) is standard normal."""
    states, found = starts, []
    for t in range(noise.shape[1]):
        actions = clone.mean(states) + clone.log_std.exp() * noise[:, t, :, :1]
        both = torch.cat([states, actions], -1)
        outcomes = model.mean(both) + model.log_std.exp() * noise[:, t, :, 1:]
        found.append((states, actions, outcomes))
        states = advance(states, outcomes) if advance else states
    return Data(*(torch.stack(part, 2) for part in zip(*found, strict=True)))


def logits(classifiers: Layers, states: Tensor, actions: Tensor, outcomes: Tensor) -> Tensor:
    """Log odds (2, R, N) that rows are real, by x, a, x' and by x, a alone."""
    parts = [torch.cat([states, actions, last], -1) for last in (outcomes, torch.zeros_like(outcomes))]
    return forward(classifiers, torch.cat(parts)).reshape(2, *states.shape[:2])


def rewards(log_odds: Tensor) -> Tensor:
    """How real rows look, >= 0."""
    # r = -log(1 - D + 1e-8)
    return -torch.log(1 - torch.sigmoid(log_odds) + 1e-8)


def gae(reward: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantages (..., T) of rewards (..., T) against values (..., T + 1)."""
    # delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lam A_{t+1}
    deltas = reward + gamma * values[..., 1:] - values[..., :-1]
    found = [torch.zeros_like(deltas[..., 0])]
    for t in reversed(range(deltas.shape[-1])):
        found.append(deltas[..., t] + gamma * lam * found[-1])
    return torch.stack(found[:0:-1], -1)


def surrogate(log_prob: Tensor, old: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """PPO's clipped objective (R,), to be made large; arguments (R, N, 1)."""
    ratio = (log_prob - old).exp()
    # min(rho A, clip(rho, 1 - c, 1 + c) A)
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).mean((1, 2))


def likelihood_weights(gap: Tensor, reach: Tensor, std: Tensor) -> Tensor:
    """Weights (R, N, 1) of real rows from A = return by (x, a, x') minus return by (x, a), gap (R, N, 1).

    reach (R,) is A's running range, std (R, 1, 1) the model's. Rows whose x' looks less real than the average weigh more.
    """
    # w = clip(-A, 0, 1) + 5 std_M, A centred and divided by its running range
    scaled = (gap - gap.mean(1, keepdim=True)) / reach[:, None, None].clamp(min=1e-6)
    return (-scaled).clamp(0, 1) + WEIGHT_OF_STD * std


def classifier_loss(log_odds: Tensor, labels: Tensor, entropy: float) -> Tensor:
    """Cross entropy minus an entropy bonus, (R,), both classifiers together; log_odds (2, R, N), labels (R, N)."""
    cross = F.binary_cross_entropy_with_logits(log_odds, labels.expand_as(log_odds), reduction="none")
    # H(D) = softplus(l) - l D
    doubt = F.softplus(log_odds) - log_odds * torch.sigmoid(log_odds)
    return (cross - entropy * doubt).mean(2).sum(0)


def galileo(
    data: Data, arms: Arms, rngs: Sequence[torch.Generator], settings: Settings, advance: Advance | None = None,
    look: Callable[[int, Players, Tensor], None] | None = None, stop_after: int | None = None,
) -> Players:  # fmt: skip
    """Trains the R runs of `data` side by side. look(iteration, players, judged) comes after every iteration.

    judged (2, R) is the classifiers' mean probability that generated rows are real. stop_after ends on the way to
    settings.iterations. Raises ValueError for T > 1 without `advance`.
    """
    if data.states.shape[2] > 1 and advance is None:
        raise ValueError("advance must be given for trajectories of more than one step")
    width = data.states.shape[-1]
    model = gaussian(rngs, width + 1, settings.hidden, settings.std)
    clone = gaussian(rngs, width, settings.hidden, settings.clone_std)
    classifiers = [network(rngs, [width + 2, *settings.hidden, 1]) for _ in range(2)]
    classifiers = [
        tuple(torch.cat(p).detach().requires_grad_() for p in zip(*pair, strict=True)) for pair in zip(*classifiers, strict=True)
    ]
    players = Players(model, clone, classifiers, network(rngs, [width, *settings.hidden, 1]))
    both = [*model.parameters(), *clone.parameters()]
    optimisers = {
        "likelihood": torch.optim.Adam(both, settings.rate),
        "policy": torch.optim.Adam(both, settings.policy_rate),
        "value": torch.optim.Adam([p for layer in players.value for p in layer], settings.rate),
        "classifiers": torch.optim.RMSprop([p for layer in classifiers for p in layer], settings.classifier_rate),
    }
    for _ in range(settings.pretraining):
        rows = _rows(data, _some(rngs, data.states.shape[1], settings.trajectories))
        _descend(optimisers["likelihood"], -clone.log_prob(rows.states, rows.actions).mean((1, 2)))
    reach = None
    for iteration in range(1, min(settings.iterations, stop_after or settings.iterations) + 1):
        made, judged = _policy(players, data, rngs, settings, advance, optimisers)
        reach = _likelihood(players, data, arms, judged, reach, rngs, settings, optimisers["likelihood"])
        _classify(players, data, made, arms, rngs, settings, optimisers["classifiers"])
        if look:
            look(iteration, players, judged)
    return players


def _policy(
    players: Players, data: Data, rngs, settings: Settings, advance: Advance | None, optimisers: dict
) -> tuple[Data, Tensor]:
    """Rollouts, PPO steps of model and clone, steps of the value; gives the rows (R, n T, .) and the mean of D on them (2, R)."""
    model, clone, _, value = players
    n, horizon = settings.trajectories, data.states.shape[2]
    runs = torch.arange(len(rngs))[:, None]
    starts = data.states[:, :, 0][runs, _some(rngs, data.states.shape[1], n)]
    made = rollout(model, clone, starts, _normal(rngs, horizon, n, 2), advance)
    rows = Data(*(part.flatten(1, 2) for part in made))
    with torch.no_grad():
        log_odds = logits(players.classifiers, *rows)
        reward = rewards(log_odds).reshape(2, len(rngs), n, horizon)
        values = forward(value, rows.states).reshape(len(rngs), n, horizon)
        last = forward(value, advance(made.states[:, :, -1], made.outcomes[:, :, -1])) if advance else torch.zeros(len(rngs), n, 1)
        values = torch.cat([values, last], -1)
        # the mixed advantage: rewards of (x, a, x') for the model and of (x, a) for the clone, both against the value of (x, a)
        raw = gae(reward, values.expand(2, *values.shape), settings.gamma, settings.lam)
        returns = (raw[1] + values[..., :-1]).flatten(1)[..., None]
        advantages = (raw / raw.std((2, 3), keepdim=True).clamp(min=1e-6)).flatten(2)[..., None]
        inputs = torch.cat([rows.states, rows.actions], -1)
        old = model.log_prob(inputs, rows.outcomes), clone.log_prob(rows.states, rows.actions)
    for _ in range(settings.policy_steps):
        gain = surrogate(model.log_prob(inputs, rows.outcomes), old[0], advantages[0], settings.clip)
        gain = gain + surrogate(clone.log_prob(rows.states, rows.actions), old[1], advantages[1], settings.clip)
        bonus = settings.entropy * (model.log_std + clone.log_std)[:, 0, 0]
        _descend(optimisers["policy"], -gain - bonus)
    for _ in range(settings.value_steps):
        _descend(optimisers["value"], (forward(value, rows.states) - returns).square().mean((1, 2)))
    return rows, torch.sigmoid(log_odds).mean(2)


def _likelihood(players: Players, data: Data, arms: Arms, judged: Tensor, reach, rngs, settings: Settings, optimiser) -> Tensor:
    """Likelihood steps on real trajectories; gives the running range (R,) of A."""
    model, clone, horizon = players.model, players.clone, data.states.shape[2]
    # weights count only while generated rows fool both classifiers: mean D within .5 +- .1
    fooled = ((judged - 0.5).abs() < TRUST).all(0) & arms.weighted
    for _ in range(settings.likelihood_steps):
        real = _rows(data, _some(rngs, data.states.shape[1], settings.trajectories))
        inputs = torch.cat([real.states, real.actions], -1)
        with torch.no_grad():
            reward = rewards(logits(players.classifiers, *real))
            # the two lambda-returns share their value, which cancels: A is the discounted sum of r_sas - r_sa
            gap = (reward[0] - reward[1]).unflatten(1, (-1, horizon))
            gap = gae(gap, gap.new_zeros(*gap.shape[:2], horizon + 1), settings.gamma, settings.lam).flatten(1)[..., None]
            seen = gap.amax((1, 2)) - gap.amin((1, 2))
            reach = seen if reach is None else torch.lerp(reach, seen, 0.1)
            weights = torch.where(fooled[:, None, None], likelihood_weights(gap, reach, model.log_std.exp()), 1.0)
        fit_of_model = (weights * model.log_prob(inputs, real.outcomes).clamp(max=LOG_LIKELIHOOD_MAX)).mean((1, 2))
        fit_of_clone = clone.log_prob(real.states, real.actions).clamp(max=LOG_LIKELIHOOD_MAX).mean((1, 2))
        _descend(optimiser, -(arms.likelihood * fit_of_model) - fit_of_clone)
    return reach


def _classify(players: Players, data: Data, made: Data, arms: Arms, rngs, settings: Settings, optimiser) -> None:
    """Steps of both classifiers on as many real as generated rows, with noise on their inputs."""
    for _ in range(settings.classifier_steps):
        real = _rows(data, _some(rngs, data.states.shape[1], settings.trajectories))
        both = [torch.cat(pair, 1) for pair in zip(real, made, strict=True)]
        count = both[0].shape[1]
        labels = (torch.arange(count) < count // 2).float().expand(len(rngs), -1)
        shuffled = torch.stack([labels[0][torch.randperm(count, generator=rng)] for rng in rngs])
        labels = torch.where(arms.permuted[:, None], shuffled, labels)
        noise = settings.noise * _normal(rngs, count, sum(part.shape[-1] for part in both))
        noisy = [part + extra for part, extra in zip(both, noise.split([p.shape[-1] for p in both], -1), strict=True)]
        _descend(optimiser, classifier_loss(logits(players.classifiers, *noisy), labels, settings.entropy))


# ------------------------------------------------------------------------------------------------------------------- scores


@torch.no_grad()
def response(model: Gaussian, frame: Frame, states: Tensor, actions: Tensor) -> Tensor:
    """Predicted outcomes (R, N, k) in their own units at states (R, N, d) and each of the actions (R, k), both in unit space."""
    n, k = states.shape[1], actions.shape[1]
    inputs = torch.cat([states[:, :, None].expand(-1, -1, k, -1), actions[:, None, :, None].expand(-1, n, -1, -1)], -1)
    unit = model.mean(inputs.flatten(1, 2)).reshape(-1, n, k)
    return frame.y[:, :1, None] + frame.y[:, 1:, None] * unit


def mise(predicted: np.ndarray, truth: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Mean over states of the integral of the squared error over actions (Romberg), (R,).

    predicted, truth (R, N, k) with k = 2^m + 1 equally spaced actions, step (R,) their distance in the action's units.
    Raises ValueError for another k.
    """
    k = predicted.shape[-1]
    if k < 3 or (k - 1) & (k - 2):
        raise ValueError(f"predicted must have 2^m + 1 actions, not {k}")
    return romb((predicted - truth) ** 2, axis=-1).mean(-1) * step


def slope(actions: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """Least-squares slopes (...) of average curves (..., k) over actions (..., k)."""
    centred = actions - actions.mean(-1, keepdims=True)
    return (centred * curves).sum(-1) / (centred**2).sum(-1)


def linear(inputs: np.ndarray, outcomes: np.ndarray, penalty: float = 0.0) -> np.ndarray:
    """Intercept and coefficients (d + 1,) by ridge with an unpenalised intercept; penalty 0 is ordinary least squares.

    inputs (N, d), outcomes (N,). The penalty is per row: mean squared error + penalty * sum of squared coefficients.
    """
    mean = inputs.mean(0)
    centred = inputs - mean
    gram = centred.T @ centred / len(inputs) + penalty * np.eye(inputs.shape[1])
    coefficients = np.linalg.solve(gram, centred.T @ (outcomes - outcomes.mean()) / len(inputs))
    return np.r_[outcomes.mean() - mean @ coefficients, coefficients]


def collinear_slope(y_span: float, a_span: float) -> float:
    """The slope in a of the minimum-norm fit of noise-free feedback data, a = (62.5 - y) / 15, inputs scaled by their spans."""
    # (1 - 1/15) (-k) / (1 + k^2) S / Q with k = S / (15 Q)
    k = y_span / (GAIN * a_span)
    return (1 - 1 / GAIN) * -k / (1 + k**2) * y_span / a_span


def greedy(model: Gaussian, frame: Frame, actions: Tensor, goal: float = GOAL) -> Callable[[np.ndarray], np.ndarray]:
    """The policy of one model (R = 1), states (n, d) to actions (n,), both in their own units.

    It takes the one of `actions` (k,), unit space, whose predicted outcome is nearest to the goal.
    """

    def choose(states: np.ndarray) -> np.ndarray:
        unit = (torch.tensor(states, dtype=torch.float32) - frame.low[0, :-1]) / frame.span[0, :-1]
        best = (response(model, frame, unit[None], actions[None])[0] - goal).square().argmin(1)
        return (frame.low[0, -1] + frame.span[0, -1] * actions[best]).double().numpy()

    return choose


def control(choose: Callable[[np.ndarray], np.ndarray], starts: np.ndarray, steps: int, rng: np.random.Generator) -> float:
    """Mean squared distance of y from 62.5 over `steps` in the true system under actions choose(states (n, 2)) -> (n,)."""
    states, cost = np.stack([starts, np.zeros_like(starts)], 1), []
    for _ in range(steps):
        y = states[:, 0] + choose(states) + SPREAD * rng.normal(size=len(starts))
        states = np.stack([y, states.sum(1)], 1)
        cost.append((y - GOAL) ** 2)
    return float(np.mean(cost))
