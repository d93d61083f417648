"""The manifests that ship: each is read, agrees with itself, and finds its cases in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.sr.codedict import codes

from medvit.datasets import Manifest, find_cases, installed_manifests, read_manifest
from tests.datasets.folders import touch

# In SNOMED CT, but not among the codes of DICOM PS3.16; from the mapping that TotalSegmentator publishes.
BEYOND_DICOM = {"110765007"}
NAMES = sorted(installed_manifests())


@pytest.fixture(scope="module")
def known_codes() -> set[str]:
    return {str(getattr(codes.SCT, name).value) for name in codes.SCT.dir()} | BEYOND_DICOM


def test_every_published_task_has_one():
    wanted = {"btcv", "synapse", "acdc", "brats2017", "brats2021", "aapm_mayo", "abdomenct1k"}
    assert wanted <= set(NAMES)
    assert [name[:5] for name in NAMES if name.startswith("msd")] == [f"msd{n:02d}" for n in range(1, 11)]


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_a_person_must_know(name, known_codes):
    manifest = read_manifest(name)
    assert manifest.name == name
    assert all((manifest.title, manifest.modality, manifest.notes, manifest.expected.labelled))
    source = manifest.source
    assert all((source.url, source.citation, source.licence, source.access))
    assert bool(manifest.splits) == bool(source.splits)
    for structure in manifest.labels or ():
        assert structure.code.scheme == "99MEDVIT" or structure.code.value in known_codes
        assert structure.code.scheme == "SCT" or any("codes" in note for note in manifest.notes)


def test_the_examples_of_the_documentation_are_read(tmp_path):
    text = (Path(__file__).parents[3] / "docs/datasets.md").read_text()
    examples = text.split("```yaml\n")[1:]
    for example in examples:
        (tmp_path / "own.yaml").write_text(example.split("```")[0])
        assert read_manifest(tmp_path / "own.yaml").labels
    assert len(examples) == 2
    assert [name for name in NAMES if f"| `{name}` |" not in text] == []


def fill(manifest: Manifest, folder: Path, ids: list[str]) -> None:
    """Empty files of the first layout, and test images that nobody asked for."""
    layout = manifest.layouts[0]
    for case in ids:
        for pattern in (layout.images, layout.label, layout.target):
            for word in layout.channels or manifest.channels:
                if pattern:
                    touch(folder, pattern.format(case=case, channel=word).replace("*", "1"))


# One id for each case of the data set, patterns of the splits aside.
IDS = {
    "btcv": [f"{n:04d}" for n in (*range(1, 11), *range(21, 41))],
    "synapse": [f"{n:04d}" for n in (*range(1, 11), *range(21, 41))],
    "acdc": [f"patient{n:03d}_frame{frame:02d}" for n in range(1, 101) for frame in (1, 12)],
    "brats2017": [f"BRATS_{n:03d}" for n in range(1, 485)],
    "aapm_mayo": ["L067", "L096", "L109", "L143", "L192", "L286", "L291", "L310", "L333", "L506"],
}


def test_ids_are_listed_for_every_manifest_with_splits():
    assert {name for name in NAMES if read_manifest(name).splits} == set(IDS)


@pytest.mark.parametrize("name", IDS)
def test_splits_share_no_case_and_have_the_papers_sizes(name, tmp_path):
    manifest = read_manifest(name)
    if name == "acdc":  # patients' folders are a wildcard in the pattern
        for case in IDS[name]:
            patient = case.split("_")[0]
            touch(tmp_path, f"training/{patient}/{case}.nii.gz", f"training/{patient}/{case}_gt.nii.gz")
            touch(tmp_path, f"training/{patient}/{patient}_4d.nii.gz")
    else:
        fill(manifest, tmp_path, IDS[name])
    held = {split: [case.id for case in find_cases(manifest, tmp_path, split)] for split in manifest.splits}
    assert {split: len(ids) for split, ids in held.items()} == manifest.split_sizes
    together = [case for ids in held.values() for case in ids]
    assert sorted(together) == IDS[name] and len(together) == manifest.expected.labelled


def test_brats_folders_as_they_are_unpacked(tmp_path):
    manifest = read_manifest("brats2021")
    training, validation = "RSNA_ASNR_MICCAI_BraTS2021_TrainingData_16July2021", "x_ValidationData"
    for channel in (*manifest.channels, "seg"):
        touch(tmp_path, f"{training}/BraTS2021_00002/BraTS2021_00002_{channel}.nii.gz")
    for channel in manifest.channels:
        touch(tmp_path, f"{validation}/BraTS2021_00001/BraTS2021_00001_{channel}.nii.gz")
    labelled, test = find_cases(manifest, tmp_path)
    assert [path.name.split("_")[-1] for path in labelled.images] == [
        "flair.nii.gz", "t1ce.nii.gz", "t1.nii.gz", "t2.nii.gz",
    ]  # fmt: skip
    assert not test.is_labelled
    assert find_cases(manifest, tmp_path / training)[0].id == "BraTS2021_00002"
    enhancing = manifest.labels.by_name["enhancing tumor"]
    assert manifest.values[enhancing.value - 1] == 4 and manifest.regions["ET"] == ("enhancing tumor",)


def test_synapse_numbers_its_organs_as_transunet_does():
    manifest = read_manifest("synapse")
    of_file = dict(zip(manifest.values, [s.name for s in manifest.labels], strict=True))
    btcv = read_manifest("btcv")
    assert all(btcv.labels.structures[value - 1].name == name for value, name in of_file.items())
    assert [s.name for s in manifest.labels] == [
        "aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas", "spleen", "stomach",
    ]  # fmt: skip
    assert set(manifest.values) | set(manifest.background) == set(range(1, 14))


def test_msd_folders_of_one_file_a_case_and_of_nnunet(tmp_path):
    manifest = read_manifest("msd05_prostate")
    names = ("prostate_00", "prostate_00_0000", "prostate_00_0001")
    for folder, images in (("msd", names[:1]), ("nn", names[1:])):
        touch(
            tmp_path / folder, *(f"imagesTr/{name}.nii.gz" for name in images), "labelsTr/prostate_00.nii.gz"
        )
    assert len(find_cases(manifest, tmp_path / "msd")[0].images) == 1
    assert [p.name[-11:-7] for p in find_cases(manifest, tmp_path / "nn")[0].images] == ["0000", "0001"]
