"""Noise models: formulas against enumeration, draws against their laws, the tagger's loss against cross-entropy."""

from math import comb

import numpy as np
import pytest
import torch

from replications.labels.noise_model_error import method
from shared.data import DataError, conll2003

M = np.array([[0.8, 0.2, 0.0], [0.3, 0.5, 0.2], [0.1, 0.1, 0.8]])
SHARES = np.array([0.6, 0.3, 0.1])
POOL = np.array([[48, 12, 0], [9, 15, 6], [1, 1, 8]])


# ---------------------------------------------------------------- noise


def test_synthetic_noise_by_hand():
    single, multi = method.synthetic("single-flip", 0.3), method.synthetic("multi-flip", 0.6)
    for m in (single, multi, method.synthetic("uniform", 0.9)):
        np.testing.assert_allclose(m.sum(1), 1)
    np.testing.assert_allclose(np.diag(single), 0.7)
    assert [single[i, j] for i, j in enumerate((7, 9, 0, 4, 2, 1, 3, 5, 6, 8))] == pytest.approx([0.3] * 10)
    assert multi[2, 3] == pytest.approx(0.4) and multi[8, 2] == pytest.approx(0.45) and multi[7, 4] == pytest.approx(0.1)
    assert multi[4, [0, 1, 5, 6, 8]] == pytest.approx([0.12] * 5) and np.diag(multi) == pytest.approx([0.4] * 10)


def test_matrix_has_zeros_for_a_class_without_pairs():
    assert method.matrix(np.array([[3, 1], [0, 0]])).tolist() == [[0.75, 0.25], [0, 0]]


# ---------------------------------------------------------------- formulas


def test_fixed_formula_by_hand():
    assert method.expected_fixed(np.array([[0.8, 0.2], [0.3, 0.7]]), 10) == pytest.approx(0.074)
    assert method.expected_fixed(np.eye(4), 3) == 0


def enumerated(n: int, complete: bool) -> float:
    """E[SE] by going through every number of pairs of each class and every row of two outcomes."""
    total = 0.0
    m, shares = np.array([[0.8, 0.2], [0.3, 0.7]]), np.array([0.9, 0.1])
    for i, p in enumerate(m[:, 0]):
        for n_i in range(0 if complete else 1, n + 1 if complete else n):
            weight = comb(n, n_i) * shares[i] ** n_i * (1 - shares[i]) ** (n - n_i)
            for k in range(n_i + 1):
                estimate = np.array([k / n_i, 1 - k / n_i]) if n_i else np.zeros(2)
                total += weight * comb(n_i, k) * p**k * (1 - p) ** (n_i - k) * ((m[i] - estimate) ** 2).sum()
    return total


@pytest.mark.parametrize(("n", "complete"), [(n, complete) for n in (1, 2, 7) for complete in (False, True)])
def test_variable_formula_by_enumeration(n, complete):
    found = method.expected_variable(np.array([[0.8, 0.2], [0.3, 0.7]]), np.array([0.9, 0.1]), n, complete=complete)
    assert found == pytest.approx(enumerated(n, complete))


def test_formulas_agree_with_draws_with_replacement():
    rng = np.random.default_rng(0)
    m = method.matrix(POOL)
    drawn = method.draw_fixed(POOL, 7, 20_000, rng, replace=True)
    assert (drawn.sum(2) == 7).all()
    assert method.squared_error(m, method.matrix(drawn)).mean() == pytest.approx(method.expected_fixed(m, 7), rel=0.03)
    drawn = method.draw_variable(POOL, 9, 20_000, rng, replace=True)
    assert (drawn.sum((1, 2)) == 9).all()
    wanted = method.expected_variable(m, POOL.sum(1) / POOL.sum(), 9, complete=True)
    assert method.squared_error(m, method.matrix(drawn)).mean() == pytest.approx(wanted, rel=0.03)


def test_draws_without_replacement_use_each_pair_once():
    rng = np.random.default_rng(0)
    assert (method.draw_variable(POOL, 100, 3, rng) == POOL).all()
    drawn = method.draw_fixed(POOL, 10, 4000, rng)
    assert (drawn <= POOL).all() and (drawn[:, 2] == POOL[2]).all()  # the class of ten
    m, n = method.matrix(POOL), POOL.sum(1)
    wanted = ((m * (1 - m)).sum(1) / 10 * (n - 10) / (n - 1)).sum()  # the finite pool's variance
    assert method.squared_error(m, method.matrix(drawn)).mean() == pytest.approx(wanted, rel=0.05)


