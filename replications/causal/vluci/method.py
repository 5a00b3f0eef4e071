"""A hidden confounder inferred beside the measured covariates: VLUCI (Zhao et al., 2023), as we reconstruct it.

Treatment and outcome are both generated from the covariates and from a latent u that is independent of them; a variational
posterior for u is learned from (x, t, y) and handed to the outcome model. Only the abstract was a source: the equations (V1-V12)
are ours. The rivals, the classical selection model and the simulated studies stand in the same module.

Networks of M studies are trained side by side: tensors carry a leading axis M, and no member sees another. n people, d columns.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.stats import norm
from torch import Tensor
from torch.nn import functional

from shared.checks import finite as _checked

Array = np.ndarray
Layers = list[tuple[Tensor, Tensor]]  # weights (M, in, out) and biases (M, 1, out)
WIDTH = 32  # of every hidden layer
START_SIGMA = 0.7  # where a learned noise level starts, standard deviations of y


# ---------------------------------------------------------------- studies whose truth is known


class Study(NamedTuple):
    """One study; outcomes in one unit."""

    x: Array  # (n, d): measured covariates
    t: Array  # (n,): treated, 0 or 1
    y: Array  # (n,): the outcome under t
    other: Array  # (n,): the outcome that was not seen, under 1 - t, with noise of its own
    mu0: Array  # (n,): expected outcome untreated, given x and u
    mu1: Array  # and treated
    u: Array  # (n,): the hidden confounder

    def take(self, rows: Array) -> "Study":
        """The people in `rows` of one study."""
        return Study(*(a[rows] for a in self))


def simulate(x: Array, u: Array, c: float, noise: float, rng: np.random.Generator) -> Study:
    """Treatments and outcomes on covariates x (n, d) and a confounder u (n,), both of mean 0 and standard deviation 1.

    c: strength of u on the treatment; 0 leaves no hidden confounding. On the outcome its strength is 1. noise: standard
    deviation >= 0 of each potential outcome. The same generator gives the same coefficients and draws whatever c and u.
    Raises ValueError for shapes that do not fit, NaN, or negative noise.
    """
    x, u = _checked("x", x, 2), _checked("u", u, 1)
    if len(x) != len(u):
        raise ValueError(f"u must have one number for each of {len(x)} people, not {len(u)}")
    if not noise >= 0:
        raise ValueError(f"noise must not be negative, not {noise}")
    n, d = x.shape
    a, b, bend = rng.normal(size=(3, d)) / np.sqrt(d)
    coin, e0, e1 = rng.uniform(size=n), rng.normal(size=n), rng.normal(size=n)
    # (V1)  T ~ Bernoulli(expit(a x + c u));  Y = b x + sin(b' x) + T (1 + tanh(x_0) / 2) + u + noise e
    t = (coin < 1 / (1 + np.exp(-(x @ a + c * u)))).astype(float)
    mu0 = x @ b + np.sin(x @ bend) + u
    mu1 = mu0 + 1 + np.tanh(x[:, 0]) / 2
    y0, y1 = mu0 + noise * e0, mu1 + noise * e1
    return Study(x, t, np.where(t == 1, y1, y0), np.where(t == 1, y0, y1), mu0, mu1, u)


def in_units(study: Study, rows: Array) -> tuple[Study, float]:
    """The study with outcomes in units of their standard deviation among `rows`, about their mean there; and that unit."""
    centre, unit = study.y[rows].mean(), float(study.y[rows].std())
    if not unit > 0:
        raise ValueError("y is constant among rows: it has no unit")
    scaled = {name: (getattr(study, name) - centre) / unit for name in ("y", "other", "mu0", "mu1")}
    return study._replace(**scaled), unit


def shuffled_treatments(t: Array, order: Array, block: int, rng: np.random.Generator) -> Array:
    """t (n,) exchanged at random among neighbours: within blocks of `block` people sorted by `order` (n,)."""
    t, order = _checked("t", t, 1), _checked("order", order, 1)
    out, ranks = t.copy(), np.argsort(order, kind="stable")
    for first in range(0, len(t), block):
        rows = ranks[first : first + block]
        out[rows] = t[rng.permutation(rows)]
    return out


# ---------------------------------------------------------------- networks, M at a time


class Data(NamedTuple):
    """What a method may see, of M studies."""

    x: Tensor  # (M, n, d)
    t: Tensor  # (M, n), 0 or 1
    y: Tensor  # (M, n), standardised


def stacked(studies: Sequence[Study]) -> Data:
    """Covariates, treatments and outcomes of M studies of one size. Raises ValueError for NaN, t not 0 or 1, other shapes."""
    if not studies or len({s.x.shape for s in studies}) > 1:
        raise ValueError("studies must be a non-empty list with covariates of one shape")
    for s in studies:
        n = len(_checked("x", s.x, 2))
        if len(_checked("t", s.t, 1)) != n or len(_checked("y", s.y, 1)) != n:
            raise ValueError(f"t and y must have one number for each of {n} people")
        if set(np.unique(s.t)) != {0.0, 1.0}:
            raise ValueError("t must contain 0 and 1, and nothing else")
    return Data(*(torch.as_tensor(np.stack([getattr(s, name) for s in studies]), dtype=torch.float32) for name in Data._fields))


def network(sizes: Sequence[int], rngs: Sequence[torch.Generator]) -> Layers:
    """M networks of the given widths, one per generator; entries uniform within 1 / sqrt(inputs)."""
    layers = []
    for n_in, n_out in pairwise(sizes):
        both = torch.stack([torch.rand(n_in + 1, n_out, generator=rng) for rng in rngs])
        both = (2 * both - 1) / n_in**0.5  # (M, in + 1, out)
        layers.append((both[:, :-1].clone(), both[:, -1:].clone()))
    return layers


def hidden(layers: Layers, inputs: Tensor) -> Tensor:
    """Last hidden layer (M, n, width) at inputs (M, n, in)."""
    for w, b in layers[:-1]:
        inputs = functional.elu(torch.baddbmm(b, inputs, w), inplace=True)
    return inputs


def output(layers: Layers, inputs: Tensor) -> Tensor:
    """Outputs (M, n, out) at inputs (M, n, in)."""
    w, b = layers[-1]
    return torch.baddbmm(b, hidden(layers, inputs), w)


def train(
    parameters: list[Tensor], loss: Callable[[int], Tensor], held_out: Callable[[], Tensor], steps: int, *,
    first: int = 0, every: int = 10, patience: int = 3, learning_rate: float = 4e-3, decay: float = 1e-4,
) -> Tensor:  # fmt: skip
    """Adam on M members at once; leaves each member's parameters (M, ...) where its held-out loss was least, and returns that loss.

    loss: the M losses at a step. held_out: the M losses on people who are not fitted, looked at every `every` steps from step
    `first` on, and after the last. A member is stopped after `patience` looks without gain. All methods are trained in this way.
    """
    for p in parameters:
        p.requires_grad_()
    optimiser = torch.optim.Adam(parameters, lr=learning_rate, weight_decay=decay, fused=True)
    kept = [p.detach().clone() for p in parameters]
    best = torch.full((len(kept[0]),), torch.inf, dtype=kept[0].dtype)
    stale = torch.zeros(len(best))
    for step in range(1, steps + 1):
        optimiser.zero_grad()
        loss(step - 1).sum().backward()  # members share no parameter: each one sees its own gradient only
        optimiser.step()
        if step == steps or (step >= first and step % every == 0):
            with torch.no_grad():
                now = held_out()
            better = (now < best) & (stale < patience)
            best = torch.where(better, now, best)
            stale = torch.where(better, 0, stale + 1)
            for p, k in zip(parameters, kept, strict=True):
                k[better] = p.detach()[better]
            if (stale >= patience).all():
                break
    for p, k in zip(parameters, kept, strict=True):
        p.requires_grad_(False).copy_(k)
    return best


def _flat(*networks: Layers) -> list[Tensor]:
    return [p for layers in networks for layer in layers for p in layer]


# ---------------------------------------------------------------- outcome models


def factual(m0: Tensor, m1: Tensor, t: Tensor) -> Tensor:
    """The prediction for the arm that a person is in."""
    return t * m1 + (1 - t) * m0


Outcome = Callable[[Tensor], tuple[Tensor, Tensor]]  # covariates (M, n, d) to expected outcomes (M, n) untreated and treated


def fit_outcomes(fit: Data, held: Data, rngs: Sequence[torch.Generator], kind: str = "T", steps: int = 400) -> Outcome:
    """A regression of the outcome, for M studies at once: factual squared error, stopped on the people `held`.

    kind: `T`, two hidden layers with one output per arm; `S`, the treatment is an input and there is one output; `balanced`, as
    T with the arms' mean representations pulled together. rngs: one per study. Raises ValueError for another kind.
    """
    if kind not in ("T", "S", "balanced"):
        raise ValueError(f"kind must be T, S or balanced, not {kind!r}")
    single = kind == "S"
    layers = network([fit.x.shape[-1] + single, WIDTH, WIDTH, 2 - single], rngs)

    def heads(x: Tensor) -> tuple[Tensor, Tensor]:
        if not single:
            return output(layers, x).unbind(-1)
        zero = torch.zeros_like(x[..., :1])
        return tuple(output(layers, torch.cat([x, zero + arm], -1))[..., 0] for arm in (0, 1))

    def error(data: Data) -> Tensor:
        # (V2)  mean (y - m_t(x))^2
        return (data.y - factual(*heads(data.x), data.t)).square().mean(1)

    def loss(step: int) -> Tensor:
        return error(fit) + (mean_gap(hidden(layers, fit.x), fit.t) if kind == "balanced" else 0)

    train(_flat(layers), loss, lambda: error(held), steps)
    return torch.no_grad()(heads)


def mean_gap(features: Tensor, t: Tensor) -> Tensor:
    """Linear MMD (M,) of features (M, n, width) between the arms."""
    # (V3)  |mean of the treated - mean of the untreated|^2
    of_treated, of_others = t / t.sum(1, keepdim=True), (1 - t) / (1 - t).sum(1, keepdim=True)
    return torch.einsum("mn,mnk->mk", of_treated - of_others, features).square().sum(1)


def carry_over(y: Tensor, t: Tensor, effect: Tensor) -> Tensor:
    """The other arm's outcome, if a person keeps the whole residual: y moved by the effect (M, n)."""
    # (V4)  y + (1 - 2 t) tau(x)
    return y + (1 - 2 * t) * effect


