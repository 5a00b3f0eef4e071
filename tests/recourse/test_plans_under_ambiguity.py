"""COPA: bounds against closed forms and the paper's own programs, pushes on known geometry, searches on known optima."""

import os

import cvxpy as cp
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.optimize import minimize, nnls

from replications.recourse.plans_under_ambiguity import method
from shared import data, seeding
from shared.data import copa_tabular
from shared.place import ROOT


def case(d: int = 6, n_points: int = 3, seed: int = 0, spread: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A plan that the mean accepts, and moments."""
    rng = seeding.rng(seed, "test")
    mean, root = 2 * rng.normal(size=d), spread * rng.normal(size=(d, d))
    plan = np.insert(rng.random((n_points, d - 1)), 0, 1.0, axis=1)
    return method.project(plan, mean, 0.6), mean, root @ root.T + 0.01 * np.eye(d)


# ---------------------------------------------------------------- models


def test_fit_is_gradient_descent_on_the_seen_rows():
    rng = seeding.rng(1)
    x, y = np.insert(rng.normal(size=(30, 2)), 0, 1, axis=1), np.arange(30) % 2
    seen = method.stratified_shares(y, 3, rng)
    start = method.fit(x, y, seen, seeding.rng(2), steps=0)
    assert start.shape == (3, 3) and np.abs(start).max() <= 2**-0.5 and np.abs(start).max() > 0.3
    fitted = method.fit(x, y, seen, seeding.rng(2), steps=4, rate=0.1, decay=0.5)
    for theta, rows, wanted in zip(start, seen, fitted, strict=True):
        for _ in range(4):
            p = 1 / (1 + np.exp(-x[rows] @ theta))
            theta = theta - 0.1 * ((p - y[rows]) @ x[rows] + 0.5 * theta)
        assert np.allclose(theta, wanted)


def test_stratified_shares():
    y = np.r_[np.zeros(10, int), np.ones(30, int)]
    seen = method.stratified_shares(y, 5, seeding.rng(0), 0.5)
    assert (seen[:, y == 0].sum(1) == 5).all() and (seen[:, y == 1].sum(1) == 15).all()
    assert len({tuple(row) for row in seen}) == 5
    with pytest.raises(ValueError, match="both classes"):
        method.stratified_shares(np.ones(4, int), 2, seeding.rng(0))


def test_moments():
    thetas = seeding.rng(0).normal(size=(50, 3))
    mean, cov = method.moments(thetas, 1.5)
    centred = thetas - thetas.mean(0)
    assert np.allclose(mean, thetas.mean(0))
    assert np.allclose(cov, 1.5 * centred.T @ centred / 49 + 1e-6 * np.eye(3))


def test_validity_is_joint():
    plan, thetas = np.eye(2), np.array([[1.0, 1], [1, -1], [-1, 1], [0, 2]])
    assert method.validity(plan, thetas) == 0.5  # each point alone is accepted by 3 of 4
    assert method.validity(plan, thetas, edge=1e-6) == 0.25
    assert method.validity(plan, thetas, weights=np.array([1, 0, 0, 3])) == 1


def test_gelbrich_of_commuting_covariances():
    a, b, mean = np.array([1.0, 4, 9]), np.array([4.0, 1, 1]), np.array([3.0, 0, 0])
    known = np.sqrt(9 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum())
    assert method.gelbrich(np.zeros(3), np.diag(a), mean, np.diag(b)) == pytest.approx(known)
    turn, _ = np.linalg.qr(seeding.rng(0).normal(size=(3, 3)))
    assert method.gelbrich(np.zeros(3), turn @ np.diag(a) @ turn.T, turn @ mean, turn @ np.diag(b) @ turn.T) == pytest.approx(known)
    assert method.gelbrich(mean, np.diag(a), mean, np.diag(a)) == pytest.approx(0, abs=1e-6)


def test_gelbrich_of_a_linear_map():
    """The optimal map between Gaussians is linear: theta -> A theta with A positive definite."""
    _, mean, cov = case()
    stretch = np.eye(6) + 0.1 * np.ones((6, 6))
    known = np.sqrt(np.trace((stretch - np.eye(6)) @ cov @ (stretch - np.eye(6))))
    assert method.gelbrich(mean, cov, mean, stretch @ cov @ stretch) == pytest.approx(known)


# ---------------------------------------------------------------- bounds


@pytest.mark.parametrize("rho", [0, 0.05, 0.3])
def test_bounds_of_one_point(rho):
    plan, mean, cov = case(n_points=1)
    m, s = (plan @ mean)[0], np.sqrt(plan[0] @ cov @ plan[0])
    angle = np.arctan2(m, s) - np.arcsin(rho * np.linalg.norm(plan) / np.hypot(m, s))
    known = np.sin(max(angle, 0)) ** 2
    assert 0.01 < known < 0.99
    assert method.lower_bound(plan, mean, cov, rho).value == pytest.approx(known, abs=1e-5)
    assert method.upper_bound(plan, -mean, cov, rho).value == pytest.approx(1 - known, abs=1e-5)
    assert method.upper_bound(plan, mean, cov, rho).value == pytest.approx(1, abs=1e-5)


def test_upper_bound_is_marshall_and_olkins():
    """1 / (1 + squared Mahalanobis distance of the mean from Theta), by non-negative least squares (Lawson & Hanson)."""
    plan, mean, cov = case(seed=3)
    mean = -mean
    root = np.linalg.cholesky(cov)
    e = np.vstack([(plan @ root).T, -(plan @ mean)])  # min ||u|| with plan (mean + root u) >= 0
    f = np.r_[np.zeros(6), 1]
    r = f - e @ nnls(e, f)[0]
    squared = ((r[:-1] / r[-1]) ** 2).sum()
    assert method.upper_bound(plan, mean, cov, 0).value == pytest.approx(1 / (1 + squared), abs=1e-5)


def papers_lower(plan, mean, cov, rho):
    """The paper's program for L*, in all d dimensions; also the masses."""
    d = len(mean)
    mu, second, sigma = cp.Variable((d, 1)), cp.Variable((d, d), PSD=True), cp.Variable((d, d), PSD=True)
    c, parts = cp.Variable((d, d)), [cp.Variable((d + 1, d + 1), PSD=True) for _ in plan]
    corner = np.ones((1, 1))
    rules = [-x @ part[:d, d] >= 0 for x, part in zip(plan, parts, strict=True)]
    rules += [cp.bmat([[second, mu], [mu.T, corner]]) - sum(parts) >> 0]
    rules += [mean @ mean - 2 * mean @ mu[:, 0] + cp.trace(second + cov - 2 * c) <= rho**2]
    rules += [cp.bmat([[sigma, c], [c.T, cov]]) >> 0, cp.bmat([[second - sigma, mu], [mu.T, corner]]) >> 0]
    problem = cp.Problem(cp.Minimize(1 - sum(part[d, d] for part in parts)), rules)
    problem.solve(solver=cp.CLARABEL)
    return problem.value, [part.value[d, d] for part in parts]


def papers_upper(plan, mean, cov, rho):
    """The paper's program for U*, a dual, in all d dimensions."""
    d, root = len(mean), sqrtm(cov).real
    g, q, z0 = cp.Variable(nonneg=True), cp.Variable((1, 1), nonneg=True), cp.Variable((1, 1))
    z, big_z, big_q, k = (
        cp.Variable((d, 1)),
        cp.Variable((d, d), PSD=True),
        cp.Variable((d, d), PSD=True),
        cp.Variable(len(plan), nonneg=True),
    )
    half = cp.reshape(plan.T @ k / 2, (d, 1), order="C")
    rules = [cp.bmat([[g * np.eye(d) - big_z, g * root], [g * root, big_q]]) >> 0]
    rules += [cp.bmat([[g * np.eye(d) - big_z, g * mean[:, None] + z], [g * mean[None] + z.T, q]]) >> 0]
    rules += [cp.bmat([[big_z, z], [z.T, z0]]) >> 0, cp.bmat([[big_z, z - half], [(z - half).T, z0 - 1]]) >> 0]
    value = z0[0, 0] + g * (rho**2 - mean @ mean - np.trace(cov)) + q[0, 0] + cp.trace(big_q)
    problem = cp.Problem(cp.Minimize(value), rules)
    problem.solve(solver=cp.CLARABEL)
    return problem.value


@pytest.mark.parametrize(("d", "n_points", "rho"), [(6, 3, 0.1), (6, 3, 0.4), (3, 5, 0.2)])
def test_bounds_against_the_papers_programs(d, n_points, rho):
    plan, mean, cov = case(d, n_points, seed=5, spread=0.2)
    ours = method.lower_bound(plan, mean, cov, rho)
    value, masses = papers_lower(plan, mean, cov, rho)
    assert 0.02 < value < 0.98
    assert ours.value == pytest.approx(value, abs=1e-4)
    assert np.allclose(ours.masses, masses, atol=1e-3)
    refused = method.project(plan, mean, 0) - 0.3 * np.insert(mean[1:] / np.linalg.norm(mean[1:]), 0, 0)
    assert method.upper_bound(refused, mean, cov, rho).value == pytest.approx(papers_upper(refused, mean, cov, rho), abs=1e-4)


@pytest.mark.parametrize("rho", [0, 0.2])
def test_extremal_distributions_attain_the_bounds(rho):
    plan, mean, cov = case()
    q, _ = np.linalg.qr(plan.T)
    for bound, side, edge in ((method.lower_bound, 1, 1e-5), (method.upper_bound, -1, -1e-5)):
        found = bound(plan, side * mean, cov, rho)
        assert 0.02 < found.value < 0.98
        assert found.weights.sum() == pytest.approx(1, abs=1e-6) and (found.weights >= 0).all()
        at = found.weights @ found.atoms
        centred = (found.atoms - at) @ q
        distance = method.gelbrich(q.T @ at, (found.weights * centred.T) @ centred, side * q.T @ mean, q.T @ cov @ q)
        assert distance == pytest.approx(rho, abs=1e-3)
        assert method.validity(plan, found.atoms, found.weights, edge) == pytest.approx(found.value, abs=1e-5)


def test_masses_name_the_weak_points():
    plan, mean, cov = case(n_points=4, seed=1)
    plan = method.margin_push(plan, mean, 0.3)
    plan[2] = method.margin_push(plan[2:3], mean, -0.25)[0]
    bound = method.lower_bound(plan, mean, cov, 0.01)
    assert bound.masses.argmax() == 2
    assert bound.value == pytest.approx(1 - bound.masses.sum(), abs=1e-6)


def test_the_compiled_program_forgets_the_last_plan():
    first, mean, cov = case()
    before = method.lower_bound(first, mean, cov, 0.1).value
    method.lower_bound(*case(seed=7), 0.3)
    assert method.lower_bound(first, mean, cov, 0.1).value == pytest.approx(before, abs=1e-7)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda p, m, c: (p[:, 1:], m, c), "plan must be finite"),
        (lambda p, m, c: (2 * p, m, c), "leading column of 1"),
        (lambda p, m, c: (p, m * np.nan, c), "mean must be finite"),
        (lambda p, m, c: (p, m, c - 10 * np.eye(6)), "positive definite"),
        (lambda p, m, c: (p, m, c + np.triu(np.ones((6, 6)), 1)), "symmetric"),
    ],
)
def test_bad_moments(change, told):
    plan, mean, cov = change(*case())
    with pytest.raises(ValueError, match=told):
        method.lower_bound(plan, mean, cov, 0.1)
    with pytest.raises(ValueError, match=told):
        method.mahalanobis_push(plan, mean, cov, 0.1)


