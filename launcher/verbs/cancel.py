"""`launch cancel`: stops a job; its last checkpoint comes home first."""

from __future__ import annotations

import click


@click.command(name="cancel")
@click.argument("job")
@click.option("--now", is_flag=True, help="Do not wait for the step to end or for results.")
def cancel_command(job: str, now: bool) -> int:
    """Stop a job; its last checkpoint comes home first."""
    import os

    from jobs import driver
    from jobs.home import Home
    from jobs.job import State
    from jobs.store import Store
    from launcher.console import say
    from launcher.watch import watch_only

    home = Home.from_environment(os.environ)
    store = Store.open(home)
    found = store.job(job)
    if found.state is State.DONE:
        say(f"{found.id} is already done ({found.outcome}). Nothing is running, nothing is costing money.")
        return 0
    store.request_cancel(found.id, "now" if now else "pull_first")
    if not driver.alive(home, found.id) and store.job(found.id).state is not State.DONE:
        driver.spawn(home, found.id)  # one that finds the request, brings home what there is, and ends the job
    say(f"Cancelling {found.id} ...")
    return watch_only(home, store, [store.job(found.id)])
