"""Trains the graph networks that the notebook explains, and the mask networks that explain them: two sets of graphs, one core.

    python -m replications.graphs.robust_gnn_explanations.weights.train [--out FOLDER]

A seed has its own graphs, and a network with a head of one hidden layer; the first few seeds also with none and two. One file a
set holds all networks, as seed.head.parameter. Mask networks are in one file, as set.seed.head.explainer.parameter; they learn from
the networks as stored.
"""

import argparse
import time
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path

import networkx as nx
import numpy as np
import torch

from replications.graphs.robust_gnn_explanations import method
from shared import graphs, seeding, zoo
from shared.data import molecules

SETS = ("motifs", "molecules")
SEEDS = seeding.seeds(5, 1010)
HEADS = (0, 1, 2)  # hidden layers
HEAD = 1  # of the networks that are explained for the claims
HEAD_SEEDS = 2  # seeds, the first, that have networks with other heads, too
N_TRAIN, N_TEST = 600, 100
EPOCHS = {"motifs": 60, "molecules": 40}
ELEMENTS = ["C", "N", "O", "F", "Si", "P", "S", "Cl", "Br", "I"]
ATOMS = (8, 24)  # a molecule's atoms but hydrogen, least and most
SOLUBLE = -3.0  # log10 mol/l from which on a compound has label 1: a millimole a litre
FIRST = 20  # steps whose losses the notebook repeats

POOL = 50  # pairs of graphs between which boundaries are sought, for each class (as in the official code)
MASKS = {"steps": 200, "batch": 24, "lr": 0.01}  # official code: 601 epochs at a rate of .001
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9)  # shares of edges that are not marked, of the scores on record
EXPLAINERS = ("RC", "margin", "twin", "PG", "misled", "any boundary")
SETTINGS = {  # weights of size and entropy, by set and explainer; the margin and the two placebos have RC's
    "motifs": {"RC": (0.3, 0.1), "twin": (10.0, 8.0), "PG": (0.03, 0.1), "GNNExplainer": (0.003, 0.1)},
    "molecules": {"RC": (0.003, 0.1), "twin": (1.0, 0.1), "PG": (1.0, 0.1), "GNNExplainer": (0.003, 0.1)},
}


@cache
def compounds() -> tuple[list[graphs.Graph], np.ndarray, list[str]]:
    """Molecules of one piece, of ATOMS and ELEMENTS, their labels (1 soluble) and their SMILES, in an order that is drawn once."""
    kept = []
    for smiles, solubility in zip(*molecules.load(), strict=True):
        atoms, bonds, _ = molecule = molecules.read_smiles(smiles)
        if not ATOMS[0] <= len(atoms) <= ATOMS[1] or not nx.is_connected(
            nx.Graph([*bonds.tolist(), *((i, i) for i in range(len(atoms)))])
        ):
            continue
        try:
            kept.append((molecules.graph(molecule, ELEMENTS), int(solubility >= SOLUBLE), smiles))
        except ValueError:  # another element
            continue
    order = seeding.rng(0, "order").permutation(len(kept))
    found, labels, texts = zip(*(kept[i] for i in order), strict=True)
    return list(found), np.array(labels), list(texts)


def block(seed: int) -> slice:
    """Places in `compounds` of a seed's molecules: no two seeds, of 0 to 3 and SEEDS, share any. ValueError for others."""
    owners = [*SEEDS, 0, 1, 2, 3]
    if seed not in owners:
        raise ValueError(f"seed {seed} has no molecules of its own; there are some for {owners}")
    place = owners.index(seed) * (N_TRAIN + N_TEST)
    return slice(place, place + N_TRAIN + N_TEST)


