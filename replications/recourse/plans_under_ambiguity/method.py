"""Counterfactual plans under distributional ambiguity (Bui, Nguyen & Nguyen 2022): validity bounds, correction, COPA.

A point x (d,) carries a leading 1. A linear model is theta = (intercept, weights), (d,), and accepts x when theta'x >= 0.
A plan is J points (J, d), and valid when all of them are accepted. Features are scaled to [0, 1], the unit of every distance.
The next model is random: only estimates of its mean (d,) and covariance (d, d) are known, up to a Gelbrich distance rho.
"""

from functools import cache
from typing import NamedTuple

import cvxpy as cp
import numpy as np
import torch
from scipy.linalg import sqrtm
from torch import Tensor


class SolverFailed(RuntimeError):
    """A convex program without a trustworthy solution; the message gives the solver's status and what to do."""


# ---------------------------------------------------------------- the models and their moments


def stratified_shares(y: np.ndarray, n: int, rng: np.random.Generator, share: float = 0.5) -> np.ndarray:
    """Which rows each of n models sees: bool (n, rows), a random `share` in (0, 1] of either class of y (rows,) in {0, 1}."""
    if set(np.unique(y)) != {0, 1}:
        raise ValueError("y must hold both classes, 0 and 1")
    seen = np.zeros((n, len(y)), bool)
    for label in (0, 1):
        members = np.flatnonzero(y == label)
        chosen = members[rng.random((n, len(members))).argsort(axis=1)[:, : round(share * len(members))]]  # (n, share)
        np.put_along_axis(seen, chosen, True, axis=1)
    return seen


def fit(
    x: np.ndarray, y: np.ndarray, seen: np.ndarray, rng: np.random.Generator, *, steps: int = 200, rate: float = 0.005,
    decay: float = 1e-3,
) -> np.ndarray:  # fmt: skip
    """n logistic regressions (n, d) at once on points x (rows, d), labels y (rows,), each on the rows `seen` (n, rows) alone.

    Gradient descent on the summed cross-entropy from small random weights, as the authors train. Raises ValueError when x is
    not finite or the shapes disagree.
    """
    if x.ndim != 2 or not np.isfinite(x).all():
        raise ValueError("x must be finite, of shape (rows, d)")
    if y.shape != x.shape[:1] or seen.shape[1:] != y.shape:
        raise ValueError(f"y and seen must be of shape ({len(x)},) and (n, {len(x)}), not {y.shape} and {seen.shape}")
    bound = (x.shape[1] - 1) ** -0.5
    theta = torch.tensor(rng.uniform(-bound, bound, (len(seen), x.shape[1])))
    points, labels, mask = torch.tensor(x, dtype=torch.float64), torch.tensor(y), torch.tensor(seen, dtype=torch.float64)
    for _ in range(steps):
        # theta <- theta - rate (sum_i (sigma(theta'x_i) - y_i) x_i + decay theta)
        wrong = mask * (torch.sigmoid(theta @ points.T) - labels)  # (n, rows)
        theta = theta - rate * (wrong @ points + decay * theta)
    return theta.numpy()


