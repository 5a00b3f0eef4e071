"""The Gaussian discriminant variational autoencoder against closed forms, scikit-learn, and naive loops."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import distributions
from torch.nn import functional

from replications.vision.gdvae import method
from shared import seeding

HALVES = torch.tensor([0.5, 0.5]).log()


def normal(*shape: int, stream: str = "x") -> torch.Tensor:
    return torch.randn(*shape, generator=seeding.torch_rng(0, stream))


def uniform(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=seeding.torch_rng(0, "u"))


def some_rule(classes: int = 3, latent: int = 5) -> tuple[method.Rule, torch.Tensor]:
    log_py = uniform(classes).log_softmax(0)
    return method.rule(normal(classes, latent).double(), uniform(latent).double() + 0.3, log_py.double()), log_py


def small_net(**changes) -> method.GdVAE:
    return method.GdVAE(HALVES, seeding.torch_rng(0, "net"), **{"latent": 4, "shape": (1, 8)} | changes)


# ---------------------------------------------------------------- the rule


def test_scores_are_bayes_with_gaussian_priors():
    rule, log_py = some_rule()
    z = normal(7, 5, stream="z").double()
    joint = distributions.Normal(rule.mu, rule.variance.sqrt()).log_prob(z[:, None]).sum(2) + log_py
    assert torch.allclose(rule.scores(z).softmax(1), joint.softmax(1))
    c, k = torch.tensor([0, 1, 2, 0, 1, 2, 0]), torch.tensor([1, 2, 0, 2, 0, 1, 1])
    rows = torch.arange(7)
    assert torch.allclose(method.log_odds(rule, z, c, k), joint[rows, c] - joint[rows, k])


def test_rule_is_linear_discriminant_analysis_with_the_same_moments():
    rng = seeding.rng(0, "lda")
    z = np.concatenate([rng.normal(-1, 1, 60), rng.normal(2, 1, 140)])[:, None]
    y = np.repeat([0, 1], [60, 140])
    mu = np.array([z[y == i].mean(0) for i in (0, 1)])
    variance = sum(share * z[y == i].var(0) for i, share in enumerate((0.3, 0.7)))
    lda = LinearDiscriminantAnalysis(solver="lsqr").fit(z, y)
    rule = method.rule(*(torch.as_tensor(part) for part in (mu, variance, np.log([0.3, 0.7]))))
    assert np.allclose(rule.scores(torch.as_tensor(z)).softmax(1), lda.predict_proba(z), atol=1e-6)


@pytest.mark.parametrize("path", [method.local_l2, method.global_path, method.local_m])
def test_every_path_reaches_the_wanted_log_odds(path):
    rule, _ = some_rule()
    z, delta = normal(9, 5, stream="z").double(), torch.linspace(-4, 4, 9).double()
    c, k = torch.arange(9) % 3, (torch.arange(9) + 2) % 3
    assert torch.allclose(method.log_odds(rule, path(rule, z, c, k, delta), c, k), delta)


def test_each_path_goes_where_it_should():
    rule, _ = some_rule()
    z, delta, c, k = normal(1, 5, stream="z").double(), torch.tensor([-1.0]).double(), torch.tensor([0]), torch.tensor([2])
    local, glob, m = (path(rule, z, c, k, delta) for path in (method.local_l2, method.global_path, method.local_m))
    parallel = lambda a, b: abs(functional.cosine_similarity(a, b)).item() == pytest.approx(1)  # noqa: E731
    w = (rule.mu[c] - rule.mu[k]) / rule.variance
    assert parallel(local - z, w) and parallel(glob - z, rule.mu[k] - z)
    assert parallel(m - z, rule.variance * w)
    moved = z + rule.mu[k] - rule.mu[c]  # where the official code starts
    step = (method.log_odds(rule, moved, c, k) - delta) / (w * rule.variance * w).sum(1)
    assert torch.allclose(m, moved - step * rule.variance * w)
    # no code with these log-odds is nearer: move along the plane, either way
    for aside in normal(20, 5, stream="aside").double():
        aside = aside - (aside @ w[0]) / (w[0] @ w[0]) * w[0]
        assert (local + 0.1 * aside - z).norm() > (local - z).norm()
        assert ((m + 0.1 * aside - z).square() / rule.variance).sum() > ((m - z).square() / rule.variance).sum()
    assert torch.allclose(method.global_path(rule, z, c, k, method.log_odds(rule, rule.mu[k], c, k)), rule.mu[k])


def test_labels_and_rivals_by_hand():
    label = method.soft_label(torch.tensor([0, 2]), torch.tensor([1, 0]), torch.tensor([0.7, 0.1]), 3)
    assert torch.allclose(label, torch.tensor([[0.7, 0.3, 0], [0.9, 0, 0.1]]))
    scores = torch.tensor([[1.0, -2.0, 0.0], [1.0, -2.0, 0.0]])
    assert method.rival(scores, torch.tensor([0, 1])).tolist() == [1, 2]


def test_rule_refuses():
    with pytest.raises(ValueError, match="variance"):
        method.rule(normal(2, 3), torch.tensor([1.0, 0.0, 1.0]), HALVES)


# ---------------------------------------------------------------- the network


def test_the_image_is_seen_once_as_if_label_and_image_were_two_channels():
    net, x = small_net(), uniform(3, 1, 8, 8)
    both = torch.nn.Conv2d(2, method.WIDTHS[0], 4, 2, 1)
    both.weight.data = torch.cat([net.see.weight, net.hear.weight], 1)
    both.bias.data = net.see.bias
    mean, log_variance = net.encode(x)
    for k in range(2):
        out = net.encoder(both(torch.cat([x, net.maps[k].expand(3, 1, 8, 8)], 1)))
        assert torch.allclose(mean[:, k], out[:, :4], atol=1e-6) and torch.allclose(log_variance[:, k], out[:, 4:], atol=1e-6)
    net.encoder[-1].bias.data += 50
    assert net.encode(x)[1].max() == 5


def test_a_blind_decoder_sees_no_label():
    z, y = normal(2, 4), torch.eye(2)
    seeing, blind = small_net(), small_net(blind=True)
    assert not torch.equal(seeing.decode(z, y), seeing.decode(z, y.flip(0)))
    assert torch.equal(blind.decode(z, y), blind.decode(z, y.flip(0)))
    assert seeing.decode(z, y).shape == (2, 1, 8, 8) and seeing.decode(z, y).min() >= 0
    assert torch.equal(blind.decode(z, y), seeing.decode(z, torch.full((2, 2), 0.5)))


def test_black_box_and_colour_images_have_the_right_shapes():
    assert method.black_box(3, seeding.torch_rng(0), (3, 12))(uniform(2, 3, 12, 12)).shape == (2, 3)
    net = small_net(shape=(3, 12))
    assert net.decode(normal(2, 4), torch.eye(2)).shape == (2, 3, 12, 12) and net.encode(uniform(2, 3, 12, 12))[0].shape == (
        2,
        2,
        4,
    )


@pytest.mark.parametrize(("log_py", "shape"), [(torch.zeros(2), (1, 8)), (HALVES, (1, 10))])
def test_net_refuses(log_py, shape):
    with pytest.raises(ValueError, match=r"log_py|shape"):
        method.GdVAE(log_py, seeding.torch_rng(0), latent=4, shape=shape)


# ---------------------------------------------------------------- Algorithm 1


def test_algorithm_1_is_the_naive_loop_under_the_same_draws():
    net, x, rounds, samples = small_net(), uniform(3, 1, 8, 8), 2, 4
    mean, log_variance = net.encode(x)
    got = method.infer(mean, log_variance, net.rule(), net.log_py, seeding.torch_rng(0, "a"), rounds=rounds, samples=samples)
    rng, rule = seeding.torch_rng(0, "a"), net.rule()
    priors = [distributions.Normal(mu, rule.variance.sqrt()) for mu in rule.mu]
    scores = net.log_py.expand(3, 2)
    for _ in range(rounds):
        gumbel = -torch.empty(samples, 3, 2).exponential_(generator=rng).log()
        noise, new = torch.randn(samples, 3, 4, generator=rng), []
        for s in range(samples):
            y = (scores + gumbel[s]).argmax(1)
            z = torch.stack([m[i] + (v[i] / 2).exp() * e for m, v, i, e in zip(mean, log_variance, y, noise[s], strict=True)])
            new.append(torch.stack([p.log_prob(z).sum(1) + log for p, log in zip(priors, net.log_py, strict=True)], 1))
        scores = torch.stack(new).mean(0)
    assert torch.allclose(got.softmax(1), scores.softmax(1), atol=1e-5)


def test_no_round_knows_only_the_frequencies():
    mean = normal(3, 2, 4)
    rule = method.rule(normal(2, 4), torch.ones(4), torch.tensor([0.2, 0.8]).log())
    got = method.infer(mean, mean, rule, torch.tensor([0.2, 0.8]).log(), seeding.torch_rng(0), rounds=0, samples=1)
    assert torch.allclose(got.exp(), torch.tensor([0.2, 0.8]).expand(3, 2))
    with pytest.raises(ValueError, match="rounds"):
        method.infer(mean, mean, rule, HALVES, seeding.torch_rng(0), rounds=1, samples=0)


def test_labels_are_drawn_as_often_as_they_are_likely_and_have_a_gradient():
    scores = torch.tensor([0.2, 0.5, 0.3]).log().expand(20000, 3).clone().requires_grad_()
    y = method.hard_labels(scores, seeding.torch_rng(0))
    assert torch.allclose(y.sum(1), torch.ones(20000), atol=1e-5)
    assert torch.allclose(y.mean(0), torch.tensor([0.2, 0.5, 0.3]), atol=0.015)
    y[:, 0].sum().backward()
    assert scores.grad[:, 0].min() > 0


def test_codes_have_the_encoders_mean_and_spread():
    mean, log_variance = normal(1, 2, 3), normal(1, 2, 3, stream="v")
    y = functional.one_hot(torch.ones(40000, 1, dtype=torch.long), 2)
    z = method.sample(mean, log_variance, y, seeding.torch_rng(0))[:, 0]
    assert torch.allclose(z.mean(0), mean[0, 1], atol=0.03) and torch.allclose(z.var(0).log(), log_variance[0, 1], atol=0.05)


def test_a_classified_images_code_is_the_mean_under_its_class():
    net, x = small_net(), uniform(4, 1, 8, 8)
    scores, z = method.classify(net, x, seeding.torch_rng(0, "c"), rounds=3, samples=20)
    mean, _ = net.encode(x)
    assert torch.equal(z, mean[torch.arange(4), scores.argmax(1)])
    c, k, p = scores.argmax(1), 1 - scores.argmax(1), torch.full((4,), 0.7)
    shown = method.picture(net, 100 * z, c, k, p)
    assert torch.equal(shown, net.decode(100 * z, method.soft_label(c, k, p, 2)).clamp(0, 1)) and shown.max() == 1


# ---------------------------------------------------------------- loss and training


def test_kl_against_torch():
    a, b, c, d = (normal(6, 4, stream=s) for s in "abcd")
    expected = distributions.kl_divergence(distributions.Normal(a, (b / 2).exp()), distributions.Normal(c, (d / 2).exp()))
    assert torch.allclose(method.kl(a, b, c, d), expected.mean(1), atol=1e-5)


def test_round_trips_stay_within_their_bounds_and_one_in_eleven_is_plain():
    rule, n = small_net().rule(), 4000
    mean, z = 3 * normal(n, 4), normal(n, 4, stream="z")
    labels = torch.arange(n) % 2
    y = functional.one_hot(1 - labels, 2).float()
    out, back, told = method.round_trip(rule, mean, z, y, labels, seeding.torch_rng(0, "trips"))
    plain = (told == y).all(1)
    assert abs(plain.float().mean() - 1 / 11) < 0.02
    assert torch.equal(out[plain], z[plain]) and torch.equal(back[plain], mean[plain])
    moved, k = ~plain, 1 - labels
    odds = method.log_odds(rule, out, labels, k)[moved]
    ends = torch.stack([method.log_odds(rule, mean, labels, k).clamp_max(np.log(99)),
                        method.log_odds(rule, rule.mu[k], labels, k).clamp_min(-np.log(99))])[:, moved]  # fmt: skip
    assert torch.equal(out[moved], back[moved])
    assert ((odds >= ends.amin(0) - 1e-3) & (odds <= ends.amax(0) + 1e-3)).all()
    assert abs(((odds - ends[0]) / (ends[1] - ends[0])).mean() - 0.5) < 0.02
    assert torch.allclose(told[moved].gather(1, labels[moved, None])[:, 0], odds.sigmoid(), atol=1e-3)
    w, _ = rule.towards(labels, k)
    nearest = abs(functional.cosine_similarity(out - mean, w)[moved]) > 0.9999
    ahead = abs(functional.cosine_similarity(out - mean, rule.mu[k] - mean)[moved]) > 0.9999
    assert abs(nearest.float().mean() - 0.5) < 0.03 and (nearest | ahead).float().mean() > 0.99


def test_loss_by_hand_where_nothing_is_random():
    net, x, labels = small_net(), uniform(6, 1, 8, 8), torch.arange(6) % 2
    last = net.encoder[-1]
    last.weight.data[4:] = 0  # the encoder's variance is next to nothing
    last.bias.data[4:] = -60
    last.weight.data[:4] *= 30
    net.mu.data *= 10
    settings = {"rounds": 1, "samples": 1}
    # under either label the same code, so that the drawn label only tells the decoder
    net.hear.weight.data.zero_()
    net.label.weight.data.zero_()
    parts = method.loss_parts(net, x, labels, seeding.torch_rng(0, "l"), gamma=2.0, scrambled=False, **settings)
    z, rule = net.encode(x)[0][:, 0], net.rule()
    prior = distributions.Normal(rule.mu[labels], rule.variance.sqrt())
    q = distributions.Normal(z, torch.full((4,), np.exp(-30)))
    expected = [
        2 * (net.decode(z, torch.eye(2)[labels]) - x).square().mean() / 0.72,
        4 / 64 * distributions.kl_divergence(q, prior).mean(),
        4 / 64 * distributions.kl_divergence(prior, distributions.Normal(0.0, 1.0)).mean(),
        -0.1 * rule.scores(z).log_softmax(1)[torch.arange(6), labels].mean(),
    ]
    assert torch.allclose(parts[:4], torch.stack(expected), rtol=1e-3)
    none = method.loss_parts(net, x, labels, seeding.torch_rng(0, "l"), gamma=0.0, scrambled=False, **settings)
    assert torch.equal(none[:4], parts[:4]) and none[4] == 0


def test_the_priors_are_of_the_true_label_and_picture_and_cross_entropy_of_the_drawn_one():
    net, x, labels = small_net(), uniform(6, 1, 8, 8), torch.ones(6, dtype=torch.long)
    net.log_py.copy_(torch.tensor([0.0, -60.0]))  # without a round every drawn label is the first, and wrong
    net.maps.data *= 20  # so that the code depends on the label
    net.encoder[-1].weight.data[4:] = 0
    net.encoder[-1].bias.data[4:] = -30
    given = {"gamma": 0.0, "rounds": 0, "samples": 1, "scrambled": False}
    parts = method.loss_parts(net, x, labels, seeding.torch_rng(0, "l"), **given)
    (wrong, true), rule = net.encode(x)[0].unbind(1), net.rule()
    prior = distributions.Normal(rule.mu[1], rule.variance.sqrt())
    expected = [
        2 * (net.decode(wrong, torch.eye(2)[labels - 1]) - x).square().mean() / 0.72,
        4 / 64 * distributions.kl_divergence(distributions.Normal(true, np.exp(-15)), prior).mean(),
        0.1 * functional.cross_entropy(rule.scores(wrong), labels),
    ]
    assert torch.allclose(parts[[0, 1, 3]], torch.stack(expected), rtol=1e-4)


def test_consistency_is_the_divergence_from_the_codes_to_come_back_to():
    net, x, labels = small_net(), uniform(40, 1, 8, 8), torch.arange(40) % 2
    net.encoder[-1].weight.data *= 5  # spreads that differ from image to image
    net.hear.weight.data.zero_()  # the drawn label changes no code
    given = {"gamma": 2.0, "rounds": 1, "samples": 1}
    parts = {s: method.loss_parts(net, x, labels, seeding.torch_rng(0, "l"), scrambled=s, **given)[4] for s in (False, True)}
    rng = seeding.torch_rng(0, "l")
    mean, log_variance = (part[:, 0] for part in net.encode(x))
    spread = (log_variance / 2).exp()
    torch.empty(1, 40, 2).exponential_(generator=rng)  # what a round of Algorithm 1 draws
    y = method.hard_labels(net.rule().scores(mean + spread * torch.randn(40, 4, generator=rng)), rng)
    z = mean + spread * torch.randn(40, 4, generator=rng)
    out, back, told = method.round_trip(net.rule(), mean, z, y, labels, rng)
    again, log_again = (part[:, 0] for part in net.encode(net.decode(out, told)))
    torch.empty(1, 40, 2).exponential_(generator=rng)  # what reading the decoded images draws
    torch.randn(1, 40, 4, generator=rng)
    torch.empty(40, 2).exponential_(generator=rng)
    for scrambled, target in ((False, back), (True, back[torch.randperm(40, generator=rng)])):
        found = distributions.Normal(again, (log_again / 2).exp())
        expected = 2 * 4 / 64 * distributions.kl_divergence(found, distributions.Normal(target, spread)).mean()
        assert torch.allclose(parts[scrambled], expected, rtol=2e-5)


SETTINGS = {"batch": 4, "lr": 0.01, "gamma": 1.0, "rounds": 1, "samples": 2, "scrambled": False}


def test_training_stops_where_told_and_passes_every_image():
    x, labels = uniform(9, 1, 8, 8), torch.arange(9) % 2
    kept, parts = method.train(small_net(), x, labels, seeding.torch_rng(0, "t"), stops=[2, 5], **SETTINGS)
    assert len(kept) == 2 and parts.shape == (5, 5) and not kept[0].training
    assert not torch.equal(kept[0].mu, kept[1].mu)
    (first,), some = method.train(small_net(), x, labels, seeding.torch_rng(0, "t"), stops=[2, 5], only=2, **SETTINGS)
    assert torch.equal(some, parts[:2]) and torch.equal(first.mu, kept[0].mu)
    rows = method._batches(9, 4, 5, seeding.torch_rng(0, "rows"))
    assert [len(part) for part in rows] == [4] * 5 and len(set(torch.cat(rows[:2]).tolist())) == 8


def test_a_black_box_learns_a_bright_corner():
    x = 0.3 * uniform(60, 1, 8, 8)
    labels = torch.arange(60) % 2
    x[labels == 1, :, :3, :3] += 0.6
    net = method.fit(
        method.black_box(2, seeding.torch_rng(0), (1, 8)), x, labels, seeding.torch_rng(0, "f"), steps=40, batch=20, lr=0.01
    )
    assert (net(x).argmax(1) == labels).all() and not net.training


@pytest.mark.parametrize(
    ("x", "labels", "batch", "message"),
    [(torch.full((4, 1, 8, 8), torch.nan), torch.zeros(4), 2, "0, 1"), (torch.full((4, 1, 8, 8), 1.5), torch.zeros(4), 2, "0, 1"),
     (torch.zeros(4, 8, 8), torch.zeros(4), 2, "images must be"), (torch.zeros(4, 1, 8, 8), torch.zeros(3), 2, "labels"),
     (torch.zeros(4, 1, 8, 8), torch.zeros(4), 5, "batch")],
)  # fmt: skip
def test_training_refuses(x, labels, batch, message):
    with pytest.raises(ValueError, match=message):
        method.fit(
            method.black_box(2, seeding.torch_rng(0), (1, 8)), x, labels.long(), seeding.torch_rng(0), steps=1, batch=batch, lr=0.1
        )
