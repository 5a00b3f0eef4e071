"""Speech at 16 kHz: reading, mixing, spectrograms, measures of quality, and two enhancers that need no training.

Waveforms are (n,) or (..., n) floats in [-1, 1]; complex spectrograms (..., 256, frames), a frame every 8 ms. Measures compare an
estimate with the clean waveform and are larger where it is better.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.ndimage import minimum_filter1d
from scipy.signal import correlate, lfilter, resample_poly
from torch import Tensor

from shared.checks import finite

RATE = 16_000  # Hz
WINDOW, HOP = 510, 128  # samples; 256 frequencies
EXPONENT, SCALE = 0.5, 0.15  # of compressed spectrograms
MOST_DELAY = RATE // 50  # samples that an estimate may be late or early: 20 ms

# ---------------------------------------------------------------- waveforms


def read(path: Path) -> NDArray[np.float32]:
    """A WAV file's first channel at 16 kHz, full scale 1. Its filter keeps what lies above 8 kHz from folding back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks of notes beside the samples
        rate, samples = wavfile.read(path)
    full = np.iinfo(samples.dtype).max + 1 if np.issubdtype(samples.dtype, np.integer) else 1
    channel = samples if samples.ndim == 1 else samples[:, 0]
    return resampled(channel / full, rate, RATE).astype(np.float32)


