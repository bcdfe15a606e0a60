"""`sky/deadline` as a process of its own against Lambda's API on loopback: what it ends, and what cannot stop it."""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jobs import guard
from tests.acceptance.waiting import until
from tests.integration.jobs.loopback_lambda import KEY, LIST, TERMINATE, Fault, LoopbackLambda, serving

NAME = "launch-abc123-dpo-1-1-0011aabb-head"
LONG_S = 3600.0


@pytest.fixture
def cloud() -> Iterator[LoopbackLambda]:
    with serving(LoopbackLambda()) as cloud:
        yield cloud


@dataclass
class Machine:
    """The folders that the guard has on a rented machine, and its processes."""

    root: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])

    @property
    def folder(self) -> Path:
        return self.root / "guard"

    @property
    def published(self) -> Path:
        return self.root / "run" / "launch-deadline"

    @property
    def log(self) -> Path:
        return self.root / "guard.log"

    @property
    def phase(self) -> Path:
        return self.root / "job" / "phase"

    def configure(self, address: str, allowed_s: float, hold_s: float | None = None) -> None:
        for folder in (self.folder, self.published.parent, self.phase.parent):
            folder.mkdir()
        config = {"name": NAME, "api": address, "key": KEY, "allowed_s": allowed_s, "hold_s": hold_s,
                  "job_folder": str(self.phase.parent), "tick_s": 0.05}  # fmt: skip
        (self.folder / "config.json").write_text(json.dumps(config))
        (self.root / "boot_id").write_text("first\n")

    def command(self, verb: str) -> list[str]:
        return [
            sys.executable, str(guard.script_file()), verb, "--folder", str(self.folder), "--published",
            str(self.published), "--log", str(self.log), "--boot-id", str(self.root / "boot_id"),
        ]  # fmt: skip

    def start(self) -> subprocess.Popen[bytes]:
        self.running.append(subprocess.Popen(self.command("run"), env={}))
        return self.running[-1]

    def state(self) -> dict[str, float]:
        return json.loads((self.folder / "state.json").read_text())

    def ticks(self, what: str) -> None:
        """Returns once the guard has looked at the world again, and lives."""
        before = self.state()["elapsed_boot_s"]
        until(lambda: self.state()["elapsed_boot_s"] > before + 0.1, what, seconds=30)
        assert self.running[-1].poll() is None

    def deadline(self) -> int:
        until(self.published.exists, "a deadline", seconds=30)
        return int(self.published.read_text())

    def kill(self) -> None:
        self.running[-1].kill()
        self.running[-1].wait()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    for process in machine.running:
        process.kill()
        process.wait()


def ended(cloud: LoopbackLambda) -> None:
    until(lambda: not cloud.named(NAME), "the end of the machine", seconds=60)


def test_it_ends_what_has_exactly_its_name_when_time_is_up_and_not_before(
    cloud: LoopbackLambda, machine: Machine
) -> None:
    cloud.add(NAME)
    cloud.add(NAME, status="unhealthy")
    others = [cloud.add(f"{NAME}-2"), cloud.add(NAME.upper()), cloud.add(None), cloud.add("launch-zzz999-dpo-1-1-head")]
    machine.configure(cloud.address, allowed_s=2)
    start, start_wall = time.monotonic(), time.time()
    machine.start()
    assert start_wall + 1 <= machine.deadline() <= time.time() + 2
    ended(cloud)
    assert time.monotonic() - start >= 2
    assert list(cloud.machines) == others
    assert all(set(body["instance_ids"]).isdisjoint(others) for what, body in cloud.asked if what == TERMINATE)


def test_the_key_is_roots_alone_and_in_no_log_argument_or_environment(cloud: LoopbackLambda, machine: Machine) -> None:
    cloud.add(NAME)
    cloud.faults[LIST] = [Fault(401, "global/invalid-api-key", body=KEY.encode())]
    machine.configure(cloud.address, allowed_s=1)
    process = machine.start()
    ended(cloud)
    assert "Unauthorized" in machine.log.read_text()
    for file in (
        machine.log,
        machine.published,
        Path(f"/proc/{process.pid}/cmdline"),
        Path(f"/proc/{process.pid}/environ"),
    ):
        assert KEY.encode() not in file.read_bytes()
    assert stat.S_IMODE(machine.published.stat().st_mode) == 0o644
    assert stat.S_IMODE((machine.folder / "state.json").stat().st_mode) == 0o600


def test_a_provider_that_refuses_fails_lies_and_hangs_up_is_asked_until_the_machine_is_gone(
    cloud: LoopbackLambda, machine: Machine
) -> None:
    cloud.add(NAME)
    cloud.faults[LIST] = [
        Fault(429), Fault(503, body=b"<html>"), Fault(200, body=b"<html>"), Fault(200, body=b'{"data": null}'),
        Fault(200, body=b'{"data": ["x"]}'), Fault(200, body=b'{"data": []}'), Fault(cut=True), Fault(302),
        Fault(200, body=b"\xff" * 100),
    ]  # fmt: skip
    cloud.faults[TERMINATE] = [Fault(429), Fault(500), Fault(200), Fault(200), Fault(cut=True)]
    machine.configure(cloud.address, allowed_s=0.5)
    machine.start()
    ended(cloud)
    assert not cloud.faults[LIST]
    assert not cloud.faults[TERMINATE]
    until(lambda: "no longer listed" in machine.log.read_text(), "a look at the list afterwards")


