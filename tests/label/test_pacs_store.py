"""A real Orthanc as the store: series listed and inferred, and labels that come back as they were."""

from __future__ import annotations

import gzip
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import requests

from medvit.studies.access import Access
from medvit.studies.pacs import push
from tests.label.conftest import Server, running
from tests.label.phantoms import TABLE, make_bundle, phantom
from tests.studies.dicom_out.synthetic import write_series
from tests.studies.test_pacs import DICOMWEB_PLUGIN, running_orthanc

pytestmark = [pytest.mark.label, pytest.mark.debian]

SHAPE = (20, 16, 6)
#: The same on each slice, and of the brain's structures only the second and the third.
PLANE = phantom((20, 16, 9), labels=(2, 3))[:, :, 2].astype(np.int16)
USER = Access("medvit", "pa55word")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, dict[str, str]]]:
    if shutil.which("Orthanc") is None or not DICOMWEB_PLUGIN.exists():
        pytest.skip("Orthanc is missing: apt-get install orthanc orthanc-dicomweb")
    folder = tmp_path_factory.mktemp("archive")
    with running_orthanc(folder / "orthanc") as port, pytest.MonkeyPatch.context() as patch:
        url = f"http://localhost:{port}/dicom-web"
        series = {}
        for modality, zero in (("CT", 1024), ("MR", 0)):
            pixels = (PLANE.T + zero).astype(np.int16).tobytes()
            files, _ = write_series(folder / modality, SHAPE, modality=modality, PixelData=pixels)
            push(url, files, USER)
            series[modality] = str(pydicom.dcmread(files[0]).SeriesInstanceUID)
        patch.setenv("MEDVIT_PACS_USER", USER.user)
        patch.setenv("MEDVIT_PACS_PASSWORD", USER.password)
        bundle = make_bundle(folder / "steps")
        with running(folder, url, "--models", str(bundle), "--trust") as server:
            yield server, series


def expected() -> np.ndarray:
    return np.repeat(PLANE[:, :, None], SHAPE[2], axis=2)


def image_of(server: Server, series: str) -> nib.Nifti1Image:
    content = requests.get(f"{server.url}/datastore/image?image={series}", timeout=60).content
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


def test_series_of_both_modalities_are_listed_and_inferred(archive: tuple[Server, dict[str, str]]) -> None:
    server, series = archive
    assert server.client.info()["datastore"]["total"] == 2
    assert server.client.next_sample("first", {})["id"] == min(series.values())
    for uid in series.values():
        file, _ = server.client.infer("steps", uid, {"result_extension": ".nii.gz"})
        mask, image = nib.load(file), image_of(server, uid)
        np.testing.assert_array_equal(np.asarray(mask.dataobj), expected())
        np.testing.assert_array_equal(image.get_fdata(), expected())
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-4)


def test_dicom_seg_has_names_by_value_and_refers_to_its_series(
    archive: tuple[Server, dict[str, str]],
) -> None:
    server, series = archive
    answer = requests.post(f"{server.url}/infer/steps?image={series['MR']}&output=dicom_seg", timeout=60)
    assert answer.headers["content-type"] == "application/dicom"
    seg = hd.seg.Segmentation.from_dataset(pydicom.dcmread(io.BytesIO(answer.content)))
    names = {n: str(seg.get_segment_description(n).segment_label) for n in seg.segment_numbers}
    assert names == {s.value: s.name for s in TABLE}
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == series["MR"]
    source = pydicom.dcmread(next((server.folder / "MR").glob("*.dcm")))
    assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert seg.PatientID == source.PatientID
    volume = seg.get_volume(combine_segments=True)
    assert set(np.unique(volume.array)) == {0, 2, 3}


def test_a_segmentation_that_nobody_saved_is_no_final_label(
    archive: tuple[Server, dict[str, str]], tmp_path: Path
) -> None:
    server, series = archive
    answer = requests.post(f"{server.url}/infer/steps?image={series['MR']}&output=dicom_seg", timeout=60)
    (tmp_path / "automatic.dcm").write_bytes(answer.content)
    push(str(server.studies), [tmp_path / "automatic.dcm"], USER)
    from medvit.label import compat

    compat.install()
    from medvit.label.stores import PacsStore

    fresh = PacsStore(str(server.studies), tmp_path / "fresh", ("CT", "MR"), {"steps": TABLE}, USER)
    assert sorted(fresh.list_images()) == sorted(series.values())
    assert fresh.get_labeled_images() == [] and fresh.annotated() == []
    query = {"PatientID": "nobody"}
    assert PacsStore(str(server.studies), tmp_path / "q", ("CT",), {}, USER, query).list_images() == []


