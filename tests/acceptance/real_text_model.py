# pyright: basic
"""A small Llama of random weights, with a byte-level BPE tokenizer trained on a text file. Run by the trainer's Python.

python real_text_model.py TEXT FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 2000


def main(text: Path, folder: Path) -> None:
    bpe = ByteLevelBPETokenizer()
    bpe.train([str(text)], vocab_size=VOCABULARY, special_tokens=["<s>", "</s>", "<pad>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=True,
            bos_token_id=0, eos_token_id=1, pad_token_id=2,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
