"""A check for tables whose missing cells were filled with class means: such constants give the label away."""

import numpy as np
import pandas as pd


def constants_that_tell(frame: pd.DataFrame, y: np.ndarray, *, share: float = 0.02, gap: float = 0.02) -> list[str]:
    """Columns of numbers in which a value on at least `share` of the rows stands with one label in all but `gap` of them.

    Only columns of over 50 values are looked at: there, many people share a number because someone filled it in.
    """
    told = []
    for name, values in frame.select_dtypes("number").items():
        if values.nunique() > 50:
            by_value = pd.Series(np.asarray(y, dtype=float)).groupby(values.to_numpy()).agg(["size", "mean"])
            common = by_value[by_value["size"] >= share * len(frame)]["mean"]
            if (np.minimum(common, 1 - common) < gap).any():
                told.append(name)
    return told
