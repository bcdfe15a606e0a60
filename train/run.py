# pyright: basic, reportMissingImports=false
"""One run, top to bottom, of whatever method: `python -m train dpo --config run.json`."""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import functools
import hashlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from train.config import LEAST_BATCH, LOSS_TYPES, End, Method, RunConfig, Training, noun
from train.cores import cores
from train.errors import InputError, TrainError
from train.ranks import Followers, Place, report
from train.swap import swap_watched

KTO_ALONE = ("desirable_weight", "undesirable_weight")


def run(config: RunConfig, *, started: float, stop_on_eof: bool = False, place: Place | None = None) -> int:
    """Trains, and says in `end.json` how it ended. `started`: the process's start on the monotonic clock.

    Returns the exit code; raises TrainError (after `end.json`), and whatever a defect raises.
    """
    from train.stop import Stop

    place = place or Place(size=config.execution.processes)
    if place.rank:
        return _follow(config, place, started)
    stop = Stop(started, config.max_seconds)
    stop.install()
    if stop_on_eof:
        stop.watch_stdin()
    with held(config.output_dir):
        followers = Followers(config, place, functools.partial(_end_at_once, config, started))
        try:
            check_settings(config.training, place.size, config.method)
            end = _train(config, stop, started, followers.start())
            followers.close()
        except BaseException as problem:
            problem = _as_disk_full(followers.explain(problem))
            followers.close()
            with contextlib.suppress(OSError):
                _write_end(config, _error_end(config, problem, started))
            if isinstance(problem, TrainError):
                raise problem from problem.__cause__
            raise
        _write_end(config, end)
    return 0


def _follow(config: RunConfig, place: Place, started: float) -> int:
    """Trains beside the first process, which decides and writes; an error is told to it. Returns the exit code."""
    from train.stop import Stop

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    try:
        _train(config, Stop(started), started, place)
    except BaseException as problem:
        report(problem)
        raise SystemExit(getattr(problem, "exit_code", 1)) from problem
    return 0


def _end_at_once(config: RunConfig, started: float, problem: TrainError) -> None:
    """Ends this process from another thread: the one that trains waits for what may never come, or for hours."""
    with contextlib.suppress(OSError):
        _write_end(config, _error_end(config, problem, started))
    print(problem, file=sys.stderr, flush=True)
    os._exit(problem.exit_code)


def _train(config: RunConfig, stop: Any, started: float, place: Place) -> End:
    import torch

    from train import checkpoint, results
    from train import course as courses
    from train.course import VAL_PAIRS, Course
    from train.gate import pass_gate
    from train.group import Group
    from train.hub import fetched
    from train.journal import Journal
    from train.model import load_stage_a
    from train.reference import ReferenceCache
    from train.tokens import load_tokenizer, prepare
    from train.trainer import StageBTrainer

    first = place.rank == 0
    say = courses.say if first else _silent
    torch.set_num_threads(config.execution.threads or thread_count(torch.get_num_threads(), place.size))
    _check_device(config, place)

    # The data, as training will see it.
    model = fetched(config.model)
    tokenizer = load_tokenizer(model)
    max_length, val_rows = config.training.max_length, None
    weights = config.training.desirable_weight, config.training.undesirable_weight
    rows = prepare(config.data.train, tokenizer, max_length, method=config.method, weights=weights)
    if config.data.val:
        val_rows = prepare(
            config.data.val, tokenizer, max_length, method=config.method, weights=weights, limit=VAL_PAIRS,
            train_prompts=rows.prompts,
        )  # fmt: skip
    if first:
        results.sweep(config.output_dir)
        _write_data_report(config, rows, val_rows)
    if not rows.rows:
        raise InputError(
            f"{config.data.train} has no {noun(config.method)} that can be trained on",
            "every one was left out; data.json says why",
            "name other data with --train FILE, or raise --max-length",
        )
    steps = step_count(config.training, len(rows.rows))
    shared = f" on {place.size} processes" if place.size > 1 else ""
    counted = noun(config.method)
    say(f"{len(rows.rows)} {counted}, {steps} steps of {config.training.batch_size}{shared}" + (
        f"; validation on {len(val_rows.rows)} {counted}" if val_rows
        else "; no validation: the best adapter is the last"
    ))  # fmt: skip

    # The model, and a checkpoint of this very run where there is one.
    stage_a = load_stage_a(model, config.execution, config.training)
    identity = run_identity(config, stage_a, rows.rows, val_rows.rows if val_rows else [])
    checkpoints = config.output_dir / "checkpoints"
    group = Group.join(place, config.execution.device)
    resumed = group.same(_newest(checkpoints, say) if first else None)
    if resumed is not None:
        _refuse_other_run(checkpoint.read_document(resumed, "identity.json"), identity, resumed)

    # The trainer, and the gate: with Stage A's weights, whether or not a checkpoint follows.
    cache = ReferenceCache(config.reference_cache, stage_a.key)
    trainer = StageBTrainer(config, stage_a, cache, rows.rows, val_rows.rows if val_rows else [], steps, group)
    trainer.identity = identity
    _share_prompts(config, trainer, rows.rows[0], say)
    pass_gate(trainer, stage_a, rows.rows[:1])
    known = f"policy and reference are Stage A ({stage_a.precision}, {len(cache)} references known)"
    alone = f"the policy is the model that was named ({stage_a.precision})"
    say(f"the gate is passed: {known if trainer.step.has_reference else alone}")

    # The run.
    journal = Journal(config.output_dir / "metrics.jsonl")
    if first:
        journal.cut_back(checkpoint.step_of(resumed) if resumed else -1)
    course = Course(config, trainer, journal, stop, steps)
    step = 0
    if resumed is not None:
        course.resume(checkpoint.read_document(resumed, "progress.json"))
        step = checkpoint.step_of(resumed)
        say(f"resuming after step {step}")
    early = group.same(stop.reason() if step < steps else None)
    if early is None:
        if resumed is None or step < steps:
            trainer.add_callback(course)
            with swap_watched(functools.partial(_end_at_once, config, started)):  # weights were read in before
                trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        else:
            trainer.take_up(resumed)  # transformers would train one step more than asked for
            course.make_up_validation()
        step = trainer.state.global_step
        if first:
            course.keep_last()
    group.close()
    stop.settled()
    reason: Any = early or course.stopped_by or ("max_steps" if config.training.max_steps else "finished")
    say(f"ended after step {step} of {steps}: {reason}")
    return End(
        reason=reason, step=step, max_steps=steps, best_step=course.best_step, seconds=time.monotonic() - started
    )  # fmt: skip


