"""From what series took to rates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from estimated import measured, rate

from vaeseg.estimate.night import Machine, Workload, estimate_night
from vaeseg.estimate.rates import StartRates, measured_rates, stage_rate

OTHERWISE = StartRates(
    ray_seconds=90.0, pipeline_seconds=91.0, header_seconds=92.0, planning_seconds=93.0, closing_seconds=94.0
)
LENGTHS = np.array([50.0, 100.0, 150.0, 200.0, 250.0, 300.0])


def test_series_and_slices_are_told_apart() -> None:
    """Half a second a series and 10 ms a slice; one series that took a minute changes nothing."""
    seconds = 0.5 + 0.01 * LENGTHS
    assert stage_rate(LENGTHS, seconds) == rate(pytest.approx(0.5), pytest.approx(0.01))
    seconds[2] = 60.0
    assert stage_rate(LENGTHS, seconds) == rate(pytest.approx(0.5, abs=0.05), pytest.approx(0.01, rel=0.05))


def test_series_of_one_length_tell_only_of_slices() -> None:
    """Nothing can be said of what a series costs beside its slices."""
    assert stage_rate(np.full(3, 100.0), np.array([1.0, 2.0, 50.0])) == rate(0.0, 0.02)


def test_no_rate_is_below_nothing() -> None:
    """Where longer series took less, or the line starts below zero, all is put down to slices."""
    assert stage_rate(LENGTHS, 4.0 - 0.01 * LENGTHS).seconds_a_series == 0.0
    assert stage_rate(LENGTHS, 0.01 * LENGTHS - 0.2).seconds_a_series == 0.0


def test_rates_give_a_run_back_its_time() -> None:
    """Five series of 2 s on the model: 10 of its 36 s from Ray on, so that 26 were the start; 7.5 s beside it all."""
    rates = measured_rates([measured()], OTHERWISE)
    night = estimate_night(Workload(n_series=5, n_slices=500, n_new_files=1000), Machine(n_cores=2), rates)
    assert max(night.busy_seconds.values()) == pytest.approx(10.0)
    assert rates.start.pipeline_seconds == pytest.approx(26.0)
    assert night.seconds == pytest.approx(2.0 + 0.5 + 4.0 + 36.0 + 1.0)


def test_cores_that_had_too_much_to_do_made_stages_wait() -> None:
    """17.5 s of stages while the model had 10, on one core: each second took 1.75; on two 27.5, in 20 of theirs."""
    assert measured_rates([measured(n_cores=1)], OTHERWISE).waiting == pytest.approx(1.75)
    assert measured_rates([measured()], OTHERWISE).waiting == pytest.approx(1.375)


def test_one_slow_run_of_three_decides_nothing() -> None:
    """The start of the middle one counts."""
    runs = [measured(str(n), ray_seconds=seconds) for n, seconds in enumerate((4.0, 3.0, 500.0))]
    assert measured_rates(runs, OTHERWISE).start.ray_seconds == 4.0


def test_ray_and_headers_are_told_by_runs_whose_driver_read_them() -> None:
    """A run whose index started Ray says nothing of either, one with a few new files nothing of a header."""
    by_tasks = measured("3", n_headers=100_000, index_seconds=50.0, ray_seconds=0.0)
    few, many = measured("2", n_headers=1, index_seconds=4.0), measured("1")
    start = measured_rates([by_tasks, few, many], OTHERWISE).start
    assert (start.header_seconds, start.ray_seconds) == (0.002, 4.0)
    start = measured_rates([by_tasks], OTHERWISE).start
    assert (start.header_seconds, start.ray_seconds) == (OTHERWISE.header_seconds, OTHERWISE.ray_seconds)


def test_two_models_take_half_the_time() -> None:
    """On two nodes, or two GPUs: 5 s of 36, and 31 are the start."""
    for run in (measured(n_cores=4, n_nodes=2), measured(n_cores=4, device="cuda", n_gpus=2)):
        assert measured_rates([run], OTHERWISE).start.pipeline_seconds == pytest.approx(31.0)


def test_a_gpu_does_not_make_cores_wait() -> None:
    """What it does is no work of theirs."""
    run = replace(measured(n_cores=1), device="cuda", n_gpus=1)
    assert measured_rates([run], OTHERWISE).waiting == 1.0
