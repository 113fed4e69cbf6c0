"""Start-up: `vaeseg-batch --help`, and a cold `submit` of one small series beside the work that is in it.

    python benchmarks/bench.py --only start_up

The work is what the stages of that series take in a process that has loaded everything; the rest of a submit is
imports, Ray and its processes, and the model. There is no peer: figures are seconds, to be compared between versions.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from side_by_side import Result, in_turns, run_alone, seconds_of

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
    seconds = [one["seconds"] for one in told]
    busy = [one["busy_seconds"] for one in told]
    n_slices = told[0]["n_slices"]
    paths = {
        "submit, by its own clock": iter(seconds).__next__,
        "of which stages": iter(busy).__next__,
    }
    wall = in_turns({"submit of one series, cold": seconds_of(lambda: _submitted(root))}, rounds)
    return Result(
        benchmark="start-up, submit",
        unit="s",
        checked=f"one series of {n_slices} slices is segmented each time",
        figures=(*wall, *in_turns(paths, rounds)),
        more_is_better=False,
    )


def _submitted(root: Path) -> dict[str, float]:
    store = root / "store"
    shutil.rmtree(store, ignore_errors=True)
    said = run_alone(COMMAND, "submit", "--study-dir", root / "dicom", "--store", store, "--json").stdout
    told = json.loads(said)
    assert told["outcomes"]["segmented"] == 1, told
    return {"seconds": told["seconds"], "n_slices": told["n_slices"], "busy_seconds": _busy(store)}


def _busy(store: Path) -> float:
    """What the run keeps of the time in which its series went through."""
    query = "SELECT counts FROM runs"
    said = run_alone(COMMAND, "query", query, "--store", store, "--json").stdout
    counts = json.loads(said)[0]["counts"]
    pace = (json.loads(counts) if isinstance(counts, str) else counts)["pace"]
    return float(pace["busy_seconds"])
