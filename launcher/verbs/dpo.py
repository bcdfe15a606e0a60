"""`launch dpo`, and the verbs of the other methods: plans, asks once, starts the job's driver and watches it.

The story of a launch, top to bottom; what happens after `spawn` is `jobs/driver.py`.
"""

from __future__ import annotations

from typing import Any

import click

from launcher.options import job_options, load_settings
from train.config import Method


def training_verb(method: Method, does: str) -> click.Command:
    """`launch METHOD`, with the flags that the method has; `does` is its help."""

    @click.command(name=method, help=does)
    @job_options(method)
    @click.option("--yes", "-y", is_flag=True, help="Do not ask.")
    @click.option("--detach", is_flag=True, help="Start the job and return; it does not need this terminal.")
    @click.option("--dry-run", is_flag=True, help="Stop before the question: nothing is recorded or started.")
    @click.option("--force", is_flag=True, help="Train even where the data check refuses.")
    @click.option(
        "--json", "as_json", is_flag=True, help="One document: status/1 (plan/1 with --dry-run, or where nothing fits)."
    )
    def command(yes: bool, detach: bool, dry_run: bool, force: bool, as_json: bool, **flags: Any) -> int:
        return _launch(method, flags, yes=yes, detach=detach, dry_run=dry_run, force=force, as_json=as_json)

    return command


dpo_command = training_verb("dpo", "Plan, ask once, train, and bring the results home.")


def _launch(
    method: Method, flags: dict[str, Any], *, yes: bool, detach: bool, dry_run: bool, force: bool, as_json: bool
) -> int:
    import os

    from artifacts.errors import Declined, NothingFits
    from jobs import driver
    from jobs.home import Home
    from jobs.plan_document import plan_document
    from jobs.store import Store
    from launcher import plan_view
    from launcher.console import ask, print_document, say
    from launcher.data_check import check_data, check_test_data
    from launcher.money_words import (
        before_renting,
        check_can_start,
        no_budget_line,
        refuse_what_cannot_be_rented,
    )
    from launcher.prepare import environment_for, prepare
    from launcher.rates import known_rates
    from launcher.record import check_folders, record
    from launcher.remedies import remedies
    from launcher.request import Market, environment_device, find_offers
    from launcher.watch import watch_to_exit_code
    from launcher.workload import model_ref

    settings = load_settings(flags, method)
    home = Home.from_environment(os.environ)
    store = Store.open(home)
    out = check_folders(settings.out, home)
    refuse_what_cannot_be_rented(settings)
    odd: list[str] = []  # said after the line about money
    typed = flags["requirements"] is not None
    request = prepare(settings, home, typed=typed, yes=yes, trains=True, say=say, note=odd.append)
    offers = find_offers(settings, home, odd.append)
    needed = Market(request, offers, store.rates()).plan().budget_needed_usd
    line = no_budget_line(settings, needed, priced=any(offer.cloud != "local" for offer in offers))
    for said in ([line] if line else []) + odd:
        say(said)
    check_test_data(request)
    stage_a = model_ref(request.requirement.workload.model)

    environment = environment_for(request, home, yes=yes, say=say)
    checked = check_data(request, stage_a, home, environment, force=force, say=say)
    request = request.with_pairs(int(checked["train"]["usable"]))
    gpu = environment_device(request, home) == "cuda"
    market = Market(request, offers, known_rates(home, store, environment, gpu=gpu, say=say))
    plan = market.plan()
    if plan.choice is None:
        if as_json:
            print_document(plan_document(plan))
        raise NothingFits(
            "Nothing fits the requirement"
            + ("." if settings.budget is None else f" and the budget of ${settings.budget:g}."),
            why=plan_view.why_nothing_fits(plan),
            costing="Nothing was bought.",
            next_step=plan_view.next_steps(flags, remedies(flags, market, plan), method),
        )
    for said in plan_view.before_asking(plan, request.requirement, settings.upload_mbit_s):
        say(said)
    if dry_run:
        if as_json:
            print_document(plan_document(plan))
        return 0
    for said in [*check_can_start(plan, settings, os.environ), *before_renting(plan, settings)]:
        say(said)
    if not yes and not ask("Start it?"):
        raise Declined("Not started. Nothing was recorded, and nothing costs anything.")

    job = record(request, plan, stage_a, home, store, out)
    driver.spawn(home, job.id)
    if detach:
        say(f"{job.id} runs on its own. `launch status {job.id}` shows it, `launch logs {job.id} --follow` follows it.")
    return watch_to_exit_code(home, store, job.id, detach=detach, as_json=as_json)
