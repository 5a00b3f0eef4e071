"""T-COL: the mixing rules against loops by hand, prototypes against brute force, the rivals on models whose answers are known."""

import os
from itertools import product
from math import exp, sqrt

import numpy as np
import pandas as pd
import pytest

from replications.recourse.t_col import method
from shared import data, seeding
from shared.data import default_credit, tcol_tabular
from shared.recourse import measures
from shared.recourse.problem import Model, Problem
from shared.recourse.table import encode

MOVES = {"income": "free", "debt": "free", "years": "up", "home": "free", "sex": "fixed", "job": "free"}
RIVALS = [method.nearest_rows, method.revert, method.dice_random, method.dice_kdtree, method.dice_genetic]


def made_up(rows: int = 400, seed: int = 0, moves=MOVES):
    """A table of three numbers and three categories, and labels that lean on income, debt and home."""
    rng = seeding.rng(seed, "people")
    frame = pd.DataFrame({
        "income": rng.gamma(2.0, 1.0, rows).round(2), "debt": rng.integers(0, 12, rows), "years": rng.integers(0, 30, rows),
        "home": rng.choice(["own", "rent", "free"], rows, p=[0.5, 0.45, 0.05]), "sex": rng.choice(["f", "m"], rows),
        "job": rng.choice(["a", "b", "c", "d"], rows),
    })  # fmt: skip
    lean = frame["income"] - 0.3 * frame["debt"] + (frame["home"] == "own") + rng.normal(0, 0.5, rows)
    return encode("made up", frame, (lean > lean.quantile(0.6)).to_numpy(int), moves)


def rich(table, level=0.35):
    """A model that asks for an income of at least `level` of the range, and for nothing else."""
    return Problem(table, Model(lambda x: 1 / (1 + np.exp(-40 * (x[:, 0] - level))), kind="forest"))


def owning(table):
    """A model that asks for a home of one's own, income and little debt together."""
    home = 3 + ("free", "own", "rent").index("own")
    return Problem(table, Model(lambda x: np.clip(x[:, 0] - 0.5 * x[:, 1] + 0.4 * x[:, home] + 0.1, 0, 1), kind="forest"))


@pytest.fixture(scope="module")
def table():
    return made_up()


# ---------------------------------------------------------------- the encoder


def test_encoder_by_hand(table):
    encoder, raw = method.fit_encoder(table), table.raw(table.X)
    columns = []
    for name in raw:
        if name in ("income", "debt", "years"):
            columns.append(raw[name].to_numpy(float))
            continue
        worth = {}
        for level in raw[name].unique():
            mine = table.y[(raw[name] == level).to_numpy()]
            trust = 1 / (1 + exp(-(len(mine) - 20) / 10))
            worth[level] = trust * mine.mean() + (1 - trust) * table.y.mean()
        columns.append(raw[name].map(worth).to_numpy(float))
    by_hand = np.stack(columns, 1)
    by_hand = (by_hand - by_hand.mean(0)) / by_hand.std(0)
    np.testing.assert_allclose(encoder.standard(table.X), by_hand, atol=1e-9)
    np.testing.assert_allclose(encoder.unit(table.X), by_hand / np.linalg.norm(by_hand, axis=1, keepdims=True), atol=1e-9)


def test_encoder_of_a_constant_column():
    flat = encode(
        "flat", pd.DataFrame({"a": [1.0, 1.0, 1.0], "b": [0.0, 1.0, 2.0]}), np.array([0, 1, 1]), {"a": "free", "b": "free"}
    )
    assert np.isfinite(method.fit_encoder(flat).unit(flat.X)).all()  # the average person has no direction, and stays at 0


def test_owner_and_differs(table):
    assert method.owner(table).tolist() == [0, 1, 2, 3, 3, 3, 4, 4, 5, 5, 5, 5]
    raw = table.raw(table.X[:40])
    for i, j in product(range(0, 40, 7), range(40)):
        wanted = (raw.iloc[i] != raw.iloc[j]).tolist()
        assert method.differs(table, table.X[i], table.X[j]).tolist() == wanted
    assert not method.differs(table, np.full(12, np.nan), table.X[0]).any()