def test_negative_radius():
    with pytest.raises(ValueError, match="rho"):
        method.upper_bound(*case(), -0.1)


def test_solver_statuses_are_told_apart(monkeypatch):
    x = cp.Variable()
    with pytest.raises(method.SolverFailed, match="the bound is infeasible"):
        method._solve(cp.Problem(cp.Minimize(x), [x >= 1, x <= 0]), "the bound")
    with pytest.raises(method.SolverFailed, match="unbounded"):
        method._solve(cp.Problem(cp.Minimize(x), [x <= 0]), "the bound")
    for status, told in (("optimal_inaccurate", "not solved accurately"), ("infeasible_inaccurate", "is infeasible")):
        monkeypatch.setattr(cp.Problem, "status", status)
        with pytest.raises(method.SolverFailed, match=told):
            method._solve(cp.Problem(cp.Minimize(x), [x >= 0]), "the bound")


# ---------------------------------------------------------------- corrections


def test_projection():
    points = np.array([[1.0, 0.1, 0.2], [1.0, 0.9, 0.9]])
    mean = np.array([-1.0, 2.0, 1.0])
    moved = method.project(points, mean, 0.1)
    assert moved @ mean == pytest.approx([0.1, points[1] @ mean])
    assert np.array_equal(moved[1], points[1]) and moved[0, 0] == 1
    assert np.linalg.matrix_rank(np.stack([moved[0, 1:] - points[0, 1:], mean[1:]])) == 1
    batch = method.project(torch.tensor(points)[None], torch.tensor(mean))
    assert np.allclose(batch[0].numpy(), moved) and points[0, 1] == 0.1


