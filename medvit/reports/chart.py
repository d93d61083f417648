"""Small charts of a norm over age, with the patient's point."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medvit.reports.language import Language
from medvit.reports.norms import Covariates, curve
from medvit.reports.pictures import Picture

# Drawn at twice the size at which it is shown.
WIDTH, HEIGHT = 760, 480
LEFT, RIGHT, TOP, BOTTOM = 104, 24, 24, 84
INK, SOFT, BAND, LINE, POINT = "#1b2430", "#4d5866", "#d5e3f0", "#0b4f8a", "#c4162a"


def norm_chart(name: str, covariates: Covariates, volume_ml: float, words: Language) -> Picture:
    """The 95 % band and the mean of a norm over age at the patient's sex and head size, and the patient.

    Parameters
    ----------
    name
        Name for which `medvit.reports.norms.norm_of` has a norm.
    """
    ages, limits = curve(name, covariates)
    lowest, highest = min(0.0, volume_ml), 1.08 * max(float(limits.max()), volume_ml)
    step = _step(highest)

    def at(age: float, ml: float) -> tuple[float, float]:
        x = LEFT + (age - ages[0]) / (ages[-1] - ages[0]) * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - (ml - lowest) / (highest - lowest) * (HEIGHT - TOP - BOTTOM)

    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(24)
    edge = [at(a, v) for a, v in zip(ages, limits[:, 2], strict=True)]
    edge += [at(a, v) for a, v in zip(ages[::-1], limits[::-1, 0], strict=True)]
    draw.polygon(edge, fill=BAND)
    draw.line([at(a, v) for a, v in zip(ages, limits[:, 1], strict=True)], fill=LINE, width=4)
    draw.line([at(ages[0], highest), at(ages[0], lowest), at(ages[-1], lowest)], fill=SOFT, width=2)
    for age in range(20, int(ages[-1]) + 1, 20):
        x, y = at(age, lowest)
        draw.line([(x, y), (x, y + 8)], fill=SOFT, width=2)
        draw.text((x, y + 12), str(age), fill=INK, font=font, anchor="mt")
    for ml in np.arange(0, highest, step):
        x, y = at(ages[0], float(ml))
        draw.line([(x - 8, y), (x, y)], fill=SOFT, width=2)
        draw.text(
            (x - 14, y), words.number(float(ml), 0 if step >= 1 else 1), fill=INK, font=font, anchor="rm"
        )
    axis_y = HEIGHT - 12
    draw.text(((LEFT + WIDTH) / 2, axis_y), words["age_axis"], fill=INK, font=font, anchor="mb")
    draw.text((LEFT + 12, TOP), "ml", fill=INK, font=font, anchor="lt")
    x, y = at(covariates.age, volume_ml)
    draw.ellipse((x - 11, y - 11, x + 11, y + 11), fill=POINT, outline="white", width=3)
    return Picture(np.asarray(image), "norm")


def _step(highest: float) -> float:
    """Distance between ticks: 1, 2 or 5 times a power of ten, for four to eight of them."""
    power = 10.0 ** np.floor(np.log10(highest / 4))
    return float(max(k * power for k in (1, 2, 5) if k * power <= highest / 4))
