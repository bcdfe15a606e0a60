# pyright: basic
"""The ways to take one DPO step that the benches of the step compare: each a loss of a batch, and its reference.

All train the same LoRA (r = 16 on q and v, in fp32) of one random Llama with the same AdamW. A home-made step, TRL's
and ours: tests/bench/train_speed.py has them on a CPU, tests/bench/train_gpu.py on a GPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models
from torch.nn import functional
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer
from trl.trainer.utils import FusedCausalLMOutput

from train.completion_head import label_log_probs
from train.config import RunConfig
from train.model import StageA
from train.reference import ReferenceCache
from train.rows import Row
from train.shared_prompt import SharedPrompt
from train.shared_row import SharedRow
from train.trainer import STAGE_A, StageBTrainer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LORA = LoraConfig(r=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
BETA = 0.1


@dataclass(frozen=True)
class Way:
    """`step` takes a whole optimizer step; `reference` what of it is not needed where the reference is known."""

    step: Callable[[], float]
    reference: Callable[[], None] | None = None


@dataclass(frozen=True)
class Setup:
    """What the ways train, and on what. `model` gives it without an adapter; it is asked once for each trainer."""

    model: Callable[[], Any]
    dtype: Literal["fp32", "bf16"]
    device: Literal["cpu", "cuda"] = "cpu"
    quantization: Literal["nf4"] | None = None
    checkpointing: bool = False


def stock_ways(stock: DPOTrainer, rows: list[Row]) -> dict[str, Way]:
    """TRL's trainer and model, in three ways, and in two that go a part of our way, for one batch of pairs."""
    batch = stock._prepare_inputs(stock.data_collator(rows))
    return {
        "home_made": Way(_stepping(stock, lambda: home_made_loss(stock, rows))),
        "trl": Way(_stepping(stock, lambda: _loss(stock, batch))),
        "trl_precomputed": _with_reference(stock, batch),
        "ours_head": _with_reference(stock, batch, _CompletionsHead(stock.model)),
        "dense_mask": _with_reference(stock, batch, _dense_mask(stock.model)),
    }


def our_ways(ours: StageBTrainer, rows: list[Row]) -> dict[str, Way]:
    """This project's step, for one batch of pairs."""
    return {"ours": _with_reference(ours, ours._prepare_inputs(ours.data_collator(rows)))}


def home_made_loss(trainer: Any, rows: list[Row]) -> torch.Tensor:
    """As the failure analysis has it: policy and reference on chosen and rejected apart, each padded to the prompt and
    the longer completion, and logits of all positions."""
    model = trainer.model
    width = max(len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in rows)

    def log_probs(name: str) -> torch.Tensor:
        ids = torch.zeros((len(rows), width), dtype=torch.int64)
        attention, wanted = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for at, row in enumerate(rows):
            both = row["prompt_ids"] + row[name]
            ids[at, : len(both)] = torch.tensor(both)
            attention[at, : len(both)] = 1
            wanted[at, len(row["prompt_ids"]) : len(both)] = True
        ids, attention, wanted = (each.to(trainer.args.device) for each in (ids, attention, wanted))
        logits = model(input_ids=ids, attention_mask=attention, use_cache=False).logits[:, :-1].float()
        found = logits.log_softmax(dim=-1).gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)
        return (found * wanted[:, 1:]).sum(dim=1)

    with trainer.accelerator.autocast():
        chosen, rejected = log_probs("chosen_ids"), log_probs("rejected_ids")
        with torch.no_grad(), model.disable_adapter():
            ref_chosen, ref_rejected = log_probs("chosen_ids"), log_probs("rejected_ids")
    return -functional.logsigmoid(BETA * (chosen - ref_chosen - rejected + ref_rejected)).mean()


class _CompletionsHead:
    """TRL's padded batch through the model, and our head on the completions' positions alone."""

    def __init__(self, model: Any) -> None:
        self.base = model.get_base_model()

    def __call__(self, input_ids: Any, attention_mask: Any, labels: Any, **_: Any) -> FusedCausalLMOutput:
        states = self.base.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        wanted = labels[:, 1:] != -100
        found = label_log_probs(states.last_hidden_state[:, :-1][wanted], self.base.lm_head, labels[:, 1:][wanted])
        log_probs = found.new_zeros(wanted.shape).masked_scatter(wanted, found)
        nothing = torch.zeros_like(log_probs)
        return FusedCausalLMOutput(
            log_probs=log_probs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
        )  # fmt: skip


