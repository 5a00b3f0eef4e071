"""A table whose features know what they are and how a person may move them (Verma et al. 2020, "actionability").

Encoded space: numbers and integers scaled to [0, 1] by the range of the table, a category as one column per level.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

Array = np.ndarray
Move = Literal["free", "fixed", "up", "down"]


@dataclass(frozen=True)
class Feature:
    """One feature as a person knows it; `columns` are its columns in encoded space, `low` and `high` its range in its own unit."""

    name: str
    kind: Literal["number", "integer", "onehot"]
    columns: slice
    low: float = 0.0
    high: float = 1.0
    move: Move = "free"  # which way a person may move it
    levels: tuple[str, ...] = ()  # of a category, in the order of its columns
    void: tuple[int, ...] = ()  # columns that, where 1, say that this feature has no value; it cannot be moved then

    @property
    def width(self) -> int:
        return self.columns.stop - self.columns.start


@dataclass(frozen=True)
class Table:
    """Encoded rows X (n, d) in [0, 1] with labels y (n,), 1 for the wanted class, and the features behind the columns."""

    name: str
    X: Array
    y: Array
    features: tuple[Feature, ...]

    def __post_init__(self):
        n_columns = self.features[-1].columns.stop
        if self.X.ndim != 2 or self.X.shape[1] != n_columns or not np.isfinite(self.X).all():
            raise ValueError(f"X must be finite, of shape (n, {n_columns}), not {self.X.shape}")
        if self.y.shape != self.X.shape[:1] or not np.isin(self.y, (0, 1)).all():
            raise ValueError(f"y must hold 0 and 1, of shape ({len(self.X)},)")

    def rows(self, which: Array) -> "Table":
        """The table of some rows, by index or mask; the features and their ranges stay."""
        return replace(self, X=self.X[which], y=self.y[which])

    @cached_property
    def spread(self) -> Array:
        """The unit of a change per feature, (p,): median absolute deviation, else the standard one; 1 for a category."""
        units = []
        for feature in self.features:
            column = self.X[:, feature.columns.start]
            mad = np.median(np.abs(column - np.median(column)))
            units.append(1.0 if feature.kind == "onehot" else mad or column.std() or 1.0)
        return np.array(units)

    @cached_property
    def ordered(self) -> Array:
        """Each column sorted, (n, d): what a percentile is read from."""
        return np.sort(self.X, axis=0)

    def project(self, z: Array, x: Array) -> Array:
        """The nearest real rows to points z (n, k, d) that people x (n, d) could become; (n, k, d), NaN rows stay NaN.

        The largest column of a category becomes 1, integers are rounded, ranges kept; what a person may not move is x's own.
        """
        self._check(z, x)
        start = x[:, None, :]  # (n, 1, d)
        real = np.clip(z, 0, 1)
        for feature in self.features:
            block, before = real[..., feature.columns], start[..., feature.columns]
            if feature.kind == "onehot":
                block = np.eye(feature.width)[block.argmax(-1)]
            elif feature.kind == "integer":
                steps = max(feature.high - feature.low, 1)
                block = np.round(block * steps) / steps
            if feature.move == "fixed":
                block = before
            elif feature.move == "up":
                block = np.maximum(block, before)
            elif feature.move == "down":
                block = np.minimum(block, before)
            void = (start[..., feature.void] == 1).any(-1, keepdims=True)
            real[..., feature.columns] = np.where(void, before, block)
        return np.where(np.isnan(z).any(-1, keepdims=True), np.nan, real)

    def movable(self, x: Array) -> Array:
        """The lowest and the highest point that each person x (n, d) may reach, (2, n, d); equal where nothing may move."""
        low, high = np.zeros_like(x), np.ones_like(x)
        for feature in self.features:
            block = x[:, feature.columns]
            void = (x[:, feature.void] == 1).any(-1, keepdims=True)
            held = void | (feature.move == "fixed")
            low[:, feature.columns] = np.where(held | (feature.move == "up"), block, 0.0)
            high[:, feature.columns] = np.where(held | (feature.move == "down"), block, 1.0)
        return np.stack([low, high])

    def raw(self, x: Array) -> pd.DataFrame:
        """Encoded rows x (n, d) back in their own units, a category as the name of its level."""
        columns = {}
        for feature in self.features:
            block = x[:, feature.columns]
            if feature.kind == "onehot":
                columns[feature.name] = [feature.levels[i] for i in block.argmax(-1)]
            else:
                values = feature.low + block[:, 0] * (feature.high - feature.low)
                columns[feature.name] = values if feature.kind == "number" else np.round(values).astype(int)
        return pd.DataFrame(columns)

    def _check(self, z: Array, x: Array) -> None:
        if x.ndim != 2 or x.shape[1] != self.X.shape[1] or not np.isfinite(x).all():
            raise ValueError(f"x must be finite, of shape (n, {self.X.shape[1]}), not {x.shape}")
        if z.ndim != 3 or z.shape[::2] != x.shape:
            raise ValueError(f"z must be of shape (n, k, d) = ({x.shape[0]}, k, {x.shape[1]}), not {z.shape}")


def encode(
    name: str, frame: pd.DataFrame, y: Array, moves: Mapping[str, Move], void: Mapping[str, list[str]] | None = None
) -> Table:
    """A table from a frame of numbers, integers and strings (categories), `moves` naming for each column how it may be moved.

    `void` names, for a column, the 0/1 columns that say that it has no value. Raises ValueError where a column is missing from
    `moves`, or a cell is empty.
    """
    if set(frame.columns) != set(moves):
        raise ValueError(f"{name}: moves and columns differ in {sorted(set(frame.columns) ^ set(moves))}")
    if frame.isna().any(axis=None):
        raise ValueError(f"{name}: empty cells in {frame.columns[frame.isna().any()].tolist()}; drop or mark them first")
    features, blocks, at = [], [], 0
    for column, values in frame.items():
        if pd.api.types.is_numeric_dtype(values):
            low, high = float(values.min()), float(values.max())
            kind = "integer" if pd.api.types.is_integer_dtype(values) else "number"
            blocks.append(((values.to_numpy(float) - low) / (high - low or 1.0))[:, None])
            features.append(Feature(column, kind, slice(at, at + 1), low, high, moves[column]))
        else:
            levels = tuple(sorted(values.unique()))
            blocks.append((values.to_numpy()[:, None] == np.array(levels, dtype=object)).astype(float))
            features.append(Feature(column, "onehot", slice(at, at + len(levels)), move=moves[column], levels=levels))
        at = features[-1].columns.stop
    start = {f.name: f.columns.start for f in features}
    flags = {column: tuple(start[flag] for flag in names) for column, names in (void or {}).items()}
    return Table(name, np.hstack(blocks), np.asarray(y), tuple(replace(f, void=flags.get(f.name, ())) for f in features))
