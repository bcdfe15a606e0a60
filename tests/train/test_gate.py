# pyright: basic
"""Each check of the gate can fail, and names itself when it does."""

from __future__ import annotations

import pytest

from tests.train.runs import end_of, start, trainer_for
from train import gate
from train.config import RunConfig
from train.errors import GateError
from train.gate import pass_gate
from train.trainer import StageBTrainer


@pytest.fixture
def with_adapter(run_document):
    return trainer_for(RunConfig.model_validate(run_document()))


@pytest.fixture
def with_new_lora(run_document):
    return trainer_for(RunConfig.model_validate(run_document(adapter=False)))


def parameter(trainer, part: str):
    return next(p for name, p in trainer.model.named_parameters() if part in name)


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_honest_start_passes_and_leaves_no_gradient(run_document, family, adapter, precision):
    config = RunConfig.model_validate(run_document(family, adapter=adapter, execution={"precision": precision}))
    trainer, stage_a, rows = trainer_for(config)
    pass_gate(trainer, stage_a, rows[:1])
    assert all(p.grad is None for p in trainer.model.parameters())


def test_another_adapter_in_the_model(with_adapter):
    trainer, stage_a, rows = with_adapter
    trainer.model.add_adapter("other", trainer.model.peft_config["default"])
    with pytest.raises(GateError, match="one_adapter_deep"):
        pass_gate(trainer, stage_a, rows[:1])


def test_a_reference_that_is_not_stage_a(with_adapter):
    trainer, stage_a, rows = with_adapter
    parameter(trainer, "lora_A.ref").data[0, 0] += 1e-4
    with pytest.raises(GateError, match="reference_is_stage_a"):
        pass_gate(trainer, stage_a, rows[:1])


def test_a_reference_that_is_missing(with_adapter):
    trainer, stage_a, rows = with_adapter
    trainer.model.delete_adapter("ref")
    with pytest.raises(GateError, match="reference_is_stage_a"):
        pass_gate(trainer, stage_a, rows[:1])


def test_a_policy_that_is_not_stage_a(with_adapter):
    trainer, stage_a, rows = with_adapter
    parameter(trainer, "lora_A.default").data[0, 0] += 1e-4
    with pytest.raises(GateError, match="policy_is_stage_a"):
        pass_gate(trainer, stage_a, rows[:1])


def test_a_new_lora_over_a_model_that_has_changed(with_new_lora):
    trainer, stage_a, rows = with_new_lora
    parameter(trainer, "mlp.up_proj").data[0] += 0.1
    with pytest.raises(GateError, match=r"adapter_off_is_stage_a\n.*adapter off"):
        pass_gate(trainer, stage_a, rows[:1])


def test_a_new_lora_that_is_not_the_identity(with_new_lora):
    trainer, stage_a, rows = with_new_lora
    parameter(trainer, "lora_B.default").data += 0.1
    with pytest.raises(GateError, match=r"adapter_off_is_stage_a\n.*adapter on"):
        pass_gate(trainer, stage_a, rows[:1])


def test_an_adapter_in_16_bit(with_adapter):
    trainer = with_adapter[0]
    weight = parameter(trainer, "lora_A.default")
    weight.data = weight.data.bfloat16()
    with pytest.raises(GateError, match="fp32_adapter"):
        gate.check_fp32_adapter(trainer)


def test_a_base_that_would_be_trained(with_adapter):
    trainer, stage_a, rows = with_adapter
    parameter(trainer, "mlp.up_proj").requires_grad_(True)
    with pytest.raises(GateError, match="fp32_adapter"):
        pass_gate(trainer, stage_a, rows[:1])


def test_a_margin_before_the_first_step(with_adapter):
    trainer, stage_a, rows = with_adapter
    parameter(trainer, "lora_A.default").data += 0.01
    with pytest.raises(GateError, match="margin_zero"):
        gate.check_margin_zero(trainer, stage_a, rows[:1])


def test_a_loss_that_is_not_ln_2(with_adapter, monkeypatch):
    trainer, stage_a, rows = with_adapter
    trainer.loss_weights = [1.0]
    fresh = trainer.fresh_loss
    monkeypatch.setattr(trainer, "fresh_loss", lambda r: (fresh(r)[0] + 0.01, fresh(r)[1]))
    with pytest.raises(GateError, match="loss_ln2"):
        pass_gate(trainer, stage_a, rows[:1])


def test_a_gradient_outside_the_adapter(with_adapter):
    trainer, stage_a, rows = with_adapter
    parameter(trainer, "mlp.up_proj").requires_grad_(True)
    with pytest.raises(GateError, match="only_adapter_gradients"):
        gate.check_gradients(trainer, stage_a, rows[:1])


def test_a_gradient_of_noise(with_adapter):
    trainer, stage_a, rows = with_adapter
    same = {**rows[0], "rejected_ids": rows[0]["chosen_ids"]}
    with pytest.raises(GateError, match="gradient_above_noise"):
        pass_gate(trainer, stage_a, [same])


def test_a_failed_gate_trains_nothing_and_is_what_end_json_says(run_document, monkeypatch):
    document = run_document()
    restore = StageBTrainer._restore_fp32_adapter

    def breaking(self):
        restore(self)
        parameter(self, "lora_B.ref").data.mul_(1.1)

    monkeypatch.setattr(StageBTrainer, "_restore_fp32_adapter", breaking)
    with pytest.raises(GateError, match="reference_is_stage_a") as failed:
        start(document)
    assert failed.value.exit_code == 1
    assert end_of(document)["reason"] == "error"
    assert "reference_is_stage_a" in end_of(document)["message"]
    assert end_of(document)["step"] == 0
