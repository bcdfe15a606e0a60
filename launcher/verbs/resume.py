"""`launch resume`: goes on from the last whole checkpoint."""

from __future__ import annotations

import click


@click.command(name="resume")
@click.argument("job")
@click.option("--detach", is_flag=True, help="Start it and return.")
@click.option("--json", "as_json", is_flag=True, help="One status/1 document at the end.")
def resume_command(job: str, detach: bool, as_json: bool) -> int:
    """Go on with a job from its last whole checkpoint."""
    import os
    from datetime import UTC, datetime

    from artifacts.errors import UsageProblem
    from jobs import driver
    from jobs.home import Home
    from jobs.job import EXIT_CODE, Outcome, State
    from jobs.store import Store
    from launcher.console import money, say
    from launcher.watch import wait_for_end, watch_to_exit_code

    home = Home.from_environment(os.environ)
    store = Store.open(home)
    found = store.job(job)
    if found.outcome is Outcome.SUCCEEDED:
        say(f"{found.id} has succeeded; there is nothing to resume. Results: {found.spec.results}")
        return 0
    if found.outcome is Outcome.BUDGET_STOPPED and found.rented:
        say(
            f"{found.id} was stopped at its budget of {money(found.spec.budget_usd)}, which buys nothing more. "
            f"What it had learned by then: {found.spec.results}\n"
            f"Next: launch {found.spec.run.method} with a larger --budget trains the whole of it."
        )
        return EXIT_CODE[found.outcome]
    if driver.alive(home, found.id) and found.state is State.DONE:
        wait_for_end(home, found.id)
    if driver.alive(home, found.id):
        say(f"{found.id} is running; watching it.")
    else:
        if not home.job(found.id).exists():
            raise UsageProblem(
                f"The folder of {found.id} is not on this machine: {home.job(found.id)}",
                next_step=f"resume it on {found.home_host}, where it was started.",
            )
        if found.state is State.DONE:
            store.reopen(found.id, now=datetime.now(UTC))
        driver.spawn(home, found.id)
    return watch_to_exit_code(home, store, found.id, detach=detach, as_json=as_json)
