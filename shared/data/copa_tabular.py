"""German credit and SBA loans with their shifted versions, as the authors of COPA and ReAP prepared them, for the paper's scale."""

import numpy as np
import pandas as pd

from shared.data import DataError, from_mirror

FILES = {
    "german": ("reap_german.csv", "reap_corrected_german.csv"),
    "sba": ("copa_sba.csv", "copa_sba_shift.csv"),
}
ORIGIN = (
    "duykhuongnguyen/ReAP, data, commit 31c5bbd1c0b06ca273637fb478d1a85cd609332a, and ngocbh/COPA, data, commit "
    "890b27a0038a8c17a4ee67e78b2e74865fbc3cf9 (neither states a licence; German and South German Credit: UCI, CC BY 4.0; "
    "SBA: Li, Mickel & Taylor 2018, Should this loan be approved or denied?, public data of the US Small Business Administration)"
)
# sba: the amount charged off is known only once a loan has failed, and "Selected" marks a sample of the data's first authors
DROPPED = ["label", "ChgOffPrinGr", "Selected"]


def load(name: str) -> list[tuple[pd.DataFrame, np.ndarray]]:
    """The present and the shifted table, each features (n, columns), numbers and category names, and y (n,), 1 for a good loan.

    name: german (1000 and 1000 rows, 9 columns; the shift is the corrected coding) or sba (943 loans of 2006-2014 and 1159 of
    1989-2005, 11 columns; in the authors' file label 1 marks the loans that failed, so it is turned round here). Reads the
    mirror. Raises DataError when the mirror or the name is missing.
    """
    if name not in FILES:
        raise DataError(f"{name!r} is not one of {', '.join(FILES)}")
    tables = [pd.read_csv(from_mirror("tabular-recourse", file)) for file in FILES[name]]
    wanted = 0 if name == "sba" else 1
    return [(table.drop(columns=DROPPED, errors="ignore"), (table["label"] == wanted).to_numpy(int)) for table in tables]
