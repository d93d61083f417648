"""The interactive viewer: what is embedded, and what a browser makes of it."""

from __future__ import annotations

import base64
import gzip
import io
import re
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medvit.reports import StudyReport, load_language, make_report, write_html
from medvit.reports.content import Content
from medvit.reports.viewer import niivue_code, viewer_data
from medvit.studies.labels import load_label_table
from medvit.studies.study import Grid
from tests.reports.phantom import BRAIN, head, ras_affine

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def unpack(text: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def head_report() -> StudyReport:
    image, labels, grid = head()
    return make_report("viewer", labels, grid, BRAIN, image, facts={"modality": "MR"})


def test_embedded_volumes_lie_where_the_study_lies() -> None:
    report = head_report()
    data = viewer_data(Content(report, load_language("en")))
    labels, image = unpack(data["labels"]), unpack(data["image"])
    assert labels.shape == image.shape
    there = np.argwhere(report.label_map == BRAIN.by_name["left putamen"].value).mean(0)
    here = np.argwhere(np.asarray(labels.dataobj) == BRAIN.by_name["left putamen"].value).mean(0)
    assert nib.affines.apply_affine(labels.affine, here) == pytest.approx(
        nib.affines.apply_affine(report.grid.affine, there), abs=0.5
    )
    at = tuple(here.round().astype(int))
    assert image.get_fdata()[at] == pytest.approx(report.image[tuple(there.round().astype(int))], abs=3)


def test_large_volumes_are_thinned_and_keep_their_place() -> None:
    shape = (200, 220, 40)
    labels = np.zeros(shape, np.uint8)
    labels[20:180, 30:190, 5:35] = 1
    labels[100:120, 100:130, 15:20] = 2
    grid = Grid(shape, ras_affine((0.5, 0.5, 4.0), shape))
    report = make_report("large", labels, grid, BRAIN, labels.astype(np.float32))
    embedded = unpack(viewer_data(Content(report, load_language("en")))["labels"])
    assert np.prod(embedded.shape) <= 1.5e6
    assert embedded.header.get_zooms()[2] == pytest.approx(4.0)
    volume = np.count_nonzero(np.asarray(embedded.dataobj) == 2) * abs(np.linalg.det(embedded.affine[:3, :3]))
    assert volume == pytest.approx(20 * 30 * 5 * 1.0, rel=0.1)


def test_labels_beyond_255_keep_their_values() -> None:
    table = load_label_table({"name": "many", "structures": [{"name": f"part {n}"} for n in range(1, 301)]})
    labels = np.zeros((12, 12, 12), np.uint16)
    labels[4:8, 4:8, 4:8] = 257  # 1, if it were stored in eight bits
    report = make_report("many", labels, Grid(labels.shape, ras_affine(5.0, labels.shape)), table)
    data = viewer_data(Content(report, load_language("en")))
    assert set(np.unique(np.asarray(unpack(data["labels"]).dataobj))) == {0, 257}
    assert [s["name"] for s in data["structures"]] == ["part 257"] and len(data["colors"]) == 301


def test_page_with_viewer_stands_alone(tmp_path: Path) -> None:
    file = write_html(head_report(), tmp_path / "r.html", viewer=True)
    text = file.read_text()
    assert file.stat().st_size < 6e6
    assert not re.findall(r"https?://", text)
    assert b"niivue" in gzip.decompress(base64.b64decode(niivue_code()))
    assert 'id="nv-code"' not in write_html(head_report(), tmp_path / "plain.html").read_text()


def screenshot(page: Path, script: str) -> np.ndarray:
    """The viewer alone, after `script` ran on it."""
    only = (
        "<style>header, section:not([aria-labelledby=viewer]), fieldset { display: none !important }</style>"
    )
    run = (
        "<script>const wait = setInterval(() => { if (document.documentElement.dataset.viewer === 'ready') "
        f"{{ clearInterval(wait); {script} }} }}, 50);</script>"
    )
    copy = page.with_name("shot.html")
    copy.write_text(page.read_text().replace("</body>", f"{only}{run}</body>"))
    picture = page.with_name("shot.png")
    subprocess.run(
        [
            str(CHROMIUM), "--headless=new", "--no-sandbox", "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--screenshot={picture}", "--window-size=1000,800", "--virtual-time-budget=20000",
            f"--user-data-dir={page.parent / 'profile'}", copy.as_uri(),
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return np.asarray(Image.open(io.BytesIO(picture.read_bytes())).convert("RGB")).astype(int)


def colored(picture: np.ndarray) -> int:
    """Pixels of the dark canvas, the red cross-hair aside, that carry a hue."""
    canvas = picture[200:640]
    spread = canvas.max(2) - canvas.min(2)
    red = (canvas[..., 0] > 150) & (canvas[..., 1] < 60)
    return int(((spread > 40) & ~red).sum())


@pytest.mark.debian
@pytest.mark.skipif(CHROMIUM is None, reason="needs the Debian package chromium")
def test_a_browser_shows_the_volume_and_switches_structures_off(tmp_path: Path) -> None:
    page = write_html(head_report(), tmp_path / "r.html", viewer=True)
    shown = screenshot(page, "")
    hidden = screenshot(page, "document.getElementById('nv-none').click();")
    clear = screenshot(
        page, "const o = document.getElementById('nv-opacity'); o.value = 0; o.oninput({target: o});"
    )
    assert colored(shown) > 20_000
    assert colored(hidden) < 0.02 * colored(shown)
    assert colored(clear) < 0.02 * colored(shown)
    assert (hidden[200:640].max(2) > 60).mean() > 0.1  # the image itself is still there
