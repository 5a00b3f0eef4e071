"""The process against simulation and closed forms, `do` against the process itself, and how the networks are wired."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch.nn import functional as F

from replications.timeseries.causal_market_simulator import method

RNG = np.random.default_rng


def generator(seed: int = 0) -> torch.Generator:
    torch.set_num_threads(1)
    return torch.Generator().manual_seed(seed)


class Truth:
    """The process as a simulator: its noise is z, its state the last values."""

    def start(self, n):
        return method.State([], [torch.zeros(n), torch.zeros(n)])

    def step(self, z, state, x=None):
        before_x, before_y = state.past
        now_x = 0.8 * before_x + 0.5 * z[0, :, 0] if x is None else torch.full_like(before_x, x)
        now_y = 0.5 * before_x + 0.7 * before_y + 0.6 * z[1, :, 0]
        return torch.stack([now_x, now_y], dim=-1), method.State([], [now_x, now_y])


# ---------------------------------------------------------------- the process


def test_the_released_path():
    """The first rows of the authors' file: numpy's legacy seed 0, X and Y drawn in turn."""
    path = method.simulate(np.random.RandomState(0).randn(50, 2))
    np.testing.assert_allclose(path[0], [1.764052, 0.400157], atol=1e-6)
    noise = np.random.RandomState(0).randn(50, 2)
    x, y = noise[0]
    for t in range(1, 50):
        x, y = 0.8 * x + 0.5 * noise[t, 0], 0.5 * x + 0.7 * y + 0.6 * noise[t, 1]
        np.testing.assert_allclose(path[t], [x, y])


def test_moments_and_laws_agree_with_a_long_path():
    path = method.simulate(RNG(0).standard_normal((400_000, 2)))[100:]
    np.testing.assert_allclose(np.cov(path.T), method.stationary_covariance(), rtol=0.02)
    now, later = path[:-1], path[1:, 1]
    for x in (1.0, -1.0):
        near = np.abs(now[:, 0] - x) < 0.05
        mean, sd = method.see_law(x)
        assert later[near].mean() == pytest.approx(mean, abs=0.03) and later[near].std() == pytest.approx(sd, rel=0.03)
        acted = 0.5 * x + 0.7 * now[:, 1] + 0.6 * RNG(1).standard_normal(len(now))
        mean, sd = method.do_law(x)
        assert acted.mean() == pytest.approx(mean, abs=0.02) and acted.std() == pytest.approx(sd, rel=0.01)


def test_probabilities_of_the_papers_queries():
    assert method.exceeds(method.do_law(0), 0) == method.exceeds(method.see_law(0), 0) == 0.5
    assert method.exceeds(method.do_law(-2), 2) == pytest.approx(norm.sf(3 / np.sqrt(0.49 * 1.91280452 + 0.36)), rel=1e-6)
    assert method.exceeds(method.do_law(1), 0) == pytest.approx(0.670, abs=5e-4)
    assert method.exceeds(method.see_law(1), 0) == pytest.approx(0.870, abs=5e-4)


def test_windows_and_the_cut_arrow():
    path = method.simulate(RNG(0).standard_normal((5000, 2)))
    series = method.windows(path, 6)
    assert series.shape == (4995, 6, 2) and (series[7] == path[7:13]).all()
    cut = method.cut_arrow(series, RNG(1))
    assert (cut[..., 1] == series[..., 1]).all() and (np.sort(cut[:, 0, 0]) == np.sort(series[:, 0, 0])).all()
    rows = {row.tobytes() for row in series[..., 0]}
    assert all(row.tobytes() in rows for row in cut[..., 0])  # each X part is a whole one
    a, _ = method.fit_var(cut)
    assert abs(a[1, 0]) < 0.05 and a[0, 0] == pytest.approx(0.8, abs=0.03)


def test_var_finds_the_process():
    a, b = method.fit_var(method.windows(10 + method.simulate(RNG(0).standard_normal((50_000, 2))), 6))
    np.testing.assert_allclose(a, [[0.8, 0], [0.5, 0.7]], atol=0.01)
    np.testing.assert_allclose(b, [0.5, 0.6], rtol=0.01)


# ---------------------------------------------------------------- interventions


def test_do_on_the_process_itself_is_the_closed_form():
    z = torch.randn(2, 20_000, 40, 1, generator=generator())
    y = method.do(Truth(), [1.0, -2.0], z)
    assert y.shape == (2, 39, 20_000)
    for v, row in zip([1.0, -2.0], y[:, -1], strict=True):
        assert (row > 0).float().mean().item() == pytest.approx(method.exceeds(method.do_law(v), 0), abs=0.01)


def test_do_is_a_plain_rollout_with_one_value_replaced():
    net = method.CausalVAE(16, generator())
    z = torch.randn(2, 50, 5, 8, generator=generator(1))
    found = method.do(net, [0.7], z)
    for t in range(4):
        state = net.start(50)
        for s in range(t + 2):
            values, state = net.step(z[:, :, s], state, 0.7 if s == t else None)
        torch.testing.assert_close(found[0, t], values[:, 1])


def test_acting_after_y_leaves_y_of_the_same_step():
    net = method.CausalVAE(16, generator())
    z = torch.randn(2, 50, 3, 8, generator=generator(1))
    found = method.do(net, [2.0], z, after_y=True)
    for t in range(2):
        state = net.start(50)
        for s in range(t):
            state = net.step(z[:, :, s], state)[1]
        values = net.step(z[:, :, t], state)[0]
        acted = net.step(z[:, :, t], state, 2.0)[1]
        kept = method.State(acted.hidden, [net.embed[0](torch.full((50, 1), 2.0)), net.embed[1](values[:, 1:])])
        torch.testing.assert_close(found[0, t], net.step(z[:, :, t + 1], kept)[0][:, 1])
    assert not torch.equal(found, method.do(net, [2.0], z))
    z = torch.randn(2, 50, 4, 1, generator=generator(2))  # the process has no arrow within a step: the order is all one
    assert torch.equal(method.do(Truth(), [1.0], z), method.do(Truth(), [1.0], z, after_y=True))


def test_acting_on_x_moves_y_along_the_arrow_alone():
    z = torch.randn(2, 50, 4, 8, generator=generator(1))
    low, high = method.do(method.CausalVAE(16, generator()), [-3.0, 3.0], z)
    assert (low - high).abs().max() > 1e-3
    low, high = method.do(method.CausalVAE(16, generator(), parents=method.Y_TO_X), [-3.0, 3.0], z)
    assert torch.equal(low, high)  # Y has no parent: whatever X is set to, it stays bit by bit


def test_a_mechanism_sees_its_parent_now_and_before():
    net = method.CausalVAE(16, generator())
    z, n = torch.randn(2, 50, 3, 8, generator=generator(1)), 50
    values, state = net.step(z[:, :, 0], net.start(n))
    acted, after = net.step(z[:, :, 0], net.start(n), 2.0)
    assert (acted[:, 0] == 2).all() and not torch.equal(acted[:, 1], values[:, 1])  # now
    swapped = method.State(state.hidden, [after.past[0], state.past[1]])
    plain, moved = (net.step(z[:, :, 1], s, 0.0)[0][:, 1] for s in (state, swapped))
    assert not torch.equal(plain, moved)  # before, with X of now held
    own = method.State(state.hidden, [state.past[0], state.past[1] + 1])
    assert not torch.equal(plain, net.step(z[:, :, 1], own, 0.0)[0][:, 1])


def test_without_memory_steps_are_alike_and_independent():
    net = method.CausalVAE(16, generator(), memory=False)
    z = torch.randn(2, 50, 4, 8, generator=generator(1))
    s = net.decode(z)
    torch.testing.assert_close(net.decode(z.flip(2)), s.flip(1))
    remembering = method.CausalVAE(16, generator())
    assert not torch.allclose(remembering.decode(z.flip(2)), remembering.decode(z).flip(1))


@pytest.mark.parametrize("make", [lambda g: method.CausalVAE(16, g), lambda g: method.ConditionalVAE(12, g)])
def test_the_future_never_moves_the_past(make):
    net = make(generator())
    s = torch.randn(20, 6, 2, generator=generator(1))
    later = s.clone()
    later[:, 4:] += 1
    (mean, log_variance), (moved, _) = net.encode(s), net.encode(later)
    assert torch.equal(mean[:, :, :4], moved[:, :, :4]) and not torch.allclose(mean[:, :, 4:], moved[:, :, 4:])
    z = method.reparameterise(mean, log_variance, net.noise(20, 6, generator(2)))
    changed = z.clone()
    changed[:, :, 4:] += 1
    assert torch.equal(net.decode(z)[:, :4], net.decode(changed)[:, :4])


def test_each_encoder_sees_its_variable_and_its_parents():
    net = method.CausalVAE(16, generator())
    s = torch.randn(20, 6, 2, generator=generator(1))
    base = net.encode(s)[0]
    other_y, other_x = s * torch.tensor([1.0, -1.0]), s * torch.tensor([-1.0, 1.0])
    assert torch.equal(net.encode(other_y)[0][0], base[0]) and not torch.allclose(net.encode(other_y)[0][1], base[1])
    assert not torch.allclose(net.encode(other_x)[0][1], base[1])


def test_conditional_do_decodes_the_new_history_and_a_fresh_step():
    class Echo(method.ConditionalVAE):
        """Codes are the series themselves without spread, and decoding adds up what came before."""

        def encode(self, s):
            return s[None], torch.full_like(s, -200.0)[None]

        def decode(self, z):
            return z[0].cumsum(dim=1).flip(-1)  # Y of the answer is X of the codes, added up

    net = Echo(2, generator())
    found = net.do([5.0, 0.0], 30, 4, generator(3))
    assert found.shape == (2, 3, 30)
    torch.testing.assert_close(found[0] - found[1], torch.full((3, 30), 5.0))


# ---------------------------------------------------------------- training


class Flat(torch.nn.Module):
    """Codes of fixed mean and log variance, a decoder that says 0."""

    def __init__(self, mean: float, log_variance: float):
        super().__init__()
        self.code = (mean, log_variance)

    def encode(self, s):
        return tuple(torch.full((2, len(s), s.shape[1], 3), v) for v in self.code)

    def decode(self, z):
        return torch.zeros(z.shape[1], z.shape[2], 2)


def test_loss_by_hand():
    s = torch.full((7, 6, 2), 2.0)
    error = 6 * 2 * 4.0  # steps, columns, squares
    kl = 2 * 3 * 0.5 * (1.5**2 + np.exp(0.4) - 1 - 0.4)  # variables, latents
    noise = torch.randn(2, 7, 6, 3, generator=generator())
    assert method.loss(Flat(1.5, 0.4), s, noise).item() == pytest.approx(error + 0.5 * kl, rel=1e-5)
    released = method.loss(Flat(1.5, 0.4), s, noise, mean_over_time=True).item()
    assert released == pytest.approx(error / 6 + 0.5 * kl, rel=1e-5)
    assert method.loss(Flat(0.0, 0.0), 0 * s, noise).item() == 0


def test_reparameterisation_has_the_named_moments():
    noise = torch.randn(40_000, generator=generator())
    z = method.reparameterise(torch.full((40_000,), 3.0), torch.full((40_000,), np.log(4.0)), noise)
    assert z.mean().item() == pytest.approx(3, abs=0.05) and z.std().item() == pytest.approx(2, rel=0.02)


def plain_adam(net, series, g, steps, lr, batch):
    """What `train` promises, for one model and with torch's own clipping."""
    data = torch.as_tensor(series, dtype=torch.float32)
    optimiser, curve = torch.optim.Adam(net.parameters(), lr, betas=(0.5, 0.9)), []
    for i in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, 2 * (1 - i / steps))
        s = data[torch.randint(len(data), (batch,), generator=g)]
        value = method.loss(net, s, net.noise(batch, s.shape[1], g))
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        curve.append(value.item())
    return curve