def moments(thetas: np.ndarray, widen: float, floor: float = 1e-6) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and covariance (d, d) of models (n, d), n >= 2; the covariance times `widen`, plus `floor` on its diagonal."""
    # mu^ = mean theta_m,  S^ = widen cov theta_m + floor I
    return thetas.mean(axis=0), widen * np.cov(thetas.T) + floor * np.eye(thetas.shape[1])


def validity(plan: np.ndarray, thetas: np.ndarray, weights: np.ndarray | None = None, edge: float = 0.0) -> float:
    """The share in [0, 1] of models (n, d), with `weights` (n,) or equal ones, that accept the whole plan (J, d).

    Accepted is theta'x >= edge: a small edge of either sign opens the set or closes it, where atoms lie on its boundary.
    """
    # P(theta in Theta), Theta = {theta: theta'x_j >= 0 for all j}
    return float(np.average((thetas @ plan.T >= edge).all(axis=1), weights=weights))


def gelbrich(mean: np.ndarray, cov: np.ndarray, other_mean: np.ndarray, other_cov: np.ndarray) -> float:
    """Gelbrich distance of two pairs of moments, in the unit of theta."""
    root = sqrtm(cov).real
    # G^2 = ||mu - mu^||^2 + tr(S + S^ - 2 (S^^{1/2} S S^^{1/2})^{1/2})
    squared = np.sum((mean - other_mean) ** 2) + np.trace(cov + other_cov - 2 * sqrtm(root @ other_cov @ root).real)
    return float(np.sqrt(max(squared, 0.0)))


# ---------------------------------------------------------------- bounds on the validity of a plan


class Bound(NamedTuple):
    """A bound on the validity of a plan, and the discrete distribution of models that attains it.

    value: in [0, 1]. masses (p,): of the parts that the program splits off; for the lower bound those that break point j,
    so the largest belongs to the weakest point. atoms (n, d) and weights (n,): the extremal distribution, in the span of the plan.
    """

    value: float
    masses: np.ndarray
    atoms: np.ndarray
    weights: np.ndarray


def lower_bound(plan: np.ndarray, mean: np.ndarray, cov: np.ndarray, rho: float) -> Bound:
    """L*, the least validity of plan (J, d) over every distribution of theta whose moments lie in the Gelbrich ball rho >= 0.

    Raises ValueError for bad shapes or numbers, SolverFailed where the program has no accurate solution.
    """
    return _bound(plan, mean, cov, rho, upper=False)


def upper_bound(plan: np.ndarray, mean: np.ndarray, cov: np.ndarray, rho: float) -> Bound:
    """U*, the greatest validity of plan (J, d) over the same distributions; arguments and errors as in `lower_bound`."""
    return _bound(plan, mean, cov, rho, upper=True)


def _bound(plan: np.ndarray, mean: np.ndarray, cov: np.ndarray, rho: float, upper: bool) -> Bound:
    _checked(plan, mean, cov)
    if not rho >= 0:
        raise ValueError(f"rho must be at least 0, not {rho}")
    # theta counts only through theta'x_j, and the Gelbrich ball of a projection is the projection of the ball: so the program
    # is solved in the span of the plan, in coordinates u = Q'(theta - mu^) / s
    q, _ = np.linalg.qr(plan.T)  # (d, k), k = min(J, d)
    scale = np.sqrt(np.trace(cov) / len(cov))
    program = _program(len(plan), q.shape[1], upper, rho > 0)
    program.x.value = plan @ q
    program.lift.value = plan @ mean / scale
    program.cov.value = q.T @ cov @ q / scale**2
    program.radius.value = (rho / scale) ** 2
    _solve(program.problem, "the bound")
    parts = [part.value for part in program.parts]
    masses = np.array([part[-1, -1] for part in parts])
    atoms, weights = _extremal(parts, program.moments.value)
    value = float(np.clip(program.problem.value, 0, 1))
    return Bound(value, masses, mean + scale * atoms @ q.T, weights)


class _Program(NamedTuple):
    problem: cp.Problem
    x: cp.Parameter
    lift: cp.Parameter
    cov: cp.Parameter
    radius: cp.Parameter
    parts: list[cp.Variable]
    moments: cp.Expression


@cache
def _program(n_points: int, d: int, upper: bool, ball: bool) -> _Program:
    """The semidefinite program of either bound, compiled once per size; the numbers go in as parameters."""
    x, lift = cp.Parameter((n_points, d)), cp.Parameter(n_points)
    cov, radius = cp.Parameter((d, d), symmetric=True), cp.Parameter(nonneg=True)
    constraints = []
    if ball:
        # moments of a coupling of u with the estimate u^: [[N, C, m], [C', S^, 0], [m', 0, 1]] >= 0, tr(N + S^ - 2 C) <= rho^2
        joint = cp.Variable((2 * d + 1, 2 * d + 1), PSD=True)
        n, c, m = joint[:d, :d], joint[:d, d : 2 * d], joint[:d, 2 * d :]
        constraints += [joint[d : 2 * d, d : 2 * d] == cov, joint[d : 2 * d, 2 * d] == 0, joint[2 * d, 2 * d] == 1]
        constraints += [cp.trace(n) + cp.trace(cov) - 2 * cp.trace(c) <= radius]
        moments = cp.bmat([[n, m], [m.T, np.ones((1, 1))]])
    else:
        moments = cp.bmat([[cov, np.zeros((d, 1))], [np.zeros((1, d)), np.ones((1, 1))]])
    # parts [[Z_j, z_j], [z_j', l_j]] >= 0 of the moment matrix, sum_j parts <= [[N, m], [m', 1]]
    parts = [cp.Variable((d + 1, d + 1), PSD=True) for _ in range(1 if upper else n_points)]
    constraints += [moments - sum(parts) >> 0]
    if upper:  # max l  with  x_j'z >= 0 for all j: the part that accepts the whole plan
        constraints += [x @ parts[0][:d, d] + lift * parts[0][d, d] >= 0]
        objective = cp.Maximize(parts[0][d, d])
    else:  # min 1 - sum_j l_j  with  -x_j'z_j >= 0: part j refuses point j
        constraints += [x[j] @ part[:d, d] + lift[j] * part[d, d] <= 0 for j, part in enumerate(parts)]
        objective = cp.Minimize(1 - sum(part[d, d] for part in parts))
    return _Program(cp.Problem(objective, constraints), x, lift, cov, radius, parts, moments)


def _extremal(parts: list[np.ndarray], moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Atoms (n, k) and weights (n,) of a distribution with these moments: one atom a part, and 2 k for the mass left over."""
    parts = [part for part in parts if part[-1, -1] > 1e-6]
    rest = moments - sum(np.outer(part[:, -1], part[:, -1]) / part[-1, -1] for part in parts)
    atoms, weights = [part[:-1, -1] / part[-1, -1] for part in parts], [part[-1, -1] for part in parts]
    left = max(rest[-1, -1], 1e-9)
    centre = rest[:-1, -1] / left
    values, vectors = np.linalg.eigh(rest[:-1, :-1] / left - np.outer(centre, centre))
    spread = np.sqrt(len(values) * values.clip(min=0))[:, None] * vectors.T  # (k, k)
    atoms += [*(centre + spread), *(centre - spread)]
    weights += [left / (2 * len(values))] * (2 * len(values))
    return np.array(atoms), np.array(weights)


