"""Tiny prepared data sets, written without reading any image."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from vaeseg.config import PreprocessingConfig
from vaeseg.io.dataset_manifest import Manifest, Recipe
from vaeseg.io.dataset_writer import DataSetWriter, publish
from vaeseg.io.location import locate
from vaeseg.io.row_groups import RowFormat
from vaeseg.io.slices import PreparedVolume, SliceSet

SIZE = 10
"""No multiple of 8, so that a packed row has bits to spare."""


def volume(name: str, n_slices: int = 3, bits: int = 8, with_labels: bool = True, size: int = SIZE) -> PreparedVolume:
    """Noise with a label in the top left corner of every slice but the first, one pixel wider a slice."""
    rng = np.random.default_rng(sum(name.encode()))
    labels = np.zeros((n_slices, size, size), dtype=bool)
    for k in range(n_slices):
        labels[k, 0, : min(k, size)] = True
    return PreparedVolume(
        subject=name,
        series=f"{name}-series",
        tokens=(f"token-{name}",),
        slices=SliceSet(
            images=rng.integers(0, 2**bits, labels.shape).astype(np.uint8 if bits == 8 else np.uint16),
            packed_labels=np.packbits(labels, axis=-1) if with_labels else None,
        ),
        spacing_mm=(2.5, 0.75, 0.5),
    )


def write_data_set(
    location: Path | str,
    volumes: Iterable[PreparedVolume],
    bits: int = 8,
    with_labels: bool = True,
    preprocessing: PreprocessingConfig | None = None,
    seed: int = 0,
    n_folds: int = 0,
) -> Manifest:
    """Write volumes as `vaeseg-batch prepare` does; slices of `SIZE` unless the preprocessing says otherwise."""
    preprocessing = preprocessing or PreprocessingConfig(image_size=SIZE)
    place = locate(str(location))
    writer = DataSetWriter(place, RowFormat(image_size=preprocessing.image_size, bits=bits, with_labels=with_labels))
    for each in volumes:
        writer.add(each)
    shards, index_sha256, subjects = writer.finish()
    manifest = Manifest(
        recipe=Recipe(preprocessing=preprocessing, bits=8 if bits == 8 else 16, seed=seed, n_folds=n_folds),
        with_labels=with_labels,
        shards=shards,
        index_sha256=index_sha256,
        subjects=subjects,
        n_items=len(subjects),
    )
    publish(place, manifest)
    return manifest
