"""Random CT slices of synthetic bodies, from which a network learns edges and textures without patients."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Range of the mean (HU) of each tissue; organs and vessels reach up to contrast-enhanced values.
TISSUES: dict[str, tuple[float, float]] = {
    "lung": (-900.0, -750.0),
    "gas": (-1000.0, -900.0),
    "fat": (-120.0, -80.0),
    "skin": (-20.0, 40.0),
    "muscle": (40.0, 70.0),
    "fluid": (0.0, 20.0),
    "brain": (22.0, 42.0),
    "organ": (20.0, 140.0),
    "vessel": (30.0, 350.0),
    "marrow": (50.0, 300.0),
    "cortex": (400.0, 1400.0),
    "table": (-900.0, 300.0),
}


class BodyPhantom:
    """Draws slices of abdomen, chest, head and limbs: tissues as warped ellipses, with texture in them.

    Parameters
    ----------
    size
        Pixels along both edges of a slice.

    Examples
    --------
    >>> BodyPhantom(64)(torch.Generator().manual_seed(0)).shape
    torch.Size([64, 64])
    """

    def __init__(self, size: int = 128) -> None:
        self.size = size

    def __call__(self, generator: torch.Generator) -> Tensor:
        """One slice (size, size) in HU; it depends on `generator` alone."""
        canvas = _Canvas(self.size, generator)
        kind = canvas.choose(("abdomen", "abdomen", "abdomen", "chest", "chest", "head", "limbs"))
        if canvas.uniform(0, 1) < 0.5:
            canvas.paint("table", (0.0, 0.93), (0.9, 0.03))
        if kind == "limbs":
            for side in (-1, 1):
                _limb(canvas, (side * canvas.uniform(0.35, 0.5), canvas.uniform(-0.1, 0.1)))
        elif kind == "head":
            _head(canvas)
        else:
            _trunk(canvas, kind == "chest")
        return canvas.finish()


def _trunk(canvas: _Canvas, chest: bool) -> None:
    wide, deep = canvas.uniform(0.65, 1.05), canvas.uniform(0.5, 0.95)
    fat, wall = canvas.uniform(0.01, 0.18), canvas.uniform(0.03, 0.1)
    canvas.paint("skin", (0, 0), (wide, deep))
    canvas.paint("fat", (0, 0), (wide - 0.02, deep - 0.02))
    canvas.paint("muscle", (0, 0), (wide - fat - 0.02, deep - fat - 0.02))
    inner = (wide - fat - wall, deep - fat - wall)
    canvas.paint("fat", (0, 0), inner)
    if chest:
        for side in (-1, 1):
            canvas.paint("lung", (side * inner[0] * 0.5, 0), (inner[0] * 0.46, inner[1] * 0.9))
        canvas.scatter("vessel", 25, inner, (0.008, 0.03))
        canvas.paint("organ", (inner[0] * 0.12, -inner[1] * 0.2), (inner[0] * 0.35, inner[1] * 0.4))
    else:
        canvas.scatter("organ", 16, inner, (0.06, 0.3))
        canvas.scatter("gas", 4, inner, (0.02, 0.09))
        canvas.scatter("fat", 16, inner, (0.02, 0.1))
        canvas.scatter("muscle", 14, inner, (0.02, 0.08))
        for tissue in ("fat", "muscle", "organ", "fat"):
            canvas.mottle(tissue, (0, 0), inner)
    canvas.mottle("vessel", (0, 0), inner)
    canvas.scatter("vessel", 20, inner, (0.01, 0.05))
    canvas.scatter("fluid", 4, inner, (0.02, 0.08))
    _spine(canvas, (0, inner[1] * 0.8), canvas.uniform(0.1, 0.17))
    for number in range(canvas.integer(0, 15)):
        angle = 2 * math.pi * number / 14 + canvas.uniform(0, 0.2)
        place = (inner[0] * math.cos(angle), inner[1] * math.sin(angle))
        _bone(canvas, place, canvas.uniform(0.02, 0.06))


def _head(canvas: _Canvas) -> None:
    wide, deep = canvas.uniform(0.55, 0.8), canvas.uniform(0.65, 0.9)
    skull = canvas.uniform(0.03, 0.1)
    canvas.paint("skin", (0, 0), (wide, deep))
    canvas.paint("cortex", (0, 0), (wide - 0.06, deep - 0.06))
    canvas.paint("marrow", (0, 0), (wide - 0.06 - skull * 0.3, deep - 0.06 - skull * 0.3))
    canvas.paint("cortex", (0, 0), (wide - 0.06 - skull * 0.7, deep - 0.06 - skull * 0.7))
    inner = (wide - 0.06 - skull, deep - 0.06 - skull)
    canvas.paint("fluid", (0, 0), inner)
    canvas.paint("brain", (0, 0), (inner[0] - 0.03, inner[1] - 0.03))
    canvas.scatter("brain", 25, inner, (0.03, 0.25))
    canvas.scatter("fluid", 12, inner, (0.01, 0.1))
    canvas.mottle("fluid", (0, 0), inner)
    canvas.scatter("vessel", 4, inner, (0.01, 0.03))


def _limb(canvas: _Canvas, place: tuple[float, float]) -> None:
    radius = canvas.uniform(0.2, 0.42)
    canvas.paint("skin", place, (radius, radius))
    canvas.paint("fat", place, (radius - 0.02, radius - 0.02))
    for _ in range(canvas.integer(3, 9)):
        spot = (place[0] + canvas.uniform(-0.5, 0.5) * radius, place[1] + canvas.uniform(-0.5, 0.5) * radius)
        canvas.paint("muscle", spot, (radius * canvas.uniform(0.2, 0.5), radius * canvas.uniform(0.2, 0.5)))
    _bone(canvas, place, radius * canvas.uniform(0.15, 0.35))


def _spine(canvas: _Canvas, place: tuple[float, float], radius: float) -> None:
    """A vertebra, half of them enlarged, with the cord in the fluid of its canal.

    The cord is the faintest structure inside bone: a network that has never seen one takes it for noise.
    """
    radius *= canvas.uniform(1, 2.2) if canvas.uniform(0, 1) < 0.5 else 1
    _bone(canvas, place, radius)
    canal = (place[0], place[1] + radius * canvas.uniform(0.9, 1.3))
    wide, deep = radius * canvas.uniform(0.4, 0.8), radius * canvas.uniform(0.4, 0.7)
    shell = max(radius * canvas.uniform(0.15, 0.4), 1 / canvas.size)
    canvas.paint("cortex", canal, (wide + shell, deep + shell))
    canvas.paint(canvas.choose(("fluid", "fluid", "fat")), canal, (wide, deep))
    share = canvas.uniform(0.4, 0.85)
    canvas.paint("brain", canal, (wide * share, deep * share))


def _bone(canvas: _Canvas, place: tuple[float, float], radius: float) -> None:
    long = radius * canvas.uniform(1, 1.8)
    angle = canvas.uniform(0, math.pi)
    shell = max(radius * canvas.uniform(0.1, 0.35), 1 / canvas.size)
    canvas.paint("cortex", place, (long, radius), angle)
    if radius > 2 * shell:
        canvas.paint("marrow", place, (long - shell, radius - shell), angle)
        canvas.mottle("cortex", place, (long - shell, radius - shell), angle)


class _Canvas:
    """A slice in HU over coordinates in [-1, 1] that are smoothly warped, so that no ellipse stays one."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size, self.generator = size, generator
        axis = (torch.arange(size) + 0.5) * (2 / size) - 1
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        self.x = x + self.uniform(0, 0.06) * self.field(5) + self.uniform(0, 0.02) * self.field(14)
        self.y = y + self.uniform(0, 0.06) * self.field(5) + self.uniform(0, 0.02) * self.field(14)
        self.hu = torch.full((size, size), -1000.0)
        self.texture = self._textures()

    def _textures(self) -> Tensor:
        """A coarse and a fine random field, mixed; standard deviation about 1."""
        coarse, fine = self.field(self.integer(8, 30)), self.field(self.integer(30, max(31, self.size // 2)))
        share = self.uniform(0, 1)
        return share * coarse + (1 - share) * fine

    def finish(self) -> Tensor:
        """The slice, blurred a little as every scanner does, air left as it is."""
        sigma = self.uniform(0.1, 0.6)
        taps = torch.exp(-0.5 * (torch.arange(-2, 3) / sigma) ** 2)
        taps = taps / taps.sum()
        padded = F.pad(self.hu[None, None], (2, 2, 2, 2), mode="replicate")
        return F.conv2d(F.conv2d(padded, taps[None, None, None]), taps[None, None, :, None])[0, 0]

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=self.generator))

    def integer(self, low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=self.generator))

    def choose(self, options: tuple[str, ...]) -> str:
        return options[self.integer(0, len(options))]

    def field(self, knots: int) -> Tensor:
        """A smooth random field of standard deviation about 1, `knots` to an edge."""
        coarse = torch.randn((1, 1, knots, knots), generator=self.generator)
        return F.interpolate(coarse, size=(self.size, self.size), mode="bicubic", align_corners=True)[0, 0]

    def paint(
        self,
        tissue: str,
        place: tuple[float, float],
        radii: tuple[float, float],
        angle: float = 0.0,
        within: Tensor | float = 1.0,
    ) -> Tensor:
        """Cover an ellipse with a tissue; returns its opacity (size, size), soft over one pixel."""
        cos, sin = math.cos(angle), math.sin(angle)
        x, y = self.x - place[0], self.y - place[1]
        a, b = (max(radius, 0.5 / self.size) for radius in radii)
        distance = torch.hypot((x * cos + y * sin) / a, (y * cos - x * sin) / b)
        opacity = ((1 - distance) * min(a, b) * self.size / 2 + 0.5).clamp(0, 1) * within
        mean = self.uniform(*TISSUES[tissue])
        strength = self.uniform(0, 0.25 * abs(mean)) if mean > 300 else self.uniform(0, 15)
        self.hu += opacity * (mean + strength * self.texture - self.hu)
        return opacity

    def mottle(
        self, tissue: str, place: tuple[float, float], radii: tuple[float, float], angle: float = 0.0
    ) -> None:
        """Cover winding patches of an ellipse with a tissue, like fat between loops of bowel."""
        knots = self.integer(12, max(13, self.size // 2))
        # A field of standard deviation 1 changes by about 1 from knot to knot.
        edge = 0.5 * self.size / knots
        patches = ((self.field(knots) - self.uniform(0.6, 2.2)) * edge + 0.5).clamp(0, 1)
        somewhere = ((self.field(4) - self.uniform(-1.0, 1.0)) * 8).clamp(0, 1)
        self.paint(tissue, place, radii, angle, patches * somewhere)

    def scatter(self, tissue: str, most: int, area: tuple[float, float], radii: tuple[float, float]) -> None:
        """Up to `most` ellipses of a tissue within an elliptic area."""
        for _ in range(self.integer(0, most + 1)):
            angle, far = self.uniform(0, 2 * math.pi), math.sqrt(self.uniform(0, 0.85))
            place = (area[0] * far * math.cos(angle), area[1] * far * math.sin(angle))
            size = radii[0] * (radii[1] / radii[0]) ** self.uniform(0, 1)
            shape = (size, size * self.uniform(0.3, 1))
            self.paint(tissue, place, shape, self.uniform(0, math.pi))
