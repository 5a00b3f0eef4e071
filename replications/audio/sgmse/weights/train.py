"""Trains every network that the notebook compares, side by side, and scores them on the speech bench's mixtures.

    python -m replications.audio.sgmse.weights.train [--out FOLDER] [--device cuda] [--steps 12000] [--minutes 1e9] [--data FOLDER]

All networks take a step in turn, so that a run that is cut short by --minutes has trained all of them equally long; on a GPU each
one's step is a CUDA graph on a stream of its own. On one core it takes about 5 hours for 1000 steps of all networks; --arms and
--seeds train fewer. --pack FOLDER writes the recordings for a machine without the data packages, which reads them with --data.
Writes three files of weights, provenance.json and scores.parquet: a row for each arm, seed, setting, mixture and measure.
"""

import argparse
import os
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from replications.audio.sgmse import method
from shared import seeding, speech, zoo
from shared import speech_bench as bench


class Arm(NamedTuple):
    """What a network learns: a process, or None for a regressor; `other`: drifts to another clip's noisy speech."""

    process: method.Process | None = method.Process()
    multi: bool = True
    other: bool = False
    rooms: bool = False


ARMS = {
    "SGMSE": Arm(),
    "regressor": Arm(None),
    "plain SGMSE": Arm(multi=False),
    "plain regressor": Arm(None, multi=False),
    "Gaussian start": Arm(method.Process(gamma=0, s_max=1.0)),
    "drift elsewhere": Arm(other=True),
    "reverberant SGMSE": Arm(rooms=True),
}
TRAININGS = {
    "SGMSE": 5, "regressor": 5, "plain SGMSE": 5, "plain regressor": 5, "Gaussian start": 3, "drift elsewhere": 1,
    "reverberant SGMSE": 1,
}  # fmt: skip
FILES = {  # which trainings' weights are kept; of the others the scores
    "sgmse": [("SGMSE", 0), ("SGMSE", 1), ("SGMSE", 2)],
    "regressor": [("regressor", 0), ("regressor", 1), ("regressor", 2)],
    "others": [("plain SGMSE", 0), ("Gaussian start", 0), ("drift elsewhere", 0), ("reverberant SGMSE", 0)],
}
SPREAD = 0.09  # of clean minus noisy, per bin: measured on validation mixtures
FRAMES, BATCH, LR, EMA, T_END = 96, 8, 5e-4, 0.999, 0.03
SNRS = (0.0, 5.0, 10.0, 15.0)  # dB
ROOMS = 4  # simulated rooms that each training phrase is heard in
STEPS, FIRST = 3500, 5
HALF = float(np.log(0.5 / 0.05) / np.log(1.0 / 0.05))  # when the Gaussian start's noise is as small as SGMSE's: s_max^t = .5


# ---------------------------------------------------------------- data


def pack(folder: Path) -> None:
    """All recordings that training and scoring read, as sources.npz."""
    tables = [bench.manifest(split, condition) for split in ("validation", "test") for condition in "ABC"]
    said = {(row.talker, word) for table in tables for row in table.itertuples() for word in row.words.split()}
    said |= {(talker, word) for talker in bench.HOME for word in bench.words("train")}
    noises = sorted(
        {name for split in ("train", "validation", "test") for name in bench.sounds(split)} | set(bench.ambiences.NOISES)
    )
    names = [f"speech/{talker}/{word}" for talker, word in sorted(said)] + [f"noise/{name}" for name in noises] + ["room/classroom"]
    waves = [np.round(bench.packaged(name) * 32767).astype(np.int16) for name in names]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "sources.npz", names=names, lengths=[len(w) for w in waves], samples=np.concatenate(waves),
                        train_sounds=bench.sounds("train"))  # fmt: skip


def packed(folder: Path) -> tuple[bench.Source, list[str]]:
    """What `pack` wrote: recordings by name, and the training sounds' names."""
    file = np.load(folder / "sources.npz")
    waves = np.split(file["samples"], np.cumsum(file["lengths"])[:-1])
    by_name = dict(zip(file["names"].tolist(), waves, strict=True))
    return (lambda name: (by_name[name] / 32767).astype(np.float32)), file["train_sounds"].tolist()


