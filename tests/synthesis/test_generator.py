"""The generator paints what the labels say, and nothing but its seed decides how."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medvit.errors import StudyError
from medvit.synthesis import (
    HeadBank,
    SynthesisSettings,
    Synthesizer,
    brain_anatomy,
    generator,
    normalise,
    read_head_map,
)
from medvit.synthesis.atlas import HeadMap
from medvit.synthesis.draw import Draw
from tests.phantoms import SHAPE, head_labels, write_head

ANATOMY = brain_anatomy()
STILL = {
    "rotation": 0.0, "scaling": 0.0, "shear": 0.0, "elastic": 0.0, "translation": 0.0, "flip": 0.0,
    "skull_strip": 0.0, "crop": 0.0, "thick_slices": 0.0, "blur": 0.0, "bias": 0.0, "noise": 0.0,
    "gamma": 0.0, "texture": 0.01, "shading": 0.0, "deface": 0.0, "zero": 0.0, "wrap": 0.0, "ringing": 0.0,
    "motion": 0.0, "tight_strip": 0.0, "rough_strip": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> HeadMap:
    return read_head_map(write_head(tmp_path_factory.mktemp("head") / "head.nii.gz"), ANATOMY)


def sample(head: HeadMap, seed: int = 0, **settings: object) -> tuple[torch.Tensor, torch.Tensor]:
    synthesizer = Synthesizer(ANATOMY, SynthesisSettings(**{"shape": (40, 44, 36), **settings}))
    return synthesizer(head, torch.Generator().manual_seed(seed))


def value(name: str) -> int:
    return ANATOMY.table.by_name[name].value


def test_the_seed_decides_the_sample(head: HeadMap) -> None:
    (image, target), (again, target_again), (other, _) = (sample(head, seed) for seed in (3, 3, 4))
    assert torch.equal(image, again)
    assert torch.equal(target, target_again)
    assert not torch.equal(image, other)
    assert image.shape == target.shape == (1, 40, 44, 36)
    assert image.min() == 0
    assert image.max() == 1


def test_without_deformation_the_target_is_the_label_map(head: HeadMap) -> None:
    edges = tuple(n + 1 - n % 2 for n in head.structure.shape)
    _, target = sample(head, shape=edges, spacing=1.0, **STILL)
    shift = [(e - 1) / 2 - float(c) for e, c in zip(edges, head.centre, strict=True)]
    expected = np.zeros(edges, np.uint8)
    x, y, z = np.indices(edges)
    index = [np.round(i - s).astype(int) for i, s in zip((x, y, z), shift, strict=True)]
    inside = np.all([(i >= 0) & (i < n) for i, n in zip(index, head.structure.shape, strict=True)], axis=0)
    expected[inside] = head.structure.numpy()[tuple(i[inside] for i in index)]
    assert (target[0].numpy() == expected).mean() > 0.999
    assert len(target.unique()) > 8


def test_sides_share_their_intensity(head: HeadMap) -> None:
    image, target = sample(head, contrasts={"random": 1.0}, **STILL)
    means = [float(image[target == value(f"{side} thalamus")].median()) for side in ("left", "right")]
    assert abs(means[0] - means[1]) < 0.03


def test_a_mirrored_sample_keeps_left_on_the_left(head: HeadMap) -> None:
    _, target = sample(head, **{**STILL, "flip": 1.0})
    left, right = (
        (target[0] == value(f"{side} cerebral cortex")).nonzero()[:, 0].float().mean()
        for side in ("left", "right")
    )
    assert left < right


def test_skull_stripping_leaves_nothing_outside_the_brain(head: HeadMap) -> None:
    settings = {**STILL, "skull_strip": 1.0, "contrasts": {"T1": 1.0}}
    image, target = sample(head, **settings)
    corner = image[0, :3, :3, :3]
    assert corner.max() == 0
    with_skull, _ = sample(head, **{**settings, "skull_strip": 0.0})
    assert (with_skull[target == 0] > 0.2).sum() > 10 * (image[target == 0] > 0.2).sum()


def test_a_prior_orders_the_tissues(head: HeadMap) -> None:
    for contrast, brighter in (("T1", True), ("T2", False)):
        image, target = sample(head, contrasts={contrast: 1.0}, **STILL)
        white = image[target == value("left cerebral white matter")].median()
        fluid = image[target == value("left lateral ventricle")].median()
        assert (white > fluid) == brighter


def test_voxels_at_a_border_hold_a_share_of_both_tissues(head: HeadMap) -> None:
    image, target = sample(head, contrasts={"T1": 1.0}, **STILL)
    white = image[0][target[0] == value("left cerebral white matter")].median()
    cortex = image[0][target[0] == value("left cerebral cortex")].median()
    low, high = sorted((float(white), float(cortex)))
    margin = 0.3 * (high - low)
    between = ((image > low + margin) & (image < high - margin)).float().mean()
    assert between > 0.005


def test_normalise_cuts_each_sample_at_its_quantiles() -> None:
    image = torch.arange(7000, dtype=torch.float32)
    first, second = normalise(torch.stack([image, 5 - 3 * image]))
    assert first[0] == second[-1] == 0
    assert first[-1] == second[0] == 1
    assert abs(float(first[3500]) - 0.5) < 0.01
    torch.testing.assert_close(second, 1 - first, atol=0.01, rtol=0)
    assert normalise(torch.zeros(1, 10)).isfinite().all()


def test_strips_leave_exact_zeros_and_take_the_target_along(head: HeadMap) -> None:
    settings = {**STILL, "skull_strip": 1.0, "zero": 1.0, "noise": 0.1, "contrasts": {"T1": 1.0}}
    image, target = sample(head, **settings)
    fluid = value("cerebrospinal fluid")
    assert (image[target == 0] == 0).float().mean() > 0.97
    assert (target == fluid).any()
    tight_image, tight = sample(head, **{**settings, "tight_strip": 1.0})
    assert (tight == fluid).sum() < 0.4 * (target == fluid).sum()
    assert (tight_image[0][target[0] == fluid] == 0).float().mean() > 0.6
    rough_image, rough = sample(head, seed=1, **{**settings, "rough_strip": 1.0})
    assert (rough[rough_image == 0] == 0).float().mean() > 0.95


def test_faces_are_removed_and_brains_are_not(head: HeadMap) -> None:
    image, target = sample(
        head, shape=(60, 120, 60), spacing=2.0, **{**STILL, "deface": 1.0, "contrasts": {"T1": 1.0}}
    )
    whole, intact = sample(head, shape=(60, 120, 60), spacing=2.0, **{**STILL, "contrasts": {"T1": 1.0}})
    assert torch.equal(target, intact)
    assert image.isfinite().all() and whole.isfinite().all()


def test_a_cut_field_of_view_has_no_target(head: HeadMap) -> None:
    image, target = sample(head, **{**STILL, "crop": 1.0, "contrasts": {"T1": 1.0}})
    _, intact = sample(head, **{**STILL, "contrasts": {"T1": 1.0}})
    lost = target != intact
    assert lost.any()
    assert (image[lost] == 0).all() and (target[lost] == 0).all()


def test_far_windows_hold_little_or_no_head(head: HeadMap) -> None:
    share = []
    for far in (0.0, 1.0):
        settings = {"translation": (20.0, 25.0, 25.0), "far": far}
        share.append(sum((sample(head, seed, **settings)[1] > 0).float().mean() for seed in range(6)))
    assert share[1] < 0.8 * share[0]


def test_a_batch_is_a_function_of_its_generator(head: HeadMap) -> None:
    synthesizer = Synthesizer(ANATOMY, SynthesisSettings(shape=(32, 32, 32)))
    bank = HeadBank([head, head])
    one, again, other = (
        synthesizer.batch(bank, [0, 1, 0], torch.Generator().manual_seed(s)) for s in (3, 3, 4)
    )
    assert torch.equal(one[0], again[0]) and torch.equal(one[1], again[1])
    assert not torch.equal(one[0], other[0])
    assert one[0].shape == one[1].shape == (3, 1, 32, 32, 32)
    assert not torch.equal(one[0][0], one[0][2]), "samples of one head differ"


def test_a_bank_looks_up_each_head_by_itself(head: HeadMap) -> None:
    other = HeadMap(head.tissue[:50].clone(), head.structure[:50].clone(), head.centre)
    bank = HeadBank([head, other])
    points = (
        torch.tensor([[-5.0, 40.2, 69.0], [49.6, 3.0, 500.0]]).T[None, :, :, None, None].repeat(2, 1, 1, 1, 1)
    )
    found = bank.structure[bank.nearest([0, 1], points)][..., 0, 0]
    for row, chosen in zip(found, (head, other), strict=True):
        edges = [n - 1 for n in chosen.structure.shape]
        expected = [
            chosen.structure[
                min(max(round(float(x)), 0), edges[0]),
                min(round(float(y)), edges[1]),
                min(round(float(z)), edges[2]),
            ]
            for x, y, z in points[0, :, :, 0, 0].T
        ]
        assert row.tolist() == [int(e) for e in expected]


class NoiseWithoutValues(Draw):
    """Draws noise on the meta device, whose tensors hold no values: any question after one fails."""

    def __init__(self, generator: torch.Generator, count: int, device: torch.device) -> None:
        super().__init__(generator, count, torch.device("cpu"))
        self.device = device

    def field(self, *shape: int) -> torch.Tensor:
        return torch.empty(self.count, *shape, device=self.device)


def test_choices_are_made_without_asking_the_device(head: HeadMap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "Draw", NoiseWithoutValues)
    often = ("skull_strip", "rough_strip", "deface", "crop", "wrap", "thick_slices", "ringing", "motion")
    settings = SynthesisSettings(shape=(32, 32, 32), **dict.fromkeys(often, 1.0))
    bank = HeadBank([head.to("meta")])
    image, target = Synthesizer(ANATOMY, settings).batch(bank, [0, 0], torch.Generator().manual_seed(0))
    assert image.is_meta and image.shape == target.shape == (2, 1, 32, 32, 32)


@pytest.mark.parametrize("axes", ["LIA", "PSR"])
def test_a_head_map_is_read_in_any_orientation(head: HeadMap, axes: str, tmp_path: Path) -> None:
    turned = read_head_map(write_head(tmp_path / "turned.nii.gz", axes), ANATOMY)
    assert torch.equal(turned.tissue, head.tissue)
    assert torch.equal(turned.structure, head.structure)


def test_unknown_labels_and_coarse_voxels_are_refused(tmp_path: Path) -> None:
    labels = head_labels()
    labels[0, 0, 0] = 999
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "unknown.nii.gz")
    nib.save(nib.Nifti1Image(head_labels(), np.diag([2.0, 2, 2, 1])), tmp_path / "coarse.nii.gz")
    with pytest.raises(StudyError, match="999"):
        read_head_map(tmp_path / "unknown.nii.gz", ANATOMY)
    with pytest.raises(StudyError, match="resample to 1 mm"):
        read_head_map(tmp_path / "coarse.nii.gz", ANATOMY)


def test_every_structure_of_the_table_has_a_tissue_to_learn_from() -> None:
    learnt = set(ANATOMY.structure_of.values()) - {0}
    assert learnt == {s.value for s in ANATOMY.table}
    assert max(SHAPE) < 256


def test_border_weights_change_the_target_and_not_the_image(head: HeadMap) -> None:
    still = {**STILL, "texture": 0.05}
    image, target = sample(head, **still)
    same_image, redrawn = sample(head, **still, border_weights={"cerebral white matter": 0.5})
    assert torch.equal(image, same_image)
    white = [value("left cerebral white matter"), value("right cerebral white matter")]
    before, after = (torch.isin(t, torch.tensor(white, dtype=torch.uint8)) for t in (target, redrawn))
    assert 0.5 < after.sum() / before.sum() < 0.98
    assert torch.equal(after & ~before, torch.zeros_like(after))
