"""Contextual optimization: programmes against enumeration, decisions against linear programmes, weights against scikit-learn."""

import os
from itertools import pairwise, product

import numpy as np
import pytest
from scipy.optimize import linprog
from sklearn.ensemble import RandomForestRegressor
from sklearn.neighbors import NearestNeighbors

from replications.recourse.contextual_optimization import method
from shared import data, seeding
from shared.data import elecdemand, uber_la


def fitted(seed: int = 0, n: int = 50, p: int = 2, T: int = 5, depth: int = 3, q: int = 4, **more) -> tuple:
    """Contexts, outcomes, a scikit-learn forest and ours."""
    rng = seeding.rng(seed, "fitted")
    X, Y = rng.random((n, p)), rng.uniform(1, 5, (n, q))
    Y[:, 0] += 4 * (X[:, 0] > 0.5)
    Y[:, 1] += 4 * (X[:, -1] < 0.3)
    forest = RandomForestRegressor(T, max_depth=depth, max_features="sqrt", random_state=seed, **more).fit(X, Y)
    return X, Y, forest, method.forest([t.tree_ for t in forest.estimators_], p)


def boxes(trees: method.Forest) -> list[tuple]:
    """Lower and upper corner of every cell, by hand."""
    ends = [np.r_[-np.inf, c, np.inf] for c in trees.cuts]
    return [tuple(np.array(v) for v in zip(*corner, strict=True)) for corner in product(*map(pairwise, ends))]


def by_hand(trees: method.Forest, x0: np.ndarray, values: np.ndarray, at_most: float, weights: np.ndarray) -> float:
    """The distance to the nearest cell whose trees' mean is at most `at_most`."""
    best = np.inf
    for low, high in boxes(trees):
        inside = np.where(np.isinf(high), np.where(np.isinf(low), 0, low + 1), high)  # an upper end belongs to its cell
        if values[trees.leaves(inside[None])[0]].mean() <= at_most:
            best = min(best, float(weights @ np.maximum(0, np.maximum(low - x0, x0 - high))))
    return best


# ---------------------------------------------------------------- decisions


@pytest.mark.parametrize("budget", [0.5, 6.0, 100.0])
def test_newsvendor_against_a_linear_programme(budget):
    rng = seeding.rng(0, "news")
    demand, w = rng.uniform(0, 4, (7, 3)), rng.dirichlet(np.ones(7))
    over, under = np.array([1.0, 2.0, 3.0]), np.array([10.0, 4.0, 30.0])
    problem = method.Newsvendor(demand, over, under, budget)
    # min sum w (over s + under t): s >= z - y, t >= y - z
    cost = np.r_[np.zeros(3), np.outer(w, over).ravel(), np.outer(w, under).ravel()]
    z, s = np.tile(np.eye(3), (7, 1)), np.eye(21)
    rows = np.vstack([np.hstack([z, -s, 0 * s]), np.hstack([-z, 0 * s, -s]), np.r_[np.ones(3), np.zeros(42)][None]])
    best = linprog(cost, rows, np.r_[demand.ravel(), -demand.ravel(), budget])
    found = problem.decide(w)
    assert found.sum() <= budget + 1e-9 and (found >= 0).all()
    assert w @ problem.cost(found) == pytest.approx(best.fun)


def test_newsvendor_cost_by_hand():
    problem = method.Newsvendor(np.array([[3.0, 1.0]]), np.array([1.0, 2.0]), np.array([10.0, 20.0]), 9.0)
    assert problem.cost(np.array([2.0, 4.0])).tolist() == [10 + 6]


