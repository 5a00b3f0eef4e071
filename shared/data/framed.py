"""FRAMED: bicycle frames with their finite element analyses, 37 parameters and 10 performances (MIT licence)."""

from pathlib import Path

import pandas as pd

from shared.data import from_mirror

LICENCE = "MIT"
CITATION = "Regenwetter, Weaver & Ahmed (2023), FRAMED: An AutoML approach for structural performance prediction of bicycle frames"
CATEGORIES = {"SSB_Include": ("no", "yes"), "CSB_Include": ("no", "yes"), "Material": ("Steel", "Aluminum", "Titanium")}
N_PARAMETERS = 37


def load(path: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Designs (n, 37) and performances (n, 10) of the file of FRAMED, or of an extract of it, row by row.

    Lengths and displacements are in m, angles in degrees, mass in kg; with a safety factor below 1 a frame yields. Categories are
    codes, the positions in CATEGORIES.
    """
    table = pd.read_csv(path, index_col=0).drop(columns="batch", errors="ignore")
    table["Material"] = table["Material"].map(CATEGORIES["Material"].index)
    return table.iloc[:, :N_PARAMETERS].astype(float), table.iloc[:, N_PARAMETERS:]


def whole() -> Path:
    """The file with all 4,047 frames, in the mirror. Raises DataError when it is missing."""
    return from_mirror("biked-framed", "all_structural_data.csv.gz")
