"""Proof that SQL, Parquet parts and mask files agree, in both directions; and removal of what nothing refers to.

Nothing here knows Ray.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath

from vaeseg.db.archives import archive_ids
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
from vaeseg.distributed.lifecycle import archives_held
from vaeseg.errors import StoreError, UsageError
from vaeseg.io.masks import MaskFiles, files_of_mask, is_empty, listed_masks
from vaeseg.io.parquet import read_columns
from vaeseg.io.parts import is_named_by_us, published_files, published_path, staged_files, staged_path
from vaeseg.io.store import Store
from vaeseg.paths import AnyPath, below, printable, sha256_of
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

    Runs that are alive are left out where their work is on its way: staged files and masks without a finding. They
    write no strays.

    Args:
        store: whose files.
        database: its ledger.
        run_id: None for all runs; files that no run owns are looked for only then.
    """
    (published, strays), staged = published_files(store), list(staged_files(store))
    masks = listed_masks(store) if run_id is None else None
    live = _live_runs(database)  # after the files, before SQL: whose files they are lives then, or SQL knows of them
    in_findings = parts_of_findings(database, run_id)
    recorded = recorded_parts(database, run_id)
    publishing = {*live, *_live_runs(database)}  # one that has begun since may have recorded a part
    for part, is_published in recorded:
        yield from _verify_part(store, database, part, is_published, part.run_id in publishing)
    with_file = {(part.run_id, part.name) for part, _ in recorded if part.dataset == "findings"}
    for run, name in sorted(in_findings - with_file):
        yield Disagreement(kind="part_unrecorded", where=f"run {run}", detail=f"findings name {name}, parts do not")
    unknown, foreign = _by_name(_unrecorded(published, recorded))
    for kind, parts in (("part_unknown", unknown), ("part_staged", _unrecorded(staged, recorded))):
        for part in parts:
            if run_id in (None, part.run_id) and part.run_id not in live:
                where = f"run {part.run_id}, {part.dataset}/{part.name}"
                yield Disagreement(kind=kind, where=where, detail="SQL does not know this file")
    named: set[PurePath] = set()
    for mask in recorded_masks(database, run_id):
        named.add(PurePath(mask.uri).parent)
        yield from _verify_mask(store, mask.uri, mask.sha256)
    for item, state, outcome in items_at_odds(database, run_id):
        detail = f"its state is {state}, its newest finding says {outcome or 'nothing'}"
        yield Disagreement(kind="work_differs", where=f"work item {item}", detail=detail)
    if masks is None:
        return
    if not live:
        yield from _verify_mask_directories(store, masks, named)
    for path in (*strays, *(_published(store, part) for part in foreign), *masks.strays):
        yield Disagreement(kind="stray", where=printable(str(path)), detail="nothing that vaeseg writes lies there")


def collect_garbage(store: Store, database: Database, dry_run: bool) -> list[str]:
    """Remove what nothing refers to: part files and masks that no finding names, of runs that are dead.

    Only files that lie and are named as vaeseg does it, and empty directories of masks: what somebody else may have put
    there stays.
    No run works on an archive meanwhile: it may write its masks where a dead one left some.

    Args:
        store: whose files.
        database: its ledger.
        dry_run: name them only.

    Returns:
        What was removed, relative to the store, in order.

    Raises:
        UsageError: a run is alive, whose masks have no findings yet.
        ArchiveBusyError: a run began just now.
        RunInterruptedError: Ctrl-C, SIGTERM or `cancel`; the same command goes on.
        StoreError: the store or the database cannot be written.
    """
    if dry_run:
        return _names(*_garbage(store, database))
    _check_idle(database)
    close_lost_runs(database)
    with archives_held(database, "gc", archive_ids(database)) as (run_id, reached):
        staged, others, empty = _garbage(store, database, run_id)
        recover_parts(store, database)  # removes those that are staged, and moves others that SQL knows
        removed = [*staged]
        try:
            for path in others:
                reached()
                remove_file(store, path)
                removed.append(path)
            removed += [directory for directory in empty if _is_removed(store, directory)]
        finally:
            with database.write() as connection:
                add_event(connection, database, "garbage_removed", run_id, {"n_files": len(removed)}, actor=account())
    return _names(removed)


