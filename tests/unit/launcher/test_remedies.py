"""What is printed where nothing fits: each command is typed again, with all its flags, and must fit then."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.offer import Offer, Plan
from launcher.plan_view import next_steps
from launcher.remedies import remedies
from launcher.request import Market, Request
from launcher.settings import load
from launcher.workload import with_settings
from tests.catalogues import files
from tests.unit.launcher.test_planning import CASE, CPU, RATE
from tests.unit.launcher.test_planning_money import A10, A100, BACKENDS, FAST, SLOW
from train.requirement import Requirement

L40S = A100.model_copy(update={"cloud": "aws", "instance_type": "g6e.xlarge", "gpu": "A100", "price_per_hour": 1.86})


def market(
    folder: Path,
    flags: dict[str, Any],
    offers: tuple[Offer, ...] = (A10, A100),
    *,
    case: Requirement = CASE,
    backends: frozenset[str] = BACKENDS,
) -> Market:
    settings = load(flags, environ={}, project=folder)
    return Market(
        Request(settings, with_settings(case, settings, folder), ()), offers, [FAST, SLOW, RATE], backends=backends
    )


def typed(command: str) -> dict[str, Any]:
    """The flags of a printed command, as the command line would hand them on."""
    words = shlex.split(command)
    assert words[:2] == ["launch", "dpo"]
    flags: dict[str, Any] = {}
    for word, after in pairwise([*words[2:], "--"]):
        if word.startswith("--"):
            flags[word[2:].replace("-", "_")] = True if after.startswith("--") else after
    return flags


def printed(folder: Path, flags: dict[str, Any], *offers: Offer, **more: Any) -> list[tuple[dict[str, Any], str, Plan]]:
    """Each command that is printed, as flags, with what it says that it does, and the plan that it makes."""
    asked = market(folder, flags, offers or (A10, A100), **more)
    first = asked.plan()
    assert first.choice is None
    lines = next_steps(flags, remedies(flags, asked, first), "dpo").splitlines()
    assert not lines[0].endswith("shows what each way needs")
    commands = [(typed(command), does.strip()) for command, does in zip(lines[::2], lines[1::2], strict=True)]
    return [(again, does, market(folder, again, offers or (A10, A100), **more).plan()) for again, does in commands]


@pytest.mark.parametrize(
    "flags",
    [
        {"budget": "0.5"},
        {"budget": "1.2"},
        {"budget": "4"},
        {"budget": "1.2", "cloud": "lambda"},
        {"budget": "4", "within": "0.7"},
        {"budget": "50", "within": "0.7"},
        {"budget": "1.2", "max_steps": "9000"},
        {"budget": "1.5", "epochs": "0.9"},
    ],
)
def test_every_command_that_is_printed_fits_when_it_is_typed(tmp_path: Path, flags: dict[str, Any]) -> None:
    found = printed(tmp_path, flags, A10, A100, CPU)
    assert found
    for again, does, plan in found:
        assert plan.choice is not None, again
        assert plan.choice.option.name in does
        steps = re.findall(r"[0-9,]+", does)[0]
        assert steps == f"{plan.steps:,}"


def test_each_kind_of_way_out_is_named(tmp_path: Path) -> None:
    found = [flags for flags, _, _ in printed(tmp_path, {"budget": "3.5"})]
    assert {"budget": "3.5", "epochs": "1"} in found
    assert {"budget": "3.5", "partial": True} in found
    assert any(set(flags) == {"budget"} and float(flags["budget"]) > 3.5 for flags in found)


def test_the_budget_that_would_do_is_the_least_one(tmp_path: Path) -> None:
    flags = next(flags for flags, _, _ in printed(tmp_path, {"budget": "3.5"}) if set(flags) == {"budget"})
    assert market(tmp_path, flags).plan().chosen is not None
    less = {"budget": f"{float(flags['budget']) - 0.04:.2f}"}
    assert market(tmp_path, less).plan().chosen is None


def test_as_many_epochs_as_fit_are_offered(tmp_path: Path) -> None:
    flags = next(flags for flags, _, _ in printed(tmp_path, {"budget": "6", "epochs": "5"}) if flags["epochs"] != "5")
    epochs = int(flags["epochs"])
    assert 1 < epochs < 5
    assert market(tmp_path, {"budget": "6", "epochs": str(epochs + 1)}).plan().chosen is None


@pytest.mark.parametrize("machines", [(A10, A100), (A10, A100, CPU)])
def test_half_a_dollar_names_the_least_budget_that_buys_a_sensible_part(
    tmp_path: Path, machines: tuple[Offer, ...]
) -> None:
    """With 16 GB to send, half a dollar is gone before the first step. A tenth of an epoch is sensible, and more than
    this machine does in the time at no cost."""
    heavy = CASE.workload.model.model_copy(update={"bytes_on_disk": 16 * 10**9})
    case = CASE.model_copy(update={"workload": CASE.workload.model_copy(update={"model": heavy})})
    free = market(tmp_path, {"budget": "0.5", "partial": True}, machines, case=case).plan().steps
    sensible = max(848, (free or 0) + 1) if CPU in machines else 848
    found = printed(tmp_path, {"budget": "0.5"}, *machines, case=case)
    (flags, does, plan) = next(one for one in found if one[0].get("partial") and one[0]["budget"] != "0.5")
    assert plan.choice is not None
    assert plan.choice.offer.price_per_hour > 0
    assert plan.steps is not None
    assert plan.steps >= sensible
    assert does.startswith(f"{plan.steps:,} of 16,968 steps")
    less = {**flags, "budget": f"{float(flags['budget']) - 0.1:.2f}"}
    poorer = market(tmp_path, less, (A10, A100), case=case).plan()
    assert poorer.choice is None or (poorer.steps or 0) < sensible


def test_a_cloud_that_cannot_be_rented_does_not_hide_the_budget_that_would_do(tmp_path: Path) -> None:
    found = printed(tmp_path, {"budget": "1"}, L40S, A100, backends=frozenset({"local", "lambda"}))
    budgets = [float(flags["budget"]) for flags, _, plan in found if set(flags) == {"budget"} and plan.choice]
    assert len(budgets) == 1


def test_a_machine_that_is_cheaper_and_too_slow_does_not_hide_the_budget_that_would_do(tmp_path: Path) -> None:
    crawling = A10.model_copy(update={"price_per_hour": 0.1})
    found = printed(tmp_path, {"budget": "1", "within": "3"}, crawling, A100)
    assert any(set(flags) == {"budget", "within"} and plan.choice for flags, _, plan in found)


def test_another_cloud_is_looked_at_where_one_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogues are real files; the machine of the other cloud is found in them."""
    monkeypatch.setenv("LAUNCH_CATALOGS", str(files.write_small(tmp_path / "catalogs")))
    monkeypatch.setenv("LAUNCH_HOME", str(tmp_path / "state"))
    (tmp_path / "state").mkdir()
    flags = {"budget": "30", "cloud": "lambda"}
    asked = market(tmp_path, flags, (A100,), backends=frozenset({"local", "aws"}))
    first = asked.plan()
    assert first.choice is None
    elsewhere = next(one for one in remedies(flags, asked, first) if one.flags == {"cloud": "any"})
    assert " on aws " in elsewhere.does


