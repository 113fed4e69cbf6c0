"""Look at the cluster whose job this is, as `vaeseg-batch doctor --address http://...` asks for.

    python -P jobs/check_cluster.py --check-id ID

The id is all that the job's entry point says; what is looked for is in the store, under that id.
"""

from __future__ import annotations

import sys

from vaeseg.distributed.doctor_job import run_check

if __name__ == "__main__":
    sys.exit(run_check(__doc__))
