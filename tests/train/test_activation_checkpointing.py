# pyright: basic
"""Gradient checkpointing where it is asked for: non-reentrant, at work with PEFT, and equal to a run without."""

from __future__ import annotations

import pytest
from transformers.modeling_layers import GradientCheckpointingLayer

from tests.train.runs import lines, trained

FORMS = [(True, {}), (False, {}), (True, {"quantization": "nf4"}), (True, {"precision": "bf16"})]


@pytest.mark.parametrize(("adapter", "execution"), FORMS)
def test_every_layer_is_computed_again_without_reentry_and_the_losses_are_equal(
    run_document, monkeypatch, adapter, execution
):
    plain = run_document(adapter=adapter, execution=execution, max_steps=4)
    saving = run_document(adapter=adapter, execution=execution | {"gradient_checkpointing": True}, max_steps=4)
    for name in ("output_dir", "reference_cache"):
        saving[name] += "-saving"
    seen = {}

    def look(trainer):
        seen["arguments"] = (trainer.args.activation_checkpointing, trainer.args.activation_checkpointing_kwargs)
        layers = [module for module in trainer.model.modules() if isinstance(module, GradientCheckpointingLayer)]
        seen["layers"] = [
            layer.gradient_checkpointing and layer._gradient_checkpointing_func.keywords for layer in layers
        ]
        seen["again"] = computed_in_backward(trainer, layers)

    trained(saving, monkeypatch, at_end=look)
    assert seen["arguments"] == (True, {"use_reentrant": False})
    assert seen["layers"] == [{"use_reentrant": False}] * 2
    assert seen["again"] == [1, 1]

    trained(plain, monkeypatch, at_end=look)
    assert seen["layers"] == [False, False]
    assert seen["again"] == [0, 0]

    for name in ("loss", "margin", "grad_norm"):
        ours, theirs = ([line[name] for line in lines(each, "train")] for each in (saving, plain))
        assert ours == theirs, name
    assert min(line["grad_norm"] for line in lines(saving, "train")) > 1e-3


def computed_in_backward(trainer, layers) -> list[int]:
    """How often each layer's attention is computed while gradients are."""
    counts = [0] * len(layers)

    def counting(index):
        def count(*_):
            counts[index] += 1

        return count

    loss, _ = trainer.fresh_loss(list(trainer.train_dataset)[:1])
    hooks = [layer.self_attn.register_forward_hook(counting(index)) for index, layer in enumerate(layers)]
    loss.backward()
    for hook in hooks:
        hook.remove()
    trainer.model.zero_grad()
    return counts
