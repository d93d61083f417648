"""The module calls only what 3D Slicer's sources declare, by a list of names that were looked up there."""

import ast
import re
from pathlib import Path
from xml.etree import ElementTree

MODULE = Path(__file__).parents[2] / "slicer" / "MedViT" / "MedViT"
SOURCES = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(MODULE.rglob("*.py"))]
PANEL = MODULE / "Resources" / "UI" / "MedViT.ui"

#: Methods by the class that declares them.
METHODS = {
    "vtkMRMLScene": "AddNewNodeByClass Clear GetNodeByID GetSubjectHierarchyNode RemoveNode "
    "StartSaveEvent EndImportEvent",
    "vtkMRMLNode": "GetID GetName GetNodeReference SetNodeReferenceID",
    "vtkMRMLScriptedModuleNode": "GetParameter SetParameter",
    "vtkMRMLDisplayableNode": "CreateDefaultDisplayNodes GetDisplayNode",
    "vtkMRMLDisplayNode": "SetAndObserveColorNodeID SetVisibility3D",
    "vtkMRMLTransformableNode": "GetTransformNodeID SetAndObserveTransformNodeID",
    "vtkMRMLVolumeNode": "GetIJKToRASMatrix GetImageData",
    "vtkMRMLColorNode": "SetTypeToUser",
    "vtkMRMLColorTableNode": "SetColor SetNumberOfColors",
    "vtkMRMLSegmentationNode": "CreateClosedSurfaceRepresentation GetSegmentation "
    "SetReferenceImageGeometryParameterFromVolumeNode",
    "vtkMRMLSubjectHierarchyNode": "GetItemByDataNode GetItemParent SetItemParent",
    "vtkSegmentation": "CopySegmentFromSegmentation GetNthSegment GetNthSegmentID GetNumberOfSegments "
    "RemoveAllSegments",
    "vtkSegment": "GetName GetTag GetTerminologyEntryTagName SetColor SetTag",
    "vtkSlicerSegmentationsModuleLogic": "ImportLabelmapToSegmentationNode",
    "vtkSlicerTerminologiesModuleLogic": "LoadTerminologyFromFile",
}
#: Names by the module that Slicer brings.
MODULES = {
    "slicer": "app modules mrmlScene util",
    "slicer.app": "connect processEvents slicerUserSettingsFilePath",
    "slicer.modules": "segmentations terminologies segmentations.logic terminologies.logic",
    "slicer.util": "addVolumeFromArray arrayFromSegmentBinaryLabelmap arrayFromVTKMatrix arrayFromVolume "
    "childWidgetVariables errorDisplay loadUI setSliceViewerLayers startupEnvironment",
    "slicer.mrmlScene": METHODS["vtkMRMLScene"],
    "qt": "QDesktopServices QDesktopServices.openUrl QSettings QTableWidgetItem QTimer QUrl "
    "QUrl.fromLocalFile",
    "vtk": "reference vtkMatrix4x4",
}
#: Signals as PythonQt names them.
SIGNALS = {
    "startupCompleted()", "clicked()", "timeout()", "toggled(bool)", "currentIndexChanged(int)",
    "currentNodeChanged(vtkMRMLNode*)",
}  # fmt: skip
WIDGETS = {
    "ctkCollapsibleButton", "ctkPathLineEdit", "qMRMLCheckableNodeComboBox", "qMRMLNodeComboBox",
    "qMRMLWidget",
}  # fmt: skip
NODES = {
    "vtkMRMLColorTableNode",
    "vtkMRMLLabelMapVolumeNode",
    "vtkMRMLScalarVolumeNode",
    "vtkMRMLSegmentationNode",
}
#: Of Python's own library, written like a method of VTK.
PYTHONS = {"Lock", "Popen", "SubprocessError", "Thread", "TimeoutExpired"}


def attributes() -> set[str]:
    nodes = (node for source in SOURCES for node in ast.walk(source))
    return {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}


def texts() -> set[str]:
    nodes = (node for source in SOURCES for node in ast.walk(source) if isinstance(node, ast.Constant))
    return {str(node.value) for node in nodes}


def test_every_method_was_looked_up() -> None:
    used = {name.rpartition(".")[2] for name in attributes()}
    methods = {name for name in used if re.match(r"[A-Z][a-z]|GetID$|GetIJK", name)} - PYTHONS
    assert methods == set(" ".join(METHODS.values()).split())


def test_everything_from_slicers_modules_was_looked_up() -> None:
    through = {name for name in attributes() if re.match(r"(slicer|qt|vtk|ctk)\.[\w.]+$", name)}
    assert through <= {f"{module}.{name}" for module, names in MODULES.items() for name in names.split()}


def test_every_signal_node_and_widget_was_looked_up() -> None:
    assert {text for text in texts() if re.fullmatch(r"\w+\([\w*, ]*\)", text)} <= SIGNALS
    assert {text for text in texts() if re.fullmatch(r"vtkMRML\w+", text)} <= NODES
    panel = ElementTree.parse(PANEL)
    classes = {widget.get("class", "") for widget in panel.iter("widget")}
    assert {name for name in classes if not name.startswith("Q")} == WIDGETS
    kinds = {kind.text for kind in panel.iter("string") if (kind.text or "").startswith("vtkMRML")}
    assert kinds <= NODES
