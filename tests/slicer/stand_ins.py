"""Stand-ins for the modules that 3D Slicer brings.

They do what the documentation of 3D Slicer says of each call; they are no proof that it works there.
"""

import re
import unittest
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np


class Node:
    """A node of the scene: voxels, a colour table or a segmentation."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind, self.name, self.id = kind, name, f"{kind}-{name}"
        self.transform: str | None = None
        self.array: Any = None
        self.matrix: Any = None
        self.colors: dict[int, tuple] = {}
        self.color_id = ""
        self.segments: list[Segment] = []
        self.surfaces = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("array", "matrix"):
            raise AttributeError(name)
        return MagicMock(name=name)

    def GetID(self) -> str:
        return self.id

    def GetName(self) -> str:
        return self.name

    def GetImageData(self) -> Any:
        return self.array

    def GetIJKToRASMatrix(self, matrix: Any) -> None:
        matrix.array = self.matrix

    def GetTransformNodeID(self) -> str | None:
        return self.transform

    def SetAndObserveTransformNodeID(self, transform: str | None) -> None:
        self.transform = transform

    def SetColor(self, value: int, name: str, *color: float) -> None:
        self.colors[value] = (name, color)

    def GetDisplayNode(self) -> "Node":
        return self

    def SetAndObserveColorNodeID(self, color_id: str) -> None:
        self.color_id = color_id

    def GetSegmentation(self) -> "Node":
        return self

    def GetNumberOfSegments(self) -> int:
        return len(self.segments)

    def RemoveAllSegments(self) -> None:
        self.segments.clear()

    def CopySegmentFromSegmentation(self, source: "Node", name: str) -> None:
        self.segments.append(next(s for s in source.segments if s.name == name))

    def CreateClosedSurfaceRepresentation(self) -> None:
        self.surfaces = True

    def GetNthSegmentID(self, index: int) -> str:
        return self.segments[index].name

    def GetNthSegment(self, index: int) -> "Segment":
        return self.segments[index]


class Segment:
    def __init__(self, name: str, mask: np.ndarray) -> None:
        self.name, self.mask = name, mask
        self.color: tuple = ()
        self.tags: dict[str, str] = {}

    def GetName(self) -> str:
        return self.name

    def SetColor(self, *color: float) -> None:
        self.color = color

    def GetTerminologyEntryTagName(self) -> str:
        return "TerminologyEntry"

    def SetTag(self, name: str, value: str) -> None:
        self.tags[name] = value

    def GetTag(self, name: str, value: "Reference") -> None:
        value.value = self.tags[name]


class Reference:
    """A value that a call can change, as VTK passes strings back."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __str__(self) -> str:
        return self.value


class SelfTest(unittest.TestCase):
    def delayDisplay(self, message: str) -> None:
        print(message)


class ParameterNode:
    """Texts and references to nodes, which a scene saves."""

    def __init__(self, scene: "Scene") -> None:
        self.scene = scene
        self.texts: dict[str, str] = {}
        self.references: dict[str, str | None] = {}

    def SetParameter(self, name: str, text: str) -> None:
        self.texts[name] = text

    def GetParameter(self, name: str) -> str:
        return self.texts.get(name, "")

    def SetNodeReferenceID(self, role: str, node_id: str | None) -> None:
        self.references[role] = node_id

    def GetNodeReference(self, role: str) -> Node | None:
        return self.scene.GetNodeByID(self.references.get(role) or "")


