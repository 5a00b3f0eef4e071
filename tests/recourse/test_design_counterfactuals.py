"""MCD: distances, fronts, operators and sampling by hand, the search on known optima, and the authors' package where installed."""

import hashlib
import os
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import qmc

from replications.recourse.design_counterfactuals import method
from shared import data, seeding
from shared.data import framed
from shared.place import ROOT
from shared.recourse import measures
from shared.recourse.problem import Model, Problem
from shared.recourse.table import encode
from tests.leaks import constants_that_tell

EXTRACT = ROOT / "replications/recourse/design_counterfactuals/data/framed.csv.gz"


def mixed(p: int = 3, high: float = 4.0) -> method.Space:
    """p numbers in [0, high], then a whole number in 0 to 5, then a category of three."""
    kinds = np.r_[np.zeros(p), 1, 1]
    top = np.r_[np.full(p, high), 5, 2]
    return method.Space(np.zeros(p + 2), top, kinds, top, np.arange(p + 2) == p + 1)


def box(p: int) -> method.Space:
    """The unit cube."""
    return method.Space(np.zeros(p), np.ones(p), np.zeros(p), np.ones(p), np.zeros(p, dtype=bool))


def circle(at: float = 0.8, p: int = 4, bonus=()) -> method.Query:
    """Asked is a first coordinate of at least `at`, from the origin."""
    known = box(p).draw(60, seeding.rng(0, "known"))
    return method.Query(np.zeros(p), box(p), lambda rows: rows[:, :1], [method.Target(low=at)], known, bonus)


# ---------------------------------------------------------------- designs and queries


def test_gower_by_hand():
    space = mixed()
    a = np.array([[0.0, 1, 2, 3, 0]])
    b = np.array([[0.0, 1, 2, 3, 0], [0, 1, 2, 3, 2], [2, 1, 2, 3, 0], [4, 5, 2, 0, 1]])
    assert method.gower(a, b, space)[0] == pytest.approx([0, 1 / 5, 0.5 / 5, (1 + 1 + 0 + 0.6 + 1) / 5])
    assert method.gower(b, a, box(5)).T[0] == pytest.approx(np.abs(a - b).mean(axis=1))  # without categories
    letters = method.Space(np.zeros(2), np.ones(2), np.ones(2), np.ones(2), np.ones(2, dtype=bool))
    assert method.gower(np.array([[0.0, 1]]), np.array([[1.0, 1]]), letters) == [[0.5]]  # without numbers


def test_repair_clips_and_rounds():
    rows = mixed().repair(np.array([[-1.0, 0.3, 9, 2.4, 1.6], [1, 2, 3, 7.2, -0.6]]))
    assert rows.tolist() == [[0, 0.3, 4, 2, 2], [1, 2, 3, 5, 0]]
    fifths = method.Space(np.zeros(1), np.ones(1), np.full(1, 5.0), np.ones(1), np.zeros(1, dtype=bool))
    assert fifths.repair(np.array([[0.58]])) == [[3 / 5]]  # to the last bit, or "changed" would count it


def test_draw_keeps_to_the_space_and_likes_all_codes_alike():
    rows = mixed().draw(6000, seeding.rng(0))
    assert mixed().holds(rows).all() and not mixed().holds(rows + 10).any()
    assert np.bincount(rows[:, 4].astype(int)) / 6000 == pytest.approx([1 / 3] * 3, abs=0.03)
    assert rows[:, :3].mean(axis=0) == pytest.approx([2, 2, 2], abs=0.1)


def test_targets():
    y = np.array([-1.0, 0, 0.5, 2])
    assert method.Target(0, 1).miss(y).tolist() == [1, 0, 0, 1]
    assert method.Target(low=1).miss(y).tolist() == [2, 1, 0.5, 0]
    assert method.Target(classes=(0.0, 2.0)).miss(y).tolist() == [1, 0, 1, 0]


