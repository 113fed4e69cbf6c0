"""What each stage takes of a core, a series and a slice: the rates that `vaeseg-batch estimate` ships with.

    OMP_NUM_THREADS=1 python benchmarks/stages.py --archive DIR [--model phantom-v1] [--store DIR]

DIR holds series of unlike length, such as `vaeseg-batch phantom DIR --patients 6 --seed 5` writes. The stages are those
of a run, one series after the other without Ray, in one thread. Processor time is counted and not the clock's, so that
other work on the machine matters little.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from vaeseg.config import ReadingConfig
from vaeseg.distributed.measuring import measure
from vaeseg.distributed.reading import read
from vaeseg.distributed.rows import SeriesRow, failure_of, outcome_of, planned_row
from vaeseg.distributed.segmenting import Segment
from vaeseg.distributed.stage import StageConfig
from vaeseg.estimate.rates import stage_rate
from vaeseg.io.archive import scan_archive
from vaeseg.models.checkpoint import load_checkpoint
from vaeseg.models.files import resolve_model
from vaeseg.records import SegmentedSeries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--model", default="phantom-v1")
    parser.add_argument(
        "--store", type=Path, help="where masks are written, of the kind that a night has; else temporary"
    )
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        config = stage_config(arguments.model, arguments.store or Path(temporary))
        measured = list(series_times(arguments.archive.resolve(), config))
    slices, times = np.asarray([n for n, _ in measured], dtype=float), np.asarray([seconds for _, seconds in measured])
    print(f"{len(slices)} series of {slices.min():.0f} to {slices.max():.0f} slices")
    for stage, seconds in zip(("read", "segment", "measure"), times.T, strict=True):
        rate = stage_rate(slices, seconds)
        print(
            json.dumps({"stage": stage, "a_series": rate.seconds_a_series, "a_slice": rate.seconds_a_slice}),
            seconds.round(2),
        )


def stage_config(model: str, store: Path) -> StageConfig:
    checkpoint = load_checkpoint(resolve_model(model))
    return StageConfig(
        run_id="benchmark",
        store_root=str(store),
        model=model,
        model_digest=checkpoint.digest,
        image_size=checkpoint.preprocessing.image_size,
        reading=ReadingConfig(),
        output_types=("nifti",),
        device="cpu",
    )


def series_times(root: Path, config: StageConfig) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Slices of each readable series, and processor seconds of its stages; the first series is done once before."""
    segment = Segment(config, cores=lambda: 1)
    manifests = [verdict.manifest for verdict in scan_archive(root, config.reading).verdicts if verdict.manifest]
    for n, manifest in enumerate([manifests[0], *manifests]):
        row, seconds = planned_row(n, manifest, str(root), "", f"masks/{n}"), []
        for stage in (lambda row: read(row, config), segment, lambda row: measure(row, config)):
            row, taken = timed(stage, row)  # type: ignore[arg-type]
            seconds.append(taken)
        outcome = finished(row)
        if n:
            yield outcome.n_slices, tuple(seconds)


def one_process(model: str, archive: Path, store: Path) -> None:
    """What a plain script does with an archive: one series after the other, torch on all cores."""
    config = stage_config(model, store)
    segment = Segment(config, cores=os.cpu_count)
    for row in planned_rows(archive, config):
        finished(measure(segment(read(row, config)), config))


def planned_rows(archive: Path, config: StageConfig) -> Iterator[SeriesRow]:
    """Every series of an archive that has no other."""
    for number, verdict in enumerate(scan_archive(archive, config.reading).verdicts):
        assert verdict.manifest is not None, f"a series of the archive is refused: {verdict}"
        ref = verdict.manifest.ref
        mask_dir = f"masks/{ref.study_instance_uid}/{ref.series_instance_uid}/script"
        yield planned_row(number, verdict.manifest, str(archive), "", mask_dir)


def finished(row: SeriesRow) -> SegmentedSeries:
    outcome = outcome_of(row)
    assert isinstance(outcome, SegmentedSeries), failure_of(row)
    return outcome


def timed(stage, row: SeriesRow) -> tuple[SeriesRow, float]:  # type: ignore[no-untyped-def]
    started = time.process_time()
    return stage(row), time.process_time() - started


if __name__ == "__main__":
    main()
