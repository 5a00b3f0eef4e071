"""Speech enhancement with diffusion: the process, the sampler, the exact score and the network."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from replications.audio.sgmse import method
from shared import seeding

PROCESS = method.Process()


def test_mean_and_sd_solve_the_equations_of_the_process():
    """Moments of a linear SDE: m' = gamma (y - m), v' = -2 gamma v + g^2."""
    for process in (PROCESS, method.Process(gamma=0, s_max=1.0), method.Process(gamma=0.7, s_min=0.1, s_max=0.3)):

        def rates(t, state, process=process):
            g = process.g(torch.tensor(t, dtype=torch.float64)).item()
            return [process.gamma * (2.0 - state[0]), -2 * process.gamma * state[1] + g**2]

        found = solve_ivp(rates, (0, 1), [5.0, 0.0], t_eval=[0.3, 1.0], rtol=1e-8, atol=1e-10).y
        t = torch.tensor([0.3, 1.0], dtype=torch.float64)
        assert np.allclose(process.kept(t) * 5 + (1 - process.kept(t)) * 2, found[0], rtol=1e-5)
        assert np.allclose(process.sd(t) ** 2, found[1], rtol=1e-5)
        assert process.sd(torch.zeros(1, dtype=torch.float64)) == 0


def test_the_papers_numbers():
    one = torch.ones(1)
    assert PROCESS.kept(one).item() == pytest.approx(0.223, abs=5e-4)
    assert PROCESS.sd(one).item() == pytest.approx(0.389, abs=5e-4)


def test_complex_normal_has_unit_variance_in_all():
    z = method.complex_normal((200_000,), seeding.torch_rng(0))
    assert z.abs().square().mean().item() == pytest.approx(1, abs=0.01)
    assert z.real.var().item() == pytest.approx(0.5, abs=0.01)


def test_perturbed_is_mean_plus_noise():
    rng = seeding.torch_rng(1)
    x0, y, z = (method.complex_normal((2, 3, 4), rng) for _ in range(3))
    t = torch.tensor([0.2, 0.9])
    made = method.perturbed(PROCESS, x0, y, t, z)
    for i in range(2):
        kept = np.exp(-1.5 * t[i].item())
        assert torch.allclose(made[i], kept * x0[i] + (1 - kept) * y[i] + PROCESS.sd(t[i]) * z[i], atol=1e-6)


def reference(score, start, y, noise, steps, corrector, r=0.5, eps=0.03):
    """The sampler once more, in numpy and scalar times, after the paper's algorithm: start + s z, then correct and predict."""
    ratio, gamma, low = np.log(10.0), 1.5, 0.05
    sd = lambda t: np.sqrt(low**2 * (10 ** (2 * t) - np.exp(-2 * gamma * t)) * ratio / (gamma + ratio))  # noqa: E731
    times = [1 - (1 - eps) * k / (steps - 1) for k in range(steps)]
    x = start + sd(1.0) * next(noise)
    for k, t in enumerate(times):
        width = times[k + 1] if k + 1 < steps else 0.0
        if corrector:
            step = (r * sd(t)) ** 2 * 2
            x = x + step * score(x, t) + np.sqrt(2 * step) * next(noise)
        diffusion = low * 10**t * np.sqrt(2 * ratio) * np.sqrt(t - width)
        mean = x - (gamma * (y - x) * (t - width) - diffusion**2 * score(x, t))
        x = mean + diffusion * next(noise)
    return mean


@pytest.mark.parametrize("corrector", [True, False])
def test_sampler_is_the_papers_step_by_step(corrector):
    rng = seeding.torch_rng(2)
    y = method.complex_normal((2, 5, 7), rng)
    stock = [method.complex_normal(y.shape, rng) for _ in range(30)]
    score = lambda x, t: -(x - 0.4 * y) / (0.3 + t**2)  # noqa: E731
    drawn = iter(stock)
    made = method.sample(score, y, y, PROCESS, lambda: next(drawn), 8, corrector=corrector)
    wanted = reference(
        lambda x, t: -(x - 0.4 * y.numpy()) / (0.3 + t**2), y.numpy(), y.numpy(), iter(z.numpy() for z in stock), 8, corrector
    )
    assert np.allclose(made.numpy(), wanted, atol=1e-5)
    assert len(list(drawn)) == 30 - (1 + 8 * (1 + corrector))


def test_sampler_starts_where_told_and_drifts_where_told():
    y, elsewhere = torch.full((1, 2, 2), 1.0 + 0j), torch.full((1, 2, 2), 3.0 + 0j)
    seen, still = [], lambda: torch.zeros_like(y)
    flat = method.sample(lambda x, t: 0 * x, y, y, PROCESS, still, 4, watch=lambda t, x: seen.append((t.item(), x)))
    assert torch.allclose(flat, y) and torch.equal(seen[0][1], y)
    assert [t for t, _ in seen] == pytest.approx(np.linspace(1, 0.03, 4))
    assert (method.sample(lambda x, t: 0 * x, y, elsewhere, PROCESS, still, 4).real < 1).all()  # backward: away from it
    seen.clear()
    method.sample(lambda x, t: 0 * x, y, y, PROCESS, still, 3, t_start=0.5, watch=lambda t, x: seen.append((t.item(), x)))
    assert seen[0][0] == pytest.approx(0.5)