def resampled(x: NDArray, rate: int, wanted: int) -> NDArray:
    """A waveform (n,) of one sampling rate at another, by a polyphase filter."""
    common = np.gcd(rate, wanted)
    return resample_poly(x, wanted // common, rate // common)


def active_level(x: NDArray, frame: int = 480, dynamic_range: float = 40.0) -> float:
    """RMS of a waveform (n,) over its frames of 30 ms that are within 40 dB of the loudest: pauses do not count.

    A plain stand-in for ITU-T P.56. Raises ValueError for fewer samples than a frame, NaN or silence.
    """
    x = finite("x", x, 1)
    powers = np.square(x[: len(x) // frame * frame]).reshape(-1, frame).mean(1)
    if not powers.size or powers.max() == 0:
        raise ValueError(f"x must hold a frame of {frame} samples and not be silent")
    return float(np.sqrt(powers[powers > powers.max() * 10 ** (-dynamic_range / 10)].mean()))


def mix(clean: NDArray, noise: NDArray, snr: float) -> NDArray:
    """Clean speech plus noise of the same shape (n,), scaled so that active speech is `snr` dB above the noise's RMS."""
    if clean.shape != noise.shape:
        raise ValueError(f"noise must have the shape of clean, {clean.shape}, not {noise.shape}")
    rms = np.sqrt(np.square(finite("noise", noise, 1)).mean())
    if rms == 0:
        raise ValueError("noise must not be silent")
    return clean + noise * (active_level(clean) / rms * 10 ** (-snr / 20))


# ---------------------------------------------------------------- spectrograms


def stft(x: Tensor) -> Tensor:
    """Waveforms (..., n) -> complex spectrograms (..., 256, 1 + n // 128): periodic Hann windows centred on every 128th sample."""
    flat = x.reshape(-1, x.shape[-1])
    window = torch.hann_window(WINDOW, device=x.device, dtype=x.dtype)
    return torch.stft(flat, WINDOW, HOP, window=window, return_complex=True).reshape(*x.shape[:-1], 256, -1)


def istft(c: Tensor, length: int) -> Tensor:
    """Complex spectrograms (..., 256, frames) -> waveforms (..., length)."""
    window = torch.hann_window(WINDOW, device=c.device, dtype=c.real.dtype)
    return torch.istft(c.reshape(-1, *c.shape[-2:]), WINDOW, HOP, window=window, length=length).reshape(*c.shape[:-2], length)


def compress(c: Tensor) -> Tensor:
    """beta |c|^a e^(i angle c), a = .5, beta = .15: quiet parts come nearer to loud ones."""
    return torch.polar(SCALE * c.abs() ** EXPONENT, c.angle())


def decompress(c: Tensor) -> Tensor:
    """What `compress` undoes: (|c| / beta)^(1 / a) e^(i angle c)."""
    return torch.polar((c.abs() / SCALE) ** (1 / EXPONENT), c.angle())


# ---------------------------------------------------------------- measures


def si_sdr(estimate: NDArray, clean: NDArray) -> float:
    """Scale-invariant signal-to-distortion ratio, dB (Le Roux et al. 2019): 10 log10 |a s|^2 / |a s - e|^2, a = <e, s> / |s|^2."""
    estimate, clean = _pair(estimate, clean)
    target = (estimate @ clean) / (clean @ clean) * clean
    return float(10 * np.log10((target @ target) / np.square(target - estimate).sum()))


def estoi(estimate: NDArray, clean: NDArray) -> float:
    """Extended short-time objective intelligibility (Jensen & Taal 2016), up to 1; by pystoi."""
    from pystoi import stoi

    estimate, clean = _pair(estimate, clean)
    return float(stoi(clean, estimate, RATE, extended=True))


def pesq(estimate: NDArray, clean: NDArray) -> float:
    """Wide-band PESQ (ITU-T P.862.2), 1.04 to 4.64; by the package pesq."""
    from pesq import pesq as itu

    estimate, clean = _pair(estimate, clean)
    return float(itu(RATE, clean, estimate, "wb"))


def log_spectral_distance(estimate: NDArray, clean: NDArray) -> float:
    """Root mean square over frequencies, averaged over frames, of the difference of log power spectra in dB; smaller is better."""
    powers = [stft(torch.as_tensor(x)).abs().square().clamp_min(1e-10).log10() * 10 for x in _pair(estimate, clean)]
    return float((powers[0] - powers[1]).square().mean(0).sqrt().mean())


MEASURES = {"PESQ": pesq, "ESTOI": estoi, "SI-SDR (dB)": si_sdr}


def aligned(estimate: NDArray, clean: NDArray, most: int = MOST_DELAY) -> NDArray:
    """An estimate (n,) moved by the delay, `most` samples at most, at which it correlates best with the clean waveform (n,)."""
    estimate, clean = _pair(estimate, clean)
    middle = len(clean) - 1
    delay = int(np.argmax(correlate(estimate, clean)[middle - most : middle + most + 1])) - most
    moved = np.zeros_like(estimate)
    if delay >= 0:
        moved[: len(moved) - delay] = estimate[delay:]
    else:
        moved[-delay:] = estimate[:delay]
    return moved


def _pair(estimate: NDArray, clean: NDArray) -> tuple[NDArray, NDArray]:
    estimate, clean = finite("estimate", estimate, 1), finite("clean", clean, 1)
    if estimate.shape != clean.shape:
        raise ValueError(f"estimate must have the shape of clean, {clean.shape}, not {estimate.shape}")
    return estimate, clean


# ---------------------------------------------------------------- enhancers without training, and a bound


def noise_power(c: NDArray, smoothing: float = 0.85, span: int = 100, bias: float = 2.3) -> NDArray:
    """Minimum statistics (Martin 2001, simplified): the noise power (f, frames) of a spectrogram (f, frames).

    The smoothed power's minimum over `span` frames around each one: speech pauses within less than a second. A minimum lies below
    the mean, which `bias` makes up for: 2.3 is right for stationary noise.
    """
    power = np.abs(c) ** 2
    smooth = lfilter([1 - smoothing], [1, -smoothing], power, axis=1, zi=smoothing * power[:, :1])[0]
    return bias * minimum_filter1d(smooth, span, axis=1, mode="nearest")


def ideal_ratio_mask(clean: NDArray, noisy: NDArray) -> NDArray:
    """What a mask on the noisy spectrogram can do at best, told the clean one: sqrt(|s|^2 / (|s|^2 + |n|^2)); waveforms (n,)."""
    s, y = (stft(torch.as_tensor(x)) for x in _pair(clean, noisy))
    mask = (s.abs().square() / (s.abs().square() + (y - s).abs().square()).clamp_min(1e-12)).sqrt()
    return istft(y * mask, len(noisy)).numpy()


def wiener(y: NDArray, floor: float = 0.1, smoothing: float = 0.9) -> NDArray:
    """A Wiener filter on minimum statistics, with the decision-directed SNR of Ephraim & Malah (1984): waveform (n,) -> (n,)."""
    c = stft(torch.as_tensor(finite("y", y, 1)))
    spectrum = c.numpy()
    noise = noise_power(spectrum) + 1e-12
    posterior = np.abs(spectrum) ** 2 / noise
    gains, before = np.empty_like(posterior), np.ones(len(posterior))
    for t, now in enumerate(posterior.T):
        prior = smoothing * before + (1 - smoothing) * np.maximum(now - 1, 0)
        gains[:, t] = np.maximum(prior / (1 + prior), floor)
        before = gains[:, t] ** 2 * now
    return istft(c * torch.as_tensor(gains), len(y)).numpy()
