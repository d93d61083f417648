"""R2T-MIL beyond parity: bags apart, masks, padding, training, refusals, export."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medvit.errors import WeightsError
from medvit.networks import R2TMIL
from medvit.networks.r2t_mil import Attention, TokenRegions
from tests.networks.adapters.r2t_mil import build
from tests.networks.goldens import disagreement, golden, tolerance


def small(**changes: object) -> R2TMIL:
    torch.manual_seed(0)
    config: dict = {"dim": 32, "num_heads": 4, "crmsa_heads": 2, "region_num": 2, "crmsa_region_num": 3}
    network = R2TMIL(12, 3, **config | changes)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):  # zero at the start, which would hide the padding
            nn.init.normal_(parameter)
    return network


@pytest.mark.parametrize(("per_axis", "size"), [(3, None), (8, 4)])
@pytest.mark.parametrize("tokens", [1, 9, 10, 50])
def test_regions_are_squares_of_the_row_by_row_grid(per_axis: int, size: int | None, tokens: int) -> None:
    regions = TokenRegions(per_axis, size)
    x = torch.arange(1.0, tokens + 1)[None, :, None]
    cut = regions.cut(x)
    count, edge = regions.grid(tokens)
    side = count * edge
    grid = torch.zeros(side * side).index_copy(0, torch.arange(tokens), x[0, :, 0]).reshape(side, side)
    for region in range(count * count):
        row, column = (edge * n for n in divmod(region, count))
        assert torch.equal(cut[0, region, :, 0], grid[row : row + edge, column : column + edge].flatten())
    assert torch.equal(regions.join(cut, tokens), x)
    assert torch.equal(regions.real(x), cut[..., 0] > 0)


def test_convolved_queries_equal_convolved_scores() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2, 0.0, position_kernel=5).double()
    x = torch.randn(3, 7, 8, dtype=torch.float64)
    query, key, value = attention.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-1, -2) * 0.5
    scores = scores + attention.position(scores) + 1.7  # a bias shifts whole rows
    expected = attention.proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x), expected)


@torch.no_grad()
@pytest.mark.parametrize("mask_padding", [False, True])
def test_bags_do_not_see_each_other(mask_padding: bool) -> None:
    network = small(mask_padding=mask_padding).eval()
    bags = torch.randn(3, 50, 12)
    alone = torch.cat([network(bag) for bag in bags])
    torch.testing.assert_close(network(bags), alone)


@torch.no_grad()
def test_bags_of_different_length_equal_themselves_alone() -> None:
    network = small().eval()
    bags = [torch.randn(n, 12) for n in (50, 7, 31)]
    mask = torch.stack([torch.arange(60) < len(bag) for bag in bags])
    mask[1] = mask[1].roll(20)  # the padding need not stand at the end
    batch = torch.full((3, 60, 12), float("nan"))
    batch[mask] = torch.cat(bags)
    logits, attention = network(batch, mask, return_attention=True)
    torch.testing.assert_close(logits, torch.cat([network(bag) for bag in bags]))
    torch.testing.assert_close(attention.sum(1), torch.ones(3))
    assert (attention[~mask] == 0).all() and (attention[mask] > 0).all()
    torch.testing.assert_close(attention[1, 20:27], network(bags[1], return_attention=True)[1][0])


@torch.no_grad()
@pytest.mark.parametrize("tokens", [5, 10, 30, 50])
def test_masked_padding_takes_no_part(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands in the padding, the answer stays; as published, it does not."""
    bag = torch.randn(1, tokens, 12)
    cut = TokenRegions.cut

    def noisy(self: TokenRegions, x: Tensor) -> Tensor:
        places = cut(self, x)
        return places if x.shape[-1] == 1 else torch.where(self.real(x)[..., None], places, 3.0)

    for mask_padding in (True, False):
        network = small(mask_padding=mask_padding).eval()
        before = network(bag)
        with monkeypatch.context() as patch:
            patch.setattr(TokenRegions, "cut", noisy)
            after = network(bag)
        assert before.isfinite().all()
        assert torch.allclose(before, after, atol=1e-5) == mask_padding


