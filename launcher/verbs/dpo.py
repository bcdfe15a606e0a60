"""`launch dpo`: plans, asks once, starts the job's driver and watches it.

The story of a launch, top to bottom; what happens after `spawn` is `jobs/driver.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from launcher.options import job_options, load_settings

if TYPE_CHECKING:
    from jobs.environment import Environment
    from jobs.home import Home
    from launcher.request import Request


@click.command(name="dpo")
@job_options
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--detach", is_flag=True, help="Start the job and return; it does not need this terminal.")
@click.option("--dry-run", is_flag=True, help="Stop before the question: nothing is recorded or started.")
@click.option("--force", is_flag=True, help="Train even where the data check refuses.")
@click.option("--json", "as_json", is_flag=True, help="One document: status/1 (plan/1 with --dry-run).")
def dpo_command(yes: bool, detach: bool, dry_run: bool, force: bool, as_json: bool, **flags: Any) -> int:
    """Plan, ask once, train, and bring the results home."""
    import os

    from artifacts.errors import Declined, NothingFits
    from jobs import driver
    from jobs.home import Home
    from jobs.plan_document import plan_document
    from jobs.store import Store
    from launcher import plan_view
    from launcher.console import ask, print_document, say
    from launcher.data_check import check_data, check_test_data
    from launcher.money_words import no_budget_line, refuse_what_cannot_be_rented
    from launcher.record import check_folders, record
    from launcher.request import make_plan, read_request
    from launcher.watch import watch_to_exit_code
    from launcher.workload import model_ref

    settings = load_settings(flags)
    line = no_budget_line(settings)
    if line:
        say(line)
    home = Home.from_environment(os.environ)
    store = Store.open(home)
    request = read_request(settings)
    for warning in request.warnings:
        say(f"warning: {warning}")
    out = check_folders(settings.out, home)
    check_test_data(request)
    refuse_what_cannot_be_rented(settings)
    stage_a = model_ref(request.requirement.workload.model)

    environment = _environment(request, home, yes=yes)
    check_data(request, stage_a, home, environment, force=force, say=say)
    plan = make_plan(request, home, store, environment, say)
    if plan.choice is None:
        raise NothingFits(
            "Nothing fits the requirement"
            + ("." if settings.budget is None else f" and the budget of ${settings.budget:g}."),
            why=plan_view.why_nothing_fits(plan),
            costing="Nothing was bought.",
            next_step=plan_view.next_step(plan, flags),
        )
    say(plan_view.sentence(plan, request.requirement))
    say(str(plan.chosen.reason) if plan.chosen else "")
    if dry_run:
        if as_json:
            print_document(plan_document(plan))
        return 0
    if not yes and not ask("Start it?"):
        raise Declined("Not started. Nothing was recorded, and nothing costs anything.")

    job = record(request, plan, stage_a, home, store, out)
    driver.spawn(home, job.id)
    if detach:
        say(f"{job.id} runs on its own. `launch status {job.id}` shows it, `launch logs {job.id} --follow` follows it.")
    return watch_to_exit_code(home, store, job.id, detach=detach, as_json=as_json)


def _environment(request: Request, home: Home, *, yes: bool) -> Environment:
    """The trainer's environment, made once; asked first, since it downloads some hundred megabytes."""
    from artifacts.errors import Declined
    from jobs import environment as trainer
    from launcher.console import ask, say
    from launcher.request import environment_device

    settings = request.settings
    device = environment_device(request, home)
    if not trainer.ready(home, device=device, python=settings.train_python) and not (
        yes or ask(f"The trainer's environment (PyTorch, TRL) is made once, under {home.environments}. Make it?")
    ):
        raise Declined("Without its environment the trainer cannot run. Nothing was recorded.")
    return trainer.ensure(home, device=device, python=settings.train_python, pip_args=settings.pip_args, say=say)
