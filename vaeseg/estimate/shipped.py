"""Rates that stand in where a database has none: measured on one machine of each kind."""

from __future__ import annotations

from vaeseg.estimate.rates import Rates, StageRate, StartRates

FLOAT32 = Rates(
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
    source="shipped defaults of phantom-v1, measured on two cores of an AMD EPYC (virtual) without bfloat16",
)
"""Stages: six phantoms of 49 to 209 slices, 512 x 512, uncompressed, by `benchmarks/stages.py`. The rest: two runs of
twelve phantoms each by `tests/integration/test_estimated_night.py`, on a machine that did nothing else."""

BFLOAT16 = Rates(
    device="cpu",
    read=StageRate(seconds_a_series=0.0, seconds_a_slice=0.00074),
    segment=StageRate(seconds_a_series=0.0, seconds_a_slice=0.0089),
    measure=StageRate(seconds_a_series=0.0, seconds_a_slice=0.00076),
    start=StartRates(
        ray_seconds=4.5, pipeline_seconds=4.8, header_seconds=0.00037, planning_seconds=0.009, closing_seconds=0.048
    ),
    waiting=1.0,
    n_cores=2,
    n_nodes=1,
    source="shipped defaults of phantom-v1, measured on two cores of an AMD EPYC (virtual) with AVX-512 BF16",
)
"""Stages as above, of the same phantoms. The rest: medians of four runs of 10 and 40 phantoms of 512 x 512, Ray started
by each."""


def shipped_rates(has_bf16: bool) -> Rates:
    """Those of a processor that multiplies bfloat16, or of one that does not."""
    return BFLOAT16 if has_bf16 else FLOAT32
