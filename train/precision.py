"""In which number format a run computes: chosen from what its device has, so that one configuration serves them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from train.config import Precision
from train.errors import InputError

BF16_SINCE = (8, 0)
"""NVIDIA Ampere: the first compute capability with bf16 arithmetic (CUDA C++ Programming Guide, "Compute
Capabilities"). Before it, torch emulates bf16 in fp32."""


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """A device as far as precision goes. `capability` is a GPU's compute capability, as (major, minor)."""

    kind: Literal["cuda", "cpu"]
    capability: tuple[int, int] | None = None


def choose(asked: Precision, device: DeviceFacts) -> Literal["bf16", "fp16", "fp32"]:
    """The precision of a run. "auto" is bf16, else fp16, on a GPU, and fp32 on a CPU; "16bit" is bf16, else fp16.

    Raises:
        InputError: the device lacks the precision that was asked for by name.
    """
    if device.kind == "cpu":
        if asked == "fp16":
            raise InputError("fp16 needs a GPU", "on a CPU there is no gradient scaler for it", "use bf16 or fp32")
        return "bf16" if asked in ("16bit", "bf16") else "fp32"
    has_bf16 = device.capability is not None and device.capability >= BF16_SINCE
    if asked == "auto" or asked == "16bit":
        return "bf16" if has_bf16 else "fp16"
    if asked == "bf16" and not has_bf16:
        capability = "unknown" if device.capability is None else ".".join(map(str, device.capability))
        raise InputError(
            "This GPU has no bf16",
            f"its compute capability is {capability}, and bf16 came with {'.'.join(map(str, BF16_SINCE))}",
            'set the precision to "16bit", which is fp16 on this GPU',
        )
    return asked
