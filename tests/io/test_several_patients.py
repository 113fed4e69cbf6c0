"""Slices of several patients under one series UID."""

from __future__ import annotations

from pathlib import Path

from factories import write_series
from reading import judge, reasons

from vaeseg.records import Reason


def test_slices_of_several_patients_are_nobodys(tmp_path: Path) -> None:
    """One of six is enough; the detail counts them and names nobody."""
    write_series(tmp_path, per_slice={2: {"PatientID": "SOMEBODY-ELSE"}})
    (verdict,) = judge(tmp_path)
    assert (verdict.reason, verdict.detail) == (
        Reason.SEVERAL_PATIENTS,
        "slices of 2 patients by PatientID: 5 and 1",
    )
    assert verdict.verdict.ref is not None
    assert verdict.verdict.ref.subject_key is None


def test_slices_without_a_patient_id_are_whose_the_others_are(tmp_path: Path) -> None:
    """The first by path too."""
    write_series(tmp_path, per_slice={0: {"PatientID": ""}})
    (verdict,) = judge(tmp_path)
    assert verdict.reason is None
    assert verdict.verdict.ref is not None
    assert verdict.verdict.ref.subject_key is not None


def test_a_series_that_was_exported_twice_is_told_from_two_volumes(tmp_path: Path) -> None:
    """The same instances in other bytes, as another encoding or comment leaves them."""
    write_series(tmp_path / "a")
    write_series(tmp_path / "b", ImageComments="a copy")
    assert reasons(tmp_path) == {"duplicate_positions": 12}
    (verdict,) = judge(tmp_path)
    assert verdict.detail is not None
    assert verdict.detail.endswith("6 slices are there twice, with one SOPInstanceUID and other bytes")
