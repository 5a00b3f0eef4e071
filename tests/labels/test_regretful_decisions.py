"""Regret under label noise: closed forms, enumeration over flips, scikit-learn's learners."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from replications.labels.regretful_decisions import method
from shared import labels
from shared.data import DataError, survival
from tests.leaks import constants_that_tell

SYMMETRIC, CONDITIONAL = method.noise("symmetric", 0.2), method.noise("class-conditional", 0.4)
ASKEW = np.array([[0.9, 0.1], [0.3, 0.7]])


def draw(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def problem(n: int = 400, d: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Covariates and labels that depend on the first two of them."""
    x = draw(0).normal(size=(n, d))
    return x, (x @ np.r_[2, -1, np.zeros(d - 2)] + draw(1).logistic(size=n) > 0.3).astype(int)


# ---------------------------------------------------------------- noise and flips


def test_noise_by_hand():
    assert SYMMETRIC.tolist() == [[0.8, 0.2], [0.2, 0.8]] and CONDITIONAL.tolist() == [[1, 0], [0.4, 0.6]]


def test_clean_shares_undo_the_noise():
    noisy = np.repeat([0, 1], [59, 41])  # .41 = .1 (1 - pi) + .7 pi for pi = .31 / .6
    assert method.clean_shares(noisy, ASKEW)[1] == pytest.approx(0.31 / 0.6)
    assert method.clean_shares(np.zeros(10, int), ASKEW).tolist() == [1, 0]  # fewer 1s than T allows


def test_flip_probability_by_hand():
    half = np.array([0, 1])
    np.testing.assert_allclose(method.flip_probability(half, SYMMETRIC), 0.2)
    noisy = np.repeat([0, 1], [70, 30])  # class-conditional, p = .4, pi = .5
    np.testing.assert_allclose(method.flip_probability(noisy, CONDITIONAL), np.repeat([2 / 7, 0], [70, 30]))


@pytest.mark.parametrize("t", [SYMMETRIC, CONDITIONAL, ASKEW])
def test_flip_probability_given_x_by_enumeration(t):
    p, noisy = np.array([0.3, 0.3, 0.9, 0.9]), np.array([0, 1, 0, 1])
    joint = [{(y, seen): (q if y else 1 - q) * t[y, seen] for y in (0, 1) for seen in (0, 1)} for q in p]
    wanted = [j[1 - seen, seen] / (j[0, seen] + j[1, seen]) for j, seen in zip(joint, noisy, strict=True)]
    np.testing.assert_allclose(method.flip_probability_given(p, noisy, t), wanted)
    noisy = draw(0).integers(2, size=500)
    share = method.clean_shares(noisy, t)[1]
    if 0 < share < 1:  # the same p for everybody: nothing but the label tells
        np.testing.assert_allclose(method.flip_probability_given(np.full(500, share), noisy, t), method.flip_probability(noisy, t))


def test_plausible_labels_follow_the_posterior_and_are_typical():
    noisy = np.repeat([0, 1], [700, 300])
    found = method.plausible(noisy, ASKEW, 500, 0.1, draw(2))
    assert found.shape == (500, 1000) and set(np.unique(found)) == {0, 1}
    # as the released code counts: flips of a noisy label over n against T[1 - j, j] pi(1 - j)
    pi = method.clean_shares(noisy, ASKEW)
    for j in (0, 1):
        flips = (found != noisy)[:, noisy == j]
        expected = ASKEW[1 - j, j] * pi[1 - j]
        assert (np.abs(flips.sum(1) / 1000 - expected) <= 0.1 * expected + 1e-12).all()
        assert len(np.unique(flips.sum(1))) > 1
        np.testing.assert_allclose(flips.mean(), method.flip_probability(noisy, ASKEW)[noisy == j][0], rtol=0.05)
    assert (method.plausible(noisy, CONDITIONAL, 50, 0.2, draw(3))[:, noisy == 1] == 1).all()


def test_few_expected_flips_are_typical_within_one():
    found = method.plausible(np.repeat([0, 1], [699, 301]), labels.uniform(2, 0.3), 100, 1e-3, draw(4))  # .35 flips of a 0
    flips = found[:, :699].sum(1)
    assert set(flips) == {0, 1}


def test_plausible_is_new_in_each_world():
    found = method.plausible(draw(0).integers(2, size=300), SYMMETRIC, 20, 0.3, draw(1))
    assert len({row.tobytes() for row in found}) == 20


# ---------------------------------------------------------------- regret


def test_regret_is_the_flip_whatever_the_model():
    predicted, clean, noisy = draw(0).integers(2, size=(3, 5, 200))
    assert (method.regret(predicted, clean, noisy) == (clean != noisy)).all()
    e, anticipated = predicted != clean, predicted != noisy
    assert (method.regret(predicted, clean, noisy) == np.abs(e.astype(int) - anticipated)).all()


def test_in_doubt_counts_from_ten_to_ninety_per_cent():
    mistakes = (np.arange(20)[:, None] < [0, 1, 2, 10, 18, 19, 20]).astype(int)  # (20, 7)
    assert method.in_doubt(mistakes) == pytest.approx(3 / 7)


