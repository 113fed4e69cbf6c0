"""Rates and measured runs whose estimates can be checked with a calculator."""

from __future__ import annotations

from typing import Any

import numpy as np

from vaeseg.estimate.rates import STAGES, MeasuredRun, Rates, StageRate, StartRates

PACE: dict[str, Any] = {
    "device": "cpu",
    "n_cores": 2,
    "n_gpus": 0,
    "n_nodes": 1,
    "n_headers": 1000,
    "n_portions": 1,
    "index_seconds": 2.0,
    "planning_seconds": 0.5,
    "ray_seconds": 4.0,
    "pipeline_seconds": 6.0,
    "busy_seconds": 30.0,
    "closing_seconds": 1.0,
}


def rate(seconds_a_series: float, seconds_a_slice: float) -> StageRate:
    return StageRate(seconds_a_series=seconds_a_series, seconds_a_slice=seconds_a_slice)


def rates(**changes: Any) -> Rates:
    """Of two cores, for one of which stages waited a quarter as long as they worked."""
    values: dict[str, Any] = {
        "device": "cpu",
        "read": rate(1.0, 0.01),
        "segment": rate(0.0, 0.02),
        "measure": rate(0.0, 0.01),
        "start": StartRates(
            ray_seconds=4.0, pipeline_seconds=6.0, header_seconds=0.001, planning_seconds=0.01, closing_seconds=2.0
        ),
        "waiting": 1.25,
        "n_cores": 2,
        "n_nodes": 1,
        "source": "made up",
    }
    return Rates(**values | changes)


def measured(run_id: str = "r", n_series: int = 5, slices: int = 100, **changes: Any) -> MeasuredRun:
    """Series of 100 slices: 1 s to read, 2 s to segment, 0.5 s to measure each."""
    n_slices = np.full(n_series, float(slices))
    seconds = {stage: n_slices / 100 * of_hundred for stage, of_hundred in zip(STAGES, (1.0, 2.0, 0.5), strict=True)}
    return MeasuredRun(**{**PACE, "run_id": run_id, "n_slices": n_slices, "stage_seconds": seconds, **changes})
