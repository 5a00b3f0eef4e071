"""T-Rex: Stability in closed form and against numpy, batched training against single training, searches on known geometry."""

import copy
import os

import numpy as np
import pytest
import torch

from replications.recourse.robust_network_recourse import method
from shared import data, seeding
from shared.data import trex_tabular

W = torch.tensor([3.0, -4.0, 0.0])


def linear(x: torch.Tensor) -> torch.Tensor:
    return x @ W + 0.5


def logistic(x: torch.Tensor) -> torch.Tensor:
    """Accepts where 3 x_0 - 4 x_1 > 0.5."""
    return torch.sigmoid(2 * (x @ W - 0.5))


def generator(seed: int = 0) -> torch.Generator:
    return seeding.torch_rng(seed)


def points(n: int = 6, d: int = 3) -> torch.Tensor:
    return torch.rand(n, d, generator=generator())


# ---------------------------------------------------------------- stability


def test_relaxed_stability_of_a_linear_score():
    noise = torch.randn(200_000, 3, generator=generator())
    known = linear(points()) - 5 * 0.05 * np.sqrt(2 / np.pi)
    assert torch.allclose(method.relaxed_stability(linear, points(), noise, 0.05), known, atol=2e-3)


def test_relaxed_stability_of_a_constant():
    noise = torch.randn(50, 3, generator=generator())
    assert torch.allclose(method.relaxed_stability(lambda x: 0 * x.sum(-1) + 0.3, points(), noise, 0.1), torch.tensor(0.3))


def test_stabilities_against_numpy():
    noise, sigma = torch.randn(40, 3, generator=generator()), 0.1
    x = points()
    gamma = torch.linspace(1, 2, len(x))
    for i, p in enumerate(x.numpy()):
        near = [logistic(torch.tensor(p + sigma * z)).item() for z in noise.numpy()]
        here = logistic(x[i]).item()
        relaxed = np.mean(near) - np.mean([abs(here - v) for v in near])
        assert method.relaxed_stability(logistic, x, noise, sigma)[i].item() == pytest.approx(relaxed, abs=1e-5)
        full = np.mean([v - gamma[i].item() * np.linalg.norm(sigma * z) for v, z in zip(near, noise.numpy(), strict=True)])
        assert method.stability(logistic, x, noise, sigma, gamma)[i].item() == pytest.approx(full, abs=1e-5)


def test_local_lipschitz_of_a_linear_score():
    noise = torch.randn(20_000, 3, generator=generator())
    values = linear(points().unsqueeze(1) + 0.1 * noise)  # (n, k)
    slopes = method.local_lipschitz(torch.stack([values, 2 * values]), noise, 0.1)  # of two models
    assert torch.allclose(slopes, torch.tensor([[5.0], [10.0]]), rtol=0.01)
    assert (slopes <= torch.tensor([[5.0], [10.0]]) + 1e-3).all()


def test_relaxed_stability_is_never_above_the_model():
    """mean m_i - mean |m - m_i| <= m: what T-Rex:NN prunes by."""
    noise = torch.randn(50, 3, generator=generator())
    x = points(200)
    assert (method.relaxed_stability(logistic, x, noise, 0.2) <= logistic(x) + 1e-6).all()


def test_bound():
    level = method.bound(200, 0.1, torch.tensor(1.0), torch.tensor(3.0), 0.05)
    assert level.item() == pytest.approx(1 - np.exp(-200 * 0.01 / (8 * 16 * 0.0025)))
    assert method.bound(200, 0.0, torch.tensor(1.0), torch.tensor(3.0), 0.05).item() == 0


def test_noise_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"noise must be of shape \(k, 3\)"):
        method.relaxed_stability(linear, points(), torch.zeros(3), 0.1)


# ---------------------------------------------------------------- networks


