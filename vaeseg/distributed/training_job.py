"""A training as a job of a cluster: written down as a run, executed on the head node, followed by its log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from vaeseg.canonical import as_json, from_json
from vaeseg.config import ArchitectureConfig, TrainingConfig
from vaeseg.db.drivers import run_config
from vaeseg.db.runs import finish_run, start_run
from vaeseg.db.session import Database, open_database
from vaeseg.distributed.job import cluster_of_job, said_each_epoch
from vaeseg.distributed.jobs import Tell, followed, hand_to_cluster
from vaeseg.distributed.jobs_api import JobsApi, JobScript
from vaeseg.distributed.lifecycle import RunInterruptedError, finish_quietly, heartbeats, interruptible
from vaeseg.distributed.train import Workers, train_model
from vaeseg.errors import UsageError, VaesegError
from vaeseg.io.store import Store
from vaeseg.paths import any_path
from vaeseg.training.chronicle import chronicled
from vaeseg.training.loop import TrainingInterruptedError
from vaeseg.training.observing import Observer
from vaeseg.training.run import TrainedModel, TrainingRequest

SCRIPTS: Mapping[str, JobScript] = {"vae": "train_vae", "decoder": "train_decoder"}
"""By stage; also the kind of the run."""


def train_by_job(
    request: TrainingRequest, workers: Workers, database_url: str, wait: bool, tell: Tell
) -> TrainedModel | str:
    """Have a job of the cluster at `workers.address` train.

    Args:
        request: its data and its output lie where all nodes see them.
        workers: how many, and the address of a Jobs API.
        database_url: of the database that the head node knows too.
        wait: for the end.
        tell: is given each line of the job's log as it comes.

    Returns:
        What came of it; the run's id where it is not waited for.

    Raises:
        ClusterError: the cluster cannot be used, or the job died.
        VaesegError: the training failed, or waiting was interrupted, which leaves it running.
    """
    assert workers.address is not None
    cluster = JobsApi(workers.address)
    with closing(open_database(database_url)) as database:
        run_id = start_run(
            database,
            kind=SCRIPTS[request.stage],
            archive_id=None,
            model_digest=None,
            config_json=_written(request, workers),
            config_digest="",
        )
        job = hand_to_cluster(cluster, database, SCRIPTS[request.stage], run_id)
        if not wait:
            return run_id
        return TrainedModel(**_with_path(followed(job, tell).counts["trained"]))


def execute_training(database: Database, run_id: str, address: str | None, observer: Observer) -> TrainedModel:
    """Train as a run's row says, and record what came of it.

    Args:
        database: where the row is.
        run_id: from `train_by_job`.
        address: of the cluster whose job this is; None trains in this process, or on a Ray of its own.
        observer: told of steps and epochs.

    Raises:
        UsageError: the run is no training, or its data set cannot be used.
        RunInterruptedError: it was asked to stop; the same command with --resume goes on.
        VaesegError: the training failed.
    """
    request, workers = _read(run_config(database, run_id), address)
    try:
        with (
            interruptible("--resume goes on from the last state") as interruption,
            heartbeats(database, run_id, interruption.cancel),
            chronicled(request, observer) as told,
        ):
            trained = train_model(request, workers, told, interruption)
    except VaesegError as error:
        interrupted = isinstance(error, (TrainingInterruptedError, RunInterruptedError))
        finish_quietly(database, run_id, "interrupted" if interrupted else "failed")
        raise
    finish_run(database, run_id, "finished", {"trained": {**asdict(trained), "path": str(trained.path)}})
    return trained


def train_written_down(database: Database, _store: Store, run_id: str) -> bool:
    """What the scripts of both stages do: train on the cluster whose job this process is."""
    trained = execute_training(database, run_id, cluster_of_job(), said_each_epoch())
    print(f"{trained.path.name}: {trained.epochs} epochs, best {trained.best_epoch}")
    return True


def _written(request: TrainingRequest, workers: Workers) -> str:
    """All of a request as JSON; paths are of the nodes' shared file system."""
    plain = {
        field.name: getattr(request, field.name)
        for field in fields(request)
        if field.name not in ("training", "architecture", "output", "parent")
    }
    return json.dumps(
        {
            "request": plain
            | {
                "output": str(request.output),
                "parent": str(request.parent.resolve()) if request.parent else None,
                "training": as_json(request.training),
                "architecture": as_json(request.architecture),
            },
            "workers": [workers.fewest, workers.most],
            "jobs_address": workers.address,
        }
    )


def _read(config: Mapping[str, Any], address: str | None) -> tuple[TrainingRequest, Workers]:
    if "request" not in config:
        raise UsageError("the run is no training")
    written = dict(config["request"])
    request = TrainingRequest(
        **{
            **written,
            "output": Path(written["output"]),
            "parent": any_path(written["parent"]) if written["parent"] else None,
            "training": from_json(TrainingConfig, written["training"]),
            "architecture": from_json(ArchitectureConfig, written["architecture"]),
        }
    )
    fewest, most = config["workers"]
    return request, Workers(fewest=fewest, most=most, address=address)


def _with_path(trained: Mapping[str, Any]) -> dict[str, Any]:
    return {**trained, "path": Path(trained["path"])}
