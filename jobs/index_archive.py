"""Bring the index of an archive up to date, as a run that is written down in the database.

    python -P jobs/index_archive.py --run-id RUN_ID --store DIR [--db URL]

The run id is all that the job's entry point says; the archive is in the run's row.
"""

from __future__ import annotations

import sys

from vaeseg.db.session import Database
from vaeseg.distributed.job import run_job
from vaeseg.distributed.runs import execute_index
from vaeseg.io.store import Store


def index_archive(database: Database, store: Store, run_id: str) -> bool:
    """List the run's archive, and read the headers of new and changed files."""
    counts = execute_index(database, store, run_id)
    print(f"{counts['n_listed']} files listed, {counts['n_read']} headers read, {counts['n_vanished']} files vanished")
    return True


if __name__ == "__main__":
    sys.exit(run_job(__doc__, index_archive))
