"""Time-series Neural Causal Model VAE (Thumm & Ontaneda Mijares 2025), its rivals, and the truth of its test process.

Series are (n, window, 2): column X drives column Y. "Released code" is the authors' repository, read and not copied.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy.linalg import solve_discrete_lyapunov
from scipy.signal import lfilter
from scipy.stats import norm
from torch import Generator, Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

Array = np.ndarray
X, Y = 0, 1
# s_t = A s_{t-1} + B noise_t: X reverts to 0 at speed .2, Y at .3, and X of the step before pushes Y
A = np.array([[0.8, 0.0], [0.5, 0.7]])
B = np.array([0.5, 0.6])
HIDDEN, EMBEDDED = 24, 8  # widths of the released code
RECURRENT = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # torch's names, one of each a layer
BETA = 0.5  # weight of the KL term, hard-coded in the released code

Parents = tuple[tuple[int, ...], tuple[int, ...]]
X_TO_Y: Parents = ((), (X,))
Y_TO_X: Parents = ((Y,), ())


# ---------------------------------------------------------------- the process and its truth


def simulate(noise: Array) -> Array:
    """A path (n, 2) from standard normal noise (n, 2); it starts at s_0 = noise_0, as the released file does.

    Raises ValueError for noise of another shape or not finite.
    """
    if noise.ndim != 2 or noise.shape[1] != 2 or len(noise) < 2 or not np.isfinite(noise).all():
        raise ValueError(f"noise must be finite, of shape (n, 2) with n > 1, not {noise.shape}")
    # X_t = .8 X_{t-1} + .5 eta_t
    x = lfilter([1], [1, -A[X, X]], np.r_[noise[0, X], B[X] * noise[1:, X]])
    # Y_t = .7 Y_{t-1} + .5 X_{t-1} + .6 eps_t
    y = lfilter([1], [1, -A[Y, Y]], np.r_[noise[0, Y], A[Y, X] * x[:-1] + B[Y] * noise[1:, Y]])
    return np.stack([x, y], axis=1)


def stationary_covariance(a: Array = A, b: Array = B) -> Array:
    """Covariance (2, 2) of s_t once the start is forgotten: S = a S a' + diag(b^2)."""
    return solve_discrete_lyapunov(a, np.diag(b**2))


def do_law(x: float, a: Array = A, b: Array = B) -> tuple[float, float]:
    """Mean and standard deviation of Y_{t+1} given do(X_t = x): Y_t keeps its own law, so N(a_yx x, a_yy^2 Var Y + b_y^2)."""
    variance = stationary_covariance(a, b)[Y, Y]
    return float(a[Y, X] * x), float(np.sqrt(a[Y, Y] ** 2 * variance + b[Y] ** 2))


def see_law(x: float, a: Array = A, b: Array = B) -> tuple[float, float]:
    """Mean and standard deviation of Y_{t+1} where X_t = x is merely seen: then Y_t follows X_t, their past being common."""
    s = stationary_covariance(a, b)
    slope = s[X, Y] / s[X, X]
    return float((a[Y, X] + a[Y, Y] * slope) * x), float(np.sqrt(a[Y, Y] ** 2 * (s[Y, Y] - slope * s[X, Y]) + b[Y] ** 2))


def exceeds(law: tuple[float, float], c: float) -> float:
    """P(Y > c), in [0, 1], of a normal law (mean, standard deviation)."""
    return float(norm.sf(c, *law))


def windows(path: Array, length: int) -> Array:
    """All windows (n - length + 1, length, 2) of a path (n, 2). Raises ValueError for a path that is shorter or not finite."""
    if path.ndim != 2 or path.shape[1] != 2 or len(path) < length or not np.isfinite(path).all():
        raise ValueError(f"path must be finite, of shape (n, 2) with n >= {length}, not {path.shape}")
    return np.ascontiguousarray(sliding_window_view(path, length, axis=0).transpose(0, 2, 1))


def cut_arrow(series: Array, rng: np.random.Generator) -> Array:
    """Windows (n, w, 2) in which X comes from another window than Y: each keeps its own dynamics, nothing joins them."""
    cut = series.copy()
    cut[..., X] = series[rng.permutation(len(series)), :, X]
    return cut


