# pyright: basic, reportMissingImports=false
# ruff: noqa: ARG001, ARG004, SLF001  # signatures are those that torch and transformers call
"""What kernels hold that fake tensors cannot run: attention's, and those of 4-bit and 8-bit weights.

Each keeps the storages that the real one keeps for its backward, and makes the temporaries that the real one makes.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from transformers import AttentionInterface

from train.shared_prompt import attend
from train.shared_row import SharedRow

ATTENTION = "traced_sdpa"

NF4_BLOCK, SCALE_BLOCK = 64, 256
"""Weights a scale, and scales a second-level scale: bitsandbytes' NF4 with double quantization."""


class _Attention(torch.autograd.Function):
    """Fused attention: output, log-sum-exp and the additive mask are kept, and no matrix a head is made."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, mask: Any) -> Any:
        batch, heads, length, width = query.shape
        out = torch.empty((batch, length, heads, width), dtype=query.dtype).transpose(1, 2)  # as the kernels lay it out
        lse = torch.empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, lse, mask)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


def _product(query: Any, key: Any, value: Any, attn_mask: Any = None, is_causal: bool = False) -> Any:
    return _Attention.apply(query, key, value, attn_mask)


def _attention(
    module: Any, query: Any, key: Any, value: Any, mask: Any, shared_row: SharedRow | None = None, **more: Any
) -> tuple[Any, None]:
    """As the attention that trains. In transformers' SDPA, heads of keys and values are repeated."""
    if shared_row is not None:
        return attend(module, _product, query, key, value, shared_row), None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
    # Hardly two sequences of a batch have one length, so that there is a mask; torch makes it additive, a layer.
    batch, _, length, _ = query.shape
    additive = torch.empty((batch, 1, length, length), dtype=query.dtype)
    return _Attention.apply(query, key, value, additive).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _attention)


def attention_flop(config: Any, looked_at: int) -> int:
    """FLOPs of one of attention's products; `looked_at`: pairs of a query and a key in it, over all layers.

    A forward has two of them, a backward five (torch.utils.flop_counter counts them so).
    """
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2 * heads * looked_at * width


class _Quantized(torch.autograd.Function):
    """A frozen linear layer with packed weights.

    NF4 makes the weight whole for each product, forward and backward, and lets it go. int8 multiplies rows that are
    rounded to 8 bits into 32-bit sums, and makes the weight whole in the backward alone.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, packed: Any, out_features: int, kind: str) -> Any:
        ctx.shape = (out_features, x.shape[-1])
        ctx.save_for_backward(packed)
        if kind == "nf4":
            return x @ torch.empty(ctx.shape, dtype=x.dtype).t()
        rows = x.reshape(-1, x.shape[-1]).to(torch.int8)
        sums = torch._int_mm(rows, packed.view(ctx.shape).t())
        return sums.to(x.dtype).view(*x.shape[:-1], out_features)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] @ torch.empty(ctx.shape, dtype=grads[0].dtype), None, None, None


class QuantizedLinear(torch.nn.Module):
    """A frozen `Linear` whose weight lies packed: 4 bits and its scales, or 8 bits and a scale a row."""

    def __init__(self, linear: torch.nn.Linear, kind: Literal["nf4", "int8"]) -> None:
        super().__init__()
        self.in_features, self.out_features, self.kind, self.bias = (
            linear.in_features, linear.out_features, kind, linear.bias,
        )  # fmt: skip
        count = linear.weight.numel()
        self.weight = torch.nn.Parameter(
            torch.empty(count if kind == "int8" else count // 2, dtype=torch.int8), requires_grad=False
        )
        self.weight.stands_for = count  # type: ignore[attr-defined]
        blocks = count // NF4_BLOCK
        scales = 4 * self.out_features if kind == "int8" else blocks + 4 * (blocks // SCALE_BLOCK)
        self.register_buffer("scales", torch.empty(scales, dtype=torch.uint8))

    def forward(self, x: Any) -> Any:
        product = _Quantized.apply(x, self.weight, self.out_features, self.kind)
        return product if self.bias is None else product + self.bias


def quantize(model: Any, kind: Literal["nf4", "int8"]) -> None:
    """Packs each frozen linear layer but the head, as bitsandbytes does; norms, embeddings and LoRA stay whole."""
    for parent_name, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            where = f"{parent_name}.{name}"
            if type(child) is torch.nn.Linear and ".lora_" not in where and not where.endswith("lm_head"):
                setattr(parent, name, QuantizedLinear(child, kind))