# ---------------------------------------------------------------- prototypes


@pytest.mark.parametrize("rule", ["near", "cos", "good", "rep"])
def test_prototypes_by_hand(table, rule):
    problem, encoder, x = owning(table), method.fit_encoder(table), table.X[:6]
    wanted = table.X[table.y == 1]
    found = method.prototypes(problem, x, rule, 4, seeding.rng(0))
    assert found.shape == (6, 4, 12)
    raw = table.raw(wanted)
    for person, mine in zip(x, found, strict=True):
        u, v = encoder.unit(person), encoder.unit(wanted)
        cost = {
            "near": [sqrt(((u - row) ** 2).sum()) for row in v],
            "cos": [-(u @ row) / np.linalg.norm(u) / np.linalg.norm(row) for row in v],
            "good": -(raw == table.raw(person[None]).iloc[0]).sum(axis=1).to_numpy(),
            "rep": -problem.model.score(wanted),
        }[rule]
        np.testing.assert_array_equal(mine, wanted[np.argsort(cost, kind="stable")[:4]])


def test_prototypes_near_the_centres_of_clusters():
    rng = seeding.rng(0, "clusters")
    place = rng.permutation(np.repeat([0, 1, 2], 50))
    corners = np.array([[0, 0], [10, 0], [0, 10]])[place] + rng.normal(0, 0.1, (150, 2))
    table = encode("three", pd.DataFrame(corners, columns=["a", "b"]), np.ones(150, int), {"a": "free", "b": "free"})
    found = method.prototypes(rich(table), table.X[:2], "cen", 3, rng)
    assert (found[0] == found[1]).all()
    raw = table.raw(found[0]).round().to_numpy().tolist()
    assert sorted(raw) == [[0, 0], [0, 10], [10, 0]]
    encoder = method.fit_encoder(table)
    for row in found[0]:
        own = table.X[[(np.abs(table.raw(row[None]).to_numpy() - table.raw(r[None]).to_numpy()) < 2).all() for r in table.X]]
        centre = encoder.unit(own).mean(0)
        assert np.linalg.norm(encoder.unit(row) - centre) == pytest.approx(np.linalg.norm(encoder.unit(own) - centre, axis=1).min())


def test_prototypes_as_released_are_the_first_rows(table):
    problem, encoder, x, wanted = owning(table), method.fit_encoder(table), table.X[table.y == 0][:5], table.X[table.y == 1]
    good = method.prototypes(problem, x, "good", 4, seeding.rng(0), as_released=True)
    np.testing.assert_array_equal(good, np.broadcast_to(wanted[:4], good.shape))
    near = method.prototypes(problem, x, "near", 4, seeding.rng(0), as_released=True)
    cos = method.prototypes(problem, x, "cos", 4, seeding.rng(0), as_released=True)
    for person, by_near, by_cos in zip(x, near, cos, strict=True):
        within = np.linalg.norm(encoder.unit(wanted) - encoder.unit(person), axis=1) < 1
        np.testing.assert_array_equal(by_near, wanted[within][:4])
        np.testing.assert_array_equal(by_cos, wanted[:4])  # every cosine is below 1, and cut to 0


def test_random_prototypes_are_of_the_wanted_class(table):
    found = method.prototypes(owning(table), table.X[:30], "random", 5, seeding.rng(0))
    wanted = {tuple(row) for row in table.X[table.y == 1]}
    assert all(tuple(row) in wanted for row in found.reshape(-1, 12))
    assert len(np.unique(found.reshape(-1, 12), axis=0)) > 60
    assert all(len(np.unique(rows, axis=0)) == 5 for rows in found)


# ---------------------------------------------------------------- mixing


