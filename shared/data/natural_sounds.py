"""165 natural sounds of 2 s, 44.1 kHz: machines, animals, water, tools, music, voices; one WAV file each, named after it."""

import hashlib
from functools import cache
from pathlib import Path

from shared.data import DataError, PackageFile

COUNT = 165
# SHA256: of the sounds' own hashes, in the order of their names, one after the other
SHA256 = "7a63543190e53342efade2135f7d48dbd6a8baff32ba7f9ff6ce862ce6c83c0e"
LICENCE = PackageFile(
    distribution="misosoupy",
    suffix="misosoupy-0.1.3.dist-info/METADATA",
    sha256="e242d42138d7f719fe3ab2fd390f679f5bd688a0c737dfbf20007525f63b963c",
    licence="MIT (the package; the sounds' own licence is not stated, nothing is copied from them)",
    citation="Norman-Haignere, Kanwisher & McDermott 2015, Distinct cortical pathways for music and speech; Neuron 88",
)
SPEECH = (
    "background_speech", "girl_speaking", "man_speaking", "boy_speaking", "woman_speaking", "baby_talk", "angry_shouting",
    "whispering", "spanish", "french", "italian", "german", "chinese", "hindi", "russian", "sports_anouncer",
    "computer-synthesized_speech", "rap_song",
)  # fmt: skip


@cache
def paths() -> dict[str, Path]:
    """The files by what they sound like, `vacuum` for instance, in the order of their names. Raises DataError when damaged."""
    folder = LICENCE.path().parent.parent / "misosoupy" / "assets" / "naturalsounds165"
    files = sorted(folder.glob("stim*.wav"))
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    if len(files) != COUNT or hashlib.sha256("".join(digests).encode()).hexdigest() != SHA256:
        raise DataError("the sounds of misosoupy are incomplete or damaged; remove the package and install it again")
    return {file.stem.split("_", 1)[1]: file for file in files}
