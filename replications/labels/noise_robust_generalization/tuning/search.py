"""Random search of the settings that the notebook freezes; writes search.json beside this file.

    python replications/labels/noise_robust_generalization/tuning/search.py

Every method gets 12 draws, and every draw the same tuning seeds, for each task and noise. On coloured MNIST methods draw their own
knobs only; on the four text domains they all draw a weight decay and a stopping step too. A draw's scores are means over seeds and
held-out domains.
"""

import json
from pathlib import Path

import numpy as np

from replications.labels.noise_robust_generalization import method
from shared import seeding
from shared.data import mnist, vader_domains

DRAWS, SEEDS, LR, HIDDEN = 12, (100, 101), 0.006, 32
SIZES = {"mnist": {"n": 300, "n_within": 150, "n_test": 500}, "texts": {"n": 300, "n_within": 150}}
STEPS = {"mnist": 150, "texts": 50}
EVERY = 10
SCORES = ("clean", "memorised", "within", "chosen_by", "test")


def draws(name: str, task: str) -> list[dict[str, float]]:
    """Twelve settings of a method. anneal and stop are shares of all steps; ranges are the paper's, for its 5,001 steps."""
    rng = seeding.rng(0, f"search {name}")
    own = {
        "IRM": lambda: {"weight": 10 ** rng.uniform(-1, 5), "anneal": min(1.0, 10 ** rng.uniform(0, 4) / 5000)},
        "GroupDRO": lambda: {"weight": 10 ** rng.uniform(-2, 0)},  # ten times the paper's, for a twentieth of its steps
        "Mixup": lambda: {"weight": 10 ** rng.uniform(-1, 1)},
        "ERM, stopped and decayed": dict,
    }
    own["V-REx"] = own["IRM"]
    found = [own[name]() for _ in range(DRAWS)]
    if task == "texts" or "decayed" in name:
        found = [d | {"decay": 10 ** rng.uniform(-4, -1), "stop": rng.uniform(0.04, 1)} for d in found]
    return [{key: float(f"{value:.2g}") for key, value in d.items()} for d in found]


NAMES = ("ERM, stopped and decayed", "IRM", "V-REx", "GroupDRO", "Mixup")


def splits(task: str, noise: str, seed: int) -> list[method.Split]:
    """The data of one seed: one split of coloured MNIST, or one with each domain held out."""
    if task == "mnist":
        return [method.coloured_split(*MNIST, float(noise), seeding.rng(seed, "coloured"), **SIZES["mnist"])]
    rng = seeding.rng(seed, f"noise {noise}")
    domains = [method.rated_domain(d.features, d.opinion, d.ratings, noise, rng) for d in DOMAINS]
    return [method.held_out_split(domains, k, seeding.rng(seed, "texts"), **SIZES["texts"]) for k in range(len(domains))]


def tried(split: method.Split, name: str, settings: list[dict], seed: int, steps: int) -> np.ndarray:
    """Scores (draws, 5) of one method's settings on one split."""
    how = {"hidden": HIDDEN, "lr": LR, "marks": list(range(EVERY, steps + 1, EVERY))}
    last = [method.last_mark(how["marks"], d) for d in settings]
    runs = [method.setting(name, d, steps) for d in settings]
    if name == "Mixup":
        nets = [
            method.train(
                split.train, [run], seeding.torch_rng(seed, "net"), **how, mixing=(d["weight"], seeding.rng(seed, "mixup"))
            )
            for run, d in zip(runs, settings, strict=True)
        ]
        return np.array([method.scores([n[mark]], split)[0, 0] for n, mark in zip(nets, last, strict=True)])
    nets = method.train(split.train, runs, seeding.torch_rng(seed, "net"), **how)
    return np.array([method.scores([method.Nets(*(p[r : r + 1] for p in nets[mark]))], split)[0, 0] for r, mark in enumerate(last)])


def search(task: str, noise: str) -> list[dict]:
    """Settings of every method with their mean scores."""
    found = []
    for name in ("ERM", *NAMES):
        settings = draws(name, task) if name in NAMES else [{}]
        runs = [tried(split, name, settings, seed, STEPS[task]) for seed in SEEDS for split in splits(task, noise, seed)]
        for d, row in zip(settings, np.mean(runs, axis=0), strict=True):
            found.append({"task": task, "noise": noise, "method": name} | d | dict(zip(SCORES, row.round(4).tolist(), strict=True)))
    return found


if __name__ == "__main__":
    parts = [mnist.load(part) for part in ("train", "test")]
    MNIST = np.concatenate([p[0] for p in parts])[:, ::2, ::2] / 255, np.concatenate([p[1] for p in parts])
    DOMAINS = [vader_domains.load(name) for name in vader_domains.SETS]
    tasks = [("mnist", "0"), ("mnist", "0.1"), ("mnist", "0.25"), ("texts", "0.25"), ("texts", "one rater")]
    results = [row for task in tasks for row in search(*task)]
    lines = ",\n".join(json.dumps(row).replace("NaN", "null") for row in results)
    (Path(__file__).parent / "search.json").write_text(f"[\n{lines}\n]\n")
