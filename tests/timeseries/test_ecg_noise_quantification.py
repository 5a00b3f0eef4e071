"""Diffusion-based ECG noise quantification: against closed forms, diffusers' sampler, scipy's filters and plain loops."""

import hashlib
import inspect
import json

import numpy as np
import pytest
import torch
from scipy.signal import welch
from torch.nn import functional as F

from replications.timeseries.ecg_noise_quantification import method
from replications.timeseries.ecg_noise_quantification.weights import train
from shared.data import DataError, from_mirror, mitbih, physionet

RATE, LENGTH = 360, 3600


def sine(hz: float, amplitude: float = 1.0) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * hz * np.arange(LENGTH) / RATE)[None]


def test_scalogram_of_sines_has_known_power():
    for row in (3, 15, 31):
        hz = method.FREQUENCIES[row]
        s = method.scalogram(np.concatenate([sine(hz), sine(hz, 0.1), sine(hz, 0.1) + 5]), RATE)
        assert s.shape == (3, 32, 72)
        np.testing.assert_allclose(s[0, 31 - row, 10:-10], 0, atol=0.02)
        np.testing.assert_allclose(s[1, 31 - row, 10:-10], -2, atol=0.02)
        if row:  # a constant does not count, but for the lowest rows
            np.testing.assert_allclose(s[2, 31 - row, 10:-10], -2, atol=0.05)
    # one row off, the power is that of the Gaussian: sd 5 f / (2 pi c)
    f, c = method.FREQUENCIES[16], method.CYCLES[16]
    off = (f - method.FREQUENCIES[15]) * 2 * np.pi * c / (5 * f)
    s = method.scalogram(sine(method.FREQUENCIES[15]), RATE)
    np.testing.assert_allclose(s[0, 31 - 16, 10:-10], 2 * np.log10(np.exp(-(off**2) / 2)), atol=0.02)