def fit_var(series: Array) -> tuple[Array, Array]:
    """Least squares over the steps of windows (n, w, 2): a (2, 2) and the residuals' standard deviations b (2,).

    Raises ValueError for series of another shape or not finite.
    """
    if series.ndim != 3 or series.shape[1] < 2 or series.shape[2] != 2 or not np.isfinite(series).all():
        raise ValueError(f"series must be finite, of shape (n, w > 1, 2), not {series.shape}")
    before, after = series[:, :-1].reshape(-1, 2), series[:, 1:].reshape(-1, 2)
    design = np.column_stack([before, np.ones(len(before))])
    coefficients = np.linalg.lstsq(design, after, rcond=None)[0]  # (3, 2)
    return coefficients[:2].T, (after - design @ coefficients).std(axis=0)


# ---------------------------------------------------------------- the networks


def _initialise(net: nn.Module, rng: Generator) -> None:
    """Xavier normal weights, biases 0, as the released causal model has them (its rival keeps torch's own)."""
    for p in net.parameters():
        if p.ndim > 1:
            nn.init.xavier_normal_(p, generator=rng)
        else:
            nn.init.zeros_(p)


class GRU(nn.GRU):
    """torch's GRU in plain operations: `vmap`, by which networks are trained side by side, has no rule for the fused one."""

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs (n, w, h) and last hidden states (layers, n, h) from x (n, w, h)."""
        if hidden is None:
            hidden = x.new_zeros(self.num_layers, len(x), self.hidden_size)
        last = []
        for layer, h in enumerate(hidden):
            w_in, w_hidden, b_in, b_hidden = (getattr(self, f"{name}_l{layer}") for name in RECURRENT)
            inputs, steps = F.linear(x, w_in, b_in), []
            for t in range(x.shape[1]):
                reset_i, keep_i, new_i = inputs[:, t].chunk(3, dim=-1)
                reset_h, keep_h, new_h = F.linear(h, w_hidden, b_hidden).chunk(3, dim=-1)
                new = torch.tanh(new_i + torch.sigmoid(reset_i + reset_h) * new_h)
                h = new + torch.sigmoid(keep_i + keep_h) * (h - new)
                steps.append(h)
            x = torch.stack(steps, dim=1)
            last.append(h)
        return x, torch.stack(last)


class LSTM(nn.LSTM):
    """torch's LSTM in plain operations, likewise; it starts from zero."""

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Outputs (n, w, h) from x (n, w, h)."""
        for layer in range(self.num_layers):
            w_in, w_hidden, b_in, b_hidden = (getattr(self, f"{name}_l{layer}") for name in RECURRENT)
            h = c = x.new_zeros(len(x), self.hidden_size)
            inputs, steps = F.linear(x, w_in, b_in), []
            for t in range(x.shape[1]):
                i, f, g, o = (inputs[:, t] + F.linear(h, w_hidden, b_hidden)).chunk(4, dim=-1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
                steps.append(h)
            x = torch.stack(steps, dim=1)
        return x, None


class Encoder(nn.Module):
    """q(z | s): mean and log variance (n, w, latent) from series (n, w, inputs); z_t sees the series up to t alone."""

    def __init__(self, inputs: int, latent: int, cell: type[GRU | LSTM], act: nn.Module):
        super().__init__()
        self.act = act
        self.inlet = nn.Linear(inputs, HIDDEN)
        self.recurrent = cell(HIDDEN, HIDDEN, num_layers=3, batch_first=True)
        self.first, self.second = nn.Linear(2 * HIDDEN, HIDDEN), nn.Linear(3 * HIDDEN, HIDDEN)
        self.mean, self.log_variance = (nn.Sequential(nn.Linear(HIDDEN, HIDDEN), act, nn.Linear(HIDDEN, latent)) for _ in range(2))

    def forward(self, s: Tensor) -> tuple[Tensor, Tensor]:
        inlet = self.act(self.inlet(s))
        both = torch.cat([self.recurrent(inlet)[0], inlet], dim=-1)  # (n, w, 2 HIDDEN)
        h = self.act(self.second(torch.cat([self.act(self.first(both)), both], dim=-1)))
        return self.mean(h), self.log_variance(h)


def reparameterise(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """z = mean + exp(log_variance / 2) e with e ~ N(0, I), all of one shape."""
    return mean + torch.exp(0.5 * log_variance) * noise


class Mechanism(nn.Module):
    """One structural equation over time: V_t = f(z_t, parents at t, all that was before), f a recurrent network.

    Its input at t is z_t, V_{t-1}, and each parent at t - 1 and at t, the values embedded (the released one has the parent at t
    alone, and none at the first step). All of V's randomness is z.
    """

    def __init__(self, latent: int, n_parents: int):
        super().__init__()
        width, embedded = 2 * latent, EMBEDDED * (1 + 2 * n_parents)
        self.inlet = nn.Sequential(nn.Linear(latent + embedded, HIDDEN), nn.LeakyReLU(), nn.Linear(HIDDEN, HIDDEN))
        self.recurrent = GRU(HIDDEN, HIDDEN, num_layers=2, batch_first=True)
        self.outlet = nn.Sequential(
            nn.Linear(HIDDEN, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )  # fmt: skip

    def forward(self, inputs: list[Tensor], hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The value (n,) and the next hidden state (2, n, HIDDEN) from inputs (n, width each)."""
        h, hidden = self.recurrent(self.inlet(torch.cat(inputs, dim=-1))[:, None], hidden)  # h (n, 1, HIDDEN)
        return self.outlet(h[:, 0])[:, 0], hidden


