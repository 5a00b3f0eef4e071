import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from replications.labels.noisy_pretraining import method
from shared import seeding


def normal(*shape: int, stream: str = "") -> torch.Tensor:
    return torch.randn(*shape, generator=seeding.torch_rng(0, stream))


# ---------------------------------------------------------------- pictures


def test_pixels_are_scaled_and_their_axes_moved():
    images = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    images[1, 4, 5] = torch.tensor([255, 0, 51])
    out = method.pixels(images)
    assert out.shape == (2, 3, 32, 32)
    assert torch.allclose(out[1, :, 4, 5], torch.tensor([1.0, -1.0, -0.6]))


@pytest.mark.parametrize("images", [torch.zeros(2, 32, 32, 3), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)])
def test_pixels_refuses_other_images(images):
    with pytest.raises(ValueError, match="images"):
        method.pixels(images)


def test_turned_is_rot90_of_each():
    images, turns = normal(5, 3, 32, 32), torch.tensor([0, 1, 2, 3, 1])
    for image, k, out in zip(images, turns, method.turned(images, turns), strict=True):
        assert np.array_equal(np.rot90(image.numpy(), int(k), (1, 2)), out)


def test_shifts_of_a_known_picture():
    image = torch.full((1, 3, 32, 32), -0.5)
    image[..., 16:] = 0.5  # one upright edge
    out = method.shifted(image)
    assert len(out) == 5 and all(shown.shape == image.shape and shown.abs().max() <= 1 for shown in out.values())
    assert torch.allclose(out["low contrast"], 0.3 * image) and torch.equal(out["inverted"], -image)
    # a box of 5 around columns 13 to 18: none of it bright, 1 of 5, ... all
    assert torch.allclose(out["blur"][0, 0, 8, 13:19], torch.tensor([-0.5, -0.3, -0.1, 0.1, 0.3, 0.5]), atol=1e-6)
    assert torch.equal(out["coarse pixels"], image)
    assert torch.equal(out["sketch"][0, 0, 8, 13:19], torch.tensor([1.0, 1, -1, -1, 1, 1]))
    flat = method.shifted(torch.full((1, 3, 32, 32), 0.2))
    assert torch.allclose(flat["sketch"], torch.ones(1)) and torch.allclose(flat["blur"], torch.full((1,), 0.2))
    fine = normal(1, 3, 32, 32)
    assert torch.allclose(method.shifted(fine)["coarse pixels"][0, 1, 4:8, 8:12], fine[0, 1, 4:8, 8:12].mean())


def test_sketch_draws_edges_of_either_direction():
    image = torch.zeros(1, 3, 32, 32)
    image[:, :, 16:] = 1
    assert torch.equal(method.shifted(image)["sketch"][0, 0, 14:18, 8], torch.tensor([1.0, -1, -1, 1]))


# ---------------------------------------------------------------- pre-training


def small_set(n: int = 24):
    return normal(n, 3, 32, 32).clamp(-1, 1), torch.arange(n) % 4, torch.arange(n)[None] % 5


FITTED = {"epochs": 2, "batch": 8, "lr": 0.05}


def test_only_labels_differ_between_arms():
    images, turns, labels = small_set()
    arms = torch.cat([labels, labels, (labels + 1) % 5])
    nets, losses = method.pretrain(images, turns, arms, 5, seeding.torch_rng(0, "p"), **FITTED)
    alone, loss = method.pretrain(images, turns, labels, 5, seeding.torch_rng(0, "p"), **FITTED)
    assert losses.shape == (6, 3) and torch.equal(losses[:, :1], loss)
    weights = [torch.cat([p.flatten() for p in net.parameters()]) for net in (*nets, *alone)]
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[3]) and not torch.equal(weights[0], weights[2])
    assert not nets[0].training and nets[0][0](images).shape == (24, method.FEATURES)


