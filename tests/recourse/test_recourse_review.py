"""The bench of recourse methods: classics against closed forms and brute force, measures by hand; entries: test_bench.py."""

import heapq
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

from replications.recourse.recourse_review import method
from shared.recourse import measures
from shared.recourse.problem import Model, Problem
from shared.recourse.table import encode
from tests.recourse.people import make_table, refused, toy_problems


@pytest.fixture(scope="module")
def problems():
    return toy_problems()


def line_problem(n: int = 400):
    """A logistic model 4 income + age - 3 of two numbers, of which only income may move."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"income": rng.random(n), "age": rng.random(n)})
    frame.iloc[:2] = [[0, 0], [1, 1]]
    table = encode("line", frame, (frame["income"] > 0.5).astype(int).to_numpy(), {"income": "free", "age": "fixed"})
    weights = torch.tensor([4.0, 1.0])
    return Problem(table, method.differentiable(lambda z: torch.sigmoid(z @ weights - 3), "linear"))


# ---------------------------------------------------------------- closed forms


def test_searches_come_to_the_boundary_of_a_line():
    problem = line_problem()
    x = refused(problem, 8)
    known = (3 - x[:, 1]) / 4
    slack = {method.wachter: 0.05, method.growing_spheres: 0.03, method.ar_linear: 0.15, method.random_walk: 0.03}
    for search, limit in slack.items():
        found = search(problem, x, np.random.default_rng(0))[:, 0]
        np.testing.assert_allclose(found[:, 1], x[:, 1], atol=1e-6)
        assert (found[:, 0] >= known - 1e-4).all() and (found[:, 0] - known).max() < limit, search.__name__


def test_wachter_lowers_lambda_to_the_last_point_that_passes():
    problem = line_problem()
    x = refused(problem, 5)
    score = problem.model.score(method.wachter_search(problem, x, 0.7)[:, 0])
    assert (score >= 0.7).all() and score.max() < 0.8


def test_wachter_moves_the_feature_that_is_cheapest_per_unit_of_logit():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"narrow": rng.standard_t(2, 300), "wide": rng.random(300)})
    table = encode("two", frame, rng.integers(0, 2, 300), {"narrow": "free", "wide": "free"})
    problem = Problem(table, method.differentiable(lambda z: torch.sigmoid(3 * z.sum(-1) - 4), "linear"))
    x = np.full((1, 2), 0.3)
    moved = np.abs(method.wachter_search(problem, x, 0.5)[0, 0] - x[0])
    wide = table.spread.argmax()  # a step there costs less, and the model pays the same for it
    assert moved[wide] > 3 * moved[1 - wide], (moved, table.spread)


def test_dice_answers_are_accepted_beyond_the_boundary_and_differ(problems):
    problem = problems["linear"]
    z = method.dice_grad(problem, refused(problem), np.random.default_rng(0))
    assert z.shape[1] == 3
    assert np.nanmean(method.diverse(problem.table, z)) > 0.3


def test_amortised_generator_serves_people_it_never_saw(problems):
    problem = problems["net"]
    fresh = make_table(400, seed=5).X
    people = fresh[~problem.accepts(fresh)]
    z = method.amortised(problem, people, np.random.default_rng(0))
    assert np.isfinite(z).all(-1).mean() > 0.8
    rows = refused(problem, 30)
    depth = [
        problem.model.score(
            method.train_generator(problem, rows, weight, torch.Generator().manual_seed(0), steps=60)(rows)[:, 0]
        ).mean()
        for weight in (0.01, 100.0)
    ]
    assert depth[1] > depth[0] + 0.2


def test_the_generator_learns_to_move_a_whole_category():
    home = np.array(["own", "rent"] * 100)
    frame = pd.DataFrame({"income": np.random.default_rng(0).random(200), "home": home})
    table = encode("homes", frame, (home == "own").astype(int), {"income": "free", "home": "free"})
    weights = torch.tensor([0.0, 10.0, 0.0])  # accepted with three tenths of a home; a real row has one or none
    problem = Problem(table, method.differentiable(lambda z: torch.sigmoid(z @ weights - 3), "linear"))
    people = table.X[home == "rent"]
    g = method.train_generator(problem, people, 80.0, torch.Generator().manual_seed(0))
    assert problem.accepts(table.project(g(people), people)).mean() > 0.9


# ---------------------------------------------------------------- brute force


def test_nearest_is_the_cheapest_accepted_row_that_the_person_can_become(problems):
    problem, table = problems["forest"], problems["forest"].table
    x = refused(problem, 3)
    found = method.nearest(problem, x, np.random.default_rng(0))
    for person, answer in zip(x, found[:, 0], strict=True):
        best = np.inf
        for row in table.X[problem.accepts(table.X)]:
            real = table.project(row[None, None], person[None])
            if problem.accepts(real)[0, 0]:
                best = min(best, measures.cost(table, person[None], real)[0, 0])
        assert measures.cost(table, person[None], answer[None, None])[0, 0] == pytest.approx(best)


def test_nearest_is_nice_without_its_optimisation():
    nice = pytest.importorskip("nice", reason="the package nicex is not installed")
    rng = np.random.default_rng(0)
    values = np.linspace(0, 1, 50)
    frame = pd.DataFrame({name: rng.permutation(values) for name in "abc"})  # equal ranges and spreads: the distances agree
    model = method.differentiable(lambda z: torch.sigmoid(4 * z.sum(-1) - 6), "linear")
    y = (frame.sum(axis=1) >= 1.5).astype(int).to_numpy()
    table = encode("abc", frame, y, dict.fromkeys("abc", "free"))
    problem = Problem(table, model)
    explainer = nice.NICE(
        predict_fn=lambda rows: method._two_columns(model.score(np.atleast_2d(rows))), X_train=table.X, y_train=y, cat_feat=[],
        num_feat=[0, 1, 2], optimization="none",
    )  # fmt: skip
    x = refused(problem, 8)
    theirs = np.vstack([explainer.explain(row[None], target_class=[1]) for row in x])
    np.testing.assert_allclose(method.nearest(problem, x, rng)[:, 0], theirs, atol=1e-9)


def test_actionable_recourse_has_the_least_largest_shift(problems):
    problem, table = problems["linear"], problems["linear"].table
    x = refused(problem, 3)
    found = method.ar_linear(problem, x, np.random.default_rng(0), grid=5)
    low, high = table.movable(x)
    for i, person in enumerate(x):
        moved, feature = method._actions(table, person, low[i], high[i], 5)
        shift = measures.shift(table, person[None], moved[None])[0]
        shift[[table.features[f].kind == "onehot" for f in feature]] = 0.5
        choices = [[None, *np.flatnonzero(feature == f)] for f in np.unique(feature)]
        best = np.inf
        for combination in product(*choices):
            chosen = [a for a in combination if a is not None]
            z = person + (moved[chosen] - person).sum(0)
            if chosen and problem.model.score(z[None])[0] >= problem.threshold:
                best = min(best, shift[chosen].max())
        category = table.features[3].columns
        mine = max(measures.shift(table, person[None], found[[i]])[0, 0], 0.5 * (found[i, 0, category] != person[category]).any())
        assert mine == pytest.approx(best)


def test_actionable_recourse_says_nothing_where_there_is_nothing():
    problem = line_problem()
    weak = Problem(problem.table, method.differentiable(lambda z: torch.sigmoid(z @ torch.tensor([1.0, 0.0]) - 5), "linear"))
    assert np.isnan(method.ar_linear(weak, problem.table.X[:2], np.random.default_rng(0))).all()


@pytest.mark.parametrize(("k", "sparse"), [(1, 0.1), (2, 0.1), (4, 0.7)])
def test_face_takes_the_path_of_a_plain_dijkstra(problems, k, sparse):
    problem, table = problems["forest"], problems["forest"].table
    fresh = make_table(40, seed=5).X  # not among the rows of the graph
    x = fresh[~problem.accepts(fresh)][:4]
    found = method.face(problem, x, np.random.default_rng(7), rows=40, k=k, sparse=sparse)
    nodes = table.X[np.random.default_rng(7).permutation(len(table.X))[:40]]
    distance = np.linalg.norm(np.vstack([x, nodes])[:, None] - nodes, axis=-1)
    near = np.vstack([distance[:4].argsort(1)[:, :k], distance[4:].argsort(1)[:, 1 : k + 1]])  # a row is not its own neighbour
    width = np.median(np.take_along_axis(distance, near[:, -1:], 1) ** 2)

    def log_density(point):
        return np.log(np.mean(np.exp(-((nodes - point) ** 2).sum(1) / width / 2)))

    at_nodes = np.array([log_density(node) for node in nodes])
    edges = {}
    for i, row in enumerate(near):
        for j in row:
            a, b = np.vstack([x, nodes])[i], nodes[j]
            weight = distance[i, j] * (1e-3 + max(at_nodes.max() - log_density((a + b) / 2), 0))
            edges[i, 4 + j] = edges[4 + j, i] = max(edges.get((i, 4 + j), 0), weight)
    able = problem.accepts(nodes) & (at_nodes >= np.quantile(at_nodes, sparse))
    for i, person in enumerate(x):
        reached, queue = {}, [(0.0, i)]
        while queue:
            cost, at = heapq.heappop(queue)
            if at not in reached:
                reached[at] = cost
                for (a, b), weight in edges.items():
                    if a == at:
                        heapq.heappush(queue, (cost + weight, b))
        for at in sorted((v for v in reached if v >= 4 and able[v - 4]), key=reached.get):
            real = table.project(nodes[None, [at - 4]], person[None])
            if problem.accepts(real)[0, 0]:
                np.testing.assert_allclose(found[i, 0], real[0, 0])
                break
        else:
            assert np.isnan(found[i]).all()


def test_leaves_of_a_forest_hold_the_rows_that_fall_into_them(problems):
    forest, x = problems["forest"].model.inside, problems["forest"].table.X
    low, high, accepting = method._leaves(forest, x.shape[1])
    inside = ((x[:, None].astype(np.float32) > low) & (x[:, None].astype(np.float32) <= high)).all(-1)  # (rows, leaves)
    assert (inside.sum(1) == len(forest.estimators_)).all()
    votes = np.stack([tree.predict(x) for tree in forest.estimators_]).sum(0)
    assert (inside[:, accepting].sum(1) == votes).all()


def test_the_exact_forest_answer_is_nobody_s_to_beat(problems):
    problem, table = problems["forest"], problems["forest"].table
    x = refused(problem, 4)
    rng = np.random.default_rng(0)
    exact = measures.cost(table, x, method.forest_nearest(problem, x, rng))[:, 0]
    assert np.isfinite(exact).all()
    for search in (method.feature_tweak, method.growing_spheres, method.random_walk, method.nearest):
        others = measures.cost(table, x, search(problem, x, rng))[:, 0]
        assert (exact <= others + 1e-6)[np.isfinite(others)].all(), search.__name__


def test_feature_tweak_steps_just_over_a_split():
    frame = pd.DataFrame({"a": np.linspace(0, 1, 41), "b": np.linspace(0, 1, 41)[::-1]})
    table = encode("step", frame, (frame["a"] > 0.5).astype(int).to_numpy(), {"a": "free", "b": "fixed"})
    only_a = RandomForestClassifier(1, max_depth=1, max_features=None, random_state=0).fit(table.X * [1, 0], table.y)
    problem = Problem(table, Model(lambda x: only_a.predict_proba(x)[:, 1], kind="forest", inside=only_a))
    cut = only_a.estimators_[0].tree_.threshold[0]
    found = method.feature_tweak(problem, np.array([[0.2, 0.3]]), np.random.default_rng(0))
    assert found[0, 0] == pytest.approx([cut + 1e-4, 0.3], abs=1e-6)


def test_revert_takes_back_the_smallest_changes_first():
    problem = line_problem()
    both = encode(
        "both", pd.DataFrame({"income": [0.0, 1.0], "age": [0.0, 1.0]}), np.array([0, 1]), {"income": "free", "age": "free"}
    )
    problem = Problem(both, problem.model)
    x, z = np.array([[0.0, 0.0]]), np.array([[[0.9, 0.1]]])
    assert method.revert(problem, x, z, 0.5)[0, 0].tolist() == [0.9, 0.0]  # 3.6 + 0.1 - 3 > 0 without the age too
    z = np.array([[[0.7, 0.3]]])
    assert method.revert(problem, x, z, 0.5)[0, 0].tolist() == [0.7, 0.3]  # 2.8 alone is too little
    assert np.isnan(method.revert(problem, x, np.full((1, 1, 2), np.nan), 0.5)).all()


# ---------------------------------------------------------------- scorecards


def test_scorecard_leaves_out_a_feature_of_one_bin():
    table = make_table(300)
    constant = encode("toy", table.raw(table.X).assign(debt=0.0), table.y, {f.name: f.move for f in table.features})
    [card] = method.fit("scorecard", constant, 1, np.random.default_rng(0))
    names = [b.name for b in card.inside.bins]
    assert "debt" not in names and "income" in names


def test_scorecard_answers_move_bins_of_the_card_only(problems):
    problem = problems["scorecard"]
    x = refused(problem, 3)
    z = method.scorecard_mip(problem, x, np.random.default_rng(0))
    assert np.isfinite(z).all()
    names = [b.name for b in problem.model.inside.bins]
    raw, before = problem.table.raw(z[:, 0]), problem.table.raw(x)
    assert (measures.changed(problem.table, x, z) <= 5).all()
    assert (raw.drop(columns=names) == before.drop(columns=names)).all(axis=None)


# ---------------------------------------------------------------- measures


@pytest.fixture(scope="module")
def judge():
    table = make_table(300)
    base, *others = method.fit("linear", table, 4, np.random.default_rng(0))
    holdout = make_table(400, seed=9).X
    problem = Problem(table, base)
    return method.Judge(problem, others, holdout[problem.accepts(holdout)])


def test_no_change_measures_nothing_and_is_not_valid(judge):
    x = refused(judge.problem, 3)
    measured = judge.measure(x, x[:, None])
    assert (measured["found"] == 1).all() and (measured["valid"] == 0).all()
    for name in ("cost", "changed", "shift", "manifold", "survives", "actionable"):
        assert np.isnan(measured[name]).all(), name


def test_real_accepted_people_are_usual_and_survive(judge):
    x = refused(judge.problem, 1)
    rows = judge.accepted[None]  # as answers to one person
    assert np.median(judge.manifold(rows)) == pytest.approx(1.0, abs=0.1)
    assert judge.inlier(rows).mean() > 0.9
    assert judge.manifold(x[None] + 5)[0, 0] > 5
    copies = method.Judge(judge.problem, [judge.problem.model] * 2, judge.accepted)
    assert (copies.survives(rows) == 1).all() and 0.8 < judge.survives(rows).mean() < 1


def test_manifold_is_the_fifth_nearest_over_the_median_fifth_of_others(judge):
    unit = np.where(np.arange(7) < 3, 1 / judge.problem.table.spread[[0, 1, 2, 0, 0, 0, 0]], 0.5)
    unit[6] = 1 / judge.problem.table.spread[4]
    rows, point = judge.accepted, np.full(7, 0.4)
    fifth = np.sort((np.abs(rows - point) * unit).sum(1))[4]
    usual = np.median([np.sort((np.abs(rows - r) * unit).sum(1))[5] for r in rows])
    assert judge.manifold(point[None, None])[0, 0] == pytest.approx(fifth / usual)


def test_order_counts_pairs_that_break():
    frame = pd.DataFrame({"NumInqLast6Mexcl7days": [0, 2, 4], "NumInqLast6M": [0, 3, 5]})
    table = encode("HELOC", frame, np.array([0, 0, 1]), dict.fromkeys(frame, "free"))
    x = table.X[[1]]
    answers = np.array([[[0.75, 0.2], [0.25, 0.2], [np.nan, np.nan]]])  # 3 of 1, 1 of 1
    assert method.order(table, x, answers)[0].tolist()[:2] == [1, 0] and np.isnan(method.order(table, x, answers)[0, 2])
    broken = np.array([[0.75, 0.2]])  # 3 of 1 before any answer
    assert method.order(table, broken, broken[:, None])[0, 0] == 0
    assert np.isnan(method.order(make_table(), make_table().X[:1], make_table().X[None, :2])).all()


def test_diverse_is_the_mean_cost_to_the_other_answers():
    table = line_problem().table
    z = np.array([[[0.0, 0.0], [0.1, 0.0], [0.0, 0.2]]])
    a, b = 0.1 / table.spread[0], 0.2 / table.spread[1]
    np.testing.assert_allclose(method.diverse(table, z)[0], [(a + b) / 2, (a + a + b) / 2, (b + a + b) / 2])
    assert np.isnan(method.diverse(table, z[:, :1])).all()


def test_nudged_people_differ_a_little_in_what_may_move():
    table = make_table()
    moved = method.nudge(table, table.X, np.random.default_rng(0))
    assert (moved[:, -1] == table.X[:, -1]).all() and (moved[:, 2] >= table.X[:, 2]).all()
    assert 0 < np.abs(moved[:, :2] - table.X[:, :2]).max() <= 0.02


def test_numbers_only_rounds_to_a_hundredth_of_a_unit():
    table = method.numbers_only(make_table())
    assert [f.name for f in table.features] == ["years"]  # the others' range is less than one unit
    real = table.project(np.full((1, 1, 1), 0.33333), np.zeros((1, 1)))[0, 0, 0]
    assert real == pytest.approx(round(0.33333 * 8, 2) / 8)


def test_gaps_are_medians_over_people_whom_both_answered():
    values = pd.DataFrame({"a": [1.0, 2, 3, np.nan], "b": [2.0, 5, 4, 9], "c": [0.0, np.nan, np.nan, 1]})
    gaps = method.gaps(values)
    assert gaps.loc["a", "b"] == 1 and gaps.loc["b", "a"] == -1 and np.isnan(gaps.loc["a", "c"])


def test_ranks_are_among_those_that_answered():
    values = pd.DataFrame({"a": [1.0, 1], "b": [2.0, np.nan], "c": [3.0, 5]})
    assert method.mean_ranks(values).to_dict() == {"a": 0.0, "b": 0.5, "c": 1.0}


def test_rank_agreement_is_spearman_person_by_person():
    a = pd.DataFrame([[1.0, 2, 3, 4], [1, 2, 3, 4], [1, 2, np.nan, np.nan]], columns=list("abcd"))
    b = pd.DataFrame([[4.0, 3, 2, 1], [10, 20, 30, 40], [1, 2, 3, 4]], columns=list("abcd"))
    assert method.rank_agreement(a, b) == pytest.approx(0.0)
    assert method.rank_agreement(a.iloc[:1], b.iloc[:1]) == pytest.approx(-1.0)
    assert np.isnan(method.rank_agreement(a.iloc[2:], b.iloc[2:]))


# ---------------------------------------------------------------- models and errors


def test_models_are_trained_on_rows_of_their_own():
    table = make_table(300)
    for kind in method.KINDS:
        models = method.fit(kind, table, 3, np.random.default_rng(0), trees=8, epochs=40)
        scores = np.stack([m.score(table.X) for m in models])
        assert scores.shape == (3, 300) and ((scores >= 0) & (scores <= 1)).all()
        assert ((scores >= 0.5) == table.y).mean() > 0.85
        assert (scores.std(axis=0) > 0).any()
        assert models[0].calls == 300


def test_gradient_of_a_differentiable_model_is_its_slope():
    model, x = line_problem().model, np.array([[0.3, 0.4]])
    step = 1e-3
    slope = [(model.score(x + step * e) - model.score(x - step * e))[0] / 2 / step for e in np.eye(2)]
    np.testing.assert_allclose(model.gradient(x)[0], slope, rtol=1e-3)


def test_bad_input_is_named(problems):
    table = make_table()
    with pytest.raises(ValueError, match="kind must be one of linear, net, forest, scorecard, not 'tree'"):
        method.fit("tree", table, 1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="one class only"):
        method.fit("linear", table.rows(table.y == 1), 1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="accepted must hold more than 5 rows"):
        method.Judge(problems["linear"], [], table.X[:3])
    accepting = Problem(table.rows(problems["linear"].accepts(table.X)), problems["linear"].model)
    with pytest.raises(ValueError, match="at least two rows that the model refuses"):
        method.amortised(accepting, table.X[:1], np.random.default_rng(0))
