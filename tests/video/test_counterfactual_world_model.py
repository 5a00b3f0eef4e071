import numpy as np
import pytest
import torch

from replications.video.counterfactual_world_model import method
from shared import moving_photographs, seeding
from shared.two_frame_predictor import PATCH, TwoFramePredictor, pixels

G = 8


def pictures(n=3, side=60):
    return torch.rand(n, 3, side, side, generator=seeding.torch_rng(0, "pictures"))


def masks():
    return moving_photographs.shapes(12, seeding.rng(0, "shapes"))


@pytest.fixture(scope="module")
def prompted():
    return method.prompt_scenes(pictures(), masks(), 12, seeding.torch_rng(0, "scenes"))


# ---------------------------------------------------------------- masks


def test_the_factored_mask_hides_only_of_frame_1_and_any_patch_as_often():
    first, second = method.factored(4000, G, 6, seeding.torch_rng(0))
    count = second.sum((1, 2))
    assert first.all() and count.min() == 0 and count.max() == 6
    assert torch.allclose(count.bincount() / 4000, torch.full((7,), 1 / 7), atol=0.02)
    assert torch.allclose(second.float().mean(0), torch.full((G, G), 3 / 64), atol=0.02)


def test_usual_masks_show_as_many_patches():
    both = torch.stack(method.uniform(4000, G, 64, 70, seeding.torch_rng(0)), 1)
    assert set(both.sum((1, 2, 3)).tolist()) == set(range(64, 71))
    assert torch.allclose(both.float().mean(0), torch.full((2, G, G), 67 / 128), atol=0.04)
    first, second = method.tube(400, G, 12, 14, seeding.torch_rng(0))
    assert torch.equal(first, second) and set(first.sum((1, 2)).tolist()) == {6, 7}


def test_the_loss_is_of_hidden_patches_of_frame_1():
    truth, seen = torch.zeros(1, 3, 32, 32), torch.zeros(1, G, G, dtype=torch.bool)
    seen[0, 0, 1] = True
    prediction = truth.clone()
    prediction[:, :, :4, 4:8] = 9
    assert method.loss(prediction, truth, seen) == 0
    prediction[:, :, 4:8, 4:8] = 2
    assert method.loss(prediction, truth, seen).item() == pytest.approx(4 / 63)


# ---------------------------------------------------------------- prompts


def test_a_prompt_copies_the_active_patch_and_shows_it_and_the_passive_ones():
    x0, passive = torch.rand(2, 3, 32, 32), torch.zeros(2, G, G, dtype=torch.bool)
    passive[:, 7, 7] = True
    active, shift = torch.tensor([[2, 3], [4, 4]]), torch.tensor([[1, -1], [0, 0]])
    x1, seen = method.counterfactual(x0, active, shift, passive)
    assert torch.equal(x1[0, :, 12:16, 8:12], x0[0, :, 8:12, 12:16])
    x1[0, :, 12:16, 8:12] = x0[0, :, 12:16, 8:12]
    assert torch.equal(x1, x0)
    assert seen.nonzero().tolist() == [[0, 3, 2], [0, 7, 7], [1, 4, 4], [1, 7, 7]]
    assert passive.sum() == 2
    with pytest.raises(ValueError, match="active"):
        method.counterfactual(x0, active, torch.tensor([[0, 5], [0, 0]]), passive)


def test_eight_shifts_by_one_patch():
    assert len({tuple(s) for s in method.SHIFTS.tolist()}) == 8 and method.SHIFTS.abs().amax(1).eq(1).all()


def test_passive_patches_are_far_and_as_many_as_asked():
    active = torch.tensor([[3, 4]]).repeat(3000, 1)
    passive = method.passives(active, G, 4, 3, seeding.torch_rng(0))
    assert (passive.sum((1, 2)) == 4).all()
    often = passive.float().mean(0)
    assert (often[1:6, 2:7] == 0).all() and (often[0] > 0.05).all() and (often[:, 1] > 0.05).all()


def test_a_predictor_that_moves_what_is_shown_answers_with_it():
    x0 = torch.rand(3, 3, 32, 32)
    active, shift = torch.tensor([[2, 2], [3, 3], [4, 5]]), torch.tensor([[1, 0], [0, 1], [0, 0]])
    echo = lambda a, b, s0, s1: torch.where(pixels(s1) > 0, b, a * pixels(s0))  # noqa: E731
    out = method.answers(echo, x0, active, shift, torch.zeros(3, G, G, dtype=torch.bool), batch=2)
    assert torch.equal(out, method.counterfactual(x0, active, shift, torch.zeros(3, G, G, dtype=torch.bool))[0])


# ---------------------------------------------------------------- scenes


