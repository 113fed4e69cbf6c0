"""Index: the header scan of an archive of small DICOM files, the first time and when nothing changed.

    python benchmarks/bench.py --only indexing

Peers read a sample of the same files in one process: a loop of `pydicom.dcmread(stop_before_pixels=True)`, and
SimpleITK's search for the series of a directory (GDCM). Ours also judges every series and records every file in SQL, by
a driver and Ray's tasks; its Ray is up before. `benchmarks/index.py` does the same on archives of any size, and in
PostgreSQL.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pydicom
from index import SLICES, write_archive
from side_by_side import Figure, Result, in_turns, rate_of

from vaeseg.config import RunConfig
from vaeseg.distributed.local import start_local_ray
from vaeseg.distributed.submit import Submission, index_only

FILES = 100_000
SAMPLED_SERIES = 50
"""Of each peer's round: it takes as long for each file."""


def benchmark(scratch: Path, rounds: int) -> list[Result]:
    """One result; ours scans all files twice in each round."""
    archive = scratch / f"index-{FILES}"
    if not archive.exists():
        write_archive(archive, FILES // SLICES)
    start_local_ray()
    ours = [_scanned_twice(archive, scratch / "index-store") for _ in range(rounds)]
    peers, missing = _peers([path.parent for path in sorted(archive.rglob("000.dcm"))[:SAMPLED_SERIES]])
    return [
        Result(
            benchmark=f"index of {FILES:,} files",
            unit="files/s",
            checked="every file is listed, and no header is read the second time",
            figures=(
                Figure(path="vaeseg, first scan", rounds=tuple(first for first, _ in ours)),
                *in_turns(peers, rounds),
                Figure(path="vaeseg, second scan", rounds=tuple(second for _, second in ours)),
            ),
            notes={"not_installed": missing, "peers_read_series": SAMPLED_SERIES},
        )
    ]


def _scanned_twice(archive: Path, store: Path) -> tuple[float, float]:
    """Files a second of a first scan, and of one that finds nothing new."""
    shutil.rmtree(store, ignore_errors=True)
    submission = Submission(
        study_dir=archive, store_root=store, database_url=None, model="none", config=RunConfig(model_path="")
    )
    rates = []
    for expected in (FILES, 0):
        started = time.perf_counter()
        counts = index_only(submission)
        rates.append(FILES / (time.perf_counter() - started))
        assert (counts["n_listed"], counts["n_read"]) == (FILES, expected), counts
    return rates[0], rates[1]


def _peers(directories: list[Path]) -> tuple[Mapping[str, Callable[[], float]], list[str]]:
    n_files = len(directories) * SLICES
    peers = {"pydicom loop": rate_of(lambda: _read_headers(directories), n_files)}
    try:
        from SimpleITK import ImageSeriesReader
    except ModuleNotFoundError:
        return peers, ["SimpleITK"]

    def search() -> None:
        for directory in directories:
            (series,) = ImageSeriesReader.GetGDCMSeriesIDs(str(directory))
            assert len(ImageSeriesReader.GetGDCMSeriesFileNames(str(directory), series)) == SLICES

    return {**peers, "SimpleITK series search": rate_of(search, n_files)}, []


def _read_headers(directories: list[Path]) -> None:
    for directory in directories:
        for path in directory.iterdir():
            pydicom.dcmread(path, stop_before_pixels=True)