def test_pretraining_is_torchs_own_sgd_on_mirrored_then_turned_images():
    images, turns, labels = small_set()
    rng = seeding.torch_rng(0, "p")
    net = nn.Sequential(method.Backbone(rng), nn.Linear(method.FEATURES, 5))
    nn.init.kaiming_normal_(net[1].weight, generator=rng)
    nn.init.zeros_(net[1].bias)
    weights = list(net.parameters())
    speed = [torch.zeros_like(p) for p in weights]
    orders, step, expected = [torch.randperm(24, generator=rng) for _ in range(2)], 0, []
    for order in orders:
        for rows in order.split(8):
            mirror = torch.rand(8, generator=rng) < 0.5
            shown = torch.stack(
                [torch.rot90(torch.fliplr(x.permute(1, 2, 0)).permute(2, 0, 1) if m else x, int(k), (1, 2))
                 for x, m, k in zip(images[rows], mirror, turns[rows], strict=True)]
            )  # fmt: skip
            loss = -net(shown).log_softmax(1)[torch.arange(8), labels[0, rows]].mean()
            expected.append(loss.item())
            rate = 0.05 * (1 + np.cos(np.pi * step / 6)) / 2
            for p, v, g in zip(weights, speed, torch.autograd.grad(loss, weights), strict=True):
                g = g + 5e-4 * p.detach()
                v.mul_(0.9).add_(g)
                p.data -= rate * (g + 0.9 * v)  # Nesterov
            step += 1
    (trained,), losses = method.pretrain(images, turns, labels, 5, seeding.torch_rng(0, "p"), **FITTED)
    assert np.allclose(losses[:, 0], expected, atol=1e-4)
    for p, q in zip(weights, trained.parameters(), strict=True):
        assert torch.allclose(p, q, atol=2e-3)


def test_pretraining_stops_on_its_way():
    images, turns, labels = small_set()
    _, whole = method.pretrain(images, turns, labels, 5, seeding.torch_rng(0, "p"), **FITTED)
    _, part = method.pretrain(images, turns, labels, 5, seeding.torch_rng(0, "p"), stop_after=2, **FITTED)
    assert torch.equal(whole[:2], part)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"turns": torch.zeros(3)}, "turns"), ({"labels": torch.zeros(1, 3)}, "labels"), ({"batch": 25}, "batch"),
     ({"labels": torch.full((1, 24), 5)}, "labels")],
)  # fmt: skip
def test_pretraining_refuses(change, message):
    images, turns, labels = small_set()
    given = {"turns": turns, "labels": labels, "batch": 8} | change
    with pytest.raises(ValueError, match=message):
        method.pretrain(images, given["turns"], given["labels"], 5, seeding.torch_rng(0), epochs=1, batch=given["batch"], lr=0.1)


# ---------------------------------------------------------------- spectrum


def test_spectrum_centres_rows():
    f = normal(9, 5)
    unit = f.numpy() / np.linalg.norm(f.numpy(), axis=1)[:, None]
    assert np.allclose(method.spectrum(f), np.linalg.svd(unit - unit.mean(1)[:, None], compute_uv=False), atol=1e-6)
    assert np.allclose(method.spectrum(7 * f), method.spectrum(f), atol=1e-6)


def test_entropy_and_ratio_by_hand():
    s = torch.tensor([2.0, 1.0, 1.0])
    assert method.sve(s) == pytest.approx(1.5 * np.log(2)) and method.lsvr(s) == pytest.approx(np.log(2))
    assert method.sve(torch.ones(6)) == pytest.approx(np.log(6)) == pytest.approx(method.lsvr(torch.ones(6)))


@pytest.mark.parametrize("features", [torch.zeros(3, 2), torch.full((3, 2), torch.nan), torch.ones(4), torch.ones(0, 3)])
def test_spectrum_refuses(features):
    with pytest.raises(ValueError, match="features"):
        method.spectrum(features)


@pytest.mark.parametrize("values", [torch.tensor([1.0, -0.1]), torch.zeros(3), torch.tensor([torch.nan])])
def test_shares_refuse(values):
    for read in (method.sve, method.lsvr):
        with pytest.raises(ValueError, match="values"):
            read(values)


# ---------------------------------------------------------------- heads


def torchs_own(probe: method.Probe, i: int) -> nn.ModuleDict:
    """The i-th head of a stack, of torch's own layers."""

    def linear(weight, bias):
        layer = nn.Linear(*weight.shape[1:])
        layer.weight.data, layer.bias.data = weight[i].T.clone(), bias[i, 0].clone()
        return layer

    parts = {"head": linear(probe.weight.data, probe.bias.data)}
    if probe.hidden:
        mlp = nn.Sequential(
            linear(probe.weight_in.data, probe.bias_in.data), nn.BatchNorm1d(probe.hidden, dtype=torch.double), nn.ReLU(),
            linear(probe.weight_out.data, probe.bias_out.data),
        )  # fmt: skip
        parts["mlp"] = mlp
    return nn.ModuleDict(parts)


