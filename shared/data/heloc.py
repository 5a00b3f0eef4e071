"""FICO HELOC: 10,459 applicants for a home-equity line of credit, 23 features of their credit reports (FICO's terms of use)."""

import numpy as np
import pandas as pd

from shared.data import PackageFile

FILE = PackageFile(
    distribution="teacher-xai",
    suffix="teacher/datasets/data/heloc_dataset_v1.csv",
    sha256="3ac25654f80c5ce724e2a9528e3cf3bd3f9369e44b4a5f7723eff46c330c2dfb",
    licence="FICO's terms for the Explainable Machine Learning Challenge: not redistributed here, read from the package",
    citation="FICO (2018), Explainable Machine Learning Challenge, HELOC data set",
)
CODED = ("MaxDelq2PublicRecLast12M", "MaxDelqEver")  # categories, written as numbers
SPECIAL = {-7: "condition not met", -8: "no usable record", -9: "no record"}


def load() -> tuple[pd.DataFrame, np.ndarray]:
    """Features (9871, 23) as in the file, and y (9871,): 1 where the loan was repaid (`Good`). Negative values are SPECIAL.

    The 588 applicants without any credit record (-9 throughout) are left out.
    """
    table = pd.read_csv(FILE.path())
    known = (table.drop(columns="RiskPerformance") != -9).any(axis=1)
    table = table[known].reset_index(drop=True)
    return table.drop(columns="RiskPerformance"), (table["RiskPerformance"] == "Good").to_numpy(int)


def encode(features: pd.DataFrame) -> pd.DataFrame:
    """Numbers for a model: categories one-hot; each special code on over 1 % of the rows a column of its own, its cell 0.

    No cell is filled in from other rows, so that nothing of the label can leak through a filled value.
    """
    columns = {}
    for name, values in features.items():
        if name in CODED:
            columns |= {f"{name} = {v}": (values == v).astype(float) for v in sorted(values.unique())}
            continue
        columns[name] = values.where(values >= 0, 0).astype(float)
        for code, meaning in SPECIAL.items():
            if (values == code).mean() > 0.01:
                columns[f"{name}: {meaning}"] = (values == code).astype(float)
    return pd.DataFrame(columns)
