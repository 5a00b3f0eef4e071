"""Counterfactual distributions: influence functions against derivatives, descent and transport against closed forms and peers."""

import os

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.spatial.distance import cdist
from sklearn.metrics import confusion_matrix, roc_auc_score

from replications.recourse.counterfactual_distributions import method
from shared import data, seeding
from shared.data import adult, compas, ctfdist

METRICS = ("fpr", "fnr", "fdr", "cal")


def cells(n: int = 12, seed: int = 0) -> dict:
    """A made-up group of n cells: distribution, decisions in (0, 1) or 0/1, outcome shares, score."""
    rng = seeding.rng(seed, "cells")
    score = rng.uniform(0.05, 0.95, n)
    return {
        "p": rng.dirichlet(np.ones(n)), "p1": rng.dirichlet(np.ones(n)), "y": rng.uniform(0.1, 0.9, n), "score": score,
        "h": (score > 0.5).astype(float), "soft": rng.uniform(0.1, 0.9, n), "x": np.arange(n)[:, None],
    }  # fmt: skip


def disparities() -> dict[str, method.Disparity]:
    c = cells()
    gaps = {m: method.rate_gap(m, c["soft"], c["y"], 0.2) for m in METRICS}
    opposite = [method.rate_gap("fpr", c["soft"], c["y"], 0.0), method.rate_gap("fnr", c["soft"], c["y"], 1.0)]
    return gaps | {
        "outputs": method.alignment(c["soft"], c["p1"], 0.0), "alignment": method.alignment(c["soft"], c["p1"], 0.7),
        "mixture": method.mixture(opposite, [0.3, 0.7]),
    }  # fmt: skip


# ---------------------------------------------------------------- rates and influence functions


def people(c: dict, n: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cell, decision and outcome of n people of the group."""
    rng = seeding.rng(1, "people")
    cell = rng.choice(len(c["p"]), n, p=c["p"])
    return cell, c["h"][cell].astype(int), rng.binomial(1, c["y"][cell])


@pytest.mark.parametrize("metric", ["fpr", "fnr", "fdr"])
def test_rates_are_those_of_a_confusion_matrix(metric):
    c = cells()
    cell, called, outcome = people(c)
    (tn, fp), (fn, tp) = confusion_matrix(outcome, called)
    known = {"fpr": fp / (fp + tn), "fnr": fn / (fn + tp), "fdr": fp / (fp + tp)}[metric]
    counts = np.bincount(cell, minlength=12).astype(float)
    share = np.bincount(cell, outcome, minlength=12) / np.maximum(counts, 1)
    assert method.rate(metric, counts, c["h"], share) == pytest.approx(known)


def test_example_1_of_the_authors():
    """Calibration error: 39.5 % for group 0, 23.1 % with the other group's inputs, 0.0 % under their distribution."""
    x = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    p0, p1 = np.array([0.08, 0.02, 0.72, 0.18]), np.array([0.45, 0.45, 0.05, 0.05])
    h, y0, y1 = (x[:, 1] == 1).astype(float), 1 / (1 + np.exp(-x @ [2, 1])), 1 / (1 + np.exp(-x @ [1, 2]))
    gap = method.rate_gap("cal", h, y0, method.rate("cal", p1, h, y1))
    assert gap.value(p0) == pytest.approx(0.395, abs=5e-4)
    assert gap.value(p1) == pytest.approx(0.231, abs=5e-4)
    assert gap.value(np.array([0.42, 0.08, 0.08, 0.42])) == pytest.approx(0, abs=2e-3)


@pytest.mark.parametrize("name", disparities())
def test_influence_is_the_derivative_towards_each_point(name):
    disparity, p, step = disparities()[name], cells()["p"], 1e-6
    psi = disparity.influence(p)
    assert p @ psi == pytest.approx(0, abs=1e-12)
    for i, point in enumerate(np.eye(len(p))):
        up, down = (disparity.value((1 - s) * p + s * point) for s in (step, -step))
        assert psi[i] == pytest.approx((up - down) / (2 * step), rel=1e-4, abs=1e-6), f"cell {i}"


@pytest.mark.parametrize("name", disparities())
def test_a_disparity_does_not_ask_for_normalised_weights(name):
    disparity, p = disparities()[name], cells()["p"]
    assert disparity.value(500 * p) == pytest.approx(disparity.value(p))
    assert np.allclose(disparity.influence(500 * p), disparity.influence(p))


def test_alignment_is_kl_of_outputs_and_inputs():
    c = cells()
    a, b = c["p"] @ c["soft"], c["p1"] @ c["soft"]
    outputs = a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))
    inputs = sum(p * np.log(p / q) for p, q in zip(c["p"], c["p1"], strict=True))
    assert method.alignment(c["soft"], 3 * c["p1"], 0.7).value(c["p"]) == pytest.approx(outputs + 0.7 * inputs)
    assert method.alignment(c["soft"], c["p1"], 0.7).value(c["p1"]) == pytest.approx(0)


