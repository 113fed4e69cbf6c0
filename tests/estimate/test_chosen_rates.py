"""Whose rates count."""

from __future__ import annotations

import pytest
from estimated import measured

from vaeseg.errors import UsageError
from vaeseg.estimate.choice import choose_rates
from vaeseg.estimate.night import Machine
from vaeseg.estimate.rates import Rates
from vaeseg.estimate.shipped import BFLOAT16, FLOAT32

TWO, FOUR = Machine(n_cores=2), Machine(n_cores=4)
WITH_GPU = Machine(n_cores=4, n_gpus=1)


def chosen(runs: list, machine: Machine, given: float | None = None) -> Rates:  # type: ignore[type-arg]
    return choose_rates(runs, machine, "phantom-v1", FLOAT32, given)


def test_few_series_leave_the_rates_that_come_with_vaeseg() -> None:
    """Four are not enough, five are; what is said of the source tells which."""
    shipped = chosen([measured(n_series=4)], TWO)
    assert shipped.read == FLOAT32.read
    assert "4 series were measured here on processors" in shipped.source
    assert chosen([measured("r9", n_series=5)], TWO).source == "5 series of 1 run, the newest r9"


def test_what_no_run_measured_is_that_of_such_a_processor() -> None:
    """The time of a header, where no run read a hundred."""
    runs = [measured(n_headers=0)]
    assert chosen(runs, TWO).start.header_seconds == FLOAT32.start.header_seconds
    rates = choose_rates(runs, TWO, "phantom-v1", BFLOAT16)
    assert rates.start.header_seconds == BFLOAT16.start.header_seconds


def test_runs_add_up_where_machines_are_alike() -> None:
    """Three series and two on two cores are five; on other machines they are not."""
    runs = [measured("b", n_series=3), measured("a", n_series=2)]
    assert chosen(runs, TWO).source == "5 series of 2 runs, the newest b"
    assert chosen([runs[0], measured("a", n_series=2, n_cores=8)], TWO).source.startswith(FLOAT32.source)


def test_a_machine_with_as_many_cores_comes_first() -> None:
    """Then the newest."""
    runs = [measured("newest", n_cores=8), measured("alike"), measured("old", n_cores=16)]
    assert chosen(runs, TWO).n_cores == 2
    assert chosen(runs, FOUR).n_cores == 8


def test_processors_say_nothing_of_a_gpu() -> None:
    """Nothing is invented: without a run on one the user has to say what a GPU does."""
    with pytest.raises(UsageError, match=r"no run of phantom-v1 on a GPU .* --gpu-slices-per-second"):
        chosen([measured(n_series=50)], WITH_GPU)
    assert chosen([measured(), measured("g", device="cuda", n_gpus=1)], WITH_GPU).device == "cuda"
    assert chosen([measured("g", device="cuda", n_gpus=1)], FOUR).source.startswith(FLOAT32.source)


def test_a_given_rate_stands_in_for_the_gpu_alone() -> None:
    """Reading is what was measured, 10 ms a slice, less what it waited for a core that segmented too."""
    rates = chosen([measured()], WITH_GPU, 500.0)
    assert rates.segment.seconds_a_slice == pytest.approx(0.002)
    assert rates.read.seconds_a_slice == pytest.approx(0.01 / 1.375)
    assert rates.source.endswith("500 slices/s of a GPU as given, not measured")
    shared = chosen([measured(n_cores=1)], WITH_GPU, 500.0)
    assert shared.read.seconds_a_slice == pytest.approx(0.01 / 1.75)
