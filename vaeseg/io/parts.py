"""The Parquet files of a part: written into staging, then moved to their place, and never half there.

A part is what one group of series adds: a file in each data set that has rows, all of the same name. The layout is in
`io.store`; which parts exist is known to SQL alone (`distributed.commit`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vaeseg.errors import StoreError
from vaeseg.io.parquet import SCHEMAS, write_dataset_file
from vaeseg.io.store import Store
from vaeseg.records import PartFile


def stage_part(store: Store, run_id: str, name: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[PartFile]:
    """Write the files of one part into staging and make them durable.

    Args:
        store: where.
        run_id: whose part it is.
        name: of the part, the same in each data set.
        rows: data set to rows; data sets without rows get no file.

    Raises:
        StoreError: the disk is full, or the store cannot be written.
        ValueError: a row does not fit its schema.
    """
    try:
        return [_stage_file(store, run_id, dataset, name, rows[dataset]) for dataset in SCHEMAS if rows.get(dataset)]
    except OSError as error:
        raise _cannot_write(store, error) from error


def publish_file(store: Store, part: PartFile) -> bool:
    """Move a staged file to its place, durably; False where it is in neither place.

    Does nothing to a file that was published before, so that an interrupted publication can be repeated.

    Raises:
        StoreError: the store cannot be written.
    """
    staged, published = staged_path(store, part), published_path(store, part)
    try:
        if not staged.exists():
            return published.exists()
        published.parent.mkdir(parents=True, exist_ok=True)
        staged.replace(published)
        fsync_directories(published.parent, store.root)
    except FileNotFoundError:
        return published.exists()  # another process that recovers was faster
    except OSError as error:
        raise _cannot_write(store, error) from error
    return True


def staged_files(store: Store) -> Iterator[PartFile]:
    """Every file in staging, in a fixed order."""
    for path in sorted(store.staging.glob("*/*/*")):
        run_id, dataset, name = path.parts[-3:]
        yield PartFile(run_id=run_id, dataset=dataset, name=name)


def published_files(store: Store) -> Iterator[PartFile]:
    """Every file that lies where readers look, in a fixed order."""
    for path in sorted(store.parquet.glob("*/run_id=*/*")):
        dataset, run, name = path.parts[-3:]
        yield PartFile(run_id=run.removeprefix("run_id="), dataset=dataset, name=name)


def remove_staged(store: Store, part: PartFile) -> None:
    """Delete a staged file, and its directories once they are empty.

    Raises:
        StoreError: the store cannot be written.
    """
    path = staged_path(store, part)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(store, error) from error
    remove_empty_staging(store, part.run_id)


def remove_empty_staging(store: Store, run_id: str) -> None:
    """Remove a run's staging directories that hold nothing; those in use stay."""
    for directory in (*(store.staging / run_id).glob("*"), store.staging / run_id):
        try:
            directory.rmdir()
        except OSError:
            continue  # not empty, or already gone: both are fine


def staged_path(store: Store, part: PartFile) -> Path:
    """Where a part's file lies before it is published."""
    return store.staging / part.run_id / part.dataset / part.name


def published_path(store: Store, part: PartFile) -> Path:
    """Where a part's file lies for readers."""
    return store.parquet / part.dataset / f"run_id={part.run_id}" / part.name


def fsync_directories(directory: Path, root: Path) -> None:
    """Make the names in a directory, and in those above it up to `root`, survive a power cut."""
    for level in (directory, *directory.parents):
        descriptor = os.open(level, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if level == root:
            return


def _stage_file(store: Store, run_id: str, dataset: str, name: str, rows: Sequence[Mapping[str, Any]]) -> PartFile:
    place = PartFile(run_id=run_id, dataset=dataset, name=name)
    path = staged_path(store, place)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_dataset_file(path, dataset, rows)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    fsync_directories(path.parent, store.root)
    return PartFile(run_id=run_id, dataset=dataset, name=name, n_rows=len(rows), sha256=sha256)


def _cannot_write(store: Store, error: OSError) -> StoreError:
    return StoreError(f"cannot write the store {store.root}: {error.strerror or 'input/output error'}")
