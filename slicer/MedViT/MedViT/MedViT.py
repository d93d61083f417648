"""The MedViT module of 3D Slicer: a volume and a bundle go in, segmentation, volumes and report come out."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import qt
import vtk
from MedViTLib.compute import BundleInfo, Engine, Job, Result
from MedViTLib.errors import Cancelled, MedViTError
from MedViTLib.local import LocalEngine
from MedViTLib.server import ServerEngine
from MedViTLib.terminology import Terminology
from MedViTLib.volume import Volume
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

import slicer

RESOURCES = Path(__file__).parent / "Resources"
TERMINOLOGY = RESOURCES / "SegmentationCategoryTypeModifier-MedViT.term.json"


class MedViT(ScriptedLoadableModule):
    """What 3D Slicer shows of the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "MedViT"
        parent.categories = ["Segmentation"]
        parent.dependencies = ["Segmentations", "Terminologies"]
        parent.contributors = ["The medvit developers"]
        parent.helpText = (
            "Segments or restores a volume with a bundle of medvit, on this computer or on a server. "
            "For research and teaching; not a medical device."
        )
        parent.acknowledgementText = "medvit stands on MONAI."
        slicer.app.connect("startupCompleted()", load_terminology)


def load_terminology():
    """Offer the structures of the bundles in Slicer's terminology selector."""
    slicer.modules.terminologies.logic().LoadTerminologyFromFile(str(TERMINOLOGY))


@contextmanager
def errors_shown():
    """Show what the person at the viewer can put right; anything else goes to Slicer's log."""
    try:
        yield
    except MedViTError as error:
        slicer.util.errorDisplay(str(error), windowTitle="MedViT")


class MedViTWidget(ScriptedLoadableModuleWidget):
    """The panel: inputs, bundle, run and cancel, volumes, report."""

    def setup(self):
        """Build the panel, when the module is opened for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(str(RESOURCES / "UI" / "MedViT.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = MedViTLogic()
        self.job = None
        self.report = None
        self._read_settings()
        self.ui.refreshButton.connect("clicked()", self.refresh)
        self.ui.runButton.connect("clicked()", self.run)
        self.ui.cancelButton.connect("clicked()", self.cancel)
        self.ui.reportButton.connect("clicked()", self.open_report)
        self.ui.inputSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.update_buttons)
        self.ui.bundleComboBox.connect("currentIndexChanged(int)", self.update_buttons)
        self.ui.serverRadioButton.connect("toggled(bool)", self.forget_bundles)
        # Python's threads only go on while Slicer runs Python code, so the timer lends them time.
        self.timer = qt.QTimer()
        self.timer.setInterval(100)
        self.timer.connect("timeout()", self.poll)
        self.bundles = []
        self.update_buttons()

    def cleanup(self):
        """End what is under way and remove its files, when Slicer closes."""
        self.timer.stop()
        if self.job is not None:
            self.job.cancel()
            self.job.wait(5.0)
        self.logic.remove_files()

    def engine(self) -> Engine:
        """The way to compute that is chosen."""
        if self.ui.serverRadioButton.checked:
            return ServerEngine(self.ui.serverLineEdit.text, self.ui.tokenLineEdit.text)
        return LocalEngine(
            self.ui.medvitPathLineEdit.currentPath or "medvit", slicer.util.startupEnvironment()
        )

    def refresh(self):
        """Ask which bundles there are."""
        self.forget_bundles()
        with errors_shown():
            self.bundles = self.engine().bundles()
            self._write_settings()
        for bundle in self.bundles:
            self.ui.bundleComboBox.addItem(bundle.name)
        self.update_buttons()

    def forget_bundles(self, *_):
        """Empty the choice of bundles: those of one engine are not those of another."""
        self.bundles = []
        self.ui.bundleComboBox.clear()
        self.update_buttons()

    def run(self):
        """Start the chosen bundle on the chosen volume."""
        node, bundle = self.ui.inputSelector.currentNode(), self._bundle()
        with errors_shown():
            self.job = self.logic.start(node, self.engine(), bundle.name)
            self.node_id = node.GetID()
            self._show_volumes(None)
            self.timer.start()
        self.update_buttons()

    def cancel(self):
        """End the job."""
        if self.job is not None:
            self.job.cancel()

    def poll(self):
        """Show how far the job is, and what came of it when it has ended."""
        if not self.job.wait(0.05):
            share = self.job.share
            self.ui.statusLabel.text = self.job.stage
            self.ui.progressBar.setMaximum(0 if share is None else 100)
            self.ui.progressBar.setValue(0 if share is None else round(100 * share))
            return
        self.timer.stop()
        job, self.job = self.job, None
        self.ui.statusLabel.text = "failed"
        try:
            with errors_shown():
                self.ui.statusLabel.text = self._finish(job)
        finally:
            self.update_buttons()

    def open_report(self):
        """Show the report in the browser."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self.report)))

    def update_buttons(self, *_):
        """Enable what can be done now."""
        busy, bundle = self.job is not None, self._bundle()
        self.ui.runButton.enabled = (
            not busy and bundle is not None and bool(self.ui.inputSelector.currentNode())
        )
        self.ui.cancelButton.enabled = busy
        self.ui.refreshButton.enabled = not busy
        self.ui.progressBar.visible = busy
        self.ui.reportButton.enabled = self.report is not None
        self.ui.bundleLabel.text = f"{bundle.task}\n{bundle.quality}".strip() if bundle else ""

    def _bundle(self) -> BundleInfo | None:
        index = self.ui.bundleComboBox.currentIndex
        return self.bundles[index] if 0 <= index < len(self.bundles) else None

    def _finish(self, job: Job) -> str:
        try:
            result = job.result()
        except Cancelled:
            return "cancelled"
        node = slicer.mrmlScene.GetNodeByID(self.node_id)
        if node is None:
            raise MedViTError("the volume was removed from the scene meanwhile, so its result has no place")
        self.logic.show(result, node)
        self._show_volumes(result)
        return "\n".join(["done", *result.notes])

    def _show_volumes(self, result: Result | None):
        self.report = result.report if result else None
        rows = list(result.volumes_ml.items()) if result else []
        self.ui.volumesTable.setRowCount(len(rows))
        for row, (name, volume) in enumerate(rows):
            self.ui.volumesTable.setItem(row, 0, qt.QTableWidgetItem(name))
            self.ui.volumesTable.setItem(row, 1, qt.QTableWidgetItem(f"{volume:.2f}"))
        self.ui.volumesTable.resizeColumnsToContents()

    def _read_settings(self):
        settings = qt.QSettings()
        self.ui.medvitPathLineEdit.currentPath = settings.value(
            "MedViT/executable", shutil.which("medvit") or ""
        )
        self.ui.serverLineEdit.text = settings.value("MedViT/server", "http://127.0.0.1:8000")
        at_server = settings.value("MedViT/engine", "local") == "server"
        self.ui.serverRadioButton.checked = at_server
        self.ui.localRadioButton.checked = not at_server

    def _write_settings(self):
        # The token is a secret and is asked for again.
        settings = qt.QSettings()
        settings.setValue("MedViT/executable", self.ui.medvitPathLineEdit.currentPath)
        settings.setValue("MedViT/server", self.ui.serverLineEdit.text)
        settings.setValue("MedViT/engine", "server" if self.ui.serverRadioButton.checked else "local")


