"""Whatever is wrong with a command is said in one sentence, before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medvit.cli.app import app
from medvit.errors import MedvitError
from medvit.runs import options

BUNDLE = "segformer3d_brain"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.nii.gz"
    path.write_bytes(b"never read")
    return path


@pytest.mark.parametrize("verb", ["run", "cohort"])
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--device", "banana"], "there is no device 'banana'"),
        (["--device", "cdua"], "did you mean 'cuda'"),
        (["--overlap", "1.5"], "overlap must be a number of at least 0 and below 1, not 1.5"),
        (["--overlap", "-0.1"], "overlap must be a number of at least 0"),
        (["--amp", "bf61"], "there is no precision 'bf61' (did you mean 'bf16'?)"),
        (["--backend", "openvno"], "there is no backend 'openvno' (did you mean 'openvino'?)"),
        (["--language", "xx"], "no report in language 'xx'; choose one of de, en, fr"),
        (["-o", "STUDY"], "is a file; give a folder"),
        (["--deidentify"], "--deidentify would do nothing without --dicom"),
    ],
)
def test_wrong_options_are_one_sentence(
    verb: str, arguments: list[str], sentence: str, study: Path, tmp_path: Path
) -> None:
    given = [str(study) if a == "STUDY" else a for a in arguments]
    done = CliRunner().invoke(app, [verb, BUNDLE, str(study), "-o", str(tmp_path / "out"), *given])
    assert isinstance(done.exception, MedvitError)
    assert sentence in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_the_date_of_an_earlier_study_is_blamed_where_it_is_at_fault(tmp_path: Path) -> None:
    file = tmp_path / "m@2024-01-02" / "measurements.json"
    file.parent.mkdir()
    file.write_text("{}")
    assert options.checked_priors([str(file), f"{file}@2024-03-05"]) == [str(file), f"{file}@2024-03-05"]
    for wrong in ("yesterday", "2024-02-30"):
        with pytest.raises(MedvitError, match=f"'{wrong}' is not a date; state it as .*@YYYY-MM-DD"):
            options.checked_priors([f"{file}@{wrong}"])
    with pytest.raises(MedvitError, match=r"gone\.json: not a readable measurements\.json"):
        options.checked_priors([f"{tmp_path / 'gone.json'}@2024-03-05"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "segformer3d_brian", "STUDY"], "did you mean 'segformer3d_brain'?"),
        (["run", BUNDLE, "nowhere.nii.gz"], "nowhere.nii.gz: does not exist"),
        (["run", BUNDLE, "STUDY", "--prior", "none.json"], "none.json: not a readable measurements.json"),
        (["run", BUNDLE, "STUDY", "--device", "cuda:x"], "there is no device 'cuda:x'"),
        (["run", BUNDLE, "STUDY", "--structures", "amygdala,hipocampus"], "did you mean 'hippocampus'?"),
        (
            ["run", "rat_ct_denoise", "STUDY", "--separate"],
            "rat_ct_denoise restores images and has no structures",
        ),
        (["run", BUNDLE, "STUDY", "--fast", "--overlap", "0.5"], "--fast sets the overlap"),
        (
            ["train", "SegFormr3D", "brats2021"],
            "no bundle or network 'SegFormr3D' (did you mean 'SegFormer3D'?)",
        ),
        (["train", "segformer3d_brian", "brats2021"], "did you mean 'segformer3d_brain'?"),
    ],
)
def test_a_slip_costs_no_time(arguments: list[str], sentence: str, study: Path, tmp_path: Path) -> None:
    given = [str(study) if a == "STUDY" else a for a in arguments]
    probe = (
        "import sys\nfrom medvit.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code\n"
        "import resource\nused = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(code, used.ru_utime + used.ru_stime, 'torch' in sys.modules, 'monai' in sys.modules)"
    )
    command = [sys.executable, "-c", probe, *given, "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, seconds, *heavy = done.stdout.split()
    assert code == "1" and heavy == ["False", "False"]
    assert float(seconds) < 0.5
    assert sentence in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", BUNDLE, "nowhere.yaml", "-o", "OUT"], "there is no manifest nowhere.yaml; check"),
        (["train", BUNDLE, "brats2012", "-o", "OUT"], "did you mean 'brats2021'?"),
        (["train", BUNDLE, "brats2021", "-o", "OUT", "--device", "tpu"], "there is no device 'tpu'"),
        (
            ["check", "segformer3d_brian", "STUDY"],
            "is neither a study nor an installed bundle (did you mean 'segformer3d_brain'?)",
        ),
        (["label", "nowhere"], "nowhere is neither a folder nor an address"),
        (["bench", "brain", "-o", "STUDY"], "is a file; give a folder"),
    ],
)
def test_other_verbs_are_checked_alike(
    arguments: list[str], sentence: str, study: Path, tmp_path: Path
) -> None:
    given = [{"STUDY": str(study), "OUT": str(tmp_path / "out")}.get(a, a) for a in arguments]
    done = CliRunner().invoke(app, given)
    assert isinstance(done.exception, MedvitError) and sentence in str(done.exception)


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "gpu", "mps"])
def test_hardware_that_is_missing_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "_has_driver", lambda: False)
    monkeypatch.setattr(options.sys, "platform", "linux")
    with pytest.raises(MedvitError, match=f"device {name}: .*this machine.*use --device cpu"):
        options.checked_device(name)


def test_devices_get_the_names_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "_has_driver", lambda: True)
    monkeypatch.setattr(options, "_torch_has", lambda kind: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(options.sys, "platform", "linux")
    assert [options.checked_device(n) for n in ("CPU", "gpu", "cuda:1")] == ["cpu", "cuda", "cuda:1"]
    with pytest.raises(MedvitError, match="2 CUDA devices, cuda:0 to cuda:1, not cuda:2"):
        options.checked_device("cuda:2")
    monkeypatch.setattr(options.sys, "platform", "darwin")
    assert options.checked_device("gpu") == "mps"


def test_an_output_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        assert dir == tmp_path
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(MedvitError, match="nothing can be written there"):
        options.checked_output(tmp_path / "a" / "b")


@pytest.mark.parametrize("verb", ["run", "cohort", "status", "train", "label", "evaluate", "check", "convert",
                                  "deidentify", "list", "info", "bench", "data", "pacs"])  # fmt: skip
def test_every_verb_has_its_help_under_h(verb: str) -> None:
    done = CliRunner().invoke(app, [verb, "-h"])
    assert done.exit_code == 0 and "Usage" in done.output


def test_python_m_medvit_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "medvit", "--version"], capture_output=True, text=True)
    assert done.stdout.strip()[0].isdigit()
