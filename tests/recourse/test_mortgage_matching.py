"""Matching against brute force and causallib, tests against scipy, gaps of predictors known in closed form, the readers."""

import zipfile

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from replications.recourse.mortgage_matching import method
from shared import data, seeding
from shared.data import boston_hmda, hmda


def rng(stream: str = "") -> np.random.Generator:
    return seeding.rng(7, stream)


def people(n: int = 60, d: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariates (n, d), race with a third of 1, and three strata."""
    g = rng("people")
    return g.normal(size=(n, d)), (np.arange(n) % 3 == 0).astype(int), g.integers(3, size=n)


# ---------------------------------------------------------------- matching


def by_brute_force(near, race, strata, caliper):
    """Greedy pairs by sorting all distances."""
    edges = sorted(
        (np.linalg.norm(near[i] - near[j]), i, j)
        for i in np.flatnonzero(race == 1)
        for j in np.flatnonzero((race == 0) & (strata == strata[i]))
    )
    used, pairs = set(), []
    for distance, i, j in edges:
        if distance < caliper and i not in used and j not in used:
            used |= {i, j}
            pairs.append((i, j))
    return np.array(pairs)


@pytest.mark.parametrize("caliper", [0.3, 0.8, 50.0])
def test_match_is_greedy_by_distance(caliper):
    near, race, strata = people()
    found = method.match(near, race, strata, caliper, candidates=60)
    assert np.array_equal(found, by_brute_force(near, race, strata, caliper))
    assert (race[found] == [1, 0]).all()
    assert (strata[found[:, 0]] == strata[found[:, 1]]).all()
    assert len(np.unique(found)) == found.size


def test_candidates_limit_the_search():
    near = np.array([[0.0], [0.1], [0.2], [5.0]])  # two of race 1 compete for the third, the fourth is their second choice
    race = np.array([1, 1, 0, 0])
    assert method.match(near, race, np.zeros(4, int), 9.0, candidates=1).tolist() == [[1, 2]]
    assert method.match(near, race, np.zeros(4, int), 9.0, candidates=2).tolist() == [[1, 2], [0, 3]]


def test_nobody_to_match():
    near, race, _ = people()
    assert method.match(near, race, race, 9.0).shape == (0, 2)  # no stratum holds both races
    assert method.match(near, race, np.zeros(60, int), 1e-9).shape == (0, 2)


def test_match_against_causallib():
    reason = "causallib is not installed: pip install --no-deps causallib==0.10.0 statsmodels patsy"
    estimation = pytest.importorskip("causallib.estimation", reason=reason)
    g = rng("peer")
    one = g.uniform(0, 100, size=(30, 2))  # far apart, so that the best assignment is the greedy one
    near = np.vstack([one, one + g.normal(0, 0.01, size=one.shape), g.uniform(200, 300, size=(20, 2))])
    race = np.repeat([1, 0], [30, 50])
    table, treated, y = pd.DataFrame(near), pd.Series(race), pd.Series(g.normal(size=80))
    peer = estimation.Matching(caliper=0.5, with_replacement=False, metric="euclidean", matching_mode="treatment_to_control")
    peer.fit(table, treated, y)
    peer.match(table, treated)
    partners = {i: found[0] for i, found in peer.match_df_.loc[0]["matches"].items() if race[i] == 1 and len(found)}
    assert dict(method.match(near, race, np.zeros(80, int), 0.5).tolist()) == partners


def test_standardise():
    x = np.array([[1.0, np.nan], [3.0, 10.0], [5.0, 30.0]])
    z = method.standardise(x)
    assert z[:, 0] == pytest.approx([-(1.5**0.5), 0, 1.5**0.5])
    assert z[:, 1] == pytest.approx([0, -1, 1])  # not reported becomes 0
    with pytest.raises(ValueError, match=r"do not vary: \[1\]"):
        method.standardise(np.array([[1.0, 2.0], [2.0, 2.0]]))
    with pytest.raises(ValueError, match="not infinite"):
        method.standardise(np.array([[np.inf], [2.0]]))


def test_imbalance():
    x, race = np.array([[0.0], [2.0], [5.0], [9.0]]), np.array([0, 0, 1, 1])
    sd = method.spread(x, race)
    assert sd == pytest.approx([np.sqrt((2 + 8) / 2)])
    assert method.imbalance(x, race, sd) == pytest.approx([6 / np.sqrt(5)])


def test_propensity_of_one_yes_or_no():
    """The fitted log odds of a saturated model are those of the table."""
    x, race = np.repeat([[0.0], [1.0]], [50, 40], axis=0), np.repeat([1, 0, 1, 0], [10, 40, 30, 10])
    logit = method.propensity_logit(x, race)
    assert logit[[0, -1]] == pytest.approx([np.log(10 / 40), np.log(30 / 10)], abs=2e-3)


def test_inverse_propensity_weights_balance():
    x, race = np.repeat([[0.0], [1.0]], [50, 40], axis=0), np.repeat([1, 0, 1, 0], [10, 40, 30, 10])
    w = method.inverse_propensity_weights(method.propensity_logit(x, race), race)
    assert (w[race == 1] == 1).all()
    assert w[race == 0].sum() == pytest.approx(40)
    assert np.average(x[race == 0, 0], weights=w[race == 0]) == pytest.approx(x[race == 1].mean(), abs=2e-3)


def test_alike_pairs_are_white_and_free_of_race():
    g = rng("null")
    n = 4000
    near, race = g.normal(size=(n, 1)), (g.random(n) < 0.2).astype(int)
    y = near[:, 0] + 3.0 * race + g.normal(size=n)
    strata = g.integers(2, size=n)
    pairs = method.match(near, race, strata, 0.05)
    null = method.alike_pairs(near, race, strata, 0.05, pairs)
    assert (race[null] == 0).all()
    assert (strata[null[:, 0]] == strata[null[:, 1]]).all()
    assert set(null[:, 0]) <= set(pairs[:, 1])
    assert not set(null[:, 1]) & set(pairs[:, 1])
    assert method.differences(y, pairs).mean() == pytest.approx(3, abs=0.2)
    assert abs(method.differences(y, null).mean()) < 0.2


def test_alike_pairs_show_a_match_that_is_none():
    """The null bites: with a caliper that lets anybody in, the White twins of the poor differ from other Whites."""
    g = rng("poor")
    near, race = (
        np.r_[g.normal(-2, 0.3, 100), g.normal(-2, 0.3, 100), g.normal(1, 0.3, 300)][:, None],
        np.repeat([1, 0], [100, 400]),
    )
    strata = np.zeros(500, int)
    pairs = method.match(near, race, strata, 50, candidates=500)
    null = method.alike_pairs(near, race, strata, 50, pairs, candidates=500)
    assert abs(method.differences(near[:, 0], null).mean()) > 1


# ---------------------------------------------------------------- unfairness in the data


def test_differences():
    y, pairs = np.array([1, 0, 1, 1]), np.array([[0, 1], [2, 3]])
    assert method.differences(y, pairs).tolist() == [1, 0]


def test_randomization_test_against_scipy():
    """All 2^9 exchanges by scipy against ours at random, with zeros, which an exchange does not change."""
    d = np.array([1.0, 0.5, -0.2, 2.0, 0.7, 0.0, 0.9, -0.4, 1.1])
    exact = stats.permutation_test((d, np.zeros(9)), lambda a, b: (a - b).mean(), permutation_type="samples").pvalue
    assert method.randomization_test(d, rng(), 10_000) == pytest.approx(exact, abs=0.007)


def test_randomization_test_is_mcnemars():
    d = np.repeat([1, -1, 0], [20, 8, 50])
    assert method.randomization_test(d, rng(), 10_000) == pytest.approx(stats.binomtest(20, 28).pvalue, abs=0.007)


def test_p_values_under_the_null_are_uniform():
    g = rng("uniform")
    p = [method.randomization_test(g.normal(size=30), g, 100) for _ in range(200)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_p_value_is_never_zero():
    assert method.randomization_test(np.ones(60), rng(), 100) == pytest.approx(1 / 101)
    with pytest.raises(ValueError, match="at least one pair"):
        method.randomization_test(np.array([]), rng())
    with pytest.raises(ValueError, match="finite"):
        method.randomization_test(np.array([np.nan]), rng())


@pytest.mark.parametrize(("worse", "better"), [(40, 12), (15, 14), (9, 0)])
def test_sensitivity_is_where_the_sign_test_stops(worse, better):
    gamma = method.sensitivity(np.repeat([1, -1, 0], [worse, better, 7]))
    p = stats.binomtest(worse, worse + better, gamma / (1 + gamma), alternative="greater").pvalue
    assert p == pytest.approx(0.05, abs=1e-6)


def test_sensitivity_at_the_edges():
    assert method.sensitivity(np.array([-1.0, -1.0])) == 0
    assert method.sensitivity(np.repeat([1, -1], [15, 14])) < 1  # not significant to begin with
    with pytest.raises(ValueError, match="no pair whose members differ"):
        method.sensitivity(np.zeros(3))


# ---------------------------------------------------------------- learning


def world(n: int = 3000, effect: float = 1.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, race and outcome y, whose log odds are x + effect * race - 1; race depends on x."""
    g = rng("world")
    x = g.normal(size=(n, 1))
    race = (g.random(n) < 1 / (1 + np.exp(-x[:, 0]))).astype(int)
    y = (g.random(n) < 1 / (1 + np.exp(-(x[:, 0] + effect * race - 1)))).astype(int)
    return x, race, y


@pytest.mark.parametrize("learner", list(method.LEARNERS))
def test_learners_find_the_effect_of_race(learner):
    x, race, y = world()
    truth = np.mean(1 / (1 + np.exp(-(x + 0.5))) - 1 / (1 + np.exp(-(x - 1))))
    said = method.scores(method.fit(learner, x, race, y, 0), x)
    assert said.shape == (3000, 2) and ((said >= 0) & (said <= 1)).all()
    assert method.flip_gaps(said).mean() == pytest.approx(truth, abs=0.06)


@pytest.mark.parametrize("learner", list(method.LEARNERS))
def test_race_unseen_cannot_flip(learner):
    x, race, y = world()
    said = method.scores(method.fit(learner, x, race, y, 0, aware=False), x)
    assert np.array_equal(said[:, 0], said[:, 1])
    assert said[:, 0].std() > 0.05


@pytest.mark.parametrize("learner", list(method.LEARNERS))
def test_weights_count_as_copies(learner):
    """A person of weight 0 might as well be absent; these bear the effect of race."""
    x, race, y = world()
    ignored = (race == 1) & (y == 1) & (np.arange(3000) % 2 == 0)
    said = method.scores(method.fit(learner, x, race, y, 0, weights=np.where(ignored, 0.0, 1.0)), x)
    plain = method.scores(method.fit(learner, x, race, y, 0), x)
    assert method.flip_gaps(said).mean() < method.flip_gaps(plain).mean() - 0.05


def test_duplicates_have_no_flip_gap():
    g = rng("twins")
    x, y = np.tile(g.normal(size=(300, 2)), (2, 1)), np.tile(g.integers(2, size=300), 2)
    race = np.repeat([1, 0], 300)
    assert abs(method.flip_gaps(method.scores(method.fit("logistic", x, race, y, 0), x)).mean()) < 1e-3


def test_swapping_races_removes_the_effect_and_nothing_else():
    x, race, y = world()
    pairs = method.match(x, race, np.zeros(3000, int), 0.3)
    swapped = method.swap_races(race, pairs, rng())
    assert (swapped[pairs].sum(axis=1) == 1).all()
    assert (swapped[pairs[:, 0]] == 1).mean() == pytest.approx(0.5, abs=0.06)
    outside = np.setdiff1d(np.arange(3000), pairs)
    assert np.array_equal(swapped[outside], race[outside])
    members = pairs.ravel()
    said = method.scores(method.fit("logistic", x[members], swapped[members], y[members], 0), x)
    assert abs(method.flip_gaps(said).mean()) < 0.05


def test_unmatched_people():
    _, race, _ = world()
    pool = np.arange(500)
    rows = method.unmatched(race, pool, 100, rng())
    assert len(set(rows)) == 200 and rows.max() < 500
    assert race[rows].tolist() == [1] * 100 + [0] * 100
    assert set(rows) != set(method.unmatched(race, pool, 100, rng("other")))
    with pytest.raises(ValueError, match=r"pool holds \d+ people of race 1 and \d+ of race 0, m is 400"):
        method.unmatched(race, pool, 400, rng())


def test_gaps_of_a_known_predictor():
    """f(x, a) = (x + 2 a) / 10."""
    said = method.scores(lambda x, race: (x[:, 0] + 2 * race) / 10, np.array([[1.0], [3.0], [4.0], [0.0]]))
    pairs = np.array([[0, 1], [2, 3]])
    assert said == pytest.approx(np.array([[0.1, 0.3], [0.3, 0.5], [0.4, 0.6], [0.0, 0.2]]))
    assert method.flip_gaps(said) == pytest.approx([0.2] * 4)
    assert method.pair_gaps(said, pairs) == pytest.approx([0.0, 0.6])
    assert method.split_decisions(said, pairs, flagged=0.25) == 0.5  # only the third person, 0.6, is flagged
    assert method.split_decisions(said, pairs, flagged=0.0) == 0


def test_each_member_is_flagged_as_it_is():
    said = np.array([[0.0, 0.9], [0.1, 0.95], [0.1, 0.2], [0.3, 0.3]])  # as they are: .9 and .2, .1 and .3
    assert method.split_decisions(said, np.array([[0, 1], [2, 3]]), flagged=0.5) == 1


# ---------------------------------------------------------------- bad input


def test_bad_input():
    near, race, strata = people()
    with pytest.raises(ValueError, match="covariates must be finite"):
        method.match(np.where(near > 1, np.nan, near), race, strata, 0.3)
    with pytest.raises(ValueError, match="race must be of shape"):
        method.match(near, race[:-1], strata, 0.3)
    with pytest.raises(ValueError, match="with both 0 and 1"):
        method.spread(near, np.zeros(60))
    with pytest.raises(ValueError, match="strata must be of shape"):
        method.match(near, race, strata[:-1], 0.3)
    with pytest.raises(ValueError, match="caliper must be positive"):
        method.match(near, race, strata, 0.0)
    with pytest.raises(ValueError, match="learner must be one of logistic, hgb, forest, not 'svm'"):
        method.fit("svm", near, race, race, 0)
    with pytest.raises(ValueError, match="both classes 0 and 1"):
        method.fit("logistic", near, race, np.ones(60), 0)


# ---------------------------------------------------------------- data


@pytest.fixture(scope="module")
def boston() -> pd.DataFrame:
    return boston_hmda.load()


def test_boston_gives_the_published_linear_model(boston):
    """Stock and Watson (2007), Table 11.2, column 1; loan-to-value in bands, the constant last."""
    middle, high = boston["loan_to_value"].between(0.8, 0.95), boston["loan_to_value"] > 0.95
    names = ["black", "payments_to_income", "housing_to_income", "consumer_score", "mortgage_score"]
    names += ["bad_public_record", "insurance_denied", "self_employed"]
    design = np.column_stack([boston[names], middle, high, np.ones(len(boston))]).astype(float)
    found = np.linalg.lstsq(design, boston["denied"], rcond=None)[0]
    published = [0.084, 0.449, -0.048, 0.031, 0.021, 0.197, 0.702, 0.060, 0.031, 0.189, -0.183]
    assert found.round(3).tolist() == published


def test_boston_counts(boston):
    assert boston.shape == (2380, 14)
    assert boston["black"].sum() == 339
    assert boston.groupby("black")["denied"].mean().round(3).tolist() == [0.093, 0.283]


def test_extract():
    table = hmda.load()
    assert table.shape == (64271, 12)
    assert table["black"].sum() == 8162
    assert table.groupby("black")["high_priced"].mean().round(3).tolist() == [0.096, 0.224]
    assert (table["debt_band"] == "36-49").equals(table["debt_ratio"].between(36, 49))
    assert not table.drop(columns="debt_ratio").isna().any().any()


ROW = {
    "action_taken": "1", "loan_purpose": "1", "co-applicant_age": "9999", "derived_sex": "Female", "reverse_mortgage": "2",
    "derived_ethnicity": "Not Hispanic or Latino", "derived_race": "White", "derived_loan_product_type": "FHA:First Lien",
    "applicant_age": "25-34", "income": "60", "loan_amount": "205000", "property_value": "215000", "loan_term": "360",
    "combined_loan_to_value_ratio": "95.5", "debt_to_income_ratio": "41", "rate_spread": "1.6", "interest_rate": "4.5",
    "county_code": "01001",
}  # fmt: skip


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A register of a few rows for 2018 and 2019, zipped as the snapshot is."""
    kept = [
        ROW,
        ROW | {"derived_race": "Black or African American", "action_taken": "3", "interest_rate": "NA", "rate_spread": "NA"},
        ROW | {"debt_to_income_ratio": "50%-60%", "rate_spread": "1.4"},
        ROW | {"debt_to_income_ratio": "Exempt", "rate_spread": "Exempt"},
    ]
    left_out = [
        {"action_taken": "4"}, {"loan_purpose": "31"}, {"co-applicant_age": "35-44"}, {"derived_sex": "Joint"},
        {"reverse_mortgage": "1"}, {"derived_ethnicity": "Hispanic or Latino"}, {"derived_race": "Asian"}, {"income": "NA"},
        {"income": "0"}, {"property_value": "Exempt"}, {"combined_loan_to_value_ratio": "NA"},
    ]  # fmt: skip
    (tmp_path / "hmda-lar").mkdir()
    for year, rows in ((2018, [*kept, *(ROW | change for change in left_out)]), (2019, [ROW])):
        text = pd.DataFrame(rows).to_csv(index=False)
        with zipfile.ZipFile(tmp_path / "hmda-lar" / f"{year}_public_lar_csv.zip", "w") as archive:
            archive.writestr(f"{year}_public_lar_csv.csv", text)
    monkeypatch.setenv("REPLICATIONS_DATA", str(tmp_path))


def test_register(mirror):
    table = hmda.load_register([2018])
    assert table["black"].tolist() == [0, 1, 0, 0]
    assert table["denied"].tolist() == [0, 1, 0, 0]
    assert table["debt_band"].tolist() == ["36-49", "36-49", "50%-60%", "not given"]
    assert table["debt_ratio"].tolist()[:2] == [41, 41] and table["debt_ratio"].isna().tolist() == [False, False, True, True]
    assert table["high_priced"].fillna(-1).tolist() == [1, -1, 0, -1]
    assert table["interest_rate"].fillna(-1).tolist() == [4.5, -1, 4.5, 4.5]
    assert table["county"].unique().tolist() == ["01001"]  # text: the leading zero counts
    assert table[["income", "amount", "value", "loan_to_value", "term"]].iloc[0].tolist() == [60, 205000, 215000, 95.5, 360]
    assert set(hmda.load().columns) <= set(table.columns)


def test_register_of_several_years(mirror):
    assert len(hmda.load_register([2018, 2019])) == 5


def test_register_of_a_missing_year(mirror):
    with pytest.raises(data.DataError, match=r"2020_public_lar_csv\.zip does not exist"):
        hmda.load_register([2020])
