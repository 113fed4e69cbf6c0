"""Training on as many workers as asked for: in this process for one, on Ray for more.

Ray is imported only where it is needed: one process trains without it.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

from vaeseg.distributed.lifecycle import Interruption, interruptible
from vaeseg.inference.predictor import choose_device
from vaeseg.training.observing import Observer
from vaeseg.training.run import TrainedModel, TrainingRequest, check_workers, run_training, stays_in_memory


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many processes train together."""

    fewest: int = 1
    most: int = 1
    address: str | None = None
    """Of a running Ray cluster; None starts Ray on this machine."""
    max_failures: int = 3
    """How often a lost worker is made good before the training gives up."""

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= self.most:
            raise ValueError(f"workers {self.fewest}:{self.most}: give N, or MIN:MAX with 1 <= MIN <= MAX")

    @property
    def alone(self) -> bool:
        """Whether no Ray is needed."""
        return self.most == 1 and self.address is None


def train_model(
    request: TrainingRequest, workers: Workers, observer: Observer, interruption: Interruption | None = None
) -> TrainedModel:
    """Train in this process, or on Ray where there are several workers, a cluster, or more slices than memory.

    Args:
        request: what to train.
        workers: how many, and where.
        observer: told of steps and epochs.
        interruption: who else may ask to stop; without it, signals alone.

    Raises:
        UsageError: the data set cannot be used for this, or has fewer slices than there are workers.
        TrainingInterruptedError: Ctrl-C or SIGTERM; the state is kept.
        TrainingError: divergence, nothing to resume, or workers that keep dying.
        StoreError: model or state cannot be written.
    """
    with nullcontext(interruption) if interruption else interruptible() as asked:
        if workers.alone and stays_in_memory(request):
            here = replace(request, device=str(choose_device(request.device)))
            return run_training(here, replace(observer, should_stop=lambda: asked.signalled))
        check_workers(request, workers.most)
        from vaeseg.distributed.ray_train import train_on_ray

        return train_on_ray(request, workers, observer, asked.check)
