"""ContraLSP: networks against torch's, losses against plain loops, masks and measures in closed form, baselines on small models."""

from functools import partial
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch.nn.functional import conv1d

from replications.timeseries.contralsp import method
from shared import seeding
from shared.data import ucr


def rng(stream: str = ""):
    return seeding.torch_rng(7, stream)


@pytest.fixture
def x():
    return torch.randn(3, 6, 8, 2, generator=rng("x"))


# ---------------------------------------------------------------- networks


def test_gru_and_fill_are_torchs(x):
    p = method.gru_parameters(3, 2, 5, rng())
    fill = method.learned_fill(x, p)
    for s in range(3):
        gru = torch.nn.GRU(2, 5, batch_first=True, bidirectional=True)
        for direction, end in enumerate(("", "_reverse")):
            k = s + 3 * direction
            for name, key in {"weight_ih": "w_in", "weight_hh": "w_state", "bias_ih": "b_in", "bias_hh": "b_state"}.items():
                getattr(gru, f"{name}_l0{end}").data = (w.T if (w := p[key][k].detach().squeeze(0)).ndim == 2 else w).clone()
        states = gru(x[s])[0]
        assert torch.allclose(method.gru_states(x, p)[s], states, atol=1e-6)
        assert torch.allclose(fill[s], states @ p["w_out"][s] + p["b_out"][s], atol=1e-6)


def test_trend_sees_one_channel_of_one_series(x):
    p = method.trend_parameters(3, 2, 8, rng())
    out = method.trend(x, p)
    by_hand = torch.relu(x[1, 4, :, 1] @ p["w_down"][1, 1] + p["b_down"][1, 1]) @ p["w_up"][1, 1] + p["b_up"][1, 1]
    assert torch.allclose(out[1, 4, :, 1], by_hand[0], atol=1e-6)
    assert p["w_down"].abs().max() <= 8**-0.5 and p["w_down"].std().item() == pytest.approx((8 * 3) ** -0.5, rel=0.05)


# ---------------------------------------------------------------- terms of the loss


def test_gate_and_expected_open(x):
    v, slope = x[0], x[1]
    assert torch.allclose(method.gate(v, slope), v / (1 + torch.exp(-v * slope)), atol=1e-6)
    assert method.gate(v, None) is v
    assert method.expected_open(x, 0.5).numpy() == pytest.approx(
        np.vectorize(NormalDist().cdf)(x.numpy() / 0.5).mean((1, 2, 3)), abs=1e-6
    )
    opened = torch.rand(200_000, generator=rng()) < 0.5  # P(v + sigma e > 0) = Phi(v / sigma), by drawing
    assert ((0.2 + 0.5 * torch.randn(opened.shape, generator=rng())) > 0).float().mean().item() == pytest.approx(
        method.expected_open(torch.full((1, 1, 1, 1), 0.2), 0.5).item(), abs=0.005
    )


def test_losses_are_per_series(x):
    y = x.flip(1)
    assert method.squared_error(x, y)[2, 1].item() == pytest.approx(((x[2, 1] - y[2, 1]) ** 2).mean().item())
    logits, wanted = x[..., 0, :], y[..., 0, :]
    p, q = torch.softmax(wanted[1, 3], 0), torch.softmax(logits[1, 3], 0)
    assert method.cross_entropy(logits, wanted)[1, 3].item() == pytest.approx(-(p * q.log()).sum().item(), rel=1e-5)


def test_two_means_finds_two_groups():
    points = torch.randn(4, 20, 6, generator=rng())
    group = torch.rand(4, 20, generator=rng("group")) < 0.4
    points = points + 8 * group.unsqueeze(-1)
    member = method.two_means(points)
    for s in range(4):
        assert (member[s] == group[s]).all() or (member[s] != group[s]).all()

    line = torch.tensor([-10.0, 0, 0, 0, 0, 0, 1, 2, 6]).view(1, -1, 1)  # starts from -10 and 6
    assert method.two_means(line, rounds=1)[0].tolist() == [True] + 8 * [False]


def fills_in_two_groups(gap: float = 5.0):
    r = torch.randn(2, 13, 4, 2, generator=rng("r"))
    member = torch.arange(13).expand(2, 13) < 6
    return r + gap * member[..., None, None], member


