"""Heads end to end: what lies nearest to a point, in the right head, and on its border beyond it."""

from __future__ import annotations

import torch

from medvit.synthesis import HeadBank, HeadMap


def head(shape: tuple[int, int, int], first: int) -> HeadMap:
    voxels = torch.arange(first, first + shape[0] * shape[1] * shape[2]).view(shape)
    return HeadMap(voxels, voxels + 1000, torch.tensor([float(first), 0, 0]))


def test_points_are_looked_up_in_their_own_head() -> None:
    heads = [head((2, 3, 4), 0), head((4, 3, 2), 100), head((1, 1, 5), 300)]
    bank = HeadBank(heads)
    assert len(bank) == 3
    assert bank.centres[:, 0].tolist() == [0, 100, 300]
    for which, one in enumerate(heads):
        x, y, z = (n - 1 for n in one.tissue.shape)
        points = torch.tensor([[0, 0, 0], [x, y, z], [x + 0.4, -9.0, z / 2 - 0.3]]).T[None, :, :, None, None]
        places = bank.nearest([which], points.float())
        expected = [one.tissue[0, 0, 0], one.tissue[x, y, z], one.tissue[x, 0, round(z / 2 - 0.3)]]
        assert bank.tissue[places].flatten().tolist() == [int(v) for v in expected]
        assert torch.equal(bank.structure[places], bank.tissue[places] + 1000)


def test_each_sample_of_a_batch_has_its_head() -> None:
    bank = HeadBank([head((2, 2, 2), 0), head((2, 2, 2), 50)])
    places = bank.nearest([1, 0, 1], torch.ones(3, 3, 1, 1, 1))
    assert bank.tissue[places].flatten().tolist() == [57, 7, 57]


def test_one_head_is_not_copied() -> None:
    one = head((2, 2, 2), 0)
    assert HeadBank([one]).tissue.data_ptr() == one.tissue.data_ptr()
