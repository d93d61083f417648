"""Labels in the study's grid are those of inverting the logits with MONAI and taking the argmax."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, CropForegroundd, Invertd, Orientationd, Spacingd, SpatialPadd

from medvit.errors import StudyError
from medvit.inference import Execution, StreamingWindowInferer, Volume
from medvit.studies.study import Grid
from tests.inference.cases import GRIDS, OBLIQUE, Thresholds, affine, study

ROI = (24, 20, 16)
TO_RAS = Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))


def spacing(diagonal: bool = False) -> Spacingd:
    return Spacingd("image", pixdim=(1.3, 1.1, 1.2), mode="bilinear", diagonal=diagonal)


PREPROCESSING = {
    "spacing": Compose([TO_RAS, spacing()]),
    "cropped and padded": Compose(
        [TO_RAS, spacing(), CropForegroundd("image", "image", margin=2), SpatialPadd("image", (48, 30, 30))]
    ),
    "rotated to the patient's axes": Compose([TO_RAS, spacing(diagonal=True)]),
}


@torch.no_grad()
def stock_logits(image: torch.Tensor) -> torch.Tensor:
    return SlidingWindowInferer(ROI, 1, 0.5, mode="gaussian")(image[None], Thresholds())[0]


@pytest.mark.parametrize("steps", PREPROCESSING)
@pytest.mark.parametrize("name", GRIDS)
def test_equals_inversion_of_logits(name: str, steps: str) -> None:
    case = PREPROCESSING[steps]({"image": study(GRIDS[name])})
    case["logits"] = stock_logits(case["image"])
    invert = Invertd("logits", PREPROCESSING[steps], orig_keys="image", nearest_interp=False)
    expected = invert(case)["logits"].argmax(0).numpy()
    for axis in (0, 2):
        found = StreamingWindowInferer(ROI, axis=axis).infer(case["image"], Thresholds(), GRIDS[name])
        rotated = "oblique" in name and "rotated" in steps
        assert found.report.target == ("oblique" if rotated else "axis-aligned")
        assert (found.labels == expected).mean() >= 0.9999
        assert len(np.unique(expected)) == 5


def test_a_grid_of_the_same_voxels_takes_the_direct_path() -> None:
    grid = GRIDS["left_handed"]
    image = TO_RAS({"image": study(grid)})["image"]
    inferer = StreamingWindowInferer(ROI)
    found = inferer.infer(image, Thresholds(), grid)
    direct = inferer(image[None], Thresholds())[0, 0].numpy()
    assert found.report.target == "same voxels"
    assert np.array_equal(found.labels, direct[::-1])


@pytest.mark.parametrize("directions", [np.eye(3), OBLIQUE], ids=["aligned", "oblique"])
def test_outside_of_the_image_is_background(directions: np.ndarray) -> None:
    image = MetaTensor(torch.full((1, 20, 20, 20), 3.0), affine=torch.eye(4, dtype=torch.float64))
    around = affine(directions, (1.0, 1.0, 1.0))
    around[:3, 3] = 9.5 - around[:3, :3] @ np.full(3, 19.5)
    target = Grid((40, 40, 40), around)
    index = np.stack(np.meshgrid(*[np.arange(40)] * 3, indexing="ij"), -1)
    where = index @ around[:3, :3].T + around[:3, 3]
    labels = StreamingWindowInferer((16, 16, 16)).segment(image, lambda x: torch.cat([-x, x], 1), target)
    outside = np.abs(where - 9.5).max(-1)
    assert (labels[outside < 9.99] == 1).all()
    assert (labels[outside > 10.01] == 0).all()


@pytest.mark.parametrize("directions", [np.eye(3), OBLIQUE], ids=["aligned", "oblique"])
def test_refuses_a_target_elsewhere(directions: np.ndarray) -> None:
    elsewhere = affine(directions, (1.0, 1.0, 1.0))
    elsewhere[:3, 3] += 300
    target = Grid((20, 20, 20), elsewhere)
    with pytest.raises(StudyError, match="same study"):
        StreamingWindowInferer(ROI).segment(study(GRIDS["axial"]), Thresholds(), target)


def test_skipped_windows_leave_background_in_the_source_grid() -> None:
    image = study(GRIDS["axial"]).as_tensor()
    image = MetaTensor(torch.cat([torch.zeros(1, 40, 44, 36), image, torch.zeros(1, 40, 44, 36)], 1))
    target = Grid((75, 30, 60), np.diag([1.6, 1.4, 0.6, 1.0]))
    plain, skipping = (StreamingWindowInferer((12, 16, 16), skip=r, axis=0) for r in (None, "constant"))
    expected = plain.segment(image, Thresholds(), target)
    assert (skipping.segment(image, Thresholds(), target) == expected).mean() > 0.9999
    assert skipping.report.skipped > 0


def test_goes_to_the_grid_that_monai_noted_of_the_file() -> None:
    grid = GRIDS["permuted"]
    image = PREPROCESSING["cropped and padded"]({"image": study(grid)})["image"]
    labels = StreamingWindowInferer(ROI, grid="source")(image[None], Thresholds())
    assert labels.shape == (1, 1, *grid.shape)
    assert np.allclose(labels[0].affine, grid.affine)
    assert np.array_equal(labels[0, 0], StreamingWindowInferer(ROI).segment(image, Thresholds(), grid))
    with pytest.raises(StudyError, match="LoadImaged"):
        StreamingWindowInferer(ROI, grid="source")(torch.zeros(1, 1, 20, 20, 20), Thresholds())


def test_a_map_in_the_source_grid_is_that_of_inverted_logits() -> None:
    grid = GRIDS["anisotropic"]
    case = PREPROCESSING["spacing"]({"image": study(grid)})
    case["logits"] = stock_logits(case["image"])
    invert = Invertd("logits", PREPROCESSING["spacing"], orig_keys="image", nearest_interp=False)
    inverted = invert(case)["logits"]
    found = StreamingWindowInferer(ROI, maps=("probability:3",)).infer(case["image"], Thresholds(), grid)
    assert np.allclose(found.maps["probability:3"], inverted.softmax(0)[3], atol=1e-4)


def test_an_image_on_disk_is_read_slab_by_slab(tmp_path) -> None:
    image = study(GRIDS["axial"])
    expected = StreamingWindowInferer(ROI, axis=2).segment(image, Thresholds())
    stored = np.memmap(tmp_path / "image.raw", np.float32, "w+", shape=(40, 44, 36), order="F")
    stored[:] = image[0].numpy() * 10
    out = np.memmap(tmp_path / "labels.raw", np.uint8, "w+", shape=(40, 44, 36))
    depths = []

    def scale(slab: torch.Tensor) -> torch.Tensor:
        depths.append(slab.shape[3])
        return slab / 10

    volume = Volume(stored, GRIDS["axial"].affine, channel_first=False, prepare=scale)
    labels = StreamingWindowInferer(ROI, axis=2).segment(volume, Thresholds(), out=out)
    assert labels is out
    assert (np.asarray(out) == expected).mean() > 0.9999
    assert max(depths) == ROI[2]
    with pytest.raises(ValueError, match="shape"):
        StreamingWindowInferer(ROI).segment(volume, Thresholds(), out=np.zeros((3, 3, 3), np.uint8))


@pytest.mark.parametrize("name", GRIDS)
def test_all_classes_at_once_give_what_single_classes_give(name: str) -> None:
    """Blocks of another size and form, as on a GPU: the same labels but for near-ties, the same maps."""
    image = study(GRIDS[name])
    prepared = Spacingd("image", pixdim=(1.3, 1.2, 1.4), mode="bilinear")({"image": image})["image"]
    found = {}
    for block_bytes in (4 * 700, 1 << 26):
        execution = Execution(block_bytes=block_bytes)
        inferer = StreamingWindowInferer(ROI, maps=("entropy", "probability:2"), execution=execution)
        found[block_bytes] = inferer.infer(prepared, Thresholds(), GRIDS[name])
    small, large = found.values()
    assert (small.labels != large.labels).mean() < 1e-4
    assert len(np.unique(large.labels)) == 5
    for map_name in small.maps:
        assert np.allclose(small.maps[map_name], large.maps[map_name], atol=2e-6)
