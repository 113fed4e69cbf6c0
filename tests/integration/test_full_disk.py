from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "full_disk.py"


@pytest.mark.slow
def test_a_full_disk_ends_a_run_that_is_resumed_once_there_is_room(
    model_path: Path, archive: Path, tmp_path: Path
) -> None:
    """One clear error; then every series is segmented once, and SQL, Parquet and masks agree.

    The disk is a small file system in a namespace of its own: as root, or where users may have such (most kernels).
    """
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    command = [*namespace, sys.executable, str(SCRIPT), str(model_path), str(archive / "dicom"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "Traceback" not in found["error"]
    assert "No space left on device" in found["error"] or "disk is full" in found["error"]
    assert found["outcomes"]["segmented"] + found["outcomes"]["already_done"] == 3
    assert found["verify"]["disagreements"] == []
