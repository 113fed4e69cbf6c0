"""Memory of a submission over 10 series, 100 and 1,000 of the same kind: flat, if a night may have any number of them.

    python benchmarks/bench.py --only memory

Each submission is a process of its own, which starts a Ray of its own. All processes of its tree are looked at every
`SAMPLE_SECONDS`, and the most that one ever had counts: of the driver, and of the largest of Ray's workers. Memory is
what a process has for itself (USS), so that nothing shared counts twice; Ray's object store is not in it. The driver's
resident memory (RSS) and the sum over all processes are in the notes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from bench_pipeline import phantom_archive
from side_by_side import Figure, Result

from vaeseg.config import PhantomConfig

SERIES, MOST_SERIES = (10, 100), 1000
"""The most, in one round only: that takes minutes."""
PHANTOM = PhantomConfig(seed=7, image_size=64, z_extent_mm=40.0, slice_spacing_mm=5.0)
"""Tiny: some 8 slices each."""
SAMPLE_SECONDS = 0.2
MIB = 2**20


@dataclass
class Peaks:
    """The most that was seen of one submission, bytes."""

    driver: int = 0
    """USS."""
    driver_resident: int = 0
    """RSS, with what it shares."""
    workers: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """USS of each process of Ray's that does our work, by its id."""
    all_together: int = 0
    """Sum of USS over the tree at one time, Ray's own daemons included."""
    seconds: float = 0.0


def benchmark(scratch: Path, rounds: int) -> list[Result]:
    """Rounds in turns: few series, many, few, ..., and at last the most."""
    archives = {n: phantom_archive(scratch, n, PHANTOM) for n in (*SERIES, MOST_SERIES)}
    seen: dict[int, list[Peaks]] = {n: [] for n in archives}
    for n in (*SERIES * rounds, MOST_SERIES):
        seen[n].append(peaks_of_submission(archives[n], n))
    notes = {f"{n} series": _told(peaks) for n, peaks in seen.items()}
    return [
        _result("driver", lambda peaks: peaks.driver, seen, notes),
        _result("largest worker", lambda peaks: max(peaks.workers.values()), seen, {}),
    ]


def _result(
    who: str, bytes_of: Callable[[Peaks], int], seen: dict[int, list[Peaks]], notes: dict[str, dict[str, float]]
) -> Result:
    figures = tuple(
        Figure(path=f"{who}, {n} series", rounds=tuple(bytes_of(peaks) / MIB for peaks in runs))
        for n, runs in seen.items()
    )
    return Result(
        benchmark=f"memory, {who}",
        unit="MiB",
        checked="every series was segmented",
        figures=figures,
        more_is_better=False,
        notes=notes,
    )


def _told(runs: list[Peaks]) -> dict[str, float]:
    """What else is worth knowing of the last round."""
    last = runs[-1]
    return {
        "driver_rss_mib": round(last.driver_resident / MIB, 1),
        "all_processes_uss_mib": round(last.all_together / MIB, 1),
        "workers": len(last.workers),
        "seconds": round(last.seconds, 1),
    }


def peaks_of_submission(archive: Path, n_series: int) -> Peaks:
    """Segment an archive in a process of its own, into a store that is not kept, and watch it.

    Raises:
        AssertionError: it did not segment every series.
    """
    with TemporaryDirectory() as store:
        command = [sys.executable, "-c", SUBMIT, str(archive), store, str(n_series)]
        with subprocess.Popen(command, env=_search_path(), stderr=subprocess.PIPE, text=True) as process:
            peaks = watched(process)
            assert process.returncode == 0, f"a submission of {n_series} series failed: {process.stderr.read()}"
    return peaks


SUBMIT = """
import sys
from pathlib import Path
from vaeseg.config import RunConfig, SegmentationConfig, SelectionConfig
from vaeseg.distributed.submit import Submission, submit

of_few_slices = SegmentationConfig(selection=SelectionConfig(min_slices=1, min_extent_mm=0))
config = RunConfig(model_path="phantom-v1", device="cpu", segmentation=of_few_slices)
report = submit(Submission(
    study_dir=Path(sys.argv[1]), store_root=Path(sys.argv[2]), database_url=None, model="phantom-v1", config=config
))
if report.outcomes["segmented"] != int(sys.argv[3]):
    sys.exit(f"not every series was segmented: {report.outcomes}")
"""
"""What a driver does."""


def watched(process: subprocess.Popen[str]) -> Peaks:
    """Look at a process and its descendants until it ends."""
    peaks, started = Peaks(), time.perf_counter()
    driver = psutil.Process(process.pid)
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            _look(driver, peaks)
        time.sleep(SAMPLE_SECONDS)
    peaks.seconds = time.perf_counter() - started
    return peaks


def _look(driver: psutil.Process, peaks: Peaks) -> None:
    own = driver.memory_full_info()
    peaks.driver = max(peaks.driver, own.uss)
    peaks.driver_resident = max(peaks.driver_resident, own.rss)
    together = own.uss
    for process in driver.children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            uss = process.memory_full_info().uss
            together += uss
            if _is_worker(process.cmdline()):
                peaks.workers[process.pid] = max(peaks.workers[process.pid], uss)
    peaks.all_together = max(peaks.all_together, together)


def _is_worker(command: list[str]) -> bool:
    """Ray names its workers by what they do, such as ``ray::Map(read)``; its daemons have names of their own."""
    return bool(command) and command[0].startswith("ray::")


def _search_path() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
