"""Scorecard counterfactuals: the programme against enumeration by hand, binner and judges against closed forms, and a peer."""

from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from replications.recourse.scorecard_counterfactuals import method
from shared import seeding

HARD = ("features", "values")


def made_up(
    seed: int = 0, p: int = 5, n_bins: int = 4, intercept: float = 0.0
) -> tuple[method.Scorecard, method.Query, np.ndarray]:
    """A card of p features with n_bins ordinary bins each, a refused person at bin 0 throughout, and the units r_i."""
    rng = seeding.rng(seed, "card")
    bins = tuple(
        method.Bins(f"f{i}", np.arange(n_bins - 1) + 0.5, (), None, np.r_[-np.sort(rng.uniform(-1, 1, n_bins))[::-1], 0.0])
        for i in range(p)
    )
    coef = rng.uniform(0.5, 1.5, p)
    a = rng.standard_normal((p, p))
    covariance = a @ a.T + np.eye(p)
    factor = np.linalg.cholesky(np.linalg.inv(covariance))
    card = method.Scorecard(bins, intercept, coef, rng.uniform(-0.3, 0.3, p), factor)
    return card, method.query(card, np.zeros(p, dtype=int), ["free"] * p), card.units()


def by_hand(card, asked, unit, most):
    """Every accepted row with its proximity and closeness, by loops."""
    p, found = len(card.bins), {}
    for codes in product(*([asked.start[i], *asked.offers[i]] for i in range(p))):
        if sum(a != b for a, b in zip(codes, asked.start, strict=True)) > most:
            continue
        x = np.array([b.worth[j] for b, j in zip(card.bins, codes, strict=True)])
        start = np.array([b.worth[j] for b, j in zip(card.bins, asked.start, strict=True)])
        if card.intercept + sum(c * v for c, v in zip(card.coef, x, strict=True)) < 1e-6:
            continue
        near = sum(r * abs(v - w) for r, v, w in zip(unit, x, start, strict=True))
        close = sum(abs(sum(card.factor[j, i] * (x[j] - card.mean[j]) for j in range(p))) for i in range(p))
        found[tuple(int(c) for c in codes)] = (near, close)
    return found


# ---------------------------------------------------------------- the scorecard


