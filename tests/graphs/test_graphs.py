"""shared.graphs, and the two data modules of graphs."""

import os

import networkx as nx
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from shared import graphs, seeding
from shared.data import DataError, molecules, tu_graphs

TRIANGLE = (np.array([0, 1, 0]), np.array([[0, 1], [2, 1], [2, 0]]))
PATH = (np.array([1, 1, 0, 0]), np.array([[3, 2], [1, 0], [1, 2]]))
LONE = (np.array([1]), np.zeros((0, 2), dtype=int))


def batch() -> graphs.Graphs:
    return graphs.pad([TRIANGLE, PATH, LONE], [1, 0, 1], 2)


# ---------------------------------------------------------------- batches


def test_pad():
    b = batch()
    assert b.features.shape == (3, 4, 2) and b.real.sum(1).tolist() == [3, 3, 0] and b.nodes.sum(1).tolist() == [3, 4, 1]
    assert b.features[0].tolist() == [[1, 0], [0, 1], [1, 0], [0, 0]] and b.labels.tolist() == [1, 0, 1]
    assert len(b[1:]) == 2 and b[torch.tensor([1])].edges[0].tolist() == PATH[1].tolist()


@pytest.mark.parametrize(
    ("bad", "message"),
    [((np.array([0, 2]), np.array([[0, 1]])), "tags"), ((np.array([0, 0]), np.array([[0, 2]])), "does not join"),
     ((np.array([0, 0]), np.array([[1, 1]])), "does not join"), ((np.array([0, 0]), np.array([[0, 1], [1, 0]])), "twice"),
     ((np.array([], dtype=int), np.zeros((0, 2))), "tags")],
)  # fmt: skip
def test_pad_refuses(bad, message):
    with pytest.raises(ValueError, match=message):
        graphs.pad([TRIANGLE, bad], [0, 0], 2)


def test_pad_refuses_no_graph():
    with pytest.raises(ValueError, match="graphs"):
        graphs.pad([], [], 2)


def test_adjacency_is_networkx_own():
    b = batch()
    weights = torch.rand(b.real.shape, generator=seeding.torch_rng(0))
    for a, factor in ((graphs.adjacency(b), torch.ones(b.real.shape)), (graphs.adjacency(b, weights), weights)):
        for i, (tags, edges) in enumerate((TRIANGLE, PATH, LONE)):
            g = nx.Graph()
            g.add_nodes_from(range(len(tags)))
            g.add_weighted_edges_from((*edge, w) for edge, w in zip(edges, factor[i].tolist(), strict=False))
            wanted = np.zeros((4, 4))
            wanted[: len(tags), : len(tags)] = nx.to_numpy_array(g, nodelist=range(len(tags)))
            assert np.allclose(a[i], wanted)


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize("hidden", [0, 2])
def test_network_is_message_passing_by_hand(hidden):
    b = batch()
    net = graphs.GCN(2, 3, seeding.torch_rng(0), layers=2, width=5, hidden=hidden, head_width=4)
    logits = net(b, graphs.adjacency(b))
    for i, (tags, edges) in enumerate((TRIANGLE, PATH, LONE)):
        h = np.eye(2)[tags]
        for neighbours, own in zip(net.neighbours, net.own, strict=True):
            w, v, bias = (p.detach().numpy() for p in (neighbours.weight, own.weight, own.bias))
            new = h @ v.T + bias
            for a, c in edges:
                new[a] += h[c] @ w.T
                new[c] += h[a] @ w.T
            h = np.maximum(new, 0)
        out = np.concatenate([h.max(0), h.mean(0)])
        linear = [step for step in net.head if isinstance(step, torch.nn.Linear)]
        assert len(linear) == hidden + 1
        for place, step in enumerate(linear):
            out = step.weight.detach().numpy() @ out + step.bias.detach().numpy()
            out = np.maximum(out, 0) if place < hidden else out
        assert np.allclose(logits[i].detach(), out, atol=1e-5)


