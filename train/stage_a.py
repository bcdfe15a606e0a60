"""In which of its forms a Stage-A model lies on the disk: an adapter over a base, or a full model.

Reads configuration files and safetensors headers, never a weight.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, NoReturn, cast

from pydantic import BaseModel, ConfigDict

from train.config import ModelRef
from train.errors import InputError
from train.lora import CONFIG, TO_SAFETENSORS, WEIGHTS, check_belongs, read_lora
from train.weights import INDEX, SINGLE, Tensor, read_json, read_weights, weight_files

NO_ADAPTER = "none"

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "tekken.json", "vocab.json", "vocab.txt")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")


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
        if same and not _has_weights(found):
            over, revision = _base_of(found)
    else:
        over = _place(model)
        found = Path(over) if _is_folder(over) and _has_adapter(Path(over)) else None
        if found is None and base is not None and _place(base) != over:
            _two_models(over, _place(base))
        if found is not None:
            if _has_weights(found) and (base is None or _place(base) == over):
                _two_ways(found)
            over, revision = (_place(base), None) if base else _base_of(found)
    ref = ModelRef(base=over, base_revision=revision, adapter=str(found) if found else None)
    _check(ref)
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


def tokenizer_source(ref: ModelRef) -> tuple[str, str | None]:
    """The folder or hub id, and its revision, of Stage A's tokenizer: the adapter's own where it has one."""
    if ref.adapter is not None and _has_tokenizer(Path(ref.adapter)):
        return ref.adapter, None
    return ref.base, ref.base_revision


def embedding_rows(ref: ModelRef) -> int | None:
    """How many tokens the model embeds, an adapter's own embedding included; None of a base that is not here."""
    if not _is_folder(ref.base):
        return None
    tensors: dict[str, Tensor] = read_weights(Path(ref.base))
    if ref.adapter is not None:
        tensors |= read_lora(Path(ref.adapter)).tensors
    rows = [
        tensor.shape[0] for name, tensor in tensors.items() if name.endswith(_EMBEDDINGS) and len(tensor.shape) == 2
    ]
    if rows:
        return max(rows)
    size: object = read_json(Path(ref.base) / "config.json").get("vocab_size")
    return size if isinstance(size, int) else None


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


def _has_adapter(folder: Path) -> bool:
    return any((folder / name).exists() for name in (CONFIG, WEIGHTS, "adapter_model.bin"))


def _torch_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix in (".bin", ".pt", ".pth") and file.name not in ("adapter_model.bin", "training_args.bin")
    )


def _has_weights(folder: Path) -> bool:
    return (folder / SINGLE).exists() or (folder / INDEX).exists() or bool(_torch_files(folder))


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def _base_of(adapter: Path) -> tuple[str, str | None]:
    """Where an adapter says that its base is, and the revision: beside itself first, then from here, then on the hub."""
    if not (adapter / CONFIG).is_file():
        raise InputError(f"{adapter}: no {CONFIG}, so this is no adapter.", next_step="copy the adapter again.")
    config = read_json(adapter / CONFIG)
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str) or not name:
        _no_base(adapter, f"{CONFIG} does not say what it was trained on.")
    for start in (adapter, Path.cwd()):
        path = start / Path(name).expanduser()
        if path.is_dir() and path.resolve() != adapter.resolve():
            if _has_weights(path) and _has_adapter(path):
                _no_base(
                    adapter, f"{path} holds adapter files of its own beside full weights: say that it is the base."
                )
            return str(path.absolute()), None
    if _HUB_ID.fullmatch(name):
        return name, revision if isinstance(revision, str) else None
    _no_base(adapter, f"{CONFIG} says {name}, and there is no such folder.")


def _no_base(adapter: Path, why: str) -> NoReturn:
    quoted = shlex.quote(str(adapter))
    raise InputError(f"The base of the adapter {adapter} is missing.", why, f"--model {quoted} --base FOLDER_OR_HUB_ID")


def _two_ways(folder: Path) -> NoReturn:
    quoted = shlex.quote(str(folder))
    raise InputError(
        f"{folder} holds full weights and an adapter, which can be read two ways.",
        "The adapter may still have to be applied, or it is in the weights already (merged) and these are left-overs. "
        "Read wrongly, Stage A would lose its training or have it twice.",
        f"--base {quoted} --adapter {quoted} if it is still to be applied; "
        f"--model {quoted} --adapter none if it is merged.",
    )


