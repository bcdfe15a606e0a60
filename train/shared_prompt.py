# pyright: basic, reportMissingImports=false
# ruff: noqa: SLF001  # transformers keeps a model's attention under a private name
"""The model's side of a DPO step in which a pair's prompt is computed once, for both of its completions.

`SharedPrompt` stands for the model in TRL's loss: it takes the padded batch and gives what TRL's fused head gives, the
log-probability of each label, with all pairs of the batch in one row (train/shared_row.py). The mathematics is the
same, since attention never looks at what comes later: a prompt's states do not depend on the completion behind it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from trl.trainer.utils import FusedCausalLMOutput

from train.completion_head import label_log_probs
from train.last_layer import READS_LABELS
from train.shared_row import SharedRow

ATTENTION = "shared_prompt"

_SCALED_HEADS = (
    "final_logit_softcapping", "attn_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier",
    "logits_scaling",
)  # fmt: skip
"""Of a configuration: what a model does to its scores beside the head's product (trl.trainer.utils.add_fused_lm_head
knows the last five)."""

TESTED = ("llama", "mistral", "qwen2")
"""Kinds of model whose every layer is known to use the attention that is given to it."""

_WINDOWS = ("sliding_window", "attention_chunk_size")


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    shared_row: SharedRow | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers: heads x tokens x width in, tokens x heads x width out.

    With `shared_row`, the batch is that row: shared + rejected is causal as it lies there, and so is one product; the
    chosen completion looks at itself and at the prompt under a small mask. (In the last layer only completions look:
    train/last_layer.py.) Without, it is transformers' SDPA.
    """
    if shared_row is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    product = functools.partial(functional.scaled_dot_product_attention, dropout_p=dropout, scale=scaling)
    return attend(module, product, query, key, value, shared_row), None


def attend(
    module: Any,
    product: Callable[..., torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row: SharedRow,
) -> torch.Tensor:
    """The attention of a row, by `product`, which takes query, key, value and either `attn_mask` or `is_causal`."""
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    labels_alone = getattr(module, READS_LABELS, False) and row.has_unread
    outputs: list[torch.Tensor] = []
    for span in row.spans:
        chosen, seen, rest, rejected = (
            slice(span.start, span.prompt), slice(span.start, span.second), slice(span.prompt, span.end),
            slice(span.second, span.end),
        )  # fmt: skip
        mask = row.mask_of_chosen(span, query.dtype)
        outputs.append(product(query[:, :, chosen], key[:, :, seen], value[:, :, seen], attn_mask=mask))
        if labels_alone:
            outputs.append(torch.zeros_like(query[:, :, span.prompt : span.second]))
            if span.rejected:
                mask = row.mask_of_rejected(span, query.dtype)
                outputs.append(product(query[:, :, rejected], key[:, :, rest], value[:, :, rest], attn_mask=mask))
        elif span.shared or span.rejected:
            outputs.append(product(query[:, :, rest], key[:, :, rest], value[:, :, rest], is_causal=True))
    # On a CPU the kernel's output lies in memory as it is wanted here: tokens x heads x width.
    return torch.cat([output.transpose(1, 2) for output in outputs], dim=1)


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class SharedPrompt:
    """Stands for a PEFT model, whose `ATTENTION` is set, in a loss and in the reference pass."""

    def __init__(
        self,
        model: Any,
        row: SharedRow,
        autocast: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        """`row`: where the batch's pairs lie. `autocast`: what to run in."""
        self.base, self.row, self.autocast = model.get_base_model(), row, autocast

    def looking(self) -> dict[str, Any]:
        """What tells the layers which place sees which."""
        # A mask of four dimensions is taken as it is; without, one of places x places would be made.
        return {
            "attention_mask": torch.ones((1, 1, 1, 1), dtype=torch.bool, device=self.row.device),
            "shared_row": self.row,
        }

    def __call__(
        self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor, **_: Any
    ) -> FusedCausalLMOutput:
        """Of a batch (sequences, width) with labels where the row has them; `log_probs` are (sequences, width - 1).

        What TRL asks for its metrics alone is 0: a step's line is made from the log-probabilities.
        """
        row = self.row
        ids, wanted = input_ids.flatten(), row.source[row.labelled] + 1
        with self.autocast():
            states = self.base.base_model(
                input_ids=ids[row.source].unsqueeze(0), position_ids=row.positions, use_cache=False, **self.looking()
            ).last_hidden_state
            found = label_log_probs(states[0, row.labelled], self.base.get_output_embeddings(), ids[wanted])
        shape = (input_ids.size(0), input_ids.size(1) - 1)
        zeros = found.new_zeros(shape)
        log_probs = zeros.flatten().index_put((row.predictions,), found).view(shape)
        nothing = zeros.detach()
        return FusedCausalLMOutput(
            log_probs=log_probs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
        )  # fmt: skip


def obstacle(model: Any, max_length: int) -> str | None:
    """Why a PEFT model cannot share prompts, as far as its class and configuration say; None where nothing does."""
    base = model.get_base_model()
    config = base.config
    head = base.get_output_embeddings()
    scaled = [name for name in _SCALED_HEADS if getattr(config, name, None) not in (None, 1.0)]
    window = min((getattr(config, name, None) or max_length for name in _WINDOWS), default=max_length)
    if config.get_text_config() is not config:
        return "it is more than a text model"
    takes = inspect.signature(base.base_model.forward).parameters.values()
    if not base._can_set_attn_implementation() or not any(one.kind is one.VAR_KEYWORD for one in takes):
        return "its attention cannot be exchanged"
    if type(head) is not torch.nn.Linear or head.weight.requires_grad:
        return "its head is trained or no plain linear layer"
    if scaled:
        return f"it has {scaled[0]}"
    if window < max_length:
        return f"its attention has a window of {window} tokens"
    if config.model_type not in TESTED:  # an attention that took no notice of the row would train, and wrongly
        return f"it is tested with {', '.join(TESTED)}, and not with {config.model_type}"
    return None


def exchange_attention(model: Any, name: str) -> str:
    """Has a PEFT model use the attention function of that name; returns the name of the one that it had."""
    base = model.get_base_model()
    before = base.config._attn_implementation
    base.set_attn_implementation(name)
    return before
