"""The Parquet files of a part: written into staging, then moved to their place, and never half there.

A part is what one group of series adds: a file in each data set that has rows, all of the same name. The layout is in
`io.store`; which parts exist is known to SQL alone (`distributed.commit`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from vaeseg.durable import fsync_directories
from vaeseg.errors import StoreError
from vaeseg.io.parquet import SCHEMAS, copy_without, read_columns, write_dataset_file
from vaeseg.io.store import Store
from vaeseg.paths import AnyPath, below, entries, matches, move, sha256_of
from vaeseg.records import PartFile
from vaeseg.remote import RemotePath

_NAME = re.compile(r"part-[0-9]{5,}\.parquet")


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


def read_recorded(store: Store, part: PartFile, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Some columns of a published file, a tuple a row; no row where it is gone.

    Args:
        store: where.
        part: as recorded, with its digest.
        columns: of its data set.

    Raises:
        StoreError: the file is not what was recorded.
    """
    path = published_path(store, part)
    try:
        if not path.exists():
            return []
        if sha256_of(path) != part.sha256:
            where = below(path, store.root)
            raise StoreError(f"{where} is not the file that was recorded: restore it or delete it, then try again")
        return read_columns(path, columns)
    except OSError as error:
        raise StoreError(f"cannot read the store {store.root}: {error.strerror or error}") from error


def stage_without(store: Store, part: PartFile, numbers: Set[int]) -> PartFile:
    """Write a published file again into staging, without some of its rows, and make it durable.

    Args:
        store: where.
        part: as recorded.
        numbers: of those rows, from 0 in the order of `read_recorded`.

    Returns:
        The file as it shall be; where no row is left its `n_rows` is 0, and nothing is staged.

    Raises:
        StoreError: the store cannot be written.
    """
    target = staged_path(store, part)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        kept = copy_without(published_path(store, part), target, part.dataset, numbers)
        if not kept:
            remove_staged(store, part)
            return replace(part, n_rows=0, sha256="")
        return replace(part, n_rows=kept, sha256=_made_durable(store, target))
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
        move(staged, published)
        fsync_directories(published.parent, store.root)
    except FileNotFoundError:
        return published.exists()  # another process that recovers was faster
    except OSError as error:
        raise _cannot_write(store, error) from error
    return True


def staged_files(store: Store) -> Iterator[PartFile]:
    """Every file in staging, in a fixed order."""
    for path in matches(store.staging, "*/*/*"):
        run_id, dataset, name = path.parts[-3:]
        yield PartFile(run_id=run_id, dataset=dataset, name=name)


def published_files(store: Store) -> tuple[list[PartFile], list[PurePath]]:
    """Every file in `parquet/`, in a fixed order.

    Returns:
        Files in the directory of a run, whatever their name, and what lies where no file of a run does, relative to
        the store. A directory in that of a run is one entry.
    """
    parts, others = list[PartFile](), list[PurePath]()
    for path, is_directory in entries(store.parquet, 3):
        if not is_directory and (part := _part_at(path)):
            parts.append(part)
        elif not is_directory or len(path.parts) == 3:
            others.append(below(store.parquet / path, store.root))
    return parts, others


def is_named_by_us(part: PartFile) -> bool:
    """Whether a data set and a name are such as `stage_part` gives them."""
    return part.dataset in SCHEMAS and _NAME.fullmatch(part.name) is not None


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
    for directory in (*matches(store.staging / run_id, "*"), store.staging / run_id):
        try:
            directory.rmdir()
        except OSError:
            continue  # not empty, or already gone: both are fine


def staged_path(store: Store, part: PartFile) -> AnyPath:
    """Where a part's file lies before it is published."""
    return store.staging / part.run_id / part.dataset / part.name


def published_path(store: Store, part: PartFile) -> AnyPath:
    """Where a part's file lies for readers."""
    return store.parquet / part.dataset / f"run_id={part.run_id}" / part.name


def _part_at(path: PurePath) -> PartFile | None:
    """What a file in `parquet/` is by its place."""
    match path.parts:
        case (dataset, run, name) if run.startswith("run_id="):
            return PartFile(run_id=run.removeprefix("run_id="), dataset=dataset, name=name)
    return None


def _stage_file(store: Store, run_id: str, dataset: str, name: str, rows: Sequence[Mapping[str, Any]]) -> PartFile:
    place = PartFile(run_id=run_id, dataset=dataset, name=name)
    path = staged_path(store, place)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_dataset_file(path, dataset, rows)
    sha256 = _made_durable(store, path)
    return PartFile(run_id=run_id, dataset=dataset, name=name, n_rows=len(rows), sha256=sha256)


def _made_durable(store: Store, path: AnyPath) -> str:
    """Flush a file and its directories to disk; its SHA-256."""
    if not isinstance(path, RemotePath):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    fsync_directories(path.parent, store.root)
    return sha256_of(path)


def _cannot_write(store: Store, error: OSError) -> StoreError:
    why = error.strerror or "input/output error"
    return StoreError(f"cannot write the store {store.root}: {why}; free space and submit again")
