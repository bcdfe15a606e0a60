"""Launcher and driver are killed, or go away for good: the machine is taken over, or ends itself. Real SkyPilot."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from jobs import pull
from jobs.home import Home
from jobs.store import Store
from tests.acceptance.lambda_cloud.cloud import Cloud
from tests.acceptance.lambda_cloud.instances import NamespaceMachine
from tests.acceptance.lambda_cloud.renter import LIMIT_S, LINE, agrees_with_the_meter, driver_log, record_of
from tests.acceptance.processes import processes, steps_done
from tests.acceptance.program import Program
from tests.acceptance.terminal import Terminal
from tests.acceptance.waiting import until

NEVER_SENT = "a-secret-of-another-service"
Seen = Callable[[Program, Cloud, Store], bool]


def _in(state: str) -> Seen:
    return lambda program, cloud, store: store.job("dpo-1").state == state


def _recorded(field: str) -> Seen:
    def seen(program: Program, cloud: Cloud, store: Store) -> bool:
        record = record_of(program)
        return record is not None and getattr(record, field) is not None

    return seen


def _set_up(program: Program, cloud: Cloud, store: Store) -> bool:
    phase = store.job("dpo-1").phase
    return phase is not None and phase.name == "SkyPilot sets the machine up"


def _checkpoint_at_home(program: Program, cloud: Cloud, store: Store) -> bool:
    return any((program.state("dpo-1") / "work/checkpoints").glob("checkpoint-*"))


MOMENTS: dict[str, Seen] = {
    "the create call was made and has not answered": lambda program, cloud, store: bool(cloud.provider.everything()),
    "the machine boots": lambda program, cloud, store: "waiting for the machine" in driver_log(program),
    "it is active": _recorded("active_at"),
    "SkyPilot was asked": _recorded("launch_request"),
    "model and data are on their way": _in("syncing"),
    "SkyPilot sets the machine up": _set_up,
    "the first step was measured": lambda program, cloud, store: steps_done(program) >= 1,
    "a checkpoint has come home": _checkpoint_at_home,
    "it evaluates": _in("evaluating"),
    "the pull has begun": _in("pulling"),
    "the machine is being ended": _in("tearing_down"),
}


def _attention(store: Store) -> list[str]:
    return [one.code for one in store.job("dpo-1").attention]


def kill_drivers(program: Program) -> None:
    found = processes(program, "jobs.driver")
    for process in found:
        process.kill()
    psutil.wait_procs(found, timeout=30)


def test_killed_at_each_named_moment_the_job_goes_on_at_the_next_status(renter: Program, cloud: Cloud) -> None:
    """One job through all of them: at each moment its driver is killed (the launcher with it, the first time)."""
    cloud.faults.next("launch", delay_s=5)
    cloud.faults.next_boot(boot_s=8)
    launcher = renter.start(*LINE, "--max-steps", "200", "--eval-every", "20")
    until(lambda: (renter.home / "state/launch.sqlite").exists(), "the store", seconds=60)
    with Store.open(Home(renter.home / "state")) as store:
        until(lambda: bool(store.unfinished()), "the job", seconds=120)
        for name, seen in MOMENTS.items():
            until(
                lambda seen=seen: seen(renter, cloud, store) or store.job("dpo-1").state == "done",
                name,
                seconds=LIMIT_S,
                poll_s=0.004,
            )
            assert store.job("dpo-1").state != "done", f"it was over before {name}"
            if launcher.poll() is None:
                launcher.kill()
                launcher.communicate()
            kill_drivers(renter)
            if name == "a checkpoint has come home":  # whoever takes over in a network without SSH waits for it
                machine = cloud.machine(cloud.provider.everything()[0].name)
                machine.cut()
                renter.document("status")
                until(lambda: _attention(store) == ["unreachable"], "what is said of it", seconds=120)
                machine.restore()
                until(lambda: _attention(store) == [], "the machine again", seconds=120)
            else:
                renter.document("status")  # starts the next driver
        until(lambda: store.job("dpo-1").state == "done", "the end", seconds=LIMIT_S)
    until(lambda: not processes(renter, "jobs.driver"), "the report", seconds=60)
    row = renter.job("dpo-1")
    assert row["outcome"] == "succeeded", driver_log(renter)
    assert row["attention"] == []
    assert len(cloud.api.creates()) == 1
    assert (row["attempt"], row["step"]) == (1, 200)
    assert pull.results_are_whole(Path(row["results"]))
    assert (Path(row["results"]) / "eval.json").is_file()
    agrees_with_the_meter(renter, cloud)


@pytest.mark.full
def test_what_was_trained_while_nobody_looked_is_brought_home_by_the_next_pull(renter: Program, cloud: Cloud) -> None:
    launcher = renter.start(*LINE)
    until(lambda: steps_done(renter) >= 1, "the first step", seconds=LIMIT_S)
    launcher.kill()
    launcher.communicate()
    kill_drivers(renter)
    machine = cloud.machine(cloud.provider.everything()[0].name)
    phase = ["cat", "/home/ubuntu/launch/jobs/dpo-1/phase"]
    until(lambda: machine.run(phase).strip() == "finished", "the end of the task", seconds=LIMIT_S, poll_s=0.5)
    renter.run("pull", "dpo-1")
    until(lambda: renter.job("dpo-1")["state"] == "done", "the end", seconds=LIMIT_S, poll_s=0.5)
    until(lambda: not processes(renter, "jobs.driver"), "the report", seconds=60)
    row = renter.job("dpo-1")
    assert row["outcome"] == "succeeded", driver_log(renter)
    assert pull.results_are_whole(Path(row["results"]))
    assert (Path(row["results"]) / "eval.json").is_file()
    assert len(cloud.api.creates()) == 1
    agrees_with_the_meter(renter, cloud)


def test_ctrl_c_stops_the_watching_and_cancel_brings_home_what_there_is(renter: Program, cloud: Cloud) -> None:
    for name in (".aws/credentials", ".cache/huggingface/token", ".ssh/id_ed25519", ".config/gcloud/key.json"):
        (renter.home / name).parent.mkdir(parents=True, exist_ok=True)
        (renter.home / name).write_text(f"aws_secret_access_key = {NEVER_SENT}\n")
    argv = [sys.executable, "-m", "launcher", *LINE, "--max-steps", "2000", "--eval-every", "20"]
    terminal = Terminal(argv, folder=str(renter.folder), environ=renter.variables())
    terminal.until(lambda screen: "training: step" in screen, "the training", seconds=LIMIT_S)
    assert "of $5.00, gpu_1x_" in str(terminal.screen)
    until(lambda: (renter.state("dpo-1") / "work/adapter").is_dir(), "an adapter at home", seconds=LIMIT_S)
    _nothing_else_travelled(cloud.machine(cloud.provider.everything()[0].name), cloud.key)
    assert terminal.interrupt() == 130
    assert len(cloud.provider.everything()) == 1, "Ctrl-C ended the job"
    renter.good("cancel", "dpo-1")
    until(lambda: renter.job("dpo-1")["state"] == "done", "the end", seconds=LIMIT_S, poll_s=0.5)
    until(lambda: not processes(renter, "jobs.driver"), "the report", seconds=60)
    row = renter.job("dpo-1")
    assert row["outcome"] == "cancelled"
    assert (Path(row["results"]) / "adapter/adapter_model.safetensors").is_file()
    agrees_with_the_meter(renter, cloud)


def _nothing_else_travelled(machine: NamespaceMachine, key: str) -> None:
    """Of a HOME full of credentials the Lambda key alone is on the machine, where docs/security.md says."""
    places = ["/home", "/root", "/etc", "/var/lib", "/tmp", "/opt/first_process.py", "/run"]
    assert machine.run(["grep", "-rl", NEVER_SENT, *places], check=False) == ""
    holders = machine.run(["grep", "-rl", key, *places], check=False).split()
    assert {file for file in holders if not file.startswith(("/var/lib/launch-guard/", "/home/ubuntu/"))} == set()
    for file in holders:
        assert machine.run(["stat", "-c", "%a", file]).strip() in ("600", "400"), file
    assert machine.run(["stat", "-c", "%U %a", "/var/lib/launch-guard"]).split() == ["root", "700"]


def _end_all_of_ours(renter: Program) -> None:
    """What a computer that is gone takes with it: launcher, driver, SkyPilot's server and its workers."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME", "").startswith(str(renter.home)):
                process.kill()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue


