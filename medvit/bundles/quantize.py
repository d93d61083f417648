"""Quantised bundles in 8-bit integers: calibrated, measured, and refused where quality is lost."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medvit.bundles.find import Bundle
from medvit.bundles.segmentation import finish, infer, prepare, read, unchanged
from medvit.bundles.verify import windows_of
from medvit.bundles.workflow import OpenBundle, open_bundle
from medvit.bundles.write import card, refuse_existing, to_json, write_bundle
from medvit.errors import MedvitError
from medvit.inference.backends import CompiledNetwork, compiled_in, require
from medvit.inference.conversion import engine, write_openvino
from medvit.metrics import dice
from medvit.networks import LateralSegmenter
from medvit.studies import LabelTable, Study, find_studies, safe_name, sha256_of, write_label_map

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Largest loss of Dice in a structure, as a share, that is accepted by default.
MOST_LOSS = 0.005
#: Volume below which the Dice of a structure depends on too few voxels to decide.
LEAST_ML = 2.0
_FILE = "int8.xml"
_KEPT = ("LICENSE", "docs/data_license.txt", "configs/logging.conf")


@dataclass(frozen=True)
class Scores:
    """Scores of a structure before and after, as means over the studies in which it is drawn.

    Parameters
    ----------
    before, after
        Dice of the float32 and of the quantised network to the reference.
    ml
        Volume of the reference in millilitres.
    """

    before: float
    after: float
    ml: float

    @property
    def loss(self) -> float:
        """Loss of Dice, 0 where the structure is too small to judge by."""
        return self.before - self.after if self.ml > LEAST_ML else 0.0

    @property
    def is_loss(self) -> bool:
        """Whether more quality was lost than is accepted without `force`."""
        return self.loss > MOST_LOSS


def quantize_bundle(
    bundle: Bundle,
    data: Sequence[str | Path],
    output: str | Path,
    *,
    measure: Sequence[str | Path] = (),
    references: str | Path | None = None,
    windows: int = 32,
    keep: Sequence[str] = (),
    force: bool = False,
) -> Bundle:
    """Quantise the network of a bundle after its training, and write it as a bundle that needs OpenVINO.

    NNCF calibrates on windows of the studies: 8-bit weights, symmetric 8-bit activations except those that
    have no negative values. Where a structure loses too much of its Dice, channels of uneven scale are
    balanced by SmoothQuant and attention is treated as NNCF treats transformers, which makes a window slower;
    of the two, the network that loses less is taken. The sides of a `LateralSegmenter` stay in float32.

    Parameters
    ----------
    bundle
        A bundle that segments.
    data
        Files, folders, globs or manifests of studies to calibrate on.
    output
        Folder of the new bundle; must not hold anything yet.
    measure
        Studies to measure on; by default those of `data`.
    references
        Folder of label maps of the studies to measure on, or of some, in the bundle's values. With them Dice
        is measured before and after. Without them both networks are compared with each other only.
    windows
        Number of windows to calibrate on.
    keep
        Regular expressions for names of operations that stay in float32.
    force
        Whether the bundle is written even if quality was lost.

    Raises
    ------
    MissingExtraError
        If OpenVINO or NNCF is not installed.
    MedvitError
        If the bundle restores images, OpenVINO cannot run its network, no study is found, or a structure of
        more than `LEAST_ML` loses more than `MOST_LOSS` of its Dice.
    """
    require("openvino")
    folder = Path(output)
    refuse_existing(folder)
    if bundle.label_table is None:
        raise MedvitError(f"bundle {bundle.name} restores images; only bundles that segment can be quantised")
    calibrating = _found(data, "to calibrate on")
    measured = _found(measure, "to measure on") if measure else calibrating
    opened = open_bundle(bundle, device="$torch.device('cpu')")
    seen = windows_of(opened, calibrating, windows)
    drawn = None if references is None else Path(references)
    found: list[tuple[float, Any, dict[str, Scores]]] = []
    with tempfile.TemporaryDirectory() as aside:
        for balanced in (False, True):
            model = _quantized(opened, seen, keep, balanced)
            file = Path(aside) / ("balanced" if balanced else "plain") / _FILE
            file.parent.mkdir()
            write_openvino(model, file)
            scores = _scores(opened, file, measured, drawn, Path(aside))
            found.append((max((s.loss for s in scores.values()), default=0.0), model, scores))
            if found[-1][0] <= MOST_LOSS:
                break
    _, model, scores = min(found, key=lambda one: one[0])
    lost = {name: s for name, s in scores.items() if drawn and s.is_loss}
    if lost and not force:
        raise MedvitError(
            f"{bundle.name} was not quantised: {_loss(lost)}; "
            "force it (--force, in Python force=True) to write it anyway"
        )

    def contents(weights: Path) -> dict[str, str | bytes]:
        digest = sha256_of(weights.with_name(_FILE).with_suffix(".bin"))
        count = "1 study" if len(measured) == 1 else f"{len(measured)} studies"
        on = f"{count} it was {'not ' if measure else ''}calibrated on"
        shape = tuple(seen[0].shape[2:])
        return _contents(opened, folder.name, scores, on, drawn is not None, digest, shape)

    return write_bundle(folder, lambda weights: write_openvino(model, weights.with_name(_FILE)), contents)


def _found(paths: Sequence[str | Path], purpose: str) -> Sequence[Study]:
    studies = find_studies([str(path) for path in paths]).studies
    if not studies:
        raise MedvitError(f"no study was found in {', '.join(map(str, paths))}; give studies {purpose}")
    return studies


def _quantized(opened: OpenBundle, windows: Sequence[Tensor], keep: Sequence[str], balanced: bool) -> Any:
    """The network as an `openvino.Model` in 8-bit integers, without the sides of its structures."""
    import nncf
    import openvino

    single = [window[i : i + 1] for window in windows for i in range(len(window))]
    # Through the cache, which tries a network in a separate process and refuses it in one sentence.
    made = compiled_in(engine(opened.part("network"), single[0].shape[1:], "openvino"))
    assert made is not None, "an engine was asked for"
    model = openvino.Core().read_model(str(made.file))
    nncf.set_log_level(logging.ERROR)
    return nncf.quantize(
        model,
        nncf.Dataset([window.numpy() for window in single]),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER if balanced else None,
        subset_size=len(single),
        ignored_scope=nncf.IgnoredScope(patterns=list(keep), validate=False) if keep else None,
    )


def _scores(
    opened: OpenBundle, quantised: Path, studies: Sequence[Study], drawn: Path | None, aside: Path
) -> dict[str, Scores]:
    """Dice before and after against the references, or otherwise against the labels before.

    Labels before are written once, to `aside`, and those after beside the quantised network.
    """
    from medvit.evaluation import find_pairs
    from medvit.evaluation.sides import on_one_grid, read_side

    table = opened.bundle.label_table
    assert table is not None, "restorers were refused"
    before, after = aside / "before", quantised.parent / "after"
    network, compiled = opened.part("network"), CompiledNetwork(quantised)
    networks = {after: network.around(compiled) if isinstance(network, LateralSegmenter) else compiled}
    if not before.is_dir():
        networks[before] = network
    for folder in networks:
        folder.mkdir()
    for study in studies:
        _write_labels(opened, networks, study)
    pairs = find_pairs(after, drawn or before).pairs
    if not pairs:
        raise MedvitError(f"{drawn}: no label map has the name of a study, such as {studies[0].id}.nii.gz")
    rows: list[dict[str, Scores]] = []
    for pair in pairs:
        reference = read_side(pair.reference)
        sides = [read_side(folder / pair.prediction.name) for folder in (before, after)]
        (float32, on_grid), (int8, _) = (on_one_grid(side, reference) for side in sides)
        volume = on_grid.grid.voxel_volume / 1000
        rows.append(_dice(table, float32.label_map, int8.label_map, on_grid.label_map, volume))
    found = {}
    for structure in table:
        seen = [[s.before, s.after, s.ml] for row in rows if (s := row.get(structure.name))]
        if seen:
            found[structure.name] = Scores(*np.mean(seen, axis=0).round(4).tolist())
    return found


def _write_labels(opened: OpenBundle, networks: Mapping[Path, nn.Module], study: Study) -> None:
    """The label maps of a study by each network, in the network's folder."""
    loaded = read(study, opened.part("gate", None))
    image = prepare(loaded, opened.part("preprocessing"))
    table = opened.bundle.label_table
    assert table is not None, "restorers were refused"
    for folder, network in networks.items():
        labels = infer(image, network, opened.part("inferer"), "cpu")
        labels = finish(loaded, image, labels, opened.part("postprocessing", unchanged))
        file = folder / f"{safe_name(study.id)}.nii.gz"
        write_label_map(file, table.to_files(labels.squeeze(0).cpu().numpy()), loaded)