def raw(n: int = 3000, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    rng = seeding.rng(seed, "raw")
    frame = pd.DataFrame({"months": rng.integers(0, 100, n), "job": rng.choice(["a", "b", "c"], n)})
    y = rng.binomial(1, np.where(frame["months"] > 50, 0.8, 0.2) * np.where(frame["job"] == "b", 0.5, 1.0))
    frame.loc[:99, "months"] = -9
    return frame, y


def test_bins_of_numbers_and_of_special_codes():
    frame, y = raw()
    bins = method.fit_bins(frame["months"], y, special=(-9.0, -8.0), max_bins=4)
    assert np.abs(bins.edges - 50.5).min() < 0.01  # the step is found
    assert bins.ordinary <= 4
    assert len(bins.worth) == bins.ordinary + 3
    index = bins.index(pd.Series([bins.edges[0], bins.edges[0] + 0.1, 1e9, -9, -8, np.nan]))
    assert index.tolist() == [0, 1, bins.ordinary - 1, bins.ordinary, bins.ordinary + 1, bins.ordinary + 2]
    shares = np.bincount(bins.index(frame["months"])) / len(frame)
    assert shares[: bins.ordinary].min() >= 0.05
    assert bins.worth[-2] == bins.worth[-1] == 0  # nobody is there


def test_bins_of_words_are_ranked_by_outcome():
    frame, y = raw()
    bins = method.fit_bins(frame["job"], y)
    assert bins.levels["b"] == 0
    index = bins.index(pd.Series(["b", "a", "never seen"]))
    assert index[0] == 0 and index[1] > 0 and index[2] == bins.ordinary
    assert bins.worth[0] > bins.worth[bins.ordinary - 1]  # fewer events: a higher weight of evidence
    assert bins.label(0) == "b"


def test_labels_and_the_nearest_edge():
    bins = method.Bins("f", np.array([3.5, 9.5, 10.5]), (-9.0,), None, np.zeros(6))
    assert [bins.label(j) for j in range(6)] == ["up to 3", "4 to 9", "10", "over 10", "code -9", "unseen"]
    assert [bins.nearest(20.0, j) for j in range(4)] == [3, 9, 10, 20]
    assert [bins.nearest(1.0, j) for j in range(4)] == [1, 4, 10, 11]


def test_weight_of_evidence_by_hand():
    index, y = np.repeat([0, 1], [30, 70]), np.r_[np.ones(20), np.zeros(10), np.ones(20), np.zeros(50)]
    w = method.weight_of_evidence(index, y, 3)
    assert w == pytest.approx([np.log((10.5 / 60) / (20.5 / 40)), np.log((50.5 / 60) / (20.5 / 40)), 0])
    assert method.bin_means(index, y, 3) == pytest.approx([2 / 3, 2 / 7, 0.4])


def test_information_value_by_hand():
    frame, y = raw()
    bins = method.fit_bins(frame["months"], y, special=(-9.0,))
    index, told = bins.index(frame["months"]), 0.0
    for j in range(len(bins.worth)):
        told += ((index[y == 0] == j).mean() - (index[y == 1] == j).mean()) * bins.worth[j]
    assert method.information_value(bins, frame["months"], y) == pytest.approx(told)
    assert told > 0.5


def test_a_scorecard_is_a_regression_on_its_bins():
    frame, y = raw()
    bins = [method.fit_bins(frame[name], y, special=(-9.0,)) for name in ("months", "job")]
    card = method.fit_scorecard(bins, frame, y)
    codes = card.codes(frame)
    x = np.stack([b.worth[codes[:, i]] for i, b in enumerate(bins)], axis=1)
    known = LogisticRegression(C=100).fit(x, y)
    assert card.score(codes) == pytest.approx(known.decision_function(x), abs=1e-3)
    assert (card.coef < 0).all()  # more evidence of non-events, a lower score
    low, high = card.span()
    every = np.array(list(product(*(range(len(b.worth)) for b in bins))))
    assert (low, high) == pytest.approx((card.score(every).min(), card.score(every).max()))
    assert np.allclose(np.linalg.inv(card.factor @ card.factor.T), np.cov(x.T))
    assert np.allclose(card.factor, np.tril(card.factor))
    assert np.allclose(card.mean, x.mean(axis=0))
    widths = np.array([b.worth.max() - b.worth.min() for b in bins])
    assert np.allclose(card.units("values"), 1 / widths)
    assert np.allclose(card.units(), 1 / (widths * -card.coef))


def test_a_continuous_card_is_least_squares():
    frame, _ = raw()
    target = np.where(frame["months"] > 50, 3.0, 1.0)
    card = method.fit_scorecard(
        [method.fit_bins(frame[name], target, target="continuous") for name in ("months", "job")],
        frame,
        target,
        target="continuous",
    )
    assert card.score(card.codes(frame)) == pytest.approx(target, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda f, y: method.fit_bins(f["months"], y[:-1]), "y must be finite, of shape"),
        (lambda f, y: method.fit_bins(f["months"], 0 * y), "hold both 0 and 1"),
        (lambda f, y: method.centre(np.ones((5, 2)) * np.arange(5)[:, None]), "singular covariance"),
        (lambda f, y: method.query(made_up()[0], np.full(5, 9), ["free"] * 5), "start must hold one bin number"),
        (lambda f, y: method.solve(*made_up(), k=0), "k must be >= 1"),
        (lambda f, y: method.solve(*made_up(), max_changes=-1), "max_changes >= 0"),
        (lambda f, y: method.solve(*made_up()[:2], np.ones(4)), "unit must hold 5 positive numbers"),
        (lambda f, y: method.solve(*made_up()[:2], np.full(5, np.nan)), "unit must hold 5 positive numbers"),
        (lambda f, y: method.solve(*made_up(), objectives={"nearness": 1.0}), "nearness"),
        (lambda f, y: method.solve(*made_up(), diverse=("feature",)), "feature"),
        (lambda f, y: method.solve(*made_up(), objectives={"outcome": 1.0}), "outcome must have an aim"),
    ],
)
def test_bad_input_is_named(call, told):
    with pytest.raises(ValueError, match=told):
        call(*raw())


# ---------------------------------------------------------------- moves and costs