def test_padding_and_order_of_nodes_change_nothing():
    net, b = graphs.GCN(2, 2, seeding.torch_rng(1)), batch()
    alone = graphs.pad([TRIANGLE], [1], 2)
    turned = graphs.pad([(TRIANGLE[0][[2, 0, 1]], np.array([1, 2, 0])[TRIANGLE[1]])], [1], 2)
    wanted = net(b, graphs.adjacency(b))[0]
    for other in (alone, turned):
        assert torch.allclose(net(other, graphs.adjacency(other))[0], wanted, atol=1e-6)


def test_fit_tells_triangles_from_paths_and_repeats():
    few = graphs.pad([TRIANGLE, (TRIANGLE[0], TRIANGLE[1][:2])] * 20, [1, 0] * 20, 2)
    losses = []
    for stop in (None, 3):
        net = graphs.GCN(2, 2, seeding.torch_rng(2))
        losses.append(graphs.fit(net, few, seeding.torch_rng(3), epochs=20, batch=10, stop_after=stop))
    assert losses[0][:3] == losses[1] and len(losses[0]) == 80 and losses[0][-1] < 0.1 < losses[0][0]
    assert not any(p.requires_grad for p in net.parameters())


# ---------------------------------------------------------------- measures

SCORES = torch.tensor([[0.1, 0.9, 0.5], [3.0, 2.0, 2.0], [9.0, 9.0, 9.0]])


def test_ranks_and_what_is_left_by_hand():
    b = batch()
    assert graphs.ranks(b, SCORES)[:2].tolist() == [[2, 0, 1], [0, 1, 2]]
    assert graphs.without_top(b, SCORES, 2 / 3).tolist() == [[1, 0, 1], [0, 1, 1], [0, 0, 0]]
    assert graphs.without_top(b, SCORES, 1.0).sum() == 6 and graphs.without_top(b, SCORES, 0.0).sum() == 0
    short = graphs.pad([TRIANGLE, (PATH[0], PATH[1][:1])], [0, 0], 2)
    assert graphs.ranks(short, torch.tensor([[1.0, 2, 3], [-5, 7, 7]]))[1, 0] == 0  # padding never leads
    with pytest.raises(ValueError, match="scores"):
        graphs.ranks(b, SCORES * torch.nan)
    with pytest.raises(ValueError, match="scores"):
        graphs.ranks(b, SCORES[:, :2])


def test_fidelity_by_hand():
    def probability(some, a):  # of class 1: a tenth for each edge and a half
        p = 0.5 + 0.1 * a.sum((1, 2)) / 2
        return torch.stack([1 - p, p], 1)

    drop = graphs.fidelity(probability, batch()[:2], SCORES[:2], [1.0, 2 / 3, 1 / 3])
    assert torch.allclose(drop, torch.tensor([[0.0, 0.1, 0.2]] * 2), atol=1e-6)

    def other(some, a):  # class 0 is said: its probability rises as edges go
        return probability(some, a).flip(1) * 0 + torch.stack([0.9 - 0.1 * a.sum((1, 2)) / 2, 0.1 + 0.1 * a.sum((1, 2)) / 2], 1)

    assert torch.allclose(graphs.fidelity(other, batch()[:1], SCORES[:1], [2 / 3]), torch.tensor([[-0.1]]), atol=1e-6)


def test_auc_is_scikit_learns():
    found, labels, truths = graphs.ba_2motifs(6, seeding.rng(0))
    b = graphs.pad(found, labels, 1)
    truth = torch.zeros_like(b.real)
    for row, one in zip(truth, truths, strict=True):
        row[: len(one)] = torch.as_tensor(one)
    scores = torch.randint(5, b.real.shape, generator=seeding.torch_rng(0)).float()  # with ties
    scores[:, -1] = torch.where(b.real[:, -1], scores[:, -1], 99.0)
    wanted = [roc_auc_score(truth[i, real], scores[i, real]) for i, real in enumerate(b.real)]
    assert np.allclose(graphs.auc(b, scores, truth), wanted)
    assert np.isnan(graphs.auc(b, scores, b.real)).all()


