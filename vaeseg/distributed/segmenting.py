"""The stage of the model. The worker that has it imports this module and what it names, and no reader of images."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np

from vaeseg.distributed.rows import SeriesRow, fullest_slice, pack_mask, pixels_marked, unpack_slices
from vaeseg.distributed.stage import StageConfig, run_stage
from vaeseg.telemetry import GPU_BUSY_SECONDS, SEGMENT_BUSY_SECONDS, SLICES_SEGMENTED, Write, write_to_registry

logger = logging.getLogger(__name__)


class Segment:
    """Model on its device, loaded once; turns slices into mask bits.

    Args:
        config: for the workers.
        write: where figures go.
        cores: how many passes at a time on a CPU, each with a thread; asked where the model is.
    """

    def __init__(
        self, config: StageConfig, write: Write = write_to_registry, cores: Callable[[], int | None] = lambda: None
    ) -> None:
        from vaeseg.inference.predictor import Predictor
        from vaeseg.models.checkpoint import load_checkpoint
        from vaeseg.models.files import resolve_model

        checkpoint = load_checkpoint(resolve_model(config.model))
        checkpoint.check_digest(config.model_digest)
        self.predictor = Predictor(checkpoint, config.device, config.batch_size, cores(), config.precision)
        logger.info("the model computes in %s, %s", self.predictor.computes_in, self.predictor.engine.form)
        self._config, self._size, self._write = config, config.image_size, write

    def __call__(self, row: SeriesRow) -> SeriesRow:
        """Segment one series; the image goes no further than here, but for what measuring needs."""
        return run_stage("segment", row, self._config, lambda: self._segment(row), self._write)

    def _segment(self, row: SeriesRow) -> SeriesRow:
        started = time.perf_counter()
        slices = unpack_slices(row["slices"], self._size)
        mask = self.predictor.segment(slices)
        self._count(len(mask), time.perf_counter() - started)
        marked = pixels_marked(mask)
        tumour = np.flatnonzero(marked)  # most slices have nothing to be looked for
        return SeriesRow(
            **{
                **row,
                "slices": b"",
                "mask_bits": pack_mask(mask),
                "hu_inside": slices[tumour][mask[tumour]].tobytes(),
                "preview": slices[fullest_slice(marked)].tobytes(),
                "segment_seconds": time.perf_counter() - started,
            }
        )

    def _count(self, n_slices: int, seconds: float) -> None:
        self._write(SLICES_SEGMENTED, "", n_slices)
        self._write(SEGMENT_BUSY_SECONDS, "", seconds)
        if self.predictor.device.type == "cuda":
            self._write(GPU_BUSY_SECONDS, "", seconds)
