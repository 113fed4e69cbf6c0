"""Rates that stand in where a database has none: measured once, on one machine."""

from __future__ import annotations

from vaeseg.estimate.rates import Rates, StageRate, StartRates

SHIPPED = Rates(
    device="cpu",
    read=StageRate(seconds_a_series=0.014, seconds_a_slice=0.0021),
    segment=StageRate(seconds_a_series=0.010, seconds_a_slice=0.0300),
    measure=StageRate(seconds_a_series=0.0, seconds_a_slice=0.0011),
    start=StartRates(
        ray_seconds=9.0, pipeline_seconds=21.0, header_seconds=0.0015, planning_seconds=0.075, closing_seconds=0.2
    ),
    waiting=1.0,
    n_cores=2,
    n_nodes=1,
    source="shipped defaults, measured on two cores of an AMD EPYC (virtual) with phantom-v1",
)
"""Stages: six phantoms of 49 to 209 slices, 512 x 512, uncompressed, by `benchmarks/stages.py`. The rest: a run of
twelve phantoms on a busy machine (docs/estimate.md), so that a short run is rather told too long."""