def score_by_hand(p, c, s, score):
    dot, lp, lc = sum(a * b for a, b in zip(p, c, strict=True)), sqrt(sum(a * a for a in p)), sqrt(sum(a * a for a in c))
    cos = dot / max(lp * lc, 1e-8)
    far = sqrt(sum((a - b) ** 2 for a, b in zip(s, c, strict=True)))
    if score == "fcs":
        return 1 / (1 + exp(-cos)) + sum(a == b for a, b in zip(c, s, strict=True)) / len(s)
    return cos / exp(far) if score == "ncs" else exp(cos) * (1 + exp(-far))


@pytest.mark.parametrize("score", ["fcs", "ncs", "rss"])
@pytest.mark.parametrize("depth", [1, 2, 3, 7])
def test_best_bits_by_hand(score, depth):
    rng = seeding.rng(3, "bits")
    p, s = rng.normal(size=(2, 20, 7))
    order = rng.permutation(7)
    found = method.best_bits(p, s, score, depth, order)
    for q, t, bits in zip(p, s, found, strict=True):
        for start in range(0, 7, depth):
            chunk = order[start : start + depth]
            ways = list(product((False, True), repeat=len(chunk)))
            mixes = [[q[i] if w else t[i] for i, w in zip(chunk, way, strict=True)] for way in ways]
            scores = [score_by_hand(q[chunk], c, t[chunk], score) for c in mixes]
            assert tuple(bits[chunk]) == ways[int(np.argmax(scores))]


def test_few_changes_copies_one_feature_of_three_at_most():
    p, s = seeding.rng(4, "one").normal(size=(2, 5000, 8))
    bits = method.best_bits(p, s, "fcs", 3, np.arange(8))
    assert bits[:, :3].sum(1).max() == 1 and bits[:, 3:6].sum(1).max() == 1 and bits[:, 6:].sum() == 0


def test_a_person_equal_to_the_prototype_is_returned(table):
    yes = Problem(table, Model(lambda x: np.ones(len(x)), kind="forest"))
    x = table.X[table.y == 1][:5]
    for rule, score in method.CONDITIONS.values():
        if rule in ("near", "good"):
            z = method.t_col(yes, x, seeding.rng(0), rule=rule, score=score, n=1)
            np.testing.assert_allclose(z[:, 0], x)


def test_mixed_copies_the_chosen_values_and_keeps_what_is_accepted(table):
    problem, encoder = owning(table), method.fit_encoder(table)
    x = table.X[~problem.accepts(table.X)][:12]
    protos = method.prototypes(problem, x, "rep", 4, seeding.rng(0))
    z = method.mixed(problem, x, protos, seeding.rng(0), score="rss")
    kept = 0
    for person, rows, answers in zip(x, protos, z, strict=True):
        for row, answer in zip(rows, answers, strict=True):
            bits = method.best_bits(encoder.unit(row), encoder.unit(person), "rss", 3, np.arange(6))
            mix = table.raw(person[None]).astype(object)
            mix.loc[:, bits] = table.raw(row[None]).loc[:, bits].to_numpy()
            mix["sex"] = table.raw(person[None])["sex"]
            mix["years"] = max(mix["years"][0], table.raw(person[None])["years"][0])
            yes = problem.accepts(np.array([encoded(table, mix)]))[0]
            assert np.isfinite(answer).all() == yes
            if yes:
                np.testing.assert_allclose(answer, encoded(table, mix))
                kept += 1
    assert kept > 10


def encoded(table, frame):
    """Rows of raw values (n, d), encoded; of a single row (d,)."""
    columns = []
    for f in table.features:
        if f.kind == "onehot":
            columns.append((frame[f.name].to_numpy()[:, None] == np.array(f.levels, dtype=object)).astype(float))
        else:
            columns.append(((frame[f.name].astype(float).to_numpy() - f.low) / (f.high - f.low))[:, None])
    rows = np.hstack(columns)
    return rows[0] if len(rows) == 1 else rows


