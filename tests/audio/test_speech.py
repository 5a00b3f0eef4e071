"""The speech bench: waveforms, spectrograms, measures, mixtures and rows. What needs the recordings skips without them."""

import importlib.util

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.io import wavfile
from scipy.signal import ShortTimeFFT, get_window

from shared import seeding, speech
from shared import speech_bench as bench
from shared.data import DataError, ambiences, natural_sounds, rhyme_words, voicebank_demand


def wave(seed: int = 0, seconds: float = 1.0) -> np.ndarray:
    """Noise in syllables, which has pauses as speech has."""
    n = round(seconds * speech.RATE)
    syllables = np.clip(np.sin(2 * np.pi * 3 * np.arange(n) / speech.RATE), 0, 1)
    return 0.1 * syllables * seeding.rng(seed, "wave").standard_normal(n)


def needs(load):
    """Skips a test where the recordings are not installed."""
    try:
        load()
    except DataError as error:
        pytest.skip(str(error))


# ---------------------------------------------------------------- waveforms


def test_reading_resamples_with_a_filter(tmp_path):
    """A tone of 1 kHz keeps its height; one of 15 kHz, which slicing would fold to 1 kHz, is gone."""
    time = np.arange(48_000) / 48_000
    for hertz, height in ((1000, 0.5), (15_000, 0.0)):
        samples = np.round(0.5 * np.sin(2 * np.pi * hertz * time) * 32767).astype(np.int16)
        wavfile.write(tmp_path / "a.wav", 48_000, np.stack([samples, 0 * samples], 1))
        x = speech.read(tmp_path / "a.wav")
        assert x.dtype == np.float32 and len(x) == 16_000
        assert np.abs(x[1000:-1000]).max() == pytest.approx(height, abs=0.01)


def test_active_level_leaves_pauses_out():
    tone = np.sin(2 * np.pi * 500 * np.arange(4800) / speech.RATE)
    assert speech.active_level(np.concatenate([tone, np.zeros(9600)])) == pytest.approx(0.5**0.5, rel=1e-3)
    assert speech.active_level(np.concatenate([tone, 0.1 * tone])) < 0.6  # 20 dB down still counts
    with pytest.raises(ValueError, match="silent"):
        speech.active_level(np.zeros(4800))


def test_mix_has_the_snr():
    clean, noise = wave(), seeding.rng(1).standard_normal(16_000)
    added = speech.mix(clean, noise, 7.5) - clean
    assert 20 * np.log10(speech.active_level(clean) / added.std()) == pytest.approx(7.5, abs=0.01)
    with pytest.raises(ValueError, match="noise"):
        speech.mix(clean, noise[:-1], 0)
    with pytest.raises(ValueError, match="silent"):
        speech.mix(clean, 0 * noise, 0)


# ---------------------------------------------------------------- spectrograms


def test_stft_is_scipys():
    x = wave()
    mine = speech.stft(torch.as_tensor(x)).numpy()
    theirs = ShortTimeFFT(get_window("hann", 510), 128, speech.RATE, fft_mode="onesided", phase_shift=0)
    padded = np.pad(x, 255, mode="reflect")
    wanted = np.stack([np.fft.rfft(padded[k : k + 510] * theirs.win) for k in range(0, len(padded) - 509, 128)], 1)
    assert mine.shape == (256, 126) and np.allclose(mine, wanted, atol=1e-10)
    inside = theirs.stft(x)[:, 4:100]
    at = next(k for k in range(10) if np.allclose(np.abs(inside[:, 0]), np.abs(mine[:, k]), atol=1e-8))
    assert np.allclose(np.abs(inside), np.abs(mine[:, at : at + 96]), atol=1e-8)


def test_round_trips():
    x = torch.as_tensor(np.stack([wave(0), wave(1)]))
    c = speech.stft(x)
    assert torch.allclose(speech.istft(c, 16_000), x, atol=1e-10)
    assert (speech.decompress(speech.compress(c)) - c).abs().max() < 1e-10
    assert speech.compress(torch.tensor([4j]))[0] == pytest.approx(0.3j)  # .15 sqrt(4)


# ---------------------------------------------------------------- measures


