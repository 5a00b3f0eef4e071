"""RCExplainer: a network that marks the edges a graph network's prediction rests on, so that without them the prediction falls.

Bajaj, Chu, Xue, Pei, Wang, Lam & Zhang (2021), Robust Counterfactual Explanations on Graph Neural Networks, arXiv:2107.04086.
Explanations are scores of edges (n, e) in the order of `shared.graphs.Graphs.edges`; more means more important.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.graphs import GCN, Graphs, adjacency, ranks

Head = Callable[[Tensor], Tensor]  # embeddings (k, d) to logits (k, classes)
SPAN = (0.5, 4.99)  # temperatures of the relaxed mask, first step to last (official code)


# ---------------------------------------------------------------- decision boundaries of the head


def margin(logits: Tensor, c: Tensor) -> Tensor:
    """Logit of class c (k,) less the highest other one (k,): above 0 where logits (k, classes) say c."""
    own = logits.gather(1, c[:, None])[:, 0]
    return own - logits.scatter(1, c[:, None], -torch.inf).amax(1)


def bisect(head: Head, inside: Tensor, outside: Tensor, c: int, steps: int = 50) -> Tensor:
    """Points (k, d) on class c's side of its border, each between a row of inside (k, d), said to be c, and one of outside (k, d).

    Raises ValueError when an end is on the wrong side.
    """
    said = torch.full((len(inside),), c)
    if (margin(head(inside), said) < 0).any() or (margin(head(outside), said) >= 0).any():
        raise ValueError(f"inside must be embeddings that the head says are {c}, outside others")
    near, far = torch.zeros(len(inside), 1, dtype=inside.dtype), torch.ones(len(inside), 1, dtype=inside.dtype)
    for _ in range(steps):
        middle = (near + far) / 2
        still = (margin(head(inside + middle * (outside - inside)), said) >= 0)[:, None]
        near, far = torch.where(still, middle, near), torch.where(still, far, middle)
    return inside + near * (outside - inside)


class Boundaries(NamedTuple):
    """k linear decision boundaries w . x + b = 0, w (k, d), b (k,): above 0 on their class's side."""

    w: Tensor
    b: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Signed values (n, k) of embeddings x (n, d)."""
        return x @ self.w.T + self.b


def boundaries_at(head: Head, points: Tensor, c: int) -> Boundaries:
    """The head's linear piece at each of points (k, d): w the gradient of class c's margin, b what makes both agree there."""
    points = points.detach().requires_grad_()
    values = margin(head(points), torch.full((len(points),), c))
    (w,) = torch.autograd.grad(values.sum(), points)
    return Boundaries(w, (values - (w * points).sum(1)).detach())


def mine(head: Head, x: Tensor, said: Tensor, c: int, pool: int, rng: torch.Generator) -> Boundaries:
    """`pool` boundaries of class c, each between a random embedding of x (n, d) said to be c and one said to be another.

    said (n,): the head's own predictions. Raises ValueError when one side has no embedding.
    """
    inside, outside = (said == c).nonzero()[:, 0], (said != c).nonzero()[:, 0]
    if not len(inside) or not len(outside):
        raise ValueError(f"said must hold class {c} and another")
    a, b = (x[side[torch.randint(len(side), (pool,), generator=rng)]] for side in (inside, outside))
    return boundaries_at(head, bisect(head, a, b, c), c)


def distinct(found: Boundaries, tolerance: float = 1e-4) -> int:
    """How many different boundaries there are among k, once (w, b) has length 1; closer than tolerance counts as one."""
    rows = functional.normalize(torch.cat([found.w, found.b[:, None]], dim=1).double(), dim=1)
    kept: list[Tensor] = []
    for row in rows:
        if all((row - other).norm() > tolerance for other in kept):
            kept.append(row)
    return len(kept)


def regions(found: Boundaries, x: Tensor, said: Tensor, c: int, strays: int = 0) -> Tensor:
    """Which of k boundaries enclose each embedding's region (n, k), bool; False throughout for those not said to be c.

    Greedy cover: to a region's boundaries is added the one that shuts out most embeddings of other classes for each of class c
    that it loses, until at most `strays` others are inside or none shuts out any. Embeddings of class c inside have their region,
    and the next one is for those left. One that no region covers has the boundaries on whose class-c side it is.
    """
    inside = found(x) > 0  # (n, k)
    left, members = said == c, torch.zeros_like(inside)
    while left.any():
        own, others, chosen = left.clone(), said != c, torch.zeros(inside.shape[1], dtype=torch.bool)
        while others.sum() > strays:
            out, lost = (~inside & others[:, None]).sum(0), (~inside & own[:, None]).sum(0)  # (k,)
            gain = torch.where((out > 0) & (lost < own.sum()), out / (lost + 1e-9), -1.0)
            best = int(gain.argmax())
            if gain[best] < 0:
                break
            chosen[best], own, others = True, own & inside[:, best], others & inside[:, best]
        if not chosen.any():
            break
        members[own] = chosen
        left = left & ~own
    members[left] = inside[left] | ~inside[left].any(1, keepdim=True)
    return members


def collect(head: Head, x: Tensor, pool: int, rng: torch.Generator) -> tuple[Boundaries, Tensor]:
    """Boundaries of every class, `pool` each, and which of them each of embeddings x (n, d) has (n, k), bool."""
    said = head(x).argmax(1)
    found = [mine(head, x, said, c, pool, rng) for c in said.unique().tolist()]
    members = [regions(one, x, said, c) for one, c in zip(found, said.unique().tolist(), strict=True)]
    return Boundaries(*(torch.cat(part) for part in zip(*found, strict=True))), torch.cat(members, dim=1)


# ---------------------------------------------------------------- what a mask is to achieve

Objective = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
# of rows (r,), embeddings of their marked part (r, d) and of the rest (r, d): the losses (r,) of keeping and of flipping


def product_losses(whole: Tensor, part: Tensor, rest: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """The paper's two losses (r,), from signed values (r, k) of the graph, its marked part and the rest; members (r, k), bool.

    mean_j sigmoid(-B_j(G) B_j(S)), the marked part stays inside, and min_j sigmoid(B_j(G) B_j(R)), the rest falls out somewhere.
    """
    same = (torch.sigmoid(-whole * part) * members).sum(1) / members.sum(1)
    opposite = torch.sigmoid(whole * rest).masked_fill(~members, torch.inf).amin(1)
    return same, opposite


def by_boundaries(found: Boundaries, members: Tensor, x: Tensor) -> Objective:
    """RCExplainer: each graph (row of x (n, d)) by the boundaries (n, k) of its region.

    A boundary's values are divided by their mean size on x: a sigmoid of large products is flat, and nothing would be learned.
    """
    whole = found(x)
    unit = whole.abs().mean(0)  # (k,)
    return lambda rows, part, rest: product_losses(whole[rows] / unit, found(part) / unit, found(rest) / unit, members[rows])


def by_logits(head: Head, said: Tensor, x: Tensor) -> Objective:
    """The same losses with the class's logit margin, in the same way divided, in place of boundaries."""
    whole, one = margin(head(x), said)[:, None], torch.ones(len(x), 1, dtype=torch.bool)
    unit = whole.abs().mean()

    def losses(rows: Tensor, part: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        values = (margin(head(e), said[rows])[:, None] / unit for e in (part, rest))
        return product_losses(whole[rows] / unit, *values, one[rows])

    return losses


def by_probabilities(head: Head, said: Tensor) -> Objective:
    """-log p_c of the marked part, and -log(1 - p_c) of the rest. The first alone is PGExplainer's."""

    def losses(rows: Tensor, part: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        c = said[rows]
        others = functional.log_softmax(head(rest), 1).scatter(1, c[:, None], -torch.inf)
        return functional.cross_entropy(head(part), c, reduction="none"), -others.logsumexp(1)

    return losses


# ---------------------------------------------------------------- the mask network


class MaskNet(nn.Module):
    """Scores an edge from its two nodes' embeddings, [z_i ; z_j] -> 64 -> 1, the mean of both orders."""

    def __init__(self, d: int, rng: torch.Generator, hidden: int = 64):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * d, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        for step in (self.layers[0], self.layers[2]):
            for parameter in step.parameters():
                nn.init.uniform_(parameter, -(step.in_features**-0.5), step.in_features**-0.5, generator=rng)

    def forward(self, pairs: Tensor) -> Tensor:
        """Logits (n, e) of edges, from pairs (2, n, e, 2 d): both orders."""
        return self.layers(pairs)[..., 0].mean(0)


def edge_pairs(graphs: Graphs, z: Tensor) -> Tensor:
    """Embeddings z (n, v, d) of each edge's nodes, in both orders (2, n, e, 2 d)."""
    n, e = graphs.real.shape
    ends = graphs.edges.reshape(n, 2 * e, 1).expand(-1, -1, z.shape[2])
    both = z.gather(1, ends).view(n, e, 2, -1)  # (n, e, end, d)
    return torch.stack([both.flatten(2), both.flip(2).flatten(2)])


def explain(mask: MaskNet, net: GCN, graphs: Graphs) -> Tensor:
    """Scores (n, e) of graphs by a trained mask network, one pass: the logit of an edge's mask."""
    with torch.no_grad():
        return mask(edge_pairs(graphs, net.embed_nodes(graphs, adjacency(graphs))))


class Weights(NamedTuple):
    """Weights of the terms: keep the marked part, flip the rest, mark little, be decided. As in the official code."""

    same: float = 3.0
    opposite: float = 12.0
    size: float = 0.001
    entropy: float = 8.0


def sparse_terms(m: Tensor, real: Tensor, weights: Weights) -> Tensor:
    """Size and entropy terms (n,) of masks m (n, e) in 0..1: size * sum m + entropy * mean entropy of .99 m + .005, in nats."""
    q = 0.99 * m + 0.005
    entropy = -q * q.log() - (1 - q) * (1 - q).log()
    return weights.size * (m * real).sum(1) + weights.entropy * (entropy * real).sum(1) / real.sum(1)


def train_masks(
    net: GCN,
    graphs: Graphs,
    aims: Sequence[tuple[Objective, Weights]],
    rng: torch.Generator,
    *,
    steps: int,
    batch: int,
    lr: float,
    stop_after: int | None = None,
) -> tuple[list[MaskNet], Tensor]:
    """A mask network for each of a aims, and their losses (a, steps).

    Adam on same * l_same + opposite * l_opp + the sparse terms, batches drawn anew at each step; stop_after: steps after which it
    stops on its way. Masks are relaxed: sigmoid((logit + log u - log(1 - u)) / t), u uniform, t rising geometrically over SPAN.
    The networks start from the same weights and see the same batches and u, and are otherwise trained apart; one pass for all is
    faster. Raises ValueError when the batch is larger than the set.
    """
    if not 1 <= batch <= len(graphs):
        raise ValueError(f"batch must be 1..{len(graphs)}, not {batch}")
    with torch.no_grad():
        z = net.embed_nodes(graphs, adjacency(graphs))
    pairs, first = edge_pairs(graphs, z), MaskNet(z.shape[2], rng)
    masks = [deepcopy(first) for _ in aims]
    optimiser, losses = torch.optim.Adam([p for mask in masks for p in mask.parameters()], lr, fused=True), []
    for step in range(steps)[:stop_after]:
        rows = torch.randperm(len(graphs), generator=rng)[:batch]
        some, ends = graphs[rows], pairs[:, rows]
        u = torch.rand(some.real.shape, generator=rng).clamp(1e-6, 1 - 1e-6)
        t = SPAN[0] * (SPAN[1] / SPAN[0]) ** (step / steps)
        m = torch.stack([torch.sigmoid((mask(ends) + u.logit()) / t) for mask in masks])  # (a, batch, e)
        loss = mask_losses(net, some, m, rows, aims)
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
        losses.append(loss.detach())
    return [mask.requires_grad_(False) for mask in masks], torch.stack(losses, dim=1)


def mask_losses(net: GCN, graphs: Graphs, m: Tensor, rows: Tensor, aims: Sequence[tuple[Objective, Weights]]) -> Tensor:
    """Mean loss (a,) of masks m (a, r, e) for r graphs, which are `rows` of those that the objectives know."""
    copies = graphs[torch.arange(len(graphs)).repeat(2 * len(aims))]
    both = torch.stack([m, 1 - m], dim=1)  # (a, 2, r, e)
    embedded = net.embed(copies, adjacency(copies, both.flatten(0, 2))).view(len(aims), 2, len(graphs), -1)
    found = []
    for (objective, weights), one, (part, rest) in zip(aims, m, embedded, strict=True):
        same, opposite = objective(rows, part, rest)
        found.append((weights.same * same + weights.opposite * opposite + sparse_terms(one, graphs.real, weights)).mean())
    return torch.stack(found)


# ---------------------------------------------------------------- rivals that look at one graph


def gnn_explainer(net: GCN, graphs: Graphs, weights: Weights, rng: torch.Generator, *, steps: int, lr: float = 0.1) -> Tensor:
    """GNNExplainer (Ying et al. 2019): for every graph a mask of its own (n, e) whose marked part keeps the prediction, by Adam.

    The masks share nothing: Adam moves each entry by its own gradient. Of weights, `opposite` is not used. Returns mask logits.
    """
    said = net(graphs, adjacency(graphs)).argmax(1)
    logits = torch.randn(graphs.real.shape, generator=rng).mul_(0.1).requires_grad_()
    optimiser = torch.optim.Adam([logits], lr)
    for _ in range(steps):
        m = torch.sigmoid(logits)
        kept = functional.cross_entropy(net(graphs, adjacency(graphs, m)), said, reduction="none")
        loss = (weights.same * kept + sparse_terms(m, graphs.real, weights)).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return logits.detach()


def gradient(net: GCN, graphs: Graphs) -> Tensor:
    """Scores (n, e): how fast the predicted class's probability rises with an edge's weight, at 1."""
    weights = graphs.real.float().requires_grad_()
    top = functional.softmax(net(graphs, adjacency(graphs, weights)), 1).amax(1)
    return torch.autograd.grad(top.sum(), weights)[0]


def greedy(net: GCN, graphs: Graphs, share: float) -> Tensor:
    """Scores (n, e): edges taken away one by one, each time the one whose loss lowers the predicted class's probability most.

    The first taken scores highest; a share (rounded) of each graph's edges is taken, the others score 0.
    """
    n, e = graphs.real.shape
    said = net(graphs, adjacency(graphs)).argmax(1)
    many, here = (share * graphs.real.sum(1)).round(), graphs.real.clone()
    copies, scores = graphs[torch.arange(n).repeat_interleave(e)], torch.zeros(n, e)
    for taken in range(int(many.max())):
        tried = here[:, None, :] & ~torch.eye(e, dtype=torch.bool)  # (n, e, e): row j without edge j
        p = functional.softmax(net(copies, adjacency(copies, tried.flatten(0, 1).float())), 1)
        left = p.gather(1, said.repeat_interleave(e)[:, None]).view(n, e).masked_fill(~here, torch.inf)
        best, going = left.argmin(1), (taken < many).nonzero()[:, 0]
        here[going, best[going]] = False
        scores[going, best[going]] = float(e - taken)
    return scores


def top(graphs: Graphs, scores: Tensor, k: int) -> Tensor:
    """The k highest edges of each graph (n, e), bool."""
    return (ranks(graphs, scores) < k) & graphs.real


def random_like(found: Boundaries, x: Tensor, rng: torch.Generator) -> Boundaries:
    """As many boundaries as found, of their lengths and in random directions, each through a random one of embeddings x (n, d)."""
    w = functional.normalize(torch.randn(found.w.shape, generator=rng), dim=1) * found.w.norm(dim=1, keepdim=True)
    through = x[torch.randint(len(x), (len(w),), generator=rng)]
    return Boundaries(w, -(w * through).sum(1))
