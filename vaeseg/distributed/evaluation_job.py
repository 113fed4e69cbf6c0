"""An evaluation as a job of a cluster: written down as a run, done on one of its nodes, a GPU's where there is one."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from typing import Any

import ray
from ray.exceptions import RayError

from vaeseg.db.drivers import run_config
from vaeseg.db.runs import finish_run, start_run
from vaeseg.db.session import Database, open_database
from vaeseg.distributed.evaluate import EvaluationListener, EvaluationRequest, evaluate_as_asked
from vaeseg.distributed.failures import cause_of
from vaeseg.distributed.jobs import Tell, followed, hand_to_cluster
from vaeseg.distributed.jobs_api import JobsApi
from vaeseg.distributed.lifecycle import RunInterruptedError, finish_quietly, heartbeats, interruptible
from vaeseg.distributed.local import compute_on_own_cores, gpus_available, memory_of_passes
from vaeseg.errors import ClusterError, UsageError, VaesegError

POLL_SECONDS = 1.0
MEMORY_BYTES = 2 * 2**30
"""One subject in memory at a time, the model, and torch."""


def evaluate_by_job(
    request: EvaluationRequest, address: str, database_url: str, wait: bool, tell: Tell
) -> dict[str, Any] | str:
    """Have a job of a cluster evaluate.

    Args:
        request: its model, data and report lie where all nodes see them.
        address: of a Jobs API.
        database_url: of the database that the head node knows too.
        wait: for the end.
        tell: is given each line of the job's log as it comes.

    Returns:
        What `evaluate --json` prints; the run's id where it is not waited for.

    Raises:
        ClusterError: the cluster cannot be used, or the job died.
        VaesegError: the evaluation failed, or waiting was interrupted, which leaves it running.
    """
    cluster = JobsApi(address)
    with closing(open_database(database_url)) as database:
        run_id = start_run(
            database,
            kind="evaluate_model",
            archive_id=None,
            model_digest=None,
            config_json=json.dumps({"evaluation": asdict(request), "jobs_address": address}),
            config_digest="",
        )
        job = hand_to_cluster(cluster, database, "evaluate_model", run_id)
        return dict(followed(job, tell).counts["evaluation"]) if wait else run_id


def execute_evaluation(database: Database, run_id: str) -> dict[str, Any]:
    """Evaluate as a run's row says, and record what came of it.

    Returns:
        What `evaluate --json` prints.

    Raises:
        UsageError: the run is no evaluation, or asks for what cannot be.
        RunInterruptedError: it was asked to stop.
        VaesegError: the evaluation failed.
    """
    config = run_config(database, run_id)
    if "evaluation" not in config:
        raise UsageError(f"run {run_id} is no evaluation")
    request = EvaluationRequest(**config["evaluation"])
    try:
        with (
            interruptible("give the command again") as interruption,
            heartbeats(database, run_id, interruption.cancel),
        ):
            result = _on_a_node(request, interruption.check)
    except VaesegError as error:
        finish_quietly(database, run_id, "interrupted" if isinstance(error, RunInterruptedError) else "failed")
        raise
    finish_run(database, run_id, "finished", {"evaluation": result})
    return result


def _on_a_node(request: EvaluationRequest, check: Callable[[], None]) -> dict[str, Any]:
    if not ray.is_initialized():
        return evaluate_as_asked(request, EvaluationListener())
    on_gpu = request.device == "cuda" or (request.device == "auto" and gpus_available())
    memory = MEMORY_BYTES + (0 if on_gpu else memory_of_passes())
    pending = _evaluated.options(num_gpus=1 if on_gpu else 0, memory=memory).remote(request)
    while not ray.wait([pending], timeout=POLL_SECONDS)[0]:
        check()
    try:
        outcome = ray.get(pending)
    except RayError as error:
        raise ClusterError(f"the node that evaluated failed: {cause_of(error)}") from error
    if isinstance(outcome, VaesegError):
        raise outcome
    return dict(outcome)


@ray.remote(num_cpus=1, memory=MEMORY_BYTES, max_retries=1)  # type: ignore[untyped-decorator]  # ray has no types
def _evaluated(request: EvaluationRequest) -> dict[str, Any] | VaesegError:
    """Our own errors are values: they would come again."""
    compute_on_own_cores()
    try:
        return evaluate_as_asked(request, EvaluationListener())
    except VaesegError as error:
        return error
