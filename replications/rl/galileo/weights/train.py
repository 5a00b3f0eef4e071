"""Trains every model of the grid on one core; all runs of a study side by side.

    python -m replications.rl.galileo.weights.train --tune 0               # tuning.json: rates and starts, by held-out likelihood
    python -m replications.rl.galileo.weights.train [--seeds 2000 2001 ...]  # grid.safetensors and provenance.json

Two worlds: negative feedback control, three tasks and a negative control, and dose-response curves on the real covariates of IHDP.
Kept are every run's last model (fp16) and, on the way, its average response curve, error and slope; provenance.json holds
hashes, settings, gradient steps and seconds. The notebook repeats the beginning of one run and the cheap runs of one task.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from replications.rl.galileo import method
from shared import seeding
from shared.data import ihdp

TASKS = {"e1_p1": (1.0, 1.0), "e0.2_p1": (0.2, 1.0), "e0.2_p0.05": (0.2, 0.05)}  # size and rate of the noise on actions
CONTROL, EASY = {"e0.2_p0": (0.2, 0.0)}, {"e3_p1": (3.0, 1.0)}  # nothing to learn from; nothing to confuse
HARDEST = "e0.2_p0.05"  # the paper's default, where the ablations are run
N, HORIZON, GRID = 400, 50, 9
DOSE_GRID = 33
WORLDS = {"feedback": method.Settings(), "doses": method.Settings(trajectories=100, batch=100, gamma=0.0)}
TUNING = Path(__file__).with_name("tuning.json")
TUNED = (("feedback", "sl"), ("doses", "sl"), ("doses", "full"), ("feedback", "full"), ("feedback", "ipw"))  # worlds and methods
RATES, STARTS = (3e-3, 1e-2), (0.02, 0.3)  # likelihood rates and starting standard deviations that every method tries
FIRST_SEED = 2000  # seeds below 1000 tuned; those from 1000 were looked at before the last change of settings
LOOK = 25  # iterations between two looks
ADVERSARIAL = {  # likelihood steps, weighted, permuted labels
    "full": (True, True, False), "unweighted": (True, False, False), "adversarial": (False, False, False),
    "permuted": (True, True, True), "again": (True, True, False),
}  # fmt: skip
SUPERVISED = ("sl", "ipw", "likelihood")


def chosen(world: str, arm: str) -> method.Settings:
    """The settings of an arm: of its tries (ablations have those of the full method) the one of highest held-out likelihood."""
    tuned = arm if arm in ("sl", "ipw") else "full"
    tries = [one for one in json.loads(TUNING.read_text()) if (one["world"], one["arm"]) == (world, tuned)]
    best = max(tries, key=lambda one: one["log_likelihood"])
    return WORLDS[world]._replace(rate=best["rate"], std=best["std"])


class Fit(NamedTuple):
    """One run."""

    task: str
    seed: int
    arm: str


class Bench(NamedTuple):
    """Data of the runs of a study in unit space, and what they are asked."""

    data: method.Data
    frame: method.Frame
    states: Tensor  # (R, N, d), unit space
    actions: Tensor  # (R, k), unit space: equally spaced over the range that was seen
    truth: np.ndarray  # (R, N, k) expected outcomes
    doses: np.ndarray  # (R, k) the actions in their own units

    def scores(self, model: method.Gaussian) -> dict[str, np.ndarray]:
        """Average response curves (R, k), their slopes (R,) and MISE (R,)."""
        predicted = method.response(model, self.frame, self.states, self.actions).double().numpy()
        curves = predicted.mean(1)
        error = method.mise(predicted, self.truth, self.doses[:, 1] - self.doses[:, 0])
        return {"curve": curves, "slope": method.slope(self.doses, curves), "mise": error}


def feedback(task: str, seed: int) -> method.Trajectories:
    """The trajectories of a task; arms of a seed share them."""
    return method.gnfc(seeding.rng(seed, f"data {task}"), N, HORIZON, *(TASKS | CONTROL | EASY)[task])


def feedback_bench(fits: Sequence[Fit]) -> Bench:
    """Asked are every 20th trajectory's states at every 7th step, (160, 2), of the training data."""
    seen = [feedback(fit.task, fit.seed) for fit in fits]
    data, frame = method.framed(seen)
    states = data.states[:, ::20, ::7].flatten(1, 2)
    actions, doses = _asked(frame, GRID)
    y = np.stack([one.states[::20, ::7, 0].ravel() for one in seen])
    return Bench(data, frame, states, actions, y[..., None] + doses[:, None], doses)


def dose_bench(fits: Sequence[Fit]) -> Bench:
    """Asked are all 747 infants."""
    x = ihdp.load().x
    seen, coefficients = zip(*(method.doses(seeding.rng(f.seed, f"data {f.task}"), x, f.task) for f in fits), strict=True)
    data, frame = method.framed(seen, None)
    actions, doses = _asked(frame, DOSE_GRID)
    curves = [
        method.dose_response(one.states[:, 0], d[None].repeat(len(x), 0), v, fit.task)
        for one, v, d, fit in zip(seen, coefficients, doses, fits, strict=True)
    ]
    return Bench(data, frame, data.states[:, :, 0], actions, np.stack(curves), doses)


