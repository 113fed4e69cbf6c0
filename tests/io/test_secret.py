"""The key of pseudonyms is made once, read only by its owner, and never weak."""

from __future__ import annotations

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


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """The message says what to do."""
    subject_secret(tmp_path)
    (tmp_path / "subject.key").chmod(0o644)
    with pytest.raises(StoreError, match="chmod 600"):
        subject_secret(tmp_path)


def test_the_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is made then; a short key is refused without being shown."""
    monkeypatch.setenv(KEY_VARIABLE, "a long enough secret")
    assert subject_secret(tmp_path) == b"a long enough secret"
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
