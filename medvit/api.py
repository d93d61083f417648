"""The public interface: from an image to a segmentation or a restored image in one call.

Importing this module imports neither torch nor monai; the first call does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from medvit.errors import MedvitError
from medvit.studies.in_memory import study_in_memory
from medvit.studies.study import Study

if TYPE_CHECKING:
    import SimpleITK
    from nibabel.nifti1 import Nifti1Image

    from medvit.bundles import Result
    from medvit.reports import StudyReport
    from medvit.runs import StudyWriter


@dataclass(frozen=True, repr=False)
class _Outcome:
    """A result and its assessment, on the grid of the input unless the bundle refines it.

    Parameters
    ----------
    result
        Study, voxels and bundle.
    writer
        Writer of the results, as the command uses it.
    """

    result: Result
    writer: StudyWriter

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.result.voxels.shape))
        return f"{type(self).__name__}({self.result.study.id!r}, {size} voxels, by {self.result.bundle.name})"

    @property
    def affine(self) -> np.ndarray:
        """4x4, voxel index to RAS+ patient millimetres."""
        return self.result.grid.affine

    @property
    def notes(self) -> tuple[str, ...]:
        """Decisions of the reader and the gate that the user should know."""
        return self.result.study.notes

    @cached_property
    def report(self) -> StudyReport:
        """Measurements and quality control, from which the report files are written."""
        return self.writer.report(self.result)

    @property
    def light(self) -> str:
        """The verdict of quality control: ``"green"``, ``"amber"`` or ``"red"``."""
        return self._quality["light"]

    @property
    def findings(self) -> list[str]:
        """Reasons for doubt, the most serious first, each in one English sentence."""
        return [flag["seen"] for flag in self._quality["flags"]]

    def to_nibabel(self) -> Nifti1Image:
        """The result as an image of nibabel."""
        import nibabel

        return nibabel.Nifti1Image(self._stored, self.affine)

    def to_sitk(self) -> SimpleITK.Image:
        """The result as an image of SimpleITK."""
        from medvit.studies.grids import to_sitk

        return to_sitk(self._stored, self.result.grid)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write to ``folder/STUDY`` what ``medvit run`` would: result, measurements and report.

        Parameters
        ----------
        folder
            Folder of all results; the study's own is created in it.
        overwrite
            Replace results of another input or bundle, and files that no run has made; they are kept
            otherwise.

        Returns
        -------
        Path
            The folder of the study.

        Raises
        ------
        MedvitError
            If ``folder/STUDY`` holds what must stay, or not everything could be written.
        """
        return self.writer.save(self.result, folder, overwrite=overwrite)

    @property
    def _stored(self) -> np.ndarray:
        return self.result.voxels

    @cached_property
    def _quality(self) -> dict[str, Any]:
        from medvit.reports import to_json

        return to_json(self.report)["quality"]


