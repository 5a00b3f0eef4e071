import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from replications.text.cebab import method
from shared import concept_bench as bench
from shared.data import DataError, cebab, from_mirror


def reviews(n: int = 60, seed: int = 0) -> cebab.Reviews:
    """Made-up reviews whose embeddings hold aspects and noise; families of one original, two edits of food and one of noise."""
    rng = np.random.default_rng(seed)
    aspects = rng.integers(3, size=(n, 4))
    edited = np.tile([-1, 0, 0, 3], n // 4)
    embeddings = np.column_stack([method.one_hot(aspects), rng.normal(size=(n, 4))])
    stars = np.clip(1 + aspects.sum(1) // 2 + rng.integers(2, size=n), 1, 5)
    stars[:5] = range(1, 6)
    return cebab.Reviews([str(i) for i in range(n)], aspects, stars, np.arange(n) // 4, edited < 0, edited, embeddings)


@pytest.fixture(scope="module")
def kit() -> bench.Kit:
    train = reviews(seed=1)
    box = bench.black_box(train.embeddings, train.stars, hidden=8, alpha=0.1, epochs=20, seed=0)
    return bench.Kit(train, box, bench.aspect_reader(train, 1e3), np.random.default_rng(0))


@pytest.fixture(scope="module")
def asked(kit) -> tuple[cebab.Reviews, bench.Pairs, bench.Queries]:
    test = reviews(seed=2)
    of = bench.pairs(test)
    return test, of, bench.ask(test, of, kit.black_box)


# ---------------------------------------------------------------- pairs


def family(labels: list[list[int]], edited: list[int]) -> cebab.Reviews:
    n = len(edited)
    edited = np.array(edited)
    return cebab.Reviews(["x"] * n, np.array(labels), np.ones(n, int), np.zeros(n, int), edited < 0, edited, np.eye(n))


def test_pairs_of_a_family_by_hand():
    found = bench.pairs(family([[0, 0, 1, 1], [1, 0, 1, 1], [2, 0, 1, 1], [0, 2, 1, 1]], [-1, 0, 0, 1]))
    expected = {(0, 1, 0, 0, 1), (1, 0, 0, 1, 0), (0, 2, 0, 0, 2), (2, 0, 0, 2, 0), (1, 2, 0, 1, 2), (2, 1, 0, 2, 1)}
    assert set(zip(*found, strict=True)) == expected | {(0, 3, 1, 0, 2), (3, 0, 1, 2, 0)}


def test_pairs_need_two_labels_that_differ():
    assert len(bench.pairs(family([[0, 1, 1, 1], [0, 1, 1, 1]], [-1, 0])).base) == 0
    assert len(bench.pairs(family([[-1, 1, 1, 1], [0, 1, 1, 1]], [-1, 0])).base) == 0
    assert len(bench.pairs(family([[0, 1, 1, 1], [0, 2, 1, 1]], [-1, 0])).base) == 0  # another label changed than was edited


def test_pairs_stay_in_a_family():
    two = family([[0, 1, 1, 1], [2, 1, 1, 1]], [-1, 0])
    assert len(bench.pairs(two._replace(family=np.array([0, 1]))).base) == 0


def test_known_counts():
    test, dev = cebab.load("test"), cebab.load("dev")
    assert len(test.texts) == len(test.stars) == len(test.embeddings) == 1689 and test.is_original.sum() == 272
    assert len(dev.texts) == 1673 and len(cebab.load("train").texts) == 1755
    assert len(bench.pairs(test).base) == 3958
    goals = np.bincount(test.edited[test.edited >= 0])
    assert goals.tolist() == [484, 373, 302, 258]


def test_extract_is_the_authors_data():
    try:
        path = from_mirror("cebab", "CEBaB-v1.1.zip")
    except DataError as error:
        pytest.skip(f"the authors' archive is not here: {error}")
    import json
    import zipfile

    with zipfile.ZipFile(path) as packed:
        rows = json.loads(packed.read("CEBaB-v1.1/test.json"))
    test = cebab.load("test")
    assert test.texts == [" ".join(row["description"].split()) for row in rows]
    assert test.stars.tolist() == [int(row["review_majority"]) if row["review_majority"].isdigit() else 0 for row in rows]
    for i, aspect in enumerate(cebab.ASPECTS):
        told = [row[f"{aspect}_aspect_majority"] for row in rows]
        assert test.aspects[:, i].tolist() == [cebab.VALUES.index(v) if v in cebab.VALUES else -1 for v in told]
    assert test.edited.tolist() == [cebab.ASPECTS.index(row["edit_type"]) if row["edit_type"] else -1 for row in rows]


def test_load_refuses():
    with pytest.raises(ValueError, match="split"):
        cebab.load("train_inclusive")


# ---------------------------------------------------------------- errors


def test_errors_by_hand():
    true, estimated = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[4.0, 3.0], [0.0, 0.0]])
    found = bench.errors(true, estimated)
    assert (
        np.allclose(found["L2"], [2**0.5, 1])
        and np.allclose(found["cosine"], [1 - 24 / 25, 1])
        and np.allclose(found["norm"], [0, 1])
    )


def test_errors_round_as_the_official_code_does():
    assert bench.errors(np.full((1, 2), 1e-5), np.ones((1, 2)))["cosine"] == 1


@pytest.mark.parametrize("estimated", [np.zeros((2, 3)), np.full((2, 2), np.nan)])
def test_errors_refuse(estimated):
    with pytest.raises(ValueError, match="estimated"):
        bench.errors(np.zeros((2, 2)), estimated)


def test_effects_are_changes_of_the_output(kit, asked):
    test, of, queries = asked
    true = bench.effects(test, of, kit.black_box)
    assert np.allclose(true + queries.proba, kit.black_box.predict_proba(test.embeddings[of.other])) and np.allclose(true.sum(1), 0)


# ---------------------------------------------------------------- explainers


@pytest.mark.parametrize("name", sorted(bench.ESTIMATORS))
def test_nobody_sees_the_rewriting(name, kit, asked):
    test, of, _ = asked
    first = test.is_original[of.base]
    from_originals = bench.Pairs(*(part[first] for part in of))
    blind = test._replace(
        embeddings=np.where(test.is_original[:, None], test.embeddings, np.nan),
        texts=[text if own else "" for text, own in zip(test.texts, test.is_original, strict=True)],
    )
    effects = []
    for world in (test, blind):
        fresh = kit._replace(rng=np.random.default_rng(3))
        effects.append(bench.ESTIMATORS[name](bench.ask(world, from_originals, kit.black_box), fresh))
    assert effects[0].shape == (first.sum(), 5) and np.isfinite(effects[1]).all()
    assert np.array_equal(*effects)


@pytest.mark.parametrize("name", sorted(bench.ESTIMATORS))
def test_a_query_is_answered_without_the_others(name, kit, asked):
    queries = asked[2]  # the rewriting of one is the review of another
    few = bench.Queries(*(part[:7] for part in queries))
    answers = [bench.ESTIMATORS[name](q, kit._replace(rng=np.random.default_rng(3))) for q in (few, queries)]
    assert np.allclose(answers[0], answers[1][:7], atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(bench.ESTIMATORS) - {"zero", "random"}))
