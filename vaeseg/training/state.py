"""What a training needs to go on after a kill, as one safetensors file that is replaced whole.

Weights, their running mean, optimiser moments, how far it came and what it was asked to do. There is no random state to
keep: every step's randomness follows from seed, epoch and place (`training.batches`), and the learning rate from both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from vaeseg.durable import write_file
from vaeseg.errors import TrainingError


@dataclass(kw_only=True)
class Progress:
    """How far a training came."""

    epoch: int = 0
    """Whole epochs done."""
    place: int = 0
    """Slices of the epoch's order that are done since."""
    steps: int = 0
    """Of the whole training."""
    sums: dict[str, float] = field(default_factory=dict)
    """Losses summed over those slices."""
    best: list[float] | None = None
    """Best dev figures of any epoch, the first first; the higher the better."""
    best_epoch: int = 0
    """From 1; 0 before the first evaluation."""
    diverged: str = ""
    """How the loss stopped being finite, where a training ended by that with its best epoch; no state has it."""


class WeightMean:
    """Exponential running mean of a network's weights and statistics (Polyak and Juditsky 1992).

    Args:
        model: whose weights are followed, from now on.
        decay: weight of the past at each step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model = model
        self._decay = decay
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def follow(self, steps_done: int) -> None:
        """Take in the weights of one more step; the past weighs less while there is little of it."""
        share = 1 - min(self._decay, (1 + steps_done) / (10 + steps_done))
        now = self._model.state_dict()
        for name, mean in self.weights.items():
            if mean.is_floating_point():
                mean.lerp_(now[name], share)
            else:
                mean.copy_(now[name])


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Everything that changes while a network is trained, bound to the file that keeps it."""

    path: Path
    model: nn.Module
    optimizer: torch.optim.Optimizer
    mean: WeightMean | None
    progress: Progress
    fingerprint: Mapping[str, str]
    """What must be equal for a resume, by name."""

    def save(self) -> None:
        """Replace the file.

        Raises:
            StoreError: it cannot be written.
        """
        described = {
            "progress": json.dumps(asdict(self.progress)),
            "fingerprint": _as_text(self.fingerprint),
        }
        _write(self.path, self._tensors(), described)

    def restore(self) -> None:
        """Load the file into model, optimiser, mean and progress.

        Raises:
            TrainingError: there is no state, it is damaged, or it belongs to another training (other data, split,
                settings or network).
        """
        if not self.path.is_file():
            raise TrainingError(f"there is nothing to resume: no {self.path.parent.name}; train without --resume")
        try:
            tensors, described = _read(self.path)
            found = json.loads(described["fingerprint"])
            progress = Progress(**json.loads(described["progress"]))
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise self._damaged() from error
        _check_same_training(self.path.parent.name, found, self.fingerprint)
        try:
            self._take(tensors)
        except (KeyError, ValueError, RuntimeError) as error:
            raise self._damaged() from error
        vars(self.progress).update(vars(progress))

    def _damaged(self) -> TrainingError:
        return TrainingError(f"the state in {self.path.parent.name} is damaged; remove it, or train with --force")

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.mean is not None:
            tensors |= {f"mean.{name}": tensor for name, tensor in self.mean.weights.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
        return tensors

    def _take(self, tensors: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(_under("model.", tensors))
        if self.mean is not None:
            kept = _under("mean.", tensors)
            for name, mean in self.mean.weights.items():
                mean.copy_(kept[name])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": _moments(tensors)})
        _lay_out_like_weights(self.optimizer)


def save_best(path: Path, weights: Mapping[str, Tensor], fingerprint: Mapping[str, str]) -> None:
    """Replace the file of the best epoch's weights.

    Raises:
        StoreError: it cannot be written.
    """
    _write(path, weights, {"fingerprint": _as_text(fingerprint)})


def load_best(path: Path, fingerprint: Mapping[str, str]) -> dict[str, Tensor]:
    """What `save_best` wrote; of a file from before it had a fingerprint, whatever it holds.

    Raises:
        TrainingError: it is missing or damaged, or another training of the same name wrote it.
    """
    try:
        weights, described = _read(path)
        found = json.loads(described["fingerprint"]) if "fingerprint" in described else fingerprint
    except (SafetensorError, OSError, ValueError) as error:
        raise TrainingError(
            f"the weights of the best epoch in {path.parent.name} are gone or damaged; train with --force"
        ) from error
    _check_same_training(path.parent.name, found, fingerprint)
    return weights


def _as_text(fingerprint: Mapping[str, str]) -> str:
    return json.dumps(dict(fingerprint), sort_keys=True)


def _write(path: Path, tensors: Mapping[str, Tensor], described: dict[str, str]) -> None:
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_file(path, save_tensors(stored, described), f"model {path.name}")


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118  # no mapping


def _check_same_training(name: str, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    for key in wanted:
        if found.get(key) != wanted[key]:
            raise TrainingError(
                f"the state in {name} belongs to another training: its {key} is {found.get(key)}, now "
                f"{wanted[key]}; give the same options, or train with --force"
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
