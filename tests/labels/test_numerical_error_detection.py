"""Veracity scores: regression models against scikit-learn, scores by hand, filtering and tests against enumeration."""

import numpy as np
import pytest
from scipy.stats import kstest
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge

from replications.labels.numerical_error_detection import method
from shared.data import DataError, davis, vader_ratings


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def data(rng):
    x = rng.uniform(-1.5, 1.5, (60, 3))
    return x, np.sin(2 * x[:, 0]) + 0.1 * rng.standard_normal(60), rng.uniform(-1.5, 1.5, (9, 3))


# ---------------------------------------------------------------- regression models


def test_kernel_ridge_is_scikit_learn_s(data):
    x, y, new = data
    theirs = KernelRidge(alpha=0.3, kernel="rbf", gamma=1 / (2 * 1.2**2)).fit(x, y - y.mean()).predict(new) + y.mean()
    np.testing.assert_allclose(method.kernel_ridge(1.2, 0.3)(x, y, new), theirs)


def test_additive_ridge_is_ridge_with_a_summed_kernel(data):
    x, y, new = data

    def kernel(a, b):
        return sum(np.exp(-((a[:, [j]] - b[:, j]) ** 2) / (2 * 0.5**2)) for j in range(3))

    theirs = KernelRidge(alpha=2.0, kernel="precomputed").fit(kernel(x, x), y - y.mean()).predict(kernel(new, x)) + y.mean()
    np.testing.assert_allclose(method.additive_ridge(0.5, 2.0)(x, y, new), theirs)


def test_linear_ridge_is_scikit_learn_s(data):
    x, y, new = data
    np.testing.assert_allclose(method.linear_ridge(3.0)(x, y, new), Ridge(3.0).fit(x, y).predict(new))


def test_trees_are_like_scikit_learn_s(data):
    x, y, new = data
    theirs = ExtraTreesRegressor(200, min_samples_leaf=3, random_state=0).fit(x, y).predict(new)
    np.testing.assert_allclose(method.trees(200)(x, y, new), theirs, atol=0.12)
    assert np.abs(method.trees(20, least=60)(x, y, new) - y.mean()).max() < 1e-6  # a leaf of all rows


# ---------------------------------------------------------------- scores


def mean_of(x, y, new):
    return np.full(len(new), y.mean())


def test_predictions_never_see_their_row(rng):
    y = rng.standard_normal(40)
    seen = []

    def spy(x, y, new):
        seen.append((x[:, 0].copy(), new[:, 0].copy()))
        return mean_of(x, y, new)

    x = np.arange(40.0)[:, None]
    kept = np.arange(40) < 30
    fold = method.assign(40, 5, rng)
    assert np.bincount(fold).tolist() == [8] * 5
    predicted = method.predict_all(spy, x, y, kept, fold)
    assert len(seen) == 6 and all(not set(a) & set(b) and (a < 30).all() for a, b in seen)
    assert sorted(np.concatenate([b for _, b in seen])) == list(range(40))
    np.testing.assert_allclose(predicted[30:], y[:30].mean())
    np.testing.assert_allclose(predicted[0], y[kept & (fold != fold[0])].mean())


def test_parts_of_a_mean(rng):
    """With the mean as model: residuals about it, sigma the root of their mean square, u the sd of means of 80 % of the rows."""
    n = 400
    y = 2 * rng.standard_normal(n)
    p = method.parts(mean_of, np.zeros((n, 1)), y, rng, folds=5, subsamples=400)
    np.testing.assert_allclose(p.r, np.abs(y - y.mean()), atol=0.15)
    np.testing.assert_allclose(p.sigma, y.std(), rtol=0.06)
    # a mean of 4/5 of 4/5 (or, for rows left out, 4/5) of n numbers without replacement
    variances = [y.var() / m * (n - m) / (n - 1) for m in (0.64 * n, 0.8 * n)]
    np.testing.assert_allclose(p.u.mean(), 0.8 * variances[0] ** 0.5 + 0.2 * variances[1] ** 0.5, rtol=0.1)


def test_scores_by_hand():
    p = method.Parts(np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.9, 0.0]), np.array([0.5, 0.1, 0.0]))
    np.testing.assert_allclose(method.arithmetic(p), [1, 2, 3 / method.FLOOR])
    np.testing.assert_allclose(method.geometric(p), [2, 2 / 0.3, 3 / method.FLOOR])
    shuffled = method.permuted(p, np.random.default_rng(2))
    assert (shuffled.r == p.r).all() and sorted(zip(shuffled.sigma, shuffled.u)) == sorted(zip(p.sigma, p.u))  # noqa: B905
    assert (shuffled.u != p.u).any()


# ---------------------------------------------------------------- filtering


def test_r_squared_counts_dropped_rows(rng):
    x, y = np.arange(40.0)[:, None], np.r_[np.zeros(30), np.full(10, 9.0)]
    kept = y == 0
    assert method.r_squared(mean_of, x, y, kept, method.assign(40, 5, rng)) == pytest.approx(
        1 - 10 * 81 / (30 * 2.25**2 + 10 * 6.75**2)
    )


