"""From a request to a model file: what `vaeseg-batch train` does, without the command line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from vaeseg.config import ArchitectureConfig, PreprocessingConfig, ReadingConfig, TrainingConfig, as_json, digest
from vaeseg.errors import TrainingError
from vaeseg.io.msd import read_msd
from vaeseg.models.checkpoint import Checkpoint, Provenance, save_checkpoint
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import VariationalAutoencoder
from vaeseg.training.evaluate import evaluate
from vaeseg.training.loop import Observer, train
from vaeseg.training.slices import SliceSet, load_slices
from vaeseg.training.split import Split, split_slices


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """One stage to train."""

    stage: Literal["vae", "decoder"]
    msd_dir: Path
    output: Path
    """Model file to write."""
    training: TrainingConfig
    architecture: ArchitectureConfig
    preprocessing: PreprocessingConfig
    parent: Checkpoint | None = None
    """Stage one's model, that stage two starts from."""
    half: bool = False
    """Store the weights in half precision."""
    resume: bool = False
    device: str = "cpu"
    reading: ReadingConfig = field(default_factory=ReadingConfig)

    def __post_init__(self) -> None:
        if self.training.freeze_encoder and self.stage == "decoder" and self.parent is None:
            raise ValueError("a frozen encoder must come from stage one: name a --vae, or set freeze_encoder=false")
        crop = self.training.crop_size
        if crop and (self.architecture.kind == "paper" or crop % self.architecture.downsampling):
            raise ValueError(f"crop_size {crop} needs a spatial latent and a multiple of its downsampling")

    @property
    def state_path(self) -> Path:
        """Where the state for resuming is kept while training."""
        return self.output.with_name(f"{self.output.stem}.training-state")


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What came of a request."""

    path: Path
    digest: str
    metrics: dict[str, float | None]
    """`dev_...` and `test_...` figures of the final weights."""
    n_subjects: int
    n_slices: int
    refused: tuple[tuple[str, str], ...]


def run_training(
    request: TrainingRequest,
    observer: Observer,
    on_item: Callable[[str, int], None] = lambda name, total: None,
) -> TrainedModel:
    """Read the data, split, train, measure on dev and test, write the model.

    Args:
        request: what to train.
        observer: told of steps and epochs.
        on_item: told of each volume read, and of how many there are.

    Raises:
        UsageError: the data set cannot be used.
        TrainingError: no data, divergence, or nothing to resume.
        StoreError: model or state cannot be written.
    """
    items = read_msd(request.msd_dir)
    slices = load_slices(
        items,
        request.preprocessing,
        request.reading,
        with_labels=request.stage == "decoder",
        on_item=lambda name: on_item(name, len(items)),
    )
    split = split_slices(slices, request.training.split, request.training.seed)
    model = build_model(request).to(request.device)
    train(
        model,
        slices,
        split,
        request.training,
        state_path=request.state_path,
        fingerprint=_fingerprint(request, slices, split),
        resume=request.resume,
        threshold=request.preprocessing.threshold,
        observer=observer,
    )
    metrics = _final_metrics(model, slices, split, request.preprocessing.threshold)
    model_digest = save_checkpoint(
        request.output,
        model,
        request.preprocessing,
        Provenance(
            data_digest=slices.digest,
            split_digest=split.digest,
            metrics=metrics,
            training=as_json(request.training),
            parent_digest=request.parent.digest if request.parent else "",
        ),
        half=request.half,
    )
    request.state_path.unlink(missing_ok=True)
    return TrainedModel(
        path=request.output,
        digest=model_digest,
        metrics=metrics,
        n_subjects=len(slices.subjects),
        n_slices=len(slices.images_hu),
        refused=slices.refused,
    )


def build_model(request: TrainingRequest) -> VariationalAutoencoder:
    """The network to train: first weights from the seed, or from stage one; the caller's random state is left alone.

    Raises:
        TrainingError: stage one has another architecture.
    """
    with torch.random.fork_rng():
        torch.manual_seed(request.training.seed)
        if request.stage == "vae":
            return VariationalAutoencoder(request.architecture)
        segmenter = Segmenter(request.architecture)
    if request.parent is not None:
        try:
            segmenter.start_from(request.parent.network())
        except ValueError as error:
            raise TrainingError(f"the stage-one model does not fit: {error}") from error
    return segmenter


def _fingerprint(request: TrainingRequest, slices: SliceSet, split: Split) -> dict[str, str]:
    network = as_json(request.architecture) + as_json(request.preprocessing)
    return {
        "stage": request.stage,
        "settings": digest(request.training),
        "network": hashlib.sha256(network.encode()).hexdigest(),
        "stage-one model": request.parent.digest if request.parent else "none",
        "data": slices.digest,
        "split": split.digest,
    }


def _final_metrics(
    model: VariationalAutoencoder, slices: SliceSet, split: Split, threshold: float
) -> dict[str, float | None]:
    """In float32, as inference runs."""
    metrics: dict[str, float | None] = {}
    for part, indices in (("dev", split.dev), ("test", split.test)):
        figures = evaluate(model, slices, indices, threshold, bf16=False)
        metrics |= {f"{part}_{name}": value for name, value in figures.items()}
    return metrics
