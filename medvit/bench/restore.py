"""`medvit bench restore`: super-resolution bundles and classical upsampling on real studies made coarse."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.console import Console
from scipy import ndimage

from medvit.bench.upsampling import METHODS, Stacks, applied
from medvit.bundles import Bundle, find_bundle, open_bundle, segment
from medvit.errors import MedvitError, StudyError
from medvit.exits import ALL_WELL, SOME_FAILED
from medvit.metrics import dice, hfen, nrmse, psnr, ssim
from medvit.reports.tables import csv_text, plain
from medvit.studies import LoadedStudy, Study, find_studies, read_study
from medvit.studies.files import atomic_path, write_json
from medvit.studies.formats import meta_tensor
from medvit.studies.study import Grid, Series
from medvit.transforms.through_plane import Profile, SliceStack

SUPER_RESOLVED = "super-resolved"
_PROFILES = ("box", "gauss")
_NORMALS = {"sagittal": 0, "coronal": 1, "axial": 2}
_SCORES = {"psnr_db": "PSNR, dB", "ssim": "SSIM", "nrmse": "NRMSE", "hfen": "HFEN"}
# Studies whose own slices are thicker cannot stand for the truth.
_COARSEST_TRUTH = 1.3
_FOREGROUND = 0.1


@dataclass(frozen=True)
class RestoreOptions:
    """How studies are made coarse, and what is compared besides the images.

    Parameters
    ----------
    factor
        Voxels between the centres of neighbouring slices, 4 by default, or of neighbouring pixels, 2.
    thickness
        Thickness of a slice in voxels; the same by default.
    profile
        Sensitivity across a slice, see `SliceStack`.
    noise
        Standard deviation of the Rician noise of the coarse images, as a share of the brightest tissue.
    plane
        Plane of the slices.
    cut
        Edge in voxels of a cube in the middle of each study, to which the comparison is confined.
    segmenter
        Bundle whose label map of each result is compared with that of the true image.
    in_plane
        Whether the pixels of slices become coarse, and not the slices thick.
    """

    factor: int | None = None
    thickness: float | None = None
    profile: str = "box"
    noise: float = 0.0
    plane: str = "axial"
    cut: int | None = None
    segmenter: str | None = None
    in_plane: bool = False

    def __post_init__(self) -> None:
        if self.factor is not None and self.factor < 2:
            raise MedvitError(f"slices or pixels must be at least 2 voxels apart, not {self.factor}")
        if self.profile not in _PROFILES:
            raise MedvitError(f"the profile is {' or '.join(_PROFILES)}, not {self.profile!r}")
        if self.in_plane and (self.thickness is not None or self.profile != _PROFILES[0]):
            raise MedvitError("thickness and profile are those of slices, not of pixels within them")
        if self.plane not in _NORMALS:
            raise MedvitError(f"the plane is {', '.join(_NORMALS)}, not {self.plane!r}")
        if not 0 <= self.noise < 1:
            raise MedvitError(f"the noise is a share of the brightest tissue below 1, not {self.noise:g}")

    @property
    def step(self) -> int:
        """Voxels between neighbouring slices or pixels."""
        return self.factor or (2 if self.in_plane else 4)


@dataclass(frozen=True)
class Truth:
    """A real image, and what a coarser scan would show of it.

    Parameters
    ----------
    name
        Id of the study.
    image
        (X, Y, Z) over its 99.5 percentile, the slices' normal last.
    grid
        Grid of `image`.
    stacks
        The thick slices along the last axis, or the coarse pixels along the other two.
    samples
        Measured intensities.
    """

    name: str
    image: np.ndarray
    grid: Grid
    stacks: Stacks
    samples: np.ndarray

    @property
    def coarse_study(self) -> LoadedStudy:
        """What was measured, as a study."""
        affine = self.grid.affine.copy()
        for axis, stack in self.stacks.items():
            affine[:3, 3] += affine[:3, axis] * stack.first
            affine[:3, axis] *= stack.step / stack.spacing
        return _in_memory(self.samples, affine, self.name)

    def scores(self, restored: np.ndarray) -> dict[str, float]:
        """PSNR, SSIM, NRMSE and HFEN in the foreground; 1 is the 99.5 percentile of the true image."""
        mask = foreground(self.image)
        return {
            "psnr_db": psnr(restored[mask], self.image[mask], data_range=1),
            "ssim": ssim(restored, self.image, data_range=1, mask=mask),
            "nrmse": nrmse(restored, self.image, mask=mask),
            "hfen": hfen(restored, self.image, mask=mask),
        }


def _in_memory(image: np.ndarray, affine: np.ndarray, name: str) -> LoadedStudy:
    x, y, z = image.shape
    grid = Grid((x, y, z), affine)
    tensor = meta_tensor(np.ascontiguousarray(image[None], np.float32), grid, name)
    return LoadedStudy(name, (Series((), "memory"),), image=tensor, grid=grid)


def foreground(image: np.ndarray) -> np.ndarray:
    """Voxels of an image over its 99.5 percentile that belong to the head: air would flatter every score."""
    bright = ndimage.binary_opening(image > _FOREGROUND)
    return ndimage.binary_fill_holes(bright)


def make_truth(found: Study, options: RestoreOptions) -> Truth:
    """Make a real study coarse.

    Raises
    ------
    StudyError
        If its voxels are too coarse to stand for the truth, or it is too small.
    """
    study = read_study(found)
    if max(study.grid.spacing) > _COARSEST_TRUTH:
        what = f"voxels of {max(study.grid.spacing):.3g} mm are too coarse to stand for the truth"
        raise StudyError("coarse-truth", what, path=study.path, do="give images of about 1 mm")
    normal = int(np.abs(study.grid.affine[_NORMALS[options.plane], :3]).argmax())
    order = [a for a in range(3) if a != normal] + [normal]
    whole = study.image[0].numpy().transpose(order)
    bright = float(np.percentile(whole[whole > 0], 99.5))
    box = _box(whole.shape, options)
    image = (whole[box] / bright).clip(0)
    _check_size(image.shape, options, study.path)
    affine = study.grid.affine[:, [*order, 3]].copy()
    affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
    stacks = _stacks(image.shape, [study.grid.spacing[a] for a in order], options)
    # A scan in k-space gives magnitudes, so what rings below 0 is folded up.
    samples = np.abs(applied(SliceStack.acquire, image, stacks))
    if options.noise:
        generator = np.random.default_rng(0)
        parts = options.noise * generator.standard_normal((2, *samples.shape))
        samples = np.hypot(samples + parts[0], parts[1])
    x, y, z = image.shape
    return Truth(study.id, image, Grid((x, y, z), affine), stacks, samples)


def _coarse_axes(options: RestoreOptions) -> tuple[int, ...]:
    return (0, 1) if options.in_plane else (2,)


def _check_size(shape: tuple[int, ...], options: RestoreOptions, path: Path) -> None:
    for axis in _coarse_axes(options):
        if shape[axis] < 2 * options.step:
            what = "pixels along an axis of a slice" if options.in_plane else "slices"
            raise StudyError(
                "small-truth",
                f"the part that is compared has too few voxels for two {what}, {options.step} voxels apart",
                path=path,
                do="choose a smaller --factor or a larger --cut, or leave the study out",
            )


def _stacks(shape: tuple[int, ...], spacing: Sequence[float], options: RestoreOptions) -> Stacks:
    step, stacks = options.step, {}
    for axis in _coarse_axes(options):
        count, edge = shape[axis] // step, spacing[axis]
        if options.in_plane:
            stacks[axis] = SliceStack(count, step * edge, step * edge, count * step, edge, 0.0, "kspace")
        else:
            thickness = (options.thickness or step) * edge
            profile = cast(Profile, options.profile)
            stacks[axis] = SliceStack.centred(count, step * edge, thickness, edge, profile)
    return stacks


def _box(shape: tuple[int, ...], options: RestoreOptions) -> tuple[slice, ...]:
    """The part that is compared: the middle, and along the coarse axes whole slices or pixels."""
    edges = [min(options.cut or n, n) for n in shape]
    for axis in _coarse_axes(options):
        edges[axis] -= edges[axis] % options.step
    starts = [(n - edge) // 2 for n, edge in zip(shape, edges, strict=True)]
    return tuple(slice(start, start + edge) for start, edge in zip(starts, edges, strict=True))


def by_bundle(bundle: Bundle, truth: Truth, device: str = "auto") -> np.ndarray:
    """A bundle's estimate on the grid of the truth, through its own preprocessing and inference."""
    overrides: dict[str, Any] = {"force": True}
    if 2 in truth.stacks:
        overrides["spacing"] = truth.stacks[2].spacing
    if device != "auto":
        overrides["device"] = f"$torch.device({device!r})"
    result = segment(bundle, truth.coarse_study, **overrides)
    if result.grid.shape != truth.grid.shape:
        raise MedvitError(
            f"{bundle.name}: the estimate has {result.grid.shape} voxels, not {truth.grid.shape}"
        )
    return result.voxels


