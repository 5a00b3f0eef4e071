"""D4RL: logged transitions of simulated robots (hopper, walker2d, halfcheetah), hdf5 files of the paper's own scale.

They are read from the developer's mirror, folder d4rl/, named as their environments (`hopper-medium-v0.hdf5`). Reading needs the
package `h5py`, which `make ONLY=rl/galileo` installs.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from shared.data import DataError, from_mirror

LICENCE = "CC BY 4.0 for the data sets"
CITATION = "Fu, Kumar, Nachum, Tucker & Levine (2020), D4RL: Datasets for deep data-driven reinforcement learning, arXiv:2004.07219"


class Transitions(NamedTuple):
    """n steps in the order in which they were logged, without units, float32."""

    observations: np.ndarray  # (n, d)
    actions: np.ndarray  # (n, k), each within -1 and 1
    rewards: np.ndarray  # (n,)
    terminals: np.ndarray  # (n,) bool: the robot fell
    next_observations: np.ndarray  # (n, d)


def read(path: Path) -> Transitions:
    """The transitions of one hdf5 file.

    Older files have no next_observations: then the next row's observations are taken, and the last step of every episode
    (a terminal, a timeout, or the end of the file) is left out. Raises DataError without h5py or when a table is missing.
    """
    try:
        import h5py
    except ImportError as error:
        raise DataError("D4RL files need the package h5py: pip install h5py") from error
    with h5py.File(path) as file:
        if missing := {"observations", "actions", "rewards", "terminals"} - set(file):
            raise DataError(f"{path} lacks {sorted(missing)}: it is no D4RL file")
        table = {name: file[name][:] for name in (*Transitions._fields, "timeouts") if name in file}
    timeouts = table.pop("timeouts", np.zeros(len(table["rewards"]))).astype(bool)
    table["terminals"] = table["terminals"].astype(bool)
    if "next_observations" in table:
        return Transitions(**table)
    table["next_observations"] = np.roll(table["observations"], -1, axis=0)
    ends = table["terminals"] | timeouts
    ends[-1] = True
    return Transitions(**{name: rows[~ends] for name, rows in table.items()})


def load_paper(name: str) -> Transitions:
    """The data set of an environment's name, such as `hopper-medium-v0`. Raises DataError without the mirror."""
    return read(from_mirror("d4rl", f"{name}.hdf5"))
