"""Small graphs in plain torch: a padded batch, a dense graph convolution network, how faithful and how steady edge scores are.

A graph is a pair: tags (v,), whole numbers 0, 1, ... that say what each node is, and edges (m, 2), pairs of different nodes, each
undirected edge once. Scores of edges (n, e) follow the order of `Graphs.edges`; more means more important.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

Graph = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Graphs:
    """n graphs, padded to v nodes and e edges.

    features (n, v, f): float, one-hot tags, 0 in padding. nodes (n, v): bool, False in padding.
    edges (n, e, 2): long, both ends, (0, 0) in padding. real (n, e): bool, False in padding. labels (n,): long.
    """

    features: Tensor
    nodes: Tensor
    edges: Tensor
    real: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows) -> "Graphs":
        return Graphs(*(getattr(self, name)[rows] for name in ("features", "nodes", "edges", "real", "labels")))


def pad(graphs: Sequence[Graph], labels: Sequence[int], n_tags: int) -> Graphs:
    """One batch of graphs; the shortest padding that fits all. Raises ValueError for no graph, an edge that is no pair of
    different nodes or stands twice, or a tag outside 0..n_tags-1."""
    if not len(graphs) or len(graphs) != len(labels):
        raise ValueError(
            f"graphs: {len(graphs)} given, and {len(labels)} labels; one label a graph is wanted, and one graph at least"
        )
    n, v, e = len(graphs), max(len(tags) for tags, _ in graphs), max(1, *(len(edges) for _, edges in graphs))
    features, nodes = torch.zeros(n, v, n_tags), torch.zeros(n, v, dtype=torch.bool)
    ends, real = torch.zeros(n, e, 2, dtype=torch.long), torch.zeros(n, e, dtype=torch.bool)
    for i, (tags, edges) in enumerate(graphs):
        edges = np.asarray(edges, dtype=int).reshape(-1, 2)
        if len(tags) == 0 or np.min(tags) < 0 or np.max(tags) >= n_tags:
            raise ValueError(f"graphs: tags of graph {i} must be 0..{n_tags - 1}, one a node")
        ordered = np.sort(edges, axis=1)
        if edges.size and (edges.min() < 0 or edges.max() >= len(tags) or (ordered[:, 0] == ordered[:, 1]).any()):
            raise ValueError(f"graphs: an edge of graph {i} does not join two of its {len(tags)} nodes")
        if len(np.unique(ordered, axis=0)) != len(edges):
            raise ValueError(f"graphs: graph {i} has the same edge twice")
        features[i, range(len(tags)), torch.as_tensor(np.asarray(tags, dtype=int))] = 1
        nodes[i, : len(tags)], real[i, : len(edges)] = True, True
        ends[i, : len(edges)] = torch.as_tensor(edges)
    return Graphs(features, nodes, ends, real, torch.as_tensor(np.asarray(labels, dtype=int)))


def adjacency(graphs: Graphs, weights: Tensor | None = None) -> Tensor:
    """Symmetric matrices (n, v, v): 0 on the diagonal, an edge's weight, from weights (n, e), else 1, at both its places."""
    n, v = graphs.nodes.shape
    weights = graphs.real.float() if weights is None else weights * graphs.real
    place = graphs.edges[..., 0] * v + graphs.edges[..., 1]  # (n, e)
    half = torch.zeros(n, v * v).scatter_add(1, place, weights).view(n, v, v)
    return half + half.mT


