"""The key from which patients' pseudonyms are made: in the environment, or in a file that only its owner reads."""

from __future__ import annotations

import os
import secrets
import shlex
from pathlib import Path

from vaeseg.durable import fsync_directories
from vaeseg.errors import StoreError
from vaeseg.paths import AnyPath
from vaeseg.remote import RemotePath

KEY_NAME = "subject.key"
KEY_VARIABLE = "VAESEG_SUBJECT_KEY"
MIN_KEY_BYTES = 16


def subject_secret(store_root: AnyPath, *, is_used: bool = False) -> bytes:
    """The secret of this store, made with mode 0600 on first use.

    Args:
        store_root: of the store.
        is_used: whether subjects are recorded under its pseudonyms already; then none is made.

    Raises:
        StoreError: it cannot be read or made, is open to others, is too short to be one, or is gone while it is used.
    """
    if not os.environ.get(KEY_VARIABLE) and not isinstance(store_root, RemotePath):
        _create(store_root / KEY_NAME, is_used)
    return existing_subject_secret(store_root)


def existing_subject_secret(store_root: AnyPath) -> bytes:
    """The secret of a store that has one; makes none.

    Raises:
        StoreError: there is none, or as `subject_secret`.
    """
    if from_environment := os.environ.get(KEY_VARIABLE):
        return _checked(from_environment.encode(), f"${KEY_VARIABLE}")
    if isinstance(store_root, RemotePath):
        raise StoreError(f"the key of the pseudonyms does not go into {store_root}: give it in ${KEY_VARIABLE}")
    path = store_root / KEY_NAME
    try:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise StoreError(f"{path} may be read by others (mode {mode:03o}): run 'chmod 600' on it")
        return _checked(path.read_bytes().strip(), str(path))
    except OSError as error:
        raise StoreError(f"cannot read the key file {path}: {error.strerror}") from error


def lost_key(path: AnyPath) -> tuple[str, str]:
    """What is wrong where a key is gone under which subjects are recorded, and what to do about it."""
    found = f"{path} is gone, and subjects are recorded under its pseudonyms"
    by_hand = f"(umask 077; openssl rand -hex 32 > {shlex.quote(str(path))})"
    advice = (
        "put it back from a backup: a new key gives every patient another pseudonym, under which nothing that is "
        f"stored is found; if it is lost for good, '{by_hand}' makes one"
    )
    return found, advice


def _create(path: Path, is_used: bool) -> None:
    """Write a new key unless there is one; two processes that start together agree on the first."""
    try:
        if path.exists():
            return
        if is_used:
            raise StoreError("; ".join(lost_key(path)))
        _write_whole(path)
    except FileExistsError:
        return
    except OSError as error:
        raise StoreError(f"cannot make the key file {path}: {error.strerror}") from error


def _write_whole(path: Path) -> None:
    """A new key, of which others see all or nothing.

    Raises:
        FileExistsError: another process was first.
    """
    part = path.with_name(f".part-{secrets.token_hex(8)}")
    _write(part)
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # some file systems have no hard links
        _write(path)
    finally:
        part.unlink(missing_ok=True)
    fsync_directories(path.parent, path.parent)


def _write(path: Path) -> None:
    """A new key; nothing stays of one that cannot be written."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_hex(32).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink()
        raise


def _checked(secret: bytes, name: str) -> bytes:
    if len(secret) < MIN_KEY_BYTES:
        raise StoreError(f"the subject key in {name} has {len(secret)} bytes, expected at least {MIN_KEY_BYTES}")
    return secret