def test_mahalanobis_push_is_optimal():
    plan, mean, cov = case(seed=4)
    pushed = method.mahalanobis_push(plan, mean, cov, 0.2)
    for x, y in zip(plan, pushed, strict=True):

        def ratio(step, x=x):
            x = x + np.insert(step * 0.2 / max(1, np.linalg.norm(step)), 0, 0)
            return -(x @ mean) / np.sqrt(x @ cov @ x)

        start = np.append(mean[1:], 0)[: len(x) - 1] / np.linalg.norm(mean)
        best = minimize(ratio, start, method="Nelder-Mead", options={"maxiter": 3000, "xatol": 1e-7, "fatol": 1e-9}).fun
        assert (y @ mean) / np.sqrt(y @ cov @ y) == pytest.approx(-best, abs=1e-4)
        assert y[0] == pytest.approx(1) and np.linalg.norm(y - x) <= 0.2 + 1e-6


def test_mahalanobis_push_stops_where_it_is_best():
    """With a covariance that only the intercept has, sqrt(x'Sx) is constant: the push goes along the weights."""
    plan, mean, _ = case()
    cov = np.diag([1.0, *np.full(5, 1e-9)])
    assert np.allclose(method.mahalanobis_push(plan, mean, cov, 0.1), method.margin_push(plan, mean, 0.1), atol=1e-3)