class _DenseRow(SharedPrompt):
    """Prompts shared in one row as ours, under a mask of places x places, and our head."""

    def looking(self) -> dict[str, Any]:
        mask = torch.zeros((self.row.positions.size(1),) * 2, dtype=torch.bool, device=self.row.device)
        for span in self.row.spans:
            chosen, shared, rejected = (
                slice(span.start, span.prompt), slice(span.prompt, span.second), slice(span.second, span.end),
            )  # fmt: skip
            for part in (chosen, shared, rejected):
                mask[part, part] = torch.ones_like(mask[part, part]).tril()
            mask[chosen, shared] = mask[rejected, shared] = True
        return {"attention_mask": mask[None, None]}


def _dense_mask(model: Any) -> Callable[..., FusedCausalLMOutput]:
    return lambda **batch: _DenseRow(model, SharedRow.of(batch["attention_mask"], batch["labels"] != -100))(**batch)


def _with_reference(trainer: Any, batch: dict[str, Any], model: Any = None) -> Way:
    """A step whose reference is known, and the pass that finds it."""
    model = model or trainer.model
    names = ("ref_chosen_logps", "ref_rejected_logps")
    found = trainer.compute_ref_log_probs(model, batch)
    known = dict(zip(names, found, strict=True))
    if isinstance(trainer, StageBTrainer):
        known = {STAGE_A: torch.stack(found, dim=1)}
    return Way(
        _stepping(trainer, lambda: _loss(trainer, batch | known, model)),
        lambda: trainer.compute_ref_log_probs(model, batch),
    )


def _loss(trainer: Any, batch: dict[str, Any], model: Any = None) -> torch.Tensor:
    trainer.precompute_ref_logps = STAGE_A in batch or "ref_chosen_logps" in batch
    with trainer.accelerator.autocast():
        return trainer._compute_loss(model or trainer.model, dict(batch), return_outputs=False)


def _stepping(trainer: Any, loss_of: Callable[[], torch.Tensor]) -> Callable[[], float]:
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)

    def step() -> float:
        trainer.model.train()
        loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def stock_trainer(setup: Setup, folder: Path) -> DPOTrainer:
    """TRL's, as it comes."""
    options = DPOConfig(
        output_dir=tempfile.mkdtemp(dir=folder), bf16=setup.dtype == "bf16", use_cpu=setup.device == "cpu", beta=BETA,
        max_length=8192, report_to="none", remove_unused_columns=False, activation_checkpointing=setup.checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if setup.checkpointing else None,
    )  # fmt: skip
    words = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])  # of which no step is taken
    made = DPOTrainer(
        model=_model(setup), args=options, train_dataset=words, processing_class=_tokenizer(), peft_config=LORA
    )  # fmt: skip
    begin_checkpointing(made)
    for parameter in made.model.parameters():
        if parameter.requires_grad:  # TRL casts a quantized model's to bf16; the ways are compared at one optimizer's
            parameter.data = parameter.data.float()
    return made


def our_trainer(setup: Setup, folder: Path) -> StageBTrainer:
    """This project's, whose prompts are shared."""
    out = tempfile.mkdtemp(dir=folder)
    config = RunConfig.model_validate({
        "schema": "run/1", "job": "bench", "model": {"base": str(folder)}, "data": {"train": str(folder)},
        "training": {"max_length": 8192, "beta": BETA},
        "execution": {"device": setup.device, "precision": setup.dtype, "quantization": setup.quantization,
                      "gradient_checkpointing": setup.checkpointing},
        "output_dir": out, "reference_cache": out,
    })  # fmt: skip
    stage_a = StageA(
        model=_model(setup), tokenizer=_tokenizer(), base=folder, adapter=None, new_lora=LORA, precision=setup.dtype,
        quantization=setup.quantization, probe_ids=None, probe=None, key="bench",
    )  # fmt: skip
    some = Row(prompt_ids=[2] * 16, chosen_ids=[3] * 16, rejected_ids=[4] * 16)
    made = StageBTrainer(config, stage_a, ReferenceCache(Path(out), "bench"), [some], [], 1)
    begin_checkpointing(made)
    assert made.share_prompts(some) is None
    return made


def begin_checkpointing(trainer: DPOTrainer) -> None:
    """What `Trainer.train` does at its beginning where it is asked for, for steps that are taken without it."""
    if trainer.args.activation_checkpointing:
        kwargs = trainer.args.activation_checkpointing_kwargs
        trainer.model.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs)


def _model(setup: Setup) -> Any:
    torch.manual_seed(0)
    return setup.model()


def _tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1}, unk_token="<pad>")),
        pad_token="<pad>", eos_token="</s>",
    )  # fmt: skip
