# pyright: basic
"""Words tokenized once give the ids of texts tokenized as a whole, for the tokenizers for which that is said."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.bench.sample_pairs import LLAMA_3
from train.encoding import SPLITS_AT_GAPS, Encoder, cuts_at_gaps

QWEN_2 = LLAMA_3.replace("{1,3}", "")
SAMPLE = "The patient's dose, 12.5 mg of metformin; it isn't new.\n\nNo fever: 37.2 °C. I'll see. été a  b\tc \u2028 d "


def make(pattern: str | None, normalizer: Any = None, added: Any = "<|eot|>") -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    inner.pre_tokenizer = byte_level
    if pattern is not None:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        inner.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    if normalizer:
        inner.normalizer = normalizer
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        [SAMPLE] * 3,
        trainers.BpeTrainer(
            vocab_size=420, show_progress=False, special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    inner.add_special_tokens([added])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>")


KINDS = {
    "gpt-2": make(None),
    "llama-3": make(LLAMA_3),
    "qwen-2": make(QWEN_2, normalizers.NFC()),
    "added": make(LLAMA_3, added=AddedToken("<|eot|>", lstrip=True, single_word=True)),
}
PIECES = [
    " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u2028", "\u0085", "a", "The", " patient", "'s", "'LL", "'", ",", ".",
    ";", ":", "12", "3.5", "-", "é", "e\u0301", "\u0301", "ß", "日本", "👩‍⚕️", "<|eot|>", "</s>", "<s>", "x<|eot|>",
    "\u0000", "…", "(",
]  # fmt: skip
texts = st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | st.text(max_size=20)


def both(tokenizer: Any, prompt: str, chosen: str, rejected: str, special: bool) -> tuple[Any, Any]:
    three = [(prompt, prompt + chosen, prompt + rejected)]
    words, whole = Encoder(tokenizer, cut=True), Encoder(tokenizer, cut=False)
    return list(words.ids(three, special=special)), list(whole.ids(three, special=special))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=400, deadline=None)
@given(prompt=texts, chosen=texts, rejected=texts, special=st.booleans())
def test_ids_are_those_of_the_whole_text(kind: str, prompt: str, chosen: str, rejected: str, special: bool) -> None:
    words, whole = both(KINDS[kind], prompt, chosen, rejected, special)
    assert words == whole


@pytest.mark.parametrize("kind", KINDS)
def test_every_neighbourhood_of_three_pieces(kind: str) -> None:
    """Three pieces are more than any of the patterns looks at on either side of a cut."""
    three = [("".join(parts), "".join(parts) + " b", "".join(parts) + "\n") for parts in product(PIECES, repeat=3)]
    tokenizer = KINDS[kind]
    words = Encoder(tokenizer, cut=True).ids(three, special=True)
    assert list(words) == list(Encoder(tokenizer, cut=False).ids(three, special=True))


def test_which_tokenizers_are_cut() -> None:
    assert all(map(cuts_at_gaps, KINDS.values()))
    assert {LLAMA_3, QWEN_2} == SPLITS_AT_GAPS
    metaspace = make(None)
    metaspace.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    ends = make(None)
    ends.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    others = [
        metaspace, ends, make(r"\s?\S+"), make(None, normalizers.NFKC()), make(None, added="two words"),
        make(None, added=AddedToken("<x>", rstrip=True)),
    ]  # fmt: skip
    assert not any(map(cuts_at_gaps, others))


def test_words_beyond_those_that_are_kept_are_right_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.encoding.WORDS_KEPT", 4)
    encoder, whole = Encoder(KINDS["llama-3"]), Encoder(KINDS["llama-3"], cut=False)
    for at in range(3):
        three = [(SAMPLE, f"{SAMPLE} {at} yes", f"{SAMPLE} no {at}")]
        assert list(encoder.ids(three, special=True)) == list(whole.ids(three, special=True))
    assert len(encoder._known) <= 4
