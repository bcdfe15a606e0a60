# pyright: basic, reportMissingImports=false
"""Log-probabilities of labels from hidden states, by tiles of tokens: no matrix of all tokens x vocabulary is made.

The gradient with respect to a hidden state is a number, the log-probability's own gradient, times a direction that
depends on the forward alone: W[label] - sum_v p_v W[v]. The direction is computed while the tile's probabilities are
there, so that the backward needs no second product with the vocabulary. The head is frozen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

TILE = 2**25
"""Logits at once: 128 MiB in fp32."""


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, bias: Any, labels: Any) -> Any:
        log_probs = torch.empty(labels.shape, dtype=torch.float32, device=hidden.device)
        directions = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        size = max(1, TILE // weight.size(0))
        for start in range(0, hidden.size(0), size):
            tile = slice(start, start + size)
            targets = labels[tile].unsqueeze(1)
            scores = functional.linear(hidden[tile], weight, bias).float()
            top = scores.amax(dim=1, keepdim=True)
            of_label = scores.gather(1, targets)
            total = scores.sub_(top).exp_().sum(dim=1, keepdim=True)
            log_probs[tile] = (of_label - top - total.log()).squeeze(1)
            if directions is not None:
                scores.div_(-total).scatter_add_(1, targets, torch.ones_like(total))
                directions[tile] = scores.to(weight.dtype) @ weight
        ctx.save_for_backward(directions)
        return log_probs

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (directions,) = ctx.saved_tensors
        return (grads[0].unsqueeze(1) * directions).to(directions.dtype), None, None, None


def label_log_probs(hidden: torch.Tensor, head: torch.nn.Linear, labels: torch.Tensor) -> torch.Tensor:
    """(n,) in fp32, with a gradient for `hidden` (n, width) alone; products are in autocast's dtype where it is on."""
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    bias = None if head.bias is None else head.bias.to(dtype)
    with torch.autocast(kind, enabled=False):
        return _LogProbs.apply(hidden.to(dtype), head.weight.to(dtype), bias, labels)
