# pyright: basic, reportMissingImports=false
"""Whether a tokenizer belongs to a model. Only what cannot be so by design is an error: ids would mean other words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from train.config import ModelRef
from train.errors import InputError
from train.model_folder import has_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SPECIAL = ("bos_token_id", "eos_token_id")


def check_belongs(tokenizer: PreTrainedTokenizerBase, source: str, model: ModelRef, rows: int, config: Any) -> None:
    """The tokenizer of `source` against a model that embeds `rows` tokens and whose configuration is `config`.

    Raises:
        InputError: it has ids past the embedding, the model's own special ids are past its vocabulary, or (an
            adapter's tokenizer) it gives a token another id than the base's tokenizer does.
    """
    vocabulary = tokenizer.get_vocab()
    size = 1 + max(vocabulary.values(), default=-1)
    if size > rows:
        _refuse(source, model.base, f"It has {size:,} tokens, the model embeds {rows:,}.")
    for name in _SPECIAL:
        value = getattr(config, name, None)
        for token in value if isinstance(value, list) else [value]:
            if isinstance(token, int) and token >= size:
                _refuse(
                    source,
                    model.base,
                    f"The model's config.json says that {name} is {token}, and the tokenizer has only {size:,} tokens.",
                )
    if source != model.base and Path(model.base).is_dir() and has_tokenizer(Path(model.base)):
        _compare(vocabulary, source, model.base)


def _compare(vocabulary: dict[str, int], source: str, base: str) -> None:
    """An adapter's tokenizer may add tokens to the base's; it may not give a token of the base another id."""
    from transformers import AutoTokenizer

    others = AutoTokenizer.from_pretrained(base).get_vocab()
    moved = [token for token, number in others.items() if vocabulary.get(token, number) != number]
    if moved:
        token = min(moved, key=others.__getitem__)
        _refuse(
            source,
            base,
            f"{len(moved):,} tokens have another id than in the tokenizer of {base}: {token!r} is "
            f"{vocabulary[token]} in one and {others[token]} in the other.",
        )


def _refuse(source: str, base: str, why: str) -> NoReturn:
    raise InputError(
        f"The tokenizer in {source} does not belong to the model {base}.",
        why,
        "put the tokenizer that Stage A was trained with into its folder.",
    )