def _asked(frame: method.Frame, k: int) -> tuple[Tensor, np.ndarray]:
    """k equally spaced actions over the range that was seen, in unit space and in their own units, both (R, k)."""
    edge = 0.5 - 0.5 / method.ACTION_MARGIN
    actions = torch.linspace(edge, 1 - edge, k).expand(len(frame.low), -1)
    return actions, (frame.low[:, -1:] + frame.span[:, -1:] * actions).double().numpy()


def generators(fits: Sequence[Fit]) -> list[torch.Generator]:
    """One a run; arms of a task and seed start alike, but for the full method trained again."""
    return [seeding.torch_rng(fit.seed, f"training {fit.task}" + " again" * (fit.arm == "again")) for fit in fits]


def supervised(fits: Sequence[Fit], bench: Bench, settings: method.Settings, look=None) -> method.Gaussian:
    """Models of one supervised arm, as many likelihood steps as GALILEO makes."""
    (arm,) = {fit.arm for fit in fits}
    states, actions, outcomes = (part.flatten(1, 2) for part in bench.data)
    steps, weights = settings.iterations * settings.likelihood_steps, None
    if arm == "ipw":
        clone = method.fit(states, actions, generators(fits), settings, steps)
        weights = method.inverse_propensity(clone, states, actions)
    return method.fit(torch.cat([states, actions], -1), outcomes, generators(fits), settings, steps, weights, look)


def adversarial(fits: Sequence[Fit], bench: Bench, settings: method.Settings, look=None, stop_after=None) -> method.Players:
    """The networks of adversarial arms."""
    flags = torch.tensor([ADVERSARIAL[fit.arm] for fit in fits])
    advance = method.feedback_advance(bench.frame) if settings.gamma else None
    return method.galileo(bench.data, method.Arms(*flags.T), generators(fits), settings, advance, look, stop_after)


def held_out(world: str, arm: str, settings: method.Settings, seed: int) -> float:
    """Mean log density of every fifth trajectory under models fitted to the others, mean over a world's tasks."""
    tasks, make = (TASKS, feedback_bench) if world == "feedback" else (method.FORMULAS, dose_bench)
    fits = [Fit(task, seed, arm) for task in tasks]
    bench = make(fits)
    away = torch.arange(bench.data.states.shape[1]) % 5 == 0
    seen, kept = (method.Data(*(part[:, rows] for part in bench.data)) for rows in (~away, away))
    bench = bench._replace(data=seen)
    model = adversarial(fits, bench, settings).model if arm in ADVERSARIAL else supervised(fits, bench, settings)
    states, actions, outcomes = (part.flatten(1, 2) for part in kept)
    with torch.no_grad():
        return float(model.log_prob(torch.cat([states, actions], -1), outcomes).mean())


def tune(seed: int, path: Path) -> None:
    """Every rate and start for every method by held-out likelihood, which needs no truth; written to path as a list of tries."""
    tries = []
    for world, arm in TUNED:
        for rate, std in product(RATES, STARTS):
            score = held_out(world, arm, WORLDS[world]._replace(rate=rate, std=std), seed)
            tries.append({"world": world, "arm": arm, "rate": rate, "std": std, "seed": seed, "log_likelihood": round(score, 3)})
            print(tries[-1], flush=True)
            path.write_text(json.dumps(tries, indent=1) + "\n")


def packed(model: method.Gaussian) -> Tensor:
    """All parameters of the models, (R, p), fp16."""
    return torch.cat([p.detach().flatten(1) for p in model.parameters()], 1).half()


def unpacked(flat: Tensor, width_in: int, settings: method.Settings = WORLDS["feedback"]) -> method.Gaussian:
    """The models that `packed` took apart; width_in is that of state and action."""
    sizes, at, layers = [width_in, *settings.hidden, 1], 0, []
    for i, o in pairwise(sizes):
        weights, bias = flat[:, at : at + i * o].float().reshape(-1, i, o), flat[:, at + i * o : at + i * o + o].float()
        layers.append((weights, bias[:, None]))
        at += i * o + o
    return method.Gaussian(layers, flat[:, at:].float()[..., None])


def plan(seeds: Sequence[int]) -> dict[str, list[Fit]]:
    """The runs of every study."""
    studies: dict[str, list[Fit]] = {arm: [Fit(t, s, arm) for t in TASKS | CONTROL for s in seeds] for arm in SUPERVISED}
    studies["galileo"] = [Fit(t, s, arm) for t in TASKS for s in seeds for arm in ("full", "permuted")]
    studies["galileo"] += [Fit(HARDEST, s, arm) for s in seeds for arm in ("unweighted", "adversarial", "again")]
    studies["galileo"] += [Fit(t, s, "full") for t in CONTROL for s in seeds]
    studies["dose_sl"] = [Fit(t, s, "sl") for t in method.FORMULAS for s in seeds]
    studies["dose_galileo"] = [Fit(t, s, arm) for t in method.FORMULAS for s in seeds for arm in ("full", "permuted")]
    return studies