def test_what_may_be_moved():
    worth = np.array([0.0, 1.0, 1.0, 2.0, 5.0, 0.0])  # four ordinary bins, two of one value; a code; unseen
    card = method.Scorecard((method.Bins("f", np.arange(3.0), (-9.0,), None, worth),), 0.0, np.ones(1), np.zeros(1), np.eye(1))

    def offers(j, move):
        return method.query(card, np.array([j]), [move]).offers[0].tolist()

    assert offers(1, "free") == [0, 3]  # bin 2 has the same value: no move
    assert offers(1, "up") == [3]
    assert offers(1, "down") == [0]
    assert offers(0, "fixed") == []
    assert offers(4, "free") == offers(5, "free") == []


@pytest.mark.parametrize("most", [0, 1, 2, 5])
def test_enumeration_is_complete(most):
    card, asked, unit = made_up(1)
    rows = method.enumerate_moves(asked, most)
    assert len(rows) == len(np.unique(rows, axis=0)) == sum(len(list(combinations(range(5), m))) * 3**m for m in range(most + 1))
    rows = rows[method.accepted(card, rows)]
    known = by_hand(card, asked, unit, most)
    assert {tuple(r) for r in rows.tolist()} == set(known)
    near, close = method.proximity(card, asked.start, rows, unit), method.closeness(card, rows)
    for r, a, b in zip(rows.tolist(), near, close, strict=True):
        assert (a, b) == pytest.approx(known[tuple(r)])


# ---------------------------------------------------------------- the programme


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("objectives", [method.BOTH, {"proximity": 1.0}, {"closeness": 1.0}, {"proximity": 0.3, "closeness": 2.0}])
def test_one_answer_is_the_best_by_hand(seed, objectives):
    card, asked, unit = made_up(seed)
    known = by_hand(card, asked, unit, 3)
    solved = method.solve(card, asked, unit, objectives=objectives)
    best = min(sum(w * v[name == "closeness"] for name, w in objectives.items()) for v in known.values())
    assert solved.status == "optimal"
    assert sum(w * solved.objectives[name] for name, w in objectives.items()) == pytest.approx(best, abs=1e-6)
    own = known[tuple(solved.codes[0].tolist())]  # accepted, and in reach
    assert sum(w * own[name == "closeness"] for name, w in objectives.items()) == pytest.approx(best, abs=1e-6)


def test_only_the_offered_bins_are_taken():
    card, asked, unit = made_up(2)
    held = method.query(card, asked.start, ["fixed", "free", "fixed", "free", "free"])
    solved = method.solve(card, held, unit)
    assert solved.codes[0][[0, 2]].tolist() == [0, 0]
    known = by_hand(card, held, unit, 3)
    assert sum(solved.objectives.values()) == pytest.approx(min(sum(v) for v in known.values()), abs=1e-6)


def test_without_moves_there_is_no_answer_and_it_says_so():
    card, asked, unit = made_up(0)
    assert not method.accepted(card, asked.start)
    solved = method.solve(card, asked, unit, max_changes=0)
    assert solved.status == "infeasible" and solved.codes is None


def test_a_limit_is_told_apart_from_infeasible():
    """A programme of several nodes, cut off at one, is neither optimal nor infeasible."""
    card, asked, unit = made_up(3, p=6)
    cut, whole = (method.solve(card, asked, unit, k=2, diverse=HARD, node_limit=n) for n in (1, 300))
    assert (cut.status, whole.status) == ("limit", "optimal")
    assert cut.gap > 0 and whole.gap == pytest.approx(0, abs=1e-6)
    assert whole.nodes > cut.nodes


def test_a_limit_in_an_earlier_step_is_told(monkeypatch):
    card, asked, unit = made_up(3, p=6)
    solve, limits, statuses = method.Program.solve, iter([1, 500]), []

    def step(program, cost, node_limit, *, relax=False):
        found = solve(program, cost, next(limits), relax=relax)
        statuses.append(found.status == 0)
        return found

    monkeypatch.setattr(method.Program, "solve", step)
    solved = method.solve(
        card, asked, unit, k=2, diverse=HARD, order="hierarchical", objectives={"proximity": 2.0, "closeness": 1.0}
    )
    assert statuses == [False, True] and solved.status == "limit"