def bench_restore(
    inputs: Sequence[str | Path],
    output_dir: Path,
    options: RestoreOptions | None = None,
    *,
    bundles: Sequence[Bundle] = (),
    device: str = "auto",
) -> int:
    """Make real studies coarse, restore them in every way, and write ``restore.csv``, ``.json`` and ``.md``.

    Parameters
    ----------
    inputs
        Studies of about 1 mm, which stand for the truth.
    output_dir
        Folder for the tables.
    options
        How studies are made coarse.
    bundles
        Super-resolution bundles to compare.
    device
        Device of the bundles.

    Returns
    -------
    int
        Exit code: 0 all well, 3 a study could not be used.

    Raises
    ------
    MedvitError
        If there are no studies, or a bundle does not super-resolve.
    """
    options = options or RestoreOptions()
    for bundle in bundles:
        if bundle.facts.get("restoration") != SUPER_RESOLVED:
            raise MedvitError(f"bundle {bundle.name} does not super-resolve")
    found = find_studies(list(inputs))
    if not found.studies and not found.refused:
        raise MedvitError("there is no study to compare on")
    console = Console(stderr=True)
    segmenter = _Segmenter(options.segmenter, device) if options.segmenter else None
    rows: list[dict[str, Any]] = []
    failed = len(found.refused)
    for one in found.refused:
        console.print(f"FAILED {one.id}: {one.error}", style="red", markup=False, soft_wrap=True)
    for study in found.studies:
        try:
            for row in _rows(make_truth(study, options), bundles, segmenter, device):
                console.print(_said(row), markup=False, soft_wrap=True)
                rows.append(row)
        except StudyError as error:
            failed += 1
            console.print(f"FAILED {study.id}: {error}", style="red", markup=False, soft_wrap=True)
    if rows:
        _write(output_dir, rows, options)
    write_json(output_dir / "restore.json", plain({"options": asdict(options), "rows": rows}))
    return SOME_FAILED if failed else ALL_WELL


