"""Batch normalisation over the batches of all workers that train together (Ioffe and Szegedy 2015).

torch's own SyncBatchNorm runs on GPUs only; this runs on gloo too. Whatever passes over an image is a kernel that torch
has for BatchNorm2d; workers exchange a few numbers a channel.

B batch, C channels, J I space.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional


class Statistics(NamedTuple):
    """Of each channel, (C,) float32, over `n` numbers of it."""

    mean: Tensor
    variance: Tensor
    """Biased."""
    n: Tensor


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d with mean and variance over the batches of all workers; weights have the same names."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, J, I) to the same shape; in evaluation mode exactly BatchNorm2d."""
        if not self.training:
            return super().forward(input)
        statistics = _of_all(_own(input))
        self._track(statistics)
        found: Tensor = _Normalised.apply(input, self.weight, self.bias, statistics, self.eps)  # type: ignore[no-untyped-call]  # torch leaves it so
        return found

    def _track(self, found: Statistics) -> None:
        """Running statistics as BatchNorm2d keeps them: momentum, and the unbiased variance."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        momentum = 0.1 if self.momentum is None else self.momentum
        self.num_batches_tracked += 1
        self.running_mean.lerp_(found.mean, momentum)
        self.running_var.lerp_(found.variance * found.n / (found.n - 1).clamp(min=1), momentum)


class _Normalised(torch.autograd.Function):
    """The normalisation with statistics that are given, and their part in its gradients."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, statistics: Statistics, eps: float) -> Tensor:
        ctx.save_for_backward(features, weight, *statistics)
        ctx.eps = eps
        return functional.batch_norm(features, statistics.mean, statistics.variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """torch's kernel takes this worker's mean gradients for those of all; what they differ by is added.

        With x the normalised input, w the weight and s the deviation, the gradient of the input is
        w / s (gradient - mean(gradient) - x mean(gradient x)).
        """
        features, weight, mean, variance, n = ctx.saved_tensors
        per_deviation = torch.rsqrt(variance + ctx.eps)
        own_n = features.numel() // features.shape[1]
        of_features, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, features, weight, None, None, mean, per_deviation, True, ctx.eps, [True, True, True]
        )
        own = torch.stack([of_weight, of_bias])
        scale, shift = (own / own_n - _sum(own) / n) * weight * per_deviation
        of_features += functional.batch_norm(features, mean, variance, scale, shift, eps=ctx.eps)
        return of_features, of_weight, of_bias, None, None


def _own(features: Tensor) -> Statistics:
    """Of this worker's batch."""
    no_mean, no_variance = features.new_zeros((2, features.shape[1]), dtype=torch.float32)
    # running statistics in float32 make those that it returns float32 too; with a momentum of 0 they stay as they are
    mean, variance = torch.batch_norm_update_stats(features.detach(), no_mean, no_variance, 0.0)
    return Statistics(mean, variance, mean.new_full((1,), features.numel() // features.shape[1]))


def _of_all(own: Statistics) -> Statistics:
    """Pooled over all workers, in the order of their ranks (Chan, Golub and LeVeque 1983)."""
    sent = torch.cat(own)
    received = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
    dist.all_gather(received, sent)
    numbers = torch.stack(received)
    counts = numbers[:, -1:]
    means, variances = numbers[:, :-1].chunk(2, dim=1)
    n = counts.sum()
    mean = (means * counts).sum(0) / n
    variance = ((variances + (means - mean).square()) * counts).sum(0) / n
    return Statistics(mean, variance, n)


def _sum(own: Tensor) -> Tensor:
    """Over all workers; each gets it."""
    total = own.clone()
    dist.all_reduce(total)
    return total