@pytest.mark.parametrize("hidden", [0, 12])
@pytest.mark.parametrize("penalty", [None, method.regularisers])
def test_stacked_heads_are_torchs_own_one_by_one(hidden, penalty):
    f, y = normal(2, 40, 6).double(), torch.stack([torch.arange(40) % 3, torch.arange(40) // 14])
    probe = method.Probe(
        2, 6, 3, seeding.torch_rng(0, "head"), hidden=hidden
    ).double()  # in floats Adam makes steps of rounding errors
    own = [torchs_own(probe, i) for i in range(2)]
    scales = [nn.Parameter(torch.ones(6, dtype=torch.double)) for _ in range(2)]
    method.fit(probe, f, y, seeding.torch_rng(0, "rows"), penalty, epochs=3, batch=16, lr=0.02)
    rng = seeding.torch_rng(0, "rows")
    orders = [torch.randperm(40, generator=rng)[:32].split(16) for _ in range(3)]
    for i, (parts, scale) in enumerate(zip(own, scales, strict=True)):
        optimiser = torch.optim.AdamW([*parts.parameters(), *([scale] if hidden else [])], 0.02, weight_decay=1e-4)
        for step, rows in enumerate(rows for order in orders for rows in order):
            optimiser.param_groups[0]["lr"] = 0.02 * (1 + np.cos(np.pi * step / 6)) / 2
            x = f[i, rows]
            z = x + scale * parts["mlp"](x) if hidden else x
            loss = functional.cross_entropy(parts["head"](z), y[i, rows])
            if penalty is not None:
                loss = loss + penalty(z[None], x[None])[0]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        parts.eval()
        z = f[i] + scale * parts["mlp"](f[i]) if hidden else f[i]
        assert torch.allclose(probe(f)[1][i], parts["head"](z), atol=1e-6)
    share = (probe(f)[1].argmax(2) == y).double().mean(1)
    assert torch.allclose(method.accuracy(probe, f, y).double(), share)


def test_heads_of_a_stack_start_equal():
    probe = method.Probe(3, 4, 2, seeding.torch_rng(0), hidden=8)
    assert all((p == p[:1]).all() for name, p in probe.named_parameters() if "norm" not in name)


def test_consistency_by_hand():
    z, f = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]]), torch.tensor([[[5.0, 0.0], [0.0, 1.0]]])
    assert method.consistency(z, f).item() == pytest.approx(((0.6 - 1) ** 2 + 0.8**2) / 4)
    given = f.clone().requires_grad_()
    assert not method.consistency(z, given).requires_grad


def test_covariance_against_torch():
    z = normal(2, 30, 5)
    for one, got in zip(z, method.covariance(z), strict=True):
        c = torch.cov(one.T)
        assert got.item() == pytest.approx(((c**2).sum() - (c.diagonal() ** 2).sum()).item() / 5, rel=1e-5)


def test_dominance_against_numpy_and_its_slope():
    z = normal(2, 12, 8).double()
    for one, got in zip(z, method.dominance(z), strict=True):
        s = np.linalg.svd(one.numpy(), compute_uv=False)
        assert got.item() == pytest.approx(s[:5].mean() / s.sum())
    assert torch.autograd.gradcheck(method.dominance, z.requires_grad_())


def test_weights_of_the_terms():
    z, f = normal(2, 12, 8), normal(2, 12, 8, stream="f")
    parts = method.consistency(z, f) + 0.04 * method.covariance(z) - 0.001 * method.dominance(z)
    assert torch.allclose(method.regularisers(z, f), parts)


def test_whitened_features_have_unit_covariance():
    f = normal(2, 200, 6) @ normal(6, 6, stream="mix") + 3
    white = method.whitener(f)(f)
    for one in white:
        assert torch.allclose(torch.cov(one.T), torch.eye(6), atol=1e-3) and one.mean(0).abs().max() < 1e-4
    other = normal(2, 3, 6, stream="other")
    assert torch.allclose(method.whitener(f)(torch.cat([f, other], 1))[:, -3:], method.whitener(f)(other), atol=1e-4)


@pytest.mark.parametrize(
    ("features", "labels", "batch", "message"),
    [(torch.full((1, 4, 2), torch.nan), torch.zeros(1, 4), 2, "features"), (torch.ones(4, 2), torch.zeros(4), 2, "features"),
     (torch.ones(1, 4, 2), torch.zeros(4), 2, "labels"), (torch.ones(1, 4, 2), torch.zeros(1, 4), 5, "batch")],
)  # fmt: skip
def test_fit_refuses(features, labels, batch, message):
    with pytest.raises(ValueError, match=message):
        method.fit(
            method.Probe(1, 2, 2, seeding.torch_rng(0)),
            features,
            labels.long(),
            seeding.torch_rng(0),
            epochs=1,
            batch=batch,
            lr=0.1,
        )
