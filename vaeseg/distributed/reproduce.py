"""The paper from raw data to its table 3: prepare, both stages, IoU on train, dev and test, for both kinds of split.

Each step is done once: what is there already and was made from the same is left as it is, what was interrupted goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vaeseg.config import ArchitectureConfig, PreprocessingConfig, TrainingConfig
from vaeseg.distributed.prepare import PreparationRequest, prepare
from vaeseg.distributed.train import Workers, train_model
from vaeseg.durable import write_file
from vaeseg.errors import UsageError
from vaeseg.inference.evaluation import evaluate, load_model, result_json
from vaeseg.inference.evaluation_sources import DataSource
from vaeseg.io.dataset import DataSet, open_data_set
from vaeseg.io.dataset_manifest import Recipe
from vaeseg.io.msd import read_msd
from vaeseg.io.splits import SplitKind
from vaeseg.noticed import sentences
from vaeseg.training.chronicle import chronicled
from vaeseg.training.continuation import keyed, train_once
from vaeseg.training.observing import Observer
from vaeseg.training.run import TrainedModel, TrainingRequest, chosen_split

Part = Literal["train", "dev", "test"]
PARTS: tuple[Part, ...] = ("train", "dev", "test")

PAPER: Mapping[Part, float] = {"train": 0.6295, "dev": 0.6368, "test": 0.615}
"""Its table 3: mean IoU over slices that hold a label or a prediction, on a split by slice."""
FIGURE = "iou_label_or_prediction"
"""The same of ours."""

QUICK_IMAGE_SIZE = 64
QUICK_EPOCHS = 3
"""Of each stage: to see that everything runs, not how good it is."""

TABLE_FILE = "table3.json"
"""Beside a decoder's history: its figures on the three parts."""


@dataclass(frozen=True, kw_only=True)
class ReproductionRequest:
    """What is reproduced, and how closely."""

    msd_dir: Path
    organ: int | None = None
    """Label value that counts; None for every value above 0."""
    store: Path
    vae: TrainingConfig
    decoder: TrainingConfig
    architecture: ArchitectureConfig
    splits: tuple[SplitKind, ...] = ("slice", "subject")
    seed: int = 0
    device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        if self.vae.fold or self.decoder.fold:
            raise ValueError("fold has no effect here: the data are split once by subject and once by slice")
        _asked(self, "", "vae", self.splits[0], None)  # what is impossible is told before anything is prepared
        _asked(self, "", "decoder", self.splits[0], Path("vae"))


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """Both stages on one kind of split."""

    kind: SplitKind
    vae: Path
    decoder: Path
    parts: Mapping[Part, Mapping[str, Any]]
    """What `evaluate --json` prints, of each part at the data set's own grid."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reproduction:
    """All of it."""

    request: ReproductionRequest
    data: DataSet
    results: tuple[SplitResult, ...]

    def as_json(self) -> dict[str, Any]:
        """What `reproduce --json` prints, but for what only the command line knows."""
        manifest = self.data.manifest
        return {
            "data": self.data.location,
            "data_digest": manifest.digest,
            "image_size": manifest.preprocessing.image_size,
            "organ": manifest.recipe.organ,
            "epochs": {"vae": self.request.vae.epochs, "decoder": self.request.decoder.epochs},
            "n_subjects": manifest.n_subjects,
            "n_slices": manifest.n_slices,
            "n_label_slices": manifest.n_label_slices,
            "refused": [{"name": item.name, "reason": item.reason, "detail": item.detail} for item in manifest.refused],
            "figure": FIGURE,
            "paper": {"split": "slice", **PAPER},
            "splits": {
                result.kind: {
                    "vae": str(result.vae),
                    "decoder": str(result.decoder),
                    **{part: result.parts[part][FIGURE] for part in PARTS},
                    "evaluations": dict(result.parts),
                }
                for result in self.results
            },
        }


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Who is told how it goes."""

    say: Callable[[str], None] = lambda text: None
    """What begins or is left out, in a line."""
    training: Callable[[str], Observer] = lambda title: Observer()
    """Gives the observer of a training with that title."""


def reproduce(request: ReproductionRequest, listener: Listener | None = None) -> Reproduction:
    """Do what is left to do.

    Raises:
        UsageError: no such data, or too few subjects or no labels for this.
        TrainingError: a training diverged or was interrupted.
        StoreError: the store cannot be written or is damaged.
    """
    listener = listener or Listener()
    data = _prepared(request, listener)
    return Reproduction(
        request=request,
        data=data,
        results=tuple(_on_split(request, data, kind, listener) for kind in request.splits),
    )


