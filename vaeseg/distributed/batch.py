"""The pipeline on Ray Data: read on CPU tasks, segment in actors, measure on CPU tasks, one series a block."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

import ray
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vaeseg.distributed.failures import TASK_RETRIES, PipelineError, cause_of
from vaeseg.distributed.local import cores_of_this_node, gpus_available, memory_of_passes, nodes_with_cpus
from vaeseg.distributed.measuring import measure
from vaeseg.distributed.ray_data import presented
from vaeseg.distributed.reading import read
from vaeseg.distributed.rows import SeriesRow
from vaeseg.distributed.segmenting import Segment
from vaeseg.distributed.stage import StageConfig
from vaeseg.distributed.worker_metrics import write_to_ray

ACTOR_RESTARTS = -1
"""The model's actor comes back however many series kill it; each of them is tried `TASK_RETRIES` times more."""
PASSES = 2
"""Series that are missing after a pass get another: what the actor of a node that dies had with it is retried at once,
before anybody knows that the node is dead, and given up with it (10 of 44 series were seen to end so)."""
TASK_MEMORY_BYTES = 2**30
"""What a reading or measuring task may need: a volume of 600 slices in int16 is 315 MB, its float32 planes little."""


ACTOR_MEMORY_BYTES = 2**30
"""What an actor may need in main memory: torch, the model, and a batch; on processors `memory_of_passes` more."""
TASK_CPUS, ACTOR_CPUS = 0.9, 0.01
"""Logical: what Ray counts, not what they use. Models must never take the last CPU from the tasks that feed them, which
would hang the run for good: not on a node of one CPU, and not where those of a node that died come together."""


def segment_rows(rows: Sequence[SeriesRow], config: StageConfig) -> Iterator[SeriesRow]:
    """Run series through the pipeline, yielding each when it is done, in no particular order.

    A row whose worker processes died in each of `PASSES` is missing from the output; no row comes twice.

    Args:
        rows: from `rows.planned_row`.
        config: for the workers.
    """
    missing = {row["work_item"]: row for row in rows}
    for _ in range(PASSES):
        for row in _pass(list(missing.values()), config):
            del missing[row["work_item"]]
            yield row
        if not missing:
            return


def _pass(rows: Sequence[SeriesRow], config: StageConfig) -> Iterator[SeriesRow]:
    with warnings.catch_warnings():
        # Ray warns of its own settings; until Ray 2.64, max_retries and the node of an actor have no other way in
        warnings.simplefilter("ignore")
        dataset = _pipeline(rows, config)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"ray\.")  # of actors that no series came to
        try:
            for row in dataset.iter_rows():
                yield cast(SeriesRow, row)
        except RayError as error:
            raise PipelineError(f"Ray ended the pipeline: {cause_of(error)}; submit again to go on") from error


def _pipeline(rows: Sequence[SeriesRow], config: StageConfig) -> ray.data.Dataset:
    on_gpu = device_of(config) == "cuda"
    fewest, most = config.actors or _actors(on_gpu, len(rows))
    task = {"num_cpus": TASK_CPUS, "memory": TASK_MEMORY_BYTES, "max_retries": TASK_RETRIES}
    dataset = ray.data.from_items(list(rows), override_num_blocks=len(rows))
    dataset.context.max_errored_blocks = -1
    dataset = dataset.map(read, fn_kwargs={"config": config, "write": write_to_ray}, **task)
    dataset = dataset.map(
        Segment,
        fn_constructor_args=(config, write_to_ray, cores_of_this_node),
        compute=ActorPoolStrategy(min_size=fewest, max_size=most),
        num_cpus=ACTOR_CPUS,
        num_gpus=1 if on_gpu else None,
        memory=ACTOR_MEMORY_BYTES + (0 if on_gpu else memory_of_passes()),
        max_restarts=ACTOR_RESTARTS,
        max_task_retries=TASK_RETRIES,
        ray_remote_args_fn=None if on_gpu else EvenPlacement(),
    )
    return presented(dataset.map(measure, fn_kwargs={"config": config, "write": write_to_ray}, **task), "segment")


def device_of(config: StageConfig) -> Literal["cpu", "cuda"]:
    """Where the model runs, on the Ray that there is."""
    if config.device == "auto":
        return "cuda" if gpus_available() else "cpu"
    return config.device


def _actors(on_gpu: bool, n_series: int) -> tuple[int, int]:
    """Fewest and most: up to one for each GPU, or for each node where processors do it, all of whose cores it uses.

    Of the latter all are there from the start, so that `EvenPlacement` knows how many each node has; but no more than
    there are series.
    """
    if on_gpu:
        return 1, max(1, int(ray.cluster_resources().get("GPU", 0)))
    most = max(1, len(nodes_with_cpus()))
    return min(most, n_series), most


class EvenPlacement:
    """Sends each new actor to the node that was given the fewest; where there is none yet, it waits for the first.

    Ray's own SPREAD only takes turns, and other tasks take turns too: it put two models on one node of two, and the run
    was no faster than on one. What a node that dies had comes back on another.
    """

    def __init__(self) -> None:
        self._given: Counter[str] = Counter()

    def __call__(self) -> dict[str, Any]:
        """Called by Ray Data before it makes an actor; options of that actor."""
        node = min(nodes_with_cpus(), key=lambda node: self._given[node], default=None)
        if node is None:
            return {}
        self._given[node] += 1
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}
