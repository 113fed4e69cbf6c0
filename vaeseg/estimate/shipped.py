"""Rates that stand in where a database has none, and what they were measured on."""

from __future__ import annotations

from vaeseg.estimate.rates import Rates, StageRate, StartRates

SHIPPED = Rates(
    device="cpu",
    read=StageRate(seconds_a_series=0.0, seconds_a_slice=0.011),
    segment=StageRate(seconds_a_series=0.0, seconds_a_slice=0.04),
    measure=StageRate(seconds_a_series=0.0, seconds_a_slice=0.01),
    start=StartRates(
        ray_seconds=5.0, pipeline_seconds=10.0, header_seconds=0.001, planning_seconds=0.003, closing_seconds=1.0
    ),
    work_per_core_second=1.0,
    n_cores=2,
    n_nodes=1,
    source="shipped defaults",
)
