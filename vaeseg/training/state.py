"""What a training needs to go on after a kill, as one safetensors file that is replaced whole after each epoch.

Weights, optimiser moments, the epoch reached and what the training was asked to do. There is no random state to keep:
every step's randomness follows from seed, epoch and step (`training.batches`), and the learning rate from the step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from vaeseg.errors import TrainingError
from vaeseg.models.vae import VariationalAutoencoder
from vaeseg.models.writing import write_model_file


def save_state(
    path: Path,
    model: VariationalAutoencoder,
    optimizer: torch.optim.Optimizer,
    epochs_done: int,
    fingerprint: Mapping[str, str],
) -> None:
    """Replace the state file.

    Raises:
        StoreError: it cannot be written.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    described = {"epochs_done": str(epochs_done), "fingerprint": json.dumps(dict(fingerprint), sort_keys=True)}
    write_model_file(path, save_tensors(stored, described))


def restore_state(
    path: Path, model: VariationalAutoencoder, optimizer: torch.optim.Optimizer, fingerprint: Mapping[str, str]
) -> int:
    """Load a state file into model and optimiser.

    Returns:
        Number of epochs already done.

    Raises:
        TrainingError: there is no state, it is damaged, or it belongs to another training (other data, split, settings
            or network).
    """
    if not path.is_file():
        raise TrainingError(f"there is nothing to resume: {path.name} does not exist; train without --resume")
    try:
        with safe_open(path, framework="pt") as file:
            described = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        found = json.loads(described["fingerprint"])
        _check_same_training(path.name, found, fingerprint)
        model.load_state_dict(_under("model.", tensors))
        optimizer.load_state_dict({**optimizer.state_dict(), "state": _moments(tensors)})
        _lay_out_like_weights(optimizer)
        return int(described["epochs_done"])
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise TrainingError(f"the training state {path.name} is damaged; train without --resume") from error


def _check_same_training(name: str, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    for key in wanted:
        if found.get(key) != wanted[key]:
            raise TrainingError(
                f"the training state {name} belongs to another training: its {key} is {found.get(key)}, now "
                f"{wanted[key]}; give the same options, or train without --resume"
            )


def _lay_out_like_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give each moment its weight's memory layout.

    Files hold contiguous tensors, weights are channels last, and torch's fused AdamW walks both in storage order
    without looking at strides (torch 2.13 on CPU): it would silently pair each weight with another one's moments.
    """
    for weight, moments in optimizer.state.items():
        for name, moment in moments.items():
            if moment.shape == weight.shape:
                moments[name] = torch.empty_like(weight).copy_(moment)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _moments(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Any]]:
    moments: dict[int, dict[str, Any]] = {}
    for name, tensor in _under("optimizer.", tensors).items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = tensor
    return moments
