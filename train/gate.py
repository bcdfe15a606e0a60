# pyright: basic, reportMissingImports=false
"""The gate before the first optimizer step: the policy and its reference are Stage A, and learning can begin.

Each check has a name, and raises GateError with it. On a resume the gate is passed with Stage A's weights, before the
checkpoint is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from trl.trainer.utils import use_adapter

from train.errors import GateError
from train.model import StageA, probe_logits
from train.rows import Row
from train.trainer import StageBTrainer

NOISE = 1e-6
"""A gradient norm of two equal texts is about 3e-8, and Adam would step by it all the same."""

MARGIN_TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 1e-2}
"""Of a pair's margin (nats x beta). In 16 bit, padding alone moves a pair's loss by up to 1e-2."""

_FP16_SCALE = 1024.0


def pass_gate(trainer: StageBTrainer, stage_a: StageA, rows: list[Row]) -> None:
    """Runs every check, on `rows` where a batch is needed. Leaves no gradient behind."""
    check_one_adapter_deep(trainer)
    if stage_a.adapter is not None:
        if trainer.step.has_reference:
            check_reference_is_stage_a(trainer, stage_a.adapter)
        check_policy_is_stage_a(trainer, stage_a.adapter)
    else:
        check_adapter_off_is_stage_a(trainer, stage_a)
    check_fp32_adapter(trainer)
    if trainer.step.has_reference:
        check_margin_zero(trainer, stage_a, rows)
    check_gradients(trainer, stage_a, rows)


def check_one_adapter_deep(trainer: StageBTrainer) -> None:
    """No LoRA layer wraps another, and there is no adapter beside the policy and its reference."""
    extra = set(trainer.model.peft_config) - {"default", "ref"}
    if extra:
        raise _failed("one_adapter_deep", f"the model carries other adapters: {', '.join(sorted(extra))}")
    for name, module in trainer.model.named_modules():
        if isinstance(module, BaseTunerLayer) and isinstance(getattr(module, "base_layer", None), BaseTunerLayer):
            raise _failed("one_adapter_deep", f"{name} is an adapter on an adapter")


def check_reference_is_stage_a(trainer: StageBTrainer, adapter: Path) -> None:
    """The reference's tensors are the ones in Stage A's file."""
    if "ref" not in trainer.model.peft_config:
        raise _failed("reference_is_stage_a", "there is no reference adapter: the reference would be the bare base")
    _compare("reference_is_stage_a", trainer.adapter_tensors("ref"), adapter)


def check_policy_is_stage_a(trainer: StageBTrainer, adapter: Path) -> None:
    """The policy starts with the tensors in Stage A's file."""
    _compare("policy_is_stage_a", trainer.adapter_tensors("default"), adapter)


def check_adapter_off_is_stage_a(trainer: StageBTrainer, stage_a: StageA) -> None:
    """With the new adapter switched off, the model gives Stage A's logits; with it on, too, since it is untrained."""
    if "ref" in trainer.model.peft_config or stage_a.probe is None or stage_a.probe_ids is None:
        raise _failed("adapter_off_is_stage_a", "the reference must be the model with its adapter switched off")
    trainer.model.eval()
    with use_adapter(trainer.model, None):
        off = probe_logits(trainer.model, stage_a.probe_ids)
    on = probe_logits(trainer.model, stage_a.probe_ids)
    trainer.model.train()
    for which, logits in (("off", off), ("on", on)):
        if not torch.equal(logits, stage_a.probe):
            gap = float((logits - stage_a.probe).abs().max())
            raise _failed(
                "adapter_off_is_stage_a", f"with the adapter {which}, logits differ from Stage A's by {gap:.3g}"
            )


def check_fp32_adapter(trainer: StageBTrainer) -> None:
    """What is trained is the adapter `default`, all of it, in fp32."""
    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    foreign = [name for name in trained if ".default" not in name]
    if foreign or not trained:
        raise _failed(
            "fp32_adapter", f"trainable outside the adapter: {foreign[0] if foreign else 'nothing trainable'}"
        )
    low = [name for name, p in trained.items() if p.dtype != torch.float32]
    if low:
        raise _failed("fp32_adapter", f"{low[0]} is {trained[low[0]].dtype}: small steps would round to nothing")


def check_margin_zero(trainer: StageBTrainer, stage_a: StageA, rows: list[Row]) -> None:
    """Policy and reference agree on each pair, and plain DPO's loss is ln 2."""
    with torch.no_grad():
        loss, tally = trainer.fresh_loss(rows)
    tolerance = MARGIN_TOLERANCE[stage_a.precision]
    values = [value for example in tally.rewards for value in (*example, *_margin(*example)) if value is not None]
    worst = max(map(abs, values), default=math.inf)
    if not worst <= tolerance:
        raise _failed(
            "margin_zero", f"a reward is {worst:.3g} before the first step; at most {tolerance:g} is rounding"
        )
    plain = trainer.method == "dpo" and tuple(trainer.loss_types) == ("sigmoid",)
    if plain and not abs(float(loss) - math.log(2) * trainer.loss_weights[0]) <= tolerance:
        raise _failed("loss_ln2", f"the loss is {float(loss):.6f} before the first step, not ln 2 = 0.693147")


def check_gradients(trainer: StageBTrainer, stage_a: StageA, rows: list[Row]) -> None:
    """One backward pass reaches the adapter, only the adapter, with a norm above noise."""
    scale = _FP16_SCALE if stage_a.precision == "fp16" else 1.0
    trainer.model.zero_grad()
    try:
        loss, _ = trainer.fresh_loss(rows)
        (loss * scale).backward()
        grads = {name: p.grad.float() / scale for name, p in trainer.model.named_parameters() if p.grad is not None}
    finally:
        trainer.model.zero_grad()
    foreign = [name for name in grads if ".default" not in name]
    if foreign:
        raise _failed("only_adapter_gradients", f"{foreign[0]} has a gradient")
    norm = math.sqrt(math.fsum(float(grad.square().sum()) for grad in grads.values()))
    if not norm > NOISE:
        raise _failed(
            "gradient_above_noise", f"the gradient's norm is {norm:.3g}; {NOISE:g} is noise: nothing would be learned"
        )


def _margin(chosen: float | None, rejected: float | None) -> tuple[float, ...]:
    return () if chosen is None or rejected is None else (chosen - rejected,)


def _compare(check: str, tensors: Mapping[str, torch.Tensor], adapter: Path) -> None:
    stored = load_file(adapter / "adapter_model.safetensors")
    if tensors.keys() != stored.keys():
        name = min(tensors.keys() ^ stored.keys())
        raise _failed(check, f"{name} is not both in the model and in {adapter}")
    for name, tensor in stored.items():
        if not torch.equal(tensors[name].float(), tensor.float()):
            raise _failed(check, f"{name} is not what {adapter} holds")


def _failed(check: str, reason: str) -> GateError:
    return GateError(
        f"The gate before training failed: {check}",
        reason,
        "nothing was trained; check that the model is Stage A (launch doctor), and report this if it is",
    )
