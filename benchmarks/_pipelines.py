"""The same inference by medvit, MONAI, nnU-Net v2 and TorchIO, for `inference.py`."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    SaveImaged,
    ScaleIntensityd,
    Spacingd,
)
from torch import Tensor

from medvit.inference import Execution, StreamingWindowInferer
from medvit.networks.segformer3d import EfficientAttention, Fusion, SegFormer3D
from medvit.studies import Grid, find_studies, read_study, write_label_map
from medvit.transforms import resample_image

Predict = Callable[[Tensor], Tensor]
TO_RAS = {"axcodes": "RAS", "labels": (("L", "R"), ("P", "A"), ("I", "S"))}


def as_published(network: SegFormer3D) -> SegFormer3D:
    """The network in the order of the paper: scores in memory, maps joined and then mixed."""

    def attend(self: EfficientAttention, x: Tensor) -> Tensor:
        source = x
        if self.reduce is not None and self.reduce_norm is not None:
            source = self.reduce_norm(self.reduce(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1))
        key, value = self.key_value(source).chunk(2, dim=-1)
        scores = self._heads(self.query(x)) @ self._heads(key).transpose(-2, -1) * self.scale
        return self.proj((scores.softmax(-1) @ self._heads(value)).transpose(1, 2).reshape(x.shape))

    def fuse(self: Fusion, levels: Sequence[Tensor]) -> Tensor:
        size = levels[0].shape[1:4]
        projected = [
            norm(project(level)).permute(0, 4, 1, 2, 3)
            for level, project, norm in zip(levels, self.project, self.project_norm, strict=True)
        ]
        joined = [F.interpolate(p, size=size, mode="trilinear", align_corners=False) for p in projected]
        return F.relu(self.mix_norm(self.mix(torch.cat(joined[::-1], dim=1))))

    for module in network.modules():
        if isinstance(module, EfficientAttention):
            module.forward = types.MethodType(attend, module)
        elif isinstance(module, Fusion):
            module.forward = types.MethodType(fuse, module)
    return network


def medvit_windows(
    image: Tensor, predict: Predict, roi: Sequence[int], overlap: float, execution: Execution | None = None
) -> np.ndarray:
    return StreamingWindowInferer(roi, overlap, execution=execution).segment(image, predict)


@torch.no_grad()
def monai_windows(image: Tensor, predict: Predict, roi: Sequence[int], overlap: float) -> np.ndarray:
    logits = SlidingWindowInferer(roi, 1, overlap, mode="gaussian")(image[None], predict)
    return logits.softmax(1).argmax(1)[0].numpy()


def nnunet_windows(image: Tensor, predict: Predict, roi: Sequence[int], overlap: float) -> np.ndarray:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(1 - overlap, True, False, True, torch.device("cpu"), allow_tqdm=False)
    predictor.network = predict
    predictor.configuration_manager = types.SimpleNamespace(patch_size=list(roi))
    predictor.label_manager = types.SimpleNamespace(num_segmentation_heads=predict.classes)
    return predictor.predict_sliding_window_return_logits(image).argmax(0).numpy()


@torch.no_grad()
def torchio_windows(image: Tensor, predict: Predict, roi: Sequence[int], overlap: float) -> np.ndarray:
    import torchio

    subject = torchio.Subject(image=torchio.ScalarImage(tensor=image))
    steps = [int(r * overlap) // 2 * 2 for r in roi]
    sampler = torchio.GridSampler(subject, tuple(roi), tuple(steps))
    aggregator = torchio.GridAggregator(sampler, overlap_mode="hann")
    for patch in torchio.SubjectsLoader(sampler, batch_size=1):
        aggregator.add_batch(predict(patch["image"]["data"]), patch["location"])
    return aggregator.get_output_tensor().argmax(0).numpy()


def medvit_to_source(image: MetaTensor, predict: Predict, roi: Sequence[int], target: Grid) -> np.ndarray:
    return StreamingWindowInferer(roi, 0.25).segment(image, predict, target)


@torch.no_grad()
def monai_to_source(image: MetaTensor, predict: Predict, roi: Sequence[int], target: Grid) -> np.ndarray:
    """Logits of the whole volume, linear inversion of them all, argmax: `Invertd` without its copies."""
    from monai.transforms import SpatialResample

    logits = SlidingWindowInferer(roi, 1, 0.25, mode="gaussian")(image[None], predict)[0]
    affine = torch.from_numpy(target.affine)
    resample = SpatialResample(mode="bilinear", padding_mode="border", dtype=np.float32)
    return resample(MetaTensor(logits, affine=image.affine), affine, target.shape).argmax(0).numpy()


@torch.no_grad()
def monai_bundle_to_source(
    image: MetaTensor, predict: Predict, roi: Sequence[int], target: Grid
) -> np.ndarray:
    """Softmax maps of the whole volume, `Invertd`, argmax, as bundles of the model zoo do it."""
    before = Spacingd("image", pixdim=Grid(target.shape, image.affine.numpy()).spacing, mode="bilinear")
    source = MetaTensor(torch.zeros(1, *target.shape), affine=torch.from_numpy(target.affine))
    case = before({"image": source})
    case["image"].copy_(image)
    case["pred"] = SlidingWindowInferer(roi, 1, 0.25, mode="gaussian")(case["image"][None], predict)[0]
    case["pred"] = case["pred"].softmax(0)
    invert = Invertd("pred", before, orig_keys="image", nearest_interp=False, to_tensor=True)
    return AsDiscreted("pred", argmax=True)(invert(case))["pred"][0].numpy()


def nnunet_to_source(
    image: MetaTensor, predict: Predict, roi: Sequence[int], target: Grid, kind: str = "default"
) -> np.ndarray:
    """Logits of the whole volume, nnU-Net's export resampling (default: scikit-image; or torch), argmax."""
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
    from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet

    with torch.no_grad():
        logits = SlidingWindowInferer(roi, 1, 0.25, mode="gaussian")(image.as_tensor()[None], predict)[0]
    before, after = Grid(tuple(image.shape[1:]), image.affine.numpy()).spacing, target.spacing
    if kind == "torch":
        return resample_torch_fornnunet(logits, target.shape, before, after).argmax(0).numpy()
    resampled = resample_data_or_seg_to_shape(
        logits.numpy(), target.shape, before, after, is_seg=False, order=1, order_z=0, force_separate_z=None
    )
    return resampled.argmax(0)


