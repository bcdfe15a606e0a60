# pyright: basic
"""The trainer on a GPU, at the size of the sample project: each precision passes the gate, and its losses fall."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest
import torch

from launcher.demo.project import write_project
from tests.bench.case import write_case
from tests.bench.trace_accuracy import RECIPES, row
from tests.train.runs import end_of, interrupted, lines, start
from train import checkpoint
from train.estimate import needed_gib
from train.trace import Shape

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="needs a CUDA GPU: fp16 with its gradient scaler, bf16 and NF4 kernels do not run on a CPU",
)

STEPS = 40


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_project(folder, train_pairs=8 * STEPS, val_pairs=16, test_notes=2)
    return folder


@pytest.fixture
def sample_run(project, tmp_path):
    """A run over the sample project as a document, with the demo's settings."""

    def make(**execution: object) -> dict:
        stage_a = project / "stage_a"
        return {
            "job": "test",
            "model": {"base": str(stage_a / "base"), "adapter": str(stage_a / "adapter")},
            "data": {"train": str(project / "data" / "train.jsonl"), "val": str(project / "data" / "val.jsonl")},
            "training": {"batch_size": 8, "max_length": 192, "learning_rate": 3e-4, "eval_every": STEPS // 2},
            "execution": {"device": "cuda"} | execution,
            "output_dir": str(tmp_path / "out"),
            "reference_cache": str(tmp_path / "references"),
        }

    return make


@pytest.mark.parametrize(
    "execution",
    [
        {},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"precision": "16bit", "quantization": "nf4"},
        {"precision": "16bit", "quantization": "nf4", "gradient_checkpointing": True},
    ],
    ids=lambda execution: "-".join(map(str, execution.values())) or "auto",
)
def test_the_gate_is_passed_and_losses_fall(sample_run, capsys, execution):
    if execution.get("precision") == "bf16" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no bf16: compute capability 8.0 is needed")
    document = sample_run(**execution)
    assert start(document) == 0
    assert "the gate is passed: policy and reference are Stage A" in capsys.readouterr().err
    assert end_of(document)["reason"] == "finished"
    train = lines(document, "train")
    assert [line["step"] for line in train] == list(range(1, STEPS + 1))
    assert train[0]["loss"] == pytest.approx(math.log(2), abs=1e-2)
    assert fmean(line["loss"] for line in train[-6:]) < fmean(line["loss"] for line in train[:6]) - 0.05
    assert train[-1]["margin"] > 0
    assert min(line["grad_norm"] for line in train) > 1e-3
    assert all(0 < line["memory_mib"] < 8_000 for line in train)
    best = json.loads((Path(document["output_dir"]) / "best.json").read_text())
    assert best["step"] in [line["step"] for line in lines(document, "val")] == [STEPS // 2, STEPS]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_traced_peak_is_compared_with_what_cuda_allocated(recipe: str) -> None:
    """How near it is the table says; an option's need, which has an allowance, must hold the step."""
    found = row("Llama", recipe, Shape(2, 384))
    assert 0.5 < found["cuda_ratio"] < 2
    assert needed_gib(found["traced_bytes"]) * 2**30 >= found["cuda_bytes"]


def test_an_estimate_is_made_beside_a_gpu(tmp_path: Path) -> None:
    write_case(tmp_path)
    asked = {"model": {"base": str(tmp_path / "Mistral-7B")}, "training": {"max_length": 512}}
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    done = subprocess.run(
        [sys.executable, "-m", "train", "estimate", "--config", str(tmp_path / "asked.json")],
        env=os.environ | {"PYTHONSAFEPATH": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    options = {option["name"]: option for option in json.loads(done.stdout)["options"]}
    assert options["nf4-qlora-ckpt"]["min_vram_gib"] < options["16bit-lora-ckpt"]["min_vram_gib"] < 24


def test_fp16_resumes_with_the_scale_that_it_had(sample_run, monkeypatch):
    whole = sample_run(precision="fp16")
    parts = whole | {name: whole[name] + "-b" for name in ("output_dir", "reference_cache")}
    assert start(whole) == 0
    interrupted(parts, monkeypatch, at_step=9)
    newest = checkpoint.newest_whole(Path(parts["output_dir"]) / "checkpoints")
    assert newest is not None
    assert checkpoint.read_document(newest, "scaler.json")["scale"] > 0
    assert start(parts) == 0
    ours, theirs = ([line["loss"] for line in lines(each, "train")] for each in (parts, whole))
    assert ours == pytest.approx(theirs, abs=5e-3)
