"""`launch eval`: Stage A against Stage B on held-out data."""

from __future__ import annotations

import click


@click.command(name="eval")
@click.argument("job")
@click.option("--test", metavar="FILE", type=click.Path(), help="Held-out data (default: the job's own).")
@click.option("--terms", metavar="FILE", type=click.Path(), help="Terms, one a line, for the proxy of other data.")
@click.option("--json", "as_json", is_flag=True, help="One eval/1 document.")
def eval_command(job: str, test: str | None, terms: str | None, as_json: bool) -> int:
    """Stage A against Stage B on held-out data, never that on which the adapter was chosen."""
    import os
    from pathlib import Path

    from jobs.home import Home
    from jobs.store import Store
    from launcher.console import print_document, say
    from launcher.eval_view import lines
    from launcher.evaluation import evaluate

    home = Home.from_environment(os.environ)
    store = Store.open(home)
    found = store.job(job)
    named, listed = (Path(file).expanduser().absolute() if file else None for file in (test, terms))
    document = evaluate(home, store, found, named or found.spec.test, terms=listed, say=say)
    if as_json:
        print_document(document)
    else:
        print("\n".join(lines(document)))
    return 0
