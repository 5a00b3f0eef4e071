"""Early warning signals and the prosecutor's fallacy (Boettiger & Hastings 2012).

Three parts: systems whose parameters never move and that collapse by chance, the windows before a collapse (and
matched windows not chosen for one), and the detectors: Kendall's tau of rolling indicators, and a likelihood ratio of a
drifting saddle-node model. Time is counted in samples unless a name says otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize

Step = Callable[[np.ndarray, np.random.Generator], np.ndarray]


# ---------------------------------------------------------------- the systems


def birth_rate(n: np.ndarray, e: float = 0.5, K: float = 1000.0, h: float = 200.0) -> np.ndarray:
    """Births per unit time at population n >= 0, any shape; an Allee effect: few neighbours, few births."""
    # b(n) = e K n^2 / (n^2 + h^2)
    return e * K * n**2 / (n**2 + h**2)


def death_rate(n: np.ndarray, e: float = 0.5, a: float | np.ndarray = 180.0) -> np.ndarray:
    """Deaths per unit time at population n >= 0, any shape; `a` (scalar or of n's shape) is the harvest."""
    # d(n) = e n + a
    return e * n + a


def fixed_points(a: float = 180.0, e: float = 0.5, K: float = 1000.0, h: float = 200.0) -> tuple[float, float]:
    """The unstable and the stable population (Allee threshold, carrying state). Raises ValueError past the bifurcation."""
    # b(n) = d(n)  <=>  e n^3 + (a - e K) n^2 + e h^2 n + a h^2 = 0
    roots = np.roots([e, a - e * K, e * h**2, a * h**2])
    positive = sorted(r.real for r in roots if abs(r.imag) < 1e-9 and r.real > 0)
    if len(positive) < 2:
        raise ValueError(f"a = {a} is past the saddle-node bifurcation: no stable population is left")
    return positive[0], positive[1]


def birth_death_step(n: np.ndarray, rng: np.random.Generator, *, a: float = 180.0, dt: float = 0.1) -> np.ndarray:
    """Populations (chains,) one time step dt later: the chemical Langevin equation of the birth-death process."""
    birth, death = birth_rate(n), death_rate(n, a=a)
    z = rng.standard_normal(n.shape, dtype=n.dtype)
    # n' = n + (b - d) dt + sqrt((b + d) dt) z;  0 absorbs
    moved = n + (birth - death) * dt + np.sqrt((birth + death) * dt) * z
    return np.where(n > 0, np.maximum(moved, 0), 0).astype(n.dtype)


def birth_death_events(n: np.ndarray, rng: np.random.Generator, *, dt: float = 0.1, substeps: int = 10) -> np.ndarray:
    """The same step with whole births and deaths (tau-leaping, Poisson events): the paper's process, about 20 times slower."""
    for _ in range(substeps):
        born, died = (rng.poisson(rate(n) * dt / substeps) for rate in (birth_rate, death_rate))
        n = np.where(n > 0, np.maximum(n + born - died, 0), 0).astype(n.dtype)
    return n


def may_step(
    x: np.ndarray, rng: np.random.Generator, *, r: float = 0.75, K: float = 10.0, a: float = 1.55, H: float = 1.0, Q: int = 3
) -> np.ndarray:
    """May's grazing map with lognormal noise (sd 0.1), one step; x > 0 of shape (chains,)."""
    z = np.exp(0.1 * rng.standard_normal(x.shape, dtype=x.dtype))
    # X' = z X exp(r (1 - X / K) - a X^(Q - 1) / (X^Q + H^Q))
    return z * x * np.exp(r * (1 - x / K) - a * x ** (Q - 1) / (x**Q + H**Q))


def simulate(step: Step, start: np.ndarray, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Paths (n_samples, chains) that follow, and do not include, `start` (chains,)."""
    path = np.empty((n_samples, *start.shape), start.dtype)
    state = start
    for t in range(n_samples):
        path[t] = state = step(state, rng)
    return path


# ---------------------------------------------------------------- windows, chosen for collapse or not


@dataclass(frozen=True)
class System:
    """A step and its levels: runs start at `start`, are alarmed below `alarm`, lost below `lost`, safe at or above `home`."""

    step: Step
    start: float
    alarm: float
    lost: float
    home: float


@dataclass
class Collapses:
    """What preceded each chance collapse, and what was seen on the way.

    history: (k, 2 window) samples up to the last above the alarm level, of which the paper's window is the last half.
    at_home: (k, window) samples up to the last visit to the home level before the collapse.
    """

    history: list = field(default_factory=list)
    at_home: list = field(default_factory=list)
    near_misses: int = 0  # fell below the alarm level and came home again
    unusable: int = 0  # no visit home or too short a record before it, or still undecided: not counted
    chain_steps: int = 0  # samples among which a collapse was looked for


def chance_collapses(
    system: System, n_collapses: int, rng: np.random.Generator, *, window: int = 200, chains: int = 4000, block: int = 1000,
) -> Collapses:  # fmt: skip
    """Run many chains with constant parameters until `n_collapses` have collapsed by chance; keep only those.

    Paths are made in blocks; a collapse is looked for in the middle one of three, so that its past and its future are
    both at hand. A chain that is lost starts again at `start` with the next block, and is not used before two whole blocks
    have passed, so that no path reaches back to an earlier life.
    Raises ValueError when a window is longer than half a block.
    """
    if 2 * window > block:
        raise ValueError(f"window {window} is longer than half a block of {block}")
    found = Collapses()
    state = np.full(chains, system.start, np.float32)
    age = np.zeros(chains, int)  # whole blocks each chain has lived through
    blocks, ages = [], []  # the last three, and the age of each chain when they began
    while len(found.history) < n_collapses:
        blocks.append(simulate(system.step, state, block, rng))  # (block, chains)
        ages.append(age)
        dead = blocks[-1][-1] < system.lost
        state, age = np.where(dead, np.float32(system.start), blocks[-1][-1]), np.where(dead, 0, age + 1)
        if len(blocks) == 3:
            old = ages[1] >= 2
            found.chain_steps += block * int(old.sum())
            for chain in np.flatnonzero(old & (blocks[1] < system.alarm).any(axis=0)):
                _record(found, np.concatenate([b[:, chain] for b in blocks]), system, window, block)
            blocks.pop(0)
            ages.pop(0)
    return found


def _record(found: Collapses, path: np.ndarray, system: System, window: int, block: int) -> None:
    """Enter every first fall below the alarm level, since the last visit home, that lies in the middle block of a path."""
    falls = np.flatnonzero((path[1:] < system.alarm) & (path[:-1] >= system.alarm)) + 1
    for tip in falls[(falls >= block) & (falls < 2 * block)]:
        visits = np.flatnonzero(path[:tip] >= system.home)
        if len(visits) and (path[visits[-1] : tip] < system.alarm).any():
            continue  # a second dip of the same excursion
        future = path[tip:]
        ends = np.flatnonzero((future < system.lost) | (future >= system.home))
        if len(ends) and future[ends[0]] >= system.home:
            found.near_misses += 1
            continue
        last_visit = visits[-1] + 1 if len(visits) else 0
        if len(ends) == 0 or last_visit < window or path[tip - window : tip].min() <= system.alarm:
            found.unusable += 1
            continue
        found.history.append(path[tip - 2 * window : tip])
        found.at_home.append(path[last_visit - window : last_visit])


def null_windows(
    system: System, n_windows: int, rng: np.random.Generator, *, window: int = 200, mixing: int = 1000
) -> tuple[np.ndarray, np.ndarray]:
    """Windows (n, window) of runs not chosen for their fate: at a fixed time, and at the last visit home before it.

    Matched to the collapses in length and sampling: one window a chain, after `mixing` samples, all above the alarm level.
    """
    past = 3 * window
    start = np.full(n_windows, system.start, np.float32)
    start = simulate(system.step, start, mixing, rng)[-1]
    path = simulate(system.step, start, past + window, rng)  # (past + window, n_windows)
    alive = (path >= system.alarm).all(axis=0)
    at_time = path[-window:, alive].T
    at_home = []
    for chain in path[:, alive].T:
        leaves = np.flatnonzero((chain[:-1] >= system.home) & (chain[1:] < system.home))
        if len(leaves) and leaves[-1] + 1 >= window:
            at_home.append(chain[leaves[-1] + 1 - window : leaves[-1] + 1])
    return at_time, np.array(at_home)


# ---------------------------------------------------------------- the detectors


def rolling_variance(x: np.ndarray, width: int) -> np.ndarray:
    """Sample variance in windows sliding by one sample: (series, samples) to (series, samples - width + 1)."""
    views = np.lib.stride_tricks.sliding_window_view(_checked(x, width), width, axis=-1)
    return views.var(axis=-1, ddof=1)


def rolling_autocorrelation(x: np.ndarray, width: int) -> np.ndarray:
    """Lag-1 autocorrelation in sliding windows, demeaned inside each, biased denominator as in R's `acf`; shapes as above."""
    views = np.lib.stride_tricks.sliding_window_view(_checked(x, width), width, axis=-1)
    y = views - views.mean(axis=-1, keepdims=True)  # (series, samples - width + 1, width)
    # rho_1 = sum_t y_t y_{t+1} / sum_t y_t^2
    return np.einsum("...t,...t", y[..., :-1], y[..., 1:]) / np.einsum("...t,...t", y, y)


def kendall_trend(indicator: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of each row of (series, points) against time, in [-1, 1]; vectorised, as scipy's takes one at a time."""
    points = indicator.shape[-1]
    earlier, later = np.triu_indices(points, k=1)
    signs = np.sign(indicator[..., later] - indicator[..., earlier])  # (series, pairs)
    # tau_b = (concordant - discordant) / sqrt(pairs * pairs not tied in the indicator)
    return signs.sum(axis=-1) / np.sqrt(len(earlier) * np.abs(signs).sum(axis=-1))


def taus(windows: np.ndarray) -> np.ndarray:
    """The paper's two warnings for windows (series, samples): (series, 2), tau of variance and of autocorrelation.

    The sliding window is half of the samples; no detrending. tau > 0 is read as a warning.
    """
    width = windows.shape[-1] // 2
    return np.stack([kendall_trend(f(windows, width)) for f in (rolling_variance, rolling_autocorrelation)], axis=-1)


def saddle_node_nll(parameters: np.ndarray, x: np.ndarray, dt: float) -> float:
    """Negative log-likelihood of a series (samples,) under the linearised saddle node; parameters (R0, m, theta, sigma).

    dX = 2 sqrt(R) (sqrt(R) + theta - X) dt + sigma sqrt(sqrt(R) + theta) dB, R = R0 + m t; m < 0 approaches the
    bifurcation. R is frozen inside a sampling step, so each transition is Gaussian. inf outside R > 0, sqrt(R) + theta > 0.
    """
    r0, m, theta, sigma = parameters
    rate = r0 + m * dt * np.arange(len(x) - 1)  # (samples - 1,)
    if rate.min() <= 0 or sigma <= 0:
        return np.inf
    root = np.sqrt(rate)
    level = root + theta
    if level.min() <= 0:
        return np.inf
    decay = np.exp(-2 * root * dt)
    # dE/dt = 2 sqrt(R) (level - E);  dV/dt = -4 sqrt(R) V + sigma^2 level (the released code has -2: not Ito's)
    mean = level + (x[:-1] - level) * decay
    variance = sigma**2 * level * (1 - decay**2) / (4 * root)
    return 0.5 * float(np.sum(np.log(2 * np.pi * variance) + (x[1:] - mean) ** 2 / variance))


def saddle_node_test(x: np.ndarray, dt: float) -> float:
    """Signed root of the likelihood ratio of m against m = 0 for a series (samples,): large when it approaches the bifurcation.

    Nelder-Mead from the constant Ornstein-Uhlenbeck fit, as in the paper, with the scale of each parameter in its simplex.
    Raises ValueError for a series that is too short, not finite or constant.
    """
    x = np.asarray(x, dtype=float)
    if x.ndim != 1 or len(x) < 20 or not np.isfinite(x).all() or np.ptp(x) == 0:
        raise ValueError("x must be one finite series of at least 20 samples that is not constant")
    r0, theta, sigma = ornstein_uhlenbeck_start(x, dt)
    span = dt * len(x)
    still = _nelder_mead(
        lambda p: saddle_node_nll(np.array([p[0], 0.0, p[1], p[2]]), x, dt),
        np.array([r0, theta, sigma]), np.array([0.3 * r0, 0.05 * np.ptp(x), 0.1 * sigma]),
    )  # fmt: skip
    r0, theta, sigma = still.x
    size = np.array([0.2 * r0, 0.3 * r0 / span, 0.05 * np.ptp(x), 0.05 * sigma])
    both = [
        _nelder_mead(
            lambda p: saddle_node_nll(p, x, dt), np.array([r0 * (1 - sign * 0.2), sign * 0.4 * r0 / span, theta, sigma]), size
        )
        for sign in (-1, 1)
    ]
    moving = min(both, key=lambda fit: fit.fun)
    # one-sided: sqrt(2 (log L(m) - log L(0))), negative when the fit recedes from the bifurcation
    return float(-np.sign(moving.x[1]) * np.sqrt(max(0.0, 2 * (still.fun - moving.fun))))


def ornstein_uhlenbeck_start(x: np.ndarray, dt: float) -> tuple[float, float, float]:
    """(R0, theta, sigma) of the stationary model from the series' mean, variance and lag-1 regression."""
    y = x - x.mean()
    rho = np.clip(y[:-1] @ y[1:] / (y @ y), 0.05, 0.995)
    root = -np.log(rho) / (2 * dt)  # decay per step exp(-2 sqrt(R) dt) = rho
    # stationary variance sigma^2 level / (4 sqrt(R))
    sigma = np.sqrt(4 * root * x.var() / x.mean())
    return root**2, x.mean() - root, sigma


def _nelder_mead(function, start: np.ndarray, size: np.ndarray):
    simplex = np.vstack([start, start + np.diag(size)])
    options = {"initial_simplex": simplex, "xatol": np.inf, "fatol": 1e-4, "maxiter": 600}  # the likelihood is what is used
    return minimize(function, start, method="Nelder-Mead", options=options)


def flagged(statistic: np.ndarray, null: np.ndarray, level: float = 0.05) -> float:
    """Share of `statistic` (n,) above the (1 - level) quantile of the matched `null` (k,): false positives, or power.

    Raises ValueError when `null` has fewer than 1 / level values.
    """
    if len(null) < 1 / level:
        raise ValueError(f"null has {len(null)} values, too few for a level of {level}")
    # the Weibull quantile, rank (k + 1)(1 - level), is passed by a new null value with probability `level`, however small k
    return float(np.mean(np.asarray(statistic) > np.quantile(null, 1 - level, method="weibull")))


def deteriorating(
    n_runs: int, n_samples: int, every: float, a_end: float, rng: np.random.Generator, *, a_start: float = 180.0, dt: float = 0.1
) -> np.ndarray:
    """The positive control: windows (survivors, n_samples), one sample `every` time units, while `a` rises linearly to a_end.

    With a_end = a_start it is the matched null. Runs that fall below 250 are left out, as nothing is left to warn of.
    """
    skip = round(every / dt)
    n = simulate(lambda x, g: birth_death_step(x, g, a=a_start, dt=dt), np.full(n_runs, 500.0, np.float32), 1000, rng)[-1]
    kept = np.empty((n_samples, n_runs), np.float32)
    lowest = n.copy()
    for i in range(n_samples):
        for j in range(skip):
            a = a_start + (a_end - a_start) * (i * skip + j) / (n_samples * skip)
            n = birth_death_step(n, rng, a=a, dt=dt)
            lowest = np.minimum(lowest, n)
        kept[i] = n
    return kept[:, lowest >= 250].T


def shuffled_increments(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each row of (series, samples) with its increments in random order: same ends, no trend in the rates."""
    steps = rng.permuted(np.diff(x, axis=-1), axis=-1)
    return np.concatenate([x[..., :1], x[..., :1] + np.cumsum(steps, axis=-1)], axis=-1)


def _checked(x: np.ndarray, width: int) -> np.ndarray:
    x = np.asarray(x, dtype=float)
    if not 3 <= width <= x.shape[-1]:
        raise ValueError(f"width must lie between 3 and the {x.shape[-1]} samples, not {width}")
    if not np.isfinite(x).all():
        raise ValueError("x must be finite")
    return x
