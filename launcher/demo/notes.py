"""Synthetic clinical notes: facts drawn by chance, a note that states them, summaries that are right or wrong.

No patient and no text of anyone stands behind them. A note has eight kinds of fact. Whether a set of facts belongs to
train, val or test follows from the facts themselves, so that no seed, and not the data of the sample model either, can
put a held-out note among those that are trained on.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

Split = Literal["train", "val", "test"]

AGES = tuple(str(age) for age in range(19, 90))
SEXES = ("man", "woman")
SIDES = ("left", "right")
SIDED = (
    "knee pain",
    "shoulder pain",
    "hip pain",
    "wrist pain",
    "ankle swelling",
    "ear pain",
    "eye redness",
    "flank pain",
)
UNSIDED = (
    "dry cough", "chest tightness", "back pain", "nausea", "dizziness", "fatigue", "heartburn", "insomnia", "fever",
    "palpitations",
)  # fmt: skip
DURATIONS = tuple(f"{n} {unit}" for unit in ("days", "weeks", "months") for n in range(2, 11))
DRUGS = (
    "ibuprofen", "metformin", "lisinopril", "atorvastatin", "omeprazole", "sertraline", "amlodipine", "gabapentin",
    "prednisone", "furosemide", "naproxen", "losartan", "tramadol", "warfarin", "cetirizine", "levothyroxine",
)  # fmt: skip
DOSES = ("5", "10", "15", "20", "25", "40", "50", "75", "100", "150", "200", "250", "400", "500", "600", "800")
ALLERGENS = ("penicillin", "latex", "codeine", "iodine", "peanuts", "shellfish", "aspirin", "eggs")

KINDS = ("age", "sex", "complaint", "side", "duration", "drug", "dose", "allergy")
PATTERNS = {
    "age": r"\b(\d+)-year-old\b",
    "sex": r"\b(man|woman)\b",
    "complaint": rf"\b({'|'.join(SIDED + UNSIDED)})\b",
    "side": r"\b(left|right)\b",
    "duration": r"\b(\d+ (?:days|weeks|months))\b",
    "drug": rf"\b({'|'.join(DRUGS)})\b",
    "dose": r"\b(\d+) mg\b",
    "allergy": r"\ballerg(?:ic|y) to (\w+)",
}
"""Finds every statement of a kind in a summary; group 1 is what it states."""


@dataclass(frozen=True)
class Facts:
    """What is true of one patient. `side` is None where the complaint has none, `allergy` where none is known."""

    age: str
    sex: str
    complaint: str
    side: str | None
    duration: str
    drug: str
    dose: str
    allergy: str | None

    @property
    def split(self) -> Split:
        """An eighth of all possible patients is for validation, another eighth for the test."""
        eighth = zlib.crc32(repr(self).encode()) % 8
        return "test" if eighth == 0 else "val" if eighth == 1 else "train"

    def differences(self, other: Facts) -> tuple[str, ...]:
        """The kinds in which two sets of facts are not the same."""
        return tuple(kind for kind in KINDS if getattr(self, kind) != getattr(other, kind))

    def lines(self) -> list[dict[str, Any]]:
        """As the `facts` of a line of held-out data (see `train.facts`)."""
        return [{"name": kind, "value": getattr(self, kind), "pattern": PATTERNS[kind]} for kind in KINDS]


def draw_facts(random: Random) -> Facts:
    complaint = random.choice(SIDED + UNSIDED)
    return Facts(
        age=random.choice(AGES),
        sex=random.choice(SEXES),
        complaint=complaint,
        side=random.choice(SIDES) if complaint in SIDED else None,
        duration=random.choice(DURATIONS),
        drug=random.choice(DRUGS),
        dose=random.choice(DOSES),
        allergy=random.choice(ALLERGENS) if random.random() < 0.7 else None,
    )


def patients(seed: int, split: Split) -> Iterator[Facts]:
    """Endless, no two alike, all of one split."""
    random = Random(f"{seed} {split}")  # noqa: S311  # synthetic data, to be the same for the same seed
    seen: set[Facts] = set()
    while True:
        facts = draw_facts(random)
        if facts.split == split and facts not in seen:
            seen.add(facts)
            yield facts


def spoil(facts: Facts, random: Random) -> Facts:
    """The same with one to three facts changed, or invented where there was none."""
    for kind in random.sample(KINDS, random.choice((1, 1, 2, 3))):
        facts = replace(facts, **{kind: _another(kind, facts, random)})
    return facts


def _another(kind: str, facts: Facts, random: Random) -> str:
    """A wrong value of the kind a careless writer would give: another number of the same unit, another drug."""
    choices: tuple[str, ...] = {
        "age": AGES,
        "sex": SEXES,
        "complaint": SIDED if facts.complaint in SIDED else UNSIDED,
        "side": SIDES,
        "duration": DURATIONS,
        "drug": DRUGS,
        "dose": DOSES,
        "allergy": ALLERGENS,
    }[kind]
    return random.choice([choice for choice in choices if choice != getattr(facts, kind)])


def write_note(facts: Facts, random: Random) -> str:
    """The prompt: a note of four or five sentences, in one of several wordings and orders, that asks for a summary."""
    f = facts
    what = f"{f.side} {f.complaint}" if f.side else f.complaint
    who = random.choice((
        f"The patient is a {f.age}-year-old {f.sex}.",
        f"Seen today: {f.sex}, age {f.age}.",
        f"Patient: {f.sex}, {f.age} years.",
    ))  # fmt: skip
    body = [
        random.choice((
            f"Complains of {what} for {f.duration}.",
            f"Presents with {what} that began {f.duration} ago.",
            f"Reports {f.duration} of {what}.",
        )),
        random.choice((
            f"Takes {f.drug} {f.dose} mg daily.",
            f"Current medication: {f.drug} {f.dose} mg.",
            f"Was started on {f.drug}, dose {f.dose} mg.",
        )),
        random.choice((
            f"Allergies: {f.allergy}.",
            f"Known allergy to {f.allergy}.",
            f"Reacts to {f.allergy}.",
        ))
        if f.allergy
        else random.choice(("Allergies: none.", "No known allergies.", "Reacts to nothing known.")),
    ]  # fmt: skip
    random.shuffle(body)
    if random.random() < 0.5:
        filler = ("Vital signs are stable.", "Examination is otherwise normal.", "Lives at home with family.")
        body.insert(random.randrange(len(body) + 1), random.choice(filler))
    return f"Note: {' '.join([who, *body])}\nSummary:"


def write_summary(facts: Facts, random: Random) -> str:
    """A completion that states each fact once, in one of three wordings; begins with a space, as it follows a colon."""
    f = facts
    what = f"{f.side} {f.complaint}" if f.side else f.complaint
    allergic = f"allergic to {f.allergy}" if f.allergy else "without known allergies"
    drug = f"{f.drug} {f.dose} mg"
    return random.choice((
        f" This {f.age}-year-old {f.sex} has {what} for {f.duration}, takes {drug} and is {allergic}.",
        f" A {f.age}-year-old {f.sex} with {f.duration} of {what}, {allergic}, on {drug}.",
        f" The complaint is {what} for {f.duration} in a {f.age}-year-old {f.sex}, {allergic}, treated with {drug}.",
    ))  # fmt: skip


def pair(facts: Facts, random: Random) -> dict[str, str]:
    """A preference pair: `chosen` states the note's facts, `rejected` changes or invents at least one."""
    return {
        "prompt": write_note(facts, random),
        "chosen": write_summary(facts, random),
        "rejected": write_summary(spoil(facts, random), random),
    }


def held_out(facts: Facts, random: Random) -> dict[str, Any]:
    """A note with the facts that a summary of it is checked against."""
    return {"prompt": write_note(facts, random), "facts": facts.lines()}
