"""`launch status`: one line a job, or one job in full."""

from __future__ import annotations

import click


@click.command(name="status")
@click.argument("job", required=False)
@click.option("--watch", "watching", is_flag=True, help="Stay and follow it (Ctrl-C ends the watching, not the job).")
@click.option("--json", "as_json", is_flag=True, help="One status/1 document.")
def status_command(job: str | None, watching: bool, as_json: bool) -> int:
    """One line a job, or one job in full."""
    import os

    from jobs.driver import reconcile
    from jobs.home import Home
    from jobs.store import Store
    from launcher.console import print_document, say
    from launcher.documents import status_document
    from launcher.ledger_view import costs_by_job

    home = Home.from_environment(os.environ)
    store = Store.open(home)
    reconcile(home, store)
    found = [store.job(job)] if job else store.jobs()
    if as_json:
        print_document(status_document(found, costs_by_job(store)))
        return 0
    if watching:
        from launcher.watch import watch_only

        return watch_only(home, store, found)
    if not found:
        say("No jobs yet. `launch demo` makes a sample project, `launch dpo` runs a job.")
        return 0
    from launcher.status_view import in_full, overview

    costs = costs_by_job(store)
    print("\n".join(in_full(found[0], costs, home) if job else overview(found, costs)))
    return 0
