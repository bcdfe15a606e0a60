# pyright: basic, reportMissingImports=false
"""What is to be trained, read from its own files: configuration, headers of the weights, adapter. No weight is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from train.config import ModelRef, Training
from train.errors import InputError
from train.hub import fetch_texts
from train.lora import Lora, read_lora
from train.requirement import Adapter, Model, Source
from train.stage_a import describe
from train.weights import read_json

NAMED_OTHERWISE = 0.12
"""How far a count in a model's name may be from its parameters: names round, 7.6 billion are called 7B."""

_BILLIONS = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)[bB](?![A-Za-z])")


@dataclass(frozen=True)
class Subject:
    """A model to be trained, and the adapter that it is trained with: Stage A's own, or a new one.

    `adapter` is Stage A's own: the trainer then holds it a second time, as the reference.
    """

    ref: ModelRef
    config: PretrainedConfig
    lora_r: int
    lora_target: tuple[str, ...]
    lora_dropout: float
    adapter: Lora | None
    quantization: str | None
    """Of the weights as they lie there: nf4, int8 or None."""

    @property
    def bare(self) -> bool:
        """A config.json and nothing else."""
        return Path(self.ref.base).is_file()


def read_subject(ref: ModelRef, training: Training) -> Subject:
    """The model that `ref` names: a folder, a `config.json` itself, or a hub id (its texts are fetched, no weight).

    Raises:
        InputError: with what is wrong, and where.
    """
    place = Path(ref.base)
    file = place if place.is_file() else (place if place.is_dir() else fetch_texts(ref)) / "config.json"
    values = read_json(file)
    packed = values.pop("quantization_config", None)
    kind = values.pop("model_type", None)
    try:
        config = AutoConfig.for_model(kind, **values)
    except (ValueError, TypeError, AttributeError) as problem:
        known = f"the architecture {kind!r} is not known to transformers" if kind else "it names no model_type"
        raise InputError(
            f"{file}: no configuration of a model: {known}.", _first_line(problem), "name the model with --model."
        ) from problem
    adapter = read_lora(Path(ref.adapter)) if ref.adapter else None
    return Subject(
        ref=ref,
        config=config,
        lora_r=adapter.r if adapter else training.lora_r,
        lora_target=adapter.target_modules if adapter else training.lora_target,
        lora_dropout=adapter.dropout if adapter else 0.0,
        adapter=adapter,
        quantization=_quantization(packed, file),
    )


def _quantization(packed: Any, file: Path) -> str | None:
    if not isinstance(packed, dict):
        return None
    if packed.get("load_in_4bit") and packed.get("bnb_4bit_quant_type") == "nf4":
        return "nf4"
    if packed.get("load_in_8bit"):
        return "int8"
    raise InputError(
        f"{file}: the weights are quantized in a way that is not trained on ({packed.get('quant_method')}).",
        next_step="name the model in 16 bits with --model; 4 bits are made of it while it is loaded.",
    )


def described(subject: Subject, parameters: int, trainable: int) -> Model:
    """The model as the requirement file says it. Where no weight is at hand, the size is that of 16-bit weights."""
    ref = subject.ref
    place = Path(ref.base)
    facts = describe(ref)
    source = Source(path=ref.base) if place.exists() else Source(hub_id=ref.base, revision=ref.base_revision)
    adapter = None
    if subject.adapter is not None:
        adapter = Adapter(
            path=str(ref.adapter),
            r=subject.lora_r,
            target_modules=subject.lora_target,
            trainable_parameters=trainable,
            bytes_on_disk=subject.adapter.bytes_on_disk,
        )
    return Model(
        base=source,
        adapter=adapter,
        architecture=facts.architecture or next(iter(subject.config.architectures or []), None),
        parameters=parameters,
        bytes_on_disk=facts.bytes_on_disk or 2 * parameters,
    )


def notes(subject: Subject, parameters: int, trainable: int) -> list[str]:
    """What a person might take for something else: a count that is not the name's, weights that are not there."""
    said: list[str] = []
    name = _called(subject)
    counted = _BILLIONS.search(name)
    if counted and abs(parameters / 1e9 / float(counted[1]) - 1) > NAMED_OTHERWISE:
        said.append(f"It is called {name}, and has {parameters / 1e9:.2f} billion parameters, not {counted[1]}.")
    if subject.bare:
        said.append("There are no weights and no tokenizer beside config.json: each pair is taken to fill max_length.")
    elif not Path(subject.ref.base).is_dir():
        said.append("The weights are on the hub: their size is that of 16 bits a parameter.")
    else:
        here = describe(subject.ref).parameters
        if here is not None and subject.quantization is None and here != parameters:
            said.append(f"The weights hold {here:,} numbers; config.json means a model of {parameters:,}.")
    if subject.adapter and subject.adapter.trainable_parameters != trainable:
        said.append(
            f"The adapter holds {subject.adapter.trainable_parameters:,} numbers; one of rank {subject.lora_r} on "
            f"{', '.join(subject.lora_target)} has {trainable:,}, and that is what was traced."
        )
    return said


def _called(subject: Subject) -> str:
    """The hub id, the folder, or the name in config.json: the first that says a size."""
    base = str(Path(subject.ref.base).parent) if subject.bare else subject.ref.base
    names = (subject.ref.named, base, getattr(subject.config, "_name_or_path", ""))
    ends = [Path(name).name for name in names if name]
    return next((end for end in ends if _BILLIONS.search(end)), ends[0])


def _first_line(problem: BaseException) -> str:
    return next(iter(str(problem).strip().splitlines()), type(problem).__name__)
