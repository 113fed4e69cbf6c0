"""`vaeseg-batch exporter`: the service that Prometheus scrapes."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from vaeseg.cli.options import opened_to_watch, store_options

if TYPE_CHECKING:
    from vaeseg.paths import AnyPath


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=9187, show_default=True, help="Port; 0 for a free one.")
@click.option(
    "--volume-threshold-ml",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Findings above this volume are counted as large.",
)
@click.option(
    "--every",
    "every_seconds",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1),
    default=5.0,
    show_default=True,
    help="Between two looks at the database, at least; longer where a look takes long.",
)
@store_options
def command(
    host: str, port: int, volume_threshold_ml: float, every_seconds: float, store: AnyPath, db: str | None
) -> None:
    """Serve metrics of the database for Prometheus, until SIGTERM or Ctrl-C.

    A thread looks at the database every few seconds; a scrape is answered with what it saw last. While the database is
    away, vaeseg_database_up is 0 and the numbers that come from it are absent; when it is back, so are they.

    Exit codes: 0 stopped by a signal, 1 the database cannot be opened at the start or has to be upgraded, or the port
    is in use, 2 no such store or host.
    """
    from vaeseg.distributed.lifecycle import interruptible
    from vaeseg.exporter.server import serve
    from vaeseg.exporter.watcher import Watcher

    with interruptible() as interruption, opened_to_watch(store, db) as database:
        watcher = Watcher(database, volume_threshold_ml, every_seconds, _say)
        serve(watcher, host, port, lambda: interruption.signalled, _say)


def _say(line: str) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z {line}", file=sys.stderr, flush=True)