def test_effects_sum_to_nothing(name, kit, asked):
    assert np.allclose(bench.ESTIMATORS[name](asked[2], kit).sum(1), 0, atol=1e-8)  # probabilities sum to one before and after


def test_conexp_by_hand(kit, asked):
    queries = asked[2]
    proba, food = kit.black_box.predict_proba(kit.train.embeddings), kit.train.aspects[:, 0]
    row = np.flatnonzero((queries.aspect == 0) & (queries.before == 2) & (queries.after == 0))[0]
    assert np.allclose(method.conexp(queries, kit)[row], proba[food == 0].mean(0) - proba[food == 2].mean(0))


def test_one_hot_leaves_out_what_is_missing():
    assert method.one_hot(np.array([[0, 2, -1, 1]])).tolist() == [[1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]]


def test_s_learner_against_its_definition(kit, asked):
    queries = asked[2]
    model = LogisticRegression(max_iter=1000).fit(method.one_hot(kit.train.aspects), kit.black_box.predict(kit.train.embeddings))
    read = np.array([[0, 1, 2, 0], [1, 1, 1, 1], [2, 0, 0, 1]])
    three = bench.Queries(*(part[:3] for part in queries))._replace(aspect=np.array([0, 3, 2]), after=np.array([2, 1, 1]))
    told = np.array([[2, 1, 2, 0], [1, 1, 1, 1], [2, 0, 1, 1]])
    expected = np.zeros((3, 5))
    expected[:, model.classes_ - 1] = model.predict_proba(method.one_hot(told)) - model.predict_proba(method.one_hot(read))
    effect = method.s_learner(three, kit._replace(read_aspects=lambda x: read))
    assert np.allclose(effect, expected) and not effect[1].any() and np.abs(effect[[0, 2]]).max(1).min() > 0.01


