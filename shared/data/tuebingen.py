"""The Tuebingen cause-effect pairs: real pairs of quantities of which one is known to cause the other.

From the package `cdt` (found, never imported), which holds 99 of the 108 pairs; the weights and the numbering are from
the collection's `pairmeta.txt`. Of the 99 pairs the paper scores, cdt has all but 106 and 108; 47 and 70 are dropped as
in the paper, because they are discrete. So 97 pairs of 34 sources remain. The paper's own set is read from the
developer's mirror.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from shared.data import PackageFile, from_mirror

FILE = PackageFile(
    distribution="cdt",
    suffix="Tuebingen_pairs.csv",
    sha256="e3726459486cf50642de62ce4ceb35669100f6867bd564863b4663546c1393cf",
    licence="none stated for the collection, which asks to be cited; pairs 1-41 are from UCI; cdt itself is MIT",
    citation="Mooij, Peters, Janzing, Zscheischler & Schoelkopf (2016), Distinguishing cause from effect using "
    "observational data: methods and benchmarks, JMLR 17(32), webdav.tuebingen.mpg.de/cause-effect",
)


def _equal(weight: float, *numbers: int) -> dict[int, float]:
    return dict.fromkeys(numbers, weight)


# Weight of each pair by its number, pairmeta.txt of the collection, grouped by source (README of the collection):
# pairs of one source share a weight of about 1, so that near copies of one data set do not count many times.
SOURCES: dict[str, dict[int, float]] = {
    "weather stations (DWD)": _equal(0.166, 1, 2, 4, 20) | _equal(0.167, 3, 21),
    "abalone": _equal(0.143, 5, 6, 7, 8, 9, 10) | {11: 0.142},
    "census income": _equal(0.5, 12, 17),
    "auto-mpg": _equal(0.25, 13, 14, 15, 16),
    "GAGurine": {18: 1.0},
    "geyser": {19: 1.0},
    "arrhythmia": _equal(0.333, 22, 23) | {24: 0.334},
    "concrete": _equal(0.125, *range(25, 33)),
    "liver disorders": _equal(0.2, *range(33, 38)),
    "pima diabetes": _equal(0.25, *range(38, 42)),
    "Furtwangen weather": _equal(0.5, 42, 77),
    "ncep-ncar": _equal(0.25, 43, 44, 45, 46),
    "house temperature (Hipel)": {48: 1.0},
    "ozone (Bafu)": _equal(0.333, 49, 50) | {51: 0.334},
    "UN data": _equal(0.083, 56, 57, 59, 60, 62, 63, 73, 74) | _equal(0.084, 58, 61, 64, 75),
    "stock returns": _equal(0.333, 65, 66) | {67: 0.334},
    "web server": {68: 1.0},
    "house temperature (Mooij)": {69: 1.0},
    "sunspots": {72: 1.0},
    "food and population (FAO)": {76: 1.0},
    "ecosystem light (Moffat)": _equal(0.3333, 78, 79) | {80: 0.3334},
    "CO2 flux (Mahecha)": _equal(0.3333, 81, 82) | {83: 0.3334},
    "employment": {84: 1.0},
    "milk protein": {85: 1.0},
    "rent": {86: 1.0},
    "whistler snow": {87: 1.0},
    "bone density": {88: 1.0},
    "soil (Solly)": _equal(0.25, 89, 90, 91, 92),
    "rivers (MOPEX)": {93: 1.0},
    "electricity load": _equal(0.3333, 94, 95, 96),
    "ball track": _equal(0.2, 97, 98, 102, 103, 104),
    "nlschools": {99: 1.0},
    "cpus": {100: 1.0},
    "screen brightness": {101: 0.5},
    "voltage": {106: 1.0},
    "rotation": {108: 1.0},
}


class Pair(NamedTuple):
    """One pair; the cause is always first, so a score must be tested with half of the pairs exchanged."""

    number: int  # in the collection, 1-108
    source: str
    weight: float
    cause: np.ndarray  # (n,), in the pair's own unit
    effect: np.ndarray  # (n,)


def _labels() -> dict[int, tuple[str, float]]:
    return {n: (source, w) for source, weights in SOURCES.items() for n, w in weights.items()}


def load() -> list[Pair]:
    """The 97 pairs that cdt and the paper share, 94 to 16382 rows each, float64. Raises DataError without cdt."""
    labels, table = _labels(), pd.read_csv(FILE.path())
    pairs = []
    for row in table.itertuples():
        row_number = row.Index + 1  # cdt left out the multivariate pairs 52-55 and 71
        number = row_number + (0 if row_number <= 51 else 4 if row_number <= 66 else 5)
        if number in labels:
            cause, effect = (np.array(text.split(), dtype=float) for text in (row.A, row.B))
            pairs.append(Pair(number, *labels[number], cause, effect))
    return pairs


def load_paper() -> list[Pair]:
    """The paper's 99 pairs from the developer's mirror, float64. Raises DataError without the mirror."""
    folder = from_mirror("cause-effect-pairs", "Tuebingen")
    meta = np.loadtxt(folder / "pairmeta.txt")
    columns = {int(row[0]): (int(row[1]) - 1, int(row[3]) - 1) for row in meta}  # 0-based: cause, effect
    pairs = []
    for number, (source, weight) in sorted(_labels().items()):
        path = folder / f"pair{number:04d}.txt"
        values = np.loadtxt(path if path.exists() else path.with_suffix(".txt.gz"))
        pairs.append(Pair(number, source, weight, *(values[:, c] for c in columns[number])))
    return pairs
