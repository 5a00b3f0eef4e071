"""Simulated cause-effect pairs: a generator after the benchmark families, and the published sets themselves.

The families AN, AN-s, LS, LS-s, MN-U were made by Tagasovska, Chavez-Demoulin & Vatter (2020, "Distinguishing cause
from effect using quantiles", ICML, arXiv 1801.10579), SIM and SIM-G by Mooij et al. (2016, JMLR 17(32)). The published
sets are read from the developer's mirror; no licence is stated for them, so none is kept here.
"""

import numpy as np

from shared.data import from_mirror

KINDS = ("AN", "AN-s", "LS", "LS-s", "MN-U")
OFFICIAL = ("AN", "AN-s", "LS", "MN-U", "SIM", "SIM-G")  # in the mirror
FEATURES = 200  # random Fourier features of one Gaussian-process draw


def mixture_cause(n: int, rng: np.random.Generator) -> np.ndarray:
    """n draws (n,) from a random mixture of two to five Gaussians, standardised."""
    k = rng.integers(2, 6)
    means, sds = rng.normal(0, MIXTURE_SPREAD, k), rng.uniform(0.3, 1.0, k)
    which = rng.choice(k, size=n, p=rng.dirichlet(np.full(k, 2.0)))
    x = rng.normal(means[which], sds[which])
    return (x - x.mean()) / x.std()


MIXTURE_SPREAD = 1.25  # chosen on seeds 0-199 so that the entropies of cause and effect alone say little; then frozen


def gaussian_cause(n: int, rng: np.random.Generator) -> np.ndarray:
    """n draws (n,) of a standard Gaussian, about what the published families use."""
    return rng.normal(size=n)


def smooth_function(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A draw, at x (n,), of a Gaussian process with unit variance and a Gaussian kernel of bandwidth 1."""
    frequencies, phases = rng.normal(size=FEATURES), rng.uniform(0, 2 * np.pi, FEATURES)
    return np.sqrt(2 / FEATURES) * np.cos(x[:, None] * frequencies + phases) @ rng.normal(size=FEATURES)


def sigmoid_function(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random sigmoid a b (x + c) / (1 + |b (x + c)|) at x (n,), as in Buehlmann, Peters & Ernest (2014)."""
    a, b, c = 1 + rng.exponential(1 / 4), rng.choice([-1, 1]) * rng.uniform(0.5, 2), rng.uniform(-2, 2)
    return a * b * (x + c) / (1 + np.abs(b * (x + c)))


def simulate(kind: str, n: int, rng: np.random.Generator, cause=mixture_cause) -> tuple[np.ndarray, np.ndarray]:
    """One pair, cause (n,) and effect (n,), no unit.

    kind: AN f(x) + s e; LS f(x) + s g(x) e; -s with sigmoids instead of Gaussian processes for f and log g; e Gaussian
    and s uniform in [0.2, 0.6]; MN-U f(x) u with f a sigmoid and u uniform in [0, 1].
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    x = cause(n, rng)
    if kind == "MN-U":
        return x, sigmoid_function(x, rng) * rng.uniform(size=n)
    function = sigmoid_function if kind.endswith("-s") else smooth_function
    location = function(x, rng)
    scale = np.exp(function(x, rng)) if kind.startswith("LS") else 1.0
    return x, location + scale * rng.uniform(0.2, 0.6) * rng.normal(size=n)


def official(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The published set `name`: causes and effects, (100, 1000) each, no unit. Raises DataError without the mirror."""
    if name not in OFFICIAL:
        raise ValueError(f"name must be one of {', '.join(OFFICIAL)}, not {name!r}")
    pairs = np.load(from_mirror("cause-effect-pairs", f"{name}.npz"))
    columns = np.stack([pairs[f"pair_{i + 1}"][:, -2:].T for i in range(len(pairs.files))]).astype(float)  # (100, 2, n)
    if name.startswith("SIM"):
        first_is_cause = np.loadtxt(from_mirror("cause-effect-pairs", f"{name}__pairmeta.txt"))[:, 1] == 1
    else:
        first_is_cause = np.loadtxt(from_mirror("cause-effect-pairs", f"{name}__pairs_gt.txt")) == 1
    columns[~first_is_cause] = columns[~first_is_cause, ::-1]
    return columns[:, 0], columns[:, 1]
