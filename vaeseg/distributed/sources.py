"""What a run reads: its archive, without what lies inside it and is none of it, and its labels."""

from __future__ import annotations

from vaeseg.config import RunConfig
from vaeseg.db.health import holds_subjects
from vaeseg.db.runs import RunTask
from vaeseg.db.session import Database
from vaeseg.distributed.indexing import IndexJob
from vaeseg.errors import StoreError
from vaeseg.io.listing import is_there
from vaeseg.io.secret import subject_secret
from vaeseg.io.store import Store
from vaeseg.paths import AnyPath, any_path


def index_job(database: Database, store: Store, task: RunTask, config: RunConfig) -> IndexJob:
    """What a run indexes.

    Raises:
        StoreError: the key of the pseudonyms cannot be had, or is gone while subjects are recorded under it.
    """
    return IndexJob(
        archive_id=task.archive_id,
        root=any_path(task.root),
        reading=config.segmentation.reading,
        exclude=not_entered(store.root, config),
        secret=subject_secret(store.root, is_used=holds_subjects(database)),
        stable_seconds=config.stable_seconds,
    )


def not_entered(store_root: AnyPath, config: RunConfig) -> tuple[AnyPath, ...]:
    """Directories that are no part of an archive: a store or labels that lie inside it."""
    paths: list[AnyPath] = [store_root]
    if config.label_dir is not None:
        paths.append(any_path(config.label_dir))
    return tuple(path.resolve() for path in paths)


def check_labels(config: RunConfig) -> None:
    """Before hours of index, and before findings without the IoU that was asked for.

    Raises:
        StoreError: the labels are away.
    """
    if config.label_dir is not None and not is_there(any_path(config.label_dir)):
        raise StoreError("the label directory cannot be listed, or is empty: is its file system mounted?")
