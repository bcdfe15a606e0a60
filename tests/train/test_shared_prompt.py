# pyright: basic
"""The step that computes each prompt once is TRL's step: losses, log-probabilities, gradients, and 50 steps of both."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)

from tests.bench.train_ways import begin_checkpointing
from tests.train import conftest
from tests.train.runs import lines, start
from tests.train.test_resume import adapters
from train.completion_head import label_log_probs
from train.config import RunConfig
from train.model import load_stage_a
from train.reference import ReferenceCache
from train.shared_prompt import obstacle
from train.shared_row import SharedRow
from train.trainer import StageBTrainer

FAMILIES = ("llama", "mistral", "qwen2")
MAX_LENGTH = 32


def rows_of(*lengths: tuple[int, int, int]) -> list[dict]:
    """Pairs of random tokens, cut to MAX_LENGTH as training has them."""
    draw = random.Random(str(lengths))
    found = []
    for prompt, *completions in lengths:
        ids = [[draw.randrange(4, 64) for _ in range(n)] for n in (prompt, *completions)]
        chosen, rejected = (each[: MAX_LENGTH - prompt] for each in ids[1:])
        found.append({"prompt_ids": ids[0], "chosen_ids": chosen, "rejected_ids": rejected})
    return found


BATCHES = {
    "ragged": rows_of((9, 4, 7), (2, 11, 3), (17, 6, 6)),
    "both completions cut": rows_of((28, 9, 12), (20, 5, 30)),
    "one token each": rows_of((5, 1, 1), (12, 1, 8), (3, 6, 1)),
    "prompts of one token": rows_of((1, 4, 2), (1, 1, 1)),
    "one pair": rows_of((12, 5, 8)),
}


def trainer_of(document: dict) -> StageBTrainer:
    """A trainer that shares no prompts yet, its policy moved off Stage A: at the start every loss is ln 2."""
    config = RunConfig.model_validate(document)
    stage_a = load_stage_a(config.model, config.execution, config.training)
    cache = ReferenceCache(config.reference_cache, stage_a.key)
    trainer = StageBTrainer(config, stage_a, cache, BATCHES["ragged"], [], 4)
    begin_checkpointing(trainer)
    torch.manual_seed(3)
    for parameter in trainer._trained():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return trainer


def of_step(trainer, rows: list[dict]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss, the log-probabilities (pairs, 2) and the adapter's gradient, in one row, of a batch."""
    trainer.model.zero_grad()
    loss, tally = trainer.fresh_loss(rows)
    loss.backward()
    gradients = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
    return loss.detach(), torch.tensor(tally.logps), torch.cat(gradients)


no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU: its attention is other kernels")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=no_gpu)])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_log_probabilities_and_gradients_are_those_of_trl(
    every_family, run_document, family, adapter, checkpointing, device
):
    execution = {"gradient_checkpointing": checkpointing, "device": device, "precision": "fp32"}
    document = run_document(family, adapter=adapter, execution=execution)
    trainer = trainer_of(document)
    plain = {name: of_step(trainer, rows) for name, rows in BATCHES.items()}
    assert trainer.share_prompts(BATCHES["ragged"][0]) is None
    for name, rows in BATCHES.items():
        (loss, logps, gradient), (loss_there, logps_there, gradient_there) = of_step(trainer, rows), plain[name]
        assert float((loss - loss_there).abs()) < 1e-5, name
        assert torch.allclose(logps, logps_there, rtol=1e-6, atol=1e-5), name
        assert float((gradient - gradient_there).norm() / gradient_there.norm()) < 1e-5, name


@pytest.mark.parametrize("execution", [{"precision": "bf16"}, {"precision": "bf16", "quantization": "nf4"}])
def test_models_in_16_and_4_bit_share_prompts_too(run_document, execution):
    trainer = trainer_of(run_document(execution=execution))
    plain = of_step(trainer, BATCHES["ragged"])
    assert trainer.share_prompts(BATCHES["ragged"][0]) is None
    shared = of_step(trainer, BATCHES["ragged"])
    assert torch.allclose(shared[1], plain[1], rtol=2e-2)
    assert float((shared[2] - plain[2]).norm() / plain[2].norm()) < 0.1


@pytest.mark.parametrize("loss", ["ipo", "sft", "sigmoid_norm"])
def test_losses_that_look_at_lengths_or_single_tokens_are_those_of_trl(run_document, loss):
    trainer = trainer_of(run_document(loss_type=[loss]))
    _, _, gradient_there = of_step(trainer, BATCHES["ragged"])
    trainer.share_prompts(BATCHES["ragged"][0])
    _, _, gradient = of_step(trainer, BATCHES["ragged"])
    assert trainer.shares_prompts
    assert float((gradient - gradient_there).norm() / gradient_there.norm()) < 1e-5


