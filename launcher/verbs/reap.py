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
    from jobs.accounts import accounts_here, look
    from jobs.home import Home
    from jobs.lambda_key import new_key
    from jobs.reap import Claim, claimed
    from jobs.store import Store
    from launcher.console import ask, print_document, say

    accounts = accounts_here(os.environ)
    if not accounts:
        raise CredentialProblem(
            "There is no key of Lambda here, and no credentials of AWS: no machine can be seen.",
            next_step=f"{new_key()}; for AWS: aws configure",
        )
    home = Home.from_environment(os.environ)
    store = Store.open(home)
    machines = claimed(look(accounts, say), store.store_id, store.jobs())  # before the jobs: see `claimed`
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
        for account in accounts:
            left |= account.end([one.instance for one in over if one.instance.cloud == account.cloud])
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
            next_step=f"launch reap again in a minute, or {', '.join(account.console for account in accounts)}",
        )
    return 0


def _line(machine: Claimed) -> str:
    one = machine.instance
    price = "" if one.price_per_hour is None else f", ${one.price_per_hour:.2f}/h"
    what = f"{one.name or one.id}  {one.status}, {one.instance_type} in {one.region}"
    return f"{machine.claim.value:<8}  {what}{price}: {machine.why}"


def _row(machine: Claimed, ended: set[str]) -> dict[str, object]:
    one = machine.instance
    return {
        "cloud": one.cloud,
        "instance_id": one.id,
        "name": one.name or None,
        "status": one.status,
        "instance_type": one.instance_type,
        "region": one.region,
        "job": machine.job,
        "claim": machine.claim.value,
        "why": machine.why,
        "ended": one.id in ended,
    }


def _count(number: int) -> str:
    return f"{number} machine{'' if number == 1 else 's'}"
