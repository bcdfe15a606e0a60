"""Which precision a run has, from facts about its device."""

from __future__ import annotations

import pytest

from train.errors import InputError
from train.precision import DeviceFacts, choose

CPU = DeviceFacts("cpu")
V100, T4, A100, RTX_5070 = (DeviceFacts("cuda", capability) for capability in ((7, 0), (7, 5), (8, 0), (12, 0)))


@pytest.mark.parametrize(
    ("asked", "device", "expected"),
    [
        ("auto", CPU, "fp32"),
        ("16bit", CPU, "bf16"),
        ("bf16", CPU, "bf16"),
        ("fp32", CPU, "fp32"),
        *((asked, gpu, "fp16") for asked in ("auto", "16bit") for gpu in (V100, T4)),
        *((asked, gpu, "bf16") for asked in ("auto", "16bit", "bf16") for gpu in (A100, RTX_5070)),
        *((asked, gpu, asked) for asked in ("fp16", "fp32") for gpu in (V100, A100)),
        ("auto", DeviceFacts("cuda"), "fp16"),
    ],
)
def test_bf16_where_the_device_has_it_else_fp16_on_a_gpu_and_fp32_on_a_cpu(asked, device, expected) -> None:
    assert choose(asked, device) == expected


def test_what_the_device_lacks_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        choose("fp16", CPU)
    with pytest.raises(InputError, match=r"no bf16\n.*capability is 7\.5, and bf16 came with 8\.0\n.*16bit"):
        choose("bf16", T4)