class MedViTLogic(ScriptedLoadableModuleLogic):
    """Between the scene and the engines; usable from scripts without the panel."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self.terminology = Terminology(TERMINOLOGY)
        self._folders = []

    def start(self, node, engine: Engine, bundle: str) -> Job:
        """Run `bundle` on a volume node in the background; `Job.wait` tells when it has ended."""
        volume = self.volume_of(node)
        folder = Path(tempfile.mkdtemp(prefix="medvit-"))
        self._folders.append(folder)

        def compute(job: Job) -> Result:
            try:
                return engine.run(bundle, volume, folder, job)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise

        return Job(compute).start()

    def remove_files(self):
        """Remove reports and whatever else the runs left on disk."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        self._folders.clear()

    def volume_of(self, node) -> Volume:
        """The voxels of a volume node, copied, so that the scene may change while medvit computes."""
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        if node.GetImageData() is None:
            raise MedViTError(f"{node.GetName()} holds no voxels; choose another volume")
        array = np.array(slicer.util.arrayFromVolume(node))
        return Volume.from_mrml(array, slicer.util.arrayFromVTKMatrix(matrix), node.GetName())

    def show(self, result: Result, node):
        """Put a result into the scene, where `node` is, and give its node."""
        shown = self._show_segmentation(result, node) if result.labels else self._show_image(result, node)
        # A parent transform moves both, and was no part of what medvit saw.
        shown.SetAndObserveTransformNodeID(node.GetTransformNodeID())
        hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
        beside = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(shown), beside)
        return shown

    def _show_image(self, result: Result, node):
        array, ijk_to_ras = result.volume.to_mrml()
        restored = slicer.util.addVolumeFromArray(array, ijk_to_ras, f"{node.GetName()} restored")
        slicer.util.setSliceViewerLayers(background=restored)
        return restored

    def _show_segmentation(self, result: Result, node):
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

    def _color_table(self, labels: tuple[str, ...]):
        colors = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLColorTableNode", "MedViT colors")
        colors.SetTypeToUser()
        colors.SetNumberOfColors(len(labels) + 1)
        colors.SetColor(0, "background", 0.0, 0.0, 0.0, 0.0)
        for value, name in enumerate(labels, start=1):
            colors.SetColor(value, name, *self.terminology.term(name, value).color, 1.0)
        return colors

    def _code_segments(self, segmentation, labels: tuple[str, ...]):
        for index in range(segmentation.GetNumberOfSegments()):
            segment = segmentation.GetNthSegment(index)
            if segment.GetName() not in labels:
                raise MedViTError(
                    f"3D Slicer made a segment {segment.GetName()!r}, which the bundle does not have"
                )
            term = self.terminology.term(segment.GetName(), labels.index(segment.GetName()) + 1)
            segment.SetColor(*term.color)
            segment.SetTag(segment.GetTerminologyEntryTagName(), term.entry)


