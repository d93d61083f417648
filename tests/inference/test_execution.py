"""Where and how networks run: refusals before anything is loaded, blocks, and settings that come back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medvit.errors import MedvitError
from medvit.inference.execution import CPU_BLOCK_BYTES, DEVICE_BLOCK_BYTES, Execution

CPU, OTHER = torch.device("cpu"), torch.device("meta")


@pytest.mark.parametrize(
    ("settings", "device", "match"),
    [
        ({"amp": "fp16"}, "cpu", "fp16 needs a GPU; on a CPU use --amp bf16"),
        ({"tf32": True}, "cpu", "TF32 needs an NVIDIA GPU"),
        ({"backend": "openvino"}, "meta", "the backend openvino runs on a CPU, not on device meta"),
    ],
)
def test_what_a_device_lacks_is_refused(settings: dict, device: str, match: str) -> None:
    with pytest.raises(MedvitError, match=match):
        Execution(**settings).check(device)


def test_what_a_device_has_is_accepted() -> None:
    for settings in ({}, {"amp": "bf16"}, {"tf32": False}, {"backend": "openvino"}):
        Execution(**settings).check("cpu")


@pytest.mark.parametrize(("setting", "name"), [("amp", "int4"), ("backend", "tensorrt")])
def test_unknown_precisions_and_backends_are_refused_at_once(setting: str, name: str) -> None:
    with pytest.raises(MedvitError, match=name):
        Execution(**{setting: name})


def test_blocks_take_one_class_after_the_other_where_all_would_be_too_small() -> None:
    # A CPU's block of 512 KiB holds 131,072 logits of one class.
    assert Execution().block(1, CPU) == (131_072, True)
    assert Execution().block(31, CPU) == (131_072, False)
    # A device's of 64 MiB holds 128 such blocks.
    assert Execution().block(31, OTHER) == (DEVICE_BLOCK_BYTES // 4 // 31, True)
    assert Execution().block(128, OTHER) == (CPU_BLOCK_BYTES // 4, True)
    assert Execution().block(129, OTHER) == (DEVICE_BLOCK_BYTES // 4, False)
    assert Execution(block_bytes=4 * CPU_BLOCK_BYTES).block(4, CPU) == (131_072, True)


def test_the_device_is_that_of_the_first_parameter() -> None:
    plain, buffered = nn.Identity(), nn.Identity()
    buffered.register_buffer("held", torch.zeros(1, device="meta"))
    assert Execution().device_for([plain, lambda x: x]) == CPU
    assert Execution().device_for([plain, buffered]) == OTHER
    assert Execution(device="cpu").device_for([buffered]) == CPU


def test_settings_are_restored_even_after_an_error() -> None:
    training, evaluated = nn.Dropout(), nn.Dropout().eval()
    threads, tf32 = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    execution = Execution(threads=threads + 1, tf32=not tf32)
    with pytest.raises(RuntimeError, match="stop"), execution.running([training, evaluated]):
        assert not training.training and torch.is_inference_mode_enabled()
        assert torch.get_num_threads() == threads + 1
        assert torch.backends.cuda.matmul.allow_tf32 is not tf32
        raise RuntimeError("stop")
    assert training.training and not evaluated.training
    assert torch.get_num_threads() == threads and not torch.is_inference_mode_enabled()
    assert torch.backends.cuda.matmul.allow_tf32 is tf32


def test_only_torch_is_cast() -> None:
    product = nn.Linear(2, 2)
    for settings, dtype in (
        ({"amp": "bf16"}, torch.bfloat16),
        ({}, torch.float32),
        ({"amp": "bf16", "backend": "openvino"}, torch.float32),  # the engine itself is in bf16
    ):
        with Execution(**settings).autocast(CPU):
            assert product(torch.ones(1, 2)).dtype == dtype


def test_launches_are_recorded_on_gpus_alone() -> None:
    cuda = torch.device("cuda")
    assert Execution().records(cuda) and not Execution().records(CPU)
    assert not Execution(graphs=False).records(cuda) and not Execution(compile=True).records(cuda)
