"""`launch plan dpo` with prices, as a person types it. The prices are those of catalogues made for the tests."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tests.acceptance.program import Program, edit_requirement
from tests.bench.plan_speed import process_time
from tests.bench.sample_jobs import EIGHT_B
from tests.catalogues.files import LAMBDA, lambda_rows, write, write_full_size, write_small


@pytest.fixture
def priced(small: Program, tmp_path: Path) -> Program:
    folder = write_small(tmp_path / "catalogs")
    return replace(small, environ={**small.environ, "LAUNCH_CATALOGS": str(folder)})


def test_the_table_shows_every_cloud_and_this_machine_within_80_columns(priced: Program) -> None:
    done = priced.good("plan", "dpo", "--budget", "5")
    table = done.stdout.splitlines()
    assert max(map(len, table)) <= 80
    assert any("lambda A100 $1.99/h" in line and line.endswith("fits") for line in table)
    assert any("aws A10G $1.01/h" in line and line.endswith("fits") for line in table)
    assert any(line.startswith(">") and "local CPU" in line for line in table)
    assert "Rests on: " in done.stdout
    assert "steps of dpo-" not in done.stdout  # nothing has run here yet


def test_a_plan_as_a_document_says_what_each_hour_is_made_of(priced: Program) -> None:
    plan = priced.document("plan", "dpo", "--budget", "5")
    assert (plan["schema"], plan["budget_usd"]) == ("plan/1", 5.0)
    rented = [offer for offer in plan["offers"] if offer["cloud"] == "lambda" and not offer["spot"]]
    assert rented
    for offer in rented:
        assert offer["fits"] == (offer["gpu"] != "GH200")  # ARM
        assert offer["cost_worst"] <= 5.0
        hours = sum(phase["hours_expected"] for phase in offer["phases"])
        assert offer["cost_expected"] == pytest.approx(hours * offer["price_per_hour"])
        assert "assumed" in offer["basis"]
    assert plan["budget_needed_usd"] > 0


def test_a_cloud_without_a_budget_says_what_it_would_cost_there(priced: Program) -> None:
    first = priced.good("plan", "dpo", "--cloud", "lambda").stdout.splitlines()[0]
    assert first.startswith("--cloud lambda without --budget buys nothing")
    assert "expected to cost $" in first
    done = priced.in_folder(priced.folder).good("dpo", "--dry-run", "--yes", "--cloud", "lambda")
    assert done.stderr.splitlines()[0] == first


def test_before_the_question_of_money_stands_what_one_decides_it_from(priced: Program) -> None:
    done = priced.run("dpo", "--yes", "--budget", "5", "--cloud", "lambda")
    assert done.returncode == 4  # there is no key here
    said = done.stderr.splitlines()
    chosen = next(line for line in said if line.startswith(">"))
    assert chosen.endswith("fits")
    assert "Time: boot " in done.stderr
    assert "Rests on: " in done.stderr
    assert said.index(chosen) < next(at for at, line in enumerate(said) if "no key of Lambda" in line)
    free = priced.good("dpo", "--yes", "--dry-run")
    assert "where" not in free.stderr


def test_without_a_catalogue_the_command_that_gets_one_is_said(small: Program, tmp_path: Path) -> None:
    bare = replace(small, environ={**small.environ, "LAUNCH_CATALOGS": str(tmp_path / "none")})
    done = bare.good("plan", "dpo", "--cloud", "lambda")
    assert "no price catalogue of lambda; get it: " in done.stderr
    assert (
        "What it would cost there: mkdir -p ~/.sky/catalogs/v8 && cd ~/.sky/catalogs/v8 && python -m sky"
        in done.stdout.splitlines()[0]
    )


def test_a_run_that_finished_is_what_later_plans_rest_on(priced: Program) -> None:
    priced.good("dpo", "--yes", "--max-steps", "24")
    plan = priced.document("plan", "dpo")
    assert plan["offers"][plan["chosen"]["offer"]]["basis"].startswith("21 steps of dpo-1 on this CPU")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--gpu", "A1000"), 2, "no GPU is called A1000. Did you mean A100?"),
        (("--instance-type", "p3.2xlarge"), 2, "AWS has retired p3"),
        (("--instance-type", "gpu_1x_a1"), 2, "Did you mean gpu_1x_a10?"),
        (("--region", "nowhere"), 2, "there is no nowhere"),
        (("--gpu", "T4"), 2, "no machine of this plan has a T4"),
        (("--gpu", "V100"), 2, "AWS has retired p3 (V100). What replaces it: g6e.xlarge"),
        (("--instance-type", "p3.2xlarge"), 2, "In this catalogue: g5.xlarge (A10G, 24 GB, $1.01/h), g6e.xlarge"),
    ],
)
def test_what_cannot_be_had_is_said_with_what_to_type(
    priced: Program, words: tuple[str, ...], code: int, says: str
) -> None:
    done = priced.run("plan", "dpo", "--budget", "5", *words)
    assert done.returncode == code
    assert says in done.stdout + done.stderr
    assert "Next: " in done.stderr


def test_memory_alone_is_priced_by_the_hour_and_is_no_job(priced: Program) -> None:
    (priced.folder / "other.json").write_text('{"hardware": {"min_vram_gb": "28 GB"}}')
    done = priced.good("plan", "dpo", "--requirements", "other.json", "--budget", "5")
    assert "is 26.08 GiB" in done.stdout
    assert any("A100" in line and "$1.99" in line and "2.5" in line for line in done.stdout.splitlines())
    plan = priced.document("plan", "dpo", "--requirements", "other.json", "--budget", "5")
    assert (plan["chosen"], plan["steps"]) == (None, None)
    assert all(offer["hours_expected"] is None for offer in plan["offers"])
    job = priced.run("dpo", "--yes", "--requirements", "other.json")
    assert job.returncode == 2
    assert "--model PATH|ID --train FILE" in job.stderr
    assert json.loads(priced.good("status", "--json").stdout)["jobs"] == []


@pytest.mark.parametrize("words", [(), ("--budget", "5")])
def test_memory_that_no_machine_has_is_3_with_the_nearest_first(priced: Program, words: tuple[str, ...]) -> None:
    (priced.folder / "other.json").write_text('{"min_vram_gb": 500}')
    done = priced.run("plan", "dpo", "--requirements", "other.json", *words)
    assert done.returncode == 3
    sentence, nothing, _, *rows = done.stdout.splitlines()
    assert "is 465.66 GiB" in sentence
    assert nothing == "Nothing fits. The nearest machines:"
    assert "GH200" in rows[0]
    sizes = [float(row.rpartition("has ")[2].removesuffix(" GiB")) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert max(map(len, rows)) <= 80
    assert "Next: " in done.stderr
    assert priced.run("plan", "dpo", "--requirements", "other.json", "--json", *words).returncode == 3


def test_a_requirement_that_no_machine_meets_is_3_with_the_nearest_first(priced: Program) -> None:
    options = [
        {"name": name, "device": "cuda", "gpus": 1, "min_vram_gib": gib, "flop_per_step": 1e12}
        for name, gib in (("larger", 400), ("smaller", 300))
    ]
    edit_requirement(priced.folder, ("options",), options)
    edit_requirement(priced.folder, ("workload", "model", "parameters"), None)
    done = priced.run("plan", "dpo", "--budget", "5")
    assert done.returncode == 3
    assert done.stdout.startswith("Nothing fits.")
    best = next(line for line in done.stdout.splitlines() if line.endswith("GPU too small"))
    assert "H100" in best
    assert "smaller" in best
    job = priced.run("dpo", "--yes", "--budget", "5")
    assert job.returncode == 3
    assert "GPU memory: 300.0 GiB, has 79.1 GiB" in job.stderr
    assert priced.document("status")["jobs"] == []


def test_each_fault_of_a_catalogue_is_named_and_its_good_rows_are_used(priced: Program) -> None:
    rows = lambda_rows(("us-east-1",))
    by_kind = {str(row["InstanceType"]): row for row in rows}
    by_kind["gpu_1x_a10"]["Price"] = "nan"
    by_kind["gpu_8x_a100"]["Price"] = "0"
    by_kind["gpu_1x_h100_pcie"]["Price"] = "0.01"
    folder = Path(priced.environ["LAUNCH_CATALOGS"])
    lambdas = write(folder / "lambda" / "vms.csv", LAMBDA, [*rows, by_kind["gpu_1x_a100_sxm4"]])
    day = 24 * 3600
    now = lambdas.stat().st_mtime
    os.utime(folder / "aws" / "vms.csv", (now, now + 30 * day))
    done = priced.good("plan", "dpo", "--budget", "5")
    for fault in (
        "1 row is not used: its price is nan (line 2)",
        "1 row is not used: its price is 0 (line 4)",
        "1 row is not used: it repeats an earlier one (line 7)",
        "lambda gpu_1x_h100_pcie is not used: $0.01 an hour for a H100 cannot be",
        "are not used: their prices are from the future",
    ):
        assert sum(fault in line for line in done.stderr.splitlines()) == 1, (fault, done.stderr)
    rented = [line.split()[1] for line in done.stdout.splitlines() if "/h" in line]
    assert rented == ["A100", "GH200"]
    os.utime(folder / "aws" / "vms.csv", (now, now - 3 * day))
    (folder / "lambda" / "vms.csv").unlink()
    again = priced.good("plan", "dpo", "--budget", "5")
    assert "prices are 3 days old" in again.stderr
    assert "there is no price catalogue of lambda; get it: " in again.stderr
    assert "the catalogue of lambda has lost 2 of 2 kinds of machines" in again.stderr


def test_p3_in_an_older_catalogue_is_planned_and_said_to_be_retired(priced: Program) -> None:
    file = Path(priced.environ["LAUNCH_CATALOGS"]) / "aws" / "vms.csv"
    text = file.read_text()
    file.write_text(text + text.splitlines()[1].replace("g5.xlarge", "p3.2xlarge").replace("A10G", "V100") + "\n")
    done = priced.run("plan", "dpo", "--budget", "5", "--instance-type", "p3.2xlarge")
    assert "note: AWS has retired p3 (V100). What replaces it: g6e.xlarge" in done.stderr
    assert "aws V100" in done.stdout


def test_memory_alone_is_priced_by_the_hour_without_a_budget_too(priced: Program) -> None:
    (priced.folder / "other.yaml").write_text("hardware:\n  min_vram_gb: 28\n")
    done = priced.good("plan", "dpo", "--requirements", "other.yaml")
    assert any("lambda A100" in line and "$1.99" in line for line in done.stdout.splitlines())


def test_hours_follow_from_the_files_own_measurement_before_an_environment_is_made(priced: Program) -> None:
    """Another state folder, and no trainer: nothing was measured there."""
    row = {"machine": socket.gethostname(), "device": "cpu", "name": "x", "precision": "fp32", "flop_per_s": 1e10,
           "measured_at": "2026-11-24T00:00:00+00:00"}  # fmt: skip
    rows = [row, row | {"precision": "bf16"}]
    edit_requirement(priced.folder, ("measured",), rows)
    bare = replace(
        priced, environ={**priced.environ, "LAUNCH_TRAIN_PYTHON": "", "LAUNCH_HOME": str(priced.home / "new")}
    )
    done = bare.good("plan", "dpo")
    assert "measured 2026-11-24 (requirement file)" in done.stdout
    assert "No hours here yet" not in done.stdout


@pytest.mark.parametrize("budget", ["0.5", "50"])
def test_a_plan_over_a_catalogue_of_40_000_rows_takes_at_most_a_second_of_process_time(
    small: Program, tmp_path: Path, budget: str
) -> None:
    """With the commands that would fit where nothing does. The least of three: others are at work beside it."""
    (small.folder / "need.json").write_text(EIGHT_B.model_dump_json(by_alias=True))
    catalogs = write_full_size(tmp_path / "catalogs", 40_000)
    assert (catalogs / "aws" / "vms.csv").read_text().count("\n") > 40_000
    environ = small.variables() | {"LAUNCH_CATALOGS": str(catalogs), "PYTHONSAFEPATH": "1"}
    words = ("--requirements", "need.json", "--budget", budget)
    assert min(process_time(small.folder, environ, words) for _ in range(3)) <= 1.0
