# pyright: basic, reportMissingImports=false
"""How the trainer keeps and takes up where a run stands: without pickles, and whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from transformers.trainer import TRAINER_STATE_NAME
from trl import DPOTrainer

from train import checkpoint, random_state
from train.config import ModelRef
from train.errors import TrainError
from train.group import Group

ADAPTER, OPTIMIZER = "adapter_model.safetensors", "optimizer.safetensors"


class KeepingTrainer(DPOTrainer):
    """TRL's, which writes checkpoints and goes on from them in ways of its own."""

    base: ModelRef
    group: Group
    identity: dict[str, Any]
    progress: Callable[[], dict[str, Any]]

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


def _random(rank: int) -> str:
    """The name of a process's random state in a checkpoint."""
    return f"random-{rank}" if rank else "random"


def _plain(value: Any) -> Any:
    """JSON for what PEFT's configuration holds beside plain values: sets and enums."""
    return sorted(value) if isinstance(value, set) else getattr(value, "value", str(value))