def test_grid_and_path_against_every_path():
    arcs, times = method.grid(3), seeding.rng(1, "times").uniform(1, 2, (4, 12))
    problem, w = method.ShortestPath(times, arcs, 0, 8), np.array([0.1, 0.2, 0.3, 0.4])
    assert arcs.shape == (12, 2) and sorted(map(tuple, arcs[arcs[:, 0] == 4].tolist())) == [(4, 5), (4, 7)]
    number = {tuple(a): k for k, a in enumerate(arcs.tolist())}

    def every(node, used):
        if node == 8:
            yield used
        for (tail, head), k in number.items():
            if tail == node:
                yield from every(head, [*used, k])

    best = min(float((w @ times)[used].sum()) for used in every(0, []))
    assert w @ problem.cost(problem.decide(w)) == pytest.approx(best)


def test_choice():
    problem = method.Newsvendor(np.array([[3.0], [5.0]]), np.ones(1), np.ones(1), 9.0)
    two = method.Choice(problem, [np.array([3.0]), np.array([5.0])])
    assert two.decide(np.array([0.9, 0.1])).tolist() == [0] and two.decide(np.array([0.1, 0.9])).tolist() == [1]
    assert two.cost(np.ones(1)).tolist() == [2, 0]


# ---------------------------------------------------------------- weights


def test_forest_weights_are_scikit_learns_without_bootstrap():
    X, Y, forest, trees = fitted(bootstrap=False)
    x = seeding.rng(2).random((20, 2))
    w = method.ForestWeights(trees, X).weights(x)
    assert w.sum(axis=1) == pytest.approx(np.ones(20)) and (w >= 0).all()
    np.testing.assert_allclose(w @ Y, forest.predict(x))


def test_forest_weights_count_all_rows_of_the_history():
    X, _, forest, trees = fitted(bootstrap=True)
    x = np.array([[0.4, 0.6]])
    same = forest.apply(X) == forest.apply(x)
    np.testing.assert_allclose(method.ForestWeights(trees, X).weights(x)[0], (same / same.sum(axis=0)).mean(axis=1))


def test_neighbour_weights():
    X, x = seeding.rng(3).random((30, 3)), seeding.rng(4).random((5, 3))
    at = NearestNeighbors(n_neighbors=4, metric="manhattan").fit(X).kneighbors(x, return_distance=False)
    w = method.NeighbourWeights(X, 4).weights(x)
    assert [set(np.flatnonzero(row)) for row in w] == [set(row) for row in at] and w.max() == 0.25


# ---------------------------------------------------------------- the nearest point of trees


def test_stump():
    stump = RandomForestRegressor(1, max_depth=1, bootstrap=False).fit([[0.0], [1.0]], [1.0, -2.0]).estimators_[0].tree_
    trees, values = method.forest([stump], 1), stump.value[1:, 0, 0]
    up = method.nearest(trees, np.array([0.2]), values)
    assert (
        up.distance == pytest.approx(0.3)
        and up.point[0] > 0.5
        and up.bound == pytest.approx(0.3, abs=1e-6)
        and up.status == "optimal"
    )
    down = method.nearest(trees, np.array([0.9]), -values)
    assert down.distance == pytest.approx(0.4) and down.point[0] <= 0.5
    assert method.nearest(trees, np.array([0.2]), values, high=np.array([0.4])).status == "infeasible"
    assert method.nearest(trees, np.array([0.2]), values, high=np.array([0.4]), at_most=1.0).distance == 0


@pytest.mark.parametrize("seed", range(8))
def test_nearest_against_every_cell(seed):
    X, _, _, trees = fitted(seed)
    rng = seeding.rng(seed, "values")
    values, x0, weights = rng.standard_normal(trees.n_leaves), rng.uniform(-0.1, 1.1, 2), rng.uniform(0.5, 2, 2)
    at_most = float(np.quantile([values[v].mean() for v in trees.leaves(X)], 0.1))
    found = method.nearest(trees, x0, values, at_most=at_most, weights=weights)
    assert values[trees.leaves(found.point[None])[0]].mean() <= at_most + 1e-9
    assert found.distance == pytest.approx(by_hand(trees, x0, values, at_most, weights), abs=1e-6)
    assert found.bound == pytest.approx(found.distance, abs=1e-6)
    points = method.cells(trees, x0)
    good = values[trees.leaves(points)].mean(axis=1) <= at_most
    assert (np.abs(points[good] - x0) @ weights).min() == pytest.approx(found.distance, abs=1e-6)


