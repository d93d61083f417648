"""RAT beyond parity: region-wise attention, sizes, training, refusals, export."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from medvit.errors import WeightsError
from medvit.networks import RAT
from medvit.networks.rat import RegionAttention, group_regions
from tests.networks.adapters.rat import ADAPTERS
from tests.networks.goldens import disagreement, golden, run


def small(**changes: object) -> RAT:
    """A RAT whose layer scales are not zero, so that it sees its map."""
    torch.manual_seed(0)
    config: dict = {"width": 8, "num_blocks": 1, "num_heads": 4, "encoder_depths": (1, 1), **changes}
    network = RAT(1, decoder_depths=(1, 1), **config)
    for name, parameter in network.named_parameters():
        if "scale" in name:
            nn.init.normal_(parameter)
    return network


def blobs(batch: int, height: int, width: int, count: int) -> Tensor:
    """Label maps with gaps in the numbers and regions of very different size."""
    generator = torch.Generator().manual_seed(1)
    labels = (torch.rand(batch, height, width, generator=generator) ** 3 * count).long() * 7
    labels[:, : height // 2] = 3
    return labels


@pytest.mark.parametrize("labels", [
    torch.zeros(2, 60, dtype=torch.long),
    torch.arange(120).reshape(2, 60),
    torch.arange(120).reshape(2, 60) // 13 * -5,
    blobs(3, 20, 20, 40).flatten(1),
], ids=["one", "alone", "equal", "mixed"])  # fmt: skip
def test_region_by_region_equals_dense(labels: Tensor) -> None:
    torch.manual_seed(0)
    attention = RegionAttention(8, 2, 0.5).double()
    x = torch.randn(*labels.shape, 1, 8, dtype=torch.float64)
    groups = group_regions(labels)
    members = torch.cat([g.tokens.flatten() if g.real is None else g.tokens[g.real] for g in groups])
    assert torch.equal(members.sort().values, torch.arange(labels.numel()))
    torch.testing.assert_close(attention(x, groups), attention(x, labels))


def test_the_map_is_heard() -> None:
    """With one region for all, the golden must fail by far."""
    case = golden("rat_small_rgb")
    adapter = ADAPTERS[case.key]
    spec = case.manifest["outputs"]["0"]
    network = adapter.build(case).eval()
    adapter.load(network, case.state())
    inputs = case.inputs()
    with torch.no_grad():
        output = network(inputs["x"], torch.zeros_like(inputs["mask"]))
    stored = case.arrays["output:0"]
    assert disagreement(case, "0", output, stored, spec["stride"]) > 1e-2
    assert disagreement(case, "0", run(adapter, case)["0"], stored, spec["stride"]) < 1e-4


@torch.no_grad()
def test_only_equality_of_labels_counts() -> None:
    network = small().eval()
    image, labels = torch.randn(2, 1, 32, 48), blobs(2, 32, 48, 6)
    expected = network(image, labels)
    torch.testing.assert_close(network(image, 1000 - labels), expected)
    loaded = MetaTensor(labels[:, None].float())
    torch.testing.assert_close(network(MetaTensor(image), loaded).as_tensor(), expected)
    alone = torch.cat([network(image[i : i + 1], labels[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(alone, expected)


@torch.no_grad()
def test_sizes_in_turn() -> None:
    network = small(upscale=2).eval()
    for size in ((16, 16), (21, 9), (3, 40)):
        output = network(torch.randn(1, 1, *size), blobs(1, 2 * size[0], 2 * size[1], 5))
        assert output.shape == (1, 1, 2 * size[0], 2 * size[1]) and output.isfinite().all()


@torch.no_grad()
def test_other_sizes_are_continued_at_the_edge() -> None:
    network = small().eval()
    image, labels = torch.randn(1, 1, 16, 30), blobs(1, 16, 30, 4)
    wide = [torch.cat([x, x[..., -1:], x[..., -1:]], dim=-1) for x in (image, labels)]
    torch.testing.assert_close(network(image, labels), network(*wide)[..., :30])


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_one_training_step(autocast: bool, use_checkpoint: bool) -> None:
    network = small(use_checkpoint=use_checkpoint)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    for height in (16, 32):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = network(torch.randn(2, 1, height, 32), blobs(2, height, 32, 9))
            loss = (output.float() - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_gradients_equal_those_of_the_dense_form() -> None:
    torch.manual_seed(0)
    labels = blobs(1, 12, 12, 30).flatten(1)
    attention = RegionAttention(8, 2, 0.5).double()
    grads = []
    for regions in (group_regions(labels), labels):
        x = torch.linspace(-1, 1, 144 * 8, dtype=torch.float64).reshape(1, 144, 1, 8).requires_grad_()
        attention(x, regions).square().sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)


def test_refusals() -> None:
    network, image = small(), torch.zeros(1, 1, 16, 16)
    with pytest.raises(ValueError, match=r"image \(B, 1, H, W\), not \(1, 3, 16, 16\)"):
        network(torch.zeros(1, 3, 16, 16), torch.zeros(1, 16, 16))
    with pytest.raises(ValueError, match=r"region map \[1, 16, 16\] for this image, not \[1, 8, 8\]"):
        network(image, torch.zeros(1, 8, 8))
    for wrong in (0.5, float("nan")):
        with pytest.raises(ValueError, match="not whole"):
            network(image, torch.full((1, 16, 16), wrong))
    with pytest.raises(ValueError, match=r"num_heads \(5\) must divide"):
        small(num_heads=5)
    with pytest.raises(ValueError, match="same number of levels"):
        small(encoder_depths=(1,))
    with pytest.raises(ValueError, match="attention_scale must be"):
        small(attention_scale="none")


def test_loading_is_strict() -> None:
    case = golden("rat_small_rgb")
    adapter, state = ADAPTERS[case.key], case.state()
    adapter.build(case).load_published({f"module.{name}": value for name, value in state.items()})
    del state["middle_blks.1.layers.2.lambda_wa"]
    with pytest.raises(WeightsError, match=r"missing: blocks\.1\.layers\.2\.window_scale"):
        adapter.load(adapter.build(case), state)
    with pytest.raises(WeightsError, match="left over"):
        RAT(3, width=16, num_blocks=1).load_published(case.state())


@torch.no_grad()
def test_trace_and_export_serve_any_map() -> None:
    network = small().eval()
    image, labels = torch.randn(2, 1, 20, 32), blobs(2, 20, 32, 5)
    traced = torch.jit.trace(network, (image, labels), check_trace=False)
    exported = torch.export.export(network, (image, labels)).module()
    for regions in (labels, labels.flip(1) // 2, torch.zeros_like(labels)):
        expected = network(image, regions)
        torch.testing.assert_close(traced(image, regions), expected)
        torch.testing.assert_close(exported(image, regions), expected)


@pytest.mark.slow
@torch.no_grad()
def test_onnx_gives_the_same() -> None:
    reference = pytest.importorskip("onnx.reference", reason="needs onnx and onnxscript")
    network = small().eval()
    image, labels = torch.randn(1, 1, 20, 32), blobs(1, 20, 32, 5)
    model = torch.onnx.export(network, (image, labels), dynamo=True).model_proto
    inputs = {"image": image.numpy(), "regions": (labels // 2).numpy()}
    (ours,) = reference.ReferenceEvaluator(model).run(None, inputs)
    torch.testing.assert_close(torch.from_numpy(ours), network(image, labels // 2), rtol=1e-3, atol=1e-3)
