"""`launch plan dpo`: prices every way to run the job, and spends nothing."""

from __future__ import annotations

from typing import Any

import click

from launcher.options import job_options, load_settings


@click.group(name="plan")
def plan_command() -> None:
    """Price every way to run a job; spends nothing."""


@plan_command.command(name="dpo")
@job_options
@click.option("--all", "everything", is_flag=True, help="Every offer, not the best 12.")
@click.option("--json", "as_json", is_flag=True, help="One plan/1 document.")
@click.option("--yes", is_flag=True, help="Make the trainer's environment without asking, to measure this machine.")
def plan_dpo(everything: bool, as_json: bool, yes: bool, **flags: Any) -> int:
    """Price every way to run DPO here."""
    import os

    from jobs import environment as trainer
    from jobs.home import Home
    from jobs.plan_document import plan_document
    from jobs.store import Store
    from launcher import plan_view
    from launcher.console import print_document, say
    from launcher.money_words import no_budget_line
    from launcher.request import environment_device, make_plan, read_request

    settings = load_settings(flags)
    home = Home.from_environment(os.environ)
    request = read_request(settings)
    for warning in request.warnings:
        say(f"warning: {warning}")
    device = environment_device(request, home)
    ready = yes or trainer.ready(home, device=device, python=settings.train_python)
    environment = (
        trainer.ensure(home, device=device, python=settings.train_python, pip_args=settings.pip_args, say=say)
        if ready
        else None
    )
    plan = make_plan(request, home, Store.open(home), environment, say)
    if as_json:
        print_document(plan_document(plan))
        return 0 if plan.chosen else 3
    line = no_budget_line(settings)
    if line:
        print(line)
    print(plan_view.sentence(plan, request.requirement))
    if plan.chosen:
        print(plan.chosen.reason)
    if environment is None:
        print("No hours yet: `launch plan dpo --yes` makes the trainer's environment once and measures this machine.")
    print()
    print("\n".join(plan_view.table(plan, everything=everything)))
    if plan.chosen is None:
        say("Nothing was bought, and nothing runs.")
        return 3
    print(f"\nTo run it: {plan_view.command(flags)}")
    return 0
