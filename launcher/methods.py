"""What sets the methods apart for who types: their words, and the settings that not all of them have."""

from __future__ import annotations

from collections.abc import Mapping

from train.config import METHODS, Method

DEFAULTS: Mapping[Method, Mapping[str, float]] = {
    "dpo": {}, "orpo": {}, "kto": {"batch_size": 4}, "sft": {"learning_rate": 2e-4},
}  # fmt: skip
"""Where nothing is said, and it is not what `Training` has: TRL's documentation names 2e-4 for SFT of an adapter."""

_ONLY: Mapping[str, tuple[Method, ...]] = {
    "beta": ("dpo", "orpo", "kto"),
    "loss_type": ("dpo",),
    "loss_weights": ("dpo",),
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
}

_EXAMPLES = {
    "val": "Examples by which the best adapter is chosen.",
    "epochs": "Passes over the examples.",
    "batch_size": "Examples an optimizer step, over all devices.",
}
HELP: Mapping[Method, Mapping[str, str]] = {
    "dpo": {},
    "orpo": {"beta": "Weight of the odds ratio beside the likelihood of chosen."},
    "kto": _EXAMPLES
    | {
        "train": "Examples to train on (JSONL: prompt, completion, label), or preference pairs.",
        "batch_size": "Examples an optimizer step, over all devices; at least 2 (default: 4).",
    },
    "sft": _EXAMPLES
    | {"train": "Examples to train on (JSONL: prompt, completion, or messages), or preference pairs (chosen is used)."},
}
"""Of a setting whose description is another one than DPO's."""

ANY_HELP: Mapping[str, str] = {
    "train": "Data to train on (JSONL).",
    "val": "Data by which the best adapter is chosen.",
    "epochs": "Passes over the data.",
    "batch_size": "Pairs or examples an optimizer step, over all devices.",
}
"""The same where the method is not known yet."""


def estimating(method: Method) -> str:
    """The command that estimates a job of the method."""
    return f"launch estimate{'' if method == 'dpo' else f' --method {method}'} --model PATH|ID --train FILE"


def has(method: Method, setting: str) -> bool:
    """Whether the method has the setting: one that it has not is no flag of its verb, and in a file it is not used."""
    return method in _ONLY.get(setting, METHODS)