def _solve(problem: cp.Problem, name: str) -> None:
    # a value right to 1e-6 is asked for, and is plenty: anything less is an error
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-7, tol_gap_rel=1e-7, tol_feas=1e-7)
    if problem.status in (cp.INFEASIBLE, cp.INFEASIBLE_INACCURATE):
        raise SolverFailed(f"{name} is infeasible: no moments or point satisfy the constraints; check the arguments")
    if problem.status != cp.OPTIMAL:
        raise SolverFailed(f"{name} was not solved accurately (status {problem.status!r}); rescale theta or raise the covariance")


def _checked(plan: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> None:
    d = len(mean)
    if plan.ndim != 2 or plan.shape[1] != d or not len(plan) or not np.isfinite(plan).all() or not (plan[:, 0] == 1).all():
        raise ValueError(f"plan must be finite, of shape (J, {d}), with a leading column of 1")
    if not np.isfinite(mean).all():
        raise ValueError("mean must be finite")
    if cov.shape != (d, d) or not np.isfinite(cov).all() or not np.allclose(cov, cov.T) or np.linalg.eigvalsh(cov)[0] <= 0:
        raise ValueError(f"cov must be finite, symmetric and positive definite, of shape ({d}, {d})")


# ---------------------------------------------------------------- correcting a plan


def project(points, mean, margin: float = 0.1):
    """Points (..., d) moved along the mean weights, and no further than needed, until mean'x >= margin; numpy or torch alike.

    `mean` must broadcast against the points.
    """
    # x <- x - min(0, mu^'x - margin) w^ / ||w^||^2
    short = ((points * mean).sum(-1) - margin).clip(max=0)
    w = mean[..., 1:]
    moved = points + 0
    moved[..., 1:] -= (short / (w**2).sum(-1))[..., None] * w
    return moved


def mahalanobis_push(plan: np.ndarray, mean: np.ndarray, cov: np.ndarray, delta: float) -> np.ndarray:
    """Each point of plan (J, d) moved by at most delta > 0 (L2) to where mean'x / sqrt(x' cov x) is greatest; (J, d).

    Raises ValueError for bad input or a point that the mean refuses, SolverFailed where the program was not solved.
    """
    _checked(plan, mean, cov)
    if not (plan @ mean > 0).all():
        raise ValueError("plan must be accepted by mean: project it first")
    program = _push_program(*plan.shape)
    program.x.value, program.mean.value, program.delta.value = plan, mean, delta
    program.root.value = sqrtm(cov).real
    _solve(program.problem, "the Mahalanobis correction")
    return program.z.value / program.z.value[:, :1]


class _Push(NamedTuple):
    problem: cp.Problem
    x: cp.Parameter
    mean: cp.Parameter
    root: cp.Parameter
    delta: cp.Parameter
    z: cp.Variable


@cache
def _push_program(n_points: int, d: int) -> _Push:
    x, mean, root, delta = cp.Parameter((n_points, d)), cp.Parameter(d), cp.Parameter((d, d)), cp.Parameter(nonneg=True)
    z = cp.Variable((n_points, d))
    # z = t x:  min z'S^z  with  ||z - t x_j|| <= delta t,  mu^'z = 1,  z[0] = t
    constraints = [z @ mean == 1]
    constraints += [cp.norm(z[j] - z[j, 0] * x[j]) <= delta * z[j, 0] for j in range(n_points)]
    # the J programs share no variable: the sum of the norms is least where each is
    objective = cp.Minimize(sum(cp.norm(root @ z[j]) for j in range(n_points)))
    return _Push(cp.Problem(objective, constraints), x, mean, root, delta, z)


def margin_push(plan: np.ndarray, mean: np.ndarray, delta: float) -> np.ndarray:
    """The control without a covariance: each point of plan (J, d) moved by delta along the mean weights; (J, d)."""
    w = mean[1:]
    return plan + delta * np.concatenate([[0.0], w / np.linalg.norm(w)])


def random_push(plan: np.ndarray, mean: np.ndarray, delta: float, rng: np.random.Generator) -> np.ndarray:
    """The control without a direction: each point of plan (J, d) moved by delta at random, turned round if refused; (J, d)."""
    step = rng.normal(size=plan.shape)
    step[:, 0] = 0
    step *= delta / np.linalg.norm(step, axis=1, keepdims=True)
    refused = (plan + step) @ mean < 0
    return plan + np.where(refused[:, None], -step, step)


def correct(plan: np.ndarray, pushed: np.ndarray, masses: np.ndarray, k: int) -> np.ndarray:
    """Plan (J, d) with the k points replaced from `pushed` (J, d) that have the largest `masses` (J,) in the lower bound."""
    # the weakest are those that the worst distribution breaks most often; the order is fixed before any correction
    weakest = np.argsort(-masses)[:k]
    corrected = plan.copy()
    corrected[weakest] = pushed[weakest]
    return corrected


# ---------------------------------------------------------------- plans from scratch, many people at once


def proximity(plan: np.ndarray, x0: np.ndarray) -> np.ndarray:
    """Mean L2 distance (...) of plans (..., J, d) from their person x0 (..., d)."""
    return np.linalg.norm(plan - x0[..., None, :], axis=-1).mean(-1)


def diversity(plans: Tensor, distances: Tensor | None = None) -> Tensor:
    """Determinant (n,) of a kernel that falls with the distance between points of plans (n, J, d); L2, or given (n, J, J)."""
    if distances is None:
        distances = torch.cdist(plans, plans, compute_mode="donot_use_mm_for_euclid_dist")
    # det(1 / (1 + dist(x_i, x_j)) + 1e-4 I)
    return torch.linalg.det(1 / (1 + distances) + 1e-4 * torch.eye(plans.shape[1], dtype=plans.dtype))


def mad_weights(x: np.ndarray, numeric: np.ndarray) -> np.ndarray:
    """DiCE's weight (d,) of a change in each column of x (rows, d): 1 / MAD for `numeric` ones (bool, (d,)), else 1."""
    mad = np.median(np.abs(x - np.median(x, axis=0)), axis=0)
    weights = np.where(numeric & (mad > 0), 1 / np.where(mad > 0, mad, 1), 1.0)
    return np.concatenate([[0.0], weights[1:]])  # the leading 1 never changes


def dice(
    x0: Tensor, theta: Tensor, n_points: int, weights: Tensor, groups: list[list[int]], *, margin: float | Tensor = 1.0,
    steps: int = 500, rate: float = 0.05,
) -> Tensor:  # fmt: skip
    """DiCE by gradient: plans (n, J, d) for people x0 (n, d), each refused by a model theta (n, d); x in [0, 1].

    weights (d,): of a change in each column. groups: columns of each one-hot category. margin, one number or (n,): the logit
    beyond which the hinge is content, 1 in DiCE. The step falls to 0 linearly, so that the plans come to rest.
    """
    _checked_people(x0, theta)
    offset = 0.01 * torch.arange(n_points)[:, None] * (torch.arange(x0.shape[1]) > 0)  # (J, d): each point starts elsewhere

    def loss(x: Tensor) -> Tensor:
        hinge = torch.relu(torch.as_tensor(margin).reshape(-1, 1) - (x * theta[:, None]).sum(-1)).mean(1)
        change = (weights * (x - x0[:, None]).abs()).sum(-1).mean(1) / (x.shape[-1] - 1)
        apart = (weights * (x[:, :, None] - x[:, None]).abs()).sum(-1)  # (n, J, J)
        one_hot = sum(((x[..., group].sum(-1) - 1) ** 2).sum(1) for group in groups)
        # hinge + 0.5 proximity - 1.0 diversity + 0.1 (each category's shares sum to 1)
        return hinge + 0.5 * change - 1.0 * diversity(x, apart) + 0.1 * one_hot

    return _descend(loss, x0[:, None] + offset, lambda x: x, steps, lambda step: rate * (1 - step / steps))


def copa(
    x0: Tensor, mean: Tensor, cov: Tensor, n_points: int, robust: float | Tensor, diverse: float | Tensor,
    generator: torch.Generator, *, steps: int = 1000, rate: float = 0.005,
) -> Tensor:  # fmt: skip
    """COPA: plans (n, J, d) for people x0 (n, d) from moments mean (n, d), cov (n, d, d); x in [0, 1].

    robust and diverse, one number or (n,): lambda_1 of the weakest point's Mahalanobis margin, lambda_2 of the diversity.
    """
    _checked_people(x0, mean)
    start = x0[:, None] + torch.randn(len(x0), n_points, x0.shape[1], generator=generator, dtype=x0.dtype)
    start[..., 0] = 1

    def loss(x: Tensor) -> Tensor:
        spread = torch.einsum("njd,nde,nje->nj", x, cov, x).sqrt()  # ||S^^{1/2} x_j||
        weakest = ((x * mean[:, None]).sum(-1) / spread).amin(1)
        # mean_j ||x_j - x_0|| - lambda_1 min_j mu^'x_j / ||S^^{1/2} x_j|| - lambda_2 diversity
        return (x - x0[:, None]).norm(dim=-1).mean(1) - robust * weakest - diverse * diversity(x)

    return _descend(loss, project(start, mean[:, None]), lambda x: project(x, mean[:, None]), steps, lambda step: rate)


def _descend(loss, x: Tensor, back, steps: int, rate) -> Tensor:
    """Adam on plans x (n, J, d), each for itself; after every step `back` and clipping to [0, 1]; the leading 1 stays."""
    x = x.clone().requires_grad_()
    adam = torch.optim.Adam([x], fused=True)
    for step in range(steps):
        adam.param_groups[0]["lr"] = rate(step)
        (x.grad,) = torch.autograd.grad(loss(x).sum(), x)  # a sum over people: each gets its own gradient
        x.grad[..., 0] = 0
        adam.step()
        with torch.no_grad():
            x[:] = back(x).clip(0, 1)
    return x.detach()


def _checked_people(x0: Tensor, theta: Tensor) -> None:
    if x0.ndim != 2 or not torch.isfinite(x0).all() or not (x0[:, 0] == 1).all():
        raise ValueError("x0 must be finite, of shape (n, d), with a leading column of 1")
    if theta.shape != x0.shape or not torch.isfinite(theta).all():
        raise ValueError(f"the models must be finite, one a person, of shape {tuple(x0.shape)}, not {tuple(theta.shape)}")