def test_triplet_against_loops_and_its_sign():
    r, member = fills_in_two_groups()
    everyone = partial(method.triplet, r, member, margin=1.0)
    draws = torch.stack([everyone(seeding.torch_rng(k)) for k in range(100)]).mean(0)
    for s in range(2):
        total = 0.0
        for own in (member[s], ~member[s]):
            rows, others = r[s][own].flatten(1), r[s][~own].flatten(1)
            order = (rows - rows.mean(0)).norm(dim=1).argsort()
            count = len(rows) // 5 + 1
            plus = np.mean([(rows[order[0]] - rows[k]).abs().mean().item() for k in order[1 : count + 1]])
            minus = (others - rows[order[0]]).abs().mean().item()  # negatives are drawn: their mean over draws
            total += (minus - plus - 1) / 2
        assert draws[s].item() == pytest.approx(total, abs=0.08)
    assert not method.triplet(r, member, rng(), margin=50.0).any()
    wider = method.triplet(r, member, rng(), 0.0) - method.triplet(r, member, rng(), 1.0)
    assert torch.allclose(wider, torch.ones(2), atol=1e-5)


def test_only_distances_carry_the_triplets_gradient():
    r, member = fills_in_two_groups()
    moving = r.clone().requires_grad_()
    method.triplet(moving, member, rng()).sum().backward()
    assert moving.grad.abs().sum() > 0
    assert not method.triplet(moving.detach(), member, rng()).requires_grad  # the released code: no gradient at all
    step = moving.detach() - moving.grad  # downhill is towards the opposite group
    assert (method.triplet(step, member, rng()) < method.triplet(r, member, rng())).all()


def test_clusters_of_one_row_add_nothing():
    r, _ = fills_in_two_groups()
    alone = torch.arange(13).expand(2, 13) == 0
    rest = method.triplet(r, alone, rng())
    r2 = r.clone()
    r2[:, 0] += 100  # only as a negative of the others
    assert (method.triplet(r2, alone, rng()) - rest).numpy() == pytest.approx(50, abs=3)


def test_few_is_a_fifth_and_one_and_at_most_fifty():
    score, everyone = torch.arange(400.0).view(1, -1), torch.ones(1, 400, dtype=torch.bool)
    assert method._first_few(score, everyone).sum() == 50
    few = method._first_few(score, everyone & (score < 12), skip=1)
    assert few.nonzero()[:, 1].tolist() == [1, 2, 3]


# ---------------------------------------------------------------- explanations


def one_cell(x, t=3, c=1):
    return 3 * x[..., t, c].unsqueeze(-1)


def weak(x):
    return 0.5 * x[..., 1]


@pytest.mark.parametrize("arm", ["released", "contrastive", "extremal", "zero_fill"])
def test_the_one_cell_that_matters_is_found(x, arm):
    e = getattr(method, arm)(one_cell, x, rng(), size=1.0, steps=60)
    wanted = torch.zeros(8, 2)
    wanted[3, 1] = 1
    clear = x[..., 3, 1].abs() > 0.5  # for smaller values the fill is as good
    assert (e.mask[clear] - wanted).abs().mean() < 0.06
    assert e.mask[clear][:, 3, 1].mean() > 0.85
    assert e.mask.min() >= 0 and e.mask.max() <= 1
    assert (e.fill == 0).all() == (arm == "zero_fill")
    assert bool(e.hinge.any()) == (arm == "contrastive")


def test_zero_fill_without_noise_keeps_nothing_when_nothing_matters(x):
    e = method.zero_fill(lambda z: z.new_zeros(*z.shape[:2], 1), x, rng(), trends="none", noisy=False, steps=40)
    assert (e.mask == 0).all()


def test_studies_do_not_touch_each_other(x):
    e = method.released(one_cell, x, rng(), trends="none", fill="zero", noisy=False, steps=15)
    alone = method.released(one_cell, x[1:2], rng(), trends="none", fill="zero", noisy=False, steps=15)
    assert torch.allclose(e.mask[1:2], alone.mask, atol=1e-5)
    weights = torch.tensor([0.01, 0.1, 3.0])
    e = method.extremal(weak, x, rng(), sparsity=weights, steps=60)
    assert e.mask[2].mean() < e.mask[0].mean()


