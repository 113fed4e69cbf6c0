"""Rates that stand in where a database has none: measured once, on one machine."""

from __future__ import annotations

from vaeseg.estimate.rates import Rates, StageRate, StartRates

SHIPPED = Rates(
    device="cpu",
    read=StageRate(seconds_a_series=0.014, seconds_a_slice=0.0021),
    segment=StageRate(seconds_a_series=0.010, seconds_a_slice=0.0300),
    measure=StageRate(seconds_a_series=0.0, seconds_a_slice=0.0011),
    start=StartRates(
        ray_seconds=6.0, pipeline_seconds=6.8, header_seconds=0.001, planning_seconds=0.011, closing_seconds=0.05
    ),
    waiting=1.0,
    n_cores=2,
    n_nodes=1,
    source="shipped defaults, measured on two cores of an AMD EPYC (virtual) with phantom-v1",
)
"""Stages: six phantoms of 49 to 209 slices, 512 x 512, uncompressed, by `benchmarks/stages.py`. The rest: two runs of
twelve phantoms each by `tests/integration/test_estimated_night.py`, on a machine that did nothing else."""
