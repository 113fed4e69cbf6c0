"""`--organ` of commands that segment: which value of the labels is compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from called import vaeseg

from vaeseg.cli.segmentation import submission
from vaeseg.distributed.submit import Submission
from vaeseg.errors import UsageError


def asked(root: Path, labels: Path | None, organ: str | None) -> Submission:
    options: dict[str, Any] = {"model": "phantom-v1", "output_types": "nifti", "device": "cpu"}
    return submission(root, labels, store=root / "store", db=None, organ=organ, address=None, wait=True, **options)


def test_an_organ_is_part_of_the_work(tmp_path: Path) -> None:
    """As a number; none is none."""
    assert asked(tmp_path, tmp_path, "2").config.segmentation.organ == 2
    assert asked(tmp_path, tmp_path, None).config.segmentation.organ is None


@pytest.mark.parametrize(("organ", "has_labels"), [("2", False), ("tumour", True), ("0", True)])
def test_an_organ_that_no_label_can_have_is_refused(tmp_path: Path, organ: str, has_labels: bool) -> None:
    """No labels, no number, or the background."""
    with pytest.raises(UsageError, match=f"^--organ {organ}: "):
        asked(tmp_path, tmp_path if has_labels else None, organ)


def test_submit_scan_and_schedules_take_an_organ(ward: Path) -> None:
    """All three, of an archive with labels; an empty directory of them is refused as by the run itself."""
    (ward / "labels").mkdir()
    study, labels = ("--study-dir", str(ward / "ward")), ("--label-dir", str(ward / "labels"))
    assert vaeseg(ward, "submit", *study, *labels, "--dry-run").exit_code == 1
    (ward / "labels" / "1.nii.gz").touch()
    assert vaeseg(ward, "submit", *study, *labels, "--organ", "1", "--dry-run").exit_code == 0
    vaeseg(ward, "archive", "remove", "ward")
    given = ("--root", str(ward / "ward"), "--label-root", str(ward / "labels"))
    assert vaeseg(ward, "archive", "add", "labelled", *given).exit_code == 0
    assert vaeseg(ward, "scan", "labelled", "--organ", "1", "--dry-run").exit_code == 0
    planned = ("schedule", "add", "nightly", "--archive", "labelled", "--cron", "0 1 * * *")
    assert vaeseg(ward, *planned, "--organ", "1").exit_code == 0
    assert '"options": {"--organ": "1"}' in vaeseg(ward, "schedule", "list", "--json").stdout
