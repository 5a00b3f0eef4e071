"""Trains every model that the notebook judges, those with as many domains side by side, on a GPU or (slowly) on a CPU.

    python -m replications.causal.domain_counterfactuals.weights.train [--seeds 1000 1001 ...] [--device cuda] [--out FOLDER]

A fit has many starts, alike for all arms of a seed. Each start is trained briefly, the best by validation loss are trained long,
and the best of those by validation loss is kept. models.safetensors has the models, traces.safetensors the validation losses and
counterfactual errors on the way (the latter are recorded, and choose nothing); provenance.json has settings, hashes and seconds.
"""

import argparse
import functools
import hashlib
import json
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor

from replications.causal.domain_counterfactuals import method
from shared import seeding

M = 6
POSITIONS = ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5))  # the set I: which mechanisms differ, counted from 0
DOMAINS = (2, 3, 5, 10)
SLOPE, WRONG_SLOPE = 0.5, 0.2
ANGLES, DIGIT_M = (0, 15, 30, 45), 12  # degrees; principal components
DIGIT_SPLIT = (1000, 1300)  # images up to the first are for training, up to the second for validation, the others for tests
TRAINING = {
    "n_train": 10_000, "n_valid": 1000, "batch": 100, "starts": 64, "short_steps": 1500, "short_rate": 0.01,
    "kept_starts": 3, "long_steps": 5000, "long_rate": 0.005, "looks": 20, "blur": 0.1,
}  # fmt: skip
FIRST = 150  # steps that the notebook repeats
N_TRACE = 50  # units a domain behind a counterfactual error of the traces


class Fit(NamedTuple):
    """One model to be trained: its world (the first four) and its arm (the last two)."""

    seed: int
    changed: tuple[int, ...]  # the set I of the world; empty for the digits
    domains: int
    copies: bool  # domains beyond the second are copies of the first two
    arm: str  # "1" .. "4": the last k mechanisms are free; "dense": all; "misplaced": the first two
    slope: float = SLOPE


def plan(seeds: list[int]) -> dict[str, list[Fit]]:
    """The fits of every study, by the study's name; the models of a study are of one size and trained side by side."""
    studies: dict[str, list[Fit]] = {}
    for domains in DOMAINS:
        fits = [Fit(s, i, domains, False, arm) for s in seeds for i in POSITIONS for arm in ("2", "dense")]
        if domains > 2:
            fits += [Fit(s, i, domains, True, arm) for s in seeds for i in POSITIONS for arm in ("2", "dense")]
        studies[str(domains)] = fits
    last = [tuple(range(M - size, M)) for size in (1, 2, 3, 4)]
    studies["3"] += [Fit(s, i, 3, False, arm) for s in seeds for i in POSITIONS for arm in ("misplaced", "1", "4")]
    studies["3"] += [Fit(s, i, 3, False, k) for s in seeds for i in last for k in "1234" if i not in POSITIONS or k == "3"]
    studies["3"] += [Fit(s, i, 3, False, arm, WRONG_SLOPE) for s in seeds for i in POSITIONS for arm in ("2", "dense")]
    # the paper's gradient, which is blind to the count of negative coordinates
    studies["plain"] = [Fit(s, i, 3, False, arm) for s in seeds for i in POSITIONS for arm in ("2", "dense", "misplaced")]
    studies["digits"] = [Fit(s, (), len(ANGLES), False, arm) for s in seeds for arm in ("2", "6", "dense")]
    return studies


def free(fit: Fit) -> Tensor:
    """Which mechanisms differ by domain in the model (m,)."""
    m = M if fit.changed else DIGIT_M
    if fit.arm == "misplaced":
        return method.free_rows(m, 2, first=True)
    return method.free_rows(m, m if fit.arm == "dense" else int(fit.arm))


@functools.cache
def _world(seed: int, changed: tuple[int, ...], domains: int, copies: bool) -> method.Model:
    truth = method.world(seeding.rng(seed, "world"), M, 2 if copies else domains, changed, SLOPE)
    of = torch.arange(domains) % (2 if copies else domains)
    return truth._replace(lower=truth.lower[of], log_scale=truth.log_scale[of], bias=truth.bias[of])


def world(fit: Fit) -> method.Model:
    """The truth of one world, in float64; worlds of a seed share what their sets I have not touched."""
    return _world(fit.seed, fit.changed, fit.domains, fit.copies)


def units(fit: Fit, part: str, n: int, device: str = "cpu") -> Tensor:
    """Observations (domains, n, m) of one world, float64; part: "train", "valid", "trace" or "test", or of the digits."""
    if not fit.changed:
        x = torch.tensor(digits(fit.seed)[part], device=device)
        return x if part == "train" else x[:, :n]
    truth = method.Model(*(p.to(device) for p in world(fit)))
    eps = seeding.rng(fit.seed, f"units {part} {fit.changed} {fit.domains}").standard_normal((fit.domains, n, M))
    return method.predict(truth, torch.tensor(eps, device=device))


