"""The choice of the engine that runs a bundle's network, from measurements of that bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.bundles.find import Bundle

if TYPE_CHECKING:
    import torch

    from medvit.inference import Execution

#: Largest share of voxels that may get another label than from torch in float32.
MOST_VOXELS = 1e-5
#: Largest difference of a logit, as a share of the range of logits.
MOST_OF_RANGE = 1e-4


def passes(row: dict[str, Any]) -> bool:
    """Whether a row of verification shows that the engine gives the same answer."""
    return row["voxels_differing"] <= MOST_VOXELS and row["logits_differing"] <= MOST_OF_RANGE


def execution_for(bundle_root: str, device: torch.device | str, **settings: Any) -> Execution:
    """The execution of a bundle's network when measurements choose the backend.

    OpenVINO is used on a CPU if it is installed and the bundle's metadata say that it gave the same labels in
    less time (``medvit#backends#openvino``, as `medvit verify` writes it); otherwise torch is used.

    Parameters
    ----------
    bundle_root
        Folder of the bundle.
    device
        Where the network runs.
    settings
        Further fields of `medvit.inference.Execution`.
    """
    import torch

    from medvit.inference import Execution
    from medvit.inference.backends import installed

    row = Bundle(Path(bundle_root)).facts.get("backends", {}).get("openvino")
    if row is None or torch.device(device).type != "cpu" or not installed("openvino"):
        return Execution(**settings)
    if not passes(row) or row["seconds"] >= row["torch_seconds"]:
        return Execution(**settings)
    return Execution(backend="openvino", fall_back=True, **settings)