def test_weights_reach_what_they_weigh(x):
    small, large = (method.extremal(one_cell, x, rng(), size=w, sparsity=0.0, steps=40).fill.abs().mean() for w in (0.01, 3.0))
    assert large < 0.7 * small
    tight, loose = (method.released(weak, x, rng(), sparsity=w, size=1.0, steps=40).mask.mean() for w in (3.0, 0.01))
    assert tight < loose - 0.05


@pytest.mark.parametrize("sigma", [0.2, 0.5])
def test_what_the_model_sees_first(sigma):
    """Ones, of which noisy gates min(1, 1 + sigma e) leave 1 - sigma / sqrt(2 pi) on average (and none below 0), and zeros."""
    seen = []
    ones = torch.ones(1, 50, 40, 10)
    method.zero_fill(lambda z: seen.append(z) or z[..., 0], ones, rng(), trends="none", sigma=sigma, steps=1)
    wanted, first = seen
    assert (wanted == 1).all()
    assert first.mean().item() == pytest.approx(1 - sigma / (2 * np.pi) ** 0.5, abs=0.01)
    assert first.min() >= 0 and first.max() <= 1


def test_the_triplet_term_moves_the_fill(x):
    quiet = {"trends": "none", "noisy": False, "steps": 10}  # nothing else is drawn after the first weights
    fills = [method.explain(one_cell, x, rng(), contrast=c, **quiet).fill for c in ("none", "clusters")]
    assert (fills[0] - fills[1]).abs().max() > 1e-3
    far = method.explain(one_cell, x, rng(), contrast="clusters", margin=50.0, **quiet)
    assert torch.equal(far.fill, fills[0]) and not far.hinge.any()


def test_first_step_in_closed_form():
    """One step of Adam moves each number by its rate; gates start at 1, extremal masks at 1/2, and closing costs nothing here."""
    x = torch.ones(1, 2, 4, 1)
    still = {"fill": "zero", "trends": "none", "noisy": False, "steps": 1}
    nothing = lambda z: z.new_zeros(1, 2, 1)  # noqa: E731
    assert method.explain(nothing, x, rng(), **still).mask.numpy() == pytest.approx(0.9, abs=1e-4)
    assert method.extremal(nothing, x, rng(), fill="zero", steps=1).mask.numpy() == pytest.approx(0.4, abs=1e-4)


def test_the_gates_size_is_that_without_noise():
    e = method.zero_fill(lambda z: z.new_zeros(1, 6, 1), torch.ones(1, 6, 8, 2), rng(), trends="none", steps=5)
    assert e.mask.std() < 1e-6 < e.mask.min()  # noise would move cells apart, by a model that does not care


def test_extremal_opens_again_what_it_closed_too_far():
    """The size is that of the mask before clipping: Adam overshoots zero and comes back."""
    x = torch.ones(1, 2, 4, 1)
    after = lambda steps: method.extremal(lambda z: z.new_zeros(1, 2, 1), x, rng(), fill="zero", steps=steps).mask  # noqa: E731
    assert (after(10) == 0).all() and (after(19) > 0.05).all()


def test_shuffled_times_are_the_same_values(x):
    mixed = method._shuffled(x, rng())
    assert torch.equal(mixed.sort(2).values, x.sort(2).values)
    order = [(x[0, n, :, 0].unsqueeze(1) == mixed[0, n, :, 0]).int().argmax(0).tolist() for n in range(6)]
    assert len({tuple(o) for o in order}) > 3  # each series its own
    member = method._clusters(torch.cat([x, x + 9], dim=1), "permuted", rng())
    kept = method._clusters(torch.cat([x, x + 9], dim=1), "clusters", rng())
    assert torch.equal(member.sum(1), kept.sum(1)) and not torch.equal(member, kept)


def test_the_trend_network_is_shown_what_it_is_said_to_see(x):
    quiet = {"fill": "zero", "noisy": False, "steps": 5}  # the shuffle is drawn after the first weights
    masks = [method.explain(weak, x, rng(), trends=trends, **quiet).mask for trends in ("series", "shuffled")]
    assert (masks[0] - masks[1]).abs().max() > 0.05


