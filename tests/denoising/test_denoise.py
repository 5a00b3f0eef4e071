"""The denoising bench: its images, noises, measures, rows and the losses that train its network."""

import hashlib

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch.nn import functional

from shared import denoise, seeding
from shared.data import DataError, ai_benchmark, nam


def normal(*shape: int, stream: str = "") -> torch.Tensor:
    return torch.randn(*shape, generator=seeding.torch_rng(0, stream))


# ---------------------------------------------------------------- images and noise


@pytest.fixture(scope="module")
def held_out():
    try:
        return {part: ai_benchmark.load(part) for part in ("validation", "test")}
    except DataError as error:
        pytest.skip(str(error))


def test_parts_are_other_photographs(held_out):
    hashes = {part: {hashlib.sha256(x.tobytes()).hexdigest() for x in photographs} for part, photographs in held_out.items()}
    assert len(hashes["validation"]) == len(hashes["test"]) == ai_benchmark.HELD_OUT
    assert not hashes["validation"] & hashes["test"]
    assert all(x.dtype == np.uint8 and x.shape[2] == 3 and min(x.shape[:2]) >= 350 for x in held_out["test"])


def test_unknown_part():
    with pytest.raises(ValueError, match="part"):
        ai_benchmark.load("all")


def test_images_are_centres_of_halved_photographs(held_out):
    x, photograph = denoise.images("test"), held_out["test"][4]
    assert x.shape == (30, 3, 128, 128)
    (h, w), r, c = (np.array(photograph.shape[:2]) // 2), 10, 20
    top, left = 2 * ((h - 128) // 2 + r), 2 * ((w - 128) // 2 + c)
    assert x[4, 1, r, c].item() == pytest.approx(photograph[top : top + 2, left : left + 2, 1].mean() / 255, abs=1e-6)


def test_noise_is_the_same_for_every_method(held_out):
    y = denoise.noisy("test", "corr20k3")
    noise = y - denoise.images("test")
    again = denoise.draw((3, 128, 128), denoise.NOISES["corr20k3"], seeding.torch_rng(2, "bench test corr20k3"))
    assert torch.allclose(noise[2], again, atol=1e-6)
    assert y.min() < 0 and y.max() > 1  # not clipped


@pytest.mark.parametrize("box", [1, 2, 3])
def test_noise_has_its_sd_and_the_box_correlation(box):
    n = denoise.draw((3, 300, 300), denoise.Noise(0.1, box), seeding.torch_rng(0))
    assert n.shape == (3, 300, 300) and n.std().item() == pytest.approx(0.1, rel=0.02)
    for lag in range(1, 4):
        expected = max(box - lag, 0) / box
        for a, b in ((n[:, lag:], n[:, :-lag]), (n[..., lag:], n[..., :-lag])):
            assert (a * b).mean().item() / 0.01 == pytest.approx(expected, abs=0.02)
    assert abs((n[0] * n[1]).mean().item()) < 2e-4  # colours are independent


# ---------------------------------------------------------------- measures


def test_psnr_by_hand():
    clean = torch.zeros(2, 3, 4, 4)
    estimate = torch.stack([torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), 3.0)])  # the second is clipped to 1
    assert denoise.psnr(estimate, clean).tolist() == pytest.approx([20.0, 0.0])


def test_psnr_is_scikit_images():
    clean = torch.rand(2, 3, 40, 32, generator=seeding.torch_rng(0))
    estimate = clean + 0.1 * normal(2, 3, 40, 32)
    for x, y, found in zip(estimate.clamp(0, 1).numpy(), clean.numpy(), denoise.psnr(estimate, clean), strict=True):
        assert found.item() == pytest.approx(peak_signal_noise_ratio(y, x, data_range=1), abs=1e-4)


def test_ssim_of_one_window_is_the_formula():
    x, y = torch.rand(2, 1, 3, 7, 7, generator=seeding.torch_rng(0)).double()
    total = 0.0
    for a, b in zip(x[0].flatten(1).numpy(), y[0].flatten(1).numpy(), strict=True):
        cov = np.cov(a, b)
        total += (2 * a.mean() * b.mean() + 1e-4) * (2 * cov[0, 1] + 9e-4)  / (
            (a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (cov[0, 0] + cov[1, 1] + 9e-4)
        )  # fmt: skip
    assert denoise.ssim(x, y).item() == pytest.approx(total / 3, abs=1e-6)
    assert denoise.ssim(x, x).item() == pytest.approx(1)


@pytest.mark.parametrize("estimate", [torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 9), torch.full((1, 3, 8, 8), torch.nan)])
def test_measures_refuse(estimate):
    for measure in (denoise.psnr, denoise.ssim):
        with pytest.raises(ValueError, match="estimate"):
            measure(estimate, torch.zeros(1, 3, 8, 8))


# ---------------------------------------------------------------- rows


def test_one_decorated_function_is_one_more_row(held_out, monkeypatch):
    monkeypatch.setattr(denoise, "DENOISERS", dict(denoise.DENOISERS))

    @denoise.denoiser("half")
    def half(y, noise):
        return y / 2

    table = denoise.score(["noisy input", "half"], "white20")
    assert len(table) == 60 and list(table.columns) == ["method", "image", "psnr", "ssim"]
    direct = denoise.psnr(denoise.noisy("test", "white20") / 2, denoise.images("test"))
    assert np.allclose(table[table["method"] == "half"]["psnr"], direct)
    with pytest.raises(ValueError, match="half"):
        denoise.denoiser("half")(half)
    with pytest.raises(KeyError):
        denoise.score(["quarter"], "white20")