def test_alignment_where_a_cell_is_empty():
    c = cells()
    p = c["p"].copy()
    p[3] = 0
    m = method.alignment(c["soft"], c["p1"], 0.7)
    assert np.isfinite(m.value(p))
    assert np.isfinite(m.influence(p)).all()


def test_gaps_of_opposite_sign_do_not_cancel():
    c = cells()
    up, down = (method.rate_gap("fpr", c["soft"], c["y"], other) for other in (0.0, 1.0))
    mix = method.mixture([up, down], [0.5, 0.25])
    assert mix.value(c["p"]) == pytest.approx(0.5 * up.value(c["p"]) - 0.25 * down.value(c["p"]))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda c: method.rate("f1", c["p"], c["h"], c["y"]), "metric must be fpr, fnr, fdr or cal, not 'f1'"),
        (lambda c: method.rate("fpr", c["p"] * np.nan, c["h"], c["y"]), "p must be a vector"),
        (lambda c: method.rate("fdr", c["p"], 0 * c["h"], c["y"]), "fdr: p puts no weight"),
        (lambda c: method.rate("fpr", c["p"][1:], c["h"], c["y"]), "p must have one weight per cell"),
        (lambda c: method.rate_gap("fpr", c["h"] * np.nan, c["y"], 0.2), "h must be a vector of probabilities"),
        (lambda c: method.rate_gap("fpr", c["h"], c["y"] + 1, 0.2), "y must be a vector of probabilities"),
        (lambda c: method.rate_gap("fpr", c["h"], c["y"][:1], 0.2), "h and y must have one number per cell"),
        (lambda c: method.alignment(c["h"], -c["p1"], 0.1), "p1 must be a vector"),
        (lambda c: method.random_reweighting(c["p"], 100.0, seeding.rng(0)), "divergence must lie between"),
        (lambda c: method.transport(c["x"][1:], c["p"], c["p"]), "cells must be a finite table"),
        (lambda c: method.group_threshold("fpr", c["score"] * np.nan, c["p"], c["y"], 0.1), "score must be finite"),
        (lambda c: method.descent(method.rate_gap("fpr", c["h"], c["y"], 0.2), -c["p"]), "p must be a vector"),
        (lambda c: method.transport(c["x"], c["p"], 0 * c["p"]), "q must be a vector"),
        (lambda c: method.group_threshold("fdr", c["score"], c["p"], c["y"], 0.1), "metric must be fpr or fnr"),
        (lambda c: method.random_flips("fdr", c["h"], c["p"], c["y"], 0.0), "metric must be fpr or fnr"),
        (lambda c: method.random_flips("fpr", c["h"], c["p"], c["y"], 0.99), "target must be at most"),
        (lambda c: method.sampled_descent(None, c["p"], np.array([]), seeding.rng(0)), "holdout must be a vector"),
    ],
)
def test_bad_input_is_named(call, told):
    with pytest.raises(ValueError, match=told):
        call(cells())


# ---------------------------------------------------------------- descent

TWO = {"p": np.array([0.3, 0.7]), "h": np.array([0.0, 1.0]), "y": np.array([0.2, 0.6])}
ROOT = 0.28 / 0.54  # of the linear equation 0.4 q = 0.35 (0.8 (1 - q) + 0.4 q)


@pytest.mark.parametrize("start", [0.3, 0.7])
def test_descent_ends_where_the_gap_is_zero(start):
    """From above and from below: the sign of M turns psi."""
    gap = method.rate_gap("fpr", TWO["h"], TWO["y"], 0.35)
    path = method.descent(gap, np.array([1 - start, start]), step=0.01, iterations=1000)
    q = np.array([1 - start, start]) * path.best
    assert q[1] == pytest.approx(ROOT, abs=1e-3)
    assert path.weights.shape == (1001, 2)
    assert np.allclose(path.weights @ np.array([1 - start, start]), 1)
    assert path.gaps[0] == gap.value(np.array([1 - start, start]))


