"""What the time of a run went to, and on what: by it `vaeseg-batch estimate` tells how long the next one takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from vaeseg.distributed.local import Hardware
from vaeseg.records import SegmentedSeries, SeriesOutcome

PARTS = ("index", "planning", "ray", "pipeline", "busy", "closing")
"""Of a run, one after the other; from `planning` to `busy` again for each portion of its series."""


class Pace:
    """Notes when each part of a run is over; `counts` is kept with the run.

    Each portion goes through a pipeline of its own. The time to its first series, less what the stages took of that
    one, is the pipeline's start, in which models are loaded; from then to its last series it is busy.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._mark = now, now()
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._hardware: Hardware | None = None
        self._device: Literal["cpu", "cuda"] = "cpu"
        self._n_headers = self._n_segmented = self._n_portions = 0
        self._is_first = True

    def indexed(self, n_headers: int) -> None:
        """The index is up to date, for which so many headers were read."""
        self._n_headers = n_headers
        self._spent("index")

    def portion_begins(self) -> None:
        """Series are about to be handed to a pipeline."""
        self._spent("planning")
        self._is_first = True

    def ray_is_up(self, device: Literal["cpu", "cuda"], hardware: Hardware) -> None:
        """Ray runs, on this; from the thread of the pipeline, before its first series."""
        self._device, self._hardware = device, hardware
        self._spent("ray")

    def came(self, outcome: SeriesOutcome) -> None:
        """A series came out of the pipeline."""
        if self._is_first:
            self._spent("pipeline", all_but=_stage_seconds(outcome))
            self._is_first = False
            self._n_portions += 1
        self._spent("busy")
        self._n_segmented += isinstance(outcome, SegmentedSeries)

    def counts(self) -> dict[str, Any] | None:
        """JSON values, at the end of a run; None where nothing came out of a pipeline."""
        if self._hardware is None or not self._n_portions:
            return None
        self._spent("closing")
        numbers = {"n_headers": self._n_headers, "n_segmented": self._n_segmented, "n_portions": self._n_portions}
        seconds = {f"{part}_seconds": round(seconds, 3) for part, seconds in self._seconds.items()}
        hardware = {name: getattr(self._hardware, name) for name in ("n_cores", "n_gpus", "n_nodes")}
        return {"device": self._device, **hardware, **numbers, **seconds}

    def _spent(self, part: str, all_but: float = 0.0) -> None:
        """The time since the last note, but for the last so many seconds of it, went to a part."""
        until = max(self._mark, self._now() - all_but)
        self._seconds[part] += until - self._mark
        self._mark = until


def _stage_seconds(outcome: SeriesOutcome) -> float:
    """Of all stages together; 0 where they were not measured."""
    if isinstance(outcome, SegmentedSeries):
        return outcome.read_seconds + outcome.segment_seconds + outcome.measure_seconds
    return 0.0
