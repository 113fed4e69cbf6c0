"""From a request to a model file: what `vaeseg-batch train` does, without the command line and without Ray."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from vaeseg.canonical import as_json, digest
from vaeseg.config import ArchitectureConfig, TrainingConfig
from vaeseg.errors import TrainingError, UsageError
from vaeseg.io.dataset import DataSet, open_data_set
from vaeseg.io.dataset_writer import SLICE_SPLITS_NAME, SUBJECT_SPLITS_NAME
from vaeseg.io.splits import Split
from vaeseg.limits import memory_available, usable_cores
from vaeseg.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, stored
from vaeseg.models.precision import name_of
from vaeseg.models.provenance import Provenance, source_commit
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import VariationalAutoencoder
from vaeseg.paths import AnyPath
from vaeseg.training.evaluate import evaluate
from vaeseg.training.history import HISTORY_FILE, History
from vaeseg.training.lock import locked
from vaeseg.training.loop import DivergedError, Keeping, TrainingData, train
from vaeseg.training.objective import computed_in
from vaeseg.training.observing import Observer, told_both
from vaeseg.training.parallel import ALONE, Worker
from vaeseg.training.seen import n_seen_before, seen_tokens
from vaeseg.training.sources import ResidentSource, SliceSource, fits

FREE_SHARE = 0.5
"""Of the memory that is free, what a data set may take up before it is streamed."""

_SPLITS_NAMES = {"subject": SUBJECT_SPLITS_NAME, "slice": SLICE_SPLITS_NAME}

OpenSource = Callable[[DataSet, torch.device], SliceSource]


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """One stage to train."""

    stage: Literal["vae", "decoder"]
    data: str
    """Path or URL of a prepared data set."""
    output: Path
    """Model file to write."""
    training: TrainingConfig
    architecture: ArchitectureConfig
    parent: AnyPath | None = None
    """File of stage one's model, that stage two starts from."""
    half: bool = False
    """Store the weights in half precision, and measure them so."""
    resume: bool = False
    """Go on where a training of the same request stopped."""
    device: str = "cpu"
    """Of torch; `auto` is for `distributed.train` to decide, on the machine that trains."""
    state_minutes: float = 5.0
    """Between two states within an epoch."""
    memory: Literal["auto", "resident", "stream"] = "auto"
    """`resident` keeps all slices in memory, `stream` reads them window by window, `auto` decides by size."""

    def __post_init__(self) -> None:
        if self.stage == "vae" and self.training.keep == "best_iou":
            raise ValueError("stage one has no IoU to choose by: set keep=best_loss")
        if self.training.freeze_encoder and self.stage == "decoder" and self.parent is None:
            raise ValueError("a frozen encoder must come from stage one: name a --vae, or set freeze_encoder=false")
        crop = self.training.crop_size
        if crop and (self.architecture.kind == "paper" or crop % self.architecture.downsampling):
            raise ValueError(f"crop_size {crop} needs a spatial latent and a multiple of its downsampling")
        if self.parent is not None and self.parent.resolve() == self.output.resolve():
            raise ValueError(f"{self.output.stem} would replace the model that it starts from: give another --name")

    @property
    def directory(self) -> Path:
        """Where the state, the history and the figures of this training lie."""
        return self.output.with_name(f"{self.output.stem}.training")

    @property
    def state_path(self) -> Path:
        """The state to resume from."""
        return Keeping(directory=self.directory).state_path


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What came of a request."""

    path: Path
    digest: str
    metrics: dict[str, float | None]
    """`dev_...` and `test_...` figures of the weights that are kept; the latter None where the parent has seen them."""
    n_subjects: int
    n_slices: int
    epochs: int
    """Trained, fewer than asked for where it stopped early."""
    best_epoch: int


def run_training(
    request: TrainingRequest,
    observer: Observer | None = None,
    worker: Worker = ALONE,
    open_source: OpenSource | None = None,
) -> TrainedModel:
    """Open the data, train, measure on dev and test, write the model and the history beside it.

    Args:
        request: what to train.
        observer: told of steps and epochs.
        worker: which of how many workers this process is; only worker 0 writes files.
        open_source: streams slices for `request.memory`; without it they are kept in memory.

    Raises:
        UsageError: the data set cannot be used for this, or another process trains a model of this name.
        DivergedError: the loss is not finite any more; with `keep=best_...` the best epoch is written all the same.
        TrainingError: no data, or nothing to resume.
        StoreError: model or state cannot be written, or the data set is damaged.
    """
    with locked(request.directory) if worker.leads else nullcontext():
        return _run(request, observer or Observer(), worker, open_source)


def _run(request: TrainingRequest, observer: Observer, worker: Worker, open_source: OpenSource | None) -> TrainedModel:
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))  # of limits of a container torch knows nothing
    data = open_data_set(request.data)
    split = chosen_split(data, request)
    parent = load_checkpoint(request.parent) if request.parent else None
    device = torch.device(request.device)
    model = build_model(request, parent).to(device)
    source = _source(data, request, device, open_source)
    keeping = Keeping(
        directory=request.directory,
        fingerprint=_fingerprint(request, data, split, parent),
        resume=request.resume,
        seconds=60 * request.state_minutes,
    )
    if worker.leads:
        observer = told_both(observer, on_epoch=History(request.directory / HISTORY_FILE).on_epoch)
    progress = train(
        model,
        TrainingData(source=source, index=data.index, row_groups=data.row_group_of_slice, split=split),
        request.training,
        keeping,
        threshold=data.manifest.preprocessing.threshold,
        worker=worker,
        observer=observer,
    )
    _check_weights(model, request.training)
    if request.half:
        _round_weights(model)
    metrics = _final_metrics(model, source, data, split, request.training, worker)
    if n_seen_before(data, split, parent, split.test):
        metrics |= {name: None for name in metrics if name.startswith("test_")}
    numbers = _computed_in(model, request.training, worker)
    if worker.leads:
        _save(model, request, data, split, parent, metrics, worker, numbers)
    if progress.diverged:
        worker.gathered(None)  # an error of one may end all: not before the model is written
        raise DivergedError(
            f"{progress.diverged}. The model {request.output.stem} is written with the weights of epoch "
            f"{progress.best_epoch}, the best before that"
        )
    if worker.leads:
        for path in (keeping.state_path, keeping.best_path):
            path.unlink(missing_ok=True)
    return TrainedModel(
        path=request.output,
        digest=hashlib.sha256(request.output.read_bytes()).hexdigest() if worker.leads else "",
        metrics=metrics,
        n_subjects=len(data.index.subjects),
        n_slices=data.manifest.n_slices,
        epochs=progress.epoch,
        best_epoch=progress.best_epoch,
    )


def chosen_split(data: DataSet, request: TrainingRequest) -> Split:
    """The split that a training asks for.

    Raises:
        UsageError: the data set has no such split or nothing in its train or val part, other slices than the network,
            or no labels for stage two.
    """
    size = data.manifest.preprocessing.image_size
    if size != request.architecture.image_size:
        raise UsageError(f"the data set has {size} pixel slices, the network takes {request.architecture.image_size}")
    if request.stage == "decoder" and not data.index.has_labels:
        raise UsageError("the data set has no labels: prepare it from labelled volumes for stage two")
    splits = data.splits.get(request.training.split, ())
    if request.training.fold >= len(splits):
        raise UsageError(
            f"the data set has {len(splits)} splits by {request.training.split}, none has the number "
            f"{request.training.fold} (counted from 0); a split by subject needs three subjects"
        )
    split = splits[request.training.fold]
    for part, slices in (("train", split.train), ("val", split.dev)):
        if len(slices) == 0:
            raise UsageError(
                f"the {part} part of split {request.training.fold} in {_SPLITS_NAMES[split.kind]} is empty: "
                "training needs slices to train on (train) and to steer by (val)"
            )
    return split


def check_nothing_is_replaced(request: TrainingRequest) -> None:
    """Make sure that a training from the start loses no model and no state of its name.

    Raises:
        UsageError: one is there.
    """
    name = request.output.stem
    if request.state_path.exists():
        raise UsageError(f"there is a state of an unfinished training of {name}: --resume goes on, --force starts over")
    if request.output.exists():
        raise UsageError(f"another model is called {name}: choose another --name, or replace it with --force")


def check_workers(request: TrainingRequest, n_workers: int) -> None:
    """Make sure that every worker can have a slice.

    Raises:
        UsageError: an epoch has fewer slices than workers, or as `chosen_split`.
    """
    split = chosen_split(open_data_set(request.data), request)
    n_slices = request.training.slices_per_epoch or len(split.train)
    if n_slices < n_workers:
        raise UsageError(f"{n_workers} workers cannot share the {n_slices} slices of an epoch: give fewer --workers")


def build_model(request: TrainingRequest, parent: Checkpoint | None) -> VariationalAutoencoder:
    """The network to train: first weights from the seed, or from stage one; the caller's random state is left alone.

    Raises:
        TrainingError: stage one has another architecture.
    """
    with torch.random.fork_rng():
        torch.manual_seed(request.training.seed)
        if request.stage == "vae":
            return VariationalAutoencoder(request.architecture)
        segmenter = Segmenter(request.architecture)
    if parent is not None:
        try:
            segmenter.start_from(parent.network())
        except ValueError as error:
            raise TrainingError(f"the stage-one model does not fit: {error}") from error
    return segmenter


def _source(data: DataSet, request: TrainingRequest, device: torch.device, stream: OpenSource | None) -> SliceSource:
    if stream is not None and not _stays_in_memory(data, request):
        return stream(data, device)
    on_device = device.type == "cuda" and fits(data, torch.cuda.mem_get_info(device)[0])
    return ResidentSource(data.read(), device, on_device)


def stays_in_memory(request: TrainingRequest) -> bool:
    """Whether the slices of a training are kept in memory as a whole, here and now.

    Raises:
        UsageError: there is no such data set.
    """
    return _stays_in_memory(open_data_set(request.data), request)


def _stays_in_memory(data: DataSet, request: TrainingRequest) -> bool:
    if request.memory != "auto":
        return request.memory == "resident"
    return fits(data, int(FREE_SHARE * memory_available()))


def _fingerprint(request: TrainingRequest, data: DataSet, split: Split, parent: Checkpoint | None) -> dict[str, str]:
    network = as_json(request.architecture) + as_json(data.manifest.preprocessing)
    return {
        "stage": request.stage,
        "settings": digest(request.training),
        "network": hashlib.sha256(network.encode()).hexdigest(),
        "stage-one model": parent.digest if parent else "none",
        "data": data.manifest.digest,
        "split": split.digest,
    }


def _check_weights(model: VariationalAutoencoder, config: TrainingConfig) -> None:
    for name, weight in model.state_dict().items():
        if not torch.isfinite(weight).all():
            raise _divergence(f"weight {name} is not finite", config)


def _round_weights(model: VariationalAutoencoder) -> None:
    """To what the file will hold, so that its figures are those of its weights."""
    rounded = {name: stored(weight, half=True) for name, weight in model.state_dict().items()}
    for name, weight in rounded.items():
        if not torch.isfinite(weight).all():
            raise TrainingError(
                f"weight {name} does not fit into half precision, which ends at {torch.finfo(torch.float16).max:g}; no "
                "model was written: give the same options with --resume and without --half, which trains nothing anew"
            )
    model.load_state_dict(rounded)


def _divergence(what: str, config: TrainingConfig) -> DivergedError:
    return DivergedError(
        f"training diverged: {what}; no model was written. Lower learning_rate (now {config.learning_rate:g})"
    )


def _final_metrics(
    model: VariationalAutoencoder,
    source: SliceSource,
    data: DataSet,
    split: Split,
    config: TrainingConfig,
    worker: Worker,
) -> dict[str, float | None]:
    """In float32, whatever it was trained in."""
    threshold = data.manifest.preprocessing.threshold
    config = replace(config, precision="fp32")
    metrics: dict[str, float | None] = {}
    for part, indices in (("dev", split.dev), ("test", split.test)):
        if not len(indices):
            continue
        figures = evaluate(model, source, data.index, indices, config, threshold, worker)
        if figures["loss"] is None:
            raise _divergence(f"the loss on the {part} part is not finite", config)
        metrics |= {f"{part}_{name}": value for name, value in figures.items()}
    return metrics


def _computed_in(model: VariationalAutoencoder, config: TrainingConfig, worker: Worker) -> str:
    """By all workers; with `auto` it is for the hardware of each to say."""
    return ", ".join(sorted({*worker.gathered(name_of(computed_in(model, config)))}))


def _save(
    model: VariationalAutoencoder,
    request: TrainingRequest,
    data: DataSet,
    split: Split,
    parent: Checkpoint | None,
    metrics: dict[str, float | None],
    worker: Worker,
    numbers: str,
) -> None:
    provenance = Provenance(
        data_digest=data.manifest.digest,
        split_digest=split.digest,
        metrics=metrics,
        training=as_json(request.training),
        parent_digest=parent.digest if parent else "",
        seen_tokens=seen_tokens(data, split, parent),
        commit=source_commit(),
        workers=worker.world,
        computed_in=numbers,
    )
    save_checkpoint(request.output, model, data.manifest.preprocessing, provenance, request.half)
