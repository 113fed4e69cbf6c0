"""Whether a store can take what a night brings, and whether archives can be read: checks for `vaeseg-batch doctor`."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from vaeseg.checks import ArchiveRoot, Check, failed, passed, warned
from vaeseg.durable import write_atomically
from vaeseg.errors import StoreError
from vaeseg.io.secret import KEY_NAME, KEY_VARIABLE, existing_subject_secret, lost_key
from vaeseg.io.store import Store
from vaeseg.paths import AnyPath, any_path
from vaeseg.remote import RemotePath

GIB = 2**30
ENOUGH_FREE_BYTES = 20 * GIB
"""Below this it is worth a warning, while there is time to do something."""
LEAST_FREE_BYTES = GIB
"""Below this a night is not begun: masks, part files and the journal of SQLite grow at once."""
PROBE = ".doctor-"
"""Begins the names of files that are written for a check, and removed."""


def store_checks(root: AnyPath) -> Iterator[Check]:
    """Whether files can be written, flushed, renamed and removed in the store's directories, and room on its disk."""
    if isinstance(root, RemotePath):
        yield _object_store_check(root)
        return
    if not root.is_dir():
        yield _no_store(root)
        return
    store = Store(root.absolute())
    directories = [path for path in (root, store.staging, store.parquet, store.masks, store.models) if path.is_dir()]
    refused = [f"{path}: {reason}" for path in directories if (reason := _why_not_writable(path))]
    if refused:
        advice = "give the account of vaeseg the right to write there, or name another store with --store"
        yield failed("store", f"cannot write {'; '.join(refused)}", advice)
    elif store.staging.is_dir() and store.parquet.is_dir() and not _are_together(store.staging, store.parquet):
        yield failed(
            "store",
            f"{store.staging} and {store.parquet} are on different file systems",
            "put both on one: parts are renamed from the first into the second",
        )
    else:
        yield passed("store", f"{root} takes files")
    yield disk_check(shutil.disk_usage(root).free)


def _object_store_check(root: RemotePath) -> Check:
    try:
        reason = _why_not_writable(root)
    except StoreError as error:
        return failed("store", str(error), "is the object store up, and do AWS_ENDPOINT_URL and the keys lead to it?")
    if reason:
        return failed(
            "store", f"cannot write {root}: {reason}", "may the keys in the environment put and delete objects?"
        )
    return passed("store", f"{root} takes objects")


def _no_store(root: Path) -> Check:
    parent = next((parent for parent in root.absolute().parents if parent.is_dir()), None)
    if parent is not None and os.access(parent, os.W_OK | os.X_OK):
        return warned("store", f"there is none at {root}", "'archive add' or 'submit' makes it; or is --store wrong?")
    return failed("store", f"there is none at {root}, and it cannot be made", "make it, or name another with --store")


def _why_not_writable(directory: AnyPath) -> str | None:
    """What a part file goes through: written, flushed, renamed, read, removed."""
    probe = directory / f"{PROBE}{secrets.token_hex(8)}"
    content = secrets.token_bytes(64)
    try:
        write_atomically(probe, content)
        read = probe.read_bytes()
        probe.unlink()
    except OSError as error:
        return error.strerror or type(error).__name__
    return None if read == content else "what is read back differs from what was written"


def _are_together(one: AnyPath, other: AnyPath) -> bool:
    return Path(str(one)).stat().st_dev == Path(str(other)).stat().st_dev


def disk_check(free_bytes: int) -> Check:
    """Whether there is room for a night on the store's disk."""
    found = f"{free_bytes / GIB:.1f} GiB free on the store's disk"
    if free_bytes < LEAST_FREE_BYTES:
        return failed("disk", found, "free space before a run; 'vaeseg-batch gc' removes what nothing needs")
    if free_bytes < ENOUGH_FREE_BYTES:
        return warned("disk", found, f"free space: below {ENOUGH_FREE_BYTES // GIB} GiB a few nights may fill it")
    return passed("disk", found)


def key_check(root: AnyPath, is_used: bool) -> Check:
    """The secret of pseudonyms: one that nobody else can read, or none yet.

    Args:
        root: of the store.
        is_used: whether subjects are recorded under its pseudonyms already.
    """
    path = root / KEY_NAME
    if isinstance(root, RemotePath) and not os.environ.get(KEY_VARIABLE):
        return failed("subject_key", f"none, and it does not go into {root}", f"give it in ${KEY_VARIABLE}")
    if not os.environ.get(KEY_VARIABLE) and not path.exists():
        if is_used:
            return failed("subject_key", *lost_key(path))
        return passed("subject_key", "none yet; the first scan makes one")
    try:
        existing_subject_secret(root)
    except StoreError as error:
        return failed("subject_key", str(error), f"only the account of vaeseg may read {KEY_NAME}: chmod 600")
    return passed("subject_key", f"in ${KEY_VARIABLE}" if os.environ.get(KEY_VARIABLE) else f"{path}, for its owner")


def archive_check(archive: ArchiveRoot) -> Check:
    """Whether an archive's root can be listed, and is not suddenly empty; the path itself is not told."""
    try:
        is_empty = next(any_path(archive.root).iterdir(), None) is None
    except OSError as error:
        return _unreachable(archive, f"its root cannot be listed: {error.strerror}")
    except StoreError:
        return _unreachable(archive, "its object store cannot be reached")
    if is_empty and archive.n_files:
        return _unreachable(archive, f"its root is empty, and the index knows {archive.n_files} files of it")
    return passed("archives", f"{archive.name}: its root can be listed")


def _unreachable(archive: ArchiveRoot, why: str) -> Check:
    found = f"{archive.name}: {why}"
    if archive.is_registered:
        return failed("archives", found, f"is it mounted? 'vaeseg-batch archive show {archive.name}' tells where it is")
    return warned("archives", found, "a directory that was submitted once: mount it before its runs are gone on with")