def test_one_step_is_one_minus_step_times_psi():
    gap = method.rate_gap("fpr", TWO["h"], TWO["y"], 0.35)
    path = method.descent(gap, TWO["p"], step=0.05, iterations=1)
    assert np.allclose(path.weights[1], 1 - 0.05 * gap.influence(TWO["p"]))


def test_steps_are_cut_so_that_weights_stay_positive():
    gap = method.rate_gap("fpr", TWO["h"], TWO["y"], 0.0)
    path = method.descent(gap, TWO["p"], step=100.0, iterations=5)
    assert (path.weights > 0).all()
    assert path.weights[1].min() < 1e-3  # cut just before 0, and no earlier


def test_the_best_iterate_is_the_one_nearest_to_zero():
    path = method.Descent(np.arange(8.0).reshape(4, 2), np.array([0.3, -0.01, 0.02, -0.5]))
    assert path.best.tolist() == [2, 3]


def test_descent_on_alignment_ends_at_the_other_group():
    c = cells()
    path = method.descent(method.alignment(c["soft"], c["p1"], 1.0), c["p"], iterations=200)
    assert np.allclose(c["p"] * path.best, c["p1"], atol=1e-6)


def test_turned_steps():
    """Ascent widens the gap; a turn that loses the mean gets it back."""
    gap = method.rate_gap("fpr", TWO["h"], TWO["y"], 0.35)
    assert method.descent(gap, TWO["p"], iterations=20, turn=lambda psi: -psi).gaps[-1] > gap.value(TWO["p"])
    shifted = method.descent(gap, TWO["p"], iterations=20, turn=lambda psi: psi + 3)
    assert np.allclose(shifted.gaps, method.descent(gap, TWO["p"], iterations=20).gaps)


def test_sampled_descent_follows_the_exact_one():
    c = cells()
    gap = method.rate_gap("fnr", c["h"], c["y"], 0.1)
    counts = np.round(4e6 * c["p"])
    exact = method.descent(gap, counts, step=0.05, iterations=15)
    path, resampled = method.sampled_descent(gap, counts, counts, seeding.rng(0), step=0.05, iterations=15, boots=3)
    assert resampled.shape == (16, 3)
    assert np.allclose(path.gaps, resampled.mean(axis=1))
    assert np.allclose(path.gaps, exact.gaps, atol=5e-3)
    assert np.allclose(path.weights, exact.weights, rtol=0.05)
    assert np.ptp(resampled[1:], axis=1).min() > 0


def test_resampling_keeps_every_cell():
    counts = np.array([1e4, 1, 0, 1e4])
    drawn = method._resample(counts, np.array([1.0, 1e-9, 1.0, 3.0]), seeding.rng(0))
    assert drawn[1] == 1
    assert drawn[2] == 0
    assert drawn[3] / drawn[0] == pytest.approx(3, rel=0.1)
    assert drawn.sum() == pytest.approx(counts.sum(), abs=2)


def test_random_reweighting_is_as_far_as_asked():
    p = cells()["p"]
    q = method.random_reweighting(5 * p, 0.2, seeding.rng(0))
    assert q.sum() == pytest.approx(1)
    assert sum(a * np.log(a / b) for a, b in zip(q, p, strict=True)) == pytest.approx(0.2, rel=1e-6)
    assert not np.allclose(q, method.random_reweighting(p, 0.2, seeding.rng(1)))


# ---------------------------------------------------------------- transport