def test_bad_input_is_named(x):
    with pytest.raises(ValueError, match="x must be finite"):
        method.explain(one_cell, x * torch.nan, rng())
    with pytest.raises(ValueError, match="x must be finite"):
        method.occlusion(one_cell, x[0])
    with pytest.raises(ValueError, match="sigma must be positive"):
        method.explain(one_cell, x, rng(), sigma=0)
    with pytest.raises(ValueError, match="areas must lie"):
        method.dynamask(one_cell, x, [])
    with pytest.raises(ValueError, match="y must hold"):
        method.fit_classifier(x, torch.full((3, 6), 2), rng())
    with pytest.raises(ValueError, match="too wide"):
        method.fit_classifier(x, torch.ones(3, 6), rng(), width=5)
    with pytest.raises(ValueError, match="share"):
        method.top_cells(x, 0.01, rng())
    with pytest.raises(ValueError, match="few must be"):
        method.rare("rare time", 4, 8, 4, 4, np.random.default_rng(0))
    with pytest.raises(ValueError, match="setting must be"):
        method.rare("often", 4, 8, 4, 2, np.random.default_rng(0))
    with pytest.raises(ValueError, match="kind must be"):
        method.plant(np.zeros((2, 8)), np.array([0, 1]), "hump", 1, 2)
    with pytest.raises(ValueError, match="lie inside"):
        method.plant(np.zeros((2, 8)), np.array([0, 1]), "gap", 7, 2)
    with pytest.raises(ValueError, match="no cell"):
        method.area_precision_recall(np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match="mask must lie"):
        method.area_precision_recall(np.full(3, 2.0), np.ones(3))


# ---------------------------------------------------------------- baselines


def test_blur_is_a_normalised_gaussian(x):
    assert torch.allclose(method.blurred(torch.ones(1, 1, 9, 1)), torch.ones(1, 1, 9, 1))
    w = np.exp(-((np.arange(8) - 2.0) ** 2) / (2 * 2.0**2))
    assert method.blurred(x)[1, 3, 2, 1].item() == pytest.approx((w / w.sum()) @ x[1, 3, :, 1].numpy(), abs=1e-5)


def test_dynamask_keeps_its_area_and_the_cells_that_matter(x):
    box = lambda z: 3 * z[..., 2:4, 1]  # noqa: E731
    mask = method.dynamask(box, x, [0.125], steps=100)
    assert mask.mean().item() == pytest.approx(0.125, abs=0.02)
    assert mask[..., 2:4, 1].mean() > 0.9
    crowded = method.dynamask(lambda z: z[..., 1], x, [0.125], steps=100)  # half of the cells matter: area wins in the end
    assert crowded.mean().item() < 0.3
    both = method.dynamask(box, x, [0.0625, 0.125], steps=100)  # a smaller area leaves one of the two out
    assert (both.mean((2, 3)) > 0.1).float().mean() > 0.8


def test_occlusion_and_integrated_gradients_of_a_square(x):
    score = lambda z: (z[..., 4, 0] * z[..., 5, 1]) + z[..., 1, 1] ** 2  # noqa: E731
    occlusion, path = method.occlusion(score, x), method.integrated_gradients(score, x)
    product, square = (x[..., 4, 0] * x[..., 5, 1]).abs(), x[..., 1, 1] ** 2
    assert torch.allclose(occlusion[..., 4, 0], product, atol=1e-5) and torch.allclose(occlusion[..., 1, 1], square, atol=1e-5)
    assert torch.allclose(path[..., 4, 0], product / 2, atol=1e-5) and torch.allclose(path[..., 1, 1], square, atol=1e-4)
    assert not occlusion[..., 0, 0].any() and not path[..., 0, 0].any()
    brought = method.scaled(path)
    assert torch.allclose(brought.flatten(2).max(2).values, torch.ones(3, 6)) and brought.min() == 0


# ---------------------------------------------------------------- white boxes, classifiers, what is planted


