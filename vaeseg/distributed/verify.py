"""Proof that SQL, Parquet parts and mask files agree, in both directions; and removal of what nothing refers to.

Nothing here knows Ray.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from vaeseg.db.audit import (
    items_at_odds,
    lesions_of_part,
    parts_of_findings,
    recorded_masks,
    rows_of_part,
    running_runs,
)
from vaeseg.db.drivers import close_lost_runs, is_live
from vaeseg.db.events import account, add_event
from vaeseg.db.parts import recorded_parts
from vaeseg.db.session import Database
from vaeseg.distributed.commit import recover_parts
from vaeseg.errors import StoreError, UsageError
from vaeseg.io.parquet import read_columns
from vaeseg.io.parts import published_files, published_path, staged_files, staged_path
from vaeseg.io.store import Store
from vaeseg.paths import AnyPath, below, matches, sha256_of
from vaeseg.records import PartFile

FINDING_COLUMNS = (
    "series_instance_uid",
    "model",
    "outcome",
    "reason",
    "n_slices",
    "tumour_volume_ml",
    "lesion_count",
    "iou",
    "mask_uri",
)
LESION_COLUMNS = ("series_instance_uid", "lesion_index", "volume_ml")


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """Something that SQL and the files do not agree on."""

    kind: str
    """Such as `mask_missing`: what is wrong, from a closed list in `docs/archives.md`."""
    where: str
    """A file relative to the store, or a row."""
    detail: str


def verify(store: Store, database: Database, run_id: str | None = None) -> Iterator[Disagreement]:
    """Every disagreement, of one run or of all.

    Runs that are alive are left out where their work is on its way: staged files and masks without a finding.

    Args:
        store: whose files.
        database: its ledger.
        run_id: None for all runs; files that no run owns are looked for only then.
    """
    known: set[tuple[str, str, str]] = set()
    for part, is_published in recorded_parts(database, run_id):
        known.add((part.run_id, part.dataset, part.name))
        yield from _verify_part(store, database, part, is_published)
    with_file = {(run, name) for run, dataset, name in known if dataset == "findings"}
    for run, name in sorted(parts_of_findings(database, run_id) - with_file):
        yield Disagreement(kind="part_unrecorded", where=f"run {run}", detail=f"findings name {name}, parts do not")
    yield from _verify_unknown_parts(store, database, known, run_id)
    named: set[PurePath] = set()
    for mask in recorded_masks(database, run_id):
        named.add(PurePath(mask.uri).parent)
        yield from _verify_mask(store, mask.uri, mask.sha256)
    for item, state, outcome in items_at_odds(database, run_id):
        detail = f"its state is {state}, its newest finding says {outcome or 'nothing'}"
        yield Disagreement(kind="work_differs", where=f"work item {item}", detail=detail)
    if run_id is None and not _live_runs(database):
        for directory in _unknown_masks(store, named):
            yield Disagreement(kind="mask_unknown", where=str(directory), detail="no finding names it")


def collect_garbage(store: Store, database: Database, dry_run: bool) -> list[str]:
    """Remove what nothing refers to: part files and mask directories that no finding names, of runs that are dead.

    Args:
        store: whose files.
        database: its ledger.
        dry_run: name them only.

    Returns:
        What was removed, relative to the store, in order.

    Raises:
        UsageError: a run is alive, whose masks have no findings yet.
        StoreError: the store cannot be written.
    """
    if live := _live_runs(database):
        raise UsageError(f"run {live[0]} is alive: its masks have no findings yet; wait for its end, then try again")
    known = {(part.run_id, part.dataset, part.name) for part, _ in recorded_parts(database)}
    staged = [
        below(staged_path(store, part), store.root)
        for part in staged_files(store)
        if (part.run_id, part.dataset, part.name) not in known
    ]
    if not dry_run:
        close_lost_runs(database)
        recover_parts(store, database)  # removes these, and moves those that SQL knows
    named = {PurePath(mask.uri).parent for mask in recorded_masks(database, None)}
    paths = unknown_parts(store, database)
    masks = [directory / path.name for directory in _unknown_masks(store, named) for path in _files(store, directory)]
    removed = sorted(map(str, (*staged, *paths, *masks)))
    if not dry_run:
        for path in (*paths, *masks):
            remove_file(store, path)
        with database.write() as connection:
            add_event(connection, database, "garbage_removed", None, {"n_files": len(removed)}, actor=account())
    return removed


def unknown_parts(store: Store, database: Database) -> list[PurePath]:
    """Files among the published parts, relative to the store, that SQL does not know."""
    files = list(published_files(store))  # first: SQL knows of a file before it lies there
    known = {(part.run_id, part.dataset, part.name) for part, _ in recorded_parts(database)}
    return [
        below(published_path(store, part), store.root)
        for part in files
        if (part.run_id, part.dataset, part.name) not in known
    ]


def remove_file(store: Store, path: PurePath) -> None:
    """Remove a file, by its path relative to the store, and the directories above it that are empty then.

    Raises:
        StoreError: the store cannot be written.
    """
    try:
        (store.root / path).unlink(missing_ok=True)
        for parent in path.parents[:-2]:
            (store.root / parent).rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        if not (store.root / path).exists():
            return  # a directory above it holds more
        raise StoreError(f"cannot write the store {store.root}: {error.strerror}") from error


def _verify_part(store: Store, database: Database, part: PartFile, is_published: bool) -> Iterator[Disagreement]:
    path = published_path(store, part)
    where = str(below(path, store.root))
    if not is_published:
        if not is_live(database, part.run_id):
            yield Disagreement(kind="part_unpublished", where=where, detail="recorded, and not moved to its place yet")
        return
    try:
        sha256 = sha256_of(path)
    except OSError as error:
        yield Disagreement(kind="part_missing", where=where, detail=error.strerror or "cannot be read")
        return
    if sha256 != part.sha256:
        yield Disagreement(kind="part_changed", where=where, detail=f"SHA-256 {sha256}, recorded {part.sha256}")
        return
    yield from _verify_rows(database, part, path, where)


def _verify_rows(database: Database, part: PartFile, path: AnyPath, where: str) -> Iterator[Disagreement]:
    if part.dataset == "findings":
        in_sql = Counter(rows_of_part(database, part, FINDING_COLUMNS))
        in_file = Counter(read_columns(path, FINDING_COLUMNS))
    elif part.dataset == "lesions":
        in_sql = Counter(lesions_of_part(database, part))
        in_file = Counter(read_columns(path, LESION_COLUMNS))
    else:
        return
    if in_sql != in_file:
        detail = f"{(in_sql - in_file).total()} rows are in SQL alone, {(in_file - in_sql).total()} in the file alone"
        yield Disagreement(kind="rows_differ", where=where, detail=detail)


def _verify_unknown_parts(
    store: Store, database: Database, known: set[tuple[str, str, str]], run_id: str | None
) -> Iterator[Disagreement]:
    for kind, files in (("part_unknown", published_files(store)), ("part_staged", staged_files(store))):
        for part in files:
            is_asked_for = run_id in (None, part.run_id)
            is_known = (part.run_id, part.dataset, part.name) in known
            if is_asked_for and not is_known and not is_live(database, part.run_id):
                where = f"run {part.run_id}, {part.dataset}/{part.name}"
                yield Disagreement(kind=kind, where=where, detail="SQL does not know this file")


def _verify_mask(store: Store, uri: str, sha256: str) -> Iterator[Disagreement]:
    try:
        found = sha256_of(store.root / uri)
    except OSError as error:
        yield Disagreement(kind="mask_missing", where=uri, detail=error.strerror or "cannot be read")
        return
    if found != sha256:
        yield Disagreement(kind="mask_changed", where=uri, detail=f"SHA-256 {found}, recorded {sha256}")


def _unknown_masks(store: Store, named: set[PurePath]) -> Iterator[PurePath]:
    """Mask directories, relative to the store, that no finding names."""
    for directory in matches(store.masks, "*/*/*"):
        relative = below(directory, store.root)
        if directory.is_dir() and relative not in named:
            yield relative


def _files(store: Store, directory: PurePath) -> list[AnyPath]:
    return matches(store.root / directory, "*")


def _live_runs(database: Database) -> list[str]:
    return [run_id for run_id in running_runs(database) if is_live(database, run_id)]
