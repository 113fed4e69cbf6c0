"""Several workers that train one model together, each on its share of every step (data parallel).

The parts that make W workers equal to one with W times the batch: batch normalisation over all workers, gradients
averaged over workers that each see nearly the same number of slices, sums over all of them. C channels, B batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

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


class _Total(torch.autograd.Function):
    """Sum of a tensor over all workers, through which gradients flow back to each."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed = gradient.clone()
        dist.all_reduce(summed)
        return summed


def _total(own: Tensor) -> Tensor:
    total: Tensor = _Total.apply(own)  # type: ignore[no-untyped-call]  # torch leaves it so
    return total


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation with mean and variance over the batches of all workers (Ioffe and Szegedy 2015).

    torch's own SyncBatchNorm runs on GPUs only; this runs on gloo too. Weights have the same names as BatchNorm2d's.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, J, I) to the same shape; in evaluation mode exactly BatchNorm2d."""
        if not self.training:
            return super().forward(input)
        features = input.float()
        own_count = features.new_tensor([features.numel() // features.shape[1]])
        total = _total(torch.cat([features.sum((0, 2, 3)), own_count]))
        n, mean = total[-1], total[:-1] / total[-1]
        variance = _total((features - mean[:, None, None]).square().sum((0, 2, 3))) / n
        self._track(mean.detach(), variance.detach(), n.detach())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return (features * scale[:, None, None] + shift[:, None, None]).to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor, n: Tensor) -> None:
        """Running statistics as BatchNorm2d keeps them: momentum, and the unbiased variance."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        momentum = 0.1 if self.momentum is None else self.momentum
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * n / (n - 1).clamp(min=1), momentum)


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
