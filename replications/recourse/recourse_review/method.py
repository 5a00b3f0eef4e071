"""Counterfactual explanations and algorithmic recourses: a review (Verma et al. 2020): its classic methods, and a bench for all.

A method is called with a problem, refused people x (n, d) and a generator, and answers (n, k, d), k answers a person, in the
encoded space of `shared.recourse`; a row of NaN means that none was found. It sees the training table and the model, never
the hold-out rows, the retrained models or the measures. To add one to the bench is one line of `ENTRIES`.
"""

from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property, partial
from io import StringIO
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial.distance import cdist
from scipy.special import expit, logit
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor

from replications.recourse.contextual_optimization import method as optimization
from replications.recourse.design_counterfactuals.method import mcd
from replications.recourse.plans_under_ambiguity import method as plans
from replications.recourse.robust_network_recourse import method as networks
from replications.recourse.scorecard_counterfactuals import method as scorecards
from replications.recourse.t_col.method import METHODS as T_COL
from shared.recourse import measures
from shared.recourse.problem import Model, Problem, snap
from shared.recourse.table import Array, Feature, Table

Generator = np.random.Generator
Kind = Literal["linear", "net", "forest", "scorecard"]
KINDS: tuple[Kind, ...] = ("linear", "net", "forest", "scorecard")


# ---------------------------------------------------------------- the models


def fit(
    kind: Kind, table: Table, copies: int, rng: Generator, *, left_out: float = 0.1, trees: int = 20, epochs: int = 15
) -> list[Model]:
    """`copies` models of one kind, each trained from its own seed on its own random rows, a share `left_out` missing.

    linear: logistic regression; net: ReLU 64-64; forest: depth 6, at least 5 rows a leaf; scorecard: ten binned features.
    Raises ValueError for an unknown kind or a table of one class.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    if len(np.unique(table.y)) < 2:
        raise ValueError(f"table {table.name} holds one class only")
    n = len(table.X)
    seen = np.stack([rng.permutation(n)[: round((1 - left_out) * n)] for _ in range(copies)])  # (copies, rows)
    seeds = rng.integers(2**31, size=copies)
    if kind == "net":
        generator = torch.Generator().manual_seed(int(seeds[0]))
        both = networks.train(_tensor(table.X), _tensor(table.y), torch.as_tensor(seen), generator, epochs=epochs)
        return [differentiable(both.one(i), "net") for i in range(copies)]
    one = {"linear": _linear, "forest": partial(_forest, trees=trees), "scorecard": _scorecard}[kind]
    return [one(table.rows(rows), int(seed)) for rows, seed in zip(seen, seeds, strict=True)]


def differentiable(m: Callable[[Tensor], Tensor], kind: Kind) -> Model:
    """A model from a function of tensors (..., d) -> score (...), which it keeps as `inside`."""

    def predict(x: Array) -> Array:
        with torch.no_grad():
            return m(_tensor(x)).numpy().astype(float)

    def gradient(x: Array) -> Array:
        z = _tensor(x).requires_grad_()
        return torch.autograd.grad(m(z).sum(), z)[0].numpy().astype(float)

    return Model(predict, gradient, kind=kind, inside=m)


def _linear(table: Table, seed: int) -> Model:
    fitted = LogisticRegression(max_iter=1000).fit(table.X, table.y)
    w, b = _tensor(fitted.coef_[0]), float(fitted.intercept_[0])
    return differentiable(lambda z: torch.sigmoid(z @ w + b), "linear")


def _forest(table: Table, seed: int, trees: int) -> Model:
    fitted = RandomForestClassifier(trees, max_depth=6, min_samples_leaf=5, random_state=seed).fit(table.X, table.y)
    return Model(lambda x: fitted.predict_proba(x)[:, 1], kind="forest", inside=fitted)


def _scorecard(table: Table, seed: int, n_features: int = 10) -> Model:
    frame = _levels(table, table.X)
    bins = [scorecards.fit_bins(frame[name], table.y) for name in frame]
    told = [scorecards.information_value(b, frame[b.name], table.y) for b in bins]
    best = np.sort(np.argsort(told)[::-1][:n_features])
    bins = [bins[i] for i in best if told[i] > 0]  # a feature of one bin tells nothing
    card = scorecards.fit_scorecard(bins, frame, table.y)
    return Model(lambda x: expit(card.score(card.codes(_levels(table, x)))), kind="scorecard", inside=card)


def _levels(table: Table, x: Array) -> pd.DataFrame:
    """Rows x (n, d), a category as its level, all else as it is encoded: what a scorecard's bins are cut on."""
    columns = {}
    for f in table.features:
        block = x[:, f.columns]
        columns[f.name] = np.array(f.levels, dtype=object)[block.argmax(1)] if f.kind == "onehot" else block[:, 0]
    return pd.DataFrame(columns)


def _tensor(x: Array) -> Tensor:
    return torch.tensor(x, dtype=torch.float32)


# ---------------------------------------------------------------- what the searches share


def _counted(model: Model) -> Callable[[Tensor], Tensor]:
    """A differentiable model as a function of tensors (..., d) -> (...) that counts each row as a call."""

    def m(z: Tensor) -> Tensor:
        model.calls += z[..., 0].numel()
        return model.inside(z)

    return m


def _unit(table: Table) -> Array:
    """What a change of 1 in each column costs, (d,), so that the sum is `measures.cost`: half for the two of a category."""
    unit = np.empty(table.X.shape[1])
    for f, spread in zip(table.features, table.spread, strict=True):
        unit[f.columns] = 0.5 if f.kind == "onehot" else 1 / spread
    return unit


