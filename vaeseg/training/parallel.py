"""Several workers that train one model together, each on its share of every step (data parallel).

The parts that make W workers equal to one with W times the batch: batch normalisation over all workers, gradients
averaged over workers that each see nearly the same number of slices, sums over all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn
from torch import distributed as dist

from vaeseg.training.synced_norm import SyncedBatchNorm2d

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One of `world` processes that train together; a process on its own is worker 0 of 1."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this one writes files."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Sum of a tensor over all workers; each gets it."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gathered(self, value: Value) -> list[Value]:
        """Every worker's value, by rank; each gets them all."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values


ALONE = Worker()


def data_parallel(model: nn.Module, worker: Worker) -> nn.Module:
    """The model as the loop calls it: itself, or wrapped so that gradients are averaged over workers.

    The model given stays the one that holds the weights; its batch normalisation becomes that of all workers together.
    """
    if worker.world == 1:
        return model
    _synchronise_batch_norm(model)
    device = next(model.parameters()).device
    return nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def _synchronise_batch_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d) and not isinstance(child, SyncedBatchNorm2d):
            synced = SyncedBatchNorm2d(child.num_features, child.eps, child.momentum)
            synced.load_state_dict(child.state_dict())
            synced.to(child.weight.device).train(child.training)
            synced.requires_grad_(child.weight.requires_grad)
            setattr(module, name, synced)
        else:
            _synchronise_batch_norm(child)
