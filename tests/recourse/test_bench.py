"""Every recourse method of this repository, and its peers, on one toy table of the bench."""

import importlib.util

import numpy as np
import pytest
import torch

from replications.recourse.recourse_review import method
from replications.recourse.robust_network_recourse import method as networks
from tests.recourse.people import refused, toy_problems

PEERS = {"peer: NICE": "nice", "peer: DiCE": "dice_ml"}


@pytest.fixture(scope="module")
def problems():
    return toy_problems()


@pytest.mark.parametrize(
    ("entry", "kind"),
    [(e, e.kinds[-1]) for e in method.ENTRIES],
    ids=lambda v: getattr(v, "name", v),
)
def test_every_entry_keeps_the_signature(problems, entry, kind):
    if entry.name in PEERS and importlib.util.find_spec(PEERS[entry.name]) is None:
        pytest.skip(f"the package {PEERS[entry.name]} is not installed")
    problem = problems[kind]
    x = refused(problem, 1 if entry.slow else 2)
    before = x.copy()
    answers = [entry.method(problem, x, np.random.default_rng(3)) for _ in range(2)]
    assert (x == before).all()
    np.testing.assert_array_equal(*answers)
    z = answers[0]
    assert z.ndim == 3 and z.shape[::2] == x.shape and z.dtype == float
    missing = np.isnan(z)
    assert (missing.any(-1) == missing.all(-1)).all()
    if entry.name not in PEERS:
        found = ~missing.all(-1)
        np.testing.assert_allclose(problem.table.project(z, x)[found], z[found], atol=1e-6)  # real rows, within reach
        assert problem.accepts(z)[found].all()
        # rounding a category may sink every answer of a method that follows a gradient
        assert found.any() or entry.kinds == method.GRADIENT or entry.name in ("T-COL a", "T-Rex:NN")


@pytest.mark.parametrize("search", [method.wachter, method.nearest, method.ar_linear, method.face])
def test_the_order_of_people_does_not_matter(problems, search):
    x = refused(problems["linear"], 3)
    there = search(problems["linear"], x, np.random.default_rng(3))
    back = search(problems["linear"], x[::-1].copy(), np.random.default_rng(3))[::-1]
    np.testing.assert_allclose(there, back, atol=1e-5)


def test_robust_walks_start_at_wachter_and_grow_safer(problems):
    problem = problems["net"]
    x = refused(problem, 3)
    noise = torch.randn(100, x.shape[1], generator=torch.Generator().manual_seed(0))
    found = {search: search(problem, x, np.random.default_rng(0))[:, 0] for search in (method.wachter, method.trex, method.sns)}
    both = np.isfinite(np.hstack(list(found.values()))).all(1)
    safe = {
        search: networks.relaxed_stability(problem.model.inside, method._tensor(z[both]), noise, 0.05).mean().item()
        for search, z in found.items()
    }
    assert safe[method.trex] > safe[method.wachter] and safe[method.sns] > safe[method.wachter]
    stable = method.trex_nn(problem, x, np.random.default_rng(0), tau=0.6)[:, 0]
    stable = stable[np.isfinite(stable).all(1)]
    assert len(stable) and (networks.relaxed_stability(problem.model.inside, method._tensor(stable), noise, 0.05) > 0.55).all()


def test_copa_moves_nothing_that_is_fixed_and_goes_deeper_when_asked_to(problems):
    problem = problems["linear"]
    x = refused(problem, 2)
    depth = []
    for robust in (0.1, 5.0):
        z = method.copa(problem, x, np.random.default_rng(0), robust=robust)
        assert (z[np.isfinite(z).all(-1)][:, -1][:, None] == x[:, -1]).any(1).all()
        depth.append(np.nanmean(problem.model.score(np.nan_to_num(z).reshape(-1, x.shape[1]))))
    assert depth[1] > depth[0]
