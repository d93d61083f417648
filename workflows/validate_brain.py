"""How good a brain bundle is on real scans: Dice against the ICBM tissue maps and published atlases.

    python workflows/validate_brain.py BUNDLE -o OUT [--atlases FOLDER] [--heads FOLDER]

The T1 template and its tissue maps come with nilearn. FOLDER of atlases may hold ``bigbrain.nii.gz`` and
``AllenAtlas.nii.gz``, each with its ``.json`` of label names; FOLDER of heads, scans of one head in several
contrasts (``NAME_CONTRAST.nii.gz``), whose volumes are compared.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.processing import resample_from_to

from medvit.bundles import find_bundle
from medvit.data.labels import LabelTable
from medvit.engines import run_bundle

TEMPLATE = "mni_icbm152_{}_tal_nlin_sym_09a_converted"
# Structure of the label table to the names that make it up in BigBrain's and the Allen atlas.
ATLAS_NAMES = {
    "caudate nucleus": r"(Left|Right)-caudate|Ca[HBT]",
    "putamen": r"(Left|Right)-putamen|Pu(PV)?",
    "globus pallidus": r"(Left|Right)-globus-pallidus-(externa|interna)|GP[ei]",
    "thalamus": r"(Left|Right)-thalamus|THM|ANC|LD|MD|Re|LP|Pul|V[AL]|VP[LM]|DLG|MG|CM|Pf|HN",
    "hippocampus": r"(Left|Right)-hippocampus|Hi[HBT]",
    "amygdala": r"(Left|Right)-amygdala|AMY|AAA|CEN|La|B[LM]|Co[AP]|Me|AHA",
    "lateral ventricle": r"[abpix]LV",
}
WHITE = ("cerebral white matter", "cerebellar white matter", "ventral diencephalon", "brain-stem")
NEITHER = ("lateral ventricle", "third ventricle", "fourth ventricle", "cerebrospinal fluid")


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice overlap of two masks."""
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


def mask(labels: np.ndarray, table: LabelTable, *names: str) -> np.ndarray:
    """Voxels of structures, both sides."""
    return np.isin(labels, [s.value for s in table if s.unsided_name in names])


def template(kind: str) -> Path:
    """The ICBM 2009a symmetric template (``t1``), or its tissue map (``gm``, ``wm``), from nilearn."""
    spec = importlib.util.find_spec("nilearn")
    assert spec is not None and spec.origin is not None, "pip install 'medvit[demo]'"
    return Path(spec.origin).parent / "datasets" / "data" / f"{TEMPLATE.format(kind)}.nii.gz"


def against_tissues(labels: np.ndarray, table: LabelTable) -> dict[str, float]:
    """Brain, white and grey matter against the template's own maps, each voxel by its likeliest tissue."""
    t1, grey, white = (
        np.asarray(nib.load(template(kind)).dataobj, np.float32) for kind in ("t1", "gm", "wm")
    )
    grey, white = grey / 255, white / 255
    brain = t1 > 0
    other = np.clip(1 - grey - white, 0, 1)
    found_white = mask(labels, table, *WHITE)
    found_grey = (labels > 0) & ~found_white & ~mask(labels, table, *NEITHER)
    return {
        "brain": dice(labels > 0, brain),
        "white matter": dice(found_white, (white > grey) & (white > other)),
        "grey matter": dice(found_grey, (grey >= white) & (grey > other)),
    }


def against_atlas(
    labels: nib.Nifti1Image, table: LabelTable, atlas: Path
) -> dict[str, tuple[float, float, float]]:
    """Dice, our volume and the atlas's volume (ml) of the structures that both have."""
    voxel = abs(np.linalg.det(labels.affine[:3, :3])) / 1000
    drawn = np.asarray(resample_from_to(nib.load(atlas), labels, order=0).dataobj).astype(int)
    names = json.loads(atlas.with_name(atlas.name.replace(".nii.gz", ".json")).read_text())["labels"]
    found = np.asarray(labels.dataobj)
    result = {}
    for structure, parts in ATLAS_NAMES.items():
        reference = np.isin(drawn, [i for i, name in enumerate(names) if re.fullmatch(parts, str(name))])
        if reference.any():
            ours = mask(found, table, structure)
            result[structure] = (dice(ours, reference), ours.sum() * voxel, reference.sum() * voxel)
    return result


def deep_mean(atlases: list[dict[str, tuple[float, float, float]]]) -> float:
    """Mean Dice over the deep structures, each averaged over the atlases that have it."""
    names = {name for atlas in atlases for name in atlas}
    return float(np.mean([np.mean([a[name][0] for a in atlases if name in a]) for name in names]))


def main() -> None:
    """Run the bundle on what is at hand and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--atlases", type=Path)
    parser.add_argument("--heads", type=Path)
    arguments = parser.parse_args()
    bundle = find_bundle(arguments.bundle)
    table = bundle.label_table
    assert table is not None, "a bundle that segments"
    run_bundle(bundle, [template("t1")], arguments.output / "template", report=False)
    labels = nib.load(next((arguments.output / "template").rglob("labels.nii.gz")))
    print("| ICBM 2009a T1 | Dice |\n|---|---|")
    for name, value in against_tissues(np.asarray(labels.dataobj), table).items():
        print(f"| {name} | {value:.3f} |")
    atlases = []
    for path in sorted(arguments.atlases.glob("*.nii.gz")) if arguments.atlases else ():
        if not path.with_name(path.name.replace(".nii.gz", ".json")).exists():
            continue
        compared = against_atlas(labels, table, path)
        atlases.append(compared)
        print(f"\n| {path.name} | Dice | ours, ml | atlas, ml |\n|---|---|---|---|")
        for name, (value, ours, theirs) in compared.items():
            print(f"| {name} | {value:.3f} | {ours:.2f} | {theirs:.2f} |")
    if atlases:
        print(f"\nmean over deep structures and lateral ventricles: {deep_mean(atlases):.3f}")
    if arguments.heads:
        run_bundle(bundle, [arguments.heads], arguments.output / "heads", report=False)
        print_volumes(arguments.output / "heads", table)


def print_volumes(folder: Path, table: LabelTable) -> None:
    """Volumes of each scan side by side, in ml."""
    studies = sorted(p.parent for p in folder.rglob("measurements.json"))
    volumes = [
        {s["name"]: s["volume_ml"] for s in json.loads((p / "measurements.json").read_text())["structures"]}
        for p in studies
    ]
    print(f"\n| ml | {' | '.join(p.name for p in studies)} |\n|---|{'---|' * len(studies)}")
    for structure in table:
        print(f"| {structure.name} | {' | '.join(f'{v[structure.name]:.2f}' for v in volumes)} |")


if __name__ == "__main__":
    main()
