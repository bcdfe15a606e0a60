# pyright: basic, reportMissingImports=false
"""The last layer of a model that reads rows (train/shared_row.py): what nobody reads of it is not computed.

The head looks at the places of completions alone, and no layer looks at the last one's output. So of what the two
completions share, the last layer needs keys and values; its queries, their attention, the output projection and the
feed-forward network are needed at the places with a label. Everywhere else these give 0.
"""

from __future__ import annotations

from typing import Any

import torch

from train.shared_row import SharedRow

READS_LABELS = "reads_labels_alone"
"""Set on an attention module that gives 0 at places without a label."""


class LastLayer:
    """Narrows the last layer of a PEFT model, of transformers' usual parts, until `release`."""

    def __init__(self, model: Any) -> None:
        self.row: SharedRow | None = None
        layer = model.get_base_model().base_model.layers[-1]
        self.attention = layer.self_attn
        setattr(self.attention, READS_LABELS, True)
        # Hooks of the parts, and not of the layer: checkpointing's second forward passes through them again.
        self.handles = [self.attention.register_forward_pre_hook(self._note, with_kwargs=True)]
        for part in (self.attention.q_proj, self.attention.o_proj, layer.mlp):
            self.handles += [part.register_forward_pre_hook(self._take), part.register_forward_hook(self._put)]

    def release(self) -> None:
        for handle in self.handles:
            handle.remove()
        delattr(self.attention, READS_LABELS)

    def _note(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        row = kwargs.get("shared_row")
        self.row = row if row is not None and row.has_unread else None

    def _take(self, module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        return None if self.row is None else (args[0][:, self.row.labelled], *args[1:])

    def _put(self, module: Any, args: Any, output: torch.Tensor) -> torch.Tensor | None:
        if self.row is None:
            return None
        whole = output.new_zeros((1, self.row.positions.size(1), output.size(-1)))
        return whole.index_copy(1, self.row.labelled, output)
