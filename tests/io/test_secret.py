"""The key of pseudonyms is made once, read only by its owner, and never weak."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from vaeseg.errors import StoreError
from vaeseg.io.dicom import SubjectKeyer
from vaeseg.io.secret import KEY_VARIABLE, subject_secret


def test_a_key_is_made_once_with_mode_0600(tmp_path: Path) -> None:
    """The second call reads what the first one wrote."""
    first = subject_secret(tmp_path)
    assert subject_secret(tmp_path) == first
    assert (tmp_path / "subject.key").stat().st_mode & 0o777 == 0o600
    assert len(first) == 64


def test_two_processes_that_start_together_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is second takes the key of the first, whole."""
    winner = "w" * 64

    def link_too_late(part: Path, path: Path) -> None:
        path.write_text(f"{winner}\n")
        path.chmod(0o600)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link_too_late)
    assert subject_secret(tmp_path) == winner.encode()
    assert [path.name for path in tmp_path.iterdir()] == ["subject.key"]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_key_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    """An empty file would be no key for every command after; hard links are not needed."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StoreError, match="cannot make the key file"):
            subject_secret(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(subject_secret(tmp_path)) == 64
    assert (tmp_path / "subject.key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["subject.key"]


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """The message says what to do."""
    subject_secret(tmp_path)
    (tmp_path / "subject.key").chmod(0o644)
    with pytest.raises(StoreError, match="chmod 600"):
        subject_secret(tmp_path)


def test_a_key_that_is_used_is_not_replaced(tmp_path: Path) -> None:
    """The message says how to make one all the same, in a directory of any name."""
    root = tmp_path / "our store"
    root.mkdir()
    with pytest.raises(StoreError, match="is gone") as caught:
        subject_secret(root, is_used=True)
    assert list(root.iterdir()) == []
    subprocess.run(str(caught.value).split("'", 1)[1].rpartition("'")[0], shell=True, check=True)
    assert len(subject_secret(root, is_used=True)) == 64


def test_the_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is made then; a short key is refused without being shown."""
    monkeypatch.setenv(KEY_VARIABLE, "a long enough secret")
    assert subject_secret(tmp_path, is_used=True) == b"a long enough secret"
    assert not (tmp_path / "subject.key").exists()
    monkeypatch.setenv(KEY_VARIABLE, "short")
    with pytest.raises(StoreError) as caught:
        subject_secret(tmp_path)
    assert "'short'" not in str(caught.value)


def test_pseudonyms_differ_by_patient_issuer_and_secret() -> None:
    """The same patient of the same issuer has one key; everything else has another; no patient has none."""
    keyer, other = SubjectKeyer(b"x" * 16), SubjectKeyer(b"y" * 16)
    assert keyer.key("123", "A") == keyer.key(" 123 ", "A")
    assert len({keyer.key("123", "A"), keyer.key("124", "A"), keyer.key("123", "B"), other.key("123", "A")}) == 4
    assert keyer.key("  ") is None
