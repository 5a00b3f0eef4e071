"""Trains every network that the notebook asks, on a GPU or on the CPU, in one process or several side by side.

    python -m replications.timeseries.ecg_noise_quantification.weights.train [--device cuda] [--workers 6] [--out FOLDER]

A seed is a block of held-out segments. Per seed there are five arms. `clean` (autoencoder and diffusion on its latents) and `pixel`
(diffusion on pixels, one for all blocks of a record) learn clean segments. The others, latent too, learn a set of which a fifth was
secretly noised: `mixed` all of it, `refined` those that `mixed` reproduces best, `random` as many drawn at random. The weights of a
record's blocks are kept in one file of fp16; provenance.json holds hashes, held-out losses, seconds and losses of the first steps.
"""

import argparse
import hashlib
import json
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from replications.timeseries.ecg_noise_quantification import method
from shared import seeding
from shared.data import mitbih

LENGTH, N_SEGMENTS, BLOCK = 10 * mitbih.RATE, 180, 30  # samples, segments a record, segments a block
NOISY = {"100": [], "101": [11, 31, 32]}  # segments in which the database notes a change of quality
SNR = (-6, 0, 6, 12, 18)  # dB
SECRET = 0.2  # share of the training pictures that `mixed` finds noised
STEPS = {"autoencoder": 350, "latent": 450, "pixel": 400}
REFINE_AT = (30, 100)  # starts of the two scores that refine the training set
CHAINS = (("clean",), ("pixel",), ("mixed", "refined", "random"))  # what one process trains


def segments() -> dict[str, np.ndarray]:
    """Record name -> ECG (180, 2, 3600), mV: segments of ten seconds, two leads."""
    return {r: mitbih.load(r).signal[:, : N_SEGMENTS * LENGTH].reshape(2, N_SEGMENTS, LENGTH).swapaxes(0, 1) for r in mitbih.LEADS}


def pictures(x: np.ndarray) -> np.ndarray:
    """Bytes (n, 32, 72) of segments (n, 3600)."""
    return method.to_bytes(method.scalogram(x, mitbih.RATE))


@cache
def clean_pictures() -> dict[str, np.ndarray]:
    """Record name -> bytes (180, 2, 32, 72) of `segments`."""
    return {r: pictures(x.reshape(-1, LENGTH)).reshape(*x.shape[:2], 32, 72) for r, x in segments().items()}


def block(seed: int) -> tuple[str, np.ndarray]:
    """(record, its 30 held-out segments): seeds 1000 to 1005 split the second halves of 101 and 100; tuning ones have 60 to 89."""
    if seed < seeding.FIRST_REPORTED:
        return ("101", "100")[seed % 2], np.arange(2 * BLOCK, 3 * BLOCK)
    record, part = divmod((seed - seeding.FIRST_REPORTED) % 6, 3)
    return ("101", "100")[record], np.arange(BLOCK) + (3 + part) * BLOCK


def pixel_seed(seed: int) -> int:
    """The seed of the pixel network that a block shares with the other blocks of its record."""
    return seed if seed < seeding.FIRST_REPORTED else seed - (seed - seeding.FIRST_REPORTED) % 3