def test_noise_changes_its_share_and_spares_the_marked():
    found, labels, _ = graphs.ba_2motifs(40, seeding.rng(1))
    b = graphs.pad(found, labels, 1)
    marked = graphs.ranks(b, torch.rand(b.real.shape, generator=seeding.torch_rng(1))) < 4
    after, kept = graphs.noisy(b, marked, 0.3, seeding.rng(2))
    added = []
    for i in range(len(b)):
        old, new = ({frozenset(e) for e in g.edges[i, g.real[i]].tolist()} for g in (b, after))
        top = {frozenset(e) for e in b.edges[i, marked[i]].tolist()}
        assert {frozenset(e) for e in after.edges[i, kept[i]].tolist()} == top and top <= new
        assert len(old ^ new) == round(0.3 * len(old))
        added.append(len(new - old) / len(old ^ new))
    assert 0.4 < np.mean(added) < 0.6 and after.labels.equal(b.labels) and after.features.equal(b.features)
    same, still = graphs.noisy(b, marked, 0.0, seeding.rng(2))
    assert same.edges.equal(b.edges) and still.equal(marked)


def test_motifs():
    found, labels, truths = graphs.ba_2motifs(30, seeding.rng(4))
    house = nx.house_graph()
    assert sorted(labels) == [0] * 15 + [1] * 15
    for (tags, edges), label, truth in zip(found, labels, truths, strict=True):
        whole, motif, rest = (nx.Graph(e.tolist()) for e in (edges, edges[truth], edges[~truth]))
        assert len(tags) == len(whole) == 25 and nx.is_connected(whole)
        assert nx.is_isomorphic(motif, house if label else nx.cycle_graph(5))
        assert nx.is_tree(rest) and len(set(rest) & set(motif)) == 1
    assert len({tuple(edges[-1]) for _, edges in found}) > 10  # numbers tell nothing


# ---------------------------------------------------------------- molecules