def test_training_side_by_side_is_training_one_by_one():
    parts = [method.windows(method.simulate(RNG(seed).standard_normal((300, 2))), 3) for seed in (0, 1)]
    rngs = [generator(5), generator(6)]
    nets = [method.CausalVAE(4, g) for g in rngs]
    curves = method.train(nets, parts, rngs, steps=6, lr=1e-2, batch=32)
    assert curves.shape == (6, 2)
    for net, part, seed, curve in zip(nets, parts, (5, 6), curves.T, strict=True):
        g = generator(seed)
        alone = method.CausalVAE(4, g)
        np.testing.assert_allclose(curve, plain_adam(alone, part, g, 6, 1e-2, 32), rtol=1e-4)
        for mine, theirs in zip(net.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, atol=2e-3, rtol=1e-2)


def test_training_may_stop_on_the_way():
    part = method.windows(method.simulate(RNG(0).standard_normal((300, 2))), 3)
    curves = [
        method.train([method.CausalVAE(4, g, memory=False)], [part], [g], steps=8, lr=1e-2, batch=32, stop_after=stop)
        for g, stop in ((generator(5), None), (generator(5), 3))
    ]
    assert len(curves[1]) == 3 and (curves[1] == curves[0][:3]).all()


def part(net, name):
    """Weights and biases of a part of a network, by their names within it."""
    return {k.removeprefix(f"{name}."): v for k, v in net.state_dict().items() if k.startswith(f"{name}.")}


