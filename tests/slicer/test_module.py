"""The module as 3D Slicer would load it: its panel, what it puts into the scene, and its files."""

import ast
import importlib
import re
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from MedViTLib.compute import BundleInfo, Job, Result, Settings
from MedViTLib.errors import MedViTError
from MedViTLib.volume import Volume

from tests.slicer.conftest import MODULE
from tests.slicer.grids import AFFINES, phantom
from tests.slicer.stand_ins import Node, Scene, Segment, stand_ins

UI = MODULE / "Resources" / "UI" / "MedViT.ui"
LABELS = ("left hippocampus", "right hippocampus", "brain-stem")


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def module(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, module in stand_ins(scene, UI).items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("MedViT", "MedViTLib.scene"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module("MedViT")
    sys.modules.pop("MedViT", None)


@pytest.fixture
def node(scene: Scene) -> Node:
    volume = phantom("permuted")
    return scene.add_volume(*volume.to_mrml(), "head")


class Engine:
    """Gives a result, or an error."""

    def __init__(self, result: Result | Exception) -> None:
        self.result = result
        self.ran: list[tuple[str, Settings]] = []

    def bundles(self) -> list[BundleInfo]:
        return [BundleInfo("brain", "Segments", "Dice 0.9", ("2", "1"))]

    def run(self, bundle: str, volume: Volume, folder: Path, job: Job, settings: Settings) -> Result:
        self.ran.append((volume.name, settings))
        (folder / "report.html").write_text(bundle)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def two_of_three() -> Result:
    voxels = np.zeros((7, 6, 5), np.uint8)
    voxels[1, 2, 3], voxels[4, 1, 0] = 2, 3
    volumes = dict.fromkeys(LABELS, 1.25)
    return Result(
        Volume(voxels, AFFINES["permuted"]),
        LABELS,
        volumes,
        ("thick slices",),
        Path("report.html"),
        "amber: cut off",
    )


@contextmanager
def opened(module: Any, engine: Engine, node: Node | None) -> Iterator[Any]:
    """The panel with its bundles listed and a volume chosen."""
    widget = module.MedViTWidget()
    widget.layout = MagicMock()
    widget.setup()
    widget.engine = lambda: engine
    widget.ui.inputSelector.currentNode.return_value = node
    widget.ui.bundleComboBox.currentIndex = 0
    widget.refresh()
    yield widget
    widget.cleanup()


def finish(widget: Any) -> None:
    for _ in range(200):
        if widget.job is None:
            return
        widget.poll()
        time.sleep(0.01)
    pytest.fail("the job did not end")


def test_a_volume_node_becomes_a_volume(module: Any, node: Node) -> None:
    volume = module.MedViTLogic().volume_of(node)
    assert volume.same_grid(phantom("permuted"))
    np.testing.assert_array_equal(volume.voxels, phantom("permuted").voxels)
    node.array[:] = 0
    assert volume.voxels.max() > 0
    with pytest.raises(MedViTError, match="holds no voxels"):
        module.MedViTLogic().volume_of(Node("vtkMRMLScalarVolumeNode", "empty"))


def test_segments_get_names_colours_and_terminology_whichever_are_present(
    module: Any, scene: Scene, node: Node
) -> None:
    node.transform = "to the patient"
    shown = module.MedViTLogic().show(two_of_three(), node)
    assert [s.name for s in shown.segments] == list(LABELS[1:])
    assert [tuple(np.argwhere(s.mask)[0]) for s in shown.segments] == [(3, 2, 1), (0, 1, 4)]
    np.testing.assert_array_equal(shown.matrix, node.matrix)
    assert shown.segments[0].color == (1.0, 240 / 255, 0.0)
    assert "SCT^5366008^Hippocampus~SCT^24028007^Right" in shown.segments[0].tags["TerminologyEntry"]
    assert shown.transform == "to the patient"
    assert set(scene.nodes.values()) == {node, shown}


def test_a_segment_that_is_no_label_leaves_nothing_in_the_scene(
    module: Any, scene: Scene, node: Node
) -> None:
    strange = lambda _, segmentation: segmentation.segments.append(Segment("Label_7", np.ones(1)))  # noqa: E731
    module.slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode.side_effect = strange
    with pytest.raises(MedViTError, match="made a segment 'Label_7'"):
        module.MedViTLogic().show(two_of_three(), node)
    assert set(scene.nodes.values()) == {node}


def test_a_restored_image_becomes_a_volume_in_full_precision(module: Any, node: Node) -> None:
    voxels = np.random.default_rng(3).normal(size=(7, 6, 5)).astype(np.float32)
    shown = module.MedViTLogic().show(Result(Volume(voxels, AFFINES["permuted"])), node)
    assert (shown.kind, shown.name) == ("vtkMRMLScalarVolumeNode", "head restored")
    np.testing.assert_array_equal(shown.array, voxels.T)
    assert shown.array.dtype == np.float32


def test_the_panel_runs_a_bundle_and_shows_what_comes_back(module: Any, scene: Scene, node: Node) -> None:
    with opened(module, Engine(two_of_three()), node) as widget:
        assert widget.ui.runButton.enabled
        assert widget.ui.bundleLabel.text == "Segments\nDice 0.9"
        widget.run()
        assert widget.ui.cancelButton.enabled and not widget.ui.runButton.enabled
        finish(widget)
        assert widget.ui.statusLabel.text == "head: done\nthick slices"
        assert widget.ui.reportButton.enabled and widget.ui.runButton.enabled
        assert widget.ui.verdictLabel.text == "amber: cut off"
        cells = [call.args for call in widget.ui.volumesTable.setItem.call_args_list]
        assert cells[:2] == [(0, 0, "left hippocampus"), (0, 1, "1.25")]
        (folder,) = widget.logic._folders
        assert (folder / "report.html").is_file()
    assert not folder.exists()
    assert [n.name for n in scene.nodes.values()] == ["head", "head segmentation"]
    assert scene.errors == []


def test_further_volumes_follow_and_only_the_first_goes_into_the_chosen_segmentation(
    module: Any, scene: Scene, node: Node
) -> None:
    other = scene.add_volume(*phantom("permuted").to_mrml(), "other")
    output = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    output.segments = [Segment("earlier", np.ones(1))]
    engine = Engine(two_of_three())
    with opened(module, engine, node) as widget:
        widget.ui.furtherSelector.checkedNodes.return_value = (other, node)
        widget.ui.outputSelector.currentNode.return_value = output
        widget.ui.deviceComboBox.currentText = "cpu"
        widget.ui.overlapLineEdit.text = " 0.5"
        widget.ui.structuresLineEdit.text = "Hippocampus"
        widget.ui.show3DCheckBox.checked = True
        widget.run()
        finish(widget)
    assert engine.ran == [("head", Settings("cpu", "0.5")), ("other", Settings("cpu", "0.5"))]
    assert [s.name for s in output.segments] == ["right hippocampus"] and output.surfaces
    names = [n.name for n in scene.nodes.values() if n.kind == "vtkMRMLSegmentationNode"]
    assert names == ["mine", "other segmentation"]
    assert scene.errors == []


def test_what_cannot_be_run_is_said_and_nothing_is_begun(module: Any, scene: Scene, node: Node) -> None:
    engine = Engine(two_of_three())
    with opened(module, engine, node) as widget:
        widget.ui.overlapLineEdit.text = "1.5"
        widget.run()
        assert widget.job is None and engine.ran == []
    assert scene.errors == ["the overlap is '1.5'; give a number from 0 to below 1, such as 0.5"]


def test_the_choices_are_saved_with_the_scene(module: Any, scene: Scene, node: Node) -> None:
    with opened(module, Engine(two_of_three()), node) as widget:
        widget.ui.ttaCheckBox.checked, widget.ui.overlapLineEdit.text = True, "0.5"
        widget.ui.bundleComboBox.currentText = "brain"
        widget.ui.tokenLineEdit.text = "s3cret"
        widget.save_choices()
    assert "s3cret" not in str(scene.parameters.texts)
    with opened(module, Engine(two_of_three()), None) as widget:
        assert widget.ui.ttaCheckBox.checked is True and widget.ui.overlapLineEdit.text == "0.5"
        assert widget.ui.show3DCheckBox.checked is False
        widget.ui.inputSelector.setCurrentNode.assert_called_with(node)
        widget.ui.bundleComboBox.findText.assert_called_with("brain")


def test_structures_are_named_with_or_without_their_side(module: Any) -> None:
    from MedViTLib.structures import subset, wanted

    assert wanted("", LABELS) == LABELS
    assert wanted("hippocampus", LABELS) == LABELS[:2]
    assert wanted(" Brain-Stem , left hippocampus", LABELS) == (LABELS[0], LABELS[2])
    with pytest.raises(MedViTError, match="no structure 'liver'"):
        wanted("liver", LABELS)
    kept = subset(two_of_three(), "brain-stem")
    assert set(np.unique(kept.volume.voxels)) == {0, 3} and list(kept.volumes_ml) == ["brain-stem"]


def test_the_panel_shows_an_error_and_keeps_nothing(module: Any, scene: Scene, node: Node) -> None:
    with opened(module, Engine(MedViTError("no signal")), node) as widget:
        widget.run()
        finish(widget)
        assert scene.errors == ["no signal"]
        assert widget.ui.statusLabel.text == "failed"
        assert not widget.ui.reportButton.enabled
        assert not widget.logic._folders[0].exists()
        assert widget.ui.runButton.enabled


def test_a_volume_that_was_removed_meanwhile(module: Any, scene: Scene, node: Node) -> None:
    with opened(module, Engine(two_of_three()), node) as widget:
        widget.run()
        scene.RemoveNode(node)
        finish(widget)
    assert scene.errors == ["the volume was removed from the scene meanwhile, so its result has no place"]
    assert not scene.nodes


def test_without_a_volume_nothing_can_be_run(module: Any) -> None:
    with opened(module, Engine(two_of_three()), None) as widget:
        assert not widget.ui.runButton.enabled


def test_the_self_test_passes_on_the_stand_ins(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    module.MedViTTest().runTest()
    assert "all tests passed" in capsys.readouterr().out


def test_the_panel_only_uses_widgets_of_its_ui_file() -> None:
    root = ET.parse(UI).getroot()
    assert root.findtext("class") == "MedViT"
    classes = {widget.get("name"): widget.get("class") for widget in root.iter("widget")}
    source = (MODULE / "MedViT.py").read_text()
    used = set(re.findall(r"self\.ui\.(\w+)", source))
    state = (MODULE / "MedViTLib" / "state.py").read_text()
    used |= set(re.findall(r'"(\w+(?:Button|Box|Edit|Selector))"', state + source))
    assert used <= set(classes)
    interactive = {
        name
        for name, kind in classes.items()
        if kind not in ("QLabel", "qMRMLWidget", "ctkCollapsibleButton")
    }
    assert interactive <= used
    custom = {c.findtext("class") for c in root.iter("customwidget")}
    assert {kind for kind in classes.values() if kind and not kind.startswith("Q")} == custom


def test_the_build_installs_every_file() -> None:
    listed = set(
        re.findall(r"^\s+([\w/$.{}-]+\.\w+)$", (MODULE / "CMakeLists.txt").read_text(), re.MULTILINE)
    )
    files = (p for p in MODULE.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    present = {p.relative_to(MODULE).as_posix() for p in files} - {"CMakeLists.txt"}
    assert {name.replace("${MODULE_NAME}", "MedViT") for name in listed} == present


@pytest.mark.parametrize("path", sorted(MODULE.rglob("*.py")), ids=lambda p: p.name)
def test_the_source_is_for_the_python_of_slicer(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level}
    modules |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    ours = {"numpy", "qt", "slicer", "vtk", "SampleData", "MedViTLib"}
    assert {str(m).partition(".")[0] for m in modules} <= ours | set(sys.stdlib_module_names)
    # Without this import, annotations such as `X | None` would be evaluated, which Python 3.9 cannot.
    assert "__future__" in modules or not any(isinstance(n, ast.FunctionDef) for n in ast.walk(tree))
