"""Two half-hour electrocardiograms, records 100 and 101 of the MIT-BIH arrhythmia database, with the beats' labels (real)."""

from dataclasses import dataclass

import numpy as np

from shared.data import extract

LICENCE = "Open Data Commons Attribution Licence 1.0"
CITATION = (
    "Moody & Mark (2001), The impact of the MIT-BIH Arrhythmia Database, IEEE Eng. in Med. and Biol. 20(3), doi:10.13026/C2F305; "
    "Goldberger et al. (2000), PhysioBank, PhysioToolkit, and PhysioNet, Circulation 101(23)"
)
SHA256 = "f72919108ee309fa5e43d3a018756a9eccbe213a9f5922fe3de092b372195819"
RATE = 360  # samples a second
LEADS = {"100": ("MLII", "V5"), "101": ("MLII", "V1")}  # a man of 69, a woman of 75
NORMAL, NOISE = 1, 14  # codes of the database: a normal beat, a change in the signal's quality
BEATS = (*range(1, 14), 25, 30, 31, 34, 35, 38, 41)  # codes that stand for beats


@dataclass(frozen=True)
class Record:
    """signal (2, 650000): mV, float64. at (k,): sample of each event, rising. code (k,): what it is, as the database codes it."""

    signal: np.ndarray
    at: np.ndarray
    code: np.ndarray


def load(name: str) -> Record:
    """Record "100" or "101": 1805.6 s at 360 Hz, 11 bits, 200 units a mV.

    Raises ValueError for another name, DataError when the file is missing or damaged.
    """
    if name not in LEADS:
        raise ValueError(f"name must be 100 or 101, not {name!r}")
    with np.load(extract("mitbih_100_101.npz", SHA256)) as z:
        units = np.cumsum(np.column_stack([z[f"first_{name}"], z[f"steps_{name}"]]), axis=1, dtype=np.int64)
        events = z[f"events_{name}"]
    return Record((units - 1024) / 200.0, events[:, 0], events[:, 1])
