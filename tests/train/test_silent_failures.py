# pyright: basic
"""The eight ways in which TRL's DPOTrainer goes wrong without a word, most of which pass a check of the loss."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.train.runs import interrupted, lines, start, trained, trainer_for
from train import checkpoint
from train.config import ModelRef, RunConfig
from train.errors import GateError, InputError, TrainError
from train.gate import check_one_adapter_deep, pass_gate
from train.model import load_base, load_stage_a, probe_logits
from train.reference import ReferenceCache

IDS = torch.arange(4, 12).unsqueeze(0)


def test_1_after_a_resume_the_reference_is_stage_a_and_not_the_checkpoint(run_document, monkeypatch):
    """TRL makes `ref` of what it is given: built on the checkpoint's adapter, the loss restarts at ln 2."""
    document = run_document()
    interrupted(document, monkeypatch, at_step=6)
    seen = {}

    def look(trainer, *_):
        seen["ref"] = trainer.adapter_tensors("ref")
        seen["default"] = trainer.adapter_tensors("default")

    trained(document, monkeypatch, at_end=look)
    stage_a = load_file(Path(document["model"]["adapter"]) / "adapter_model.safetensors")
    assert all(torch.equal(seen["ref"][name], tensor) for name, tensor in stage_a.items())
    assert not all(torch.equal(seen["default"][name], tensor) for name, tensor in stage_a.items())
    resumed = next(line for line in lines(document, "train") if line["step"] == 7)
    assert abs(resumed["loss"] - math.log(2)) > 1e-4


def test_2_an_adapter_folder_is_put_over_its_base_and_never_replaced_by_a_new_one(run_document):
    """AutoModel on an adapter's folder gives a model with LoRA injected, on which a new LoRA overwrites Stage A."""
    config = RunConfig.model_validate(run_document())
    stage_a = load_stage_a(config.model, config.execution, config.training)
    assert stage_a.new_lora is None
    bare = load_base(stage_a.base, "fp32", None, "cpu")
    assert not any("lora" in name for name, _ in bare.named_modules())
    assert not torch.allclose(probe_logits(stage_a.model, IDS), probe_logits(bare, IDS), atol=1e-3)


def test_2_an_adapter_on_an_adapter_does_not_pass_the_gate(run_document, tmp_path):
    config = RunConfig.model_validate(run_document())
    trainer, _, _ = trainer_for(config)
    layer = trainer.model.base_model.model.model.layers[0].self_attn
    layer.q_proj.base_layer = layer.v_proj
    with pytest.raises(GateError, match="one_adapter_deep"):
        check_one_adapter_deep(trainer)


def test_3_left_over_adapter_files_beside_merged_weights_are_not_applied_again(run_document, models_folder, tmp_path):
    """transformers applies an adapter that it finds in a model's folder, without being asked: Stage A twice."""
    both = tmp_path / "both in one"
    shutil.copytree(models_folder / "llama", both)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(models_folder / "llama-adapter" / name, both)
    config = RunConfig.model_validate(run_document())
    plain = probe_logits(load_base(models_folder / "llama", "fp32", None, "cpu"), IDS)
    once = load_stage_a(config.model, config.execution, config.training).model.eval()

    as_full_model = load_stage_a(ModelRef(base=str(both)), config.execution, config.training)
    assert torch.equal(probe_logits(as_full_model.model, IDS), plain)

    as_base_and_adapter = load_stage_a(ModelRef(base=str(both), adapter=str(both)), config.execution, config.training)
    assert torch.equal(probe_logits(as_base_and_adapter.model.eval(), IDS), probe_logits(once, IDS))


def test_4_a_quantized_models_adapter_is_stage_a_in_fp32_and_all_of_it_moves(run_document):
    """TRL casts it to bf16, in which AdamW leaves 97% of the weights unmoved at this learning rate."""
    document = run_document(execution={"quantization": "nf4"}, learning_rate=1e-5, max_steps=3, lr_scheduler="constant")
    config = RunConfig.model_validate(document)
    trainer, stage_a, rows = trainer_for(config)
    before = trainer.adapter_tensors()
    stored = load_file(stage_a.adapter / "adapter_model.safetensors")
    assert all(
        torch.equal(before[name], tensor) and before[name].dtype == torch.float32 for name, tensor in stored.items()
    )
    pass_gate(trainer, stage_a, rows[:1])
    assert start(document) == 0
    after = load_file(config.output_dir / "adapter_last" / "adapter_model.safetensors")
    moved = [(after[name] != before[name]).float().mean() for name in before]
    assert min(moved) > 0.95


