"""An estimate as a person reads it: one screen of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from jobs import gpus
from launcher import data_view
from train.config import noun
from train.estimate_document import Estimate, Need

WIDTH = 80
CARDS = {12: "an RTX 5070", 16: "a V100", 24: "an A10", 40: "an A100", 80: "an H100"}
"""Sizes in which GPUs are sold, in GB, with a GPU of that size."""


def lines(found: Estimate) -> list[str]:
    """The model, its pairs, and how much GPU memory each way to train needs at each max_length."""
    said = [*_wrapped(_model(found)), *(line for note in found.notes for line in _wrapped(note))]
    if found.data is not None:
        said += ["", *data_view.lines(found.data.model_dump(mode="json"))]
    return [*said, "", *_table(found), "", *_verdict(found), "", *_wrapped(_basis(found))]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _model(found: Estimate) -> str:
    return (
        f"{found.model.architecture or 'The model'}: {found.parameters:,} parameters with the adapter. "
        f"{found.trainable_parameters:,} of them ({found.trainable_parameters / found.parameters:.2%}) are trained: "
        f"{'the LoRA of Stage A' if found.model.adapter else 'a new LoRA'}, r = {found.lora_r}, on "
        f"{', '.join(found.lora_target)}."
    )


def _table(found: Estimate) -> Iterator[str]:
    """GPU memory and the smallest card, a row an option, the smallest first; what is no option stands last."""
    lengths = sorted({need.max_length for need in found.needs})
    by = {(need.option, need.max_length): need for need in found.needs}
    names = list(dict.fromkeys(need.option for need in found.needs))
    compared = {each.name for each in found.comparison}
    names.sort(key=lambda name: (name in compared, by[name, lengths[0]].min_vram_gib))
    width, one = max(map(len, names)), "a pair" if _noun(found) == "pairs" else "each"
    yield f"GPU memory in GiB and the smallest card for it, by tokens {one} ({found.at_once} at once)"
    yield f"{'':<{width}}" + "".join(f"{f'{length:,}':>13}" for length in lengths)
    for name in names:  # as the plan calls them; ckpt is gradient checkpointing
        yield f"{name:<{width}}" + "".join(f"{_cell(by[name, length]):>13}" for length in lengths)


def _noun(found: Estimate) -> str:
    """Of the data of the workload; without one, the pairs of DPO."""
    return noun(found.workload.method if found.workload else "dpo")


def _cell(need: Need) -> str:
    return f"{need.min_vram_gib:.1f} {_card(need.min_vram_gib):>5}"


def _card(gib: float) -> str:
    return next((f"{size}GB" for size in CARDS if gib <= gpus.smallest_usable(size)), "-")


def _verdict(found: Estimate) -> Iterator[str]:
    """How long the pairs may be on each size of card, as far as a larger one does better."""
    options = {option.name for option in found.options}
    needs = [need for need in found.needs if need.option in options]
    reached = 0
    for size, example in CARDS.items():
        held = [need for need in needs if need.min_vram_gib <= gpus.smallest_usable(size)]
        longest = max(held, key=lambda need: (need.max_length, -need.min_vram_gib), default=None)
        if longest is not None and longest.max_length > reached:
            yield f"{size} GB ({example}) trains it whole up to {longest.max_length:,} tokens: {longest.option}"
            reached = longest.max_length
    if not reached:
        yield "No single card holds a step of this model."
    if found.comparison:
        yield from _wrapped(f"Two models are no option: {found.comparison[0].why}")


def _basis(found: Estimate) -> str:
    option = found.options[0]
    allowance = option.basis["allowance"]
    versions = ", ".join(f"{name} {number}" for name, number in option.basis["versions"].items())
    added = (
        f"{allowance['fragmentation']:.0%} for fragmentation and {allowance['context_gib']:g} GiB for the CUDA context"
    )
    one = _noun(found)[:-1]
    step = f"{found.batch_size} {one}{'s' if found.batch_size > 1 else ''}"
    return (
        f"ckpt: with gradient checkpointing. The longest {one} has {found.longest:,} tokens. A step of "
        f"{step} is {option.flop_per_step or 0:.3g} FLOPs ({option.name}). Traced on fake tensors "
        f"with {versions}; added are {added}, both assumed."
    )