def test_bits_at_random(table):
    yes = Problem(made_up(moves=dict.fromkeys(MOVES, "free")), Model(lambda x: np.ones(len(x)), kind="forest"))
    x = yes.table.X[:100]
    protos = method.prototypes(yes, x, "random", 10, seeding.rng(0))
    counts = {}
    for bits in ("best", "random", "shuffled"):
        z = method.mixed(yes, x, protos, seeding.rng(1), score="fcs", bits=bits)
        counts[bits] = method.differs(yes.table, z, x[:, None])
        assert not (counts[bits] & ~method.differs(yes.table, protos, x[:, None])).any()  # nothing but copies
    apart = method.differs(yes.table, protos, x[:, None])
    assert counts["random"].sum() / apart.sum() == pytest.approx(0.5, abs=0.03)
    assert counts["shuffled"].sum() < 0.6 * counts["random"].sum()
    assert not np.array_equal(counts["shuffled"], counts["best"])


def test_order_of_the_chunks_matters_only_with_shuffle(table):
    problem, x = owning(table), table.X[:40]
    a, b, c = (method.t_col(problem, x, seeding.rng(s), rule="near", score="ncs", shuffle=sh) for s, sh in ((0, 0), (1, 0), (0, 1)))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c, equal_nan=True)


# ---------------------------------------------------------------- all methods keep the rules of the house


@pytest.mark.parametrize("m", [*method.METHODS.values(), *RIVALS], ids=[*method.METHODS, *(r.__name__ for r in RIVALS)])
def test_answers_are_accepted_possible_and_repeatable(table, m):
    problem = owning(table)
    x = table.X[~problem.accepts(table.X)][:15]
    z, again = (m(problem, x, seeding.rng(5), n=6) for _ in range(2))
    np.testing.assert_array_equal(z, again)
    there = np.isfinite(z).all(-1)
    assert z.shape == (15, 6, 12) and there.any() and (np.isnan(z).any(-1) == ~there).all()
    assert problem.accepts(z)[there].all() and not problem.accepts(z)[~there].any()
    assert np.nanmin(measures.actionable(table, x, z)) == 1
    np.testing.assert_allclose(table.project(z, x)[there], z[there], atol=1e-9)


def test_bad_input_names_what_is_wrong(table):
    problem, rng = owning(table), seeding.rng(0)
    with pytest.raises(ValueError, match=r"x must be finite, of shape \(n, 12\)"):
        method.t_col(problem, table.X[:, :5], rng)
    for rival in RIVALS:
        with pytest.raises(ValueError, match="x must be finite"):
            rival(problem, np.full((2, 12), np.nan), rng)
    with pytest.raises(ValueError, match="n must lie between 1 and the 160 rows"):
        method.t_col(problem, table.X[:2], rng, n=1000)
    with pytest.raises(ValueError, match="depth must be at least 1"):
        method.t_col(problem, table.X[:2], rng, depth=0)
    with pytest.raises(ValueError, match="bits 'some' is not one of"):
        method.t_col(problem, table.X[:2], rng, bits="some")
    with pytest.raises(ValueError, match="'far' is not one of"):
        method.t_col(problem, table.X[:2], rng, rule="far")
    with pytest.raises(ValueError, match="'xyz' is not one of"):
        method.t_col(problem, table.X[:2], rng, score="xyz")


# ---------------------------------------------------------------- rivals


def test_nearest_rows_by_hand(table):
    problem, standard = owning(table), method.fit_encoder(table).standard
    x = table.X[~problem.accepts(table.X)][:8]
    z = method.nearest_rows(problem, x, seeding.rng(0), n=3)
    real = table.X[problem.accepts(table.X)]
    for person, mine in zip(x, z, strict=True):
        order = np.argsort(np.linalg.norm(standard(real) - standard(person), axis=1))
        could = table.project(real[order][None, :30], person[None])[0]
        could = could[problem.accepts(could)]
        wanted = could[sorted(np.unique(could, axis=0, return_index=True)[1])][:3]
        np.testing.assert_allclose(mine[: len(wanted)], wanted)