def test_mahalanobis_push_wants_an_accepted_plan():
    plan, mean, cov = case()
    with pytest.raises(ValueError, match="project it first"):
        method.mahalanobis_push(plan, -mean, cov, 0.1)


def test_other_pushes_go_as_far():
    plan, mean, _ = case(n_points=50)
    margin, random = method.margin_push(plan, mean, 0.2), method.random_push(plan, mean, 0.2, seeding.rng(0))
    for pushed in (margin, random):
        assert np.linalg.norm(pushed - plan, axis=1) == pytest.approx(0.2)
        assert (pushed[:, 0] == 1).all()
    assert (margin - plan) @ mean == pytest.approx(0.2 * np.linalg.norm(mean[1:]))
    assert (random @ mean >= 0).all()
    low = method.project(plan * [1, 0, 0, 0, 0, 0], mean, 0.01)
    assert (method.random_push(low, mean, 0.2, seeding.rng(0)) @ mean >= 0).sum() > 45  # refused ones were turned round


def test_correct_replaces_the_weakest():
    plan, pushed = np.zeros((4, 2)), np.ones((4, 2))
    corrected = method.correct(plan, pushed, np.array([0.1, 0.4, 0.0, 0.3]), 2)
    assert corrected[:, 0].tolist() == [0, 1, 0, 1]
    assert plan.sum() == 0
    assert np.array_equal(method.correct(plan, pushed, np.arange(4), 0), plan)


# ---------------------------------------------------------------- searches


def test_proximity_and_diversity():
    plan = np.array([[1.0, 0, 0], [1, 3, 4]])
    assert method.proximity(plan, plan[0]) == pytest.approx(2.5)
    assert method.proximity(plan[None], plan[:1]).shape == (1,)
    known = 1.0001**2 - (1 / 6) ** 2
    assert method.diversity(torch.tensor(plan)[None]).item() == pytest.approx(known)
    apart = torch.tensor([[[0.0, 1], [1, 0]]], dtype=torch.float64)
    assert method.diversity(torch.tensor(plan)[None], apart).item() == pytest.approx(1.0001**2 - 0.25)


def test_mad_weights():
    x = np.array([[1, 0.0, 0, 1], [1, 0.1, 0, 0], [1, 0.4, 0, 0]])
    weights = method.mad_weights(x, np.array([False, True, True, False]))
    assert weights == pytest.approx([0, 1 / 0.1, 1, 1])


