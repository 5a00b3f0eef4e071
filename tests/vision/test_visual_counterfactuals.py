"""Measures of counterfactual images against closed forms."""

import math

import pytest
import torch

from shared import seeding
from shared import visual_counterfactuals as measures


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=seeding.torch_rng(0, "images"))


def test_flips_and_probabilities_by_hand():
    scores = torch.tensor([[0.0, math.log(3)], [5.0, 5.0 - math.log(4)]]) + 7
    assert measures.flipped(scores, torch.tensor([1, 1])).tolist() == [1, 0]
    assert torch.allclose(measures.probability(scores, torch.tensor([0, 0])), torch.tensor([0.25, 0.8]))


def test_changes_by_hand():
    x, other = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    other[0, 0, 0] = torch.tensor([0.5, 0.05])
    x[1, 0, 1, 1] = 0.2
    found = measures.changes(x, other)
    assert torch.allclose(found["L1"], torch.tensor([0.55 / 4, 0.05]))
    assert torch.allclose(found["L2"], torch.tensor([(0.25 + 0.0025) / 4, 0.01]))
    assert found["changed"].tolist() == [0.25, 0.25]


@pytest.mark.parametrize(
    ("x", "other", "message"),
    [(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 3), "one shape"), (torch.zeros(2, 2), torch.zeros(2, 2), "one shape"),
     (torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 1.1), "other must"),
     (torch.full((1, 1, 2, 2), torch.nan), torch.zeros(1, 1, 2, 2), "x must")],
)  # fmt: skip
def test_changes_refuse(x, other, message):
    with pytest.raises(ValueError, match=message):
        measures.changes(x, other)


def test_nearest_is_of_the_target_class_and_nearest():
    pool = noise(30, 1, 4, 4)
    labels = torch.arange(30) % 3
    x, target = noise(40, 1, 4, 4)[30:], torch.arange(10) % 3
    for image, k, got in zip(x, target, measures.nearest(x, target, pool, labels), strict=True):
        least = min((((image - other) ** 2).sum().item(), i) for i, other in enumerate(pool) if labels[i] == k)[1]
        assert torch.equal(got, pool[least])
    with pytest.raises(ValueError, match="target"):
        measures.nearest(x, target + 1, pool, labels)


def test_attack_on_a_linear_classifier_steps_along_the_sign_and_rests_at_the_goal():
    w = torch.tensor([2.0, -1.0, 0.0, 0.5]).reshape(1, 2, 2)
    x = torch.full((2, 1, 2, 2), 0.5)
    start = torch.tensor([1.0, 1.0])
    odds = lambda images: (w * (images - 0.5)).sum((1, 2, 3)) + start  # noqa: E731
    once = measures.attack(odds, x, goal=0.0, step=0.1, passes=1)
    assert torch.allclose(once, x - 0.1 * w.sign())
    # each step takes .1 * 3.5 off: at 1, .65, .3, -.05, where it rests
    assert torch.allclose(odds(measures.attack(odds, x, goal=0.0, step=0.1, passes=9)), torch.tensor(-0.05), atol=1e-6)
    start[1] = -1  # there already
    assert torch.equal(measures.attack(odds, x, goal=0.0, step=0.1, passes=9)[1], x[1])
    far = measures.attack(odds, x, goal=-9.0, step=0.4, passes=5)
    assert far.min() == 0 and far.max() == 1


@pytest.mark.parametrize(("step", "passes"), [(0.0, 3), (1.5, 3), (0.1, 0)])
def test_attack_refuses(step, passes):
    with pytest.raises(ValueError, match="step must"):
        measures.attack(lambda x: x.sum((1, 2, 3)), noise(1, 1, 2, 2), goal=0.0, step=step, passes=passes)


def test_slant_of_lines():
    size, images = 9, torch.zeros(4, 1, 9, 9)
    for down in range(size):
        images[0, 0, down, down] = 1  # one right for one down
        images[1, 0, down, 8 - down] = 0.5  # one left
        images[2, 0, down, 4] = 1
        images[3, 0, down, 2 + down // 2] = 1  # about half a pixel
    lean = measures.slant(images)
    assert torch.allclose(lean[:3], torch.tensor([1.0, -1.0, 0.0]), atol=1e-6) and abs(lean[3] - 0.5) < 0.02
    assert torch.allclose(measures.slant(images.roll(1, 3)[:, :, 1:8, 1:8])[2], torch.tensor(0.0), atol=1e-6)
    assert torch.isnan(measures.slant(torch.zeros(1, 1, 3, 3)))
