# pyright: basic, reportMissingImports=false
"""TRL's DPOTrainer, with references by content, checkpoints without pickles, and a line a step."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch.utils.data import DataLoader, RandomSampler
from transformers.trainer import TRAINER_STATE_NAME
from trl import DPOTrainer

from train import checkpoint, random_state
from train.arguments import arguments
from train.config import RunConfig
from train.errors import TrainError
from train.group import Group
from train.last_layer import LastLayer
from train.model import StageA
from train.reference import ReferenceCache, pair_key
from train.rows import Row
from train.shared_prompt import ATTENTION, SharedPrompt, exchange_attention, obstacle
from train.shares import Shares
from train.tally import Tally

ADAPTER, OPTIMIZER = "adapter_model.safetensors", "optimizer.safetensors"

ALONE = Group()

NO_PAIRS = "no_pairs"
"""The key of a batch that only takes part in a step."""

PROBE = 16
"""Tokens of each part of the pair on which prompt sharing is tried."""
PROBE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Of a log-probability's sum, relative and in nats."""


class StageBTrainer(DPOTrainer):
    """Trains the adapter `default` against Stage A, which is the adapter `ref` or the adapter switched off."""

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
        mine = val_rows[group.rank :: group.size]
        self.cache = cache
        self.tally = Tally(config.training.beta)
        self.identity: dict[str, Any] = {}
        self.progress: Callable[[], dict[str, Any]] = dict
        self.on_step_logged: Callable[[dict[str, float], Tally], None] = lambda *_: None
        self.on_validated: Callable[[Tally, float], None] = lambda *_: None
        super().__init__(
            model=stage_a.model,
            args=arguments(config, stage_a.precision, steps),
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(mine) if val_rows else None,
            processing_class=stage_a.tokenizer,
            peft_config=stage_a.new_lora,
        )
        self.precompute_ref_logps = True  # batches carry the reference; with the argument, all would be computed now
        self.shares_prompts = False
        self._restore_fp32_adapter()
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

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """In training a micro-batch counts by its pairs: the step's loss is the mean over all pairs of all processes.

        transformers divides by the micro-batches of the step afterwards, and the gradients of processes are added up.
        """
        pairs = 0 if NO_PAIRS in inputs else inputs["input_ids"].size(0) // 2
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if not self.model.training:
            return loss
        total = len(self.train_dataset)
        begins = self.state.global_step % math.ceil(total / self.batch_size) * self.batch_size
        return loss * (pairs * self.current_gradient_accumulation_steps / min(self.batch_size, total - begins))

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
        inputs = self._prepare_inputs(self.data_collator([short]))
        theirs = torch.cat(self.compute_ref_log_probs(self.model, inputs))
        usual, narrowed = exchange_attention(self.model, ATTENTION), LastLayer(self.model)
        self.shares_prompts = True
        ours = torch.cat(self.compute_ref_log_probs(self.model, inputs))
        tolerance = PROBE_TOLERANCE[self.model.dtype]
        if torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance):
            return None
        self.shares_prompts = False
        narrowed.release()
        exchange_attention(self.model, usual)
        return "its log-probabilities differ from the usual ones where prompts are shared"

    def _seen_by_loss(self, model: Any) -> Any:
        return SharedPrompt(self.model, autocast=self.accelerator.autocast) if self.shares_prompts else model

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        """As TRL's: (chosen, rejected), each (pairs,)."""
        return super().compute_ref_log_probs(self._seen_by_loss(model), inputs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        """As TRL's, on `inputs` completed with reference log-probabilities; the pairs are added to the tally."""
        started = time.perf_counter()
        counts = inputs.pop(NO_PAIRS, None) is None
        if not counts:
            inputs["ref_chosen_logps"] = inputs["ref_rejected_logps"] = torch.zeros(
                1, device=inputs["input_ids"].device
            )
        if "ref_chosen_logps" not in inputs:
            inputs["ref_chosen_logps"], inputs["ref_rejected_logps"] = self._references(inputs)
        referenced = time.perf_counter()
        sums: list[torch.Tensor] = []
        policy = self._seen_by_loss(model)

        def recording(**kwargs: Any) -> Any:
            outputs = policy(**kwargs)
            length = inputs["completion_mask"].size(1) - 1
            sums.append(outputs.log_probs[:, -length:].detach().sum(dim=1))
            return outputs

        loss = super()._compute_loss(recording, inputs, return_outputs)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainError(
                f"The loss is {value} after step {self.state.global_step}",
                "the run has diverged or a weight is not a number; the last checkpoint is kept",
                "lower the learning rate, or use bf16 or fp32",
            )
        if counts:
            logps = _pairs(*sums[0].float().chunk(2))
            refs = _pairs(inputs["ref_chosen_logps"], inputs["ref_rejected_logps"])
            self.tally.add(value, logps, refs, int(inputs["attention_mask"].sum()))
        self.tally.reference_seconds += referenced - started
        self.tally.loss_seconds += time.perf_counter() - referenced
        return loss

    def _references(self, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """The reference's sums for the pairs of a batch: from the cache, and into it where they were missing.

        In a group the first process writes what all found, when the step is over: until then nobody uses it, so that
        no value depends on which process was faster.
        """
        keys = batch_keys(inputs)
        fresh: dict[bytes, tuple[float, float]] = {}
        missing = [i for i, key in enumerate(keys) if self.cache.get(key) is None]
        if missing:
            select = missing + [len(keys) + i for i in missing]
            part = {name: value[select] for name, value in inputs.items() if isinstance(value, torch.Tensor)}
            found = _pairs(*self.compute_ref_log_probs(self.model, part))
            if not all(math.isfinite(value) for pair in found for value in pair):
                raise TrainError(
                    "Stage A gives a log-probability that is not finite", "its weights or precision are unsound"
                )
            fresh = {keys[i]: values for i, values in zip(missing, found, strict=True)}
            if self.group.size == 1:
                self.cache.put(fresh)
            else:
                self._new_references.append(fresh)
        values = [self.cache.get(key) or fresh[key] for key in keys]
        table = torch.tensor(values, dtype=torch.float32, device=inputs["input_ids"].device)
        return table[:, 0], table[:, 1]

    def loss_against_fresh_reference(self, rows: list[Row]) -> tuple[torch.Tensor, Tally]:
        """The loss, ready for a backward pass, of `rows` against a reference computed in the same batch."""
        inputs = self._prepare_inputs(self.data_collator(rows))
        kept, self.tally = self.tally, Tally(self.beta)
        try:
            self.model.train()
            chosen, rejected = self.compute_ref_log_probs(self.model, inputs)
            inputs |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
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
            self.tally = Tally(self.beta)

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
        self.tally.training_seconds += time.perf_counter() - started
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """A validation pass, handed on. It draws no random number of the training's."""
        kept, self.tally = self.tally, Tally(self.beta)
        started = time.perf_counter()
        try:
            with torch.random.fork_rng():
                metrics = super().evaluate(*args, **kwargs)
            whole = self._gather()
            if self.group.first:
                self.on_validated(whole, time.perf_counter() - started)
        finally:
            self.tally = kept
        self.model.train()
        return metrics

    # ---- checkpoints ----

    def adapter_tensors(self, name: str = "default") -> dict[str, torch.Tensor]:
        """An adapter's tensors on the CPU, under the names that they have in its file."""
        state = get_peft_model_state_dict(self.model, adapter_name=name, save_embedding_layers=False)
        return {key: value.detach().cpu() for key, value in state.items()}

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        states = self.group.gather((random_state.capture(), self._digest()))
        if len({digest for _, digest in states}) > 1:
            raise TrainError(
                f"After step {self.state.global_step} the processes have different adapters",
                "they had the same gradients: a device computes wrongly",
                "the last checkpoint is kept; look at the GPUs (nvidia-smi -q), then launch resume",
            )
        if not self.group.first:
            return
        optimizer, optimizer_rest = checkpoint.pack_optimizer(self.optimizer.state_dict())
        self.state.stateful_callbacks = {}
        self.state.log_history = []
        texts = {
            "adapter_config.json": self.adapter_config_text(),
            "optimizer.json": json.dumps({"optimizer": optimizer_rest, "scheduler": self.lr_scheduler.state_dict()}),
            "identity.json": json.dumps(self.identity, indent=1),
            "progress.json": json.dumps(self.progress()),
            TRAINER_STATE_NAME: json.dumps(dataclasses.asdict(self.state), indent=1),
        }
        if self.accelerator.scaler is not None:
            texts["scaler.json"] = json.dumps(self.accelerator.scaler.state_dict())
        tensors = {ADAPTER: self.adapter_tensors(), OPTIMIZER: optimizer}
        for rank, ((random_tensors, random_rest), _) in enumerate(states):
            tensors[f"{_random(rank)}.safetensors"] = random_tensors
            texts[f"{_random(rank)}.json"] = json.dumps(random_rest)
        parent = Path(self.args.output_dir)
        checkpoint.write(parent, self.state.global_step, tensors, texts)
        checkpoint.rotate(parent)

    def _digest(self) -> str:
        if self.group.size == 1:
            return ""
        digest = hashlib.sha256()
        for tensor in self.adapter_tensors().values():
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def adapter_config_text(self) -> str:
        """`adapter_config.json` of the trained adapter: over the base as the user named it, wherever that lies here."""
        config = self.model.peft_config["default"].to_dict()
        config["base_model_name_or_path"] = self.base.named or self.base.base
        config["revision"] = self.base.base_revision
        config["inference_mode"] = True
        return json.dumps(config, indent=2, sort_keys=True, default=_plain)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Fills `default`, and nothing else, from the checkpoint."""
        tensors = checkpoint.read_tensors(Path(resume_from_checkpoint), ADAPTER)
        if tensors.keys() != self.adapter_tensors().keys():
            raise TrainError(f"The adapter in {resume_from_checkpoint} has other tensors than the one being trained")
        set_peft_model_state_dict(self.model, tensors, adapter_name="default")

    def take_up(self, folder: Path) -> None:
        """Stands where a checkpoint's run stood, for writing results and not for training on."""
        self._load_from_checkpoint(str(folder))
        self.state.global_step = checkpoint.step_of(folder)

    def _load_optimizer_and_scheduler(self, checkpoint_folder: str | None) -> None:
        if checkpoint_folder is None:
            return
        folder = Path(checkpoint_folder)
        rest = checkpoint.read_document(folder, "optimizer.json")
        tensors = checkpoint.read_tensors(folder, OPTIMIZER)
        self.optimizer.load_state_dict(checkpoint.unpack_optimizer(tensors, rest["optimizer"]))
        self.lr_scheduler.load_state_dict(rest["scheduler"])

    def _load_scaler(self, checkpoint_folder: str | None) -> None:
        if checkpoint_folder is not None and self.accelerator.scaler is not None:
            state = checkpoint.read_document(Path(checkpoint_folder), "scaler.json")
            self.accelerator.scaler.load_state_dict(state)

    def _load_rng_state(self, checkpoint_folder: str | None) -> None:
        """A process that the checkpoint's run did not have goes on with the state that its seed gave."""
        if checkpoint_folder is None:
            return
        folder, name = Path(checkpoint_folder), _random(self.group.rank)
        if self.group.first or (folder / f"{name}.json").exists():
            rest = checkpoint.read_document(folder, f"{name}.json")
            random_state.restore(checkpoint.read_tensors(folder, f"{name}.safetensors"), rest)


def batch_keys(inputs: dict[str, Any]) -> list[bytes]:
    """The content keys of a collated batch: rows are all chosen, then all rejected."""
    ids, attention, completion = (inputs[name].cpu() for name in ("input_ids", "attention_mask", "completion_mask"))
    pairs = ids.size(0) // 2
    keys = []
    for i in range(pairs):
        length = int((attention[i] * (1 - completion[i])).sum())
        chosen = ids[i][attention[i].bool()].tolist()
        rejected = ids[pairs + i][attention[pairs + i].bool()].tolist()
        keys.append(pair_key(chosen[:length], chosen[length:], rejected[length:]))
    return keys


def _random(rank: int) -> str:
    """The name of a process's random state in a checkpoint."""
    return f"random-{rank}" if rank else "random"


def _pairs(chosen: torch.Tensor, rejected: torch.Tensor) -> list[tuple[float, float]]:
    return list(zip(chosen.float().tolist(), rejected.float().tolist(), strict=True))


def _plain(value: Any) -> Any:
    """JSON for what PEFT's configuration holds beside plain values: sets and enums."""
    return sorted(value) if isinstance(value, set) else getattr(value, "value", str(value))