def blobs(n: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    y = (torch.arange(n) % 2).float()
    return (torch.randn(n, 3, generator=generator()) * 0.1 + 0.3 + 0.4 * y[:, None]).clamp(0, 1), y


def test_training_learns_and_networks_differ():
    x, y = blobs()
    nets = method.train(x, y, method.all_rows(len(x), 3), generator(), hidden=8, epochs=60, batch=50, learning_rate=1e-2)
    assert ((nets.accept(x) == y.bool()).float().mean(1) > 0.95).all()
    assert not torch.allclose(nets.weights[0][0], nets.weights[0][1])


def test_batch_of_networks_is_networks_one_by_one():
    """One step of the batched trainer on the full batch equals a torch.nn network trained alone from the same weights."""
    x, y = blobs(64)
    settings = {"hidden": 8, "batch": 64, "learning_rate": 1e-2}
    start = method.train(x, y, method.all_rows(64, 2), generator(), epochs=0, **settings)
    after = method.train(x, y, method.all_rows(64, 2), generator(), epochs=3, **settings)
    for g in range(2):
        layers = [torch.nn.Linear(a, b) for a, b in ((3, 8), (8, 8), (8, 1))]
        for layer, w, b in zip(layers, start.weights, start.biases, strict=True):
            layer.weight.data, layer.bias.data = w[g].T.clone(), b[g, 0].clone()
        net = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
        adam = torch.optim.Adam(net.parameters(), lr=1e-2)
        for _ in range(3):
            adam.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(net(x).squeeze(-1), y).backward()
            adam.step()
        assert torch.allclose(net(x).squeeze(-1), after.logits(x)[g], atol=1e-5)
        assert torch.allclose(torch.sigmoid(after.logits(x)[g]), after.one(g)(x), atol=1e-6)


def test_initial_weights_are_pytorchs():
    nets = method.train(*blobs(64), method.all_rows(64, 40), generator(), hidden=64, epochs=0)
    for weight, n_in in zip(nets.weights, (3, 64, 64), strict=True):
        assert weight.abs().max() <= n_in**-0.5
        assert weight.std().item() == pytest.approx(n_in**-0.5 / 3**0.5, rel=0.1)


def test_leave_out():
    rows = method.leave_out(100, 3, 0.1, generator())
    assert rows.shape == (3, 90)
    assert all(len(set(r.tolist())) == 90 for r in rows)
    assert not torch.equal(rows[0].sort().values, rows[1].sort().values)
    with pytest.raises(ValueError, match="share"):
        method.leave_out(100, 3, 1.0, generator())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x, y: (x * float("nan"), y), "x must be finite"),
        (lambda x, y: (x, y[:-1]), "y must be"),
        (lambda x, y: (x, torch.ones_like(y)), "both classes"),
    ],
)
def test_bad_training_data(change, told):
    with pytest.raises(ValueError, match=told):
        method.train(*change(*blobs(64)), method.all_rows(64, 1), generator())


# ---------------------------------------------------------------- searches


def rejected(n: int = 8) -> torch.Tensor:
    x = torch.rand(400, 3, generator=generator()) * 0.6 + 0.2
    return x[logistic(x) < 0.3][:n]


def test_closest_in_l2_is_the_projection():
    x = rejected()
    found = method.closest_counterfactual(logistic, x, steps=300, bisections=10)
    projection = x + (0.5 - x @ W).unsqueeze(1) / 25 * W
    assert (logistic(found) > 0.5).all()
    inside = ((projection >= 0) & (projection <= 1)).all(1)
    assert inside.sum() > 2
    assert ((found - projection)[inside].norm(dim=1) < 0.02).all()


def test_closest_in_l1_changes_fewest_features():
    x = rejected()
    l1 = method.closest_counterfactual(logistic, x, beta=1.0, steps=300)
    l2 = method.closest_counterfactual(logistic, x, steps=300)
    assert ((l1 - x).abs().sum(1) <= (l2 - x).abs().sum(1) + 1e-3).all()
    assert ((l1 - x).abs() > 1e-4).sum() < ((l2 - x).abs() > 1e-4).sum()
    assert torch.equal(l1[:, 2], x[:, 2])  # the feature that does not matter