class Scene:
    """Nodes by identifier, and what `slicer.util` and the segmentations logic do with them."""

    StartSaveEvent, EndImportEvent = 1, 2

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.errors: list[str] = []
        self.parameters = ParameterNode(self)

    def AddNewNodeByClass(self, kind: str, name: str) -> Node:
        node = Node(kind, name)
        self.nodes[node.id] = node
        return node

    def Clear(self) -> None:
        self.nodes.clear()

    def RemoveNode(self, node: Node) -> None:
        del self.nodes[node.id]

    def GetNodeByID(self, node_id: str) -> Node | None:
        return self.nodes.get(node_id)

    def GetSubjectHierarchyNode(self) -> MagicMock:
        return MagicMock()

    def add_volume(
        self, array: np.ndarray, ijk_to_ras: np.ndarray, name: str, kind: str = "vtkMRMLScalarVolumeNode"
    ) -> Node:
        node = self.AddNewNodeByClass(kind, name)
        node.array, node.matrix = array, ijk_to_ras
        return node

    def import_label_map(self, label_map: Node, segmentation: Node) -> None:
        colors = self.nodes[label_map.color_id].colors
        for value in np.unique(label_map.array[label_map.array > 0]):
            segmentation.segments.append(Segment(colors[value][0], label_map.array == value))
        segmentation.matrix = label_map.matrix


class Panel(SimpleNamespace):
    """The widgets of the .ui file, and no other."""


def stand_ins(scene: Scene, ui: Path) -> dict[str, ModuleType]:
    """The modules that 3D Slicer brings."""
    slicer: Any
    qt: Any
    vtk: Any
    slicer, qt, vtk = (ModuleType(name) for name in ("slicer", "qt", "vtk"))
    scripted = ModuleType("slicer.ScriptedLoadableModule")
    for part in ("", "Widget", "Logic"):
        name = f"ScriptedLoadableModule{part}"
        base = {
            "__init__": lambda self, parent=None: None,
            "setup": lambda self: None,
            "getParameterNode": lambda self: scene.parameters,
        }
        setattr(scripted, name, type(name, (), base))
    scripted.ScriptedLoadableModuleTest = SelfTest  # type: ignore[attr-defined]
    names = re.findall(r'<widget class="\w+" name="(\w+)"', ui.read_text())
    slicer.mrmlScene = scene
    slicer.app = MagicMock()
    slicer.modules = SimpleNamespace(segmentations=MagicMock(), terminologies=MagicMock())
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode.side_effect = scene.import_label_map
    util: Any = ModuleType("slicer.util")
    util.VTKObservationMixin = type("VTKObservationMixin", (), {
        "__init__": lambda self: None, "addObserver": lambda *_: None, "removeObservers": lambda self: None,
    })  # fmt: skip
    slicer.util = util
    slicer.app.slicerUserSettingsFilePath = "Slicer.ini"
    for name, value in {
        "arrayFromVolume": lambda node: node.array,
        "arrayFromSegmentBinaryLabelmap": lambda node, name, _: next(
            s.mask for s in node.segments if s.name == name
        ),
        "arrayFromVTKMatrix": lambda matrix: matrix.array,
        "addVolumeFromArray": scene.add_volume,
        "setSliceViewerLayers": MagicMock(),
        "startupEnvironment": lambda: {},
        "loadUI": MagicMock(),
        "childWidgetVariables": lambda _: Panel(**{name: widget(name) for name in names}),
        "errorDisplay": lambda text, windowTitle: scene.errors.append(text),
    }.items():
        setattr(util, name, value)
    qt.QSettings = lambda: SimpleNamespace(
        value=lambda key, default: default, setValue=lambda key, value: None
    )
    qt.QDesktopServices = qt.QUrl = MagicMock()
    qt.QTimer, qt.QTableWidgetItem = MagicMock(), lambda text: text
    vtk.vtkMatrix4x4, vtk.reference = SimpleNamespace, Reference
    modules = {"slicer": slicer, "qt": qt, "vtk": vtk, "slicer.util": util}
    return {**modules, "slicer.ScriptedLoadableModule": scripted}


def widget(name: str) -> MagicMock:
    """A widget that nothing is chosen in."""
    made = MagicMock(name=name, currentIndex=-1, text="", currentText="", checked=False)
    made.currentNode.return_value = None
    made.checkedNodes.return_value = ()
    made.findText.return_value = -1
    return made
