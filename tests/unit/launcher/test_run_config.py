"""What of a choice goes into the trainer's configuration."""

from pathlib import Path

import pytest

from jobs.home import Home
from jobs.offer import Offer, PricedOffer
from launcher.request import Request
from launcher.run_config import run_config
from launcher.settings import Settings
from tests.unit.launcher.test_planning import CASE
from train.config import ModelRef


@pytest.mark.parametrize(("option", "gpus", "processes"), [(0, 1, 1), (0, 4, 4), (2, 0, 1)])
def test_an_option_trains_in_a_process_a_gpu(tmp_path: Path, option: int, gpus: int, processes: int) -> None:
    chosen = CASE.options[option].model_copy(update={"gpus": gpus})
    offer = Offer(cloud="local", instance_type="box", gpus=gpus)
    choice = PricedOffer(
        offer=offer, option=chosen, steps=1, hours_expected=None, hours_affordable=None, cost_expected=None,
        cost_worst=None, basis="", fits=True,
    )  # fmt: skip
    run = run_config(
        Request(Settings(), CASE, ()), ModelRef(base="/m"), job="dpo-1", output_dir=tmp_path, home=Home(tmp_path),
        choice=choice,
    )  # fmt: skip
    assert (run.execution.device, run.execution.processes) == (chosen.device, processes)


def test_the_method_and_its_own_settings_are_carried(tmp_path: Path) -> None:
    case = CASE.model_copy(update={"workload": CASE.workload.model_copy(update={"method": "kto"})})
    settings = Settings(method="kto", desirable_weight=1.5, undesirable_weight=0.5)
    run = run_config(
        Request(settings, case, ()), ModelRef(base="/m"), job="kto-1", output_dir=tmp_path, home=Home(tmp_path)
    )
    assert run.method == "kto"
    assert (run.training.desirable_weight, run.training.undesirable_weight) == (1.5, 0.5)


def test_a_new_lora_is_the_one_that_was_estimated_unless_told_otherwise(tmp_path: Path) -> None:
    training = CASE.workload.training.model_copy(update={"lora_r": 3, "lora_target": ("k_proj",)})
    estimated = CASE.model_copy(update={"workload": CASE.workload.model_copy(update={"training": training})})
    for settings, r in ((Settings(), 3), (Settings(lora_r=5), 5)):
        run = run_config(
            Request(settings, estimated, ()), ModelRef(base="/m"), job="dpo-1", output_dir=tmp_path,
            home=Home(tmp_path),
        )  # fmt: skip
        assert (run.training.lora_r, run.training.lora_target) == (r, ("k_proj",))
