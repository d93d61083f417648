"""Loading a single block of a network whose published names are known only below the network's root."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from medvit.networks.layers.residual_unet import Names, load_part


def load_unit(
    published: str, own: str, names: Names, unused: str
) -> Callable[[nn.Module, dict[str, Tensor]], None]:
    """Load a block as if it stood at `published` in the authors' network and at `own` in ours."""

    def load(block: nn.Module, state: dict[str, Tensor]) -> None:
        network = nn.Module()
        *parents, last = own.split(".")
        holder = network
        for name in parents:
            holder.add_module(name, nn.Module())
            holder = holder.get_submodule(name)
        holder.add_module(last, block)
        load_part(network, {f"{published}.{name}": value for name, value in state.items()}, names, unused)

    return load