def test_assess_by_hand():
    query = method.Query(
        np.array([0.0, 0]), box(2), lambda rows: rows * [1, 10], [method.Target(high=0.5), method.Target(low=5)],
        np.array([[0.0, 0], [1, 1], [0.5, 0], [0, 0.1]]), bonus=(1,),
    )  # fmt: skip
    archive = method.assess(query, np.array([[0.0, 0], [0.6, 0.2], [0.0, 0.5]]))
    assert archive.miss == pytest.approx([5, 0.1 + 3, 0])
    assert archive.costs[:, 0].tolist() == [0, 2, 5]  # the bonus
    assert archive.costs[:, 1] == pytest.approx([0, 0.4, 0.25]) and archive.costs[:, 2].tolist() == [0, 1, 0.5]
    assert archive.costs[:, 3] == pytest.approx([(0 + 0.25 + 0.05) / 3, (0.4 + 0.15 + 0.35) / 3, (0.25 + 0.5 + 0.2) / 3])
    assert archive.valid.rows.tolist() == [[0, 0.5]]
    with pytest.raises(ValueError, match="y must be of shape"):
        method.assess(query, np.zeros((3, 2)), np.zeros((3, 1)))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="one shape"):
        method.Space(np.zeros(2), np.ones(3), np.zeros(2), np.ones(2), np.zeros(2, dtype=bool))
    with pytest.raises(ValueError, match="low must not exceed"):
        method.Space(np.ones(2), np.zeros(2), np.zeros(2), np.ones(2), np.zeros(2, dtype=bool))
    with pytest.raises(ValueError, match="x must be finite"):
        method.Query(np.array([np.nan, 0]), box(2), lambda r: r, [], np.zeros((3, 2)))
    with pytest.raises(ValueError, match="reference"):
        method.Query(np.zeros(2), box(2), lambda r: r, [], np.zeros((2, 2)))
    start = method.assess(circle(), circle().reference)
    with pytest.raises(ValueError, match="start"):
        method.search(circle(), start.take(np.array([], dtype=int)), seeding.rng(0))


# ---------------------------------------------------------------- NSGA-II


def slow_fronts(costs):
    """Peel off what nobody dominates, row by row."""
    number, at, left = np.zeros(len(costs), int), 0, list(range(len(costs)))
    while left:
        free = [i for i in left if not any((costs[j] <= costs[i]).all() and (costs[j] < costs[i]).any() for j in left)]
        number[free] = at
        left, at = [i for i in left if i not in free], at + 1
    return number


@pytest.mark.parametrize("m", [1, 2, 4])
def test_fronts_agree_with_peeling(m):
    costs = seeding.rng(m).integers(0, 5, (60, m)).astype(float)  # with ties and equal rows
    slow = slow_fronts(costs)
    assert method.fronts(costs).tolist() == slow.tolist()
    part = method.fronts(costs, 10)
    done = part < len(costs)
    assert done.sum() >= 10 and (part[done] == slow[done]).all() and slow[~done].min(initial=99) > slow[done].max()


def test_crowding_by_hand():
    costs = np.array([[0.0, 4], [1, 2], [2, 1], [4, 0]])
    assert method.crowding(costs)[1:3] == pytest.approx([(2 / 4 + 3 / 4) / 2, (3 / 4 + 2 / 4) / 2])
    assert np.isinf(method.crowding(costs)[[0, 3]]).all()
    assert method.crowding(np.ones((3, 2))).tolist() == [0, 0, 0]


def test_survivors_by_hand():
    costs = np.array([[0.0, 4], [1, 2], [1.1, 1.9], [2, 1], [4, 0], [5, 5], [0, 0], [0, 0]])
    miss = np.array([0.0, 0, 0, 0, 0, 0, 2, 1])
    assert set(method.survivors(costs, miss, 3)) == {0, 3, 4}  # both ends, then the loneliest, (0.65 + 0.475) / 2
    assert set(method.survivors(costs, miss, 5)) == {0, 1, 2, 3, 4}
    assert set(method.survivors(costs, miss, 6)) == {0, 1, 2, 3, 4, 5}  # a dominated valid row before an invalid one
    assert set(method.survivors(costs, miss, 7)) == {0, 1, 2, 3, 4, 5, 7}  # then whoever misses least


