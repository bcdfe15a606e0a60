"""The workload of one job: the requirement's, with the flags over it, and its files found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from artifacts.errors import UsageProblem
from launcher.methods import estimating
from launcher.settings import Settings
from train.config import ModelRef, noun
from train.requirement import Adapter, DataSet, Model, Option, Requirement, Schedule, Source, Workload


def with_settings(requirement: Requirement, settings: Settings, folder: Path) -> Requirement:
    """The requirement with every path absolute (relative ones are meant from `folder`) and every flag applied."""
    workload = requirement.workload
    training = workload.training
    changed = {
        name: value
        for name in ("epochs", "batch_size", "max_length", "learning_rate", "beta")
        if (value := getattr(settings, name)) is not None
    }
    schedule = Schedule.model_validate(training.model_dump() | changed | {"steps": None})
    return requirement.model_copy(
        update={
            "options": _for_batch(requirement.options, schedule.batch_size / training.batch_size),
            "workload": Workload(
                method=workload.method,
                model=_model(workload.model, settings, folder),
                data=_data(workload.data, settings, folder),
                training=schedule,
            ),
        }
    )


def _for_batch(options: tuple[Option, ...], times: float) -> tuple[Option, ...]:
    """A step of so many times the pairs does so many times the work."""
    return tuple(
        option.model_copy(update={"flop_per_step": option.flop_per_step and option.flop_per_step * times})
        for option in options
    )


def outgrown(requirement: Requirement, settings: Settings) -> list[str]:
    """What flags ask for beyond that for which the memory in a requirement file is meant."""
    training = requirement.workload.training
    pairs = settings.micro_batch_size or settings.batch_size or training.batch_size
    asked = {
        "max_length": (settings.max_length or training.max_length, "max_length"),
        "batch_size": (pairs, f"{noun(settings.method)} at once"),
    }
    return [
        f"the requirement file's memory is for {name} {getattr(training, key):,}; {value:,} need more. "
        f"Next: {estimating(settings.method)} --{key.replace('_', '-')} {value}"
        for key, (value, name) in asked.items()
        if value > getattr(training, key)
    ]


class NamedSource(Source):
    """A folder as an absolute path, and what it is called in results: see `_name`. Only the path is written down."""

    named: str = Field(exclude=True)


def _name(found: str, *typed: str | None) -> str:
    """The folder `found` as it was typed, where that leads there from here (as PEFT reads it: `~` is not expanded).

    Else, as when it was meant from another file's folder: relative to here where it lies inside, else absolute.
    """
    folder = Path(found)
    for name in typed:
        if name and (Path.cwd() / name).exists() and (Path.cwd() / name).samefile(folder):
            return name
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else found


def _absolute(path: str | Path, folder: Path) -> str:
    return str((folder / Path(path).expanduser()).absolute())


def _model(model: Model, settings: Settings, folder: Path) -> Model:
    if settings.model is None:
        base = model.base
        if base.path is not None:
            found = _absolute(base.path, folder)
            base = NamedSource(path=found, named=_name(found, base.path))
        adapter = model.adapter
        if adapter is not None:
            adapter = adapter.model_copy(update={"path": _absolute(adapter.path, folder)})
        if settings.base is not None:
            base = _source(settings.base, None, settings.base)
        if settings.adapter is not None:
            adapter = None if settings.adapter == "none" else Adapter(path=_absolute(settings.adapter, Path.cwd()))
        return model.model_copy(update={"base": base, "adapter": adapter})
    from train.stage_a import identify

    ref = identify(settings.model, base=settings.base, adapter=settings.adapter)
    base = _source(ref.base, ref.base_revision, settings.base, settings.model)
    adapter = Adapter(path=ref.adapter) if ref.adapter else None
    return model.model_copy(update={"base": base, "adapter": adapter})


def _source(name: str, revision: str | None, *typed: str | None) -> Source:
    if Path(name).expanduser().exists() or name.startswith((".", "/", "~")):
        found = _absolute(name, Path.cwd())
        return NamedSource(path=found, named=_name(found, *typed))
    return Source(hub_id=name, revision=revision)


def _data(data: DataSet, settings: Settings, folder: Path) -> DataSet:
    from train.pairs import count_pairs

    changed: dict[str, Any] = {"train_path": _absolute(data.train_path, folder)}
    if data.val_path is not None:
        changed["val_path"] = _absolute(data.val_path, folder)
    for which, path in (("train", settings.train), ("val", settings.val)):
        if path is not None:
            found = path.expanduser().absolute()
            if not found.is_file():
                raise UsageProblem(
                    f"There is no file {found}.", next_step=f"name the {noun(settings.method)} with --{which} FILE."
                )
            changed |= {
                f"{which}_path": str(found),
                f"{which}_examples": count_pairs(found, settings.method),
                f"{which}_bytes": found.stat().st_size,
            }
    return data.model_copy(update=changed)


def as_flags(workload: Workload) -> dict[str, str] | None:
    """The flags that name the model and the data of a workload with absolute paths; None where they are not here."""
    model, data = _model_flags(workload.model), workload.data
    if model is None or not Path(data.train_path).is_file():
        return None
    return {**model, "train": data.train_path} | ({"val": data.val_path} if data.val_path else {})


def _model_flags(model: Model) -> dict[str, str] | None:
    base = model.base.path or str(model.base.hub_id)
    if model.base.path is not None and not Path(base).exists():
        return None
    if model.adapter is None:
        return {"model": base, "adapter": "none"}
    if not Path(model.adapter.path).exists():
        return None
    return {"model": model.adapter.path} if model.adapter.path == base else {"model": model.adapter.path, "base": base}


def model_ref(model: Model) -> ModelRef:
    """Where Stage A is, checked: folders exist, weights are whole, the adapter belongs to its base."""
    from train.stage_a import identify

    base = model.base.path or str(model.base.hub_id)
    adapter = model.adapter.path if model.adapter else "none"
    ref = identify(base, base=base, adapter=adapter)
    named = model.base.named if isinstance(model.base, NamedSource) else None
    return ref.model_copy(update={"base_revision": model.base.revision, "named": named})
