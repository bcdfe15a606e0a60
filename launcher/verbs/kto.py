"""`launch kto`: completions that are wanted or not, each by itself."""

from __future__ import annotations

from launcher.verbs.dpo import training_verb

kto_command = training_verb(
    "kto",
    "As `launch dpo`, by KTO: completions, each wanted or not. Plan, ask once, train, and bring the results home.",
)
