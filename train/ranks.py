"""The processes of a data-parallel run: this one's place among them, and the first one's hold on the others.

The first process (rank 0) is the trainer that its driver started: it holds the lock, the signals, the files and the
exit code. It starts the others, which end when their standard input does, so that none outlives it; it ends when one of
them is lost. Needs no torch.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from train.config import Execution, RunConfig
from train.errors import InputError, TrainError

LOOPBACK = "127.0.0.1"
CAUSE_SECONDS = 5.0
"""How long a process that lost contact waits to learn which one ended."""

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Place:
    """This process is `rank` of `size`; `local` counts the GPUs of the machine. `elastic`: torchrun started it."""

    rank: int = 0
    size: int = 1
    local: int = 0
    elastic: bool = False
    visible: str | None = None
    """The GPUs that all processes share, as CUDA_VISIBLE_DEVICES said them."""
    listener: socket.socket | None = None
    """Where the first process waits for the others; a port that is bound already cannot be taken by another run."""


def take_place(execution: Execution) -> Place:
    """This process's place, from the variables that torchrun or the first process set.

    They are taken out of the environment: each process trains as one alone does, and `train.group` says what they
    share. Accelerate would wrap the model and deal out the data once more.

    Raises:
        InputError: torchrun started another number of processes than the configuration names.
    """
    found = {name: os.environ.pop(name, None) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    visible = os.environ.get(_VISIBLE)
    if found["RANK"] is None or found["WORLD_SIZE"] is None:
        return Place(size=execution.processes, visible=visible)
    size = int(found["WORLD_SIZE"])
    if size != execution.processes:
        raise InputError(
            f"{size} processes were started, and the configuration names {execution.processes}",
            "WORLD_SIZE is set in the environment",
            f"set execution.processes to {size}, or start python -m train dpo by itself",
        )
    rank = int(found["RANK"])
    local = int(found["LOCAL_RANK"] or rank)
    return Place(rank, size, local, elastic="TORCHELASTIC_RUN_ID" in os.environ, visible=visible)


def use_one_device(execution: Execution, place: Place) -> None:
    """Shows torch the one GPU of this process: with more, the trainer would copy the model to each.

    To be called before torch is imported. Raises InputError where there are fewer than processes, as far as
    CUDA_VISIBLE_DEVICES says.
    """
    if execution.device != "cuda":
        return
    listed = place.visible.split(",") if place.visible is not None else [str(gpu) for gpu in range(place.local + 1)]
    if place.visible is not None and place.size > max(1, len(listed)):
        raise InputError(
            f"{place.size} processes need {place.size} GPUs",
            f"{_VISIBLE} is {place.visible}",
            f"set execution.processes to {len(listed)}, or name more GPUs in {_VISIBLE}",
        )
    os.environ[_VISIBLE] = listed[place.local]


class Followers:
    """The processes after the first, from their start to the end of the run."""

    def __init__(self, config: RunConfig, place: Place, end_at_once: Callable[[TrainError], None]) -> None:
        """`end_at_once` is called in a thread when one is lost, and does not return: the first may be waiting for it
        in a call that nothing interrupts."""
        self._config, self._place, self._end_at_once = config, place, end_at_once
        self._processes: list[subprocess.Popen[str]] = []
        self._ending = threading.Lock()
        self._closed = False
        self._cause: TrainError | None = None
        self._known = threading.Event()

    def start(self) -> Place:
        """Starts them where they have to be started, and returns the first's place with its listener."""
        place = self._place
        if place.size == 1 or place.elastic:
            return place
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, _loopback_name())
        listener = socket.create_server((LOOPBACK, 0), backlog=place.size)
        port = listener.getsockname()[1]
        environment = dict(os.environ) | {
            "MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(port), "WORLD_SIZE": str(place.size),
        }  # fmt: skip
        environment.pop(_VISIBLE, None)
        if place.visible is not None:
            environment[_VISIBLE] = place.visible
        os.environ.update({"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(port)})
        for rank in range(1, place.size):
            process = subprocess.Popen(
                [sys.executable, "-m", "train", self._config.method, "--config", "-", "--stop-on-eof"],
                env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                process_group=0,  # Ctrl-C is for the first, which lets them all finish the step
            )
            self._processes.append(process)
            assert process.stdin is not None
            try:
                process.stdin.write(self._config.model_dump_json(by_alias=True) + "\n")
                process.stdin.flush()
            except BrokenPipeError:
                pass  # it ended already, and the thread that follows says why
            threading.Thread(target=self._watch, args=(rank, process), name=f"rank {rank}", daemon=True).start()
        return Place(size=place.size, visible=place.visible, listener=listener)

    def explain(self, problem: BaseException) -> BaseException:
        """The first cause of `problem`: where contact was lost, why the other process ended."""
        if lost_contact(problem) and self._known.wait(CAUSE_SECONDS) and self._cause is not None:
            self._cause.__cause__ = problem
            return self._cause
        return problem

    def close(self) -> None:
        """Ends them. Waits for a report of a loss that is under way, since it ends this process."""
        with self._ending:
            self._closed = True
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes:
            try:
                process.wait(timeout=CAUSE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _watch(self, rank: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        said = process.stdout.read()
        code = process.wait()
        if code == 0:
            return
        cause = read_report(said, code, rank, self._place.size)
        if cause is None:  # it lost contact: another one is the cause
            self._known.wait(CAUSE_SECONDS)
            cause = TrainError(f"Process {rank} of {self._place.size} lost contact with the others", said[-500:])
        elif self._cause is None:
            self._cause = cause
        self._known.set()
        with self._ending:
            if not self._closed:
                self._closed = True
                self._end_at_once(self._cause or cause)


def lost_contact(problem: BaseException) -> bool:
    """Whether `problem` is what a process meets with when another one has ended."""
    said = f"{type(problem).__module__}.{type(problem).__name__} {problem}"
    words = ("gloo", "NCCL", "torch.distributed.Dist", "DistBackendError", "DistNetworkError", "DistStoreError")
    return isinstance(problem, RuntimeError) and any(word in said for word in words)


def report(problem: BaseException) -> None:
    """Tells the first process, on standard output, why this one ends."""
    document: dict[str, Any] = {"exit_code": getattr(problem, "exit_code", 1), "lost_contact": lost_contact(problem)}
    if isinstance(problem, TrainError):
        document |= {"what": problem.what, "why": problem.why, "next_step": problem.next_step}
    else:
        document |= {"what": f"{type(problem).__name__}: {problem}", "trace": traceback.format_exc()}
    print(json.dumps(document), flush=True)


def read_report(said: str, code: int, rank: int, size: int) -> TrainError | None:
    """What process `rank` reported before it ended with `code`; None where it ended because another one had."""
    who = f"process {rank} of {size} (counted from 0)"
    if code < 0:
        return TrainError(
            f"{who.capitalize()} was killed by {signal.Signals(-code).name}",
            "the others ended with it; where nobody did that, memory ran out",
            "launch resume goes on from the last whole checkpoint",
        )
    try:
        document: dict[str, Any] = json.loads(said.splitlines()[-1])
        if document["lost_contact"]:
            return None
        if "trace" in document:
            print(document["trace"], file=sys.stderr, flush=True)
        kind = InputError if document["exit_code"] == InputError.exit_code else TrainError
        why = " ".join(part for part in (document.get("why", ""), f"(found by {who})") if part)
        return kind(document["what"], why, document.get("next_step", ""))
    except (ValueError, KeyError, IndexError, TypeError):
        return TrainError(f"{who.capitalize()} ended with exit code {code}", said[-500:])


def _loopback_name() -> str:
    return next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), "lo")
