"""Imbalanced classification and Clever Hans: closed forms, other ways to the same number, and what is refused."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from replications.labels.imbalance_clever_hans import method
from shared import seeding

R, N, D = 2, 12, 6


def students(runs: int = R) -> method.Student:
    return method.start(D, [seeding.torch_rng(s, "start") for s in range(runs)], wide=5, hidden=4)


def pictures(n: int = N, name: str = "x") -> torch.Tensor:
    return torch.rand(n, D, generator=seeding.torch_rng(0, name))


def linear(weights: np.ndarray, bias: float) -> method.Student:
    """A student whose log odds are weights @ x + bias for x >= 0, through identities."""
    d = len(weights)
    eye, zero = np.eye(d), np.zeros((1, d))
    parts = eye, zero, eye, zero, np.reshape(weights, (d, 1)), np.full((1, 1), bias)
    return method.Student(*(torch.tensor(p).float()[None] for p in parts))


# ---------------------------------------------------------------- editors


def test_thickness_is_the_least_and_most_of_two_by_two():
    x = np.zeros((1, 6, 6))
    x[0, 2:4, 2:4] = 1
    thin, thick = (method.thickness(x, c) for c in (0, 1))
    assert thin.sum() == 1
    assert thick.sum() == 9


def test_other_thickness_agrees_in_direction():
    x = np.zeros((1, 12, 12))
    x[0, 3:9, 5:7] = 1
    thin, thick = (method.thickness_by_level(x, c) for c in (0, 1))
    assert 0 < thin.sum() < x.sum() < thick.sum()
    assert (thin <= thick).all()


def test_tag_goes_to_its_corner_and_changes_nothing_else():
    x = np.full((2, 14, 14), 0.3)
    left, right = method.tag(x, 1), method.tag(x, 0)
    assert (left[:, 1:3, 1:4] == 1).all()
    assert (right[:, 1:3, 10:13] == 1).all()
    assert (left != x).sum() == (right != x).sum() == 2 * 6
    np.testing.assert_array_equal(left, right[:, :, ::-1])


def test_mark_is_a_letter_or_nothing():
    x = np.full((1, 14, 14), 0.3)
    np.testing.assert_array_equal(method.mark(x, 0), x)
    np.testing.assert_array_equal(method.mark(x, 1)[0, 1:6, 1:5] == 1, method.MARK == 1)
    assert (x == 0.3).all()


@pytest.mark.parametrize("x, c, says", [
    (np.zeros((3, 3)), 0, "x must be"), (np.full((1, 3, 3), 2.0), 0, "x must be"), (np.full((1, 3, 3), np.nan), 0, "x must be"),
    (np.zeros((1, 3, 3)), 2, "c must be"),
])  # fmt: skip
def test_editors_refuse(x, c, says):
    for editor in (method.thickness, method.thickness_by_level, method.tag, method.mark):
        with pytest.raises(ValueError, match=says):
            editor(x, c)


# ---------------------------------------------------------------- training sets


def test_imbalanced_keeps_the_correlation_and_is_nested():
    of_class = [np.arange(100), np.arange(100, 200)]
    few, many = (method.imbalanced(of_class, (80, n), 200) for n in (20, 40))
    for rows, y in zip(many, (0, 1), strict=True):
        assert np.mean(rows // 200 == y) == 0.75
        assert set(rows % 200) <= set(of_class[y])
    np.testing.assert_array_equal(few[1], many[1][:20])
    assert [len(r) for r in few] == [80, 20]
    with pytest.raises(ValueError, match="cannot be drawn"):
        method.imbalanced(of_class, (101, 20), 200)


def test_draw_follows_shares_and_uses_only_real_rows():
    found = method.strata([[np.array([5]), np.array([7, 8])]], torch.tensor([[0.2, 0.8]]))
    rows, y = method.draw(found, torch.rand(1, 20_000, 2, generator=seeding.torch_rng(0, "u")))
    share = torch.bincount(rows[0], minlength=9) / 20_000
    np.testing.assert_allclose(share[[5, 7, 8]], [0.2, 0.4, 0.4], atol=0.015)
    assert share[[5, 7, 8]].sum() == 1
    assert ((rows > 5) == (y == 1)).all()
    four = method.strata([[np.array([k]) for k in range(4)]], torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    rows, y = method.draw(four, torch.tensor([[[u, 0.5] for u in (0.05, 0.25, 0.5, 0.7)]]))
    assert rows.tolist() == [[0, 1, 2, 3]]
    assert y.tolist() == [[0, 1, 0, 1]]


def test_strata_shares_by_size_and_refusals():
    lists = [[np.arange(3), np.arange(1)], [np.arange(1), np.arange(1)]]
    np.testing.assert_allclose(method.strata(lists).share, [[0.75, 0.25], [0.5, 0.5]])
    with pytest.raises(ValueError, match="same number"):
        method.strata([[np.arange(3)], [np.arange(3), np.arange(2)]])
    with pytest.raises(ValueError, match="share must be"):
        method.strata([[np.arange(3), np.arange(0)]], torch.tensor([[0.5, 0.5]]))


# ---------------------------------------------------------------- students


def test_scores_are_those_of_a_network_by_hand():
    net, x = students(), pictures()
    for r in range(R):
        w1, b1, w2, b2, w3, b3 = (p[r].numpy() for p in net)
        by_hand = np.maximum(np.maximum(x.numpy() @ w1 + b1, 0) @ w2 + b2, 0) @ w3 + b3
        np.testing.assert_allclose(method.scores(net, x.expand(R, -1, -1))[r], by_hand[:, 0], atol=1e-5)


def test_losses_by_their_formulas():
    shares = torch.tensor([[0.9, 0.1]])
    s, y = torch.tensor([[1.5, -0.3]]), torch.tensor([[1, 0]])
    p = torch.sigmoid(torch.stack([s[0, 0], -s[0, 1]]))

    def found(**how) -> torch.Tensor:
        return method.losses(s, y, method.loss(shares, **how))[0]

    torch.testing.assert_close(found(), functional.binary_cross_entropy_with_logits(s, y.float(), reduction="none")[0])
    torch.testing.assert_close(found(gamma=2), -((1 - p) ** 2) * p.log())
    torch.testing.assert_close(found(power=1), -p.log() * torch.tensor([5, 1 / 1.8]))
    torch.testing.assert_close(found(power=0.5), -p.log() * torch.tensor([5, 1 / 1.8]).sqrt())
    # logit adjustment is cross-entropy of f_k + tau log pi_k over both classes
    logits = torch.stack([torch.zeros(2), s[0]], 1) + 1.5 * shares.log()
    torch.testing.assert_close(found(tau=1.5), functional.cross_entropy(logits, y[0], reduction="none"))
    with pytest.raises(ValueError, match="shares"):
        method.loss(torch.tensor([0.9, 0.1]))


def test_training_runs_are_independent_and_each_is_adam():
    net, pool = students(), pictures(20)
    lists = [[np.arange(10), np.arange(10, 20)], [np.arange(6), np.arange(10, 14)]]
    u = torch.rand(5, 2, 8, 2, generator=seeding.torch_rng(0, "u"))
    how = method.loss(torch.full((2, 2), 0.5), decay=torch.tensor([0.1, 0.0]))
    both = method.train(net, pool, method.strata(lists), how, u, torch.tensor([1, 0]), 0.01)
    # run 0 alone, on torch's own modules, with the batches of seed 1
    alone = [p[0].clone().requires_grad_() for p in net]
    adam = torch.optim.Adam(alone, 0.01)
    found = method.strata(lists[:1])
    for step in u:
        rows, y = method.draw(found, step[1][None])
        x = pool[rows[0]]
        s = functional.relu(functional.relu(x @ alone[0] + alone[1]) @ alone[2] + alone[3]) @ alone[4] + alone[5]
        objective = functional.binary_cross_entropy_with_logits(s[:, 0], y[0].float())
        adam.zero_grad()
        (objective + 0.05 * sum(p.square().sum() for p in alone)).backward()
        adam.step()
    for p, q in zip(both, alone, strict=True):
        torch.testing.assert_close(p[0], q.detach(), atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="one number of runs"):
        method.train(net, pool, found, how, u, torch.tensor([1, 0]), 0.01)


def test_refit_is_weighted_logistic_regression():
    x, rng = torch.rand(60, 2, generator=seeding.torch_rng(0, "x")), seeding.rng(0, "y")
    y = (x[:, 0].numpy() + 0.5 * rng.normal(size=60) > 0.5).astype(int)
    lists = [[np.flatnonzero(y == 0), np.flatnonzero(y == 1), np.arange(0)]]
    found = method.strata(lists, torch.tensor([[0.3, 0.7, 0.0]]))
    fitted = method.refit(linear(np.zeros(2), 0), x, found, 0.01)
    weight = np.where(y == 1, 0.7 / y.sum(), 0.3 / (1 - y).sum())
    peer = LogisticRegression(C=100, tol=1e-10, max_iter=1000).fit(x.numpy(), y, weight)
    np.testing.assert_allclose(fitted.w3[0, :, 0], peer.coef_[0], rtol=1e-3)
    np.testing.assert_allclose(fitted.b3.item(), peer.intercept_[0], rtol=1e-3)
    with pytest.raises(ValueError, match="ridge"):
        method.refit(linear(np.zeros(2), 0), x, found, 0)


# ---------------------------------------------------------------- counterfactuals


def test_generator_is_principal_components_of_unit_variance():
    x = pictures(200)
    by, peer = method.generator(x, 3), PCA(3, whiten=True).fit(x.numpy())
    code = method.encode(by, x).numpy()
    np.testing.assert_allclose(np.abs(code), np.abs(peer.transform(x.numpy())), atol=1e-3)
    whole = method.generator(x, D)
    torch.testing.assert_close(whole.mean + method.encode(whole, x) @ whole.components, x, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="components"):
        method.generator(x, D + 1)


def test_moved_stays_in_range_and_keeps_the_rest():
    by = method.Generator(torch.zeros(2), torch.tensor([[1.0, 0.0]]))
    x = torch.tensor([[0.5, 0.3]])
    torch.testing.assert_close(method.moved(by, x, torch.tensor([[0.2]])), torch.tensor([[0.7, 0.3]]))
    torch.testing.assert_close(method.moved(by, x, torch.tensor([[2.0]])), torch.tensor([[1.0, 0.3]]))


def searched(weights=(8.0, 0.0), bias=-4.0, x=(0.3, 0.5), target=1, **how) -> torch.Tensor:
    by = method.Generator(torch.full((2,), 0.5), torch.eye(2) * 0.25)
    at = torch.tensor(x).reshape(1, 1, 2)
    return method.search(linear(np.array(weights), bias), by, at, torch.tensor([[target]]), torch.zeros(1, 1, 2), **how)[0, 0]


def test_search_stops_at_the_goal_in_the_direction_that_counts():
    shift = searched(goal=0.8, rate=0.02, steps=300, pull=0.0, density=0.0)
    # 8 (0.3 + 0.25 shift) - 4 = log 4
    np.testing.assert_allclose(shift, [((np.log(4) + 4) / 8 - 0.3) / 0.25, 0], atol=0.03)
    assert searched(x=(0.8, 0.5), target=0, goal=0.8)[0] < 0


def test_a_picture_keeps_the_first_shift_that_reaches_the_goal():
    by = method.Generator(torch.full((2,), 0.5), torch.eye(2) * 0.25)
    x = torch.tensor([[[0.4, 0.5], [0.05, 0.5]]])  # the second takes longer
    student, how = linear(np.array([8.0, 0.0]), -4.0), {"goal": 0.8, "rate": 0.1, "steps": 100}
    together = method.search(student, by, x, torch.ones(1, 2).long(), torch.zeros(1, 2, 2), **how)
    alone = method.search(student, by, x[:, :1], torch.ones(1, 1).long(), torch.zeros(1, 1, 2), **how)
    torch.testing.assert_close(together[:, :1], alone)


def test_search_pulls():
    """A pull that outweighs the slope keeps the picture; density draws the code home along what the student ignores."""
    assert abs(searched(pull=3.0, density=0.0)[0]) < 0.3
    how = {"goal": 0.999, "rate": 0.05, "steps": 200, "x": (0.3, 0.8), "pull": 0.0}
    assert searched(density=0.5, **how)[1] < -0.5
    assert searched(density=0.0, **how)[1] == 0
    # without a goal in reach: the minimum of softplus(-m) + density (z + shift)^2 / 2 is where 2 sigmoid(-m) = density (z + shift)
    shift = searched(density=0.5, goal=0.9999, rate=0.05, steps=500, pull=0.0)[0]
    margin = 8 * (0.3 + 0.25 * shift) - 4
    np.testing.assert_allclose(2 * torch.sigmoid(-margin), 0.5 * (-0.8 + shift), atol=0.03)
    with pytest.raises(ValueError, match="goal"):
        searched(goal=0.4)


def test_oracle_answers_at_their_limits():
    p = torch.tensor([[0.81, 0.79, 0.41, 0.39]])
    oracle = linear(np.array([10.0]), -5.0)
    x = (torch.logit(p)[..., None] + 5) / 10
    assert method.oracle_answers(oracle, x, torch.ones(1, 4).long()).tolist() == [[1, -1, -1, 0]]
    assert method.oracle_answers(oracle, x, torch.zeros(1, 4).long()).tolist() == [[0, 0, -1, -1]]


def world():
    """Pictures of two pixels; the class is in the first, the student below looks at the second."""
    x = torch.rand(80, 2, generator=seeding.torch_rng(0, "x")) * 0.3
    x[40:] += torch.tensor([0.6, 0.6])
    by = method.Generator(torch.full((2,), 0.45), torch.eye(2) * 0.25)
    oracle = linear(np.array([40.0, 0.0]), -20.0)
    return x, by, method.strata([[np.arange(40), np.arange(40, 80)]]), lambda c, target: method.oracle_answers(oracle, c, target)


def test_a_cheat_is_called_false_and_an_oracle_true():
    x, by, base, teacher = world()
    cheat, honest = linear(np.array([0.0, 20.0]), -9.0), linear(np.array([40.0, 0.0]), -20.0)
    for student, fa in ((cheat, 0), (honest, 1)):
        found = method.find(student, by, x, base, teacher, [seeding.rng(0, "search")], 20, steps=60)
        assert found.flipped.all()
        assert method.feedback_accuracy(found).item() == fa
    assert (teacher(found.x, found.target) == method.FALSE).all()  # an unchanged picture
    assert found.target.tolist() == [[1] * 10 + [0] * 10]


def test_find_begins_at_rightly_classified_pictures_and_lowers_the_goal():
    x, by, base, teacher = world()
    half_right = linear(np.array([0.0, 20.0]), -3.0)  # calls some of class 0 class 1
    found = method.find(half_right, by, x, base, teacher, [seeding.rng(0, "search")], 40)
    assert (method.scores(half_right, found.x)[0, :20] < 0).all()
    never = linear(np.array([0.0, 0.0]), -1.0)  # calls all class 0, and nothing moves it
    assert not method.find(never, by, x, base, teacher, [seeding.rng(0, "search")], 10).flipped.any()
    flat = linear(np.array([0.0, 3.0]), -1.5)  # its confidence within 0..1 ends at 0.82
    assert method.find(flat, by, x, base, teacher, [seeding.rng(0, "search")], 10, goal=0.95, pull=0.0, density=0.0).flipped.all()


def of_answers(answers: list[int], flipped: list[bool]) -> method.Found:
    n = len(answers)
    x = torch.arange(n * 2.0).reshape(1, n, 2)
    target = torch.tensor([[1] * (n // 2) + [0] * (n // 2)])
    return method.Found(x, torch.ones(1, n, 2), x + 100, target, torch.tensor([flipped]), torch.tensor([answers]))


def test_feedback_accuracy_counts_flipped_true_and_false():
    found = of_answers([1, 1, 0, -1, 1, 0], [True, True, True, True, True, False])
    assert method.feedback_accuracy(found).item() == 0.75
    assert method.feedback_accuracy(of_answers([-1, -1], [True, True])).item() == 0


def test_lesson_has_false_ones_with_the_class_they_began_as():
    base = method.strata([[np.arange(3), np.arange(3, 4)]])
    founds = [of_answers([0, 0, 1, 0, 1, -1], [True, False, True, True, True, True])] * 2
    taught = method.lesson(torch.zeros(4, 2), base, founds, torch.tensor([0.4]))
    assert taught.strata.size.tolist() == [[3, 1, 2, 2]]
    torch.testing.assert_close(taught.strata.share, torch.tensor([[0.45, 0.15, 0.2, 0.2]]))
    torch.testing.assert_close(taught.pool[taught.strata.rows[0, 2, :2]], torch.tensor([[100.0, 101.0]] * 2))  # began as class 0
    torch.testing.assert_close(taught.pool[taught.strata.rows[0, 3, :2]], torch.tensor([[106.0, 107.0]] * 2))
    torch.testing.assert_close(taught.length, torch.full((4,), 2**0.5))
    none = method.lesson(torch.zeros(4, 2), base, [of_answers([0, 1], [True, True])], torch.tensor([0.4]))
    torch.testing.assert_close(none.strata.share, torch.tensor([[0.6, 0.2, 0.2, 0.0]]))


def test_augmented_moves_as_far_elsewhere():
    base = method.strata([[np.arange(3), np.arange(3, 4)]])
    found = of_answers([0, 0], [True, True])
    found = found._replace(x=torch.full((1, 2, 2), 0.5), shift=torch.tensor([[[0.1, 0.0], [0.0, 0.2]]]))
    taught = method.lesson(torch.zeros(4, 2), base, [found], torch.tensor([0.4]))
    by = method.Generator(torch.zeros(2), torch.eye(2))
    other = method.augmented(taught, by, seeding.rng(0, "jitter"))
    torch.testing.assert_close((other.pool[4:] - 0.5).norm(dim=1), torch.tensor([0.1, 0.2]))
    assert (other.pool[:4] == 0).all()
    assert other.strata is taught.strata


def test_cfkd_keeps_the_student_of_best_feedback():
    answers = {0: [1, 0, 1, 0], 1: [1, 1, 1, 0], 2: [0, 0, 1, 0]}
    mixes = []

    def look(student):
        return of_answers(answers[int(student.b3)], [True] * 4)

    def retrain(student, taught):
        mixes.append(taught.strata.share[0, 2:].sum().item())
        return student._replace(b3=student.b3 + 1)

    base = method.strata([[np.arange(3), np.arange(3, 4)]])
    chosen, fa, founds, taught = method.cfkd(linear(np.zeros(2), 0), torch.zeros(4, 2), base, look, retrain, 2)
    assert chosen.b3.item() == 1
    assert fa.item() == 0.75
    assert len(founds) == 3
    np.testing.assert_allclose(mixes, [0.5, 0.25])
    assert taught.strata.size.tolist() == [[3, 1, 1, 2]]  # of both rounds that were taught


# ---------------------------------------------------------------- measures


def test_group_accuracy_and_reliance():
    y = torch.tensor([0, 0, 1, 1])
    score = torch.tensor([[[-1.0, 1, -1, -1], [-1, -1, 1, -1]]])
    a = method.group_accuracy(score, y, torch.zeros(1))
    np.testing.assert_allclose(a[0], [[0.5, 1], [0, 0.5]])
    assert method.reliance(torch.tensor([[[0.9, 0.65], [0.25, 0.75]]])).item() == 0.5
    assert method.group_accuracy(score, y, torch.full((1,), -2.0))[0, 1].tolist() == [1, 1]
    with pytest.raises(ValueError, match="both classes"):
        method.group_accuracy(score, torch.ones(4), torch.zeros(1))


def test_log_odds_reliance_knows_neither_threshold_nor_scale():
    y = torch.tensor([0, 0, 1, 1])
    score = torch.tensor([[[-4.0, -2, 1, 1], [-1, -1, 3, 1]]])  # the rare class moves by 1, the classes' means are -2 and 1.5
    torch.testing.assert_close(method.log_odds_reliance(score, y), torch.tensor([1 / 3.5]))
    torch.testing.assert_close(method.log_odds_reliance(5 * score - 7, y), torch.tensor([1 / 3.5]))
    with pytest.raises(ValueError, match="both classes"):
        method.log_odds_reliance(score, torch.ones(4))