def test_several_means_and_points_that_are_ruled_out():
    _, _, _, trees = fitted(3)
    rng = seeding.rng(5)
    values, x0 = rng.standard_normal((2, trees.n_leaves)), np.array([0.5, 0.5])
    points = method.cells(trees, x0)
    means = values[:, trees.leaves(points)].mean(axis=2)
    at_most = np.quantile(means, 0.5, axis=1)
    good, far = (means <= at_most[:, None]).all(axis=0), np.abs(points - x0).sum(axis=1)
    first = method.nearest(trees, x0, values, at_most=at_most)
    assert first.distance == pytest.approx(far[good].min(), abs=1e-6)
    second = method.nearest(trees, x0, values, at_most=at_most, excluded=first.point[None])
    others = good & (trees.leaves(points) != trees.leaves(first.point[None])).any(axis=1)
    assert second.distance == pytest.approx(far[others].min(), abs=1e-6)


def test_one_hot_integers_and_what_a_person_may_move():
    """Columns: a number, an integer 0 ... 4, and three levels of a category; against all points that matter."""
    rng = seeding.rng(6)
    n, steps = 200, np.arange(5) / 4
    X = np.column_stack([rng.random(n), rng.integers(5, size=n) / 4, np.eye(3)[rng.integers(3, size=n)]])
    y = X[:, 0] + X[:, 1] - X[:, 3] + 0.5 * X[:, 4]
    forest = RandomForestRegressor(6, max_depth=4, random_state=0).fit(X, y)
    trees = method.forest([t.tree_ for t in forest.estimators_], 5, levels={1: steps}, groups=[[2, 3, 4]])
    values = np.concatenate([t.tree_.value[t.tree_.children_left < 0, 0, 0] for t in forest.estimators_])
    weights = np.array([1.0, 2.0, 0.5, 0.5, 0.5])
    numbers = np.unique(np.r_[trees.cuts[0], np.nextafter(trees.cuts[0].astype(np.float32), np.float32(2))])
    for case in range(6):
        x0 = X[case]
        low, high = np.zeros(5), np.ones(5)
        low[1] = x0[1]  # may only grow
        if case % 2:
            low[0] = high[0] = x0[0]  # fixed
        grid = [np.r_[a, *b, c] for a, b, c in product(np.r_[x0[0], numbers], steps[:, None], np.eye(3))]
        grid = np.array([g for g in grid if (g >= low - 1e-9).all() and (g <= high + 1e-9).all()])
        wanted = forest.predict(x0[None])[0] + 0.3
        good = forest.predict(grid) >= wanted
        found = method.nearest(trees, x0, -values, at_most=-wanted, weights=weights, low=low, high=high)
        if not good.any():
            assert found.status == "infeasible"
            continue
        assert forest.predict(found.point[None])[0] >= wanted - 1e-9
        assert found.point[2:].sum() == 1 and found.point[1] in steps and found.point[1] >= x0[1]
        assert found.distance == pytest.approx((np.abs(grid[good] - x0) @ weights).min(), abs=1e-6)


def test_a_limit_is_not_an_infeasibility():
    X, _, _, trees = fitted(0, n=300, p=5, T=20, depth=5)
    values = seeding.rng(7).standard_normal(trees.n_leaves)
    at_most = float(np.quantile([values[v].mean() for v in trees.leaves(X)], 0.01))
    found = method.nearest(trees, np.full(5, 0.5), values, at_most=at_most, node_limit=0)
    assert found.status == "limit" and found.bound <= found.distance
    assert method.nearest(trees, np.full(5, 0.5), values, at_most=values.min() - 1).status == "infeasible"


