# pyright: basic
"""The ways to take one DPO step that tests/bench/train_speed.py compares: each a loss of a batch, and its reference.

All train the same LoRA (r = 16 on q and v, in fp32) of one random Llama with the same AdamW.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer
from trl.trainer.utils import FusedCausalLMOutput

from train.completion_head import label_log_probs
from train.config import RunConfig
from train.model import StageA
from train.reference import ReferenceCache
from train.rows import Row
from train.trainer import StageBTrainer

SIZES: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 12,
    "num_key_value_heads": 12, "vocab_size": 16000, "max_position_embeddings": 8192, "pad_token_id": 0,
}  # fmt: skip
"""As small real models are: of the parameters that a token is multiplied with, 30% lie in the head (7% of an 8B's)."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LORA = LoraConfig(r=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
BETA = 0.1


@dataclass(frozen=True)
class Way:
    """`step` takes a whole optimizer step; `reference` what of it is not needed where the reference is known."""

    step: Callable[[], float]
    reference: Callable[[], None] | None = None


def ways(dtype: str, rows: list[Row], folder: Path) -> dict[str, Way]:
    """The ways by name, each with a model of its own, for one batch of pairs."""
    stock, home, ours = (_trainer(dtype, rows, folder, kind) for kind in ("stock", "stock", "ours"))
    ours.share_prompts(rows[0])
    assert ours.shares_prompts
    batch = stock.data_collator(rows)
    return {
        "home_made": Way(_stepping(home, lambda: home_made_loss(home, rows))),
        "trl": Way(_stepping(stock, lambda: _loss(stock, batch))),
        "trl_precomputed": _with_reference(stock, batch),
        "ours_head": _with_reference(stock, batch, _CompletionsHead(stock.model)),
        "ours": _with_reference(ours, batch),
    }


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


def _with_reference(trainer: Any, batch: dict[str, Any], model: Any = None) -> Way:
    """A step whose reference is known, and the pass that finds it."""
    model = model or trainer.model
    known = dict(
        zip(("ref_chosen_logps", "ref_rejected_logps"), trainer.compute_ref_log_probs(model, batch), strict=True)
    )
    return Way(
        _stepping(trainer, lambda: _loss(trainer, batch | known, model)),
        lambda: trainer.compute_ref_log_probs(model, batch),
    )


def _loss(trainer: Any, batch: dict[str, Any], model: Any = None) -> torch.Tensor:
    trainer.precompute_ref_logps = "ref_chosen_logps" in batch
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


def _trainer(dtype: str, rows: list[Row], folder: Path, kind: str) -> Any:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).to(DTYPES[dtype])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1}, unk_token="<pad>")),
        pad_token="<pad>", eos_token="</s>",
    )  # fmt: skip
    out = tempfile.mkdtemp(dir=folder)
    if kind == "ours":
        config = RunConfig.model_validate({
            "schema": "run/1", "job": "bench", "model": {"base": str(folder)}, "data": {"train": str(folder)},
            "training": {"max_length": 8192, "batch_size": len(rows), "beta": BETA},
            "execution": {"device": "cpu", "precision": dtype}, "output_dir": out, "reference_cache": out,
        })  # fmt: skip
        stage_a = StageA(
            model=model, tokenizer=tokenizer, base=folder, adapter=None, new_lora=LORA, precision=dtype,
            quantization=None, probe_ids=None, probe=None, key="bench",
        )  # fmt: skip
        return StageBTrainer(config, stage_a, ReferenceCache(Path(out), "bench"), rows, [], 1)
    options = DPOConfig(
        output_dir=out, bf16=dtype == "bf16", use_cpu=True, beta=BETA, max_length=8192, report_to="none",
        activation_checkpointing=False, per_device_train_batch_size=len(rows), remove_unused_columns=False,
    )  # fmt: skip
    words = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])  # of which no step is taken
    return DPOTrainer(
        model=model, args=options, train_dataset=words, processing_class=tokenizer, peft_config=LORA
    )  # fmt: skip
