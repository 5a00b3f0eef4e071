import numpy as np
import pytest
import torch

from replications.denoising.patch_craft import method
from shared import denoise, seeding

WHITE = denoise.Noise(0.1, 1)


def normal(*shape: int, stream: str = "") -> torch.Tensor:
    return torch.randn(*shape, generator=seeding.torch_rng(0, stream))


# ---------------------------------------------------------------- bursts


def scene(h: int = 130, w: int = 150, seed: int = 0) -> np.ndarray:
    return seeding.rng(seed, "scene").integers(256, size=(h, w, 3)).astype(np.uint8)


def shot(motion: int = 3, other=None, noise=WHITE, **sizes) -> method.Burst:
    given = {"frames": 5, "side": 40, "inset": 10, "fastest": 6} | sizes
    return method.burst(scene(), other, noise, motion, seeding.rng(1), seeding.torch_rng(1), **given)


def test_frames_are_halved_windows_of_the_photograph():
    clean, photograph = shot(3).clean, scene() / 255
    means = (photograph[1:, 1:] + photograph[:-1, 1:] + photograph[1:, :-1] + photograph[:-1, :-1]) / 4
    corners = []
    for frame in clean:
        first, last = (np.isclose(means, colour, atol=1e-5).all(2) for colour in (frame[:, 0, 0], frame[:, -1, -1]))
        corners.append(np.argwhere(first[:-78, :-78] & last[78:, 78:])[0])
    steps = np.array(corners) - corners[2]
    assert np.abs(steps).max() <= 6 and (steps % 2).any()  # up to 3 pixels, in halves
    assert len({tuple(s) for s in steps}) > 2


def test_burst_without_motion_is_one_picture_and_its_noise():
    still = shot(0, noise=denoise.Noise(0.1, 3))
    assert torch.equal(still.clean[0], still.clean[4])
    n, second = still.noisy - still.clean, still.second - still.clean[2]
    assert n.std().item() == pytest.approx(0.1, rel=0.1) and second.std().item() == pytest.approx(0.1, rel=0.1)
    together = torch.stack([*n, second]).flatten(1)
    assert (torch.corrcoef(together) - torch.eye(6)).abs().max() < 0.15


def test_a_piece_flies_past():
    plain, flown = shot(0).clean, shot(0, other=np.full((60, 60, 3), 255, np.uint8)).clean
    covered = (flown - plain).abs().sum(1) > 0  # (t, h, w)
    assert covered[2].sum() >= 81 and flown[2][:, covered[2]].min() > 0.4
    centres = torch.stack([c.nonzero().double().mean(0) for c in covered if c.sum() == covered[2].sum()])
    assert len(centres) >= 3
    steps = centres.diff(dim=0)
    assert torch.allclose(steps, steps.mean(0), atol=1.01) and 0.5 < steps[0].norm() < 6.5


@pytest.mark.parametrize(
    ("change", "message"), [({"frames": 4}, "frames"), ({"frames": 1}, "frames"), ({"side": 70}, "photograph")]
)
def test_burst_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        shot(3, **change)


def test_a_piece_is_cut_off_at_the_border():
    frame, piece = np.zeros((4, 5, 3)), np.arange(9.0).reshape(3, 3, 1) + np.ones(3)
    method._paste(frame, piece, -1, 3)
    expected = np.zeros((4, 5))
    expected[:2, 3:] = [[4, 5], [7, 8]]
    assert (frame[..., 0] == expected).all()
    method._paste(frame, piece, 9, 9)
    assert (frame[..., 0] == expected).all()


# ---------------------------------------------------------------- matching and crafting


def by_hand(frames: np.ndarray, patch: int, search: int):
    """Matches by comparing every patch with every candidate, in the same order."""
    margin = patch - 1
    padded = np.pad(frames, ((0, 0), (0, 0), (margin,) * 2, (margin,) * 2), mode="reflect")
    beyond = np.pad(padded, ((0, 0), (0, 0), (search,) * 2, (search,) * 2), constant_values=-1)
    h, w = padded.shape[2] - margin, padded.shape[3] - margin
    found, middle = np.zeros((h, w, 3), int), len(frames) // 2
    for i in range(h):
        for j in range(w):
            least = np.inf
            for t in [t for t in range(len(frames)) if t != middle]:
                for d in range(-search, search + 1):
                    for r in range(-search, search + 1):
                        y, x = i + d + search, j + r + search
                        a, b = beyond[t, :, y : y + patch, x : x + patch], padded[middle, :, i : i + patch, j : j + patch]
                        distance = ((a - b) ** 2).sum()
                        if distance < least - 1e-6:
                            least, found[i, j] = distance, (t, d, r)
    return found, padded


def test_matching_is_the_search_by_hand():
    frames = torch.rand(3, 3, 9, 8, generator=seeding.torch_rng(0))
    found, (expected, padded) = method.match(frames, 3, 2), by_hand(frames.numpy(), 3, 2)
    assert found.shape == expected.shape == (11, 10, 3) and set(found[..., 0].flat) == {0, 2}
    beyond = np.pad(padded, ((0, 0), (0, 0), (2, 2), (2, 2)), constant_values=-1)

    def distances(matches):  # reflected patches tie, so that what must agree is how far a match is
        return [
            ((beyond[t, :, i + d + 2 : i + d + 5, j + r + 2 : j + r + 5] - padded[1, :, i : i + 3, j : j + 3]) ** 2).sum()
            for (i, j), (t, d, r) in zip(np.ndindex(11, 10), matches.reshape(-1, 3), strict=True)
        ]

    assert np.allclose(distances(found), distances(expected), atol=1e-5)


