"""`vaeseg-batch resume`: go on with a run that did not finish."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vaeseg.cli.options import address_option, json_option, opened_for_query, store_options, wait_option
from vaeseg.cli.segmentation import conclude, with_bar

if TYPE_CHECKING:
    from vaeseg.paths import AnyPath


@click.command()
@click.argument("run_id")
@store_options
@address_option
@wait_option
@json_option
@click.pass_context
def command(
    ctx: click.Context, /, run_id: str, store: AnyPath, db: str | None, address: str | None, wait: bool, as_json: bool
) -> None:
    """Go on with a run that was interrupted, cancelled, killed or failed, under its id.

    The archive is looked at again; what was finished is not done again.

    Exit codes: 0 ok, 1 it failed again, 2 no such run, or it is running or has finished, 3 some series failed.
    """
    from vaeseg.distributed.submit import resume
    from vaeseg.io.store import create_store

    with opened_for_query(store, db) as database:
        report = with_bar(lambda show: resume(create_store(store), database, run_id, show, address, wait))
    conclude(ctx, report, store, db, as_json)
