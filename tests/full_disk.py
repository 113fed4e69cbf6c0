"""Fill the disk of a store in the middle of a run, free it, resume the run, and prove that nothing is lost or doubled.

    unshare --map-root-user --mount python tests/full_disk.py MODEL ARCHIVE DIR

DIR becomes a file system of a few megabytes that nobody else sees and that is gone with this process. Prints a JSON
line: how the run ended, and what there was after it was resumed.
"""

from __future__ import annotations

import argparse
import errno
import json
import subprocess
import sys
from io import FileIO
from pathlib import Path
from typing import Any

from vaeseg.config import RunConfig
from vaeseg.db.summaries import Progress
from vaeseg.distributed.submit import Submission, submit
from vaeseg.errors import StoreError

SIZE = "8m"
CHUNK_BYTES = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "archive", "directory"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--submit", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.submit:
        submit_and_fill(arguments.model, arguments.archive, arguments.directory)
        return
    disk = arguments.directory
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(disk)], check=True)
    ended = subprocess.run([sys.executable, *sys.argv, "--submit"], capture_output=True, text=True)
    (disk / "filler").unlink()
    (run,) = _answer("status", disk)
    resumed = _answer("resume", disk, run["run_id"])
    found = {"error": ended.stderr, "outcomes": resumed["outcomes"], "verify": _answer("verify", disk)}
    sys.stdout.write(json.dumps(found) + "\n")


def submit_and_fill(model: Path, archive: Path, disk: Path) -> None:
    """After the first series there is no byte left."""

    def fill(progress: Progress) -> None:
        if progress.series_done == 1:
            with FileIO(disk / "filler", "w") as filler:
                _write_until_full(filler)

    config = RunConfig(model_path=str(model), commit_every=1)
    submission = Submission(
        study_dir=archive, store_root=disk / "store", database_url=None, model="random", config=config
    )
    try:
        submit(submission, fill)
    except StoreError as error:
        sys.exit(str(error))


def _write_until_full(filler: FileIO) -> None:
    try:
        while True:
            filler.write(b"\0" * CHUNK_BYTES)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def _answer(command: str, disk: Path, *arguments: str) -> Any:
    call = "from vaeseg.cli import main; main()"
    store = str(disk / "store")
    done = subprocess.run(
        [sys.executable, "-c", call, command, *arguments, "--store", store, "--json"], capture_output=True, text=True
    )
    if not done.stdout:
        raise RuntimeError(f"{command}: {done.stderr}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