class Stock(NamedTuple):
    """Training recordings on a device: phrases end to end, also as heard in ROOMS rooms each, and noises."""

    clean: Tensor  # (samples,)
    rooms: Tensor  # (ROOMS, samples)
    starts: Tensor  # (phrases,)
    lengths: Tensor
    levels: Tensor  # active RMS
    noises: Tensor  # (noises, 32000), each of RMS 1


def stock(source: bench.Source, sounds: list[str], device: str, rooms: bool) -> Stock:
    """The training recordings; without `rooms` only dry ones."""
    phrases = [source(f"speech/{talker}/{word}") for talker in bench.HOME for word in bench.words("train")]
    noises = np.stack([source(f"noise/{name}")[: 2 * speech.RATE] for name in sounds])
    noises /= np.sqrt(np.square(noises).mean(1, keepdims=True))
    heard = [
        [bench.reverberant(p, bench.room(10_000 + ROOMS * i + k)) for i, p in enumerate(phrases)] for k in range(ROOMS * rooms)
    ]
    lengths = np.array([len(p) for p in phrases])
    parts = [
        np.concatenate(phrases), np.stack([np.concatenate(row) for row in heard]) if rooms else np.zeros((ROOMS, 0)),
        np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths, np.array([speech.active_level(p) for p in phrases]), noises,
    ]  # fmt: skip
    return Stock(
        *(torch.as_tensor(part, device=device, dtype=torch.long if part.dtype.kind == "i" else torch.float32) for part in parts)
    )


def batch(data: Stock, rooms: bool, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Compressed spectrograms (BATCH, 256, FRAMES) of crops, clean and noisy, divided by the noisy crop's peak."""
    device, samples = data.clean.device, (FRAMES - 1) * speech.HOP
    places = torch.arange(samples, device=device)
    uniform = torch.rand(5, BATCH, 1, generator=rng, device=device)
    phrase = (uniform[0, :, 0] * len(data.starts)).long()
    at = data.starts[phrase][:, None] + (uniform[1] * (data.lengths[phrase] - samples)[:, None]).long() + places
    clean = data.clean[at]
    if rooms:
        noisy = data.rooms[(uniform[2] * ROOMS).long(), at]
    else:
        which = (uniform[2] * len(data.noises)).long()
        noise = data.noises[which, ((uniform[3] * data.noises.shape[1]).long() + places) % data.noises.shape[1]]
        snr = torch.floor(uniform[4] * len(SNRS)) * (SNRS[1] - SNRS[0]) + SNRS[0]
        noisy = clean + noise * data.levels[phrase][:, None] * 10 ** (-snr / 20)
    peak = noisy.abs().amax(1, keepdim=True)
    return tuple(speech.compress(speech.stft(torch.cat([clean, noisy]) / peak.repeat(2, 1))).chunk(2))


# ---------------------------------------------------------------- training


def start(arm: Arm, seed: int) -> method.Net:
    """An arm's network before its first step; arms of one shape start alike."""
    return method.Net(4 if arm.process else 2, arm.multi, seeding.torch_rng(seed, "weights"))


def loss(net: method.Net, arm: Arm, x0: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
    """A batch's loss, times and noise drawn anew."""
    if arm.process is None:
        return method.regression_loss(net, x0, y, SPREAD)
    t = T_END + (1 - T_END) * torch.rand(len(y), generator=rng, device=y.device)
    z = method.complex_normal(y.shape, rng)
    to = y.roll(1, 0) if arm.other else y
    return method.score_loss(net, arm.process, x0, y, to, t, z, SPREAD)


class Training:
    """A network, the moving average of its weights, which is what is kept, and one step of both."""

    def __init__(self, name: str, seed: int, data: Stock):
        self.name, self.seed, self.arm, self.data = name, seed, ARMS[name], data
        device = data.clean.device
        self.net = start(self.arm, seed).to(device)
        self.average = [p.detach().clone() for p in self.net.parameters()]
        self.rng = torch.Generator(device).manual_seed(seeding.torch_rng(seed, "batches").initial_seed())
        on_gpu = device.type == "cuda"
        self.optimiser = torch.optim.Adam(self.net.parameters(), LR, fused=True, capturable=on_gpu)
        self.loss = torch.zeros((), device=device)
        self.run: Callable = self.step

    def step(self) -> None:
        """One batch: Adam, and the average's .999 of itself."""
        with torch.no_grad():
            x0, y = batch(self.data, self.arm.rooms, self.rng)
        value = loss(self.net, self.arm, x0, y, self.rng)
        self.optimiser.zero_grad()
        value.backward()
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.net.parameters()), 1 - EMA)
            self.loss.copy_(value)

    def capture(self) -> None:
        """Turns the step into a CUDA graph on a stream of its own."""
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        graph.register_generator_state(self.rng)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.synchronize()
        self.optimiser.zero_grad()
        with torch.cuda.graph(graph, stream=stream):
            self.step()

        def replay() -> None:
            with torch.cuda.stream(stream):
                graph.replay()

        self.run = replay

    def averaged(self) -> method.Net:
        """The network with averaged weights as they are kept, in fp16."""
        net = start(self.arm, self.seed)
        with torch.no_grad():
            for p, q in zip(net.parameters(), self.average, strict=True):
                p.copy_(q.cpu().half().float())
        return net.requires_grad_(False).eval()