def _nearest_accepted(problem: Problem, x: Array, z: Array) -> Array:
    """Of candidates z (n, m, d), made real for each person x (n, d), the cheapest that the model accepts; (n, 1, d)."""
    if z.shape[1] == 0:
        return np.full((len(x), 1, x.shape[1]), np.nan)
    z = problem.table.project(z, x)
    cost = np.where(problem.accepts(z), measures.cost(problem.table, x, z), np.inf)  # (n, m)
    best = z[np.arange(len(x)), cost.argmin(1)]
    best[np.isinf(cost.min(1))] = np.nan
    return best[:, None]


def revert(problem: Problem, x: Array, z: Array, threshold: float | Array) -> Array:
    """Features of answers z (n, k, d) back to the person's own, smallest change first, where the score stays >= threshold."""
    z, start = z.copy(), np.broadcast_to(x[:, None], z.shape)
    goal = np.broadcast_to(np.reshape(threshold, (-1, 1)), z.shape[:2])  # (n, k)
    unit = _unit(problem.table)
    steps = [(np.abs(z - start) * unit)[..., f.columns].sum(-1) for f in problem.table.features]
    order = np.argsort(steps, axis=0)  # (p, n, k)
    of_column = np.repeat(np.arange(len(steps)), [f.width for f in problem.table.features])  # (d,)
    for feature in order:
        tried = np.where(of_column == feature[..., None], start, z)
        changed = (tried != z).any(-1) & np.isfinite(z).all(-1)
        kept = np.zeros(changed.shape, dtype=bool)
        if changed.any():
            kept[changed] = problem.model.score(tried[changed]) >= goal[changed]
        z[kept] = tried[kept]
    return z


# ---------------------------------------------------------------- classics that follow a gradient


def wachter_search(
    problem: Problem, x: Array, threshold: float | Array, *, steps: int = 30, rate: float = 0.03, rounds: int = 18
) -> Array:
    """Wachter et al. 2018: points (n, 1, d) by Adam from x; NaN where the score is never reached.

    lambda is doubled from 1 until the score is reached, then lowered by a fifth at a time; the last point that reaches it counts.
    """
    m, person, goal = _counted(problem.model), _tensor(x), _tensor(threshold)
    unit, (low, high) = _tensor(_unit(problem.table)), _tensor(problem.table.movable(x))
    z = person.clone()
    found, weight = torch.full_like(z, torch.nan), torch.ones(len(x))
    for _ in range(rounds):
        z.requires_grad_()
        adam = torch.optim.Adam([z], fused=True)
        for step in range(steps):
            adam.param_groups[0]["lr"] = rate * (1 - step / steps)
            # lambda (f(x') - y')^2 + sum_j |x'_j - x_j| / MAD_j
            loss = weight * (m(z) - 1) ** 2 + ((z - person).abs() * unit).sum(-1)
            (z.grad,) = torch.autograd.grad(loss.sum(), z)
            adam.step()
            with torch.no_grad():
                z[:] = z.clamp(low, high)
        z = z.detach()
        reached, before = m(z).detach() >= goal, found.isfinite().all(1)
        if (before & ~reached).all():
            break
        found[reached] = z[reached]
        weight = torch.where(reached, 0.8 * weight, torch.where(before, weight, 2 * weight))
    return found.numpy().astype(float)[:, None]


def wachter(problem: Problem, x: Array, rng: Generator) -> Array:
    """Wachter's search, made real."""
    return snap(problem, x, lambda people, thresholds: wachter_search(problem, people, thresholds))


def dice_grad(problem: Problem, x: Array, rng: Generator, *, k: int = 3, steps: int = 100, rate: float = 0.05) -> Array:
    """DiCE by gradient (Mothilal et al. 2020): k answers at once, apart from each other, then made sparse; made real."""
    m, unit = _counted(problem.model), _tensor(_unit(problem.table))

    def search(people: Array, thresholds: Array) -> Array:
        goal = _tensor(logit(thresholds))[:, None]
        person = _tensor(people)[:, None]  # (n, 1, d)
        low, high = _tensor(problem.table.movable(people))[:, :, None]
        z = (person + 0.01 * torch.arange(k)[:, None]).clamp(low, high)  # (n, k, d)
        z.requires_grad_()
        adam = torch.optim.Adam([z], fused=True)
        for step in range(steps):
            adam.param_groups[0]["lr"] = rate * (1 - step / steps)
            hinge = torch.relu(1 + goal - torch.logit(m(z), eps=1e-6)).mean(1)
            change = ((z - person).abs() * unit).sum(-1).mean(1) / len(unit)
            apart = ((z[:, :, None] - z[:, None]).abs() * unit).sum(-1)  # (n, k, k)
            # hinge + 0.5 proximity - 1.0 det(1 / (1 + distance))
            loss = hinge + 0.5 * change - plans.diversity(z, apart)
            (z.grad,) = torch.autograd.grad(loss.sum(), z)
            adam.step()
            with torch.no_grad():
                z[:] = z.clamp(low, high)
        return revert(problem, people, z.detach().numpy().astype(float), thresholds)

    return snap(problem, x, search)


