"""Start-up: `vaeseg-batch --help`, and a cold `submit` of one small series beside the work that is in it.

    python benchmarks/bench.py --only start_up

The work is what the stages of that series take in a process that has loaded everything; the rest of a submit is
imports, Ray and its processes, and the model. There is no peer: figures are seconds, to be compared between versions.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from side_by_side import Figure, Result, in_turns, run_alone, seconds_of

from vaeseg.config import PhantomConfig
from vaeseg.phantom.dicom_writer import write_dicom_archive

PHANTOM = PhantomConfig(n_patients=1, seed=5, z_extent_mm=60.0)
COMMAND = "import sys; from vaeseg.cli import main; main(sys.argv[1:], prog_name='vaeseg-batch')"
BARE = "pass"


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
    told = [_submitted(root) for _ in range(rounds)]
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
