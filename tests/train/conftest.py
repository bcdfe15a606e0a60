# pyright: basic
"""Small Stage-A models in real folders, and preference pairs for them."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

WORDS = [f"w{i}" for i in range(60)]
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
}


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "ignore::DeprecationWarning:torch",
        "ignore::DeprecationWarning:bitsandbytes",
        "ignore::FutureWarning:transformers",
        "ignore::FutureWarning:trl",
        "ignore::FutureWarning:peft",
        "ignore:.*gradient_checkpointing.*:FutureWarning",
        "ignore:.*logits and labels.*:FutureWarning",
    ):
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(autouse=True)
def _own_process_settings() -> Iterator[None]:
    """A run sets threads and signal handlers for its process; tests share one."""
    torch.set_num_threads(1)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def make_base(folder: Path, family: str = "llama", seed: int = 0, hidden: int = 32) -> Path:
    """A random 2-layer model with a word-level tokenizer, saved as people have one."""
    torch.manual_seed(seed)
    config_class, model_class = FAMILIES[family]
    config = config_class(
        vocab_size=64, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=3,
        tie_word_embeddings=False, initializer_range=0.2,
    )  # fmt: skip
    model_class(config).save_pretrained(folder)
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3} | {word: 4 + i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, seed: int = 1) -> Path:
    """A LoRA adapter over `base` whose both halves are random, so that Stage A differs from the base."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", lora_dropout=0.1),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


def write_pairs(path: Path, count: int, seed: int = 0, length: int = 6) -> Path:
    draw = random.Random(seed)

    def words(n: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(n))

    with path.open("w") as file:
        for _ in range(count):
            n = draw.randint(2, length)
            line = {"prompt": words(n) + " ", "chosen": words(n), "rejected": words(n)}
            file.write(json.dumps(line) + "\n")
    return path


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`llama/` and `mistral/`, with `NAME-adapter/` each. Read-only."""
    folder = tmp_path_factory.mktemp("models")
    for family in FAMILIES:
        base = make_base(folder / family, family)
        make_adapter(base, folder / f"{family}-adapter")
    return folder


@pytest.fixture(scope="session")
def every_family(models_folder: Path) -> Path:
    """`models_folder`, with a Qwen2 (whose projections have a bias) beside the others."""
    FAMILIES["qwen2"] = (Qwen2Config, Qwen2ForCausalLM)
    if not (models_folder / "qwen2").exists():
        base = make_base(models_folder / "qwen2", "qwen2")
        make_adapter(base, models_folder / "qwen2-adapter")
    return models_folder


@pytest.fixture
def run_document(models_folder: Path, tmp_path: Path) -> Callable[..., dict]:
    """A run's configuration as a document: Llama with an adapter, 16 pairs, 4 validation pairs, 2 epochs of 8 steps."""

    def make(family: str = "llama", *, adapter: bool = True, execution: dict | None = None, **training: object) -> dict:
        train = write_pairs(tmp_path / "train.jsonl", 16)
        val = write_pairs(tmp_path / "val.jsonl", 4, seed=9)
        settings = {"epochs": 2, "batch_size": 2, "max_length": 32, "learning_rate": 1e-3, "seed": 7}
        return {
            "schema": "run/1",
            "job": "test",
            "model": {
                "base": str(models_folder / family),
                "adapter": str(models_folder / f"{family}-adapter") if adapter else None,
            },
            "data": {"train": str(train), "val": str(val)},
            "training": settings | training,
            "execution": {"device": "cpu", "threads": 1} | (execution or {}),
            "output_dir": str(tmp_path / "out"),
            "reference_cache": str(tmp_path / "references"),
        }

    return make