def _share_prompts(config: RunConfig, trainer: Any, row: Any, say: Callable[[str], None]) -> None:
    """Has the step compute each prompt once, where the job and its model let it."""
    reason = trainer.share_prompts(row) if config.execution.share_prompts else None
    if reason is not None:
        what = (
            "prompts are not shared by their two completions" if noun(config.method) == "pairs" else "rows are padded"
        )
        say(f"{what}: {reason}; the model's step is TRL's own")


def _newest(checkpoints: Path, say: Callable[[str], None]) -> Path | None:
    """The checkpoint to resume from. What a killed run left half-done is removed."""
    from train import checkpoint

    for name in checkpoint.sweep(checkpoints):
        say(f"removed {name}: a killed run left it half-done")
    return checkpoint.newest_whole(checkpoints)


def _silent(message: str) -> None:
    """The first process says it."""


def thread_count(usual: int, processes: int) -> int:
    """Threads of each of a run's processes. torch's `usual` number does not know of a container's quota."""
    return max(1, min(usual, cores()) // processes)


def _check_device(config: RunConfig, place: Place) -> None:
    import torch

    if place.size > 1 and config.execution.device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"Process {place.rank} of {place.size} (counted from 0) has no GPU",
            "each process trains on one of its own, and torch sees no more",
            "set execution.processes to the number of GPUs: nvidia-smi -L lists them",
        )


def check_settings(training: Training, processes: int = 1, method: Method = "dpo") -> None:
    """Raises InputError for what TRL would only find at the first step, or never."""
    if training.batch_size < LEAST_BATCH[method]:
        raise InputError(
            "batch_size 1 is too small for KTO",
            "what counts as a gain is estimated from the examples of a step, and one says too little",
            "set --batch-size to 2 or more; 4 is the default",
        )
    for name in training.loss_type:
        if name not in LOSS_TYPES:
            near = difflib.get_close_matches(name, LOSS_TYPES, n=3, cutoff=0.4) or LOSS_TYPES
            raise InputError(
                f"There is no loss {name!r}", f"near to it: {', '.join(near)}", "set --loss-type to one of them"
            )
    if not training.loss_type:
        raise InputError("loss_type is empty", "", "set --loss-type, for instance to sigmoid")
    if training.loss_weights is not None and len(training.loss_weights) != len(training.loss_type):
        raise InputError(
            f"{len(training.loss_weights)} loss_weights for {len(training.loss_type)} losses",
            f"loss_type is {','.join(training.loss_type)}",
            "give one weight a loss: --loss-weights",
        )
    if "exo_pair" in training.loss_type and training.label_smoothing <= 0:
        raise InputError("exo_pair needs label_smoothing above 0", "its paper recommends 0.001", "set label_smoothing")
    if training.batch_size % processes:
        below = training.batch_size // processes * processes
        either = f"{below} or {below + processes}" if below else str(processes)
        raise InputError(
            f"batch_size {training.batch_size} is not divisible by {processes} processes",
            "each process trains on an equal part of a step's pairs",
            f"set --batch-size to {either}, or execution.processes to a divisor of {training.batch_size}",
        )
    share = training.batch_size // processes
    micro = min(training.micro_batch_size or share, share)
    if share % micro:
        raise InputError(
            f"batch_size {training.batch_size} is not divisible by micro_batch_size {micro}"
            + (f" on {processes} processes" if processes > 1 else ""),
            "a step is a whole number of micro-batches"
            + (f", and each process has {share} pairs of it" * (share != training.batch_size)),
            "change one of them",
        )