def test_exact_score_is_the_gradient_of_the_log_density():
    """With real and imaginary part as variables the score of the complex convention is half the gradient."""
    weights, variances, noise, t = torch.tensor([0.7, 0.3]), torch.tensor([0.02, 0.4]), 0.1, torch.tensor([0.4])
    y = torch.tensor([0.3 - 0.2j, -1.0 + 0.1j])
    parts = torch.tensor([[0.1, 0.2], [-0.7, 0.4]], requires_grad=True)
    kept, sd = PROCESS.kept(t), PROCESS.sd(t)

    def density(x):  # by its definition: integrate out x0 on each component, p(x_t, y)
        total = 0
        for w, v in zip(weights, variances, strict=True):
            # (x_t, y) is jointly normal given the component: covariance from x0 ~ v, y = x0 + n, x_t = kept x0 + (1 - kept) y + s z
            a = torch.stack([v + (1 - kept) ** 2 * noise + sd**2, v + (1 - kept) * noise, v + noise * torch.ones(1)])
            determinant = a[0] * a[2] - a[1] ** 2
            form = (a[2] * x.abs() ** 2 - 2 * a[1] * (x * y.conj()).real + a[0] * y.abs() ** 2) / determinant
            total = total + w * torch.exp(-form) / determinant
        return total

    density(torch.complex(parts[:, 0], parts[:, 1])).log().sum().backward()
    mine = method.mixture_score(PROCESS, torch.complex(parts[:, 0], parts[:, 1]).detach(), y, t, weights, variances, noise)
    assert torch.allclose(torch.view_as_real(mine), parts.grad / 2, rtol=1e-3, atol=1e-4)


def test_exact_posterior_mean_is_wieners_for_one_component():
    y = torch.tensor([1 + 2j, -0.3j])
    assert torch.allclose(method.mixture_posterior(y, torch.ones(1), torch.tensor([0.3]), 0.1), 0.75 * y)
    two = method.mixture_posterior(torch.tensor([5.0 + 0j, 0.01 + 0j]), torch.tensor([0.5, 0.5]), torch.tensor([1e-6, 1.0]), 0.01)
    assert two[0].real.item() == pytest.approx(5 / 1.01, rel=1e-3) and abs(two[1]) < 0.001


def test_reverse_sampling_with_the_exact_score_gives_the_posterior():
    rng, v, noise = seeding.torch_rng(4), torch.tensor([0.25]), 0.1
    x0 = v.sqrt() * method.complex_normal((20_000,), rng)
    y = x0 + noise**0.5 * method.complex_normal(x0.shape, rng)
    kept = PROCESS.kept(torch.ones(1))
    score = lambda x, t: method.mixture_score(PROCESS, x, y, t, torch.ones(1), v, noise)  # noqa: E731
    made = method.sample(score, kept * x0 + (1 - kept) * y, y, PROCESS, lambda: method.complex_normal(y.shape, rng), 100)
    gain, left = 0.25 / 0.35, 0.25 * 0.1 / 0.35
    assert ((made * y.conj()).real.mean() / y.abs().square().mean()).item() == pytest.approx(gain, rel=0.03)
    assert (made - gain * y).abs().square().mean().item() == pytest.approx(left, rel=0.06)


@pytest.mark.parametrize("multi", [True, False])
def test_network_keeps_shapes_and_starts_at_nothing(multi):
    net = method.Net(4, multi, seeding.torch_rng(5))
    x = torch.randn(2, 4, 256, 16, generator=seeding.torch_rng(6))
    out = net(x, torch.tensor([0.1, 0.9]))
    assert out.shape == (2, 2, 256, 16) and (out == 0).all()


def test_plain_and_multi_resolution_networks_weigh_the_same():
    sizes = [sum(p.numel() for p in method.Net(4, multi, seeding.torch_rng(0)).parameters()) for multi in (True, False)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


def trained_a_little(inputs: int, multi: bool = True) -> method.Net:
    """A network with weights that make it say something."""
    net, rng = method.Net(inputs, multi, seeding.torch_rng(7)), seeding.torch_rng(8)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=rng))
    return net.requires_grad_(False)


def test_network_puts_cells_back_where_they_were():
    """A network that only copies its first two channels returns them: unfolding and folding are inverse."""
    net = method.Net(2, False, seeding.torch_rng(0)).requires_grad_(False)
    for p in net.parameters():
        p.zero_()
    for i in range(16):
        net.first.weight[i, i, 1, 1], net.first.weight[16 + i, i, 1, 1] = 1, -1
        net.write[0].weight[i, i, 1, 1], net.write[0].weight[i, 16 + i, 1, 1] = 1, -1  # silu(x) - silu(-x) = x
    x = torch.randn(1, 2, 256, 16, generator=seeding.torch_rng(9))
    assert torch.allclose(net(x, torch.zeros(1)), x, atol=1e-5)