# ---------------------------------------------------------------- the nearest point of neighbours


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_against_a_fine_grid(seed):
    rng = seeding.rng(seed, "knn")
    X, values, x0 = rng.random((8, 2)), rng.standard_normal(8), rng.uniform(0, 1, 2)
    axis = np.linspace(0, 1, 201)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    distance = np.sort(np.abs(points[:, None] - X).sum(axis=-1), axis=1)
    weighting = method.NeighbourWeights(X, 3)
    means = weighting.weights(points) @ values
    at_most = float(np.quantile(means, 0.2))
    good = (means <= at_most) & (distance[:, 3] - distance[:, 2] > 1e-3)
    found = method.nearest_neighbours(X, 3, x0, values, at_most=at_most)
    assert weighting.weights(found.point[None])[0] @ values <= at_most + 1e-6
    far = np.abs(points - x0).sum(axis=1)
    assert far[good].min() - 0.01 - 1e-3 <= found.distance <= far[good].min() + 1e-6
    members = np.flatnonzero(weighting.weights(found.point[None])[0])
    other = method.nearest_neighbours(X, 3, x0, values, at_most=at_most, excluded=members[None])
    assert other.distance >= found.distance - 1e-9
    assert other.point is None or set(np.flatnonzero(weighting.weights(other.point[None])[0])) != set(members)


# ---------------------------------------------------------------- explanations


def paths(seed: int) -> tuple:
    rng = seeding.rng(seed, "paths")
    arcs = method.grid(3)
    X = rng.random((60, 2))
    times = rng.uniform(0.5, 1.5, (60, len(arcs))) + 3 * np.sin(5 * X @ rng.uniform(-1, 1, (2, len(arcs)))) ** 2
    forest = RandomForestRegressor(5, max_depth=3, random_state=seed).fit(X[:50], times[:50])
    trees = method.forest([t.tree_ for t in forest.estimators_], 2)
    return X[50:], method.ForestWeights(trees, X[:50]), method.ShortestPath(times[:50], arcs, 0, 8)


def test_explanations_against_every_cell_and_the_dual():
    seen = spared = 0
    for seed in (0, 1, 2, 5, 7, 9):
        new, weighting, problem = paths(seed)
        x0, plan = new[0], method.decide(weighting, problem, new[1])
        chosen = method.decide(weighting, problem, x0)
        relative, absolute = (method.explain(weighting, problem, x0, plan, kind=kind) for kind in ("relative", "absolute"))
        if relative.already:
            assert absolute.already and relative.at.distance == 0
            continue
        points = method.cells(weighting.trees, x0)
        far = np.abs(points - x0).sum(axis=1)
        worse = method.excess(weighting, problem, points, plan, chosen)
        assert relative.at.distance == pytest.approx(far[worse <= 1e-6].min(), abs=1e-6)
        worst = method.excess(weighting, problem, points, plan)
        assert (worst >= worse - 1e-9).all() and worst.min() > -1e-9
        assert absolute.at.distance == pytest.approx(far[worst <= 1e-6].min(), abs=1e-6)
        dual = method.explain_path_by_duality(weighting, problem, x0, plan)
        assert dual.distance == pytest.approx(absolute.at.distance, abs=1e-5)
        seen += absolute.cuts > 0
        # without the cost cuts the loop would have to rule out one by one all cells that are nearer
        nearer = np.unique(weighting.trees.leaves(points[(worse <= 1e-6) & (far < absolute.at.distance - 1e-6)]), axis=0)
        assert absolute.cuts <= len(nearer)
        spared += len(nearer) - absolute.cuts
    assert seen >= 1 and spared >= 10


def test_a_loop_that_is_stopped_keeps_a_lower_bound():
    for seed in range(12):
        new, weighting, problem = paths(seed)
        plan = method.decide(weighting, problem, new[1])
        full = method.explain(weighting, problem, new[0], plan, kind="absolute")
        if full.cuts:
            stopped = method.explain(weighting, problem, new[0], plan, kind="absolute", max_cuts=full.cuts - 1)
            assert stopped.at.status == "limit" and stopped.at.point is None and stopped.cuts == full.cuts - 1
            assert stopped.at.bound <= full.at.distance + 1e-9
            return
    pytest.fail("no instance needed a cut")


