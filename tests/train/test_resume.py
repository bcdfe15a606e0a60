# pyright: basic
"""A run that was stopped at any moment, and resumed, ends in the same adapter, by the same losses, bit for bit."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import train
from tests.train.runs import end_of, interrupted, lines, start, trained
from train import checkpoint
from train.errors import InputError

NUMBERS = (
    "step",
    "loss",
    "margin",
    "grad_norm",
    "learning_rate",
    "logps_chosen",
    "rewards_rejected",
    "tokens",
    "epoch",
)


def numbers(document: dict, kind: str = "train") -> list[tuple]:
    return [tuple(line.get(name) for name in NUMBERS) for line in lines(document, kind)]


def adapters(document: dict) -> list[str]:
    files = [Path(document["output_dir"]) / name / "adapter_model.safetensors" for name in ("adapter", "adapter_last")]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def beside(document: dict) -> dict:
    """The same run in another folder, with a cache of references of its own."""
    return document | {name: document[name] + "-b" for name in ("output_dir", "reference_cache")}


@pytest.mark.parametrize(
    ("family", "adapter", "execution", "training"),
    [
        ("llama", True, {}, {"batch_size": 4, "micro_batch_size": 2, "epochs": 3}),
        ("mistral", False, {"gradient_checkpointing": True}, {}),
        ("llama", True, {"precision": "bf16"}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.1]}),
        ("llama", False, {"quantization": "nf4"}, {"lr_scheduler": "cosine", "warmup_steps": 2}),
    ],
)
def test_stopped_by_sigterm_twice(run_document, monkeypatch, family, adapter, execution, training):
    whole = run_document(family, adapter=adapter, execution=execution, **training)
    parts = beside(whole)
    assert start(whole) == 0
    interrupted(parts, monkeypatch, at_step=4)
    interrupted(parts, monkeypatch, at_step=9)
    assert start(parts) == 0
    assert numbers(parts) == numbers(whole)
    assert numbers(parts, "val") == numbers(whole, "val")
    assert adapters(parts) == adapters(whole)
    assert end_of(parts)["best_step"] == end_of(whole)["best_step"]


def one_folder(models: Path, folder: Path) -> dict:
    """Base and adapter lie beside each other, as trainers leave them that save both."""
    shutil.copytree(models / "llama", folder)
    shutil.copytree(models / "llama-adapter", folder, dirs_exist_ok=True)
    return {"base": str(folder), "adapter": str(folder)}


def merged(models: Path, folder: Path) -> dict:
    """The adapter is in the weights."""
    model = AutoModelForCausalLM.from_pretrained(models / "llama")
    PeftModel.from_pretrained(model, models / "llama-adapter").merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(models / "llama").save_pretrained(folder)
    return {"base": str(folder), "adapter": None}


@pytest.mark.parametrize("form", [one_folder, merged])
def test_in_its_other_forms_stage_a_is_the_reference_to_the_end_of_a_resumed_run(
    run_document, models_folder, tmp_path, monkeypatch, form
):
    model = form(models_folder, tmp_path / "stage_a")
    whole = run_document() | {"model": model}
    parts = beside(whole)
    ids = torch.arange(4, 20)[None]
    stage_a = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(models_folder / "llama"), models_folder / "llama-adapter"
    )
    with torch.no_grad():
        expected = stage_a.eval()(ids).logits
    seen = []

    def reference_is_stage_a(trainer) -> None:
        policy = trainer.model.eval()
        with torch.no_grad():
            if model["adapter"]:
                policy.set_adapter("ref")
                logits = policy(ids).logits
                policy.set_adapter("default")
            else:
                with policy.disable_adapter():
                    logits = policy(ids).logits
            seen.append(not torch.equal(policy(ids).logits, logits))
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)

    trained(whole, monkeypatch, reference_is_stage_a)
    interrupted(parts, monkeypatch, at_step=6)
    trained(parts, monkeypatch, reference_is_stage_a)
    assert seen == [True, True], "the policy is another one by then"
    assert numbers(whole)[0][1] == pytest.approx(math.log(2), abs=1e-6)
    assert numbers(parts) == numbers(whole)
    assert adapters(parts) == adapters(whole)


def test_stopped_where_a_validation_was_due_it_is_made_up_for(run_document, monkeypatch):
    whole = run_document(eval_every=4)
    parts = beside(whole)
    start(whole)
    interrupted(parts, monkeypatch, at_step=8)
    assert [line["step"] for line in lines(parts, "val")] == [4]
    start(parts)
    assert numbers(parts, "val") == numbers(whole, "val")
    assert adapters(parts) == adapters(whole)


def trainer(document: dict, folder: Path, *options: str, threads: int = 1, **popen) -> subprocess.Popen:
    """`python -m train METHOD`, as the driver starts it."""
    config = folder / "run.json"
    config.write_text(json.dumps(document))
    quiet = {"PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    environment = os.environ | quiet | {"PYTHONPATH": str(Path(train.__file__).parent.parent)}
    command = [sys.executable, "-m", "train", document.get("method", "dpo"), "--config", str(config), *options]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, **popen)


def wait_for_step(document: dict, step: int, process: subprocess.Popen, seconds: float = 90) -> None:
    """Returns when the line of `step` is in `metrics.jsonl`; the polling is bounded by a deadline."""
    path, deadline = Path(document["output_dir"]) / "metrics.jsonl", time.monotonic() + seconds
    while time.monotonic() < deadline:
        if path.exists() and f'"step":{step},' in path.read_text():
            return
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.005)
    raise AssertionError(f"no step {step} within {seconds} s")


def test_killed_twice_with_kill_9_and_resumed(run_document, tmp_path):
    """The first kill is right after a line, where a checkpoint may be under way: one is written at every step."""
    whole = run_document(epochs=10, save_every=1, eval_every=5)
    parts = beside(whole)
    assert start(whole) == 0
    for step in (7, 30):
        process = trainer(parts, tmp_path)
        wait_for_step(parts, step, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stderr.close()
        newest = checkpoint.newest_whole(Path(parts["output_dir"]) / "checkpoints")
        assert newest is not None
        assert step - 1 <= checkpoint.step_of(newest)
    assert start(parts) == 0
    assert numbers(parts) == numbers(whole)
    assert numbers(parts, "val") == numbers(whole, "val")
    assert adapters(parts) == adapters(whole)


def test_resumed_with_another_thread_count_its_losses_stay_within_1e_5(run_document, tmp_path):
    """Threads may add up in another order; of the run's identity their number is no part."""
    whole = run_document()
    whole["execution"]["threads"] = None
    parts = beside(whole)
    for document, threads, stop_after in ((whole, 1, None), (parts, 1, 5), (parts, 2, None)):
        process = trainer(document, tmp_path, threads=threads)
        if stop_after is not None:
            wait_for_step(document, stop_after, process)
            process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=90)
        assert process.returncode == 0, said.decode()
        assert end_of(document)["reason"] == ("signal" if stop_after else "finished")
    assert "resuming after step" in said.decode()
    assert [line["step"] for line in lines(parts, "train")] == list(range(1, 17))
    for name in ("loss", "margin", "rewards_chosen"):
        ours, theirs = ([line[name] for line in lines(each, "train")] for each in (parts, whole))
        assert ours == pytest.approx(theirs, abs=1e-5, rel=0), name


