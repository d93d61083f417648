"""How good a brain bundle is on real scans: Dice against the ICBM tissue maps and published atlases.

    python workflows/validate_brain.py BUNDLE -o OUT [--atlases FOLDER] [--heads FOLDER]

The T1 template and its tissue maps come with nilearn. FOLDER of atlases may hold ``bigbrain.nii.gz`` and
``AllenAtlas.nii.gz``, each with its ``.json`` of label names; FOLDER of heads, scans of one head in several
contrasts (``NAME_CONTRAST.nii.gz``), whose volumes are compared.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from medvit.bench.icbm import DEEP, template_study
from medvit.bench.studies import compare
from medvit.bundles import find_bundle
from medvit.runs import run_bundle
from medvit.studies.labels import LabelTable


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
    study = template_study(table, arguments.output / "references", arguments.atlases)
    run_bundle(bundle, [study.image], arguments.output / "template", report=False)
    labels = next((arguments.output / "template").rglob("labels.nii.gz"))
    for reference in study.references:
        print(f"\n| {reference.path.name} | Dice | ours, ml | theirs, ml |\n|---|---|---|---|")
        for name, v in compare(study.id, labels, [reference])[reference.group].values.items():
            ours, theirs = v["volume_prediction_ml"], v["volume_reference_ml"]
            print(f"| {name} | {v['dice']:.3f} | {ours:.2f} | {theirs:.2f} |")
    deep = compare(study.id, labels, [r for r in study.references if r.group == DEEP]).get(DEEP)
    if deep:
        mean = sum(v["dice"] for v in deep.values.values()) / len(deep.values)
        print(f"\nmean over deep structures and lateral ventricles: {mean:.3f}")
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