def test_nearest_rows_looks_beyond_rows_that_a_person_cannot_become(table):
    woman = 6  # the model likes women with any income, and men with a large one; nobody may change sex
    problem = Problem(table, Model(lambda x: 0.9 * ((x[:, woman] == 1) | (x[:, 0] > 0.35)), kind="forest"))
    x = table.X[~problem.accepts(table.X)][:20]
    assert np.isfinite(method.nearest_rows(problem, x, seeding.rng(0), n=3)).all(-1).mean() > 0.8


def test_revert_leaves_nothing_to_take_back(table):
    problem = owning(table)
    x = table.X[~problem.accepts(table.X)][:20]
    z = method.revert(problem, x, seeding.rng(0), n=4)
    start = method.nearest_rows(problem, x, seeding.rng(0), n=4)
    changed = method.differs(table, z, x[:, None])
    assert (changed.sum(-1) <= method.differs(table, start, x[:, None]).sum(-1)).all() and changed.sum() < 0.6 * 80 * 4
    for i, j, f in np.argwhere(changed):
        back = np.where(method.owner(table) == f, x[i], z[i, j])
        assert not problem.accepts(back[None])[0]
    only_income = rich(table)
    x = table.X[~only_income.accepts(table.X)][:20]
    changed = method.differs(table, method.revert(only_income, x, seeding.rng(0), n=4), x[:, None])
    assert (changed == (np.arange(6) == 0)).all()
    blind = method.revert(only_income, x, seeding.rng(0), n=4, ask=False)
    share = np.isfinite(blind).all(-1).mean()  # income survives the draw for about half of the rows
    assert 0.25 < share < 0.85


def test_revert_takes_back_the_change_that_leaves_the_largest_score():
    frame = pd.DataFrame({"a": [0.0, 1.0], "b": [0.0, 1.0], "c": [0.0, 1.0]})
    table = encode("three", frame, np.array([0, 1]), dict.fromkeys("abc", "free"))
    problem = Problem(table, Model(lambda x: x @ [0.5, 0.3, 0.2], kind="forest"))
    assert method.revert(problem, table.X[:1], seeding.rng(0), n=1)[0, 0].tolist() == [1, 0, 0]


def test_dice_random_begins_with_one_feature(table):
    problem = rich(table, level=0.2)
    x = table.X[~problem.accepts(table.X)][:20]
    z = method.dice_random(problem, x, seeding.rng(0), n=10, sample=300)
    changed = method.differs(table, z, x[:, None])
    assert np.isfinite(z).all() and changed[..., 0].all() and changed.sum(-1).max() <= 2 and (changed.sum(-1) == 1).mean() > 0.1
    assert all(len(np.unique(rows, axis=0)) == 10 for rows in z)
    values = np.sort(table.raw(z.reshape(-1, 12))["income"])
    low, high = 0.2 * table.features[0].high, table.features[0].high
    assert np.abs(np.quantile(values, [0.25, 0.5, 0.75]) - (low + (high - low) * np.array([0.25, 0.5, 0.75]))).max() < 0.1 * high


def test_dice_random_tries_two_features_even_where_one_suffices(table):
    yes = Problem(table, Model(lambda x: np.ones(len(x)), kind="forest"))
    z = method.dice_random(yes, table.X[:20], seeding.rng(0), n=10, sample=100)
    counts = method.differs(table, z, table.X[:20, None]).sum(-1)
    assert (
        0.2 < (counts == 2).mean() < 0.7
    )  # half of the copies, less those that drew the same feature twice or the person's own value


def test_random_rows_are_uniform_over_what_a_person_may_become(table):
    x = table.X[np.abs(table.X[:, 2] - 0.5) < 0.1][:5]  # years, which only grow
    years = method._random_rows(table, x, 400, seeding.rng(0))[..., 2]
    assert (years == x[:, None, 2]).mean() < 0.15 and years.mean() == pytest.approx((x[:, 2].mean() + 1) / 2, abs=0.03)


