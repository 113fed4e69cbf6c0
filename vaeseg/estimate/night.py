"""A model of a night: how long it takes on given cores and GPUs, what holds it up, and what a CT costs.

What is busy at the same time (cores, GPUs, the driver) is compared, and the one with most to do decides. Where
processors segment, reading, segmenting and measuring share the cores, and their work adds up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vaeseg.config import FILES_READ_HERE, SERIES_AT_ONCE
from vaeseg.estimate.rates import Rates, StageRate, cpu_work

DRIVER_SECONDS_A_SERIES = 0.0036
"""Of the driver's core, to hand out, collect and commit a series (docs/scaling.md)."""
CORES_OF_ACTOR = 1
"""What the process that drives a GPU holds of the cores."""
PUBLISHED_SECONDS_A_CT = 358.0
PUBLISHED_COST_A_CT = 0.008
"""What one published run over 126,000 CTs took of a machine and paid, in US dollars: TotalSegmentator at the Imaging
Data Commons, another network with other work to do."""

Bottleneck = Literal["start", "cores", "gpus", "driver"]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is to be done."""

    n_series: int
    n_slices: int
    """Of all series."""
    n_new_files: int = 0
    """That no scan has read yet."""

    def __post_init__(self) -> None:
        if self.n_series < 0 or self.n_slices < self.n_series or self.n_new_files < 0:
            raise ValueError(f"impossible workload: {self}")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What there is to do it, all nodes together."""

    n_cores: int
    n_gpus: int = 0

    def __post_init__(self) -> None:
        if self.n_gpus < 0 or self.n_cores < 1 + self.n_gpus * CORES_OF_ACTOR:
            raise ValueError(
                f"{self.n_cores} cores with {self.n_gpus} GPUs: the process of each GPU holds a core, and reading and "
                "measuring need at least one more"
            )


@dataclass(frozen=True, kw_only=True)
class Night:
    """What a workload takes on a machine."""

    workload: Workload
    machine: Machine
    start_seconds: float
    """Index, planning, Ray, models, the end: what does not overlap with series going through."""
    busy_seconds: dict[str, float]
    """Each of `cores`, `gpus` and `driver` that there is to how long its own work takes it, s."""
    core_seconds: dict[str, float]
    """Each stage that cores do to its work, s of one core."""
    latency_seconds: float
    """Of one series through all stages: less than that it never takes."""
    cores_per_gpu: float | None
    """So that reading and measuring keep pace with a GPU; None without one."""

    @property
    def seconds(self) -> float:
        """From the start of the run to its end."""
        return self.start_seconds + max(self.latency_seconds, *self.busy_seconds.values())

    @property
    def bottleneck(self) -> Bottleneck:
        """What has most to do; `start` where what does not overlap takes longer than that."""
        times: dict[Bottleneck, float] = {"start": self.start_seconds, **self.busy_seconds}  # type: ignore[dict-item]
        return max(times, key=lambda name: times[name])

    @property
    def longest_stage(self) -> str:
        """The stage that takes the cores most of their time."""
        return max(self.core_seconds, key=lambda stage: self.core_seconds[stage])

    @property
    def machine_seconds_a_ct(self) -> float:
        """Of the whole machine, for each series; NaN without series."""
        return self.seconds / self.workload.n_series if self.workload.n_series else math.nan

    def cost_a_ct(self, price_an_hour: float) -> float:
        """Price of a series.

        Args:
            price_an_hour: of the whole machine; the result has its currency.
        """
        return self.machine_seconds_a_ct * price_an_hour / 3600


def estimate_night(workload: Workload, machine: Machine, rates: Rates) -> Night:
    """What a workload takes.

    Raises:
        ValueError: rates of a model on processors for a machine with GPUs, or the other way round.
    """
    if (rates.device == "cuda") != (machine.n_gpus > 0):
        raise ValueError(f"rates of {rates.device} say nothing about a machine with {machine.n_gpus} GPUs")
    core_seconds = _core_seconds(workload, rates)
    return Night(
        workload=workload,
        machine=machine,
        start_seconds=_start_seconds(workload, rates),
        busy_seconds=_busy_seconds(workload, machine, rates, core_seconds),
        core_seconds=core_seconds,
        latency_seconds=_mean_series_seconds(workload, rates),
        cores_per_gpu=_cores_per_gpu(workload, rates) if machine.n_gpus else None,
    )


def _core_seconds(workload: Workload, rates: Rates) -> dict[str, float]:
    n_series, n_slices = workload.n_series, workload.n_slices
    if rates.device == "cuda":
        return {"read": rates.read.seconds(n_series, n_slices), "measure": rates.measure.seconds(n_series, n_slices)}
    work = cpu_work(rates.stages, n_series, n_slices, rates.n_cores / rates.n_nodes)
    return {stage: seconds / rates.work_per_core_second for stage, seconds in work.items()}


def _busy_seconds(
    workload: Workload, machine: Machine, rates: Rates, core_seconds: dict[str, float]
) -> dict[str, float]:
    cores = machine.n_cores - machine.n_gpus * CORES_OF_ACTOR
    busy = {"cores": sum(core_seconds.values()) / cores, "driver": workload.n_series * DRIVER_SECONDS_A_SERIES}
    if machine.n_gpus:
        busy["gpus"] = rates.segment.seconds(workload.n_series, workload.n_slices) / machine.n_gpus
    return busy


def _start_seconds(workload: Workload, rates: Rates) -> float:
    start = rates.start
    indexing = start.header_seconds * workload.n_new_files
    if not workload.n_series:
        return indexing
    n_pipelines = math.ceil(workload.n_series / SERIES_AT_ONCE) + (workload.n_new_files > FILES_READ_HERE)
    planning = start.planning_seconds * workload.n_series
    return indexing + planning + start.ray_seconds + start.pipeline_seconds * n_pipelines + start.closing_seconds


def _mean_series_seconds(workload: Workload, rates: Rates) -> float:
    if not workload.n_series:
        return 0.0
    stages = rates.stages.values()
    return sum(rate.seconds(workload.n_series, workload.n_slices) for rate in stages) / workload.n_series


def _cores_per_gpu(workload: Workload, rates: Rates) -> float:
    """One for its process, and as many as read and measure in the time that it segments; NaN if that takes no time."""
    on_gpu, fed_by = (_together(workload, rate) for rate in ((rates.segment,), (rates.read, rates.measure)))
    return CORES_OF_ACTOR + fed_by / on_gpu if on_gpu else math.nan


def _together(workload: Workload, stages: tuple[StageRate, ...]) -> float:
    return sum(rate.seconds(workload.n_series, workload.n_slices) for rate in stages)