def digits(seed: int) -> dict[str, np.ndarray]:
    """Digits of scikit-learn (UCI, CC BY 4.0) turned by ANGLES, as principal components scaled to standard deviation 1.

    "train", "valid", "test": (4, n, 12), the same n images in every domain; "images": (4, 1797, 8, 8) in 0..16, in the order of
    "order" (1797,), an index into load_digits(); "mean", (64,), and "components", (12, 64), turn coordinates into pixels.
    """
    order = seeding.rng(seed, "digits").permutation(1797)
    shown = load_digits().images[order]
    turned = np.stack([np.clip(rotate(shown, angle, axes=(2, 1), reshape=False, order=1), 0, 16) for angle in ANGLES])
    flat = turned.reshape(len(ANGLES), -1, 64)
    pca = PCA(DIGIT_M, svd_solver="full").fit(flat[:, : DIGIT_SPLIT[0]].reshape(-1, 64))
    spread = np.sqrt(pca.explained_variance_)
    x = (flat - pca.mean_) @ pca.components_.T / spread
    parts = dict(zip(("train", "valid", "test"), np.split(x, DIGIT_SPLIT, axis=1), strict=True))
    return parts | {"images": turned, "order": order, "mean": pca.mean_, "components": pca.components_ * spread[:, None]}


class Bench(NamedTuple):
    """Data of the different worlds of a study, whitened as root (x - mean), and the world of each fit.

    A mixing matrix may be near singular: data are whitened, and models of whitened data turned back, in float64.
    """

    train: Tensor  # (worlds, domains, n, m) float32
    valid: Tensor
    root: Tensor  # (worlds, m, m) float64
    mean: Tensor  # (worlds, m) float64
    of: Tensor  # (fits,)


def bench(fits: list[Fit], device: str) -> Bench:
    """The data of these fits; arms of a world share it."""
    worlds = list(dict.fromkeys(fit._replace(arm="", slope=SLOPE) for fit in fits))
    of = torch.tensor([worlds.index(fit._replace(arm="", slope=SLOPE)) for fit in fits], device=device)
    train, valid = (torch.stack([units(w, p, TRAINING[f"n_{p}"], device) for w in worlds]) for p in ("train", "valid"))
    pooled = train.flatten(1, 2)
    root, mean = method.whitening(pooled), pooled.mean(1)
    train, valid = (((x - mean[:, None, None]) @ root[:, None].mT).float() for x in (train, valid))
    return Bench(train, valid, root, mean, of)


class Stack(NamedTuple):
    """Fits times starts, side by side."""

    data: Bench
    of: Tensor  # (fits * starts,) the world of each
    free: Tensor  # (fits * starts, m)
    slope: Tensor  # (fits * starts,)
    blur: float

    def raw(self, model):
        """A model or parameters of whitened data, as one of the data, in float64."""
        return method.composed(type(model)(*(p.double() for p in model)), self.data.root[self.of], self.data.mean[self.of])

    def losses(self, model: method.Model) -> Tensor:
        """Negative log likelihood (fits * starts,) of validation units in nats a unit of the data; model: of whitened data."""
        log_root = torch.linalg.slogdet(self.data.root)[1][self.of]
        return -method.log_density(model, self.data.valid[self.of]).mean((-2, -1)) - log_root.float()

    def train(self, parameters: method.Parameters, length: str, looks: int, look=None, stop_after=None) -> method.Parameters:
        """Trains parameters of whitened data; length: "short" or "long". look gets every looked-at stack and its losses."""
        batch, n = TRAINING["batch"], self.data.train.shape[2]

        def batch_of(step: int) -> Tensor:  # the rows are independent draws, so that they are taken in order
            at = step * batch % n
            return self.data.train[:, :, at : at + batch][self.of]

        def looked(_: int, model: method.Model) -> Tensor:
            found = self.losses(model)
            if look:
                look(self.raw(model), found)
            return found

        steps, rate = TRAINING[f"{length}_steps"], TRAINING[f"{length}_rate"]
        every = steps // looks
        return method.train(parameters, self.free, self.slope, batch_of, steps, rate, every, looked, self.blur, stop_after)

    def model(self, parameters: method.Parameters) -> method.Model:
        return method.tied(parameters, self.free, self.slope)


def stack(data: Bench, fits: list[Fit], starts: int, blur: float) -> Stack:
    """The stack of these fits, each `starts` times."""
    device = data.of.device
    kinds, slopes = torch.stack([free(fit) for fit in fits]).to(device), torch.tensor([fit.slope for fit in fits], device=device)
    return Stack(data, *(t.repeat_interleave(starts, 0) for t in (data.of, kinds, slopes)), blur)


