"""One training loop for both stages, the same in one process and in each of several.

    order = epoch_order(...)              which slices, from seed and epoch
    for step in steps_of(...)             the share of this worker, augmented, from seed, epoch and place
        losses = stage_losses(...)        stage one: reconstruction + KL; stage two: BCE + Dice + KL
        backward, step                    the learning rate is a function of the place
    dev = evaluate(...)                   with the weights that would be kept
    state.save()                          after every epoch, and every few minutes

B batch, J I space, Z latent, W workers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from vaeseg.config import TrainingConfig
from vaeseg.errors import TrainingError
from vaeseg.io.slices import SliceIndex
from vaeseg.io.splits import Split
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import Posterior, VariationalAutoencoder, latent_shape
from vaeseg.records import IntArray
from vaeseg.training.batches import Batch, Step, augmented, epoch_order, step_generator, step_noise, steps_of
from vaeseg.training.evaluate import evaluate
from vaeseg.training.memory import keep_freed_memory
from vaeseg.training.objective import autocast, device_of, stage_losses, step_loss
from vaeseg.training.observing import EpochReport, Observer
from vaeseg.training.parallel import ALONE, Worker, data_parallel
from vaeseg.training.posteriors import kept
from vaeseg.training.sources import SliceSource
from vaeseg.training.state import Progress, TrainingState, WeightMean, load_best, save_best

CHECK_STEPS = 10
"""Steps between two looks at the losses: each look waits for the device, and for the other workers."""

INTERRUPTED = "training was interrupted; the same command with --resume goes on from here"


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingData:
    """What a loop trains on."""

    source: SliceSource
    index: SliceIndex
    row_groups: IntArray
    """(N,) which slices lie together on disk."""
    split: Split


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """Where a training's state is kept, and how often."""

    directory: Path
    """Exists; `state.safetensors` and `best.safetensors` are written there by worker 0."""
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    """What must be equal for a resume, by name."""
    resume: bool = False
    """Go on from the state instead of starting over."""
    seconds: float = 300.0
    """Between two states within an epoch; there is one after every epoch anyway."""

    @property
    def state_path(self) -> Path:
        """The state to resume from."""
        return self.directory / "state.safetensors"

    @property
    def best_path(self) -> Path:
        """Weights of the best epoch."""
        return self.directory / "best.safetensors"


class DivergedError(TrainingError):
    """The loss is not finite any more."""


class TrainingInterruptedError(TrainingError):
    """Training was asked to stop; its state is kept."""


def train(
    model: VariationalAutoencoder,
    data: TrainingData,
    config: TrainingConfig,
    keeping: Keeping,
    *,
    threshold: float = 0.5,
    worker: Worker = ALONE,
    observer: Observer | None = None,
) -> Progress:
    """Train a `VariationalAutoencoder` (stage one) or a `Segmenter` (stage two) in place, and leave it as it is kept.

    Where the loss is not finite any more and weights of a best epoch are kept, it ends with these as if it had stopped
    early, and with `diverged` in what it returns.

    Killed at any point and resumed, it ends with bit for bit the same weights on a CPU with as many threads and
    workers. On a CPU the process keeps the memory that it frees, from here on.

    Args:
        model: on its device already; the same weights in every worker.
        data: what to train and to measure on.
        config: everything that decides the weights.
        keeping: where the state goes.
        threshold: probability from which a pixel is tumour, for the dev figures.
        worker: which of how many; torch.distributed is set up where there are several.
        observer: told of steps and epochs.

    Raises:
        DivergedError: the loss is not finite, and no weights of a best epoch are kept.
        TrainingError: there is nothing to resume, or another training took the best weights.
        TrainingInterruptedError: the observer asked to stop.
        StoreError: the state cannot be written.
    """
    loop = _Loop(model, data, config, keeping, threshold, worker, observer or Observer())
    loop.prepare()
    try:
        while loop.goes_on():
            loop.run_epoch()
            if loop.goes_on() and loop.observer.should_stop():
                raise TrainingInterruptedError(INTERRUPTED)
    except DivergedError as error:
        if config.keep == "last" or not loop.progress.best_epoch:
            raise
        loop.progress.diverged = str(error)
    loop.take_kept_weights()
    return loop.progress


