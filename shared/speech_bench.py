"""The speech enhancement bench: the same mixtures and the same measures for every method of the family.

speech_manifest.csv has a row a mixture; the mixture is made anew from its row, no audio is kept. Conditions: A, talkers and noises
as in training (other words, other files); B, other talkers and other noises; C, reverberation. A method is a function of a noisy
waveform. One decorated function is one more row of every table:

    @enhancer("mine")
    def mine(y: NDArray) -> NDArray: ...  # (n,) both, at 16 kHz

Words are split by rhyme set, natural sounds by file. Half of the mixtures are whole phrases; the other half are two words each, of
which the carrier phrase is cut, since training has heard "please select the word" often.
"""

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from shared import seeding, speech
from shared.data import ambiences, natural_sounds, rhyme_words

Split = Literal["train", "validation", "test"]
MANIFEST = Path(__file__).parent / "speech_manifest.csv"
SAMPLES = 255 * speech.HOP  # of a mixture: 256 frames, 2.04 s
WORD = round(0.85 * speech.RATE)  # samples at a phrase's end that hold its word
HOME, AWAY = ("F1", "M3"), ("F3", "M4")  # talkers of training and of condition B
SNRS = (2.5, 7.5, 12.5)  # dB
HELD_OUT = {"test": (6, 24), "validation": (4, 16)}  # rhyme sets and natural sounds
Source = Callable[[str], NDArray[np.float32]]

# ---------------------------------------------------------------- sources and their split


@cache
def packaged(name: str) -> NDArray[np.float32]:
    """A recording at 16 kHz, in 16 bits, by its name: speech/F1/b1_w1, noise/vacuum, noise/pub, room/classroom."""
    kind, *rest = name.split("/")
    if kind == "speech":
        path = rhyme_words.path(*rest)
    elif kind == "room":
        path = ambiences.CLASSROOM.path()
    else:
        path = {**natural_sounds.paths(), **ambiences.paths()}[rest[0]]
    return (np.round(speech.read(path) * 32767).clip(-32768, 32767) / 32767).astype(np.float32)


@cache
def words(split: Split) -> list[str]:
    """Words of a split, such as b12_w3, by rhyme set: 240 to train, 24 to validate and 36 to test."""
    sets = seeding.rng(0, "rhyme sets").permutation(list(rhyme_words.SETS))
    return [f"b{s}_w{w}" for s in _part(sets, split, 0) for w in rhyme_words.WORDS]


@cache
def sounds(split: Split) -> list[str]:
    """Natural sounds of a split that are not speech: 107 to train, 16 to validate and 24 to test."""
    names = [name for name in natural_sounds.paths() if name not in natural_sounds.SPEECH]
    return [str(name) for name in _part(seeding.rng(0, "natural sounds").permutation(names), split, 1)]


def _part(shuffled: NDArray, split: Split, which: int) -> NDArray:
    test, validation = HELD_OUT["test"][which], HELD_OUT["validation"][which]
    parts = {"test": slice(test), "validation": slice(test, test + validation), "train": slice(test + validation, None)}
    return shuffled[parts[split]]


# ---------------------------------------------------------------- mixtures


class Mixture(NamedTuple):
    """Clean and noisy waveform, (n,) each."""

    clean: NDArray
    noisy: NDArray


def room(seed: int) -> NDArray:
    """A simulated room (Polack 1988): the direct sound, then Gaussian noise that decays by 60 dB in .4 to 1 s.

    The direct sound is -5 to 3 dB above all that follows.
    """
    rng = seeding.rng(seed, "room")
    t60, ratio = rng.uniform(0.4, 1.0), 10 ** (rng.uniform(-5, 3) / 10)
    time = np.arange(round(t60 * speech.RATE)) / speech.RATE
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / t60) * (time > 0.002)
    response = tail / np.sqrt(np.square(tail).sum() * ratio)
    response[0] = 1
    return response


def reverberant(clean: NDArray, response: NDArray) -> NDArray:
    """Speech (n,) in a room whose impulse response starts at the direct sound, of height 1."""
    return fftconvolve(clean, response)[: len(clean)]


