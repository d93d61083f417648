"""D-Former beyond parity: groups, sizes, training, refusals, export."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medvit.errors import WeightsError
from medvit.networks import DFormer
from medvit.networks.d_former import GroupAttention
from medvit.training.steps import SmallGridsInFloat32
from tests.networks.goldens import golden


def small(**changes: object) -> DFormer:
    torch.manual_seed(0)
    config: dict = {"embed_dim": 12, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 3), **changes}
    return DFormer(1, 3, **config)


def dense_attention(attention: GroupAttention, x: Tensor) -> Tensor:
    """The same attention over all tokens, each allowed the keys of its own group."""
    grid = [int(n) for n in x.shape[1:4]]
    counts, members = attention.partition(grid)
    axes = [
        torch.arange(n) % c if attention.dilated else torch.arange(n) // m
        for n, c, m in zip(grid, counts, members, strict=True)
    ]
    group = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 2)
    allowed = (group[:, None] == group[None]).all(-1)
    tokens = x.flatten(1, 3)
    q, k, v = attention.qkv(tokens).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    joined = (scores.masked_fill(~allowed, float("-inf")).softmax(-1) @ v).transpose(1, 2).flatten(2)
    return attention.proj(joined).reshape(x.shape)


@pytest.mark.parametrize("dilated", [False, True])
@pytest.mark.parametrize("grid", [(4, 8, 8), (5, 9, 13), (1, 11, 6), (3, 3, 9)])
def test_attention_stays_within_its_group(grid: tuple[int, ...], dilated: bool) -> None:
    torch.manual_seed(0)
    attention = GroupAttention(8, 2, (2, 4, 4), dilated).double()
    x = torch.randn(2, *grid, 8, dtype=torch.float64)
    torch.testing.assert_close(attention(x), dense_attention(attention, x))


def test_dilated_groups_keep_their_length_on_divisible_grids() -> None:
    attention = GroupAttention(8, 2, (2, 4, 4), dilated=True)
    assert attention.partition([8, 16, 12]) == ([4, 4, 3], [2, 4, 4])
    assert attention.partition([4, 7, 8]) == ([2, 1, 2], [2, 7, 4])


@torch.no_grad()
def test_a_small_volume_leaves_no_trace() -> None:
    network = small().eval()
    large, tiny = torch.randn(1, 1, 16, 64, 64), torch.randn(1, 1, 16, 24, 40)
    before = network(large)
    assert network(tiny).shape == (1, 3, 16, 24, 40)
    assert torch.equal(network(large), before)


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 64, 32), (7, 33, 50), (3, 5, 4), (40, 20, 36)])
def test_any_size_gives_logits_of_its_size(size: tuple[int, ...]) -> None:
    network = small().eval()
    full, half, quarter = network.levels(torch.randn(2, 1, *size))
    assert full.shape == (2, 3, *size) and full.isfinite().all()
    assert half.shape[2:] == tuple(-(-n // 2) for n in size)
    assert quarter.shape[2:] == tuple(-(-n // 4) for n in size)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_one_training_step(autocast: bool, use_checkpoint: bool) -> None:
    network = small(init="trunc_normal", use_checkpoint=use_checkpoint)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for size in ((9, 33, 34), (16, 32, 32)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), SmallGridsInFloat32():
            levels = network(torch.randn(2, 1, *size))
            loss = sum((x.float() - 1).square().mean() for x in levels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert len(levels) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": (1, 2, 2, 5)}, r"num_heads \(5\) must divide"),
        ({"depths": (2, 2, 2)}, "depths must hold 4"),
        ({"patch_size": (0, 4, 4)}, "patch_size must hold 3 positive"),
        ({"init": "xavier"}, "init must be"),
    ],
)
def test_refuses_an_impossible_configuration(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_refuses_an_image_of_another_kind() -> None:
    with pytest.raises(ValueError, match=r"needs an image \(B, 1, D, H, W\), not \(1, 2, 8, 16, 16\)"):
        small()(torch.zeros(1, 2, 8, 16, 16))
    with pytest.raises(ValueError, match=r"has 1 output level\(s\), not 2"):
        small(deep_supervision=False).levels(torch.zeros(1, 1, 8, 16, 16), 2)


def published_state() -> dict[str, Tensor]:
    return golden("d_former_small").state()


def test_loading_is_strict() -> None:
    config: dict = {"embed_dim": 24, "num_heads": (2, 3, 4, 6), "depths": (2, 2, 2, 2)}
    state = published_state()
    nested = {"state_dict": {f"module.{name}": value for name, value in state.items()}}
    assert DFormer(1, 5, **config).load_published(nested).ignored == ()
    alone = DFormer(1, 5, deep_supervision=False, **config).load_published(state)
    assert "final.2.0.expand.weight" in alone.ignored and len(alone.ignored) == 8
    del state["model_down.concat_back_dim.3.bias"]
    with pytest.raises(WeightsError, match=r"missing: joins\.0\.bias"):
        DFormer(1, 5, **config).load_published(state)
    with pytest.raises(WeightsError, match=r"wrong shape: .*readout"):
        DFormer(1, 4, **config).load_published(published_state())


@torch.no_grad()
def test_trace_and_export_give_the_same() -> None:
    """The grid is fixed by the example, the batch is not."""
    network = small(depths=(2, 1, 1, 1)).eval()
    image = torch.randn(2, 1, 9, 33, 32)
    traced = torch.jit.trace(network, image, check_trace=False)
    batch = {"image": {0: torch.export.Dim("batch", min=1, max=8)}}
    exported = torch.export.export(network, (image,), dynamic_shapes=batch).module()
    other = torch.randn(3, 1, 9, 33, 32)
    for x in (image, other):
        with torch.jit.optimized_execution(False):
            torch.testing.assert_close(traced(x), network(x))
        torch.testing.assert_close(exported(x), network(x))


@pytest.mark.slow
@torch.no_grad()
def test_onnx_gives_the_same() -> None:
    reference = pytest.importorskip("onnx.reference", reason="needs onnx and onnxscript")
    network = small(depths=(2, 1, 1, 1)).eval()
    image = torch.randn(1, 1, 9, 33, 32)
    model = torch.onnx.export(network, (image,), dynamo=True).model_proto
    (ours,) = reference.ReferenceEvaluator(model).run(None, {"image": image.numpy()})
    torch.testing.assert_close(torch.from_numpy(ours), network(image), rtol=1e-3, atol=1e-3)
