# pyright: basic, reportMissingImports=false
"""The course of a run: when to validate, save and stop, and what is written down on the way."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from safetensors.torch import save
from transformers import TrainerCallback

from train import results
from train.clock import now
from train.config import RunConfig, noun
from train.journal import Journal
from train.metrics import PhaseSeconds, TrainLine, ValLine
from train.stop import Stop
from train.tally import Tally
from train.trainer import StageBTrainer
from train.watch import Watch

SAVE_SECONDS = 300.0
VAL_PAIRS = 200


class Course(TrainerCallback):
    """Listens to the trainer step by step; the numbers that it draws on are the trainer's."""

    def __init__(self, config: RunConfig, trainer: StageBTrainer, journal: Journal, stop: Stop, steps: int) -> None:
        self.config, self.trainer, self.journal, self.stop, self.steps = config, trainer, journal, stop, steps
        self.save_every = config.training.save_every or max(1, steps // 10)
        self.eval_every = config.training.eval_every or max(1, steps // 10)
        self.validates = trainer.eval_dataset is not None
        self.best: float | None = None
        self.best_step: int | None = None
        self.val_due = False
        self.stopped_by: Literal["signal", "deadline"] | None = None
        self._watch = Watch()
        self._val_seconds = 0.0
        self._saved_at = self._step_began = self._step_ended = time.monotonic()
        self._optimizer_began = self._optimizer_seconds = 0.0
        self._step_seconds = 0.0
        trainer.progress = self.progress
        trainer.on_step_logged = self.write_line
        trainer.on_validated = self.write_validation

    def progress(self) -> dict[str, Any]:
        """What a checkpoint keeps of the course."""
        return {"best": self.best, "best_step": self.best_step, "val_due": self.val_due}

    def resume(self, progress: dict[str, Any]) -> None:
        """Goes on where the checkpoint's run was, with the journal already cut back to it."""
        self.best, self.best_step, self.val_due = progress["best"], progress["best_step"], progress["val_due"]
        for line in self.journal.lines() if self.trainer.step.watched else ():
            self._watch.feed(line)

    def make_up_validation(self) -> None:
        """The pass that was due when the run was stopped, so that the same adapter is the best in the end."""
        if self.val_due:
            self.val_due = False
            self.trainer.evaluate()

    # ---- transformers' events ----

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.make_up_validation()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_began = self.trainer.step_began

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._optimizer_began = time.monotonic()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._optimizer_seconds = time.monotonic() - self._optimizer_began

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_seconds = time.monotonic() - self._step_began
        self.stop.stepped(self._step_seconds)
        step, last = state.global_step, state.global_step >= self.steps
        self.val_due = self.validates and (last or step % self.eval_every == 0)
        stopping = None if last else self.stop.reason()
        evaluate = self.val_due and not stopping and self.stop.has_room(self._val_seconds)
        old = time.monotonic() - self._saved_at >= SAVE_SECONDS
        save = bool(last or stopping or old or step % self.save_every == 0)
        # Clocks and signals are the first process's, so that all do the same.
        stopping, control.should_evaluate, control.should_save = self.trainer.group.same((stopping, evaluate, save))
        if control.should_evaluate:
            self.val_due = False
        if stopping:
            self.stopped_by = stopping
            control.should_training_stop = True
        self._step_ended = time.monotonic()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_ended = time.monotonic()  # what follows is the save alone

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved_at = time.monotonic()
        self.stop.saved(self._saved_at - self._step_ended)

    # ---- what is written ----

    def write_line(self, logs: dict[str, float], tally: Tally) -> None:
        state = self.trainer.state
        backward = tally.training_seconds - tally.loss_seconds - tally.reference_seconds
        line = TrainLine(
            at=now(),
            step=state.global_step,
            max_steps=self.steps,
            epoch=round(state.epoch or 0.0, 6),
            loss=tally.loss,
            **tally.means(),
            learning_rate=logs["learning_rate"],
            grad_norm=min(logs["grad_norm"], sys.float_info.max),  # an overflow that the fp16 scaler skips is infinite
            tokens=tally.tokens,
            seconds=self._step_seconds,
            phases=PhaseSeconds(
                reference=tally.reference_seconds,
                forward=tally.loss_seconds,
                backward=max(0.0, backward),
                optimizer=self._optimizer_seconds,
            ),
            memory_mib=memory_mib(),
        )
        self.journal.append(line)
        notice = self._watch.feed(line) if self.trainer.step.watched else None
        if notice is not None:
            self.journal.append(notice)
            say(f"step {line.step}: {notice.message}")

    def write_validation(self, tally: Tally, seconds: float) -> None:
        """Writes the line, and `adapter/` where this is the best so far."""
        step, value = self.trainer.state.global_step, self.trainer.step.score(tally)
        best = self.best is None or value > self.best
        if best:
            self.best, self.best_step = value, step
            self.keep_best(step, value)
        self._val_seconds = seconds
        line = ValLine(
            at=now(), step=step, loss=tally.loss, **tally.means(), pairs=len(tally.rewards), score=value, best=best,
            seconds=seconds,
        )  # fmt: skip
        self.journal.append(line)
        shown = (("margin", line.margin), ("accuracy", line.accuracy))
        say(
            f"step {step}: validation on {line.pairs} {noun(self.config.method)}: loss {line.loss:.4f}, "
            + "".join(f"{name} {value:.3f}, " for name, value in shown if value is not None)
            + f"score {value:.4f}{' (best so far)' if best else ''}"
        )

    def keep_best(self, step: int, value: float | None) -> None:
        digest = self._write_adapter("adapter")
        results.write_best(self.config.output_dir, results.Best(step=step, score=value, sha256=digest))

    def keep_last(self) -> None:
        """`adapter_last/`, and `adapter/` too where no validation chose one."""
        self._write_adapter("adapter_last")
        if self.best is None:
            step: int = self.trainer.state.global_step
            self.best_step = step
            self.keep_best(step, None)

    def _write_adapter(self, name: str) -> str:
        folder = Path(self.config.output_dir) / name
        config = self.trainer.adapter_config_text()
        return results.write_adapter(folder, save(self.trainer.adapter_tensors()), config)


def memory_mib() -> float:
    """The device's allocated peak, or on a CPU the process's resident set, in MiB."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    return psutil.Process().memory_info().rss / 2**20


def say(message: str) -> None:
    """A line of the trainer's log: standard error."""
    print(f"{now()} {message}", file=sys.stderr, flush=True)
