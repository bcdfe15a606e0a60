# pyright: basic
"""`python -m train check --config run.json`: what the pairs are worth, before any training.

Writes `output_dir/data.json` (`datacheck/1`) and prints it. Bad data or a tokenizer that is not the model's ends
with an InputError, which the command line turns into exit code 2. With `--progress`, standard error gets a line
`{"progress": {"done": PAIRS, "total": PAIRS, "of": "pairs"}}` after each batch.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from train.config import Data, Method, ModelRef, RunConfig, Training
from train.cores import cores
from train.data_report import DataCheck, DataReport
from train.errors import DataError, InputError
from train.hub import fetch_texts
from train.tokens import BATCH, CutPair, load_tokenizer, prepare

__all__ = ["DataCheck", "check", "run"]

Progress = Callable[[int, int], None]
"""Called with how many pairs were looked at, and about how many there are (lines)."""


def check(config: RunConfig, progress: Progress = lambda *_: None) -> DataCheck:
    """The reports of a run's files.

    Raises:
        InputError: the tokenizer cannot be used, a line is no pair, or not one pair of a file is usable.
    """
    return looked(config.method, config.model, config.data, config.training, progress)[0]


def looked(
    method: Method, model: ModelRef, data: Data, training: Training, progress: Progress
) -> tuple[DataCheck, list[CutPair]]:
    """The check of a model's pairs, and `Prepared.lengths` of the usable training pairs. Raises as `check`."""
    fetch_texts(model)
    tokenizer = load_tokenizer(model)
    files = [path for path in (data.train, data.val) if path]
    total, done = sum(_lines(path) for path in files), 0

    def looked_at(pairs: int) -> None:
        nonlocal done
        done += pairs
        progress(done, total)

    length, processes = training.max_length, min(cores(), max(1, total // BATCH))
    weights = training.desirable_weight, training.undesirable_weight
    options: dict[str, Any] = {
        "method": method,
        "weights": weights,
        "keep": False,
        "on_pairs": looked_at,
        "processes": processes,
    }
    train = prepare(data.train, tokenizer, length, **options)
    _require_pairs(train.report)
    val: DataReport | None = None
    if data.val is not None:
        val = prepare(data.val, tokenizer, length, train_prompts=train.prompts, **options).report
        _require_pairs(val)
    return DataCheck.of(train.report, val, training.batch_size), train.lengths


def run(config: RunConfig, *, progress: bool = False) -> int:
    """Writes and prints the check; the exit code: 0, or 2 with the reason on standard error."""
    try:
        with without_collector():
            document = check(config, say_progress if progress else lambda *_: None).model_dump_json(by_alias=True)
        target = config.output_dir / "data.json"
        beside = target.with_name(f".data.json.tmp-{os.getpid()}")
        try:
            config.output_dir.mkdir(parents=True, exist_ok=True)
            beside.write_text(document, encoding="utf-8")
            beside.replace(target)
        except OSError as error:
            raise InputError(f"{target}: cannot be written.", str(error), "name another folder.") from error
    except InputError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(document)
    return 0


@contextlib.contextmanager
def without_collector() -> Generator[None]:
    """Some 10^5 lists of numbers, and no cycles: going over them again and again takes a sixth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def say_progress(done: int, total: int, of: str = "pairs") -> None:
    """A line of progress on standard error, for the program that started this one."""
    print(json.dumps({"progress": {"done": done, "total": total, "of": of}}), file=sys.stderr, flush=True)


def _lines(path: Path) -> int:
    """Line ends in a file; 0 for one that cannot be read, which is said where its pairs are."""
    try:
        with path.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    except OSError:
        return 0


def _require_pairs(report: DataReport) -> None:
    if not report.usable:
        raise DataError(
            f"{report.path}: no {report.noun[:-1]} can be used.",
            report.refused or "",
            f"name other {report.noun}, or raise --max-length.",
        )
