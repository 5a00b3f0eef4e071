"""TCGA: gene expression of 9,659 people with cancer, the covariates of SCIGAN's dose-response studies.

Read from the developer's mirror, folder tcga/, file `tcga.p` as SCIGAN's authors release it: a pickled dictionary of numpy arrays,
of which `rnaseq` is read.
"""

from pathlib import Path

import numpy as np

from shared.data import DataError, from_mirror, pickles

LICENCE = "open access data of The Cancer Genome Atlas; none stated for the file"
CITATION = "Weinstein et al. (2013), The Cancer Genome Atlas pan-cancer analysis project, Nature Genetics 45, 1113-1120"


def read(path: Path) -> np.ndarray:
    """Gene expressions (people, genes), float64, log scale. Raises DataError for a pickle of anything but arrays."""
    with path.open("rb") as file:
        table = pickles.arrays(file)
    if not isinstance(table, dict) or "rnaseq" not in table:
        raise DataError(f"{path} has no rnaseq: it is not SCIGAN's file")
    return np.asarray(table["rnaseq"], dtype=float)


def load_paper() -> np.ndarray:
    """The covariates of the paper. Raises DataError without the mirror."""
    return read(from_mirror("tcga", "tcga.p"))
