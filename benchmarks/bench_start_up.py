"""Start-up: `vaeseg-batch --help`, and a cold `submit` of one small series beside the work that is in it.

    python benchmarks/bench.py --only start_up

Beside it a plain script that does the same series in one process, from its start to its end: it loads
torch and the model too, has no Ray, and writes no database.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

from side_by_side import Figure, Result, in_turns, run_alone, seconds_of

from vaeseg.config import PhantomConfig
from vaeseg.io.masks import MASK_NAME
from vaeseg.phantom.dicom_writer import write_dicom_archive

PHANTOM = PhantomConfig(n_patients=1, seed=5, z_extent_mm=60.0)
MODEL = "phantom-v1"
COMMAND = "import sys; from vaeseg.cli import main; main(sys.argv[1:], prog_name='vaeseg-batch')"
BARE = "pass"
SCRIPT = """
import sys
from pathlib import Path
from stages import one_process
one_process(sys.argv[1], *map(Path, sys.argv[2:]))
"""


def benchmark(scratch: Path, rounds: int) -> list[Result]:
    """Help, and one submit."""
    root = scratch / "start_up"
    if not root.exists():
        write_dicom_archive(root, PHANTOM)
    return [_help(rounds), _submit(root, rounds)]


def _help(rounds: int) -> Result:
    said = run_alone(COMMAND, "--help").stdout
    assert "submit" in said, said
    paths = {
        "vaeseg-batch --help": seconds_of(lambda: run_alone(COMMAND, "--help")),
        "python that does nothing": seconds_of(lambda: run_alone(BARE)),
    }
    figures = in_turns(paths, rounds)
    return Result(
        benchmark="start-up, help", unit="s", checked="it lists submit", figures=figures, more_is_better=False
    )


def _submit(root: Path, rounds: int) -> Result:
    told = [_submitted(root) | _scripted(root) for _ in range(rounds)]
    figures = [Figure(path=name, rounds=tuple(one[name] for one in told)) for name in told[0]]
    return Result(
        benchmark="start-up, submit",
        unit="s",
        checked="one series is segmented each time",
        figures=tuple(figures),
        more_is_better=False,
        is_of_parts=True,
    )


def _submitted(root: Path) -> dict[str, float]:
    """Seconds of one cold submit, of its run by its own clock, and of the series in it."""
    store = root / "store"
    shutil.rmtree(store, ignore_errors=True)
    started = time.perf_counter()
    told = json.loads(run_alone(COMMAND, "submit", "--study-dir", root / "dicom", "--store", store, "--json").stdout)
    wall = time.perf_counter() - started
    assert told["outcomes"]["segmented"] == 1, told
    with closing(sqlite3.connect(store / "results.db")) as connection:
        counts = json.loads(connection.execute("SELECT counts FROM runs").fetchone()[0])
        (work,) = connection.execute("SELECT read_seconds + segment_seconds + measure_seconds FROM findings").fetchone()
    return {
        "submit of one small series, cold": wall,
        "of it the run": counts["seconds"],
        "of it Ray's start": counts["pace"]["ray_seconds"],
        "of it the first actor and tasks": counts["pace"]["pipeline_seconds"],
        "of it work on the series": work,
    }


def _scripted(root: Path) -> dict[str, float]:
    """Seconds of a script for the same series, cold too."""
    store = root / "script-store"
    shutil.rmtree(store, ignore_errors=True)
    search = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    started = time.perf_counter()
    run_alone(SCRIPT, MODEL, root / "dicom", store, PYTHONPATH=search)
    wall = time.perf_counter() - started
    assert len(list(store.glob(f"masks/*/*/*/{MASK_NAME}"))) == 1
    return {"script of one process, cold": wall}