class GCN(nn.Module):
    """Graph convolutions H <- relu(A H W + H V + b), H pooled to its maximum and its mean over nodes, and a head of linear layers.

    f: tags of a node. layers, width: of the convolutions. hidden: layers of the head before the last, each of
    head_width and a ReLU. rng: draws the weights, uniform with variance 1 / inputs; W half as wide, since a node has
    a few neighbours.
    """

    def __init__(
        self, f: int, classes: int, rng: torch.Generator, *, layers: int = 3, width: int = 20, hidden: int = 0, head_width: int = 32
    ):
        super().__init__()
        sizes = list(zip([f] + [width] * (layers - 1), [width] * layers, strict=True))
        self.neighbours = nn.ModuleList(nn.Linear(*size, bias=False) for size in sizes)
        self.own = nn.ModuleList(nn.Linear(*size) for size in sizes)
        sizes = [2 * width] + [head_width] * hidden + [classes]
        steps = [nn.Linear(*size) for size in pairwise(sizes)]
        self.head = nn.Sequential(*[part for step in steps for part in (step, nn.ReLU())][:-1])
        for step in [*self.neighbours, *self.own, *steps]:
            bound = (3 / step.in_features) ** 0.5
            nn.init.uniform_(step.weight, -bound, bound, generator=rng)
            if step.bias is None:
                step.weight.data /= 2
            else:
                nn.init.uniform_(step.bias, -(step.in_features**-0.5), step.in_features**-0.5, generator=rng)

    def embed_nodes(self, graphs: Graphs, a: Tensor) -> Tensor:
        """Node embeddings (n, v, width) >= 0 under adjacency a (n, v, v); 0 in padding."""
        h, there = graphs.features, graphs.nodes[..., None].float()
        for neighbours, own in zip(self.neighbours, self.own, strict=True):
            h = (neighbours(a @ h) + own(h)).relu() * there
        return h

    def embed(self, graphs: Graphs, a: Tensor) -> Tensor:
        """Graph embeddings (n, 2 * width): maximum and mean of node embeddings."""
        h = self.embed_nodes(graphs, a)  # 0 in padding and nowhere below, so the maximum needs no mask
        return torch.cat([h.amax(1), h.sum(1) / graphs.nodes.sum(1, keepdim=True)], dim=1)

    def forward(self, graphs: Graphs, a: Tensor) -> Tensor:
        """Logits (n, classes)."""
        return self.head(self.embed(graphs, a))


def fit(
    net: GCN,
    graphs: Graphs,
    rng: torch.Generator,
    *,
    epochs: int,
    batch: int = 32,
    lr: float = 0.005,
    stop_after: int | None = None,
) -> list[float]:
    """Train the network on graphs and their labels by cross-entropy, then freeze it; the loss of every step.

    Adam, gradients cut to length 1, a cosine from lr to 0 over all epochs; stop_after: steps after which it stops on its way.
    """
    a = adjacency(graphs)
    rounds = [part for _ in range(epochs) for part in torch.randperm(len(graphs), generator=rng).split(batch)]
    optimiser = torch.optim.Adam(net.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, len(rounds))
    losses = []
    for rows in rounds[:stop_after]:
        loss = nn.functional.cross_entropy(net(graphs[rows], a[rows]), graphs.labels[rows])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    net.requires_grad_(False).eval()
    return losses


# ---------------------------------------------------------------- measures of edge scores


def ranks(graphs: Graphs, scores: Tensor) -> Tensor:
    """Place (n, e) of every edge in its graph, 0 for the highest of scores (n, e); padding is last. ValueError for NaN."""
    if scores.shape != graphs.real.shape or torch.isnan(scores[graphs.real]).any():
        raise ValueError(f"scores must be a number for every edge, {tuple(graphs.real.shape)}, not {tuple(scores.shape)} or NaN")
    order = scores.masked_fill(~graphs.real, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1)


def without_top(graphs: Graphs, scores: Tensor, sparsity: float) -> Tensor:
    """Edge weights (n, e), 1 or 0, of graphs that lose their highest edges: a share 1 - sparsity of each graph's, rounded."""
    lost = ((1 - sparsity) * graphs.real.sum(1, keepdim=True)).round()
    return ((ranks(graphs, scores) >= lost) & graphs.real).float()


Probability = Callable[[Graphs, Tensor], Tensor]  # of graphs and adjacency (n, v, v), probabilities (n, classes)


