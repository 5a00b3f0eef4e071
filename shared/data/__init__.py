"""Data sets: located, checked and read, each from a module of its own in this package.

A data set comes from a file inside a pinned package (`PackageFile`), from a download (`Download`), from an extract that is
committed here (`extract`), or from a developer's mirror of the papers' own data (`from_mirror`). A missing or damaged one is an
error that says what to do; nothing is ever replaced by something synthetic.
"""

import hashlib
import importlib.metadata
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path


class DataError(RuntimeError):
    """A data set that is missing or damaged; the message names it and the remedy."""


@dataclass(frozen=True)
class PackageFile:
    """A data file that ships inside an installed package, found without importing the package.

    distribution: the pip name, or npm:name for one of npm's, pinned in requirements-data.txt. suffix: the end of the file's path,
    whole names.
    sha256: of the file, hex. licence, citation: of the *data*, often not the package's.
    """

    distribution: str
    suffix: str
    sha256: str
    licence: str
    citation: str

    def path(self) -> Path:
        """The file's path. Raises DataError when the package or file is missing or its sha256 differs."""
        install = f"make installs it: make ONLY=<family>/<slug> (or: python -m shared.workflow.packages {self.distribution})"
        files = _files(self.distribution)
        if files is None:
            raise DataError(f"data package {self.distribution!r} is not installed; {install}")
        found = [f for f in files if f.as_posix().endswith(f"/{self.suffix}")]
        if len(found) != 1:
            raise DataError(f"{len(found)} files end with {self.suffix!r} in package {self.distribution!r}, not 1; {install}")
        path = found[0]
        if not path.exists():
            raise DataError(
                f"{path} of package {self.distribution!r} is missing; remove the package and install it again: {install}"
            )
        _check(path, self.sha256, f"remove the package {self.distribution!r} and install it again: {install}")
        return path


def npm_folder(distribution: str) -> Path:
    """Where this environment keeps the files of npm's package `npm:name`."""
    return Path(sys.prefix) / "share" / "replications" / "npm" / distribution.removeprefix("npm:")


def _files(distribution: str) -> list[Path] | None:
    """Every file of an installed package; None when it is not installed."""
    if distribution.startswith("npm:"):
        folder = npm_folder(distribution)
        return list(folder.rglob("*")) if folder.exists() else None
    try:
        return [Path(f.locate()) for f in importlib.metadata.files(distribution) or []]
    except importlib.metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Download:
    """A file fetched once into the user's cache ($REPLICATIONS_CACHE, else the system's cache folder)."""

    url: str
    name: str
    sha256: str
    licence: str
    citation: str

    def path(self) -> Path:
        """The file's path, downloaded when needed. Raises DataError when unreachable or its sha256 differs."""
        import pooch
        import requests

        try:
            return Path(pooch.retrieve(self.url, f"sha256:{self.sha256}", self.name, cache_folder(), progressbar=False))
        except requests.RequestException as error:
            raise DataError(
                f"{self.name}: cannot download {self.url} ({type(error).__name__}); check the network, or put the file "
                f"at {cache_folder() / self.name}"
            ) from error
        except ValueError as error:  # pooch: the hash of what came differs
            raise DataError(f"{self.name}: what {self.url} gave is not the file we know ({error}); nothing was kept") from error


def cache_folder() -> Path:
    """Where downloads and converted models are kept: $REPLICATIONS_CACHE, else the system's cache folder."""
    import pooch

    return Path(os.environ.get("REPLICATIONS_CACHE") or pooch.os_cache("replications"))


def extract(name: str, sha256: str) -> Path:
    """The path of an extract that is part of this repository, in shared/data/extracts, beside a text with its licence.

    Raises DataError when it is missing or its sha256 differs.
    """
    path = Path(__file__).parent / "extracts" / name
    remedy = "it is part of this repository, restore it from there"
    if not path.exists():
        raise DataError(f"{path} is missing: {remedy}")
    _check(path, sha256, remedy)
    return path


def from_mirror(*parts: str) -> Path:
    """A file or folder of the papers' own data, under the folder that $REPLICATIONS_DATA names.

    Raises DataError when the variable is not set or nothing is there.
    """
    wanted = Path(*parts)
    root = os.environ.get("REPLICATIONS_DATA")
    if not root:
        raise DataError(f"{wanted} is the paper's own data: set REPLICATIONS_DATA to the folder that holds {parts[0]}/")
    path = Path(root).resolve() / wanted
    if not path.exists():
        raise DataError(f"{path} does not exist: put the paper's own data there, or mend REPLICATIONS_DATA")
    return path


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(path: Path, sha256: str, remedy: str) -> None:
    stat = path.stat()
    found = _sha256(path, stat.st_size, stat.st_mtime_ns)
    if found != sha256:
        raise DataError(f"{path} is damaged or another version: its sha256 is {found[:12]}…, not {sha256[:12]}…; {remedy}")