def mixture(row: NamedTuple, source: Source = packaged) -> Mixture:
    """A row of the manifest as waveforms of 2.04 s. The clean one is that of the direct sound in a room."""
    phrases = [source(f"speech/{row.talker}/{word}") for word in row.words.split()]
    parts = [_faded(phrase[-WORD:]) for phrase in phrases] if row.cut else [phrases[0][-SAMPLES:]]
    room_each = SAMPLES // len(parts)
    clean = np.concatenate([np.pad(part, (room_each - len(part), 0)) for part in parts]).astype(float)
    if row.condition == "C":
        return Mixture(clean, reverberant(clean, _direct(source("room/classroom")) if row.room < 0 else room(row.room)))
    noise = source(f"noise/{row.noise}")
    return Mixture(clean, speech.mix(clean, noise[(row.offset + np.arange(SAMPLES)) % len(noise)].astype(float), row.snr))


def _faded(x: NDArray, samples: int = 80) -> NDArray:
    return x * np.minimum(np.arange(len(x)) / samples, 1)


def _direct(response: NDArray) -> NDArray:
    peak = np.abs(response).argmax()
    return response[peak:] / response[peak]


def draw_manifest() -> pd.DataFrame:
    """The manifest anew: 24 test and 16 validation mixtures of each condition, which share words, talkers' sexes and SNRs.

    room: -1, the measured classroom, or the seed of a simulated one.
    """
    rows = []
    for split, count in {"test": 24, "validation": 16}.items():
        rng = seeding.rng(0, f"manifest {split}")
        stock = iter(rng.permutation(words(split)))
        files = rng.permutation(sounds(split))
        for i in range(count):
            cut, snr = (i // 2) % 2 == 1, SNRS[(i // 4) % 3]
            said = " ".join(next(stock) for _ in range(1 + cut))
            offset = int(rng.integers(10 * speech.RATE))
            common = {"split": split, "mixture": i, "words": said, "cut": cut, "noise": "", "offset": 0, "snr": 0.0, "room": 0}
            rows += [
                common | {"condition": "A", "talker": HOME[i % 2], "noise": files[i], "snr": snr},
                common
                | {"condition": "B", "talker": AWAY[i % 2], "noise": list(ambiences.NOISES)[(i + i // 4) % 4], "snr": snr}
                | {"offset": offset},
                common | {"condition": "C", "talker": HOME[i % 2], "room": -1 if (i // 4) % 2 and split == "test" else 500 + i},
            ]
    columns = ["split", "condition", "mixture", "talker", "words", "cut", "noise", "offset", "snr", "room"]
    return pd.DataFrame(rows)[columns].sort_values(["split", "condition", "mixture"], ignore_index=True)


@cache
def manifest(split: Split, condition: str) -> pd.DataFrame:
    """The manifest's rows of a split and a condition."""
    table = pd.read_csv(MANIFEST, keep_default_na=False)
    return table[(table["split"] == split) & (table["condition"] == condition)].reset_index(drop=True)


def mixtures(split: Split, condition: str, source: Source = packaged) -> list[Mixture]:
    """All mixtures of a split and a condition."""
    return [mixture(row, source) for row in manifest(split, condition).itertuples()]


# ---------------------------------------------------------------- rows

ENHANCERS: dict[str, Callable[[NDArray], NDArray]] = {}


def enhancer(name: str) -> Callable:
    """Makes `def f(y) -> estimate` a row of the bench. Raises ValueError for a name that is taken."""

    def register(function: Callable[[NDArray], NDArray]) -> Callable:
        if name in ENHANCERS:
            raise ValueError(f"an enhancer named {name!r} exists; choose another name")
        ENHANCERS[name] = function
        return function

    return register


def measures(estimate: NDArray, clean: NDArray) -> dict[str, float]:
    """PESQ, ESTOI and SI-SDR of an estimate, once it is aligned with the clean waveform."""
    moved = speech.aligned(estimate, clean)
    return {name: measure(moved, clean) for name, measure in speech.MEASURES.items()}


def score(names: Iterable[str], condition: str, split: Split = "test") -> pd.DataFrame:
    """Table of method, condition, mixture, measure and value for enhancers by name. Raises KeyError for an unknown name."""
    rows = []
    for name in names:
        for i, (clean, noisy) in enumerate(mixtures(split, condition)):
            for measure, value in measures(ENHANCERS[name](noisy), clean).items():
                rows.append({"method": name, "condition": condition, "mixture": i, "measure": measure, "value": value})
    return pd.DataFrame(rows)


@enhancer("noisy")
def untouched(y: NDArray) -> NDArray:
    """The mixtures as they came."""
    return y


enhancer("Wiener")(speech.wiener)
