"""What the stages of the pipeline share: their configuration, and the boundary at which what goes wrong is a value.

A stage never raises for what is wrong with one series: that becomes the row's failure. A process that dies takes its
row with it, which the driver notices. `write` is where what it measures goes: a figure or two a series.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from vaeseg.config import Precision, ReadingConfig
from vaeseg.distributed.rows import Failure, SeriesRow, failed_row
from vaeseg.errors import ReadingError, StoreError
from vaeseg.logs import logged_with, set_up_worker_logging
from vaeseg.records import Reason
from vaeseg.telemetry import STAGE_SECONDS, Write

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """What every worker needs to know; no password and no database."""

    run_id: str
    store_root: str
    model: str
    """Its name, where it comes with vaeseg and every node has its own, or its path."""
    model_digest: str
    image_size: int
    reading: ReadingConfig
    output_types: tuple[str, ...]
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: int = 32
    precision: Precision = "auto"
    actors: tuple[int, int] | None = None
    """Fewest and most that segment; None: as many as the cluster has GPUs, or nodes."""
    organ: int | None = None
    """Label value that counts; None for the only one."""
    plan_until: datetime | None = None
    """From this moment on no series is begun."""


def run_stage(
    name: str, row: SeriesRow, config: StageConfig, stage: Callable[[], SeriesRow], write: Write
) -> SeriesRow:
    """Run one stage of one series, and tell how long it took, whatever came of it."""
    if row["failure"]:
        return row
    set_up_worker_logging()
    started = time.perf_counter()
    with logged_with(run_id=config.run_id, series_instance_uid=row["series_instance_uid"]):
        result = _guarded(row, stage)
    write(STAGE_SECONDS, name, time.perf_counter() - started)
    return result


def _guarded(row: SeriesRow, stage: Callable[[], SeriesRow]) -> SeriesRow:
    """The boundary at which whatever goes wrong becomes a value."""
    try:
        return stage()
    except ReadingError as error:
        return failed_row(row, Failure(reason=str(error.reason), detail=error.detail))
    except StoreError as error:
        return failed_row(row, Failure(reason="store_error", detail=str(error), stops_run=True))
    except Exception as error:  # noqa: BLE001 - the per-series boundary: one bad series never stops a run
        logger.warning("internal error in work item %d: %s", row["work_item"], where(error))
        return failed_row(row, Failure(reason=str(Reason.INTERNAL_ERROR), detail=where(error)))


def where(error: Exception) -> str:
    """Type and place of an error; its message could quote a path or a header."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
    return f"{type(error).__name__}{place}"
