"""Results in the scene of 3D Slicer: segmentations with names, colours and codes, and restored volumes."""

from __future__ import annotations

from typing import Any

import slicer

from .compute import Result
from .errors import MedViTError
from .terminology import Terminology


class ScenePlacer:
    """Puts results into the scene.

    Parameters
    ----------
    terminology
        Colours and codes of the structures.
    """

    def __init__(self, terminology: Terminology) -> None:
        self.terminology = terminology

    def place(self, result: Result, node: Any, output: Any = None, show_3d: bool = False) -> Any:
        """Put a result beside `node`, the volume that it was made from, and give its node.

        Parameters
        ----------
        result
            A label map or a restored image.
        node
            The volume.
        output
            A segmentation whose segments are replaced; a new one is made where it is `None`. Restored images
            are always new volumes.
        show_3d
            Whether to show the segments as surfaces.
        """
        if not result.labels:
            shown = self._image(result, node)
        else:
            shown = self._segmentation(result, node)
            if output is not None:
                shown = self._moved_into(output, shown, node)
            if show_3d:
                shown.CreateClosedSurfaceRepresentation()
                shown.GetDisplayNode().SetVisibility3D(True)
        # A parent transform moves both, and was no part of what medvit saw.
        shown.SetAndObserveTransformNodeID(node.GetTransformNodeID())
        hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
        beside = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(shown), beside)
        return shown

    def _moved_into(self, output: Any, made: Any, node: Any) -> Any:
        """Replace the segments of `output` by those of `made`, once these are whole."""
        source, target = made.GetSegmentation(), output.GetSegmentation()
        names = [source.GetNthSegmentID(index) for index in range(source.GetNumberOfSegments())]
        target.RemoveAllSegments()
        output.SetReferenceImageGeometryParameterFromVolumeNode(node)
        for name in names:
            target.CopySegmentFromSegmentation(source, name)
        slicer.mrmlScene.RemoveNode(made)
        output.CreateDefaultDisplayNodes()
        return output

    def _image(self, result: Result, node: Any) -> Any:
        array, ijk_to_ras = result.volume.to_mrml()
        restored = slicer.util.addVolumeFromArray(array, ijk_to_ras, f"{node.GetName()} restored")
        slicer.util.setSliceViewerLayers(background=restored)
        return restored

    def _segmentation(self, result: Result, node: Any) -> Any:
        array, ijk_to_ras = result.volume.to_mrml()
        label_map = slicer.util.addVolumeFromArray(
            array, ijk_to_ras, "MedViT labels", "vtkMRMLLabelMapVolumeNode"
        )
        colors = self._color_table(result.labels)
        label_map.CreateDefaultDisplayNodes()
        label_map.GetDisplayNode().SetAndObserveColorNodeID(colors.GetID())
        shown = slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLSegmentationNode", f"{node.GetName()} segmentation"
        )
        try:
            shown.CreateDefaultDisplayNodes()
            shown.SetReferenceImageGeometryParameterFromVolumeNode(node)
            # Slicer names the segment of value k after row k of the colour table, if others are absent too.
            slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(label_map, shown)
            self._code_segments(shown.GetSegmentation(), result.labels)
        except BaseException:
            slicer.mrmlScene.RemoveNode(shown)
            raise
        finally:
            slicer.mrmlScene.RemoveNode(label_map)
            slicer.mrmlScene.RemoveNode(colors)
        return shown

    def _color_table(self, labels: tuple[str, ...]) -> Any:
        colors = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLColorTableNode", "MedViT colors")
        colors.SetTypeToUser()
        colors.SetNumberOfColors(len(labels) + 1)
        colors.SetColor(0, "background", 0.0, 0.0, 0.0, 0.0)
        for value, name in enumerate(labels, start=1):
            colors.SetColor(value, name, *self.terminology.term(name, value).color, 1.0)
        return colors

    def _code_segments(self, segmentation: Any, labels: tuple[str, ...]) -> None:
        for index in range(segmentation.GetNumberOfSegments()):
            segment = segmentation.GetNthSegment(index)
            if segment.GetName() not in labels:
                raise MedViTError(
                    f"3D Slicer made a segment {segment.GetName()!r}, which the bundle does not have"
                )
            term = self.terminology.term(segment.GetName(), labels.index(segment.GetName()) + 1)
            segment.SetColor(*term.color)
            segment.SetTag(segment.GetTerminologyEntryTagName(), term.entry)