def test_dice_random_goes_on_until_enough_features_have_moved():
    frame = pd.DataFrame(np.tile([[0.0], [1.0]], (1, 4)), columns=list("abcd"))
    table = encode("four", frame, np.array([0, 1]), dict.fromkeys("abcd", "free"))
    all_but_one = Problem(table, Model(lambda x: ((x > 0).sum(1) >= 3).astype(float), kind="forest"))
    z = method.dice_random(all_but_one, table.X[:1], seeding.rng(0), n=4, sample=100)
    assert ((z > 0).sum(-1) == 3).all()  # the third round finds enough


def test_dice_genetic_weighs_numbers_by_their_spread():
    rng = seeding.rng(0, "spread")
    narrow = np.r_[rng.normal(0.5, 0.01, 300), 0.0, 1.0].clip(0, 1)
    frame = pd.DataFrame({"wide": rng.random(302), "narrow": narrow})
    table = encode("two", frame, rng.integers(2, size=302), dict.fromkeys(frame, "free"))
    either = Problem(table, Model(lambda x: (x.max(1) > 0.8).astype(float), kind="forest"))  # one of the two must be above 0.8
    x = table.X[(table.X < 0.6).all(1)][:10]
    best = method.dice_genetic(either, x, seeding.rng(0), n=5, generations=20)[:, 0]
    assert (best[:, 0] > 0.8).all() and (best[:, 1] < 0.8).all()  # many spreads of the narrow one, one of the wide one


def test_dice_kdtree_weighs_distance_and_changes(table):
    problem = owning(table)
    x = table.X[~problem.accepts(table.X)][:8]
    real = table.X[problem.accepts(table.X)]
    found = method._sparse_first(problem, x, 20)
    for person, mine in zip(x, found, strict=True):
        far = np.linalg.norm(real - person, axis=1)
        near = np.argsort(far, kind="stable")[:20]
        moved = method.differs(table, real[near], person).sum(1)
        cost = (far[near] - far[near].min()) / np.ptp(far[near]) + (moved - moved.min()) / np.ptp(moved)
        np.testing.assert_allclose(mine, real[near][np.argsort(cost, kind="stable")])


def test_dice_genetic_gets_better_with_generations(table):
    problem = owning(table)
    x = table.X[~problem.accepts(table.X)][:20]
    weight = 1 / table.spread[:3]

    def loss(z):
        far = (np.abs(z - x[:, None])[..., :3] * weight).sum(-1) / weight.sum()
        return 0.2 * far + 0.2 * method.differs(table, z, x[:, None]).mean(-1)

    found = [method.dice_genetic(problem, x, seeding.rng(0), n=5, generations=g) for g in (0, 5, 40)]
    losses = [np.nanmean(loss(z)) for z in found]
    assert losses[0] > 1.1 * losses[1] > 1.1 * 1.02 * losses[2]
    home = Problem(table, Model(lambda x: x[:, 5] + 0.1, kind="forest"))  # asks for a home of one's own and nothing else
    x = table.X[~home.accepts(table.X)][:20]
    best = method.dice_genetic(home, x, seeding.rng(0), n=5, generations=60)[:, 0]
    assert (method.differs(table, best, x).sum(-1) == 1).mean() > 0.7


def test_tidy_takes_back_small_changes_of_numbers(table):
    problem = rich(table)
    x = table.X[~problem.accepts(table.X)][:1]
    small = np.quantile(np.abs(table.X - np.median(table.X, axis=0)), 0.1, axis=0)
    z = np.repeat(x[:, None], 3, 1)
    z[:, :, 0] = 0.9
    z[0, 0, 1] += 0.9 * small[1]
    z[0, 1, 1] += 1.1 * small[1] + 1e-3
    z[0, 2, 2] += 0.9 * small[2]
    tidied = method.differs(table, method.tidy(problem, z, x), x[:, None])[0]
    assert tidied[:, 0].all() and tidied[:, 1].tolist() == [False, True, False] and not tidied[:, 2].any()
    yes = Problem(table, Model(lambda x: np.ones(len(x)), kind="forest"))
    z = x[:, None] + np.where(np.arange(12) < 3, 0.9 * small, 0)
    assert not method.differs(table, method.tidy(yes, z, x), x[:, None]).any()