def test_the_end_of_its_drivers_pipe_ends_a_trainer_and_a_second_one_is_refused_meanwhile(run_document, tmp_path):
    document = run_document(epochs=10_000, save_every=1_000, eval_every=100_000)
    process = trainer(document, tmp_path, "--stop-on-eof", stdin=subprocess.PIPE)
    wait_for_step(document, 2, process)
    with pytest.raises(InputError, match="Another trainer is at work"):
        start(document)
    assert not (Path(document["output_dir"]) / "end.json").exists()
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    process.stderr.close()
    end = end_of(document)
    assert end["reason"] == "signal"
    newest = checkpoint.newest_whole(Path(document["output_dir"]) / "checkpoints")
    assert newest is not None
    assert checkpoint.step_of(newest) == end["step"] >= 2


def test_a_run_that_had_ended_is_not_trained_further(run_document):
    document = run_document(max_steps=4)
    start(document)
    before = (numbers(document), numbers(document, "val"), adapters(document))
    (Path(document["output_dir"]) / "end.json").unlink()
    start(document)
    assert (numbers(document), numbers(document, "val"), adapters(document)) == before
    assert (end_of(document)["reason"], end_of(document)["step"]) == ("max_steps", 4)


def test_a_run_whose_adapter_folder_was_lost_in_the_last_moment_gets_it_back(run_document):
    """Killed between the last checkpoint and `adapter_last/`."""
    import shutil

    document = run_document(max_steps=4)
    start(document)
    before = adapters(document)
    shutil.rmtree(Path(document["output_dir"]) / "adapter_last")
    start(document)
    assert adapters(document) == before


@pytest.mark.parametrize("change", ["data", "model", "batch_size"])
def test_another_runs_checkpoint_is_refused(run_document, monkeypatch, models_folder, change):
    document = run_document()
    interrupted(document, monkeypatch, at_step=3)
    if change == "data":
        path = Path(document["data"]["train"])
        path.write_text(path.read_text().replace("w1 ", "w2 "))
    elif change == "model":
        document["model"]["adapter"] = None
    else:
        document["training"]["batch_size"] = 4
    with pytest.raises(InputError, match="of another run"):
        start(document)
    assert len(lines(document, "train")) == 3
