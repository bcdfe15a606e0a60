r"""Held-out data with known facts, and the check of a summary against them. Needs pydantic only.

One JSON object a line (JSONL), for any kind of text, not only the sample project's:

    {"prompt": "Note: ... a 54-year-old man ...\nSummary:",
     "facts": [{"name": "age", "value": "54", "pattern": "(\\d+)-year-old"},
               {"name": "allergy", "value": null, "pattern": "allergic to (\\w+)"}]}

`pattern` is a Python regular expression, matched without regard to case, that finds *every* statement of that kind of
fact in a summary; its group 1 is what is stated, compared with `value` without regard to case. A statement that
differs from `value` is wrong, and so is any statement where `value` is null: it was invented. A fact that has a value
and no statement is omitted. Names are free; measures are given by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from train.jsonl import bad_line, read_objects

NOUN = "held-out text"
GOOD_LINE = (
    r'{"prompt": "Note: a man, age 54.\nSummary:", '
    r'"facts": [{"name": "age", "value": "54", "pattern": "(\\d+)-year-old"}]}'
)


class Fact(BaseModel):
    """One fact of a source text. `value` None says that the source has no such fact."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    name: str = Field(min_length=1)
    value: str | None
    pattern: str

    @field_validator("pattern")
    @classmethod
    def _states_something(cls, pattern: str) -> str:
        try:
            groups = _compiled(pattern).groups
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        if groups < 1:
            raise ValueError(f"{pattern!r} needs a group, such as (\\d+), around what a summary states")
        return pattern

    def stated(self, summary: str) -> tuple[str, ...]:
        """Each value that the summary states of this kind, casefolded, in its order."""
        return tuple((match[1] or "").strip().casefold() for match in _compiled(self.pattern).finditer(summary))


class FactLine(BaseModel):
    """A line of held-out data whose summaries can be checked. Other keys are allowed: they are read elsewhere."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    prompt: str = Field(min_length=1)
    facts: tuple[Fact, ...] = Field(min_length=1)

    @field_validator("facts")
    @classmethod
    def _names_differ(cls, facts: tuple[Fact, ...]) -> tuple[Fact, ...]:
        names = [fact.name for fact in facts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is there twice; each name stands for one fact of the text")
        return facts


@dataclass(frozen=True)
class FactCheck:
    """Names of the facts that a summary states wrongly or invents, and of those that it leaves out."""

    wrong: tuple[str, ...]
    omitted: tuple[str, ...]

    @property
    def hallucinated(self) -> bool:
        return bool(self.wrong)


def read_facts(path: Path | str) -> Iterator[FactLine]:
    """The lines of held-out data with known facts, in order; one line at a time is in memory.

    Raises:
        DataError: the file cannot be read or holds no line, or a line is no `FactLine`; a pattern that is no regular
            expression, or has no group, is named.
    """
    path = Path(path)
    for number, record in read_objects(path, noun=NOUN, good=GOOD_LINE):
        try:
            yield FactLine.model_validate(record)
        except ValidationError as error:
            bad_line(path, number, _first_reason(error), GOOD_LINE)


def is_facts_file(path: Path | str) -> bool:
    """Whether the first line of a JSONL file has a `facts` key; if not, it is read as preference pairs.

    Raises:
        DataError: the file cannot be read, is empty, or its first line is not a JSON object.
    """
    _, first = next(read_objects(Path(path), noun=NOUN, good=GOOD_LINE))
    return "facts" in first


def check(summary: str, facts: Sequence[Fact]) -> FactCheck:
    """Compares every statement in the summary with the facts."""
    wrong: list[str] = []
    omitted: list[str] = []
    for fact in facts:
        truth = fact.value.strip().casefold() if fact.value is not None else None
        stated = fact.stated(summary)
        if any(value != truth for value in stated):
            wrong.append(fact.name)
        elif truth is not None and not stated:
            omitted.append(fact.name)
    return FactCheck(tuple(wrong), tuple(omitted))


def _first_reason(error: ValidationError) -> str:
    """What pydantic found first, as `facts[1].pattern: why`."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)
