"""Early warning signals: rates and steps in closed form, indicators against other libraries, the authors' own windows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import solve_ivp
from scipy.stats import kendalltau, norm

from replications.timeseries.early_warning_signals import method
from shared.place import ROOT

DATA = ROOT / "replications" / "timeseries" / "early_warning_signals" / "data"


def test_fixed_points_solve_the_cubic():
    for n, wanted in zip(method.fixed_points(), (250.3, 503.9), strict=True):
        assert n == pytest.approx(wanted, abs=0.1)
        assert n**3 - 640 * n**2 + 40_000 * n + 14.4e6 == pytest.approx(0, abs=1e-3)
        assert method.birth_rate(n) == pytest.approx(method.death_rate(n))
    with pytest.raises(ValueError, match="past the saddle-node"):
        method.fixed_points(a=210)


@pytest.mark.parametrize("step", [method.birth_death_step, lambda n, g: method.birth_death_events(n, g, dt=0.1, substeps=1)])
def test_steps_have_the_moments_of_births_and_deaths(step):
    n = np.full(200_000, 400.0)
    moved = step(n, np.random.default_rng(0)) - n
    births, deaths = 0.5 * 1000 * 400**2 / (400**2 + 200**2), 0.5 * 400 + 180
    assert moved.mean() == pytest.approx((births - deaths) * 0.1, abs=0.1)
    assert moved.var() == pytest.approx((births + deaths) * 0.1, rel=0.02)


def test_extinction_absorbs():
    rng = np.random.default_rng(0)
    assert not method.birth_death_step(np.zeros(1000), rng).any()
    assert not method.birth_death_events(np.zeros(1000, int), rng, dt=0.1).any()
    assert (method.birth_death_step(np.full(1000, 1.0), rng) >= 0).all()


def test_may_map():
    class Still:
        def standard_normal(self, shape, dtype):
            return np.zeros(shape, dtype)

    x = np.array([7.10, 3.0])
    moved = method.may_step(x, Still())
    assert moved[0] == pytest.approx(7.10, abs=0.01)  # the upper fixed point
    assert moved[1] == pytest.approx(3 * np.exp(0.75 * (1 - 0.3) - 1.55 * 9 / 28))
    noisy = method.may_step(np.full(100_000, 3.0), np.random.default_rng(0))
    assert np.log(noisy).std() == pytest.approx(0.1, rel=0.02)


def scripted(paths: np.ndarray) -> method.System:
    """A system that replays the columns of `paths` (samples, chains), whatever its state; levels as in the birth-death model."""
    time = iter(np.asarray(paths, np.float32))
    return method.System(lambda n, rng: next(time), start=500, alarm=250, lost=150, home=504)


def test_only_collapses_are_kept_and_windows_end_where_they_should():
    block, window = 40, 10
    paths = np.full((6 * block, 2), 480.0)
    tip = 2 * block + 25  # the first two blocks are for mixing
    paths[tip - 12, :] = 510  # the last visit home
    paths[tip - 11 : tip, :] = np.linspace(470, 260, 11)[:, None]
    paths[tip:, 0] = 100  # chain 0 dies
    paths[tip : tip + 3, 1] = 240  # chain 1 is a near miss, with a second dip before it is home
    paths[tip + 3 : tip + 5, 1] = 300
    paths[tip + 5, 1] = 245
    paths[tip + 6, 1] = 505
    found = method.chance_collapses(scripted(paths), 1, np.random.default_rng(0), window=window, chains=2, block=block)
    assert (len(found.history), found.near_misses, found.unusable) == (1, 1, 0)
    assert np.array_equal(found.history[0], paths[tip - 2 * window : tip, 0].astype(np.float32))
    assert found.at_home[0][-1] == 510
    assert len(found.at_home[0]) == window


def test_no_window_reaches_back_to_an_earlier_life():
    block, window = 40, 10
    paths = np.full((8 * block, 2), 480.0)
    paths[2 * block : 3 * block, 0] = 100  # chain 0 is lost and starts again with block 3
    for tip, chain in ((3 * block + 25, 0), (5 * block + 25, 1)):
        paths[tip - 24, chain] = 510
        paths[tip : tip + 15, chain] = 100
    found = method.chance_collapses(scripted(paths), 1, np.random.default_rng(0), window=window, chains=2, block=block)
    assert len(found.at_home) == 1
    assert found.at_home[0].min() > 250
    assert found.chain_steps == (2 + 1 + 1 + 1) * block  # blocks 2 to 5, of which chain 0 is old enough in the first only


def test_a_window_must_fit():
    with pytest.raises(ValueError, match="window 30 is longer"):
        method.chance_collapses(scripted(np.zeros((1, 1))), 1, np.random.default_rng(0), window=30, block=40)


def test_null_windows_are_matched():
    system = method.System(method.birth_death_step, 500, 250, 150, method.fixed_points()[1])
    at_time, at_home = method.null_windows(system, 300, np.random.default_rng(0), window=50)
    assert at_time.shape[1] == at_home.shape[1] == 50
    assert min(len(at_time), len(at_home)) > 270
    assert (at_home[:, -1] >= system.home).all()
    assert at_time.mean() == pytest.approx(500, abs=5)


def test_indicators_against_pandas_and_the_definition():
    x = np.random.default_rng(0).normal(size=(2, 60)).cumsum(axis=1)
    assert np.allclose(method.rolling_variance(x, 20)[1], pd.Series(x[1]).rolling(20).var().dropna())
    part = x[0, 5:25] - x[0, 5:25].mean()
    by_hand = sum(part[t] * part[t + 1] for t in range(19)) / sum(p * p for p in part)
    assert method.rolling_autocorrelation(x, 20)[0, 5] == pytest.approx(by_hand)


def test_autocorrelation_of_an_ar1():
    rng = np.random.default_rng(1)
    x = np.zeros(20_000)
    for t in range(1, len(x)):
        x[t] = 0.9 * x[t - 1] + rng.normal()
    assert method.rolling_autocorrelation(x[None], len(x))[0, 0] == pytest.approx(0.9, abs=0.02)


def test_kendall_against_scipy():
    rng = np.random.default_rng(0)
    for x in (rng.normal(size=50), rng.integers(5, size=50).astype(float)):  # without and with ties
        assert method.kendall_trend(x[None])[0] == pytest.approx(kendalltau(np.arange(50), x).statistic)
    assert method.kendall_trend(np.arange(9.0)) == 1


def test_taus_use_half_windows():
    x = np.random.default_rng(2).normal(size=(3, 40)).cumsum(axis=1)
    expected = [kendalltau(np.arange(21), pd.Series(row).rolling(20).var().dropna()).statistic for row in x]
    assert np.allclose(method.taus(x)[:, 0], expected)


def test_the_authors_windows_give_the_authors_taus():
    archive = np.load(DATA / "windows.npz")
    pieces = np.split(archive["values"].astype(float), np.cumsum(archive["lengths"])[:-1])
    tau = np.array([method.taus(p[p > 250][None])[0] for p in pieces])
    published = pd.read_csv(DATA / "published_taus.csv").query("model == 'birth-death' and sample == 'collapsed'")
    for column, name in enumerate(["Variance", "Autocorrelation"]):  # another run of theirs: equal up to sampling
        assert tau[:, column].mean() == pytest.approx(published.tau[published.indicator == name].mean(), abs=0.04)


def test_likelihood_against_moments_integrated_numerically():
    r0, m, theta, sigma, dt = 0.04, -1e-3, 400.0, 1.5, 0.5
    x = 400 + np.random.default_rng(0).normal(size=30).cumsum()
    total = 0.0
    for i in range(29):
        root = np.sqrt(r0 + m * dt * i)
        level = root + theta

        def moments(t, y, root=root, level=level):
            return [2 * root * (level - y[0]), -4 * root * y[1] + sigma**2 * level]

        mean, variance = solve_ivp(moments, (0, dt), [x[i], 0.0], rtol=1e-10, atol=1e-12).y[:, -1]
        total -= norm.logpdf(x[i + 1], mean, np.sqrt(variance))
    assert method.saddle_node_nll(np.array([r0, m, theta, sigma]), x, dt) == pytest.approx(total, rel=1e-6)
    assert method.saddle_node_nll(np.array([r0, -1.0, theta, sigma]), x, dt) == np.inf
    assert method.saddle_node_nll(np.array([r0, m, -theta, sigma]), x, dt) == np.inf


def saddle_node_path(m: float, seed: int, n: int = 400, dt: float = 1.0) -> np.ndarray:
    """An exact-transition path of the model with R from 0.3 to 0.3 + m n dt."""
    rng, x = np.random.default_rng(seed), [100.0]
    for i in range(n):
        root = np.sqrt(0.3 + m * dt * i)
        decay = np.exp(-2 * root * dt)
        spread = np.sqrt(0.04 * (root + 100) * (1 - decay**2) / (4 * root))
        x.append(root + 100 + (x[-1] - root - 100) * decay + spread * rng.normal())
    return np.array(x)


def test_the_test_hears_an_approach_and_only_that():
    approach = [method.saddle_node_test(saddle_node_path(-0.29 / 400, s), 1.0) for s in range(8)]
    recede = [method.saddle_node_test(saddle_node_path(1.5 / 400, s), 1.0) for s in range(8)]
    still = [method.saddle_node_test(saddle_node_path(0.0, s), 1.0) for s in range(8)]
    assert np.median(approach) > 2 > np.max(recede)
    assert np.median(recede) < -1
    assert abs(np.median(still)) < 1.5


@pytest.mark.parametrize("x", [np.ones(50), np.arange(10.0), np.full(50, np.nan)])
def test_the_test_refuses(x):
    with pytest.raises(ValueError, match="x must be one finite series"):
        method.saddle_node_test(x, 1.0)


def test_start_is_the_stationary_fit():
    r0, theta, sigma = method.ornstein_uhlenbeck_start(saddle_node_path(0.0, 3, n=20_000), 1.0)
    assert r0 == pytest.approx(0.3, rel=0.1)
    assert theta == pytest.approx(100, abs=0.5)
    assert sigma == pytest.approx(0.2, rel=0.05)


def test_flagged():
    null = np.arange(100.0)
    assert method.flagged(np.array([93.0, 94.0, 95.0, 200.0]), null) == 0.5
    assert method.flagged(np.array([18.5, 18.9, 18.96]), null[:20]) == pytest.approx(1 / 3)  # rank 19.95 of 20
    with pytest.raises(ValueError, match="too few"):
        method.flagged(null, null[:5])


def test_control_deteriorates_and_survives():
    runs = method.deteriorating(40, 20, 2.0, 198, np.random.default_rng(0))
    assert runs.shape[1] == 20
    assert (runs >= 250).all()
    assert runs[:, -3:].mean() < runs[:, :3].mean() - 20
    still = method.deteriorating(40, 20, 0.1, 180, np.random.default_rng(0))
    assert still.mean() == pytest.approx(500, abs=20)


def test_shuffling_keeps_the_ends_and_the_increments():
    x = np.random.default_rng(0).normal(size=(3, 30))
    shuffled = method.shuffled_increments(x, np.random.default_rng(1))
    assert np.allclose(shuffled[:, [0, -1]], x[:, [0, -1]])
    assert np.allclose(np.sort(np.diff(shuffled)), np.sort(np.diff(x)))
    assert not np.allclose(shuffled, x)


@pytest.mark.parametrize(("x", "told"), [(np.zeros((1, 5)), "width"), (np.full((1, 50), np.nan), "finite")])
def test_bad_series(x, told):
    with pytest.raises(ValueError, match=told):
        method.rolling_variance(x, 10)


def test_source_is_given():
    assert "CC0" in Path(DATA / "SOURCE.txt").read_text()