def test_matches_have_the_value_and_the_fewest_differences(kit, asked):
    queries = asked[2]
    found = method.matches(queries, kit, queries.after)
    wanted = kit.read_aspects(queries.embeddings)
    for row in range(0, len(wanted), 7):
        wanted[row, queries.aspect[row]] = queries.after[row]
        ranks = [(labels[queries.aspect[row]] != queries.after[row], (labels != wanted[row]).sum()) for labels in kit.train.aspects]
        assert np.flatnonzero(found[row]).tolist() == [i for i, rank in enumerate(ranks) if rank == min(ranks)]


def test_matches_read_what_is_unlabelled(kit, asked):
    hidden = kit._replace(train=kit.train._replace(aspects=np.where(np.arange(4) == 1, -1, kit.train.aspects)))
    assert np.array_equal(method.matches(asked[2], hidden, asked[2].after), method.matches(asked[2], kit, asked[2].after))


def test_approx_draws_among_its_matches(kit, asked):
    queries = asked[2]
    proba = kit.black_box.predict_proba(kit.train.embeddings)
    found = method.matches(queries, kit, queries.after)
    answers = method.approx(queries, kit) + queries.proba
    other = method.approx(queries, kit) + queries.proba
    for row in range(len(answers)):
        assert np.isclose(proba[found[row]], answers[row]).all(1).any()
    assert not np.allclose(answers, other)
    mean = method.approx_mean(queries, kit) + queries.proba
    assert np.allclose(mean[4], proba[found[4]].mean(0))


def test_approx_that_ignores_the_value_looks_for_the_old_one(kit, asked):
    queries = asked[2]
    same = queries._replace(after=queries.before)
    drawn = [
        f(q, kit._replace(rng=np.random.default_rng(1))) for f, q in ((method.approx_ignoring, queries), (method.approx, same))
    ]
    assert np.array_equal(*drawn)


def test_random_is_a_difference_of_two_distributions(kit, asked):
    effect = method.random(asked[2], kit)
    assert np.allclose(effect.sum(1), 0) and np.abs(effect).max() < 1 and effect.std() > 0.05
    assert not method.zero(asked[2], kit).any()


def test_states_are_those_of_the_network(kit, asked):
    x = asked[2].embeddings
    told = softmax(method.states(kit.black_box, x) @ kit.black_box.coefs_[1] + kit.black_box.intercepts_[1], axis=1)
    assert np.allclose(told, asked[2].proba)