def unknown_parts(store: Store, database: Database) -> list[PurePath]:
    """Files among the published parts, relative to the store, that SQL does not know."""
    files, _ = published_files(store)  # first: SQL knows of a file before it lies there
    return [_published(store, part) for part in _unrecorded(files, recorded_parts(database))]


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


def _is_removed(store: Store, directory: PurePath) -> bool:
    """Remove an empty directory, and those above it that are empty then; False where something lies in it by now."""
    removed = False
    with suppress(OSError):
        for each in (directory, *directory.parents[:-2]):
            (store.root / each).rmdir()
            removed = True
    return removed


def _verify_part(
    store: Store, database: Database, part: PartFile, is_published: bool, is_alive: bool
) -> Iterator[Disagreement]:
    path = published_path(store, part)
    where = str(below(path, store.root))
    if not is_published:
        if not is_alive:
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


def _verify_mask(store: Store, uri: str, sha256: str) -> Iterator[Disagreement]:
    try:
        found = sha256_of(store.root / uri)
    except OSError as error:
        yield Disagreement(kind="mask_missing", where=uri, detail=error.strerror or "cannot be read")
        return
    if found != sha256:
        yield Disagreement(kind="mask_changed", where=uri, detail=f"SHA-256 {found}, recorded {sha256}")


def _verify_mask_directories(store: Store, masks: MaskFiles, named: Set[PurePath]) -> Iterator[Disagreement]:
    """Where no run is alive; one may have been when they were listed."""
    for directory in masks.directories:
        if directory not in named:
            yield Disagreement(kind="mask_unknown", where=printable(str(directory)), detail="no finding names it")
    for path in masks.half_written:
        if path.parent in named and (store.root / path).exists():
            yield Disagreement(kind="mask_unknown", where=str(path), detail="it was never written to its end")


def _garbage(store: Store, database: Database, own_run: str | None = None) -> tuple[list[PurePath], ...]:
    """What nothing refers to, relative to the store: files in staging, others, and empty directories of masks.

    Raises:
        UsageError: another run than one's own is alive.
    """
    (published, _), staged, masks = published_files(store), list(staged_files(store)), listed_masks(store)
    _check_idle(database, own_run)  # after the files, before SQL, as in `verify`
    recorded = recorded_parts(database)
    named = {PurePath(mask.uri).parent for mask in recorded_masks(database, None)}
    parts, _ = _by_name(_unrecorded(published, recorded))
    unknown = [directory for directory in masks.directories if directory not in named]
    return (
        [below(staged_path(store, part), store.root) for part in _unrecorded(staged, recorded)],
        [
            *(_published(store, part) for part in parts),
            *(path for directory in unknown for path in files_of_mask(store, directory)),
            *(path for path in masks.half_written if path.parent in named),
        ],
        [directory for directory in unknown if is_empty(store, directory)],
    )


def _check_idle(database: Database, own_run: str | None = None) -> None:
    """Refuse to go on beside a run that is alive."""
    for run_id in _live_runs(database):
        if run_id != own_run:
            raise UsageError(f"run {run_id} is alive: its masks have no findings yet; wait for its end, then try again")


def _names(*paths: Sequence[PurePath]) -> list[str]:
    return sorted(str(path) for some in paths for path in some)


def _unrecorded(parts: Sequence[PartFile], recorded: Sequence[tuple[PartFile, bool]]) -> list[PartFile]:
    known = {part.place for part, _ in recorded}
    return [part for part in parts if part.place not in known]


def _by_name(parts: Sequence[PartFile]) -> tuple[list[PartFile], list[PartFile]]:
    """Those that are named as vaeseg names them, and others."""
    return [part for part in parts if is_named_by_us(part)], [part for part in parts if not is_named_by_us(part)]


def _published(store: Store, part: PartFile) -> PurePath:
    return below(published_path(store, part), store.root)


def _live_runs(database: Database) -> list[str]:
    return [run_id for run_id in running_runs(database) if is_live(database, run_id)]
