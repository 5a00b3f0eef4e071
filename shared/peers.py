"""Packages of others, imported so that they say nothing on stderr of a notebook."""

import importlib
import warnings
from types import ModuleType

from tqdm import TqdmWarning


def load(module: str) -> ModuleType:
    """A module by its name. tqdm misses its widgets when such a package is imported in a notebook; that is not said.

    Raises ModuleNotFoundError when the package is not installed: name it in paper.yaml's `packages`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmWarning)
        return importlib.import_module(module)
