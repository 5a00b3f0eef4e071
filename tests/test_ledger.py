"""The ledger judges fairly, and refuses what cannot be judged."""

import json
import subprocess
import sys

import numpy as np
import pytest

from shared import record
from shared.ledger import Ledger, LedgerError, estimate
from tests import toy

CLAIM = {
    "id": "a", "says": "A.", "where": "abstract", "source": "abstract", "kind": "order", "effect": "difference",
    "placebo": "Labels permuted.",
}  # fmt: skip


def claim(**rule) -> record.Claim:
    return record.Claim(**CLAIM, **rule)


@pytest.fixture
def ledger(tmp_path, monkeypatch) -> Ledger:
    home = toy.paper(tmp_path)
    monkeypatch.chdir(home)
    monkeypatch.setenv("REPLICATIONS_OUT", str(tmp_path / "out"))
    return Ledger.here()


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        ({"above": 0}, 0.1, 0.3, "holds"),
        ({"above": 0}, -0.1, 0.3, "undecided"),
        ({"above": 0}, -0.3, -0.1, "fails"),
        ({"above": 0}, 0.0, 0.0, "fails"),  # an exact zero is not above zero
        ({"below": 1}, 0.1, 0.3, "holds"),
        ({"below": 1}, 1.1, 1.3, "fails"),
        ({"within": (-0.1, 0.1)}, -0.05, 0.05, "holds"),
        ({"within": (-0.1, 0.1)}, -0.1, 0.1, "holds"),
        ({"within": (-0.1, 0.1)}, -0.05, 0.2, "undecided"),
        ({"within": (-0.1, 0.1)}, -0.2, 0.2, "undecided"),
        ({"within": (-0.1, 0.1)}, 0.2, 0.3, "fails"),
    ],
)
def test_rules(rule, low, high, verdict):
    assert claim(**rule).judge(low, high) == verdict


@pytest.mark.parametrize(("interval", "n"), [("t", 3), ("t", 5), ("t", 20), ("bootstrap", 20), ("bootstrap", 100)])
def test_pure_noise_holds_no_more_often_than_its_level(interval, n):
    """One-sided level 2.5 %; of 1,000 ledgers 25 hold on average, and 43 or more with probability below 0.001."""
    rng = np.random.default_rng(n)
    noise = rng.normal(size=(1000, n))
    held = sum(estimate(sample, interval).low > 0 for sample in noise)
    assert held < 43


def test_intervals_cover():
    """A 95 % interval contains the truth about 95 times in 100, for a skewed law too."""
    rng = np.random.default_rng(0)
    for interval, n, draw in (("t", 5, rng.normal), ("bootstrap", 60, lambda size: rng.exponential(size=size) - 1)):
        intervals = [estimate(sample, interval) for sample in draw(size=(600, n))]
        assert 0.91 < np.mean([e.low <= 0 <= e.high for e in intervals]) < 0.98


def test_bootstrap_agrees_with_scipy():
    from scipy.stats import bootstrap

    sample = np.random.default_rng(3).gamma(2, size=300)
    theirs = bootstrap((sample,), np.mean, method="percentile", n_resamples=10_000, rng=1).confidence_interval
    ours = estimate(sample, "bootstrap")
    assert np.allclose([ours.low, ours.high], theirs, atol=0.02)


@pytest.mark.parametrize(
    ("sample", "interval", "message"),
    [
        ([1.0, 2.0], "t", "too few"),
        (np.arange(19.0), "bootstrap", "too few"),
        ([], "exact", "too few"),
        ([1.0, float("nan"), 2.0], "t", "NaN"),
        ([1.0, float("inf"), 2.0], "t", "infinite"),
        ([0.5, 0.5, 0.5], "t", "identical"),
        ([1.0] * 30, "bootstrap", "identical"),
        ([[1.0, 2.0, 3.0]], "t", "shape"),
    ],
)
def test_refused_samples(sample, interval, message):
    with pytest.raises(ValueError, match=message):
        estimate(sample, interval)


def test_exact_is_the_range():
    assert (estimate([2.0], "exact").low, estimate([1.0, 3.0], "exact").high) == (2.0, 3.0)


def test_placebo_that_holds_gives_void(ledger):
    ledger.measure("mean_is_positive", effect=[1, 1.1, 1.2], placebo=[1, 1.1, 1.3])
    shown = ledger.verdicts()._repr_mimebundle_()
    assert "void" in shown["text/markdown"]
    assert json.loads(ledger.path.read_text())["claims"]["mean_is_positive"]["verdict"] == "void"


def test_raw_sample_is_kept(ledger):
    ledger.measure("mean_is_positive", effect=[3, 3.1, 3.123456], placebo=[-1, 0, 1])
    ledger.verdicts()
    entry = json.loads(ledger.path.read_text())["claims"]["mean_is_positive"]
    assert entry["effect"]["sample"] == [3, 3.1, 3.12346]
    assert entry["verdict"] == "holds"
    again = estimate(entry["effect"]["sample"])
    assert again.low == pytest.approx(entry["effect"]["low"], rel=1e-4)


def test_declared_but_not_measured(ledger):
    with pytest.raises(LedgerError, match="never measured: mean_is_positive"):
        ledger.verdicts()
    assert not ledger.path.exists()


def test_measured_but_not_declared(ledger):
    with pytest.raises(LedgerError, match=r"'mean_is_negative' is not declared.*mean_is_positive"):
        ledger.measure("mean_is_negative", effect=[1, 2, 3], placebo=[-1, 0, 1])


def test_bad_sample_names_the_claim_and_the_side(ledger):
    with pytest.raises(LedgerError, match=r"mean_is_positive, placebo: .*NaN"):
        ledger.measure("mean_is_positive", effect=[1, 2, 3], placebo=[1, 2, float("nan")])


def test_importing_the_ledger_is_quick_and_light():
    """0.3 s on a quiet machine, most of it numpy's: what is ours is compared with that, so that a busy
    machine does not fail it."""

    def seconds(modules: str) -> float:
        code = (
            f"import sys, time; t = time.process_time(); import {modules}; print(time.process_time() - t);"
            "assert not {'torch', 'transformers', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)"
        )
        runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
        return min(float(run.stdout) for run in runs)

    theirs = seconds("numpy, json, pathlib, subprocess, importlib.metadata")
    assert seconds("shared.ledger") < 2 * theirs