def test_50_steps_have_the_losses_of_50_of_trls(run_document):
    ours = run_document(epochs=7, batch_size=2, eval_every=50, learning_rate=1e-3, max_steps=50)
    theirs = ours | {name: ours[name] + "-trl" for name in ("output_dir", "reference_cache")}
    theirs["execution"] = ours["execution"] | {"share_prompts": False}
    assert start(ours) == start(theirs) == 0
    for name, tolerance in (("loss", 1e-3), ("logps_chosen", 1e-2), ("margin", 1e-3)):
        one, other = ([line[name] for line in lines(each, "train")] for each in (ours, theirs))
        assert len(one) == 50
        assert one == pytest.approx(other, abs=tolerance), name
    assert [line["tokens"] for line in lines(ours, "train")] == [line["tokens"] for line in lines(theirs, "train")]
    assert adapters(ours) != adapters(theirs)  # two ways were compared, and not one with itself


def test_the_last_layer_gives_nothing_where_nobody_reads_and_its_adapters_learn_as_trls(run_document):
    """With an adapter on each of its parts. Without a row, as when the model writes, it is the usual layer."""
    names = [f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")]
    trainer = trainer_of(run_document(adapter=False, lora_target=names))
    last = trainer.model.get_base_model().base_model.layers[-1]
    ids = torch.tensor([[5, 6, 7, 8]])
    usual, gradient_there = trainer.model(ids).logits, of_step(trainer, BATCHES["ragged"])[2]
    assert trainer.share_prompts(BATCHES["ragged"][0]) is None
    seen = []
    last.mlp.act_fn.register_forward_hook(lambda module, inputs, output: seen.append(output.size(1)))
    gradient = of_step(trainer, BATCHES["ragged"])[2]
    completions = sum(len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in BATCHES["ragged"])
    assert seen == [completions, completions]  # the policy's forward and the reference's
    assert float((gradient - gradient_there).norm() / gradient_there.norm()) < 1e-5
    assert torch.allclose(trainer.model(ids).logits, usual, atol=1e-6)
    assert seen[2:] == [4]


def test_a_prompt_or_completion_without_tokens_is_refused():
    for pair in ((0, 3, 3), (4, 0, 3), (4, 3, 0)):
        with pytest.raises(ValueError, match="has no token"):
            SharedRow([(5, 2, 2), pair], 8)


def test_completions_do_not_see_each_other_nor_the_pairs_beside_them(run_document):
    """Other tokens in a rejected completion, or in another pair, change no log-probability of a chosen one."""
    trainer = trainer_of(run_document())
    trainer.share_prompts(BATCHES["ragged"][0])
    one, other = rows_of((9, 4, 7), (6, 3, 3))
    changed = one | {"rejected_ids": [4] * 3}
    _, logps, _ = of_step(trainer, [one, other])
    _, logps_there, _ = of_step(trainer, [changed, changed])
    assert torch.equal(logps[0, 0], logps_there[0, 0])
    assert float((logps[0, 1] - logps_there[0, 1]).abs()) > 1e-3


def test_log_probabilities_of_labels_and_their_gradient_are_log_softmaxs_over_many_tiles(monkeypatch):
    monkeypatch.setattr("train.completion_head.TILE", 3 * 50)
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50).requires_grad_(False)
    hidden = torch.randn(10, 8, requires_grad=True)
    labels, weights = torch.randint(0, 50, (10,)), torch.randn(10)
    found = label_log_probs(hidden, head, labels)
    expected = head(hidden).log_softmax(-1).gather(1, labels.unsqueeze(1)).squeeze(1)
    assert torch.allclose(found, expected, atol=1e-6)
    (ours,), (theirs,) = (torch.autograd.grad((each * weights).sum(), hidden) for each in (found, expected))
    assert torch.allclose(ours, theirs, atol=1e-6)


SMALL = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1}


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, intermediate_size=32, head_dim=8)), "final_logit_softcapping"),
        (lambda: BloomForCausalLM(BloomConfig(**SMALL, n_layer=1)), "its attention cannot be exchanged"),
        (lambda: conftest.MistralForCausalLM(
            conftest.MistralConfig(**SMALL, intermediate_size=32, num_key_value_heads=4, sliding_window=16)
        ), "a window of 16 tokens"),
        (lambda: StableLmForCausalLM(StableLmConfig(**SMALL, intermediate_size=32, num_key_value_heads=4)),
         "it is tested with llama, mistral, qwen2, and not with stablelm"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_share_prompts_is_named_with_its_reason(model, reason):
    base = model().requires_grad_(False)
    found = obstacle(SimpleNamespace(get_base_model=lambda: base), MAX_LENGTH)
    assert found is not None
    assert reason in found


def test_where_prompts_cannot_be_shared_the_run_is_trls_and_says_so_in_one_line(run_document, monkeypatch, capsys):
    """Found by trying: an attention that looks at all that lies before it in the row."""

    def all_before(module, query, key, value, mask, **more):
        heads = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return heads.transpose(1, 2).contiguous(), None

    from transformers import AttentionInterface

    with monkeypatch.context() as patch:
        patch.setitem(AttentionInterface._global_mapping, "shared_prompt", all_before)
        document = run_document(max_steps=2)
        assert start(document) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "not shared" in line]
    assert len(said) == 1
    assert "its log-probabilities differ" in said[0]
    plain = document | {name: document[name] + "-trl" for name in ("output_dir", "reference_cache")}
    plain["execution"] = document["execution"] | {"share_prompts": False}
    assert start(plain) == 0
    assert adapters(document) == adapters(plain)