def test_outcome_zero_asks_for_a_score_of_zero_at_most():
    card, _, unit = made_up(1)
    top = method.query(card, np.full(5, 3), ["free"] * 5)
    assert method.accepted(card, top.start)
    solved = method.solve(card, top, unit, outcome=method.Outcome(low=-np.inf, high=0.0))
    rows = method.enumerate_moves(top, 3)
    rows = rows[card.score(rows) <= 0]
    best = (method.proximity(card, top.start, rows, unit) + method.closeness(card, rows)).min()
    assert sum(solved.objectives.values()) == pytest.approx(best, abs=1e-6)
    assert card.score(solved.codes[0]) <= 1e-9


def test_hierarchical_keeps_the_first_objective_near_its_optimum():
    card, asked, unit = made_up(4)
    known = list(by_hand(card, asked, unit, 3).values())
    least = min(near for near, _ in known)
    objectives = {"closeness": 1.0, "proximity": 2.0}  # by weight, not by place
    for tolerance in (0.0, 0.1, 0.5):
        solved = method.solve(card, asked, unit, objectives=objectives, order="hierarchical", tolerance=tolerance)
        best = min(close for near, close in known if near <= (1 + tolerance) * least + 1e-9)
        assert solved.objectives["closeness"] == pytest.approx(best, abs=1e-6)
        assert solved.objectives["proximity"] <= (1 + tolerance) * least + 1e-6


def test_piecewise_sigmoid():
    knots, level, slope = method.piecewise_sigmoid(-6, 5)
    s = np.linspace(-6, 5, 500)[1:-1]
    r = np.searchsorted(knots, s) - 1
    assert len(slope) == 15
    assert np.abs(level[r] + slope[r] * s - expit(s)).max() < 0.02
    assert np.allclose(level[:-1] + slope[:-1] * knots[1:-1], level[1:] + slope[1:] * knots[1:-1])  # continuous
    interpolated = np.interp(np.linspace(-6, 5, 100), knots, expit(knots))
    fit = np.interp(np.linspace(-6, 5, 100), knots, np.r_[level + slope * knots[:-1], level[-1] + slope[-1] * knots[-1]])
    error = [np.abs(f - expit(np.linspace(-6, 5, 100))).sum() for f in (fit, interpolated)]
    assert error[0] < error[1]  # closer in L1 than through the knots' own values


@pytest.mark.parametrize("bound", [{"low": 0.6}, {"low": 0.52, "high": 0.6}])
def test_probability_bounds_are_score_bounds(bound):
    card, asked, unit = made_up(5)
    knots, level, slope = method.piecewise_sigmoid(*card.span())
    rows = method.enumerate_moves(asked, 3)
    s = card.score(rows)
    r = np.clip(np.searchsorted(knots, s) - 1, 0, len(slope) - 1)
    f = level[r] + slope[r] * s
    inside = rows[(f >= bound.get("low", 0)) & (f <= bound.get("high", 1))]
    best = (method.proximity(card, asked.start, inside, unit) + method.closeness(card, inside)).min()
    solved = method.solve(card, asked, unit, outcome=method.Outcome(of="probability", **{"high": 1.0} | bound))
    assert sum(solved.objectives.values()) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("of", ["score", "probability"])
def test_soft_outcome(of):
    card, asked, unit = made_up(1)
    card = method.Scorecard(card.bins, 0.2, card.coef, card.mean, card.factor)
    aim = {"score": 0.8, "probability": 0.7}[of]
    outcome = method.Outcome(low=-np.inf, of=of, aim=aim)
    solved = method.solve(card, asked, unit, objectives={"proximity": 0.1, "outcome": 5.0}, outcome=outcome)
    rows = method.enumerate_moves(asked, 3)
    reached = card.score(rows) if of == "score" else expit(card.score(rows))
    total = 0.1 * method.proximity(card, asked.start, rows, unit) + 5 * np.abs(reached - aim)
    mine = 0.1 * solved.objectives["proximity"] + 5 * solved.objectives["outcome"]
    assert mine == pytest.approx(total.min(), abs=1e-5 if of == "score" else 0.05)


# ---------------------------------------------------------------- several at once


def least_sum(card, asked, unit, k, diverse, reward=None):
    """The least total over all k-sets of accepted rows, by loops; `reward` (features, values) makes diversity soft."""
    known = by_hand(card, asked, unit, 2)
    start, best = tuple(asked.start.tolist()), np.inf
    rows = list(known)
    for chosen in combinations(rows, k) if reward is None else product(rows, repeat=k):
        total = sum(sum(known[r]) for r in chosen)
        for one, two in combinations(chosen, 2):
            moved = [{(i, j) for i, j in enumerate(r) if j != start[i]} for r in (one, two)]
            features = [{i for i, _ in m} for m in moved]
            if ("features" in diverse and features[0] == features[1]) or ("values" in diverse and moved[0] & moved[1]):
                total = np.inf
            if reward is not None:
                total -= reward[0] * len(features[0] ^ features[1]) + reward[1] * len(moved[0] ^ moved[1])
        best = min(best, total)
    return best


