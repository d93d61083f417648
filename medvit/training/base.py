"""The start of a training: a bundle with its weights, or a network by its name."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medvit.bundles import Bundle
from medvit.errors import MedvitError
from medvit.inference import SliceInferer, StreamingWindowInferer
from medvit.training import inference_component
from medvit.training.architectures import SLICEWISE, definition_of, network_named, start_named
from medvit.training.encoder_file import read_encoder
from medvit.training.network import is_lateral, network_definition
from medvit.training.published_encoders import check_published_encoder, is_ours

# Edges of the window if no bundle states one: for slices and for volumes.
_WINDOWS = {2: (128, 128), 3: (64, 64, 64)}


@dataclass(frozen=True)
class Recipe:
    """The part of a recipe, a file that changes the training of a bundle, that a pre-training uses.

    Parameters
    ----------
    name
        Name of the file, without its suffix.
    network
        Configuration of the network.
    window
        Edges of the windows in voxels.
    spacing
        Edges of a voxel in mm; ``None`` for those of the bundle.
    scaling
        Configuration of the transform that scales intensities; ``None`` for that of the bundle alone.
    """

    name: str
    network: dict[str, Any]
    window: tuple[int, ...]
    spacing: list[float] | None
    scaling: dict[str, Any] | None

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """A recipe from a file such as those in ``workflows/reproduce``.

        Raises
        ------
        MedvitError
            If it cannot be read, or does not state a network and the size of its patches.
        """
        try:
            stated = json.loads(Path(path).read_text(encoding="utf-8"))
            scaling = stated.get("window")
            return cls(
                Path(path).stem, dict(stated["network_def"]), tuple(stated["patch_size"]),
                stated.get("spacing"), scaling if isinstance(scaling, dict) else None,
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"{path}: is not a recipe with a network_def and a patch_size ({error!r})"
            raise MedvitError(what) from None


@dataclass(frozen=True)
class Base:
    """The network that a training starts from.

    Parameters
    ----------
    name
        Name of the bundle, or of the network with its size.
    network
        Configuration of the network, without the part that tells left from right.
    window
        Edges of the window for which it was made, in voxels, along its axes.
    slicewise
        Whether it processes the slices of a volume.
    lateral
        Whether left and right are told apart by a separate channel.
    weights_of
        Bundle whose weights are carried over; ``None`` to start from random ones.
    encoder
        File of `medvit pretrain`, or of the network's authors, that fills the encoder; weights of a bundle
        then fill the rest.
    """

    name: str
    network: dict[str, Any]
    window: tuple[int, ...]
    slicewise: bool
    lateral: bool
    weights_of: Bundle | None = None
    encoder: Path | None = None

    @classmethod
    def of_bundle(cls, bundle: Bundle, from_scratch: bool = False) -> Base:
        """A bundle's network, with its weights unless `from_scratch`.

        Raises
        ------
        MedvitError
            If the bundle does not define its network by a class and its channels.
        """
        inferer: StreamingWindowInferer = inference_component(bundle.path, "inferer")
        slicewise = isinstance(inferer, SliceInferer)
        axes = 2 if slicewise else 3
        roi = inferer.roi_size
        edges = [roi] * axes if isinstance(roi, int) else [int(n or 0) for n in roi]
        window = tuple(n if n > 0 else 64 for n in edges[-axes:])
        weights = None if from_scratch else bundle
        return cls(bundle.name, network_definition(bundle), window, slicewise, is_lateral(bundle), weights)

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> Base:
        """The network of a recipe, with random weights."""
        slicewise = len(recipe.window) == 2
        return cls(recipe.name, recipe.network, recipe.window, slicewise, lateral=False)

    @classmethod
    def of_network(cls, network: str, size: str = "small") -> Base:
        """A network by its name and size, with random weights.

        Raises
        ------
        MedvitError
            If the network or the size is unknown.
        """
        slicewise = network in SLICEWISE
        return cls(
            f"{network} ({size})", definition_of(network, size), _WINDOWS[2 if slicewise else 3], slicewise,
            lateral=not slicewise,
        )  # fmt: skip


def find_base(
    name: str,
    *,
    size: str | None = None,
    from_scratch: bool = False,
    pretrained: Path | None = None,
    trust: bool = False,
) -> Base:
    """The network of a bundle, or one by name.

    Parameters
    ----------
    name
        An installed bundle, the name of a network in any spelling, or a bundle's folder.
    size
        Size of a network that is named; ``"small"`` by default.
    from_scratch
        Leave a bundle's weights out.
    pretrained
        File to start from: of `medvit pretrain`, or of the network's authors.
    trust
        Whether a bundle's folder may be used.

    Raises
    ------
    MedvitError
        If nothing has that name, or a size is given for a bundle, whose network has one already.
    """
    published = pretrained is not None and not is_ours(pretrained)
    if pretrained is not None:  # refused before any work
        check_published_encoder(pretrained) if published else read_encoder(pretrained)
    network = network_named(name)
    if network is not None:
        base = replace(Base.of_network(network, size or "small"), encoder=pretrained)
        # All published weights of Swin UNETR were trained under this merging.
        legacy = {"patch_merging": "legacy"} if published and network == "SwinUNETR" else {}
        return replace(base, network=base.network | legacy)
    bundle = start_named(name, trust=trust)
    if bundle is None:
        raise MedvitError(f"{name} denoises slices, and segments nothing")
    if size is not None:
        raise MedvitError(f"--size is for a network by name; that of {bundle.name} has its size already")
    return replace(Base.of_bundle(bundle, from_scratch), encoder=pretrained)
