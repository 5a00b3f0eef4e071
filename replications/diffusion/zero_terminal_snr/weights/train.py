"""Trains every network that the notebook samples, on one core.

    python -m replications.diffusion.zero_terminal_snr.weights.train [--seeds 1000 1001 ...] [--out FOLDER]

As in the paper there is one base network (eps, Stable Diffusion's schedule), then fine-tunes of equal length from it,
three per seed, with the same images, noise and steps in the same order: `reference` (nothing changed), `v_only` (v prediction,
original schedule) and `zero_snr` (v prediction, rescaled schedule). `offset` (offset noise) is made for the first seed only.
Exponential averages of the weights are kept as fp16 safetensors; provenance.json holds steps, seeds, hashes and scores.
"""

import argparse
import copy
import hashlib
import json
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from replications.diffusion.zero_terminal_snr import method
from shared import seeding
from shared.data import fashion_mnist

ORIGINAL = method.stable_diffusion_schedule()
RESCALED = method.rescale_zero_terminal_snr(ORIGINAL)
ARMS = {  # name: (schedule, prediction, offset)
    "reference": (ORIGINAL, "eps", 0.0),
    "v_only": (ORIGINAL, "v", 0.0),
    "zero_snr": (RESCALED, "v", 0.0),
    "offset": (ORIGINAL, "eps", 0.1),
}
BASE = {"steps": 4000, "lr": 1e-3, "ema": 0.998, "batch": 64}
FINE_TUNE = {"steps": 700, "lr": 5e-4, "ema": 0.99, "batch": 64}
BASE_SEED = 0


def images(part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """x (N, 1, 28, 28) in [-1, 1] and labels (N,)."""
    x, y = fashion_mnist.load(part)
    return torch.tensor(x[:, None] / 127.5 - 1, dtype=torch.float32), torch.tensor(y, dtype=torch.long)


def train(net, arm, seed, x, y, steps, lr, ema, batch):
    """The exponential average of `net` after `steps` of Adam; the rate falls linearly over the last half."""
    rng = seeding.torch_rng(seed, "training")
    average = copy.deepcopy(net).requires_grad_(False)
    optimiser = torch.optim.Adam(net.parameters(), lr)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: min(1.0, (i + 1) / 50, 2 * (1 - i / steps)))
    for i in range(steps):
        pick = torch.randint(len(x), (batch,), generator=rng)
        loss = method.training_loss(net, x[pick], y[pick], *arm[:2], rng, offset=arm[2])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
        keep = min(ema, (1 + i) / (10 + i))
        for kept, new in zip(average.parameters(), net.parameters(), strict=True):
            kept.lerp_(new.detach(), 1 - keep)
        if i % 500 == 499:
            print(f"{i + 1} {loss.item():.4f}", flush=True)
    return average


@torch.inference_mode()
def held_out_loss(net, arm, x, y, seed=0) -> float:
    """The loss on held-out images at fixed noise, without offset noise."""
    return float(method.training_loss(net, x, y, *arm[:2], seeding.torch_rng(seed, "held out")))


def train_features(x, y, test_x, test_y) -> tuple[method.Features, float]:
    """The classifier whose features measure sample quality, and its accuracy on the test part."""
    rng = seeding.torch_rng(BASE_SEED, "features")
    torch.manual_seed(BASE_SEED)
    net = method.Features()
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(2000):
        pick = torch.randint(len(x), (128,), generator=rng)
        loss = F.cross_entropy(net(x[pick]), y[pick])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        return net, float((net(test_x).argmax(1) == test_y).float().mean())


def keep(net, path: Path, scores: dict) -> None:
    """Write the weights as fp16 and note what is known about them."""
    save_file({k: v.detach().half().contiguous() for k, v in net.state_dict().items()}, path)
    note = path.parent / "provenance.json"
    record = json.loads(note.read_text()) if note.exists() else {"data": "Fashion-MNIST, train part", "files": {}}
    record |= {"base": BASE | {"seed": BASE_SEED}, "fine_tune": FINE_TUNE, "torch": torch.__version__}
    record["files"][path.name] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **scores}
    note.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    print(path.name, scores, flush=True)


def denoiser(path: Path) -> method.Denoiser:
    """The network stored at `path`, in float32."""
    net = method.Denoiser()
    net.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeding.seeds(5))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    x, y = images("train")
    test_x, test_y = images("test")
    held_x, held_y = test_x[:1000], test_y[:1000]

    base = arguments.out / "base.safetensors"
    if not base.exists():
        start = time.process_time()
        seeding.torch_rng(BASE_SEED)  # one thread
        torch.manual_seed(BASE_SEED)
        net = train(method.Denoiser(), ARMS["reference"], BASE_SEED, x, y, **BASE)
        loss = held_out_loss(net, ARMS["reference"], held_x, held_y)
        keep(net, base, {"held_out_loss": round(loss, 4), "seconds": round(time.process_time() - start)})
    if not (arguments.out / "features.safetensors").exists():
        start = time.process_time()
        net, accuracy = train_features(x, y, test_x, test_y)
        scores = {"test_accuracy": round(accuracy, 4), "seconds": round(time.process_time() - start)}
        keep(net, arguments.out / "features.safetensors", scores)
    for seed in arguments.seeds:
        for name, arm in ARMS.items():
            path = arguments.out / f"{name}_{seed}.safetensors"
            if path.exists() or (name == "offset" and seed != arguments.seeds[0]):
                continue
            start = time.process_time()
            net = train(denoiser(base), arm, seed, x, y, **FINE_TUNE)
            loss = held_out_loss(net, arm, held_x, held_y)
            keep(net, path, {"held_out_loss": round(loss, 4), "seconds": round(time.process_time() - start)})


if __name__ == "__main__":
    main()
