import numpy as np
import pytest
import torch
from scipy import ndimage

from shared import moving_photographs as mp
from shared import seeding
from shared.data import photographs


@pytest.fixture(scope="module")
def scenes():
    pictures = torch.rand(3, 3, 60, 60, generator=seeding.torch_rng(0))
    return mp.draw(pictures, mp.shapes(10, seeding.rng(0)), 30, seeding.torch_rng(0, "draw"))


def test_shapes_are_connected_and_not_convex():
    for shape in mp.shapes(20, seeding.rng(1)).numpy():
        assert ndimage.label(shape)[1] == 1 and mp.solidity(shape) <= mp.SOLID
        assert all(8 <= np.ptp(np.flatnonzero(shape.any(axis))) + 1 <= 16 for axis in (0, 1))
    assert mp.solidity(np.ones((3, 5), bool)) == pytest.approx(1)


def test_a_frame_by_the_naive_loop(scenes):
    moved, camera = mp.motions(scenes, seeding.torch_rng(0, "motions"))
    frame = mp.render(scenes, moved, camera)
    for i in range(4):
        for row in range(0, 32, 3):
            for column in range(0, 32, 5):
                r, c = (mp.REACH - camera[i] + torch.tensor([row, column])).tolist()
                colour, owner = scenes.background[i, :, r, c], 0
                for j in range(3):
                    y, x = (torch.tensor([row, column]) - scenes.place[i, j] - moved[i, j]).tolist()
                    if 0 <= y < 16 and 0 <= x < 16 and scenes.shape[i, j, y, x]:
                        colour, owner = scenes.texture[i, j, :, y, x], j + 1
                assert torch.equal(frame.image[i, :, row, column], colour) and frame.owner[i, row, column] == owner


def test_tracked_pixels_keep_their_colour_and_lost_ones_are_hidden(scenes):
    moved, camera = mp.motions(scenes, seeding.torch_rng(0, "motions"))
    before, after = mp.render(scenes), mp.render(scenes, moved, camera)
    steps, visible = mp.tracks(before, after, moved, camera)
    i, r, c = visible.nonzero().T
    r1, c1 = r + steps[i, r, c, 0], c + steps[i, r, c, 1]
    assert torch.equal(before.image[i, :, r, c], after.image[i, :, r1, c1])
    i, r, c = (~visible).nonzero().T
    r1, c1 = r + steps[i, r, c, 0], c + steps[i, r, c, 1]
    inside = (r1 >= 0) & (r1 < 32) & (c1 >= 0) & (c1 < 32)
    assert (after.owner[i, r1.clamp(0, 31), c1.clamp(0, 31)] > before.owner[i, r, c])[inside].all() and (~inside).any()


def test_motions_are_as_often_as_said():
    pictures = torch.rand(2, 3, 40, 40)
    many = mp.draw(pictures, mp.shapes(3, seeding.rng(0)), 3000, seeding.torch_rng(0))
    moved, camera = mp.motions(many, seeding.torch_rng(1))
    assert camera.abs().max() == 4 and abs((camera != 0).any(1).float().mean() - 80 / 81 / 3) < 0.03
    own = moved - camera[:, None]
    assert own.abs().max() == 4 and abs((own != 0).any(2).float().mean() - 80 / 81 * 3 / 4) < 0.03
    there = many.shape.flatten(2).any(2)
    assert torch.allclose(there.float().mean(0), torch.tensor([1 / 3, 2 / 3, 1]), atol=0.03)


def test_masks_touch_side_by_side_but_not_by_corners(scenes):
    one, beside, corner = torch.zeros(3, 32, 32, dtype=torch.bool)
    one[3, 3] = beside[3, 4] = corner[4, 4] = True
    pairs = torch.stack([torch.stack(p) for p in ((one, beside), (beside, one), (one, corner), (one, one), (corner, beside))])
    assert mp.touch(pairs).tolist() == [True, True, False, True, True]
    covered = mp.covers(scenes)
    assert torch.equal(covered[:, 2], mp.render(scenes).owner == 3)


def test_draw_refuses_small_photographs():
    with pytest.raises(ValueError, match="photographs"):
        mp.draw(torch.rand(1, 3, 39, 60), mp.shapes(1, seeding.rng(0)), 1, seeding.torch_rng(0))


def test_photographs_in_colour_are_the_grey_ones():
    colour, grey = photographs.load(20).astype(float), (photographs.load_grey(20) + 1) * 127.5
    assert colour.shape == (photographs.COUNT, 20, 20, 3)
    assert np.abs(colour @ [0.299, 0.587, 0.114] - grey).max() < 1.5
    with pytest.raises(ValueError, match="side"):
        photographs.load(121)