def test_children_keep_the_mean_of_two_numbers_and_exchange_categories():
    """Without mutation (one cell in p is far less than 1 for p = 400), crossover is symmetric about the parents' mean."""
    p = 400
    category = np.arange(p) >= 200
    space = method.Space(np.full(p, -9.0), np.full(p, 9.0), category.astype(float), np.ones(p), category)
    a, b = np.where(category, -9.0, 1.0), np.where(category, 9.0, 2.0)
    kids = method.children(np.stack([np.tile(a, (200, 1)), np.tile(b, (200, 1))]), space, seeding.rng(0))
    one, two = kids[:200], kids[200:]
    calm = np.isclose(one + two, a + b)  # neither cell mutated, and nothing was clipped
    assert 1 - calm.mean() == pytest.approx(2 / p, rel=0.2)
    assert set(np.unique(one[calm & category])) == {-9.0, 9.0}
    assert (one != a)[:, category].mean() == pytest.approx(0.9 * 0.5 * 0.5, abs=0.02)  # crossed, and then swapped
    moved = ((one != a) & (one != b))[:, ~category]
    assert moved.mean() == pytest.approx(0.9 * 0.5, abs=0.04)
    # spread |one - two| / |a - b| is beta: below 1 half of the time, with median 1; P(beta < 0.9) = 0.9^16 / 2
    beta = np.abs(one - two)[:, ~category][moved & calm[:, ~category]]
    assert (beta < 1).mean() == pytest.approx(0.5, abs=0.01)
    assert (beta < 0.9).mean() == pytest.approx(0.9**16 / 2, abs=0.01)
    assert (beta > 1 / 0.9).mean() == pytest.approx(0.9**16 / 2, abs=0.01)


def test_mutation_is_polynomial():
    """Parents that are equal: what moves is the mutation, in one cell in p. P(|delta| > d) = (1 - d)^21."""
    space = method.Space(np.full(4, -50.0), np.full(4, 50.0), np.r_[0.0, 0, 0, 1], np.ones(4), np.arange(4) == 3)
    kids = method.children(np.zeros((2, 20000, 4)), space, seeding.rng(0))
    moved = kids != 0
    assert moved[:, :3].mean() == pytest.approx(1 / 4, abs=0.01)
    delta = kids[:, :3][moved[:, :3]] / 100
    for d in (0.02, 0.1):
        assert (delta > d).mean() == pytest.approx((1 - d) ** 21 / 2, abs=0.01)
        assert (delta < -d).mean() == pytest.approx((1 - d) ** 21 / 2, abs=0.01)
    assert len(np.unique(kids[:, 3])) == 101  # the category is drawn anew from all codes


def test_revert():
    rows = method.revert(np.ones((1000, 8)), np.zeros(8), 0.3, seeding.rng(0))
    assert (rows == 0).mean() == pytest.approx(0.3, abs=0.02)
    assert (method.revert(rows, np.zeros(8), 0.0, seeding.rng(0)) == rows).all()


def test_search_counts_its_calls_and_never_asks_twice():
    query = circle()
    asked = []
    counted = method.Query(query.x, query.space, lambda r: (asked.extend(r.tolist()), r[:, :1])[1], query.targets, query.reference)
    start = method.assess(query, query.reference)
    archive = method.search(counted, start, seeding.rng(0), pop_size=11, generations=5)
    assert len(asked) == 55 and len(archive.rows) == len(start.rows) + 55
    assert len(np.unique(archive.rows, axis=0)) == len(archive.rows)
    assert (archive.rows[: len(start.rows)] == start.rows).all()
    assert (archive.rows[len(start.rows) :] == asked).all()
    assert method.search(query, start, seeding.rng(0), generations=0).rows.shape == start.rows.shape


