# pyright: basic, reportMissingImports=false
"""`python -m train estimate --config FILE`: what a model and its pairs need of a machine, from traced steps.

Prints `estimate/1`. Standard error gets lines of progress (train/check.py), of pairs and then of traces.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from train.check import looked, say_progress, without_collector
from train.config import Method, Training, noun
from train.data_report import DataCheck
from train.errors import InputError
from train.estimate_config import EstimateConfig
from train.estimate_document import Comparison, Estimate, Need
from train.estimate_model import Subject, described, notes, read_subject
from train.estimate_traces import RECIPES, Work, shares_prompts, trace_all
from train.pairs import count_pairs
from train.requirement import DataSet, Option, Schedule, TrainerChoice, Workload
from train.step import step_of
from train.tokens import CutPair
from train.trace import Recipe, Shape, Trace

GIB = 2**30
CONTEXT_GIB = 0.6
"""Assumed, not measured: the CUDA context and the libraries' workspaces."""
FRAGMENTATION = 0.05
"""Assumed, not measured: what the caching allocator holds beyond live storage, as a share of it."""
ENVIRONMENT_GIB, CHECKPOINTS_GIB = 12.0, 2.0
"""Assumed: Python, torch with CUDA and the image; checkpoints and results."""
HOST_GIB = 4.0
"""Assumed: Python, torch and the data of one process, beside the weights on their way to the device."""

DEVICES = (2, 4, 8)
SHARED = ("16bit-lora", "16bit-lora-ckpt", "nf4-qlora-ckpt")
"""The recipes that are offered data-parallel, on so many GPUs as divide the batch."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of the pairs: the longest, the mean, and the pair that is traced, which needs the most.

    A mean pair has `linear` of the traced one's work that grows with the tokens, and `square` of attention's.
    """

    longest: int
    mean: float
    traced: Shape
    linear: float
    square: float
    said: str

    @classmethod
    def padded(cls, cut: list[CutPair], pairs: int, method: Method) -> Lengths:
        """Of batches of `pairs` drawn at random, padded to their longest; each prompt is computed twice.

        The k-th of n lengths is the longest of a batch with (k/n)^pairs.
        """
        ranked, n = sorted(pair.length for pair in cut), len(cut)
        weights = [((k + 1) / n) ** pairs - (k / n) ** pairs for k in range(n)]
        mean = sum(weight * size for weight, size in zip(weights, ranked, strict=True))
        square = sum(weight * size * size for weight, size in zip(weights, ranked, strict=True))
        longest = ranked[-1]
        said = f"the longest of {n:,} {noun(method)}, {longest:,} tokens"
        return cls(longest, mean, Shape(pairs, longest, method=method), mean / longest, square / longest**2, said)

    @classmethod
    def shared(cls, cut: list[CutPair], pairs: int, method: Method, layers: int) -> Lengths:
        """Of batches of `pairs`, without padding; each prompt is computed once, by a model of so many layers."""
        tokens = [sum(pair) for pair in cut]
        fullest = cut[tokens.index(max(tokens))]
        said = f"the longest of {len(cut):,} {noun(method)}, {max(tokens):,} tokens with its prompt once"
        mean, traced = fmean(tokens), _as_shape(fullest, 1, method)
        looked_at = fmean(_as_shape(pair, 1, method).looked_at(layers, shared=True) for pair in cut)
        square = looked_at / traced.looked_at(layers, shared=True)
        longest = max(pair.length for pair in cut)
        return cls(longest, mean, _as_shape(fullest, pairs, method), mean / max(tokens), square, said)

    @classmethod
    def all_of(cls, length: int, pairs: int, method: Method) -> Lengths:
        said = f"every {noun(method)[:-1]} at {length:,} tokens"
        return cls(length, length, Shape(pairs, length, method=method), 1, 1, said)


def _as_shape(pair: CutPair, pairs: int, method: Method) -> Shape:
    """With completions of one length, which together are as long."""
    sides = 2 if noun(method) == "pairs" else 1
    completion = math.ceil((pair.chosen + pair.rejected) / sides)
    return Shape(pairs, pair.prompt + completion, pair.prompt, method)


def run(asked: EstimateConfig) -> int:
    """Prints the estimate; exit code 0. Raises InputError with what is wrong, and where."""
    print(estimate(asked).model_dump_json(by_alias=True))
    return 0


