"""`launch estimate`: what a model and its data need of a machine, before anything is bought."""

from __future__ import annotations

from typing import Any

import click

from launcher.options import job_options, load_settings
from train.config import METHODS

FLAGS = {
    "method": "|".join(METHODS), "model": "PATH|ID", "base": "PATH|ID", "adapter": "PATH|none", "train": "FILE",
    "val": "FILE", "max_length": "N", "batch_size": "N", "epochs": "N", "lora_r": "N", "lora_target": "A,B",
}  # fmt: skip


@click.command(name="estimate")
@job_options(only=FLAGS)
@click.option("-o", "--output", metavar="FILE", help="Write the requirement file (hardware-requirement/1) here.")
@click.option("--json", "as_json", is_flag=True, help="One estimate/1 document.")
@click.option("--yes", is_flag=True, help="Make the trainer's environment without asking.")
def estimate_command(output: str | None, as_json: bool, yes: bool, **flags: Any) -> int:
    """Read the model and the data, trace one training step, and say what it needs."""
    import os
    from pathlib import Path

    from jobs.home import Home
    from jobs.store import Store
    from launcher import estimate_view
    from launcher.console import print_document, say
    from launcher.estimate import check_output, estimate, estimate_config, write_requirement
    from launcher.prepare import estimate_device, make_environment
    from launcher.rates import known_rates

    settings = load_settings(flags)
    home = Home.from_environment(os.environ)
    config = estimate_config(settings)  # what is not there is said before an environment is made
    file = Path(output).expanduser().absolute() if output else None
    if file is not None:
        check_output(file)
    device = estimate_device(settings)
    environment = make_environment(settings, home, device, yes=yes, say=say)
    kept = estimate(settings, home, environment, say)
    if as_json:
        print_document(kept.estimate.model_dump(mode="json", by_alias=True))
    else:
        print("\n".join(estimate_view.lines(kept.estimate)))
    if config.data is None:
        say("\nNo requirement file: it needs the data too. Next: the same with --train FILE")
        return 0
    file = file or kept.file.with_suffix(".requirement.json")
    rates = known_rates(home, Store.open(home), environment, gpu=device == "cuda", say=say)
    write_requirement(kept.estimate, rates, file)
    say(f"\nThe requirement file: {file}")
    return 0