@torch.no_grad()
def test_a_full_grid_has_no_padding_to_mask() -> None:
    bag = torch.randn(2, 36, 12)
    torch.testing.assert_close(small(mask_padding=True).eval()(bag), small().eval()(bag))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ffn_ratio": 2.0, "crmsa_mlp": True, "pool_gated": True, "mask_padding": True},
        {"num_layers": 3, "region_size": 3, "epeg_kernel_size": None, "all_shortcut": False},
    ],
)
def test_one_training_step(changes: dict, precision: torch.dtype) -> None:
    network = small(**changes)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    for tokens in (40, 4, 90):
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            logits = network(torch.randn(2, tokens, 12), torch.arange(tokens) < torch.tensor([[3], [tokens]]))
            loss = nn.functional.cross_entropy(logits.float(), torch.tensor([0, 2]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    assert all(p.grad is not None for p in network.parameters())


def test_refusals() -> None:
    network = small()
    with pytest.raises(ValueError, match=r"bags \(B, N, 12\) or \(N, 12\), not \(1, 5, 8\)"):
        network(torch.zeros(1, 5, 8))
    with pytest.raises(ValueError, match="without patches"):
        network(torch.zeros(1, 0, 12))
    with pytest.raises(ValueError, match=r"leave out bag \[1\] of the batch"):
        network(torch.zeros(2, 3, 12), torch.tensor([[True] * 3, [False] * 3]))
    with pytest.raises(ValueError, match=r"mask must be \(2, 3\), not \(1, 3\)"):
        network(torch.zeros(2, 3, 12), torch.ones(3))
    for changes, message in (
        ({"num_heads": 5}, "must divide"),
        ({"epeg_kernel_size": 4}, "must be odd"),
        ({"pool_activation": "elu"}, "must be one of relu, gelu, tanh"),
        ({"region_num": 0}, "must be positive"),
        ({"num_layers": 0}, "num_layers must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            small(**changes)


def test_loading_is_strict() -> None:
    case = golden("r2t_mil_nsclc_plip")
    report = build(case).load_published({"model": case.state(), "epoch": 3})
    assert report.ignored == ("online_encoder.layers.0.attn.attn.pe.bias",)
    state = case.state()
    del state["online_encoder.cr_msa.attn.phi.2.weight"]
    with pytest.raises(WeightsError, match=r"missing: cross\.attention\.to_scores\.2\.weight"):
        build(case).load_published(state)
    with pytest.raises(WeightsError, match="left over"):
        R2TMIL(512, 2, epeg_kernel_size=None, crmsa_mlp=True, crmsa_heads=1).load_published(case.state())


@torch.no_grad()
@pytest.mark.parametrize("entry", ["layers.0.attn.attn.pe.weight", "cr_msa.attn.phi.0.weight"])
def test_the_golden_notices_a_broken_entry(entry: str) -> None:
    case = golden("r2t_mil_nsclc_plip")
    state = case.state()
    state[f"online_encoder.{entry}"] *= 1.2
    network = build(case).double().eval()
    network.load_published(state)
    spec, stored = case.manifest["outputs"]["reembedded"], case.arrays["output:reembedded"]
    ours = network.reembed(case.inputs()["x"])
    assert disagreement(case, "reembedded", ours, stored, spec["stride"]) > 100 * tolerance(
        case, "reembedded"
    )


@torch.no_grad()
def test_trace_and_export_give_the_same() -> None:
    """The length of the bag is fixed by the example, the batch is not."""
    network = small().eval()
    bags = torch.randn(2, 50, 12)
    traced = torch.jit.trace(network, bags, check_trace=False)
    batch = {"bag": {0: torch.export.Dim("batch", min=1, max=8)}}
    exported = torch.export.export(network, (bags,), dynamic_shapes=batch).module()
    for x in (bags, torch.randn(3, 50, 12)):
        torch.testing.assert_close(traced(x), network(x))
        torch.testing.assert_close(exported(x), network(x))


@pytest.mark.slow
@torch.no_grad()
def test_onnx_gives_the_same() -> None:
    reference = pytest.importorskip("onnx.reference", reason="needs onnx and onnxscript")
    network = small().eval()
    bags = torch.randn(2, 50, 12)
    model = torch.onnx.export(network, (bags,), dynamo=True).model_proto
    (ours,) = reference.ReferenceEvaluator(model).run(None, {"bag": bags.numpy()})
    torch.testing.assert_close(torch.from_numpy(ours), network(bags), rtol=1e-3, atol=1e-3)
