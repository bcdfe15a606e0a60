# pyright: basic, reportMissingImports=false
"""TRL's DPOTrainer, with a method's step, references by content, and a line a step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader, RandomSampler
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from train.arguments import arguments
from train.config import RunConfig
from train.errors import TrainError
from train.group import Group
from train.last_layer import LastLayer
from train.model import StageA
from train.reference import ReferenceCache
from train.rows import Row
from train.shared_prompt import ATTENTION, SharedPrompt, exchange_attention, obstacle
from train.shares import Shares
from train.step import log_probs_of, step_of
from train.tally import Tally
from train.trainer_checkpoints import KeepingTrainer

ALONE = Group()

NO_PAIRS = "no_pairs"
"""The key of a batch that only takes part in a step."""
STAGE_A = "stage_a"
"""The key of a batch's reference sums, until the method's step puts them where its loss reads them."""

PROBE = 16
"""Tokens of each part of the pair on which prompt sharing is tried."""
PROBE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Of a log-probability's sum, relative and in nats."""


class StageBTrainer(KeepingTrainer):
    """Trains the adapter `default`, by DPO or by another method of train/step.py.

    Stage A, where the method compares with it, is the adapter `ref` or the adapter switched off.
    """

    def __init__(
        self,
        config: RunConfig,
        stage_a: StageA,
        cache: ReferenceCache,
        rows: list[Row],
        val_rows: list[Row],
        steps: int,
        group: Group = ALONE,
    ) -> None:
        """`rows` and `val_rows` are all of them, in every process of `group`: it takes its share."""
        self.base = config.model
        self.group = group
        self.batch_size = config.training.batch_size
        self.cache = cache
        self.tally = Tally()
        self.method, self.step = config.method, step_of(config.method, config.training)
        mine = self.step.rows(val_rows)[group.rank :: group.size]
        self.identity: dict[str, Any] = {}
        self.progress: Callable[[], dict[str, Any]] = dict
        self.on_step_logged: Callable[[dict[str, float], Tally], None] = lambda *_: None
        self.on_validated: Callable[[Tally, float], None] = lambda *_: None
        super().__init__(
            model=stage_a.model,
            args=arguments(config, stage_a.precision, steps),
            data_collator=self.step.collator(stage_a.tokenizer.pad_token_id),
            train_dataset=Dataset.from_list(self.step.rows(rows)),
            eval_dataset=Dataset.from_list(mine) if val_rows else None,
            processing_class=stage_a.tokenizer,
            peft_config=stage_a.new_lora,
        )
        self.precompute_ref_logps = True  # batches carry the reference; with the argument, all would be computed now
        self.shares_prompts = False
        self._restore_fp32_adapter()
        if not self.step.has_reference and "ref" in self.model.peft_config:
            self.model.delete_adapter("ref")  # TRL's constructor made it
        self._step_weight = 1
        self.step_began = time.monotonic()
        self._new_references: list[dict[bytes, tuple[float, float]]] = []
        group.spread(self._trained())
        if group.rank:
            torch.manual_seed(config.training.seed + group.rank)  # dropout, where a model has any, differs by process

    def _restore_fp32_adapter(self) -> None:
        """TRL casts a quantized model's adapter to bf16, in which AdamW's small steps round to nothing."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and parameter.dtype != torch.float32:
                stage_a = name.replace(".default.", ".ref.")
                source = self.model.get_parameter(stage_a) if "ref" in self.model.peft_config else parameter
                parameter.data = source.data.detach().clone().float()

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset  # tokenized and cut already, by the module that counted what the cut left

    def _trained(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    # ---- this process's share of a step ----

    def get_train_dataloader(self) -> Any:
        """The micro-batches of this process, in the order that the seed gives to all."""
        if self.group.size == 1:
            return super().get_train_dataloader()
        micro = self.args.per_device_train_batch_size
        shares = Shares(RandomSampler(self.train_dataset), self.batch_size, micro, self.group.rank, self.group.size)
        return self.accelerator.prepare(
            DataLoader(
                self.train_dataset,
                batch_sampler=shares,
                collate_fn=self._collate,
                pin_memory=self.args.dataloader_pin_memory,
            )
        )

    def _collate(self, rows: list[Row]) -> dict[str, Any]:
        """A batch; without rows one that counts for nothing, so that this process takes part in the step."""
        return self.data_collator(rows) if rows else self.data_collator([self.train_dataset[0]]) | {NO_PAIRS: True}

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: Any) -> None:
        """Hears of a step's micro-batches. What the step's loss is a mean over is counted, over all processes."""
        self.step_began = time.monotonic()
        counting = [batch for batch in batch_samples if NO_PAIRS not in batch]
        if self.step.counts_tokens:
            self._step_weight = sum(self.group.gather(sum(self.step.weight(batch) for batch in counting)))
        else:
            total = len(self.train_dataset)
            begins = self.state.global_step % math.ceil(total / self.batch_size) * self.batch_size
            self._step_weight = min(self.batch_size, total - begins)
        self.step.before(self, counting)
        took = time.monotonic() - self.step_began
        self.tally.reference_seconds += took
        self.tally.training_seconds += took

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """In training a micro-batch counts by what it is of its step: the step's loss is the mean over all processes.

        transformers divides by the micro-batches of the step afterwards, and the gradients of processes are added up.
        """
        weight = 0 if NO_PAIRS in inputs else self.step.weight(inputs)
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if not self.model.training:
            return loss
        return loss * (weight * self.current_gradient_accumulation_steps / self._step_weight)

    # ---- the loss of one batch ----

    def share_prompts(self, row: Row) -> str | None:
        """Has each prompt computed once for both completions from here on; or says why this model cannot.

        Besides what the model's class says, a pair cut short from `row` must have TRL's log-probabilities.
        """
        reason = obstacle(self.model, self.args.max_length)
        if reason is not None or self.aux_loss_enabled:
            return reason or "its loss counts what each expert gets"
        short = Row(
            prompt_ids=row["prompt_ids"][-PROBE:],
            chosen_ids=row["chosen_ids"][:PROBE],
            rejected_ids=row["rejected_ids"][:PROBE],
        )
        inputs = self._prepare_inputs(self.data_collator(self.step.rows([short])))
        self.model.eval()  # SFT trains with the dropout of its adapter
        theirs = self._sums(inputs)
        usual, narrowed = exchange_attention(self.model, ATTENTION), LastLayer(self.model)
        self.shares_prompts = True
        ours = self._sums(inputs)
        self.model.train()
        tolerance = PROBE_TOLERANCE[self.model.dtype]
        if torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance):
            return None
        self.shares_prompts = False
        narrowed.release()
        exchange_attention(self.model, usual)
        return "its log-probabilities differ from the usual ones where prompts are shared"

    def seen(self, inputs: dict[str, Any]) -> Any:
        """The model as a loss of `inputs` calls it, or what stands for it where prompts are shared."""
        return (
            SharedPrompt(self.model, self.step.row(inputs), self.accelerator.autocast)
            if self.shares_prompts
            else self.model
        )

    @torch.no_grad()
    def _sums(self, inputs: dict[str, Any]) -> torch.Tensor:
        """(sequences,): each one's log-probability, over what has labels."""
        quiet = disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs)
        with quiet, self.accelerator.autocast():
            return log_probs_of(self.seen(inputs), inputs, self.step.labels(inputs)).sum(dim=1)

    def reference_sums(self, inputs: dict[str, Any]) -> torch.Tensor:
        """(sequences,): what Stage A gives each."""
        with use_adapter(self.model, "ref" if "ref" in self.model.peft_config else None):
            return self._sums(inputs)

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        """As TRL's: (chosen, rejected), each (pairs,)."""
        return super().compute_ref_log_probs(self.seen(inputs), inputs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        """The method's, on `inputs` completed with Stage A's log-probabilities; the examples are added to the tally."""
        started = time.perf_counter()
        step = self.step
        counts = inputs.pop(NO_PAIRS, None) is None
        if step.has_reference and inputs.get(STAGE_A) is None:
            nothing = torch.zeros((step.examples(inputs), 2), device=inputs["input_ids"].device)
            inputs[STAGE_A] = self.references(inputs) if counts else nothing
        if step.has_reference:
            step.with_reference(inputs, inputs.pop(STAGE_A))
        referenced = time.perf_counter()
        sums: list[torch.Tensor] = []
        policy = self.seen(inputs)

        def recording(**kwargs: Any) -> Any:
            outputs = policy(**kwargs)
            completion = inputs["completion_mask"][:, 1:]
            sums.append((outputs.log_probs[:, -completion.size(1) :].detach() * completion).sum(dim=1))
            return outputs

        loss = step.loss(self, recording, inputs)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainError(
                f"The loss is {value} after step {self.state.global_step}",
                "the run has diverged or a weight is not a number; the last checkpoint is kept",
                "lower the learning rate, or use bf16 or fp32",
            )
        if counts:
            rewards, logps = step.rewards(inputs, sums[0]), step.both(inputs, sums[0])
            self.tally.add(value, step.weight(inputs), rewards, logps, int(inputs["attention_mask"].sum()))
        self.tally.reference_seconds += referenced - started
        self.tally.loss_seconds += time.perf_counter() - referenced
        return loss

    def references(self, inputs: dict[str, Any]) -> torch.Tensor:
        """(examples, 2): Stage A's sums for a batch, from the cache, and into it where they were missing.

        In a group the first process writes what all found, when the step is over: until then nobody uses it, so that
        no value depends on which process was faster.
        """
        keys = self.step.keys(inputs)
        fresh: dict[bytes, tuple[float, float]] = {}
        missing = [i for i, key in enumerate(keys) if self.cache.get(key) is None]
        if missing:
            found = self.step.reference(self, self.step.part(inputs, missing))
            if not all(math.isfinite(value) for both in found for value in both):
                raise TrainError(
                    "Stage A gives a log-probability that is not finite", "its weights or precision are unsound"
                )
            fresh = {keys[i]: values for i, values in zip(missing, found, strict=True)}
            if self.group.size == 1:
                self.cache.put(fresh)
            else:
                self._new_references.append(fresh)
        values = [self.cache.get(key) or fresh[key] for key in keys]
        return torch.tensor(values, dtype=torch.float32, device=inputs["input_ids"].device)

    def fresh_loss(self, rows: list[Row]) -> tuple[torch.Tensor, Tally]:
        """The loss, ready for a backward pass, of `rows` against a reference computed in the same batch."""
        inputs = self._prepare_inputs(self.data_collator(self.step.rows(rows)))
        kept, self.tally = self.tally, Tally()
        try:
            self.model.train()
            if self.step.has_reference:
                found = self.step.reference(self, inputs)
                inputs[STAGE_A] = torch.tensor(found, dtype=torch.float32, device=inputs["input_ids"].device)
            with self.compute_loss_context_manager():
                loss = self._compute_loss(self.model, inputs, return_outputs=False)
            self._metrics["train"].clear()
            self._total_train_tokens = 0
            return loss, self.tally
        finally:
            self.tally = kept

    # ---- lines ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Hands a step's numbers on, and begins the next tally. The trainer's own log history stays empty."""
        self._metrics["train"].clear()
        self._metrics["eval"].clear()
        if "grad_norm" in logs:
            whole = self._gather()
            if self.group.first:
                self.on_step_logged(logs, whole)
            self.tally = Tally()
            self.step.after()

    def _gather(self) -> Tally:
        """The tally of all processes; the references that they computed become known to all, and are written."""
        parts = self.group.gather((self.tally, self._new_references))
        self._new_references = []
        for found in (found for _, frames in parts for found in frames):
            (self.cache.put if self.group.first else self.cache.learn)(found)
        return Tally.of_all([tally for tally, _ in parts])

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:  # the step's last micro-batch
            self.group.add_up_gradients(self._trained())
            self._check_gradients()
        self.tally.training_seconds += time.perf_counter() - started
        return loss

    def _check_gradients(self) -> None:
        """A gradient that is no number would go into the weights, and into the next checkpoint."""
        if self.accelerator.scaler is not None:
            return  # which skips such a step, and tries again with a smaller scale
        norms = [p.grad.norm() for p in self._trained() if p.grad is not None]
        if norms and not bool(torch.stack(norms).isfinite().all()):
            raise TrainError(
                f"The gradient is not a number after step {self.state.global_step}",
                "the run has diverged; the last checkpoint is kept",
                "lower the learning rate, or use bf16 or fp32",
            )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """A validation pass, handed on. It draws no random number of the training's."""
        kept, self.tally = self.tally, Tally()
        started = time.perf_counter()
        try:
            with torch.random.fork_rng():
                self.model.eval()
                self.step.before(self, map(self._prepare_inputs, self.get_eval_dataloader()))
                metrics = super().evaluate(*args, **kwargs)
                self.step.after()
            whole = self._gather()
            if self.group.first:
                self.on_validated(whole, time.perf_counter() - started)
        finally:
            self.tally = kept
        self.model.train()
        return metrics
