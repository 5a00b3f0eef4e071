"""The American mortgage register (Home Mortgage Disclosure Act): a packaged extract, and the full register by year."""

from collections.abc import Iterable

import pandas as pd

from shared.data import PackageFile, from_mirror

FILE = PackageFile(
    distribution="fixout",
    suffix="fixout/demos/data/hmda.data",
    sha256="21873fcac89109cc7eddc8d943e6f68a15c67661cbed93e0c5edc252fe8f17fa",
    licence="public domain: a publication of the United States government",
    citation="Consumer Financial Protection Bureau, Home Mortgage Disclosure Act data; the extract is that of H2O's admissible "
    "machine learning demonstration, its year is not stated (2018 or later, by its columns)",
)
REGISTER = "https://files.ffiec.cfpb.gov/static-data/snapshot/{year}/{year}_public_lar_csv.zip"
RATE_SPREAD = 1.5  # points above the average prime offer rate from which a first-lien loan counts as high-priced
RACES = {"White": 0, "Black or African American": 1}
COLUMNS = {
    "derived_loan_product_type": "product", "derived_sex": "sex", "applicant_age": "age", "income": "income",
    "loan_amount": "amount", "property_value": "value", "loan_to_value_ratio": "loan_to_value", "loan_term": "term",
}  # fmt: skip


def load() -> pd.DataFrame:
    """Originated home-purchase loans of single non-Hispanic applicants, White or Black: (64271, 12).

    product, sex, age: categories; black: 0 or 1; income: thousand dollars a year; amount, value: dollars; loan_to_value: per
    cent; term: months; debt_ratio: debt to income in per cent where the register gives it as a number (36 to 49), else NaN;
    debt_band: "36-49", or "other" (below, above or missing: the extract does not tell); high_priced: 0 or 1.
    Rows without income, value, term or loan-to-value are left out, and so are reverse mortgages. Raises DataError.
    """
    table = pd.read_csv(FILE.path(), low_memory=False)
    people = _people(table)
    people["debt_band"] = people["debt_ratio"].notna().map({True: "36-49", False: "other"})
    people["high_priced"] = table.loc[people.index, "high_priced"]
    return people.reset_index(drop=True)


def load_register(years: Iterable[int]) -> pd.DataFrame:
    """The same people from the full register of 2018 or later, refused ones too; several million rows.

    Columns as `load`, and county (FIPS code); denied: 0 or 1; interest_rate: per cent; high_priced: whether the rate spread is
    at least 1.5 points; both NaN for the refused and where not given; debt_band: as the register gives it, numbers as "36-49",
    missing as "not given". Reads hmda-lar/<year>_public_lar_csv.zip, the snapshot at REGISTER, under
    $REPLICATIONS_DATA. It is revised now and then, so no sha256 is known. Raises DataError when it is missing.
    """
    return pd.concat([_register(year) for year in years], ignore_index=True)


def _register(year: int) -> pd.DataFrame:
    path = from_mirror("hmda-lar", REGISTER.format(year=year).rsplit("/", 1)[1])
    parts = pd.read_csv(path, dtype=str, chunksize=500_000, keep_default_na=False)
    return pd.concat([_applications(part) for part in parts], ignore_index=True)


def _applications(table: pd.DataFrame) -> pd.DataFrame:
    """Decided home-purchase applications of single applicants among raw rows of the register, all columns text."""
    table = table.rename(columns={"combined_loan_to_value_ratio": "loan_to_value_ratio"})  # its name since the 2018 snapshot
    decided = table["action_taken"].isin(["1", "3"]) & (table["loan_purpose"] == "1")
    alone = (table["co-applicant_age"] == "9999") & table["derived_sex"].isin(["Male", "Female"])
    table = table[decided & alone]
    people = _people(table)
    table = table.loc[people.index]
    originated = table["action_taken"] == "1"
    band = table["debt_to_income_ratio"].replace({"NA": "not given", "Exempt": "not given", "": "not given"})
    people["debt_band"] = band.where(people["debt_ratio"].isna(), "36-49")
    spread = _number(table["rate_spread"])
    people["high_priced"] = (spread >= RATE_SPREAD).astype(float).where(originated & spread.notna())
    people["county"] = table["county_code"]
    people["denied"] = (~originated).astype(int)
    people["interest_rate"] = _number(table["interest_rate"]).where(originated)
    return people


def _people(table: pd.DataFrame) -> pd.DataFrame:
    """Covariates and race of the rows that have all of them; the index is that of `table`."""
    people = table[list(COLUMNS)].rename(columns=COLUMNS)
    numbers = ["income", "amount", "value", "loan_to_value", "term"]
    people[numbers] = people[numbers].apply(_number)
    people["black"] = table["derived_race"].map(RACES)
    people["debt_ratio"] = _number(table["debt_to_income_ratio"])
    kept = (table["derived_ethnicity"] == "Not Hispanic or Latino") & (table["reverse_mortgage"].astype(str) == "2")
    kept &= people[["black", *numbers]].notna().all(axis=1) & (people["income"] > 0)
    return people[kept].astype({"black": int})


def _number(column: pd.Series) -> pd.Series:
    """Numbers of a column that also holds words such as NA, Exempt or 50%-60%, which become NaN."""
    return pd.to_numeric(column, errors="coerce").astype(float)
