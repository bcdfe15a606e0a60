# pyright: basic
"""ORPO, KTO and SFT: TRL's tokens, losses and gradients, and runs that resume, spread and count as DPO's do."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from trl import KTOConfig, KTOTrainer, SFTConfig, SFTTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.trainer.utils import disable_dropout_in_model

from tests.train.conftest import WORDS
from tests.train.runs import end_of, interrupted, lines, start
from tests.train.test_data_parallel import finish, largest_difference, with_processes
from tests.train.test_resume import adapters, beside, numbers, trainer
from train.config import ModelRef, RunConfig
from train.errors import InputError, TrainError
from train.model import load_stage_a
from train.orpo import log_of_rest
from train.reference import ReferenceCache
from train.run import _refuse_other_run, run_identity
from train.sft import Step
from train.tokens import load_tokenizer, prepare
from train.trainer import StageBTrainer

METHODS = ("orpo", "kto", "sft")
FAMILIES = ("llama", "mistral", "qwen2")
BOS = 1
"""ORPOTrainer puts one before each text; ours are as their tokenizer gives them, which here has none."""


def texts(count: int, seed: str) -> list[dict]:
    """Pairs; what is chosen begins with another word than what is not."""
    draw = random.Random(seed)
    sizes = {"prompt": (2, 18), "chosen": (1, 7), "rejected": (1, 9)}
    words = {"prompt": WORDS, "chosen": WORDS[::2], "rejected": WORDS[1::2]}
    return [
        {
            name: " " * (name != "prompt") + " ".join(draw.choices(words[name], k=draw.randrange(*sizes[name])))
            for name in sizes
        }
        for _ in range(count)
    ]


def data_of(method: str, count: int = 12, seed: str = "train") -> list[dict]:
    """Lines that the method takes, each of which TRL takes too."""
    pairs = texts(count, seed)
    if method == "orpo":
        return pairs
    lines = [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in pairs]
    return [line | {"label": at % 3 != 0} for at, line in enumerate(lines)] if method == "kto" else lines


@pytest.fixture
def document_of(run_document):
    """A run of a method, on data of its own."""

    def make(method: str, family: str = "llama", **options) -> dict:
        document = run_document(family, **options) | {"method": method}
        for name, count in (("train", 12), ("val", 5)):
            path = Path(document["data"][name])
            path.write_text("".join(json.dumps(line) + "\n" for line in data_of(method, count, name)))
        return document

    return make


def moved(document: dict):
    """Stage A as a run loads it, with its adapter moved off by the same numbers each time."""
    config = RunConfig.model_validate(document)
    stage_a = load_stage_a(config.model, config.execution, config.training)
    # transformers reads the tokenizer of a folder with a Qwen2 as Qwen2's own, whatever is in it.
    tokenizer = load_tokenizer(ModelRef(base=str(Path(config.model.base).with_name("llama"))))
    return config, replace(stage_a, tokenizer=tokenizer)


def move(model) -> None:
    disable_dropout_in_model(model)  # SFT trains with what its adapter has, here and there
    torch.manual_seed(3)
    for parameter in (each for each in model.parameters() if each.requires_grad):
        parameter.data += 0.1 * torch.randn_like(parameter)


def gradient(model) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def ours_of(document: dict, *, share: bool) -> tuple[StageBTrainer, list[dict]]:
    config, stage_a = moved(document)
    rows = prepare(config.data.train, stage_a.tokenizer, config.training.max_length, method=config.method).rows
    made = StageBTrainer(config, stage_a, ReferenceCache(config.reference_cache, stage_a.key), rows, [], 4)
    if share:
        assert made.share_prompts(rows[0]) is None
    move(made.model)
    return made, rows


def options(document: dict) -> dict:
    return {
        "output_dir": document["output_dir"] + "-theirs", "use_cpu": True, "bf16": False, "report_to": "none",
        "per_device_train_batch_size": 12, "max_length": document["training"].get("max_length", 1024),
    }  # fmt: skip


def theirs_of(document: dict, rows: list[dict]) -> tuple[torch.Tensor, torch.Tensor, list[list[int]]]:
    """TRL's trainer of the method on the same lines: the loss of all of them, the gradient, and its tokens."""
    _, stage_a = moved(document)
    method, path = document["method"], document["data"]["train"]
    words = Dataset.from_list([json.loads(line) for line in Path(path).read_text().splitlines()])
    made = {"orpo": _orpo, "kto": _kto, "sft": _sft}[method](document, stage_a, words)
    move(made.model)
    made.model.train()
    if method == "orpo":
        loss = made.get_batch_loss_metrics(made.model, _orpo_batch(rows), train_eval="train")[0]
        both = [one["chosen_input_ids"] + one["rejected_input_ids"] for one in made.train_dataset]
        tokens = [[token for token in one if token != BOS] for one in both]
    elif method == "kto":
        batch = made.data_collator([
            {"prompt_ids": row["prompt_ids"], "completion_ids": row["chosen_ids"] or row["rejected_ids"],
             "KL_completion_ids": row["other_ids"], "label": bool(row["chosen_ids"])} for row in rows
        ])  # fmt: skip
        loss = made._compute_loss(made.model, batch, return_outputs=False)
        tokens = [one["prompt_ids"] + one["completion_ids"] for one in made.train_dataset]
    else:
        loss = made.compute_loss(made.model, made.data_collator(list(made.train_dataset)))
        tokens = [one["input_ids"] for one in made.train_dataset]
    loss.backward()
    return loss.detach(), gradient(made.model), tokens


