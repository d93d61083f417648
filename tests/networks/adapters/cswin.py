"""CSWin and CSWin-UNet in the authors' terms."""

from __future__ import annotations

from torch import Tensor, nn

from medvit.networks import CSwin, CSwinUNet
from medvit.networks.cswin_unet import CARAFE
from tests.networks.goldens import Adapter, Golden

SIZES = {"embed_dim": "embed_dim", "depth": "depths", "num_heads": "num_heads", "split_size": "stripe_widths"}
SHARED = SIZES | {"mlp_ratio": "mlp_ratio", "qkv_bias": "qkv_bias"}


def _shared(golden: Golden) -> dict:
    config = golden.manifest["config"]
    return {ours: config[theirs] for theirs, ours in SHARED.items() if theirs in config}


def backbone(golden: Golden) -> CSwin:
    return CSwin(golden.manifest["inputs"]["x"]["shape"][1], **_shared(golden))


def unet(golden: Golden) -> CSwinUNet:
    config = golden.manifest["config"]
    channels = golden.manifest["inputs"]["x"]["shape"][1]
    return CSwinUNet(channels, config["num_classes"], config["img_size"], **_shared(golden))


def carafe(golden: Golden) -> CARAFE:
    config = golden.manifest["config"]
    return CARAFE(config["dim"], config["dim_out"], config["up_factor"], config["kernel_size"])


def call_carafe(network: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    x = inputs["x"]
    side = round(x.shape[1] ** 0.5)
    return network(x.unflatten(1, (side, side))).flatten(1, 2)


ADAPTERS = {
    ("cswin", "CSWin"): Adapter(backbone, CSwin.load_published),
    ("cswin_unet", "CSWinTransformer"): Adapter(unet, CSwinUNet.load_published),
    ("cswin_unet", "CARAFE"): Adapter(
        carafe, lambda network, state: network.load_state_dict(state), call_carafe
    ),
}
