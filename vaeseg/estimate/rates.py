"""From what runs took to rates: seconds of each stage a series and a slice, and what comes before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np
import numpy.typing as npt

from vaeseg.config import HERE_SECONDS

FloatArray = npt.NDArray[np.float64]
Device = Literal["cpu", "cuda"]
STAGES = ("read", "segment", "measure")

FEWEST_SERIES = 5
"""Segmented series below which rates are not taken from them: one that was slow would decide."""
FEWEST_HEADERS = 100
"""In a run from which the time of one is told: with fewer, listing the archive is what took it."""
LEVER = 1.5
"""Longest over shortest series from which on what a series costs can be told from what its slices cost."""
MOST_FITTED = 500
"""Series in one fit, which compares each with each."""


@dataclass(frozen=True, kw_only=True)
class StageRate:
    """What one stage takes."""

    seconds_a_series: float
    seconds_a_slice: float

    def seconds(self, n_series: int, n_slices: int) -> float:
        """Of so many series with so many slices together."""
        return self.seconds_a_series * n_series + self.seconds_a_slice * n_slices


@dataclass(frozen=True, kw_only=True)
class StartRates:
    """What a run takes beside its series going through the stages, s."""

    ray_seconds: float
    """Once: Ray starts."""
    pipeline_seconds: float
    """Once a portion of series: processes start and load the model."""
    header_seconds: float
    """For each new file: its header is read and entered in the index."""
    planning_seconds: float
    """For each series: it is planned, and its row made."""
    closing_seconds: float
    """Once: the last commit, the account of the archive, Ray ends."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What things take on one kind of machine."""

    device: Device
    """Where the model runs."""
    read: StageRate
    """Of one core."""
    segment: StageRate
    """Of one GPU, or of one core."""
    measure: StageRate
    """Of one core."""
    start: StartRates
    waiting: float
    """Seconds that a stage took for a second of a core, at least 1: where cores are few, stages wait for each other."""
    n_cores: int
    """Of the machines that they were measured on."""
    n_nodes: int
    source: str
    """Where they come from, in a sentence."""

    @property
    def stages(self) -> dict[str, StageRate]:
        """Each of `STAGES` to its rate."""
        return {"read": self.read, "segment": self.segment, "measure": self.measure}


@dataclass(frozen=True, kw_only=True)
class MeasuredRun:
    """A run as the database knows it: what it ran on, what its time went to, and what each segmented series took."""

    run_id: str
    device: Device
    n_cores: int
    n_nodes: int
    n_gpus: int
    n_headers: int
    n_portions: int
    index_seconds: float
    planning_seconds: float
    ray_seconds: float
    pipeline_seconds: float
    """Of all portions together."""
    busy_seconds: float
    closing_seconds: float
    n_slices: FloatArray
    """(N,) slices of each series, in the order of their findings."""
    stage_seconds: dict[str, FloatArray]
    """Each of `STAGES` to (N,) s, by the clock."""

    @property
    def work_seconds(self) -> dict[str, FloatArray]:
        """Each of `STAGES` to (N,) s of a core, or of a GPU: a model on processors has all cores of its node."""
        cores = 1.0 if self.device == "cuda" else self.n_cores / self.n_nodes
        return self.stage_seconds | {"segment": self.stage_seconds["segment"] * cores}

    @property
    def flow_seconds(self) -> float:
        """In which its series went through: what the models, or the cores beside them, did takes as long."""
        read, segment, measure = (float(self.stage_seconds[stage].sum()) for stage in STAGES)
        on_gpu = self.device == "cuda"
        cores = cores_beside(self.n_gpus, self.n_cores) if on_gpu else self.n_cores
        return max(segment / (self.n_gpus if on_gpu else self.n_nodes), (read + measure) / cores)

    @property
    def start_seconds(self) -> float:
        """Of a portion's pipeline: its first series comes out late, while others are segmented already."""
        return max(0.0, self.pipeline_seconds + self.busy_seconds - self.flow_seconds) / self.n_portions


def measured_rates(runs: Sequence[MeasuredRun], otherwise: StartRates) -> Rates:
    """Rates of runs on machines of one kind; medians, so that one slow series or run decides nothing.

    Args:
        runs: at least one, all with the same device, cores and nodes.
        otherwise: what takes the place of what none of the runs measured.
    """
    newest = runs[0]
    slices = np.concatenate([run.n_slices for run in runs])[:MOST_FITTED]
    stages = {
        stage: stage_rate(slices, np.concatenate([run.work_seconds[stage] for run in runs])[:MOST_FITTED])
        for stage in STAGES
    }
    return Rates(
        device=newest.device,
        start=_start_rates(runs, otherwise),
        waiting=median(_waiting(run) for run in runs),
        n_cores=newest.n_cores,
        n_nodes=newest.n_nodes,
        source=f"{len(slices)} series of {len(runs)} run{'s' * (len(runs) > 1)}, the newest {newest.run_id}",
        **stages,
    )


def stage_rate(n_slices: FloatArray, seconds: FloatArray) -> StageRate:
    """What a stage takes a series and a slice: the line of Theil and Sen, which a quarter of outliers does not move.

    Where all series are about as long, or the line would give a series less than nothing, it is all put down to slices.

    Args:
        n_slices: (N,) slices of each series, at least 1; N at least 1.
        seconds: (N,) s, same order.
    """
    by_slice = StageRate(seconds_a_series=0.0, seconds_a_slice=float(np.median(seconds / n_slices)))
    if n_slices.max() < LEVER * n_slices.min():
        return by_slice
    first, second = np.triu_indices(len(n_slices), k=1)
    differ = n_slices[first] != n_slices[second]
    first, second = first[differ], second[differ]
    slope = float(np.median((seconds[second] - seconds[first]) / (n_slices[second] - n_slices[first])))
    base = float(np.median(seconds - slope * n_slices))
    return by_slice if min(slope, base) < 0 else StageRate(seconds_a_series=base, seconds_a_slice=slope)


def cores_beside(n_gpus: int, n_cores: int) -> int:
    """Cores that read and measure: the process of each GPU takes one, but one of all is always left."""
    return max(1, n_cores - n_gpus)


def _start_rates(runs: Sequence[MeasuredRun], otherwise: StartRates) -> StartRates:
    """Ray's start and a header's time are told by runs whose driver read the headers itself, before Ray started."""
    here = [run for run in runs if run.index_seconds <= HERE_SECONDS]
    headers = [run.index_seconds / run.n_headers for run in here if run.n_headers >= FEWEST_HEADERS]
    return StartRates(
        ray_seconds=median([run.ray_seconds for run in here] or [otherwise.ray_seconds]),
        pipeline_seconds=median(run.start_seconds for run in runs),
        header_seconds=median(headers or [otherwise.header_seconds]),
        planning_seconds=median(run.planning_seconds / len(run.n_slices) for run in runs),
        closing_seconds=median(run.closing_seconds for run in runs),
    )


def _waiting(run: MeasuredRun) -> float:
    """More seconds of stages than cores had seconds in that time were spent waiting; a GPU takes the cores nothing."""
    if run.device == "cuda":
        return 1.0
    work = sum(float(seconds.sum()) for seconds in run.work_seconds.values())
    return max(1.0, work / (run.n_cores * run.flow_seconds))
