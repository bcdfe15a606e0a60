"""`launch pull`: brings a job's results home (again)."""

from __future__ import annotations

import click


@click.command(name="pull")
@click.argument("job")
def pull_command(job: str) -> int:
    """Bring a job's results home (again)."""
    import os

    from artifacts.errors import UsageProblem
    from jobs import driver
    from jobs.home import Home
    from jobs.job import State
    from jobs.pull import pull
    from jobs.store import Store
    from launcher.console import say
    from launcher.watch import wait_for_end, watch_only

    home = Home.from_environment(os.environ)
    store = Store.open(home)
    found = store.job(job)
    if found.state is State.DONE:
        wait_for_end(home, found.id)
    if found.rented and found.state is not State.DONE:
        driver.reconcile(home, store)
        say(f"{found.id} is not at its end; its results come home then.")
        return watch_only(home, store, [store.job(found.id)])
    if driver.alive(home, found.id):
        raise UsageProblem(
            f"{found.id} is still running; its results come home when it ends.",
            next_step=f"launch status {found.id} --watch, or launch cancel {found.id} for what there is now.",
        )
    pull(home, store, found)
    say(f"Results of {found.id}, verified: {found.spec.results}")
    outcome = store.job(found.id).outcome
    if outcome is not found.outcome:
        say(f"{found.id} had failed only in bringing them home: it is {str(outcome).replace('_', ' ')} now.")
    return 0