def test_two_decisions_make_both_kinds_the_same():
    new, weighting, problem = paths(1)
    for x0, x_alt in zip(new[::2], new[1::2], strict=True):
        options = [method.decide(weighting, problem, x) for x in (x0, x_alt)]
        two = method.Choice(problem, options)
        kinds = [method.explain(weighting, two, x0, np.ones(1), kind=kind) for kind in ("relative", "absolute")]
        assert kinds[0].at.distance == kinds[1].at.distance and kinds[1].cuts == 0


# ---------------------------------------------------------------- cheap rivals


def test_rivals():
    x0 = np.zeros(2)

    def qualifies(x):
        return x[:, 0] + x[:, 1] >= 0.75

    points = np.array([[1.0, 1.0], [0.7, 0.3], [0.1, 0.1]])
    assert method.nearest_of(points, x0, qualifies).tolist() == [0.7, 0.3]
    assert method.nearest_of(points[2:], x0, qualifies) is None
    free = [None, None]
    pulled = method.pull_back(np.array([0.9, 0.4]), x0, qualifies, free)
    assert qualifies(pulled[None])[0] and pulled == pytest.approx([0.35, 0.4], abs=2e-3)  # the larger change first
    assert method.pull_back(np.array([0.9, 0.4]), x0, qualifies, [np.arange(5) / 4, None]) == pytest.approx([0.5, 0.25], abs=1e-3)
    back = method.pull_back(np.array([0.9, 0.8]), x0, qualifies, free)
    assert back[0] == 0 and back[1] == pytest.approx(0.75, abs=2e-3)
    drawn = method.redraw(np.full(3, 0.5), 400, seeding.rng(0), [None, None, np.array([0.0, 0.5, 1.0])])
    assert drawn.shape == (400, 3) and 0.4 < (drawn[:, 0] == 0.5).mean() < 0.6 and drawn.min() >= 0 and drawn.max() <= 1
    assert set(drawn[:, 2]) == {0, 0.5, 1}


# ---------------------------------------------------------------- simulated histories


def test_simulated_newsvendor():
    x, y = method.simulate_newsvendor(20_000, 4, 1, seeding.rng(0))
    assert x.shape == (20_000, 3) and y.shape == (20_000, 4) and y.min() >= 0 and y.max() <= 100
    for product_, feature in ((0, 0), (1, 0), (2, 1), (3, 1)):
        calm = x[:, feature] < -1.5  # spread below .23: nothing is cut off, so the mean is 3
        assert y[calm, product_].mean() == pytest.approx(3, abs=0.02)
        assert y[calm, product_].std() == pytest.approx(np.sqrt(np.exp(2 * x[calm, feature]).mean()), rel=0.08)
        other = 1 - feature
        assert abs(np.corrcoef(x[:, other], y[:, product_])[0, 1]) < 0.03


def test_simulated_times():
    x, y = method.simulate_times(6, 4, seeding.rng(1))(20_000)
    assert x.min() >= 0.5 and x.max() <= 1.5
    slope = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)[0]
    assert np.abs(slope[:4] * 4 - (slope[:4] * 4).round()).max() < 0.1 and set((slope[:4] * 4).round().ravel()) == {0, 1}
    assert slope[4] == pytest.approx(np.full(6, 0.5), abs=0.05)


# ---------------------------------------------------------------- bad input