KNOWN = {  # name: (SMILES, atoms but hydrogen, bonds, rings, double and triple bonds as written)
    "ethanol": ("CCO", 3, 2, 0, 0),
    "benzene": ("c1ccccc1", 6, 6, 1, 0),
    "aspirin": ("CC(=O)Oc1ccccc1C(=O)O", 13, 13, 1, 2),
    "caffeine": ("CN1C=NC2=C1C(=O)N(C(=O)N2C)C", 14, 15, 2, 4),
    "naphthalene": ("c1ccc2ccccc2c1", 10, 11, 2, 0),
    "cubane": ("C12C3C4C1C5C2C3C45", 8, 12, 5, 0),
    "chloroform": ("ClC(Cl)Cl", 4, 3, 0, 0),
    "glycine, charged": ("[NH3+]CC(=O)[O-]", 5, 4, 0, 1),
    "salt": ("[Na+].[Cl-]", 2, 0, 0, 0),
    "L-alanine": ("N[C@@H](C)C(=O)O", 6, 5, 0, 1),
    "trans-difluoroethene": ("F/C=C/F", 4, 3, 0, 1),
    "two-digit ring": ("C%12CCCCC%12", 6, 6, 1, 0),
    "ring bond written": ("C=1CCCCC=1", 6, 6, 1, 1),
    "acetonitrile": ("CC#N", 3, 2, 0, 1),
    "biphenyl": ("c1ccccc1-c1ccccc1", 12, 13, 2, 0),
    "pyrrole": ("c1cc[nH]c1", 5, 5, 1, 0),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_molecules(name):
    smiles, n, m, rings, multiple = KNOWN[name]
    symbols, bonds, orders = molecules.read_smiles(smiles)
    g = nx.Graph(bonds.tolist())
    g.add_nodes_from(range(len(symbols)))
    assert (len(symbols), len(bonds), g.number_of_edges()) == (n, m, m)
    assert len(nx.cycle_basis(g)) == rings and (orders >= 2).sum() == multiple


def test_symbols_and_orders():
    symbols, bonds, orders = molecules.read_smiles("[13CH3][N+](C)(C)Br.[Fe+2].[O--].c1c[nH]cc1-C#N")
    assert symbols[:7] == ["C", "N+", "C", "C", "Br", "Fe+2", "O-2"] and symbols[7:10] == ["c", "c", "n"]
    assert bonds[:4].tolist() == [[0, 1], [1, 2], [1, 3], [1, 4]]
    assert orders.tolist() == [1] * 4 + [1.5] * 5 + [1, 3]
    tags, _ = molecules.graph((symbols[:5], bonds[:4], orders[:4]), ["C", "N", "Br"])
    assert tags.tolist() == [0, 1, 0, 0, 2]
    with pytest.raises(ValueError, match="Fe, O"):
        molecules.graph((symbols, bonds, orders), ["C", "N", "Br"])


@pytest.mark.parametrize("bad", ["", "C(C", "CC)", "C1CC", "C=", "=C", "C(=)C", "CxC", "C C", "(C)", "C=.C", "[C"])
def test_what_is_no_smiles(bad):
    with pytest.raises(ValueError, match="smiles"):
        molecules.read_smiles(bad)


def test_aqsoldb():
    try:
        smiles, solubility = molecules.load()
    except DataError as error:
        pytest.skip(str(error))
    assert (
        len(smiles) == len(solubility) == 9982 and np.isfinite(solubility).all() and -14 < solubility.min() < solubility.max() < 3
    )
    read = [molecules.read_smiles(text) for text in smiles[::7]]
    assert all(len(bonds) == 0 or bonds.max() < len(symbols) for symbols, bonds, _ in read)


# ---------------------------------------------------------------- the TU collection


def test_reading_the_text_format(tmp_path):
    path = tmp_path / "tiny.txt"
    path.write_text("2\n3 -1\n5 1 1\n2 2 0 2\n5 1 1 0.5\n2 1\n2 1 1\n9 1 0\n".replace(" 0.5", ""))
    found, labels = tu_graphs.read(path)
    assert labels.tolist() == [0, 1] and found[0][0].tolist() == [1, 0, 1] and found[1][0].tolist() == [0, 2]
    assert found[0][1].tolist() == [[0, 1], [1, 2]] and found[1][1].tolist() == [[0, 1]]
    path.write_text("2\n3 -1\n5 1 1\n2 2 0 2\n")
    with pytest.raises(DataError, match="cut short"):
        tu_graphs.read(path)


@pytest.mark.parametrize(
    ("name", "n", "ones", "atoms", "bonds"), [("MUTAG", 188, 125, 17.93, 19.79), ("NCI1", 4110, 2057, 29.87, 32.30)]
)
def test_the_papers_own_sets(name, n, ones, atoms, bonds):
    if not os.environ.get("REPLICATIONS_DATA"):
        pytest.skip("REPLICATIONS_DATA is not set: the paper's own graphs are not here")
    try:
        found, labels = tu_graphs.load(name)
    except DataError as error:
        pytest.skip(str(error))
    assert len(found) == n and labels.sum() == ones  # as the collection's page gives them
    assert np.mean([len(tags) for tags, _ in found]) == pytest.approx(atoms, abs=0.01)
    assert np.mean([len(edges) for _, edges in found]) == pytest.approx(bonds, abs=0.01)
    b = graphs.pad(found[:50], labels[:50], 1 + max(tags.max() for tags, _ in found))
    assert torch.equal(graphs.adjacency(b).sum((1, 2)) / 2, b.real.sum(1).float())
