"""Travel times on 93 arcs between 45 census tracts of downtown Los Angeles, two years, with weather, for the paper's scale."""

import numpy as np
import pandas as pd

from shared.data import from_mirror

ORIGIN = (
    "alexforel/Explainable-CSO, data/uber_processed.csv and data/Y_twoyear.csv, commit "
    "c215e5306a1353e55005b66fbcd293654f98947e (MIT); from Uber Movement, as prepared by Kallus & Mao (2023), Stochastic "
    "optimization forests, Management Science"
)
PERIODS = ["EarlyMorning", "AM", "Midday", "PM", "Evening"]
START, END = "1221", "1256"  # the paper's trip, census tracts 206032 and 209401


def load(n: int = 1000) -> tuple[pd.DataFrame, np.ndarray, list[tuple[str, str]]]:
    """Contexts (n, 7), travel times (n, 93) in seconds, and the ends of each arc, names of zones; the first n of 3640 rows.

    Columns: Period (of the day, a word), Temp (Fahrenheit), WindSpeed, Rain, Visibility, weekday (1 to 7) and month (1 to 12).
    The files are the mirror's; see ORIGIN. Raises DataError when they are missing, ValueError for n outside 1 ... 3640.
    """
    # the second and third line say which columns are categories, numbers or discrete, and which may move: all
    contexts = pd.read_csv(from_mirror("cso-uber", "uber_processed.csv"), skiprows=[1, 2])
    times = pd.read_csv(from_mirror("cso-uber", "Y_twoyear.csv.gz"))
    if not 1 <= n <= len(times):
        raise ValueError(f"n must lie in 1 ... {len(times)}, not {n}")
    ends = [tuple(part.removeprefix(word) for part, word in zip(name.split("_")[1:], ("origin", "destination"), strict=True))
            for name in times.columns]  # fmt: skip
    return contexts.iloc[:n], times.to_numpy(float)[:n], ends