def test_prompts_lie_on_the_object_off_centre_and_beside_it(prompted):
    scenes, active, background = prompted
    owner, nearest = moving_photographs.render(scenes).owner, set()
    tiles = owner.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).flatten(3)
    for i, target in enumerate((owner == 3).numpy()):
        share = (tiles[i] == 3).float().mean(-1)
        assert share[tuple(active[i])] >= 0.75
        centre = np.argwhere(target).mean(0)
        far = lambda patch, centre=centre: np.linalg.norm(PATCH * np.asarray(patch) + 1.5 - centre)  # noqa: E731
        rivals = [p for p in np.argwhere((share >= 0.75).numpy()) if min(p) > 0 and max(p) < G - 1]
        assert far(active[i]) == pytest.approx(max(map(far, rivals)), abs=1e-4)
        empty = [p for p in np.argwhere((tiles[i] == 0).all(-1).numpy()) if min(p) > 0 and max(p) < G - 1]
        gaps = sorted(abs(far(p) - far(active[i])) for p in empty)[:2]
        found = sorted(abs(far(p) - far(active[i])) for p in background[:, i])
        assert np.allclose(found, gaps, atol=1e-4) and (background[0, i] != background[1, i]).any()
        nearest.add(min((0, 1), key=lambda j: abs(far(background[j, i]) - far(active[i]))))
    assert nearest == {0, 1}


def test_a_moved_object_takes_all_its_pixels_along(prompted):
    scenes, active, _ = prompted
    before = moving_photographs.render(scenes)
    for shift in method.SHIFTS:
        after = method.moved(scenes, shift.expand(len(active), 2))
        step = (PATCH * shift).tolist()
        assert torch.equal(after.owner == 3, torch.roll(before.owner == 3, step, (1, 2)))
        same = torch.roll(before.image, step, (2, 3)) == after.image
        assert same.all(1)[after.owner == 3].all()


def test_errors_leave_patches_out():
    patches = torch.tensor([[[0, 0], [1, 2]]])
    shown = method.outside(patches, 32)
    assert (~shown).sum() == 32 and not shown[0, 0, 3] and not shown[0, 4, 8] and shown[0, 0, 4]
    image = torch.zeros(1, 3, 32, 32)
    image[:, :, 0, 0], image[:, 0, 31, 31] = 5, 3
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, 30:, 30:] = mask[:, 0, 0] = True
    assert method.errors(image, torch.zeros_like(image), mask & shown).item() == pytest.approx(3 / 4)


# ---------------------------------------------------------------- segments


def test_change_and_filters():
    assert method.change(torch.tensor([[[1.0]], [[-2.0]], [[0.0]]]), torch.zeros(3, 1, 1)).item() == 1
    active, changes = torch.tensor([[2, 2]]), torch.zeros(1, 5, 32, 32)
    changes[0, 0, 8:12, 8:12] = 1  # a good one
    changes[0, 1, 0:4, 8:12] = 1  # something else moves
    changes[0, 2] = 1  # all moves
    changes[0, 3, 8:12, 8:12] = 1
    changes[0, 3, 0, 0] = changes[0, 3, 0, -1] = changes[0, 3, -1, 0] = 1  # three corners
    changes[0, 4] = changes[0, 3]
    changes[0, 4, 0, 0] = 0
    assert method.kept(changes, active, 0.5).tolist() == [[True, False, False, False, True]]
    assert method.kept(changes, active, 0.5, most_area=1.0, most_corners=4).tolist() == [[True, False, True, True, True]]


