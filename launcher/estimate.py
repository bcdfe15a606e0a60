"""The calculator: a child process in the trainer's environment, whose answers are kept by content."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from artifacts.errors import UsageProblem
from jobs.environment import Environment
from jobs.home import Home
from jobs.offer import Rate
from jobs.trainer_copy import trainer_copy
from launcher import machine
from launcher.methods import DEFAULTS
from launcher.request import Request
from launcher.settings import Settings
from launcher.trainer_call import ask_trainer
from launcher.workload import with_settings
from train.config import Data, ModelRef, Training, noun
from train.estimate_config import EstimateConfig
from train.estimate_document import Estimate
from train.requirement import Measured

Say = Callable[[str], None]

NO_MODEL = UsageProblem(
    "No model is named.",
    next_step="name the Stage-A model with --model PATH|ID; a bare config.json does for an estimate.",
)


@dataclass(frozen=True)
class Kept:
    """An estimate, and the file in which it is kept."""

    estimate: Estimate
    file: Path


def estimated_request(settings: Settings, home: Home, environment: Environment, say: Say) -> Request:
    """The request that `--model` and `--train` make, by an estimate that is made now or was kept.

    Raises:
        UsageProblem: the model or the data cannot be read, with the trainer's own words.
    """
    kept = estimate(settings, home, environment, say)
    requirement = kept.estimate.requirement()
    assert requirement is not None, "there are pairs"
    # A bare config.json can be priced and not trained: it is left as the estimate says it, and a launch refuses it.
    bare = Path(str(settings.model)).expanduser().is_file()
    over = settings.model_copy(update=dict.fromkeys(("model", "base", "adapter"))) if bare else settings
    request = Request(
        settings, with_settings(requirement, over, Path.cwd()), kept.estimate.notes, checked=kept.estimate.data
    )
    return request if kept.estimate.data is None else request.with_pairs(kept.estimate.data.train.usable)


def estimate(settings: Settings, home: Home, environment: Environment, say: Say) -> Kept:
    """What the model and its pairs need. Raises UsageProblem, with the trainer's own words."""
    config = estimate_config(settings)
    file = home.root / "estimates" / f"{_content(config, home, environment)}.json"
    known = _read(file)
    if known is not None:
        say(f"The estimate of this model and its {noun(config.method)} was made before: {file}")
        return Kept(known, file)
    say(f"Estimating what the job needs, from the model and the {noun(config.method)} ...")
    with tempfile.TemporaryDirectory(dir=home.root, prefix=".estimate-") as folder:
        answer = ask_trainer(environment, Path(folder), "estimate", config)
    if answer.returncode == 2:
        raise UsageProblem(answer.said)
    if answer.returncode:
        raise UsageProblem(
            "The estimate failed.",
            why=answer.said[-2000:],
            next_step="launch doctor looks at the trainer's environment.",
        )
    found = Estimate.model_validate_json(answer.document)
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".tmp")
    beside.write_bytes(answer.document)
    beside.replace(file)
    return Kept(found, file)


def check_output(file: Path) -> None:
    """Raises UsageProblem where `file` cannot be written, before anything takes time."""
    folder = file.parent
    if file.is_dir() or not (folder.is_dir() and os.access(folder, os.W_OK)):
        why = "It is a folder." if file.is_dir() else f"{folder} is no folder that can be written to."
        raise UsageProblem(f"{file} cannot be written.", why=why, next_step="name another: -o FILE.")


def write_requirement(estimate: Estimate, rates: Sequence[Rate], file: Path) -> None:
    """The requirement file of an estimate, with what this machine was measured at.

    Raises:
        UsageProblem: there is no workload in it, or the file cannot be written.
    """
    figures = {"device", "name", "precision", "flop_per_s", "step_overhead_s", "measured_at"}
    measured = tuple(
        Measured.model_validate({"machine": machine.host_name()} | rate.model_dump(mode="json", include=figures))
        for rate in rates
        if rate.source == "step"
    )
    requirement = estimate.requirement(measured)
    assert requirement is not None, "there are pairs"
    check_output(file)
    beside = file.with_name(f".{file.name}.tmp-{os.getpid()}")
    try:
        beside.write_text(requirement.model_dump_json(by_alias=True, exclude_none=True, indent=1) + "\n", "utf-8")
        beside.replace(file)
    except OSError as error:
        raise UsageProblem(
            f"{file} cannot be written.", why=f"{error.strerror}.", next_step="name another: -o FILE."
        ) from None


def estimate_config(settings: Settings) -> EstimateConfig:
    """What the calculator is asked. UsageProblem where a file that was named is not there."""
    if settings.model is None:
        raise NO_MODEL
    paths: dict[str, Path] = {}
    for name, path in (("train", settings.train), ("val", settings.val)):
        if path is not None:
            paths[name] = path.expanduser().absolute()
            if not paths[name].is_file():
                raise UsageProblem(
                    f"There is no file {paths[name]}.",
                    next_step=f"name the {noun(settings.method)} with --{name} FILE.",
                )
    asked = {
        name: value
        for name in (
            "epochs", "batch_size", "micro_batch_size", "max_length", "learning_rate", "beta", "lora_r", "lora_target",
        )
        if (value := getattr(settings, name)) is not None
    }  # fmt: skip
    return EstimateConfig(
        method=settings.method,
        model=_model(settings.model, settings),
        data=Data(train=paths["train"], val=paths.get("val")) if "train" in paths else None,
        training=Training.model_validate({**DEFAULTS[settings.method], **asked}),
    )


def _model(named: str, settings: Settings) -> ModelRef:
    """The files that are named; a bare config.json is a model without weights."""
    from train.stage_a import identify

    file = Path(named).expanduser()
    if file.is_file() and file.suffix == ".json":
        return ModelRef(base=str(file.absolute()))
    return identify(named, base=settings.base, adapter=settings.adapter)


def _read(file: Path) -> Estimate | None:
    try:
        return Estimate.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):  # one that was cut short is made again
        return None


def _content(config: EstimateConfig, home: Home, environment: Environment) -> str:
    """By content: the question, the files that it names, the calculator and its environment.

    Weights count by the names and sizes of their files: what is read of them are headers, and those follow from that
    and the configuration.
    """
    digest = hashlib.sha256(config.model_dump_json().encode())
    digest.update(f"{trainer_copy(home).name} {environment.lock}".encode())
    for place in (config.model.base, config.model.adapter):
        for file in _files(Path(place)) if place else ():
            digest.update(f"{file.name} {file.stat().st_size} ".encode())
            if file.suffix == ".json":
                digest.update(file.read_bytes())
    for path in (config.data.train, config.data.val) if config.data else ():
        if path is not None:
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:32]


def _files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
    elif place.is_dir():
        yield from sorted(file for file in place.iterdir() if file.is_file())