def test_si_sdr_in_closed_form_and_blind_to_scale():
    clean, error = np.array([1.0, 1, 0, 0]), np.array([0, 0, 0.1, 0.1])
    assert speech.si_sdr(clean + error, clean) == pytest.approx(20)
    assert speech.si_sdr(5 * (clean + error), clean) == pytest.approx(20)
    with pytest.raises(ValueError, match="shape"):
        speech.si_sdr(clean[:3], clean)


def test_measures_rank_a_cleaner_waveform_higher():
    pytest.importorskip("pesq", reason="pesq is not installed: make installs it")
    pytest.importorskip("pystoi", reason="pystoi is not installed: make installs it")
    clean = wave(seconds=2)
    noise = seeding.rng(2).standard_normal(len(clean))
    for measure in speech.MEASURES.values():
        near, far = (measure(speech.mix(clean, noise, snr), clean) for snr in (20, 0))
        assert near > far
    assert speech.pesq(clean, clean) == pytest.approx(4.64, abs=0.01) and speech.estoi(clean, clean) == pytest.approx(1, abs=0.01)


def test_log_spectral_distance_of_a_louder_copy():
    x = seeding.rng(0).standard_normal(16_000)
    assert speech.log_spectral_distance(2 * x, x) == pytest.approx(20 * np.log10(2))


@pytest.mark.parametrize("delay", [0, 37, -120])
def test_alignment_undoes_a_delay(delay):
    clean = np.pad(wave(), 400)
    assert np.allclose(speech.aligned(np.roll(clean, delay), clean), clean)


def test_alignment_goes_no_further_than_20_ms():
    clean = np.pad(wave(), 800)
    late = np.roll(clean, 400)
    assert not np.allclose(speech.aligned(late, clean), clean)


# ---------------------------------------------------------------- enhancers without training


