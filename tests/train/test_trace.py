"""The traced peak against PyTorch's own profiler over a real step, and its straight line over layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.bench.trace_accuracy import MODELS, RECIPES, row
from train.errors import InputError
from train.estimate_traces import trace_model
from train.trace import Recipe, Shape, trace_step

SMALL = Shape(1, 256)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_peak_is_within_5_percent_of_the_allocators(model: str, recipe: str) -> None:
    assert 0.95 <= row(model, recipe, Shape(2, 384))["ratio"] <= 1.05


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
