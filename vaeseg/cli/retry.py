"""`vaeseg-batch retry`: do again what a run could not do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vaeseg.cli.options import address_option, check_choice, json_option, opened_for_query, store_options, wait_option
from vaeseg.cli.segmentation import conclude, with_bar

if TYPE_CHECKING:
    from vaeseg.paths import AnyPath

OUTCOMES = ["failed", "crashed"]


@click.command()
@click.argument("run_id")
@click.option("--outcome", "outcomes", default="failed,crashed", show_default=True, help="Which series.")
@store_options
@address_option
@wait_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    run_id: str,
    outcomes: str,
    store: AnyPath,
    db: str | None,
    address: str | None,
    wait: bool,
    as_json: bool,
) -> None:
    """Do again, in a new run, the series that a run ended as failed or crashed.

    Exit codes: 0 ok, 1 error, 2 no such run or outcome, 3 some series failed again.
    """
    from vaeseg.distributed.submit import retry
    from vaeseg.io.store import create_store

    chosen = tuple(outcome.strip() for outcome in outcomes.split(","))
    for outcome in chosen:
        check_choice("--outcome", outcome, OUTCOMES)
    with opened_for_query(store, db) as database:
        report = with_bar(lambda show: retry(create_store(store), database, run_id, chosen, show, address, wait))
    conclude(ctx, report, store, db, as_json)
