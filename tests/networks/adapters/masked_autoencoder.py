"""The masked autoencoders of X-rays and of Uni4Eye++ in the authors' terms."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from medvit.networks import MaskedAutoencoder, Uni4Eye, ViTClassifier
from medvit.networks.masked_autoencoder import position_table
from tests.networks.goldens import Adapter, Golden


def _decoder(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "depth": config["depth"],
        "num_heads": config["num_heads"],
        "decoder_dim": config["decoder_embed_dim"],
        "decoder_depth": config["decoder_depth"],
        "decoder_num_heads": config["decoder_num_heads"],
        "mlp_ratio": config["mlp_ratio"],
        "normalise_targets": config.get("norm_pix_loss", False),
    }


class WithRatio(nn.Module):
    """A network with the share of removed tokens that its golden was recorded with."""

    def __init__(self, network: nn.Module, mask_ratio: float) -> None:
        super().__init__()
        self.network, self.mask_ratio = network, mask_ratio


def autoencoder(golden: Golden) -> WithRatio:
    config = golden.manifest["config"]
    size, patch = ((config[name],) * 2 for name in ("img_size", "patch_size"))
    channels = golden.manifest["state"]["patch_embed.proj.weight"][1]
    network = MaskedAutoencoder.of_images(channels, size, patch, config["embed_dim"], **_decoder(config))
    return WithRatio(network, config["mask_ratio"])


def run_autoencoder(wrapped: WithRatio, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    image, noise = inputs.values()
    loss, prediction, mask = wrapped.network(image, wrapped.mask_ratio, noise)
    return {"0": prediction, "1": mask, "loss": loss}


def uni4eye(golden: Golden) -> WithRatio:
    config = golden.manifest["config"]
    size, patch = ((config[name],) * 2 for name in ("img_size", "patch_size"))
    network = Uni4Eye(config["in_chans"], size, patch, dim=config["embed_dim"], **_decoder(config))
    return WithRatio(network, config["mask_ratio"])


def run_uni4eye(wrapped: WithRatio, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    (loss, prediction, mask), mixed = wrapped.network(
        inputs["imgs"], inputs["task_id"], wrapped.mask_ratio, inputs["noise"]
    )
    return {"0": prediction, "1": mask, "2": mixed, "loss": loss}


def flat_uni4eye(golden: Golden) -> WithRatio:
    """The variants for images alone; that with masks guided by entropy has its loss before the head."""
    config = golden.manifest["config"]
    size, patch = ((config[name],) * 2 for name in ("img_size", "patch_size"))
    network = Uni4Eye(
        config["in_chans"], size, patch, None, dim=config["embed_dim"],
        mixed_loss="imgen" not in golden.manifest["inputs"], **_decoder(config),
    )  # fmt: skip
    return WithRatio(network, config["mask_ratio"])


def run_flat_uni4eye(wrapped: WithRatio, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    noise = inputs["noise"] * inputs["imgen"] if "imgen" in inputs else inputs["noise"]
    return run_uni4eye(wrapped, inputs | {"noise": noise})


def classifier(golden: Golden) -> ViTClassifier:
    config = golden.manifest["config"]
    return ViTClassifier(
        golden.manifest["inputs"]["x"]["shape"][1],
        (config["img_size"],) * 2,
        (config["patch_size"],) * 2,
        config["num_classes"],
        config["embed_dim"],
        config["depth"],
        config["num_heads"],
        config["mlp_ratio"],
        config["qkv_bias"],
        config["global_pool"],
    )


class Table(nn.Module):
    """The fixed position table as a network without weights or input."""

    def __init__(self, dim: int, grid: int) -> None:
        super().__init__()
        self.dim, self.grid = dim, grid


def load_wrapped(wrapped: WithRatio, state: dict[str, Tensor]) -> Any:
    return wrapped.network.load_published(state)


ADAPTERS = {
    ("mae_xray", "MaskedAutoencoderViT"): Adapter(autoencoder, load_wrapped, run_autoencoder),
    ("mae_xray", "VisionTransformer"): Adapter(classifier, ViTClassifier.load_published),
    ("mae_xray", "get_2d_sincos_pos_embed"): Adapter(
        lambda golden: Table(golden.manifest["config"]["embed_dim"], golden.manifest["config"]["grid_size"]),
        lambda network, state: None,
        lambda network, inputs: position_table(network.dim, (network.grid,) * 2),
    ),
    ("uni4eye", "MaskedAutoencoderViT_partial"): Adapter(flat_uni4eye, load_wrapped, run_flat_uni4eye),
    ("uni4eye", "MaskedAutoencoderViT_partial_imgen"): Adapter(flat_uni4eye, load_wrapped, run_flat_uni4eye),
    ("uni4eye", "MaskedAutoencoderViT_partial23D"): Adapter(uni4eye, load_wrapped, run_uni4eye),
}
