"""What a run over very many series asks of its driver: memory and time from the listing to the last commit.

    python benchmarks/planning.py --series 100000 --out DIR [--slices 2] [--cores N] [--db postgresql://...]

Files, their headers and the pipeline are simulated: each series fails as soon as it is asked for. With more cores, more
series are in one pipeline.
All else is what `vaeseg-batch scan` does: the index, the plan, manifests, commits. Prints for each step seconds and the
largest memory that the driver had so far.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from index import template_file

from vaeseg.config import ReadingConfig, RunConfig, SelectionConfig
from vaeseg.distributed import batch, indexing, runs
from vaeseg.distributed.rows import Failure, SeriesRow, failed_row
from vaeseg.distributed.submit import Submission, submit
from vaeseg.io.archive import FileRecord
from vaeseg.io.dicom import SubjectKeyer, quiet_pydicom, read_header
from vaeseg.io.file_index import indexed
from vaeseg.io.headers import InstanceHeader
from vaeseg.io.listing import FoundFile, Listing
from vaeseg.models.files import resolve_model
from vaeseg.records import IndexedFile

MODEL = "phantom-v1"
ANY_SERIES = SelectionConfig(min_slices=2, min_extent_mm=0, min_field_of_view_mm=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--slices", type=int, default=2)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--db", help="instead of SQLite in the store; it should be empty")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    (arguments.out / "archive").mkdir(parents=True)
    _simulate(arguments.series, arguments.slices, arguments.cores, _template(arguments.out))
    config = RunConfig(model_path=str(resolve_model(MODEL)), commit_every=1000)
    config = replace(config, segmentation=replace(config.segmentation, selection=ANY_SERIES))
    submission = Submission(
        study_dir=arguments.out.resolve() / "archive",
        store_root=arguments.out / "store",
        database_url=arguments.db,
        model=MODEL,
        config=config,
    )
    started = time.perf_counter()
    report = submit(submission)
    _print("all", time.perf_counter() - started)
    print(report.outcomes, file=sys.stderr)


def _template(directory: Path) -> InstanceHeader:
    place = directory / "template.dcm"
    place.write_bytes(template_file())
    with quiet_pydicom(), place.open("rb") as file:
        return read_header(file, place, place.name, SubjectKeyer(b"0" * 32), ReadingConfig())


def _simulate(n_series: int, n_slices: int, n_cores: int, template: InstanceHeader) -> None:
    """Put files, headers and a pipeline into the places of the real ones, and note how long the steps take."""
    indexing._listings = lambda _job, _check: _listings(n_series, n_slices)
    indexing._headers = lambda _job, files, _check: (_header(template, file) for file in files)
    batch.segment_rows = _segment_rows
    runs.start_local_ray = lambda: None
    runs.cores_at_hand = lambda: n_cores
    for module, name in ((runs, "update_index"), (runs, "readable_series"), (runs, "plan_work")):
        setattr(module, name, _timed(name, getattr(module, name)))


def _listings(n_series: int, n_slices: int) -> Iterator[Listing]:
    for number in range(n_series):
        directory = f"{number // 1000:04d}/{number:06d}"
        files = (FoundFile(path=f"{directory}/{k}.dcm", size=1000, mtime_ns=1) for k in range(n_slices))
        yield Listing(directory=directory, files=tuple(files), directories=())


def _header(template: InstanceHeader, file: FoundFile) -> IndexedFile:
    _, series, name = file.path.split("/")
    uid, k = f"1.2.826.0.1.3680043.8.498.1{series}", int(name.partition(".")[0])
    header = replace(
        template,
        path=file.path,
        size=file.size,
        mtime_ns=file.mtime_ns,
        sop_instance_uid=f"{uid}.{k}",
        study_instance_uid=f"{uid}.9",
        series_instance_uid=uid,
        position=(0.0, 0.0, 2.5 * k),
    )
    return indexed(FileRecord(file=file, header=header))


def _segment_rows(rows: Sequence[SeriesRow], _config: Any) -> Iterator[SeriesRow]:
    for row in rows:
        yield failed_row(row, Failure(reason="decode_failed", detail="simulated"))


def _timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        result = function(*arguments, **named)
        _print(name, time.perf_counter() - started)
        return result

    return timed


def _print(name: str, seconds: float) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    processor = usage.ru_utime + usage.ru_stime
    told = f"{seconds:7.1f} s, {processor:7.1f} s of processor so far, {usage.ru_maxrss / 2**10:6.0f} MiB"
    print(f"{name:16} {told}", file=sys.stderr)  # Ray has standard output


if __name__ == "__main__":
    main()
