"""`launch logs`: what the trainer said."""

from __future__ import annotations

import click


@click.command(name="logs")
@click.argument("job")
@click.option("--follow", "-f", is_flag=True, help="Stay until the job is done.")
def logs_command(job: str, follow: bool) -> int:
    """What the trainer said."""
    import os
    import sys
    import time

    from jobs import driver
    from jobs.home import Home
    from jobs.job import State
    from jobs.store import Store
    from launcher.console import say

    home = Home.from_environment(os.environ)
    store = Store.open(home)
    found = store.job(job)
    file = home.job(found.id) / "logs" / "trainer.log"
    position = 0
    while True:
        # Asked before the file is read, so that the last lines of a job that ends meanwhile are not missed.
        over = not follow or store.job(found.id).state is State.DONE or not driver.alive(home, found.id)
        if file.exists():
            with file.open("rb") as log:
                log.seek(position)
                sys.stdout.write(log.read().decode("utf-8", errors="replace"))
                position = log.tell()
            sys.stdout.flush()
        if over:
            break
        time.sleep(0.5)  # the refresh rate of a view
    if not position:
        say(f"{found.id} has said nothing yet; its folder is {home.job(found.id)}.")
    return 0
