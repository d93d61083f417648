"""Discovery: the right studies under the right ids, everything else named, and nothing heavy imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from medvit.errors import MedvitError, StudyError
from medvit.studies import SeriesRules, check_studies, find_studies
from medvit.studies.dicom.studies import dicom_studies
from medvit.studies.found import Found, LeftOut, Refused
from medvit.studies.study import Series, Study
from tests.studies.dicom.encoding import save
from tests.studies.dicom.synthetic import made_up
from tests.studies.nifti_cases import VOXELS, put, sound

BRATS = ("t1c", "t1n", "t2w", "t2f")


def ids(found: Found) -> list[str]:
    return [study.id for study in found.studies]


def channels_of(found: Found) -> list[list[str]]:
    return [[series.paths[0].name for series in study.series] for study in found.studies]


def test_folder_is_searched_to_the_bottom_and_the_rest_is_named(tmp_path: Path) -> None:
    put(tmp_path, "b.nii", "P1/ct.nii.gz", "P2/deep/ct.nii.gz", "c.nrrd", "a_seg.nii.gz", ".hidden.nii")
    (tmp_path / "notes.txt").write_text("to whom it may concern")
    found = find_studies(tmp_path)
    assert ids(found) == ["b", "c", "P1_ct", "P2_deep_ct"]
    assert [study.series[0].format for study in found.studies] == ["nifti", "itk", "nifti", "nifti"]
    assert {one.path.name: one.why for one in found.left_out} == {
        "a_seg.nii.gz": "is named as a label map",
        "notes.txt": "is not an image",
    }


def test_same_file_name_of_two_patients_never_collides(tmp_path: Path) -> None:
    paths = put(tmp_path, "P1/ct.nii.gz", "P2/ct.nii.gz")
    assert ids(find_studies(paths)) == ["P1_ct", "P2_ct"]
    assert ids(find_studies(tmp_path / "*" / "ct.nii.gz")) == ["P1_ct", "P2_ct"]
    manifest = tmp_path / "list.json"
    manifest.write_text(json.dumps([str(path) for path in paths]))
    assert ids(find_studies(manifest)) == ["P1_ct", "P2_ct"]


def test_ids_differ_also_where_case_or_separators_do_not(tmp_path: Path) -> None:
    put(tmp_path, "a/b_c.nii", "a_b/c.nii", "A/B_C.nii")
    found = ids(find_studies(tmp_path))
    assert len({one.casefold() for one in found}) == 3
    assert ids(find_studies(tmp_path)) == found


def test_a_study_keeps_its_id_however_its_path_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a b.nii", "a_b.nii")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for path in (Path(), Path("sub") / "..", tmp_path / "sub" / ".."):
        assert ids(find_studies(path)) == ids(find_studies(tmp_path))


def test_copies_of_a_series_keep_their_ids_in_every_unpacking_of_an_archive(tmp_path: Path) -> None:
    images = made_up().datasets()
    for image in images:  # without a UID, each folder is a series of its own
        del image.SeriesInstanceUID
    series = [save(image, tmp_path / f"IM{k:04d}") for k, image in enumerate(images)]
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for folder in ("first", "second"):
            for path in series:
                archive.write(path, f"{folder}/{path.name}")
    first, again = (find_studies(tmp_path / "two.zip") for _ in range(2))
    assert len(ids(first)) == 2 and ids(first) == ids(again)
    assert all("two.zip" in study.path.parts for study in first.studies)  # as its errors say


def test_ids_are_safe_names_of_folders(tmp_path: Path) -> None:
    put(tmp_path, "sub dir/..x:y?*|.nii", "x" * 200 + ".nii.gz")
    for study in find_studies(tmp_path).studies:
        assert (
            not set(study.id) & set(' /\\:*?"<>|') and not study.id.startswith(".") and len(study.id) <= 120
        )


def test_a_file_named_directly_is_taken_whatever_its_name(tmp_path: Path) -> None:
    (path,) = put(tmp_path, "brain_mask.nii.gz")
    assert ids(find_studies(path)) == ["brain_mask"]


def test_broken_images_are_studies_so_that_they_are_missed(tmp_path: Path) -> None:
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    assert ids(find_studies(tmp_path)) == ["empty"]


def test_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MedvitError, match="does not exist"):
        find_studies(tmp_path / "nothing.nii")
    (sound_one,) = put(tmp_path, "a.nii")
    found = find_studies([sound_one, tmp_path / "nothing.nii"])
    assert ids(found) == ["a"] and found.refused[0].error.code == "missing-file"


def test_sidecars_among_several_inputs_are_no_manifests(tmp_path: Path) -> None:
    paths = put(tmp_path, "a.nii", "b.nii")
    (tmp_path / "a.json").write_text('{"EchoTime": 0.03}')
    found = find_studies([*paths, tmp_path / "a.json"])
    assert ids(found) == ["a", "b"] and found.left_out[0].path == tmp_path / "a.json"


def test_folder_named_by_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "2024", "a.nii")
    monkeypatch.chdir(tmp_path)
    assert ids(find_studies(2024)) == ["a"]  # type: ignore[arg-type]


def test_empty_folder_is_no_study(tmp_path: Path) -> None:
    assert find_studies(tmp_path) == Found(left_out=(LeftOut(tmp_path, "is a folder without files"),))


def test_results_of_an_earlier_run_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, "a.nii", "out/a/labels.nii.gz", "derivatives/x.nii")
    (tmp_path / "out/a/measurements.json").write_text("{}")
    assert ids(find_studies(tmp_path)) == ["a"]


@pytest.mark.parametrize(
    ("names", "study_ids", "channels"),
    [
        (
            ["c1_0000.nii.gz", "c1_0001.nii.gz", "c2_0001.nii.gz", "c2_0000.nii.gz"],
            ["c1", "c2"],
            ["0000", "0001"],
        ),
        (["p/x-t2w.nii.gz", "p/x-t1c.nii.gz", "p/x-seg.nii.gz"], ["p_x"], ["t1c", "t2w"]),
        (["p/T2.nii", "p/T1ce.nii", "q/t2.nii", "q/t1gd.nii"], ["p", "q"], ["t1", "t2"]),
        (["anat/sub-01_ce-gad_T1w.nii", "anat/sub-01_T2w.nii"], ["anat_sub-01"], ["ce", "T2w"]),
    ],
    ids=["nnunet", "brats", "folders", "bids"],
)
def test_channels_are_assembled_in_the_order_asked_for(
    names: list[str], study_ids: list[str], channels: list[str], tmp_path: Path
) -> None:
    put(tmp_path, *names)
    found = find_studies(tmp_path, channels=("t1c", "t2w"))
    assert ids(found) == study_ids and not found.refused
    for files in channels_of(found):
        assert [word.lower() in file.lower() for word, file in zip(channels, files, strict=True)] == [
            True
        ] * 2


def test_brats_study_lacking_a_channel_is_refused_by_name(tmp_path: Path) -> None:
    put(tmp_path, *(f"A/A-{channel}.nii" for channel in BRATS), "B/B-t1n.nii", "B/B-t1c.nii", "B/B-t2w.nii")
    found = find_studies(tmp_path, channels=BRATS)
    assert ids(found) == ["A_A"] and channels_of(found) == [[f"A-{channel}.nii" for channel in BRATS]]
    (refused,) = found.refused
    assert (
        refused.id == "B_B" and refused.error.code == "channels-missing" and "0 of t2f" in str(refused.error)
    )


def test_channels_without_a_known_order_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "A-t1c.nii", "A-t2w.nii")
    found = find_studies(tmp_path, channels=2)
    assert not found.studies and found.refused[0].error.code == "channels-missing"


def test_4d_file_holds_all_channels(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(sound(np.stack([VOXELS, VOXELS + 1], -1)))
    (study,) = find_studies(tmp_path, channels=2).studies
    assert [series.facts["volume"] for series in study.series] == [0, 1]


def test_manifests(tmp_path: Path) -> None:
    put(tmp_path, "d/a.nii", "d/b.nii", "d/c.nii")
    entries = [
        {"id": "first one", "image": "d/a.nii"},
        {"image": ["d/b.nii"]},
        "d/c.nii",
        {"image": "d/x.nii"},
    ]
    (tmp_path / "list.json").write_text(json.dumps({"studies": entries}))
    found = find_studies(tmp_path / "list.json")
    assert ids(found) == ["first_one", "b", "c"]
    assert [(one.id, one.error.code) for one in found.refused] == [("x", "missing-file")]
    (tmp_path / "list.csv").write_text("id;image_t2w;image_t1c\nA;d/a.nii;d/b.nii\n")
    found = find_studies(tmp_path / "list.csv", channels=("t1c", "t2w"))
    assert ids(found) == ["A"] and channels_of(found) == [["b.nii", "a.nii"]]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "3",
        '{"images": []}',
        '{"studies": 3}',
        '[{"id": "a"}]',
        json.dumps([{"id": "a", "image": "x"}] * 2),
    ],
)
def test_bad_manifests_say_so(content: str, tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(content)
    with pytest.raises(MedvitError, match=r"list\.json"):
        find_studies(path)


def test_decathlon_channels_follow_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "imagesTr"
    folder.mkdir()
    (folder / "B_1.nii.gz").write_bytes(sound(np.stack([VOXELS + i for i in range(4)], -1)))
    modality = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
    listed = [{"image": "./imagesTr/B_1.nii.gz", "label": "./labelsTr/B_1.nii.gz"}]
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": modality, "training": listed}))
    (study,) = find_studies(tmp_path, channels=BRATS).studies
    assert study.id == "B_1" and [series.facts["volume"] for series in study.series] == [2, 1, 3, 0]


def test_nnunet_data_set(tmp_path: Path) -> None:
    put(tmp_path, *(f"imagesTr/c_{n}_000{i}.nii.gz" for n in (1, 2) for i in (0, 1)), "labelsTr/c_1.nii.gz")
    put(tmp_path, "imagesTs/c_3_0001.nii.gz")
    content = {"channel_names": {"0": "T2w", "1": "T1"}, "file_ending": ".nii.gz", "labels": {}}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    found = find_studies(tmp_path, channels=("t1n", "t2w"))
    assert ids(found) == ["c_1", "c_2"]
    assert channels_of(found)[0] == ["c_1_0001.nii.gz", "c_1_0000.nii.gz"]
    assert [(one.id, one.error.path) for one in found.refused] == [
        ("c_3", tmp_path / "imagesTs/c_3_0000.nii.gz")
    ]


def test_bids_keeps_to_anatomy(tmp_path: Path) -> None:
    put(
        tmp_path,
        "sub-1/anat/sub-1_T1w.nii",
        "sub-1/func/sub-1_task-rest_bold.nii",
        "derivatives/x/sub-1_T1w.nii",
    )
    assert ids(find_studies(tmp_path)) == ["sub-1_anat_sub-1_T1w"]


def test_discovery_and_preflight_import_nothing_heavy(tmp_path: Path) -> None:
    put(tmp_path, "a.nii", "b/c.nii.gz")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOXELS), str(tmp_path / "d.mha"))
    code = (
        "import sys, time; from medvit.studies import check_studies\n"
        "found = check_studies(sys.argv[1]); assert len(found) == 3 and all(one.ok for one in found)\n"
        "heavy = ('torch', 'monai', 'scipy.ndimage', 'SimpleITK', 'highdicom')\n"
        "print([name for name in heavy if name in sys.modules], time.process_time())"
    )
    run = [sys.executable, "-c", code, str(tmp_path)]
    heavy, seconds = subprocess.run(run, capture_output=True, text=True, check=True).stdout.rsplit(" ", 1)
    assert heavy == "[]" and float(seconds) < 1.0


FACTS = {
    "modality": "MR",
    "image_type": ("ORIGINAL", "PRIMARY", "M"),
    "series_description": "Sag T1 post",
    "contrast": True,
    "plane": "sagittal",
    "slice_thickness": 1.0,
    "spacing": (1.0, 1.0, 3.0),
    "shape": (256, 256, 40),
}


@pytest.mark.parametrize(
    ("rule", "objection"),
    [
        ({"modality": ("MR", "PT"), "image_type": ("original",), "contrast": True, "plane": "sagittal"}, ""),
        ({"description": "t1.*post", "max_slice_thickness": 3, "min_slices": 40}, ""),
        ({"modality": ("CT",)}, "modality is MR"),
        ({"image_type": ("AXIAL",)}, "lacks AXIAL"),
        ({"not_image_type": ("M",)}, "has M"),
        ({"description": "t2"}, "does not match"),
        ({"not_description": "POST"}, "matches"),
        ({"contrast": False}, "was given"),
        ({"plane": "axial"}, "plane is sagittal"),
        ({"max_slice_thickness": 2}, "3 mm thick"),
        ({"min_slices": 41}, "40 slices"),
    ],
)
def test_series_rules(rule: dict, objection: str) -> None:
    said = SeriesRules(**rule).objection(FACTS)
    assert objection in said and bool(objection) == bool(said)


def scanned(monkeypatch: pytest.MonkeyPatch, *facts: dict) -> dict[Path, Path]:
    """Makes the DICOM scan find one series for each of `facts`."""
    from medvit.studies import dicom

    paths = [Path(f"Doe^John/{number}.dcm") for number in range(len(facts))]
    series = [
        Series((path,), "dicom", {"instances": str(number)} | own)
        for number, (path, own) in enumerate(zip(paths, facts, strict=True))
    ]
    result = dicom.ScanResult(series, [], [{"name": "Doe^John"}] * len(facts))
    monkeypatch.setattr(dicom, "scan", lambda _: result)
    return {path: path for path in paths}


def test_dicom_series_are_chosen_by_rule_and_named_without_the_patient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = scanned(monkeypatch, {"modality": "CT", "series": "aa"}, {"modality": "MR"}, {"modality": "CT"})
    ct, mr, bare = dicom_studies(files, ["0"], SeriesRules(modality=("CT",)))
    assert isinstance(ct, Study) and isinstance(bare, Study) and isinstance(mr, LeftOut)
    assert ct.id.startswith("CT-") and ct.id != bare.id and ct.patient == {"name": "Doe^John"}
    assert "Doe" not in ct.id + bare.id and "Doe^John" not in repr(ct.patient.keys())


def test_dicom_folder_in_a_manifest_is_narrowed_down_by_the_rules(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scanned(monkeypatch, {"modality": "CT", "series": "aa"}, {"modality": "MR", "series": "bb"})
    (tmp_path / "Doe").mkdir()
    (tmp_path / "list.json").write_text(json.dumps(["Doe"]))
    (study,) = find_studies(tmp_path / "list.json", rules=SeriesRules(modality=("MR",))).studies
    assert study.id.startswith("MR-") and study.patient == {"name": "Doe^John"}
    assert find_studies(tmp_path / "list.json").refused[0].error.code == "not-one-study"


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    put(tmp_path / "far", "a.nii")
    put(tmp_path / "here", "b.nii")
    (tmp_path / "here/away").symlink_to(tmp_path / "far")
    (tmp_path / "here/again").symlink_to(tmp_path / "here")
    (tmp_path / "here/gone.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    assert ids(find_studies(tmp_path / "here")) == ["b", "gone", "away_a"]
    assert check_studies(tmp_path / "here").studies[1].problems[0][0] == "unreadable"


def test_dicom_channels_come_from_one_frame_of_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    def facts(description: str, frame: str) -> dict:
        return {
            "study": "s",
            "series": description + frame,
            "frame_of_reference": frame,
            "series_description": description,
        }

    found = [("T2", "1"), ("T1", "1"), ("scout", "1"), ("T1", "2")]
    files = scanned(monkeypatch, *(facts(*one) for one in found))
    rules = [SeriesRules(description="T1"), SeriesRules(description="T2")]
    study, left_out, refused = dicom_studies(files, ["t1n", "t2w"], rules)
    assert isinstance(study, Study) and isinstance(left_out, LeftOut) and isinstance(refused, Refused)
    assert [series.facts["series_description"] for series in study.series] == ["T1", "T2"]
    assert refused.error.code == "channels-missing" and "0 for t2w" in str(refused.error)
    (unknown, _) = dicom_studies(files, ["t1n", "t2w"], SeriesRules())
    assert isinstance(unknown, Refused) and unknown.error.code == "channels-unknown"


def test_zip_is_read_like_a_folder_and_slips_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "P1/ct.nii", "P2/ct.nii")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in sorted(tmp_path.glob("P*/ct.nii")):
            archive.write(path, path.relative_to(tmp_path))
    shutil.rmtree(tmp_path / "P1")
    found = find_studies(tmp_path / "all.zip")
    assert ids(found) == ["all_P1_ct", "all_P2_ct"] and found.studies[0].path.read_bytes() == sound()
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(tmp_path / "P2/ct.nii", "ct.nii")
        archive.write(tmp_path / "all.zip", "inner.zip")
        archive.writestr("__MACOSX/._ct.nii", b"x")
    found = find_studies(tmp_path / "outer.zip")
    assert ids(found) == ["outer_ct"]
    assert sorted((one.path.name, one.why) for one in found.left_out) == [
        ("._ct.nii", "was added to an archive by macOS, and is not an image"),
        ("inner.zip", "is an archive in an archive; unpack it, and give the folder"),
    ]
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../evil.nii", b"x")
    with pytest.raises(MedvitError, match="zip-unsafe-path"):
        find_studies(tmp_path / "evil.zip")
    assert [one.why for one in find_studies(tmp_path).left_out] == [
        "is an archive; unpack it, or name it explicitly"
    ] * 3


@pytest.mark.parametrize("content", [b"", b"to be fetched again", b"\0" * 120])
def test_a_slice_that_lost_its_content_is_not_left_out(tmp_path: Path, content: bytes) -> None:
    for k, image in enumerate(made_up().datasets()):
        save(image, tmp_path / f"IM{k:04d}")
    (tmp_path / "IM0009").write_bytes(content)
    (tmp_path / "notes.txt").write_text("beside the images")
    found = find_studies(tmp_path)
    assert [one.path.name for one in found.left_out] == ["notes.txt"]
    (study,) = found.studies
    assert study.series[0].facts["problem_code"] == "dicom-damaged-file"
    assert len(study.series[0].paths) == 10


def test_a_folder_that_may_not_be_searched_is_refused_and_the_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "open/a.nii.gz", "locked/b.nii.gz")
    searched = os.scandir

    def barred(folder: str) -> object:
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return searched(folder)

    monkeypatch.setattr(os, "scandir", barred)
    found = find_studies(tmp_path)
    assert ids(found) == ["open_a"]
    (refused,) = found.refused
    assert refused.id == "locked" and refused.error.path == tmp_path / "locked"
    assert "cannot be searched: Permission denied; check its permissions" in str(refused.error)
    with pytest.raises(StudyError, match="cannot be searched"):
        find_studies(tmp_path / "locked")
