# pyright: basic
"""Preference pairs of the size that the real job has, from made-up words, and a BPE tokenizer of its own for them.

Words are drawn by Zipf's law from 30,000 made of syllables, with numbers, units and punctuation between them, so that
a tokenizer has the mixture of common and rare words that it has in real notes. The same seed gives the same bytes.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from random import Random

SYLLABLES = [a + b for a in (*"bcdfghklmnprstvw", "th", "st", "pr", "ch") for b in (*"aeiou", "an", "er", "in", "ol")]
MARKS = ("", "", "", "", "", "", "", ",", ".", ".\n", ":", " -")
UNITS = ("mg", "mmol/L", "%", "cm", "bpm")
WORDS = 30_000
ZIPF = tuple(itertools.accumulate(1 / rank for rank in range(10, WORDS + 10)))
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""How Llama 3 splits text before its byte-level BPE (`pre_tokenizer` in its tokenizer.json)."""


class Text:
    """Seeded text of a given size."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.words = ["".join(self.random.choices(SYLLABLES, k=self.random.randint(1, 4))) for _ in range(WORDS)]

    def __call__(self, characters: int) -> str:
        parts: list[str] = []
        size = 0
        while size < characters:
            for word in self.random.choices(self.words, cum_weights=ZIPF, k=64):
                part = word + self.random.choice(MARKS)
                if self.random.random() < 0.05:
                    part += f" {self.random.randint(1, 999)} {self.random.choice(UNITS)}"
                parts.append(part)
                size += len(part) + 1
        return " ".join(parts)[:characters]


def write_pairs(path: Path, pairs: int, kilobytes: float, seed: int = 11) -> None:
    """`pairs` lines of about `kilobytes` (1,000 bytes) each: 70% prompt, two completions that differ at their end."""
    text = Text(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(pairs):
            size = kilobytes * 1000 * text.random.uniform(0.6, 1.4)
            chosen = text(int(size * 0.15))
            record = {"prompt": text(int(size * 0.7)), "chosen": chosen, "rejected": chosen[:-300] + text(300)}
            file.write(json.dumps(record) + "\n")


def write_tokenizer(folder: Path, vocabulary: int = 32_000, seed: int = 11) -> None:
    """A byte-level BPE trained on 8 MB of the same kind of text, saved as a model's, beside a bare config.json."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    text = Text(seed)
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA_3), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        (text(10_000) for _ in range(800)),
        trainers.BpeTrainer(
            vocab_size=vocabulary, show_progress=False, special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    tokenizer.save_pretrained(folder)
    LlamaConfig(vocab_size=len(tokenizer)).save_pretrained(folder)
