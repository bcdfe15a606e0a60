"""The traced peak against PyTorch's own profiler over a real step, and its straight line over layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import MistralConfig

from tests.bench.trace_accuracy import MODELS, RECIPES, SIZES, real, row
from train.config import Method
from train.errors import InputError
from train.estimate_traces import trace_model
from train.shared_prompt import SharedPrompt
from train.trace import Recipe, Shape, row_of, trace_step

SMALL = Shape(1, 256)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_peak_is_within_5_percent_of_the_allocators(model: str, recipe: str) -> None:
    assert 0.95 <= row(model, recipe, Shape(2, 384, 256))["ratio"] <= 1.05


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("method", ["orpo", "kto", "sft"])
def test_so_is_every_methods_and_its_flops_are_those_of_what_it_reads(method: Method) -> None:
    assert 0.95 <= row("Llama", "r=16 on q, v", Shape(3, 384, 256, method))["ratio"] <= 1.05
    config, recipe = MODELS["Llama"], Recipe(torch.float32)
    dpo, traced = (trace_step(config, recipe, Shape(1, 257, 129, each)) for each in ("dpo", method))
    total, of_dpo = traced.flop + traced.forward_flop, dpo.flop + dpo.forward_flop
    # A pair has 384 places here and an example 256, of which the last layer reads 128. KTO has two forwards more.
    low, high = {"orpo": (0.6, 0.85), "kto": (0.85, 1.15), "sft": (0.4, 0.55)}[method]
    assert low < total / of_dpo < high
    assert bool(traced.forward_flop) is (method == "kto")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_dropout_that_sft_trains_with_takes_memory() -> None:
    plain, dropping = (
        trace_step(MODELS["Llama"], Recipe(torch.bfloat16, lora_dropout=rate), Shape(1, 384, 256, "sft"))
        for rate in (0.0, 0.05)
    )
    assert dropping.peak_bytes > plain.peak_bytes
    assert dropping.flop == plain.flop


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_prompts_share_is_neither_kept_nor_computed_twice() -> None:
    """Of 257 tokens 193 are the prompt's: 320 places, and 512 where the completions fill all but one token."""
    shared, apart = (trace_step(MODELS["Llama"], Recipe(torch.float32), Shape(1, 257, prompt)) for prompt in (193, 1))
    padded = trace_step(MODELS["Llama"], Recipe(torch.float32, share_prompts=False), Shape(1, 257, 193))
    linear = [trace.flop - trace.attention_flop for trace in (shared, apart)]
    assert 0.5 < linear[0] / linear[1] < 320 / 512
    assert shared.peak_bytes - shared.resident_bytes < 0.7 * (apart.peak_bytes - apart.resident_bytes)
    assert shared.flop < apart.flop < padded.flop * 1.05


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_flops_of_a_reference_pass_are_those_that_torch_counts_in_one() -> None:
    """Attention's apart, of which there are 2 products of the 9 that a step and a reference pass have."""
    config, recipe, shape = MODELS["Qwen2"], Recipe(torch.float32), Shape(1, 129, 65)
    traced = trace_step(config, recipe, shape)
    model, batch = real(config, recipe, shape)
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        SharedPrompt(model, row_of(shape))(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels
        )
    products = (torch.ops.aten.mm, torch.ops.aten.addmm)
    counted = sum(flop for kind, flop in counter.get_flop_counts()["Global"].items() if kind in products)
    assert traced.forward_flop - traced.attention_flop * 2 / 9 == counted


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_model_whose_attention_has_a_window_is_traced_as_trl_trains_it() -> None:
    shape = Shape(1, 128, 96)
    narrow = MistralConfig(**SIZES, sliding_window=64)
    wide = MistralConfig(**SIZES, sliding_window=128)
    plain = Recipe(torch.float32, share_prompts=False)
    assert trace_step(narrow, Recipe(torch.float32), shape) == trace_step(narrow, plain, shape)
    assert trace_step(wide, Recipe(torch.float32), shape).flop < trace_step(wide, plain, shape).flop


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(torch.bfloat16),
        Recipe(torch.bfloat16, gradient_checkpointing=True),
        Recipe(torch.bfloat16, gradient_checkpointing=True, quantization="nf4"),
        Recipe(torch.bfloat16, quantization="int8"),
    ],
)
def test_two_and_three_layers_say_what_all_of_them_need(recipe: Recipe) -> None:
    config = MODELS["Llama"]
    full, line = trace_step(config, recipe, SMALL), trace_model(config, recipe, SMALL)
    assert line == full


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_case_has_its_parameters_whatever_it_is_called_and_4_bits_take_a_quarter(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=False,
    )  # fmt: skip
    whole = trace_model(config, Recipe(torch.bfloat16, gradient_checkpointing=True), SMALL)
    packed = trace_model(config, Recipe(torch.bfloat16, gradient_checkpointing=True, quantization="nf4"), SMALL)
    for found in (whole, packed):
        assert (found.base_parameters, found.trainable_parameters) == (8_030_261_248, 6_815_744)
        assert found.base_parameters + found.trainable_parameters == 8_037_076_992
    assert whole.resident_bytes > 2.5 * packed.resident_bytes
    assert whole.forward_flop * 2 < whole.flop < whole.forward_flop * 4


def test_a_target_that_matches_nothing_is_named_with_what_there_is() -> None:
    with pytest.raises(InputError, match="No module of the model is called no_proj") as caught:
        trace_step(MODELS["Llama"], Recipe(torch.bfloat16, lora_target=("no_proj",)), SMALL)
    assert "q_proj" in str(caught.value)
