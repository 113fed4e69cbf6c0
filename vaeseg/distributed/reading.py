"""The first stage: a series, from its files to slices on the model grid."""

from __future__ import annotations

import json
import signal
import time
from datetime import UTC, datetime

from vaeseg.distributed.rows import Failure, SeriesRow, failed_row
from vaeseg.distributed.stage import StageConfig, run_stage
from vaeseg.geometry.orientation import axial_geometry, axial_order
from vaeseg.geometry.resample import to_model_grid
from vaeseg.io.manifest import SeriesManifest
from vaeseg.io.volume import read_volume
from vaeseg.paths import any_path
from vaeseg.telemetry import FILES_READ_BYTES, Write, write_to_registry


def read(row: SeriesRow, config: StageConfig, write: Write = write_to_registry) -> SeriesRow:
    """Decode a series and resample it to the model grid; after `plan_until`, postpone it."""
    if config.plan_until is not None and datetime.now(UTC) >= config.plan_until:
        return failed_row(row, Failure(reason="postponed", detail="", is_postponed=True))
    return run_stage("read", row, config, lambda: _read(row, config, write), write)


def _read(row: SeriesRow, config: StageConfig, write: Write) -> SeriesRow:
    started = time.perf_counter()
    manifest = SeriesManifest.from_json(row["manifest"])
    die_after(config.reading.decode_timeout_seconds)
    try:
        volume = read_volume(any_path(row["root"]), manifest, config.reading)
    finally:
        signal.alarm(0)
    write(FILES_READ_BYTES, "", sum(file.size for file in manifest.files))
    geometry = volume.geometry
    axial = axial_order(geometry).to_axial(volume.volume_hu)
    slices = to_model_grid(axial, axial_geometry(geometry).spacing_mm, config.image_size)
    return SeriesRow(
        **{
            **row,
            "slices": slices.tobytes(),
            "warnings": json.dumps([str(warning) for warning in volume.warnings]),
            "read_seconds": time.perf_counter() - started,
        }
    )


def die_after(seconds: float) -> None:
    """A decoder stuck in C cannot be interrupted, only ended: the kernel kills this process when the alarm rings."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(max(1, int(seconds)))