def first_losses(name: str, seed: int, data: Stock) -> list[float]:
    """Losses of the first few steps on a CPU."""
    training, losses = Training(name, seed, data), []
    for _ in range(FIRST):
        training.step()
        losses.append(round(training.loss.item(), 5))
    return losses


def train(wanted: list[tuple[str, int]], data: Stock, steps: int, minutes: float) -> tuple[list[Training], dict]:
    """Trains all side by side for a number of steps, or until so many minutes have passed; the mean losses on the way."""
    begun, trainings = time.time(), [Training(name, seed, data) for name, seed in wanted]
    if data.clean.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        try:
            for training in trainings:
                training.capture()
        except Exception:  # a graph is only faster
            traceback.print_exc()
            print("no CUDA graphs; fewer networks", flush=True)
            trainings = [Training(name, seed, data) for name, seed in sorted(wanted, key=lambda w: w[1])[:17]]
        print(f"ready after {time.time() - begun:.0f} s", flush=True)
    sums, curve, said, done = torch.zeros(len(trainings)), [], time.time(), 0
    for done in range(1, steps + 1):
        for training in trainings:
            training.run()
        if done % 50 == 0 or done == steps:
            if data.clean.device.type == "cuda":
                torch.cuda.synchronize()
            sums += torch.stack([training.loss for training in trainings]).cpu()
        if done % 500 == 0:
            curve.append([round(x, 4) for x in (sums / 10).tolist()])
            sums = torch.zeros_like(sums)
        if time.time() - said > 20:
            said = time.time()
            print(f"step {done}, {said - begun:.0f} s, losses {[round(t.loss.item(), 3) for t in trainings]}", flush=True)
        if time.time() - begun > 60 * minutes:
            break
    seconds = round(time.time() - begun, 1)
    print(f"{done} steps in {seconds} s", flush=True)
    losses = {f"{t.name} {t.seed}": [row[i] for row in curve] for i, t in enumerate(trainings)}
    return trainings, {"steps": done, "seconds": seconds, "losses": losses}


# ---------------------------------------------------------------- enhancing and scoring


