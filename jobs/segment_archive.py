"""Execute a segmentation run that is written down in the database.

    python -P jobs/segment_archive.py --run-id RUN_ID --store DIR [--db URL]

The run id is all that the job's entry point says; archive, model and options are in the run's row.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from vaeseg.db.location import url_from_environment
from vaeseg.db.session import open_database, sqlite_url
from vaeseg.distributed.commit import recover_parts
from vaeseg.distributed.runs import execute_run
from vaeseg.errors import EXIT_INCOMPLETE, EXIT_OK, VaesegError
from vaeseg.io.store import existing_store


def main() -> int:
    """Run the job; the exit code is that of `vaeseg-batch submit`."""
    options = parse_options()
    try:
        store = existing_store(options.store)
        database = open_database(options.db or url_from_environment() or sqlite_url(store.database_path), create=False)
        recover_parts(store, database)
        report = execute_run(database, store, options.run_id)
    except VaesegError as error:
        print(f"segment_archive: {error}", file=sys.stderr)
        return error.exit_code
    return EXIT_OK if report.complete else EXIT_INCOMPLETE


def parse_options() -> argparse.Namespace:
    """The run, and where it is written down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--store", type=Path, default=Path(os.environ.get("VAESEG_STORE", "./vaeseg-store")))
    parser.add_argument("--db", help="without it $VAESEG_DB, or the content of the file $VAESEG_DB_FILE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
