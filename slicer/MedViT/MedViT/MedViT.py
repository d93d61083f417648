"""The MedViT module of 3D Slicer: a volume and a bundle go in, segmentation, volumes and report come out."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import qt
import vtk
from MedViTLib import state
from MedViTLib.compute import AS_THE_BUNDLE_HAS_IT, BundleInfo, Engine, Job, Result, Settings
from MedViTLib.environment import Environment
from MedViTLib.errors import Cancelled, MedViTError
from MedViTLib.local import LocalEngine
from MedViTLib.scene import ScenePlacer
from MedViTLib.server import ServerEngine
from MedViTLib.structures import subset
from MedViTLib.terminology import Terminology
from MedViTLib.volume import Volume
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

import slicer

RESOURCES = Path(__file__).parent / "Resources"
LIGHTS = {"green": "#2e7d32", "amber": "#b26a00", "red": "#c62828"}
TERMINOLOGY = RESOURCES / "SegmentationCategoryTypeModifier-MedViT.term.json"


class MedViT(ScriptedLoadableModule):
    """The entry of the module in 3D Slicer."""

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
        parent.acknowledgementText = "medvit is built on MONAI."
        slicer.app.connect("startupCompleted()", load_terminology)


def load_terminology():
    """Offer the structures of the bundles in Slicer's terminology selector."""
    slicer.modules.terminologies.logic().LoadTerminologyFromFile(str(TERMINOLOGY))


@contextmanager
def errors_shown():
    """Show errors that the user can put right; any other goes to Slicer's log."""
    try:
        yield
    except MedViTError as error:
        slicer.util.errorDisplay(str(error), windowTitle="MedViT")


class MedViTWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: inputs, bundle, run and cancel, volumes, report."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)

    def setup(self):
        """Build the panel, when the module is opened for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(str(RESOURCES / "UI" / "MedViT.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = MedViTLogic()
        self.job = self.report = self.bundle = None
        self.bundles, self.queue = [], deque()
        self._read_settings()
        buttons = (
            ("refreshButton", self.refresh), ("runButton", self.run), ("cancelButton", self.cancel),
            ("reportButton", self.open_report), ("installButton", self.install),
            ("sampleButton", self.load_sample),
        )  # fmt: skip
        for name, do in buttons:
            getattr(self.ui, name).connect("clicked()", do)
        self.ui.inputSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.update_buttons)
        self.ui.bundleComboBox.connect("currentIndexChanged(int)", self.show_bundle)
        self.ui.serverRadioButton.connect("toggled(bool)", self.forget_bundles)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartSaveEvent, self.save_choices)
        self.addObserver(scene, scene.EndImportEvent, self.restore_choices)
        # Python's threads only go on while Slicer runs Python code, so the timer lends them time.
        self.timer = qt.QTimer()
        self.timer.setInterval(100)
        self.timer.connect("timeout()", self.poll)
        self.restore_choices()
        self.update_buttons()

    def cleanup(self):
        """Cancel the running job and remove its files, when Slicer closes."""
        self.timer.stop()
        self.removeObservers()
        self.queue.clear()
        if self.job is not None:
            self.job.cancel()
            self.job.wait(5.0)
        self.logic.remove_files()

    def exit(self):
        """Keep the choices when another module is opened."""
        self.save_choices()

    def save_choices(self, *_):
        """Put the choices into the scene."""
        state.save(self.ui, self.logic.getParameterNode())

    def restore_choices(self, *_):
        """Take the choices from the scene."""
        state.restore(self.ui, self.logic.getParameterNode())
        state.restore_listed(self.ui, self.logic.getParameterNode(), "bundle")

    def engine(self) -> Engine:
        """The way to compute that is chosen."""
        if self.ui.serverRadioButton.checked:
            return ServerEngine(self.ui.serverLineEdit.text, self.ui.tokenLineEdit.text)
        return LocalEngine(
            self.ui.medvitPathLineEdit.currentPath or "medvit", slicer.util.startupEnvironment()
        )

    def environment(self) -> Environment:
        """The environment that the panel installs medvit into."""
        folder = Path(slicer.app.slicerUserSettingsFilePath).parent / "MedViT-environment"
        return Environment(folder, slicer.util.startupEnvironment())

    def install(self):
        """Install or upgrade medvit in its separate environment."""
        environment, source = self.environment(), self.ui.packageLineEdit.text

        def installed(versions: dict) -> str:
            self.ui.medvitPathLineEdit.currentPath = str(environment.command)
            self._write_settings()
            self._show_versions(versions)
            return "installed; now list the bundles"

        self._follow(Job(lambda job: environment.install(source, job)).start(), installed)

    def load_sample(self):
        """Load the sample head of 3D Slicer, which it downloads the first time."""
        import SampleData

        self.ui.inputSelector.setCurrentNode(SampleData.downloadSample("MRHead"))

    def refresh(self):
        """Ask which bundles there are."""
        self.forget_bundles()
        with errors_shown():
            self.bundles = self.engine().bundles()
            self._write_settings()
            if not self.ui.serverRadioButton.checked:
                self._show_versions(self.environment().versions())
        for bundle in self.bundles:
            self.ui.bundleComboBox.addItem(bundle.name)
        state.restore_listed(self.ui, self.logic.getParameterNode(), "bundle")
        self.show_bundle()

    def forget_bundles(self, *_):
        """Empty the choice of bundles: those of one engine are not those of another."""
        self.bundles = []
        self.ui.bundleComboBox.clear()
        self.show_bundle()

    def show_bundle(self, *_):
        """Describe the chosen bundle, and offer its versions."""
        bundle = self._bundle()
        self.ui.bundleLabel.text = f"{bundle.task}\n{bundle.quality}".strip() if bundle else ""
        self.ui.versionComboBox.clear()
        for version in bundle.versions if bundle else ():
            self.ui.versionComboBox.addItem(version)
        state.restore_listed(self.ui, self.logic.getParameterNode(), "version")
        self.update_buttons()

    def settings(self) -> Settings:
        """How to run the bundle, as it is set in the panel."""
        device, at_server = self.ui.deviceComboBox.currentText, self.ui.serverRadioButton.checked
        return Settings(
            "" if device == "auto" else device, self.ui.overlapLineEdit.text.strip(),
            bool(self.ui.ttaCheckBox.checked), self.ui.versionComboBox.currentText if at_server else "",
        )  # fmt: skip

    def run(self):
        """Run the chosen bundle on the chosen volume, and then on each of the further ones."""
        first = self.ui.inputSelector.currentNode()
        further = [n for n in self.ui.furtherSelector.checkedNodes() if n.GetID() != first.GetID()]
        self.queue = deque(node.GetID() for node in (first, *further))
        self.output_id = getattr(self.ui.outputSelector.currentNode(), "GetID", lambda: None)()
        self.bundle = self._bundle()
        self._show_volumes(None)
        self._next()

    def cancel(self):
        """End the job, and begin no further one."""
        self.queue.clear()
        if self.job is not None:
            self.job.cancel()

    def poll(self):
        """Show the progress of the job, and its result when it has ended."""
        ended = self.job.wait(0.05)
        self.ui.logTextEdit.plainText = "\n".join(self.job.log[-500:])
        if not ended:
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
        if self.queue:
            self._next()

    def open_report(self):
        """Show the report in the browser."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self.report)))

    def update_buttons(self, *_):
        """Enable the buttons that can be used now."""
        busy = self.job is not None
        ready = self._bundle() is not None and bool(self.ui.inputSelector.currentNode())
        self.ui.runButton.enabled = not busy and ready
        self.ui.cancelButton.enabled = busy
        self.ui.refreshButton.enabled = self.ui.installButton.enabled = not busy
        self.ui.progressBar.visible = busy
        self.ui.reportButton.enabled = self.report is not None

    def _next(self):
        """Begin with the next volume of the queue."""
        self.node_id = self.queue.popleft()
        node = slicer.mrmlScene.GetNodeByID(self.node_id)
        with errors_shown():
            if node is None:
                raise MedViTError("a volume was removed from the scene before its turn")
            settings = self.settings()
            self._follow(self.logic.start(node, self.engine(), self.bundle.name, settings), self._place)
        self.update_buttons()

    def _follow(self, job: Job, finish):
        self.job, self._when_done = job, finish
        self.timer.start()
        self.update_buttons()

    def _finish(self, job: Job) -> str:
        try:
            return self._when_done(job.result())
        except Cancelled:
            return "cancelled"

    def _place(self, result: Result) -> str:
        """Show a result, and return the remarks on it."""
        node = slicer.mrmlScene.GetNodeByID(self.node_id)
        if node is None:
            raise MedViTError("the volume was removed from the scene meanwhile, so its result has no place")
        # Of several volumes only the first goes into the chosen segmentation.
        output, self.output_id = slicer.mrmlScene.GetNodeByID(self.output_id or ""), None
        structures = self.ui.structuresLineEdit.text
        self.logic.show(result, node, output, structures, bool(self.ui.show3DCheckBox.checked))
        self._show_volumes(result)
        return "\n".join([f"{node.GetName()}: done", *result.notes])

    def _show_volumes(self, result: Result | None):
        self.report = result.report if result else None
        verdict = result.verdict if result else ""
        self.ui.verdictLabel.text = verdict
        self.ui.verdictLabel.styleSheet = (
            f"font-weight: bold; color: {LIGHTS.get(verdict.split(':')[0], 'gray')}"
        )
        shown = subset(result, self.ui.structuresLineEdit.text) if result and result.labels else result
        rows = list(shown.volumes_ml.items()) if shown else []
        self.ui.volumesTable.setRowCount(len(rows))
        for row, (name, volume) in enumerate(rows):
            self.ui.volumesTable.setItem(row, 0, qt.QTableWidgetItem(name))
            self.ui.volumesTable.setItem(row, 1, qt.QTableWidgetItem(f"{volume:.2f}"))
        self.ui.volumesTable.resizeColumnsToContents()

    def _show_versions(self, versions: dict):
        said = ", ".join(f"{name} {version}" for name, version in versions.items())
        self.ui.versionsLabel.text = said or "not installed from here"

    def _bundle(self) -> BundleInfo | None:
        index = self.ui.bundleComboBox.currentIndex
        return self.bundles[index] if 0 <= index < len(self.bundles) else None

    def _read_settings(self):
        settings = qt.QSettings()
        self.ui.medvitPathLineEdit.currentPath = settings.value(
            "MedViT/executable", shutil.which("medvit") or ""
        )
        self.ui.serverLineEdit.text = settings.value("MedViT/server", "http://127.0.0.1:8000")
        self.ui.packageLineEdit.text = settings.value("MedViT/package", checkout())
        at_server = settings.value("MedViT/engine", "local") == "server"
        self.ui.serverRadioButton.checked = at_server
        self.ui.localRadioButton.checked = not at_server

    def _write_settings(self):
        # The token is a secret and is asked for again.
        settings = qt.QSettings()
        settings.setValue("MedViT/executable", self.ui.medvitPathLineEdit.currentPath)
        settings.setValue("MedViT/server", self.ui.serverLineEdit.text)
        settings.setValue("MedViT/package", self.ui.packageLineEdit.text)
        settings.setValue("MedViT/engine", "server" if self.ui.serverRadioButton.checked else "local")


def checkout() -> str:
    """The checkout of medvit that this module is a part of; empty where it came as an extension."""
    folder = Path(__file__).resolve().parents[3]
    return str(folder) if (folder / "pyproject.toml").is_file() else ""


class MedViTLogic(ScriptedLoadableModuleLogic):
    """Between the scene and the engines; usable from scripts without the panel."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self.placer = ScenePlacer(Terminology(TERMINOLOGY))
        self._folders = []

    def start(self, node, engine: Engine, bundle: str, settings: Settings = AS_THE_BUNDLE_HAS_IT) -> Job:
        """Run `bundle` on a volume node in the background; `Job.wait` tells when it has ended."""
        volume = self.volume_of(node)
        folder = Path(tempfile.mkdtemp(prefix="medvit-"))
        self._folders.append(folder)

        def compute(job: Job) -> Result:
            try:
                return engine.run(bundle, volume, folder, job, settings)
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

    def show(self, result: Result, node, output=None, structures: str = "", show_3d: bool = False):
        """Put a result into the scene, where `node` is, and give its node; see `ScenePlacer.place`."""
        if result.labels:
            result = subset(result, structures)
        return self.placer.place(result, node, output, show_3d)


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
        """Run all tests."""
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
