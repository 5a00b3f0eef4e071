"""VoiceBank-DEMAND (Valentini-Botinhao 2016): clean and noisy speech, pairs of WAV files of one name in two folders.

The whole set (Edinburgh DataShare 10283/2791, CC BY 4.0; 48 kHz, used at 16 kHz) has 11,572 pairs of 28 talkers to train on and 824
of two others to test on. Unpack it as `clean` and `noisy` in a folder under $REPLICATIONS_DATA.
"""

from pathlib import Path

from shared.data import DataError, from_mirror


def pairs(*folder: str) -> list[tuple[Path, Path]]:
    """Clean and noisy file of every pair in a folder under $REPLICATIONS_DATA, by name. Raises DataError when one is alone."""
    clean, noisy = (sorted(from_mirror(*folder, part).glob("*.wav")) for part in ("clean", "noisy"))
    if not clean or [file.name for file in clean] != [file.name for file in noisy]:
        raise DataError(f"{Path(*folder)} must hold folders clean and noisy with WAV files of the same names")
    return list(zip(clean, noisy, strict=True))
