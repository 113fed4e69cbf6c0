"""The manifest of a prepared data set: what it was made from and how, and the digests of all of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import vaeseg
from vaeseg.canonical import from_json
from vaeseg.config import PreprocessingConfig
from vaeseg.io.row_groups import ROW_GROUP_SLICES, RowFormat

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
SLICES_DIRECTORY = "slices"
CRASHED = "crashed"
"""Reason of an item whose worker process died; every other reason is a `records.Reason`."""


class NewerFormatError(ValueError):
    """Written by a newer vaeseg than this one."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Parquet file."""

    name: str
    """Within `slices/`, such as ``part-00000.parquet``."""
    n_rows: int
    n_bytes: int
    sha256: str
    """Over the file's bytes, for whoever copies it."""
    row_groups: tuple[str, ...]
    """SHA-256 over images and labels of each row group, uncompressed; what reading checks."""


@dataclass(frozen=True, kw_only=True)
class SubjectEntry:
    """One subject; its slices follow those of the one before."""

    name: str
    n_slices: int
    n_label_slices: int
    tokens: tuple[str, ...]
    """What it is recognised by (`io.identity`)."""


@dataclass(frozen=True, kw_only=True)
class RefusedItem:
    """An item that is not in the data set, and why."""

    name: str
    """Of an MSD item, or a series UID; nothing that names a patient."""
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that was asked for; with the same input it gives the same data set."""

    preprocessing: PreprocessingConfig
    """Its threshold is no part of a data set, and always the default."""
    bits: Literal[8, 16] = 8
    """Of a pixel's intensity."""
    organ: int | None = None
    """Label value that counts as tumour; None for every value above 0."""
    source: Literal["msd", "archive"] = "msd"
    seed: int = 0
    """Of the splits."""
    n_folds: int = 0
    """0 for one split 80/10/10."""

    def __post_init__(self) -> None:
        if self.bits not in (8, 16) or self.seed < 0 or self.n_folds == 1 or self.n_folds == 2 or self.n_folds < 0:
            raise ValueError(f"impossible data set: {self}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """See the fields; `to_json` adds counts and the digest."""

    recipe: Recipe
    with_labels: bool
    shards: tuple[Shard, ...]
    index_sha256: str
    """Over the columns that are no pixels."""
    subjects: tuple[SubjectEntry, ...]
    unlabelled: tuple[str, ...] = ()
    """Items left out because the others have labels."""
    refused: tuple[RefusedItem, ...] = ()
    n_items: int = 0
    """All that were found: prepared, unlabelled or refused."""
    sources: Mapping[str, Any] | None = None
    """What else was found: files of an archive, labels that fit no series."""

    @property
    def preprocessing(self) -> PreprocessingConfig:
        """From HU to intensity; the threshold is the default one."""
        return self.recipe.preprocessing

    @property
    def bits(self) -> Literal[8, 16]:
        """Of a pixel's intensity."""
        return self.recipe.bits

    @property
    def row_format(self) -> RowFormat:
        """What decides the bytes of a row."""
        return RowFormat(image_size=self.preprocessing.image_size, bits=self.recipe.bits, with_labels=self.with_labels)

    @property
    def n_slices(self) -> int:
        """All of them."""
        return sum(shard.n_rows for shard in self.shards)

    @property
    def n_subjects(self) -> int:
        """All of them."""
        return len(self.subjects)

    @property
    def n_label_slices(self) -> int:
        """Slices that hold a label."""
        return sum(subject.n_label_slices for subject in self.subjects)

    @property
    def counts(self) -> dict[str, int]:
        """Every item by what became of it; `items` is the sum of the others."""
        crashed = sum(item.reason == CRASHED for item in self.refused)
        return {
            "items": self.n_items,
            "prepared": self.n_items - len(self.unlabelled) - len(self.refused),
            "unlabelled": len(self.unlabelled),
            "refused": len(self.refused) - crashed,
            "crashed": crashed,
        }

    @property
    def digest(self) -> str:
        """SHA-256 over pixels, labels, order, subjects and preprocessing; not over compression, shards or splits."""
        covered = {
            "format_version": FORMAT_VERSION,
            "preprocessing": _preprocessing_json(self.preprocessing),
            "bits": self.recipe.bits,
            "organ": self.recipe.organ,
            "with_labels": self.with_labels,
            "row_groups": [digest for shard in self.shards for digest in shard.row_groups],
            "index": self.index_sha256,
            "subjects": [asdict(subject) for subject in self.subjects],
        }
        return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """The inverse of `manifest_from_json`."""
        recipe = asdict(self.recipe) | {"preprocessing": _preprocessing_json(self.preprocessing)}
        fields = {
            "format_version": FORMAT_VERSION,
            "vaeseg_version": vaeseg.__version__,
            "digest": self.digest,
            **recipe,
            "with_labels": self.with_labels,
            "n_slices": self.n_slices,
            "n_subjects": self.n_subjects,
            "n_label_slices": self.n_label_slices if self.with_labels else None,
            "row_group_slices": ROW_GROUP_SLICES,
            "counts": self.counts,
            "unlabelled": list(self.unlabelled),
            "refused": [asdict(item) for item in self.refused],
            "sources": dict(self.sources or {}),
            "index_sha256": self.index_sha256,
            "shards": [asdict(shard) for shard in self.shards],
            "subjects": [asdict(subject) for subject in self.subjects],
        }
        return json.dumps(fields, indent=1) + "\n"


def manifest_from_json(text: str | bytes) -> Manifest:
    """Rebuild a manifest and check it against its own digest.

    Raises:
        NewerFormatError: it has a format that this version does not know.
        ValueError: not a manifest, or changed since it was written.
    """
    fields = json.loads(text)
    version = fields.get("format_version") if isinstance(fields, dict) else None
    if type(version) is not int:
        raise ValueError("it names no format_version")
    if version > FORMAT_VERSION:
        raise NewerFormatError(f"it has format {version}, this version reads up to {FORMAT_VERSION}")
    try:
        manifest = _manifest(fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a field is missing or of another kind ({type(error).__name__}: {error})") from error
    if manifest.digest != fields["digest"]:
        raise ValueError(f"its digest is {str(fields['digest'])[:12]}, its contents have {manifest.digest[:12]}")
    return manifest


def _manifest(fields: dict[str, Any]) -> Manifest:
    recipe = {name: fields[name] for name in ("bits", "organ", "source", "seed", "n_folds")}
    return Manifest(
        recipe=Recipe(preprocessing=from_json(PreprocessingConfig, json.dumps(fields["preprocessing"])), **recipe),
        with_labels=fields["with_labels"],
        shards=tuple(Shard(**shard | {"row_groups": tuple(shard["row_groups"])}) for shard in fields["shards"]),
        index_sha256=fields["index_sha256"],
        subjects=tuple(SubjectEntry(**entry | {"tokens": tuple(entry["tokens"])}) for entry in fields["subjects"]),
        unlabelled=tuple(fields["unlabelled"]),
        refused=tuple(RefusedItem(**item) for item in fields["refused"]),
        n_items=fields["counts"]["items"],
        sources=fields["sources"],
    )


def _preprocessing_json(preprocessing: PreprocessingConfig) -> dict[str, Any]:
    fields = asdict(preprocessing)
    del fields["threshold"]
    return fields
