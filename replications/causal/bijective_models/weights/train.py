"""Trains every flow that the notebook judges, on one core.

    python -m replications.causal.bijective_models.weights.train [--seeds 1000 1001 ...] [--out FOLDER]

One file of fp16 safetensors per seed and kind of study (`ellipses`; `chunks`; for the first seed also `other_scale`, ellipses
with outcomes scaled the other way), and provenance.json with settings, seeds, hashes and held-out likelihoods. Within a kind
all arms have the same number of couplings, steps, batches in the same order, and rate.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from replications.causal.bijective_models import method
from shared import seeding

ELLIPSES = {"n": 50_000, "log_scale": True, "steps": 300, "batch": 1024, "rate": 4e-3, "bins": 8, "width": 32}
CHUNKS = {"n": 20_000, "steps": 400, "batch": 1024, "rate": 5e-3, "bins": 8, "width": 32}
SETTINGS = {"ellipses": ELLIPSES, "other_scale": ELLIPSES | {"log_scale": not ELLIPSES["log_scale"]}, "chunks": CHUNKS}
ELLIPSE_ARMS = ("backdoor", "x", "xz", "backdoor, z permuted")  # the arms of the paper's table, and the placebo
TWICE = ("backdoor", "xz", "backdoor, z permuted")  # fitted from a second start too
CONFOUNDED, POWERLESS = {}, {"strength": 0.0}
EXOGENOUS, FLIPPING = {"pull": 0.0}, {"pull": 0.0, "outcome": method.flipping}
CHUNK_ARMS = {  # name: how its chunks differ from the confounded ones
    "instrument": CONFOUNDED,
    "instrument, labels permuted": CONFOUNDED,
    "instrument, powerless": POWERLESS,
    "markovian": CONFOUNDED,
    "markovian, exogenous": EXOGENOUS,
    "markovian, flipping": FLIPPING,
}
N_TEST = 4000


class Study(NamedTuple):
    """Scaled training rows and test rows of one seed, and what is needed to judge counterfactuals in the data's units."""

    train: dict[str, Tensor]  # columns by name, each (n, columns)
    test: dict[str, Tensor]
    seen: np.ndarray  # (m, d) outcomes of the test units
    truth: np.ndarray  # (m, d) their counterfactuals
    actions: tuple[np.ndarray, np.ndarray]  # (m,) each, before and after
    observed: tuple[np.ndarray, np.ndarray]  # actions (n,) and outcomes (n, d) of the training units
    action_scale: method.Scale
    scale: method.Scale
    log_scale: bool

    def outcomes(self, v: Tensor) -> np.ndarray:
        """Scaled outcomes (m, d) in the data's units."""
        return np.exp(self.scale.inverse(v)) if self.log_scale else self.scale.inverse(v)


def ellipse_study(seed: int, n: int, log_scale: bool, n_test: int = N_TEST) -> Study:
    """Ellipses of one world; every test unit gets the angle of another."""
    world = method.ellipse_world(seeding.rng(seed, "world"))
    train, test = (method.ellipses(world, size, seeding.rng(seed, name)) for name, size in (("train", n), ("test", n_test)))
    after = np.roll(test.t, 1)
    warp = np.log if log_scale else np.asarray
    scale = method.range_scale(warp(train.v))
    scales = {name: method.standard_scale(getattr(train, name)[:, None]) for name in ("t", "z")}
    shuffled = [seeding.rng(seed, f"permuted {part}").permutation(data.z) for part, data in (("train", train), ("test", test))]

    def rows(data: method.Ellipses, z: np.ndarray) -> dict[str, Tensor]:
        columns = {"t": scales["t"].forward(data.t[:, None])}
        columns |= {"z": scales["z"].forward(data.z[:, None]), "z permuted": scales["z"].forward(z[:, None])}
        return {"v": scale.forward(warp(data.v)), **columns}

    return Study(
        rows(train, shuffled[0]),
        rows(test, shuffled[1]) | {"after": scales["t"].forward(after[:, None])},
        test.v,
        test.v * method.ellipse_factor(after) / method.ellipse_factor(test.t),
        (test.t, after),
        (train.t, train.v),
        scales["t"],
        scale,
        log_scale,
    )


def chunk_study(seed: int, arm: str, n: int, n_test: int = N_TEST) -> Study:
    """Chunks for one arm of CHUNK_ARMS; all arms of a seed share i, u and noise. Every test unit gets the size of another."""
    kind = CHUNK_ARMS[arm]
    outcome = kind.get("outcome", method.log_throughput)
    train, test = (
        method.chunks(size, seeding.rng(seed, f"chunks {part}"), **kind) for part, size in (("train", n), ("test", n_test))
    )
    after = np.roll(test.t, 1)
    scale, t_scale = method.range_scale(train.v[:, None]), method.standard_scale(train.t[:, None])
    permute = seeding.rng(seed, "permuted").permutation if arm.endswith("permuted") else np.asarray

    def rows(data: method.Chunks) -> dict[str, Tensor]:
        instrument = torch.tensor(permute(data.i)[:, None], dtype=torch.float32)
        return {"v": scale.forward(data.v[:, None]), "t": t_scale.forward(data.t[:, None]), "i": instrument}

    return Study(
        rows(train),
        rows(test) | {"after": t_scale.forward(after[:, None])},
        test.v[:, None],
        outcome(after, test.u)[:, None],
        (test.t, after),
        (train.t, train.v[:, None]),
        t_scale,
        scale,
        False,
    )