def test_a_provider_that_cannot_be_reached_is_tried_until_it_can(machine: Machine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        machine.configure(f"http://127.0.0.1:{port}", allowed_s=0.2)
        machine.start()
        until(lambda: machine.log.exists() and "refused" in machine.log.read_text(), "a refused connection")
    cloud = LoopbackLambda()
    cloud.add(NAME)
    with serving(cloud, port):
        ended(cloud)


def test_the_key_follows_no_redirect(cloud: LoopbackLambda, machine: Machine) -> None:
    cloud.add(NAME)
    other = LoopbackLambda()
    with serving(other):
        cloud.faults[LIST] = [Fault(307, headers=(("Location", f"{other.address}/api/v1/instances"),))]
        machine.configure(cloud.address, allowed_s=0.2)
        machine.start()
        ended(cloud)
    assert other.asked == []


def test_one_that_was_killed_goes_on_with_the_same_deadline(cloud: LoopbackLambda, machine: Machine) -> None:
    cloud.add(NAME)
    machine.configure(cloud.address, allowed_s=6)
    start = time.monotonic()
    machine.start()
    deadline = machine.deadline()
    machine.ticks("a second look")
    machine.kill()
    machine.published.unlink()
    machine.start()
    assert abs(machine.deadline() - deadline) <= 1
    ended(cloud)
    assert time.monotonic() - start >= 6


def test_after_a_reboot_what_ran_before_it_counts(cloud: LoopbackLambda, machine: Machine) -> None:
    """Another boot, and a wall clock that was set back by a day meanwhile: the boot clock alone tells."""
    cloud.add(NAME)
    machine.configure(cloud.address, allowed_s=LONG_S)
    machine.start()
    machine.deadline()
    machine.ticks("a second look")
    machine.kill()
    state = machine.state()
    state.update(elapsed_boot_s=LONG_S - 1, wall=state["wall"] + 86400, armed_wall=state["armed_wall"] + 86400)
    (machine.folder / "state.json").write_text(json.dumps(state))
    (machine.root / "boot_id").write_text("second\n")
    machine.start()
    ended(cloud)


def test_a_clock_set_back_moves_the_published_deadline_along(cloud: LoopbackLambda, machine: Machine) -> None:
    machine.configure(cloud.address, allowed_s=LONG_S)
    machine.start()
    deadline = machine.deadline()
    machine.kill()
    state = machine.state()  # as it would be had the clock shown another day then
    state.update(wall=state["wall"] + 86400, armed_wall=state["armed_wall"] + 86400)
    (machine.folder / "state.json").write_text(json.dumps(state))
    machine.published.unlink()
    machine.start()
    assert abs(machine.deadline() - deadline) <= 2


def test_a_deadline_that_somebody_removes_or_changes_is_published_again(
    cloud: LoopbackLambda, machine: Machine
) -> None:
    machine.configure(cloud.address, allowed_s=LONG_S)
    machine.start()
    deadline = machine.deadline()
    near = {f"{deadline + off}\n" for off in (-1, 0, 1)}
    for text in (None, "", "9999999999\n"):
        machine.published.unlink()
        if text is not None:
            machine.published.write_text(text)
        until(lambda: machine.published.exists() and machine.published.read_text() in near, "the deadline", seconds=30)


def test_a_state_that_cannot_be_read_counts_from_the_first_start(cloud: LoopbackLambda, machine: Machine) -> None:
    machine.configure(cloud.address, allowed_s=LONG_S)
    first = time.time() - LONG_S + 100
    os.utime(machine.folder / "config.json", (first, first))
    for text in ("", "{}", "[]", '{"wall": "x"}', "\x00" * 50):
        (machine.folder / "state.json").write_text(text)
        machine.published.unlink(missing_ok=True)
        machine.start()
        assert abs(machine.deadline() - (first + LONG_S)) <= 2
        machine.kill()


def test_a_state_that_cannot_be_written_keeps_nothing_alive(cloud: LoopbackLambda, machine: Machine) -> None:
    cloud.add(NAME)
    machine.configure(cloud.address, allowed_s=1)
    (machine.folder / "state.json.new").mkdir()  # as a full disk: no new file, root or not
    machine.start()
    ended(cloud)
    assert "state.json cannot be written" in machine.log.read_text()


def test_results_are_held_from_the_end_of_the_job_and_then_it_ends(cloud: LoopbackLambda, machine: Machine) -> None:
    cloud.add(NAME)
    machine.configure(cloud.address, allowed_s=LONG_S, hold_s=2)
    machine.phase.write_text("training\n")
    machine.start()
    deadline = machine.deadline()
    machine.ticks("a look at a job in training")
    finished, finished_wall = time.monotonic(), time.time()
    machine.phase.with_suffix(".new").write_text("finished\n")
    machine.phase.with_suffix(".new").replace(machine.phase)
    until(lambda: machine.deadline() < deadline - 100, "the earlier deadline")
    assert finished_wall + 1 <= machine.deadline()
    ended(cloud)
    assert time.monotonic() - finished >= 2


def test_without_a_hold_or_with_another_run_nothing_ends_early(cloud: LoopbackLambda, machine: Machine) -> None:
    machine.configure(cloud.address, allowed_s=LONG_S, hold_s=LONG_S / 2)
    machine.phase.write_text("finished\n")
    machine.start()
    deadline = machine.deadline()
    machine.phase.write_text("training\n")
    until(lambda: machine.deadline() > deadline + 100, "the deadline of the budget")
    assert machine.state()["finished_at_s"] is None


@pytest.mark.parametrize("thing", ["folder", "pipe", "link", "socket", "long", "bytes"])
def test_whatever_the_job_leaves_in_place_of_its_phase_the_guard_goes_on(
    cloud: LoopbackLambda, machine: Machine, thing: str
) -> None:
    cloud.add(NAME)
    machine.configure(cloud.address, allowed_s=1, hold_s=0)
    if thing == "folder":
        machine.phase.mkdir()
    elif thing == "pipe":
        os.mkfifo(machine.phase)
    elif thing == "link":
        machine.phase.symlink_to("/dev/zero")
    elif thing == "socket":
        os.mknod(machine.phase, 0o600 | stat.S_IFSOCK)
    else:
        machine.phase.write_bytes(b"finished " * 100000 if thing == "long" else b"\xff\x00")
    start = time.monotonic()
    machine.start()
    ended(cloud)
    assert time.monotonic() - start >= 1


def test_a_second_copy_ends_at_once_and_the_first_goes_on(cloud: LoopbackLambda, machine: Machine) -> None:
    machine.configure(cloud.address, allowed_s=LONG_S)
    first = machine.start()
    machine.deadline()
    assert machine.start().wait(30) == 3
    assert first.poll() is None


def copies(machine: Machine) -> list[int]:
    """Processes of this guard, the shell that starts it again included."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended meanwhile
            if str(machine.folder).encode() in words:
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="systemd runs here: arming would install a unit in it")
def test_arming_fixes_the_deadline_before_it_returns_and_leaves_a_guard_that_is_started_again(
    cloud: LoopbackLambda, machine: Machine
) -> None:
    machine.configure(cloud.address, allowed_s=LONG_S)
    try:
        armed = subprocess.run(machine.command("arm"), check=True, timeout=60, capture_output=True, text=True)
        assert (armed.stdout, armed.stderr) == ("", "")
        deadline = int(machine.published.read_text())
        until(lambda: "armed" in machine.log.read_text() if machine.log.exists() else False, "the guard")
        subprocess.run(machine.command("arm"), check=True, timeout=60)
        (shell, child) = sorted(copies(machine))
        os.kill(child, signal.SIGKILL)
        until(lambda: machine.log.read_text().count("armed") == 2, "the guard again", seconds=60)
        assert abs(int(machine.published.read_text()) - deadline) <= 1
        assert shell in copies(machine)
    finally:
        for _ in range(10):
            for pid in sorted(copies(machine)):
                with contextlib.suppress(ProcessLookupError):  # its shell was the one that it ended with
                    os.kill(pid, signal.SIGKILL)
    assert copies(machine) == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
def test_systemd_takes_the_unit_as_it_is_written(tmp_path: Path) -> None:
    """No machine of the tests runs systemd, and those at the providers do."""
    unit = tmp_path / "launch-guard.service"
    script = str(guard.script_file())
    unit.write_text(str(runpy.run_path(script)["UNIT"]) % f"{sys.executable} {script} run --folder {tmp_path}")
    said = subprocess.run(["systemd-analyze", "verify", unit], check=False, capture_output=True, text=True, timeout=60)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


# ---- where powering off ends the machine ----


def test_without_a_key_time_up_is_the_power_off(tmp_path: Path) -> None:
    programs, said = tmp_path / "bin", tmp_path / "asked"
    programs.mkdir()
    (programs / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {said}\n')
    (programs / "systemctl").chmod(0o755)
    machine = Machine(tmp_path / "machine")
    machine.root.mkdir()
    machine.configure("", allowed_s=0.3)
    # This one directory is the whole PATH: nothing else can be asked to power anything off.
    guard_process = subprocess.Popen(machine.command("run"), env={"PATH": str(programs)})
    machine.running.append(guard_process)
    try:
        until(lambda: said.exists() and len(said.read_text().splitlines()) > 1, "two calls", seconds=30)
    finally:
        machine.kill()
    assert said.read_text().splitlines()[:2] == ["poweroff --force", "poweroff --force --force"]
    assert "asked for the power to go off" in machine.log.read_text()
