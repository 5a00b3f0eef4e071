"""Adult and COMPAS in yes/no features, as the authors of "Repairing without Retraining" made them (BSD-3 repository)."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from shared.data import DataError, adult, compas, from_mirror

NAMES = ("adult", "compas", "authors-adult", "authors-compas")
ORIGIN = "ustunb/ctfdist, data/*_proxy_data.csv, commit 4dd4fbfa311fcf36efa6d412c258c769176b6470 (BSD-3)"
EDUCATION = {"HS": ["HS-grad"], "AS": ["Assoc-acdm", "Assoc-voc"], "BS": ["Bachelors"], "MSorPhD": ["Masters", "Doctorate"]}
JOBS = {
    "WhiteCollar": ["Adm-clerical", "Exec-managerial"],
    "BlueCollar": ["Craft-repair", "Farming-fishing", "Handlers-cleaners", "Transport-moving"],
    "Specialized": ["Machine-op-inspct", "Prof-specialty", "Tech-support"],
    "ArmedOrProtective": ["Armed-Forces", "Protective-serv"],
}
INDUSTRIES = {
    "Private": ["Private"],
    "Government": ["Federal-gov", "Local-gov", "State-gov"],
    "SelfEmployed": ["Self-emp-inc", "Self-emp-not-inc"],
}
COUNTS = {"priors": "priors_count", "juvenile_misdemeanors": "juv_misd_count", "juvenile_felonies": "juv_fel_count"}


class Table(NamedTuple):
    """features (n, d) of 0 and 1; y (n,): 1 for an income over 50,000 dollars, or for a new arrest; group (n,) of words."""

    features: pd.DataFrame
    y: np.ndarray
    group: np.ndarray


def load(name: str) -> Table:
    """adult: 32,561 rows, 16 features, Male/Female. compas: 6,172 rows, 17 features, white/non-white.

    Both are made from the raw tables by our rules. `authors-adult` and `authors-compas` are the authors' own files, read from
    the mirror: row by row the same. Raises DataError when the package, the mirror or the name is missing.
    """
    if name == "adult":
        raw, y = adult.load()
        return Table(binary_adult(raw), y, raw["Sex"].to_numpy(str))
    if name == "compas":
        raw, y = compas.load()
        return Table(binary_compas(raw), y, np.where(raw["race"] == "Caucasian", "white", "non-white"))
    if name not in NAMES:
        raise DataError(f"{name!r} is not one of {', '.join(NAMES)}")
    file = {"authors-adult": "ctfdist_adult_proxy_data.csv.gz", "authors-compas": "ctfdist_compas_proxy_data.csv"}[name]
    table = pd.read_csv(from_mirror("tabular-recourse", file))
    return Table(table.iloc[:, 2:].astype(int), (table.iloc[:, 0] == 1).to_numpy(int), table.iloc[:, 1].to_numpy(str))


def binary_adult(raw: pd.DataFrame) -> pd.DataFrame:
    """The authors' 16 yes/no features (n, 16) of Adult's raw ones. An unknown word is in no class, an unknown country foreign."""
    columns = {"Married": raw["Marital Status"].str.startswith("Married"), "Immigrant": raw["Country"] != "United-States"}
    columns |= {f"HighestDegree_is_{k}": raw["Education"].isin(v) for k, v in EDUCATION.items()}
    columns |= {"AnyCapitalLoss": raw["Capital Loss"] > 0, "Age_leq_30": raw["Age"] <= 30}
    columns["WorkHrsPerWeek_lt_40"] = raw["Hours per week"] < 40
    columns |= {f"JobType_is_{k}": raw["Occupation"].isin(v) for k, v in JOBS.items()}
    columns |= {f"Industry_is_{k}": raw["Workclass"].isin(v) for k, v in INDUSTRIES.items()}
    return pd.DataFrame(columns).astype(int)


def binary_compas(raw: pd.DataFrame) -> pd.DataFrame:
    """The authors' 17 yes/no features (n, 17) of COMPAS's raw ones."""
    columns = {"age_leq_24": raw["age"] <= 24, "age_25_to_45": raw["age"].between(25, 45), "age_geq_46": raw["age"] >= 46}
    columns["female"] = raw["sex"] == "Female"
    for name, count in COUNTS.items():
        columns[f"n_{name}_eq_0"] = raw[count] == 0
        columns |= {f"n_{name}_geq_{k}": raw[count] >= k for k in (1, 2, 5)}
    columns["charge_degree_eq_M"] = raw["c_charge_degree"] == "M"
    return pd.DataFrame(columns).astype(int)
