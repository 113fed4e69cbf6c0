"""A model of a night: how long it takes on given cores and GPUs, what holds it up, and what a CT costs.

What is busy at the same time (models, cores, the driver) is compared, and the one with most to do decides. Where
processors segment, reading, segmenting and measuring share the cores, and their work adds up there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vaeseg.config import series_at_once
from vaeseg.estimate.rates import STAGES, Rates, cores_beside

DRIVER_SECONDS_A_SERIES = 0.0036
"""Of the driver's core, to hand out, collect and commit a series (docs/scaling.md)."""
PUBLISHED_SECONDS_A_CT = 358.0
PUBLISHED_COST_A_CT = 0.008
"""What one published run over 126,000 CTs took of a machine and paid, in US dollars: TotalSegmentator at the Imaging
Data Commons, another network with other work to do."""

Bottleneck = Literal["start", "model", "cores", "driver"]


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
    n_nodes: int = 1
    """Without GPUs, the cores of each segment one series at a time."""

    def __post_init__(self) -> None:
        if self.n_nodes > self.n_cores:
            raise ValueError(f"{self.n_cores} cores are too few for {self.n_nodes} nodes")
        if self.n_gpus and self.n_cores <= self.n_gpus:
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
    """`model`, `cores` and `driver` to how long its own work takes it, s."""
    stage_seconds: dict[str, float]
    """Each stage to its work, s of one core, or of one GPU."""
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
        of_cores = [stage for stage in STAGES if stage != "segment" or not self.machine.n_gpus]
        return max(of_cores, key=lambda stage: self.stage_seconds[stage])

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
    stage_seconds = {stage: rate.seconds(workload.n_series, workload.n_slices) for stage, rate in rates.stages.items()}
    return Night(
        workload=workload,
        machine=machine,
        start_seconds=_start_seconds(workload, machine, rates),
        busy_seconds={
            "model": stage_seconds["segment"] / (machine.n_gpus or machine.n_cores),
            "cores": _cores_seconds(stage_seconds, machine, rates.waiting),
            "driver": workload.n_series * DRIVER_SECONDS_A_SERIES,
        },
        stage_seconds=stage_seconds,
        latency_seconds=_latency_seconds(stage_seconds, machine) / max(1, workload.n_series),
        cores_per_gpu=_cores_per_gpu(stage_seconds) if machine.n_gpus else None,
    )


def _cores_seconds(stage_seconds: dict[str, float], machine: Machine, waiting: float) -> float:
    """Of the cores beside GPUs; or of all of them, where they segment too, less what was only waiting."""
    if machine.n_gpus:
        return (stage_seconds["read"] + stage_seconds["measure"]) / cores_beside(machine.n_gpus, machine.n_cores)
    return sum(stage_seconds.values()) / waiting / machine.n_cores


def _latency_seconds(stage_seconds: dict[str, float], machine: Machine) -> float:
    """Of all series one after the other: a series has one core for each stage, but all of a node to be segmented."""
    cores = 1.0 if machine.n_gpus else machine.n_cores / machine.n_nodes
    return stage_seconds["read"] + stage_seconds["segment"] / cores + stage_seconds["measure"]


def _start_seconds(workload: Workload, machine: Machine, rates: Rates) -> float:
    start = rates.start
    indexing = start.header_seconds * workload.n_new_files
    if not workload.n_series:
        return indexing
    n_pipelines = math.ceil(workload.n_series / series_at_once(machine.n_cores))
    planning = start.planning_seconds * workload.n_series
    return indexing + planning + start.ray_seconds + start.pipeline_seconds * n_pipelines + start.closing_seconds


def _cores_per_gpu(stage_seconds: dict[str, float]) -> float:
    """One for its process, and as many as read and measure in the time that it segments; NaN if that takes no time."""
    on_gpu, fed_by = stage_seconds["segment"], stage_seconds["read"] + stage_seconds["measure"]
    return 1 + fed_by / on_gpu if on_gpu else math.nan
