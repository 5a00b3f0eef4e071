"""IHDP: the Infant Health and Development Program, 747 infants, the standard test of effect estimators.

Covariates and treatment are those of a real trial, from which Hill (2011) removed a non-random part of the treated so that the
groups differ. Outcomes are simulated on them (her surface B), so the effects are known. The package `skcausal` (found, never
imported) holds one published replication; `surface_b` draws more. Ten published ones are read from the developer's mirror.
"""

from typing import NamedTuple

import numpy as np

from shared.data import PackageFile, from_mirror

FILE = PackageFile(
    distribution="skcausal",
    suffix="skcausal/datasets/raw/ihdp.csv",
    sha256="ed1bb91873a212989999b55d7198630b93e8f10d02ae47a196508a5950e6c66d",
    licence="none stated for the data, a public benchmark since 2011; the package that carries the file is MIT",
    citation="Hill (2011), Bayesian nonparametric modeling for causal inference, Journal of Computational and Graphical "
    "Statistics 20(1), 217-240; replications as in Louizos et al. (2017)",
)


class Replication(NamedTuple):
    """747 infants; outcomes, in points of a made-up test, have noise of standard deviation 1."""

    x: np.ndarray  # (747, 25): six numbers of mean 0 and standard deviation 1, then 19 of two values
    w: np.ndarray  # (747,): visited at home, 0 or 1; 139 were
    y: np.ndarray  # (747,)
    mu0: np.ndarray  # (747,): expected outcome without
    mu1: np.ndarray  # and with visits


def _read(path) -> Replication:
    table = np.loadtxt(path, delimiter=",")  # w, y, the other outcome, mu0, mu1, 25 covariates
    return Replication(table[:, 5:], table[:, 0], table[:, 1], table[:, 3], table[:, 4])


def load() -> Replication:
    """The published replication 1. Raises DataError when the package is missing or its file another."""
    return _read(FILE.path())


def load_paper(number: int) -> Replication:
    """Replication 1 to 10 from the developer's mirror. Raises DataError without it."""
    return _read(from_mirror("ihdp", f"ihdp_npci_{number}.csv"))


def surface_b(x: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> Replication:
    """A new replication on covariates x (n, 25) and treatments w (n,), in which the treated gain 4 points on average.

    mu0 = exp(b0 + (x + 1/2) b) and mu1 = b0 + (x + 1/2) b - c. Each b is 0 with probability .6, else .1, .2, .3 or .4 alike;
    b0 is one of -1, -.75, ..., 1, as the published replications show.
    """
    b = rng.choice([0, 0.1, 0.2, 0.3, 0.4], size=x.shape[1], p=[0.6, 0.1, 0.1, 0.1, 0.1])
    line = rng.choice(np.linspace(-1, 1, 9)) + (x + 0.5) @ b
    mu0 = np.exp(line)
    mu1 = line - (line - mu0)[w == 1].mean() + 4
    return Replication(x, w, np.where(w == 1, mu1, mu0) + rng.normal(size=len(w)), mu0, mu1)