def medvit_file(path: Path, out: Path, predict: Predict, roi: Sequence[int], overlap: float) -> Path:
    study = read_study(find_studies([path]).studies[0])
    image = Orientationd("image", **TO_RAS)({"image": study.image})["image"]
    image = resample_image(image, (1, 1, 1))
    image = ScaleIntensityd("image")({"image": image})["image"]
    labels = StreamingWindowInferer(roi, overlap).segment(image, predict, study.grid)
    return write_label_map(out / "medvit.nii.gz", labels, study)


def monai_file(
    path: Path, out: Path, predict: Predict, roi: Sequence[int], overlap: float, order: str
) -> Path:
    """As bundles of the model zoo do it: ``"logits"`` inverts linearly, then argmax; ``"labels"`` nearest."""
    before = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", **TO_RAS),
            Spacingd("image", pixdim=(1, 1, 1), mode="bilinear"),
            ScaleIntensityd("image"),
        ]
    )
    case = before({"image": str(path)})
    with torch.no_grad():
        case["pred"] = SlidingWindowInferer(roi, 1, overlap, mode="gaussian")(case["image"][None], predict)[0]
    case["pred"] = case["pred"].softmax(0)
    invert = Invertd("pred", before, orig_keys="image", nearest_interp=order == "labels", to_tensor=True)
    discrete = AsDiscreted("pred", argmax=True)
    where = {"output_dir": str(out), "output_postfix": order, "separate_folder": False}
    save = SaveImaged("pred", print_log=False, **where)
    Compose([invert, discrete, save] if order == "logits" else [discrete, invert, save])(case)
    return out / f"{path.name.removesuffix('.nii.gz')}_{order}.nii.gz"