def test_scalogram_is_a_convolution_with_gaussian_wavelets():
    rng = np.random.default_rng(0)
    x = rng.normal(size=LENGTH)
    padded = np.pad(x, LENGTH // 5, "reflect")
    for row in (8, 25):
        f, c = method.FREQUENCIES[row], method.CYCLES[row]
        sd = c / (5 * f)  # seconds
        at = np.arange(-round(6 * sd * RATE), round(6 * sd * RATE) + 1) / RATE
        wavelet = 2 * np.exp(-(at**2) / (2 * sd**2)) / (sd * np.sqrt(2 * np.pi)) * np.exp(2j * np.pi * f * at) / RATE
        power = np.abs(np.convolve(padded, wavelet, "same")[LENGTH // 5 : -LENGTH // 5]) ** 2
        expected = np.log10([power[50 * k + 24 : 50 * k + 26].mean() for k in range(72)])
        np.testing.assert_allclose(method.scalogram(x[None], RATE)[0, 31 - row], expected, atol=2e-3)


def test_bytes_and_units():
    np.testing.assert_array_equal(
        method.to_bytes(np.array([-9, -8, -4, -8 + 8 * 0.4 / 255, -8 + 8 * 0.6 / 255, 0, 2])), [0, 0, 128, 0, 1, 255, 255]
    )
    every = np.arange(2304).reshape(1, 32, 72).astype(np.uint8)
    x = method.to_unit(every)
    assert x.shape == (1, 1, 32, 72) and x.min() == -1 and x.max() == 1
    np.testing.assert_array_equal(method.from_unit(x), every)
    np.testing.assert_array_equal(method.from_unit(torch.full((1, 1, 1, 2), 1.7)), [[[255, 255]]])
    assert method.to_unit(np.zeros((3, 2, 32, 72), np.uint8)).shape == (6, 1, 32, 72)


def test_noise_has_the_asked_power_band_and_place():
    rng = np.random.default_rng(1)
    for kind in method.KINDS:
        x = method.noise(kind, 40, LENGTH, RATE, rng)
        np.testing.assert_allclose((x**2).mean(1), 1)
        hz, power = welch(x, RATE, nperseg=720)
        power = power.mean(0) / power.mean(0).sum()
        low, high = {"baseline": (0, 2), "static": (7, 101), "burst": (0, 42)}[kind]
        assert power[(hz >= low) & (hz <= high)].sum() > 0.99
        if kind == "static":  # white: flat within the band
            assert np.ptp(power[(hz > 12) & (hz < 96)]) < 0.3 * power[(hz > 12) & (hz < 96)].mean()
        if kind == "burst":
            lit = np.abs(x) > 0
            assert (np.array([np.ptp(np.flatnonzero(row)) for row in lit]) <= 2 * RATE).all()
            middles = np.array([np.flatnonzero(row).mean() for row in lit])
            assert np.ptp(middles) > RATE * 4 and (lit.sum(1) > 1.98 * RATE).all()
            window = np.sqrt((np.stack([row[np.flatnonzero(row)[0] :][:719] for row in x]) ** 2).mean(0))
            expected = np.cos(np.pi / 2 * np.linspace(-1, 1, 719)) ** 2
            assert np.corrcoef(window, expected)[0, 1] > 0.95
    assert np.abs(method.noise("baseline", 5, LENGTH, RATE, rng)).max() < 5
    x = rng.normal(size=(3, LENGTH)) * [[1], [2], [0.1]] + 3
    added = method.add_noise(x, "static", np.array([0, 10, -6]), RATE, rng) - x
    np.testing.assert_allclose(10 * np.log10(x.var(1) / (added**2).mean(1)), [0, 10, -6], atol=1e-6)


def test_partial_denoise_is_diffusers_ddim():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is the peer")
    torch.manual_seed(0)
    net, z, e = method.Denoiser(2).eval(), torch.randn(3, 2, 8, 18), torch.randn(3, 2, 8, 18)
    peer = diffusers.DDIMScheduler(1000, 1e-4, 0.02, "linear", clip_sample=False, set_alpha_to_one=True)
    np.testing.assert_allclose(method.alpha_bar(), peer.alphas_cumprod, rtol=1e-4)
    peer.set_timesteps(100)  # spacing 10: 990, ..., 10, 0
    seen = []
    zt = peer.add_noise(z, e, torch.tensor([30] * 3))
    with torch.inference_mode():
        for t in (30, 20, 10, 0):
            zt = peer.step(net(zt, torch.full((3,), t)), t, zt, eta=0.0).prev_sample
        mine = method.partial_denoise(lambda zt, t: seen.append(t.tolist()) or net(zt, t), z, e, 30, 10)
    np.testing.assert_allclose(mine, zt, atol=1e-5)
    assert seen == [[t] * 3 for t in (30, 20, 10, 0)]


def test_the_true_noise_gives_the_latent_back():
    a, (z, e) = method.alpha_bar(), torch.randn(2, 2, 1, 8, 18, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(a[[0, 1]], [1 - 1e-4, (1 - 1e-4) * (1 - 1e-4 - 0.0199 / 999)])
    for start, spacing in ((30, 10), (990, 110), (7, 3), (500, 501)):
        back = method.partial_denoise(
            lambda zt, t: (zt - a[int(t[0])] ** 0.5 * z) / (1 - a[int(t[0])]) ** 0.5, z, e, start, spacing
        )
        np.testing.assert_allclose(back, z, atol=1e-3)


def test_denoiser_layer_by_layer():
    torch.manual_seed(1)
    net, z, t = method.Denoiser(1, 4, (8, 12)), torch.randn(2, 1, 32, 72), torch.tensor([3, 700])
    for p in net.parameters():
        p.data.normal_(std=0.2)
    half = torch.exp(-np.log(1e4) * torch.arange(32) / 31)
    e = F.silu(net.time(torch.cat([torch.sin(t[:, None] * half), torch.cos(t[:, None] * half)], 1)))

    def residual(block, h):
        scale, shift = block.embed(e).reshape(2, 2, -1, 1, 1).unbind(1)
        r = block.conv1(F.silu(F.group_norm(h, 4, block.norm1.weight, block.norm1.bias)))
        return h + block.conv2(F.silu(F.group_norm(r, 4, block.norm2.weight, block.norm2.bias) * (1 + scale) + shift))

    patches = z.reshape(2, 8, 4, 18, 4).permute(0, 2, 4, 1, 3).reshape(2, 16, 8, 18)
    skip = residual(net.down, net.enter(patches))
    low = residual(net.middle, F.conv2d(skip, net.shrink.weight, net.shrink.bias, 2, 1))
    h = residual(net.up, net.grow(low.repeat_interleave(2, 2).repeat_interleave(2, 3)) + skip)
    out = net.leave(F.silu(net.norm(h))).reshape(2, 4, 4, 8, 18).permute(0, 3, 1, 4, 2).reshape(2, 1, 32, 72)
    torch.testing.assert_close(net(z, t), out, rtol=1e-4, atol=1e-4)


def test_autoencoder_scales_its_latents():
    torch.manual_seed(0)
    net, x = method.Autoencoder(), torch.randn(2, 1, 32, 72)
    z, back = net.encode(x), net.decode(net.encode(x))
    assert z.shape == (2, 2, 8, 18) and back.shape == x.shape
    net.scale.fill_(3.0)
    torch.testing.assert_close(net.encode(x), 3 * z)
    torch.testing.assert_close(net.decode(3 * z), back)
    torch.testing.assert_close(method.reconstruction_loss(net, x, torch.Generator()), ((back - x) ** 2).mean())


def test_noise_loss_by_hand():
    z, seen = torch.randn(500, 1, 2, 2, generator=torch.Generator().manual_seed(3)), {}

    def net(zt, t):
        seen.update(zt=zt, t=t)
        return torch.zeros_like(zt)

    loss = method.noise_loss(net, z, torch.Generator().manual_seed(4))
    a = torch.as_tensor(method.alpha_bar(), dtype=torch.float32)[seen["t"]][:, None, None, None]
    e = (seen["zt"] - a.sqrt() * z) / (1 - a).sqrt()
    assert loss.item() == pytest.approx(e.square().mean().item(), rel=1e-3)
    assert abs(e.mean()) < 0.06 and abs(e.std() - 1) < 0.06 and seen["t"].min() < 15 and seen["t"].max() > 985


def test_fit_steps_average_and_stop():
    def pull(net, x, rng):
        return (net.weight.sum() - x.mean()).square()

    def go(stop=None):
        net = torch.nn.Linear(1, 1, bias=False)
        net.weight.data.zero_()
        losses = method.fit(net, torch.ones(10, 1), pull, 100, torch.Generator().manual_seed(0), rate=0.02, batch=4, stop=stop)
        return float(net.weight.detach()), torch.stack(losses)

    # by hand: AdamW of one number, rising rate, cosine, average
    w, m, v, average = 0.0, 0.0, 0.0, 0.0
    for i in range(100):
        g = 2 * (w - 1)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        rate = 0.02 * min(1, (i + 1) / 50) * (1 + np.cos(np.pi * i / 100)) / 2
        w = w * (1 - rate * 0.01) - rate * (m / (1 - 0.9 ** (i + 1))) / (np.sqrt(v / (1 - 0.999 ** (i + 1))) + 1e-8)
        keep = min(0.99, (1 + i) / (10 + i))
        average = keep * average + (1 - keep) * w
    weight, losses = go()
    assert weight == pytest.approx(average, rel=1e-4) and len(losses) == 100
    _, short = go(stop=7)
    torch.testing.assert_close(short, losses[:7])


def test_psnr_and_score():
    grey = np.full((2, 32, 72), 7, np.uint8)
    np.testing.assert_allclose(method.psnr(grey, grey + 1), 20 * np.log10(255))
    assert np.isinf(method.psnr(grey, grey)).all()
    np.testing.assert_allclose(method.psnr(np.zeros((1, 1, 4), np.uint8), np.uint8([[[255, 0, 0, 0]]])), 10 * np.log10(4))
    torch.manual_seed(0)
    nets, shown = (
        (method.Denoiser(2), method.Autoencoder()),
        np.random.default_rng(0).integers(256, size=(3, 32, 72)).astype(np.uint8),
    )
    two = method.score(*nets, shown, 30, 10, torch.Generator().manual_seed(1), 2)
    rng = torch.Generator().manual_seed(1)
    e = torch.randn(3, 2, 8, 18, generator=rng)
    with torch.inference_mode():
        z = method.partial_denoise(nets[0], nets[1].encode(method.to_unit(shown)), e, 30, 10)
        np.testing.assert_allclose(two[0], method.psnr(shown, method.from_unit(nets[1].decode(z))))
    assert two.shape == (2, 3) and (two[0] != two[1]).all()
    pixel = method.Denoiser(1, 4)
    cleaned = method.clean_up(pixel, None, shown, 30, 10, torch.Generator().manual_seed(1))
    e = torch.randn(3, 1, 32, 72, generator=torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(cleaned, method.from_unit(method.partial_denoise(pixel, method.to_unit(shown), e, 30, 10)))


def test_standardised_w1():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=40), rng.normal(1, 2, size=40)
    pooled = np.concatenate([x, y])
    by_hand = np.abs(np.sort(x) - np.sort(y)).mean() / np.sqrt(((pooled - pooled.mean()) ** 2).mean())
    assert method.standardised_w1(x, y) == pytest.approx(by_hand)
    assert method.standardised_w1(5 * x + 3, 5 * y + 3) == pytest.approx(by_hand)
    for n, m in ((1, 1), (1, 4), (3, 7)):
        p = n / (n + m)
        assert method.standardised_w1(np.zeros(n), np.ones(m)) == pytest.approx(1 / np.sqrt(p * (1 - p)))


def test_bad_input_is_named():
    x, rng = np.zeros((2, LENGTH)), np.random.default_rng(0)
    for call, name in (
        (lambda: method.scalogram(x[:, :-1], RATE), "x"),
        (lambda: method.scalogram(x, 80), "x"),
        (lambda: method.scalogram(x * np.nan, RATE), "x"),
        (lambda: method.noise("hum", 2, LENGTH, RATE, rng), "kind"),
        (lambda: method.add_noise(x, "static", np.zeros(3), RATE, rng), "snr"),
        (lambda: method.psnr(np.zeros((1, 2, 2)), np.zeros((2, 2, 2))), "other"),
        (lambda: method.standardised_w1(np.array([np.inf]), np.ones(2)), "clean"),
        (lambda: method.standardised_w1(np.ones(3), np.ones(2)), "clean and noisy"),
        (lambda: method.partial_denoise(None, torch.zeros(1), torch.zeros(1), 1000, 10), "start"),
    ):
        with pytest.raises(ValueError, match=name):
            call()


def test_blocks_never_meet_their_training_segments():
    for seed in (0, 1, *range(1000, 1006)):
        record, held = train.block(seed)
        known = train.training_segments(seed)
        assert len(held) == 30 and not set(held) & set(known[record])
        assert not any(set(train.NOISY[r]) & set(s) for r, s in known.items())
    seen = [(train.block(s)[0], i) for s in range(1000, 1006) for i in train.block(s)[1]]
    assert sorted(seen) == [(r, i) for r in ("100", "101") for i in range(90, 180)]
    tuning = [(r, i) for s in (0, 1) for r, part in train.training_segments(s).items() for i in part]
    assert not {*tuning, *((train.block(s)[0], i) for s in (0, 1) for i in train.block(s)[1])} & set(seen)


def test_training_pictures_are_those_of_the_training_segments(monkeypatch):
    few = {r: x[:4] for r, x in train.segments().items()}
    monkeypatch.setattr(train, "segments", lambda: few)
    monkeypatch.setattr(train, "training_segments", lambda seed: {"100": np.array([2, 0]), "101": np.array([3])})
    shown, known = train.training(train.clean_pictures.__wrapped__(), 0), train.training(few, 0)
    assert known.shape == (6, LENGTH) and (known[[1, 4]] == [few["100"][2, 1], few["101"][3, 0]]).all()
    np.testing.assert_array_equal(shown, train.pictures(known))


def test_secret_noise_hits_its_share_and_nothing_else():
    x = np.random.default_rng(0).normal(size=(50, LENGTH))
    noised, hit = train.secretly_noised(x, 3)
    assert hit.sum() == 10 and (noised[~hit] == x[~hit]).all() and (noised[hit] != x[hit]).any(1).all()
    snr = 10 * np.log10(x[hit].var(1) / ((noised - x)[hit] ** 2).mean(1))
    assert np.abs(snr[:, None] - np.array(train.SNR)).min(1).max() < 1e-6 and len(np.unique(snr.round())) > 2
    assert train.secretly_noised(x, 3, share=0.5, stream="other")[1].sum() == 25


def test_refine_keeps_what_both_scores_find_good(monkeypatch):
    scores = {30: np.array([1, 2, 3, 4.0]), 100: np.array([1, 4, 2, 3.0])}
    monkeypatch.setattr(method, "score", lambda d, a, found, t, spacing, rng, draws: np.stack([scores[t]] * draws))
    np.testing.assert_array_equal(train.refine({"latent": None, "autoencoder": None}, np.zeros(4), 0), [False, False, False, True])


def test_stored_networks_are_the_recorded_ones():
    folder = inspect.getfile(train).removesuffix("train.py")
    with open(folder + "provenance.json", encoding="utf-8") as file:
        record = json.load(file)
    for name, sha256 in record["files"].items():
        with open(folder + name, "rb") as file:
            assert hashlib.sha256(file.read()).hexdigest() == sha256
    assert record["steps"] == train.STEPS and len(record["networks"]) == 6 * 8 + 2


def test_records_and_their_events():
    for name, beats in (("100", 2273), ("101", 1865)):
        record = mitbih.load(name)
        assert record.signal.shape == (2, 650000) and np.isin(record.code, mitbih.BEATS).sum() == beats
        np.testing.assert_allclose(record.signal * 200, np.round(record.signal * 200), atol=1e-6)
        peak = record.at[np.isin(record.code, mitbih.BEATS)][10:1000]
        r = record.signal[0, peak[:, None] + np.arange(-40, 41)]
        assert np.median(np.abs(r.argmax(1) - 40)) <= 8  # a beat is labelled near its R wave: both leads and times are right
        assert len(train.segments()[name]) == 180
    noted = mitbih.load("101")
    assert set(noted.at[noted.code == mitbih.NOISE] // LENGTH) <= set(train.NOISY["101"])
    with pytest.raises(ValueError, match="name"):
        mitbih.load("102")


def write(folder, name, head, raw):
    (folder / f"{name}.hea").write_text(head, encoding="utf-8")
    np.asarray(raw).tofile(folder / f"{name}.dat")
    return folder / f"{name}.hea"


def test_physionet_formats(tmp_path):
    # PTB-XL's way: format 16, gain and baseline in one field
    head = "a 2 500 6000 \n# by us\na.dat 16 1000.0(0)/mV 16 0 -119 1508 0 I\na.dat 16 200.0(10)/mV 16 0 -55 723 0 AVR lead\n"
    raw = np.stack([np.arange(6000), np.arange(6000) + 10], 1).astype("<i2")
    header = write(tmp_path, "a", head, raw)
    signal, rate, names = physionet.read(header)
    np.testing.assert_allclose(signal, [np.arange(6000) / 1000, np.arange(6000) / 200])
    assert rate == 500 and names == ("I", "AVR lead")
    parts = physionet.segments(header, 10, 360)
    assert parts.shape == (1, 2, 3600)
    # 212: 0x123 and -2 in three bytes: 23 E1 FF -> low nibble of the shared byte belongs to the first sample
    head = "b 1 360/1 2\nb.dat 212 0 12 1 0 0 0 V\n"
    signal, rate, _ = physionet.read(write(tmp_path, "b", head, np.uint8([0x23, 0xF1, 0xFE])))
    np.testing.assert_allclose(signal, [[(0x123 - 1) / 200, (-2 - 1) / 200]])
    with pytest.raises(ValueError, match="shorter"):
        physionet.segments(tmp_path / "b.hea", 10, 360)
    with pytest.raises(ValueError, match="record c"):
        physionet.read(write(tmp_path, "c", "c 1 360 2\nc.dat 61 200 12 0 0 0 0 V\n", np.uint8([0])))


def test_the_papers_kind_of_files():
    try:
        folder = from_mirror("ecg-samples")
    except DataError as error:
        pytest.skip(str(error))
    signal, rate, names = physionet.read(folder / "100.hea")
    np.testing.assert_allclose(signal, mitbih.load("100").signal)
    assert (rate, names) == (360, ("MLII", "V5"))
    signal, rate, names = physionet.read(folder / "s0010_re.hea")
    assert signal.shape == (15, 38400) and rate == 1000 and names[0] == "i" and 0.05 < signal.std(1).min() < signal.std(1).max() < 1
    np.testing.assert_allclose(signal[0] + signal[2], signal[1], atol=0.02)  # Einthoven: I + III = II