def linear(net, name, x):
    return F.linear(x, **part(net, name))


def recurrent(net, kind, layers, x, hidden=None):
    library = kind(24, 24, num_layers=layers, batch_first=True)
    library.load_state_dict(part(net, "recurrent"))
    return library(x, hidden)


def test_a_mechanism_layer_by_layer():
    torch.manual_seed(0)
    net, x, hidden = method.Mechanism(8, 1), torch.randn(5, 32), torch.randn(2, 5, 24)
    h = linear(net, "inlet.2", F.leaky_relu(linear(net, "inlet.0", x)))
    h, last = recurrent(net, torch.nn.GRU, 2, h[:, None], hidden)
    value = linear(net, "outlet.4", F.relu(linear(net, "outlet.2", F.relu(linear(net, "outlet.0", h[:, 0])))))
    assert part(net, "outlet.2")["weight"].shape == (16, 16)
    torch.testing.assert_close(net(list(x.split(8, dim=1)), hidden), (value[:, 0], last))
    model = method.CausalVAE(16, generator())
    v = torch.randn(5, 1)
    torch.testing.assert_close(model.embed[0](v), linear(model.embed, "0.2", F.relu(linear(model.embed, "0.0", v))))
    assert model.embed[0](v).shape == (5, 8)


@pytest.mark.parametrize(("mine", "kind", "act"), [
    (method.GRU, torch.nn.GRU, F.leaky_relu), (method.LSTM, torch.nn.LSTM, torch.tanh),
])  # fmt: skip
def test_an_encoder_layer_by_layer(mine, kind, act):
    torch.manual_seed(0)
    net, s = method.Encoder(2, 8, mine, torch.nn.Tanh() if act is torch.tanh else torch.nn.LeakyReLU()), torch.randn(5, 6, 2)
    inlet = act(linear(net, "inlet", s))
    both = torch.cat([recurrent(net, kind, 3, inlet)[0], inlet], dim=-1)
    h = act(linear(net, "second", torch.cat([act(linear(net, "first", both)), both], dim=-1)))
    heads = tuple(linear(net, f"{head}.2", act(linear(net, f"{head}.0", h))) for head in ("mean", "log_variance"))
    torch.testing.assert_close(net(s), heads)