def test_search_finds_the_nearest_and_sparsest():
    """Only the first of four coordinates matters: proximity 0.8 / 4, sparsity 1 / 4."""
    query = circle()
    start = method.assess(query, query.reference)
    archive = method.search(query, start, seeding.rng(1), pop_size=40, generations=40).valid
    assert archive.costs[:, 0].min() == pytest.approx(0.2, rel=0.01) and archive.costs[:, 0].min() >= 0.2
    assert archive.costs[:, 1].min() == 0.25 and start.valid.costs[:, 1].min() == 1


def test_without_revert_answers_are_not_sparse_and_a_share_of_one_gives_the_query():
    query = circle(p=12)
    start = method.assess(query, query.reference)
    sparse, full = (
        method.search(query, start, seeding.rng(1), pop_size=30, generations=20, revert_beta=beta).valid.costs[:, 1].min()
        for beta in (method.REVERT, None)
    )
    assert sparse <= 2 / 12 and full > 6 / 12
    everything = method.search(query, start, seeding.rng(1), pop_size=30, generations=20, revert_beta=(1e9, 1e-9))
    assert (everything.rows[len(start.rows) :] == query.x).all() and len(everything.rows) == len(start.rows) + 1  # used up


def test_weights_make_one_objective():
    """With all weight on proximity the archive is nearer, and nothing else is looked for."""
    query = circle(p=6)
    start = method.assess(query, query.reference)
    only = method.search(query, start, seeding.rng(0), pop_size=20, generations=30, weights=np.array([1.0, 0, 0])).valid
    several = method.search(query, start, seeding.rng(0), pop_size=20, generations=30).valid
    assert only.costs[:, 0].mean() < several.costs[:, 0].mean()
    assert only.costs[-100:, 2].mean() > several.costs[-100:, 2].mean()


def test_front_of_zdt1():
    """Operators and survival alone, on a known front: f2 = 1 - sqrt(f1)."""

    def zdt1(rows):
        g = 1 + 9 * rows[:, 1:].mean(axis=1)
        return np.column_stack([rows[:, 0], g * (1 - np.sqrt(rows[:, 0] / g))])

    rng = seeding.rng(0)
    space, people = box(6), box(6).draw(60, seeding.rng(1))
    for _ in range(120):
        both = np.vstack([people, method.children(people[rng.integers(60, size=(2, 30))], space, rng)])
        people = both[method.survivors(zdt1(both), np.zeros(len(both)), 60)]
    f = zdt1(people)
    assert (f[:, 1] - (1 - np.sqrt(f[:, 0]))).mean() < 0.02 and np.ptp(f[:, 0]) > 0.9


# ---------------------------------------------------------------- drawing answers


def test_greedy_by_hand():
    m = np.array([[0, 5, 4, 1], [5, 0, 2, 3], [4, 2, 0, 9], [1, 3, 9, 0.0]])
    assert method.greedy(m, 2) == [2, 3]
    assert method.greedy(m, 3) == [2, 3, 1]  # row 0: min(4, 1), row 1: min(2, 3)
    assert method.greedy(m, 4) == [2, 3, 1, 0]
    assert method.greedy(m, 1) == [2]


def archive_of(rows, costs, miss=None):
    return method.Archive(rows, np.zeros((len(rows), 1)), costs, np.zeros(len(rows)) if miss is None else miss)


def slow_sample(rows, s, k, diversity):
    """The rule once more, entry by entry."""
    s = [(v - min(s)) / (max(s) - min(s)) for v in s]
    m = {
        (i, j): ((1 - s[i]) * (1 - s[j])) ** (1 / diversity) * np.abs(rows[i] - rows[j]).mean()
        for i, j in product(range(len(s)), repeat=2)
    }
    chosen = list(max(m, key=m.get))
    while len(chosen) < k:
        chosen.append(max(range(len(s)), key=lambda j: min(m[i, j] for i in chosen)))
    return chosen