def _prepared(request: ReproductionRequest, listener: Listener) -> DataSet:
    """The data set in `STORE/data/`, under a name that changes with the raw files and the recipe."""
    size = request.architecture.image_size
    recipe = Recipe(
        preprocessing=PreprocessingConfig(image_size=size, intensity="minmax"), organ=request.organ, seed=request.seed
    )
    out = request.store / "data" / f"reproduce-{size}px-{_raw_key(request.msd_dir, recipe)}"
    if (found := _finished_data_set(out)) is not None:
        listener.say(f"data: {out.name} is there already")
        return found
    listener.say(f"data: preparing {out.name}")
    report = prepare(PreparationRequest(source=request.msd_dir, recipe=recipe, out=str(out)))
    for sentence in sentences(report.warnings):
        listener.say(f"data: {sentence}")
    return open_data_set(report.location)


def _raw_key(msd_dir: Path, recipe: Recipe) -> str:
    """Of the names, sizes and times of all files, and of the recipe: reading a hundred gigabytes to skip is no skip."""
    described = [repr(recipe)]
    for item in read_msd(msd_dir):
        for path in (item.image, item.label):
            described.append(_described_file(path))
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:8]


def _described_file(path: Path | None) -> str:
    try:
        return "" if path is None else f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}"
    except OSError:
        return "not there"


def _finished_data_set(out: Path) -> DataSet | None:
    try:
        return open_data_set(str(out))
    except UsageError:
        return None


def _on_split(request: ReproductionRequest, data: DataSet, kind: SplitKind, listener: Listener) -> SplitResult:
    vae = _trained(_stage_request(request, data, "vae", kind, None), data, listener)
    decoder_request = _stage_request(request, data, "decoder", kind, vae)
    decoder = _trained(decoder_request, data, listener)
    parts = _evaluated(decoder, decoder_request, data, kind, request.device, listener)
    return SplitResult(kind=kind, vae=vae, decoder=decoder, parts=parts)


def _stage_request(
    request: ReproductionRequest, data: DataSet, stage: Literal["vae", "decoder"], kind: SplitKind, vae: Path | None
) -> TrainingRequest:
    asked = _asked(request, data.location, stage, kind, vae)
    return keyed(asked, data, asked.output.name)


def _asked(
    request: ReproductionRequest, data: str, stage: Literal["vae", "decoder"], kind: SplitKind, vae: Path | None
) -> TrainingRequest:
    training = request.vae if stage == "vae" else request.decoder
    return TrainingRequest(
        stage=stage,
        data=data,
        output=request.store.absolute() / "models" / f"reproduce-{kind}-{stage}",
        training=replace(training, split=kind, seed=request.seed),
        architecture=request.architecture,
        parent=vae,
        device=request.device,
    )


def _trained(request: TrainingRequest, data: DataSet, listener: Listener) -> Path:
    name = request.output.stem
    chosen_split(data, request)

    def train(resumable: TrainingRequest) -> TrainedModel:
        listener.say(f"{name}: {'going on' if resumable.resume else 'training'}, {resumable.training.epochs} epochs")
        with chronicled(resumable, listener.training(name)) as observer:
            return train_model(resumable, Workers(), observer)

    path, trained_now = train_once(request, data, train)
    if not trained_now:
        listener.say(f"{name}: is there already")
    return path


def _evaluated(
    decoder: Path,
    request: TrainingRequest,
    data: DataSet,
    kind: SplitKind,
    device: Literal["cpu", "cuda"],
    listener: Listener,
) -> Mapping[Part, Mapping[str, Any]]:
    """Figures on the three parts, kept beside the history with the digest of the model that they are of."""
    table, model = request.directory / TABLE_FILE, load_model(decoder, device, "fp32")
    digest = model.checkpoint.digest
    if (kept := _kept_table(table, digest)) is not None:
        return kept
    parts: dict[Part, Mapping[str, Any]] = {}
    for part in PARTS:
        listener.say(f"{decoder.stem}: evaluating on {part}")
        evaluation = evaluate(model, DataSource(data, part, kind), allow_overlap=True)
        parts[part] = result_json(evaluation, request.training.seed)
    content = json.dumps({"digest": digest, "parts": parts}, indent=1, allow_nan=False).encode()
    write_file(table, content, f"{TABLE_FILE} of {decoder.stem}")
    return parts


def _kept_table(path: Path, digest: str) -> Mapping[Part, Mapping[str, Any]] | None:
    try:
        kept = json.loads(path.read_bytes())
        parts: Mapping[Part, Mapping[str, Any]] = kept["parts"]
        return parts if kept["digest"] == digest and all(FIGURE in parts[part] for part in PARTS) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