@cache
def data(name: str, seed: int) -> tuple[graphs.Graphs, torch.Tensor | None]:
    """A seed's graphs, N_TRAIN to train on, then N_TEST; and, of motifs, which edges (n, e) are the motif's, bool."""
    n = N_TRAIN + N_TEST
    if name == "molecules":
        found, labels, _ = compounds()
        return graphs.pad(found[block(seed)], labels[block(seed)], len(ELEMENTS)), None
    found, labels, truths = graphs.ba_2motifs(n, seeding.rng(seed, "motifs"))
    batch = graphs.pad(found, labels, 1)
    truth = torch.zeros_like(batch.real)
    for row, is_motif in zip(truth, truths, strict=True):
        row[: len(is_motif)] = torch.as_tensor(is_motif)
    return batch, truth


def fit(name: str, seed: int, hidden: int, batch: graphs.Graphs, stop_after: int | None = None) -> tuple[graphs.GCN, list[float]]:
    """A network with a head of `hidden` hidden layers trained on the first N_TRAIN graphs, and its losses."""
    net = graphs.GCN(batch.features.shape[2], 2, seeding.torch_rng(seed, f"{name} {hidden}"), hidden=hidden)
    losses = graphs.fit(net, batch[:N_TRAIN], seeding.torch_rng(seed, "order"), epochs=EPOCHS[name], stop_after=stop_after)
    return net, losses


def accuracy(net: graphs.GCN, batch: graphs.Graphs) -> float:
    """Share of the test graphs whose label the network tells."""
    test = batch[N_TRAIN:]
    return (net(test, graphs.adjacency(test)).argmax(1) == test.labels).float().mean().item()


class World:
    """A seed's network, the graphs it learned from, their embeddings and what it says of them, and the graphs to explain."""

    def __init__(self, name: str, seed: int, hidden: int, n_test: int = N_TEST, folder: Path = Path(__file__).parent):
        every, truth = data(name, seed)
        self.name, self.seed, self.hidden = name, seed, hidden
        self.net = graphs.GCN(every.features.shape[2], 2, torch.Generator(), hidden=hidden)
        self.net.load_state_dict(_part(folder / f"{name}.safetensors", f"{seed}.{hidden}."))
        self.net.requires_grad_(False)
        self.known, self.test = every[:N_TRAIN], every[N_TRAIN:][:n_test]
        self.truth = None if truth is None else truth[N_TRAIN:][:n_test]
        self.x = self.net.embed(self.known, graphs.adjacency(self.known))
        self.said = self.net.head(self.x).argmax(1)
        self.found, self.members = method.collect(self.net.head, self.x, POOL, seeding.torch_rng(seed, "pool"))

    def probability(self, some: graphs.Graphs, a: torch.Tensor) -> torch.Tensor:
        return self.net(some, a).softmax(1)

    def fidelity(self, scores: torch.Tensor, sparsities: list[float] | tuple[float, ...] = SPARSITIES) -> torch.Tensor:
        """Of scores (n, e) of the graphs to explain, at every sparsity (n, s)."""
        return graphs.fidelity(self.probability, self.test, scores, sparsities)


def objective(world: World, arm: str) -> method.Objective:
    """What the mask network of an explainer is to achieve.

    "misled" is RC told, of each graph, the sides on which another lies; "any boundary" has boundaries in random directions.
    """
    net, x, rng = world.net, world.x, seeding.torch_rng(world.seed, "placebo")
    if arm == "RC":
        return method.by_boundaries(world.found, world.members, x)
    if arm == "misled":
        others = torch.randperm(len(x), generator=rng)
        return method.by_boundaries(world.found, world.members[others], x[others])
    if arm == "any boundary":
        return method.by_boundaries(method.random_like(world.found, x, rng), world.members, x)
    if arm == "margin":
        return method.by_logits(net.head, world.said, x)
    return method.by_probabilities(net.head, world.said)


def weights_of(name: str, arm: str) -> method.Weights:
    """An explainer's weights: keep 3 and flip 12, as in the official code, but for those that only keep; size and entropy tuned."""
    return method.Weights(3.0, 0.0 if arm in ("PG", "GNNExplainer") else 12.0, *SETTINGS[name].get(arm, SETTINGS[name]["RC"]))


