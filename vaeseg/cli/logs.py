"""`vaeseg-batch logs`: what the driver of a run printed on its cluster."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from vaeseg.cli.options import opened_for_query, store_options
from vaeseg.errors import ClusterAwayError, UsageError

if TYPE_CHECKING:
    from vaeseg.distributed.jobs_api import JobsApi
    from vaeseg.paths import AnyPath

FOLLOW_SECONDS = 2.0
AWAY_SECONDS = 120.0
"""How long --follow waits for a cluster that answered before: twice what Ray gives a node that is silent."""


@click.command()
@click.argument("run_id")
@click.option("--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("--address", metavar="http://HOST:PORT", help="Where the cluster is now, if not where it was.")
@store_options
def command(run_id: str, follow: bool, address: str | None, store: AnyPath, db: str | None) -> None:
    """Print the log of the job that executes RUN_ID, or of its last attempt.

    What became of a run is in the database, also when its cluster is gone: see `status`. With --follow, a cluster that
    stops answering is waited for, up to two minutes.

    Exit codes: 0 ok, 1 the cluster cannot be asked, 2 no such run, it was no job, or the cluster does not know it.
    """
    from vaeseg.db.drivers import last_submission
    from vaeseg.distributed.jobs_api import JobsApi

    with opened_for_query(store, db) as database:
        submission = last_submission(database, run_id)
    if submission is None:
        raise UsageError(f"run {run_id} was no job: it was driven by the process that began it, where its log went")
    _print_logs(JobsApi(address or submission[0]), submission[1], follow)


def _print_logs(cluster: JobsApi, submission_id: str, follow: bool) -> None:
    printed = 0
    while True:
        has_ended, text = _read(cluster, submission_id, AWAY_SECONDS if follow else 0.0)
        click.echo(text[printed:], nl=False)
        printed = len(text)
        if has_ended or not follow:
            return
        time.sleep(FOLLOW_SECONDS)


def _read(cluster: JobsApi, submission_id: str, patience_seconds: float) -> tuple[bool, str]:
    """Whether the job has ended, and its log; a cluster that stops answering is waited for.

    Raises:
        ClusterAwayError: it does not answer within that time.
    """
    since = time.monotonic()
    is_told = False
    while True:
        try:
            return cluster.state(submission_id) == "ended", cluster.logs(submission_id)
        except ClusterAwayError as error:
            if time.monotonic() - since >= patience_seconds:
                raise
            if not is_told:
                click.echo(f"{error}; it is waited for up to {patience_seconds:.0f} s", err=True)
            is_told = True
        time.sleep(FOLLOW_SECONDS)