@pytest.mark.parametrize("diversity", [0.3, 1.0])
def test_sample_agrees_with_the_rule(diversity):
    rng = seeding.rng(3)
    rows, costs = rng.random((40, 3)), rng.random((40, 3))
    archive = archive_of(rows, costs)
    expected = slow_sample(rows, list(costs @ [1, 0.3, 0.5]), 6, diversity)
    assert method.sample(archive, 6, box(3), diversity=diversity).tolist() == expected
    assert method.score(archive) == pytest.approx(costs[:, 0] + 0.3 * costs[:, 1] + 0.5 * costs[:, 2])


def test_sample_takes_valid_rows_only_and_looks_at_the_best():
    rng = seeding.rng(4)
    rows, costs, miss = rng.random((50, 3)), rng.random((50, 3)), (np.arange(50) % 2).astype(float)
    archive = archive_of(rows, costs, miss)
    assert (method.sample(archive, 5, box(3)) % 2 == 0).all()
    best = np.flatnonzero(miss == 0)[np.argsort(method.score(archive)[miss == 0])]
    assert method.sample(archive, 1, box(3)).tolist() == [best[0]]
    assert set(method.sample(archive, 5, box(3), among=5)) == set(best[:5])
    assert method.sample(archive, 30, box(3)).tolist() == np.flatnonzero(miss == 0).tolist()
    # another weight, another best row
    assert method.sample(archive, 1, box(3), (0, 1, 0))[0] == np.flatnonzero(miss == 0)[costs[miss == 0, 1].argmin()]


def test_hypervolume():
    worst = np.ones(3)
    assert method.hypervolume(np.array([[0.5, 0.5, 0.5]]), worst) == pytest.approx(1 / 8)
    two = np.array([[0.5, 0.25, 0.5], [0.25, 0.5, 0.5], [0.6, 0.6, 0.6], [2, 0, 0], [0.5, 0.25, 0.5]])
    assert method.hypervolume(two, worst) == pytest.approx(0.5 * (0.5 * 0.75 + 0.25 * 0.5))
    assert method.hypervolume(np.empty((0, 3)), worst) == 0
    costs = seeding.rng(0).random((30, 3)) + 0.2
    draws = 1.1 * qmc.Sobol(3, seed=0).random(2**14)
    share = (costs[None] <= draws[:, None]).all(axis=2).any(axis=1).mean()
    assert method.hypervolume(costs, np.full(3, 1.1)) == pytest.approx(share * 1.1**3, abs=0.005)


# ---------------------------------------------------------------- rivals


def test_random_crossover():
    query = circle(p=50)
    donors = np.vstack([np.full(50, 0.25), np.full(50, 0.75)])
    rows = method.random_crossover(query, donors, 0.1, 2000, seeding.rng(0))
    assert (rows != 0).mean() == pytest.approx(0.1, abs=0.005)
    assert all(len(set(row) - {0.0}) <= 1 for row in rows)  # one donor a row
    assert (rows == 0.25).mean() == pytest.approx((rows == 0.75).mean(), abs=0.01)


def test_growing_spheres():
    p = 9
    wide = method.Space(np.full(p, -99.0), np.full(p, 99.0), np.zeros(p), np.full(p, 2.0), np.zeros(p, dtype=bool))
    query = method.Query(np.zeros(p), wide, lambda r: r, [], np.zeros((3, p)))
    rows = method.growing_spheres(query, 100, seeding.rng(0)) / wide.span
    assert np.sqrt((rows**2).mean(axis=1)) == pytest.approx(np.geomspace(0.01, 1, 100))
    some = mixed()
    query = method.Query(some.low, some, lambda r: r, [], np.zeros((3, 5)))
    rows = method.growing_spheres(query, 4000, seeding.rng(0))
    assert some.holds(rows).all()
    assert (rows[:200, 4] != 0).mean() < 0.05 and (rows[-200:, 4] != 0).mean() == pytest.approx(2 / 3, abs=0.15)


