"""Domain counterfactuals with invertible latent causal models (Zhou, Bai, Kulinski, Kocaoglu & Inouye, ICLR 2024).

What would this observation of domain d have been in domain d'? One mixing map g serves all domains, and each domain has its
own invertible causal mechanisms f_d of independent noise: x = g(f_d(eps)). The answer keeps eps and changes the mechanisms.
Here f_d is linear and autoregressive and g is a leaky ReLU followed by a matrix, as in the paper's simulations. Written from the
paper and from reading the authors' repository, which carries no licence; nothing is copied from it.

Tensors are float and may carry leading axes (...): one for each model of a stack that is trained or asked side by side.
D is the number of domains, n that of units a domain, m that of coordinates. Likelihoods are in nats.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Model(NamedTuple):
    """z = (I - lower_d)^-1 exp(log_scale_d) eps + bias_d, then x = unmix^-1 leaky(z) + offset."""

    lower: Tensor  # (..., D, m, m) strictly lower triangular: row j has the weights of the causes of z_j
    log_scale: Tensor  # (..., D, m) log standard deviation of the noise
    bias: Tensor  # (..., D, m)
    unmix: Tensor  # (..., m, m) G^-1, invertible
    offset: Tensor  # (..., m)
    slope: Tensor  # (...) of the leaky ReLU below 0, > 0


class Parameters(NamedTuple):
    """What is trained. A row of `rows` is one mechanism: m weights (those above the diagonal are unused), log scale, bias."""

    rows: Tensor  # (..., D, m, m + 2)
    unmix: Tensor  # (..., m, m)
    offset: Tensor  # (..., m)


def _checked(x: Tensor, model: Model) -> None:
    d, m = model.bias.shape[-2:]
    if x.ndim < 3 or x.shape[-3] != d or x.shape[-1] != m or x.shape[-2] == 0:
        raise ValueError(f"x must have shape (..., {d}, n, {m}) with n > 0, not {tuple(x.shape)}")
    if not torch.isfinite(x).all():
        raise ValueError("x contains NaN or infinite values")


# ------------------------------------------------------------------------------------------------------------- models


def free_rows(m: int, k: int, first: bool = False) -> Tensor:
    """Which mechanisms may differ by domain (m,): the last k, as in the canonical form, or the first k.

    Raises ValueError unless 0 <= k <= m. k = m is the dense model.
    """
    if not 0 <= k <= m:
        raise ValueError(f"k must be within 0 and m = {m}, not {k}")
    index = torch.arange(m)
    return index < k if first else index >= m - k


def tied(parameters: Parameters, free: Tensor, slope: Tensor) -> Model:
    """The model of these parameters in which only the mechanisms `free` (..., m), bool, differ by domain; slope (...).

    Every other mechanism is that of the first domain. Raises ValueError if `free` does not fit the parameters.
    """
    if free.shape[-1] != parameters.rows.shape[-2] or free.dtype != torch.bool:
        raise ValueError(f"free must be bool with last axis {parameters.rows.shape[-2]}, not {free.dtype} {tuple(free.shape)}")
    # relaxed canonical form: [f_d]_j = [f_0]_j for all d and every j <= m - k
    rows = torch.where(free[..., None, :, None], parameters.rows, parameters.rows[..., :1, :, :])
    m = rows.shape[-2]
    return Model(rows[..., :m].tril(-1), rows[..., m], rows[..., m + 1], parameters.unmix, parameters.offset, slope)


def whitening(x: Tensor) -> Tensor:
    """The symmetric matrix (..., m, m) that takes the units x (..., n, m) to covariance I. Raises ValueError unless n > m."""
    if x.shape[-2] <= x.shape[-1]:
        raise ValueError(f"x must have more units than coordinates, not {tuple(x.shape)}")
    return _power(_covariance(x), -0.5)


def start(unmix: Tensor, domains: int) -> Parameters:
    """Parameters of models of identical domains without arrows, with this unmix (..., m, m)."""
    m = unmix.shape[-1]
    return Parameters(unmix.new_zeros(*unmix.shape[:-2], domains, m, m + 2), unmix.clone(), unmix.new_zeros(unmix.shape[:-1]))


def composed(model: Model | Parameters, matrix: Tensor, mean: Tensor) -> Model | Parameters:
    """The same of x (..., m), where `model` is one of matrix (x - mean), with matrix (..., m, m) and mean (..., m)."""
    # G^-1 (matrix (x - mean) - c) = (G^-1 matrix) (x - mean - matrix^-1 c)
    offset = mean + torch.linalg.solve(matrix, model.offset[..., None])[..., 0]
    return model._replace(unmix=model.unmix @ matrix, offset=offset)


def rotation(rng: np.random.Generator, m: int) -> Tensor:
    """A random orthogonal matrix (m, m), uniform over all, float32."""
    q, r = np.linalg.qr(rng.standard_normal((m, m)))
    return torch.tensor(q * np.sign(np.diag(r)), dtype=torch.float32)


def world(
    rng: np.random.Generator, m: int, domains: int, changed: Sequence[int], slope: float = 0.5, n_scale: int = 10_000
) -> Model:
    """The paper's generator as a model in float64: `changed` are the mechanisms that each domain draws anew (the set I).

    A world with fewer domains of the same rng has the same first ones, up to the scale of the coordinates, which is the pooled
    standard deviation over all domains of n_scale draws each. Raises ValueError if `changed` is empty or not within 0..m - 1.
    """
    if not changed or not set(changed) <= set(range(m)):
        raise ValueError(f"changed must be some of 0..{m - 1}, not {list(changed)}")
    changed = list(changed)
    shared, mixing = rng.standard_normal((2, m, m))
    for_scale = rng.spawn(1)[0]
    lower, bias = np.tile(np.tril(shared, -1), (domains, 1, 1)), np.zeros((domains, m))
    for d in range(domains):
        lower[d, changed] = np.tril(rng.standard_normal((m, m)), -1)[changed]
        # one number a domain, on every changed coordinate
        bias[d, changed] = rng.uniform(-2, 2) * math.sqrt(m / len(changed))
    mixing /= abs(np.linalg.det(mixing)) ** (1 / m)
    tensors = [torch.tensor(a) for a in (lower, np.zeros((domains, m)), bias, np.eye(m), np.zeros(m), np.float64(slope))]
    plain = Model(*tensors)
    eps = torch.tensor(for_scale.standard_normal((domains, n_scale, m)))
    spread = predict(plain, eps).reshape(-1, m).std(0)
    # x = G (leaky(z) / spread), so that G^-1 = diag(spread) mixing^-1
    return plain._replace(unmix=spread[:, None] * torch.tensor(np.linalg.inv(mixing)))


def stacked(models: Sequence[Model]) -> Model:
    """Models of one size along a new first axis."""
    return Model(*(torch.stack(parts) for parts in zip(*models, strict=True)))


# ----------------------------------------------------------------------------------------------- abduct, act, predict


def _latents(model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
    """eps and z with leaky undone, each (..., D, n, m)."""
    # y = G^-1 (x - c), z = leaky^-1(y)
    y = (x - model.offset[..., None, None, :]) @ model.unmix[..., None, :, :].mT
    z = torch.where(y > 0, y, y / model.slope[..., None, None, None])
    # eps = diag(1 / S_d) (I - L_d) (z - b_d)
    centred = z - model.bias[..., None, :]
    return (centred - centred @ model.lower.mT) * torch.exp(-model.log_scale)[..., None, :], z


def abduct(model: Model, x: Tensor) -> Tensor:
    """The noise eps (..., D, n, m) of observations x (..., D, n, m), the units of domain d in x[..., d, :, :].

    Raises ValueError for another shape, no units, or NaN.
    """
    _checked(x, model)
    return _latents(model, x)[0]


def predict(model: Model, eps: Tensor) -> Tensor:
    """The observations (..., D, n, m) that this noise (..., D, n, m) gives in each domain; the inverse of `abduct`."""
    eye = torch.eye(eps.shape[-1], dtype=eps.dtype, device=eps.device)
    # z = (I - L_d)^-1 S_d eps + b_d
    scaled = eps * torch.exp(model.log_scale)[..., None, :]
    z = torch.linalg.solve_triangular(eye - model.lower, scaled.mT, upper=False).mT + model.bias[..., None, :]
    y = torch.where(z > 0, z, z * model.slope[..., None, None, None])
    # x = G leaky(z) + c
    return y @ torch.linalg.inv(model.unmix)[..., None, :, :].mT + model.offset[..., None, None, :]


def counterfactual(model: Model, x: Tensor) -> Tensor:
    """What units x (..., D, n, m) of each domain would have been in each domain: (..., D, D, n, m), [d, d'] from d to d'.

    Raises ValueError as `abduct`.
    """
    # x_{d -> d'} = g(f_{d'}(f_d^-1(g^-1(x))))
    eps = abduct(model, x)[..., None, :, :]  # (..., D, 1, n, m)
    towards = Model(*(part.unsqueeze(-k) for part, k in zip(model, (4, 3, 3, 3, 2, 1), strict=True)))
    return predict(towards, eps.expand(*eps.shape[:-3], eps.shape[-4], *eps.shape[-2:]))


def log_density(model: Model, x: Tensor, blur: float = 0.0) -> Tensor:
    """log p(x | d) (..., D, n), nats, of units x (..., D, n, m); no checks, as training calls it at every step.

    The count of coordinates below 0 has no gradient, although its mean moves with the parameters. blur > 0, in units of z, counts
    softly, and gives that mean a gradient; the paper's training has blur = 0.
    """
    eps, z = _latents(model, x)
    m = x.shape[-1]
    gaussian = -(eps**2).sum(-1) / 2 - m * math.log(2 * math.pi) / 2
    # |d eps / d x| = prod_j 1 / S_dj * |det G^-1| * slope^-(number of negative coordinates)
    log_det = torch.linalg.slogdet(model.unmix)[1][..., None] - model.log_scale.sum(-1)
    below = torch.sigmoid(-z / blur) if blur else (z < 0).to(z.dtype)
    return gaussian + log_det[..., None] - below.sum(-1) * model.slope.log()[..., None, None]


# ---------------------------------------------------------------------------------------------------------- yardsticks


def transport(x: Tensor) -> Tensor:
    """Optimal transport between domains taken as Gaussian, (..., D, D, n, m), fitted to the units x (..., D, n, m) it moves.

    Raises ValueError unless every domain has more units than coordinates.
    """
    if x.shape[-2] <= x.shape[-1]:
        raise ValueError(f"x must have more units than coordinates in every domain, not {tuple(x.shape)}")
    mean, covariance = x.mean(-2, keepdim=True), _covariance(x)  # (..., D, 1, m), (..., D, m, m)
    # A = S^-1/2 (S^1/2 S' S^1/2)^1/2 S^-1/2
    root, inverse = _power(covariance, 0.5).unsqueeze(-3), _power(covariance, -0.5).unsqueeze(-3)
    plan = inverse @ _power(root @ covariance.unsqueeze(-4) @ root, 0.5) @ inverse  # (..., D, D, m, m)
    return (x - mean).unsqueeze(-3) @ plan + mean.unsqueeze(-4)


def _covariance(x: Tensor) -> Tensor:
    """Covariance (..., m, m) of units x (..., n, m)."""
    centred = x - x.mean(-2, keepdim=True)
    return centred.mT @ centred / (x.shape[-2] - 1)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """A power of symmetric positive definite matrices (..., m, m)."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.pow(exponent)[..., None, :]) @ vectors.mT


def error(answer: Tensor, truth: Tensor, x: Tensor) -> Tensor:
    """Error (...) of counterfactuals `answer` (..., D, D, n, m) against `truth`, for units x (..., D, n, m) of D >= 2 domains.

    Mean squared error in units of the variance of each coordinate in the two domains together, mean over d != d'. The answer
    may be any tensor that broadcasts, such as x.unsqueeze(-3): nothing changes. Raises ValueError if a domain is alone.
    """
    domains = x.shape[-3]
    if domains < 2:
        raise ValueError(f"x must have at least 2 domains, not {domains}")
    mean, square = x.mean(-2), (x**2).mean(-2)  # (..., D, m)
    both = [(part.unsqueeze(-2) + part.unsqueeze(-3)) / 2 for part in (mean, square)]  # (..., D, D, m)
    scaled = ((answer - truth) ** 2).mean(-2) / (both[1] - both[0] ** 2)
    others = ~torch.eye(domains, dtype=torch.bool, device=x.device)
    return scaled.mean(-1)[..., others].mean(-1)


# ------------------------------------------------------------------------------------------------------------ training


def train(
    parameters: Parameters,
    free: Tensor,
    slope: Tensor,
    batch_of: Callable[[int], Tensor],
    steps: int,
    rate: float,
    every: int,
    look: Callable[[int, Model], Tensor],
    blur: float,
    stop_after: int | None = None,
) -> Parameters:
    """Maximum likelihood for a stack of M models side by side; each keeps the parameters of its best look.

    free (M, m), bool, and slope (M,) are those of `tied`, blur that of `log_density`. batch_of: step -> (M, D, batch, m). look:
    called with steps done and the models after every `every` steps, returns validation losses (M,), nats. Adam with betas
    (.5, .999); its rate rises over the first twentieth and falls to 0 on a cosine.
    stop_after ends early, on the way to `steps`. Raises FloatingPointError if no model's loss is finite.
    """
    parameters = Parameters(*(p.detach().clone().requires_grad_() for p in parameters))
    best = Parameters(*(p.detach().clone() for p in parameters))
    least = torch.full(free.shape[:1], math.inf, device=free.device)
    optimiser = torch.optim.Adam(parameters, rate, betas=(0.5, 0.999))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(20 * (step + 1) / steps, 1.0) * (1 + math.cos(math.pi * step / steps)) / 2
    )
    for step in range(steps if stop_after is None else stop_after):
        # the models share nothing, so that the gradient of the sum is each one's own
        loss = -log_density(tied(parameters, free, slope), batch_of(step), blur).mean((-2, -1)).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if (step + 1) % every == 0:
            with torch.no_grad():
                losses = look(step + 1, tied(parameters, free, slope))
            # a model that diverged keeps an earlier look
            losses = losses.nan_to_num(nan=math.inf, posinf=math.inf, neginf=math.inf)
            if not torch.isfinite(losses).any():
                raise FloatingPointError(f"no validation loss is finite after {step + 1} steps: take a smaller rate")
            better = losses < least
            least = torch.where(better, losses, least)
            for kept, now in zip(best, parameters, strict=True):
                kept[better] = now.detach()[better]
    return best