# ---------------------------------------------------------------- VLUCI


class Latent(NamedTuple):
    """The fitted latent model of M studies; u is one column."""

    encoder: Layers  # [x, t, y] to mean and log standard deviation of u
    treatment: Layers  # [x, u] to the logit of being treated
    outcome: Layers  # [x, u] to the expected outcome of either arm
    log_sigma: Tensor  # (M, 1): of the outcome's noise
    prior: Layers | None  # doubly variational: [x, t] to mean and log standard deviation of u
    covariates: Layers | None  # CEVAE-style: u to mean and log standard deviation of each column of x


def gaussian(layers: Layers, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, each (M, n, columns), at inputs (M, n, .) or (M, n) that are joined."""
    joined = torch.cat([v if v.ndim == 3 else v[..., None] for v in inputs], -1)
    mean, log_sd = output(layers, joined).chunk(2, -1)
    return mean, log_sd.clamp(-6, 3).exp()


def gaussian_kl(mean: Tensor, sd: Tensor, mean0: Tensor | float = 0.0, sd0: Tensor | float = 1.0) -> Tensor:
    """KL(N(mean, sd^2) || N(mean0, sd0^2)) in nats, summed over the last axis: (M, n, columns) to (M, n)."""
    # (V5)  log(s0 / s) + (s^2 + (m - m0)^2) / (2 s0^2) - 1/2
    ratio = sd / sd0
    return (-torch.log(ratio) + (ratio.square() + ((mean - mean0) / sd0).square() - 1) / 2).sum(-1)


def log_normal(value: Tensor, mean: Tensor, log_sd: Tensor) -> Tensor:
    """Log density of the normal distribution, nats, elementwise."""
    # (V6)  -(v - m)^2 / (2 s^2) - log s - log(2 pi) / 2
    return -((value - mean) * torch.exp(-log_sd)).square() / 2 - log_sd - np.log(2 * np.pi) / 2


def log_treatment(model: Latent, data: Data, u: Tensor) -> Tensor:
    """log p(t | x, u), nats, (M, n)."""
    logit = output(model.treatment, torch.cat([data.x, u], -1))[..., 0]
    # (V7)  t l - log(1 + exp(l))
    return data.t * logit - functional.softplus(logit)


def log_outcome(model: Latent, data: Data, u: Tensor) -> Tensor:
    """log p(y | x, t, u), nats, (M, n)."""
    m0, m1 = output(model.outcome, torch.cat([data.x, u], -1)).unbind(-1)
    return log_normal(data.y, factual(m0, m1, data.t), model.log_sigma)


def elbo(model: Latent, data: Data, noise: Tensor, kl_weight: float = 1.0) -> Tensor:
    """Evidence lower bound (M,), nats per person, with one reparametrised draw; noise (M, n, 1) standard normal.

    (V9) is a bound only where q_T is the exact posterior of u given x and t; elsewhere it can lie above the evidence.
    """
    mean, sd = gaussian(model.encoder, data.x, data.t, data.y)
    u = mean + sd * noise
    if model.prior is None:
        # (V8)  E_q[log p(t | x, u) + log p(y | x, t, u)] - KL(q(u | x, t, y) || N(0, 1))
        value = log_treatment(model, data, u) + log_outcome(model, data, u) - kl_weight * gaussian_kl(mean, sd)
    else:
        before, spread = gaussian(model.prior, data.x, data.t)
        # (V9)  E_qT[log p(t | x, u)] - KL(q_T || N(0, 1)) + E_qY[log p(y | x, t, u)] - KL(q_Y || q_T)
        value = log_treatment(model, data, before + spread * noise) - kl_weight * gaussian_kl(before, spread)
        value = value + log_outcome(model, data, u) - kl_weight * gaussian_kl(mean, sd, before, spread)
    if model.covariates is not None:
        # (V10)  CEVAE: + E_q[log p(x | u)]
        of_x, log_sd = output(model.covariates, u).chunk(2, -1)
        value = value + log_normal(data.x, of_x, log_sd.clamp(-6, 3)).sum(-1)
    return value.mean(1)


def warm_up(step: int, steps: int, final: float = 1.0) -> float:
    """KL weight: from 0 to `final` over the first third of the steps."""
    # (V11)  final min(1, 3 step / steps)
    return final * min(1.0, 3 * step / steps)


def start_latent(
    d: int, rngs: Sequence[torch.Generator], sigma: Tensor | None = None, double: bool = False, covariates: bool = False
) -> Latent:
    """An untrained model on d columns for M = len(rngs) studies; arguments as in `fit_latent`."""
    encoder = network([d + 2, WIDTH, WIDTH, 2], rngs)
    treatment, outcome = network([d + 1, WIDTH, 1], rngs), network([d + 1, WIDTH, WIDTH, 2], rngs)
    log_sigma = torch.full((len(rngs), 1), np.log(START_SIGMA)) if sigma is None else torch.log(sigma)[:, None]
    prior = network([d + 1, WIDTH, 2], rngs) if double else None
    of_x = network([1, WIDTH, 2 * d], rngs) if covariates else None
    return Latent(encoder, treatment, outcome, log_sigma, prior, of_x)


def draws(rngs: Sequence[torch.Generator], *shape: int) -> Tensor:
    """Standard normal numbers (M, *shape), those of each study from its own generator."""
    return torch.stack([torch.randn(*shape, generator=rng) for rng in rngs])


def fit_latent(
    fit: Data, held: Data, rngs: Sequence[torch.Generator], *, sigma: Tensor | None = None, double: bool = False,
    covariates: bool = False, kl_weight: float = 1.0, steps: int = 600,
) -> tuple[Latent, Tensor]:  # fmt: skip
    """VLUCI for M studies at once, and its held-out ELBO (M,), nats per person. Stopped on the people `held`.

    sigma: (M,) > 0, the noise of the outcome if it is known; None learns it. double: with q_T(u | x, t) as the learned prior of
    q_Y(u | x, t, y). covariates: u also generates x, as in CEVAE. kl_weight: after the warm-up.
    Raises ValueError if sigma is not positive.
    """
    if sigma is not None and not (sigma.shape == (len(fit.x),) and (sigma > 0).all()):
        raise ValueError(f"sigma must hold a positive number for each of {len(fit.x)} studies")
    model = start_latent(fit.x.shape[-1], rngs, sigma, double, covariates)
    parameters = _flat(*(p for p in model if isinstance(p, list))) + ([model.log_sigma] if sigma is None else [])
    fixed = draws(rngs, held.x.shape[1], 1)  # the same draws at every look, and their mirror images

    def loss(step: int) -> Tensor:
        return -elbo(model, fit, draws(rngs, fit.x.shape[1], 1), warm_up(step, steps, kl_weight))

    worst = train(parameters, loss, lambda: -(elbo(model, held, fixed) + elbo(model, held, -fixed)) / 2, steps, first=steps // 3)
    return model, -worst


@torch.no_grad()
def posterior_mean(model: Latent, data: Data) -> Tensor:
    """u_hat (M, n, 1): what the encoder believes of u after x, t and y."""
    return gaussian(model.encoder, data.x, data.t, data.y)[0]


@torch.no_grad()
def outcomes(model: Latent, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Expected outcomes (M, n), untreated and treated, at covariates (M, n, d) and confounders (M, n, 1)."""
    return output(model.outcome, torch.cat([x, u], -1)).unbind(-1)


@torch.no_grad()
def counterfactual_interval(
    model: Latent, data: Data, rngs: Sequence[torch.Generator], n_draws: int = 200, sigma: bool = True
) -> tuple[Tensor, Tensor]:
    """Lower and upper end (M, n) of the 95 % interval for the outcome under 1 - t. sigma: False leaves the outcome's noise out."""
    mean, sd = gaussian(model.encoder, data.x, data.t, data.y)
    samples = []
    for _ in range(n_draws):
        m0, m1 = outcomes(model, data.x, mean + sd * draws(rngs, *mean.shape[1:]))
        e = draws(rngs, mean.shape[1]) * model.log_sigma.exp() * sigma
        # (V12)  m_{1-t}(x, u) + sigma e,  u ~ q(u | x, t, y)
        samples.append(factual(m0, m1, 1 - data.t) + e)
    low, high = torch.quantile(torch.stack(samples), torch.tensor([0.025, 0.975], dtype=mean.dtype), dim=0)
    return low, high


# ---------------------------------------------------------------- the selection model


def probit(x: Array, t: Array) -> Array:
    """Coefficients (p,) of P(t = 1) = Phi(x b) by maximum likelihood; x (n, p) with its own column of ones."""
    x, t = _checked("x", x, 2), _checked("t", t, 1)
    sign = 2 * t - 1

    def loss(b: Array) -> tuple[float, Array]:
        index = sign * (x @ b)
        # (H1)  -mean log Phi((2 t - 1) x b), and its gradient
        ratio = np.exp(norm.logpdf(index) - norm.logcdf(index))
        return -norm.logcdf(index).mean(), -(ratio * sign) @ x / len(x)

    return minimize(loss, np.zeros(x.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-6}).x


def mills(index: Array, t: Array) -> Array:
    """Expected error (n,) of a probit treatment with this index, given that t came out."""
    # (H2)  phi(i) / Phi(i) if treated, -phi(i) / (1 - Phi(i)) if not
    sign = 2 * t - 1
    return sign * np.exp(norm.logpdf(index) - norm.logcdf(sign * index))


def heckman(x: Array, t: Array, y: Array) -> Callable[[Array], Array]:
    """Heckman's two steps: probit of t on x, then least squares of y with the Mills ratio. Returns the effect (n,) at covariates.

    x: (n, d), t: (n,) 0 or 1, y: (n,). The effect is linear in x.
    """
    ones = np.column_stack([np.ones(len(x)), x])
    ratio = mills(ones @ probit(ones, t), t)
    # (H3)  y = [1, x] b + t [1, x] tau + rho m + e
    design = np.column_stack([ones, t[:, None] * ones, ratio])
    b = np.linalg.lstsq(design, _checked("y", y, 1), rcond=None)[0]
    tau = b[ones.shape[1] : 2 * ones.shape[1]]
    return lambda new: tau[0] + new @ tau[1:]


# ---------------------------------------------------------------- the case that cannot be decided


class Linear(NamedTuple):
    """X ~ N(0, 1), U ~ N(0, 1), T = a X + c U + s_t e, Y = b X + tau T + g U + s_y e'; all numbers."""

    a: float
    c: float
    s_t: float
    b: float
    tau: float
    g: float
    s_y: float


def covariance(p: Linear) -> Array:
    """Covariance (4, 4) of (X, T, Y, U)."""
    # (L1)  the loadings on (X, U, e, e')
    of_t = np.array([p.a, p.c, p.s_t, 0.0])
    of_y = np.array([p.b, p.g, 0.0, p.s_y]) + p.tau * of_t
    loads = np.stack([np.eye(4)[0], of_t, of_y, np.eye(4)[1]])
    return loads @ loads.T


def twin(p: Linear, tau: float) -> Linear:
    """Other parameters, with the effect `tau`, and the same law of (X, T, Y). Raises ValueError where y varies too little."""
    shift = p.tau - tau
    # (L2)  b' = b + a d,  g' = g + d (c^2 + s_t^2) / c,  d = tau - tau';  s_y' from the variance of Y
    other = p._replace(tau=tau, b=p.b + p.a * shift, g=p.g + shift * (p.c**2 + p.s_t**2) / p.c, s_y=0.0)
    left = covariance(p)[2, 2] - covariance(other)[2, 2]
    if left < 0:
        raise ValueError(f"no parameters with effect {tau} give this law: the variance of y does not suffice")
    return other._replace(s_y=float(np.sqrt(left)))


def linear_posterior(p: Linear) -> tuple[Array, float]:
    """Coefficients (3,) on (X, T, Y) of the mean of U given them, and its standard deviation."""
    full = covariance(p)
    weights = np.linalg.solve(full[:3, :3], full[:3, 3])
    return weights, float(np.sqrt(full[3, 3] - full[:3, 3] @ weights))


def linear_elbo(p: Linear, data: Array, weights: Array, sd: float) -> float:
    """ELBO, nats per row of data (n, 3) = (X, T, Y), of log p(t, y | x) under q(u | x, t, y) = N(data weights, sd^2)."""
    x, t, y = data.T
    mean = data @ weights
    rest_t, rest_y = t - p.a * x - p.c * mean, y - p.b * x - p.tau * t - p.g * mean
    # (L3)  E_q of a squared residual is the residual at the mean squared, plus (loading sd)^2
    of_t = -(rest_t**2 + (p.c * sd) ** 2) / (2 * p.s_t**2) - np.log(p.s_t)
    of_y = -(rest_y**2 + (p.g * sd) ** 2) / (2 * p.s_y**2) - np.log(p.s_y)
    kl = -np.log(sd) + (sd**2 + mean**2 - 1) / 2
    return float((of_t + of_y - kl).mean() - np.log(2 * np.pi))


# ---------------------------------------------------------------- measures


def rmse(found: Array, truth: Array) -> Array:
    """Root mean squared difference over the last axis."""
    return np.sqrt(np.mean((np.asarray(found) - np.asarray(truth)) ** 2, axis=-1))


def correlation(a: Array, b: Array) -> Array:
    """Pearson correlation over the last axis."""
    a, b = (v - v.mean(-1, keepdims=True) for v in (np.asarray(a), np.asarray(b)))
    return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