def problem(n: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells (n, 7) of 0 and 1, p and q; some cells have weight in one of them only."""
    rng = seeding.rng(2, "transport")
    x = np.unique(rng.integers(0, 2, (200, 7)), axis=0)[:n]
    p, q = rng.dirichlet(np.ones(n), 2)
    p[:5], q[3:9] = 0, 0
    return x, p / p.sum(), q / q.sum()


def mean_cost(x, p, plan) -> float:
    return float((p[:, None] * plan.toarray() * cdist(x, x, "cityblock")).sum())


def test_transport_carries_p_to_q():
    x, p, q = problem()
    plan = method.transport(x, 7 * p, 3 * q)
    assert np.allclose(plan.sum(axis=1), 1)
    assert plan.toarray().min() >= 0
    assert np.allclose(p @ plan, q, atol=1e-9)
    assert np.allclose(plan.toarray()[p == 0], np.eye(len(p))[p == 0])  # nobody is there: stays


def test_rows_of_a_plan_sum_to_1_where_the_solver_is_inexact(monkeypatch):
    def inexact(*args, **kwargs):
        solved = linprog(*args, **kwargs)
        solved.x = solved.x + 1e-6
        return solved

    monkeypatch.setattr(method, "linprog", inexact)
    x, p, q = problem()
    assert np.allclose(method.transport(x, p, q).sum(axis=1), 1, atol=1e-12, rtol=0)


def test_transport_costs_what_the_whole_programme_costs():
    """Over all cells and routes at once, common mass included; features of several sizes."""
    x, p, q = problem()
    x = x * np.arange(1, 8)
    n = len(p)
    sums = np.vstack([np.kron(np.eye(n), np.ones(n)), np.kron(np.ones(n), np.eye(n))])
    whole = linprog(cdist(x, x, "cityblock").ravel(), A_eq=sums, b_eq=np.r_[p, q])
    assert mean_cost(x, p, method.transport(x, p, q)) == pytest.approx(whole.fun, rel=1e-7)


@pytest.mark.parametrize("near", [1, 3])
def test_few_routes_end_at_the_same_optimum(near):
    rng = seeding.rng(3, "cost")
    cost, supply, demand = rng.uniform(0, 1, (15, 20)), rng.dirichlet(np.ones(15)) * 0.1, rng.dirichlet(np.ones(20)) * 0.1
    few, all_routes = (method._cheapest(cost, supply, demand, near=k) for k in (near, 20))
    assert (few * cost).sum() == pytest.approx((all_routes * cost).sum(), rel=1e-9)
    assert np.allclose(few.sum(axis=1), supply) and np.allclose(few.sum(axis=0), demand)


def test_transport_costs_what_pot_says():
    ot = pytest.importorskip("ot", reason="POT, the peer for optimal transport, is not installed: pip install --no-deps POT")
    x, p, q = problem()
    known = ot.emd2(p, q, cdist(x, x, "cityblock"))
    assert mean_cost(x, p, method.transport(x, p, q)) == pytest.approx(known, rel=1e-7)


def test_no_difference_no_disguise():
    x, p, _ = problem()
    assert np.allclose(method.transport(x, p, p).toarray(), np.eye(len(p)))


def test_transport_between_two_cells():
    plan = method.transport(np.array([[0], [1]]), np.array([0.8, 0.2]), np.array([0.6, 0.4]))
    assert np.allclose(plan.toarray(), [[0.75, 0.25], [0, 1]])


# ---------------------------------------------------------------- rivals and measures


@pytest.mark.parametrize("metric", ["fpr", "fnr"])
@pytest.mark.parametrize("target", [0.0, 0.13, 0.5, 1.0])
def test_threshold_reaches_its_target(metric, target):
    c = cells(60)
    score = np.round(c["score"], 1)  # with ties
    called = method.group_threshold(metric, score, c["p"], c["y"], target)
    assert method.rate(metric, c["p"], called, c["y"]) == pytest.approx(target, abs=1e-9)
    assert ((called >= 0) & (called <= 1)).all()
    assert (np.diff(called[np.argsort(score, kind="stable")]) >= 0).all()  # a higher score is never called less
    assert len(np.unique(score[(called > 0) & (called < 1)])) <= 1


def test_threshold_where_nobody_is_counted():
    """Cells without people are called like those around them."""
    called = method.group_threshold("fpr", np.array([0.9, 0.8, 0.1]), np.array([1.0, 0.0, 1.0]), np.array([0.5, 0.5, 0.5]), 0.5)
    assert called.tolist() == [1, 0, 0]
    called = method.group_threshold("fpr", np.array([0.9, 0.8, 0.1]), np.array([0.0, 1.0, 1.0]), np.array([0.5, 0.5, 0.5]), 0.5)
    assert called.tolist() == [1, 1, 0]


@pytest.mark.parametrize("metric", ["fpr", "fnr"])
def test_random_flips_reach_their_target_blindly(metric):
    c = cells()
    now = method.rate(metric, c["p"], c["h"], c["y"])
    plan = method.random_flips(metric, c["h"], c["p"], c["y"], now / 3)
    assert np.allclose(plan.sum(axis=1), 1)
    called = plan @ c["h"]
    assert method.rate(metric, c["p"], called, c["y"]) == pytest.approx(now / 3)
    for decision in (0, 1):
        assert np.ptp(called[c["h"] == decision]) == pytest.approx(0)  # one same probability
    moved = (c["h"] == 1) if metric == "fpr" else (c["h"] == 0)
    landed = plan.toarray()[moved][:, ~moved]
    assert np.allclose(landed / landed.sum(axis=1, keepdims=True), c["p"][~moved] / c["p"][~moved].sum())


def test_reweighing_makes_group_and_outcome_independent():
    rng = seeding.rng(4)
    group = rng.choice(["a", "b"], 500, p=[0.3, 0.7])
    y = rng.binomial(1, np.where(group == "a", 0.2, 0.6))
    w = method.reweighing(group, y)
    means = [np.average(y[group == g], weights=w[group == g]) for g in "ab"]
    assert np.allclose(means, y.mean())
    assert [w[group == g].sum() for g in "ab"] == pytest.approx([(group == g).sum() for g in "ab"])


def test_auc_of_weights_is_auc_of_people():
    c = cells()
    cell, _, outcome = people(c)
    positive, negative = (np.bincount(cell[outcome == v], minlength=12).astype(float) for v in (1, 0))
    assert method.auc(c["score"], positive, negative) == pytest.approx(roc_auc_score(outcome, c["score"][cell]))


def test_kl():
    assert method.kl(np.array([1.0, 3.0]), np.array([5.0, 5.0])) == pytest.approx(0.25 * np.log(0.5) + 0.75 * np.log(1.5))
    assert method.kl(np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(np.log(2))
    assert method.kl(np.array([1.0, 1.0]), np.array([1.0, 0.0])) == np.inf


# ---------------------------------------------------------------- data


def test_adult():
    features, y = adult.load()
    assert features.shape == (32561, 14)
    assert y.sum() == 7841  # as the data set's description says
    assert features["Sex"].value_counts().to_dict() == {"Male": 21790, "Female": 10771}
    assert not features.isna().any().any()


def test_compas():
    features, y = compas.load()
    assert features.shape == (6172, 12)  # ProPublica's number
    assert y.mean() == pytest.approx(0.4551, abs=1e-4)
    assert features["race"].value_counts()["African-American"] == 3175
    assert len(compas.table()) == 7214
    assert not {"name", "first", "last", "dob"} & set(compas.table())


def test_nothing_in_compas_gives_the_label_away():
    features, y = compas.load()
    for name in features.columns:
        for _, labels in features.assign(y=y).groupby(name)["y"]:
            assert len(labels) < 60 or 0.05 < labels.mean() < 0.95, name


@pytest.mark.parametrize(
    ("name", "cells_known", "groups"), [("adult", 1267, {"Male", "Female"}), ("compas", 137, {"white", "non-white"})]
)
def test_binary_tables(name, cells_known, groups):
    t = ctfdist.load(name)
    assert len(t.features.drop_duplicates()) == cells_known  # the authors' number of distinct rows
    assert set(np.unique(t.features)) == {0, 1}
    assert set(t.group) == groups
    assert len(t.features) == len(t.y) == len(t.group)


@pytest.mark.parametrize("name", ["adult", "compas"])
def test_binary_tables_are_the_authors(name):
    if not os.environ.get("REPLICATIONS_DATA"):
        pytest.skip("REPLICATIONS_DATA is not set: the authors' own tables are not here")
    ours, theirs = ctfdist.load(name), ctfdist.load(f"authors-{name}")
    assert list(ours.features) == list(theirs.features)
    assert (ours.features.to_numpy() == theirs.features.to_numpy()).all()
    assert (ours.y == theirs.y).all()
    assert (ours.group == theirs.group).all()


def test_the_authors_files_are_read(tmp_path, monkeypatch):
    """On a tiny file of their form."""
    (tmp_path / "tabular-recourse").mkdir()
    rows = "arrest,race,age_leq_24,female\n0,white,TRUE,0\n1,non-white,TRUE,0\n"  # both ways of writing 1
    (tmp_path / "tabular-recourse" / "ctfdist_compas_proxy_data.csv").write_text(rows)
    monkeypatch.setenv("REPLICATIONS_DATA", str(tmp_path))
    t = ctfdist.load("authors-compas")
    assert t.features.to_numpy().tolist() == [[1, 0], [1, 0]]
    assert t.y.tolist() == [0, 1]
    assert t.group.tolist() == ["white", "non-white"]


def test_unknown_table():
    with pytest.raises(data.DataError, match="'law' is not one of adult, compas"):
        ctfdist.load("law")
