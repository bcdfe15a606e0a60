"""In which of its forms a Stage-A model lies on the disk: an adapter over a base, or a full model.

Reads configuration files and safetensors headers, never a weight.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NoReturn, cast

from pydantic import BaseModel, ConfigDict

from train.config import ModelRef
from train.errors import InputError
from train.lora import CONFIG, WEIGHTS, check_belongs, read_lora
from train.model_folder import (
    TOKENIZER_FILES,
    check_full,
    check_vocabulary,
    convert_file,
    embedding_rows,
    has_adapter,
    has_tokenizer,
    has_weights,
)
from train.weights import read_json, read_weights, weight_files

NO_ADAPTER = "none"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class AdapterFacts(BaseModel):
    """What an adapter's files say of it."""

    model_config = ConfigDict(frozen=True)

    r: int
    target_modules: tuple[str, ...]
    trainable_parameters: int
    bytes_on_disk: int


class StageA(BaseModel):
    """What the files of a Stage-A model say of it; of a model on the hub nothing is known before its download."""

    model_config = ConfigDict(frozen=True)

    architecture: str | None = None
    parameters: int | None = None
    bytes_on_disk: int | None = None
    adapter: AdapterFacts | None = None


def identify(model: str, *, base: str | None = None, adapter: str | None = None) -> ModelRef:
    """Where Stage A is: `model` is a folder or a hub id; `base` and `adapter` say what a folder does not.

    `adapter="none"` has adapter files ignored. The paths of the answer are absolute.

    Raises:
        InputError: it could be read two ways, parts are missing or damaged, or they do not belong together.
    """
    revision: str | None = None
    if adapter == NO_ADAPTER:
        found, over = None, _place(base or model)
    elif adapter is not None:
        found = _folder(adapter)
        same = base is None and _place(model) == str(found)
        over = _place(base or model)
        if same and not has_weights(found):
            over, revision = _base_of(found)
    else:
        over = _place(model)
        found = Path(over) if _is_folder(over) and has_adapter(Path(over)) else None
        if found is None and base is not None and _place(base) != over:
            _two_models(over, _place(base))
        if found is not None:
            if has_weights(found) and (base is None or _place(base) == over):
                _two_ways(found)
            over, revision = (_place(base), None) if base else _base_of(found)
    ref = ModelRef(base=over, base_revision=revision, adapter=str(found) if found else None)
    check_files(ref)
    return ref


def describe(ref: ModelRef) -> StageA:
    """Architecture, sizes and adapter, counted from the headers of the files.

    Raises:
        InputError: a file cannot be read.
    """
    facts: AdapterFacts | None = None
    if ref.adapter is not None:
        lora = read_lora(Path(ref.adapter))
        facts = AdapterFacts(
            r=lora.r,
            target_modules=lora.target_modules,
            trainable_parameters=lora.trainable_parameters,
            bytes_on_disk=lora.bytes_on_disk,
        )
    if not _is_folder(ref.base):
        return StageA(adapter=facts)
    base = Path(ref.base)
    names = read_json(base / "config.json").get("architectures")
    return StageA(
        architecture=str(cast("list[object]", names)[0]) if isinstance(names, list) and names else None,
        parameters=sum(tensor.elements for tensor in read_weights(base).values()),
        bytes_on_disk=sum(file.stat().st_size for file in weight_files(base)),
        adapter=facts,
    )


def vocabulary_size(ref: ModelRef) -> int | None:
    """How many tokens Stage A embeds, an adapter's own embedding included; None of a base that is not here."""
    if not _is_folder(ref.base):
        return None
    tensors = read_weights(Path(ref.base)) | (read_lora(Path(ref.adapter)).tensors if ref.adapter else {})
    return embedding_rows(read_json(Path(ref.base) / "config.json"), tensors)


def tokenizer_source(ref: ModelRef) -> tuple[str, str | None]:
    """The folder or hub id, and its revision, of Stage A's tokenizer: the adapter's own where it has one."""
    if ref.adapter is not None and has_tokenizer(Path(ref.adapter)):
        return ref.adapter, None
    return ref.base, ref.base_revision


def _is_folder(place: str) -> bool:
    return Path(place).is_dir()


