"""Which form a network takes: by the device of its input, or as it is asked for."""

from __future__ import annotations

import pytest
import torch

from medvit.networks.layers.forms import as_on_device, on_device


def test_the_form_follows_the_device_and_can_be_asked_for() -> None:
    here, there = torch.zeros(1), torch.zeros(1, device="meta")
    assert not on_device(here) and on_device(there)
    with as_on_device():
        assert on_device(here)
        with as_on_device():
            assert on_device(here)
        assert on_device(here), "the inner block must not end the outer one"
    with pytest.raises(RuntimeError, match="stop"), as_on_device():
        raise RuntimeError("stop")
    assert not on_device(here)
