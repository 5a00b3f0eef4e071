"""The recourse family's tables: each with what a person may move, written down once.

Age and times only grow; sex, nationality and what is history are fixed; a score of another bureau follows and is not an action.
"""

import pandas as pd

from shared.data import adult as adult_data
from shared.data import default_credit, german_credit
from shared.data import give_me_some_credit as credit_data
from shared.data import heloc as heloc_data
from shared.recourse.table import Table, encode

HELOC = {
    "ExternalRiskEstimate": "fixed",
    "MSinceOldestTradeOpen": "up",
    "MSinceMostRecentTradeOpen": "up",
    "AverageMInFile": "up",
    "NumSatisfactoryTrades": "free",
    "NumTrades60Ever2DerogPubRec": "fixed",
    "NumTrades90Ever2DerogPubRec": "fixed",
    "PercentTradesNeverDelq": "free",
    "MSinceMostRecentDelq": "up",
    "MaxDelq2PublicRecLast12M": "fixed",
    "MaxDelqEver": "fixed",
    "NumTotalTrades": "up",
    "NumTradesOpeninLast12M": "free",
    "PercentInstallTrades": "free",
    "MSinceMostRecentInqexcl7days": "up",
    "NumInqLast6M": "free",
    "NumInqLast6Mexcl7days": "free",
    "NetFractionRevolvingBurden": "free",
    "NetFractionInstallBurden": "free",
    "NumRevolvingTradesWBalance": "free",
    "NumInstallTradesWBalance": "free",
    "NumBank2NatlTradesWHighUtilization": "free",
    "PercentTradesWBalance": "free",
}
GERMAN = {
    "existingchecking": "free",
    "duration": "free",
    "credithistory": "fixed",
    "purpose": "fixed",
    "creditamount": "free",
    "savings": "free",
    "employmentsince": "free",
    "installmentrate": "free",
    "statussex": "fixed",
    "otherdebtors": "free",
    "residencesince": "up",
    "property": "free",
    "age": "up",
    "otherinstallmentplans": "free",
    "housing": "free",
    "existingcredits": "free",
    "job": "free",
    "peopleliable": "free",
    "telephone": "free",
    "foreignworker": "fixed",
}
ADULT = {
    "Age": "up",
    "Workclass": "free",
    "Education-Num": "up",
    "Marital Status": "fixed",
    "Occupation": "free",
    "Race": "fixed",
    "Sex": "fixed",
    "Hours per week": "free",
}
_MONTHS = ("0", "2", "3", "4", "5", "6")  # the file calls the delay of the first month PAY_0
DEFAULT = {
    "LIMIT_BAL": "fixed",  # the bank's decision
    "SEX": "fixed",
    "EDUCATION": "fixed",
    "MARRIAGE": "fixed",
    "AGE": "up",
    # the past half-year stands for the next one
    **{f"PAY_{month}": "free" for month in _MONTHS},
    **{f"{amount}{month}": "free" for amount in ("BILL_AMT", "PAY_AMT") for month in range(1, 7)},
}
GIVE_ME_SOME_CREDIT = {
    "RevolvingUtilizationOfUnsecuredLines": "free",
    "age": "up",
    **dict.fromkeys(credit_data.LATE, "fixed"),
    "DebtRatio": "free",
    "MonthlyIncome": "free",
    "NumberOfOpenCreditLinesAndLoans": "free",
    "NumberRealEstateLoansOrLines": "free",
    "NumberOfDependents": "fixed",
}


def heloc() -> Table:
    """FICO HELOC, 9,871 applicants, y = 1 repaid.

    A special code on over 1 % of the rows is a fixed 0/1 column of its own, and its feature cannot be moved there.
    """
    frame, y = heloc_data.load()
    columns, moves, void = {}, {}, {}
    for name, values in frame.items():
        if name in heloc_data.CODED:
            columns[name], moves[name] = values.astype(str), HELOC[name]
            continue
        columns[name], moves[name] = values.where(values >= 0, 0), HELOC[name]
        for code, meaning in heloc_data.SPECIAL.items():
            if (values == code).mean() > 0.01:
                flag = f"{name}: {meaning}"
                columns[flag], moves[flag] = (values == code).astype(int), "fixed"
                void.setdefault(name, []).append(flag)
    return encode("HELOC", pd.DataFrame(columns), y, moves, void)


def german() -> Table:
    """German credit, 1,000 loans, y = 1 called good by the bank."""
    frame, y = german_credit.load()
    return encode("German", frame, y, GERMAN)


def adult() -> Table:
    """Adult, 32,561 people of the US census of 1994, y = 1 earned over 50,000 dollars a year; eight of the 14 features."""
    frame, y = adult_data.load()
    return encode("Adult", frame[list(ADULT)], y, ADULT)


def default() -> Table:
    """Default of credit cards, 30,000 customers, y = 1 paid in the following month."""
    frame, y = default_credit.load()
    return encode("Default", frame, y, DEFAULT)


def give_me_some_credit() -> Table:
    """Give Me Some Credit, 120,120 borrowers, y = 1 not seriously late; amounts and ratios end at their 99th percentile.

    The longest utilisation is 50,000 times the limit: without an end, the range would leave everybody at 0.
    """
    frame, y = credit_data.load()
    numbers = frame.select_dtypes("float")
    return encode("Give Me Some Credit", frame.assign(**numbers.clip(upper=numbers.quantile(0.99), axis=1)), y, GIVE_ME_SOME_CREDIT)