def test_5_nf4_on_a_cpu_still_has_gradients_after_a_validation_pass(run_document):
    """One forward in eval mode repacks the weights; grad norm 0 from then on."""
    document = run_document(execution={"quantization": "nf4"}, max_steps=4, eval_every=1)
    assert start(document) == 0
    assert len(lines(document, "val")) == 4
    assert min(line["grad_norm"] for line in lines(document, "train")) > 1e-3


def test_6_a_reference_made_at_one_max_length_is_not_used_at_another(run_document):
    """TRL's key leaves the cut out. Here the key is the ids as cut."""
    long, short = run_document(max_steps=8), run_document(max_steps=8, max_length=8)
    short["output_dir"] += "-short"
    start(long)
    start(short)
    of_long, of_short = lines(long, "train"), lines(short, "train")
    assert sum(line["tokens"] for line in of_short) < sum(line["tokens"] for line in of_long)
    # A reference of the whole text would put rewards of several nats x beta on the cut one.
    assert max(abs(line["rewards_chosen"]) for line in of_short) < 0.2
    assert len(list(Path(short["reference_cache"]).iterdir())) == 1


def test_7_pairs_that_are_equal_after_the_cut_never_reach_the_optimizer(run_document):
    """Their gradient is 3e-8 of noise, which Adam normalises to full steps."""
    document = run_document(epochs=1, batch_size=1, max_length=10)
    same = {"prompt": "w1 w2 w3 w4 w5 ", "chosen": "w6 w7 w8 w9 w10 w11", "rejected": "w6 w7 w8 w9 w10 w12"}
    different = {"prompt": "w1 w2 ", "chosen": "w6 w7", "rejected": "w8"}
    Path(document["data"]["train"]).write_text("".join(json.dumps(line) + "\n" for line in (same, different, same)))
    assert start(document) == 0
    assert [line["step"] for line in lines(document, "train")] == [1]
    assert lines(document, "train")[0]["grad_norm"] > 1e-3


@pytest.mark.parametrize("name", ["optimizer.safetensors", "optimizer.json", "random.safetensors", "progress.json"])
def test_8_a_checkpoint_without_one_of_its_parts_is_not_resumed_from(run_document, monkeypatch, name):
    """transformers skips a missing optimizer or scheduler, and goes on with a new one."""
    document = run_document()
    interrupted(document, monkeypatch, at_step=3)
    parent = Path(document["output_dir"]) / "checkpoints"
    newest = checkpoint.newest_whole(parent)
    assert newest is not None
    (newest / name).unlink()
    assert checkpoint.newest_whole(parent) != newest
    with pytest.raises(TrainError, match="has no"):
        checkpoint.read_document(newest, name) if name.endswith("json") else checkpoint.read_tensors(newest, name)


def test_8_a_changed_learning_rate_is_refused_on_a_resume(run_document, monkeypatch):
    """The checkpoint's `initial_lr` would win in silence."""
    document = run_document()
    interrupted(document, monkeypatch, at_step=3)
    document["training"]["learning_rate"] = 5e-4
    with pytest.raises(InputError, match="of another run") as refused:
        start(document)
    assert "training.learning_rate was 0.001, is 0.0005" in str(refused.value)


def test_the_cache_of_references_is_per_model(run_document, models_folder):
    config = RunConfig.model_validate(run_document())
    keys = {
        load_stage_a(model, config.execution, config.training).key
        for model in (config.model, ModelRef(base=config.model.base), ModelRef(base=str(models_folder / "mistral")))
    }
    assert len(keys) == 3
    assert ReferenceCache(config.reference_cache, keys.pop()).path.suffix == ".logps"
