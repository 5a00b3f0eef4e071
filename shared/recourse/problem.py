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


def snap(problem: Problem, x: Array, search: Callable[[Array, float], Array]) -> Array:
    """Real rows (n, k, d) from a method of continuous space: its answers projected, with more margin where that breaks them.

    `search(people (m, d), threshold)` -> (m, k, d). People some of whose projected answers are refused are searched again with
    the threshold raised by each of MARGINS in turn; an answer that is still refused is NaN. The calls of all rounds count.
    """
    best = None
    open_ = np.arange(len(x))
    for margin in MARGINS:
        z = problem.table.project(search(x[open_], min(problem.threshold + margin, 0.999)), x[open_])  # (m, k, d)
        z[~problem.accepts(z)] = np.nan
        if best is None:
            best = np.full((len(x), *z.shape[1:]), np.nan)
        missing = np.isnan(best[open_]).any(-1)  # (m, k)
        best[open_] = np.where(missing[..., None], z, best[open_])
        open_ = open_[np.isnan(best[open_]).any((1, 2))]
        if len(open_) == 0:
            break
    return best
