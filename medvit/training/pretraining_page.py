"""The page of a pre-training: masked windows, their predictions, and the error over the steps."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import torch
from jinja2 import Environment
from torch import Tensor

from medvit.studies.files import atomic_path
from medvit.training.encoder_file import PretrainingHeader
from medvit.training.masking import MaskedWindows

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Pre-training of {{ header.base }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; } td, th { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top; }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #e6e6e6; } }
</style></head><body>
<h1>Pre-training of {{ header.base }}</h1>
<p>The network is {{ header.sentence() }}. The error is the loss of that task, over the steps and on the
studies that were kept apart.</p>
<h2>Windows</h2>
<p>From left to right: the window, the window with what was taken from it, and the prediction of that.</p>
<img alt="Windows as they are, masked and predicted" src="data:image/png;base64,{{ windows }}">
<h2>Error</h2>
<img alt="Error over the steps" src="data:image/png;base64,{{ curve }}">
<table>{% for name, value in facts %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>{% endfor %}</table>
</body></html>
"""


def write_page(path: Path, header: PretrainingHeader, windows: MaskedWindows, prediction: Tensor) -> None:
    """Write the page.

    Parameters
    ----------
    path
        Path of the page.
    header
        Header of the encoder.
    windows, prediction
        Windows and the network's predictions for them, (B, C, *window) each.
    """
    facts = [
        ("Studies, patients", f"{header.studies}, {header.patients}"),
        ("Modality", header.modality or "not stated"),
        ("Window, voxels", " x ".join(map(str, header.window))),
        ("Spacing, mm", "not stated" if header.spacing is None else " x ".join(map(str, header.spacing))),
        ("Seed", header.seed),
        ("medvit", header.medvit),
    ]
    page = Environment(autoescape=True).from_string(_TEMPLATE)
    text = page.render(
        header=header, facts=facts, windows=_windows(windows, prediction), curve=_curve(header)
    )
    with atomic_path(path) as partial:
        Path(partial).write_text(text, encoding="utf-8")


def _windows(windows: MaskedWindows, prediction: Tensor) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3 * len(windows.target)), layout="constrained")
    axes = figure.subplots(len(windows.target), 3, squeeze=False)
    seen = torch.where(windows.mask, prediction, windows.target)
    for row, images in zip(axes, zip(windows.target, windows.masked, seen, strict=True), strict=True):
        low, high = (float(images[0].quantile(q)) for q in (0.01, 0.99))
        for axis, image in zip(row, images, strict=True):
            axis.imshow(_middle(image).T.numpy(), cmap="gray", vmin=low, vmax=high, origin="lower")
            axis.set_axis_off()
    return _png(figure)


def _middle(image: Tensor) -> Tensor:
    """The middle slice of the first channel."""
    return image[0] if image.ndim == 3 else image[0, ..., image.shape[-1] // 2]


def _curve(header: PretrainingHeader) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    axis = figure.subplots()
    for name, points in header.loss.items():
        if points:
            axis.plot(*zip(*points, strict=True), label=name)
    axis.set_xlabel("step")
    axis.set_ylabel("error")
    axis.set_ylim(bottom=0)
    axis.legend()
    return _png(figure)


def _png(figure: object) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)  # type: ignore[attr-defined]
    return base64.b64encode(buffer.getvalue()).decode()