@pytest.mark.parametrize(("setting", "cells"), [("rare time", 3 * 5), ("rare feature", 3 * 6), ("two groups", 3 * 6)])
def test_rare_settings(setting, cells):
    _, salient, summed = method.rare(setting, 8, 12, 10, 3, np.random.default_rng(0))
    assert (salient.sum((1, 2)) == cells).all()
    times = [np.flatnonzero(s.any(1)).tolist() for s in salient]
    assert times[0] == list(range(times[0][0], times[0][-1] + 1))
    if setting == "rare time":
        assert len(times[0]) == 3 and np.flatnonzero(salient[0].any(0)).tolist() == list(range(2, 7))
    if setting == "rare feature":
        assert times[0] == list(range(3, 9))
    if setting == "two groups":
        assert times[0] == list(range(6)) and times[-1] == list(range(3, 9)) and summed.tolist() == [True] * 4 + [False] * 4
    else:
        assert (salient == salient[0]).all() and not summed.any()


def test_series_follow_the_recursion():
    x, *_ = method.rare("rare time", 4000, 12, 4, 1, np.random.default_rng(0))
    e = x[:, 3:] + 0.25 * x[:, 2:-1] + 0.1 * x[:, 1:-2] + 0.05 * x[:, :-3]
    assert e.std() == pytest.approx(1, abs=0.01)
    for lag in (1, 2, 3):  # fresh noise knows nothing of the past
        assert abs(np.corrcoef(e[:, 3:].ravel(), x[:, 6 - lag : -lag].ravel())[0, 1]) < 0.01


def test_white_box(x):
    salient = torch.zeros_like(x)
    salient[..., 2:5, :] = 1
    summed = torch.tensor([True, False] * 3).expand(3, 6)
    y = method.white_box(x, salient, summed)
    assert torch.allclose(y[1, 0, 2:5], x[1, 0, 2:5].sum(1) ** 2, atol=1e-5)
    assert torch.allclose(y[1, 1, 2:5], (x[1, 1, 2:5] ** 2).sum(1), atol=1e-5)
    assert not y[..., :2].any() and not y[..., 5:].any()


def test_classifier_learns_and_is_a_convolution():
    x = torch.randn(2, 60, 14, 2, generator=rng())
    y = (x[..., 3:6, 0].sum(-1) > 0).long()
    p = method.fit_classifier(x, y, rng(), steps=80)
    assert (method.classify(p, x).argmax(-1) == y).float().mean() > 0.95
    p = {name: w + 0.1 * torch.randn(w.shape, generator=rng(name)) for name, w in p.items()}  # no bias is near zero
    z = x[1].transpose(1, 2)  # (N, F, T)
    for w, b, channels in (("w_1", "b_1", 2), ("w_2", "b_2", 8)):
        z = torch.relu(conv1d(z, p[w][1].view(channels, 5, 8).permute(2, 0, 1), p[b][1, 0]))
    logits = z.transpose(1, 2).flatten(1) @ p["w_3"][1] + p["b_3"][1]
    assert torch.allclose(method.classify(p, x)[1], logits, atol=1e-4)


def test_plant():
    x = np.random.default_rng(0).normal(size=(4, 9))
    y = np.array([0, 1, 0, 1])
    bump, place = method.plant(x, y, "bump", 3, 3, height=2.0)
    assert place.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert np.allclose((bump - x)[1], 2 * np.sin(np.pi * np.array([1, 3, 5]) / 6) @ np.eye(9)[3:6])
    gap, _ = method.plant(x, y, "gap", 3, 3)
    assert not gap[y == 1][:, 3:6].any() and np.array_equal(gap[y == 0], x[y == 0]) and np.array_equal(bump[y == 0], x[y == 0])


# ---------------------------------------------------------------- measures


def test_area_precision_recall():
    salient = np.array([1, 1, 0, 0, 0])
    assert method.area_precision_recall(salient.astype(float), salient) == (1, 1)
    mask = np.array([0.9, 0.4, 0.4, 0.1, 0.0])
    # thresholds to .1 choose four cells, to .4 three, to .9 one, beyond none
    assert method.area_precision_recall(mask, salient) == pytest.approx((0.1 / 2 + 0.3 * 2 / 3 + 0.5 + 0.1, (0.9 + 0.4) / 2))


