"""German credit (Statlog): 1,000 loans of a German bank, 20 features (CC BY 4.0, UCI repository)."""

import numpy as np
import pandas as pd

from shared.data import PackageFile

FILE = PackageFile(
    distribution="fixout",
    suffix="demos/data/german.data",
    sha256="0c5ba622ee7d7fd8d428acf39fb0594903d4badbd7fb94e76c640dcdb3955c1a",
    licence="CC BY 4.0",
    citation="Hofmann (1994), Statlog (German Credit Data), UCI Machine Learning Repository",
)


def load() -> tuple[pd.DataFrame, np.ndarray]:
    """Features (1000, 20), numbers and category codes as in the file, and y (1000,): 1 where the bank called the loan good."""
    table = pd.read_csv(FILE.path(), sep=" ")
    return table.drop(columns="classification"), (table["classification"] == 1).to_numpy(int)


def encode(features: pd.DataFrame) -> pd.DataFrame:
    """Numbers for a model: category codes one-hot, numbers as they are; (n, 61)."""
    return pd.get_dummies(features, dtype=float)
