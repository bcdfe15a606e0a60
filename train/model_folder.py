"""What lies in a model folder: weights, an adapter, a tokenizer; and whether a full model in it is whole."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, NoReturn, cast

from train.errors import InputError
from train.lora import CONFIG, TO_SAFETENSORS, WEIGHTS
from train.weights import INDEX, SINGLE, Tensor, read_json, weight_files

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "tekken.json", "vocab.json", "vocab.txt")

_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")


def has_adapter(folder: Path) -> bool:
    """Whether there are files of an adapter."""
    return any((folder / name).exists() for name in (CONFIG, WEIGHTS, "adapter_model.bin"))


def _torch_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix in (".bin", ".pt", ".pth") and file.name not in ("adapter_model.bin", "training_args.bin")
    )


def has_weights(folder: Path) -> bool:
    """Whether there are weights of a full model, in any format."""
    return (folder / SINGLE).exists() or (folder / INDEX).exists() or bool(_torch_files(folder))


def has_tokenizer(folder: Path) -> bool:
    """Whether there is a vocabulary."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def check_full(base: Path) -> dict[str, Any]:
    """The configuration of a full model's folder.

    Raises:
        InputError: parts are missing, or the weights are not safetensors (with the command that converts them).
    """
    if not any(base.iterdir()):
        raise InputError(f"{base} is empty.", next_step="copy or download the model into it.")
    if not has_weights(base) and has_adapter(base):
        raise InputError(
            f"{base} holds an adapter only, and a full model is needed here.",
            next_step=f"--model {shlex.quote(str(base))} --base FOLDER_OR_HUB_ID",
        )
    if not (base / "config.json").is_file():
        raise InputError(
            f"{base}: no config.json, so this is no model folder.",
            next_step="name the folder of the base with --base, or of a full model with --model.",
        )
    config = read_json(base / "config.json")
    if not weight_files(base):
        torch_files = _torch_files(base)
        if len(torch_files) == 1:
            convert_file(torch_files[0], base / SINGLE)
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


def convert_file(source: Path, target: Path) -> NoReturn:
    """Refuses a torch file with the command that turns it into the safetensors file `target`."""
    _refuse_pickles(source.parent, ["python", "-c", TO_SAFETENSORS, str(source), str(target)])


def _convert_model(folder: Path) -> NoReturn:
    code = (
        "import sys; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
        "M.from_pretrained(sys.argv[1], dtype='auto').save_pretrained(sys.argv[2]); "
        "T.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])"
    )
    _refuse_pickles(folder, ["python", "-c", code, str(folder), f"{folder}-safetensors"])


def embedding_rows(config: dict[str, Any], tensors: dict[str, Tensor]) -> int | None:
    """How many tokens a model with these tensors embeds; what its configuration says where none is recognized."""
    rows = [
        tensor.shape[0] for name, tensor in tensors.items() if name.endswith(_EMBEDDINGS) and len(tensor.shape) == 2
    ]
    size: object = config.get("vocab_size")
    return max(rows) if rows else size if isinstance(size, int) else None


def check_vocabulary(tokenizer: Path, model: str, rows: int | None) -> None:
    """A tokenizer.json whose ids reach past the embedding of `rows` tokens belongs to another model."""
    file = tokenizer / "tokenizer.json"
    if rows is None or not file.is_file():
        return
    tokens = 1 + max(_token_ids(read_json(file)), default=-1)
    if tokens > rows:
        raise InputError(
            f"{file}: does not belong to the model {model}.",
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
