"""The store's files: where each lies.

<store>/results.db                                          SQLite, unless the database is elsewhere
<store>/staging/<run id>/<dataset>/part-*.parquet           written, perhaps not yet known to SQL
<store>/parquet/<dataset>/run_id=<run id>/part-*.parquet    published
<store>/masks/<study uid>/<series uid>/<model>/mask.nii.gz
<store>/models/
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vaeseg.errors import StoreError, UsageError
from vaeseg.paths import AnyPath
from vaeseg.remote import RemotePath

DATABASE_NAME = "results.db"


@dataclass(frozen=True)
class Store:
    """A directory, here or in an object store, that holds results; see the module's docstring for its layout."""

    root: AnyPath

    @property
    def database_path(self) -> Path:
        """The SQLite file that is used unless another database is named.

        Raises:
            UsageError: the store is in an object store.
        """
        if isinstance(self.root, RemotePath):
            raise UsageError(f"SQLite cannot be in {self.root}: name a database with --db or VAESEG_DB")
        return self.root / DATABASE_NAME

    @property
    def staging(self) -> AnyPath:
        """Part files on their way in."""
        return self.root / "staging"

    @property
    def parquet(self) -> AnyPath:
        """Published part files."""
        return self.root / "parquet"

    @property
    def masks(self) -> AnyPath:
        """Mask files; a finding's `mask_uri` is relative to the root."""
        return self.root / "masks"

    @property
    def models(self) -> AnyPath:
        """Checkpoints by name."""
        return self.root / "models"


def create_store(root: AnyPath) -> Store:
    """Make the store's directories where they are missing.

    Raises:
        StoreError: one cannot be made or written.
    """
    store = Store(root.absolute())
    try:
        for directory in (store.root, store.staging, store.parquet, store.masks, store.models):
            directory.mkdir(parents=True, exist_ok=True)
            if isinstance(directory, Path) and not os.access(directory, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise StoreError(f"cannot write the store {root}: {error.strerror}; choose another with --store") from error
    return store


def existing_store(root: AnyPath) -> Store:
    """A store that has been written to before; makes nothing.

    Raises:
        UsageError: there is none at that path.
    """
    store = Store(root.absolute())
    if not store.database_path.is_file():
        raise UsageError(f"no store at {root}: name one with --store, or make one with 'vaeseg-batch submit'")
    return store
