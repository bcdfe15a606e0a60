"""ORPO, KTO and SFT take the road of `launch dpo`: refusal, estimate, plan, training, results, report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.processes import end_all
from tests.acceptance.program import Program, copy_small
from tests.acceptance.test_straight_line import CONTRACT

NOUN = {"orpo": "pairs", "kto": "examples", "sft": "examples"}
LINES = {"orpo": 1, "kto": 2, "sft": 1}
"""That one pair of the sample project makes."""


def own_lines(method: str, pair: dict[str, Any]) -> list[dict[str, Any]]:
    """The pair as data that only this method takes."""
    if method == "kto":
        kinds = (("chosen", True), ("rejected", False))
        return [{"prompt": pair["prompt"], "completion": pair[side], "label": label} for side, label in kinds]
    return [{"prompt": pair["prompt"], "completion": pair["chosen"]}] if method == "sft" else [pair]


@dataclass(frozen=True)
class Trained:
    method: str
    program: Program
    said: str
    """By the launch, on standard error."""

    @property
    def job(self) -> dict[str, Any]:
        return self.program.job(f"{self.method}-1")

    @property
    def results(self) -> Path:
        return Path(self.job["results"])

    @property
    def named(self) -> tuple[str, ...]:
        return ("--requirements", f"{self.method}.json", *data_flags(self.method))

    def metrics(self, kind: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (self.results / "metrics.jsonl").read_text().splitlines()]
        return [line for line in lines if line["kind"] == kind]


def data_flags(method: str) -> tuple[str, ...]:
    return tuple(word for name in ("train", "val") for word in (f"--{name}", f"data/{method}-{name}.jsonl"))


@pytest.fixture(scope="module", params=["orpo", "kto", "sft"])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, demo_project: Path
) -> Iterator[Trained]:
    """The sample project, whose requirement file is for DPO: what is refused says the commands that are run then."""
    method: str = request.param
    root = tmp_path_factory.mktemp(method)
    (root / "home").mkdir()
    copy_small(demo_project, root / "project")
    program = Program(root / "home", root / "project")
    for name in ("train", "val"):
        pairs = [json.loads(line) for line in (program.folder / "data" / f"{name}.jsonl").read_text().splitlines()]
        own = [json.dumps(line) for pair in pairs for line in own_lines(method, pair)]
        (program.folder / "data" / f"{method}-{name}.jsonl").write_text("\n".join(own))

    refused = program.run(method, "--requirements", "requirement.json", "--yes")
    assert refused.returncode == 2
    assert f"is for DPO, and this is {method.upper()}" in refused.stderr
    estimate, launch = (
        shlex.split(line.partition("launch ")[2])
        for line in refused.stderr.splitlines()
        if "launch estimate" in line or f"launch {method} " in line
    )
    program.good(*estimate, *data_flags(method))
    done = program.good(*launch, *data_flags(method), "--yes", "--max-steps", "2", "--eval-every", "1")
    yield Trained(method, program, done.stderr)
    end_all(root)


def test_the_results_are_those_of_the_contract_and_say_the_method(trained: Trained) -> None:
    assert {path.name for path in trained.results.iterdir()} >= CONTRACT
    assert (trained.results / "adapter" / "adapter_model.safetensors").is_file()
    assert json.loads((trained.results / "run.json").read_text())["method"] == trained.method
    requirement = json.loads((trained.results / "requirement.json").read_text())
    assert requirement["workload"]["method"] == trained.method
    assert f"{trained.method}-1 succeeded" in trained.said


def test_the_data_is_counted_in_the_methods_own_words(trained: Trained) -> None:
    count = 96 * LINES[trained.method]
    assert f"{count} of {count} {NOUN[trained.method]} can be used." in trained.said


def test_the_status_document_and_the_overview_say_how_it_ended(trained: Trained) -> None:
    row = trained.job
    assert (row["id"], row["method"], row["outcome"], row["step"]) == (
        f"{trained.method}-1", trained.method, "succeeded", 2,
    )  # fmt: skip
    assert (row["reward_margin"] is None) == (trained.method == "sft")
    assert row["loss"] > 0
    lines = trained.program.good("status").stdout.splitlines()
    assert any(line.startswith(f"{trained.method}-1 ") and "succeeded" in line for line in lines)
    assert max(map(len, lines)) <= 80
    assert f"method     {trained.method.upper()}" in trained.program.good("status", f"{trained.method}-1").stdout


def test_there_is_a_line_a_step_and_sft_measures_no_rewards(trained: Trained) -> None:
    steps, passes = trained.metrics("train"), trained.metrics("val")
    assert [line["step"] for line in steps] == [line["step"] for line in passes] == [1, 2]
    for line in steps + passes:
        assert (line["rewards_chosen"] is None) == (trained.method == "sft")
        assert (line["logps_rejected"] is None) == (trained.method == "sft")
        assert line["logps_chosen"] < 0


def test_the_report_draws_what_was_measured_and_nothing_else(trained: Trained) -> None:
    page = (trained.results / "report.html").read_text()
    assert f"{trained.method}-1, {trained.method.upper()} on " in page
    assert "nothing was measured" not in page
    assert ("Reward margin" in page) == (trained.method != "sft")
    assert ("its accuracy" in page) == any(line["accuracy"] is not None for line in trained.metrics("val"))


def test_the_plan_prices_the_same_job_and_names_its_verb(trained: Trained) -> None:
    document = trained.program.document("plan", trained.method, *trained.named)
    assert document["chosen"] is not None
    text = trained.program.good("plan", trained.method, *trained.named).stdout
    assert f"To run it: launch {trained.method} --requirements {trained.method}.json" in text


def test_a_file_of_another_method_in_launch_toml_names_model_and_data(trained: Trained) -> None:
    done = trained.program.good("plan", trained.method)
    assert f"requirement.json is for DPO: what {trained.method.upper()} of its model and data needs" in done.stderr
    assert f"To run it: launch {trained.method}\n" in done.stdout


def test_both_stages_are_compared(trained: Trained) -> None:
    document = trained.program.document("eval", f"{trained.method}-1")
    assert document["measures"][0]["stage_a"]["n"] == 24


@pytest.mark.parametrize(
    "words", [("sft", "--beta", "1"), ("plan", "sft", "--beta", "1"), ("orpo", "--loss-type", "ipo")]
)
def test_a_flag_that_a_method_does_not_have_is_named(program: Program, words: tuple[str, ...]) -> None:
    done = program.run(*words)
    assert done.returncode == 2
    assert f"No such option: {words[-2]}" in done.stderr
