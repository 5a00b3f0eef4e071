"""Noise-robust generalisation: closed forms of the toy, DG losses against DomainBed's published formulas, the stacked trainer."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.optim.adam import adam

from replications.labels.noise_robust_generalization import method
from shared.data import vader_domains


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def torch_rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- the toy


def test_toy_has_the_released_groups_and_moments():
    d = method.toy(2000, 400, 0.99, rng())
    assert d.x.shape == (2000, 410) and d.x.dtype == np.float32
    assert np.bincount(2 * d.label + d.attribute).tolist() == [990, 10, 10, 990]
    for block, sign in ((slice(0, 5), d.label), (slice(5, 10), d.attribute)):
        assert abs(d.x[sign == 1, block].mean() - 1) < 0.03 and abs(d.x[sign == 0, block].mean() + 1) < 0.03
        assert abs((d.x[:, block] - (2 * sign - 1)[:, None]).var() - 0.25) < 0.01
    assert abs((d.x[:, 10:] ** 2).sum(1).mean() - 1) < 0.01  # N(0, I_d / d)


def test_flips_are_nested_and_as_frequent_as_asked():
    label, u = rng().integers(2, size=20_000), rng(1).random(20_000)
    low, high = (method.flip(label, eta, u) != label for eta in (0.1, 0.25))
    assert abs(low.mean() - 0.1) < 0.01 and abs(high.mean() - 0.25) < 0.01 and not (low & ~high).any()


def test_balanced_has_as_many_of_each_group_as_the_smallest():
    d = method.toy(200, 1, 0.9, rng())
    rows = method.balanced(d.label, d.attribute, rng())
    assert np.bincount(2 * d.label[rows] + d.attribute[rows]).tolist() == [10] * 4 and len(set(rows)) == 40


def test_logistic_fit_is_stationary():
    d = method.toy(100, 20, 0.9, rng())
    w = method.fit_logistic(d.x.astype(float), d.label, 0.1)
    p = 1 / (1 + np.exp(-d.x @ w))
    np.testing.assert_allclose(d.x.T @ (p - d.label) / 100 + 0.1 * w, 0, atol=1e-4)


def test_group_errors_agree_with_drawn_points():
    w = np.r_[rng().normal(0.1, 0.3, 5), rng(1).normal(0.1, 0.3, 5), rng(2).normal(size=20) * 2]
    d = method.toy(100_000, 20, 0.5, rng(3))
    wrong = (d.x @ w > 0) != d.label
    for told, group in zip(method.group_errors(w), (d.label == d.attribute, d.label != d.attribute), strict=True):
        assert abs(wrong[group].mean() - told) < 0.007


# ---------------------------------------------------------------- environments


def test_coloured_mnist_follows_the_released_order():
    images, digits = rng().random((30_000, 2, 3)) + 0.1, rng(1).integers(10, size=30_000)
    e = method.coloured(images, digits, 0.25, 0.1, rng(2))
    assert (e.clean[0] == (digits < 5)).all() and abs((e.y != e.clean).mean() - 0.25) < 0.01
    pictures = e.x[0].reshape(-1, 2, 6)
    colour = pictures[:, 1].any(1)
    np.testing.assert_allclose(pictures.sum(1), images.reshape(-1, 6), rtol=1e-6)  # one channel holds the picture
    assert not (pictures[:, 0].any(1) & colour).any()
    assert abs((colour != e.y[0]).mean() - 0.1) < 0.01  # agrees with the noisy label ...
    assert abs((colour != e.clean[0]).mean() - (0.1 * 0.75 + 0.9 * 0.25)) < 0.01  # ... not with the clean one
    still = method.coloured(images, digits, 0.0, 0.1, rng(2))
    assert ((still.x[0].reshape(-1, 2, 6)[:, 1].any(1) != still.y[0]) == (colour != e.y[0])).all()  # the same uniform numbers


def test_coloured_split_shares_no_image_and_only_training_is_noisy():
    images = np.arange(1, 4001)[:, None, None] / 4000 * np.ones((1, 1, 1))
    how = {"n": 500, "n_within": 250, "n_test": 400}
    s = method.coloured_split(images, np.arange(4000) % 10, 0.25, rng(), **how)
    seen = np.concatenate([e.x.sum(-1).ravel() for e in s])
    assert len(np.unique(seen)) == len(seen) == 2300
    assert [e.y.shape for e in s] == [(2, 500), (2, 250), (1, 400), (1, 400)]
    unlike = [((e.x[..., 1] > 0) != e.y).mean(1) for e in s]
    np.testing.assert_allclose(np.concatenate(unlike), [0.1, 0.2, 0.1, 0.2, 0.9, 0.9], atol=0.07)
    assert all((e.y == e.clean).all() for e in s[2:]) and all(abs((e.y != e.clean).mean() - 0.25) < 0.06 for e in s[:2])
    other = method.coloured_split(images, np.arange(4000) % 10, 0.25, rng(), **how, unlike=0.15)
    assert (other.train.x == s.train.x).all() and abs(((other.test.x[..., 1] > 0) != other.test.y).mean() - 0.15) < 0.06


def test_one_rater_is_one_of_those_with_an_opinion():
    ratings = np.tile([0, 2, -1, 0, 4], (30_000, 1))
    assert abs(method.one_rater(ratings, np.ones(30_000, int), rng()).mean() - 2 / 3) < 0.01
    assert method.one_rater(ratings[:2] * 0, [0, 1], rng()).tolist() == [0, 1]


def domains() -> list[method.Environments]:
    drawn = []
    for k in range(3):
        clean = rng(k).integers(2, size=200)
        x = np.c_[np.full(200, k), np.arange(200), rng(k).normal(size=200)].astype(np.float32)
        drawn.append(method.Environments(x[None], 1 - clean[None], clean[None]))  # every given label is wrong
    return drawn


def test_held_out_split_holds_out():
    s = method.held_out_split(domains(), 1, rng(), n=100, n_within=40)
    assert [e.y.shape for e in s] == [(2, 100), (2, 40), (1, 40), (1, 160)]
    np.testing.assert_allclose(s.train.x.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(s.train.x.std((0, 1)), 1, atol=1e-5)
    assert (s.train.y != s.train.clean).all() and (s.within.y != s.within.clean).all()
    assert (s.test.y == s.test.clean).all() and (s.chosen_by.y == s.chosen_by.clean).all()
    np.testing.assert_allclose(s.test.x[..., 0], 0, atol=1e-5)  # the middle one of domains 0, 1 and 2
    for one, two in ((s.train, s.within), (s.chosen_by, s.test)):
        for a, b in zip(one.x[..., 1], two.x[..., 1], strict=True):
            assert not set(a.round(4)) & set(b.round(4))


def test_rated_domain_labels():
    opinion, ratings = np.tile([1.2, -0.5], 2000), np.tile([[3, 0, -1], [-2, -2, 0]], (2000, 1))
    clean, noisy = (method.rated_domain(np.ones((4000, 2)), opinion, ratings, noise, rng()) for noise in ("0", "one rater"))
    assert (clean.y == clean.clean).all() and clean.y[0, :2].tolist() == [1, 0]
    assert abs(noisy.y[0, ::2].mean() - 0.5) < 0.04 and not noisy.y[0, 1::2].any()


def test_extract_is_what_it_says():
    for name in vader_domains.SETS:
        d = vader_domains.load(name)
        assert d.features.shape == (1500, 64) and d.ratings.shape == (1500, 15) and len(d.texts) == 5
        assert (d.opinion >= 0.3).sum() == (d.opinion <= -0.3).sum() == 750
        assert np.corrcoef(d.opinion, d.ratings.mean(1))[0, 1] > 0.98
    with pytest.raises(ValueError, match="name must be one of"):
        vader_domains.load("films")


# ---------------------------------------------------------------- losses, against formulas with two logits and autograd


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    z = torch.randn(2, 3, 10, generator=torch_rng(), dtype=torch.float64) * 2
    return z, torch.randint(2, (3, 10), generator=torch_rng(1)).double()


def alike(ours: torch.Tensor, theirs: torch.Tensor, rtol: float = 1e-6, atol: float = 0) -> None:
    """torch.testing's own comparison takes a second to import."""
    np.testing.assert_allclose(ours.detach(), theirs.detach(), rtol, atol)