def test_areas_against_many_thresholds():
    g = np.random.default_rng(0)
    salient, mask = g.integers(2, size=200), g.random(200) * 0.9
    thresholds = np.linspace(0, 1, 20_001)[1:]
    chosen = mask >= thresholds[:, None]
    hits, count = (chosen & (salient == 1)).sum(1), chosen.sum(1)
    precision = np.where(count > 0, hits / np.maximum(count, 1), 1.0)
    found = method.area_precision_recall(mask, salient)
    assert found == pytest.approx((precision.mean(), (hits / salient.sum()).mean()), abs=2e-3)
    assert found[1] == pytest.approx(mask[salient == 1].mean())  # recall's area is the mean mask of the salient cells


def test_information_and_entropy():
    mask, salient = np.array([0.5, 0.75, 0.3]), np.array([1, 1, 0])
    assert method.information(mask, salient) == pytest.approx(1 + 2, abs=1e-3)
    assert method.mask_entropy(mask, salient) == pytest.approx(1 + 0.811278, abs=1e-3)
    assert method.mask_entropy(np.array([1.0, 0.0]), np.ones(2)) == pytest.approx(0, abs=1e-3)


def test_top_cells_take_the_best_and_draw_among_equals(x):
    top = method.top_cells(x, 0.25, rng())
    assert (top.flatten(2).sum(2) == 4).all()
    assert (
        x.masked_fill(~top, torch.inf).flatten(2).min(2).values >= x.masked_fill(top, -torch.inf).flatten(2).max(2).values
    ).all()
    equal = (
        torch.stack([method.top_cells(torch.ones_like(x), 0.25, seeding.torch_rng(k)) for k in range(100)]).float().mean((0, 1, 2))
    )
    assert equal.numpy() == pytest.approx(0.25, abs=0.04)


def test_nearest_other_and_deletion(x):
    label = torch.tensor([0, 1, 0, 1, 0, 1]).expand(3, 6)
    found = method.nearest_other(x, label, x, label)
    for n in range(6):
        others = [k for k in range(6) if label[0, k] != label[0, n]]
        best = min(others, key=lambda k: (x[2, n] - x[2, k]).norm().item())
        assert torch.equal(found[2, n], x[2, best])
    f = lambda z: torch.stack([z[..., 0, 0], z[..., 1, 0]], dim=-1)  # noqa: E731
    cells = torch.zeros_like(x, dtype=torch.bool)
    cells[..., :2, :] = True
    loss, hits = method.after_deletion(f, x, cells, x.roll(1, dims=2))
    gone = f(torch.where(cells, x.roll(1, dims=2), x))
    p = torch.softmax(gone[1, 4], 0)[f(x)[1, 4].argmax()]
    assert loss[1, 4].item() == pytest.approx(-p.log().item(), rel=1e-4) and hits[1, 4].item() == float(p > 0.5)
    assert method.after_deletion(f, x, cells, x)[1].all()


def test_off_the_data(x):
    train = torch.randn(3, 40, 8, 2, generator=rng("train"))
    assert torch.allclose(method.off_the_data(x, x, train), torch.ones(3))
    distance = torch.stack([torch.stack([(x[1, n] - row).norm() for row in train[1]]).sort().values[:2].mean() for n in range(6)])
    ratio = method.off_the_data(x, x.roll(1, dims=0), train, k=2)[1]
    near = torch.stack([torch.stack([(x[0, n] - row).norm() for row in train[1]]).sort().values[:2].mean() for n in range(6)])
    assert ratio.item() == pytest.approx((distance.mean() / near.mean()).item(), rel=1e-4)


def test_ucr_sets():
    for name, shape, ones in (("GunPoint", (200, 150), 100), ("ItalyPowerDemand", (1096, 24), 549), ("ECG200", (200, 96), 133)):
        x, y = ucr.load(name)
        assert x.shape == shape and y.sum() == ones and set(y) == {0, 1}
        assert np.allclose(x.mean(1), 0, atol=1e-6) and np.allclose(x.std(1), 1, atol=0.03)
        assert len(np.unique(x, axis=0)) > 0.99 * len(x)
    assert ucr.load("ECG200")[0][0, 0] == pytest.approx(0.50205548)
    with pytest.raises(ValueError, match="name must be"):
        ucr.load("Wafer")
