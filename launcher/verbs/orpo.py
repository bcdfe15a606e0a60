"""`launch orpo`: preference pairs, without a reference."""

from __future__ import annotations

from launcher.verbs.dpo import training_verb

orpo_command = training_verb(
    "orpo", "As `launch dpo`, by ORPO: pairs, and no reference. Plan, ask once, train, and bring the results home."
)
