"""The processes of a job, found by the state folder that they were given, and the trainer held at a moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil

from tests.acceptance.program import Program
from tests.acceptance.waiting import until

Moment = Callable[[Program], bool]


def processes(program: Program, module: str, word: str = "") -> list[psutil.Process]:
    """Ours alone: those with this test's own state folder that run the module, with `word` among their arguments."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            mine = process.environ().get("LAUNCH_HOME") == str(program.home / "state")
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if mine and "-m" in words and words[words.index("-m") + 1] == module and (not word or word in words):
            found.append(process)
    return found


def steps_done(program: Program) -> int:
    """Of the first job, as its trainer wrote them down."""
    file = program.state("dpo-1") / "work" / "metrics.jsonl"
    return file.read_text().count('"kind":"train"') if file.exists() else 0


def after_step(step: int) -> Moment:
    return lambda program: steps_done(program) >= step


def end_all(folder: Path) -> None:
    """Ends what a test left with a state folder in `folder`: a stopped trainer, its driver, SkyPilot's server."""
    for process in psutil.process_iter():
        try:
            environ = process.environ()
            if Path(environ.get("LAUNCH_HOME") or environ.get("LAUNCH_SKYPILOT_FOLDER", "/")).is_relative_to(folder):
                process.kill()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue


def driver_of(trainer: psutil.Process) -> psutil.Process:
    """Its parent. The command that started the driver has the same arguments, and may not have ended yet."""
    driver = trainer.parent()
    assert driver is not None
    assert "jobs.driver" in driver.cmdline()
    return driver


def stopped_at(program: Program, reached: Moment, command: str = "dpo") -> psutil.Process:
    """The trainer that runs `command`, stopped while `reached` holds."""
    found: list[psutil.Process] = []

    def appeared() -> bool:
        found[:] = processes(program, "train", command)
        return bool(found)

    until(appeared, "a trainer")
    (trainer,) = found

    def caught() -> bool:
        if not reached(program):
            assert trainer.is_running(), "the run was over before the moment came"
            return False
        trainer.suspend()
        until(lambda: trainer.status() == psutil.STATUS_STOPPED, "the trainer's stop")
        if reached(program):
            return True
        trainer.resume()
        return False

    until(caught, "the moment", poll_s=0.0005)
    return trainer
