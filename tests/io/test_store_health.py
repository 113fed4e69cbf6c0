"""What is wrong with a store, a key or an archive's root is found before a night."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

import vaeseg.io.health as health
from vaeseg.checks import ArchiveRoot, Check
from vaeseg.io.health import GIB, archive_check, disk_check, key_check, store_checks
from vaeseg.io.secret import KEY_VARIABLE, subject_secret
from vaeseg.io.store import Store, create_store


def statuses(checks: list[Check]) -> list[tuple[str, str]]:
    return [(check.name, check.status) for check in checks]


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def test_a_fresh_store_is_well_and_left_as_it_was(store: Store) -> None:
    """Nothing stays of the files that were tried."""
    before = sorted(store.root.rglob("*"))
    checks = list(store_checks(store.root))
    assert [check.name for check in checks] == ["store", "disk"]
    assert checks[0].status == "ok"
    assert sorted(store.root.rglob("*")) == before


def test_a_directory_that_takes_no_file_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only one, as the system says it; the others are not blamed."""

    def refuse(path: Path, data: bytes) -> None:
        if path.parent == store.masks:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        path.write_bytes(data)

    monkeypatch.setattr(health, "write_atomically", refuse)
    check = next(store_checks(store.root))
    assert check.status == "failed"
    assert check.found == f"cannot write {store.masks}: Read-only file system"


def test_a_store_that_reads_back_something_else_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that is said to be done and is not."""
    monkeypatch.setattr(health, "write_atomically", lambda path, _data: path.write_bytes(b""))
    assert "differs from what was written" in next(store_checks(store.root)).found


def test_staging_and_parquet_belong_on_one_file_system(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename between two would fail at the first commit."""
    monkeypatch.setattr(health, "_are_together", lambda one, other: False)
    check = next(store_checks(store.root))
    assert (check.status, "different file systems" in check.found) == ("failed", True)


def test_a_store_that_is_not_there_is_made_by_a_run_or_cannot_be(tmp_path: Path) -> None:
    """A warning where it can be made, else a failure."""
    assert statuses(list(store_checks(tmp_path / "new" / "store"))) == [("store", "warning")]
    assert statuses(list(store_checks(Path("/proc/1/store")))) == [("store", "failed")]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("free_bytes", "status"),
    [(GIB - 1, "failed"), (GIB, "warning"), (20 * GIB - 1, "warning"), (20 * GIB, "ok")],
)
def test_a_disk_without_room_is_told_in_time(free_bytes: int, status: str) -> None:
    """Below 20 GiB, and below 1 GiB no night begins."""
    check = disk_check(free_bytes)
    assert check.status == status
    assert bool(check.advice) == (status != "ok")


def test_a_key_is_for_its_owner_alone(store: Store) -> None:
    """None yet is well; one with mode 0644 is not."""
    assert key_check(store.root, is_used=False).status == "ok"
    subject_secret(store.root)
    assert key_check(store.root, is_used=True).status == "ok"
    (store.root / "subject.key").chmod(0o644)
    check = key_check(store.root, is_used=True)
    assert (check.status, "mode 644" in check.found) == ("failed", True)
    assert "chmod 600" in check.advice


def test_a_key_that_is_gone_is_missed(store: Store) -> None:
    """Where subjects are recorded under its pseudonyms, a new one would be another."""
    check = key_check(store.root, is_used=True)
    assert (check.status, "from a backup" in check.advice) == ("failed", True)


def test_a_key_of_the_environment_must_be_long_enough(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the runs themselves demand; it is not shown."""
    monkeypatch.setenv(KEY_VARIABLE, "k" * 32)
    assert key_check(store.root, is_used=True).status == "ok"
    monkeypatch.setenv(KEY_VARIABLE, "short-secret")
    check = key_check(store.root, is_used=False)
    assert check.status == "failed"
    assert "short-secret" not in check.found


def archive(root: Path, n_files: int = 0, is_registered: bool = True) -> ArchiveRoot:
    return ArchiveRoot(name="ward", root=str(root), n_files=n_files, is_registered=is_registered)


def test_an_archive_must_be_mounted(tmp_path: Path) -> None:
    """One that is gone, or empty while the index knows files of it; its path is not told."""
    assert archive_check(archive(tmp_path)).status == "ok"
    empty = archive_check(archive(tmp_path, n_files=7))
    gone = archive_check(archive(tmp_path / "Doe^Jane"))
    assert (empty.status, gone.status) == ("failed", "failed")
    assert "the index knows 7 files" in empty.found
    assert gone.found == "ward: its root cannot be listed: No such file or directory"
    (tmp_path / "file.dcm").touch()
    assert archive_check(archive(tmp_path, n_files=7)).status == "ok"


def test_a_directory_that_was_only_submitted_is_no_failure(tmp_path: Path) -> None:
    """No night looks at it."""
    assert archive_check(archive(tmp_path / "gone", is_registered=False)).status == "warning"


def test_checks_of_a_store_pass_through_a_link(tmp_path: Path) -> None:
    """A store that is mounted elsewhere."""
    real = create_store(tmp_path / "real")
    (tmp_path / "link").symlink_to(real.root)
    assert next(store_checks(tmp_path / "link")).status == "ok"