def test_without_a_budget_the_one_that_would_do_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUNCH_CATALOGS", str(files.write_small(tmp_path / "catalogs")))
    monkeypatch.setenv("LAUNCH_HOME", str(tmp_path / "state"))
    (tmp_path / "state").mkdir()
    asked = market(tmp_path, {}, (CPU.model_copy(update={"ram_gib": 1.0}),))
    (one,) = remedies({}, asked, asked.plan())
    assert set(one.flags) == {"budget"}
    assert asked.plan(**one.flags).chosen is not None


def test_a_budget_in_a_file_cannot_be_taken_away_by_a_command(tmp_path: Path) -> None:
    offers = (A100, CPU)
    assert any("budget" not in flags for flags, _, _ in printed(tmp_path, {"budget": "1"}, *offers))
    (tmp_path / "launch.toml").write_text("budget = 1\n")
    for flags, _, plan in printed(tmp_path, {}, *offers):
        assert plan.choice is not None, flags


def test_without_a_way_in_4_bits_the_command_that_looks_for_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "t.jsonl").write_text("{}\n")
    workload = CASE.workload
    model = workload.model.model_copy(
        update={
            "base": workload.model.base.model_copy(update={"path": str(tmp_path / "m")}),
            "adapter": workload.model.adapter
            and workload.model.adapter.model_copy(update={"path": str(tmp_path / "m")}),
        }
    )
    data = workload.data.model_copy(update={"train_path": str(tmp_path / "t.jsonl")})
    only_16_bits = CASE.model_copy(
        update={
            "workload": workload.model_copy(update={"model": model, "data": data}),
            "options": CASE.options[:1],
        }
    )
    flags = {"requirements": "need.json", "budget": "50"}
    small = A10.model_copy(update={"gpu": "RTX 5070", "vram_gib": 12.0})
    asked = market(tmp_path, flags, (small,), case=only_16_bits)
    last = next_steps(flags, remedies(flags, asked, asked.plan()), "dpo").splitlines()[-2:]
    assert typed(last[0]) == {
        "budget": "50", "model": str(tmp_path / "m"), "train": str(tmp_path / "t.jsonl"),
    }  # fmt: skip
    assert "4-bit" in last[1]
    whole = market(tmp_path, flags, (small,), case=CASE)
    assert not any("4-bit" in one.does for one in remedies(flags, whole, whole.plan()))


@given(st.floats(0.05, 9), st.sampled_from([1.0, 2.0, 3.5, 7.0]), st.booleans())
def test_no_command_is_printed_that_does_not_fit(
    tmp_path_factory: pytest.TempPathFactory, budget: float, epochs: float, partial: bool
) -> None:
    folder = tmp_path_factory.getbasetemp()
    flags: dict[str, Any] = {"budget": f"{budget:.2f}"} | ({"partial": True} if partial else {})
    schedule = CASE.workload.training.model_copy(update={"epochs": epochs})
    case = CASE.model_copy(update={"workload": CASE.workload.model_copy(update={"training": schedule})})
    asked = market(folder, flags, case=case)
    first = asked.plan()
    if first.choice is not None:
        return
    for one in remedies(flags, asked, first):
        assert asked.plan(**{name: float(v) if name == "budget" and v else v for name, v in one.flags.items()}).chosen