def amortised(problem: Problem, x: Array, rng: Generator) -> Array:
    """One generator for everybody, x' = x + g(x), trained on refused training rows and then asked once a person; (n, 1, d).

    Of three weights of validity, the smallest that gives 95 % of held-out refused training rows a real, accepted answer, else
    the largest. Raises ValueError where the model refuses fewer than two training rows.
    """
    table = problem.table
    refused = table.X[~problem.accepts(table.X)]
    if len(refused) < 2:
        raise ValueError("problem.table must hold at least two rows that the model refuses")
    refused = refused[rng.permutation(len(refused))[:1000]]
    held, train = np.split(refused, [max(len(refused) // 5, 1)])
    for weight in (5.0, 20.0, 80.0):
        g = train_generator(problem, train, weight, torch.Generator().manual_seed(int(rng.integers(2**31))))
        if problem.accepts(table.project(g(held), held)).mean() >= 0.95:
            break
    z = table.project(g(x), x)
    z[~problem.accepts(z)] = np.nan
    return z


def train_generator(
    problem: Problem, rows: Array, weight: float, generator: torch.Generator, *, hidden: int = 64, steps: int = 120,
    batch: int = 64, rate: float = 3e-3,
) -> Callable[[Array], Array]:  # fmt: skip
    """A net g, trained on refused rows (m, d), as a function from people (n, d) to points x + g(x) in reach, (n, 1, d)."""
    m, unit, d = _counted(problem.model), _tensor(_unit(problem.table)), rows.shape[1]
    weights = [torch.randn(a, b, generator=generator) * (2 / a) ** 0.5 for a, b in [(d, hidden), (hidden, d)]]
    weights[1] *= 0.01  # starts close to "change nothing"
    parts = [*weights, torch.zeros(hidden), torch.zeros(d)]

    def move(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        into, out, bias, shift = parts
        return (x + torch.relu(x @ into + bias) @ out + shift).clamp(low, high)

    def real(z: Tensor, x: Tensor) -> Tensor:
        """z made real, with the gradient of z: a net that never saw a whole category would only ever change shares of one."""
        rounded = problem.table.project(z.detach().numpy().astype(float)[:, None], x.numpy().astype(float))[:, 0]
        return z + (_tensor(rounded) - z).detach()

    people, bounds = _tensor(rows), _tensor(problem.table.movable(rows))
    for part in parts:
        part.requires_grad_()
    adam = torch.optim.Adam(parts, lr=rate, fused=True)
    for _ in range(steps):
        chosen = torch.randint(len(rows), (batch,), generator=generator)
        x, (low, high) = people[chosen], bounds[:, chosen]
        z = move(x, low, high)
        # weight relu(logit t + 1 - logit f(x')) + sum_j |x'_j - x_j| / MAD_j
        short = torch.relu(logit(problem.threshold) + 1 - torch.logit(m(real(z, x)), eps=1e-6))
        loss = weight * short + ((z - x).abs() * unit).sum(-1)
        adam.zero_grad()
        loss.mean().backward()
        adam.step()

    def g(x: Array) -> Array:
        with torch.no_grad():
            return move(_tensor(x), *_tensor(problem.table.movable(x))).numpy().astype(float)[:, None]

    return g


# ---------------------------------------------------------------- classics that only ask


def spheres_search(
    problem: Problem, x: Array, threshold: float | Array, rng: Generator, *, samples: int = 200, shells: int = 60
) -> Array:
    """Growing spheres (Laugel et al. 2018): the ball is halved until empty of accepted points, then grown shell by shell.

    The closest accepted point of the first shell that has one, then made sparse; (n, 1, d).
    """
    low, high = problem.table.movable(x)
    free = high > low  # (n, d)
    goal = np.broadcast_to(np.reshape(threshold, (-1, 1)), (len(x), 1))

    def closest(who: Array, inner: Array, outer: Array) -> Array:
        """The closest accepted of points drawn between two radii around people `who`, NaN where none is accepted."""
        direction = rng.normal(size=(len(who), samples, x.shape[1])) * free[who, None]
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True).clip(1e-12)
        # uniform in volume: radius^d is uniform between inner^d and outer^d
        d = free[who].sum(1).clip(1)[:, None]
        share = rng.random((len(who), samples))
        radius = outer[:, None] * (share + (1 - share) * (inner / outer)[:, None] ** d) ** (1 / d)
        z = np.clip(x[who, None] + radius[..., None] * direction, low[who, None], high[who, None])
        accepted = problem.model.score(z.reshape(-1, x.shape[1])).reshape(z.shape[:2]) >= goal[who]
        distance = np.where(accepted, np.linalg.norm(z - x[who, None], axis=-1), np.inf)
        best = z[np.arange(len(who)), distance.argmin(1)]
        best[np.isinf(distance.min(1))] = np.nan
        return best

    radius, filled = np.full(len(x), 1.0), np.arange(len(x))
    for _ in range(12):
        hit = np.isfinite(closest(filled, np.zeros(len(filled)), radius[filled])).all(1)
        filled = filled[hit]
        if len(filled) == 0:
            break
        radius[filled] /= 2
    found, empty = np.full_like(x, np.nan), np.arange(len(x))
    for shell in range(1, shells):
        found[empty] = closest(empty, shell * radius[empty], (shell + 1) * radius[empty])
        empty = empty[np.isnan(found[empty]).any(1)]
        if len(empty) == 0:
            break
    return revert(problem, x, found[:, None], threshold)


def growing_spheres(problem: Problem, x: Array, rng: Generator) -> Array:
    """Growing spheres, made real."""
    return snap(problem, x, lambda people, thresholds: spheres_search(problem, people, thresholds, rng))


def nearest(problem: Problem, x: Array, rng: Generator) -> Array:
    """The reference row: the cheapest accepted training row, as far as the person can become it; (n, 1, d)."""
    accepted = problem.table.X[problem.accepts(problem.table.X)]
    return _nearest_accepted(problem, x, np.broadcast_to(accepted, (len(x), *accepted.shape)))


def random_walk(problem: Problem, x: Array, rng: Generator, *, samples: int = 500) -> Array:
    """The floor: the cheapest accepted of random changes of one to six features to values of other people; (n, 1, d)."""
    table = problem.table
    n, p = len(x), len(table.features)
    changed = rng.random((n, samples, p)).argsort(-1) < rng.integers(1, min(6, p) + 1, size=(n, samples, 1))
    z = np.repeat(x[:, None], samples, axis=1)
    for j, f in enumerate(table.features):
        others = table.X[rng.integers(len(table.X), size=(n, samples)), f.columns]  # another person for each feature
        z[..., f.columns] = np.where(changed[..., j, None], others, z[..., f.columns])
    return _nearest_accepted(problem, x, z)


def face(problem: Problem, x: Array, rng: Generator, *, rows: int = 500, k: int = 10, sparse: float = 0.1) -> Array:
    """FACE (Poyiadzi et al. 2020): the accepted training row at the end of the cheapest path through dense regions; (n, 1, d).

    A graph of the k nearest of `rows` training rows and the people, an edge's weight its length times -log of the relative
    density halfway; the `sparse` share of rows in the thinnest regions is no end.
    """
    table, n = problem.table, len(x)
    nodes = table.X[rng.permutation(len(table.X))[:rows]]
    points = np.vstack([x, nodes])
    squared = cdist(points, nodes, "sqeuclidean")  # (n + rows, rows)
    itself = np.eye(len(points), len(nodes), -n, dtype=bool)
    near = np.argsort(np.where(itself, np.inf, squared), axis=1)[:, :k]
    width = np.median(np.take_along_axis(squared, near[:, -1:], axis=1))  # a kernel as wide as the k-th neighbour is far

    def log_density(to_nodes: Array) -> Array:
        return np.log(np.exp(-to_nodes / width / 2).mean(-1) + 1e-300)

    at_nodes = log_density(squared[n:])
    start, end = np.repeat(np.arange(n + len(nodes)), k), near.ravel()
    # |(a + b) / 2 - c|^2 = |a - c|^2 / 2 + |b - c|^2 / 2 - |a - b|^2 / 4
    halfway = (squared[start] + squared[n + end]) / 2 - squared[start, end][:, None] / 4
    length = np.sqrt(squared[start, end])
    weight = length.clip(1e-9) * (1e-3 + np.maximum(at_nodes.max() - log_density(halfway), 0))  # 0 would be no edge
    graph = coo_array((weight, (start, n + end)), shape=(len(points), len(points))).tocsr()
    path = dijkstra(graph.maximum(graph.T), indices=np.arange(n))[:, n:]  # (n, rows)
    z = table.project(np.broadcast_to(nodes, (n, *nodes.shape)), x)
    able = problem.accepts(nodes) & (at_nodes >= np.quantile(at_nodes, sparse))
    path[:, ~able] = np.inf
    path[~problem.accepts(z)] = np.inf
    best = z[np.arange(n), path.argmin(1)]
    best[np.isinf(path.min(1))] = np.nan
    return best[:, None]


# ---------------------------------------------------------------- classics for one kind of model


def ar_linear(problem: Problem, x: Array, rng: Generator, *, grid: int = 8) -> Array:
    """Actionable recourse (Ustun et al. 2019): the least largest percentile shift for a linear model, by integer programming.

    A feature moves to one of `grid` quantiles of the table, a category to any level at a shift of one half. Raises RuntimeError
    when the solver ends with neither an optimum nor a proof that there is none.
    """
    table, (low, high) = problem.table, problem.table.movable(x)
    w, b = _line(problem.model, x.shape[1])
    answers = np.full((len(x), 1, x.shape[1]), np.nan)
    for i, person in enumerate(x):
        moved, feature = _actions(table, person, low[i], high[i], grid)  # (a, d), (a,)
        if len(moved) == 0:
            continue
        kinds = np.array([f.kind for f in table.features])[feature]
        shift = np.where(kinds == "onehot", 0.5, measures.shift(table, person[None], moved[None])[0])
        gain = (moved - person) @ w
        member = (feature == np.unique(feature)[:, None]).astype(float)  # (features, a)
        n_actions, n_features = len(moved), len(member)
        # min r + 1e-3 sum_a shift_a v_a  over v binary, r
        cost = np.r_[1e-3 * shift, 1.0]
        rows = [
            LinearConstraint(np.c_[member, np.zeros(n_features)], ub=1),  # one action a feature
            LinearConstraint(np.c_[member * shift, -np.ones(n_features)], ub=0),  # r >= the shift of each feature
            LinearConstraint(np.r_[gain, 0.0][None], lb=logit(problem.threshold) - person @ w - b + 1e-6),
        ]
        found = milp(cost, integrality=np.r_[np.ones(n_actions), 0], bounds=(0, 1), constraints=rows)
        if found.status not in (0, 2):
            raise RuntimeError(f"integer program of person {i}: {found.message}")
        if found.status == 0:
            chosen = found.x[:-1] > 0.5
            answers[i, 0] = person + (moved[chosen] - person).sum(0)
    answers[~problem.accepts(answers)] = np.nan
    return answers


def _line(model: Model, d: int) -> tuple[Array, float]:
    """Weights (d,) and intercept of a linear model's logit."""
    at = logit(model.score(np.vstack([np.zeros(d), np.eye(d)])))
    return at[1:] - at[0], float(at[0])


def _actions(table: Table, person: Array, low: Array, high: Array, grid: int) -> tuple[Array, Array]:
    """All rows (a, d) that differ from a person (d,) in one feature, and which feature (a,)."""
    moved, feature = [], []
    for j, f in enumerate(table.features):
        block = person[f.columns]
        if f.kind == "onehot":
            values = np.eye(f.width)
        else:
            values = np.unique(np.quantile(table.X[:, f.columns], np.linspace(0, 1, grid), method="nearest"))[:, None]
        inside = ((values >= low[f.columns]) & (values <= high[f.columns])).all(1) & (values != block).any(1)
        for value in values[inside]:
            z = person.copy()
            z[f.columns] = value
            moved.append(z)
            feature.append(j)
    return np.array(moved).reshape(-1, len(person)), np.array(feature, dtype=int)


def feature_tweak(problem: Problem, x: Array, rng: Generator, *, inside: float = 1e-4) -> Array:
    """Feature tweaking (Tolomei et al. 2017): the cheapest step into an accepting leaf of one tree that wins the forest."""
    low, high, accepting = _leaves(problem.model.inside, x.shape[1])
    low, high = low[accepting] + inside, high[accepting] - inside  # (leaves, d)
    return _nearest_accepted(problem, x, np.clip(x[:, None], low, high))


def _leaves(forest: RandomForestClassifier, d: int) -> tuple[Array, Array, Array]:
    """Boxes low, high (leaves, d) of all leaves of all trees, and whether most of a leaf's rows are of class 1."""
    boxes = []
    for tree in (fitted.tree_ for fitted in forest.estimators_):
        stack = [(0, np.full(d, -np.inf), np.full(d, np.inf))]
        while stack:
            node, low, high = stack.pop()
            if tree.children_left[node] < 0:
                boxes.append((low, high, tree.value[node, 0].argmax() == 1))
                continue
            f, cut = tree.feature[node], tree.threshold[node]
            below, above = high.copy(), low.copy()
            below[f], above[f] = min(high[f], cut), max(low[f], cut)
            stack += [(tree.children_left[node], low, below), (tree.children_right[node], above, high)]
    low, high, accepting = zip(*boxes, strict=True)
    return np.stack(low), np.stack(high), np.array(accepting)


# ---------------------------------------------------------------- methods of other papers of this repository


def _free(problem: Problem, x: Array) -> Tensor:
    """1 where a column may move, else 0, (n, d)."""
    low, high = problem.table.movable(x)
    return _tensor(high > low)


def _walk(problem: Problem, x: Array, direction: Callable, stop: Callable) -> Array:
    """A walk of robust_network_recourse from Wachter's answer along what may move; `stop(m, path)` -> points (n, d)."""
    m = _counted(problem.model)

    def search(people: Array, thresholds: Array) -> Array:
        start = wachter_search(problem, people, thresholds)[:, 0]
        found = np.isfinite(start).all(1)
        if found.any():
            base, free = _tensor(start[found]), _free(problem, people[found])
            path = networks.walk(m, base, lambda z: free * direction(m)(z))
            start[found] = stop(m, path).detach().numpy()
        return start[:, None]

    return snap(problem, x, search)


def trex(problem: Problem, x: Array, rng: Generator, *, sigma: float = 0.05, tau: float = 0.75, k: int = 50) -> Array:
    """T-Rex:I (Hamman et al. 2023) from Wachter's answer."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    settings = {"sigma": sigma, "tau": tau, "k": k, "generator": generator}
    return _walk(
        problem, x, lambda m: networks.stability_direction(m, sigma, k, generator),
        lambda m, path: networks.stop_when_stable(m, path, **settings),
    )  # fmt: skip


def sns(problem: Problem, x: Array, rng: Generator) -> Array:
    """Stable neighbour search (Black et al. 2022) from Wachter's answer, all its steps."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    return _walk(problem, x, lambda m: networks.sns_direction(m, generator), lambda m, path: path[-1])


def trex_nn(
    problem: Problem, x: Array, rng: Generator, *, sigma: float = 0.05, tau: float = 0.75, k: int = 50, candidates: int = 100
) -> Array:
    """T-Rex:NN: the cheapest of training rows, as far as the person can become them, with relaxed Stability >= tau; (n, 1, d).

    Looked for among the `candidates` cheapest that score at least tau; none where none of them is stable.
    """
    table, m = problem.table, _counted(problem.model)
    noise = torch.randn(k, x.shape[1], generator=torch.Generator().manual_seed(int(rng.integers(2**31))))
    rows = table.X[problem.model.score(table.X) >= tau]
    z = table.project(np.broadcast_to(rows, (len(x), *rows.shape)), x)  # (n, rows, d)
    cheapest = measures.cost(table, x, z).argsort(1)[:, :candidates]
    z = np.take_along_axis(z, cheapest[..., None], axis=1)
    with torch.no_grad():
        stable = networks.relaxed_stability(m, _tensor(z).flatten(0, 1), noise, sigma) >= tau
    z[~stable.numpy().reshape(z.shape[:2])] = np.nan
    return _nearest_accepted(problem, x, z)


def copa(
    problem: Problem, x: Array, rng: Generator, *, k: int = 3, models: int = 20, robust: float = 0.2, diverse: float = 2.0,
    steps: int = 300,
) -> Array:  # fmt: skip
    """COPA (Bui et al. 2022): k answers that differ and lie deep in terms of how a linear model varies; (n, k, d).

    The model is the mean; the covariance is that of `models` regressions, each on half of the rows. What a person may not move
    has no weight and no variance, so that nothing is gained by moving it.
    """
    table, (w, b) = problem.table, _line(problem.model, x.shape[1])
    ones = np.ones((len(table.X), 1))
    seen = plans.stratified_shares(table.y, models, rng)
    cov = plans.moments(plans.fit(np.hstack([ones, table.X]), table.y, seen, rng), widen=1.0)[1]  # (1 + d, 1 + d)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))

    def search(people: Array, thresholds: Array) -> Array:
        low, high = table.movable(people)
        free = high > low  # (n, d)
        start = b + (people * ~free) @ w - logit(thresholds)
        mean = np.hstack([start[:, None], w * free])  # (n, 1 + d)
        mask = np.hstack([np.ones((len(people), 1)), free])
        own = np.hstack([np.ones((len(people), 1)), people])
        found = plans.copa(
            *(torch.as_tensor(v) for v in (own, mean, mask[:, :, None] * cov * mask[:, None])), k, robust, diverse, generator,
            steps=steps, rate=0.02,
        )  # fmt: skip
        return np.where(free[:, None], found.numpy()[..., 1:], people[:, None])

    return snap(problem, x, search)


def forest_nearest(problem: Problem, x: Array, rng: Generator, *, node_limit: int = 200) -> Array:
    """The exact nearest accepted row of a forest (Forel et al. 2023, Parmentier & Vidal 2021), in units of cost; (n, 1, d).

    None where the solver has found none within `node_limit` nodes; the best it knows where that is not proven to be nearest.
    """
    table, trees = problem.table, [fitted.tree_ for fitted in problem.model.inside.estimators_]
    whole = {f.columns.start: int(f.high - f.low) for f in table.features if f.kind == "integer"}
    levels = {column: np.arange(steps + 1) / max(steps, 1) for column, steps in whole.items()}
    groups = [range(f.columns.start, f.columns.stop) for f in table.features if f.kind == "onehot"]
    laid = optimization.forest(trees, x.shape[1], levels=levels, groups=groups)
    votes = np.concatenate([tree.value[leaf >= 0, 0, 1] for tree, leaf in zip(trees, laid.leaf_of, strict=True)])
    answers = np.full((len(x), 1, x.shape[1]), np.nan)
    for i, (person, low, high) in enumerate(zip(x, *table.movable(x), strict=True)):
        # score >= t is a mean of -votes of at most -t
        found = optimization.nearest(
            laid, person, -votes, at_most=-problem.threshold - 1e-9, weights=_unit(table), low=low, high=high, node_limit=node_limit
        )
        if found.point is not None:
            answers[i, 0] = found.point
    return answers


def scorecard_mip(problem: Problem, x: Array, rng: Generator, *, k: int = 1, node_limit: int = 500) -> Array:
    """The mixed-integer programme of Navas-Palencia 2021: k answers of at most five moves; (n, k, d).

    One answer is near and close to the rows (proximity and closeness); of several, all near, each moves another set of features.

    A bin becomes the value in it, among the table's, that is nearest to the person's; of a category, the commonest level.
    """
    table, card = problem.table, problem.model.inside
    features = [next(f for f in table.features if f.name == b.name) for b in card.bins]
    codes, bin_of_row = card.codes(_levels(table, x)), card.codes(_levels(table, table.X))
    accepted = scorecards.Outcome(low=float(logit(problem.threshold)) + scorecards.STRICT)
    answers = np.full((len(x), k, x.shape[1]), np.nan)
    for i, start in enumerate(codes):
        moves = ["fixed" if (x[i, f.void] == 1).any() else f.move for f in features]
        found = scorecards.solve(
            card, scorecards.query(card, start, moves), card.units(), max_changes=5, k=k, outcome=accepted, node_limit=node_limit,
            objectives=scorecards.BOTH if k == 1 else {"proximity": 1.0}, diverse=("features",) if k > 1 else (),
        )  # fmt: skip
        if found.codes is None:
            continue
        answers[i] = x[i]
        for (copy, j), to in np.ndenumerate(found.codes):
            if to != start[j]:
                block = table.X[bin_of_row[:, j] == to][:, features[j].columns]
                answers[i, copy, features[j].columns] = _value_in_bin(features[j], block, x[i, features[j].columns])
    answers = table.project(answers, x)
    answers[~problem.accepts(answers)] = np.nan
    return answers


def _value_in_bin(feature: Feature, block: Array, own: Array) -> Array:
    """Of encoded values (rows, width) in a bin, the nearest to one's own, or the commonest level."""
    if feature.kind == "onehot":
        return np.eye(feature.width)[block.sum(0).argmax()]
    return block[np.abs(block[:, 0] - own[0]).argmin()]


# ---------------------------------------------------------------- peers, by other people


def nice_peer(problem: Problem, x: Array, rng: Generator) -> Array:
    """NICE (Brughmans et al. 2023, package nicex), optimised for sparsity. It knows nothing of what may move; (n, 1, d)."""
    from nice import NICE

    table = problem.table
    categories = [j for j, f in enumerate(table.features) if f.kind == "onehot"]
    explainer = NICE(
        predict_fn=lambda rows: _two_columns(problem.model.score(_from_codes(table, np.atleast_2d(rows)))),
        X_train=_codes(table, table.X), y_train=table.y.astype(int), cat_feat=categories,
        num_feat=[j for j in range(len(table.features)) if j not in categories], optimization="sparsity",
    )  # fmt: skip
    return np.stack([_from_codes(table, explainer.explain(row[None], target_class=[1])) for row in _codes(table, x)])


def dice_peer(problem: Problem, x: Array, rng: Generator, *, k: int = 3) -> Array:
    """The random search of the package dice-ml, kept to what may move at all; (n, k, d)."""
    import dice_ml

    table = problem.table
    numbers = [f.name for f in table.features if f.kind != "onehot"]
    frame = _levels(table, table.X).assign(outcome=table.y.astype(int))
    data = dice_ml.Data(dataframe=frame, continuous_features=numbers, outcome_name="outcome")
    search = dice_ml.Dice(data, dice_ml.Model(model=_Asked(problem), backend="sklearn"), method="random")
    answers = np.full((len(x), k, x.shape[1]), np.nan)
    for i in range(len(x)):
        free = [f.name for f in table.features if f.move != "fixed" and not (x[i, f.void] == 1).any()]
        with redirect_stdout(StringIO()):  # it prints its seconds
            found = search._generate_counterfactuals(
                _levels(table, x[[i]]), total_CFs=k, desired_class=1, features_to_vary=free, verbose=False,
                random_seed=int(rng.integers(2**31)), posthoc_sparsity_algorithm="binary",
            ).final_cfs_df  # fmt: skip
        if found is not None:
            answers[i, : len(found)] = _from_levels(table, found)
    return answers


class _Asked:
    """A model as dice-ml wants it: a frame of levels in, the probabilities of both classes out."""

    def __init__(self, problem: Problem):
        self.problem = problem

    def predict_proba(self, frame: pd.DataFrame) -> Array:
        return _two_columns(self.problem.model.score(_from_levels(self.problem.table, frame)))

    def predict(self, frame: pd.DataFrame) -> Array:
        return (self.predict_proba(frame)[:, 1] >= self.problem.threshold).astype(int)


def _two_columns(score: Array) -> Array:
    return np.stack([1 - score, score], axis=1)


def _from_levels(table: Table, frame: pd.DataFrame) -> Array:
    x = np.zeros((len(frame), table.X.shape[1]))
    for f in table.features:
        values = frame[f.name].to_numpy()[:, None]
        x[:, f.columns] = values == np.array(f.levels, dtype=object) if f.kind == "onehot" else values
    return x


def _codes(table: Table, x: Array) -> Array:
    """Rows (n, d) with one column a feature, a category as the number of its level; (n, p)."""
    return np.stack([x[:, f.columns].argmax(1) if f.kind == "onehot" else x[:, f.columns.start] for f in table.features], 1).astype(
        float
    )


def _from_codes(table: Table, codes: Array) -> Array:
    blocks = [
        np.eye(f.width)[codes[:, j].astype(int)] if f.kind == "onehot" else codes[:, [j]] for j, f in enumerate(table.features)
    ]
    return np.hstack(blocks)


# ---------------------------------------------------------------- the bench


class Entry(NamedTuple):
    """A row of the bench: a method, the models it can be asked about, what its own paper promises, and where it comes from."""

    name: str
    method: Callable[[Problem, Array, Generator], Array]
    kinds: tuple[Kind, ...]
    says: frozenset[str]  # of "near", "sparse", "manifold", "robust", "diverse"
    source: str
    slow: bool = False  # seconds a person


def _says(*ticks: str) -> frozenset[str]:
    return frozenset(ticks)


GRADIENT: tuple[Kind, ...] = ("linear", "net")
SCORECARDS = "recourse/scorecard_counterfactuals"
ENTRIES: tuple[Entry, ...] = (
    Entry("random", random_walk, KINDS, _says(), "the floor"),
    Entry("nearest row", nearest, KINDS, _says("manifold"), "a reference row of the bench"),
    Entry("Wachter", wachter, GRADIENT, _says("near"), "Wachter et al. 2018"),
    Entry("growing spheres", growing_spheres, KINDS, _says("near", "sparse"), "Laugel et al. 2018"),
    Entry("FACE", face, KINDS, _says("manifold"), "Poyiadzi et al. 2020"),
    Entry("DiCE", dice_grad, GRADIENT, _says("near", "sparse", "diverse"), "Mothilal et al. 2020"),
    Entry("actionable", ar_linear, ("linear",), _says("near"), "Ustun et al. 2019"),
    Entry("tweaking", feature_tweak, ("forest",), _says("near"), "Tolomei et al. 2017"),
    Entry("amortised", amortised, ("net",), _says(), "after Mahajan et al. 2019"),
    Entry("T-Rex", trex, ("net",), _says("robust"), "recourse/robust_network_recourse"),
    Entry("T-Rex:NN", trex_nn, ("net",), _says("robust", "manifold"), "recourse/robust_network_recourse"),
    Entry("SNS", sns, ("net",), _says("robust"), "recourse/robust_network_recourse"),
    Entry("scorecard", scorecard_mip, ("scorecard",), _says("near", "sparse", "manifold"), SCORECARDS),
    Entry("scorecard, 3", partial(scorecard_mip, k=3), ("scorecard",), _says("near", "diverse"), SCORECARDS, slow=True),
    Entry("COPA", copa, ("linear",), _says("robust", "diverse"), "recourse/plans_under_ambiguity", slow=True),
    Entry("exact forest", forest_nearest, ("forest",), _says("near"), "recourse/contextual_optimization", slow=True),
    Entry(
        "MCD",
        partial(mcd, k=3),
        KINDS,
        _says("near", "sparse", "manifold", "diverse"),
        "recourse/design_counterfactuals",
        slow=True,
    ),
    Entry("T-COL a", partial(T_COL["t_col_a"], n=5), KINDS, _says("sparse"), "recourse/t_col"),
    Entry("T-COL b", partial(T_COL["t_col_b"], n=5), KINDS, _says("near"), "recourse/t_col"),
    Entry("T-COL c", partial(T_COL["t_col_c"], n=5), KINDS, _says("robust"), "recourse/t_col"),
    Entry("T-COL e", partial(T_COL["t_col_e"], n=5), KINDS, _says("robust", "manifold"), "recourse/t_col"),
    # NICE takes a second a person on forests, and never returns where a change moves no bin, as on scorecards
    Entry("peer: NICE", nice_peer, GRADIENT, _says("near", "sparse"), "nicex"),
    Entry("peer: DiCE", dice_peer, ("linear",), _says("near", "sparse", "diverse"), "dice-ml, random search", slow=True),
)


NEIGHBOUR = 5  # how many accepted hold-out people an answer must be near to


@dataclass(frozen=True)
class Judge:
    """What answers are measured with, and no method sees: a problem, its model retrained, and real accepted hold-out rows."""

    problem: Problem
    retrained: list[Model]
    accepted: Array  # (m, d)

    def __post_init__(self):
        if len(self.accepted) <= NEIGHBOUR:
            raise ValueError(f"accepted must hold more than {NEIGHBOUR} rows, not {len(self.accepted)}")

    def measure(self, x: Array, z: Array) -> dict[str, Array]:
        """Measures (n, k) of answers z (n, k, d) to people x (n, d), made real first; NaN where there is none.

        `found` is 1 or 0; `valid` too, also where none was found; all others are of valid answers alone.
        """
        table = self.problem.table
        real = table.project(z, x)
        valid = self.problem.accepts(real)
        real[~valid] = np.nan
        return {
            "found": np.isfinite(z).all(-1).astype(float),
            "valid": valid.astype(float),
            "margin": _for_found(real, self.problem.model.score) - self.problem.threshold,
            "cost": measures.cost(table, x, real),
            "changed": measures.changed(table, x, real),
            "shift": measures.shift(table, x, real),
            "actionable": np.where(valid, measures.actionable(table, x, z), np.nan),
            "manifold": self.manifold(real),
            "in-lier": self.inlier(real),
            "order": order(table, x, real),
            "survives": self.survives(real),
        }

    def manifold(self, z: Array) -> Array:
        """Distance (n, k) to the fifth nearest accepted hold-out row, over what is usual among these rows; in units of cost."""
        return _for_found(z, lambda found: self._distance(found, NEIGHBOUR - 1) / self._usual)

    def _distance(self, points: Array, place: int) -> Array:
        unit = _unit(self.problem.table)
        return np.partition(cdist(points * unit, self.accepted * unit, "cityblock"), place, axis=1)[:, place]

    @cached_property
    def _usual(self) -> float:
        return float(np.median(self._distance(self.accepted, NEIGHBOUR)))  # place 0 is the row itself

    def inlier(self, z: Array) -> Array:
        """Whether a local outlier factor fitted on the accepted hold-out rows takes an answer (n, k, d) for ordinary."""
        return _for_found(z, lambda found: (self._outliers.predict(found * _unit(self.problem.table)) == 1).astype(float))

    @cached_property
    def _outliers(self) -> LocalOutlierFactor:
        return LocalOutlierFactor(metric="manhattan", novelty=True).fit(self.accepted * _unit(self.problem.table))

    def survives(self, z: Array) -> Array:
        """Share (n, k) of the retrained models that accept an answer."""
        threshold = self.problem.threshold
        return _for_found(z, lambda found: np.mean([m.score(found) >= threshold for m in self.retrained], axis=0))


def _for_found(z: Array, measure: Callable[[Array], Array]) -> Array:
    """measure (found, d) -> (found,) of the answers that exist, as (n, k) with NaN for the others."""
    found = np.isfinite(z).all(-1)
    values = np.full(found.shape, np.nan)
    if found.any():
        values[found] = measure(z[found])
    return values


# a <= b by what the features mean
ORDER = {
    "HELOC": (
        ("NumInqLast6Mexcl7days", "NumInqLast6M"), ("MSinceMostRecentTradeOpen", "AverageMInFile"),
        ("AverageMInFile", "MSinceOldestTradeOpen"), ("NumTradesOpeninLast12M", "NumTotalTrades"),
    ),
}  # fmt: skip


def order(table: Table, x: Array, z: Array) -> Array:
    """Share (n, k) of pairs of ORDER that a person keeps and the answer breaks; NaN for a table without pairs."""
    features = {f.name: f for f in table.features}
    pairs = [(features[a], features[b]) for a, b in ORDER.get(table.name, ()) if a in features and b in features]
    if not pairs:
        return np.full(z.shape[:2], np.nan)

    def kept(rows: Array) -> Array:
        raw = {f.name: f.low + rows[..., f.columns.start] * (f.high - f.low) for pair in pairs for f in pair}
        return np.stack([raw[a.name] <= raw[b.name] + 1e-6 for a, b in pairs], -1)

    broken = (kept(x)[:, None] & ~kept(z)).mean(-1)
    return np.where(np.isnan(z).any(-1), np.nan, broken)


def diverse(table: Table, z: Array) -> Array:
    """Mean cost (n, k) from an answer to the other k - 1 for the same person; NaN for a single one."""
    k = z.shape[1]
    to_others = [[measures.cost(table, z[:, i], z[:, [j]])[:, 0] for j in range(k) if j != i] for i in range(k)]
    return np.array([np.mean(row, axis=0) for row in to_others]).T if k > 1 else np.full(z.shape[:2], np.nan)


def nudge(table: Table, x: Array, rng: Generator, share: float = 0.02) -> Array:
    """People (n, d) who differ a little: each number that may move, by up to `share` of its range, at least one whole unit."""
    moved = x.copy()
    for f in table.features:
        if f.kind != "onehot" and f.move != "fixed":
            step = max(share, 1 / max(f.high - f.low, 1)) if f.kind == "integer" else share
            moved[:, f.columns] += step * rng.uniform(-1, 1, (len(x), 1))
    return table.project(moved[:, None], x)[:, 0]


def numbers_only(table: Table, parts: int = 100) -> Table:
    """The table of its numeric columns alone, each to be rounded to a hundredth of its unit (1 / parts) in place of a whole one."""
    kept = [f for f in table.features if f.kind != "onehot" and f.high - f.low > 1]
    features = [
        replace(f, kind="integer", columns=slice(i, i + 1), low=parts * f.low, high=parts * f.high, void=())
        for i, f in enumerate(kept)
    ]
    return Table(table.name, table.X[:, [f.columns.start for f in kept]], table.y, tuple(features))


# ---------------------------------------------------------------- what the claims count


def gaps(values: pd.DataFrame, least: int = 3) -> pd.DataFrame:
    """For each pair of methods the median of column minus row over the people whom both answered, at least `least`.

    `values` (people, methods), NaN where a method has no answer; the result is (methods, methods), NaN for pairs of fewer people.
    """
    difference = values.to_numpy()[:, None, :] - values.to_numpy()[:, :, None]  # (people, row, column)
    difference[:, np.isfinite(difference).sum(0) < least] = np.nan
    return pd.DataFrame(
        pd.DataFrame(difference.reshape(len(values), -1)).median().to_numpy().reshape(difference.shape[1:]),
        values.columns,
        values.columns,
    )


def mean_ranks(values: pd.DataFrame) -> pd.Series:
    """Each method's mean relative rank in [0, 1] among those that answered the same person; `values` (people, methods)."""
    ranks = values.rank(axis=1)
    return ((ranks - 1).div(values.notna().sum(axis=1) - 1, axis=0)).mean()


def rank_agreement(a: pd.DataFrame, b: pd.DataFrame, least: int = 4) -> float:
    """Mean over people of Spearman's correlation across methods of two measures (people, methods), of at least `least` methods."""
    both = a.notna() & b.notna()
    a, b = (v.where(both).rank(axis=1) for v in (a, b))
    each = a.corrwith(b, axis=1)  # Pearson's correlation of ranks
    return float(each[both.sum(axis=1) >= least].mean())