@dataclass(frozen=True, repr=False)
class SegmentedImage(_Outcome):
    """A label map on the grid of the input, with names, volumes and findings."""

    @cached_property
    def labels(self) -> np.ndarray:
        """(X, Y, Z) label map, uint8 where that holds all values, else uint16."""
        assert self.result.table is not None, "a segmentation has a label table"
        values = self.result.table.to_files(self._kept[0])
        return values.astype(np.uint8 if max(self.names, default=0) < 256 else np.uint16)

    @property
    def names(self) -> dict[int, str]:
        """Name of each label value."""
        return self._kept[1]

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Volume of each structure in millilitres."""
        kept = set(self.names.values())
        return {name: ml for name, ml in self.result.volumes_ml.items() if name in kept}

    @cached_property
    def _kept(self) -> tuple[np.ndarray, dict[int, str]]:
        assert self.result.table is not None, "a segmentation has a label table"
        return self.writer.kept(self.result.voxels, self.result.table)

    @property
    def _stored(self) -> np.ndarray:
        return self.labels


@dataclass(frozen=True, repr=False)
class RestoredImage(_Outcome):
    """A restored image in the intensities of the input; super-resolution gives it a finer grid."""

    @property
    def image(self) -> np.ndarray:
        """(X, Y, Z) float32."""
        return self.result.voxels


class Segmenter:
    """A bundle whose network stays loaded: one call per study, from any number of threads.

    Parameters
    ----------
    bundle
        Name of an installed bundle, or a bundle folder with `trust`. It may restore images as well.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:N"``, ``"gpu"`` or ``"mps"``.
    trust
        Run the configuration of a folder that was not installed with medvit.
    amp
        ``"bf16"`` or, on a GPU, ``"fp16"`` for half precision; ``"off"`` for float32.
    tf32
        Whether a GPU may round the factors of float32 products to 10 bits.
    backend
        Engine that runs the network on a CPU: ``"torch"``, ``"openvino"``, ``"onnxruntime"`` or ``"auto"``.
    structures
        Only these structures in labels, names, volumes and what `save` writes; a name without its side stands
        for both sides. Findings still refer to the whole label map.
    separate
        Whether `save` also writes a mask of each structure.
    options
        Values of the bundle's configuration by identifier, such as ``overlap``, ``tta`` or ``force``.

    Raises
    ------
    MedvitError
        If there is no such bundle, device or option, or the weights do not fit.

    Examples
    --------
    >>> import medvit
    >>> segmenter = medvit.Segmenter("segformer3d_brain", device="cpu")
    >>> result = segmenter("head.nii.gz")  # doctest: +SKIP
    """

    def __init__(
        self,
        bundle: str,
        device: str = "auto",
        *,
        trust: bool = False,
        amp: str = "off",
        tf32: bool = False,
        backend: str = "torch",
        structures: Sequence[str] | str = (),
        separate: bool = False,
        **options: Any,
    ) -> None:
        from medvit.runs.options import (
            checked_device,
            checked_overlap,
            execution_settings,
            named_structures,
        )

        for name, value in {"trust": trust, "tf32": tf32, "separate": separate}.items():
            _check_switch(name, value)
        device, names = checked_device(str(device)), named_structures(structures)
        checked_overlap(options.get("overlap"))
        from medvit.bundles import find_bundle, open_bundle
        from medvit.errors import did_you_mean

        if device != "auto":
            options["device"] = f"$torch.device({device!r})"
        found = find_bundle(bundle, trust=trust)
        known = open_bundle(found)
        for name in options:
            if name.partition("#")[0] not in known:
                hint = did_you_mean(name, known.names)
                raise MedvitError(f"bundle {found.name} has no option {name!r}{hint}")
            if isinstance(known.stated(name), bool):
                _check_switch(name, options[name])
        if names or separate:
            found.structures(names)
            options |= {"writer#options#structures": names, "writer#options#separate": separate}
        self.bundle = found
        execution = execution_settings(amp, tf32, backend)
        self._opened = open_bundle(found, input=[], **options, **execution)
        self._opened.part("inferer").execution.check(self._opened.part("device"))
        self._opened.part("network")
        # The inferer reports on its last study, and a second study at once would need twice the memory.
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"Segmenter({self.bundle.name!r}, device={str(self._opened.part('device'))!r})"

    def __call__(
        self, image: Any, affine: np.ndarray | None = None, *, name: str = "image"
    ) -> SegmentedImage | RestoredImage:
        """Segment or restore one study.

        Parameters
        ----------
        image
            Path of a file, or of a folder that holds one study; an image of nibabel or SimpleITK, a
            MetaTensor (C, X, Y, Z) or (X, Y, Z), or an array (X, Y, Z), or (C, X, Y, Z) for several images.
        affine
            4x4, voxel index to RAS+ millimetres; required with an array, refused with anything else.
        name
            Name of an image in memory, under which `save` files it.

        Raises
        ------
        StudyError
            If the study cannot be read, or the bundle is not intended for it.
        MedvitError
            If the image is of another type, or an affine is missing.
        """
        from medvit.bundles import segment

        study = image if isinstance(image, str | Path | Study) else study_in_memory(image, affine, name)
        with self._lock:
            return self._outcome(segment(self._opened, study))

    def map(
        self, images: Iterable[Any], *, return_exceptions: bool = False
    ) -> Iterator[SegmentedImage | RestoredImage | Exception]:
        """Segment or restore studies one after another, in their order.

        While the network runs on one study, the next is read and the previous one is finished; at most three
        are in memory.

        Parameters
        ----------
        images
            Studies as a call accepts them, except arrays; each is taken only when it is needed.
        return_exceptions
            Yield the exception of a failed study in place of its result and continue; otherwise it is raised,
            and no further study is processed.

        Raises
        ------
        StudyError
            If a study cannot be read, or the bundle is not intended for it.
        MedvitError
            If an image is of another type.
        """
        from medvit.bundles import segment_each

        studies = (_study_or_error(image, f"image_{n}") for n, image in enumerate(images))
        for result in segment_each(self._opened, studies, self._lock):
            if not isinstance(result, Exception):
                with self._lock:
                    outcome = self._outcome(result)
                yield outcome
            elif return_exceptions:
                yield result
            else:
                raise result

    def _outcome(self, result: Result) -> SegmentedImage | RestoredImage:
        kind = RestoredImage if result.table is None else SegmentedImage
        return kind(result, self._opened.part("writer"))


def _check_switch(name: str, value: Any) -> None:
    # Any text, "no" as well, would switch it on.
    if value not in (True, False):
        raise MedvitError(f"option {name!r} must be True or False, not {value!r}")


def _study_or_error(image: Any, name: str) -> Study | str | Path | Exception:
    try:
        return image if isinstance(image, str | Path | Study) else study_in_memory(image, name=name)
    except MedvitError as error:
        return error


def segment(
    image: Any, bundle: str, affine: np.ndarray | None = None, *, device: str = "auto", **options: Any
) -> SegmentedImage:
    """Segment one study; `Segmenter` keeps the network for the next one.

    Parameters
    ----------
    image, affine
        Same as in `Segmenter.__call__`.
    bundle, device, options
        Same as in `Segmenter`.

    Raises
    ------
    MedvitError
        As `Segmenter` does, or if the bundle restores images.
    """
    result = Segmenter(bundle, device, **options)(image, affine)
    if not isinstance(result, SegmentedImage):
        raise MedvitError(f"bundle {bundle} restores images: use medvit.restore")
    return result


def restore(
    image: Any, bundle: str, affine: np.ndarray | None = None, *, device: str = "auto", **options: Any
) -> RestoredImage:
    """Restore one image, such as a noisy one; parameters and errors are those of `segment`."""
    result = Segmenter(bundle, device, **options)(image, affine)
    if not isinstance(result, RestoredImage):
        raise MedvitError(f"bundle {bundle} segments: use medvit.segment")
    return result
