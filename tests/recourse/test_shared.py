"""shared.recourse: projection to real rows, the margin ladder, the measures; and that no table's filled cells tell the label."""

import os

import numpy as np
import pandas as pd
import pytest

from shared.data import from_mirror
from shared.recourse import measures
from shared.recourse.problem import MARGINS, Model, Problem, snap
from shared.recourse.table import encode
from shared.recourse.tables import adult, default, german, give_me_some_credit, heloc
from tests.leaks import constants_that_tell

FRAME = pd.DataFrame(
    {
        "age": [20, 30, 40, 60],
        "income": [0.0, 1.0, 2.0, 4.0],
        "debt": [4, 2, 1, 0],
        "no debt file": [0, 0, 0, 1],
        "home": ["own", "rent", "rent", "free"],
        "sex": ["f", "m", "f", "m"],
    }
)
MOVES = {"age": "up", "income": "free", "debt": "free", "no debt file": "fixed", "home": "free", "sex": "fixed"}


@pytest.fixture
def table():
    return encode("toy", FRAME, np.array([0, 0, 1, 1]), MOVES, {"debt": ["no debt file"]})


def linear(w, b=0.0):
    def predict(x):
        return 1 / (1 + np.exp(-(x @ w + b)))

    return Model(predict, lambda x: (predict(x) * (1 - predict(x)))[:, None] * w, kind="linear")


def test_encoding_goes_back_to_the_units(table):
    assert table.X.shape == (4, 9)
    assert table.X[1].tolist() == [0.25, 0.25, 0.5, 0, 0, 0, 1, 0, 1]
    pd.testing.assert_frame_equal(table.raw(table.X), FRAME, check_dtype=False)


def test_project_gives_rows_that_the_person_could_become(table):
    x = table.X[[1, 3]]
    z = np.full((2, 1, 9), 0.3)
    z[:, 0, 0], z[:, 0, 2], z[:, 0, 4:7] = 0.1, 0.6, [0.2, 0.5, 0.4]
    real = table.project(z, x)[:, 0]
    raw = table.raw(real)
    assert raw["age"].tolist() == [30, 60]  # would fall: kept
    assert raw["income"].tolist() == pytest.approx([1.2, 1.2])
    assert raw["debt"].tolist() == [2, 0]  # .6 of 4 is 2.4, rounded; the second has no debt file, so no debt to move
    assert raw["home"].tolist() == ["own", "own"]
    assert raw["sex"].tolist() == ["m", "m"]
    assert raw["no debt file"].tolist() == [0, 1]
    np.testing.assert_allclose(table.project(real[:, None], x)[:, 0], real)  # a real row stays
    z[0, 0, 0] = np.nan
    assert np.isnan(table.project(z, x)[0]).all() and not np.isnan(table.project(z, x)[1]).any()


def test_movable_is_what_project_allows(table):
    x = table.X
    low, high = table.movable(x)
    for corner in (np.zeros, np.ones):
        real = table.project(corner((4, 1, 9)), x)[:, 0]
        numbers = slice(0, 4)
        assert (real[:, numbers] >= low[:, numbers]).all() and (real[:, numbers] <= high[:, numbers]).all()
    assert (low[:, 7:] == high[:, 7:]).all() and low[0, 0] == 0 and low[1, 0] == 0.25 and high[1, 0] == 1


def test_measures_by_hand(table):
    x = table.X[[1]]
    z = x[:, None].repeat(3, axis=1)
    z[0, 1, 1], z[0, 1, 4:7] = 0.5, [1, 0, 0]  # income 1 -> 2, home rent -> free
    z[0, 2] = np.nan
    assert table.spread[1] == 0.25  # incomes 0, 1, 2, 4: deviations from 1.5 are 1.5, .5, .5, 2.5; median 1, of a range of 4
    for measure, wanted in [
        (measures.cost, [0, 0.25 / 0.25 + 1]),
        (measures.changed, [0, 2]),
        (measures.shift, [0, 0.25]),  # one of four people passed over
        (measures.actionable, [1, 1]),
    ]:
        value = measure(table, x, z)
        assert value.shape == (1, 3) and np.isnan(value[0, 2])
        assert value[0, :2].tolist() == pytest.approx(wanted)
    z[0, 1, 0] = 0.2  # younger
    assert measures.actionable(table, x, z)[0, 1] == 0


