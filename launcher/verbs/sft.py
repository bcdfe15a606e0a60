"""`launch sft`: completions to imitate."""

from __future__ import annotations

from launcher.verbs.dpo import training_verb

sft_command = training_verb(
    "sft", "Tune on completions (SFT), as a first stage is. Plan, ask once, train, and bring the results home."
)