# ---------------------------------------------------------------- people


def people(move: str = "free"):
    """Two numbers, a whole one and a category; accepted is a sum of at least 1.6, a category c adding 0.5."""
    rng = seeding.rng(0, "people")
    frame = pd.DataFrame({
        "a": rng.random(300), "b": rng.random(300), "n": rng.integers(0, 7, 300), "word": rng.choice(list("cde"), 300)
    })  # fmt: skip
    table = encode("toy", frame, rng.integers(0, 2, 300), {"a": "free", "b": "fixed", "n": "up", "word": move})

    def predict(x):
        return (x[:, 0] + x[:, 1] + x[:, 2] + 0.5 * x[:, 3]) / 3.5

    return table, Problem(table, Model(predict, kind="forest"), 1.6 / 3.5)


@pytest.mark.parametrize("move", ["free", "fixed"])
def test_mcd_gives_people_real_and_actionable_answers(move):
    table, problem = people(move)
    x = table.X[~problem.accepts(table.X)][:6] * [1, 0.999, 1, 1, 1, 1]  # no row of the table has their b
    problem.model.calls = 0
    z = method.mcd(problem, x, seeding.rng(0), k=4, pop_size=20, generations=10, n_start=100)
    assert problem.model.calls == 100 + 6 * (1 + 20 + 200)
    assert z.shape == (6, 4, table.X.shape[1]) and np.isfinite(z).all()
    assert problem.accepts(z).all() and (measures.actionable(table, x, z, 0.0) == 1).all()
    assert np.array_equal(table.project(z, x), z)
    assert len(np.unique(z[0], axis=0)) == 4
    words = (z[..., 3:] != x[:, None, 3:]).any()
    assert words == (move == "free")


def test_mcd_says_where_there_is_none():
    table, _ = people()
    never = Problem(table, Model(lambda x: np.zeros(len(x)), kind="forest"))
    z = method.mcd(never, table.X[:2], seeding.rng(0), k=3, pop_size=10, generations=2)
    assert z.shape == (2, 3, table.X.shape[1]) and np.isnan(z).all()


# ---------------------------------------------------------------- data


def test_the_extract():
    assert hashlib.sha256(EXTRACT.read_bytes()).hexdigest() in (EXTRACT.parent / "SOURCE.md").read_text()
    designs, performance = framed.load(EXTRACT)
    assert designs.shape == (1200, 37) and performance.shape == (1200, 10)
    assert np.isfinite(designs.to_numpy()).all() and not designs.duplicated().any()
    for name, levels in framed.CATEGORIES.items():
        assert set(designs[name]) == set(range(len(levels)))
    assert (performance["Model Mass"] > 0).all() and (performance["Sim 1 Safety Factor"] > 0).all()
    # thicker walls, heavier frame; aluminium is lighter than steel: the columns are where they should be
    walls = designs.filter(like="Thickness").sum(axis=1)
    assert np.corrcoef(walls, performance["Model Mass"])[0, 1] > 0.3
    mass = performance["Model Mass"].groupby(designs["Material"]).mean()
    assert mass[1] < mass[2] < mass[0]
    told = [constants_that_tell(designs, values > values.median()) for _, values in performance.items()]
    # round numbers that builders choose, and that turn the deflection round; not filled in
    assert set().union(*told) <= {"BB Drop"}


@pytest.mark.skipif(not os.environ.get("REPLICATIONS_DATA"), reason="REPLICATIONS_DATA does not name the papers' own data")
def test_the_whole_holds_the_extract():
    whole, performance = framed.load(framed.whole())
    assert whole.shape == (4047, 37) and performance.shape == (4047, 10)
    designs, _ = framed.load(EXTRACT)
    pd.testing.assert_frame_equal(whole.loc[designs.index], designs, check_names=False)