def test_crafting_lays_matched_patches_side_by_side():
    frames = torch.rand(3, 3, 11, 10, generator=seeding.torch_rng(0))
    found, padded = by_hand(frames.numpy(), 4, 1)
    for offset in ((0, 0), (1, 3), (2, 1)):
        out = np.full(padded.shape[1:], np.nan)
        starts = [[s for s in range(found.shape[k]) if (s - o - 3) % 4 == 0] for k, o in enumerate(offset)]
        for i in starts[0]:
            for j in starts[1]:
                t, d, r = found[i, j]
                if i + d >= 0 and i + d + 4 <= padded.shape[2] and j + r >= 0 and j + r + 4 <= padded.shape[3]:
                    out[:, i : i + 4, j : j + 4] = padded[t, :, i + d : i + d + 4, j + r : j + r + 4]
        made = method.craft(frames, method.match(frames, 4, 1), 4, offset)
        assert np.array_equal(made, out[:, 3:-3, 3:-3])


def test_shifted_frames_without_noise_give_the_frame_back():
    whole = torch.rand(3, 40, 40, generator=seeding.torch_rng(0))
    frames = torch.stack([whole[:, 4 + d : 34 + d, 4 + r : 34 + r] for d, r in ((-2, 1), (0, 0), (3, -3))])
    found = method.match(frames, 5, 3)
    assert torch.equal(method.craft(frames, found, 5, (2, 3))[:, 8:-8, 8:-8], frames[1][:, 8:-8, 8:-8])
    t, d, r = found[15, 15]
    assert (t, d, r) in ((0, 2, -1), (2, -3, 3))


def test_crafted_noise_leaks_less_from_larger_patches():
    n = 0.1 * normal(3, 3, 48, 48)
    leaks = []
    for patch in (1, 3, 11):
        made = method.craft(n, method.match(n, patch, 2), patch, (0, 0))
        leaks.append(np.corrcoef(n[1].flatten(), made.flatten())[0, 1])
        assert made.std().item() == pytest.approx(0.1, rel=0.12)  # as noisy as a frame: nothing was averaged
    assert leaks[0] > 0.7 > leaks[1] > 0.25 > leaks[2] > -0.05, leaks


@pytest.mark.parametrize(
    ("frames", "patch", "search", "message"),
    [(torch.zeros(4, 3, 8, 8), 3, 1, "frames"), (torch.full((3, 3, 8, 8), torch.nan), 3, 1, "frames"),
     (torch.zeros(3, 8, 8), 3, 1, "frames"),
     (torch.zeros(3, 3, 8, 8), 9, 1, "patch"), (torch.zeros(3, 3, 8, 8), 3, -1, "search")],
)  # fmt: skip
def test_match_refuses(frames, patch, search, message):
    with pytest.raises(ValueError, match=message):
        method.match(frames, patch, search)


def test_craft_refuses():
    frames = torch.zeros(3, 3, 8, 8)
    with pytest.raises(ValueError, match="matches"):
        method.craft(frames, np.zeros((8, 8, 3), int), 3, (0, 0))
    with pytest.raises(ValueError, match="offset"):
        method.craft(frames, np.zeros((10, 10, 3), int), 3, (0, 3))


# ---------------------------------------------------------------- tiles


def test_places_of_tiles():
    assert method.places(10, 4, 3).tolist() == [[r, c] for r in (0, 3, 6) for c in (0, 3, 6)]


def test_statistics_against_numpy():
    y, target = normal(4, 3, 6, 6), normal(4, 3, 6, 6, stream="t") + 0.3
    covariance, mean = method.statistics(y, target)
    for i in range(4):
        z = (target[i] - y[i]).flatten().numpy()
        assert covariance[i] == pytest.approx(np.cov(z, y[i].flatten().numpy(), bias=True)[0, 1], abs=1e-6)
        assert mean[i] == pytest.approx(z.mean(), abs=1e-6)


def test_independent_noise_has_minus_its_variance():
    x = torch.rand(20, 3, 1, 1, generator=seeding.torch_rng(0)).expand(20, 3, 40, 40)
    covariance, _ = method.statistics(x + 0.1 * normal(20, 3, 40, 40), x + 0.1 * normal(20, 3, 40, 40, stream="e"))
    assert covariance.mean() == pytest.approx(-0.01, rel=0.02)


def test_least_covariance_by_hand():
    # bins of width 1, centres -9.5 ... 0.5; the peak's is -2.5; above it a moment of 2 * 1 + 1 * 3 = 5
    values = np.repeat([-9.99, -6.5, -4.5, -3.5, -2.5, -1.5, 0.99], [1, 1, 1, 2, 5, 2, 1])
    # down from the peak: 2 at -3.5, 4 at -4.5, 8 at -6.5
    assert method.least_covariance(values, 11) == pytest.approx(-6.5, abs=0.02)
    assert method.least_covariance(-values, 11) == -np.inf


def test_selection_by_hand():
    covariance = np.repeat([-9.99, -6.5, -4.5, -3.5, -2.5, -1.5, 0.99], [1, 1, 1, 2, 5, 2, 1])
    mean = np.zeros(13)
    mean[[0, 4, 12]] = 100, 1, 0.1  # the first is dropped before means are looked at
    kept = method.select(covariance, mean, 11, deviations=2.0)
    assert kept.tolist() == [False, False, True, True, False, *[True] * 8]
    assert method.select(covariance, mean, 11, deviations=4.0)[4]