def two_logits(z: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.full_like(z, 0.3), z + 0.3], dim=-1)


def by_autograd_irm(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """IRMv1 as published: the gradient with respect to a dummy scale, on even points times odd points, of one environment."""
    scale = torch.tensor(1.0, dtype=z.dtype, requires_grad=True)
    halves = [functional.cross_entropy(two_logits(z[i::2] * scale), y[i::2].long()) for i in (0, 1)]
    even, odd = (torch.autograd.grad(loss, scale, create_graph=True)[0] for loss in halves)
    return even * odd


def test_risks_and_slopes_in_closed_form():
    z, y = batch()
    told = [[functional.cross_entropy(two_logits(z[r, e]), y[e].long()) for e in range(3)] for r in range(2)]
    np.testing.assert_allclose(method.risks(z, y), np.array(told))
    constant = torch.full((1, 1, 4), 1.5)
    labels = torch.tensor([[1.0, 0, 1, 1]])
    mean_slope = ((constant.sigmoid() - labels).mean() * 1.5).item()
    assert method.slopes(constant, labels).item() == pytest.approx(mean_slope)
    assert method.slopes(constant * 0, labels).item() == 0
    assert method.vrex_penalty(torch.tensor([[0.2, 0.4]])).item() == pytest.approx(0.01)


@pytest.mark.parametrize("loss", ["IRM", "V-REx"])
def test_penalised_objective_and_its_gradient_are_the_published_ones(loss):
    z, y = batch()
    z.requires_grad_()
    settings = [method.Setting(loss, 7.0, 2), method.Setting()]
    for step, weight in ((1, 1.0), (2, 7.0)):
        ours, _ = method.objective(z, y, settings, step, torch.full((2, 3), 1 / 3).double())
        risk = torch.stack([functional.cross_entropy(two_logits(z[0, e]), y[e].long()) for e in range(3)])
        penalty = torch.stack([by_autograd_irm(z[0, e], y[e]) for e in range(3)]) if loss == "IRM" else (risk - risk.mean()) ** 2
        theirs = risk.mean() + weight * penalty.mean()
        assert ours[0].item() == pytest.approx(theirs.item(), rel=1e-6)
        alike(*(torch.autograd.grad(f, z, retain_graph=True)[0][0] for f in (ours[0], theirs)), rtol=1e-5)
        assert ours[1].item() == pytest.approx(method.risks(z, y)[1].mean().item())


def test_group_dro_moves_weight_to_the_worst_environment():
    z, y = batch()
    z.requires_grad_()
    q = torch.tensor([[0.2, 0.3, 0.5], [1 / 3] * 3]).double()
    ours, after = method.objective(z, y, [method.Setting("GroupDRO", 0.5, 99), method.Setting()], 0, q)
    risk = method.risks(z, y)[0]
    wanted = q[0] * torch.exp(0.5 * risk)
    wanted = (wanted / wanted.sum()).detach()
    alike(after, torch.stack([wanted, q[1]]))
    assert ours[0].item() == pytest.approx((wanted * risk).sum().item())
    # weights are constants of the gradient
    alike(torch.autograd.grad(ours[0], z, retain_graph=True)[0], torch.autograd.grad((wanted * risk).sum(), z)[0])


def test_mixup_blends_other_environments_and_labels_alike():
    x = torch.arange(3.0)[:, None, None].expand(3, 50, 2)
    x_mixed, y_mixed = method.mix(x, x[..., 0], 0.2, rng())
    alike(x_mixed[..., 0], y_mixed)
    weights = rng().beta(0.2, 0.2, 2000)
    drawn = [method.mix(x, x[..., 0], 0.2, rng(s))[1][0, 0].item() for s in range(150)]  # w 0 + (1 - w) (1 or 2)
    assert np.mean(drawn) == pytest.approx(0.75, abs=0.15) and abs(np.mean(weights) - 0.5) < 0.03
    sharp = torch.stack([method.mix(x, x[..., 0], 1e-3, rng(s))[1] for s in range(20)])
    assert ((sharp - sharp.round()).abs() < 0.05).float().mean() > 0.95
    rows = torch.arange(50.0).expand(3, 50)
    x_mixed, y_mixed = method.mix(torch.stack([rows, rows * 2], -1), rows, 0.2, rng())
    alike(x_mixed[..., 0], y_mixed)  # a point's partner is the same for x and label


# ---------------------------------------------------------------- the trainer


def small(seed: int = 0) -> method.Environments:
    images, digits = rng(seed).random((60, 3, 3)), rng(seed).integers(10, size=60)
    parts = [method.coloured(images[k::2], digits[k::2], 0.25, e, rng(k)) for k, e in ((0, 0.1), (1, 0.2))]
    return method.Environments(*(np.concatenate(p) for p in zip(*parts, strict=True)))


def by_torch(data: method.Environments, setting: method.Setting, nets: method.Nets, steps: int, lr: float) -> method.Nets:
    """One run with torch's own Adam (the function: the class takes a second to import), made anew where the penalty sets in."""
    net = [p[:1].detach().clone().requires_grad_() for p in nets]
    x, y = torch.as_tensor(data.x), torch.as_tensor(data.y).float()
    how = {"amsgrad": False, "beta1": 0.9, "beta2": 0.999, "lr": lr, "weight_decay": setting.decay, "eps": 1e-8, "maximize": False}
    for step in range(steps):
        if step in (0, setting.anneal):
            state = *([torch.zeros_like(p) for p in net] for _ in range(2)), [], [torch.tensor(0.0) for _ in net]
        z = (torch.relu(x @ net[0][0] + net[1][0]) @ net[2][0] + net[3][0])[..., 0]  # (E, n)
        risk = functional.binary_cross_entropy_with_logits(z, y, reduction="none").mean(1)
        loss = risk.mean() + (setting.weight if step >= setting.anneal else 1) * (setting.loss == "V-REx") * risk.var(correction=0)
        slope = list(torch.autograd.grad(loss, net))
        with torch.no_grad():
            adam(net, slope, *state, **how, foreach=False)
    return method.Nets(*(p.detach() for p in net))


def test_stacked_runs_are_those_of_torchs_adam():
    data, how = small(), {"hidden": 5, "lr": 0.01}
    settings = [method.Setting(), method.Setting("V-REx", 30.0, 7), method.Setting(decay=0.1), method.Setting("IRM", 1e3, 3)]
    found = method.train(data, settings, torch_rng(), **how, marks=[12, 20])
    first = method.first_nets(18, 5, 1, torch_rng())
    for r, setting in enumerate(settings[:3]):
        for steps, nets in zip((12, 20), found, strict=True):
            for ours, theirs in zip(nets, by_torch(data, setting, first, steps, 0.01), strict=True):
                alike(ours[r : r + 1], theirs, rtol=1e-3, atol=2e-5)


def test_penalties_of_weight_0_are_erm_step_for_step():
    settings = [method.Setting(loss) for loss in method.LOSSES]
    for nets in method.train(small(), settings, torch_rng(), hidden=5, lr=0.01, marks=[1, 25]):
        assert max((p - p[:1]).abs().max().item() for p in nets) < 1e-6


def test_first_weights_are_alike_and_within_their_bounds():
    nets = method.first_nets(100, 16, 3, torch_rng())
    for p, fan in zip(nets, (100, 100, 16, 16), strict=True):
        assert (p == p[:1]).all() and p.abs().max() <= fan**-0.5
    assert nets.w1.abs().max() > 0.09


def test_mixing_trains_on_blends():
    how = {"hidden": 5, "lr": 0.01, "marks": [5]}
    plain, mixed = (method.train(small(), [method.Setting()], torch_rng(), **how, mixing=m)[0] for m in (None, (0.2, rng())))
    assert (plain.w1 - mixed.w1).abs().max() > 1e-3


# ---------------------------------------------------------------- measures


def test_scores_of_known_networks():
    # label 1 where the only entry is positive: w1 = (1, -1), w2 = (1, -1)
    w = torch.tensor([[[1.0, -1.0]]]), torch.zeros(1, 1, 2), torch.tensor([[[1.0], [-1.0]]]), torch.zeros(1, 1, 1)
    nets = method.Nets(*(torch.cat([p, -p]) if k == 2 else torch.cat([p, p]) for k, p in enumerate(w)))
    x = np.array([[[1.0], [-1], [2], [-2]]], np.float32)
    data = method.Environments(x, np.array([[1, 1, 0, 0]]), np.array([[1, 0, 0, 0]]))
    clean, memorised = method.fitted(nets, data)
    np.testing.assert_allclose(clean, [2 / 3, 1 / 3])
    assert memorised.tolist() == [0, 1]
    split = method.Split(data, data, data._replace(y=data.clean), data._replace(y=1 - data.clean))
    s = method.scores([nets], split)
    np.testing.assert_allclose(s[0, 0], [2 / 3, 0, 0.5, 0.75, 0.25])
    assert np.isnan(method.fitted(nets, data._replace(y=data.clean))[1]).all()


def test_memorisation_is_read_where_the_level_is_first_reached():
    clean, memorised = np.array([0.7, 0.6, 0.9]), np.array([0.2, 0.9, 0.4])
    read = [method.memorisation_at(clean, memorised, level) for level in (0.6, 0.7, 0.8, 0.95)]
    np.testing.assert_allclose(read, [0.35, 0.2, 0.3, 0.4])  # from a coin (.5, .5) through (.7, .2) to (.9, .4)
    below = [method.memorisation_at(clean, memorised, level) for level in (0.5, 0.4, 0.1)]
    np.testing.assert_allclose(below, [0.5, 0.65, 0.6])  # opposite answers


def test_matched_difference_compares_at_one_clean_accuracy():
    rival, run = np.array([[0.7, 0.4], [0.9, 0.8]]), np.array([[0.9, 0.1], [0.8, 0.2]])
    assert method.matched_difference(rival, run) == pytest.approx(0.6 - 0.2)  # at .8, the run's last
    assert method.matched_difference(run, rival) == pytest.approx(0.1 - 0.8)  # at .9, the height of both
    further = np.array([[0.8, 0.3], [1.0, 1.0]])
    assert method.matched_difference(rival, further) == pytest.approx(0.8 - 0.65)  # at .9, the rival's highest
    coin = np.array([[0.9, 0.9], [0.6, 0.6]])
    assert method.matched_difference(coin[:1], coin) == pytest.approx(0)  # half way to a coin is no gain


def test_draws_become_settings():
    assert method.setting("IRM", {"weight": 3.0, "anneal": 0.1}, 250) == method.Setting("IRM", 3.0, 25)
    assert method.setting("ERM, stopped and decayed", {"decay": 0.1, "stop": 0.5}, 250) == method.Setting("ERM", decay=0.1)
    assert method.setting("Mixup", {"weight": 0.2, "decay": 0.1}, 250) == method.Setting("ERM", 0.2, decay=0.1)
    assert method.last_mark([10, 20, 30], {"stop": 0.6}) == 1 and method.last_mark([10, 20, 30], {}) == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: method.toy(250, 10, 0.99, rng()), "n agreement / 2 whole"),
        (lambda: method.toy(200, 0, 0.99, rng()), "d at least 1"),
        (lambda: method.balanced([0, 1], [0, 1], rng()), "each of the four groups"),
        (lambda: method.fit_logistic(np.eye(2), [0, 1], 0), "decay must be positive"),
        (lambda: method.group_errors(np.zeros(12)), "not all of them 0"),
        (lambda: method.coloured(np.ones((2, 1, 1)), np.ones(3), 0, 0.1, rng()), "digits must be one for each"),
        (lambda: method.coloured(np.ones((2, 1, 1)), np.ones(2), 0, 1.1, rng()), "disagreement must be in"),
        (lambda: method.coloured(np.ones((2, 1, 1)), np.ones(2), 1.5, 0.1, rng()), "rate must be in"),
        (lambda: method.coloured_split(np.ones((9, 1, 1)), np.ones(9), 0, rng(), n=2, n_within=2, n_test=2), "12 images are asked"),
        (lambda: method.one_rater(np.zeros((1, 3)), [0, 1], rng()), "ratings must have shape"),
        (lambda: method.held_out_split(domains(), 3, rng(), n=1, n_within=1), "held must be one of 0..2"),
        (lambda: method.held_out_split(domains(), 0, rng(), n=150, n_within=50), "more than n"),
        (lambda: method.train(small(), [method.Setting("DRO")], torch_rng(), hidden=2, lr=1, marks=[1]), "loss must be one of"),
        (lambda: method.train(small(), [], torch_rng(), hidden=2, lr=1, marks=[1]), "must not be empty"),
        (lambda: method.train(small(), [method.Setting()], torch_rng(), hidden=2, lr=1, marks=[2, 1]), "marks must increase"),
        (
            lambda: method.train(
                small()._replace(y=small().y * 2), [method.Setting()], torch_rng(), hidden=2, lr=1, marks=[1]
            ),
            "labels .* of 0 and 1",
        ),
        (lambda: method.accuracy(method.first_nets(1, 1, 1, torch_rng()), np.ones((0, 1)), np.ones(0)), "not empty"),
        (lambda: method.memorisation_at(np.ones(2), np.ones(3), 0.5), "must have one shape"),
        (lambda: method.memorisation_at(np.ones(2), np.ones(2), 1.5), "level must be in"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
