"""`vaeseg-batch prepare`: volumes to a data set of slices, read by Ray Data tasks and written by the driver.

Finished items reach the driver in the order of the data set, whichever is finished first; those that wait lie in Ray's
object store, which spills to disk. The driver holds a few items and one shard.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from vaeseg.config import ReadingConfig
from vaeseg.distributed.lifecycle import Interruption, interruptible
from vaeseg.distributed.prepare_tasks import prepared_items
from vaeseg.errors import StoreError, TrainingError, UsageError
from vaeseg.io.archive import NIFTI_SUFFIXES, ArchiveScan, scan_archive
from vaeseg.io.dataset import open_data_set
from vaeseg.io.dataset_manifest import CRASHED, MANIFEST_NAME, Manifest, Recipe, RefusedItem
from vaeseg.io.dataset_writer import OWN_NAMES, DataSetWriter, clear, publish
from vaeseg.io.dicom import SubjectKeyer
from vaeseg.io.labels import find_labels, label_names
from vaeseg.io.location import Location, locate
from vaeseg.io.manifest import SeriesManifest
from vaeseg.io.msd import read_msd
from vaeseg.io.row_groups import RowFormat
from vaeseg.io.secret import subject_secret
from vaeseg.io.store import create_store
from vaeseg.noticed import by_warning
from vaeseg.paths import AnyPath
from vaeseg.training.preparation import PreparationItem, archive_items, msd_items


@dataclass(frozen=True, kw_only=True)
class ArchiveSource:
    """DICOM or NIfTI under a directory."""

    path: AnyPath
    label_dir: AnyPath | None
    store_root: AnyPath
    """Holds the key from which pseudonyms are made."""


@dataclass(frozen=True, kw_only=True)
class PreparationRequest:
    """What the user asked for, checked."""

    source: Path | ArchiveSource
    """A directory in MSD layout, or an archive."""
    recipe: Recipe
    out: str
    """Directory or URL."""
    force: bool = False
    """Replace another data set that is there."""
    reading: ReadingConfig = field(default_factory=ReadingConfig)
    """Bounds on a file."""


@dataclass(frozen=True, kw_only=True)
class PreparationReport:
    """What became of a request."""

    location: str
    status: Literal["written", "nothing_to_do"]
    manifest: Manifest
    warnings: dict[str, tuple[str, ...]]
    """Of `records.Warn`: the volumes that it was noticed of."""
    n_split_folds: dict[str, int]
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether nothing was refused, no item and no file."""
        files = (self.manifest.sources or {}).get("files", {})
        return not self.manifest.refused and not files.get("refused", 0)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a preparation is; given to the callback after each item."""

    done: int
    total: int
    n_slices: int
    refused: int


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class _Plan:
    items: Sequence[PreparationItem]
    """To prepare, in the order of the data set."""
    unlabelled: tuple[str, ...]
    refused: tuple[RefusedItem, ...]
    """Before any was read."""
    with_labels: bool
    sources: dict[str, Any]

    @property
    def n_items(self) -> int:
        return len(self.items) + len(self.unlabelled) + len(self.refused)


def prepare(request: PreparationRequest, on_progress: ProgressCallback = lambda progress: None) -> PreparationReport:
    """Prepare a data set, on a Ray of its own unless this process has one.

    Without `force`, a data set that is there already is never changed: where recipe and digest are the same there is
    nothing to do. Until the manifest is written, last of all, there is no data set; what an interrupted preparation
    left is written over.

    Raises:
        UsageError: the source or the place cannot be used, or the place holds something else.
        TrainingError: no item can be read.
        StoreError: the place cannot be written.
        RunInterruptedError: Ctrl-C or SIGTERM.
    """
    started = time.monotonic()
    location = locate(request.out)
    existing = None if request.force else _existing(location, request.recipe)
    _check_place(location)
    with interruptible("no data set was made, the same command starts over") as interruption:
        plan = _plan(request, location)
        if existing is None:
            clear(location)
        manifest, warnings = _run(request, plan, None if existing else location, interruption, on_progress)
    if existing is not None and existing.digest != manifest.digest:
        raise UsageError(
            f"{request.out} holds a data set with the digest {existing.digest[:12]}, this input gives "
            f"{manifest.digest[:12]}: choose another --out, or replace it with --force"
        )
    if existing is None:
        publish(location, manifest)
    splits = open_data_set(location.url).splits
    return PreparationReport(
        location=location.url,
        status="written" if existing is None else "nothing_to_do",
        manifest=manifest,
        warnings=warnings,
        n_split_folds={kind: len(folds) for kind, folds in splits.items()},
        seconds=time.monotonic() - started,
    )


def _existing(location: Location, recipe: Recipe) -> Manifest | None:
    """The data set that is there, made by the same recipe.

    Raises:
        UsageError: it was made by another.
        StoreError: it is damaged.
    """
    if MANIFEST_NAME not in location.sizes():
        return None
    try:
        manifest = open_data_set(location.url).manifest
    except StoreError as error:
        raise StoreError(f"{error}, with --force") from error
    there, asked = _described(manifest.recipe), _described(recipe)
    for name, value in asked.items():
        if there[name] != value:
            raise UsageError(
                f"{location.url} holds a data set with {name} {there[name]}, asked for is {value}: choose another "
                "--out, or replace it with --force"
            )
    return manifest


def _described(recipe: Recipe) -> dict[str, Any]:
    fields = asdict(recipe)
    return {**fields.pop("preprocessing"), **fields}


def _check_place(location: Location) -> None:
    """Refuse a directory with files of somebody else: nobody types a data set's path and means their home."""
    strangers = sorted(set(location.sizes()) - OWN_NAMES)
    if strangers:
        raise UsageError(f"{location.url} holds {strangers[0]!r}, which is of no data set: name a new --out")