def test_stretches_are_neighbours():
    clean = np.arange(30) % 3
    noisy = np.repeat([0, 1, 2], 10)
    drawn = method.draw_stretches(clean, noisy, 3, 6, 3, 500, np.random.default_rng(0))
    assert drawn.shape == (500, 3, 3) and (drawn.sum(2) == 2).all()  # three neighbours hold each clean label once
    ones = method.draw_stretches(clean, noisy, 3, 4, 1, 4000, np.random.default_rng(0)).mean(0)
    np.testing.assert_allclose(ones, 4 * np.bincount(clean * 3 + noisy, minlength=9).reshape(3, 3) / 30, atol=0.05)


# ---------------------------------------------------------------- tags


def test_the_longest_name_wins_and_stays_in_its_sentence():
    words = "New York Times of New York . New York".split()
    names = {"New York": 1, "New York Times": 2, ". New": 3}
    tags = method.tag_by_list(words, np.array([0] * 7 + [1] * 2), names)
    assert tags.tolist() == [2, 2, 2, 0, 1, 1, 0, 1, 1]


def test_f1_counts_whole_entities():
    gold = np.array([0, 1, 1, 0, 2, 2, 3, 3])
    sentences = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    assert method.entities(gold, sentences) == {(1, 2, 1), (4, 4, 2), (5, 5, 2), (6, 7, 3)}
    assert method.f1(gold, gold, sentences) == 1 and method.f1(gold * 0, gold, sentences) == 0
    other = np.array([0, 1, 0, 0, 2, 2, 3, 3])  # one name cut short
    assert method.f1(other, gold, sentences) == pytest.approx(3 / 4)


# ---------------------------------------------------------------- taggers


def test_noise_layer_by_hand():
    logits = torch.tensor([[[1.0, 2.0, 0.5], [0.0, -1.0, 1.0]]])
    noisy = torch.tensor([[2, 0]])
    p = logits[0].softmax(1).numpy()
    wanted = -np.log([p[0] @ M[:, 2] + 1e-7, p[1] @ M[:, 0] + 1e-7]).mean()
    assert method.forward_loss(logits, noisy, torch.tensor(M[None], dtype=torch.float32)).item() == pytest.approx(wanted, rel=1e-5)


def test_scores_are_those_of_plain_networks():
    rng = torch.Generator().manual_seed(0)
    nets = [torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3)) for _ in range(2)]
    stacked = [torch.stack([f(net) for net in nets]) for f in (
        lambda net: net[0].weight.T, lambda net: net[0].bias[None], lambda net: net[2].weight.T, lambda net: net[2].bias[None]
    )]  # fmt: skip
    x = torch.randn(2, 4, 6, generator=rng)
    torch.testing.assert_close(
        method.scores(method.Taggers(*stacked), x), torch.stack([net(part) for net, part in zip(nets, x, strict=True)])
    )


def test_windows():
    rows, sentences = np.array([5, 6, 7, 8]), np.array([0, 0, 1, 1])
    assert method.windows(rows, sentences, 1, 9).tolist() == [[9, 5, 6], [5, 6, 9], [9, 7, 8], [7, 8, 9]]


def test_words_of_one_use_have_like_vectors_however_frequent():
    sentences = [f"the {animal} sat on the {thing} ." for animal in ("cat", "dog", "dog") for thing in ("mat", "rug")] * 20
    words = " ".join(sentences).split()
    vocabulary, vectors = method.word_vectors(words, np.repeat(np.arange(120), 7), 3, common=20)
    assert vectors.shape == (len(vocabulary) + 1, 11) and (vectors[-1] == 0).all() and vectors.dtype == np.float32
    near = vectors[:, 3:6]
    gap = {pair: np.linalg.norm(near[vocabulary[pair[0]]] - near[vocabulary[pair[1]]]) for pair in (("cat", "dog"), ("cat", "mat"))}
    assert gap["cat", "dog"] < 0.1 * gap["cat", "mat"]
    assert vectors[vocabulary["."], -5:].tolist() == [0, 0, 0, 0, 1] and vectors[vocabulary["cat"], -5:].tolist() == [0, 0, 1, 0, 0]


