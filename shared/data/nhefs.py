"""NHEFS: 1,566 American smokers of 1971, who stopped until 1982 and who did not, and what they weighed then.

From the follow-up of the first National Health and Nutrition Examination Survey, as prepared for the book What If. The package
`causallib` carries the file (found, never imported). Nobody knows the true effect of stopping on weight.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from shared.data import PackageFile

FILE = PackageFile(
    distribution="causallib",
    suffix="causallib/datasets/data/nhefs/NHEFS.csv",
    sha256="1b8b59aa8588d6cc61de73ab49a3096c4efa18b2b28127c1cd63c9262e3b475a",
    licence="public domain, a survey of the United States government; the package that carries the file is Apache-2.0",
    citation="Hernán & Robins (2020), Causal Inference: What If, chapter 12; National Center for Health Statistics, NHANES I "
    "Epidemiologic Follow-up Study",
)
COVARIATES = ("age", "sex", "race", "education", "smokeintensity", "smokeyrs", "exercise", "active", "wt71")


class Smokers(NamedTuple):
    """1,566 people whose weight was taken in both years."""

    x: pd.DataFrame  # (1566, 9): years, 0/1 woman, 0/1 not white, level 1-5, cigarettes a day, years, level 0-2, level 0-2, kg
    w: np.ndarray  # (1566,): stopped smoking, 0 or 1
    y: np.ndarray  # (1566,): weight gained from 1971 to 1982, kg


def load() -> Smokers:
    """The nine covariates of the book, without the squares it adds. Raises DataError when the file is missing or another."""
    table = pd.read_csv(FILE.path()).dropna(subset=["wt82_71"])
    return Smokers(table[list(COVARIATES)].astype(float), table["qsmk"].to_numpy(float), table["wt82_71"].to_numpy(float))
