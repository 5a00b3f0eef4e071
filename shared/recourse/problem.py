"""What a recourse method is given: a table, a model and the score from which the model says yes.

The common signature: method(problem, x (n, d), rng, **knobs) -> (n, k, d), encoded space in and out, NaN rows where none is found.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from shared.recourse.table import Array, Table

MARGINS = (0.0, 0.02, 0.05, 0.1, 0.2)  # what `snap` asks of a method beyond the threshold, one after the other


class Model:
    """A model's score in [0, 1], and its gradient where it has one; `calls` counts the rows it was asked about."""

    def __init__(
        self,
        predict: Callable[[Array], Array],
        gradient: Callable[[Array], Array] | None = None,
        *,
        kind: Literal["linear", "net", "forest", "scorecard"],
        inside: Any = None,
    ):
        """`predict` (n, d) -> (n,) and its `gradient` (n, d) -> (n, d); `inside`: the fitted object, for methods of one kind."""
        self._predict, self._gradient, self.kind, self.inside, self.calls = predict, gradient, kind, inside, 0

    @property
    def differentiable(self) -> bool:
        return self._gradient is not None

    def score(self, x: Array) -> Array:
        """Score (n,) of rows x (n, d)."""
        self.calls += len(x)
        return self._predict(x)

    def gradient(self, x: Array) -> Array:
        """Gradient (n, d) of the score at x (n, d). Raises ValueError for a model that has none."""
        if self._gradient is None:
            raise ValueError(f"a {self.kind} has no gradient")
        self.calls += len(x)
        return self._gradient(x)


@dataclass(frozen=True)
class Problem:
    """Find, for people whom `model` refuses, rows that it accepts: score >= threshold. `table` is the training table."""

    table: Table
    model: Model
    threshold: float = 0.5

    def __post_init__(self):
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must lie in (0, 1), not {self.threshold}")

    def accepts(self, z: Array) -> Array:
        """Which points z (..., d) the model accepts, bool (...); a NaN row is not accepted and costs no call."""
        flat = z.reshape(-1, z.shape[-1])
        asked = np.isfinite(flat).all(1)
        yes = np.zeros(len(flat), dtype=bool)
        if asked.any():
            yes[asked] = self.model.score(flat[asked]) >= self.threshold
        return yes.reshape(z.shape[:-1])


def snap(problem: Problem, x: Array, search: Callable[[Array, Array], Array]) -> Array:
    """Real rows (n, k, d) from a method of continuous space: its answers projected, with more margin where that breaks them.

    `search(people (m, d), thresholds (m,))` -> (m, k, d). People some of whose projected answers are refused are searched again,
    at once with the threshold raised by each of the other MARGINS; the accepted answer of the least margin counts, NaN where
    there is none. All calls count.
    """
    best = _accepted(problem, x, search, MARGINS[:1])[0]
    open_ = np.flatnonzero(np.isnan(best).any((1, 2)))
    if len(open_):
        for z in _accepted(problem, x[open_], search, MARGINS[1:]):
            best[open_] = np.where(np.isnan(best[open_]), z, best[open_])
    return best


def _accepted(problem: Problem, x: Array, search: Callable[[Array, Array], Array], margins: tuple[float, ...]) -> Array:
    """Projected answers (margins, n, k, d), NaN where refused."""
    people = np.tile(x, (len(margins), 1))
    thresholds = np.minimum(problem.threshold + np.repeat(margins, len(x)), 0.999)
    z = problem.table.project(search(people, thresholds), people)
    z[~problem.accepts(z)] = np.nan
    return z.reshape(len(margins), len(x), *z.shape[1:])
