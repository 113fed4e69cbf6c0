"""Stage two: train the segmentation decoder, as a run that is written down in the database.

    python -P jobs/train_decoder.py --run-id RUN_ID --store DIR [--db URL]

The run id is all that the job's entry point says; the data set and the options are in the run's row.
"""

from __future__ import annotations

import sys

from vaeseg.db.session import Database
from vaeseg.distributed.job import cluster_of_job, run_job, said_each_epoch
from vaeseg.distributed.training_job import execute_training
from vaeseg.io.store import Store


def train_decoder(database: Database, _store: Store, run_id: str) -> bool:
    """Train on the workers of the cluster whose job this is."""
    trained = execute_training(database, run_id, cluster_of_job(), said_each_epoch())
    print(f"{trained.path.name}: {trained.epochs} epochs, best {trained.best_epoch}")
    return True


if __name__ == "__main__":
    sys.exit(run_job(__doc__, train_decoder))