def _place(name: str) -> str:
    """An absolute path where there is such a folder, else the hub id."""
    path = Path(name).expanduser()
    if not path.exists() and _HUB_ID.fullmatch(name):
        return name
    return str(_folder(name))


def _folder(name: str) -> Path:
    path = Path(name).expanduser().absolute()
    if path.is_dir():
        return path
    if path.exists():
        hint = (
            f"--model {shlex.quote(str(path.parent))}"
            if path.suffix == ".safetensors"
            else "name the folder of the model"
        )
        raise InputError(f"{path} is a file, and a model is a folder.", next_step=hint)
    raise InputError(
        f"There is no folder {path}.", next_step="check the path; a model on the hub is ORGANISATION/NAME."
    )


def _base_of(adapter: Path) -> tuple[str, str | None]:
    """Where an adapter says that its base is, and the revision: beside itself, then from here, then on the hub."""
    if not (adapter / CONFIG).is_file():
        raise InputError(
            f"{adapter}: no {CONFIG}, so this is no adapter.",
            next_step=f"copy {CONFIG} and {WEIGHTS} from their source again.",
        )
    config = read_json(adapter / CONFIG)
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str) or not name:
        _no_base(adapter, f"{CONFIG} does not say what it was trained on.")
    for start in (adapter, Path.cwd()):
        path = start / Path(name).expanduser()
        if path.is_dir() and path.resolve() != adapter.resolve():
            if has_weights(path) and has_adapter(path):
                _no_base(
                    adapter, f"{path} holds adapter files of its own beside full weights: say that it is the base."
                )
            return str(path.absolute()), None
    if not _HUB_ID.fullmatch(name):
        _no_base(adapter, f"{CONFIG} says {name}, and there is no such folder.")
    return name, revision if isinstance(revision, str) else None


def _no_base(adapter: Path, why: str) -> NoReturn:
    quoted = shlex.quote(str(adapter))
    raise InputError(f"The base of the adapter {adapter} is missing.", why, f"--model {quoted} --base FOLDER_OR_HUB_ID")


def _two_ways(folder: Path) -> NoReturn:
    quoted = shlex.quote(str(folder))
    raise InputError(
        f"{folder} holds full weights and an adapter, which can be read two ways.",
        "The adapter may still have to be applied, or it is in the weights already (merged) and these are left-overs. "
        "Read wrongly, Stage A would lose its training or have it twice.",
        f"--model {quoted} --adapter {quoted} if it is still to be applied; "
        f"--model {quoted} --adapter none if it is merged.",
    )


def _two_models(model: str, base: str) -> NoReturn:
    raise InputError(
        f"{model} holds no adapter, so that --base {base} would be a second model.",
        next_step=f"--model {shlex.quote(model)} alone if it is Stage A, or name the adapter's folder with --adapter.",
    )


def check_files(ref: ModelRef) -> None:
    """The files of the folders that `ref` names are there, whole, and belong together.

    Raises:
        InputError: they are not.
    """
    lora = None
    if ref.adapter is not None:
        adapter = Path(ref.adapter)
        if not (adapter / WEIGHTS).is_file():
            torch_file = adapter / "adapter_model.bin"
            if torch_file.is_file():
                convert_file(torch_file, adapter / WEIGHTS)
            raise InputError(
                f"{adapter}: no {WEIGHTS}, so there is no adapter to apply.",
                next_step=f"copy {WEIGHTS} from its source again.",
            )
        lora = read_lora(adapter)
    if not _is_folder(ref.base):
        return
    base = Path(ref.base)
    config = check_full(base)
    if not any(has_tokenizer(folder) for folder in (base, *([Path(ref.adapter)] if ref.adapter else []))):
        raise InputError(
            f"{base}: no tokenizer (none of {', '.join(TOKENIZER_FILES)}).",
            next_step="copy the tokenizer's files of Stage A into the folder.",
        )
    weights = read_weights(base)
    tensors = weights | lora.tensors if lora else weights
    if lora is not None and "quantization_config" not in config:  # packed weights have other shapes
        check_belongs(lora, base, weights)
    check_vocabulary(Path(tokenizer_source(ref)[0]), ref.base, embedding_rows(config, tensors))
