"""The five tables of T-COL as its authors prepared them, for runs at the paper's scale."""

import numpy as np
import pandas as pd

from shared.data import DataError, from_mirror

FILES = {
    "adult": ("tcol_adult_pre.csv.gz", "income"),
    "german": ("tcol_german.csv", 20),
    "titanic": ("tcol_titanic.csv", "Survived"),
    "water": ("tcol_water_potability.csv.gz", "Potability"),
    "phoneme": ("tcol_php8Mz7BG.arff", 5),
}
ORIGIN = (
    "NEU-DataMining/T-COL, Datasets, commit 893b8d3c0869ae411eed2fdabf1721224e20e49c (states no licence; Adult and German: UCI, "
    "CC BY 4.0; Titanic and Water Potability: Kaggle; Phoneme: OpenML 1489)"
)


def load(name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Features, numbers and words as in the authors' file, and y, 1 for their wanted class. Reads the mirror.

    name: adult (26048 rows, 8 columns), german (1000, 20), titanic (183, 9; rows with an empty cell dropped, as in the released
    code), water (2011, 9; likewise) or phoneme (5404, 5). Codes that the released code calls categories are words here.
    Raises DataError when the mirror or the name is missing.
    """
    if name not in FILES:
        raise DataError(f"{name!r} is not one of {', '.join(FILES)}")
    file, label = FILES[name]
    path = from_mirror("tabular-recourse", file)
    if name == "phoneme":
        table = pd.read_csv(path, comment="@", header=None)
    elif name == "german":
        table = pd.read_csv(path, header=None)
    else:
        table = pd.read_csv(path, index_col=0 if name in ("adult", "titanic") else None)
    table = table.dropna().reset_index(drop=True)
    y = (table.pop(label) == (2 if name == "phoneme" else 1)).to_numpy(int)
    if name == "titanic":
        table["Pclass"] = table["Pclass"].astype(str)
    return table.rename(columns=str), y
