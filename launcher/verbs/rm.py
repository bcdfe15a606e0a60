"""`launch rm`: forgets a job whose results are at home."""

from __future__ import annotations

import click


@click.command(name="rm")
@click.argument("job")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def rm_command(job: str, yes: bool) -> int:
    """Forget a job whose results are at home. The results stay, and so does its row in the ledger."""
    import os

    from artifacts.errors import Declined
    from jobs.home import Home
    from jobs.job import State
    from jobs.pull import check_removable, remove
    from jobs.store import Store
    from launcher.console import ask, say
    from launcher.watch import wait_for_end

    home = Home.from_environment(os.environ)
    store = Store.open(home)
    found = store.job(job)
    if found.state is State.DONE:
        wait_for_end(home, found.id)
    check_removable(home, found)
    if not yes and not ask(f"Forget {found.id} and delete its working folder {home.job(found.id)}? Results stay."):
        raise Declined("Nothing was removed.")
    remove(home, store, found)
    say(f"{found.id} is forgotten. Its results stay in {found.spec.results}")
    return 0
