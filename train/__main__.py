"""`python -m train dpo|orpo|kto|sft|check|evaluate|estimate|rate`: the trainer's command line."""

from __future__ import annotations

import time

_STARTED = time.monotonic()

import argparse  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TypeVar  # noqa: E402

from pydantic import BaseModel, ValidationError  # noqa: E402

from train.config import METHODS, EvalConfig, RunConfig  # noqa: E402
from train.errors import InputError, TrainError  # noqa: E402
from train.estimate_config import EstimateConfig  # noqa: E402
from train.ranks import Place, take_place, use_one_device  # noqa: E402

QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "disabled",
    "TQDM_DISABLE": "1",
}
"""No library calls home, and none writes where the log is. Set before any of them is imported."""

Document = TypeVar("Document", bound=BaseModel)


def main(arguments: list[str] | None = None) -> int:
    os.environ.update(QUIET)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries to each other, at every step
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (
        *((method, "train") for method in METHODS),
        ("check", "look at the data, train nothing"),
        ("evaluate", "compare two adapters"),
        ("estimate", "say what a workload needs of a machine"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("--config", type=Path, required=True, metavar="FILE")
        if name in METHODS:
            command.add_argument("--stop-on-eof", action="store_true", help="end when standard input ends")
            command.add_argument("--max-steps", type=int, metavar="N", help="instead of the configuration's")
            command.add_argument("--max-seconds", type=float, metavar="S", help="instead of the configuration's")
        if name == "check":
            command.add_argument("--progress", action="store_true", help="write JSON lines of it to standard error")
        if name == "evaluate":
            command.add_argument("--stop-on-eof", action="store_true", help="end when standard input ends")
    rate = commands.add_parser("rate", help="measure how fast this machine trains")
    rate.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args(arguments)
    try:
        return _dispatch(given)
    except TrainError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code


def _dispatch(given: argparse.Namespace) -> int:
    if given.command == "rate":
        from train import rate

        return rate.run(given.device)
    if given.command == "evaluate":
        config = read(given.config, EvalConfig)
        use_one_device(config.execution, Place(visible=os.environ.get("CUDA_VISIBLE_DEVICES")))
        if given.stop_on_eof:
            end_with_stdin()
        from train import evaluate

        return evaluate.run(config)
    if given.command == "estimate":
        asked = read(given.config, EstimateConfig)
        # It needs no GPU. Where torch sees one, a step asks its driver, which a forked process must not.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        from train import estimate

        return estimate.run(asked)
    config = read(given.config, RunConfig)
    if given.command == "check":
        from train import check

        return check.run(config, progress=given.progress)
    if given.command != config.method:
        raise InputError(
            f"{given.config} is a configuration of {config.method}", "", f"python -m train {config.method} --config ..."
        )
    place = take_place(config.execution)
    use_one_device(config.execution, place)
    config = with_limits(config, given.max_steps, given.max_seconds)
    if given.stop_on_eof and place.rank:
        end_with_stdin()
    from train import run

    return run.run(config, started=_STARTED, stop_on_eof=given.stop_on_eof, place=place)


def with_limits(config: RunConfig, max_steps: int | None, max_seconds: float | None) -> RunConfig:
    """The configuration with the limits of the command line. Raises InputError for one that is not above 0."""
    limits = {"max_steps": max_steps, "max_seconds": max_seconds}
    wrong = [name for name, value in limits.items() if value is not None and not value > 0]
    if wrong:
        raise InputError(f"--{wrong[0].replace('_', '-')} must be above 0", next_step="leave it out, or name a number")
    if max_steps is not None:
        config = config.model_copy(update={"training": config.training.model_copy(update={"max_steps": max_steps})})
    return config if max_seconds is None else config.model_copy(update={"max_seconds": max_seconds})


def end_with_stdin() -> None:
    """Ends this process at once when standard input ends: its driver is gone, and it has nothing to save."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="stdin", daemon=True).start()


def read(path: Path, kind: type[Document]) -> Document:
    """The document in `path`; `-` is one line of standard input, which stays open.

    Raises InputError that names the file and each key that is wrong.
    """
    try:
        return kind.model_validate_json(sys.stdin.readline() if str(path) == "-" else path.read_bytes())
    except OSError as problem:
        raise InputError(f"{path} cannot be read", str(problem), "check --config") from problem
    except ValidationError as problem:
        wrong = [
            f"{'.'.join(str(part) for part in each['loc']) or 'the file'}: {each['msg']}" for each in problem.errors()
        ]
        raise InputError(f"{path} is not a configuration", "\n".join(wrong), "correct these keys") from problem


if __name__ == "__main__":
    sys.exit(main())