class Arm(NamedTuple):
    """One model: its modules, the columns its likelihood reads in order, that likelihood, and the columns its flow sees."""

    modules: nn.ModuleDict
    reads: tuple[str, ...]
    log_likelihood: Callable  # (module dict, *columns) -> (n,)
    sees: tuple[str, ...]

    def held_out(self, columns: dict[str, Tensor]) -> float:
        """Mean negative log likelihood of rows, nats a unit in scaled outcomes."""
        with torch.no_grad():
            return float(-self.log_likelihood(self.modules, *(columns[name] for name in self.reads)).mean())

    def counterfactual(self, columns: dict[str, Tensor]) -> Tensor:
        """Scaled counterfactuals (m, d) of the test rows."""
        before, after = (torch.cat([columns[name] for name in (action, *self.sees[1:])], 1) for action in ("t", "after"))
        return method.counterfactual(self.modules["flow"], columns["v"], before, after)


def arm(name: str, seed: int, start: str, settings: dict) -> Arm:
    """The untrained model of one arm; its first weights come from the seed, the arm and the start ("first", "second")."""
    rng, width = seeding.torch_rng(seed, f"{name}, {start} start"), settings["width"]
    size = {"bins": settings["bins"], "width": width}
    if name.startswith("backdoor"):
        z = "z permuted" if name.endswith("permuted") else "z"
        parts = {"flow": method.Flow(2, 1, rng, 1, **size), "prior": method.Flow(2, 1, rng, 1, **size)}
        return Arm(nn.ModuleDict(parts), ("v", "t", z), lambda m, *r: method.log_backdoor(m["flow"], m["prior"], *r), ("t",))
    if name in ("x", "xz"):
        sees = ("t", "z")[: len(name)]
        flow = nn.ModuleDict({"flow": method.Flow(2, len(sees), rng, 2, **size)})
        return Arm(flow, ("v", *sees), lambda m, v, *c: method.log_markovian(m["flow"], v, torch.cat(c, 1)), sees)
    if name.startswith("instrument"):
        parts = {"flow": method.Flow(1, 1, rng, 1, **size), "action": method.network((2, width, width, 2), rng)}
        return Arm(nn.ModuleDict(parts), ("v", "t", "i"), lambda m, *r: method.log_instrument(m["flow"], m["action"], *r), ("t",))
    flow = nn.ModuleDict({"flow": method.Flow(1, 1, rng, 1, **size)})
    return Arm(flow, ("v", "t"), lambda m, *r: method.log_markovian(m["flow"], *r), ("t",))


def trained(name: str, seed: int, start: str, study: Study, settings: dict, device: str = "cpu") -> Arm:
    """The model of one arm after maximum likelihood; all arms of a seed and start see the same batches."""
    model = arm(name, seed, start, settings)
    rows = [study.train[column].to(device) for column in model.reads]
    model.modules.to(device)
    batches = seeding.torch_rng(seed, f"batches, {start} start")
    tuning = (settings[key] for key in ("steps", "batch", "rate"))
    method.fit([model.modules], lambda *r: model.log_likelihood(model.modules, *r), rows, batches, *tuning)
    model.modules.to("cpu")
    return model


def plan(first: bool) -> list[tuple[str, str, str]]:
    """(kind of study, arm, start) of every model of a seed; the first seed has the other scale too."""
    ellipses = [("ellipses", name, "first") for name in ELLIPSE_ARMS] + [("ellipses", name, "second") for name in TWICE]
    others = [("other_scale", name, "first") for name in ELLIPSE_ARMS[:3]] if first else []
    return ellipses + others + [("chunks", name, "first") for name in CHUNK_ARMS]


def study_of(kind: str, name: str, seed: int, settings: dict) -> Study:
    """The data of one arm; kind is one of SETTINGS."""
    if kind == "chunks":
        return chunk_study(seed, name, settings["n"])
    return ellipse_study(seed, settings["n"], settings["log_scale"])


def load(path: Path, name: str, seed: int, start: str, settings: dict) -> Arm:
    """One arm stored at `path`, in float32."""
    model, prefix = arm(name, seed, start, settings), f"{name}, {start}."
    state = {key.removeprefix(prefix): v.float() for key, v in load_file(path).items() if key.startswith(prefix)}
    model.modules.load_state_dict(state)
    return model


def keep(path: Path, models: dict[str, Arm], scores: dict, seconds: float) -> None:
    """Write the weights of a seed as fp16 and note what is known about them."""
    state = {f"{k}.{p}": v.half().contiguous() for k, model in models.items() for p, v in model.modules.state_dict().items()}
    save_file(state, path)
    note = path.parent / "provenance.json"
    record = json.loads(note.read_text()) if note.exists() else {"files": {}}
    record |= SETTINGS | {"data": "simulated, method.ellipses and method.chunks", "torch": torch.__version__}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    record["files"][path.name] = {"sha256": digest, "held_out": scores, "cpu_seconds": round(seconds)}
    note.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeding.seeds(5))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for kind, settings in SETTINGS.items():
            path, todo = arguments.out / f"{kind}_{seed}.safetensors", plan(seed == seeding.FIRST_REPORTED)
            if path.exists() or kind not in {of for of, *_ in todo}:
                continue
            begin, models, scores = time.process_time(), {}, {}
            for name, start in (rest for of, *rest in todo if of == kind):
                data = study_of(kind, name, seed, settings)
                model = trained(name, seed, start, data, settings)
                models[f"{name}, {start}"] = model
                scores[f"{name}, {start}"] = round(model.held_out(data.test), 4)
            keep(path, models, scores, time.process_time() - begin)
            print(path.name, scores, flush=True)


if __name__ == "__main__":
    main()
