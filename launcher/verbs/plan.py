"""`launch plan dpo|orpo|kto|sft`: prices every way to run the job, and spends nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from launcher.options import job_options, load_settings
from train.config import METHODS, Method

if TYPE_CHECKING:
    from jobs.home import Home
    from launcher.foreign_requirement import MemoryOnly
    from launcher.settings import Settings


@click.group(name="plan")
def plan_command() -> None:
    """Price every way to run a job; spends nothing."""


def _plan_verb(method: Method) -> click.Command:
    @click.command(name=method, help=f"Price every way to run {method.upper()}.")
    @job_options(method)
    @click.option("--all", "everything", is_flag=True, help="Every offer, not the best 12.")
    @click.option("--json", "as_json", is_flag=True, help="One plan/1 document.")
    @click.option("--yes", is_flag=True, help="Make the trainer's environment without asking.")
    def command(everything: bool, as_json: bool, yes: bool, **flags: Any) -> int:
        return _plan(method, flags, everything=everything, as_json=as_json, yes=yes)

    return command


for _method in METHODS:
    plan_command.add_command(_plan_verb(_method))


def _plan(method: Method, flags: dict[str, Any], *, everything: bool, as_json: bool, yes: bool) -> int:
    import os

    from jobs.home import Home
    from jobs.plan_document import plan_document
    from jobs.store import Store
    from launcher import plan_view
    from launcher.console import print_document, say
    from launcher.money_words import no_budget_line
    from launcher.planning import load_of
    from launcher.prepare import environment_if_ready, prepare
    from launcher.rates import known_rates, stated_rates
    from launcher.remedies import remedies
    from launcher.request import Market, environment_device, find_offers
    from launcher.retired import p3_is_gone

    settings = load_settings(flags, method)
    home = Home.from_environment(os.environ)
    memory = _memory_only(settings)
    if memory is not None:
        return _memory_plan(memory, settings, home, as_json=as_json)
    typed = flags["requirements"] is not None
    request = prepare(settings, home, typed=typed, yes=yes, trains=False, say=say, note=say)
    environment = environment_if_ready(request, home, make=yes, say=say)
    gpu = environment_device(request, home) == "cuda"
    rates = known_rates(home, Store.open(home), environment, gpu=gpu, say=say)
    stated = stated_rates(request.requirement, rates)
    offers = find_offers(settings, home, say)
    market = Market(request, offers, [*rates, *stated])
    plan = market.plan()
    if as_json:
        print_document(plan_document(plan))
        return 0 if plan.chosen else 3
    line = no_budget_line(settings, plan.budget_needed_usd, priced=any(offer.cloud != "local" for offer in offers))
    if line:
        print(line)
    print("\n".join(plan_view.wrapped(plan_view.decision(plan, request.requirement))))
    if environment is None and not stated:
        makes = f"`launch plan {method} --yes` makes the trainer's environment and measures this machine."
        print(f"No hours here yet: {makes}")
    print()
    lines = plan_view.table(plan, everything=everything)
    gone = p3_is_gone(offers) if settings.cloud in ("aws", "any") else None
    lines += plan_view.wrapped([gone]) if gone else []
    lines += plan_view.upload(plan, load_of(request.requirement).up_bytes, settings.upload_mbit_s)
    print("\n".join(lines))
    if plan.chosen is None:
        say("Nothing was bought, and nothing runs.")
        say(f"Next: {plan_view.next_steps(flags, remedies(flags, market, plan), method)}")
        return 3
    print(f"\nTo run it: {plan_view.command(flags, method)}")
    return 0


def _memory_only(settings: Settings) -> MemoryOnly | None:
    from launcher.foreign_requirement import MemoryOnly
    from launcher.requirement_file import read_any

    if settings.requirements is None:
        return None
    found = read_any(settings.requirements.expanduser().absolute(), settings.method)
    return found if isinstance(found, MemoryOnly) else None


def _memory_plan(memory: MemoryOnly, settings: Settings, home: Home, *, as_json: bool) -> int:
    """Without FLOPs no duration is invented: what an hour costs, and how many hours the budget buys."""
    from jobs.plan_document import plan_document
    from launcher import plan_view
    from launcher.console import print_document, say
    from launcher.methods import estimating
    from launcher.planning import nothing_can, plan_memory
    from launcher.request import find_offers

    for warning in memory.warnings:
        say(f"warning: {warning}")
    offers = find_offers(settings, home, say, everywhere=True)
    plan = plan_memory(memory.option, offers, budget_usd=settings.budget, cloud=settings.cloud)
    code = 3 if nothing_can(plan) else 0
    if as_json:
        print_document(plan_document(plan))
        return code
    print(f"The file says how much memory is needed ({'; '.join(memory.understood)}), and not how long it takes.")
    if code:
        print("Nothing fits. The nearest machines:")
    print("\n".join(plan_view.hours_bought(plan)))
    if code:
        say(f"Next: a model in fewer bits or with shorter pairs: {estimating(settings.method)}")
        return code
    named = f"launch plan {settings.method} --model PATH|ID --train FILE"
    print(f"\nFor hours and a choice: {named}, without --requirements.")
    return 0