def test_with_the_launcher_gone_for_good_the_machine_ends_itself(renter: Program, cloud: Cloud) -> None:
    """Nothing of ours is left on this computer: what holds is on the machine, though the API fails it at first."""
    launcher = renter.start(*LINE, "--hold", "0.4")
    until(lambda: steps_done(renter) >= 1, "the first step", seconds=LIMIT_S)
    cloud.faults.next("terminate", answer=500, times=3)
    _end_all_of_ours(renter)
    launcher.communicate()
    until(lambda: not cloud.provider.everything(), "the machine's own end", seconds=LIMIT_S)
    assert len(cloud.api.log("POST", "/instance-operations/terminate")) >= 4
    (reading,) = cloud.meter.read()[-1:]
    assert reading.billed_s / 3600 * 2 < 5, "the budget"
    _accounted_for(renter, cloud)


@pytest.mark.full
def test_with_the_launcher_gone_for_good_in_a_long_training_the_budgets_deadline_ends_the_machine(
    renter: Program, cloud: Cloud
) -> None:
    """No `--hold`, a training that would go on for hours, and $0.60: half an hour of the machine."""
    budget = 0.60
    words = [word if word != "5" else f"{budget:g}" for word in LINE if word not in ("--max-steps", "12")]
    launcher = renter.start(*words, "--epochs", "4000", "--max-steps", "40000", "--partial")
    until(lambda: steps_done(renter) >= 1, "the first step", seconds=LIMIT_S)
    _end_all_of_ours(renter)
    launcher.communicate()
    until(lambda: not cloud.provider.everything(), "the budget's deadline", seconds=1800, poll_s=1)
    (reading,) = cloud.meter.read()[-1:]
    assert 0.5 * budget < reading.usd <= budget
    _accounted_for(renter, cloud)


def _accounted_for(renter: Program, cloud: Cloud) -> None:
    renter.document("status")
    until(lambda: renter.job("dpo-1")["state"] == "done", "the account", seconds=120, poll_s=0.5)
    until(lambda: not processes(renter, "jobs.driver"), "the report", seconds=60)
    row = renter.job("dpo-1")
    assert row["outcome"] == "failed"
    assert "is gone" in row["error"]
    agrees_with_the_meter(renter, cloud)