def test_blur_helps_on_white_noise(held_out):
    table = denoise.score(["noisy input", "Gaussian blur"], "white20").groupby("method")["psnr"].mean()
    assert table["Gaussian blur"] > table["noisy input"] + 2


# ---------------------------------------------------------------- the network and its losses


def test_network_starts_at_the_identity_and_keeps_colours():
    net = denoise.Net(seeding.torch_rng(0))
    y = torch.rand(2, 3, 12, 16, generator=seeding.torch_rng(0))
    assert torch.equal(net(y), y)
    for p in net.parameters():
        p.data += 0.05 * normal(*p.shape)
    assert not torch.allclose(net(y), y)
    assert torch.allclose(net(y + 0.3), net(y) + 0.3, atol=1e-5)  # a colour cast changes nothing else


def test_training_is_adam_with_a_cosine():
    y, target = normal(3, 2, 3, 8, 8).double(), normal(3, 2, 3, 8, 8, stream="t").double()
    net, own = (denoise.Net(seeding.torch_rng(0)).double() for _ in range(2))
    losses = denoise.train(net, zip(y, target, strict=True), denoise.to_target, 0.01)
    optimiser, expected = torch.optim.Adam(own.parameters()), []
    for step, (a, b) in enumerate(zip(y, target, strict=True)):
        optimiser.param_groups[0]["lr"] = 0.01 * (1 + np.cos(np.pi * step / 3)) / 2
        loss = (own(a) - b).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        expected.append(loss.item())
    assert np.allclose(losses, expected)
    part = denoise.train(
        denoise.Net(seeding.torch_rng(0)).double(), zip(y, target, strict=True), denoise.to_target, 0.01, stop_after=2
    )
    assert np.allclose(part, expected[:2])


class Recorder(torch.nn.Module):
    """Remembers what it was shown and returns a fixed multiple."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor, self.shown = factor, []

    def forward(self, y):
        self.shown.append(y)
        return self.factor * y


def test_noise2void_hides_pixels_and_asks_for_them():
    y, net = normal(4, 3, 40, 40), Recorder(0.0)
    loss = denoise.noise2void(net, y, seeding.torch_rng(1), share=0.1)
    chosen = torch.rand(4, 1, 40, 40, generator=seeding.torch_rng(1)) < 0.1
    assert torch.equal((net.shown[0] != y)[..., 2:-2, 2:-2], chosen[..., 2:-2, 2:-2].expand(-1, 3, -1, -1))
    assert chosen.float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert loss.item() == pytest.approx((y.square() * chosen).sum().item() / (3 * chosen.sum().item()), rel=1e-4)
    padded = functional.pad(y, (2, 2, 2, 2), mode="reflect")
    seen = set()
    for i, _, r, c in chosen.nonzero().tolist():
        window = padded[i, :, r : r + 5, c : c + 5]
        places = (window == net.shown[0][i, :, r, c][:, None, None]).all(0).nonzero().tolist()
        assert places  # some neighbour's whole colour
        seen |= {tuple(place) for place in places if len(places) == 1}
    assert len(seen) == 24 and (2, 2) not in seen


def test_a_blind_spot_net_cannot_copy():
    y = normal(2, 3, 32, 32)
    assert denoise.noise2void(Recorder(1.0), y, seeding.torch_rng(0)) > 1  # independent noise: 2 on average


def test_neighbor2neighbor_pairs_and_terms():
    y, net = torch.arange(2 * 3 * 32 * 32.0).reshape(2, 3, 32, 32), Recorder(0.5)
    loss = denoise.neighbor2neighbor(net, y, seeding.torch_rng(1), gamma=2.0)
    whole, first = net.shown
    assert torch.equal(whole, y) and first.shape == (2, 3, 16, 16)
    base = y[:, :, ::2, ::2]
    place = (first - base).long()  # 0, 1, 32 or 33: where in its 2 x 2 cell a pixel was taken
    assert set(place.unique().tolist()) == {0, 1, 32, 33}
    assert (place == place[:, :1]).all()  # the same place for every colour
    rng = seeding.torch_rng(1)
    pairs = torch.tensor([[0, 1], [0, 2], [1, 0], [1, 3], [2, 0], [2, 3], [3, 1], [3, 2]])
    which = pairs[torch.randint(8, (2, 16, 16), generator=rng)]
    second = base + torch.tensor([0.0, 1, 32, 33])[which[..., 1]][:, None]
    moved = (second - first).abs()
    assert set(moved.unique().tolist()) == {1.0, 32.0}  # never the pixel itself, never across
    plain = 0.5 * first - second
    expected = plain.square().mean() + 2 * (plain - 0.5 * (first - second)).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_real_camera_noise():
    try:
        noisy, clean = nam.load()
    except DataError as error:
        pytest.skip(str(error))
    assert noisy.shape == clean.shape == (25, 512, 512, 3) and noisy.dtype == clean.dtype == np.uint8
    assert 1 < np.abs(noisy.astype(float) - clean).mean() < 5