def test_ohif_gets_its_pages_and_the_archive_from_one_origin(
    archive: tuple[Server, dict[str, str]], tmp_path: Path
) -> None:
    server, series = archive
    source = pydicom.dcmread(next((server.folder / "MR").glob("*.dcm")))
    study, reference = source.StudyInstanceUID, series["MR"]
    answer = requests.post(f"{server.url}/infer/steps?image={reference}&output=dicom_seg", timeout=60)
    (tmp_path / "seg.dcm").write_bytes(answer.content)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    push(str(server.studies), [tmp_path / "seg.dcm"], USER)

    assert "OHIF" in requests.get(f"{server.url}/ohif/viewer?StudyInstanceUIDs={study}", timeout=9).text
    icon = requests.get(f"{server.url}/ohif/assets/favicon.ico", timeout=9)
    assert icon.status_code == 200 and not icon.content.startswith(b"<")
    outside = requests.get(f"{server.url}/ohif/%2e%2e/%2e%2e/%2e%2e/config.py", timeout=9)
    assert outside.text.startswith("<!doctype html>")

    # The requests that OHIF makes to open a study and a segmentation in it.
    qido, wado = f"{server.url}/proxy/dicom/qido", f"{server.url}/proxy/dicom/wado"
    found = requests.get(f"{qido}/studies?limit=101&offset=0&StudyInstanceUID={study}", timeout=30).json()
    assert [entry["0020000D"]["Value"] for entry in found] == [[study]]
    assert not requests.get(f"{qido}/studies?StudyInstanceUID=1.2.3", timeout=30).json()
    listed = requests.get(f"{qido}/studies/{study}/series?includefield=00080021", timeout=30).json()
    kinds = {entry["0020000E"]["Value"][0]: entry["00080060"]["Value"][0] for entry in listed}
    assert kinds[reference] == "MR" and kinds[seg.SeriesInstanceUID] == "SEG"
    metadata = requests.get(f"{wado}/studies/{study}/series/{seg.SeriesInstanceUID}/metadata", timeout=30)
    assert str(server.studies) not in metadata.text
    header = pydicom.Dataset.from_json(metadata.json()[0], lambda tag, vr, uri: b"")
    assert header.ReferencedSeriesSequence[0].SeriesInstanceUID == reference
    assert [s.SegmentLabel for s in header.SegmentSequence] == [s.name for s in TABLE]
    assert len(header.PerFrameFunctionalGroupsSequence) == int(header.NumberOfFrames)
    instance = f"{wado}/studies/{study}/series/{seg.SeriesInstanceUID}/instances/{seg.SOPInstanceUID}"
    whole = requests.get(
        instance, headers={"Accept": 'multipart/related; type="application/dicom"'}, timeout=30
    )
    boundary = whole.headers["content-type"].partition("boundary=")[2].partition(";")[0].strip('"')
    part = whole.content.split(f"--{boundary}".encode())[1].partition(b"\r\n\r\n")[2]
    assert pydicom.dcmread(io.BytesIO(part)).PixelData == seg.PixelData
    frame = requests.get(
        f"{wado}/studies/{study}/series/{reference}/instances/{source.SOPInstanceUID}/frames/1",
        headers={"Accept": 'multipart/related; type="application/octet-stream"'}, timeout=30,
    )  # fmt: skip
    assert frame.status_code == 200 and source.PixelData in frame.content


def test_a_saved_label_comes_back_from_the_archive(
    archive: tuple[Server, dict[str, str]], tmp_path: Path
) -> None:
    server, series = archive
    uid = series["CT"]
    image = image_of(server, uid)
    label = expected().astype(np.uint8)
    label[0, 0, 0] = 3  # so that a flip would show
    nib.save(nib.Nifti1Image(label, image.affine), tmp_path / "label.nii.gz")
    names = [{"name": s.name, "idx": s.value} for s in TABLE.structures[:3]]
    server.client.save_label(uid, str(tmp_path / "label.nii.gz"), params={"label_info": names})
    status = server.client.info()["datastore"]
    assert (status["completed"], status["total"]) == (1, 2)
    listed = requests.get(f"{server.url}/datastore/?output=all", timeout=60).json()["objects"]
    assert {image for image, entry in listed.items() if "final" in entry["labels"]} == {uid}
    assert set(listed) == set(series.values())
    assert server.client.next_sample("first", {})["id"] == series["MR"]

    from medvit.label import compat

    compat.install()
    from medvit.label.stores import PacsStore

    fresh = PacsStore(str(server.studies), tmp_path / "fresh", ("CT", "MR"), {"steps": TABLE}, USER)
    assert fresh.get_labeled_images() == [uid]
    (pair,) = fresh.annotated()
    back = nib.load(pair["label"])
    np.testing.assert_array_equal(np.asarray(back.dataobj), label)
    np.testing.assert_allclose(back.affine, image.affine, atol=1e-4)
    assert pair["names"] == [s.name for s in TABLE.structures[:3]]
    url = f"{server.url}/datastore/label?label={uid}&tag=final"
    assert requests.get(url, timeout=60).status_code == 200