def _plan(request: PreparationRequest, location: Location) -> _Plan:
    """Which items there are, and which of them are wanted: where any has a label, those with one."""
    items, refused, sources = _found(request, location)
    with_labels = any(item.label for item in items)
    if request.recipe.organ is not None and not with_labels:
        raise UsageError(f"--organ {request.recipe.organ}: none of {len(items)} volumes has a label")
    wanted = [item for item in items if item.label or not with_labels]
    return _Plan(
        items=wanted,
        unlabelled=tuple(item.name for item in items if with_labels and not item.label),
        refused=refused,
        with_labels=with_labels,
        sources=sources,
    )


def _found(
    request: PreparationRequest, location: Location
) -> tuple[list[PreparationItem], tuple[RefusedItem, ...], dict[str, Any]]:
    """Items to read, items that no worker need look at, and what else was found."""
    source = request.source
    if isinstance(source, Path):
        return msd_items(read_msd(source)), (), {}
    scan = _scan(source, request.reading, location)
    manifests = [verdict.manifest for verdict in scan.verdicts if verdict.manifest is not None]
    labels: dict[str, AnyPath] = {}
    counted = {
        name: value for name, value in asdict(scan.file_count).items() if name != "waiting"
    }  # nothing waits here
    sources: dict[str, Any] = {"files": counted}
    if source.label_dir is not None:
        names = label_names(map(_named, manifests), _refused_images(scan))
        labels, sources["unmatched_labels"] = find_labels(source.label_dir.resolve(), names)
        if not labels and manifests:
            raise UsageError(
                f"no label in {source.label_dir} has the name of one, and one only, of {len(manifests)} series: name "
                "each <series_instance_uid>.nii.gz, or prepare without --label-dir"
            )
    items, refused = archive_items(scan, labels)
    return items, refused, sources


def _refused_images(scan: ArchiveScan) -> list[str]:
    refused = (file.path for verdict in scan.verdicts if not verdict.readable for file in verdict.files)
    return [path for path in refused if path.lower().endswith(NIFTI_SUFFIXES)]


def _named(manifest: SeriesManifest) -> tuple[str, str, str | None]:
    """Key, UID and image of a series."""
    image = manifest.files[0].path if manifest.kind == "nifti" else None
    return manifest.series_key, manifest.ref.series_instance_uid, image


def _scan(source: ArchiveSource, reading: ReadingConfig, location: Location) -> ArchiveScan:
    store = create_store(source.store_root)
    inside = [path for path in (source.label_dir, location.root) if path is not None]
    try:
        return scan_archive(source.path, reading, SubjectKeyer(subject_secret(store.root)), [store.root, *inside])
    except OSError as error:
        raise StoreError(f"cannot list the archive: {error.strerror}") from error


def _run(
    request: PreparationRequest,
    plan: _Plan,
    location: Location | None,
    interruption: Interruption,
    on_progress: ProgressCallback,
) -> tuple[Manifest, dict[str, tuple[str, ...]]]:
    """Prepare every item and write what comes, or only digest it; those that never come have crashed.

    Returns:
        The manifest, and who has which warning.
    """
    recipe = request.recipe
    row_format = RowFormat(image_size=recipe.preprocessing.image_size, bits=recipe.bits, with_labels=plan.with_labels)
    writer = DataSetWriter(location, row_format)
    refused = list(plan.refused)
    left = dict(enumerate(plan.items))
    noticed: list[tuple[str, tuple[str, ...]]] = []
    n_slices = 0
    for number, outcome in prepared_items(plan.items, recipe, request.reading, row_format, interruption.check):
        del left[number]
        if isinstance(outcome, RefusedItem):
            refused.append(outcome)
        else:
            writer.add(outcome)
            noticed.append((outcome.series, outcome.warnings))
            n_slices += len(outcome.slices)
        done = len(plan.items) - len(left)
        on_progress(Progress(done=done, total=len(plan.items), n_slices=n_slices, refused=len(refused)))
    refused += [_crashed(item) for item in left.values()]
    if not n_slices:
        raise TrainingError(_nothing_read(plan, refused))
    shards, index_sha256, subjects = writer.finish()
    manifest = Manifest(
        recipe=recipe,
        with_labels=plan.with_labels,
        shards=shards,
        index_sha256=index_sha256,
        subjects=subjects,
        unlabelled=plan.unlabelled,
        refused=tuple(refused),
        n_items=plan.n_items,
        sources=plan.sources,
    )
    return manifest, by_warning(noticed)


def _crashed(item: PreparationItem) -> RefusedItem:
    return RefusedItem(name=item.name, reason=CRASHED, detail="the process that read it died, and so did a second one")


def _nothing_read(plan: _Plan, refused: Sequence[RefusedItem]) -> str:
    first = f"; the first is {refused[0].reason}: {refused[0].detail}" if refused else ""
    return f"none of {plan.n_items} volumes can be read{first}"
