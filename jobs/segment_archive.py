"""Execute a segmentation run that is written down in the database.

    python -P jobs/segment_archive.py --run-id RUN_ID --store DIR [--db URL]

The run id is all that the job's entry point says; archive, model and options are in the run's row.
"""

from __future__ import annotations

import sys

from vaeseg.db.session import Database
from vaeseg.distributed.commit import recover_parts
from vaeseg.distributed.job import run_job, said_now_and_then
from vaeseg.distributed.runs import execute_run
from vaeseg.io.store import Store


def segment_archive(database: Database, store: Store, run_id: str) -> bool:
    """Look for what is new in the run's archive, and segment it."""
    recover_parts(store, database)
    return execute_run(database, store, run_id, said_now_and_then()).complete


if __name__ == "__main__":
    sys.exit(run_job(__doc__, segment_archive))
