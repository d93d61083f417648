"""Converted networks give torch's labels, are converted once, and what cannot be converted is refused."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medvit.errors import MedvitError, MissingExtraError
from medvit.inference import Execution, Flips, SliceInferer, StreamingWindowInferer, backends, conversion
from medvit.inference.backends import CompiledNetwork, compiled_in
from medvit.inference.conversion import ConversionError, converted, fingerprint
from medvit.networks import LateralSegmenter

IMAGE = torch.randn(1, 1, 24, 20, 28, generator=torch.Generator().manual_seed(0))
ENGINES = ["openvino", "onnxruntime"]
TRIAL = conversion._try
TERMS = LateralSegmenter.terms


class Network(nn.Module):
    """Two convolutions, with deep supervision beside them."""

    def __init__(self, conv: type[nn.Conv2d] | type[nn.Conv3d] = nn.Conv3d, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = conv(1, 6, 3, padding=1), conv(6, 4, 3, padding=1)

    def forward(self, windows: Tensor) -> list[Tensor]:
        logits = self.last(self.first(windows).relu())
        return [logits, logits[..., ::2]]


class Unconvertible(nn.Module):
    """The number of its layers depends on what the image holds."""

    def forward(self, windows: Tensor) -> Tensor:
        for _ in range(int(windows.abs().max() * 3) + 1):
            windows = windows + 1
        return torch.cat([windows, -windows], 1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(conversion, "_compiled", type(conversion._compiled)())
    # The trial in a process of its own takes a second, and is left to the tests that ask for it.
    monkeypatch.setattr(conversion, "_try", lambda file: None)
    return tmp_path / "medvit" / "networks"


@pytest.fixture
def trial(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "_try", TRIAL)


def labels(net: nn.Module, **execution: object) -> tuple[Tensor, StreamingWindowInferer]:
    inferer = StreamingWindowInferer((16, 16, 16), flips=Flips((0,)), execution=Execution(**execution))
    return inferer(IMAGE, net), inferer


@pytest.mark.parametrize("engine", ENGINES)
def test_labels_are_those_of_torch_and_nothing_is_converted_twice(
    engine: str, cache: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Network().train()
    expected, _ = labels(net)
    found, inferer = labels(net, backend=engine)
    assert torch.equal(found, expected) and inferer.report.backend == engine
    assert net.training
    assert "once for these weights" in capsys.readouterr().err
    kept = [p for p in cache.iterdir() if p.is_dir()]
    assert len(kept) == 1 and kept[0].name.startswith(engine)
    # A new process has nothing compiled, but finds what is converted.
    monkeypatch.setattr(conversion, "_convert_into", None)
    monkeypatch.setattr(conversion, "_compiled", type(conversion._compiled)())
    again, _ = labels(net, backend=engine)
    assert torch.equal(again, expected)


def test_slices_share_one_conversion(cache: Path) -> None:
    net = Network(nn.Conv2d)
    plain, other = (
        SliceInferer((16, 16), slices=4, execution=Execution(backend=b)) for b in ("torch", "openvino")
    )
    for image in (IMAGE, IMAGE.flip(-1)):
        assert torch.equal(other(image, net), plain(image, net))
    assert len([p for p in cache.iterdir() if p.is_dir()]) == 1


def test_whatever_changes_the_answer_changes_the_fingerprint() -> None:
    reference = fingerprint(Network(), (1, 16, 16, 16), "openvino")
    assert fingerprint(Network(), (1, 16, 16, 16), "openvino") == reference
    other_stride = Network()
    other_stride.first.stride = (2, 2, 2)
    other_buffer = Network()
    other_buffer.register_buffer("scale", torch.ones(1), persistent=False)
    assert reference not in {
        fingerprint(Network(seed=1), (1, 16, 16, 16), "openvino"),
        fingerprint(Network(), (1, 16, 16, 32), "openvino"),
        fingerprint(Network(), (1, 16, 16, 16), "onnxruntime"),
        fingerprint(other_stride, (1, 16, 16, 16), "openvino"),
        fingerprint(other_buffer, (1, 16, 16, 16), "openvino"),
    }


def test_what_cannot_be_converted_is_refused_or_left_to_torch(cache: Path) -> None:
    with pytest.raises(ConversionError, match=r"OpenVINO cannot run Unconvertible .*use the backend torch"):
        labels(Unconvertible(), backend="openvino")
    assert not [p for p in cache.iterdir() if p.is_dir()]
    found, inferer = labels(Unconvertible(), backend="openvino", fall_back=True)
    assert torch.equal(found, labels(Unconvertible())[0])
    assert inferer.report.backend == "torch" and "torch was used instead" in inferer.report.fallbacks[0]
    with pytest.raises(ConversionError, match="modules of torch only"):
        labels(lambda windows: windows, backend="openvino")


def test_a_network_that_ends_the_process_of_the_engine_is_refused(
    cache: Path, trial: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "_TRIAL", "import os; os.kill(os.getpid(), 11)")
    with pytest.raises(ConversionError, match=r"cannot run Network \(it ends the process\)"):
        converted(Network(), (1, 8, 8, 8), "openvino")
    assert not [p for p in cache.iterdir() if p.is_dir()]


def test_a_missing_engine_and_a_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MedvitError, match=r"no backend 'openvno' .did you mean 'openvino'"):
        Execution(backend="openvno")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    with pytest.raises(MedvitError, match="runs on a CPU, not on A GPU"):
        Execution(backend="openvino").check(torch.device("cuda"))
    monkeypatch.setattr(backends, "installed", lambda backend: False)
    with pytest.raises(MissingExtraError, match=r"medvit\[openvino\]"):
        labels(Network(), backend="openvino")


def test_windows_of_another_shape_and_broken_files_are_refused(tmp_path: Path) -> None:
    made = converted(Network(), (1, 16, 16, 16), "openvino")
    batch = torch.randn(3, 1, 16, 16, 16)
    with torch.no_grad():
        np.testing.assert_allclose(made(batch), Network()(batch)[0], atol=1e-5)
        with pytest.raises(MedvitError, match="windows of 1 x 16 x 16 x 16, not 1 x 16 x 16 x 8"):
            made(batch[..., :8])
    (tmp_path / "broken.xml").write_text("<net")
    with pytest.raises(MedvitError, match="OpenVINO cannot read it"):
        CompiledNetwork(tmp_path / "broken.xml")(batch)
    with pytest.raises(MedvitError, match=r"absent\.xml, the network for OpenVINO, is missing"):
        CompiledNetwork(tmp_path / "absent.xml")


def _convert(folder: Path) -> str:
    return str(converted(Network(), (1, 8, 8, 8), "openvino", folder=folder).file)


def test_processes_share_one_conversion(tmp_path: Path, trial: None) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        files = set(pool.map(_convert, [tmp_path / "shared"] * 2))
    assert len(files) == 1 and Path(files.pop()).is_file()
    assert len([p for p in (tmp_path / "shared").iterdir() if p.is_dir()]) == 1


def test_what_openvino_compiled_is_found_by_the_next_process(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = torch.ones(1, 1, 16, 16, 16)
    first = converted(Network(), window.shape[1:], "openvino", folder=tmp_path / "made")
    expected = first(window)
    (blob,) = cache.parent.glob("compiled/*/*.blob")
    written = blob.stat().st_mtime_ns
    assert torch.equal(CompiledNetwork(first.file)(window), expected)
    assert blob.stat().st_mtime_ns == written
    # Other weights in the same file are compiled anew; where nothing can be written, nothing is kept.
    other = converted(Network(seed=1), window.shape[1:], "openvino", folder=tmp_path / "other")
    for suffix in (".xml", ".bin"):
        first.file.with_suffix(suffix).write_bytes(other.file.with_suffix(suffix).read_bytes())
    assert torch.equal(CompiledNetwork(first.file)(window), other(window))
    assert not torch.allclose(other(window), expected)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert torch.equal(CompiledNetwork(first.file)(window), other(window))


def test_sides_stay_with_torch_around_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    network = LateralSegmenter(Sided(), "brain")
    made = conversion.engine(network, (1, 16, 16, 16), "openvino")
    assert isinstance(made, LateralSegmenter) and isinstance(made.network, CompiledNetwork)
    assert compiled_in(made) is made.network and compiled_in(network) is None
    window = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(made(window), network(window), rtol=1e-4, atol=1e-5)
    found, inferer = labels(network, backend="openvino")
    assert inferer.report.backend == "openvino"
    assert (found != labels(network)[0]).float().mean() < 1e-3
    asked = []
    monkeypatch.setattr(LateralSegmenter, "terms", lambda *given: asked.append(1) or TERMS(*given))
    StreamingWindowInferer((16, 16, 16), execution=Execution(backend="openvino"))(IMAGE, network)
    assert asked, "fewer maps are blended with an engine as well"


class Sided(nn.Module):
    """Channels of a `LateralSegmenter`: background, structures without sides, and the side."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv3d(1, 19, 3, padding=1)

    def forward(self, windows: Tensor) -> Tensor:
        return self.conv(windows)