def test_snap_asks_for_more_margin_until_the_real_row_is_accepted(table):
    w = np.zeros(9)
    w[2] = -8.0  # less debt is better; debts are whole numbers
    problem = Problem(table, linear(w, 3.0))  # accepted below debt 1.5 of 4
    x = table.X[[0, 3, 1]]
    asked = []

    def search(people, threshold):
        asked.append(threshold.tolist())
        z = people[:, None].copy()
        # right at the boundary in continuous space: rounds to debt 2
        z[..., 2] = (3.0 - np.log(threshold / (1 - threshold)))[:, None] / 8
        return z

    found = snap(problem, x, search)
    assert asked[0] == [0.5] * 3
    assert asked[1] == pytest.approx(np.repeat([0.5 + m for m in MARGINS[1:]], len(asked[1]) // 4))
    assert problem.accepts(found)[:, 0].tolist() == [True, True, True]
    assert table.raw(found[:, 0])["debt"].tolist() == [1, 0, 1]
    assert problem.model.calls == sum(map(len, asked)) + 3


def test_snap_gives_nan_where_no_margin_helps(table):
    problem = Problem(table, linear(np.zeros(9), -1.0))
    assert np.isnan(snap(problem, table.X[:2], lambda x, t: x[:, None])).all()


def test_bad_input_names_what_is_wrong(table):
    with pytest.raises(ValueError, match=r"moves and columns differ in .*sex"):
        encode("toy", FRAME.drop(columns="sex"), np.zeros(4), MOVES)
    with pytest.raises(ValueError, match=r"empty cells in .*income"):
        encode("toy", FRAME.assign(income=[np.nan, 1, 2, 3]), np.zeros(4), MOVES)
    with pytest.raises(ValueError, match=r"z must be of shape \(n, k, d\)"):
        table.project(table.X, table.X)
    with pytest.raises(ValueError, match="x must be finite"):
        table.project(table.X[:, None], table.X * np.nan)
    with pytest.raises(ValueError, match="y must hold 0 and 1"):
        encode("toy", FRAME, np.array([0, 1, 2, 1]), MOVES)
    with pytest.raises(ValueError, match="threshold"):
        Problem(table, linear(np.zeros(9)), threshold=1.0)
    with pytest.raises(ValueError, match="has no gradient"):
        Model(lambda x: x[:, 0], kind="forest").gradient(table.X)


@pytest.mark.parametrize(
    "load, shape, wanted, tells",
    [
        (heloc, (9871, 47), 0.480, []),
        (german, (1000, 61), 0.7, []),
        (adult, (32561, 41), 0.241, ["Age"]),  # of those aged 19 to 22 hardly anyone earns over 50,000: true, and not filled in
        (default, (30000, 31), 0.779, []),
        (give_me_some_credit, (120120, 10), 0.931, []),
    ],
)
def test_tables(load, shape, wanted, tells):
    table = load()
    assert table.X.shape == shape and table.X.min() == 0 and table.X.max() == 1
    np.testing.assert_allclose(table.project(table.X[:, None], table.X)[:, 0], table.X, atol=1e-12)
    assert table.y.mean() == pytest.approx(wanted, abs=5e-4)
    assert constants_that_tell(table.raw(table.X), table.y) == tells


def test_class_means_filled_in_are_noticed():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 2000)
    values = rng.normal(size=2000)
    lost = rng.random(2000) < 0.2
    filled = np.where(lost, np.where(y == 1, 0.51, 0.49), values)
    honest = np.where(lost, 0.5, values)
    assert constants_that_tell(pd.DataFrame({"filled": filled, "honest": honest}), y) == ["filled"]


@pytest.mark.skipif("REPLICATIONS_DATA" not in os.environ, reason="reads the mirror that REPLICATIONS_DATA names")
def test_the_known_leak_is_found_on_the_mirror():
    leaking = pd.read_csv(from_mirror("tabular-recourse", "reap_heloc.csv.gz"))
    label = leaking.columns[-1]
    assert "NetFractionInstallBurden" in constants_that_tell(leaking.drop(columns=label), leaking[label].to_numpy())
