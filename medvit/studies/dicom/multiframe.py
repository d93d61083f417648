"""Enhanced multi-frame objects: the planes that their functional groups describe (PS3.3 C.7.6.16)."""

from __future__ import annotations

from typing import Any

from medvit.studies.dicom.headers import Attributes, Header
from medvit.studies.dicom.planes import (
    Plane,
    check_grey,
    frame_shape,
    oriented,
    positioned,
    rescaled,
    spaced,
    thick,
)

_FRAME_TYPES = (
    "CTImageFrameTypeSequence",
    "MRImageFrameTypeSequence",
    "PETFrameTypeSequence",
    "XRay3DFrameTypeSequence",
)


def planes(header: Header) -> list[Plane]:
    """One plane for each frame.

    Raises
    ------
    StudyError
        If the groups do not match the frames, or the place or values of a frame are in doubt.
    """
    frames, rows, columns = frame_shape(header)
    check_grey(header)
    shared = header.items("SharedFunctionalGroupsSequence")
    per_frame = header.items("PerFrameFunctionalGroupsSequence")
    if len(per_frame) != frames:
        what = f"{len(per_frame)} functional groups for {frames} frames"
        raise header.fault("dicom-frames-without-place", what, "PerFrameFunctionalGroupsSequence")
    return [
        _plane(header, index, (rows, columns), _Groups(header, own, shared))
        for index, own in enumerate(per_frame)
    ]


class _Groups:
    """The functional groups of one frame; its own take precedence over the shared ones."""

    def __init__(self, header: Header, own: Attributes, shared: list[Attributes]) -> None:
        self._header = header
        self._sources = [own, *shared]

    def find(self, keyword: str) -> Attributes | None:
        for source in self._sources:
            if items := source.items(keyword):
                return items[0]
        return None

    def need(self, keyword: str) -> Attributes:
        item = self.find(keyword)
        if item is None:
            raise self._header.fault(
                "dicom-missing-attribute", "the functional group is missing or empty", keyword
            )
        return item

    def number(self, group: str, keyword: str) -> float | None:
        item = self.find(group)
        return None if item is None else item.number(keyword)


def _plane(header: Header, index: int, shape: tuple[int, int], groups: _Groups) -> Plane:
    measures = groups.need("PixelMeasuresSequence")
    frame_type = next((f for name in _FRAME_TYPES if (f := groups.find(name))), None)
    kind = header.image_type if frame_type is None else tuple(frame_type.text("FrameType").split("\\"))
    return Plane(
        header=header,
        frame=index,
        shape=shape,
        position=positioned(groups.need("PlanePositionSequence")),
        orientation=oriented(groups.need("PlaneOrientationSequence")),
        spacing=spaced(measures),
        thickness=thick(measures),
        rescale=rescaled(groups.find("PixelValueTransformationSequence")),
        kind=kind,
        marks=_marks(groups),
    )


def _marks(groups: _Groups) -> dict[str, Any]:
    diffusion = groups.find("MRDiffusionSequence")
    reconstruction = groups.find("CTReconstructionSequence")
    gradient = diffusion.items("DiffusionGradientDirectionSequence") if diffusion else []
    return {
        "time": groups.number("FrameContentSequence", "TemporalPositionIndex"),
        "echo time": groups.number("MREchoSequence", "EffectiveEchoTime"),
        "b-value": diffusion.number("DiffusionBValue") if diffusion else None,
        "gradient": gradient[0].numbers("DiffusionGradientOrientation") if gradient else None,
        "trigger time": groups.number("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
        "acquisition": groups.number("FrameContentSequence", "FrameAcquisitionNumber"),
        "kVp": groups.number("CTXRayDetailsSequence", "KVP"),
        "kernel": (reconstruction.text("ConvolutionKernel") or None) if reconstruction else None,
    }