@pytest.mark.parametrize("diverse", [("features",), ("values",), HARD])
@pytest.mark.parametrize("k", [2, 3])
def test_diverse_sets_three_ways(k, diverse):
    """By hand, by branch and bound, and by the programme."""
    card, asked, unit = made_up(7, p=4, n_bins=3, intercept=0.5)
    known = least_sum(card, asked, unit, k, diverse)
    rows = method.enumerate_moves(asked, 2)
    rows = rows[method.accepted(card, rows)]
    cost = method.proximity(card, asked.start, rows, unit) + method.closeness(card, rows)
    order = np.argsort(cost)
    best = method.best_set(cost[order], method.compatible(asked.start, rows[order], diverse), k)
    assert best is not None and cost[order][best].sum() == pytest.approx(known)
    solved = method.solve(card, asked, unit, max_changes=2, k=k, diverse=diverse)
    assert solved.status == "optimal"
    assert sum(solved.objectives.values()) == pytest.approx(known, abs=1e-6)
    assert solved.codes.shape == (k, 4)


@pytest.mark.parametrize("reward", [(0.8, 0.0), (0.0, 0.6)])
def test_soft_diversity(reward):
    card, asked, unit = made_up(7, p=4, n_bins=3, intercept=0.5)
    objectives = {**method.BOTH, "features": reward[0], "values": reward[1]}
    solved = method.solve(card, asked, unit, max_changes=2, k=2, objectives=objectives)
    total = sum(weight * solved.objectives[name] for name, weight in objectives.items())
    assert total == pytest.approx(least_sum(card, asked, unit, 2, (), reward), abs=1e-6)


def test_soft_sets():
    card, asked, unit = made_up(7, p=4, n_bins=3, intercept=0.5)
    rows = method.enumerate_moves(asked, 2)
    rows = rows[method.accepted(card, rows)]
    cost = method.proximity(card, asked.start, rows, unit) + method.closeness(card, rows)
    joint, stepwise = method.soft_sets(cost, asked.start, rows, 0.8)
    assert joint == pytest.approx(least_sum(card, asked, unit, 3, (), (0.8, 0.0)))
    sets = (rows != asked.start).astype(int)
    first, total = [int(cost.argmin())], cost.min()
    for _ in range(2):
        step = cost - 0.8 * sum(np.abs(sets - sets[i]).sum(axis=1) for i in first)
        first.append(int(step.argmin()))
        total += step.min()
    assert stepwise == pytest.approx(total)


def test_one_by_one_is_best_for_feature_sets_alone_but_not_for_values():
    savings = {("features",): [], HARD: []}
    for seed in range(8):
        card, asked, unit = made_up(seed)
        rows = method.enumerate_moves(asked, 3)
        rows = rows[method.accepted(card, rows)]
        cost = np.sort(method.proximity(card, asked.start, rows, unit))
        rows = rows[np.argsort(method.proximity(card, asked.start, rows, unit))]
        for diverse, found in savings.items():
            good = method.compatible(asked.start, rows, diverse)
            joint, stepwise = method.best_set(cost, good, 3), method.sequential_set(good, 3)
            if stepwise is not None:
                found.append(cost[stepwise].sum() - cost[joint].sum())
    assert np.allclose(savings["features",], 0)
    assert max(savings[HARD]) > 0.01 and min(savings[HARD]) >= 0


def test_a_set_that_only_joint_search_finds():
    good = np.zeros((4, 4), dtype=bool)
    good[1, 2] = good[2, 1] = True  # the cheapest row goes with none
    assert method.sequential_set(good, 2) is None
    assert method.best_set(np.arange(4.0), good, 2) == [1, 2]
    assert method.best_set(np.arange(4.0), good, 3) is None


# ---------------------------------------------------------------- rivals and outside measures


