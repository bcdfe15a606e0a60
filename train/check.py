# pyright: basic
"""`python -m train check --config run.json`: what the pairs are worth, before any training.

Writes `output_dir/data.json` (`datacheck/1`) and prints it. Bad data or a tokenizer that is not the model's ends
with an InputError, which the command line turns into exit code 2.
"""

from __future__ import annotations

import os
import sys
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from train.config import RunConfig
from train.data_report import DataReport
from train.errors import DataError, InputError
from train.hub import fetch_tokenizer
from train.tokens import load_tokenizer, prepare


class DataCheck(BaseModel):
    """`datacheck/1`: a report for each file of the run."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    schema_: Literal["datacheck/1"] = Field(default="datacheck/1", alias="schema")
    train: DataReport
    val: DataReport | None = None


def check(config: RunConfig) -> DataCheck:
    """The reports of a run's files.

    Raises:
        InputError: the tokenizer cannot be used, a line is no pair, or not one pair of a file is usable.
    """
    fetch_tokenizer(config.model)
    tokenizer = load_tokenizer(config.model)
    max_length = config.training.max_length
    train = prepare(config.data.train, tokenizer, max_length)
    _require_pairs(train.report)
    if config.data.val is None:
        return DataCheck(train=train.report)
    val = prepare(config.data.val, tokenizer, max_length, train_prompts=train.prompts)
    _require_pairs(val.report)
    return DataCheck(train=train.report, val=val.report)


def run(config: RunConfig) -> int:
    """Writes and prints the check; the exit code: 0, or 2 with the reason on standard error."""
    try:
        document = check(config).model_dump_json(by_alias=True)
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


def _require_pairs(report: DataReport) -> None:
    if not report.usable:
        raise DataError(f"{report.path}: no pair can be used.", report.refused or "")