def study(name: str, fits: Sequence[Fit]) -> dict[str, Tensor]:
    """Last models of a study and what was seen on the way."""
    dose = name.startswith("dose")
    settings = chosen("doses" if dose else "feedback", fits[0].arm)
    bench = (dose_bench if dose else feedback_bench)(fits)
    seen: dict[str, list] = {}

    def look(model: method.Gaussian, **more: np.ndarray) -> None:
        for key, value in (bench.scores(model) | more).items():
            seen.setdefault(key, []).append(value)

    if name.endswith("galileo"):
        trusted = []

        def after(iteration: int, players: method.Players, judged: Tensor) -> None:
            trusted.append(((judged - 0.5).abs() < method.TRUST).all(0).float().numpy())
            if iteration % LOOK == 0 or iteration == settings.iterations:
                look(players.model, judged=judged.numpy(), trusted=np.mean(trusted[-LOOK:], 0))
                print(name, iteration, flush=True)

        model = adversarial(fits, bench, settings, after).model
    else:
        every = LOOK * settings.likelihood_steps
        model = supervised(fits, bench, settings, lambda step, model: None if step % every else look(model))
    traces = {key: torch.tensor(np.stack(value), dtype=torch.float32) for key, value in seen.items()}
    return {f"{name}.{key}": value for key, value in (traces | {"model": packed(model)}).items()}


def first_steps(seed: int) -> Tensor:
    """The average response curve of one full run, (k,), at its first look."""
    fits = [Fit(HARDEST, seed, "full")]
    bench = feedback_bench(fits)
    players = adversarial(fits, bench, chosen("feedback", "full"), stop_after=LOOK)
    return torch.tensor(bench.scores(players.model)["curve"][0], dtype=torch.float32)


def load(folder: Path) -> dict[str, Tensor]:
    """Everything that was kept, by "study.what".

    Raises ValueError that names a file whose hash is not the recorded one, and when today's settings are not those recorded.
    """
    record = json.loads((folder / "provenance.json").read_text())
    if record["settings"] != settings_of_all():
        raise ValueError(f"settings are not those of {folder / 'provenance.json'}: train anew")
    for name, digest in record["sha256"].items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise ValueError(f"{name} is not the recorded one")
    return {key: value for name in record["sha256"] for key, value in load_file(folder / name).items()}


def settings_of_all() -> dict[str, dict]:
    """The settings of every tuned method, as json gives them back."""
    return {f"{world} {arm}": chosen(world, arm)._asdict() | {"hidden": list(WORLDS[world].hidden)} for world, arm in TUNED}


def seeds_of(folder: Path) -> list[int]:
    """The seeds of what was kept."""
    return json.loads((folder / "provenance.json").read_text())["seeds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    torch.set_num_threads(1)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeding.seeds(5, FIRST_SEED))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--tune", type=int, help="only try rates and starts on this seed, < 1000")
    parser.add_argument("--studies", nargs="+", help="only these, the others are kept")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.tune is not None:
        tune(arguments.tune, arguments.out / "tuning.json")
        return
    path, note, studies = arguments.out / "grid.safetensors", arguments.out / "provenance.json", plan(arguments.seeds)
    kept: dict[str, Tensor] = {}
    record = {
        "data": "simulated, method.gnfc; covariates of IHDP, shared.data.ihdp, with simulated doses and outcomes",
        "seeds": arguments.seeds, "device": "CPU, one thread", "torch": torch.__version__, "seconds": {}, "sha256": {},
        "settings": settings_of_all(),
        "steps_on_real_data": steps_on_real_data(WORLDS["feedback"]),
    }  # fmt: skip
    if arguments.studies:  # the others stay as they are
        kept, old = load_file(path), json.loads(note.read_text())
        if old["seeds"] != arguments.seeds:
            raise SystemExit(f"{path} has seeds {old['seeds']}: train all studies anew")
        record["seconds"] = old["seconds"]
    for name in arguments.studies or studies:
        begin = time.process_time()
        kept |= study(name, studies[name])
        record["seconds"][name] = round(time.process_time() - begin)
        save_file(kept, path)
        record["sha256"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
        note.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        print(name, len(studies[name]), "runs", record["seconds"][name], "s", flush=True)


def steps_on_real_data(settings: method.Settings) -> dict[str, dict[str, int]]:
    """Gradient steps on real rows, by arm and network."""
    model = settings.iterations * settings.likelihood_steps
    game = {"clone": settings.pretraining + model, "classifiers": settings.iterations * settings.classifier_steps}
    return {
        "sl": {"model": model}, "likelihood": {"model": model}, "ipw": {"model": model, "clone": model},
        **{arm: {"model": model} | game for arm in ("full", "again", "unweighted", "permuted")},
        "adversarial": {"model": 0} | game,
    }  # fmt: skip


if __name__ == "__main__":
    main()