def step_count(training: Training, pairs: int) -> int:
    """Optimizer steps: `max_steps`, or the epochs' worth of ceil(pairs / batch_size)."""
    return training.max_steps or math.ceil(training.epochs * math.ceil(pairs / training.batch_size))


def run_identity(config: RunConfig, stage_a: Any, rows: list[Any], val_rows: list[Any]) -> dict[str, Any]:
    """What must be the same for a checkpoint to continue the run. Paths, threads and memory options may differ."""
    return {
        "model": stage_a.key,
        "precision": stage_a.precision,
        "quantization": stage_a.quantization,
        "data.train": _digest(rows),
        "data.val": _digest(val_rows),
        "method": config.method,
        **{f"training.{key}": value for key, value in config.training.model_dump(mode="json").items()
           if config.method == "kto" or key not in KTO_ALONE},
    }  # fmt: skip


def _refuse_other_run(theirs: dict[str, Any], ours: dict[str, Any], folder: Path) -> None:
    theirs = {"method": "dpo"} | theirs  # of a checkpoint that was written before there were others
    differing = [key for key in ours if theirs.get(key) != ours[key]]
    if differing:
        said = "; ".join(f"{key} was {theirs.get(key)}, is {ours[key]}" for key in differing[:4])
        raise InputError(
            f"{folder} is of another run",
            said,
            "start in another output folder, or remove the checkpoints to train from the beginning",
        )


def _digest(rows: list[Any]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]]).encode())
    return digest.hexdigest()


def _write_data_report(config: RunConfig, rows: Any, val_rows: Any) -> None:
    from train.check import DataCheck
    from train.checkpoint import replace_synced

    found = DataCheck.of(rows.report, val_rows.report if val_rows else None, config.training.batch_size)
    replace_synced(config.output_dir / "data.json", found.model_dump_json(by_alias=True, indent=1).encode())


@contextlib.contextmanager
def held(output_dir: Path) -> Iterator[None]:
    """The output folder, for one trainer at a time; the lock goes with the process."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(output_dir / "trainer.lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as problem:
        raise InputError(f"{output_dir} cannot be written", str(problem), "choose another folder: --out") from problem
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            raise InputError(
                f"Another trainer is at work in {output_dir}", "it holds trainer.lock", "wait for it: launch status"
            ) from problem
        yield
    finally:
        os.close(lock)


def _as_disk_full(problem: BaseException) -> BaseException:
    """A TrainError that says so, where a full disk is at the bottom. Tokenizers raise a bare Exception for it."""
    cause: BaseException | None = problem
    while cause is not None:
        full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in str(cause):
            error = TrainError(
                "The disk is full", str(cause), "free some space, then: launch resume (the last checkpoint is kept)"
            )
            error.__cause__ = problem
            return error
        cause = cause.__cause__ or cause.__context__
    return problem


def _error_end(config: RunConfig, problem: BaseException, started: float) -> End:
    from train.journal import Journal

    step, max_steps = 0, 0
    for line in Journal(config.output_dir / "metrics.jsonl").lines():
        step, max_steps = line.step, getattr(line, "max_steps", max_steps)
    message = str(problem) if isinstance(problem, TrainError) else f"{type(problem).__name__}: {problem}"
    seconds = time.monotonic() - started
    return End(reason="error", step=step, max_steps=max_steps, message=message, seconds=seconds)


def _write_end(config: RunConfig, end: End) -> None:
    from train.checkpoint import replace_synced

    replace_synced(config.output_dir / "end.json", end.model_dump_json(by_alias=True, indent=1).encode())