def _orpo(document, stage_a, words):
    args = ORPOConfig(**options(document), beta=0.1)
    return ORPOTrainer(model=stage_a.model, args=args, train_dataset=words, processing_class=stage_a.tokenizer)


def _orpo_batch(rows: list[dict]) -> dict[str, torch.Tensor]:
    """As ORPOTrainer's collator has it, of our rows: their tokens are compared apart."""
    batch = {}
    for side in ("chosen", "rejected"):
        both = [(row["prompt_ids"], row[f"{side}_ids"]) for row in rows]
        width = max(len(prompt) + len(completion) for prompt, completion in both)
        ids, attention = torch.full((len(rows), width), 3), torch.zeros((len(rows), width), dtype=torch.int64)
        labels = torch.full((len(rows), width), -100)
        for at, (prompt, completion) in enumerate(both):
            end = len(prompt) + len(completion)
            ids[at, :end], attention[at, :end] = torch.tensor(prompt + completion), 1
            labels[at, len(prompt) : end] = torch.tensor(completion)
        batch |= {f"{side}_input_ids": ids, f"{side}_attention_mask": attention, f"{side}_labels": labels}
    return batch


def _kto(document, stage_a, words):
    args = KTOConfig(**options(document), beta=0.1, train_sampling_strategy="sequential", gradient_checkpointing=False)
    return KTOTrainer(model=stage_a.model, args=args, train_dataset=words, processing_class=stage_a.tokenizer)


def _sft(document, stage_a, words):
    args = SFTConfig(**options(document), gradient_checkpointing=False)
    return SFTTrainer(model=stage_a.model, args=args, train_dataset=words, processing_class=stage_a.tokenizer)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_tokens_loss_and_gradient_are_those_of_trls_trainer(every_family, document_of, method, family, share):
    document = document_of(method, family)
    ours, rows = ours_of(document, share=share)
    loss, _ = ours.fresh_loss(rows)
    loss.backward()
    their_loss, their_gradient, their_tokens = theirs_of(document, ours.step.rows(rows))
    assert float((loss.detach() - their_loss).abs()) < 1e-5
    mine = gradient(ours.model)
    assert float((mine - their_gradient).norm() / their_gradient.norm()) < 1e-5
    if method == "orpo":
        tokens = [[*row["prompt_ids"], *row["chosen_ids"], *row["prompt_ids"], *row["rejected_ids"]] for row in rows]
    else:
        tokens = [[*row["prompt_ids"], *row["chosen_ids"], *row["rejected_ids"]] for row in rows]
    assert tokens == their_tokens


@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_learns_and_says_what_its_method_knows(document_of, method, adapter):
    document = document_of(method, adapter=adapter, epochs=6, batch_size=4, learning_rate=3e-3)
    assert start(document) == 0
    end, steps, validations = end_of(document), lines(document, "train"), lines(document, "val")
    assert (end["reason"], end["step"]) == ("finished", 18)
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert end["best_step"] == max(validations, key=lambda line: line["score"])["step"]
    known = {name for name in ("margin", "accuracy", "rewards_chosen", "logps_rejected") if steps[-1][name] is not None}
    assert (
        known
        == {
            "orpo": {"margin", "accuracy", "rewards_chosen", "logps_rejected"},
            "kto": {"margin", "rewards_chosen", "logps_rejected"},
            "sft": set(),
        }[method]
    )
    if method == "kto":
        assert steps[0]["loss"] == pytest.approx(0.5)
    kept = Path(document["output_dir"]) / "adapter"
    assert {path.name for path in kept.iterdir()} >= {"adapter_model.safetensors", "adapter_config.json"}


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(document_of, monkeypatch, method):
    whole = document_of(method, epochs=3, batch_size=4, save_every=2)
    parts = beside(whole)
    assert start(whole) == 0
    interrupted(parts, monkeypatch, at_step=4)
    assert start(parts) == 0
    assert numbers(parts) == numbers(whole)
    assert adapters(parts) == adapters(whole)


