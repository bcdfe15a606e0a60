"""`launch cost`: the ledger."""

from __future__ import annotations

import click


@click.command(name="cost")
@click.option("--by", type=click.Choice(["attempt", "job", "cloud", "month"]), default="attempt", help="What a row is.")
@click.option("--json", "as_json", is_flag=True, help="One cost/1 document.")
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated, one row an attempt.")
def cost_command(by: str, as_json: bool, as_csv: bool) -> int:
    """The ledger: what every attempt cost."""
    import csv
    import os
    import sys

    from artifacts.bill import LedgerRow, cost_document, cost_row
    from jobs.home import Home
    from jobs.store import Store
    from launcher.console import print_document
    from launcher.ledger_view import lines

    rows = Store.open(Home.from_environment(os.environ)).ledger()
    if as_json:
        print_document(cost_document(rows))
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, fieldnames=list(LedgerRow.model_fields))
        writer.writeheader()
        writer.writerows(cost_row(row) for row in rows)
    else:
        print("\n".join(lines(rows, by=by)))
    return 0