def test_minimum_statistics_find_stationary_noise_under_speech():
    noise = 0.01 * seeding.rng(3).standard_normal(48_000)
    speaking = np.where(np.arange(48_000) // 6_000 % 2 == 0, wave(4, 3), 0)
    c = speech.stft(torch.as_tensor(np.stack([noise, noise + speaking]))).numpy()
    alone, under = (speech.noise_power(x)[5:250].mean() for x in c)
    true, loud = (np.square(np.abs(x))[5:250].mean() for x in c)
    assert alone == pytest.approx(true, rel=0.1) and under == pytest.approx(true, rel=0.6) and loud > 5 * true


def test_wiener_gains_on_stationary_noise_and_leaves_clean_speech():
    time = np.arange(32_000) / speech.RATE
    clean = 0.1 * sum(np.sin(2 * np.pi * 200 * k * time) for k in range(1, 9)) * (time % 1 < 0.5)  # a buzz, every other half second
    noisy = speech.mix(clean, seeding.rng(6).standard_normal(len(clean)), 0)
    assert speech.si_sdr(speech.wiener(noisy), clean) > speech.si_sdr(noisy, clean) + 3
    ideal = speech.ideal_ratio_mask(clean, noisy)
    assert speech.si_sdr(ideal, clean) > speech.si_sdr(speech.wiener(noisy), clean)
    assert np.allclose(speech.ideal_ratio_mask(clean, clean), clean, atol=1e-6)


# ---------------------------------------------------------------- the bench


def test_a_room_rings_as_long_as_it_says():
    response = bench.room(3)
    assert response[0] == 1 and (response[1:32] == 0).all() and 0.4 * speech.RATE <= len(response) <= speech.RATE
    direct, rest = 1, np.square(response[1:]).sum()
    assert -5 <= 10 * np.log10(direct / rest) <= 3
    energy = np.cumsum(np.square(response[::-1]))[::-1]
    early, late = energy[round(0.1 * len(energy))], energy[round(0.6 * len(energy))]
    assert 10 * np.log10(early / late) == pytest.approx(30, abs=4)  # half of the time, half of 60 dB
    assert np.allclose(bench.reverberant(np.eye(1, 20_000)[0], response)[: len(response)], response)


def test_the_manifest_is_what_is_drawn():
    needs(natural_sounds.paths)
    pd.testing.assert_frame_equal(bench.draw_manifest(), pd.read_csv(bench.MANIFEST, keep_default_na=False))


def test_nothing_of_the_test_is_heard_in_training():
    needs(natural_sounds.paths)
    for kinds in (bench.words, bench.sounds):
        parts = [set(kinds(split)) for split in ("train", "validation", "test")]
        assert sum(map(len, parts)) == len(set.union(*parts))
    for split in ("validation", "test"):
        a, b = bench.manifest(split, "A"), bench.manifest(split, "B")
        said = " ".join(a["words"]).split()
        assert len(said) == len(set(said)) and set(said) == set(bench.words(split))
        assert set(a["noise"]) <= set(bench.sounds(split)) and a["noise"].is_unique
        assert set(b["noise"]) == set(ambiences.NOISES) and not set(a["talker"]) & set(b["talker"])
        assert (a["words"] == b["words"]).all() and (a["snr"] == b["snr"]).all()
    assert len(bench.words("train")) == 240 and len(bench.sounds("train")) == 107


def test_mixtures_are_made_of_their_rows():
    """Of a source that is a ramp for speech and white noise for noise."""

    def source(name):
        if name.startswith("speech"):
            return np.linspace(0.1, 1, 30_000, dtype=np.float32)
        return seeding.rng(0, name).standard_normal(32_000).astype(np.float32)

    for row in bench.manifest("test", "A").head(4).itertuples():
        clean, noisy = bench.mixture(row, source)
        assert len(clean) == len(noisy) == bench.SAMPLES
        assert 20 * np.log10(speech.active_level(clean) / (noisy - clean).std()) == pytest.approx(row.snr, abs=0.01)
        assert clean[-1] == pytest.approx(1)
        half, silent = bench.SAMPLES // 2, (bench.SAMPLES // 2 - bench.WORD) if row.cut else bench.SAMPLES - 30_000
        assert (clean[:silent] == 0).all() and (clean[half - 1] == pytest.approx(1)) == row.cut
    row = next(bench.manifest("test", "C").itertuples())
    clean, reverberant = bench.mixture(row, source)
    assert np.allclose(reverberant, bench.reverberant(clean, bench.room(row.room)))


def test_packaged_recordings_load():
    needs(natural_sounds.paths), needs(ambiences.paths), needs(lambda: rhyme_words.path("F1", "b1_w1"))
    pair = bench.mixtures("validation", "B")[0]
    assert pair.clean.shape == pair.noisy.shape == (bench.SAMPLES,) and np.abs(pair.clean).max() > 0.05
    assert np.abs(bench.packaged("room/classroom")).max() > 0.05
    assert set(natural_sounds.SPEECH) <= set(natural_sounds.paths())
    with pytest.raises(ValueError, match="talker"):
        rhyme_words.path("F2", "b1_w1")


def test_a_row_is_a_decorated_function_and_names_are_taken_once():
    with pytest.raises(ValueError, match="noisy"):
        bench.enhancer("noisy")(lambda y: y)
    assert bench.ENHANCERS["noisy"](wave()).shape == (16_000,)


def test_the_papers_own_pairs_load():
    needs(lambda: voicebank_demand.pairs("voicebank-demand-sample"))
    pairs = voicebank_demand.pairs("voicebank-demand-sample")
    assert len(pairs) == 6
    clean, noisy = (speech.read(path) for path in pairs[0])
    assert clean.shape == noisy.shape and 0 < speech.si_sdr(noisy, clean) < 30


# ---------------------------------------------------------------- peers


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed: make installs it")
def test_peers_enhance_without_delay():
    from shared import speech_peers

    needs(speech_peers.DTLN[0].path), needs(speech_peers.LIBRARY.path), needs(natural_sounds.paths)
    clean, noisy = bench.mixtures("validation", "A")[0]
    for name in ("DTLN", "DeepFilterNet3"):
        made = bench.ENHANCERS[name](noisy)
        assert made.shape == noisy.shape and np.allclose(speech.aligned(made, clean), made)
        assert speech.si_sdr(made, clean) > speech.si_sdr(noisy, clean) + 5
    assert 1 < speech_peers.dnsmos(noisy) < speech_peers.dnsmos(clean) < 5