def _rows(
    truth: Truth, bundles: Sequence[Bundle], segmenter: _Segmenter | None, device: str
) -> Iterator[dict[str, Any]]:
    wanted = segmenter(truth.image, truth.grid) if segmenter else None
    ways: dict[str, Any] = {
        name: partial(method, truth.samples, truth.stacks) for name, method in METHODS.items()
    }
    ways |= {bundle.name: partial(by_bundle, bundle, truth, device) for bundle in bundles}
    for name, restore in ways.items():
        started = time.process_time()
        restored = np.asarray(restore(), np.float32)
        seconds = time.process_time() - started
        row = {
            "study": truth.name,
            "method": name,
            **truth.scores(restored),
            "cpu_seconds": round(seconds, 1),
        }
        if segmenter and wanted is not None:
            row["dice"] = _mean_dice(segmenter(restored, truth.grid), wanted)
        yield row


class _Segmenter:
    """A bundle whose label maps tell whether a restored image still shows what the true one shows."""

    def __init__(self, name: str, device: str) -> None:
        overrides = {} if device == "auto" else {"device": f"$torch.device({device!r})"}
        self.opened = open_bundle(find_bundle(name), force=True, **overrides)

    def __call__(self, image: np.ndarray, grid: Grid) -> np.ndarray:
        return segment(self.opened, _in_memory(image, grid.affine, "image")).voxels


def _mean_dice(found: np.ndarray, wanted: np.ndarray) -> float:
    """Mean Dice of the structures that either label map has."""
    values = np.union1d(np.unique(found), np.unique(wanted))
    return float(np.mean([dice(found == v, wanted == v) for v in values if v]))


def _said(row: dict[str, Any]) -> str:
    figures = ", ".join(f"{word} {row[key]:.3f}" for key, word in _SCORES.items())
    further = f", Dice {row['dice']:.3f}" if "dice" in row else ""
    return f"{row['study']}: {row['method']}: {figures}{further}, {row['cpu_seconds']} CPU s"


def _write(folder: Path, rows: Sequence[dict[str, Any]], options: RestoreOptions) -> None:
    with atomic_path(folder / "restore.csv") as unfinished:
        unfinished.write_text(csv_text(rows), encoding="utf-8")
    with atomic_path(folder / "restore.md") as unfinished:
        unfinished.write_text(_page(rows, options), encoding="utf-8")


def _page(rows: Sequence[dict[str, Any]], options: RestoreOptions) -> str:
    """Means over the studies, and on how many of them a method is better than all classical ones."""
    known = {**_SCORES, "dice": "Dice of labels", "cpu_seconds": "CPU s"}
    columns = {key: word for key, word in known.items() if key in rows[0]}
    studies = list(dict.fromkeys(row["study"] for row in rows))
    part = f", middle {options.cut}³" if options.cut else ""
    coarse = f"slices {options.step} voxels apart, {options.thickness or options.step:g} thick "
    coarse += f"({options.profile})"
    if options.in_plane:
        coarse = f"slices of pixels {options.step} voxels wide (k-space cut off)"
    lines = [
        f"{len(studies)} studies, {options.plane} {coarse}, noise {options.noise:.1%}{part}",
        "",
        "| method | " + " | ".join(columns.values()) + " | best in all four on |",
        "| --- |" + " --- |" * (len(columns) + 1),
    ]
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        means = " | ".join(f"{np.mean([row[key] for row in own]):.4g}" for key in columns)
        won = sum(_wins(row, rows) for row in own)
        lines.append(f"| {name} | {means} | {won} of {len(own)} |")
    return "\n".join(lines) + "\n"


def _wins(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> bool:
    """Whether a row is better in all four scores than every classical method on its study."""
    others = [r for r in rows if r["study"] == row["study"] and r["method"] in METHODS and r is not row]
    better = {"psnr_db": 1, "ssim": 1, "nrmse": -1, "hfen": -1}
    return all(sign * row[key] > sign * other[key] for other in others for key, sign in better.items())