def test_no_counterfactual_is_nan():
    found = method.closest_counterfactual(lambda x: 0 * x.sum(-1) + 0.2, rejected())
    assert found.isnan().all()


def test_walk_climbs_in_steps_inside_its_ball():
    start = method.closest_counterfactual(logistic, rejected())
    path = method.walk(logistic, start, method.confidence_direction(logistic), steps=30)
    assert torch.allclose((path[1] - path[0]).norm(dim=1), torch.tensor(0.01), atol=1e-4)
    assert torch.allclose(torch.nn.functional.cosine_similarity(path[1] - path[0], W[None]), torch.tensor(1.0), atol=1e-3)
    assert ((path - start).norm(dim=-1) <= 0.2 + 1e-5).all()
    assert (path >= 0).all() and (path <= 1).all()
    assert (logistic(path[-1]) > logistic(path[0])).all()


def test_walk_never_leaves_the_accepted_region():
    start = method.closest_counterfactual(logistic, rejected())
    path = method.walk(logistic, start, lambda x: -W.expand_as(x))
    assert torch.equal(path[-1], start)


def test_stability_direction_is_its_gradient():
    x, direction = points(2), method.stability_direction(logistic, 0.1, 5000, generator())(points(2))
    noise = torch.randn(5000, 3, generator=generator())
    for axis in range(3):
        step = torch.zeros(3)
        step[axis] = 1e-3
        up, down = (method.relaxed_stability(logistic, x + s * step, noise, 0.1) for s in (1, -1))
        assert torch.allclose(direction[:, axis], (up - down) / 2e-3, atol=2e-2)


def test_sns_direction_is_the_gradient_of_the_line_integral():
    x = points(2)
    direction = method.sns_direction(logistic, generator(), jitter=0.0)(x)
    for axis in range(3):
        step = torch.zeros(3)
        step[axis] = 1e-3
        up, down = (sum(logistic(i / 20 * (x + s * step)) for i in range(1, 21)) for s in (1, -1))
        assert torch.allclose(direction[:, axis], (up - down) / 2e-3, atol=2e-2)


def test_turned_direction():
    axis = torch.tensor([[5.0, 0.0, 0.0]]).expand(400, 3)
    turned = method.turned_direction(lambda x: axis, points(400), generator())(points(400)) - torch.tensor([1.0, 0.0, 0.0])
    assert torch.allclose(turned.norm(dim=1), torch.tensor(1.0), atol=1e-5)
    assert turned.mean(0).norm() < 0.2


def test_trex_stops_at_tau():
    start = method.closest_counterfactual(logistic, rejected())
    settings = {"sigma": 0.02, "k": 2000, "steps": 25}
    found = method.trex_iterative(logistic, start, tau=0.7, generator=generator(), **settings)
    score = method.relaxed_stability(logistic, found, torch.randn(5000, 3, generator=generator(1)), 0.02)
    assert (score > 0.68).all()
    assert (score < 0.9).all()  # and goes no further
    everything = method.trex_iterative(logistic, start, tau=2.0, generator=generator(), **settings)
    assert ((everything - start).norm(dim=1) >= (found - start).norm(dim=1)).all()


def test_points_do_not_influence_one_another():
    start = method.closest_counterfactual(logistic, rejected())
    together = method.trex_iterative(logistic, start, sigma=0.05, tau=0.75, k=100, generator=generator())
    alone = method.trex_iterative(logistic, start[2:3], sigma=0.05, tau=0.75, k=100, generator=generator())
    assert torch.allclose(together[2:3], alone, atol=1e-5)


