"""`vaeseg-batch scheduler`: the service that starts scheduled scans."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from vaeseg.cli.options import opened_for_query, store_options

if TYPE_CHECKING:
    from vaeseg.paths import AnyPath


@click.command()
@click.option("--max-scans", type=click.IntRange(min=1), default=1, show_default=True, help="Scans at once, at most.")
@store_options
def command(max_scans: int, store: AnyPath, db: str | None) -> None:
    """Start the scans of `schedule add` when they are due, until SIGTERM or Ctrl-C.

    Each scan is a process of its own. A signal asks those that run to stop, waits for their end and exits with 0; what
    they left is due again when the scheduler is started again. A second signal ends the scheduler at once. A database
    that is away is waited for.

    Exit codes: 0 stopped by a signal, 1 the database cannot be opened at the start, 2 no such store.
    """
    from functools import partial

    from vaeseg.distributed.lifecycle import interruptible
    from vaeseg.distributed.scan_process import ScanProcess
    from vaeseg.distributed.scheduler import Scheduler, serve

    with interruptible() as interruption, opened_for_query(store, db) as database:
        start = partial(ScanProcess, store_root=store, database_url=db)
        serve(Scheduler(database, start, _say, max_scans), interruption, _say)


def _say(line: str) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z {line}", file=sys.stderr, flush=True)
