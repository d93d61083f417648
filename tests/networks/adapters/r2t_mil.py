"""R2T-MIL in the authors' terms."""

from __future__ import annotations

from torch import Tensor

from medvit.networks import R2TMIL
from tests.networks.goldens import Adapter, Golden

# The authors' arguments that are ours under another name.
NAMES = {
    "input_dim": "in_channels",
    "n_classes": "out_channels",
    "mlp_dim": "dim",
    "act": "activation",
    "dropout": "dropout",
    "da_act": "pool_activation",
    "da_gated": "pool_gated",
    "da_bias": "pool_bias",
    "n_layers": "num_layers",
    "n_heads": "num_heads",
    "region_num": "region_num",
    "region_size": "region_size",
    "epeg_k": "epeg_kernel_size",
    "crmsa_k": "crmsa_representatives",
    "crmsa_heads": "crmsa_heads",
    "crmsa_mlp": "crmsa_mlp",
    "all_shortcut": "all_shortcut",
    "ffn_act": "ffn_activation",
    "trans_dropout": "attention_dropout",
}


def build(golden: Golden) -> R2TMIL:
    config = dict(golden.manifest["config"])
    if not config.pop("epeg", True):
        config["epeg_k"] = None
    ffn, ratio = config.pop("ffn", False), config.pop("mlp_ratio", 4.0)
    pool_dropout = 0.25 if config.pop("da_dropout", False) else 0.0
    config = {NAMES[name]: value for name, value in config.items()}
    return R2TMIL(**config, ffn_ratio=ratio if ffn else 0.0, pool_dropout=pool_dropout)


def call(network: R2TMIL, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    (bag,) = inputs.values()
    logits, attention = network(bag, return_attention=True)
    projected = network.activation(network.embed(bag))
    return {
        "logits": logits,
        "attention": attention,
        "reembedded": network.reembed(bag),
        "after_rmsa_layer0": network.layers[0](projected),
    }


ADAPTERS = {("r2t_mil", "RRTMIL"): Adapter(build, R2TMIL.load_published, call)}