def test_at_travel_and_stop_at():
    path = torch.tensor([0.0, 0.1, 0.2, 0.4])[:, None, None] * torch.tensor([1.0, 0.0, 0.0])  # (4, 1, 3)
    assert method.at_travel(path, torch.tensor([0.3]))[0, 0] == pytest.approx(0.3)
    assert method.at_travel(path, torch.tensor([0.0]))[0, 0] == 0
    assert method.at_travel(path, torch.tensor([9.0]))[0, 0] == pytest.approx(0.4)
    assert method.stop_at(path, torch.tensor([False, False, True, True])[:, None])[0, 0] == pytest.approx(0.2)
    assert method.stop_at(path, torch.zeros(4, 1, dtype=torch.bool))[0, 0] == pytest.approx(0.4)


def test_nearest_accepted():
    training = points(400)
    x = rejected()
    near = method.nearest_accepted(logistic, x, training)
    accepted = training[logistic(training) > 0.5]
    assert torch.equal(near, accepted[torch.cdist(x, accepted).argmin(1)])
    with pytest.raises(ValueError, match="no point that m accepts"):
        method.nearest_accepted(lambda z: 0 * z.sum(-1), x, training)


@pytest.mark.parametrize("tau", [0.3, 0.75])
def test_trex_nearest_against_scoring_every_point(tau):
    training, x, settings = points(700), rejected(), {"sigma": 0.1, "tau": tau, "k": 200}
    found = method.trex_nearest(logistic, x, training, generator=generator(), **settings)
    score = method.relaxed_stability(logistic, training, torch.randn(200, 3, generator=generator()), 0.1)
    stable = training[(score >= tau) & (logistic(training) > 0.5)]
    assert torch.equal(found, stable[torch.cdist(x, stable).argmin(1)])
    nowhere = method.trex_nearest(logistic, x, training, generator=generator(), **settings | {"tau": 1.1})
    assert torch.equal(nowhere, method.nearest_accepted(logistic, x, training))


def test_wachter_and_roar():
    x = rejected()
    wachter = method.gradient_counterfactual(logistic, x, distance_weight=1.0)
    roar = method.gradient_counterfactual(logistic, x, distance_weight=1.0, worst_change=1.0)
    assert not wachter.isnan().any()
    assert (logistic(roar) > logistic(wachter)).float().mean() > 0.8  # a margin for the worst change
    both = method.gradient_counterfactual(
        logistic, x.repeat(2, 1), distance_weight=1.0, worst_change=torch.tensor([0.0, 1.0]).repeat_interleave(len(x))
    )
    assert torch.allclose(both, torch.cat([wachter, roar]), equal_nan=True)
    nothing = method.gradient_counterfactual(lambda z: 0 * z.sum(-1) + 0.2, x, distance_weight=1.0)
    assert nothing.isnan().all()


def test_searches_refuse_nan():
    bad = copy.deepcopy(points())
    bad[0, 0] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        method.closest_counterfactual(logistic, bad)


@pytest.mark.parametrize(("name", "columns"), [("heloc", 39), ("german", 61), ("ctg", 21)])
def test_the_papers_own_data(name, columns):
    if not os.environ.get("REPLICATIONS_DATA"):
        pytest.skip("REPLICATIONS_DATA is not set: the paper's own data are not here")
    x_train, y_train, x_test, y_test = trex_tabular.load(name)
    assert x_train.shape[1] == x_test.shape[1] == columns
    assert x_train.min() >= 0 and x_train.max() <= 1
    assert set(np.unique(y_train)) == set(np.unique(y_test)) == {0, 1}


def test_unknown_table_of_the_paper():
    with pytest.raises(data.DataError, match="'adult' is not one of heloc, german, ctg"):
        trex_tabular.load("adult")


def test_nothing_in_heloc_gives_the_label_away():
    """Each column of its own; a filled-in class mean would be a value with one label and many rows."""
    from shared.data import heloc

    features, y = heloc.load()
    encoded = heloc.encode(features)
    assert not encoded.isna().any().any()
    for name in encoded:
        for _, labels in encoded.assign(y=y).groupby(name)["y"]:
            assert len(labels) < 60 or 0 < labels.mean() < 1, name