def test_network_depends_on_time_and_all_resolutions_write():
    net = trained_a_little(4)
    x = torch.randn(1, 4, 256, 16, generator=seeding.torch_rng(6))
    assert not torch.allclose(net(x, torch.tensor([0.1])), net(x, torch.tensor([0.5])))
    for level in range(3):
        before, kept = net(x, torch.tensor([0.1])), net.write[level].bias.clone()
        net.write[level].bias += 1
        assert torch.allclose(net(x, torch.tensor([0.1])) - before, torch.ones(1), atol=1e-4)
        net.write[level].bias.copy_(kept)
    seen, read = net(x, torch.tensor([0.1])), net.read[1].weight.clone()
    net.read[1].weight.zero_()
    assert not torch.allclose(net(x, torch.tensor([0.1])), seen) and read.abs().sum() > 0


def test_block_scales_and_shifts_what_it_normalised():
    """With convolutions that copy, a scale of -1 leaves the shift alone, and a shift adds to what is normalised."""
    block = method.Block(4, 1).requires_grad_(False)
    for conv in block.convs:
        conv.weight.zero_(), conv.bias.zero_()
        conv.weight[range(4), range(4), 1, 1] = 1
    block.film.weight.zero_()
    x, one = torch.randn(1, 4, 8, 8, generator=seeding.torch_rng(14)), torch.ones(1, 1)
    norm, silu = block.norms[0], torch.nn.functional.silu
    for scale, shift in ((0.0, 0.0), (-1.0, 0.5), (1.0, 2.0)):
        block.film.bias[:4], block.film.bias[4:] = scale, shift
        first = silu(norm(x) * (1 + scale) + shift)
        assert torch.allclose(block(x, one), x + silu(block.norms[1](first)), atol=1e-5)


def test_an_empty_network_guesses_the_noise_as_if_all_were_normal():
    """Regression of z on x_t where x0 - y is CN(0, spread^2): least squares over many bins gives the same factor."""
    net, rng, spread, t = method.Net(4, True, seeding.torch_rng(0)), seeding.torch_rng(10), 0.2, torch.tensor([0.4])
    y, z = (method.complex_normal((1, 256, 16), rng) for _ in range(2))
    x0 = y + spread * method.complex_normal(y.shape, rng)
    to = method.complex_normal(y.shape, rng)
    x = method.perturbed(PROCESS, x0, to, t, z)
    with torch.no_grad():
        guess = method.estimated_noise(net, PROCESS, x, y, to, t, spread)
        factor = (guess * z.conj()).real.mean() / guess.abs().square().mean()
        assert factor.item() == pytest.approx(1, abs=0.05)  # the best linear guess leaves nothing correlated
        loss = method.score_loss(net, PROCESS, x0, y, to, t, z, spread)
        own = (PROCESS.kept(t) * spread) ** 2
        assert loss.item() == pytest.approx((own / (own + PROCESS.sd(t) ** 2)).item(), rel=0.05)
        assert torch.equal(method.regressed(method.Net(2, True, seeding.torch_rng(0)), y, spread), y)


def test_what_the_network_adds_has_the_scale_of_the_guess_error():
    spread, t = 0.2, torch.tensor([0.4])
    y, x, to = (method.complex_normal((1, 256, 8), seeding.torch_rng(k)) for k in (11, 12, 13))
    seen = []

    def net(channels, times):
        seen.append((channels, times))
        return torch.ones(1, 2, 256, 8)

    added = method.estimated_noise(net, PROCESS, x, y, to, t, spread) - method.estimated_noise(
        lambda c, t: torch.zeros(1, 2, 256, 8), PROCESS, x, y, to, t, spread
    )
    own, kept = (PROCESS.kept(t) * spread) ** 2, PROCESS.kept(t)
    v = own + PROCESS.sd(t) ** 2
    assert torch.allclose(added, ((own / v).sqrt() * torch.tensor([1 + 1j])).expand_as(added), atol=1e-6)
    channels, times = seen[0]
    off = (x - kept * y - (1 - kept) * to) / v.sqrt()
    assert torch.allclose(channels[:, 0], off.real, atol=1e-6) and torch.allclose(channels[:, 3], y.imag / spread) and times is t
    made = method.regressed(lambda c, t: torch.ones(1, 2, 256, 8), y, spread)
    assert torch.allclose(made, y + spread * (1 + 1j))
    assert method.regression_loss(lambda c, t: torch.ones(1, 2, 256, 8), y, y, spread).item() == pytest.approx(2)


def test_bad_input_is_told():
    y = torch.zeros(1, 2, 2, dtype=torch.complex64)
    for wrong in ({"steps": 0}, {"steps": 3, "t_end": 0.0}, {"steps": 3, "t_start": 0.01}):
        with pytest.raises(ValueError, match="steps must be"):
            method.sample(lambda x, t: x, y, y, PROCESS, lambda: y, **wrong)
    with pytest.raises(ValueError, match="around"):
        method.sample(lambda x, t: x, y + float("nan"), y, PROCESS, lambda: y, 3)
