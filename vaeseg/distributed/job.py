"""What the scripts of `jobs/` share: options, the store and the database, the cluster, and the exit code."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing

from vaeseg.db.location import url_from_environment
from vaeseg.db.session import Database, open_database, sqlite_url
from vaeseg.db.summaries import Progress
from vaeseg.distributed.local import join_cluster
from vaeseg.distributed.report import ProgressCallback
from vaeseg.errors import EXIT_INCOMPLETE, EXIT_OK, UsageError, VaesegError
from vaeseg.io.store import Store, create_store, existing_store
from vaeseg.logs import fail, logged_with, set_up_logging, show_uncaught_errors, take_over_stderr
from vaeseg.paths import AnyPath, any_path
from vaeseg.remote import RemotePath
from vaeseg.training.lines import epoch_line
from vaeseg.training.observing import Observer

SAY_SECONDS = 10.0
"""Between two lines about progress, at least."""

JobWork = Callable[[Database, Store, str], bool]
"""Executes the run of an id; whether it did all that it was to do."""


def cluster_of_job() -> str | None:
    """HOST:PORT of the cluster whose job this process is; None where it is none."""
    return os.environ.get("RAY_ADDRESS")


def run_job(description: str, work: JobWork) -> int:
    """Execute the run that the command line names; its exit code is that of the command which submitted it.

    The store and the database are those of `--store` and `--db`, or of this machine's VAESEG_STORE and VAESEG_DB; the
    cluster is the one whose job this is, and without one a Ray of its own is started when it is needed.
    """
    options = _options(description)
    show_uncaught_errors()
    try:
        set_up_logging()
        take_over_stderr()
        database_url = options.db or url_from_environment()
        store = _shared_store(options.store, database_url)
        with closing(open_database(database_url or sqlite_url(store.database_path), create=False)) as database:
            if options.address:
                join_cluster(options.address)
            print(f"run {options.run_id}", flush=True)
            with logged_with(run_id=options.run_id):
                is_complete = work(database, store, options.run_id)
    except VaesegError as error:
        fail(f"run {options.run_id}: {error}")
        return error.exit_code
    print(f"run {options.run_id} is done" + " but for some series" * (not is_complete))
    return EXIT_OK if is_complete else EXIT_INCOMPLETE


def said_now_and_then() -> ProgressCallback:
    """Progress of a run in lines, for the log of a job."""
    said_at = time.monotonic()

    def say(progress: Progress) -> None:
        nonlocal said_at
        now = time.monotonic()
        if now - said_at < SAY_SECONDS and progress.series_done < progress.series_total:
            return
        said_at = now
        print(
            f"{progress.series_done} of {progress.series_total} series, {progress.slices_done} slices, "
            f"{progress.failures} failed",
            flush=True,
        )

    return say


def said_each_epoch() -> Observer:
    """A training in lines, for the log of a job."""
    log = sys.stdout  # as it is now: while Ray trains, what is printed is Ray's own chatter
    return Observer(on_epoch=lambda report: print(epoch_line(report), file=log, flush=True))


def _shared_store(root: AnyPath, db: str | None) -> Store:
    """The store that the run was submitted with, as this machine sees it.

    Raises:
        UsageError: there is none here.
        StoreError: it cannot be written.
    """
    if db is None:
        return existing_store(root)
    if not isinstance(root, RemotePath) and not root.is_dir():
        raise UsageError(f"no store at {root}: VAESEG_STORE must name on the head node what it names for who submits")
    return create_store(root)


def _options(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-id", required=True, help="of a run that is written down in the database")
    parser.add_argument("--store", type=any_path, default=os.environ.get("VAESEG_STORE", "./vaeseg-store"))
    parser.add_argument("--db", help="URL; by default what VAESEG_DB or VAESEG_DB_FILE says, or SQLite in the store")
    parser.add_argument("--address", default=cluster_of_job(), help="HOST:PORT of a cluster to work on")
    return parser.parse_args()
