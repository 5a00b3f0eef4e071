"""Trains every network that the notebook asks, on one core; those of an arm side by side.

    python -m replications.timeseries.causal_market_simulator.weights.train [--seeds 1000 1001 ...] [--out FOLDER]

Per seed a path of its own and six networks, all with the same steps, batches and rate: `causal` (the paper's), `cut` (the same,
X and Y of its windows from different windows), `reversed` (the arrow from Y to X), `forgetful` (no memory in its mechanisms),
`conditional` (the rival as released) and `conditional_even` (the rival with the causal model's size and loss).
Weights are kept as fp16 safetensors; provenance.json holds hashes, held-out losses, seconds, and the losses of the first steps.
"""

import argparse
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from replications.timeseries.causal_market_simulator import method
from shared import seeding

WINDOW, LATENT, RELEASED_LATENT = 6, 16, 64
N_POINTS, N_HELD_OUT, BURN_IN = 10_000, 2_000, 100
TRAINING = {"steps": 2000, "lr": 6e-3, "batch": 100}
ARMS = {  # name: (network, whether the error is averaged over time, as the rival's released loss does)
    "causal": (lambda rng: method.CausalVAE(LATENT, rng), False),
    "cut": (lambda rng: method.CausalVAE(LATENT, rng), False),
    "reversed": (lambda rng: method.CausalVAE(LATENT, rng, parents=method.Y_TO_X), False),
    "forgetful": (lambda rng: method.CausalVAE(LATENT, rng, memory=False), False),
    "conditional": (lambda rng: method.ConditionalVAE(RELEASED_LATENT, rng), True),
    "conditional_even": (lambda rng: method.ConditionalVAE(LATENT, rng), False),
}
FIRST = 100  # steps whose losses are kept for the notebook to repeat


def series(seed: int, arm: str = "causal") -> tuple[np.ndarray, np.ndarray]:
    """Windows (n, 6, 2) to train on, and held-out ones of the end of the same path."""
    noise = seeding.rng(seed, "path").standard_normal((BURN_IN + N_POINTS, 2))
    path = method.simulate(noise)[BURN_IN:]
    parts = [method.windows(part, WINDOW) for part in np.split(path, [N_POINTS - N_HELD_OUT])]
    if arm == "cut":
        parts = [method.cut_arrow(part, seeding.rng(seed, "cut")) for part in parts]
    return parts[0], parts[1]


def fit(arm: str, seeds: list[int], steps: int | None = None) -> tuple[list[torch.nn.Module], np.ndarray]:
    """An arm's networks, one a seed, and their losses (steps, seeds); `steps` stops early, on the way to TRAINING's."""
    make, mean_over_time = ARMS[arm]
    rngs = [seeding.torch_rng(seed, "training") for seed in seeds]
    nets = [make(rng) for rng in rngs]
    parts = [series(seed, arm)[0] for seed in seeds]
    return nets, method.train(nets, parts, rngs, mean_over_time=mean_over_time, stop_after=steps, **TRAINING)


@torch.inference_mode()
def held_out_loss(net: torch.nn.Module, arm: str, seed: int) -> float:
    """The arm's own loss on its held-out windows at fixed noise."""
    held = torch.as_tensor(series(seed, arm)[1], dtype=torch.float32)
    noise = net.noise(len(held), WINDOW, seeding.torch_rng(0, "held out"))
    return float(method.loss(net, held, noise, mean_over_time=ARMS[arm][1]))


def keep(net: torch.nn.Module, path: Path, scores: dict) -> None:
    """Write the weights as fp16 and note what is known about them."""
    save_file({k: v.detach().half().contiguous() for k, v in net.state_dict().items()}, path)
    note = path.parent / "provenance.json"
    record = json.loads(note.read_text()) if note.exists() else {"files": {}}
    record |= {"data": "simulated: method.simulate", "training": TRAINING, "torch": torch.__version__}
    record["files"][path.name] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **scores}
    note.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    print(path.name, scores["held_out_loss"], scores["seconds"], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeding.seeds(5))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    for arm in arguments.arms:
        start = time.process_time()
        nets, curves = fit(arm, arguments.seeds)
        seconds = round((time.process_time() - start) / len(nets))
        for seed, net, curve in zip(arguments.seeds, nets, curves.T, strict=True):
            quarters = [round(float(part.mean()), 3) for part in np.split(curve[:FIRST], 4)]
            scores = {"held_out_loss": round(held_out_loss(net, arm, seed), 4), "seconds": seconds, "curve": quarters}
            keep(net, arguments.out / f"{arm}_{seed}.safetensors", scores)


if __name__ == "__main__":
    main()
