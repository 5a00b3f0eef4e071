"""COMPAS: 7,214 people arrested in Broward County, Florida, 2013-14, with the scores they were given (ProPublica)."""

import numpy as np
import pandas as pd

from shared.data import PackageFile

FILE = PackageFile(
    distribution="fixout",
    suffix="demos/data/compas.data",
    sha256="d180e410066da845eceb452417fbf8b119633f05526bcb29ef2c5b546d8946c5",
    licence="published by ProPublica without a licence: not redistributed here, read from the package",
    citation="Angwin, Larson, Mattu & Kirchner (2016), Machine Bias, ProPublica; compas-scores-two-years.csv",
)
PERSONAL = ("name", "first", "last", "dob")
AT_SCREENING = (
    "sex", "age", "age_cat", "race", "juv_fel_count", "juv_misd_count", "juv_other_count", "priors_count",
    "c_charge_degree", "c_charge_desc", "decile_score", "v_decile_score",
)  # fmt: skip


def table() -> pd.DataFrame:
    """All 7,214 rows and 49 columns as in the file, without the persons' names and birthdays. Many columns tell the outcome."""
    return pd.read_csv(FILE.path()).drop(columns=list(PERSONAL))


def load() -> tuple[pd.DataFrame, np.ndarray]:
    """Features (6172, 12) known at the screening, and y (6172,): 1 for an arrest for a new offence within two years.

    The rows are those of ProPublica's own analysis: screened within 30 days of the arrest (its other conditions drop no row of
    this file). `decile_score` and `v_decile_score` are what COMPAS said, 1 to 10; numbers and words are as in the file.
    """
    rows = table()
    rows = rows[rows["days_b_screening_arrest"].between(-30, 30)].reset_index(drop=True)
    return rows[list(AT_SCREENING)], rows["two_year_recid"].to_numpy(int)
