"""Cause or effect, when the noise level depends on the cause: location-scale noise models (Immer et al., 2023).

The model is Y = f(X) + g(X) N. It is fitted in both directions as a Gaussian with natural parameters that depend on the
input (equations numbered N1-N7 below, in the order of the method), and the direction with the higher likelihood
(`_M`) or with the more independent standardised residual (`_H`) is called causal. Written from the paper and from
reading the authors' scripts; those carry no licence, and nothing is copied from them.

Samples x, y are standardised float arrays of shape (n,), without unit. A score is positive when x causes y.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.spatial.distance import pdist
from sklearn.preprocessing import SplineTransformer

from shared.checks import finite as _checked

LEAST_PRECISION = 1e-7  # floor of -eta2, half the precision, so that the logarithm stays finite


class Fit(NamedTuple):
    """A fitted conditional Gaussian at its own inputs."""

    mean: np.ndarray  # (..., n)
    sigma: np.ndarray  # (..., n), > 0
    log_likelihood: np.ndarray  # (...), mean over samples, nats


class Weights(NamedTuple):
    """Coefficients of the concave estimator: eta1 = phi w1, eta2 = -max(psi w2, LEAST_PRECISION)."""

    w1: np.ndarray  # (columns of phi,)
    w2: np.ndarray  # (columns of psi,), >= 0


def _checked_pair(x: np.ndarray, y: np.ndarray, ndim: int = 1) -> tuple[np.ndarray, np.ndarray]:
    x, y = _checked("x", x, ndim), _checked("y", y, ndim)
    if x.shape != y.shape:
        raise ValueError(f"x and y must have one shape, not {x.shape} and {y.shape}")
    return x, y


def standardise(x: np.ndarray) -> np.ndarray:
    """x (..., n) to mean 0 and standard deviation 1 along the last axis. Raises ValueError if x is constant."""
    x = np.asarray(x, dtype=float)
    sd = x.std(axis=-1, keepdims=True)
    if not (sd > 0).all():
        raise ValueError("x is constant, or contains NaN, along its last axis: it cannot be standardised")
    return (x - x.mean(axis=-1, keepdims=True)) / sd


# ---------------------------------------------------------------------------------------------------------------------
# The conditional Gaussian in natural parameters


def natural_to_moments(eta1, eta2):
    """Mean and standard deviation of the Gaussian with natural parameters eta1, eta2 < 0; any shape."""
    # (N1)  mu = -eta1 / (2 eta2),  sigma = sqrt(-1 / (2 eta2));  inversely eta1 = f / g^2, eta2 = -1 / (2 g^2)
    return -eta1 / (2 * eta2), (-1 / (2 * eta2)) ** 0.5


def log_density(y, eta1, eta2):
    """Log density of y, nats, under natural parameters eta1 and eta2 < 0; all arrays or all tensors of one shape."""
    log = torch.log if isinstance(eta2, torch.Tensor) else np.log
    # (N2)  log p(y) = eta1 y + eta2 y^2 + eta1^2 / (4 eta2) + log(-2 eta2) / 2 - log(2 pi) / 2
    return eta1 * y + eta2 * y**2 + eta1**2 / (4 * eta2) + log(-2 * eta2) / 2 - np.log(2 * np.pi) / 2


# ---------------------------------------------------------------------------------------------------------------------
# The concave estimator on splines


def spline_basis(x: np.ndarray, knots: int = 25, degree: int = 5, span: tuple[float, float] | None = None) -> np.ndarray:
    """B-splines on uniform knots: shape (n,) to (n, knots + degree - 1), values in [0, 1], rows sum to 1.

    span: first and last knot; None for the range of x. Beyond it the basis keeps its value at the edge.
    """
    x = _checked("x", x, 1)
    ends = np.array(span if span is not None else (x.min(), x.max()))
    return SplineTransformer(n_knots=knots, degree=degree).fit(ends[:, None]).transform(x[:, None])


def natural_parameters(weights: Weights, phi: np.ndarray, psi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """eta1 and eta2 < 0, each (n,), of the concave estimator at the features phi (n, a) and psi (n, b) >= 0."""
    # (N3)  eta1(x) = phi(x) w1,  eta2(x) = -psi(x) w2  with psi >= 0, w2 >= 0: both linear in the weights
    return phi @ weights.w1, -np.maximum(psi @ weights.w2, LEAST_PRECISION)


def objective(weights: Weights, phi: np.ndarray, psi: np.ndarray, y: np.ndarray, penalty: float) -> float:
    """What the concave estimator minimises, nats per sample; jointly convex in (w1, w2)."""
    eta1, eta2 = natural_parameters(weights, phi, psi)
    squares = weights.w1 @ weights.w1 + weights.w2 @ weights.w2
    # (N4)  -mean log p(y | x) + penalty (|w1|^2 + |w2|^2) / (2 n)
    return float(-log_density(y, eta1, eta2).mean() + penalty * squares / (2 * len(y)))


def location_step(phi: np.ndarray, eta2: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """The w1 (a,) that minimises the objective for given eta2 (n,), in closed form."""
    variance = -1 / (2 * eta2)  # the weights are variances, because eta1 = f / g^2 is not the mean
    # (N5)  w1 = (phi' diag(variance) phi + penalty I)^-1 phi' y
    gram = phi.T @ (variance[:, None] * phi) + penalty * np.eye(phi.shape[1])
    return cho_solve(cho_factor(gram), phi.T @ y)


def scale_step(psi: np.ndarray, eta1: np.ndarray, y: np.ndarray, penalty: float, w2: np.ndarray, steps: int) -> np.ndarray:
    """The w2 (b,) >= 0 after at most `steps` L-BFGS-B iterations from w2, for given eta1 (n,)."""
    n = len(y)

    def loss_and_gradient(w: np.ndarray) -> tuple[float, np.ndarray]:
        raw = psi @ w
        eta2 = -np.maximum(raw, LEAST_PRECISION)
        loss = -log_density(y, eta1, eta2).mean() + penalty * (w @ w) / (2 * n)
        # d(-log p) / d(-eta2) = y^2 - mu^2 - sigma^2, zero where the floor is active
        slope = (y**2 - (eta1 / (2 * eta2)) ** 2 + 1 / (2 * eta2)) * (raw > LEAST_PRECISION)
        return loss, (psi.T @ slope + penalty * w) / n

    bounds = [(0, None)] * psi.shape[1]
    options = {"maxiter": steps, "ftol": 1e-12, "gtol": 1e-9}
    return minimize(loss_and_gradient, w2, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x


def alternate(phi: np.ndarray, psi: np.ndarray, y: np.ndarray, penalty: float, half_steps: int, start: np.ndarray) -> list[float]:
    """The paper's own solver: the objective, nats per sample, after each half-step from w2 = start (b,) > 0.

    Alternates the closed form for w1 with L-BFGS on w2, at most 200 iterations (the authors' ten calls of twenty; w2 >= 0
    is a bound here, a projection after each call there). It nears the optimum of `fit_convex`, slowly.
    """
    weights, trace = Weights(np.zeros(phi.shape[1]), start), []
    for half_step in range(half_steps):
        eta1, eta2 = natural_parameters(weights, phi, psi)
        if half_step % 2 == 0:
            weights = weights._replace(w1=location_step(phi, eta2, y, penalty))
        else:
            weights = weights._replace(w2=scale_step(psi, eta1, y, penalty, weights.w2, steps=200))
        trace.append(objective(weights, phi, psi, y, penalty))
    return trace


def newton_step(weights: Weights, phi: np.ndarray, psi: np.ndarray, y: np.ndarray, penalty: float, barrier: float) -> tuple:
    """Newton's direction in w1 and in w2, and its squared decrement, for n * objective - barrier * sum(log w2)."""
    w1, w2 = weights
    e, z = phi @ w1, psi @ w2  # e = eta1, z = -eta2 > 0
    # (N6)  -log p = -e y + z y^2 + e^2 / (4 z) - log(2 z) / 2 + const, its gradient and Hessian in (e, z)
    of_e, of_z = e / (2 * z) - y, y**2 - e**2 / (4 * z**2) - 1 / (2 * z)
    of_ee, of_ez, of_zz = 1 / (2 * z), -e / (2 * z**2), e**2 / (2 * z**3) + 1 / (2 * z**2)
    gradient = np.concatenate([phi.T @ of_e + penalty * w1, psi.T @ of_z + penalty * w2 - barrier / w2])
    cross = phi.T @ (of_ez[:, None] * psi)
    hessian = np.block([[phi.T @ (of_ee[:, None] * phi), cross], [cross.T, psi.T @ (of_zz[:, None] * psi)]])
    hessian += np.diag(np.concatenate([np.full(len(w1), penalty), penalty + barrier / w2**2]))
    direction = -cho_solve(cho_factor(hessian), gradient)
    return direction[: len(w1)], direction[len(w1) :], float(-gradient @ direction)