def test_null_space_removes_what_tells_the_labels():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=400)
    x = np.column_stack([np.eye(3)[labels] + 0.1 * rng.normal(size=(400, 3)), rng.normal(size=(400, 30))])
    p = method.null_space(x, labels, rounds=3)
    assert np.allclose(p, p.T) and np.allclose(p @ p, p) and np.isclose(np.trace(p), 33 - 3 * 2)
    assert LogisticRegression().fit(x, labels).score(x, labels) == 1
    assert LogisticRegression().fit(x @ p, labels).score(x @ p, labels) < 0.5
    first = LogisticRegression(max_iter=1000).fit(x, labels).coef_
    assert np.allclose(first @ p, 0, atol=1e-8)


def test_inlp_asks_the_black_box_without_the_aspect(kit, asked):
    queries = asked[2]
    row = int(np.flatnonzero(queries.aspect == 3)[0])
    p = method.null_space(kit.train.embeddings, kit.train.aspects[:, 3])
    expected = kit.black_box.predict_proba(queries.embeddings[[row]] @ p)[0] - queries.proba[row]
    assert np.allclose(method.inlp(queries, kit)[row], expected) and np.abs(expected).max() > 0.01


def test_inlp_has_one_effect_whatever_the_new_value(kit, asked):
    queries = asked[2]
    assert np.array_equal(method.inlp(queries, kit), method.inlp(queries._replace(after=queries.before), kit))


def test_tcav_is_the_slope_of_the_output(kit, asked):
    queries = asked[2]
    effect = method.tcav(queries, kit)
    inner = method.states(kit.black_box, kit.train.embeddings)
    row = 5
    weights = LogisticRegression(max_iter=1000).fit(inner, kit.train.aspects[:, queries.aspect[row]]).coef_
    unit = weights / np.linalg.norm(weights, axis=1)[:, None]
    start, step = (
        method.states(kit.black_box, queries.embeddings[[row]]),
        1e-5 * (unit[queries.after[row]] - unit[queries.before[row]]),
    )
    out = [softmax((start + s * step) @ kit.black_box.coefs_[1] + kit.black_box.intercepts_[1], axis=1)[0] for s in (-1, 1)]
    assert np.allclose(effect[row], (out[1] - out[0]) / 2e-5, atol=1e-6)


def test_average_effects_by_hand():
    table = method.average_effects(np.array([1.0, 3.0, 5.0]), np.array([0, 0, 3]), np.array([0, 0, 1]), np.array([2, 2, 0]))
    assert table[0, 0, 2] == 2 and table[3, 1, 0] == 5 and np.isnan(table).sum() == 34


# ---------------------------------------------------------------- the bench


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="approx"):
        bench.estimator("approx")(method.approx)


def test_score_is_the_error_of_each_estimate(kit, asked):
    test, of, queries = asked
    got = bench.score(["conexp"], test, of, kit)["conexp"]
    assert np.array_equal(got["L2"], bench.errors(bench.effects(test, of, kit.black_box), method.conexp(queries, kit))["L2"])


def test_black_box_learns_from_rated_reviews_only():
    train = reviews(seed=1)
    settings = {"hidden": 8, "alpha": 0.1, "epochs": 3, "seed": 0}
    more = np.concatenate([train.embeddings, np.full((2, train.embeddings.shape[1]), 9.0)])
    boxes = [
        bench.black_box(train.embeddings, train.stars, **settings),
        bench.black_box(more, np.append(train.stars, [0, 0]), **settings),
    ]
    assert np.array_equal(*(box.predict_proba(train.embeddings) for box in boxes))
    with pytest.raises(ValueError, match="stars"):
        bench.black_box(train.embeddings, np.minimum(train.stars, 4), **settings)


def test_aspects_are_read_from_labelled_reviews():
    train = reviews(seed=1)
    half = np.where(np.arange(len(train.stars))[:, None] % 2 == 0, train.aspects, -1)
    read = bench.aspect_reader(train._replace(aspects=half), 1e3)(train.embeddings)
    assert (read == train.aspects).mean() > 0.99