def test_the_whole_says_what_is_missing(monkeypatch):
    monkeypatch.delenv("REPLICATIONS_DATA", raising=False)
    with pytest.raises(data.DataError, match="REPLICATIONS_DATA"):
        framed.whole()


# ---------------------------------------------------------------- the authors' package


def theirs():
    """A query of mixed features in the authors' package, and the same one in ours."""
    pytest.importorskip("decode_mcd", reason="decode-mcd, the authors' package, is not installed: pip install decode-mcd==1.0.0rc1")
    from decode_mcd.design_targets import ContinuousTarget, DesignTargets, MinimizationTarget
    from decode_mcd.mcd_dataset import McdDataset
    from decode_mcd.mcd_problem import McdProblem
    from pymoo.core.variable import Choice, Real

    rng = seeding.rng(0, "theirs")
    rows = np.column_stack([rng.random((80, 3)), rng.integers(0, 3, 80)])
    space = method.Space(
        np.zeros(4), np.r_[1.0, 1, 1, 2], np.r_[0.0, 0, 0, 1], np.r_[np.ptp(rows[:, :3], axis=0), 1], np.arange(4) == 3
    )

    def predict(r):
        r = np.asarray(r, dtype=float)
        return np.column_stack([r[:, 0] + r[:, 1] + (r[:, 3] == 1), r[:, 2] / 9])

    frame = pd.DataFrame(rows, columns=list("abcd"))
    frame["d"] = frame["d"].astype(int)
    x = frame.iloc[[0]] * [0.1, 0.1, 1, 1]
    x["d"] = x["d"].astype(int)
    y = pd.DataFrame(predict(rows), columns=["sum", "small"])
    kinds = [Real(bounds=(0, 1)), Real(bounds=(0, 1)), Real(bounds=(0, 1)), Choice(options=[0, 1, 2])]
    targets = DesignTargets(
        continuous_targets=[ContinuousTarget(label="sum", lower_bound=1, upper_bound=1.5)],
        minimization_targets=[MinimizationTarget(label="small")],
    )
    problem = McdProblem(McdDataset(x=frame, y=y, x_datatypes=kinds), x, targets, predict)
    wanted = [method.Target(1, 1.5), method.Target()]
    return problem, method.Query(x.to_numpy(float)[0], space, predict, wanted, rows, bonus=(1,)), rows


def test_costs_and_answers_are_those_of_decode_mcd():
    problem, query, rows = theirs()
    from decode_mcd.mcd_generator import McdGenerator

    records = pd.DataFrame(rows, columns=list("abcd")).astype({"d": int})
    ours = method.assess(query, rows)
    scores, constraint = problem._calculate_evaluation_metrics(records.loc[:, problem._features_to_vary].to_dict("records"), False)
    assert ours.costs == pytest.approx(scores)
    assert ours.miss == pytest.approx(np.maximum(constraint[:, 0], 0))
    generator = McdGenerator(problem, pop_size=20, verbose=False)
    valid = ours.valid
    records = records[ours.miss == 0].loc[:, problem._features_to_vary].to_numpy()
    for weights in ((1, 1, 0.3, 0.5), (0, 1, 3, 0.5)):
        s = generator._calculate_scores_with_weights(scores[ours.miss == 0], weights[3], weights[2], weights[1], weights[:1])
        frame = generator._sample_based_on_scores(records, 6, 0.3, None, s)
        assert frame.to_numpy(float) == pytest.approx(valid.rows[method.sample(valid, 6, query.space, weights)])


def test_fronts_and_crowding_are_those_of_pymoo():
    pytest.importorskip("pymoo", reason="pymoo is not installed: pip install pymoo==0.6.2")
    from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    costs = seeding.rng(5).random((80, 3))
    for number, front in enumerate(NonDominatedSorting().do(costs)):
        assert set(front) == set(np.flatnonzero(method.fronts(costs) == number))
        assert method.crowding(costs[front]) == pytest.approx(calc_crowding_distance(costs[front]))