# ---------------------------------------------------------------- learners


def test_logistic_is_scikit_learn_s():
    x, y = problem()
    targets = np.array([y, 1 - y, draw(5).integers(2, size=len(y))])
    weights = draw(6).integers(3, size=targets.shape).astype(float)
    found = method.logistic(x, targets.astype(float), weights=weights, ridge=0.01)
    ones = np.column_stack([np.ones(len(x)), x])
    for w, target, weight in zip(found, targets, weights, strict=True):
        peer = LogisticRegression(C=1 / (0.01 * weight.sum()), fit_intercept=False, tol=1e-10, max_iter=1000)
        np.testing.assert_allclose(w, peer.fit(ones, target, sample_weight=weight).coef_[0], atol=1e-5)
        np.testing.assert_allclose(method.probability(w[None], x)[0], peer.predict_proba(ones)[:, 1], atol=1e-5)
    np.testing.assert_allclose(
        method.logistic(x, targets[1:2].astype(float), weights=weights[1:2], ridge=0.01)[0], found[1], atol=1e-6
    )


def test_logistic_settles_when_one_class_is_left():
    x, y = problem()
    w = method.logistic(x, y[None].astype(float), weights=(y[None] == 1).astype(float))
    assert (method.probability(w, x) > 0.95).all()


@pytest.mark.parametrize("t", [SYMMETRIC, CONDITIONAL, ASKEW])
def test_corrected_losses(t):
    z, noisy = draw(0).normal(size=40), draw(1).integers(2, size=40)
    plain = np.column_stack([np.logaddexp(0, z), np.logaddexp(0, -z)])  # of the clean labels 0 and 1
    value, slope = method.backward_loss(noisy, t)(z)
    np.testing.assert_allclose(value, labels.backward(plain, t)[np.arange(40), noisy])
    by_label = np.column_stack([method.backward_loss(np.full(40, j), t)(z)[0] for j in (0, 1)])
    np.testing.assert_allclose(by_label @ t.T, plain)  # its mean over the noise
    forward, forward_slope = method.forward_loss(noisy, t)(z)
    np.testing.assert_allclose(forward, -np.log((np.column_stack([expit(-z), expit(z)]) @ t)[np.arange(40), noisy]))
    for loss, found in ((method.backward_loss, slope), (method.forward_loss, forward_slope)):
        numeric = [approx_fprime(z[[i]], lambda one, i=i, loss=loss: loss(noisy[[i]], t)(one)[0][0])[0] for i in range(40)]
        np.testing.assert_allclose(found, numeric, atol=1e-5)


@pytest.mark.parametrize("how", ["backward", "forward"])
def test_hedging(how):
    x, y = problem()
    np.testing.assert_allclose(
        method.hedge(x, y, np.eye(2), how, ridge=0.01), method.logistic(x, y[None].astype(float), ridge=0.01), atol=1e-3
    )
    x, y = problem(20_000)
    noisy = labels.corrupt(y, CONDITIONAL, draw(9).random(len(y)))
    clean, ignoring = (method.logistic(x, target[None].astype(float)) for target in (y, noisy))
    assert np.abs(method.hedge(x, noisy, CONDITIONAL, how) - clean).max() < 0.15 < np.abs(ignoring - clean).max()


def test_networks_are_scikit_learn_s():
    x, y = problem(60)
    targets = np.array([y, 1 - y])
    found = method.network_probability(x, targets.astype(float), x, draw(4), sizes=(5, 2), steps=25, lr=0.05)
    again = draw(4)
    start = [again.uniform(-1, 1, (1, o, i + 1))[0] * (6 / (i + o)) ** 0.5 for i, o in ((3, 5), (5, 2), (2, 1))]
    for p, target in zip(found, targets, strict=True):
        peer = MLPClassifier((5, 2), solver="adam", alpha=0, batch_size=60, shuffle=False, learning_rate_init=0.05)
        peer.partial_fit(x, target, classes=[0, 1])
        for layer, coefs, intercepts in zip(start, peer.coefs_, peer.intercepts_, strict=True):
            coefs[:], intercepts[:] = layer[:, :-1].T, layer[:, -1]
        del peer._optimizer  # begin anew, from our weights
        for _ in range(25):
            peer.partial_fit(x, target)
        np.testing.assert_allclose(p, peer.predict_proba(x)[:, 1], atol=2e-3)
    assert found.std() > 0.05


def test_networks_do_not_see_each_other_and_speak_of_new_people():
    x, y = problem(80)
    targets = np.array([y, 1 - y], float)
    both = method.network_probability(x, targets, x[:7] + 1, draw(1), steps=20)
    one = method.network_probability(x, targets[1:], x[:7] + 1, draw(1), steps=20)
    assert both.shape == (2, 7)
    np.testing.assert_allclose(both[1], one[0], atol=1e-4)


# ---------------------------------------------------------------- doubt