def test_averages_are_of_kept_samples_where_a_pixel_is_valid():
    changes = torch.tensor([1.0, 3.0, 50.0]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    valid = torch.tensor([[True, True], [False, True], [True, True]]).view(1, 3, 1, 2)
    assert method.averaged(changes, valid, torch.tensor([[True, True, False]])).tolist() == [[[1.0, 2.0]]]
    assert method.averaged(changes, valid, torch.tensor([[False] * 3])).tolist() == [[[25.5, 18.0]]]


def test_baselines_of_segments():
    near = method.blob(torch.tensor([[0, 1]]), 8)[0]
    assert near[1, 5] == near[2, 6] == near.max() and near[0, 0].item() == pytest.approx(-np.hypot(1.5, 5.5))
    image = np.zeros((3, 8, 8))
    image[0, :, 5:] = 1
    grown = method.region_growing(image, np.array([0, 0]), 0.1)
    assert np.allclose(grown[:4, :4], 0) and grown[0, 4] == pytest.approx(-0.1)
    assert grown[0, 7] == pytest.approx(-1.4) and grown[7, 0] == pytest.approx(-0.4)


def test_motion_covariance_is_a_correlation():
    x = torch.rand(30, 4, dtype=torch.float64)
    assert np.allclose(method.motion_covariance(x), np.corrcoef(x.numpy().T))
    assert method.motion_covariance(torch.ones(5, 2)).abs().max() < 1e-5


def test_later_prompts_go_where_things_moved():
    corner = torch.zeros(1, 1, 32, 32)
    corner[..., :8, :8] = 1  # of four patches one inner; changes whenever any patch but those in place is shown

    def net(x0, x1, s0, s1):
        shown = (x1 * pixels(s1) - x0 * pixels(s1)).abs().amax((1, 2, 3), keepdim=True) > 0
        return x0 + corner * shown

    changes, places = method.sample_energies(net, torch.rand(3, 32, 32), 2, 20, seeding.torch_rng(0))
    assert changes.shape == (40, 32, 32) and (places[20:] == 1).all() and not (places[:20] == 1).all()


# ---------------------------------------------------------------- key points and flow


def test_key_points_are_the_patches_that_tell_most():
    x0, x1 = torch.zeros(2, 3, 32, 32)
    x1[:, 4:8, 8:12], x1[:, 20:24, 0:4] = 1, 0.5
    places, errors = method.key_points(lambda a, b, s0, s1: a, x0, x1, 2)
    assert places.tolist() == [[1, 2], [5, 0]]
    assert errors == pytest.approx([0.25 / 64, 0])
    worse = lambda a, b, s0, s1: a + (s1.sum((1, 2)) > 1)[:, None, None, None]  # noqa: E731
    assert len(method.key_points(worse, x0, x1, 3)[0].unique(dim=0)) == 3


def carried(a, b, s0, s1):
    """All of frame 0 three down and two to the left, twice as strong; nonsense where frame 1 is visible."""
    return torch.where(pixels(s1) > 0, 50 * a, 2 * torch.roll(a, (3, -2), (2, 3)))


def test_markers_tell_where_a_patch_went():
    x0, x1, patch = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32), torch.tensor([[2, 3], [4, 4]])
    marked = torch.zeros(2, G, G, dtype=torch.bool)
    marked[[0, 1], patch[:, 0], patch[:, 1]] = True
    seen1 = torch.zeros(2, 3, G, G, dtype=torch.bool)
    seen1[:, 0, 2, 3] = True
    response = method.responses(carried, x0, x1, marked, seen1, 0.1)
    assert response[0, 11:15, 10:14].allclose(torch.full((4, 4), 2.0), atol=1e-3) and response[0].sum().item() == pytest.approx(
        32, rel=0.01
    )
    where, strength = method.landed(response, patch, 8)
    assert where.tolist() == [[3, -2], [3, -2]] and strength[0].item() == pytest.approx(2, rel=0.01)
    assert method.landed(response, patch, 2)[0][0].abs().max() <= 2
    assert method.block_matching(x0, torch.roll(x0, (3, -2), (2, 3)), patch, 6).tolist() == [[3, -2], [3, -2]]


def test_flow_on_a_grid_keeps_markers_apart():
    x0, seen1 = torch.rand(1, 3, 32, 32), torch.zeros(1, 1, G, G, dtype=torch.bool)
    flow, every = method.grid_flow(carried, x0, x0, seen1, 0.1, 4)
    inner = (every[:, 0] <= 6) & (every[:, 1] >= 2) & (every[:, 0] * 4 + 7 <= 31)
    assert every.tolist()[:5] == [[0, 0], [0, 2], [0, 4], [0, 6], [2, 0]]
    assert (flow[0, inner] == torch.tensor([3.0, -2.0])).all()


# ---------------------------------------------------------------- contact


def test_contact_scenes_are_what_they_say():
    scenes, velocity, label = method.contact_scenes(pictures(), masks(), 8, 6, seeding.torch_rng(0, "c"))
    covered = [moving_photographs.covers(scenes, t * velocity) for t in range(7)]
    touching = torch.stack([moving_photographs.touch(part) for part in covered], 1)
    assert label.sum() == 4 and not touching[:, :3].any() and torch.equal(touching[:, 3:].any(1), label)
    assert (velocity != 0).any((1, 2)).all() and velocity.abs().max() == 3
    for part in covered[:3]:
        assert torch.equal(part.sum((2, 3)), scenes.shape.sum((2, 3)))


# ---------------------------------------------------------------- the predictor


def test_a_new_predictor_copies_the_visible_patches_of_frame_0():
    net, x = TwoFramePredictor(seeding.torch_rng(0)), torch.rand(2, 3, 32, 32)
    seen = torch.rand(2, G, G) < 0.5
    assert torch.allclose(net(x, x, seen, seen), torch.where(pixels(seen) > 0, x, 0.5), atol=1e-6)
    assert net.features(x, x, seen, seen).shape == (2, 64, G, G)


def test_a_predictor_does_not_see_what_is_hidden_and_sees_what_is_visible():
    net = TwoFramePredictor(seeding.torch_rng(0))
    torch.nn.init.normal_(net.out.weight, generator=seeding.torch_rng(1))
    x0, x1, seen = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32), torch.rand(2, G, G) < 0.5
    hidden = torch.rand(2, 3, 32, 32) * (1 - pixels(seen))
    assert torch.equal(net(x0 + hidden, x1 + hidden, seen, seen), net(x0, x1, seen, seen))
    assert not torch.allclose(net(x0, x1 + pixels(seen), seen, seen), net(x0, x1, seen, seen))
    with pytest.raises(ValueError, match="do not fit"):
        net(x0, x1, seen[:, :4], seen)
