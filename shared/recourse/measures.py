"""What recourse asks of a person, per pair of people x (n, d) and answers z (n, k, d): arrays (n, k), NaN where z is NaN."""

import numpy as np

from shared.recourse.table import Array, Table

TOLERANCE = 1e-6  # smaller differences in encoded space are no change


def cost(table: Table, x: Array, z: Array) -> Array:
    """Sum over features of |change| in units of the feature's spread; another category costs 1 (Wachter et al. 2018)."""
    return _steps(table, x, z).sum(-1)


def changed(table: Table, x: Array, z: Array) -> Array:
    """How many features change."""
    return (_steps(table, x, z) > TOLERANCE).sum(-1) + _unknown(z)


def shift(table: Table, x: Array, z: Array) -> Array:
    """The largest change of a numeric feature as a share of the table's people passed over, in [0, 1] (Ustun et al. 2019).

    Mid-ranks: among equal values a person stands in the middle.
    """
    largest = np.zeros(z.shape[:-1])
    for feature in table.features:
        if feature.kind != "onehot":
            column = feature.columns.start
            moved = _rank(table.ordered[:, column], z[..., column]) - _rank(table.ordered[:, column], x[:, None, column])
            largest = np.maximum(largest, np.abs(moved))
    return largest + _unknown(z)


def actionable(table: Table, x: Array, z: Array, tolerance: float = 1e-3) -> Array:
    """Whether an answer keeps, to a tolerance in encoded space, to the ranges and to what each person may move: 1 or 0."""
    low, high = table.movable(x)  # (n, d) each
    within = (z >= low[:, None] - tolerance) & (z <= high[:, None] + tolerance)
    return within.all(-1) + _unknown(z)


def _steps(table: Table, x: Array, z: Array) -> Array:
    steps = []
    for feature, unit in zip(table.features, table.spread, strict=True):
        moved = np.abs(z[..., feature.columns] - x[:, None, feature.columns])
        # half the L1 distance of two one-hot blocks is 1 when the category differs
        steps.append(moved.sum(-1) / 2 if feature.kind == "onehot" else moved[..., 0] / unit)
    return np.stack(steps, -1)  # (n, k, p)


def _rank(ordered: Array, values: Array) -> Array:
    left, right = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return (left + right) / (2 * len(ordered))


def _unknown(z: Array) -> Array:
    return np.where(np.isnan(z).any(-1), np.nan, 0.0)