def people(n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    x0 = np.insert(0.3 * seeding.rng(0).random((n, 3)), 0, 1, axis=1)
    return torch.tensor(x0), torch.tensor([[-4.0, 3.0, 4.0, 1.0]], dtype=torch.float64).expand(n, -1)


def test_dice_of_one_point():
    """One point has a constant diversity: it stops at a logit of 1, or at the margin that is asked for."""
    x0, theta = people()
    weights = torch.tensor([0.0, 1, 1, 1], dtype=torch.float64)
    found = method.dice(x0, theta, 1, weights, [])
    assert torch.allclose((found[:, 0] * theta).sum(-1), torch.tensor(1.0, dtype=torch.float64), atol=0.02)
    farther = method.dice(x0, theta, 1, weights, [], margin=torch.tensor([0.0, 0.5, 1.0, 2.0]))
    assert torch.allclose((farther[:, 0] * theta).sum(-1), torch.tensor([0, 0.5, 1, 2], dtype=torch.float64), atol=0.02)
    dear = torch.tensor([0.0, 1, 60, 60], dtype=torch.float64)
    other = method.dice(x0, theta, 1, dear, [])
    assert torch.allclose(other[:, 0, 2:], x0[:, 2:], atol=0.03)  # the cheap feature alone


def dice_loss(x, x0, theta, weights, groups):
    """DiCE's objective for one plan, in loops as in dice-ml."""
    n, d = len(x), len(x0) - 1
    hinge = sum(max(0, 1 - float(p @ theta)) for p in x) / n
    change = sum(float((weights * abs(p - x0)).sum()) for p in x) / (n * d)
    kernel = np.array(
        [[1 / (1 + float((weights * abs(p - q)).sum())) + 1e-4 * (i == k) for k, q in enumerate(x)] for i, p in enumerate(x)]
    )
    one_hot = sum((float(p[g].sum()) - 1) ** 2 for p in x for g in groups)
    return hinge + 0.5 * change - np.linalg.det(kernel) + 0.1 * one_hot


@pytest.fixture
def descents(monkeypatch) -> list:
    """What the searches hand to the descent: (objective, start, way back, steps, rate)."""
    seen = []
    monkeypatch.setattr(method, "_descend", lambda *arguments: seen.append(arguments))
    return seen


def test_the_objective_of_dice(descents):
    x0, theta = people()
    weights, groups = np.array([0.0, 2, 1, 3]), [[1, 3]]
    method.dice(x0, theta, 3, torch.tensor(weights), groups)
    objective, start, *_ = descents[0]
    assert torch.allclose(start[:, :, 1:] - x0[:, None, 1:], 0.01 * torch.arange(3)[:, None].double())
    plans = torch.cat([torch.ones(4, 3, 1), torch.rand(4, 3, 3, generator=seeding.torch_rng(0))], dim=-1).double()
    for value, x, person in zip(objective(plans), plans.numpy(), x0.numpy(), strict=True):
        assert value.item() == pytest.approx(dice_loss(x, person, theta[0].numpy(), weights, groups))


def copa_loss(x, x0, mean, cov, robust, diverse):
    near = np.mean([np.linalg.norm(p - x0) for p in x])
    weakest = min(p @ mean / np.linalg.norm(sqrtm(cov).real @ p) for p in x)
    kernel = np.array([[1 / (1 + np.linalg.norm(p - q)) + 1e-4 * (i == k) for k, q in enumerate(x)] for i, p in enumerate(x)])
    return near - robust * weakest - diverse * np.linalg.det(kernel)


def test_the_objective_of_copa(descents):
    x0, mean = people()
    cov = np.diag([0.5, 0.3, 2.0, 0.1]) + 0.05
    robust, diverse = torch.tensor([0.2, 0.5, 1.0, 0.0]), torch.tensor([2.0, 5.0, 10.0, 1.0])
    method.copa(x0, mean, torch.tensor(cov).expand(4, -1, -1), 3, robust, diverse, seeding.torch_rng(0))
    objective, start, back, *_ = descents[0]
    assert ((start * mean[:, None]).sum(-1) >= 0.1 - 1e-9).all() and (start[..., 0] == 1).all()
    plans = torch.cat([torch.ones(4, 3, 1), torch.rand(4, 3, 3, generator=seeding.torch_rng(0))], dim=-1).double()
    assert torch.allclose(back(plans), method.project(plans, mean[:, None]))
    for value, x, person, a, b in zip(objective(plans), plans.numpy(), x0.numpy(), robust, diverse, strict=True):
        assert value.item() == pytest.approx(copa_loss(x, person, mean[0].numpy(), cov, float(a), float(b)))


def test_descent_keeps_the_intercept_the_box_and_the_way_back():
    goal = torch.tensor([5.0, 2.0, 0.3, -1.0], dtype=torch.float64)
    start = torch.rand(2, 3, 4, generator=seeding.torch_rng(0), dtype=torch.float64)
    start[..., 0] = 1

    def squared(x):
        return ((x - goal) ** 2).sum((1, 2))

    found = method._descend(squared, start, lambda x: x, 600, lambda step: 0.02 * (1 - step / 600))
    assert torch.allclose(found, torch.tensor([1, 1, 0.3, 0], dtype=torch.float64).expand_as(found), atol=1e-3)
    held = method._descend(squared, start, lambda x: x.clip(max=0.8), 600, lambda step: 0.02)
    assert held.max() == 0.8


def test_people_do_not_influence_one_another():
    x0, theta = people()
    weights, cov = torch.ones(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    together = method.dice(x0, theta, 2, weights, [], steps=50)
    assert torch.allclose(together[2:3], method.dice(x0[2:3], theta[:1], 2, weights, [], steps=50))
    together = method.copa(x0, theta, cov.expand(4, -1, -1), 4, 0.1, 1.0, seeding.torch_rng(0), steps=50)
    alone = method.copa(x0[:1], theta[:1], cov[None], 4, 0.1, 1.0, seeding.torch_rng(0), steps=50)  # the same 16 first draws
    assert torch.allclose(together[:1], alone)


def test_bad_people():
    x0, theta = people()
    with pytest.raises(ValueError, match="leading column of 1"):
        method.dice(2 * x0, theta, 2, torch.ones(4), [])
    with pytest.raises(ValueError, match="one a person"):
        method.copa(x0, theta[:1], torch.eye(4).expand(4, -1, -1), 2, 1.0, 1.0, seeding.torch_rng(0))


def test_bad_rows():
    x, y, seen = np.ones((4, 2)), np.array([0, 1, 0, 1]), np.ones((2, 4), bool)
    with pytest.raises(ValueError, match="finite"):
        method.fit(x * np.nan, y, seen, seeding.rng(0))
    with pytest.raises(ValueError, match="y and seen"):
        method.fit(x, y, seen[:, :3], seeding.rng(0))


# ---------------------------------------------------------------- data


def test_the_extract_of_the_student_data():
    """The ranges are UCI's; a filled-in class mean would not be a whole number."""
    pupils = pd.read_csv(ROOT / "replications/recourse/plans_under_ambiguity/data/student_portuguese.csv.gz")
    assert pupils.school.value_counts().to_dict() == {"GP": 423, "MS": 226}
    assert not pupils.isna().any().any()
    numbers = pupils.select_dtypes("number")
    assert all(dtype.kind == "i" for dtype in numbers.dtypes) and numbers.shape[1] == 11
    assert numbers[["G1", "G2"]].to_numpy().max() <= 20 and set(pupils.passed) == {0, 1}
    assert pupils.groupby("school").passed.sum().to_dict() == {"GP": 268, "MS": 80}


@pytest.mark.parametrize(("name", "rows", "columns"), [("german", (1000, 1000), 9), ("sba", (943, 1159), 11)])
def test_the_papers_own_data(name, rows, columns):
    if not os.environ.get("REPLICATIONS_DATA"):
        pytest.skip("REPLICATIONS_DATA is not set: the paper's own data are not here")
    tables = copa_tabular.load(name)
    assert tuple(len(features) for features, _ in tables) == rows
    for features, y in tables:
        assert features.shape[1] == columns and len(y) == len(features) and set(y) == {0, 1}
        assert not features.isna().any().any()
    if name == "sba":
        good = [y.mean() for _, y in tables]
        assert good[0] == pytest.approx(443 / 943) and good[1] == pytest.approx(973 / 1159)  # loans paid in full


def test_unknown_table_of_the_paper():
    with pytest.raises(data.DataError, match="'adult' is not one of german, sba"):
        copa_tabular.load("adult")
