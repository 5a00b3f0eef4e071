import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from replications.graphs.robust_gnn_explanations import method
from shared import graphs, seeding
from shared.data import DataError, tu_graphs

SIDES = torch.tensor([[0.0, 1, 1], [1, 0, 1]])


def head(hidden: int, d: int = 3, classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    steps = [nn.Linear(d, 16), nn.ReLU(), nn.Linear(16, classes)] if hidden else [nn.Linear(d, classes)]
    return nn.Sequential(*steps).double().requires_grad_(False)


def few(n: int = 12) -> graphs.Graphs:
    found, labels, _ = graphs.ba_2motifs(n, seeding.rng(0))
    return graphs.pad(found, labels, 1)


def network(hidden: int = 1) -> graphs.GCN:
    return graphs.GCN(1, 2, seeding.torch_rng(1), hidden=hidden).requires_grad_(False)


# ---------------------------------------------------------------- boundaries


def test_margin_by_hand():
    logits = torch.tensor([[1.0, 4, 2], [3.0, 3, 0]])
    assert method.margin(logits, torch.tensor([1, 2])).tolist() == [2, -3]


@pytest.mark.parametrize("hidden", [0, 1])
def test_bisection_ends_on_the_border_and_boundaries_are_the_local_piece(hidden):
    net = head(hidden)
    x = 2 * torch.randn(400, 3, generator=seeding.torch_rng(0)).double()
    said = net(x).argmax(1)
    inside, outside = x[said == 1][:40], x[said != 1][:40]
    points = method.bisect(net, inside, outside, 1)
    gap = method.margin(net(points), torch.full((40,), 1))
    assert (gap >= 0).all() and (gap < 1e-9).all()
    along = ((points - inside) * (outside - inside)).sum(1) / (outside - inside).square().sum(1)
    assert torch.allclose(inside + along[:, None] * (outside - inside), points) and ((along >= 0) & (along <= 1)).all()
    found = method.boundaries_at(net, points, 1)
    near = points + 1e-6 * torch.randn(40, 3, generator=seeding.torch_rng(1)).double()
    assert torch.allclose(found(near).diagonal(), method.margin(net(near), torch.full((40,), 1)), atol=1e-8)
    with pytest.raises(ValueError, match="inside"):
        method.bisect(net, outside, inside, 1)


def test_a_linear_head_has_one_boundary_and_it_is_the_difference_of_its_rows():
    net = head(0, classes=2)
    x = 3 * torch.randn(200, 3, generator=seeding.torch_rng(0)).double()
    found = method.mine(net, x, net(x).argmax(1), 1, 30, seeding.torch_rng(1))
    assert method.distinct(found) == 1 and len(found.w) == 30
    assert torch.allclose(found.w[0], net[0].weight[1] - net[0].weight[0])
    assert torch.allclose(found.b[0], net[0].bias[1] - net[0].bias[0])
    with pytest.raises(ValueError, match="said"):
        method.mine(net, x, torch.zeros(200), 0, 5, seeding.torch_rng(0))


def test_distinct_counts_up_to_scale():
    w = torch.tensor([[1.0, 0], [2, 0], [1, 0], [-1, 0], [1, 1e-6]])
    assert method.distinct(method.Boundaries(w, torch.tensor([1.0, 2, 1.5, -1, 1]))) == 3


def test_regions_by_hand():
    # class 1 lies in two places, right of 1 and left of -1; class 0 is between, and far up
    x = torch.tensor([[2.0, 0], [3, 0], [4, 0], [-2, 0], [-3, 0], [0, 0], [0.5, 0], [2, 9], [-2, 9]])
    said = torch.tensor([1, 1, 1, 1, 1, 0, 0, 0, 0])
    right, left, low = ([1.0, 0], -1.0), ([-1.0, 0], -1.0), ([0.0, -1], 5.0)
    found = method.Boundaries(torch.tensor([right[0], left[0], low[0]]), torch.tensor([right[1], left[1], low[1]]))
    members = method.regions(found, x, said, 1)
    assert members[:3].tolist() == [[True, False, True]] * 3  # three graphs there, so that region first
    assert members[3:5].tolist() == [[False, True, True]] * 2 and not members[5:].any()
    loose = method.regions(found, x, said, 1, strays=2)  # low alone leaves two others inside
    assert loose[:5].tolist() == [[False, False, True]] * 5


def test_a_graph_that_no_region_covers_has_the_boundaries_on_whose_side_it_is():
    x = torch.tensor([[2.0, 0], [0, 0], [2, 2]])
    found = method.Boundaries(
        torch.tensor([[1.0, 0], [0, 1.0]]), torch.tensor([-3.0, 1.0])
    )  # the first has no class-1 graph inside
    members = method.regions(found, x, torch.tensor([1, 0, 0]), 1)
    assert members.tolist() == [[False, True], [False, False], [False, False]]


def test_collect_keeps_classes_apart():
    net = head(1)
    x = 2 * torch.randn(150, 3, generator=seeding.torch_rng(0)).double()
    found, members = method.collect(net, x, 10, seeding.torch_rng(1))
    said = net(x).argmax(1)
    assert found.w.shape == (30, 3) and members.shape == (150, 30) and members.any(1).all()
    for c in range(3):
        assert not members[said == c][:, [j for j in range(30) if j // 10 != c]].any()


def test_random_boundaries_keep_their_lengths_and_pass_through_an_embedding():
    x = torch.randn(20, 3, generator=seeding.torch_rng(0))
    found = method.Boundaries(torch.tensor([[3.0, 4, 0], [0, 0, 2]]), torch.zeros(2))
    other = method.random_like(found, x, seeding.torch_rng(1))
    assert torch.allclose(other.w.norm(dim=1), torch.tensor([5.0, 2])) and (other(x).abs().amin(0) < 1e-5).all()
    assert (functional.cosine_similarity(other.w, found.w).abs() < 0.999).all()


# ---------------------------------------------------------------- losses


def test_product_losses_by_hand():
    whole, part, rest = torch.tensor([[2.0, 1, 9]]), torch.tensor([[1.0, -1, 9]]), torch.tensor([[3.0, -2, -9]])
    same, opposite = method.product_losses(whole, part, rest, torch.tensor([[True, True, False]]))
    s = torch.sigmoid(torch.tensor([-2.0, 1, -2]))
    assert torch.allclose(same, (s[0] + s[1]) / 2) and torch.allclose(opposite, s[2])


def test_boundaries_and_margin_agree_for_a_linear_head_and_differ_for_another():
    for hidden in (0, 1):
        net = head(hidden, classes=2)
        x, part, rest = (2 * torch.randn(60, 3, generator=seeding.torch_rng(i)).double() for i in range(3))
        found, members = method.collect(net, x, 20, seeding.torch_rng(3))
        rows = torch.arange(60)
        a = method.by_boundaries(found, members, x)(rows, part, rest)
        b = method.by_logits(net, net(x).argmax(1), x)(rows, part, rest)
        assert all(torch.allclose(*pair) for pair in zip(a, b, strict=True)) == (hidden == 0)


def test_losses_do_not_depend_on_the_scale_of_boundaries_and_use_their_mean_size():
    x, part, rest = (torch.randn(30, 3, generator=seeding.torch_rng(i)) for i in range(3))
    found, members, rows = method.Boundaries(torch.eye(3), torch.zeros(3)), torch.ones(30, 3, dtype=torch.bool), torch.arange(30)
    large = method.Boundaries(100 * found.w, 100 * found.b)
    losses = [method.by_boundaries(one, members, x)(rows, part, rest) for one in (found, large)]
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(*losses, strict=True))
    a, b, c = (values / x.abs().mean(0) for values in (x, part, rest))
    assert torch.allclose(losses[0][0], torch.sigmoid(-a * b).mean(1)) and torch.allclose(
        losses[0][1], torch.sigmoid(a * c).amin(1)
    )


def test_probabilities_by_hand():
    net, said = head(0), torch.tensor([2, 0, 1])
    part, rest = (torch.randn(2, 3, generator=seeding.torch_rng(i)).double() for i in range(2))
    same, opposite = method.by_probabilities(net, said)(torch.tensor([1, 0]), part, rest)
    p, q = net(part).softmax(1), net(rest).softmax(1)
    assert torch.allclose(same, -torch.stack([p[0, 0], p[1, 2]]).log())
    assert torch.allclose(opposite, -(1 - torch.stack([q[0, 0], q[1, 2]])).log())


def test_sparse_terms_by_hand():
    real = torch.tensor([[True, True, False]])
    m = torch.tensor([[1.0, 0.25, 0.7]])
    q = np.array([0.995, 0.2525])
    entropy = (-q * np.log(q) - (1 - q) * np.log(1 - q)).mean()
    assert method.sparse_terms(m, real, method.Weights(3, 12, 0.1, 8)).item() == pytest.approx(0.125 + 8 * entropy, rel=1e-5)


# ---------------------------------------------------------------- the mask network


def test_an_edges_score_does_not_depend_on_its_direction():
    b, mask = few(), method.MaskNet(20, seeding.torch_rng(2))
    z = network().embed_nodes(b, graphs.adjacency(b))
    turned = graphs.Graphs(b.features, b.nodes, b.edges.flip(2), b.real, b.labels)
    scores = mask(method.edge_pairs(b, z))
    assert torch.allclose(scores, mask(method.edge_pairs(turned, z)), atol=1e-6)
    i, j = b.edges[3, 5].tolist()
    one, two = (mask.layers(torch.cat([z[3, p], z[3, q]])) for p, q in ((i, j), (j, i)))
    assert scores[3, 5].item() == pytest.approx(((one + two) / 2).item(), abs=1e-5)
    assert torch.equal(method.explain(mask, network(), b), scores)


def test_training_is_adam_on_the_relaxed_loss_for_each_aim_alone():
    b, net, many = few(), network(), 2
    x = net.embed(b, graphs.adjacency(b))
    aims = [
        (method.by_logits(net.head, net.head(x).argmax(1), x), method.Weights(3, 12, 0.03, 0.5)),
        (method.by_probabilities(net.head, net.head(x).argmax(1)), method.Weights(2, 0, 0.3, 0.1)),
    ]
    masks, found = method.train_masks(net, b, aims, seeding.torch_rng(4), steps=many, batch=6, lr=0.01)
    _, begun = method.train_masks(net, b, aims, seeding.torch_rng(4), steps=many, batch=6, lr=0.01, stop_after=1)
    assert found.shape == (2, 2) and torch.allclose(begun, found[:, :1])
    for (objective, weights), mask, losses in zip(aims, masks, found, strict=True):
        rng = seeding.torch_rng(4)
        other = method.MaskNet(20, rng)
        optimiser = torch.optim.Adam(other.parameters(), 0.01)
        for step in range(many):
            rows = torch.randperm(12, generator=rng)[:6]
            some = b[rows]
            u = torch.rand(some.real.shape, generator=rng).clamp(1e-6, 1 - 1e-6)
            logits = other(method.edge_pairs(some, net.embed_nodes(some, graphs.adjacency(some))))
            m = torch.sigmoid((logits + u.log() - (1 - u).log()) / (0.5 * 9.98 ** (step / many)))
            same, opposite = objective(rows, *(net.embed(some, graphs.adjacency(some, k)) for k in (m, 1 - m)))
            loss = (weights.same * same + weights.opposite * opposite + method.sparse_terms(m, some.real, weights)).mean()
            assert losses[step].item() == pytest.approx(loss.item(), rel=1e-3)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        for p, q in zip(mask.parameters(), other.parameters(), strict=True):
            assert torch.allclose(p, q, atol=2e-4)
        assert not any(p.requires_grad for p in mask.parameters())
    with pytest.raises(ValueError, match="batch"):
        method.train_masks(net, b, aims, seeding.torch_rng(4), steps=1, batch=13, lr=0.01)


def test_whole_mask_leaves_the_graph_and_nothing():
    b, net, seen = few(), network(), {}

    def objective(rows, part, rest):
        seen.update(part=part, rest=rest)
        return torch.ones(len(rows)), 2 * torch.ones(len(rows))

    loss = method.mask_losses(net, b, torch.ones(1, *b.real.shape), torch.arange(12), [(objective, method.Weights(3, 12, 0, 0))])
    assert torch.allclose(loss, torch.tensor([27.0]))
    assert torch.allclose(seen["part"], net.embed(b, graphs.adjacency(b)), atol=1e-6)
    assert torch.allclose(seen["rest"], net.embed(b, torch.zeros_like(graphs.adjacency(b))), atol=1e-6)


def test_the_papers_molecules_from_file_to_fidelity():
    if not os.environ.get("REPLICATIONS_DATA"):
        pytest.skip("REPLICATIONS_DATA is not set: MUTAG is not here")
    try:
        found, labels = tu_graphs.load("MUTAG")
    except DataError as error:
        pytest.skip(str(error))
    b = graphs.pad(found, labels, 1 + max(int(tags.max()) for tags, _ in found))
    net = graphs.GCN(b.features.shape[2], 2, seeding.torch_rng(0), hidden=1)
    graphs.fit(net, b, seeding.torch_rng(1), epochs=25)
    assert (net(b, graphs.adjacency(b)).argmax(1) == b.labels).float().mean() > 0.75
    x = net.embed(b, graphs.adjacency(b))
    aim = method.by_boundaries(*method.collect(net.head, x, 20, seeding.torch_rng(2)), x)
    (mask,), losses = method.train_masks(net, b, [(aim, method.Weights())], seeding.torch_rng(3), steps=20, batch=24, lr=0.01)
    drop = graphs.fidelity(lambda some, a: net(some, a).softmax(1), b, method.explain(mask, net, b), [0.5, 0.9])
    assert losses[0, -5:].mean() < losses[0, :5].mean() and drop.shape == (188, 2) and drop.isfinite().all()


# ---------------------------------------------------------------- rivals


class Counted:
    """A network whose logit for class 1 is a weighted sum over edges of what their ends' numbers say: known answers."""

    def __call__(self, some, a):
        v = torch.arange(a.shape[1]).float()
        worth = (a * (v[:, None] + v[None, :])).sum((1, 2)) / 2
        return torch.stack([torch.zeros_like(worth), 0.05 * worth], 1)


def test_gradient_and_greedy_find_the_heaviest_edges():
    b = graphs.pad([(np.zeros(4, int), np.array([[0, 1], [2, 3], [1, 2], [0, 3]]))] * 2, [0, 0], 1)
    worth = torch.tensor([1.0, 5, 3, 3]).repeat(2, 1)
    found = method.gradient(Counted(), b)
    assert torch.allclose(found / found[:, :1], worth)
    taken = method.greedy(Counted(), b, 0.5)
    assert taken[0].tolist() == [0, 4, 3, 0]  # ties go to the first
    assert method.top(b, taken, 2)[0].tolist() == [False, True, True, False]


def test_greedy_takes_each_graphs_own_share_and_never_padding():
    short = (np.zeros(3, int), np.array([[0, 1], [1, 2]]))
    b = graphs.pad([(np.zeros(5, int), np.array([[0, 1], [1, 2], [2, 3], [3, 4]])), short], [0, 0], 1)
    taken = method.greedy(network(), b, 0.5)
    assert (taken > 0).sum(1).tolist() == [2, 1] and (taken[1, 2:] == 0).all()


def test_gnn_explainer_marks_what_keeps_the_prediction():
    b = graphs.pad([(np.zeros(4, int), np.array([[0, 1], [2, 3]]))], [0], 1)
    weights = method.Weights(3.0, 0.0, 0.1, 0.1)
    scores = method.gnn_explainer(Counted(), b, weights, seeding.torch_rng(0), steps=60)
    assert scores[0, 1] > scores[0, 0]
    none = method.gnn_explainer(Counted(), b, method.Weights(0.0, 0.0, 1.0, 0.0), seeding.torch_rng(0), steps=60)
    assert (none < -2).all()