class State(NamedTuple):
    """What a mechanism keeps between steps, one entry a variable."""

    hidden: list[Tensor]
    past: list[Tensor]  # the last values, embedded


class Simulator(Protocol):
    """What `do` needs: a state, and a step that may be acted upon."""

    def start(self, n: int) -> State: ...
    def step(self, z: Tensor, state: State, x: float | None = None) -> tuple[Tensor, State]: ...


class CausalVAE(nn.Module):
    """TNCM-VAE: an encoder and a mechanism per variable, joined along a graph of two nodes.

    latent is the width of z over both variables, half for each, so ValueError where it is odd or not positive. With memory=False
    a mechanism forgets every step before.
    """

    def __init__(self, latent: int, rng: Generator, *, parents: Parents = X_TO_Y, memory: bool = True):
        super().__init__()
        if latent < 2 or latent % 2:
            raise ValueError(f"latent must be even and positive, not {latent}")
        self.parents, self.memory, self.n_latents = parents, memory, latent // 2
        self.order = sorted((X, Y), key=lambda node: len(parents[node]))
        self.encoders = nn.ModuleList(Encoder(1 + len(p), latent // 2, GRU, nn.LeakyReLU()) for p in parents)
        self.mechanisms = nn.ModuleList(Mechanism(latent // 2, len(p)) for p in parents)
        self.embed = nn.ModuleList(nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, EMBEDDED)) for _ in parents)
        _initialise(self, rng)

    def encode(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each (2, n, w, latent / 2), of q(z^i | s^i and its parents)."""
        codes = [net(s[..., [*self.parents[i], i]]) for i, net in enumerate(self.encoders)]
        return torch.stack([mean for mean, _ in codes]), torch.stack([log_variance for _, log_variance in codes])

    def start(self, n: int) -> State:
        """The state before the first step: hidden states 2 x (2, n, HIDDEN), embeddings of the past 2 x (n, EMBEDDED)."""
        return State([torch.zeros(2, n, HIDDEN)] * 2, [torch.zeros(n, EMBEDDED)] * 2)

    def step(self, z: Tensor, state: State, x: float | None = None) -> tuple[Tensor, State]:
        """Values (n, 2) and the next state from z (2, n, latent / 2), parents first; under do(X = x) X is x, whatever it was."""
        values, hidden, embedded = [torch.empty(0)] * 2, [torch.empty(0)] * 2, [torch.empty(0)] * 2
        for i in self.order:
            of_parents = [e[j] for j in self.parents[i] for e in (state.past, embedded)]
            values[i], hidden[i] = self.mechanisms[i]([z[i], state.past[i], *of_parents], state.hidden[i])
            if i == X and x is not None:
                values[X] = torch.full_like(values[X], x)
            embedded[i] = self.embed[i](values[i][:, None])
        return torch.stack(values, dim=-1), State(hidden, embedded) if self.memory else state

    def decode(self, z: Tensor) -> Tensor:
        """Series (n, w, 2) from z (2, n, w, latent / 2)."""
        state, steps = self.start(z.shape[1]), []
        for t in range(z.shape[2]):
            values, state = self.step(z[:, :, t], state)
            steps.append(values)
        return torch.stack(steps, dim=1)

    def noise(self, n: int, window: int, rng: Generator) -> Tensor:
        """Standard normal z (2, n, window, latent / 2)."""
        return torch.randn(2, n, window, self.n_latents, generator=rng)

    def sample(self, n: int, window: int, rng: Generator) -> Tensor:
        """n series (n, window, 2) from z ~ N(0, I)."""
        return self.decode(self.noise(n, window, rng))

    def do(self, values: list[float], n: int, window: int, rng: Generator) -> Tensor:
        """Y_{t+1} given do(X_t = v) from z ~ N(0, I), (values, window - 1, n)."""
        return do(self, values, self.noise(n, window, rng))


def do(model: Simulator, values: list[float], z: Tensor, *, after_y: bool = False) -> Tensor:
    """Y_{t+1} given do(X_t = v) for every v and t, (values, w - 1, n), with the same z (2, n, w, latent) throughout.

    X_t is replaced before Y_t reads it; with after_y once Y_t was made, which then stays as it was (the released order).
    Raises ValueError without values, or for z of less than two steps.
    """
    if not values or z.ndim != 4 or z.shape[2] < 2:
        raise ValueError(f"values must not be empty and z of shape (2, n, w > 1, latent), not {values} and {tuple(z.shape)}")
    state, found = model.start(z.shape[1]), []
    for t in range(z.shape[2] - 1):
        plain = model.step(z[:, :, t], state)[1]
        acted = [model.step(z[:, :, t], state, v)[1] for v in values]
        if after_y:
            acted = [State(after.hidden, [after.past[X], plain.past[Y]]) for after in acted]
        found.append(torch.stack([model.step(z[:, :, t + 1], after)[0][:, Y] for after in acted]))
        state = plain
    return torch.stack(found, dim=1)


class ConditionalVAE(nn.Module):
    """The paper's rival: X and Y share one latent of width `latent` a step and know no graph; LSTMs and tanh, as released.

    Its encoder is the causal one, whose skips carry the embedded pair where the released one carries the pair itself.
    """

    def __init__(self, latent: int, rng: Generator):
        super().__init__()
        self.n_latents, self.act = latent, nn.Tanh()
        self.encoder = Encoder(2, latent, LSTM, self.act)
        self.inlet = nn.Linear(latent, HIDDEN)
        self.recurrent = LSTM(HIDDEN, HIDDEN, num_layers=3, batch_first=True)
        self.first, self.second = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN + latent, HIDDEN)
        self.outlet = nn.Linear(HIDDEN, 2)
        _initialise(self, rng)

    def encode(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (1, n, w, latent) of q(z | s)."""
        mean, log_variance = self.encoder(s)
        return mean[None], log_variance[None]

    def decode(self, z: Tensor) -> Tensor:
        """Series (n, w, 2) from z (1, n, w, latent)."""
        h = self.act(self.first(self.recurrent(self.act(self.inlet(z[0])))[0]))
        return self.outlet(self.act(self.second(torch.cat([h, z[0]], dim=-1))))

    def noise(self, n: int, window: int, rng: Generator) -> Tensor:
        """Standard normal z (1, n, window, latent)."""
        return torch.randn(1, n, window, self.n_latents, generator=rng)

    def sample(self, n: int, window: int, rng: Generator) -> Tensor:
        """n series (n, window, 2) from z ~ N(0, I)."""
        return self.decode(self.noise(n, window, rng))

    def do(self, values: list[float], n: int, window: int, rng: Generator) -> Tensor:
        """Y_{t+1} after X_t was overwritten, (values, window - 1, n).

        The model cannot be acted upon: as in the released code the series with the new X_t is encoded, a latent of the prior is
        put behind it, and the whole is decoded.
        """
        series, found = self.sample(n, window, rng), []
        for t in range(window - 1):
            later, branches = self.noise(n, 1, rng), []
            for v in values:
                clamped = series[:, : t + 1].clone()
                clamped[:, t, X] = v
                z = reparameterise(*self.encode(clamped), self.noise(n, t + 1, rng))
                branches.append(self.decode(torch.cat([z, later], dim=2))[:, t + 1, Y])
            found.append(torch.stack(branches))
        return torch.stack(found, dim=1)


# ---------------------------------------------------------------- training


def loss(model: nn.Module, s: Tensor, noise: Tensor, *, mean_over_time: bool = False) -> Tensor:
    """Squared error plus BETA times KL(q || N(0, I)) of windows s (n, w, 2), a scalar; noise as the model's `noise` draws it.

    The KL is averaged over steps; the error is summed over them for the causal model, and averaged, that is six times lighter
    at a window of 6, for the released conditional one (mean_over_time).
    """
    mean, log_variance = model.encode(s)
    error = (model.decode(reparameterise(mean, log_variance, noise)) - s) ** 2
    error = error.mean(dim=0).sum() / (s.shape[1] if mean_over_time else 1)
    # KL = -1/2 sum (1 + log v - m^2 - v)
    kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).mean(dim=(1, 2)).sum()
    return error + BETA * kl


class _Loss(nn.Module):
    """A model's loss as a module, which `functional_call` can run with other parameters."""

    def __init__(self, model: nn.Module, mean_over_time: bool):
        super().__init__()
        self.model, self.mean_over_time = model, mean_over_time

    def forward(self, s: Tensor, noise: Tensor) -> Tensor:
        return loss(self.model, s, noise, mean_over_time=self.mean_over_time)


def train(
    models: list[nn.Module], series: list[Array], rngs: list[Generator], *, steps: int, lr: float, batch: int,
    mean_over_time: bool = False, stop_after: int | None = None,
) -> Array:  # fmt: skip
    """Train alike models in place and side by side, each on its own windows (n, w, 2) with its own generator.

    Adam (betas .5, .9); each model's gradient is clipped at norm 1; the rate falls to zero over the last half of `steps`, and
    `stop_after` ends on the way there. Returns the losses (steps, models). Raises ValueError where series are not finite windows
    of two columns, or do not match the models in number.
    """
    if not len(models) == len(series) == len(rngs):
        raise ValueError(f"models, series and rngs must be equally many, not {len(models)}, {len(series)} and {len(rngs)}")
    for s in series:
        if s.ndim != 3 or s.shape[2] != 2 or not np.isfinite(s).all():
            raise ValueError(f"series must be finite, of shape (n, w, 2), not {s.shape}")
    data = [torch.as_tensor(s, dtype=torch.float32) for s in series]
    losses = [_Loss(model, mean_over_time) for model in models]
    stacked, _ = stack_module_state(losses)  # {name: (models, ...)}
    each = vmap(lambda p, s, noise: functional_call(losses[0], p, (s, noise)))
    optimiser = torch.optim.Adam(stacked.values(), lr, betas=(0.5, 0.9))
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: min(1.0, 2 * (1 - i / steps)))
    curve = []
    for _ in range(stop_after or steps):
        s = torch.stack([d[torch.randint(len(d), (batch,), generator=g)] for d, g in zip(data, rngs, strict=True)])
        noise = torch.stack([m.noise(batch, s.shape[2], g) for m, g in zip(models, rngs, strict=True)])
        values = each(stacked, s, noise)  # (models,)
        optimiser.zero_grad()
        values.sum().backward()
        _clip(list(stacked.values()))
        optimiser.step()
        rate.step()
        curve.append(values.detach())
    with torch.no_grad():
        for i, model in enumerate(losses):
            for name, parameter in model.named_parameters():
                parameter.copy_(stacked[name][i])
    return torch.stack(curve).numpy()


def _clip(stacked: list[Tensor]) -> None:
    """Scale the gradients of parameters (models, ...) so that no model's norm over all of them passes 1."""
    gradients = [p.grad for p in stacked if p.grad is not None]  # without memory nobody reads the embedding of Y
    norms = torch.stack([g.flatten(1).square().sum(dim=1) for g in gradients]).sum(dim=0).sqrt()  # (models,)
    scale = (1 / (norms + 1e-6)).clamp(max=1)
    for g in gradients:
        g.mul_(scale.view(-1, *[1] * (g.ndim - 1)))