def first_parameters(fits: list[Fit], starts: int, device: str = "cpu") -> method.Parameters:
    """Starts (fits * starts, ...) for whitened data: a random rotation, so that every kink is amid the data."""
    m = M if fits[0].changed else DIGIT_M
    turns = {s: [method.rotation(seeding.rng(s, f"start {r}"), m) for r in range(starts)] for s in {fit.seed for fit in fits}}
    return method.start(torch.stack([turn for fit in fits for turn in turns[fit.seed]]).to(device), fits[0].domains)


class Judge:
    """Counterfactual errors of stacks of models on units that nothing was chosen by."""

    def __init__(self, fits: list[Fit], device: str):
        worlds = [method.Model(*(p.to(device) for p in world(fit))) for fit in fits]
        self.x = torch.stack([units(fit, "trace", N_TRACE, device) for fit in fits])
        self.truth = method.counterfactual(method.stacked(worlds), self.x)

    def __call__(self, model: method.Model) -> Tensor:
        starts = len(model.offset) // len(self.x)
        x, truth = (t.repeat_interleave(starts, 0) for t in (self.x, self.truth))
        return method.error(method.counterfactual(model, x), truth, x)


def study(name: str, fits: list[Fit], device: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Models and traces of one study; errors are traced with three domains only."""
    n, keep, blur = len(fits), TRAINING["kept_starts"], 0.0 if name == "plain" else TRAINING["blur"]
    data, judge = bench(fits, device), Judge(fits, device) if name == "3" else None
    many, few = (stack(data, fits, starts, blur) for starts in (TRAINING["starts"], keep))
    short = many.train(first_parameters(fits, TRAINING["starts"], device), "short", 3)
    model = many.model(short)
    traces = {"short_loss": many.losses(model).reshape(n, -1)}  # (fits, starts)
    if judge:
        traces["short_error"] = judge(many.raw(model)).reshape(n, -1)
    if not torch.isfinite(traces["short_loss"].amin(1)).all():
        raise FloatingPointError(f"a fit of study {name} has no start with a finite loss")
    first_of = torch.arange(n, device=device)[:, None]
    chosen = traces["short_loss"].topk(keep, largest=False).indices + first_of * TRAINING["starts"]  # (fits, kept)
    curve, errors = [], []

    def look(model: method.Model, found: Tensor) -> None:
        curve.append(found)
        if judge:
            errors.append(judge(model))

    trained = few.train(method.Parameters(*(p[chosen.flatten()] for p in short)), "long", TRAINING["looks"], look)
    loss = few.losses(few.model(trained))
    best = loss.reshape(n, keep).argmin(1) + first_of[:, 0] * keep
    traces["long_loss"] = torch.stack(curve)[:, best]  # (looks, fits)
    if judge:
        traces["long_error"] = torch.stack(errors)[:, best]
    models = {k: p[best] for k, p in few.raw(trained)._asdict().items()} | {"valid": loss[best]}
    return tuple({f"{name}.{k}": v.float().contiguous().cpu() for k, v in part.items()} for part in (models, traces))


def first_steps(seed: int) -> list[float]:
    """Validation losses of the relaxed canonical and the dense model after FIRST steps of one start, on a CPU; I is last."""
    fits = [Fit(seed, POSITIONS[-1], 3, False, arm) for arm in ("2", "dense")]
    both = stack(bench(fits, "cpu"), fits, 1, TRAINING["blur"])
    trained = both.train(first_parameters(fits, 1), "short", TRAINING["short_steps"] // FIRST, stop_after=FIRST)
    return [round(loss, 3) for loss in both.losses(both.model(trained)).tolist()]


def load(path: Path, name: str, fits: list[Fit]) -> method.Model:
    """The stored models (fits, ...) of a study, float64, on the CPU."""
    state = load_file(path)
    parameters = method.Parameters(*(state[f"{name}.{field}"].double() for field in method.Parameters._fields))
    slopes = torch.tensor([fit.slope for fit in fits], dtype=torch.float64)
    return method.tied(parameters, torch.stack([free(fit) for fit in fits]), slopes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeding.seeds(10))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    chip = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    record = {
        "training": TRAINING,
        "seeds": arguments.seeds,
        "torch": torch.__version__,
        "device": chip,
        "seconds": {},
        "sha256": {},
        "first_steps": first_steps(arguments.seeds[0]),
        "data": "simulated, method.world; digits of scikit-learn, turned",
    }
    models, traces, studies = {}, {}, plan(arguments.seeds)
    for name in ("3", "plain", "digits", "2", "5", "10"):
        begin = time.perf_counter()
        new = study(name, studies[name], arguments.device)
        for kept, part in zip((models, traces), new, strict=True):
            kept.update(part)
        record["seconds"][name] = round(time.perf_counter() - begin)
        for file, content in (("models", models), ("traces", traces)):
            path = arguments.out / f"{file}.safetensors"
            save_file(content, path)
            record["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        (arguments.out / "provenance.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        print(name, len(studies[name]), "fits", record["seconds"][name], "s", flush=True)


if __name__ == "__main__":
    main()