def spectrograms(waves: Iterable[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Noisy waveforms -> compressed spectrograms (n, 256, frames) of each over its own peak, and the peaks (n, 1)."""
    y = torch.as_tensor(np.stack(list(waves)), dtype=torch.float32)
    peak = y.abs().amax(1, keepdim=True)
    return speech.compress(speech.stft(y / peak)), peak


def waveforms(x: Tensor, peak: Tensor, samples: int = bench.SAMPLES) -> np.ndarray:
    """What `spectrograms` undoes."""
    return (speech.istft(speech.decompress(x), samples) * peak).numpy()


def draws(condition: str, mixtures: Iterable[int], copy: int = 0) -> Callable[[], Tensor]:
    """Complex normal numbers (mixtures, 256, 256), one after the other; every mixture has a generator of its own."""
    rngs = [seeding.torch_rng(i, f"sampling {condition} {copy}") for i in mixtures]
    return lambda: torch.stack([method.complex_normal((256, 256), rng) for rng in rngs])


@torch.no_grad()
def enhance(net: method.Net, arm: Arm, y: Tensor, draw: Callable[[], Tensor], steps: int = 30, **how) -> Tensor:
    """Compressed spectrograms of enhanced speech. `drift elsewhere` drifts to the next mixture's noisy speech.

    A process without drift starts at noise alone.
    """
    if arm.process is None:
        return method.regressed(net, y, SPREAD)
    to = y.roll(1, 0) if arm.other else y

    def score(x: Tensor, t: Tensor) -> Tensor:
        return -method.estimated_noise(net, arm.process, x, y, to, t.expand(len(y)), SPREAD) / arm.process.sd(t)

    around = to if arm.process.gamma else torch.zeros_like(y)
    return method.sample(score, around, to, arm.process, draw, steps, **how)


class Setting(NamedTuple):
    """A way to sample: the table's key."""

    split: str
    condition: str
    steps: int = 30
    corrector: bool = True
    from_half: bool = False  # Gaussian start at sd .5 instead of 1
    r: float = 0.5
    copies: int = 1  # samples that are averaged

    def how(self) -> dict:
        return {"steps": self.steps, "corrector": self.corrector, "r": self.r, "t_start": HALF if self.from_half else 1.0}


def settings(name: str, seed: int) -> list[Setting]:
    """What a training is scored on."""
    if name == "reverberant SGMSE":
        return [Setting("test", "C"), Setting("validation", "C"), Setting("test", "C", 50, r=0.33)]
    both = [Setting("test", "A"), Setting("test", "B"), Setting("validation", "A")]
    if name == "SGMSE":
        both += [Setting("test", "C")] if seed == seeding.FIRST_REPORTED else []
        both += [Setting("test", "A", copies=8)] if seed == seeding.FIRST_REPORTED else []
        both += [Setting("test", "A", steps) for steps in (5, 10, 15, 60)]
        both += [Setting("test", "A", steps, corrector=False) for steps in (10, 30, 60)]
    if name == "Gaussian start":
        both += [s._replace(from_half=True) for s in both]
        both += [Setting("test", "A", steps, from_half=half) for steps in (5, 10, 15, 60) for half in (False, True)]
    return both


class Stage:
    """Mixtures of all conditions on a device, and one stock of noise for all networks."""

    def __init__(self, source: bench.Source, device: str):
        self.source, self.device, self.kept = source, device, {}
        self.mixtures = cache(self.mixtures)

    def mixtures(self, split: str, condition: str) -> tuple[np.ndarray, Tensor, Tensor]:
        pairs = bench.mixtures(split, condition, self.source)
        y, peak = spectrograms(pair.noisy for pair in pairs)
        return np.stack([pair.clean for pair in pairs]), y.to(self.device), peak

    def noise(self, setting: Setting, copy: int) -> Callable[[], Tensor]:
        key = setting.split, setting.condition, copy
        if key not in self.kept:
            self.kept[key] = draws(setting.condition, range(len(self.mixtures(*key[:2])[0])), copy), []
        draw, drawn = self.kept[key]
        place = iter(range(10_000))

        def following() -> Tensor:
            at = next(place)
            if at == len(drawn):
                drawn.append(draw().to(self.device))
            return drawn[at]

        return following

    def estimates(self, net: method.Net, arm: Arm, setting: Setting) -> np.ndarray:
        _, y, peak = self.mixtures(setting.split, setting.condition)
        waves = []
        for copy in range(setting.copies):
            x = enhance(net, arm, y, self.noise(setting, copy), **setting.how())
            waves.append(waveforms(x.cpu(), peak))
        return np.mean(waves, 0)


def measured(pair: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """Measures of an estimate against the clean waveform; NaN where one cannot be taken."""
    estimate, clean = pair
    moved, values = speech.aligned(estimate, clean), {}
    for name, measure in speech.MEASURES.items():
        try:
            values[name] = measure(moved, clean)
        except Exception as error:  # hours of training are not to be lost by it
            print(f"{name} not measured: {error!r}", flush=True)
            values[name] = float("nan")
    return values


def score(trainings: list[Training], stage: Stage, workers: int) -> pd.DataFrame:
    """Every training under its settings: arm, seed, the setting, mixture, measure, value."""
    rows, begun = [], time.time()
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waiting = []
        for training in trainings:
            net = training.averaged().to(stage.device)
            for setting in settings(training.name, training.seed):
                waves, clean = stage.estimates(net, training.arm, setting), stage.mixtures(setting.split, setting.condition)[0]
                waiting.append((training, setting, pool.map(measured, zip(waves, clean, strict=True))))
        print(f"enhanced after {time.time() - begun:.0f} s", flush=True)
        for training, setting, found in waiting:
            for i, values in enumerate(found):
                key = {"arm": training.name, "seed": training.seed, **setting._asdict(), "mixture": i}
                rows += [{**key, "measure": measure, "value": value} for measure, value in values.items()]
    print(f"scored after {time.time() - begun:.0f} s", flush=True)
    return pd.DataFrame(rows)


def held_out(net: method.Net, name: str, stage: Stage) -> float:
    """The loss on validation mixtures, the same times and noise for every network of an arm."""
    arm = ARMS[name]
    clean, y, peak = stage.mixtures("validation", "C" if arm.rooms else "A")
    x0 = speech.compress(speech.stft(torch.as_tensor(clean, dtype=torch.float32) / peak)).to(stage.device)
    with torch.no_grad():
        return loss(net.to(stage.device), arm, x0, y, _at(y, seeding.torch_rng(0, "held out"))).item()


def _at(y: Tensor, rng: torch.Generator) -> torch.Generator:
    return rng if y.device.type == "cpu" else torch.Generator(y.device).manual_seed(rng.initial_seed())


# ---------------------------------------------------------------- all of it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop training after so long; scoring comes after that")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=seeding.seeds(max(TRAININGS.values())))
    parser.add_argument("--data", type=Path, help="a folder that --pack has written, instead of the data packages")
    parser.add_argument("--pack", type=Path, help="write the recordings there, and stop")
    given = parser.parse_args()
    if given.pack:
        pack(given.pack)
        return
    source, sounds = packed(given.data) if given.data else (bench.packaged, bench.sounds("train"))
    rooms = "reverberant SGMSE" in given.arms
    wanted = [(name, seed) for name in given.arms for place, seed in enumerate(given.seeds) if place < TRAININGS[name]]
    data = stock(source, sounds, given.device, rooms)
    trainings, about = train(wanted, data, given.steps, given.minutes)
    on_cpu = Stock(*(part.cpu() for part in data))
    stage = Stage(source, given.device)
    seeding.torch_rng(0)
    for file, names in FILES.items():
        kept = [t for t in trainings if (t.name, given.seeds.index(t.seed)) in names]
        tensors = {f"{t.name}/{t.seed}/{key}": value for t in kept for key, value in t.averaged().state_dict().items()}
        scores = {f"{t.name} {t.seed}": held_out(t.averaged(), t.name, stage) for t in kept}
        first = {t.name: first_losses(t.name, t.seed, on_cpu) for t in kept if t.seed == given.seeds[0]}
        if kept:
            mine = {key: about["losses"][key] for key in scores}
            zoo.keep(given.out / f"{file}.safetensors", tensors, scores, **about | {"losses": mine}, first_losses=first,
                     device=given.device, batch=BATCH, lr=LR, data="rhyme words and natural sounds")  # fmt: skip
    print("weights kept", flush=True)
    workers = max(1, min(12, (os.cpu_count() or 1) - 3))
    score(trainings, stage, workers).to_parquet(given.out / "scores.parquet", index=False)


if __name__ == "__main__":
    main()