def fit_convex(
    phi: np.ndarray, psi: np.ndarray, y: np.ndarray, *, penalty: float = 1e-5, start: np.ndarray | None = None,
    last_barrier: float = 1e-6, most_steps: int = 500,
) -> Weights:  # fmt: skip
    """The concave estimator, to its optimum: Newton steps in (w1, w2), a logarithmic barrier keeping w2 > 0.

    Not the paper's solver, which is `alternate`. phi: (n, a). psi: (n, b), >= 0, no row all zero. y: (n,). start: w2 (b,)
    > 0, None for ones. The result is within b * last_barrier / n nats per sample of the optimum, which joint convexity
    makes the only one. Raises ValueError for bad shapes, NaN, a negative or empty row of psi, or a start that is not
    positive; RuntimeError when most_steps do not suffice.
    """
    phi, psi, y = _checked("phi", phi, 2), _checked("psi", psi, 2), _checked("y", y, 1)
    if not len(phi) == len(psi) == len(y):
        raise ValueError(f"phi, psi and y must have one length, not {len(phi)}, {len(psi)} and {len(y)}")
    if (psi < 0).any() or not psi.any(axis=1).all():
        raise ValueError("psi must be non-negative with no row all zero, or eta2 could reach zero")
    w2 = np.ones(psi.shape[1]) if start is None else _checked("start", start, 1)
    if len(w2) != psi.shape[1] or not (w2 > 0).all():
        raise ValueError("start must hold one positive number for each column of psi")

    def value(weights: Weights) -> float:
        return objective(weights, phi, psi, y, penalty) * len(y) - barrier * np.log(weights.w2).sum()

    weights, barrier = Weights(location_step(phi, -psi @ w2, y, penalty), w2), 1.0
    for _ in range(most_steps):
        d1, d2, decrement = newton_step(weights, phi, psi, y, penalty, barrier)
        size, before = 0.9 / max(0.9, (-d2 / weights.w2).max()), value(weights)  # stay inside w2 > 0
        moved = Weights(weights.w1 + size * d1, weights.w2 + size * d2)
        while decrement > 1e-3 and value(moved) > before - 0.1 * size * decrement:  # backtrack until it descends enough
            size /= 2
            moved = Weights(weights.w1 + size * d1, weights.w2 + size * d2)
        weights = moved
        if decrement < 1e-5 and barrier <= last_barrier:
            return weights
        if decrement < 0.1:
            barrier = max(barrier / 10, last_barrier)
    raise RuntimeError(f"no optimum after {most_steps} Newton steps: raise most_steps, or standardise y")