def training_segments(seed: int) -> dict[str, np.ndarray]:
    """Record -> clean segments to train on: the other record and the first half of this one; for tuning, the first 60 of both."""
    used = {r: np.arange(N_SEGMENTS) for r in mitbih.LEADS} | {block(seed)[0]: np.arange(N_SEGMENTS // 2)}
    if seed < seeding.FIRST_REPORTED:
        used = {r: np.arange(2 * BLOCK) for r in mitbih.LEADS}
    return {r: np.setdiff1d(s, NOISY[r]) for r, s in used.items()}


def training(parts: dict[str, np.ndarray], seed: int) -> np.ndarray:
    """(n, ...) both leads of `training_segments`, of `parts`: record -> (180, 2, ...), as `segments` and `clean_pictures` give."""
    return np.concatenate([np.concatenate(parts[r][s]) for r, s in training_segments(seed).items()])


def secretly_noised(x: np.ndarray, seed: int, share: float = SECRET, stream: str = "secret") -> tuple[np.ndarray, np.ndarray]:
    """(ECG like `x` (n, 3600) with noise of a random kind and level in a `share` of it, which ones (n,) bool)."""
    rng = seeding.rng(seed, stream)
    hit = np.zeros(len(x), bool)
    hit[rng.permutation(len(x))[: round(share * len(x))]] = True
    kind, snr = rng.integers(len(method.KINDS), size=len(x)), rng.choice(SNR, len(x))
    x = x.copy()
    for i, name in enumerate(method.KINDS):
        chosen = hit & (kind == i)
        x[chosen] = method.add_noise(x[chosen], name, snr[chosen], mitbih.RATE, rng)
    return x, hit


def held_out(seed: int) -> torch.Tensor:
    """All clean pictures (60, 1, 32, 72) of a block, in [-1, 1]."""
    record, held = block(seed)
    return method.to_unit(clean_pictures()[record][held])


def new(part: str, seed: int = 0) -> torch.nn.Module:
    """An untrained network, `part` of autoencoder, latent or pixel."""
    torch.manual_seed(seed)
    if part == "autoencoder":
        return method.Autoencoder()
    return method.Denoiser(2, 2) if part == "latent" else method.Denoiser(1, 4)


def fit(part: str, shown: torch.Tensor, seed: int, arm: str, stop: int | None = None) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    """An arm's network, `part` as in `new`, trained on `shown` (N, C, H, W), and its losses; `stop` as in method.fit."""
    rng = seeding.torch_rng(seed, f"{arm} {part}")
    net = new(part, int(torch.randint(2**31, (), generator=rng))).to(shown.device)
    loss = method.reconstruction_loss if part == "autoencoder" else method.noise_loss
    return net, method.fit(net, shown, loss, STEPS[part], rng, stop=stop)


def fit_latent(x: torch.Tensor, seed: int, arm: str) -> dict[str, torch.nn.Module]:
    """Autoencoder and denoiser of one arm, for pictures x (N, 1, 32, 72)."""
    autoencoder, _ = fit("autoencoder", x, seed, arm)
    with torch.no_grad():
        autoencoder.scale.copy_(1 / autoencoder.encode(x).std())
        z = autoencoder.encode(x)
    return {"autoencoder": autoencoder, "latent": fit("latent", z, seed, arm)[0]}


def refine(nets: dict[str, torch.nn.Module], found: np.ndarray, seed: int) -> np.ndarray:
    """Which of the pictures (n, 32, 72) are in the better half by each of two scores (n,) bool."""
    rng = seeding.torch_rng(seed, "refine")
    scores = [method.score(nets["latent"], nets["autoencoder"], found, t, 10, rng, 2).mean(0) for t in REFINE_AT]
    return np.all([s >= np.median(s) for s in scores], axis=0)


def train_chain(seed: int, chain: tuple[str, ...], device: str) -> dict[tuple[str, str], tuple[dict, dict]]:
    """(arm, part) -> (weights, record) of one seed's arms that depend on each other."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    held = held_out(seed).to(device)
    arms, notes = {}, {}
    clean = method.to_unit(training(clean_pictures(), seed)).to(device)
    if chain == ("clean",):
        arms["clean"] = fit_latent(clean, seed, "clean")
    elif chain == ("pixel",):
        arms["pixel"] = {"pixel": fit("pixel", clean, seed, "pixel")[0]}
    else:
        noised, hit = secretly_noised(training(segments(), seed), seed)
        found = pictures(noised)
        arms["mixed"] = fit_latent(method.to_unit(found).to(device), seed, "mixed")
        kept = refine(arms["mixed"], found, seed)
        drawn = seeding.rng(seed, "random half").permutation(len(kept))[: kept.sum()]
        arms["refined"] = fit_latent(method.to_unit(found[kept]).to(device), seed, "refined")
        arms["random"] = fit_latent(method.to_unit(found[drawn]).to(device), seed, "random")
        notes = {"kept": int(kept.sum()), "noised": round(float(hit.mean()), 3), "noised_kept": round(float(hit[kept].mean()), 3)}
    seconds = round(time.perf_counter() - start)
    return {
        (arm, part): (
            {k: v.detach().half().cpu().numpy() for k, v in net.state_dict().items()},
            {"held_out_loss": round(held_out_loss(parts, part, held), 4), "seconds_of_chain": seconds} | notes,
        )
        for arm, parts in arms.items()
        for part, net in parts.items()
    }


@torch.inference_mode()
def held_out_loss(parts: dict[str, torch.nn.Module], part: str, x: torch.Tensor) -> float:
    """The network's own loss on clean held-out pictures x (N, 1, 32, 72) at fixed noise."""
    loss = method.reconstruction_loss if part == "autoencoder" else method.noise_loss
    shown = parts["autoencoder"].encode(x) if part == "latent" else x
    return float(loss(parts[part], shown, seeding.torch_rng(0, "held out")))


def first_steps(part: str, n: int = 2) -> list[float]:
    """Mean losses of the first `n` times five steps of the first block's autoencoder or pixel network, on the CPU."""
    x = method.to_unit(training(clean_pictures(), seeding.FIRST_REPORTED))
    _, losses = fit(part, x, seeding.FIRST_REPORTED, "clean" if part == "autoencoder" else "pixel", stop=5 * n)
    return torch.stack(losses).reshape(n, 5).mean(1).numpy().round(4).astype(float).round(4).tolist()


def keep(found: dict[tuple[int, str, str], tuple[dict, dict]], folder: Path, device: str) -> None:
    """Write the weights, one file per record, and what is known about them."""
    record = {"data": "MIT-BIH records 100 and 101", "device": device, "steps": STEPS, "torch": torch.__version__}
    record |= {"files": {}, "networks": {f"{arm}.{part}.{seed}": note for (seed, arm, part), (_, note) in found.items()}}
    record["first_steps"] = {part: first_steps(part) for part in ("autoencoder", "pixel")}
    for name in mitbih.LEADS:
        path = folder / f"networks_{name}.safetensors"
        flat = {
            f"{arm}.{part}.{seed}.{k}": v
            for (seed, arm, part), (state, _) in found.items()
            if block(seed)[0] == name
            for k, v in state.items()
        }
        save_file(flat, path)
        record["files"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "provenance.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeding.seeds(6))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as pool:
        asked = [(s, c) for c in CHAINS for s in arguments.seeds if c != ("pixel",) or s == pixel_seed(s)]
        jobs = {(seed, chain): pool.submit(train_chain, seed, chain, arguments.device) for seed, chain in asked}
        found = {}
        for (seed, chain), job in jobs.items():
            found |= {(seed, arm, part): net for (arm, part), net in job.result().items()}
            print(seed, *chain, f"{time.perf_counter() - start:.0f} s", flush=True)
    keep(found, arguments.out, arguments.device)


if __name__ == "__main__":
    main()