def estimate(asked: EstimateConfig) -> Estimate:
    """What the model and its pairs need. Raises InputError."""
    training = asked.training
    subject = read_subject(asked.model, training)
    check, sizes = _pairs(asked, subject)
    method = asked.method
    ways = _ways(subject, training.micro_batch_size or training.batch_size, training.batch_size, method)
    shares = shares_prompts(subject.config, ways[0].recipe, training.max_length)
    ways = [replace(way, recipe=replace(way.recipe, share_prompts=shares)) for way in ways]
    layers = subject.config.num_hidden_layers
    of_pairs = partial(Lengths.shared, layers=layers) if shares else Lengths.padded
    lengths = {
        way.pairs: of_pairs(sizes, way.pairs, method)
        if sizes
        else Lengths.all_of(training.max_length, way.pairs, method)
        for way in ways
    }
    compares = step_of(method, Training()).has_reference
    longest = next(iter(lengths.values())).longest
    single = [way for way in ways if way.device == "cuda" and way.gpus == 1]
    work: list[Work] = [(way.recipe, lengths[way.pairs].traced) for way in ways]
    work += [(way.recipe, way.shape(length)) for way in single for length in asked.lengths]
    traces = trace_all(subject.config, work, lambda done, total: say_progress(done, total, "traces"))
    found = [(way, traces[way.recipe, lengths[way.pairs].traced]) for way in ways]
    first = found[0][1]
    trainable = first.trainable_parameters
    model = described(subject, first.base_parameters, trainable)
    workload = None
    if asked.data is not None:
        steps = max(1, math.ceil(training.epochs * math.ceil((len(sizes) or _count(asked)) / training.batch_size)))
        schedule = Schedule(
            epochs=training.epochs, batch_size=training.batch_size, max_length=training.max_length,
            learning_rate=training.learning_rate, beta=training.beta, steps=steps,
            lora_r=None if subject.adapter else subject.lora_r,
            lora_target=None if subject.adapter else subject.lora_target,
        )  # fmt: skip
        workload = Workload(method=asked.method, model=model, data=_data_set(asked, len(sizes)), training=schedule)
    return Estimate(
        model=model,
        parameters=first.base_parameters + trainable,
        trainable_parameters=trainable,
        batch_size=training.batch_size,
        at_once=training.micro_batch_size or training.batch_size,
        max_length=training.max_length,
        longest=longest,
        lora_r=subject.lora_r,
        lora_target=subject.lora_target,
        notes=tuple(notes(subject, first.base_parameters, trainable)),
        options=tuple(_option(way, trace, lengths[way.pairs], training.batch_size) for way, trace in found),
        comparison=_comparisons(single) if compares else (),
        needs=tuple(_needs(single, asked.lengths, traces, compares=compares)),
        data=check,
        workload=workload,
    )


def _pairs(asked: EstimateConfig, subject: Subject) -> tuple[DataCheck | None, list[CutPair]]:
    """The data check and the lengths of each usable pair; nothing where there are no pairs or no tokenizer."""
    if asked.data is None or subject.bare:
        return None, []
    with without_collector():
        return looked(asked.method, asked.model, asked.data, asked.training, say_progress)


@dataclass(frozen=True)
class _Way:
    """A recipe on so many devices, each with `pairs` pairs at once."""

    name: str
    device: str
    gpus: int
    recipe: Recipe
    pairs: int
    method: Method

    def shape(self, length: int) -> Shape:
        return Shape(self.pairs, length, method=self.method)