def fit_masks(world: World, arms: Sequence[str], stop_after: int | None = None) -> tuple[list[method.MaskNet], torch.Tensor]:
    """Mask networks of explainers and their losses (arms, steps)."""
    aims = [(objective(world, arm), weights_of(world.name, arm)) for arm in arms]
    return method.train_masks(world.net, world.known, aims, seeding.torch_rng(world.seed, "mask"), stop_after=stop_after, **MASKS)


def load_mask(world: World, arm: str, folder: Path = Path(__file__).parent) -> method.MaskNet:
    """A stored mask network, frozen; "untrained" is the one that all started from."""
    mask = method.MaskNet(world.x.shape[1] // 2, seeding.torch_rng(world.seed, "mask"))
    if arm != "untrained":
        mask.load_state_dict(_part(folder / "masks.safetensors", f"{world.name}.{world.seed}.{world.hidden}.{arm}."))
    return mask.requires_grad_(False)


@cache
def _file(path: Path) -> dict[str, torch.Tensor]:
    return zoo.read(path)


def _part(path: Path, start: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(start): value for key, value in _file(path).items() if key.startswith(start)}


def arms_of(hidden: int) -> tuple[str, ...]:
    """Explainers of a network. With a linear head the margin's losses are RC's, so it is left out; other heads have no placebos."""
    return EXPLAINERS if hidden == HEAD else ("RC", "twin") if hidden == 0 else ("RC", "twin", "margin")


def heads_of(seed: int) -> tuple[int, ...]:
    """Heads of a seed's networks: all for the first seeds."""
    return HEADS if seed in SEEDS[:HEAD_SEEDS] else (HEAD,)


def train_networks(name: str, out: Path) -> None:
    """All networks of a set, into their file."""
    start, tensors, scores, first = time.process_time(), {}, {}, {}
    for seed in SEEDS:
        batch, _ = data(name, seed)
        for hidden in heads_of(seed):
            net, losses = fit(name, seed, hidden, batch)
            tensors |= {f"{seed}.{hidden}.{key}": value for key, value in net.state_dict().items()}
            key = f"accuracy_{seed}_{hidden}"
            scores[key], first[f"{seed}_{hidden}"] = round(accuracy(net, batch), 4), [round(x, 4) for x in losses[:FIRST]]
            print(name, key, scores[key], flush=True)
    seconds = round(time.process_time() - start)
    zoo.keep(out / f"{name}.safetensors", tensors, scores, first_losses=first, epochs=EPOCHS[name], seconds_of_one_core=seconds)


def train_masks(out: Path) -> None:
    """All mask networks, into one file; on record are means over seeds."""
    start, tensors, first, found = time.process_time(), {}, {}, {}
    for name, seed in product(SETS, SEEDS):
        for hidden in heads_of(seed):
            world = World(name, seed, hidden, folder=out)
            masks, losses = fit_masks(world, arms_of(hidden))
            for arm, mask, loss in zip(arms_of(hidden), masks, losses.tolist(), strict=True):
                which = f"{name}.{seed}.{hidden}.{arm}"
                tensors |= {f"{which}.{key}": value for key, value in mask.state_dict().items()}
                first[which] = [round(x, 4) for x in loss[:FIRST]]
                if hidden == HEAD:
                    scores = method.explain(mask, world.net, world.test)
                    found.setdefault(f"fidelity_{name}_{arm}", []).append(world.fidelity(scores).mean().item())
                if hidden == HEAD and world.truth is not None:
                    aucs = graphs.auc(world.test, scores, world.truth)
                    found.setdefault(f"motif_auc_{arm}", []).append(float(aucs.mean()))
            print(name, seed, hidden, "masks", flush=True)
    seconds = round(time.process_time() - start)
    scores = {key: float(np.mean(values)) for key, values in found.items()}
    zoo.keep(
        out / "masks.safetensors", tensors, scores, first_losses=first, settings=SETTINGS, **MASKS, seconds_of_one_core=seconds
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out
    for name in SETS:
        train_networks(name, out)
    train_masks(out)


if __name__ == "__main__":
    main()
