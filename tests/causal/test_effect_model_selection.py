"""Effect model selection: the process, the learners and the criteria against closed forms, sklearn and plain loops."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score

from replications.causal.effect_model_selection import method
from shared import seeding
from shared.data import acic2016, ihdp

RIDGE = method.REGRESSORS["ridge"]


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture(scope="module")
def covariates():
    x = np.random.default_rng(0).normal(size=(2000, 55))
    return (x - x.mean(axis=0)) / x.std(axis=0)


@pytest.fixture
def people(covariates, rng):
    return method.simulate(covariates, 0.3, 1.0, False, rng)


def small(rng, n=300, d=3):
    x = rng.normal(size=(n, d))
    w = (rng.random(n) < expit(x[:, 0])).astype(float)
    mu0, tau = x @ np.arange(d), 1 + x[:, 1]
    return method.Sample(x, w, mu0 + w * tau + 0.1 * rng.normal(size=n), mu0, mu0 + tau, expit(x[:, 0]))


# ---------------------------------------------------------------- the process


def test_effect_is_linear_in_cut_columns_with_mean_zero(covariates):
    sample = method.simulate(covariates, 0.3, 0.0, True, np.random.default_rng(3))
    z = sample.x[:, method.NUMERIC]
    assert set(np.unique(z)) == {0, 1} and np.array_equal(z[:, 10], z[:, 11])  # column 24 stands twice
    assert abs(sample.tau.mean()) < 1e-12 and sample.tau.std() > 0.5
    distinct = np.delete(z, 11, axis=1)
    fit = LinearRegression().fit(distinct, sample.tau)
    assert np.allclose(fit.predict(distinct), sample.tau)
    steps = np.unique(fit.coef_.round(6))
    assert set(steps) <= {0.0, 1.0, 2.0}
    assert not np.allclose(LinearRegression().fit(z, sample.mu0).predict(z), sample.mu0)  # products
    assert np.allclose(sample.mu0 * 4, np.round(sample.mu0 * 4))  # a quarter of a whole number, as every term is
    raw = covariates[:, method.NUMERIC]
    cuts = np.where(z == 0, raw, -np.inf).max(axis=0)  # the value of the person at the cut, who is not above it
    assert (cuts < np.where(z == 1, raw, np.inf).min(axis=0)).all()
    assert len(set((raw == cuts).argmax(axis=0))) > 15  # cut at the values of different people
    others = np.delete(np.arange(55), method.NUMERIC)
    assert np.array_equal(sample.x[:, others], covariates[:, others])


def test_what_learners_see_and_confounding_change_nothing_else(covariates):
    draws = [method.simulate(covariates, 0.3, xi, cut, np.random.default_rng(1)) for xi in (0.0, 3.0) for cut in (False, True)]
    for other in draws[1:]:
        assert np.array_equal(draws[0].mu0, other.mu0) and np.array_equal(draws[0].mu1, other.mu1)
    assert np.array_equal(draws[0].w, draws[1].w) and np.array_equal(draws[0].y, draws[1].y)
    assert np.array_equal(draws[0].x, covariates)
    assert (draws[0].p == 0.5).all()
    for sample in draws:
        noise = sample.y - np.where(sample.w == 1, sample.mu1, sample.mu0)
        assert abs(noise.std() - 0.1) < 0.01 and abs(noise.mean()) < 0.01
    for sample in draws[2:]:  # who is treated depends on what the learners see
        seen, odds = sample.x[:, method.NUMERIC], np.log(sample.p / (1 - sample.p))
        inside = np.abs(odds) < 13
        assert np.allclose(LinearRegression().fit(seen[inside], odds[inside]).predict(seen[inside]), odds[inside])
    none = method.simulate(covariates, 0.0, 3.0, True, np.random.default_rng(1))
    assert not none.tau.any() and np.array_equal(none.mu0, draws[0].mu0)


def test_rates_of_coefficients_and_products(covariates):
    found = []
    for seed in range(40):
        sample = method.simulate(covariates, 0.1, 3.0, True, np.random.default_rng(seed))
        z = np.delete(sample.x[:, method.NUMERIC], 11, axis=1)
        drive = np.log(sample.p / (1 - sample.p))
        inside = np.abs(drive) < 10
        slopes = LinearRegression().fit(z[inside], drive[inside]).coef_
        unit = slopes[slopes > 0.1].min() if (slopes > 0.1).any() else 1
        prognostic = np.round(slopes / unit)
        assert drive[inside].std() == pytest.approx(3, abs=0.5) and np.abs(slopes / unit - prognostic).max() < 1e-3
        modifiers = LinearRegression().fit(z, sample.tau).coef_.round()
        found.append([prognostic.sum() / 22, modifiers.sum() / 22])
    assert np.mean(found, axis=0) == pytest.approx([0.75, 0.25], abs=0.05)
    z = (np.random.default_rng(0).random((500, 22)) < 0.7).astype(float)
    products = method._products(z, np.random.default_rng(0))
    assert products.shape == (500, 22)
    assert products.mean(axis=0).reshape(-1)[[0, 10, 17]] == pytest.approx([0.49, 0.343, 0.24], abs=0.06)


def test_constant_and_number_of_terms(covariates):
    """One person below every cut and one above: the first has the constant, the second every term."""
    ends = np.vstack([np.full(55, -9.0), np.full(55, 9.0), covariates])
    mu0 = np.array([method.simulate(ends, 0.1, 0.0, True, np.random.default_rng(seed)).mu0[:2] for seed in range(40)])
    assert set(mu0[:, 0]) <= set(np.linspace(-1, 1, 9)) and len(set(mu0[:, 0])) > 6
    assert np.mean(mu0[:, 1] - mu0[:, 0]) == pytest.approx(22 * 0.75 + 22 * 0.5, abs=1.5)


def test_split_is_disjoint(people, rng):
    parts = method.split(people._replace(mu0=np.arange(2000.0)), [5, 7, 9], rng)
    rows = np.concatenate([s.mu0 for s in parts])
    assert [len(s.y) for s in parts] == [5, 7, 9] and len(set(rows)) == 21
    assert np.array_equal(parts[1].x, people.x[parts[1].mu0.astype(int)])


# ---------------------------------------------------------------- regressors and learners


@pytest.mark.parametrize("weighted", [False, True])
def test_stumps_agree_with_sklearn(rng, weighted):
    """On columns of few values both have the same cuts."""
    x = rng.integers(0, 4, size=(400, 6)).astype(float)
    y = x[:, 0] + 2 * (x[:, 1] > 1) + x[:, 2] ** 2 + rng.normal(size=400)
    weight = rng.uniform(0.2, 3, 400) if weighted else None
    theirs = HistGradientBoostingRegressor(max_iter=100, learning_rate=0.3, max_depth=1, early_stopping=False)
    theirs.fit(x, y, sample_weight=weight)
    ours = method.Stumps().fit(x, y, sample_weight=weight)
    assert np.allclose(ours.predict(x), theirs.predict(x), atol=1e-4)


def test_stumps_without_a_cut_are_constant(rng):
    y = rng.normal(size=30)
    assert np.allclose(method.Stumps().fit(rng.normal(size=(30, 2)), y).predict(np.zeros((2, 2))), y.mean())


def test_learners_find_a_linear_effect(rng):
    sample, new = small(rng), rng.normal(size=(200, 3))
    found = {name: learner(new) for name, learner in method.fit_learners(RIDGE, sample.x, sample.w, sample.y, sample.p).items()}
    truth, mu0 = 1 + new[:, 1], new @ np.arange(3)
    assert tuple(found) == method.LEARNERS
    for name in ("S-ext", "T", "DR"):
        assert np.abs(found[name].tau - truth).max() < 0.15, name
    assert np.corrcoef(found["R"].tau, truth)[0, 1] > 0.95
    assert np.ptp(found["S"].tau) < 1e-9 and found["S"].tau[0] == pytest.approx(1, abs=0.25)
    for name in ("S-ext", "T"):
        assert np.abs(found[name].mu0 - mu0).max() < 0.15 and np.allclose(found[name].mu1 - found[name].mu0, found[name].tau)
    assert found["DR"].mu0 is None and found["R"].mu1 is None


def test_r_learner_solves_the_weighted_problem(rng):
    """Least squares of the R-loss itself, effects linear in x, without the division."""
    sample = small(rng)
    m = sample.mu0 + sample.p * sample.tau
    left = sample.w - sample.p
    design = left[:, None] * np.column_stack([np.ones(len(left)), sample.x])
    known = np.linalg.lstsq(design, sample.y - m, rcond=None)[0]
    found = method.r_learner(LinearRegression, sample.x, sample.w, sample.y, sample.p, m)(np.vstack([np.zeros(3), np.eye(3)])).tau
    assert found == pytest.approx(np.r_[known[0], known[0] + known[1:]])


def test_direct_learners_use_nuisances_of_their_own_sample(rng):
    x, w, y, _, _, p = small(rng)
    mu0, mu1, m = (method.ridge().fit(x[rows], y[rows]).predict(x) for rows in (w == 0, w == 1, w >= 0))
    pseudo = mu1 - mu0 + w * (y - mu1) / p - (1 - w) * (y - mu0) / (1 - p)
    found = method.fit_learners(RIDGE, x, w, y, p)
    assert np.allclose(found["DR"](x).tau, method.ridge().fit(x, pseudo).predict(x))
    left = method.ridge().fit(x, (y - m) / (w - p), sample_weight=(w - p) ** 2)
    assert np.allclose(found["R"](x).tau, left.predict(x))


def test_candidates_are_named_by_learner_and_regressor(people, rng):
    train = method.split(people, [250], rng)[0]
    found = method.candidates(train)
    assert list(found) == [f"{c} {k}" for k in ("ridge", "trees") for c in method.LEARNERS]
    assert np.ptp(found["S trees"](train.x).tau) > 0.1  # depth 3: the treatment interacts
    assert all(np.isfinite(f(train.x).tau).all() for f in found.values())


def test_propensity(rng):
    sample = small(rng, 2000)
    model = method.propensity(sample.x, sample.w)
    p, score = method.treated(model, sample.x), {}
    for c in (1e-5, 1e-3, 1e-2, 0.1, 1.0):
        score[c] = cross_val_score(LogisticRegression(C=c), sample.x, sample.w, cv=5).mean()
    assert score[float(model.C_)] == pytest.approx(max(score.values()), abs=1e-3)  # by accuracy, which likes strong penalties
    known = LogisticRegression(C=float(model.C_)).fit(sample.x, sample.w).predict_proba(sample.x)[:, 1]
    assert np.allclose(p, known, atol=1e-3) and np.corrcoef(p, sample.p)[0, 1] > 0.97
    sure = SimpleNamespace(predict_proba=lambda x: np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert method.treated(sure, sample.x[:2]) == pytest.approx([1e-6, 1 - 1e-6], abs=1e-9)


# ---------------------------------------------------------------- losses


def test_pseudo_outcome_is_doubly_robust(rng):
    """Averaged over many draws of (w, y) it is the effect if the propensity or the outcomes are right, not if neither is."""
    n = 400_000
    p, mu0, mu1 = 0.3, 1.0, 3.0
    w = (rng.random(n) < p).astype(float)
    y = np.where(w == 1, mu1, mu0) + rng.normal(size=n)
    one = np.ones(n)

    def mean(p, mu0, mu1):
        values = method.pseudo_dr(y, w, p * one, mu0 * one, mu1 * one)
        return values.mean(), values.std() / np.sqrt(n)

    for guess in ((0.3, 1.0, 3.0), (0.3, 0.0, 7.0), (0.6, 1.0, 3.0)):
        value, error = mean(*guess)
        assert abs(value - 2) < 4 * error, guess
    assert abs(mean(0.6, 0.0, 7.0)[0] - 2) > 0.5
    exact = method.pseudo_dr(np.array([5.0, 1.0]), np.array([1, 0]), np.array([0.25, 0.5]), np.array([1.0, 2]), np.array([4.0, 4]))
    assert exact.tolist() == [3 + 1 / 0.25, 2 + 1 / 0.5]  # mu1 - mu0 + w (y - mu1) / p - (1 - w) (y - mu0) / (1 - p)


def test_r_loss_is_least_at_the_true_effect(rng):
    sample = small(rng, 5000)
    m = sample.mu0 + sample.p * sample.tau
    loss = {
        name: method.r_loss(method.Estimate(tau), sample.y, sample.w, sample.p, m).mean()
        for name, tau in {"true": sample.tau, "shifted": sample.tau + 1, "none": 0 * sample.tau}.items()
    }
    assert min(loss, key=loss.get) == "true" and loss["true"] == pytest.approx(0.01, rel=0.1)  # the noise's variance
    one = method.r_loss(method.Estimate(np.array([2.0])), np.array([5.0]), np.array([1.0]), np.array([0.25]), np.array([1.0]))
    assert one == pytest.approx((5 - 1 - 2 * 0.75) ** 2)


def test_factual_error_by_hand():
    y, w = np.array([1.0, 2.0]), np.array([0.0, 1.0])
    estimate = method.Estimate(np.array([1.0, 1.0]), np.array([3.0, 9.0]), np.array([7.0, 5.0]))
    assert method.factual_error(estimate, y, w).tolist() == [4, 9]
    assert method.factual_error(estimate, y, w, np.array([2.0, 3.0])).tolist() == [8, 27]
    assert np.isinf(method.factual_error(method.Estimate(y), y, w)).all()


def test_inverse_propensity_balances(rng):
    sample = small(rng, 200_000)
    weight = method.inverse_propensity(sample.w, sample.p)
    assert weight.mean() == pytest.approx(1, abs=0.02)
    for arm in (0, 1):
        mean = np.average(sample.x[sample.w == arm, 0], weights=weight[sample.w == arm])
        assert abs(mean) < 0.03
    assert method.inverse_propensity(np.array([1, 0, 0, 0]), np.array([0.5, 0.5, 0.2, 0.25])) == pytest.approx(
        [0.25 / 0.5, 0.75 / 0.5, 0.75 / 0.8, 1.0]
    )


def test_influence_loss_by_hand_and_plug_in_limit(rng):
    """Where nobody is treated by surprise (w = p), it is the plug-in distance less what does not depend on the candidate."""
    t, tau = np.array([2.0]), np.array([0.5])
    one = method.influence_loss(method.Estimate(tau), np.array([3.0]), np.array([1.0]), np.array([0.25]), np.zeros(1), t)
    b = 2 * 0.75 / (0.25 * 0.75)
    assert one == pytest.approx((1 - b) * 4 + b * 3 * 1.5 - 0.75 * 1.5**2 + 0.25)
    untreated = method.influence_loss(method.Estimate(tau), np.array([3.0]), np.array([0.0]), np.array([0.25]), np.ones(1), t + 1)
    assert untreated == pytest.approx(4 + 0.25 * 1.5**2 + 0.25)


def test_matching_by_loops(rng):
    sample = small(rng, 60)
    found = method.matched_effects(sample.x, sample.w, sample.y)
    for i in range(60):
        others = [j for j in range(60) if sample.w[j] != sample.w[i]]
        j = min(others, key=lambda j: ((sample.x[i] - sample.x[j]) ** 2).sum())
        sign = 1 if sample.w[i] else -1
        assert found[i] == pytest.approx(sign * (sample.y[i] - sample.y[j]))


# ---------------------------------------------------------------- criteria


def test_cross_fitting_never_sees_the_person(rng):
    sample = small(rng, 100)
    folds = [(np.arange(50, 100), np.arange(50)), (np.arange(50), np.arange(50, 100))]
    p = method.cross_fit_propensity(sample.x, sample.w, 1.0, folds)
    before = method.cross_fit(LinearRegression, sample.x, sample.w, sample.y, folds)
    after = method.cross_fit(LinearRegression, sample.x, sample.w, np.r_[sample.y[:50], sample.y[50:] + 100], folds)
    for name in ("mu0", "mu1", "m"):
        one, two = getattr(before, name), getattr(after, name)
        assert np.allclose(one[:50] + 100, two[:50]) and np.allclose(one[50:], two[50:])
    arm = sample.w[50:] == 1
    known = LinearRegression().fit(sample.x[50:][arm], sample.y[50:][arm]).predict(sample.x[:50])
    assert np.allclose(before.mu1[:50], known)
    assert np.allclose(before.m[:50], LinearRegression().fit(sample.x[50:], sample.y[50:]).predict(sample.x[:50]))
    flipped = method.cross_fit_propensity(sample.x, np.r_[sample.w[:50], 1 - sample.w[50:]], 1.0, folds)
    assert np.allclose(flipped[:50], 1 - p[:50], atol=1e-4) and np.allclose(flipped[50:], p[50:])


@pytest.fixture(scope="module")
def judged():
    sample = small(np.random.default_rng(5), 300)
    return sample, method.criteria(sample, np.random.default_rng(0))


def test_names_of_criteria(judged):
    names = list(judged[1])
    assert names[:2] == ["factual", "weighted factual"] and names[-1] == "oracle"
    kinds = [name.split()[0] for name in names]
    assert [kinds.count(k) for k in ("plug-in", "pseudo", "true", "permuted", "also")] == [10, 4, 4, 4, 6]


def test_a_criterion_picks_its_own_estimate(judged):
    """The plug-in of a learner has no loss at that learner's own estimate on the same sample, and some at another's."""
    sample, criteria = judged
    p = method.treated(method.propensity(sample.x, sample.w), sample.x)
    for kind, regressor in method.REGRESSORS.items():
        fitted = method.fit_learners(regressor, sample.x, sample.w, sample.y, p)
        for name, learner in fitted.items():
            losses = criteria[f"plug-in {name} {kind}"]
            assert losses(learner(sample.x)).max() < 1e-20
            assert losses(fitted["S" if name != "S" else "T"](sample.x)).mean() > 1e-3


def test_criteria_prefer_the_truth(judged):
    sample, criteria = judged
    true = method.Estimate(sample.tau, sample.mu0, sample.mu1)
    wrong = method.Estimate(2 - sample.tau, sample.mu0, sample.mu0 + 2 - sample.tau)
    for name, criterion in criteria.items():
        better = criterion(true).mean() < criterion(wrong).mean()
        assert better or name.split()[0] == "permuted" or name in ("also PW", "plug-in S ridge"), name
    assert criteria["oracle"](true).max() == 0 and np.allclose(criteria["oracle"](wrong), 4 * (1 - sample.tau) ** 2)
    assert criteria["factual"](true).mean() == pytest.approx(0.01, rel=0.2)
    assert np.isinf(criteria["weighted factual"](method.Estimate(sample.tau))).all()


def test_pseudo_criteria_use_what_they_are_given(judged):
    sample, criteria = judged
    none, one = (method.Estimate(np.full(300, v)) for v in (0.0, 1.0))
    slope = (criteria["also PW"](none) - criteria["also PW"](one)).mean()  # 2 mean(target) - 1
    p = method.treated(method.propensity(sample.x, sample.w), sample.x)
    assert slope == pytest.approx(2 * ((sample.w / p - (1 - sample.w) / (1 - p)) * sample.y).mean() - 1)
    effects = {
        name: (1 + (criteria[name](none) - criteria[name](one)).mean()) / 2
        for name in ("true p DR ridge", "pseudo DR ridge", "also RA ridge", "also matching", "permuted DR ridge")
    }
    assert all(abs(value - 1) < 0.3 for name, value in effects.items() if not name.startswith("permuted")), effects
    assert abs(effects["permuted DR ridge"]) < 0.5  # no effect is left
    # sum (w - p)(y - m) / sum (w - p)^2 minimises the R-loss of a constant; here with the true propensities
    f = [criteria["true p R ridge"](method.Estimate(np.full(300, c))).mean() for c in (-1.0, 0.0, 1.0)]
    assert f[0] - 2 * f[1] + f[2] == pytest.approx(2 * ((sample.w - sample.p) ** 2).mean())
    # the other versions: propensities fitted without the person, and weights from those fitted with everybody
    rng = np.random.default_rng(0)
    folds = list(StratifiedKFold(5, shuffle=True, random_state=int(rng.integers(2**31))).split(sample.x, sample.w))
    held = method.cross_fit_propensity(sample.x, sample.w, method.propensity(sample.x, sample.w).C_, folds)
    f = [criteria["pseudo R trees"](method.Estimate(np.full(300, c))).mean() for c in (-1.0, 0.0, 1.0)]
    assert f[0] - 2 * f[1] + f[2] == pytest.approx(2 * ((sample.w - held) ** 2).mean(), rel=1e-6)
    outcomes = method.Estimate(np.zeros(300), np.zeros(300), np.zeros(300))
    weights = np.where(sample.w == 1, sample.w.mean() / p, (1 - sample.w.mean()) / (1 - p))
    assert np.allclose(criteria["weighted factual"](outcomes), weights * sample.y**2)
    known = method.matched_effects(sample.x, sample.w, sample.y)
    assert np.allclose(criteria["also matching"](none), known**2)


def test_pick_lead_pehe():
    assert method.pick({"a": 2.0, "b": 1.0, "c": 1.0}) == "b"
    with pytest.raises(ValueError, match="no candidate can be scored"):
        method.pick({"a": np.inf})
    losses = {"a": np.array([1.0, 1, 1, 1]), "b": np.array([2.0, 1, 2, 3]), "c": np.full(4, 9.0)}
    assert method.lead(losses) == pytest.approx(1 / (np.array([1, 0, 1, 2]).std(ddof=1) / 2))
    assert method.lead({"a": losses["a"], "b": losses["a"]}) == 0
    assert method.pehe([1.0, 2.0], [1.0, 5.0]) == pytest.approx(np.sqrt(4.5))


def test_congeniality_by_hand():
    picks = {"plug-in S ridge": "S trees", "plug-in T trees": "T ridge", "pseudo DR ridge": "S ridge", "pseudo R trees": "R trees"}
    # learners: S by itself, of the others one of three picks S; T by itself, none of the others
    assert method.congeniality(picks, -2) == pytest.approx(((1 - 1 / 3) + (1 - 0)) / 2)
    # regressors: not ridge, others two of three; not trees, others two of three
    assert method.congeniality(picks, -1) == pytest.approx(((0 - 2 / 3) + (0 - 2 / 3)) / 2)


def test_bad_input(covariates, rng):
    sample = small(rng)
    bad = [
        (lambda: method.simulate(covariates[:, :20], 0.3, 0, False, rng), "covariates"),
        (lambda: method.simulate(covariates, 0.5, 0, False, rng), "sp_1"),
        (lambda: method.split(sample, [200, 200], rng), "sizes"),
        (lambda: method.fit_learners(RIDGE, sample.x[:9], sample.w, sample.y, sample.p), "x must"),
        (lambda: method.fit_learners(RIDGE, sample.x, sample.w, sample.y * np.nan, sample.p), "y must"),
        (lambda: method.fit_learners(RIDGE, sample.x, sample.w, sample.y, 0 * sample.p), "p must"),
        (lambda: method.propensity(sample.x, 0 * sample.w), "w must"),
        (lambda: method.criteria(sample, rng, n_folds=1), "n_folds"),
        (lambda: method.pehe([], []), "tau must"),
    ]
    for call, message in bad:
        with pytest.raises(ValueError, match=message):
            call()


# ---------------------------------------------------------------- the data


def test_acic2016():
    table, studies = acic2016.load(), [acic2016.load_study(i) for i in (1, 2)]
    assert table.shape == (4802, 55) and not table.isna().any().any()
    assert list(table.columns[[0, 24, 54]]) == ["x_1", "x_28", "x_58"]
    for study in studies:
        noise = study.y - np.where(study.w == 1, study.mu1, study.mu0)
        assert set(study.w) == {0, 1} and abs(noise.mean()) < 0.05 and noise.std() == pytest.approx(1, abs=0.05)
    assert np.ptp(studies[1].mu1 - studies[1].mu0) < 1e-6 < np.ptp(studies[0].mu1 - studies[0].mu0)


def surface(replication):
    """Coefficients (26,) of log mu0 and of mu1, and how far both are from linear."""
    design = np.column_stack([np.ones(747), replication.x])
    target = np.column_stack([np.log(replication.mu0), replication.mu1])
    b = np.linalg.lstsq(design, target, rcond=None)[0]
    return b, np.abs(design @ b - target).max()


def test_ihdp_surface_is_that_of_the_published_replication():
    published = ihdp.load()
    assert published.x.shape == (747, 25) and published.w.sum() == 139
    for replication in (published, ihdp.surface_b(published.x, published.w, seeding.rng(0))):
        b, error = surface(replication)
        assert error < 1e-9 and np.allclose(b[1:, 0], b[1:, 1])
        assert set(np.round(b[1:, 0], 6) + 0.0) <= {0.0, 0.1, 0.2, 0.3, 0.4}
        constant = b[0, 0] - b[1:, 0].sum() / 2
        assert 4 * constant == pytest.approx(round(4 * constant), abs=1e-6) and abs(constant) < 1 + 1e-6
        assert (replication.mu1 - replication.mu0)[replication.w == 1].mean() == pytest.approx(4)
        noise = replication.y - np.where(replication.w == 1, replication.mu1, replication.mu0)
        assert noise.std() == pytest.approx(1, abs=0.08)


def test_ihdp_published_is_read_from_the_mirror(tmp_path, monkeypatch):
    monkeypatch.setenv("REPLICATIONS_DATA", str(tmp_path))
    (tmp_path / "ihdp").mkdir()
    row = [1, 6.5, 4.5, 4.0, 6.0, *range(25)]  # treated, y, the other outcome, mu0, mu1, covariates
    (tmp_path / "ihdp" / "ihdp_npci_3.csv").write_text("\n".join(",".join(map(str, r)) for r in (row, [0, *row[1:]])))
    found = ihdp.load_paper(3)
    assert found.w.tolist() == [1, 0] and found.y.tolist() == [6.5, 6.5] and found.x.shape == (2, 25)
    assert found.mu0.tolist() == [4, 4] and found.mu1.tolist() == [6, 6] and found.x[0, -1] == 24


@pytest.mark.skipif("REPLICATIONS_DATA" not in os.environ, reason="the ten published replications are in the developer's mirror")
def test_ihdp_published():
    for number in (1, 10):
        assert surface(ihdp.load_paper(number))[1] < 1e-6
    assert np.array_equal(ihdp.load_paper(1).y, ihdp.load().y)
