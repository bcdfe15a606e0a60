"""Settings of a job: a flag, else `LAUNCH_*`, else `launch.toml` here, else the user's, else the default.

One field is all four: `batch_size` is `--batch-size`, `LAUNCH_BATCH_SIZE` and `batch_size` in a TOML file.
"""

from __future__ import annotations

import difflib
import math
import os
import shlex
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from artifacts.errors import UsageProblem
from launcher.methods import has
from train.config import LEAST_BATCH, LOSS_TYPES, METHODS, Method, Training, noun

CLOUDS = ("local", "any", "lambda", "aws")

# The names of the earlier training script, so that its configuration can be pasted in.
EARLIER_NAMES = {
    "sft_model_path": "model",
    "train_data_path": "train",
    "val_data_path": "val",
    "num_epochs": "epochs",
}


def nearest(word: str, known: tuple[str, ...] | list[str]) -> str:
    """` Did you mean X?`, or nothing."""
    close = difflib.get_close_matches(word.casefold(), known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""


def _dollars(value: object) -> float:
    try:
        usd = float(str(value).strip())
    except ValueError:
        raise ValueError(f"{value} is not an amount; write dollars as a number, such as 5 or 2.50") from None
    if not math.isfinite(usd) or usd <= 0:
        raise ValueError(f"{value} cannot be spent; a budget is above 0 dollars (without one, nothing is bought)")
    return usd


def _cloud(value: object) -> str:
    name = str(value).casefold()
    if name not in CLOUDS:
        raise ValueError(f"no cloud is called {value}; there are {', '.join(CLOUDS)}.{nearest(name, CLOUDS)}")
    return name


def _split(value: object) -> Any:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _words(value: object) -> Any:
    return tuple(shlex.split(value)) if isinstance(value, str) else value


def _loss(value: object) -> tuple[str, ...]:
    names = tuple(map(str, _split(value)))
    for name in names:
        if name not in LOSS_TYPES:
            raise ValueError(f"TRL knows no loss {name}.{nearest(name, LOSS_TYPES)} It has: {', '.join(LOSS_TYPES)}")
    return names


ON_OFF = "on/off"
"""The metavar of a flag that has an opposite: --container, --no-container."""


def flag(metavar: str | None, help_: str, default: Any = None, **bounds: Any) -> Any:
    """A field that is also a flag; with `metavar` None it is a key of a file and a variable only."""
    return Field(default=default, description=help_, json_schema_extra={"metavar": metavar}, **bounds)


class Settings(BaseModel):
    """What the verb of a method and its `launch plan` share. What the method does not have is None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = flag(None, "The method that trains, where no verb says it (default: dpo).", "dpo")
    requirements: Path | None = flag("FILE", "Requirement file of a calculator (hardware-requirement/1).")
    model: str | None = flag("PATH|ID", "Stage-A model: an adapter folder, a full model folder, or a hub id.")
    base: str | None = flag("PATH|ID", "The base under the adapter, where its folder does not say.")
    adapter: str | None = flag("PATH|none", "The Stage-A adapter; none says that --model is merged or has none.")
    train: Path | None = flag("FILE", "Preference pairs to train on (JSONL: prompt, chosen, rejected).")
    val: Path | None = flag("FILE", "Pairs by which the best adapter is chosen.")
    test: Path | None = flag("FILE", "Held-out data for the comparison of Stage A and Stage B.")
    terms: Path | None = flag(None, "Terms, one a line, that a summary may not add to its source (for `launch eval`).")
    budget: Annotated[float, BeforeValidator(_dollars)] | None = flag(
        "USD", "The most that all of it may cost. Without it, nothing is ever bought."
    )
    cloud: Annotated[Literal["local", "any", "lambda", "aws"], BeforeValidator(_cloud)] | None = flag(
        "NAME", "Where to run: local, lambda, aws, or any of them."
    )
    gpu: str | None = flag("NAME", "Only machines with this GPU.", min_length=1)
    instance_type: str | None = flag("NAME", "Only this instance type.", min_length=1)
    region: str | None = flag("NAME", "Only this region.", min_length=1)
    within: float = flag("HOURS", "An offer must be expected to finish in this time.", 24.0, gt=0, allow_inf_nan=False)
    epochs: float | None = flag("N", "Passes over the pairs.", gt=0, allow_inf_nan=False)
    max_steps: int | None = flag("N", "Optimizer steps, instead of epochs.", gt=0)
    max_length: int | None = flag("N", "Tokens of prompt and completion together.", gt=0)
    batch_size: int | None = flag("N", "Pairs an optimizer step, over all devices.", gt=0)
    micro_batch_size: int | None = flag(None, "Pairs at once on a device; gradients are accumulated.", gt=0)
    beta: float | None = flag("X", "How closely the policy is held to Stage A.", gt=0, allow_inf_nan=False)
    learning_rate: float | None = flag("X", "Peak learning rate.", gt=0, allow_inf_nan=False)
    lr_scheduler: Literal["linear", "cosine", "constant"] | None = flag(None, "Shape of the learning rate.")
    loss_type: Annotated[tuple[str, ...], BeforeValidator(_loss)] | None = flag("A,B", "TRL's losses, mixed.")
    loss_weights: Annotated[tuple[float, ...], BeforeValidator(_split)] | None = flag("X,Y", "One weight a loss.")
    desirable_weight: float | None = flag(None, "KTO: weight of wanted examples.", gt=0, allow_inf_nan=False)
    undesirable_weight: float | None = flag(None, "KTO: weight of unwanted examples.", gt=0, allow_inf_nan=False)
    eval_every: int | None = flag("N", "Steps between validations.", gt=0)
    seed: int | None = flag("N", "Seed of data order and dropout.", ge=0)
    device: Literal["auto", "cuda", "cpu"] = flag("auto|cuda|cpu", "Device of this machine.", "auto")
    partial: bool = flag("", "Train a part: 10% of an epoch's steps, or --max-steps.", default=False)
    hold: float | None = flag(
        "MINUTES", "How long results wait on a rented machine if this computer goes away.", gt=0, allow_inf_nan=False
    )
    container: bool | None = flag(
        ON_OFF, "In the trainer's image, or in none (default: rented machines in one, this one in none)."
    )
    image: str | None = flag(None, "The trainer's image, instead of the one for the device.", min_length=1)
    out: Path | None = flag("DIR", "Folder of the results (default: runs).")
    name: str | None = flag("TEXT", "A name for the job.", min_length=1, max_length=80)
    lora_r: int | None = flag(None, "Rank of a new adapter, for a model without one.", gt=0)
    lora_target: Annotated[tuple[str, ...], BeforeValidator(_split)] | None = flag(
        None, "Modules of a new adapter, for a model without one."
    )
    train_python: Path | None = flag(None, "Interpreter of the trainer ([train] python).")
    upload_mbit_s: float = flag(None, "Speed of this line, upwards.", 20.0, gt=0, allow_inf_nan=False)
    pip_args: Annotated[tuple[str, ...], BeforeValidator(_words)] = flag(
        None, "For pip when it makes the environment.", ()
    )


_PATHS = ("requirements", "train", "val", "test", "terms", "out", "train_python")
_PATH_OR_ID = ("model", "base", "adapter")
USER_FILE = "settings.toml"


def load(
    flags: Mapping[str, Any], *, environ: Mapping[str, str] = os.environ, project: Path, user_file: Path | None = None
) -> Settings:
    """Settings for a command typed in `project`. Errors name the flag, variable or file and key that is wrong."""
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}

    def take(source: Mapping[str, Any], named: Callable[[str], str], folder: Path | None = None) -> None:
        for name, value in source.items():
            values[name] = _resolved(name, value, folder) if folder else value
            origin[name] = named(name)

    method = flags.get("method") or environ.get("LAUNCH_METHOD")
    for file in (user_file, project / "launch.toml"):
        if file and file.exists():
            take(_read_toml(file, method), _in_file(file), file.parent)
    take(
        {name: environ[key] for name in Settings.model_fields if environ.get(key := f"LAUNCH_{name.upper()}")},
        lambda name: f"LAUNCH_{name.upper()}",
    )
    take({name: value for name, value in flags.items() if value is not None}, _as_flag)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        reason = first["msg"].removeprefix("Value error, ")
        given = origin.get(name, name)
        verb = values.get("method") if values.get("method") in METHODS else "dpo"
        help_ = f"`launch {verb} --help`"
        raise UsageProblem(
            f"{given}: {reason}",
            next_step=f"correct {given} and run the same command again; {help_} says what each setting is.",
        ) from None
    settings = settings.model_copy(
        update={name: None for name in Settings.model_fields if not has(settings.method, name)}
    )
    _check_weights(settings, origin)
    if settings.batch_size is not None and settings.batch_size < LEAST_BATCH[settings.method]:
        raise batch_too_small(settings.method, f"{origin['batch_size']}: {settings.batch_size}")
    return settings


def _check_weights(settings: Settings, origin: Mapping[str, str]) -> None:
    """A flag may give the losses and a file the weights, so that neither is wrong alone."""
    losses = settings.loss_type or Training().loss_type
    if settings.loss_weights is None or len(settings.loss_weights) == len(losses):
        return
    raise UsageProblem(
        f"{origin['loss_weights']}: {_count(len(settings.loss_weights), 'weight')} for {_count(len(losses), 'loss')}.",
        why=f"{origin.get('loss_type', 'The default loss')} is {','.join(losses)}.",
        next_step=f"give one weight a loss: --loss-weights {','.join('1' for _ in losses)}",
    )


def batch_too_small(method: Method, said: str) -> UsageProblem:
    """`said` is where the batch size stands, and what it is."""
    return UsageProblem(
        f"{said} is too small for {method.upper()}, which needs {LEAST_BATCH[method]} {noun(method)} a step.",
        why="What counts as a gain is estimated from the examples of a step.",
        next_step="say --batch-size 4.",
    )


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def _as_flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _in_file(file: Path) -> Callable[[str], str]:
    return lambda name: f"{file}: {name}"


def _resolved(name: str, value: Any, folder: Path) -> Any:
    """Relative paths in a file are meant from where the file stands."""
    if not isinstance(value, str) or name not in _PATHS + _PATH_OR_ID:
        return value
    path = folder / Path(value).expanduser()
    return str(path) if name in _PATHS or path.exists() else value


def _read_toml(file: Path, method: str | None) -> dict[str, Any]:
    try:
        document: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageProblem(
            f"{file} cannot be read.",
            why=str(error),
            next_step="correct the file, or move it away; `launch init` writes a new one.",
        ) from None
    # A table of a method's name has keys for it alone. `train` is the data as a key and the trainer as a table; a file
    # that needs both has the keys of the job in such a table.
    tables = {name: document.pop(name) for name in METHODS if isinstance(document.get(name), dict)}
    settings: dict[str, Any] = tables.get(method or document.get("method", "dpo"), {})
    trainer: dict[str, Any] = document.pop("train") if isinstance(document.get("train"), dict) else {}
    settings = {**document, **settings}
    for key, name in (("python", "train_python"), ("pip_args", "pip_args")):
        if key in trainer:
            settings[name] = trainer.pop(key)
    settings |= {f"train.{key}": value for key, value in trainer.items()}
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name = EARLIER_NAMES.get(key, key)
        if name not in Settings.model_fields:
            known = [*Settings.model_fields, *EARLIER_NAMES]
            raise UsageProblem(
                f"{file}: there is no setting {key}.{nearest(key, known)}",
                next_step=f"correct or remove {key}; `launch init` writes a commented file.",
            )
        found[name] = value
    return found
