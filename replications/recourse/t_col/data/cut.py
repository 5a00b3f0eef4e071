"""Cut `released_files.csv.gz`: what can be told of the authors' counterfactual files without copying them (see SOURCE.md).

python cut.py <checkout of NEU-DataMining/T-COL>
"""

import hashlib
import sys
from pathlib import Path

import pandas as pd

FILES = ("colt_good_fcs", "colt_near_ncs", "colt_rep_rss", "colt_cos_rss", "colt_cen_rss", "dice_r", "dice_g", "dice_k")


def as_written(value: str) -> str:
    """A cell without the difference between 34 and 34.0."""
    try:
        return f"{float(value):.9g}"
    except ValueError:
        return value


def rows_of(path: Path) -> list[list[str]]:
    """Feature cells of a file's rows; the last column, the label, left out."""
    return [[as_written(v) for v in row[:-1]] for row in pd.read_csv(path, dtype=str, keep_default_na=False).to_numpy()]


if __name__ == "__main__":
    out = []
    for folder in ("Adult", "German", "Phoneme", "Titanic", "Water"):
        people = rows_of(Path(sys.argv[1]) / folder / "samples.csv")
        for file in FILES:
            for row in rows_of(Path(sys.argv[1]) / folder / f"{file}.csv"):
                same = [sum(a == b for a, b in zip(row, person, strict=True)) for person in people]
                out.append([folder, file, hashlib.sha256("|".join(row).encode()).hexdigest()[:8], len(row), *same])
    columns = ["table", "file", "row", "features", *(f"same as person {i}" for i in range(1, 6))]
    path = Path(__file__).with_name("released_files.csv.gz")
    pd.DataFrame(out, columns=columns).to_csv(path, index=False, compression={"method": "gzip", "mtime": 0})
