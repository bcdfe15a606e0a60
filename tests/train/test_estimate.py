# pyright: basic
"""The calculator in its own process: models of every form, lengths of real pairs, and what it refuses."""

from __future__ import annotations

import json
import os
import resource
import signal
import statistics
import subprocess
import sys
from itertools import product
from pathlib import Path

import psutil
import pytest

import train
from tests.train.conftest import write_pairs
from tests.train.hub_server import Hub, Repository, files_of, serving
from train.config import ModelRef, Training
from train.errors import InputError
from train.estimate import Lengths, estimate
from train.estimate_config import EstimateConfig
from train.estimate_document import Estimate
from train.tokens import CutPair
from train.trace import Shape

OFFLINE = {"HF_HUB_OFFLINE": "1"}
LLAMA_3_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "tie_word_embeddings": False, "torch_dtype": "float16",
}  # fmt: skip


def command(folder: Path, document: dict) -> list[str]:
    config = folder / "estimate.json"
    config.write_text(json.dumps(document))
    return [sys.executable, "-m", "train", "estimate", "--config", str(config)]


def environ(**more: str) -> dict[str, str]:
    own = {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(Path(train.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    return {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"} | own | more


def estimated(folder: Path, document: dict, **more: str) -> Estimate:
    done = subprocess.run(
        command(folder, document), env=environ(**(more or OFFLINE)), capture_output=True, text=True, timeout=180,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Estimate.model_validate_json(done.stdout)


def test_the_case_from_its_config_json_alone(tmp_path: Path) -> None:
    file = tmp_path / "Mistral-7B" / "config.json"
    file.parent.mkdir()
    file.write_text(json.dumps(LLAMA_3_8B))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = estimated(tmp_path, {"model": {"base": str(file)}})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # All options at all lengths in 20 s on 2 cores; the time of a clock would measure what else runs here.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= 2 * 20
    assert (found.parameters, found.trainable_parameters) == (8_037_076_992, 6_815_744)
    assert found.workload is None
    assert found.longest == 1024
    names = [option.name for option in found.options]
    assert names == [
        "16bit-lora", "16bit-lora-ckpt", "int8-lora-ckpt", "nf4-qlora", "nf4-qlora-ckpt",
        "cpu-bf16", "cpu-fp32", "cpu-nf4-ckpt",
    ]  # fmt: skip
    assert any("called Mistral-7B, and has 8.03 billion parameters, not 7" in note for note in found.notes)
    needs = {need.option: need.min_vram_gib for need in found.needs if need.max_length == 512}
    assert needs["nf4-qlora-ckpt"] < 12 < needs["16bit-lora-ckpt"] < 24
    weights_gib = 2 * found.model.parameters / 2**30 if found.model.parameters else 0
    twice = needs["two models"] - needs["16bit-lora"]
    assert twice == pytest.approx(1.05 * weights_gib, abs=0.02)
    assert not {each.name for each in found.comparison} & set(names)


def test_a_model_is_what_its_files_say_and_not_what_it_is_called(tmp_path: Path, models_folder: Path) -> None:
    model = tmp_path / "Tiny-7B"
    model.symlink_to(models_folder / "llama", target_is_directory=True)
    found = estimated(tmp_path, {"model": {"base": str(model)}, "lengths": [64]})
    assert any("called Tiny-7B, and has 0.00 billion parameters, not 7" in note for note in found.notes)
    assert found.model.bytes_on_disk == (models_folder / "llama" / "model.safetensors").stat().st_size


def test_stage_a_s_own_adapter_is_what_is_trained_and_there_twice(tmp_path: Path, models_folder: Path) -> None:
    base, adapter = str(models_folder / "llama"), models_folder / "llama-adapter"
    own = json.loads((adapter / "adapter_config.json").read_text())
    document = {"model": {"base": base, "adapter": str(adapter)}, "lengths": [64], "training": {"max_length": 64}}
    found = estimated(tmp_path, document)
    assert found.model.adapter is not None
    assert (found.lora_r, set(found.lora_target)) == (own["r"], set(own["target_modules"]))
    assert found.model.adapter.trainable_parameters == found.trainable_parameters
    assert not found.notes
    new = document | {
        "model": {"base": base},
        "training": {"max_length": 64, "lora_r": own["r"], "lora_target": sorted(own["target_modules"])},
    }
    fresh = estimated(tmp_path, new)
    assert fresh.trainable_parameters == found.trainable_parameters
    from transformers import AutoModelForCausalLM

    numbers = sum(each.numel() for each in AutoModelForCausalLM.from_pretrained(base).parameters())
    assert found.model.parameters == fresh.model.parameters == numbers
    copies = [one.options[0].basis["traced_bytes"] for one in (found, fresh)]
    assert copies[0] - copies[1] == 4 * found.trainable_parameters


def test_the_real_pairs_decide_memory_and_flops(tmp_path: Path, models_folder: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", 12)
    document = {
        "model": {"base": str(models_folder / "llama")},
        "data": {"train": str(pairs), "val": str(pairs)},
        "training": {"batch_size": 4, "max_length": 4096, "epochs": 2, "lora_r": 3, "lora_target": ["k_proj"]},
        "lengths": [64],
    }
    found = estimated(tmp_path, document)
    assert found.data is not None
    assert found.longest == found.data.train.tokens.pair.max < 64
    workload = found.workload
    assert workload is not None
    assert (workload.data.train_examples, workload.training.steps) == (12, 6)
    assert (workload.training.lora_r, workload.training.lora_target) == (3, ("k_proj",))
    by_name = {option.name: option for option in found.options}
    assert {name for name, option in by_name.items() if option.gpus > 1} == {
        f"{name}-x{gpus}" for name, gpus in product(("16bit-lora", "16bit-lora-ckpt", "nf4-qlora-ckpt"), (2, 4))
    }  # 4 pairs are not divided by 8
    # Fewer pairs a device are padded less, and a device holds fewer of them; all of them together are as much work.
    one, four = by_name["16bit-lora"], by_name["16bit-lora-x4"]
    assert four.basis["traced_bytes"] < one.basis["traced_bytes"]
    assert one.flop_per_step is not None
    assert four.flop_per_step is not None
    assert 0.5 * one.flop_per_step < four.flop_per_step <= one.flop_per_step
    requirement = found.requirement()
    assert requirement is not None
    assert requirement.options == found.options


def test_the_mean_longest_of_a_padded_batch_is_that_of_all_batches() -> None:
    sizes = [3, 5, 5, 11]
    batches = [max(batch) for batch in product(sizes, repeat=2)]
    found = Lengths.padded([CutPair(1, size - 1, 1) for size in sizes], 2, "dpo")
    assert (found.longest, found.traced) == (11, Shape(2, 11))
    assert found.mean == pytest.approx(statistics.fmean(batches))
    assert found.linear == pytest.approx(statistics.fmean(batches) / 11)
    assert found.square == pytest.approx(statistics.fmean(size**2 for size in batches) / 121)


def test_where_prompts_are_shared_the_pair_with_the_most_tokens_is_traced_and_not_the_longest() -> None:
    longest, fullest = CutPair(20, 30, 1), CutPair(10, 38, 20)
    found = Lengths.shared([longest, fullest], 3, "dpo", 2)
    assert (found.longest, found.traced) == (50, Shape(3, 39, 10))
    assert found.mean == (51 + 68) / 2
    assert found.linear == found.mean / 68
    assert 0.5 < found.square < 1
    assert Lengths.shared([fullest], 1, "dpo", 2).square == 1


def test_a_model_on_the_hub_is_estimated_without_its_weights(tmp_path: Path, models_folder: Path) -> None:
    hub = Hub({"tests/a-model": Repository({"main": files_of(models_folder / "llama")})})
    with serving(hub):
        found = estimated(
            tmp_path, {"model": {"base": "tests/a-model"}, "lengths": [64]},
            HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "hub-home"),
        )  # fmt: skip
    assert found.model.base.hub_id == "tests/a-model"
    assert any("The weights are on the hub" in note for note in found.notes)
    assert not [path for method, path, _ in hub.requests if method == "GET" and path.endswith(".safetensors")]


def test_weights_that_lie_there_in_4_bits_are_trained_in_4_bits(tmp_path: Path, models_folder: Path) -> None:
    values = json.loads((models_folder / "llama" / "config.json").read_text())
    file = tmp_path / "config.json"
    file.write_text(json.dumps(values | {"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}))
    found = estimated(tmp_path, {"model": {"base": str(file)}, "lengths": [64]})
    assert {option.trainer.quantization for option in found.options} == {"nf4"}
    file.write_text(json.dumps(values | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(InputError, match=r"quantized in a way that is not trained on \(gptq\)"):
        estimate(EstimateConfig(model=ModelRef(base=str(file))))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "holds no JSON object"),
        ("{}", "it names no model_type"),
        ('{"model_type": "no-such"}', "the architecture 'no-such' is not known to transformers"),
    ],
)
def test_a_config_that_is_none_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        estimate(EstimateConfig(model=ModelRef(base=str(file))))
    assert says in str(caught.value)
    assert str(file) in str(caught.value)


def test_modules_that_are_not_there_are_said_with_those_that_are(models_folder: Path) -> None:
    lora = Training(lora_target=("no_proj",))
    with pytest.raises(InputError, match="No module of the model is called no_proj") as caught:
        estimate(EstimateConfig(model=ModelRef(base=str(models_folder / "llama")), training=lora))
    assert "q_proj" in str(caught.value)


def test_no_process_outlives_one_that_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA_3_8B))
    document = {"model": {"base": str(file)}, "lengths": list(range(600, 1200, 10))}
    with subprocess.Popen(
        command(tmp_path, document),
        env=environ(**OFFLINE),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stderr is not None
        for line in child.stderr:  # until the pool is at work
            if '"done": 3' in line:
                break
        workers = psutil.Process(child.pid).children(recursive=True)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert workers
    _, left = psutil.wait_procs(workers, timeout=30)
    assert not left