def _dice(
    table: LabelTable, before: np.ndarray, after: np.ndarray, drawn: np.ndarray, voxel_ml: float
) -> dict[str, Scores]:
    """Dice of each structure that is drawn."""
    found = {}
    for structure in table:
        reference = drawn == structure.file_value
        if reference.any():
            found[structure.name] = Scores(
                dice(before == structure.file_value, reference),
                dice(after == structure.file_value, reference),
                float(reference.sum() * voxel_ml),
            )
    return found


def _loss(lost: Mapping[str, Scores]) -> str:
    worst = max(lost, key=lambda name: lost[name].before - lost[name].after)
    others = f" and {len(lost) - 1} more structures lose" if len(lost) > 1 else " loses"
    return (
        f"{worst}{others} more than {100 * MOST_LOSS:g} points of Dice "
        f"({lost[worst].before:.3f} before, {lost[worst].after:.3f} after)"
    )


def _contents(
    opened: OpenBundle,
    name: str,
    scores: Mapping[str, Scores],
    measured: str,
    drawn: bool,
    digest: str,
    window: Sequence[int],
) -> dict[str, str | bytes]:
    """Content of each file of the bundle except its weights."""
    bundle = opened.bundle
    version = f"{bundle.version}+int8"
    before, after = (np.mean([getattr(s, side) for s in scores.values()]) for side in ("before", "after"))
    against = "reference labels" if drawn else f"the labels of {bundle.name}"
    quality = f"{against}, {measured}: mean Dice {after:.3f}, float32 {before:.3f}"
    metadata = json.loads(json.dumps(bundle.metadata))
    metadata |= {
        "version": version,
        "name": f"{metadata['name']}, 8-bit",
        "task": f"{metadata['task']}, in 8-bit integers",
        "eval_metrics": {"mean_dice": round(float(after), 4)},
    }
    metadata["changelog"] = {version: "quantised to 8-bit integers"} | metadata["changelog"]
    metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] = list(window)
    metadata["medvit"] = {k: v for k, v in bundle.facts.items() if k not in ("backends", "exports")} | {
        "zoo_name": f"{bundle.zoo_name}_int8",
        "quality": quality,
        "weights": Path(_FILE).with_suffix(".bin").name,
        "weights_sha256": digest,
        "quantised": {
            "from": bundle.name,
            "from_sha256": bundle.facts.get("weights_sha256", ""),
            "reference": against,
            "dice": {name: asdict(s) for name, s in scores.items()},
        },
    }
    config = json.loads(bundle.config("inference").read_text(encoding="utf-8"))
    compiled: dict[str, Any] = {
        "_target_": "medvit.inference.CompiledNetwork",
        "file": f"$@bundle_root + '/models/{_FILE}'",
    }
    whole = opened.part("network")
    if isinstance(whole, LateralSegmenter):
        compiled = {
            "_target_": "medvit.networks.LateralSegmenter",
            "table": whole.table,
            "network": compiled,
        }
    config |= {
        "bundle_root": f"$bundles.locate({safe_name(name)!r})",
        "device": "$torch.device('cpu')",
        "checkpoint": f"$@bundle_root + '/models/{Path(_FILE).with_suffix('.bin')}'",
        "network_def": compiled,
        "network": "$@network_def",
    }
    kept = {f: (bundle.path / f).read_bytes() for f in _KEPT if (bundle.path / f).is_file()}
    return kept | {
        "configs/inference.json": to_json(config),
        "configs/metadata.json": to_json(metadata),
        "docs/README.md": _card(bundle, quality, scores, against),
    }


def _card(bundle: Bundle, quality: str, scores: Mapping[str, Scores], against: str) -> str:
    rows = "".join(
        f"| {name} | {s.ml:.1f} | {s.before:.3f} | {s.after:.3f} | {100 * (s.after - s.before):+.1f} |\n"
        for name, s in scores.items()
    )
    table = "| structure | ml | float32 | int8 | points |\n| --- | --- | --- | --- | --- |\n"
    return card(
        f"{bundle.metadata['name']}, 8-bit",
        f"`{bundle.name}` {bundle.version}, quantised after its training by NNCF. It runs by OpenVINO "
        "(`pip install 'medvit[openvino]'`) on a CPU and cannot be trained; its licence is the original's.",
        {"original": f"`{bundle.name}` {bundle.version}", "quality": quality},
        f"## Dice to {against}, before and after\n{table}{rows}",
    )
