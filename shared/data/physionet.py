"""Records of PhysioNet's databases: a header `<name>.hea` in words and signals in files of formats 212 and 16."""

from pathlib import Path

import numpy as np
from scipy.signal import resample


def read(header: Path) -> tuple[np.ndarray, float, tuple[str, ...]]:
    """(signals (leads, n) in the units of the header, samples a second, names of the leads) of one record.

    For electrocardiograms the unit is mV. Each signal file must be of format 212 (12 bits, two samples in three bytes) or 16 (two
    bytes a sample). Raises ValueError, naming the record, for another format.
    """
    lines = [line for line in header.read_text(encoding="utf-8").splitlines() if line.strip() and line[0] != "#"]
    _, n_leads, rate, *_ = lines[0].split()
    fields = [line.split() for line in lines[1 : 1 + int(n_leads)]]
    if not {f[1] for f in fields} <= {"212", "16"}:
        raise ValueError(f"record {header.stem}: formats 212 and 16 can be read, not {sorted({f[1] for f in fields})}")
    signals = []
    for file, form in dict.fromkeys((f[0], f[1]) for f in fields):
        inside = [f for f in fields if f[0] == file]
        data = header.with_name(file)
        units = _format_212(np.fromfile(data, np.uint8)) if form == "212" else np.fromfile(data, "<i2").astype(float)
        gains, zeros = np.transpose([_gain(f[2], f[4]) for f in inside])
        signals.append((units.reshape(-1, len(inside)) - zeros) / gains)
    return np.concatenate(signals, axis=1).T, float(rate.split("/")[0]), tuple(" ".join(f[8:]) for f in fields)


def segments(header: Path, seconds: int, rate: int) -> np.ndarray:
    """Segments (n, leads, seconds * rate) of one record, resampled to `rate` Hz; a rest too short for one is left out.

    Raises ValueError when the record is shorter than one segment, or as `read` does.
    """
    signal, own, _ = read(header)
    length = round(seconds * own)
    n = signal.shape[1] // length
    if n == 0:
        raise ValueError(f"record {header.stem} is shorter than {seconds} s")
    parts = signal[:, : n * length].reshape(len(signal), n, length).swapaxes(0, 1)
    return resample(parts, seconds * rate, axis=-1)


def _format_212(raw: np.ndarray) -> np.ndarray:
    """Samples (2 n,) of 12 bits with a sign, of bytes (3 n,)."""
    low, shared, high = raw.reshape(-1, 3).astype(int).T
    units = np.stack([low | (shared & 15) << 8, high | (shared >> 4) << 8], axis=1).ravel()
    return np.where(units > 2047, units - 4096, units).astype(float)


def _gain(gain: str, adc_zero: str) -> tuple[float, float]:
    """(units a mV, the unit that is 0 mV) of the header's fields; `gain` is 200, 200/mV or 2281(-26)/mV; 0 stands for 200."""
    number, _, base = gain.split("/")[0].partition("(")
    return float(number) or 200.0, float(base.rstrip(")") or adc_zero)
