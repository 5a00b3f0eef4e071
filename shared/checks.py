"""Checks of what a method is given."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def finite(name: str, value: ArrayLike, ndim: int) -> NDArray[np.float64]:
    """`value` as floats with `ndim` axes. Raises ValueError, naming it, for other shapes, no entries, NaN or infinity."""
    array = np.asarray(value, dtype=float)
    if array.ndim != ndim or array.size == 0:
        raise ValueError(f"{name} must be a non-empty array with {ndim} axes, not of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinite values")
    return array
