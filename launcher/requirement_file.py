"""Reads the output of a hardware requirement calculator: `hardware-requirement/1`, or another tool's flat file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn, cast

from pydantic import ValidationError

from artifacts.errors import UsageProblem
from launcher.foreign_requirement import MemoryOnly, read_memory
from launcher.methods import estimating
from train.config import Method, noun
from train.requirement import Requirement, unknown_keys, version_of

VERSION = 1


def _anew(method: Method) -> str:
    return f"make it anew: {estimating(method)} -o FILE"


def read_requirement(path: Path, method: Method = "dpo") -> tuple[Requirement, list[str]]:
    """The requirement in `path`, and warnings (keys that this version does not know, by name).

    Raises UsageProblem where the file is missing, cut off, of another version, or says something that cannot be. What
    it says to type is for `method`; the file may be for another one.
    """
    found = read_any(path, method)
    if isinstance(found, MemoryOnly):
        raise UsageProblem(
            f"The requirement file {path} says how much memory is needed, and nothing of the model and the data.",
            why="; ".join(found.understood),
            next_step=f"leave --requirements out and name the job: launch {method} --model PATH|ID --train FILE",
        )
    return found


def read_any(path: Path, method: Method = "dpo") -> tuple[Requirement, list[str]] | MemoryOnly:
    """The requirement in `path` with its warnings, or what a foreign calculator's flat file says of memory."""
    document = _document(path, _anew(method))
    if version_of(document) is None:
        memory = read_memory(document, path)
        if memory is not None:
            return memory
    return _validated(document, path, _anew(method))


def _document(path: Path, anew: str) -> object:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageProblem(
            f"There is no requirement file {path}.",
            next_step="name the calculator's output with --requirements FILE; `launch demo` makes an example.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        why = "It is a folder." if path.is_dir() else str(error)
        raise UsageProblem(
            f"The requirement file {path} cannot be read.", why=why, next_step="name a file with --requirements FILE."
        ) from None
    if path.suffix.casefold() in (".yaml", ".yml"):
        return _yaml(text, path, anew)
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        cut = " The file ends too early: it was cut off." if error.pos >= len(text.rstrip()) else ""
        raise UsageProblem(
            f"The requirement file {path} is not JSON: {error.msg} at line {error.lineno}.{cut}",
            next_step=f"{anew}.",
        ) from None
    except _NonsenseError as error:
        raise UsageProblem(
            f"The requirement file {path}: {error} is not a number.",
            next_step=f"write a number in its place, or {anew}.",
        ) from None


def _yaml(text: str, path: Path, anew: str) -> object:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageProblem(f"The requirement file {path} is not YAML.", why=str(error), next_step=f"{anew}.") from None


def _validated(document: object, path: Path, anew: str) -> tuple[Requirement, list[str]]:
    version = version_of(document)
    if version != VERSION:
        named = cast("dict[str, Any]", document).get("schema") if isinstance(document, dict) else None
        raise UsageProblem(
            f"The requirement file {path} is not hardware-requirement/{VERSION}: its schema is {named!r}.",
            why="It was made for a newer launch." if version and version > VERSION else "",
            next_step=f"update launch (the way it was installed), or {anew}."
            if version and version > VERSION
            else f"name the calculator's output with --requirements FILE, or {anew}.",
        )
    try:
        requirement = Requirement.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "too_short":
            reason = "there is none, and the job needs one way to run at least"
        given = first["input"]
        has = f" (it says {given!r})" if isinstance(given, (str, int, float)) else ""
        raise UsageProblem(
            f"The requirement file {path}: {where}: {reason}{has}.",
            next_step=f"correct {where or 'it'} in the file, or {anew}.",
        ) from None
    names = [option.name for option in requirement.options]
    if len(set(names)) < len(names):
        raise UsageProblem(
            f"The requirement file {path}: two options have the same name.",
            next_step=f"give one of them another name in {path.name}.",
        )
    _check_weights(requirement, path)
    _check_steps(requirement, path)
    warnings = [
        f"{path.name}: {key} is not known to this version, and is not used." for key in unknown_keys(requirement)
    ]
    return requirement, warnings


BYTES_A_WEIGHT = {"nf4": 0.5, "int8": 1.0}
MOST_TIMES, MOST_GIB, MOST_TOKENS = 10.0, 16.0, 1024
"""How far the memory of an option may be above its weights: so many times, and so many GiB for each so many tokens of
a batch. An 8B model without checkpointing holds 6.4 GiB for as many."""


def _check_weights(requirement: Requirement, path: Path) -> None:
    """An option needs at least its own weights, and not a multiple of them that no training has."""
    parameters, training = requirement.workload.model.parameters, requirement.workload.training
    if parameters is None:
        return
    activations = MOST_GIB * max(1.0, 2 * training.batch_size * training.max_length / MOST_TOKENS)
    for index, option in enumerate(requirement.options):
        whole = 4.0 if option.trainer.precision == "fp32" else 2.0
        weights = parameters * BYTES_A_WEIGHT.get(str(option.trainer.quantization), whole) / 2**30
        name = "min_vram_gib" if option.device == "cuda" else "min_ram_gib"
        asked = option.min_vram_gib if option.device == "cuda" else option.min_ram_gib
        most = MOST_TIMES * weights + activations
        if asked and not weights <= asked <= most:
            why = "less than its weights alone" if asked < weights else "far more than its training needs"
            raise UsageProblem(
                f"The requirement file {path}: options.{index}.{name}: {asked:g} GiB is {why}: {parameters:,} "
                f"parameters are {weights:,.1f} GiB in {option.name}.",
                next_step=f"correct options.{index}.{name} in the file, or {_anew(requirement.workload.method)}",
            )


def _check_steps(requirement: Requirement, path: Path) -> None:
    """Steps that are said must be those of epochs, pairs and batch, rounded in whatever way."""
    data, training = requirement.workload.data, requirement.workload.training
    if training.steps is None:
        return
    exact = training.epochs * data.train_examples / training.batch_size
    if abs(training.steps - exact) > 1 + training.epochs:  # a last batch that is not full, dropped or not, each epoch
        raise UsageProblem(
            f"The requirement file {path}: workload.training.steps: {training.steps:,} contradict its "
            f"{training.epochs:g} epochs of {data.train_examples:,} {noun(requirement.workload.method)} in batches of "
            f"{training.batch_size}, which are {exact:,.0f}.",
            next_step=f"correct one of them in the file, or {_anew(requirement.workload.method)}",
        )


class _NonsenseError(ValueError):
    pass


def _no_constant(word: str) -> NoReturn:
    raise _NonsenseError(word)