def fit_splines(x: np.ndarray, y: np.ndarray) -> Fit:
    """Convex LOCI for y given x, both (n,): the concave estimator on the spline basis of x."""
    x, y = _checked_pair(x, y)
    phi = spline_basis(x)
    weights = fit_convex(phi, phi, y)  # the basis is non-negative: psi = |phi| = phi
    eta1, eta2 = natural_parameters(weights, phi, phi)
    return Fit(*natural_to_moments(eta1, eta2), log_density(y, eta1, eta2).mean())


def ridge(features: np.ndarray, y: np.ndarray, penalty: float, precision: np.ndarray | float = 1.0) -> np.ndarray:
    """Coefficients (a,) of weighted ridge regression of y (n,) on features (n, a)."""
    weighted = features * np.broadcast_to(precision, y.shape)[:, None]
    return cho_solve(cho_factor(weighted.T @ features + penalty * np.eye(features.shape[1])), weighted.T @ y)


def fit_splines_additive(x: np.ndarray, y: np.ndarray) -> Fit:
    """The additive-noise baseline for y given x, both (n,): least squares on the same basis, noise variance fixed at 1."""
    x, y = _checked_pair(x, y)
    phi = spline_basis(x)
    mean = phi @ ridge(phi, y, penalty=1e-5)
    return Fit(mean, np.ones_like(mean), log_density(y, mean, np.full_like(mean, -0.5)).mean())


