"""ACTG 175: 2,139 people with HIV in a trial of four treatments, CD4 and CD8 counts at the start and later (GPL 2)."""

import pandas as pd

from shared.data import PackageFile

FILE = PackageFile(
    distribution="lifelines",
    suffix="lifelines/datasets/ACTG175.csv",
    sha256="56fba31fa0d7bfbff9667b7149fd96a97c352e72aa582871a62a935e812f0e07",
    licence="GPL 2, as the R package speff2trial that publishes the table; not redistributed here, read from lifelines (MIT)",
    citation="Hammer et al. (1996), A trial comparing nucleoside monotherapy with combination therapy in HIV-infected adults "
    "with CD4 cell counts from 200 to 500 per cubic millimeter, New England Journal of Medicine 335",
)


def load() -> pd.DataFrame:
    """One row per patient (2139, 26), numbers as in the file; only cd496, the CD4 count at 96 weeks, has missing cells.

    Before treatment: age (years), wtkg (kg), karnof (Karnofsky score, 0 to 100), preanti (days of earlier antiretroviral
    treatment), cd40 and cd80 (CD4 and CD8 cells per mm^3), and 0/1 marks of history. After: cd420, cd820 (20 weeks), cd496,
    cens and days (time to an event), offtrt and r (left treatment; cd496 seen). arms: 0 to 3, treat: arms > 0. Raises DataError.
    """
    return pd.read_csv(FILE.path(), index_col=0).drop(columns="pidnum")