def learning_rate(config: TrainingConfig, epochs_done: float) -> float:
    """Learning rate at a moment, in epochs from the start.

    `step`: times `step_factor` every `step_epochs` epochs. `cosine`: up in a straight line over `warmup_share` of the
    training, then half a cosine down to zero at the end (Loshchilov and Hutter 2017).
    """
    if config.schedule == "step":
        return config.learning_rate * config.step_factor ** (int(epochs_done) // config.step_epochs)
    done = epochs_done / config.epochs
    if done < config.warmup_share:
        return config.learning_rate * done / config.warmup_share
    return (
        config.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - config.warmup_share) / (1 - config.warmup_share)))
    )


class _Loop:
    """One training, with what changes while it runs."""

    def __init__(
        self,
        model: VariationalAutoencoder,
        data: TrainingData,
        config: TrainingConfig,
        keeping: Keeping,
        threshold: float,
        worker: Worker,
        observer: Observer,
    ) -> None:
        self.model = model
        self.data = data
        self.config = config
        self.keeping = keeping
        self.threshold = threshold
        self.worker = worker
        self.observer = observer
        self.device = device_of(model)
        self.frozen = isinstance(model, Segmenter) and config.freeze_encoder
        self.progress = Progress()

    def prepare(self) -> None:
        if self.device.type == "cpu":
            keep_freed_memory()
        if self.config.deterministic:
            torch.use_deterministic_algorithms(True)
        if self.frozen:
            assert isinstance(self.model, Segmenter)
            self.model.freeze_encoder()
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's overloads
        self.parallel = data_parallel(self.model, self.worker)
        alone = self.worker.world == 1  # several have to call the network as torch wraps it
        self.posteriors = kept(self.model, len(self.data.index), self.config) if self.frozen and alone else None
        self.optimizer = torch.optim.AdamW(
            [weight for weight in self.model.parameters() if weight.requires_grad],
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        self.mean = WeightMean(self.model, self.config.ema_decay) if self.config.ema_decay else None
        self.state = TrainingState(
            path=self.keeping.state_path,
            model=self.model,
            optimizer=self.optimizer,
            mean=self.mean,
            progress=self.progress,
            fingerprint=self.keeping.fingerprint,
        )
        if self.keeping.resume:
            self.state.restore()
            self.observer.on_resume(self.progress.place)
        else:
            self._save()
        self.saved_at = time.monotonic()

    def goes_on(self) -> bool:
        """Whether there is another epoch to train."""
        patience = self.config.patience
        tired = patience and self.progress.epoch - self.progress.best_epoch >= patience
        return self.progress.epoch < self.config.epochs and not (tired and self.progress.best_epoch)

    def run_epoch(self) -> None:
        started, first = time.perf_counter(), self.progress.place
        order = epoch_order(
            self.data.index, self.data.row_groups, self.data.split.train, self.config, self.progress.epoch
        )
        self._train_epoch(order)
        seconds = time.perf_counter() - started
        trained = self.progress.place  # all of the order, or what more workers than before could share
        losses = {name: total / trained for name, total in self.progress.sums.items()}
        dev = self._measure()
        self._finish_epoch(dev)
        self.observer.on_epoch(
            EpochReport(
                epoch=self.progress.epoch,
                epochs=self.config.epochs,
                losses=losses,
                dev=dev,
                learning_rate=float(self.optimizer.param_groups[0]["lr"]),
                slices_per_second=(trained - first) / seconds,
                best_epoch=self.progress.best_epoch,
            )
        )

    def take_kept_weights(self) -> None:
        """Leave in the model what was measured best, or last."""
        if self.config.keep != "last":
            self.model.load_state_dict(load_best(self.keeping.best_path, self.keeping.fingerprint))
        elif self.mean is not None:
            self.model.load_state_dict(self.mean.weights)
        self.model.eval()

    def _train_epoch(self, order: IntArray) -> None:
        self._training_mode()
        self._set_rate(self.progress.place / len(order))
        step_size = self.config.batch_size * self.worker.world
        steps = steps_of(len(order), self.progress.place, step_size, self.worker)
        parts = [order[step.first : step.end][step.share(self.worker)] for step in steps]
        sums: dict[str, Tensor] = {}
        batches = self.data.source.steps(parts)
        for number, (step, part, batch) in enumerate(zip(steps, parts, batches, strict=True), 1):
            for name, losses in self._train_step(step, part, batch, len(order)).items():
                sums[name] = sums.get(name, 0) + losses.detach().double().sum()
            if number % CHECK_STEPS == 0 or number == len(steps):
                self._check(sums, step.end, len(order))
                sums = {}

    def _train_step(self, step: Step, part: IntArray, batch: Batch, n_slices: int) -> dict[str, Tensor]:
        self._set_rate((step.first + step.end) / 2 / n_slices)
        generator = step_generator(self.config, self.progress.epoch, step, self.device)
        batch = augmented(batch, self.config, step, self.worker, generator)
        noise = self._noise(step, batch, generator)
        with autocast(self.model, self.config):
            logits, posterior = self._predicted(part, batch.images, noise)
        losses = stage_losses(self.model, logits, posterior, batch, self.config)
        self.optimizer.zero_grad(set_to_none=True)
        step_loss(losses["loss"], len(step), self.worker.world, self.config).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.mean is not None:
            self.mean.follow(self.progress.steps)
        self.progress.steps += 1
        return losses

    def _set_rate(self, share_of_epoch: float) -> None:
        self.optimizer.param_groups[0]["lr"] = learning_rate(self.config, self.progress.epoch + share_of_epoch)

    def _predicted(self, part: IntArray, images: Tensor, noise: Tensor | None) -> tuple[Tensor, Posterior]:
        if self.posteriors is None:
            predicted: tuple[Tensor, Posterior] = self.parallel(images, noise)
            return predicted
        posterior = self.posteriors.of(part, images)
        return self.model.decode(posterior, noise), posterior

    def _noise(self, step: Step, batch: Batch, generator: torch.Generator) -> Tensor | None:
        if self.config.latent == "mean":
            return None
        shape = latent_shape(self.model.architecture, len(step), batch.images.shape[-1])
        return step_noise(shape, step, self.worker, generator)

    def _check(self, sums: Mapping[str, Tensor], place: int, n_slices: int) -> None:
        """Take in the losses of the steps since the last look; save, tell, or stop."""
        names = list(sums)
        totals = self.worker.total(torch.stack([sums[name] for name in names])).tolist()
        for name, total in zip(names, totals, strict=True):
            self.progress.sums[name] = self.progress.sums.get(name, 0.0) + total
        self.progress.place = place
        if not math.isfinite(self.progress.sums["loss"]):
            raise DivergedError(
                f"the loss became {self.progress.sums['loss']} in epoch {self.progress.epoch + 1}, after {place} of "
                f"{n_slices} slices: train again with a lower learning_rate (now {self.config.learning_rate:g})"
            )
        self.observer.on_step(place, n_slices, {name: total / place for name, total in self.progress.sums.items()})
        stop = self.observer.should_stop()
        if place < n_slices and (stop or time.monotonic() - self.saved_at > self.keeping.seconds):
            self._save()
        if stop and place < n_slices:
            raise TrainingInterruptedError(INTERRUPTED)

    def _measure(self) -> dict[str, float | None]:
        with _weights_of(self.model, self.mean):
            return evaluate(
                self.model,
                self.data.source,
                self.data.index,
                self.data.split.dev,
                self.config,
                self.threshold,
                self.worker,
            )

    def _finish_epoch(self, dev: Mapping[str, float | None]) -> None:
        progress = self.progress
        progress.epoch, progress.place, progress.sums = progress.epoch + 1, 0, {}
        figures = score(dev, self.config)
        if figures is not None and (progress.best is None or figures > progress.best):
            progress.best, progress.best_epoch = figures, progress.epoch
            if self.config.keep != "last" and self.worker.leads:
                kept = self.mean.weights if self.mean is not None else self.model.state_dict()
                save_best(self.keeping.best_path, kept, self.keeping.fingerprint)
        if figures is not None:  # else the last good state stays
            self._save()
        if progress.best is None and self.config.keep != "last" and progress.epoch == self.config.epochs:
            raise TrainingError(
                f"no epoch gave a dev figure to choose by; train with keep=last (now {self.config.keep})"
            )

    def _save(self) -> None:
        if self.worker.leads:
            self.state.save()
        self.saved_at = time.monotonic()

    def _training_mode(self) -> None:
        self.parallel.train()
        if self.frozen:
            self.model.encoder.eval()


def score(dev: Mapping[str, float | None], config: TrainingConfig) -> list[float] | None:
    """What epochs are compared by, higher is better: IoU, if asked for, then the loss; None where that is no number."""
    loss = dev["loss"]
    if loss is None:
        return None
    iou = dev.get("iou_label_or_prediction")
    return [0.0 if iou is None else iou, -loss] if config.keep == "best_iou" else [-loss]


@contextmanager
def _weights_of(model: nn.Module, mean: WeightMean | None) -> Iterator[None]:
    """The running mean's weights in the model, for as long as it is measured."""
    if mean is None:
        yield
        return
    own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(mean.weights)
    try:
        yield
    finally:
        model.load_state_dict(own)
