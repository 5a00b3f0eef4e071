"""HELOC, German credit and CTG as the authors of T-Rex prepared them, for runs at the paper's scale (MIT repository)."""

import numpy as np
import pandas as pd

from shared.data import DataError, from_mirror

NAMES = ("heloc", "german", "ctg")
ORIGIN = (
    "FaisalHamman/TReX-Counterfactuals, dataset/data, commit 5b4b4a9c63c213bedfe2b7e07c8896a9ab02e280 (MIT; HELOC: FICO's terms)"
)


def load(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x_train (n, d), y_train (n,), x_test, y_test: features in [0, 1], y 1 for the wanted class. Reads the mirror.

    name: heloc (39 columns), german (61) or ctg (21; wanted: a normal heart rate, NSP 1; every fourth row is a test row).
    Raises DataError when the mirror or the name is missing.
    """
    if name not in NAMES:
        raise DataError(f"{name!r} is not one of {', '.join(NAMES)}")
    if name == "ctg":
        table = pd.read_csv(from_mirror("trex-tabular", "ctg_data.csv")).dropna()
        x = table.drop(columns="NSP").to_numpy(float)
        x = (x - x.min(axis=0)) / np.ptp(x, axis=0)
        y, test = (table["NSP"] == 1).to_numpy(int), np.arange(len(x)) % 4 == 3
        return x[~test], y[~test], x[test], y[test]
    pattern = "{part}_{split}_heloc.npy" if name == "heloc" else "german_{part}_{split}.npy"
    files = [pattern.format(part=part, split=split) for split in ("train", "test") for part in ("X", "y")]
    x_train, y_train, x_test, y_test = (np.load(from_mirror("trex-tabular", f)) for f in files)
    if name == "german":  # the file marks the bad loans
        y_train, y_test = 1 - y_train, 1 - y_test
    return x_train, y_train.astype(int), x_test, y_test.astype(int)
