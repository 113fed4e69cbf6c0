"""A night on paper."""

from __future__ import annotations

import math

import pytest
from estimated import rate, rates

from vaeseg.estimate.night import Machine, Workload, estimate_night

WORK = Workload(n_series=10, n_slices=1000, n_new_files=1000)
ON_GPU = rates(device="cuda", waiting=1.0)


def test_cores_share_what_there_is_to_do() -> None:
    """Four share the 20 s of segmenting, and all of the 50 s, of which 10 were waiting."""
    night = estimate_night(WORK, Machine(n_cores=4), rates())
    assert night.stage_seconds == pytest.approx({"read": 20.0, "segment": 20.0, "measure": 10.0})
    assert night.busy_seconds == pytest.approx({"model": 5.0, "cores": 10.0, "driver": 0.036})
    assert night.start_seconds == pytest.approx(1.0 + 0.1 + 4.0 + 6.0 + 2.0)
    assert (night.seconds, night.bottleneck) == (pytest.approx(23.1), "start")
    assert night.cores_per_gpu is None


def test_on_one_core_the_stages_add_up() -> None:
    """50 s of work, of which 10 were waiting: 40 s."""
    night = estimate_night(WORK, Machine(n_cores=1), rates())
    assert (night.busy_seconds["cores"], night.bottleneck) == (pytest.approx(40.0), "cores")
    assert night.longest_stage == "read"


def test_a_gpu_works_while_cores_feed_it() -> None:
    """The GPU has 20 s of work; four cores beside the one of its process share 30 s; it is fed by 30 / 20 cores."""
    night = estimate_night(WORK, Machine(n_cores=5, n_gpus=1), ON_GPU)
    assert night.busy_seconds == pytest.approx({"cores": 7.5, "model": 20.0, "driver": 0.036})
    assert (night.seconds, night.bottleneck) == (pytest.approx(33.1), "model")
    assert night.cores_per_gpu == pytest.approx(1 + 1.5)


def test_a_starved_gpu_waits_for_cores() -> None:
    """Just as many cores as feed it take as long as it does; with fewer, they decide."""
    fed, starved = (estimate_night(WORK, Machine(n_cores=cores, n_gpus=2), ON_GPU) for cores in (5, 3))
    assert fed.busy_seconds["cores"] == pytest.approx(fed.busy_seconds["model"])
    assert (starved.bottleneck, starved.longest_stage) == ("cores", "read")


def test_the_driver_and_the_start_can_decide() -> None:
    """A million series on a thousand cores wait for the driver, a single one for Ray."""
    many = Workload(n_series=1_000_000, n_slices=1_000_000)
    fast = rates(read=rate(0.0, 0.001), segment=rate(0.0, 0.0001), measure=rate(0.0, 0.001))
    quick = estimate_night(many, Machine(n_cores=2000), fast)
    assert quick.busy_seconds["driver"] == pytest.approx(3600.0)
    assert max(quick.busy_seconds, key=lambda name: quick.busy_seconds[name]) == "driver"
    assert estimate_night(Workload(n_series=1, n_slices=100), Machine(n_cores=4), rates()).bottleneck == "start"


def test_one_series_takes_its_stages_one_after_the_other() -> None:
    """However many cores there are: 2 s, 2 s on the 32 of a node, and 1 s; and 12.01 s to start and end."""
    night = estimate_night(Workload(n_series=1, n_slices=100), Machine(n_cores=64, n_nodes=2), rates())
    assert night.seconds == pytest.approx(12.01 + 2.0 + 2.0 / 32 + 1.0)


@pytest.mark.parametrize(
    ("n_cores", "n_series", "n_portions"),
    [(4, 500, 1), (4, 501, 2), (8, 800, 1), (8, 801, 2), (64, 2000, 1), (64, 2001, 2)],
)
def test_each_portion_loads_models_anew(n_cores: int, n_series: int, n_portions: int) -> None:
    """Ray starts once, the pipeline for each 100 series a core, but for 500 at least and 2,000 at most."""
    night = estimate_night(Workload(n_series=n_series, n_slices=n_series), Machine(n_cores=n_cores, n_nodes=2), rates())
    assert night.start_seconds == pytest.approx(4.0 + 2.0 + 6.0 * n_portions + 0.01 * n_series)


@pytest.mark.parametrize("n_files", [1, 100_000])
def test_headers_take_their_time_and_ray_starts_once(n_files: int) -> None:
    """Before its pipeline or for reading headers, if the driver alone does not come to their end."""
    work = Workload(n_series=1, n_slices=n_files, n_new_files=n_files)
    night = estimate_night(work, Machine(n_cores=4), rates())
    assert night.start_seconds == pytest.approx(4.0 + 2.0 + 0.01 + 6.0 + 0.001 * n_files)


def test_what_a_ct_costs() -> None:
    """23.1 s for ten: 2.31 machine-seconds, and at 3.60 an hour a thousandth of it each second."""
    night = estimate_night(WORK, Machine(n_cores=4), rates())
    assert night.machine_seconds_a_ct == pytest.approx(2.31)
    assert night.cost_a_ct(3.6) == pytest.approx(0.00231)


def test_nothing_to_do_takes_no_time_and_costs_nothing_that_can_be_told() -> None:
    """No series: no Ray, and NaN for a series' share."""
    night = estimate_night(Workload(n_series=0, n_slices=0), Machine(n_cores=4), rates())
    assert night.seconds == 0.0
    assert math.isnan(night.machine_seconds_a_ct)


def test_impossible_work_and_machines_are_refused() -> None:
    """Series without slices, a GPU whose process leaves no core, rates of the other device."""
    with pytest.raises(ValueError, match="impossible workload"):
        Workload(n_series=2, n_slices=1)
    with pytest.raises(ValueError, match="2 cores with 2 GPUs"):
        Machine(n_cores=2, n_gpus=2)
    with pytest.raises(ValueError, match="1 cores are too few for 2 nodes"):
        Machine(n_cores=1, n_nodes=2)
    with pytest.raises(ValueError, match="rates of cpu say nothing"):
        estimate_night(WORK, Machine(n_cores=4, n_gpus=1), rates())
    with pytest.raises(ValueError, match="rates of cuda say nothing"):
        estimate_night(WORK, Machine(n_cores=4), ON_GPU)
