"""`vaeseg-batch cancel`: stop a run from anywhere that reaches its database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vaeseg.cli.options import opened_for_query, store_options

if TYPE_CHECKING:
    from vaeseg.paths import AnyPath


@click.command()
@click.argument("run_id")
@store_options
def command(run_id: str, store: AnyPath, db: str | None) -> None:
    """Ask a run to stop; finished series are kept, and `resume` goes on with the rest.

    Its driver stops within about 15 seconds; a job that waits for its cluster is taken back. Exit code 2 where there is
    no such run, or it has ended.
    """
    from vaeseg.db.drivers import is_submitted
    from vaeseg.db.runs import cancel_run

    with opened_for_query(store, db) as database:
        how = "is asked to stop" if cancel_run(database, run_id) else "had no driver any more and is closed"
        if is_submitted(database, run_id):
            from vaeseg.distributed.jobs import take_back

            take_back(database, run_id)
            how = "is taken back from its cluster"
    print(f"run {run_id} {how}; 'vaeseg-batch resume {run_id}' goes on with it")
