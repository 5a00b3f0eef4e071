"""Default of credit cards: 30,000 customers of a bank in Taiwan in 2005, 23 features (CC BY 4.0, UCI repository)."""

import numpy as np
import pandas as pd

from shared.data import PackageFile

FILE = PackageFile(
    distribution="fixout",
    suffix="demos/data/default.data",
    sha256="a9cf2b29cb83190f682bdba1db30a40fa9ee7af05d605c987754b96028d712cc",
    licence="CC BY 4.0",
    citation="Yeh (2009), Default of Credit Card Clients, UCI Machine Learning Repository",
)
WORDS = {
    "SEX": {1: "male", 2: "female"},
    "EDUCATION": {1: "graduate school", 2: "university", 3: "high school", 4: "others"},
    "MARRIAGE": {1: "married", 2: "single", 3: "others"},
}


def load() -> tuple[pd.DataFrame, np.ndarray]:
    """Features (30000, 23) and y (30000,): 1 for a customer who paid in October 2005, 0 for a default.

    Amounts are New Taiwan dollars. `PAY_0` (September), `PAY_2` (August) to `PAY_6` (April) are months of delay: -2 nothing to
    pay, -1 paid in full, 0 the minimum paid. `BILL_AMT1` and `PAY_AMT1` are September, 6 is April. The three codes of `WORDS` are
    words here; a code that the data's authors do not explain is `unknown`.
    """
    table = pd.read_csv(FILE.path(), sep=";")
    features = table.drop(columns="default payment next month")
    for name, words in WORDS.items():
        features[name] = features[name].map(words).fillna("unknown")
    return features, (table["default payment next month"] == 0).to_numpy(int)