@pytest.mark.parametrize("seed", range(5))
def test_rivals_keep_the_rules_and_are_never_better(seed):
    card, asked, unit = made_up(seed)
    rows = method.enumerate_moves(asked, 3)
    rows = rows[method.accepted(card, rows)]
    least = method.proximity(card, asked.start, rows, unit).min()
    answers = [method.greedy(card, asked, unit, 3, by) for by in ("ratio", "gain")]
    answers.append(method.random_search(card, asked, unit, 3, seeding.rng(seed)))
    answers.append(method.nearest_row(card, asked, unit, rows[5:], 3))
    assert answers[1] is not None  # most gain reaches whatever can be reached
    for z in answers:
        if z is None:
            continue
        assert (rows == z).all(axis=1).any()
        pruned = method.prune(card, asked, unit, z)
        assert (rows == pruned).all(axis=1).any()
        cost = [method.proximity(card, asked.start, v, unit) for v in (z, pruned)]
        assert least - 1e-9 <= cost[1] <= cost[0] + 1e-9


def cheap(worths, intercept, unit):
    """A card of features with the given bin values, coefficients 1, person at bin 0."""
    bins = tuple(method.Bins(f"f{i}", np.arange(len(w) - 1) + 0.5, (), None, np.r_[w, 0.0]) for i, w in enumerate(worths))
    card = method.Scorecard(bins, intercept, np.ones(len(worths)), np.zeros(len(worths)), np.eye(len(worths)))
    return card, method.query(card, np.zeros(len(worths), dtype=int), ["free"] * len(worths)), np.array(unit, dtype=float)


def test_greedy_by_hand():
    """Two features, 1.5 missing: the first is cheap and gives 1, the second is dear and gives 1 or 2."""
    card, asked, unit = cheap([[0.0, 1.0], [0.0, 1.0, 2.0]], -1.5, [1.0, 3.0])
    assert method.greedy(card, asked, unit, 2, "ratio").tolist() == [1, 1]  # cost 1 + 3
    assert method.greedy(card, asked, unit, 2, "gain").tolist() == [0, 2]  # cost 6
    assert method.greedy(card, asked, unit, 1, "ratio").tolist() == [0, 2]  # the last move must be enough
    assert method.greedy(card, asked, unit, 0, "ratio") is None
    card, asked, unit = cheap([[0.0, 1.0, 2.0], [0.0, 1.0]], -2.5, [1.0, 5.0])
    assert method.greedy(card, asked, unit, 2, "ratio").tolist() == [2, 1]  # of one feature's equal ratios the longest step
    card, asked, unit = cheap([[0.0, 1.0], [0.0, 1.0, 2.0]], -0.5, [1.0, 3.0])
    assert method.greedy(card, asked, unit, 2, "gain").tolist() == [1, 0]  # more than is missing counts for nothing


def test_the_relaxation_is_rounded_by_hand():
    """The first feature is cheaper per gain and moves whole, the second by what is missing."""
    near = {"proximity": 1.0}
    for missing, part, relaxed, whole in ((1.5, [1, 0], 2.5, [0, 1]), (2.5, [1, 1], 5.5, [1, 1])):
        card, asked, unit = cheap([[0.0, 1.0], [0.0, 2.0]], -missing, [1.0, 3.0])
        solved = method.solve(card, asked, unit, objectives=near, relax=True)
        assert solved.codes[0].tolist() == part
        assert solved.objectives["proximity"] == pytest.approx(relaxed, abs=1e-4)
        assert method.solve(card, asked, unit, objectives=near).codes[0].tolist() == whole


def test_prune_by_hand():
    card, asked, unit = cheap([[0.0, 1.0], [0.0, 1.0, 2.0]], -0.5, [1.0, 3.0])
    assert method.prune(card, asked, unit, np.array([1, 2])).tolist() == [1, 0]  # undoing the dear one saves most
    assert method.prune(card, asked, unit, np.array([0, 2])).tolist() == [0, 1]


def test_random_search_and_nearest_row_without_an_answer():
    card, asked, unit = cheap([[0.0, 1.0]], -5.0, [1.0])
    assert method.random_search(card, asked, unit, 3, seeding.rng(0)) is None
    assert method.nearest_row(card, asked, unit, np.array([[0], [1]]), 3) is None
    stuck = method.Query(asked.start, (np.array([], dtype=int),))
    assert method.random_search(card, stuck, unit, 3, seeding.rng(0)) is None


