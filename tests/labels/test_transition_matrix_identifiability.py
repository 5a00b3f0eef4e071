"""Identifiability of T: laws by enumeration, searches that must or must not find the truth, gradients by differences, peers."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.special import softmax
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

from replications.labels.transition_matrix_identifiability import method
from shared import labels

HALF, TWO = np.array([0.5, 0.5]), np.array([[0.9, 0.1], [0.3, 0.7]])
Q, T = np.array([0.5, 0.3, 0.2]), np.array([[0.7, 0.2, 0.1], [0.05, 0.8, 0.15], [0.2, 0.2, 0.6]])
BENT = np.array([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.5, 0.35, 0.15]])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---------------------------------------------------------------- laws


def test_law_by_hand_and_by_enumeration():
    pair = method.law(HALF, [TWO, TWO])
    np.testing.assert_allclose(pair, [[0.45, 0.15], [0.15, 0.25]])
    views = [T, BENT, np.array([[0.5, 0.5], [0.1, 0.9], [1, 0]])]
    found = method.law(Q, views)
    assert found.shape == (3, 3, 2)
    for a, b, c in np.ndindex(found.shape):
        assert found[a, b, c] == pytest.approx(sum(Q[i] * views[0][i, a] * views[1][i, b] * views[2][i, c] for i in range(3)))


def test_a_copy_adds_nothing():
    with_copy = method.copied(method.law(Q, [T, BENT]))
    np.testing.assert_allclose(with_copy.sum(2), method.law(Q, [T, BENT]))
    assert all(with_copy[a, b, c] == 0 for a, b, c in np.ndindex(3, 3, 3) if b != c)


def test_kruskal():
    ranks = [method.kruskal_rank(m) for m in (np.eye(3), BENT, np.full((2, 2), 0.5), np.zeros((2, 2)), np.eye(3)[[0, 1, 1]])]
    assert ranks == [3, 2, 1, 0, 1]  # two equal rows: not every two are independent
    assert method.kruskal_rank(np.array([[1.0, 0], [0, 1], [1, 1]])) == 2
    for k in (2, 3, 4):
        full = [labels.uniform(k, 0.3)]
        assert method.kruskal_suffices(full * 3) and not method.kruskal_suffices(full * 2)
    assert [method.kruskal_suffices([BENT] * p) for p in (3, 4, 5)] == [False, False, True]


@pytest.mark.parametrize(("t", "p", "identified"), [(T, 2, False), (T, 3, True), (BENT, 4, False), (BENT, 5, True)])
def test_searches_find_the_truth_alone_where_it_is_identified(t, p, identified):
    def observe(q, t):
        return method.law(q, [t] * p)

    shares, found = method.solutions(observe(Q, t), observe, 3, 4, rng())
    for q, one in zip(shares, found, strict=True):  # every one explains the law
        assert np.linalg.norm(observe(q, one) - observe(Q, t)) < 1e-4
    errors = [method.error(one, t) for one in found]
    assert max(errors) < 0.01 if identified else max(errors) > 0.05


def test_two_labels_of_two_classes_have_a_curve_of_explanations():
    pair = method.law(HALF, [TWO, TWO])
    q1, e0, e1 = method.binary_solutions(pair, np.array([0.9, 0.8, 1.0, 0.3, 1.2, 0.62]))
    assert (q1[0], e0[0], e1[0]) == pytest.approx((0.5, 0.1, 0.3))
    for q, a, b in list(zip(q1, e0, e1, strict=True))[:3]:
        np.testing.assert_allclose(method.law(np.array([1 - q, q]), [np.array([[1 - a, a], [b, 1 - b]])] * 2), pair)
    assert np.isnan(q1[3:]).all()  # below P(Z = 0), the other name; above 1; so near to P(Z = 0) that t would be negative


def test_error_is_up_to_names():
    assert method.error(T[[2, 0, 1]], T) == 0
    assert method.error(np.eye(3), T) == pytest.approx((0.6 + 0.4 + 0.8) / 3)
    assert method.error(np.array([[0.4, 0.6], [0.3, 0.7]]), np.array([[0.5, 0.5], [0.2, 0.8]])) == pytest.approx(0.2)


# ---------------------------------------------------------------- neighbours


def test_neighbours_are_those_of_sklearn():
    x = rng().normal(size=(1500, 5))
    wanted = NearestNeighbors(n_neighbors=2, metric="cosine").fit(x).kneighbors(return_distance=False)  # not oneself
    assert (method.neighbours(x) == wanted).mean() > 0.999
    assert method.neighbours(x * 7).shape == (1500, 2)


def test_triples():
    a, b, c = np.array([0, 0, 1, 1]), np.array([1, 1, 0, 1]), np.array([1, 1, 1, 0])
    found = method.triples(a, b, c, 2)
    assert found[0, 1, 1] == 0.5 and found[1, 0, 1] == 0.25 and found[1, 1, 0] == 0.25 and found.sum() == 1


@pytest.mark.parametrize("order", [2, 3])
def test_moment_loss_and_its_gradient(order):
    draw = rng(1)
    c = draw.dirichlet(np.ones(27), 2).reshape(2, 3, 3, 3)  # not symmetric
    q, t = draw.dirichlet(np.ones(3), 2), draw.dirichlet(np.ones(3), (2, 3))
    loss, by_q, by_t = method.moment_loss(q, t, c, order)
    for i in range(2):

        def plain(theta, i=i):
            p, m = theta[:3], theta[3:].reshape(3, 3)
            parts = [p @ m - c[i].sum((1, 2)), np.einsum("i,ia,ib->ab", p, m, m) - c[i].sum(2)]
            if order == 3:
                parts.append(np.einsum("i,ia,ib,ic->abc", p, m, m, m) - c[i])
            return sum(np.linalg.norm(part) for part in parts)

        theta = np.concatenate([q[i], t[i].ravel()])
        assert loss[i] == pytest.approx(plain(theta))
        np.testing.assert_allclose(np.concatenate([by_q[i], by_t[i].ravel()]), approx_fprime(theta, plain, 1e-7), atol=1e-5)


def test_consensus_recovers_exact_laws_and_models_do_not_touch_each_other():
    laws = np.stack([method.law(Q, [T] * 3), method.law(np.array([0.2, 0.3, 0.5]), [labels.uniform(3, 0.4)] * 3)])
    q, t = method.consensus(laws, rng(), 2500)
    assert np.abs(t[0] - T).max() < 0.01 and np.abs(q[0] - Q).max() < 0.01  # without renaming: the start names the classes
    assert np.abs(t[1] - labels.uniform(3, 0.4)).max() < 0.01
    alone = method.consensus(laws[:1], rng(), 2500)[1]
    assert np.abs(alone[0] - t[0]).max() < 0.01


def test_consensus_keeps_the_best_iterate_and_starts_near_the_identity():
    law = method.law(Q, [T] * 3)[None]
    first = method.consensus(law, rng(), 1)[1][0]
    e = np.exp(np.where(np.eye(3, dtype=bool), 4.0, -1))
    np.testing.assert_allclose(first, e / e.sum(1, keepdims=True))  # softmax(5 I - 1)
    losses = [method.moment_loss(*method.consensus(law, rng(), steps), law)[0][0] for steps in (5, 20, 21, 22, 23, 100)]
    assert (np.diff(losses) <= 0).all()
    start = np.vstack([1 / 3 + 0.1 * rng().random((1, 3)), 5 * np.eye(3) - 1])  # logits of q, then of T

    def loss(logits):
        p = softmax(logits.reshape(1, 4, 3), axis=2)
        return method.moment_loss(p[:, 0], p[:, 1:], law)[0][0]

    slope = approx_fprime(start.ravel(), loss, 1e-7).reshape(4, 3)
    q, t = method.consensus(law, rng(), 2)  # Adam's first step is of size lr, against the sign of the slope
    np.testing.assert_allclose(np.vstack([q, t[0]]), softmax(start - 0.1 * np.sign(slope), axis=1), atol=1e-5)


# ---------------------------------------------------------------- estimates from a classifier


def test_anchors():
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    assert method.anchors(p).tolist() == [[0.9, 0.1], [0.2, 0.8]]
    assert method.anchors(p, 0.75).tolist() == [[0.6, 0.4], [0.3, 0.7]]


def test_confident_by_hand():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.65, 0.35]])
    noisy = np.array([0, 0, 0, 1, 1, 1])  # bars (.6, .62): the third counts for class 1, the sixth for class 0
    np.testing.assert_allclose(method.confident(p, noisy), [[2 / 3, 1 / 3], [1 / 3, 2 / 3]])


def test_confident_is_cleanlabs():
    count = pytest.importorskip("cleanlab.count", reason="the peer cleanlab is not installed")
    draw = rng(2)
    y = draw.integers(3, size=3000)
    noisy = labels.corrupt(y, T, draw.random(3000))
    p = draw.dirichlet(np.ones(3), 3000) * 0.5 + 0.5 * np.eye(3)[y]
    _, wanted, _ = count.estimate_latent(count.compute_confident_joint(noisy, p, calibrate=True), noisy)
    np.testing.assert_allclose(method.confident(p, noisy), wanted.T, atol=0.01)


# ---------------------------------------------------------------- groups of features


def test_groups_keep_their_own_law_and_share_what_they_should():
    y = np.repeat(np.arange(4), 20_000)
    a, b = method.feature_groups(y, 2.0, 0.6, rng())
    for group in (a, b):
        noise = group - 2.0 * method.CORNERS[y]
        np.testing.assert_allclose(np.cov(noise.T), np.eye(3), atol=0.02)
        np.testing.assert_allclose(noise.mean(0), 0, atol=0.02)
    cross = (a - 2.0 * method.CORNERS[y]).T @ (b - 2.0 * method.CORNERS[y]) / len(y)
    np.testing.assert_allclose(cross, np.diag([0.6, -0.6, -0.6]), atol=0.02)
    gaps = {float(np.linalg.norm(p - q)) for i, p in enumerate(method.CORNERS) for q in method.CORNERS[:i]}
    assert len(gaps) == 1


def test_bayes_class_is_the_one_with_the_largest_density():
    y = rng().integers(4, size=300)
    groups = method.feature_groups(y, 0.7, 0.5, rng(1))
    mixture = GaussianMixture(4)
    r = np.diag(0.5 * method.SIGNS)
    mixture.means_, mixture.weights_ = 0.7 * np.hstack([method.CORNERS, method.CORNERS]), np.full(4, 0.25)
    precision = np.linalg.inv(np.block([[np.eye(3), r], [r, np.eye(3)]]))
    mixture.precisions_cholesky_ = np.tile(np.linalg.cholesky(precision), (4, 1, 1))
    assert (method.bayes_class(groups, 0.7, 0.5) == mixture.predict(np.hstack(groups))).all()
    assert (
        method.bayes_class(groups[:1], 0.7, 0.5) == [np.linalg.norm(x - 0.7 * method.CORNERS, axis=1).argmin() for x in groups[0]]
    ).all()


def test_codes_are_the_groups_of_far_clusters():
    y = np.arange(400) % 4
    found = method.codes(100 * method.CORNERS[y] + rng().normal(size=(400, 3)), 4, rng())
    assert found.dtype == np.int64 and (labels.counts(y, found, 4) > 0).sum() == 4


def test_latent_classes_recover_an_exact_law():
    a, b = rng(3).dirichlet(np.full(6, 0.3), 3), rng(4).dirichlet(np.full(5, 0.3), 3)
    law = method.law(Q, [T, a, b])
    q, views = method.latent_classes(law * 1000, 3, 5, 1500, rng(5))
    assert method.error(views[0], T) < 0.01 and np.allclose(np.sort(q), np.sort(Q), atol=0.01)
    assert method.error(views[1], a) < 0.02 and method.error(views[2], b) < 0.02


def test_latent_classes_never_get_less_likely():
    counts = rng(6).integers(0, 9, size=(3, 4, 5))
    told = []
    for steps in (0, 1, 2, 5, 50):
        q, views = method.latent_classes(counts, 2, 1, steps, rng(7))
        told.append((counts * np.log(method.law(q, views))).sum())
        if not steps:
            assert (q == 0.5).all()  # the start
    assert (np.diff(told) > 0).all()


def test_latent_classes_keep_the_likeliest_start():
    counts = rng(6).integers(0, 9, size=(3, 4, 5))

    def told(starts, seed):
        return (counts * np.log(method.law(*method.latent_classes(counts, 2, starts, 3, rng(seed))))).sum()

    assert told(20, 0) > np.mean([told(1, seed) for seed in range(20)])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: method.law(Q * 2, [T]), "q must be a distribution"),
        (lambda: method.law(np.array([np.nan, 1]), [TWO]), "q must be a distribution"),
        (lambda: method.law(Q, [TWO]), "views must be matrices of 3 rows"),
        (lambda: method.law(Q, [T * 0.5]), "views must be matrices of 3 rows"),
        (lambda: method.law(Q, []), "views must be matrices of 3 rows"),
        (lambda: method.kruskal_rank(np.ones(3)), "m must be a non-empty array"),
        (
            lambda: method.solutions(T[:2, :2], lambda q, t: method.law(q, [t, t]), 2, 2, rng()),
            "none of 2 searches explains the law",
        ),
        (lambda: method.binary_solutions(T, np.ones(1)), r"pair must be of shape \(2, 2\)"),
        (lambda: method.error(T, TWO), "estimate and t must have one shape"),
        (lambda: method.neighbours(np.ones((2, 2))), "x must have at least 3 rows"),
        (lambda: method.neighbours(np.full((4, 2), np.nan)), "x contains NaN"),
        (lambda: method.triples(np.array([0]), np.array([2]), np.array([0]), 2), r"whole numbers 0\.\.1"),
        (lambda: method.consensus(np.ones((1, 2, 2, 2)), rng(), 5), "c must hold laws"),
        (lambda: method.consensus(method.law(Q, [T] * 3)[None], rng(), 5, order=4), "order must be 2 or 3"),
        (lambda: method.anchors(np.eye(2), 0.0), "quantile must be in"),
        (lambda: method.confident(np.eye(2), np.array([0, 0])), "noisy must hold 2 labels"),
        (lambda: method.feature_groups(np.array([4]), 1.0, 0.0, rng()), r"y must be whole numbers 0\.\.3"),
        (lambda: method.feature_groups(np.array([0]), 1.0, 1.0, rng()), "shared must be in"),
        (lambda: method.latent_classes(np.zeros((2, 2, 2)), 2, 1, 1, rng()), "counts must be"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