def fit_ifgls(
    phi: np.ndarray, psi: np.ndarray, y: np.ndarray, *, penalty: float = 1e-6, floor: float = 1e-6,
    tolerance: float = 1e-6, steps: int = 100,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Iterated feasible generalised least squares, the estimator to beat: mean weights (a,), variance weights (b,).

    Fit the mean, regress the squared residuals on psi, clip that variance at `floor`, refit the mean with it; iterate.
    penalty: ridge penalty per sample.
    """
    phi, psi, y = _checked("phi", phi, 2), _checked("psi", psi, 2), _checked("y", y, 1)
    n, before = len(y), np.inf
    mean_weights = ridge(phi, y, n * penalty)
    for _ in range(steps):
        variance_weights = ridge(psi, (y - phi @ mean_weights) ** 2, n * penalty)
        variance = np.maximum(psi @ variance_weights, floor)
        mean_weights = ridge(phi, y, n * penalty, precision=1 / variance)
        loss = np.mean(np.log(variance) + (y - phi @ mean_weights) ** 2 / variance) / 2
        if abs(before - loss) < tolerance:
            break
        before = loss
    return mean_weights, variance_weights


def moments_objective(w: np.ndarray, phi: np.ndarray, y: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
    """The same splines and penalty in (mean, log sigma), a problem that is not convex: nats per sample, and its gradient.

    w: (2 a,), the weights of the mean, then of log sigma. phi: (n, a). y: (n,).
    """
    n, columns = phi.shape
    mean, log_sigma = phi @ w[:columns], phi @ w[columns:]
    z = (y - mean) * np.exp(-log_sigma)
    # mean of log sigma + (y - mean)^2 / (2 sigma^2) + log(2 pi) / 2, and the penalty of (N4)
    loss = np.mean(log_sigma + z**2 / 2) + np.log(2 * np.pi) / 2 + penalty * (w @ w) / (2 * n)
    gradient = np.concatenate([phi.T @ (-z * np.exp(-log_sigma)), phi.T @ (1 - z**2)])
    return float(loss), (gradient + penalty * w) / n


def fit_moments(phi: np.ndarray, y: np.ndarray, start: np.ndarray, *, penalty: float = 1e-5, steps: int = 500) -> float:
    """`moments_objective` after at most `steps` L-BFGS-B iterations from start (2 a,); |log sigma| <= 10, or it overflows."""
    columns = phi.shape[1]
    bounds = [(None, None)] * columns + [(-10, 10)] * columns
    options = {"maxiter": steps, "maxfun": 2 * steps, "ftol": 1e-12, "gtol": 1e-8}
    fit = minimize(moments_objective, start, (phi, y, penalty), "L-BFGS-B", jac=True, bounds=bounds, options=options)
    return float(fit.fun)


def gaussian_kl(mean: np.ndarray, sigma: np.ndarray, other_mean: np.ndarray, other_sigma: np.ndarray) -> np.ndarray:
    """KL(N(mean, sigma^2) || N(other_mean, other_sigma^2)), nats, elementwise."""
    # log(s' / s) + (s^2 + (m - m')^2) / (2 s'^2) - 1 / 2
    return np.log(other_sigma / sigma) + (sigma**2 + (mean - other_mean) ** 2) / (2 * other_sigma**2) - 0.5


# ---------------------------------------------------------------------------------------------------------------------
# The network estimator, many pairs at once


def initial_network(generator: torch.Generator, width: int = 100) -> dict[str, torch.Tensor]:
    """One draw of PyTorch's default initialisation.

    hidden: (width, 2) = [slope, bias]. output: (2, width). bias: (2, 1), of the output. head: (2, 1) = [a, b].
    """
    inner = width**-0.5
    spans = {"hidden": (width, 2, 1.0), "output": (2, width, inner), "bias": (2, 1, inner), "head": (2, 1, 1.0)}
    weights = {name: (2 * torch.rand(a, b, generator=generator) - 1) * span for name, (a, b, span) in spans.items()}
    weights["head"][1] = 0.0  # b = 0: training starts homoscedastic
    return weights


def network_natural_parameters(net: dict[str, torch.Tensor], x1: torch.Tensor, scale: bool) -> tuple:
    """eta1 and eta2 < 0, each (p, n), of p networks at x1 (p, 2, n) = [x, 1].

    scale: False for the additive-noise baseline, whose variance is 1.
    """
    # tanh(u) = 2 sigmoid(2 u) - 1, three times as fast on a CPU; the 2 and the -1 go into the small matrices
    hidden = torch.sigmoid((2 * net["hidden"]) @ x1)  # (p, width, n)
    bias = net["bias"] - net["output"].sum(-1, keepdim=True)
    h1, h2 = ((2 * net["output"]) @ hidden + bias).unbind(1)  # (p, n) each
    if not scale:
        return h1, torch.full_like(h1, -0.5)
    # (N7)  eta1 = a h1(x),  eta2 = -exp(b h2(x)) / 2
    return net["head"][:, 0] * h1, -torch.exp(net["head"][:, 1] * h2) / 2


def fit_networks(
    x: np.ndarray, y: np.ndarray, start: dict[str, torch.Tensor], *, scale: bool, steps: int,
    learning_rate: float = 1e-2, dtype: torch.dtype = torch.float32,
) -> Fit:  # fmt: skip
    """NN-LOCI (scale=True) or the additive-noise network (scale=False) for y given x, both (p, n): p fits at once.

    Full batch, Adam, learning rate on a cosine to 1e-6. Every pair starts from the same network `start`. As in the
    paper the likelihood is the best along the training, and mean and sigma are those of the last step.
    """
    x, y = _checked_pair(x, y, ndim=2)
    inputs = torch.as_tensor(np.stack([x, np.ones_like(x)], axis=1), dtype=dtype)  # (p, 2, n)
    targets = torch.as_tensor(y, dtype=dtype)  # (p, n)
    net = {k: w.to(dtype).expand(len(x), *w.shape).clone().requires_grad_() for k, w in start.items()}  # (p, ...)
    optimiser = torch.optim.Adam(net.values(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=1e-6)
    best = torch.full((len(x),), -torch.inf, dtype=dtype)
    for _ in range(steps):
        log_likelihood = log_density(targets, *network_natural_parameters(net, inputs, scale)).mean(1)  # (p,)
        best = torch.maximum(best, log_likelihood.detach())
        optimiser.zero_grad()
        (-log_likelihood.sum()).backward()  # the fits share no weight: each one sees its own gradient only
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        mean, sigma = natural_to_moments(*network_natural_parameters(net, inputs, scale))
    return Fit(mean.double().numpy(), sigma.double().numpy(), best.double().numpy())


def network_fits(
    x: np.ndarray, y: np.ndarray, start: dict[str, torch.Tensor], *, scale: bool, steps: int, together: int = 6,
    learning_rate: float = 1e-2, dtype: torch.dtype = torch.float32,
) -> list[tuple[Fit, Fit]]:  # fmt: skip
    """The forward and the backward network fit of each of p pairs x, y (p, n); arguments as in `fit_networks`.

    together: pairs trained as one batch; about six keep the activations in the processor's cache. It changes no result.
    """
    x, y = _checked_pair(x, y, ndim=2)
    fits = []
    for first in range(0, len(x), together):
        a, b = x[first : first + together], y[first : first + together]
        both = np.concatenate([a, b]), np.concatenate([b, a])  # forward, then backward fits
        fit = fit_networks(*both, start, scale=scale, steps=steps, learning_rate=learning_rate, dtype=dtype)
        single = [Fit(*parts) for parts in zip(*fit, strict=True)]
        fits += zip(single[: len(a)], single[len(a) :], strict=True)
    return fits


# ---------------------------------------------------------------------------------------------------------------------
# The direction


def gaussian_gram(x: np.ndarray) -> np.ndarray:
    """Gaussian kernel matrix (n, n) of x (n,), its bandwidth by the median rule."""
    x = _checked("x", x, 1)
    squared = pdist(x[:, None], "sqeuclidean")  # (n (n - 1) / 2,)
    apart = squared[squared > 0]
    if apart.size == 0:
        raise ValueError("x is constant: the median distance, and with it the bandwidth, is zero")
    # k(u, v) = exp(-(u - v)^2 / (2 s^2)),  2 s^2 = median of the non-zero squared distances
    return np.exp(-((x[:, None] - x) ** 2) / np.median(apart))


def hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """Biased Hilbert-Schmidt independence criterion of two kernel matrices (n, n); >= 0, larger is more dependent."""
    # trace(K H L H) / n^2  with H = I - 11'/n, written with means: n^2 work instead of n^3
    return float((k * l).mean() + k.mean() * l.mean() - 2 * (k.mean(axis=0) * l.mean(axis=0)).mean())


def direction_scores(x: np.ndarray, y: np.ndarray, forward: Fit, backward: Fit) -> tuple[float, float]:
    """Scores (`_M`, `_H`) of a pair from its fits y given x (forward) and x given y (backward)."""
    x, y = _checked_pair(x, y)
    residual_y = (y - forward.mean) / forward.sigma
    residual_x = (x - backward.mean) / backward.sigma
    # _M: mean log p(y|x) - mean log p(x|y); the Gaussian marginals of standardised data cancel
    by_likelihood = float(forward.log_likelihood - backward.log_likelihood)
    # _H: HSIC(y, residual of x) - HSIC(x, residual of y); statistics are compared, not p-values
    backward_dependence = hsic(gaussian_gram(y), gaussian_gram(residual_x))
    forward_dependence = hsic(gaussian_gram(x), gaussian_gram(residual_y))
    return by_likelihood, backward_dependence - forward_dependence


def spline_scores(x: np.ndarray, y: np.ndarray, fit: Callable[..., Fit] = fit_splines) -> tuple[float, float]:
    """Scores (`_M`, `_H`) of one pair (n,), (n,) with a spline fit: `fit_splines` or `fit_splines_additive`."""
    return direction_scores(x, y, fit(x, y), fit(y, x))


def spacing_entropy(x: np.ndarray) -> float:
    """Differential entropy of x (n,), nats, from spacings over sqrt(n) neighbours; ties are left out, as in IGCI."""
    x = np.sort(_checked("x", x, 1))
    m = int(len(x) ** 0.5)
    spacings = x[m:] - x[:-m]
    # H = mean log(n / m * (x_(i+m) - x_(i)))
    return float(np.log(len(x) / m * spacings[spacings > 0]).mean())


def marginal_score(x: np.ndarray, y: np.ndarray) -> float:
    """A rule that never looks at the pair jointly: the cause is what has the larger entropy once standardised.

    It is IGCI with a Gaussian reference measure (Janzing et al., 2012).
    """
    x, y = _checked_pair(x, y)
    return spacing_entropy(standardise(x)) - spacing_entropy(standardise(y))


def area_under_decision_rate(scores: np.ndarray, truth: np.ndarray) -> float:
    """AUDRC in [0, 1]: the accuracy among the k most confident decisions, averaged over k. truth: +1 or -1, (p,)."""
    scores, truth = _checked("scores", scores, 1), _checked("truth", truth, 1)
    correct = (scores * truth > 0)[np.argsort(-np.abs(scores), kind="stable")]
    return float((np.cumsum(correct) / np.arange(1, len(correct) + 1)).mean())
