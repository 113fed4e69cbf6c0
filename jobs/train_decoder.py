"""Stage two: train the segmentation decoder, as a run that is written down in the database.

    python -P jobs/train_decoder.py --run-id RUN_ID --store DIR [--db URL]

The run id is all that the job's entry point says; the data set and the options are in the run's row.
"""

from __future__ import annotations

import sys

from vaeseg.distributed.job import run_job
from vaeseg.distributed.training_job import train_written_down

if __name__ == "__main__":
    sys.exit(run_job(__doc__, train_written_down))