def test_the_rivals_decoder_layer_by_layer():
    net, z = method.ConditionalVAE(12, generator()), torch.randn(1, 5, 6, 12, generator=generator(1))
    h = recurrent(net, torch.nn.LSTM, 3, torch.tanh(linear(net, "inlet", z[0])))[0]
    h = torch.cat([torch.tanh(linear(net, "first", h)), z[0]], dim=-1)
    torch.testing.assert_close(net.decode(z), linear(net, "outlet", torch.tanh(linear(net, "second", h))))


@pytest.mark.parametrize(("ours", "library"), [(method.GRU, torch.nn.GRU), (method.LSTM, torch.nn.LSTM)])
def test_plain_recurrences_are_those_of_torch(ours, library):
    torch.manual_seed(0)
    mine, theirs = ours(5, 5, num_layers=2, batch_first=True), library(5, 5, num_layers=2, batch_first=True)
    theirs.load_state_dict(mine.state_dict())
    x, hidden = torch.randn(7, 4, 5), torch.randn(2, 7, 5)
    torch.testing.assert_close(mine(x)[0], theirs(x)[0])
    if ours is method.GRU:
        for a, b in zip(mine(x, hidden), theirs(x, hidden), strict=True):
            torch.testing.assert_close(a, b)


def test_bad_input_is_named():
    for noise in (np.zeros((5, 3)), np.full((5, 2), np.nan)):
        with pytest.raises(ValueError, match=r"noise must be finite, of shape \(n, 2\)"):
            method.simulate(noise)
    with pytest.raises(ValueError, match="series must be finite"):
        method.fit_var(np.zeros((5, 6)))
    with pytest.raises(ValueError, match="latent must be even and positive, not 7"):
        method.CausalVAE(7, generator())
    for values, steps in (([], 3), ([1.0], 1)):
        with pytest.raises(ValueError, match="values must not be empty and z of shape"):
            method.do(Truth(), values, torch.zeros(2, 5, steps, 1))
    with pytest.raises(ValueError, match="path must be finite"):
        method.windows(np.full((9, 2), np.nan), 6)
    with pytest.raises(ValueError, match="n >= 6"):
        method.windows(np.zeros((5, 2)), 6)
    with pytest.raises(ValueError, match="series must be finite"):
        method.train([torch.nn.Linear(1, 1)], [np.zeros((5, 6))], [generator()], steps=1, lr=0.1, batch=2)
    with pytest.raises(ValueError, match="must be equally many, not 1, 0 and 1"):
        method.train([torch.nn.Linear(1, 1)], [], [generator()], steps=1, lr=0.1, batch=2)
