r"""A proxy for hallucination that needs no labels: terms of a summary that its source does not contain.

Terms are numbers (`54`, `2.5`), doses (a number with its unit, `500 mg`), capitalised words inside a sentence, and
words of a list (drug names, say). A term that is not in the source may still be true, and one that is there may be used
wrongly: this measures neither truth nor its absence, only what was brought in.
"""

from __future__ import annotations

import re
from collections.abc import Collection

_UNITS = r"mg|mcg|µg|g|kg|ml|l|cm|mm|mmhg|bpm|units?|iu|%|hours?|days?|weeks?|months?|years?"
_NUMBER = r"\d+(?:[.,/]\d+)*"
_DOSE = re.compile(rf"({_NUMBER})\s?({_UNITS})\b", re.IGNORECASE)
_PLAIN_NUMBER = re.compile(_NUMBER)
_NAME = re.compile(r"(?<![.!?:]\s)(?<!^)(?<=\s)[A-Z][A-Za-z]+")
_WORD = re.compile(r"\w+")


def terms(text: str, listed: Collection[str] = ()) -> set[str]:
    """The terms of a text, casefolded. `listed` are casefolded single words."""
    found = {f"{match[1]} {match[2]}".casefold() for match in _DOSE.finditer(text)}
    rest = _DOSE.sub(" ", text)
    found |= set(_PLAIN_NUMBER.findall(rest))
    found |= {match.casefold() for match in _NAME.findall(text)}
    return found | {word for word in map(str.casefold, _WORD.findall(text)) if word in listed}


def unsupported(summary: str, source: str, listed: Collection[str] = ()) -> tuple[int, int]:
    """How many terms of the summary its source does not contain, and how many terms it has."""
    said = terms(summary, listed)
    words = {word.casefold() for word in _WORD.findall(source)}
    known = terms(source, listed) | words | set(_PLAIN_NUMBER.findall(source))
    return sum(term not in known for term in said), len(said)