def test_bad_input():
    X, _, forest, trees = fitted()
    values, x0 = np.zeros(trees.n_leaves), np.full(2, 0.5)
    with pytest.raises(ValueError, match="x0 must be finite"):
        method.nearest(trees, np.array([0.5, np.nan]), values)
    with pytest.raises(ValueError, match="values must be finite and have a column for each"):
        method.nearest(trees, x0, values[:-1])
    with pytest.raises(ValueError, match="with x0 between them"):
        method.nearest(trees, x0, values, high=np.zeros(2))
    with pytest.raises(ValueError, match="weights must hold 2"):
        method.nearest(trees, x0, values, weights=-np.ones(2))
    with pytest.raises(ValueError, match="trees must hold a tree"):
        method.forest([], 2)
    with pytest.raises(ValueError, match="must lie below n_features = 1"):
        method.forest([forest.estimators_[0].tree_], 1)
    with pytest.raises(ValueError, match="one of its levels in column 0"):
        method.nearest(
            method.forest([forest.estimators_[0].tree_], 2, levels={0: np.arange(2.0)}),
            x0,
            np.zeros((forest.estimators_[0].tree_.feature < 0).sum()),
        )
    with pytest.raises(ValueError, match="a row in every leaf"):
        method.ForestWeights(trees, X[:1])
    with pytest.raises(ValueError, match=r"k must lie in 1 \.\.\. 49"):
        method.nearest_neighbours(X, 50, x0, np.zeros(50))
    with pytest.raises(ValueError, match="demand must be"):
        method.Newsvendor(np.array([[-1.0]]), np.ones(1), np.ones(1), 1.0)
    with pytest.raises(ValueError, match="times must be"):
        method.ShortestPath(np.zeros((2, 1)), np.array([[0, 1]]), 0, 1)
    with pytest.raises(ValueError, match="arcs hold no path from 1 to 0"):
        method.ShortestPath(np.ones((2, 1)), np.array([[0, 1]]), 1, 0).decide(np.ones(2))
    with pytest.raises(ValueError, match="kind must be relative or absolute"):
        method.explain(None, None, x0, x0, kind="best")


# ---------------------------------------------------------------- data


def test_electricity():
    table = elecdemand.load()
    assert table.shape == (17520, 3) and table["Demand"].mean().round(2) == 4.61
    frame, slots = elecdemand.days()
    assert frame.shape == (364, 6) and slots.shape == (364, 8) and not frame.isna().any(axis=None)
    day = table.loc["2014-01-10"]
    assert slots[8] == pytest.approx(day["Demand"].to_numpy().reshape(8, 6).mean(axis=1))
    before = table.loc["2014-01-09"]
    assert frame.loc[8].tolist() == pytest.approx(
        [day["WorkDay"].iloc[0], 1, *before["Temperature"].agg(["min", "mean", "max"]), before["Demand"].mean()]
    )
    with pytest.raises(ValueError, match="slots must divide 48"):
        elecdemand.days(7)


@pytest.mark.skipif(not os.environ.get("REPLICATIONS_DATA"), reason="the paper's own data: set REPLICATIONS_DATA")
def test_los_angeles():
    contexts, times, ends = uber_la.load(200)
    assert contexts.shape == (200, 7) and times.shape == (200, 93) and (times > 0).all()
    assert len({zone for arc in ends for zone in arc}) == 45 and {uber_la.START, uber_la.END} <= {z for arc in ends for z in arc}
    assert set(contexts["Period"]) <= set(uber_la.PERIODS)
    zones = sorted({zone for arc in ends for zone in arc})
    arcs = np.array([[zones.index(zone) for zone in arc] for arc in ends])
    problem = method.ShortestPath(times, arcs, zones.index(uber_la.START), zones.index(uber_la.END))
    assert problem.decide(np.full(200, 1 / 200)).sum() > 5
    with pytest.raises(ValueError, match=r"n must lie in 1 \.\.\. 3640"):
        uber_la.load(0)


def test_los_angeles_without_the_mirror(monkeypatch):
    monkeypatch.delenv("REPLICATIONS_DATA", raising=False)
    with pytest.raises(data.DataError, match="set REPLICATIONS_DATA"):
        uber_la.load()
