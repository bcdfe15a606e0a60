"""`launch reap`: ends machines of this store that no live job owns, and lists those of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from jobs.reap import Claimed


@click.command(name="reap")
@click.option("--dry-run", is_flag=True, help="List only.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One reap/1 document.")
def reap_command(dry_run: bool, yes: bool, as_json: bool) -> int:
    """End machines of this store that no live job owns. Those of other stores and names are listed, never touched.

    Exit 1 where a machine is still listed afterwards.
    """
    import os

    from artifacts.errors import CredentialProblem, Declined, LaunchError
    from jobs import unended
    from jobs.home import Home
    from jobs.lambda_api import LambdaApi
    from jobs.lambda_key import lambda_key, new_key
    from jobs.reap import Claim, claimed
    from jobs.store import Store
    from launcher.console import ask, print_document, say

    key = lambda_key(os.environ)
    if key is None:
        raise CredentialProblem("There is no key of Lambda here, so no machine can be seen.", next_step=new_key())
    api = LambdaApi(key, os.environ)
    home = Home.from_environment(os.environ)
    store = Store.open(home)
    instances = api.instances()  # before the jobs: see `claimed`
    machines = claimed(instances, store.store_id, store.jobs())
    over = [machine for machine in machines if machine.claim is Claim.OVER]
    for machine in machines:
        (say if as_json else print)(_line(machine))
    if not machines:
        say("No machine runs on this account.")
    left: set[str] = set()
    if over and not dry_run:
        if not yes and not ask(
            f"End {_count(len(over))} of this store that no live job owns? What is on them is lost."
        ):
            raise Declined("Nothing was ended.")
        left = {instance.id for instance in api.end([machine.instance.id for machine in over])}
        for machine in over:
            if machine.job and machine.instance.id not in left:
                store.clear_attention(machine.job, "teardown_unconfirmed")
                unended.clear(home.root, machine.job)
        say(f"{_count(len(over) - len(left))} ended.")
    if as_json:
        ended = {machine.instance.id for machine in over} - left if not dry_run else set[str]()
        print_document({"schema": "reap/1", "machines": [_row(machine, ended) for machine in machines]})
    if left:
        raise LaunchError(
            f"{_count(len(left))} of {len(over)} are still listed: {', '.join(sorted(left))}",
            costing="They may go on costing money.",
            next_step="launch reap again in a minute, or https://cloud.lambda.ai/instances",
        )
    return 0


def _line(machine: Claimed) -> str:
    instance = machine.instance
    cents = instance.instance_type.price_cents_per_hour
    price = "" if cents is None else f", ${cents / 100:.2f}/h"
    what = f"{instance.name or instance.id}  {instance.status}, {instance.instance_type.name} in {instance.region.name}"
    return f"{machine.claim.value:<8}  {what}{price}: {machine.why}"


def _row(machine: Claimed, ended: set[str]) -> dict[str, object]:
    instance = machine.instance
    return {
        "cloud": "lambda",
        "instance_id": instance.id,
        "name": instance.name,
        "status": instance.status,
        "instance_type": instance.instance_type.name,
        "region": instance.region.name,
        "job": machine.job,
        "claim": machine.claim.value,
        "why": machine.why,
        "ended": instance.id in ended,
    }


def _count(number: int) -> str:
    return f"{number} machine{'' if number == 1 else 's'}"
