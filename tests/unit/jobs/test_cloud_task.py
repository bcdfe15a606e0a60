"""The task that SkyPilot gets is the file in `sky/` with its job's fields set; SkyPilot itself accepts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.cloud_task import early_pull, sky_data, submitted, task_document, task_text
from train.config import RunConfig

ROOT = Path(__file__).resolve().parents[3]


def document(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "job": "dpo-7", "cloud": "lambda", "region": "us-east-1", "instance_type": "gpu_1x_a100_sxm4",
        "idle_minutes": 95,
    }  # fmt: skip
    return task_document(**fields | changes)


def test_the_fields_of_the_job_are_set_and_the_script_is_the_files_own() -> None:
    mounts = {"~/launch/jobs/dpo-7/run.json": "/home/me/runs/dpo-7/run.json"}
    task = document(envs={"LAUNCH_RESERVE_S": "240"}, file_mounts=mounts)
    script = task.pop("run")
    assert script == yaml.safe_load(sky_data("dpo.yaml").read_text())["run"]
    assert task == {
        "name": "launch-dpo-7",
        "resources": {
            "infra": "lambda/us-east-1",
            "instance_type": "gpu_1x_a100_sxm4",
            "autostop": {"idle_minutes": 95, "down": True, "wait_for": "none"},
        },
        "envs": {
            "LAUNCH_JOB": "dpo-7",
            "LAUNCH_METHOD": "dpo",
            "LAUNCH_CONTAINER": "auto",
            "LAUNCH_IMAGE": "docker.io/pytorch/pytorch"
            "@sha256:db80a41f8428644cebcb3d75b0b62df334ab6c0e75785951eb25f48bfbd42407",
            "LAUNCH_IMAGE_CUDA12": "docker.io/pytorch/pytorch"
            "@sha256:6acf597eeb8e376a96580dde4952f37cc017fef732bb40bfc73f28f25e3f64b4",
            "LAUNCH_RESERVE_S": "240",
            "LAUNCH_EVALUATE_S": "0",
        },
        "file_mounts": mounts,
    }


def test_the_method_is_a_field_and_the_file_by_itself_trains_dpo() -> None:
    assert document(job="kto-7", method="kto")["envs"]["LAUNCH_METHOD"] == "kto"
    assert yaml.safe_load(sky_data("dpo.yaml").read_text())["envs"]["LAUNCH_METHOD"] == "dpo"


def test_what_is_submitted_has_no_mounts_and_waits_for_the_transfer_first() -> None:
    task = document(file_mounts={"~/a": "/a"})
    before = json.dumps(task)
    sent = submitted(task, wait_s=900)
    assert json.dumps(task) == before
    assert "file_mounts" not in sent
    assert sent["envs"] == task["envs"] | {"LAUNCH_SYNC_WAIT_S": "900"}
    wait, script = sent["run"][: -len(task["run"])], sent["run"][-len(task["run"]) :]
    assert script == task["run"]
    assert "SYNCED" in wait
    assert {key: sent[key] for key in sent if key not in ("envs", "run")} == {
        key: task[key] for key in task if key not in ("envs", "run", "file_mounts")
    }


def test_a_name_with_shell_words_in_it_stays_one_value() -> None:
    script = early_pull(document(envs={"LAUNCH_IMAGE": "it's; touch /tmp/x", "LAUNCH_CONTAINER": "none"}))
    said = subprocess.run(
        ["bash", "-c", script + '\necho "not reached"'], capture_output=True, text=True, check=True, timeout=30
    )
    assert said.stdout == ""  # no container is wanted, so that nothing is pulled


def test_the_text_for_people_is_the_same_task_with_the_script_as_lines() -> None:
    task = document(file_mounts={"~/a": "/home/me/näme with spaces"})
    text = task_text(task)
    assert yaml.safe_load(text) == task
    assert "\nrun: |\n  set -euo pipefail\n" in text


def test_the_script_is_bash_that_parses() -> None:
    for task in (document(), submitted(document(), wait_s=1)):
        subprocess.run(["bash", "-n"], input=task["run"], text=True, check=True)


def test_the_example_is_a_run_of_the_trainer_on_what_the_task_mounts() -> None:
    config = RunConfig.model_validate_json(sky_data("example-run.json").read_bytes())
    task = yaml.safe_load(sky_data("dpo.yaml").read_text())
    assert (config.job, config.method) == (task["envs"]["LAUNCH_JOB"], task["envs"]["LAUNCH_METHOD"])
    mounted = {target.replace("~", "/home/ubuntu", 1) for target in task["file_mounts"]}
    for needed in (config.model.base, config.model.adapter, config.data.train, config.data.val):
        assert str(needed) in mounted
    for source in task["file_mounts"].values():
        if not source.startswith("./sample/"):  # `launch demo sample` makes these
            assert (ROOT / source).exists(), source


def _python_with_skypilot() -> str | None:
    if (named := os.environ.get("LAUNCH_TEST_SKY_PYTHON")) is not None:
        return named
    return sys.executable if any(dist.name == "skypilot" for dist in metadata.distributions()) else None


READ = """
import json, sys, yaml, sky
for text in json.load(sys.stdin):
    task = sky.Task.from_yaml_config(yaml.safe_load(text))
    (resources,) = task.resources
    autostop = resources.autostop_config
    print(json.dumps([task.name, resources.infra.to_str(), resources.instance_type,
          [autostop.idle_minutes, autostop.down, str(autostop.wait_for)], sorted(task.file_mounts or {})]))
"""


def test_skypilot_itself_accepts_the_file_the_task_and_what_is_submitted(tmp_path: Path) -> None:
    python = _python_with_skypilot()
    if python is None:
        pytest.skip("SkyPilot is not installed here, and LAUNCH_TEST_SKY_PYTHON names no interpreter that has it")
    source = tmp_path / "run.json"
    source.write_text("{}")
    task = document(file_mounts={"~/launch/jobs/dpo-7/run.json": str(source)})
    texts = [sky_data("dpo.yaml").read_text(), task_text(task), task_text(submitted(task, wait_s=900))]
    said = subprocess.run(
        [python, "-c", READ],
        input=json.dumps(texts),
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"], "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    of_file, of_task, of_submitted = (json.loads(line) for line in said.stdout.splitlines() if line.startswith("["))
    assert of_file[:3] == ["launch-dpo", "lambda", "gpu_1x_a10"]
    assert len(of_file[4]) == 7
    named = ["launch-dpo-7", "lambda/us-east-1", "gpu_1x_a100_sxm4"]
    assert (of_task[:3], of_submitted[:3]) == (named, named)
    assert of_task[3][:2] == of_submitted[3][:2] == [95, True]
    assert "none" in of_task[3][2].lower()
    assert (of_task[4], of_submitted[4]) == (["~/launch/jobs/dpo-7/run.json"], [])
