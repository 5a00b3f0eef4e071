"""Trains the base policies of both environments by REINFORCE on one core, all seeds side by side.

    python -m replications.rl.counterpol.weights.train [cartpole] [acrobot]

A seed has a start, a stream of episodes and so a learning curve of its own. All policies on its way are kept as fp16 safetensors,
with the mean return of the batch that each was measured on; a base policy is the first on the way whose batch came to a level.
provenance.json holds hashes, seconds, settings and the levels' places; of an environment that is not named it stays as it is.
"""

import argparse
import hashlib
import json
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from replications.rl.counterpol import method
from shared import seeding

HIDDEN = (16,)
ENVIRONMENTS = {"cartpole": method.CARTPOLE, "acrobot": method.ACROBOT}
SEEDS = {"cartpole": seeding.seeds(8, 2000), "acrobot": seeding.seeds(5)}
LEVELS = {"cartpole": (200, 400), "acrobot": (-110,)}  # mean returns of a batch
UPDATES = {"cartpole": 90, "acrobot": 100}
TRAINING = {"lr": 1e-2, "clip": 1.0, "episodes": 64}
FIRST = 3  # updates that the notebook repeats


def widths(name: str) -> method.Widths:
    """Of an environment's policies: inputs, hidden units, actions."""
    env = ENVIRONMENTS[name]
    return (env.n_inputs, *HIDDEN, env.n_actions)


def fit(name: str, seeds: list[int], updates: int | None = None) -> method.Search:
    """REINFORCE for `updates` (all of them if None), one run a seed: a search for a return out of reach."""
    theta = np.stack([method.initial(widths(name), seeding.rng(seed, f"{name} start")) for seed in seeds])
    rngs = [seeding.rng(seed, f"{name} base") for seed in seeds]
    how = {"rule": "plain", "k": 0.0, "delta": 0.0, "rho": 1.0, "inner": updates or UPDATES[name], "outer": 1, **TRAINING}
    return method.search(ENVIRONMENTS[name], widths(name), theta, np.full(len(seeds), np.inf), rngs, **how)


def place(returns: np.ndarray, level: float) -> int:
    """Where a curve (S + 1,) first comes to a level. Raises ValueError if nowhere."""
    if not (returns >= level).any():
        raise ValueError(f"the curve ends at {returns[-1]:.0f} and never comes to {level}: train longer")
    return int(np.argmax(returns >= level))


def read(file: Path) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Policies (S + 1, R, P) in float32, mean returns (S + 1, R), seeds (R,); ValueError if the file is not the recorded one."""
    recorded = json.loads((file.parent / "provenance.json").read_text())["files"][file.name]
    if hashlib.sha256(file.read_bytes()).hexdigest() != recorded["sha256"]:
        raise ValueError(f"{file} is not the recorded one: run weights/train.py")
    kept = load_file(file)
    return kept["path"].astype(np.float32), kept["returns"], recorded["seeds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(ENVIRONMENTS), metavar="environment")
    record_file = Path(__file__).with_name("provenance.json")
    record = json.loads(record_file.read_text()) if record_file.exists() else {"files": {}}
    record |= {
        "numpy": np.__version__,
        "data": "simulated: method.CARTPOLE, method.ACROBOT",
        "hidden": HIDDEN,
        "training": TRAINING,
    }
    for name in parser.parse_args().names:
        start = time.process_time()
        found = fit(name, SEEDS[name])
        file = record_file.with_name(f"{name}.safetensors")
        save_file({"path": found.path.astype(np.float16), "returns": found.returns.astype(np.float32)}, file)
        record["files"][file.name] = {
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "seeds": SEEDS[name],
            "updates": UPDATES[name],
            "levels": LEVELS[name],
            "places": [[place(curve, level) for level in LEVELS[name]] for curve in found.returns.T],
            "last": found.returns[-1].round(1).tolist(),
            "seconds": round(time.process_time() - start),
        }
        print(file.name, record["files"][file.name], flush=True)
    record_file.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