class MedViTTest(ScriptedLoadableModuleTest):
    """Self-test inside 3D Slicer; needs neither medvit nor a server."""

    IJK_TO_RAS = ((0.0, -0.8, 0.6, 12.0), (-2.0, 0.0, 0.0, -30.0), (0.0, 0.6, 0.8, 7.5), (0.0, 0.0, 0.0, 1.0))

    def setUp(self):
        """An oblique volume with permuted axes, alone in the scene."""
        slicer.mrmlScene.Clear()
        array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
        self.node = slicer.util.addVolumeFromArray(array, np.array(self.IJK_TO_RAS), "phantom")
        self.logic = MedViTLogic()

    def runTest(self):
        """All tests."""
        for test in (self.test_volume, self.test_segmentation, self.test_image, self.test_missing_command):
            self.setUp()
            test()
        self.delayDisplay("MedViT: all tests passed")

    def test_volume(self):
        """Voxel (i, j, k) of the volume is element [k, j, i] of Slicer's array, at the same place."""
        volume = self.logic.volume_of(self.node)
        self.assertEqual(volume.voxels.shape, (6, 5, 4))
        self.assertEqual(volume.voxels[5, 2, 1], 1 * 30 + 2 * 6 + 5)
        np.testing.assert_allclose(volume.affine, self.IJK_TO_RAS, atol=1e-9)

    def test_segmentation(self):
        """Where a label is absent, the others keep their names; each voxel stays where it was."""
        labels = ("left hippocampus", "right hippocampus", "a structure of one's own")
        voxels = np.zeros((6, 5, 4), np.uint8)
        voxels[1, 2, 3], voxels[4, 1, 0] = 2, 3
        shown = self.logic.show(Result(Volume(voxels, np.array(self.IJK_TO_RAS)), labels), self.node)
        segmentation = shown.GetSegmentation()
        self.assertEqual(segmentation.GetNumberOfSegments(), 2)
        for index, (name, where) in enumerate(((labels[1], (3, 2, 1)), (labels[2], (0, 1, 4)))):
            segment = segmentation.GetNthSegment(index)
            self.assertEqual(segment.GetName(), name)
            mask = slicer.util.arrayFromSegmentBinaryLabelmap(
                shown, segmentation.GetNthSegmentID(index), self.node
            )
            self.assertEqual([tuple(map(int, place)) for place in np.argwhere(mask)], [where])
        tag = vtk.reference("")
        segment = segmentation.GetNthSegment(0)
        segment.GetTag(segment.GetTerminologyEntryTagName(), tag)
        self.assertIn("~SCT^5366008^Hippocampus~SCT^24028007^Right~", str(tag))

    def test_image(self):
        """A restored image keeps its full precision."""
        voxels = np.full((6, 5, 4), 1 / 3, np.float32)
        shown = self.logic.show(Result(Volume(voxels, np.array(self.IJK_TO_RAS))), self.node)
        array = slicer.util.arrayFromVolume(shown)
        self.assertEqual(array.dtype, np.float32)
        self.assertEqual(array.min(), np.float32(1 / 3))

    def test_missing_command(self):
        """A command that is not there is one readable sentence."""
        job = self.logic.start(self.node, LocalEngine(os.devnull + "/medvit"), "segformer3d_brain")
        self.assertTrue(job.wait(30.0))
        with self.assertRaisesRegex(MedViTError, "there is no medvit command"):
            job.result()