def _ways(subject: Subject, at_once: int, batch_size: int, method: Method) -> list[_Way]:
    found: list[_Way] = []
    compares = step_of(method, Training()).has_reference
    for name, (device, plain) in RECIPES.items():
        if subject.quantization not in (None, plain.quantization):
            continue  # weights that lie there in 4 bits are loaded in 4 bits
        recipe = replace(
            plain,
            lora_r=subject.lora_r,
            lora_target=subject.lora_target,
            own_adapter=subject.adapter is not None and compares,
            lora_dropout=subject.lora_dropout if method == "sft" else 0.0,
        )
        found.append(_Way(name, device, int(device == "cuda"), recipe, at_once, method))
        if name in SHARED:
            found += [
                _Way(f"{name}-x{gpus}", device, gpus, recipe, min(at_once, batch_size // gpus), method)
                for gpus in DEVICES
                if batch_size % gpus == 0
            ]
    return found


def needed_gib(peak_bytes: int) -> float:
    """What a GPU must have: the traced peak, a share for fragmentation, and the context."""
    return round(peak_bytes / GIB * (1 + FRAGMENTATION) + CONTEXT_GIB, 2)


def _option(way: _Way, trace: Trace, lengths: Lengths, batch_size: int) -> Option:
    """`flop_per_step` is for pairs of the mean length; the memory is for the longest of them."""
    dtype, cuda = way.recipe.dtype, way.device == "cuda"
    one = noun(way.method)[:-1]
    counted = one if way.pairs == 1 else f"{one}s"
    an_example = f"{'an' if one == 'example' else 'a'} {one}"
    reference = ", reference's forward included" if trace.forward_flop else ""
    # Data-parallel training gathers the gradients of all processes in buckets of their size.
    buckets = 4 * trace.trainable_parameters if way.gpus > 1 else 0
    traced = trace.peak_bytes + buckets
    weights_gib = trace.base_parameters * dtype.itemsize / GIB
    linear = trace.flop + trace.forward_flop - trace.attention_flop
    flop = linear * lengths.linear + trace.attention_flop * lengths.square
    ram = weights_gib + HOST_GIB * way.gpus if cuda else traced / GIB * (1 + FRAGMENTATION) + HOST_GIB
    return Option(
        name=way.name,
        device="cuda" if cuda else "cpu",
        gpus=way.gpus,
        min_vram_gib=needed_gib(traced) if cuda else 0,
        min_ram_gib=round(ram, 1),
        min_disk_gib=round(trace.base_parameters * 2 / GIB + ENVIRONMENT_GIB + CHECKPOINTS_GIB, 1),
        flop_per_step=flop * batch_size / way.pairs,
        basis={
            "memory": f"one step of {way.pairs} {counted} a device, traced on fake tensors: {lengths.said}",
            "traced_bytes": trace.peak_bytes,
            **({"gradient_buckets_bytes": buckets} if buckets else {}),
            "layers": "2 and 3 were traced; the rest is their difference, layer for layer",
            "allowance": {"context_gib": CONTEXT_GIB if cuda else 0, "fragmentation": FRAGMENTATION, "measured": False},
            "ram_gib": {"weights": round(weights_gib, 2), "a_process": HOST_GIB, "measured": False},
            "disk_gib": {"environment": ENVIRONMENT_GIB, "checkpoints": CHECKPOINTS_GIB, "measured": False},
            "flop_per_step": f"counted in the trace{reference}; {lengths.mean:,.0f} tokens {an_example} in the mean, "
            f" {'each prompt once' if way.recipe.share_prompts else 'padded'}",
            "versions": {each: version(each) for each in ("torch", "trl", "transformers", "peft")},
        },
        trainer=TrainerChoice(
            precision="fp32" if dtype == torch.float32 else "16bit" if cuda else "bf16",
            quantization=way.recipe.quantization,
            gradient_checkpointing=way.recipe.gradient_checkpointing,
        ),
    )


def _comparisons(single: list[_Way]) -> tuple[Comparison, ...]:
    """A second whole model as the reference: what `ref_model=` of a trainer amounts to."""
    return tuple(
        Comparison(name=_doubled(way), why="Stage A, the reference, is in memory once already.")
        for way in single
        if way.recipe.quantization is None
    )


def _doubled(way: _Way) -> str:
    return "two models" + (", ckpt" if way.recipe.gradient_checkpointing else "")


def _needs(
    single: list[_Way], lengths: tuple[int, ...], traces: dict[Work, Trace], *, compares: bool
) -> Iterator[Need]:
    for way in single:
        for length in sorted({*lengths}):
            trace = traces[way.recipe, way.shape(length)]
            yield Need(option=way.name, max_length=length, min_vram_gib=needed_gib(trace.peak_bytes))
            if compares and way.recipe.quantization is None:
                peak = trace.peak_bytes + 2 * trace.base_parameters
                yield Need(option=_doubled(way), max_length=length, min_vram_gib=needed_gib(peak))


def _data_set(asked: EstimateConfig, usable: int) -> DataSet:
    assert asked.data is not None
    train, val = asked.data.train, asked.data.val
    found: dict[str, Any] = {
        "train_path": str(train), "train_examples": usable or _count(asked), "train_bytes": _size(train),
    }  # fmt: skip
    if val is not None:
        found |= {"val_path": str(val), "val_examples": count_pairs(val, asked.method), "val_bytes": _size(val)}
    return DataSet(**found)


def _count(asked: EstimateConfig) -> int:
    assert asked.data is not None
    _size(asked.data.train)
    pairs = count_pairs(asked.data.train, asked.method)
    if not pairs:
        raise InputError(f"{asked.data.train}: there are no pairs in it.", next_step="name the pairs with --train.")
    return pairs


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as problem:
        raise InputError(f"{path} cannot be read.", str(problem), "name the pairs with --train FILE.") from problem