@pytest.mark.parametrize("method", METHODS)
def test_neither_micro_batches_nor_processes_change_the_losses(document_of, tmp_path, method):
    one = document_of(method, adapter=method != "sft", epochs=2, batch_size=4, learning_rate=1e-3)  # SFT has dropout
    two = with_processes(one, 2)
    small = beside(one)
    small["training"] = small["training"] | {"micro_batch_size": 1}
    assert start(one) == start(small) == 0
    finish(trainer(two, tmp_path))
    assert_alike(small, one)
    assert_alike(two, one)


def assert_alike(one: dict, other: dict) -> None:
    ours, theirs = lines(one, "train"), lines(other, "train")
    for name in ("loss", "grad_norm"):
        assert [line[name] for line in ours] == pytest.approx([line[name] for line in theirs], rel=1e-5), name
    assert [line["tokens"] for line in ours] == [line["tokens"] for line in theirs]
    ours, theirs = lines(one, "val"), lines(other, "val")
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], rel=1e-5)
    assert largest_difference(one, other) < 1e-4


def test_a_preference_pair_is_two_examples_of_kto_and_one_of_sft(document_of):
    pairs = texts(6, "pairs")
    for method, count in (("kto", 12), ("sft", 6)):
        document = document_of(method)
        Path(document["data"]["train"]).write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        config, stage_a = moved(document)
        found = prepare(config.data.train, stage_a.tokenizer, 64, method=method)
        assert len(found.rows) == count
        assert all(bool(row["chosen_ids"]) != bool(row["rejected_ids"]) for row in found.rows)
        others = ours_of(document, share=False)[0].step.rows(found.rows)
        for row in others if method == "kto" else []:
            assert row["other_ids"] in [
                each["chosen_ids"] or each["rejected_ids"] for each in found.rows
                if each["prompt_ids"] != row["prompt_ids"]
            ]  # fmt: skip


def test_kto_of_single_examples_is_refused_before_anything_is_loaded(document_of):
    with pytest.raises(InputError, match="batch_size 1 is too small for KTO"):
        start(document_of("kto", batch_size=1))


def test_a_completion_of_probability_1_has_a_gradient_under_orpo():
    for value in (0.0, -1e-9, -1e-7, -1e-3, -5.0):
        log_p = torch.tensor([value], requires_grad=True)
        rest = log_of_rest(log_p)
        rest.sum().backward()
        assert rest.isfinite().all()
        assert log_p.grad.isfinite().all()


def test_a_gradient_that_is_no_number_ends_the_run_before_it_is_in_the_weights(document_of, monkeypatch):
    document = document_of("sft", max_steps=4, batch_size=4)

    loss_of = Step.loss

    def broken(self, trainer, model, inputs):
        loss = loss_of(self, trainer, model, inputs)
        if loss.requires_grad and trainer.state.global_step == 2:
            loss.register_hook(lambda gradient: gradient * float("nan"))
        return loss

    with monkeypatch.context() as patch:
        patch.setattr("train.sft.Step.loss", broken)
        with pytest.raises(TrainError, match="The gradient is not a number after step 2"):
            start(document)
    assert end_of(document)["reason"] == "error"


def test_a_checkpoint_of_another_method_is_refused_and_an_older_one_of_dpo_is_not(document_of, monkeypatch, tmp_path):
    document = document_of("orpo", epochs=2, batch_size=4, save_every=2)
    interrupted(document, monkeypatch, at_step=3)
    with pytest.raises(InputError, match="method was orpo, is sft"):
        start(document | {"method": "sft"})
    config, stage_a = moved(document | {"method": "dpo"})
    now = run_identity(config, stage_a, [], [])
    before = {name: value for name, value in now.items() if name != "method"}
    assert not any("desirable" in name for name in now)
    _refuse_other_run(before, now, tmp_path)
    with pytest.raises(InputError, match=r"training.beta was 0.1, is 0.2"):
        _refuse_other_run(before, now | {"training.beta": 0.2}, tmp_path)
