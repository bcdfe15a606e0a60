"""Each method has its verb and its plan, with the flags that it has, and takes requirement files of its own."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from artifacts.errors import UsageProblem
from launcher.cli import VERBS, launch
from launcher.estimate import estimate_config
from launcher.request import read_request
from launcher.settings import Settings, load
from tests.unit.launcher.test_requirement_file import document
from tests.unit.train.test_stage_a import make_adapter, make_base
from train.config import METHODS, Method

LACKS = {
    "dpo": set[str](),
    "orpo": {"loss_type", "loss_weights"},
    "kto": {"loss_type", "loss_weights"},
    "sft": {"loss_type", "loss_weights", "beta"},
}
OF_A_LAUNCH = {"detach", "dry_run", "force"}


def commands() -> dict[str, click.Command]:
    """By what is typed after `launch`."""
    context = click.Context(launch)
    plan = launch.get_command(context, "plan")
    assert isinstance(plan, click.Group)
    found = {method: launch.get_command(context, method) for method in METHODS}
    found |= {f"plan {method}": plan.get_command(context, method) for method in METHODS}
    return {name: command for name, command in found.items() if command is not None}


def flags(command: click.Command) -> set[str]:
    return {str(parameter.name) for parameter in command.params}


def test_every_method_has_a_verb_after_dpo_and_a_plan() -> None:
    verbs = list(VERBS)
    at = verbs.index("dpo")
    assert tuple(verbs[at : at + len(METHODS)]) == METHODS
    assert list(commands()) == [*METHODS, *(f"plan {method}" for method in METHODS)]


@pytest.mark.parametrize("method", METHODS)
def test_a_verb_and_its_plan_have_the_flags_that_the_method_has(method: Method) -> None:
    found = commands()
    assert flags(found["dpo"]) - flags(found[method]) == LACKS[method]
    assert flags(found[method]) <= flags(found["dpo"])
    assert flags(found[method]) - flags(found[f"plan {method}"]) == OF_A_LAUNCH
    assert "method" not in flags(found[method])


def test_a_flag_that_a_method_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(click.NoSuchOption, match="--beta") as caught:
        commands()["sft"].make_context("sft", ["--beta", "0.1"])
    assert caught.value.exit_code == 2


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_base(tmp_path / "base")
    make_adapter(tmp_path / "adapter", "base")
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def requirement(folder: Path, method: str, batch_size: int = 1) -> Path:
    made = document()
    made["workload"]["method"] = method
    made["workload"]["training"]["batch_size"] = batch_size
    (folder / "need.json").write_text(json.dumps(made))
    return folder / "need.json"


def test_a_requirement_file_of_another_method_is_refused_with_the_commands_that_are_not(project: Path) -> None:
    file = requirement(project, "dpo")
    with pytest.raises(UsageProblem, match="is for DPO, and this is ORPO") as caught:
        read_request(Settings(method="orpo", requirements=file))
    assert caught.value.exit_code == 2
    assert [line.strip() for line in caught.value.next_step.splitlines()] == [
        "launch estimate --method orpo --model adapter --base base --train train.jsonl -o orpo.json",
        "launch orpo --requirements orpo.json",
        "or launch dpo, which the file is for",
    ]
    assert read_request(Settings(requirements=file)).requirement.workload.method == "dpo"


def test_where_the_model_of_the_file_is_not_here_the_command_says_what_to_name(project: Path) -> None:
    file = requirement(project, "kto")
    (project / "train.jsonl").unlink()
    with pytest.raises(UsageProblem, match="is for KTO, and this is SFT") as caught:
        read_request(Settings(method="sft", requirements=file))
    assert "launch estimate --method sft --model PATH|ID --train FILE -o sft.json" in caught.value.next_step


def test_a_file_of_kto_with_a_batch_of_one_is_refused_unless_a_flag_says_more(project: Path) -> None:
    file = requirement(project, "kto")
    with pytest.raises(UsageProblem, match=r"need\.json: batch_size: 1 is too small for KTO"):
        read_request(Settings(method="kto", requirements=file))
    assert read_request(Settings(method="kto", requirements=file, batch_size=2)).settings.batch_size == 2


@pytest.mark.parametrize(("method", "batch_size"), [("dpo", 1), ("orpo", 1), ("kto", 4), ("sft", 1)])
def test_the_calculator_is_asked_for_the_method_and_kto_has_a_batch_of_4(
    project: Path, method: Method, batch_size: int
) -> None:
    named = {"model": "adapter", "base": "base", "train": "train.jsonl"}
    asked = estimate_config(load({"method": method, **named}, environ={}, project=project))
    assert (asked.method, asked.training.batch_size) == (method, batch_size)
    more = load({"method": method, "batch_size": "6", "beta": "0.3", **named}, environ={}, project=project)
    told = estimate_config(more)
    assert told.training.batch_size == 6
    assert told.training.beta == (0.1 if method == "sft" else 0.3)
