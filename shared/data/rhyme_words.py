"""Rhyme words of the Modified Rhyme Test: 1200 studio recordings, 2 women and 2 men (F1, F3, M3, M4) with 300 words each.

Each says a carrier phrase, "please select the word", and then the word, 1.3 to 2.4 s in all, at 48 kHz. The words come in 50 sets
of six that rhyme or begin alike: word `b12_w3` is the third of set 12. A few words belong to two sets.
"""

import hashlib
from functools import cache
from pathlib import Path

from shared.data import DataError, PackageFile

TALKERS = ("F1", "F3", "M3", "M4")
SETS, WORDS = range(1, 51), range(1, 7)
# SHA256: of the recordings' own hashes, one after the other
SHA256 = "c98d21a7842c2c7b0281c73ffbb832ccc33b6881c5693f7ea47721c3116e39a2"
LICENCE = PackageFile(
    distribution="mcvqoe-intelligibility",
    suffix="mcvqoe_intelligibility-1.1.3.dist-info/METADATA",
    sha256="bf40bac92bac955df216b29750d253ddc699dc6686d85d32b45e75810a5e9335",
    licence="public domain (works of the National Institute of Standards and Technology, USA)",
    citation="House et al. 1965, Articulation-testing methods; recordings by NIST, MCV QoE intelligibility 1.1.3",
)


def path(talker: str, word: str) -> Path:
    """The WAV file of a talker and a word such as `b12_w3`. Raises ValueError for another name, DataError when it is missing."""
    try:
        return _files()[f"{talker}_{word}"]
    except KeyError:
        raise ValueError(f"no recording of talker {talker!r} and word {word!r}; names are like 'F1' and 'b12_w3'") from None


@cache
def _files() -> dict[str, Path]:
    folder = LICENCE.path().parent.parent / "mcvqoe" / "intelligibility" / "audio_clips"
    names = [f"{talker}_b{s}_w{w}" for talker in TALKERS for s in SETS for w in WORDS]
    files = {name: folder / f"{name}_orig.wav" for name in names}
    missing = not all(file.exists() for file in files.values())
    if missing or hashlib.sha256("".join(map(_digest, files.values())).encode()).hexdigest() != SHA256:
        raise DataError(
            f"the recordings of {LICENCE.distribution} are incomplete or damaged; remove the package and install it again"
        )
    return files


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