def test_nearest_row_obeys_moves_and_their_number():
    card, asked, unit = cheap([[0.0, 1.0], [0.0, 1.0, 2.0]], -0.5, [1.0, 3.0])
    rows = np.array([[1, 1], [0, 2], [0, 1], [0, 0]])
    assert method.nearest_row(card, asked, unit, rows, 1).tolist() == [0, 1]
    held = method.Query(asked.start, (asked.offers[0], np.array([2])))
    assert method.nearest_row(card, held, unit, rows, 1).tolist() == [0, 2]


def test_neighbour_distance():
    rows = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]])
    assert method.neighbour_distance(np.array([[0, 0, 0], [1, 1, 1]]), rows, nth=2).tolist() == [1, 1]
    assert method.neighbour_distance(rows[:1], rows, nth=4).tolist() == [3]


def test_chow_liu_finds_a_chain_and_its_probabilities():
    rng = seeding.rng(0, "chain")
    n = 40_000
    a = rng.integers(0, 3, n)
    b = np.where(rng.random(n) < 0.8, a, rng.integers(0, 3, n))
    c = np.where(rng.random(n) < 0.7, b % 2, rng.integers(0, 2, n))
    codes = np.stack([a, c, b], axis=1)  # the chain is 0 - 2 - 1
    tree = method.chow_liu(codes, [3, 2, 3])
    assert {frozenset((i, parent)) for i, parent, _ in tree[1:]} == {frozenset((0, 2)), frozenset((1, 2))}
    every = np.array(list(product(range(3), range(2), range(3))))
    seen = [(codes == row).all(axis=1).mean() for row in every]
    density = np.exp(method.log_density(tree, every))
    assert density.sum() == pytest.approx(1)
    assert density == pytest.approx(seen, abs=0.01)


# ---------------------------------------------------------------- the peer


def test_objectives_are_those_of_optbinning():
    """The author's package: his bins, coefficients, units and factor in our programme, and his answers at our costs."""
    peer = pytest.importorskip("optbinning", reason="optbinning, the author's package, is not installed: pip install optbinning")
    from optbinning.scorecard import Counterfactual

    rng = seeding.rng(0, "peer")
    frame = pd.DataFrame(rng.normal(size=(1500, 5)), columns=list("abcde"))
    y = rng.binomial(1, expit(frame.to_numpy() @ np.array([1.0, -0.8, 0.6, 0.5, -0.4]) + 0.5 * rng.normal(size=1500)))
    binning = peer.BinningProcess(list(frame), max_n_bins=5, binning_fit_params={"a": {"max_n_bins": 3}})
    theirs = peer.Scorecard(binning_process=binning, estimator=LogisticRegression()).fit(frame, y)
    table = theirs.table(style="detailed")
    metrics = [table[table["Variable"] == name]["WoE"].to_numpy(float) for name in frame]
    x = theirs.binning_process_.transform(frame).to_numpy()
    bins = [method.Bins(name, np.arange(len(m) - 3) + 0.5, (0.0,), None, m) for name, m in zip(frame, metrics, strict=True)]
    estimator = theirs.estimator_
    card = method.Scorecard(tuple(bins), float(estimator.intercept_[0]), estimator.coef_.ravel(), *method.centre(x))
    codes = np.stack([np.abs(x[:, i, None] - m[:-2]).argmin(axis=1) for i, m in enumerate(metrics)], axis=1)
    assert np.allclose(card.score(codes), np.log(1 / theirs.predict_proba(frame)[:, 0] - 1))
    explain = Counterfactual(scorecard=theirs, special_missing=False, n_jobs=1)
    explain.fit(frame)
    refused = np.flatnonzero(card.score(codes) < 0)[:10]
    for at in refused:
        explain.generate(
            query=frame.iloc[[at]], y=1, outcome_type="binary", n_cf=1, max_changes=3, time_limit=20,
            objectives={"proximity": 1, "closeness": 1},
        )  # fmt: skip
        asked = method.query(card, codes[at], ["free"] * 5)
        ours = method.solve(card, asked, card.units(), max_changes=3)
        assert explain.status == {"optimal": "OPTIMAL", "infeasible": "INFEASIBLE"}[ours.status]
        if ours.codes is not None:
            known = explain._optimizer.solver_.Objective().Value()
            assert sum(ours.objectives.values()) == pytest.approx(known, abs=1e-5)
