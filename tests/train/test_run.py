# pyright: basic
"""One run: its results, its settings that cannot be, its errors, its memory."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, get_peft_model_state_dict
from safetensors.torch import load_file

from tests.train.runs import end_of, lines, start, trainer_for
from train import checkpoint
from train.__main__ import QUIET, main
from train.check import DataCheck, check
from train.config import End, RunConfig
from train.course import Course
from train.errors import InputError, TrainError
from train.metrics import TrainLine, ValLine
from train.model import load_base


def test_a_run_leaves_what_the_contract_says(run_document):
    document = run_document()
    assert start(document) == 0
    out = Path(document["output_dir"])
    train = [TrainLine.model_validate(line) for line in lines(document, "train")]
    val = [ValLine.model_validate(line) for line in lines(document, "val")]
    assert [line.step for line in train] == list(range(1, 17))
    assert train[0].loss == pytest.approx(math.log(2), abs=1e-6)
    assert val[-1].step == 16
    best = json.loads((out / "best.json").read_text())
    assert best["score"] == max(line.score for line in val)
    assert [line.step for line in val if line.best][-1] == best["step"] == end_of(document)["best_step"]
    for name in ("adapter", "adapter_last"):
        config = json.loads((out / name / "adapter_config.json").read_text())
        assert (config["base_model_name_or_path"], config["revision"]) == (document["model"]["base"], None)
        stage_a = load_file(Path(document["model"]["adapter"]) / "adapter_model.safetensors")
        assert load_file(out / name / "adapter_model.safetensors").keys() == stage_a.keys()
    assert End.model_validate(end_of(document)).reason == "finished"
    data = DataCheck.model_validate_json((out / "data.json").read_bytes(), strict=True)
    assert json.loads((out / "data.json").read_text())["schema"] == "datacheck/1"
    assert (data.train.usable, data.val and data.val.usable) == (16, 4)
    assert data == check(RunConfig.model_validate(document))


def test_a_run_that_displaces_the_policy_says_so_once_and_goes_on(run_document, capfd):
    # apo_down is made for chosen that are worse than the model's own: it lowers both, and rejected more.
    document = run_document(epochs=10, learning_rate=2e-2, lr_scheduler="constant", loss_type=["apo_down"])
    assert start(document) == 0
    (notice,) = lines(document, "notice")
    assert notice["code"] == "displaced"
    chosen = [line["rewards_chosen"] for line in lines(document, "train")]
    assert chosen[notice["step"] - 1] < 0
    assert f"step {notice['step']}: the likelihood of chosen falls" in capfd.readouterr().err
    assert lines(document, "train")[-1]["step"] == 80


def test_results_name_the_base_as_the_user_did_and_peft_loads_them_from_the_project(
    run_document, models_folder, tmp_path, monkeypatch
):
    project = tmp_path / "project"
    shutil.copytree(models_folder / "llama", project / "models" / "base")
    document = run_document(max_steps=1) | {"output_dir": str(project / "runs" / "dpo-1")}
    document["model"] |= {"base": str(project / "models" / "base"), "named": "models/base"}
    assert start(document) == 0
    folders = [project / "runs" / "dpo-1" / name for name in ("adapter", "adapter_last", "checkpoints/checkpoint-1")]
    for folder in folders:
        text = (folder / "adapter_config.json").read_text()
        assert json.loads(text)["base_model_name_or_path"] == "models/base"
        assert str(tmp_path) not in text
    monkeypatch.chdir(project)
    model = AutoPeftModelForCausalLM.from_pretrained("runs/dpo-1/adapter_last")
    trained = load_file(folders[1] / "adapter_model.safetensors")
    loaded = get_peft_model_state_dict(model, save_embedding_layers=False)
    assert loaded.keys() == trained.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in trained.items())


def test_the_command_line_limits_steps_and_seconds(run_document, tmp_path, capsys):
    document = run_document()
    file = tmp_path / "run.json"
    file.write_text(json.dumps(document))
    assert main(["dpo", "--config", str(file), "--max-steps", "3"]) == 0
    assert (end_of(document)["reason"], end_of(document)["step"]) == ("max_steps", 3)
    document["output_dir"] = str(tmp_path / "short")
    file.write_text(json.dumps(document))
    assert main(["dpo", "--config", str(file), "--max-seconds", "0.001"]) == 0
    assert end_of(document)["reason"] == "deadline"
    assert main(["dpo", "--config", str(file), "--max-seconds", "nan"]) == 2
    assert "--max-seconds must be above 0" in capsys.readouterr().err


def test_the_best_adapter_is_the_one_of_the_best_step(run_document, monkeypatch):
    """Scores are made up: step 2 is the best of all."""
    monkeypatch.setattr("train.step.score", lambda rewards: next(scores))
    scores = iter([-3.0, -1.0, -2.0, -2.5])
    seen = {}
    keep = Course.keep_best

    def keeping(self, step, value):
        seen[step] = {name: tensor.clone() for name, tensor in self.trainer.adapter_tensors().items()}
        keep(self, step, value)

    monkeypatch.setattr(Course, "keep_best", keeping)
    document = run_document(max_steps=4)
    start(document)
    kept = load_file(Path(document["output_dir"]) / "adapter" / "adapter_model.safetensors")
    assert list(seen) == [1, 2]
    assert all(torch.equal(kept[name], tensor) for name, tensor in seen[2].items())


def test_without_validation_the_best_is_the_last(run_document):
    document = run_document(max_steps=3)
    document["data"]["val"] = None
    start(document)
    out = Path(document["output_dir"])
    names = ("adapter", "adapter_last")
    assert len({(out / name / "adapter_model.safetensors").read_bytes() for name in names}) == 1
    assert json.loads((out / "best.json").read_text())["score"] is None
    assert lines(document, "val") == []


@pytest.mark.parametrize("adapter", [True, False])
def test_one_copy_of_the_base_is_in_memory(run_document, adapter):
    config = RunConfig.model_validate(run_document(adapter=adapter))
    trainer, stage_a, _ = trainer_for(config)
    base = sum(p.numel() for p in load_base(stage_a.base, "fp32", None, "cpu").parameters())
    lora = sum(tensor.numel() for tensor in trainer.adapter_tensors().values())
    copies = 2 if adapter else 1  # of the adapter: the policy's, and Stage A's
    assert sum(p.numel() for p in trainer.model.parameters()) == base + copies * lora
    assert trainer.ref_model is None


def test_a_deadline_that_is_over_trains_nothing_and_says_so(run_document):
    document = run_document() | {"max_seconds": 0.001}
    assert start(document) == 0
    assert (end_of(document)["reason"], end_of(document)["step"]) == ("deadline", 0)


@pytest.mark.parametrize(
    ("training", "says"),
    [
        ({"loss_type": ["sigmoidd"]}, "no loss 'sigmoidd'.*\n.*sigmoid"),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]}, "1 loss_weights for 2 losses"),
        ({"batch_size": 4, "micro_batch_size": 3}, "not divisible"),
        ({"loss_type": ["exo_pair"]}, "label_smoothing"),
    ],
)
def test_settings_that_cannot_be_are_found_before_the_model_is_loaded(run_document, monkeypatch, training, says):
    monkeypatch.setattr("train.model.load_stage_a", None)
    document = run_document(**training)
    with pytest.raises(InputError, match=says):
        start(document)
    assert end_of(document)["reason"] == "error"


def test_lora_on_the_head_and_fp16_on_a_cpu_are_refused(run_document):
    with pytest.raises(InputError, match="lm_head"):
        start(run_document(adapter=False, lora_target=["q_proj", "lm_head"]))
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        start(run_document(execution={"precision": "fp16"}))


@pytest.mark.parametrize("bare", [False, True])
def test_a_disk_that_fills_fails_the_run_and_keeps_the_last_checkpoint(run_document, monkeypatch, bare):
    """`bare`: tokenizers raises a plain Exception for it."""
    write = checkpoint.write

    def filling(parent, step, *parts):
        if step == 4:
            raise Exception("No space left on device (os error 28)") if bare else OSError(28, "No space left on device")
        return write(parent, step, *parts)

    monkeypatch.setattr(checkpoint, "write", filling)
    document = run_document(save_every=2)
    with pytest.raises(TrainError, match="The disk is full") as failed:
        start(document)
    assert failed.value.exit_code == 1
    newest = checkpoint.newest_whole(Path(document["output_dir"]) / "checkpoints")
    assert newest is not None
    assert newest.name == "checkpoint-2"
    assert (end_of(document)["reason"], end_of(document)["step"]) == ("error", 4)


def test_the_command_line_names_a_wrong_key_and_exits_2(run_document, tmp_path, capsys, monkeypatch):
    for name in QUIET:
        monkeypatch.setenv(name, "")
    config = tmp_path / "run.json"
    config.write_text(json.dumps(run_document(beta=-1)))
    assert main(["dpo", "--config", str(config)]) == 2
    assert "training.beta" in capsys.readouterr().err
    assert main(["dpo", "--config", str(tmp_path / "none.json")]) == 2