def fidelity(probability: Probability, graphs: Graphs, scores: Tensor, sparsities: Sequence[float]) -> Tensor:
    """Drop (n, s), in -1..1, of the predicted class's probability once a graph loses its top edges, at every sparsity.

    sparsity: the share of edges, in 0..1, that is not marked and stays.
    """
    with torch.no_grad():
        before, said = probability(graphs, adjacency(graphs)).max(1)
        left = [probability(graphs, adjacency(graphs, without_top(graphs, scores, sparsity))) for sparsity in sparsities]
    return torch.stack([before - after.gather(1, said[:, None])[:, 0] for after in left], dim=1)


def noisy(graphs: Graphs, marked: Tensor, share: float, rng: np.random.Generator) -> tuple[Graphs, Tensor]:
    """Graphs with a share of their edges' number changed, and where the marked edges (n, e) are among the edges now (n, e').

    Each change takes away an edge that is not marked or joins two nodes that were not joined, with equal chance; the number of
    changes is rounded. Labels and tags stay.
    """
    changed, kept = [], []
    for i in range(len(graphs)):
        real, v = graphs.real[i], int(graphs.nodes[i].sum())
        edges, top = graphs.edges[i, real].numpy(), marked[i, real].numpy()
        joined = np.zeros((v, v), dtype=bool)
        joined[edges[:, 0], edges[:, 1]] = joined[edges[:, 1], edges[:, 0]] = True
        apart, loose = np.argwhere(np.tril(~joined, -1)), np.flatnonzero(~top)
        changes = round(share * len(edges))
        away = min(rng.binomial(changes, 0.5), len(loose))
        lost = rng.choice(loose, away, replace=False)
        new = apart[rng.choice(len(apart), min(changes - away, len(apart)), replace=False)]
        changed.append((graphs.features[i, :v].argmax(1).numpy(), np.concatenate([np.delete(edges, lost, axis=0), new])))
        kept.append(np.append(np.delete(top, lost), np.zeros(len(new), dtype=bool)))
    after = pad(changed, graphs.labels.tolist(), graphs.features.shape[2])
    is_top = torch.zeros_like(after.real)
    for i, row in enumerate(kept):
        is_top[i, : len(row)] = torch.as_tensor(row)
    return after, is_top


def auc(graphs: Graphs, scores: Tensor, truth: Tensor) -> np.ndarray:
    """Area under the ROC curve (n,) of edge scores (n, e) for truth (n, e), graph by graph; NaN where all edges are alike.

    The share of pairs, a true edge and another, of which the true one scores higher; equal scores count half.
    """
    # all graphs at once: a call of scikit-learn's for each costs more than everything that is measured by it
    above = scores[:, :, None] - scores[:, None, :]  # (n, e, e), of the first edge over the second
    pairs = (truth & graphs.real)[:, :, None] & (~truth & graphs.real)[:, None, :]
    won = ((above > 0).double() + 0.5 * (above == 0)) * pairs
    return (won.sum((1, 2)) / pairs.sum((1, 2))).numpy()


# ---------------------------------------------------------------- simulated


def ba_2motifs(n: int, rng: np.random.Generator) -> tuple[list[Graph], np.ndarray, list[np.ndarray]]:
    """n graphs, labels (n,) and truths: which edges (m,) are the motif's.

    A tree of 20 nodes grown by preferential attachment (Barabasi & Albert), and, by one edge, a motif of 5 nodes: a cycle (label 0)
    or a house (label 1), as many of each. All tags are 0. Simulated, as in Luo et al. (2020, PGExplainer), who introduced the set.
    """
    import networkx as nx

    cycle = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)]
    labels, graphs, truths = rng.permutation(np.arange(n) % 2), [], []
    for label in labels:
        tree = list(nx.barabasi_albert_graph(20, 1, seed=int(rng.integers(2**31))).edges)
        motif = [(20 + a, 20 + b) for a, b in cycle + [(1, 4)] * int(label)]  # a house is a cycle with a ceiling under the roof
        bridge = (int(rng.integers(20)), int(20 + rng.integers(5)))
        order = rng.permutation(25)  # so that a node's number tells nothing
        graphs.append((np.zeros(25, dtype=int), order[np.array([*tree, bridge, *motif])]))
        truths.append(np.arange(len(tree) + 1 + len(motif)) > len(tree))
    return graphs, labels, truths
