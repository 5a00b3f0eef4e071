"""Adult: 32,561 people of the US census of 1994, 14 features, and whether they earned over 50,000 dollars (CC BY 4.0, UCI)."""

import numpy as np
import pandas as pd

from shared.data import PackageFile

FILE = PackageFile(
    distribution="fixout",
    suffix="demos/data/adult.data",
    sha256="052c6bf0bde088f6ecaedaa0f939430996017a8c8e9ce9aaf3727e49f3cb9885",
    licence="CC BY 4.0",
    citation="Becker & Kohavi (1996), Adult, UCI Machine Learning Repository (the training part, adult.data)",
)


def load() -> tuple[pd.DataFrame, np.ndarray]:
    """Features (32561, 14), numbers and words as in the file, and y (32561,): 1 for an income over 50,000 dollars a year.

    `?` is an unknown word (Workclass, Occupation, Country); `fnlwgt` is the census' weight of the row, not a trait of a person.
    """
    table = pd.read_csv(FILE.path(), skipinitialspace=True)
    return table.drop(columns="Target"), (table["Target"] == ">50K").to_numpy(int)