def test_filtering_drops_the_planted_rows(rng):
    x = rng.uniform(-1, 1, (200, 1))
    wrong = np.arange(200) < 24
    y = 2 * x[:, 0] + np.where(wrong, 30 * x[:, 0] ** 2, 0)
    score = np.where(wrong, 1, 0) + rng.random(200) / 2
    found = method.choose_share(method.linear_ridge(1e-3), x, y, score, rng, folds=5)
    assert found.share in found.tried and found.tried[found.share] == max(found.tried.values())
    coarse = max(method.COARSE, key=found.tried.get)
    assert set(found.tried) == {*method.COARSE, *(round(coarse + step / 100, 2) for step in range(-4, 5))}
    assert (~found.kept).sum() == round(found.share * 200) and (score[~found.kept].min() >= score[found.kept].max())


def test_shares_are_compared_on_the_same_folds(rng):
    x, y = np.arange(100.0)[:, None], rng.standard_normal(100)
    learned: list[set[float]] = []

    def spy(x, y, new):
        learned.append({*new[:, 0]})
        return mean_of(x, y, new)

    found = method.choose_share(spy, x, y, -np.arange(100.0), rng, folds=5)  # the first rows are dropped first
    calls = [learned[i : i + 6] for i in range(0, len(learned), 6)]
    assert len(calls) == len(found.tried)
    largest = [{row for row in held if row >= 24} for held in calls[0][:5]]
    assert all([{row for row in held if row >= 24} for held in call[:5]] == largest for call in calls)


# ---------------------------------------------------------------- tests


def test_p_values_by_hand():
    calibration = np.array([4.0, 1.0, 3.0, 2.0])
    scores = np.array([0.5, 2.0, 2.5, 9.0])
    np.testing.assert_allclose(method.p_values(calibration, scores, valid=True), [5 / 5, 4 / 5, 3 / 5, 1 / 5])
    np.testing.assert_allclose(method.p_values(calibration, scores, valid=False), [1, 3 / 4, 2 / 4, 0])


def test_valid_p_values_are_uniform(rng):
    p = [method.p_values(rng.standard_normal(99), rng.standard_normal(1), valid=True)[0] for _ in range(2000)]
    assert kstest(p, "uniform").statistic < 0.04 and np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.02)


# ---------------------------------------------------------------- data


def test_simulated_designs(rng):
    d = method.simulate("H", 40_000, 3.0, 0.1, rng)
    x1, right = d.x[:, 0], ~d.wrong
    assert d.wrong.sum() == 4000 and (x1 < -0.5).mean() == pytest.approx(0.1, abs=0.01)
    curve = (x1 - 1) ** 2 * (x1 + 1)
    left, end = right & (x1 < 0.5), right & (x1 > 1.4)
    assert (d.y - curve)[left].std() == pytest.approx(0.5, abs=0.01)
    assert np.abs((d.y - curve)[end]).mean() == pytest.approx(2 * 0.95**0.5, abs=0.06) and abs((d.y - curve)[end].mean()) < 0.2
    assert (d.y - curve)[d.wrong & (x1 < 0.5)].mean() == pytest.approx(3, abs=0.05)
    linear = method.simulate("L", 40_000, -2.0, 0.1, rng)
    slopes = np.linalg.lstsq(linear.x, linear.y + 2 * linear.wrong)[0]
    np.testing.assert_allclose(slopes, [1, -1, 1, -1, 1], atol=0.02)


def test_ratings_and_their_features():
    for name in vader_ratings.SETS:
        rated = vader_ratings.load(name)
        assert rated.ratings.shape == (2000, 20) and np.abs(rated.ratings).max() == 4
        assert np.isfinite(rated.features).all() and np.abs(rated.features.mean(0)).max() < 1e-3
    with pytest.raises(ValueError, match="name must be one of tweets, products, not 'films'"):
        vader_ratings.load("films")


def test_davis_row_of_fame():
    try:
        table = davis.load()
    except DataError as error:
        pytest.skip(str(error))
    assert table.shape == (200, 5)
    assert (table.loc[table["weight"].idxmax(), ["weight", "height"]] == [166, 57]).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda r: method.parts(mean_of, np.zeros((9, 1)), np.zeros(8), r, folds=2, subsamples=3),
            "x, y and kept must have n rows",
        ),
        (lambda r: method.parts(mean_of, np.zeros((9, 1)), np.full(9, np.nan), r, folds=2, subsamples=3), "y contains NaN"),
        (lambda r: method.parts(mean_of, np.zeros((9, 1)), np.zeros(9), r, folds=2, subsamples=1), "subsamples must be at least 2"),
        (lambda r: method.parts(mean_of, np.zeros((4, 1)), np.zeros(4), r, folds=5, subsamples=3), "at least one row of each fold"),
        (lambda r: method.choose_share(mean_of, np.zeros((9, 1)), np.zeros(9), np.zeros(8), r, folds=2), "score must have shape"),
        (lambda r: method.p_values(np.array([]), np.zeros(3), valid=True), "calibration must be a non-empty array"),
        (lambda r: method.simulate("G", 9, 1, 0.1, r), "design must be H or L"),
        (lambda r: method.simulate("H", 9, 1, 1.0, r), "share must be in"),
    ],
)
def test_bad_input_is_named(call, words, rng):
    with pytest.raises(ValueError, match=words):
        call(rng)
