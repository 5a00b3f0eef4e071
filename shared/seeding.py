"""Seeds and generators. Reported seeds start at 1000; smaller ones are for tuning and are never reported."""

import zlib

import numpy as np

FIRST_REPORTED = 1000


def seeds(n: int, first: int = FIRST_REPORTED) -> list[int]:
    """`n` reported seeds from `first` on: 1000, 1001, ... Raises ValueError when `n` < 1 or `first` < 1000.

    A notebook whose first seeds are spent names its own `first_seed` among its parameters; the provenance then says so.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    if first < FIRST_REPORTED:
        raise ValueError(f"first must be at least {FIRST_REPORTED}, not {first}: smaller seeds are for tuning")
    return list(range(first, first + n))


def _words(seed: int, stream: str) -> list[int]:
    return [seed, zlib.crc32(stream.encode())]


def rng(seed: int, stream: str = "") -> np.random.Generator:
    """A numpy generator for `seed`; streams with different names are independent of each other."""
    return np.random.default_rng(_words(seed, stream))


def torch_rng(seed: int, stream: str = ""):
    """A CPU `torch.Generator` for `seed` and a named stream, independent as in `rng`.

    Also sets torch to one thread: results of parallel reductions depend on the number of threads.
    """
    import torch

    torch.set_num_threads(1)
    state = np.random.SeedSequence(_words(seed, stream)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
