"""Trainings that are parts of a longer piece of work: done once, resumed where they stopped, skipped when done.

A model file's name holds a key of everything that decides its weights, so that trainings with other settings or data
lie side by side, and none overwrites another's state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vaeseg.canonical import as_json
from vaeseg.errors import CheckpointError
from vaeseg.io.dataset import DataSet
from vaeseg.models.checkpoint import Checkpoint, load_checkpoint
from vaeseg.training.run import TrainedModel, TrainingRequest, chosen_split

KEY_DIGITS = 8


def keyed(request: TrainingRequest, data: DataSet, name: str) -> TrainingRequest:
    """The request with `<name>-<key>.safetensors` as its output, in the directory of the output that it has.

    Args:
        request: what is to be trained.
        data: the data set that it names, opened.
        name: how the file's name begins.
    """
    parts = [request.stage, as_json(request.training), as_json(request.architecture), str(request.half)]
    parts += [data.manifest.digest, request.parent.name if request.parent else ""]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:KEY_DIGITS]
    return replace(request, output=request.output.parent / f"{name}-{key}.safetensors")


def train_once(
    request: TrainingRequest, data: DataSet, train: Callable[[TrainingRequest], TrainedModel]
) -> tuple[Path, bool]:
    """The model file of a request, trained unless it is there, and resumed where its state is.

    Args:
        request: as `keyed` gives it.
        data: the data set that it names, opened.
        train: trains one stage.

    Returns:
        The file, and whether anything was trained now.

    Raises:
        UsageError, TrainingError, StoreError: as `training.run.run_training`.
    """
    if _is_done(request, data):
        return request.output, False
    train(replace(request, resume=request.state_path.is_file()))
    return request.output, True


def _is_done(request: TrainingRequest, data: DataSet) -> bool:
    """Whether the model file is there and was trained on this data, split, settings and stage-one model, to the end."""
    if request.state_path.is_file():  # of a training that diverged after its best epoch
        return False
    try:
        found = load_checkpoint(request.output)
        parent = load_checkpoint(request.parent).digest if request.parent else ""
    except CheckpointError:
        return False
    return _described(found) == {
        "kind": "vae" if request.stage == "vae" else "segmenter",
        "network": as_json(request.architecture),
        "settings": as_json(request.training),
        "data": data.manifest.digest,
        "split": chosen_split(data, request).digest,
        "parent": parent,
    }


def _described(found: Checkpoint) -> dict[str, str]:
    return {
        "kind": found.kind,
        "network": as_json(found.architecture),
        "settings": found.metadata.training,
        "data": found.metadata.data_digest,
        "split": found.metadata.split_digest,
        "parent": found.metadata.parent_digest,
    }