def test_scores_by_hand():
    says, worlds = np.array([[0, 0, 1], [0, 1, 1], [0, 1, 1], [0, 1, 0]]), np.array([[0, 1, 1], [0, 1, 0], [0, 1, 0], [1, 0, 1]])
    assert method.ambiguity(says, worlds).tolist() == [0.25, 0.5, 0.75]
    np.testing.assert_allclose(method.disagreement(says), [0, 1, 1])  # 4 (4 / 3) (3 / 16)
    p = np.array([0.9, 0.3, 0.5])
    np.testing.assert_allclose(method.unconfidence(p), [0.1, 0.3, 0.5])
    np.testing.assert_allclose(method.label_unconfidence(p, np.array([1, 1, 0])), [0.1, 0.7, 0.5])


def test_disagreement_is_unbiased():
    says = (draw(0).random((3, 200_000)) < 0.3).astype(int)
    assert method.disagreement(says).mean() == pytest.approx(4 * 0.3 * 0.7, abs=0.01)


def test_a_constant_model_s_ambiguity_is_the_posterior():
    noisy = np.repeat([0, 1], [140, 60])
    worlds = method.plausible(noisy, ASKEW, 4000, 1.0, draw(1))
    p = method.flip_probability(noisy, ASKEW)
    np.testing.assert_allclose(method.ambiguity(np.zeros_like(worlds), worlds), np.where(noisy == 0, p, 1 - p), atol=0.05)


def test_curve_and_ties():
    assert method.order(np.array([0.3, 0.1, 0.2]), draw(0)).tolist() == [1, 2, 0]
    np.testing.assert_allclose(method.curve(np.array([0.3, 0.1, 0.2]), np.array([1.0, 0, 1]), draw(0)), [0, 1 / 2, 2 / 3])
    first = [method.order(np.array([1.0, 0, 0, 0]), draw(i))[0] for i in range(60)]
    assert set(first) == {1, 2, 3}  # by lot among equals, never the doubtful one


# ---------------------------------------------------------------- data and errors


def test_cohorts():
    try:
        found = [survival.rotterdam(), survival.flchain(), survival.smokers()]
    except DataError as error:
        pytest.skip(str(error))
    assert [c.x.shape for c in found] == [(2846, 10), (6834, 7), (1629, 12)]
    assert [c.y.sum() for c in found] == [1275, 1764, 318]
    assert [c.x.isna().any(axis=None) for c in found] == [False, True, True]
    for x, y in found:
        assert set(y) == {0, 1} and constants_that_tell(x, y) == []


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: method.noise("group", 0.1), "kind must be symmetric or class-conditional"),
        (lambda: method.noise("symmetric", 1.1), "rate must be in"),
        (lambda: method.clean_shares(np.array([0, 1]), method.noise("symmetric", 0.5)), "T is singular"),
        (lambda: method.clean_shares(np.array([0, 2]), SYMMETRIC), "noisy must be labels 0 and 1"),
        (
            lambda: method.flip_probability_given(np.array([0.5, 1.0]), np.array([0, 1]), SYMMETRIC),
            r"p must hold numbers in \(0, 1\)",
        ),
        (
            lambda: method.plausible(
                draw(0).integers(2, size=20_000), np.array([[0.52, 0.48], [0.48, 0.52]]), 5, 1e-6, draw(1), tries=1
            ),
            "use a larger eps",
        ),
        (lambda: method.plausible(np.array([0, 1]), SYMMETRIC, 0, 0.1, draw(0)), "m and eps must be positive"),
        (lambda: method.label_unconfidence(np.array([0.5]), np.array([0, 1])), "p and noisy must have one shape"),
        (lambda: method.regret(np.array([0.5]), np.array([1]), np.array([1])), "predicted must be labels"),
        (lambda: method.in_doubt(np.empty((0, 3))), "mistakes must be labels"),
        (lambda: method.logistic(np.zeros((3, 1)), np.zeros((1, 4))), r"must be of shape \(m, 3\)"),
        (lambda: method.logistic(np.full((3, 1), np.nan), np.zeros((1, 3))), "x contains NaN"),
        (lambda: method.logistic(np.arange(4.0)[:, None], np.array([[0.0, 0, 1, 1]]), steps=2), "did not settle in 2 steps"),
        (lambda: method.hedge(np.zeros((2, 1)), np.array([0, 1]), SYMMETRIC, "sideways"), "how must be backward or forward"),
        (lambda: method.hedge(np.zeros((3, 1)), np.array([0, 1]), SYMMETRIC, "forward"), r"noisy must be of shape \(3,\)"),
        (lambda: method.hedge(np.zeros((2, 1)), np.array([0, 1]), np.full((2, 2), 0.5), "backward"), "T is singular"),
        (lambda: method.network_probability(np.zeros((3, 2)), np.zeros((1, 3)), np.zeros((3, 1)), draw(0)), "new of"),
        (lambda: method.ambiguity(np.zeros((2, 3), int), np.zeros((3, 3), int)), "must have one shape"),
        (lambda: method.disagreement(np.zeros((1, 3), int)), "with m >= 2"),
        (lambda: method.order(np.array([np.nan]), draw(0)), "doubt contains NaN"),
        (lambda: method.curve(np.zeros(2), np.zeros(3), draw(0)), "must have one shape"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
