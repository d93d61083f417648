"""Settings of synthetic images: shares that add up, and faults left out by name."""

from __future__ import annotations

import pytest

from medvit.synthesis import SynthesisSettings


def test_the_shares_of_contrasts_add_up() -> None:
    assert sum(SynthesisSettings().contrasts.values()) == pytest.approx(1)


def test_faults_are_left_out_by_name_and_nothing_else_changes() -> None:
    settings = SynthesisSettings(noise=0.2, blur=0.9)
    quiet = settings.without("noise", "crop")
    assert (quiet.noise, quiet.crop, quiet.blur) == (0, 0, 0.9)
    assert settings.noise == 0.2
    with pytest.raises(TypeError, match="hum"):
        settings.without("hum")


def test_settings_do_not_share_their_contrasts() -> None:
    first, second = SynthesisSettings(), SynthesisSettings()
    first.contrasts["T1"] = 0
    assert second.contrasts["T1"] == 0.45
