"""From an image with its label to rows of a prepared data set: read, axial order, model grid, whole steps of intensity.

Free of Ray: `distributed.prepare` runs this on many items at once. K slices of one volume, S side of the model grid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from vaeseg.config import PreprocessingConfig, ReadingConfig
from vaeseg.errors import ReadingError, UsageError
from vaeseg.geometry.intensity import intensity_ranges, quantised
from vaeseg.geometry.orientation import axial_geometry, axial_order
from vaeseg.geometry.resample import label_to_model_grid, to_model_grid
from vaeseg.io.archive import ArchiveScan
from vaeseg.io.dataset_manifest import Recipe, RefusedItem
from vaeseg.io.identity import content_token, subject_token
from vaeseg.io.labels import read_label_on_grid
from vaeseg.io.manifest import SeriesManifest
from vaeseg.io.msd import MsdItem, label_value
from vaeseg.io.nifti import read_image
from vaeseg.io.slices import PreparedVolume, SliceSet
from vaeseg.io.volume import read_volume
from vaeseg.paths import AnyPath, any_path
from vaeseg.records import Reason, Volume


@dataclass(frozen=True, kw_only=True)
class PreparationItem:
    """One volume to prepare; plain values that travel to a worker."""

    name: str
    """What reports call it; nothing that names a patient."""
    subject: str
    """Whose it is."""
    tokens: tuple[str, ...] = ()
    """What the subject is recognised by besides its voxels."""
    image: str
    """Path of a NIfTI file, or the root of the archive that `manifest` belongs to."""
    manifest: str = ""
    """`SeriesManifest` as JSON; empty for a NIfTI file on its own."""
    label: str = ""
    """Path; empty where there is none."""

    def to_json(self) -> str:
        """The inverse of `from_json`; file names that are not UTF-8 survive as escaped surrogates."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PreparationItem:
        """Rebuild an item that `to_json` wrote."""
        fields = json.loads(text)
        return cls(**fields | {"tokens": tuple(fields["tokens"])})


def msd_items(items: Sequence[MsdItem]) -> list[PreparationItem]:
    """Every image of an MSD data set in its own order; each is its own subject."""
    return [
        PreparationItem(
            name=item.name, subject=item.name, image=str(item.image), label=str(item.label) if item.label else ""
        )
        for item in items
    ]


def archive_items(
    scan: ArchiveScan, labels: Mapping[str, AnyPath]
) -> tuple[list[PreparationItem], tuple[RefusedItem, ...]]:
    """Every series of an archive: the readable ones in the order of subjects and series, and those that are refused.

    Args:
        scan: with subject keys.
        labels: series key to label file.
    """
    items = [
        _archive_item(scan.root, verdict.manifest, labels) for verdict in scan.verdicts if verdict.manifest is not None
    ]
    refused = [
        RefusedItem(name=verdict.series_key, reason=str(verdict.reason), detail=verdict.detail or "")
        for verdict in scan.verdicts
        if verdict.ref is not None and not verdict.readable
    ]
    return sorted(items, key=lambda item: (item.subject, item.name)), tuple(refused)


def organ_value(text: str, label_names: Mapping[int, str] | None) -> int:
    """The label value that an organ is asked for by, as a number or by its name in `dataset.json`.

    Args:
        text: what the user typed.
        label_names: value to name; None where there is no such list.

    Raises:
        UsageError: not in the list, the background, or a name where there is no list.
    """
    if label_names is not None:
        matching = [value for value, name in label_names.items() if value > 0 and text in (name, str(value))]
        if not matching:
            known = ", ".join(f"{value} ({name})" for value, name in sorted(label_names.items()) if value > 0)
            raise UsageError(f"--organ {text[:80]}: dataset.json has the labels {known or 'of the background alone'}")
        return matching[0]
    value = label_value(text)
    if not value:
        raise UsageError(f"--organ {text[:80]}: no dataset.json names the labels, give a value, a whole number above 0")
    return value


def prepare_item(
    item: PreparationItem, recipe: Recipe, reading: ReadingConfig, with_labels: bool
) -> PreparedVolume | RefusedItem:
    """Read one volume and make its rows.

    Args:
        item: what to read.
        recipe: model grid, intensity, and which label counts.
        reading: bounds on a file.
        with_labels: keep the label too.

    Returns:
        Its slices in axial order; or why it cannot be read.
    """
    try:
        return _prepared(item, recipe, reading, with_labels)
    except ReadingError as error:
        return RefusedItem(name=item.name, reason=str(error.reason), detail=error.detail)


def _archive_item(root: AnyPath, manifest: SeriesManifest, labels: Mapping[str, AnyPath]) -> PreparationItem:
    key = manifest.ref.subject_key
    return PreparationItem(
        name=manifest.series_key,
        subject=key or f"study-{manifest.ref.study_instance_uid}",
        tokens=(subject_token(key),) if key and manifest.kind == "dicom" else (),
        image=str(root),
        manifest=manifest.to_json(),
        label=str(labels.get(manifest.series_key, "")),
    )


def _prepared(item: PreparationItem, recipe: Recipe, reading: ReadingConfig, with_labels: bool) -> PreparedVolume:
    volume = _read(item, reading)
    order, geometry = axial_order(volume.geometry), axial_geometry(volume.geometry)
    preprocessing = recipe.preprocessing
    axial_hu = order.to_axial(volume.volume_hu)
    _check_size(len(axial_hu), preprocessing, reading)
    grid_hu = to_model_grid(axial_hu, geometry.spacing_mm, preprocessing.image_size)
    packed, warnings = None, volume.warnings
    if with_labels:
        label = read_label_on_grid(any_path(item.label), volume.geometry, reading, recipe.organ)
        on_grid = label_to_model_grid(order.to_axial(label.mask), geometry.spacing_mm, preprocessing.image_size)
        packed = np.packbits(on_grid, axis=-1)
        warnings += label.warnings
    return PreparedVolume(
        subject=item.subject,
        series=item.name,
        tokens=(content_token(axial_hu), *item.tokens),
        slices=SliceSet(
            images=quantised(grid_hu, intensity_ranges(grid_hu, preprocessing), recipe.bits), packed_labels=packed
        ),
        spacing_mm=geometry.spacing_mm,
        warnings=warnings,
    )


def _read(item: PreparationItem, reading: ReadingConfig) -> Volume:
    if item.manifest:
        return read_volume(any_path(item.image), SeriesManifest.from_json(item.manifest), reading)
    return read_image(any_path(item.image), reading)


def _check_size(n_slices: int, preprocessing: PreprocessingConfig, reading: ReadingConfig) -> None:
    """A thousand slices of two by two pixels would grow to gigabytes."""
    n_pixels = n_slices * preprocessing.image_size**2
    if n_pixels > reading.max_voxels:
        detail = f"{n_pixels} pixels on the model grid, allowed are {reading.max_voxels}"
        raise ReadingError(Reason.TOO_LARGE, detail)