def toy_task(rate: float = 0.45) -> tuple[method.Task, torch.Tensor]:
    """Ten words, whose tag is their parity; odd ones are called even at `rate`."""
    rng = np.random.default_rng(0)
    word = rng.integers(10, size=4000)
    tag_of = word % 2
    noisy = np.where((tag_of == 1) & (rng.random(4000) < rate), 0, tag_of)
    clean = np.r_[np.flatnonzero(tag_of == 0)[:2], np.flatnonzero(tag_of == 1)[:2]]
    arrays = (torch.eye(10), word[:, None], noisy, clean, tag_of[clean])
    return method.Task(*(torch.as_tensor(a) for a in arrays)), torch.as_tensor(tag_of)


def test_only_the_right_matrix_undoes_the_noise():
    task, truth = toy_task(0.6)  # more than half of the odd words are called even
    m = torch.tensor([[[1, 0], [0.6, 0.4]], [[1.0, 0], [0, 1]]])
    how = {"hidden": 16, "epochs": 60, "batch": 50, "factor": 25, "lr": 1e-2}
    taggers = method.train(task, m, torch.Generator().manual_seed(0), **how)
    right = (method.tag(taggers, task.vectors, task.window) == truth).float().mean(1)
    assert right[0] > 0.99 and right[1] < 0.9
    again = method.train(task, m[:1], torch.Generator().manual_seed(0), **how)
    for one, of_two in zip(again, taggers, strict=True):  # models of one call do not touch each other
        torch.testing.assert_close(one[0], of_two[0], rtol=1e-3, atol=1e-4)


def test_the_pass_over_clean_words_looks_at_no_noisy_tag_and_no_noise_model():
    task, _ = toy_task()
    m = torch.tensor([[[1.0, 0], [0, 1]], [[0.3, 0.7], [0.6, 0.4]]])
    how = {"hidden": 4, "epochs": 3, "batch": 50, "factor": 0, "lr": 1e-2}
    found = [method.train(t, m, torch.Generator().manual_seed(0), **how) for t in (task, task._replace(noisy=1 - task.noisy))]
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a[0], a[1])


# ---------------------------------------------------------------- data and errors


def test_conll_has_the_published_sizes():
    try:
        words = conll2003.load("test")
    except DataError as error:
        pytest.skip(str(error))
    assert len(words.word) == 46_435 and words.document[-1] + 1 == 231
    found = {
        kind: sum(tag == k for _, _, tag in method.entities(words.tag, words.sentence)) for k, kind in enumerate(conll2003.TAGS)
    }
    assert abs(found["PER"] - 1617) < 20 and abs(found["LOC"] - 1668) < 30 and abs(found["ORG"] - 1661) < 30  # neighbours merge


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: method.synthetic("double", 0.1), "kind must be uniform, single-flip or multi-flip"),
        (lambda: method.synthetic("single-flip", 1.1), "rate must be in"),
        (lambda: method.matrix(np.array([[0.5, 0.5]])), "counts must be whole numbers"),
        (lambda: method.squared_error(M, np.eye(2)), r"estimate must end with m's shape"),
        (
            lambda: method.train(
                toy_task()[0], torch.ones(1, 1, 1), torch.Generator(), hidden=1, epochs=1, batch=1, factor=1, lr=0.1
            ),
            r"m must be \(F, K, K\) with a row for each tag",
        ),
        (lambda: method.expected_fixed(M, 0), "n_i must be at least 1"),
        (lambda: method.expected_fixed(M * 2, 5), "m must be square, with rows"),
        (lambda: method.expected_fixed(np.full((2, 2), np.nan), 5), "m contains NaN"),
        (lambda: method.expected_variable(M, SHARES * 2, 5, complete=True), "shares must be a distribution of 3"),
        (lambda: method.expected_variable(M, SHARES, 0, complete=True), "n must be at least 1"),
        (lambda: method.draw_fixed(POOL, 11, 1, np.random.default_rng(0)), "cannot be drawn from a class of 10"),
        (lambda: method.draw_variable(POOL, 101, 1, np.random.default_rng(0)), "cannot be drawn from a pool of 100"),
        (
            lambda: method.draw_fixed(POOL * [[1], [1], [0]], 1, 1, np.random.default_rng(0)),
            "at least one pair in each clean class",
        ),
        (lambda: method.draw_stretches(np.zeros(9, int), np.zeros(9, int), 2, 5, 2, 1, np.random.default_rng(0)), "not a multiple"),
        (lambda: method.tag_by_list(["a"], np.zeros(2), {}), "words and sentences must be equally long"),
        (lambda: method.word_vectors(["a"], np.zeros(2), 1), "words and sentences must be equally long"),
        (lambda: method.f1(np.zeros(2), np.zeros(3), np.zeros(3)), "must have one shape"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