def _two_models(model: str, base: str) -> NoReturn:
    raise InputError(
        f"{model} holds no adapter, so that --base {base} would be a second model.",
        next_step=f"--model {shlex.quote(model)} alone if it is Stage A, or name the adapter's folder with --adapter.",
    )


def _check(ref: ModelRef) -> None:
    """Files are there, whole, and belong together."""
    lora = None
    if ref.adapter is not None:
        adapter = Path(ref.adapter)
        if not (adapter / WEIGHTS).is_file():
            torch_file = adapter / "adapter_model.bin"
            if torch_file.is_file():
                _convert_file(torch_file, adapter / WEIGHTS)
            raise InputError(f"{adapter}: no {WEIGHTS}, so there is no adapter to apply.", next_step="copy it again.")
        lora = read_lora(adapter)
    if not _is_folder(ref.base):
        return
    base = Path(ref.base)
    config = _check_full(base)
    if not any(_has_tokenizer(folder) for folder in (base, *([Path(ref.adapter)] if ref.adapter else []))):
        raise InputError(
            f"{base}: no tokenizer (none of {', '.join(TOKENIZER_FILES)}).",
            next_step="copy the tokenizer's files of Stage A into the folder.",
        )
    weights = read_weights(base)
    if lora is not None and "quantization_config" not in config:  # packed weights have other shapes
        check_belongs(lora, base, weights)
    _check_vocabulary(ref)


def _check_full(base: Path) -> dict[str, Any]:
    """The configuration of a full model's folder."""
    if not any(base.iterdir()):
        raise InputError(f"{base} is empty.", next_step="copy or download the model into it.")
    if not _has_weights(base) and _has_adapter(base):
        raise InputError(
            f"{base} holds an adapter only, and a full model is needed here.",
            next_step=f"--model {shlex.quote(str(base))} --base FOLDER_OR_HUB_ID",
        )
    if not (base / "config.json").is_file():
        raise InputError(f"{base}: no config.json, so this is no model folder.", next_step="name the model's folder.")
    config = read_json(base / "config.json")
    if not weight_files(base):
        torch_files = _torch_files(base)
        if len(torch_files) == 1:
            _convert_file(torch_files[0], base / SINGLE)
        if torch_files:
            _convert_model(base)
        raise InputError(f"{base}: no {SINGLE} and no {INDEX}.", next_step="copy or download the weights.")
    return config


def _refuse_pickles(folder: Path, command: list[str]) -> NoReturn:
    raise InputError(
        f"{folder}: the weights are in torch's own format (.bin, .pt), which can run code when it is read.",
        "Only safetensors is loaded.",
        shlex.join(command),
    )


def _convert_file(source: Path, target: Path) -> NoReturn:
    _refuse_pickles(source.parent, ["python", "-c", TO_SAFETENSORS, str(source), str(target)])


def _convert_model(folder: Path) -> NoReturn:
    code = (
        "import sys; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
        "M.from_pretrained(sys.argv[1], dtype='auto').save_pretrained(sys.argv[2]); "
        "T.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])"
    )
    _refuse_pickles(folder, ["python", "-c", code, str(folder), f"{folder}-safetensors"])


def _check_vocabulary(ref: ModelRef) -> None:
    """A tokenizer.json whose ids reach past the embedding belongs to another model."""
    file = Path(tokenizer_source(ref)[0]) / "tokenizer.json"
    rows = embedding_rows(ref)
    if rows is None or not file.is_file():
        return
    tokens = 1 + max(_token_ids(read_json(file)), default=-1)
    if tokens > rows:
        raise InputError(
            f"{file}: does not belong to the model {ref.base}.",
            f"The tokenizer has {tokens:,} tokens, the model embeds {rows:,}.",
            "put the tokenizer that Stage A was trained with into its folder.",
        )


def _token_ids(tokenizer: dict[str, Any]) -> list[int]:
    model: Any = tokenizer.get("model")
    vocab: Any = cast("dict[str, Any]", model).get("vocab") if isinstance(model, dict) else None
    ids: list[Any] = []
    if isinstance(vocab, dict):
        ids += cast("dict[str, Any]", vocab).values()
    elif isinstance(vocab, list):
        ids.append(len(cast("list[Any]", vocab)) - 1)
    added: Any = tokenizer.get("added_tokens")
    if isinstance(added, list):
        ids += [
            cast("dict[str, Any]", token).get("id") for token in cast("list[Any]", added) if isinstance(token, dict)
        ]
    return [token for token in ids if isinstance(token, int)]