def test_tidy_begins_with_the_widest_feature():
    values = np.linspace(0, 1, 101)
    frame = pd.DataFrame({"narrow": 0.5 + 4 * (values - 0.5) ** 3, "wide": values, "rest": values})
    table = encode("order", frame, (values > 0.5).astype(int), dict.fromkeys(frame, "free"))
    x = table.X[50:51]
    z = x[:, None] + np.array([1e-5, 0.02, 0.0])
    either = Problem(table, Model(lambda rows: (np.abs(rows - x).max(1) > 1e-6).astype(float), kind="forest"))
    assert method.differs(table, method.tidy(either, z, x), x[:, None])[0, 0].tolist() == [True, False, False]


def test_twins():
    z = np.array([[[0.0, 1], [0, 1], [1, 0], [np.nan, np.nan], [np.nan, np.nan], [0, 1]]])
    assert method.twins(z).tolist() == [[False, True, False, False, False, True]]


# ---------------------------------------------------------------- data and peer


def test_default_credit():
    features, y = default_credit.load()
    assert features.shape == (30000, 23) and y.mean() == pytest.approx(0.7788)
    assert features.loc[0, ["LIMIT_BAL", "SEX", "EDUCATION", "MARRIAGE", "PAY_0"]].tolist() == [
        20000,
        "female",
        "university",
        "married",
        2,
    ]
    assert y[0] == 0 and (features["EDUCATION"] == "unknown").sum() == 345


@pytest.mark.skipif("REPLICATIONS_DATA" not in os.environ, reason="reads the mirror that REPLICATIONS_DATA names")
@pytest.mark.parametrize(
    "name, shape, wanted",
    [("adult", (26048, 8), 0.239), ("german", (1000, 20), 0.7), ("titanic", (183, 9), 0.672), ("water", (2011, 9), 0.403),
     ("phoneme", (5404, 5), 0.293)],
)  # fmt: skip
def test_the_authors_tables(name, shape, wanted):
    features, y = tcol_tabular.load(name)
    assert features.shape == shape and y.mean() == pytest.approx(wanted, abs=1e-3) and not features.isna().any(axis=None)


def test_unknown_table_of_the_authors():
    with pytest.raises(data.DataError, match="'boston' is not one of adult, german"):
        tcol_tabular.load("boston")


def test_against_dice():
    """Where `dice-ml` is installed: its random and k-d tree searches change about as many features of the same people."""
    dice_ml = pytest.importorskip("dice_ml", reason="the peer dice-ml is not installed")
    table = made_up(moves=dict.fromkeys(MOVES, "free"))
    problem = owning(table)
    raw = table.raw(table.X)

    class Wrapped:
        def predict_proba(self, frame):
            p = problem.model.score(np.atleast_2d(encoded(table, frame)))
            return np.stack([1 - p, p], 1)

        def predict(self, frame):
            return (self.predict_proba(frame)[:, 1] >= 0.5).astype(int)

    told = dice_ml.Data(dataframe=raw.assign(y=table.y), continuous_features=["income", "debt", "years"], outcome_name="y")
    model = dice_ml.Model(model=Wrapped(), backend="sklearn")
    x = table.X[~problem.accepts(table.X)][:4]
    for kind, ours in (("random", method.dice_random), ("kdtree", method.dice_kdtree)):
        peer = dice_ml.Dice(told, model, method=kind)
        seed = {"random_seed": 1, "sample_size": 100} if kind == "random" else {}
        found = peer.generate_counterfactuals(table.raw(x), total_CFs=10, desired_class=1, verbose=False, **seed)
        theirs = np.array([encoded(table, e.final_cfs_df) for e in found.cf_examples_list])
        mine = ours(problem, x, seeding.rng(0), n=10, **({"sample": 100} if kind == "random" else {}))
        counts = [method.differs(table, z, x[:, None]).sum(-1).mean() for z in (theirs, mine)]
        assert problem.accepts(theirs).mean() > 0.9
        assert abs(counts[0] - counts[1]) < 0.6, (kind, counts)
