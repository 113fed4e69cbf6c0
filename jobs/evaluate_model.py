"""Say how good a model is, as a run that is written down in the database.

    python -P jobs/evaluate_model.py --run-id RUN_ID --store DIR [--db URL]

The run id is all that the job's entry point says; model, data and options are in the run's row.
"""

from __future__ import annotations

import sys

from vaeseg.db.session import Database
from vaeseg.distributed.evaluation_job import execute_evaluation
from vaeseg.distributed.job import run_job
from vaeseg.io.store import Store


def evaluate_model(database: Database, _store: Store, run_id: str) -> bool:
    """Evaluate on a node of the cluster whose job this is."""
    result = execute_evaluation(database, run_id)
    print(f"{result['model']}: {result['n_subjects']} subjects, iou_label {result['iou_label']}")
    return not result["refused"]


if __name__ == "__main__":
    sys.exit(run_job(__doc__, evaluate_model))
