"""TransUNet beyond parity: JAX weights, training, shapes, refusals, checkpoints, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medvit.errors import WeightsError
from medvit.networks import TransUNet
from medvit.networks.transunet import rename_published
from tests.networks.adapters.transunet import build
from tests.networks.checks import exports_to_onnx, traces_and_exports, trains
from tests.networks.goldens import Golden, collect, disagreement, golden, tolerance
from tests.networks.parity_rule import fill_entry

FROM_NPZ = [g for g in collect() if g.key == ("transunet", "VisionTransformer") and "npz" in g.manifest]


def small(**changes: Any) -> TransUNet:
    torch.manual_seed(0)
    config: dict[str, Any] = {
        "img_size": 32, "hidden_size": 16, "mlp_dim": 24, "num_heads": 2, "num_layers": 1,
        "resnet_depths": (1, 1, 1), "resnet_width": 32, "decoder_channels": (16, 8, 8, 8),
    }  # fmt: skip
    return TransUNet(1, 2, **(config | changes))


def jax_arrays(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """The manifest's rule: scales lie around one."""
    return {
        name: fill_entry(name, tuple(shape)).reshape(shape) + np.float32(name.endswith("/scale"))
        for name, shape in shapes.items()
    }


@torch.no_grad()
@pytest.mark.parametrize("golden", FROM_NPZ, ids=lambda g: g.manifest["case"])
def test_jax_weights_give_what_the_authors_code_gives(golden: Golden, tmp_path: Path) -> None:
    path = tmp_path / "R50+ViT.npz"
    np.savez(path, **jax_arrays(golden.manifest["npz"]))
    network = build(golden).eval()
    decoder = rename_published(golden.state(calibrated=True))
    network.load_state_dict(network.state_dict() | decoder)
    report = network.load_npz(path)
    assert report.ignored == ("cls", "head/kernel", "head/bias")
    if "mapped:position_embeddings" in golden.arrays:
        table = torch.from_numpy(golden.arrays["mapped:position_embeddings"])
        torch.testing.assert_close(network.position.data, table.view_as(network.position))
    ours = network(*golden.inputs().values())
    spec = golden.manifest["outputs"]["0"]
    assert disagreement(golden, "0", ours, golden.arrays["output:0"], spec["stride"]) <= tolerance(
        golden, "0"
    )


def test_an_incomplete_npz_is_refused() -> None:
    arrays = jax_arrays(golden("transunet_from_npz_small").manifest["npz"])
    network = build(golden("transunet_from_npz_small"))
    with pytest.raises(WeightsError, match=r"missing: resnet\.stages\.1\.0\.gn_proj\.weight"):
        network.load_npz({n: a for n, a in arrays.items() if n != "block2/unit1/gn_proj/scale"})
    with pytest.raises(WeightsError, match=r"left over: blocks\.2\.norm1\.weight"):
        network.load_npz(arrays | {"Transformer/encoderblock_2/LayerNorm_0/scale": np.ones(96, np.float32)})
    arrays["Transformer/posembed_input/pos_embedding"] = np.zeros((1, 12, 96), np.float32)
    with pytest.raises(WeightsError, match="position table has 12 rows"):
        network.load_npz(arrays)


def test_an_npz_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        small().load_npz(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("not weights")
    with pytest.raises(WeightsError, match="not an npz of plain arrays"):
        small().load_npz(tmp_path / "text.npz")


@torch.no_grad()
def test_position_table_becomes_a_box() -> None:
    arrays = jax_arrays(golden("transunet_from_npz_small").manifest["npz"])
    network = TransUNet(
        1, 4, (32, 80), hidden_size=96, mlp_dim=160, num_heads=4, num_layers=2,
        resnet_depths=(2, 1, 1), resnet_width=32, decoder_channels=(48, 32, 24, 16),
    ).eval()  # fmt: skip
    network.load_npz(arrays)
    square = arrays["Transformer/posembed_input/pos_embedding"][0, 1:].reshape(14, 14, 96)
    box = network.position[0].reshape(2, 5, 96)
    corners = torch.from_numpy(square[::13, ::13])
    torch.testing.assert_close(box[::1, ::4], corners)
    assert network(torch.randn(2, 1, 32, 80)).shape == (2, 4, 32, 80)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("pure", [False, True])
def test_trains(autocast: bool, pure: bool) -> None:
    network = small(resnet_depths=None) if pure else small()
    trains(network, [torch.randn(2, 1, 32, 32), torch.randn(3, 1, 32, 32)], autocast=autocast)


@torch.no_grad()
@pytest.mark.parametrize("n_skip", [0, 1, 2, 3])
def test_skips_are_dropped_from_the_fine_end(n_skip: int) -> None:
    network = small(n_skip=n_skip).eval()
    widths = [up.conv1[0].in_channels for up in network.ups]
    assert [w - c for w, c in zip(widths, (512, 16, 8, 8), strict=True)] == [
        *(256, 128, 32)[:n_skip],
        *[0] * (4 - n_skip),
    ]
    assert network(torch.randn(1, 1, 32, 32)).shape == (1, 2, 32, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_size": 40}, "multiples of 16"),
        ({"resnet_depths": None, "n_skip": 3}, "pure ViT has no maps"),
        ({"n_skip": 4}, "between 0 and 3"),
        ({"resnet_width": 48}, "multiple of 32"),
        ({"num_heads": 3}, r"num_heads \(3\) must divide"),
        ({"decoder_channels": (8, 8)}, "four widths"),
    ],
)
def test_refuses_configurations_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)


@pytest.mark.parametrize("shape", [(1, 1, 48, 48), (1, 3, 32, 32), (1, 32, 32)])
def test_refuses_images_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"needs an image \(B, 1, 32, 32\)"):
        small()(torch.zeros(shape))


def test_loading_is_strict() -> None:
    case = golden("transunet_small")
    network, published = build(case), case.state()
    nested = {"model": {f"module.{name}": value for name, value in published.items()}}
    report = network.load_published(nested)
    # Twice three entries of an attention become two.
    assert report.matched == len(published) - 3 * 4
    key = "transformer.encoder.layer.1.attn.key.weight"
    with pytest.raises(WeightsError, match=r"missing: blocks\.1\.attention\.qkv\.weight"):
        network.load_published({name: value for name, value in published.items() if name != key})


def test_traces_and_exports() -> None:
    traces_and_exports(small(), torch.randn(2, 1, 32, 32))


@pytest.mark.slow
@pytest.mark.parametrize("pure", [False, True])
def test_exports_to_onnx(pure: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs onnxscript")
    network = small(resnet_depths=None) if pure else small()
    exports_to_onnx(network, torch.randn(2, 1, 32, 32), tmp_path)
