"""The main job on a local Ray: what it writes is what independent code computes from the same files."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from archives import compressed_slice, whole_archive
from PIL import Image

from vaeseg.distributed.report import RunReport
from vaeseg.distributed.submit import Submission, preview, submit
from vaeseg.errors import StoreError
from vaeseg.geometry.resample import to_model_grid
from vaeseg.inference.predictor import Predictor
from vaeseg.io.parquet import read_masks
from vaeseg.models.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("ray_session")


def rows(submission: Submission, query: str) -> list[dict[str, Any]]:
    connection = sqlite3.connect(submission.store_root / "results.db")
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute(query)]
    finally:
        connection.close()


def mask_files(submission: Submission) -> list[Path]:
    return sorted(submission.store_root.glob("masks/*/*/*/mask.nii.gz"))


def source_affine(directory: Path) -> np.ndarray[Any, Any]:
    """The affine of an axial series, worked out here from its headers alone."""
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in directory.rglob("*.dcm")]
    headers.sort(key=lambda header: float(header.ImagePositionPatient[2]))
    first, last = headers[0], headers[-1]
    step = (np.array(last.ImagePositionPatient) - np.array(first.ImagePositionPatient)) / (len(headers) - 1)
    affine = np.eye(4)
    affine[:3, 0] = np.array(first.ImageOrientationPatient[:3]) * first.PixelSpacing[1]
    affine[:3, 1] = np.array(first.ImageOrientationPatient[3:]) * first.PixelSpacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = first.ImagePositionPatient
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def source_hu(directory: Path) -> np.ndarray[Any, Any]:
    """(K, J, I) HU of a series, read with pydicom alone."""
    slices = [pydicom.dcmread(path) for path in directory.rglob("*.dcm")]
    slices.sort(key=lambda header: float(header.ImagePositionPatient[2]))
    return np.stack([s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices])


@pytest.fixture(scope="module")
def first(
    archive: Path, model_path: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None
) -> tuple[Submission, RunReport]:
    """Done once; no test changes its store."""
    submission = whole_archive(archive, model_path, tmp_path_factory.mktemp("first") / "store")
    return submission, submit(submission)


@pytest.fixture
def submitted(first: tuple[Submission, RunReport]) -> Submission:
    submission, report = first
    assert report.outcomes["segmented"] == 3
    return submission


def test_every_file_and_series_is_accounted_for(first: tuple[Submission, RunReport], archive: Path) -> None:
    """Files found are the files on disk, all in a series; outcomes add up to the series."""
    submission, report = first
    n_files = sum(1 for _ in (archive / "dicom").rglob("*.dcm"))
    assert (report.files.found, report.files.in_series, report.files.refused) == (n_files, n_files, 0)
    assert report.n_series == 3
    assert report.complete
    assert len(rows(submission, "SELECT * FROM instances")) == n_files


def test_masks_overlay_their_source_exactly(submitted: Submission, archive: Path) -> None:
    """Each mask has the source's shape and affine, and is what the model says of the source read by other code."""
    predictor = Predictor(load_checkpoint(Path(submitted.config.model_path)))
    for finding in rows(submitted, "SELECT * FROM findings"):
        directory = series_directory(archive, finding["series_instance_uid"])
        image = nibabel.load(submitted.store_root / finding["mask_uri"])
        hu = source_hu(directory)
        np.testing.assert_allclose(image.affine, source_affine(directory), atol=1e-4)
        assert image.shape == hu.shape[::-1]
        spacing = tuple(float(z) for z in image.header.get_zooms()[::-1])
        model_mask = predictor.segment(to_model_grid(hu, spacing, predictor.preprocessing.image_size))
        factor = hu.shape[1] // model_mask.shape[1]
        expected = model_mask.repeat(factor, axis=1).repeat(factor, axis=2)
        np.testing.assert_array_equal(np.asarray(image.dataobj).T.astype(bool), expected)
        assert expected.any()


def series_directory(archive: Path, series_uid: str) -> Path:
    for directory in (archive / "dicom").iterdir():
        first = next(iter(directory.rglob("*.dcm")))
        if pydicom.dcmread(first, stop_before_pixels=True).SeriesInstanceUID == series_uid:
            return directory
    raise AssertionError(series_uid)


def test_findings_are_what_the_mask_files_say(submitted: Submission, archive: Path) -> None:
    """Volume, lesions, slices, IoU and Dice, recomputed from the mask and label files with plain numpy."""
    for finding in rows(submitted, "SELECT * FROM findings"):
        image = nibabel.load(submitted.store_root / finding["mask_uri"])
        mask = np.asarray(image.dataobj).astype(bool)
        label = np.asarray(
            nibabel.load(archive / "labels" / f"{finding['series_instance_uid']}.nii.gz").dataobj
        ).astype(bool)
        voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
        assert finding["tumour_volume_ml"] == pytest.approx(mask.sum() * voxel_ml, rel=1e-5)
        assert finding["n_slices"] == mask.shape[2]
        shared, union = (mask & label).sum(), (mask | label).sum()
        assert finding["iou"] == pytest.approx(shared / union)
        assert finding["dice"] == pytest.approx(2 * shared / (mask.sum() + label.sum()))
        lesions = rows(submitted, f"SELECT * FROM lesions WHERE finding_id = {finding['id']}")
        assert len(lesions) == finding["lesion_count"] > 0
        assert sum(lesion["volume_ml"] for lesion in lesions) == pytest.approx(finding["tumour_volume_ml"])
        assert max(lesion["volume_ml"] for lesion in lesions) == finding["largest_lesion_ml"]


def test_parquet_says_the_same_as_sql_and_masks(submitted: Submission) -> None:
    """The masks data set decodes to the mask files; the slices data set adds up to the volumes."""
    stored = {m.series_instance_uid: m.mask for m in read_masks(submitted.store_root / "parquet")}
    areas = pq.read_table(submitted.store_root / "parquet" / "slices").to_pandas()
    for finding in rows(submitted, "SELECT * FROM findings"):
        uid = finding["series_instance_uid"]
        image = nibabel.load(submitted.store_root / finding["mask_uri"])
        np.testing.assert_array_equal(stored[uid], np.asarray(image.dataobj).T.astype(bool))
        of_series = areas[areas.series_instance_uid == uid]
        spacing_k = float(image.header.get_zooms()[2])
        assert of_series.tumour_area_mm2.sum() * spacing_k / 1000 == pytest.approx(finding["tumour_volume_ml"])


def test_a_second_submission_does_no_work(submitted: Submission) -> None:
    """Nothing is segmented twice: the second run has nothing to do and changes no file."""
    before = {path: path.stat().st_mtime_ns for path in submitted.store_root.rglob("*.gz")}
    assert preview(submitted).already_done == 3
    report = submit(submitted)
    assert report.status == "nothing_to_do"
    assert report.outcomes["already_done"] == 3
    assert {path: path.stat().st_mtime_ns for path in submitted.store_root.rglob("*.gz")} == before
    assert len(rows(submitted, "SELECT * FROM findings")) == 3


def test_the_same_input_gives_the_same_bytes(submitted: Submission, tmp_path: Path) -> None:
    """Mask files of two stores are byte-identical."""
    other = replace(submitted, store_root=tmp_path / "other")
    submit(other)
    assert [p.read_bytes() for p in mask_files(other)] == [p.read_bytes() for p in mask_files(submitted)]


def test_late_slices_supersede_the_older_finding(submission: Submission, archive: Path, tmp_path: Path) -> None:
    """A series that grew is done again; the older finding and its mask stay, marked superseded."""
    growing = tmp_path / "growing"
    source = next(iter((archive / "dicom").iterdir()))
    by_position = sorted(
        source.rglob("*.dcm"),
        key=lambda path: float(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2]),
    )
    growing.mkdir()
    for path in by_position[:-2]:
        shutil.copy(path, growing)
    first = replace(submission, study_dir=growing)
    submit(first)
    for path in by_position[-2:]:
        shutil.copy(path, growing)
    submit(first)
    old, new = rows(first, "SELECT * FROM findings ORDER BY id")
    assert old["superseded_at"] is not None
    assert new["superseded_at"] is None
    assert (new["n_slices"], old["n_slices"]) == (len(by_position), len(by_position) - 2)
    assert nibabel.load(first.store_root / old["mask_uri"]).shape[2] == len(by_position) - 2
    assert nibabel.load(first.store_root / new["mask_uri"]).shape[2] == len(by_position)
    assert [row["id"] for row in rows(first, "SELECT id FROM latest_findings")] == [new["id"]]


def test_a_limit_leaves_the_rest_for_the_next_run(submission: Submission) -> None:
    """--limit 1 does one series; the next run does the other two."""
    first = submit(replace(submission, config=replace(submission.config, limit=1)))
    assert (first.outcomes["segmented"], first.outcomes["not_planned"]) == (1, 2)
    second = submit(submission)
    assert (second.outcomes["segmented"], second.outcomes["already_done"]) == (2, 1)


def test_previews_are_pictures(submitted: Submission) -> None:
    """Each preview opens as a PNG with an outline in it."""
    previews = sorted(submitted.store_root.glob("masks/*/*/*/preview.png"))
    assert len(previews) == 3
    for path in previews:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert (pixels == (255, 64, 64)).all(axis=2).any()


def test_one_damaged_series_does_not_stop_the_others(submission: Submission, archive: Path, tmp_path: Path) -> None:
    """A compressed series cut short on disk fails with its reason; the others are segmented."""
    study = tmp_path / "study"
    broken = compressed_slice(archive, study)
    broken.write_bytes(broken.read_bytes()[:-2000])
    report = submit(replace(submission, study_dir=study))
    assert (report.outcomes["segmented"], report.outcomes["failed"]) == (2, 1)
    assert not report.complete
    (finding,) = rows(submission, "SELECT * FROM findings WHERE outcome = 'failed'")
    assert finding["reason"] == "truncated_pixel_data"
    assert finding["tumour_volume_ml"] is None
    again = submit(replace(submission, study_dir=study))
    assert (again.status, again.outcomes["left_out"]) == ("nothing_to_do", 1)


def test_a_short_series_is_skipped_by_rule(submission: Submission, archive: Path, tmp_path: Path) -> None:
    """Three slices are a volume but not worth segmenting: skipped, with the rule and both values."""
    study = tmp_path / "short"
    study.mkdir()
    source = next(iter((archive / "dicom").iterdir()))
    by_position = sorted(
        source.rglob("*.dcm"),
        key=lambda path: float(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2]),
    )
    for path in by_position[:3]:
        shutil.copy(path, study)
    report = submit(replace(submission, study_dir=study))
    assert report.outcomes["skipped"] == 1
    (finding,) = rows(submission, "SELECT * FROM findings")
    assert (finding["outcome"], finding["reason"]) == ("skipped", "min_slices")
    assert finding["tumour_volume_ml"] is None
    shutil.copytree(sorted((archive / "dicom").iterdir())[-1], study / "more")
    ahead = preview(replace(submission, study_dir=study))
    assert (ahead.to_skip, ahead.already_done) == (0, 1)
    assert ahead.to_segment > 0


@pytest.mark.parametrize("is_there", [False, True], ids=["gone", "not mounted"])
def test_labels_that_are_away_end_a_run_before_its_index(
    submission: Submission, tmp_path: Path, is_there: bool
) -> None:
    """One line, a run that has failed, and no finding without the IoU that was asked for."""
    labels = tmp_path / "labels"
    if is_there:
        labels.mkdir()
    away = replace(submission, config=replace(submission.config, label_dir=str(labels)))
    with pytest.raises(StoreError, match=r"^the label directory cannot be listed, or is empty: is .* mounted\?$"):
        submit(away)
    assert rows(away, "SELECT status FROM runs") == [{"status": "failed"}]
    assert rows(away, "SELECT * FROM instances") == []


def test_labels_on_another_grid_are_resampled_or_refused(submitted: Submission, archive: Path, tmp_path: Path) -> None:
    """A label mirrored in storage measures the same; one that lies elsewhere gives no IoU and a reason."""
    labels = tmp_path / "labels"
    labels.mkdir()
    names = sorted(path.name for path in (archive / "labels").iterdir())
    for name in names[:2]:
        image = nibabel.load(archive / "labels" / name)
        data, affine = np.asarray(image.dataobj), image.affine.copy()
        if name == names[0]:
            affine[:3, 3] += affine[:3, 0] * (data.shape[0] - 1)
            affine[:3, 0] *= -1
            data = data[::-1]
        else:
            data = np.ones_like(data)
            affine[:3, 3] += 1000.0
        nibabel.save(nibabel.Nifti1Image(data, affine), labels / name)
    shutil.copy(archive / "labels" / names[2], labels / "no-such-series.nii.gz")
    reference = {row["series_instance_uid"]: row for row in rows(submitted, "SELECT * FROM findings")}
    other = replace(submitted, store_root=tmp_path / "other", config=replace(submitted.config, label_dir=str(labels)))
    report = submit(other)
    assert report.unmatched_labels == 1
    found = {row["series_instance_uid"]: row for row in rows(other, "SELECT * FROM findings")}
    mirrored, elsewhere, without = (name.removesuffix(".nii.gz") for name in names)
    assert found[mirrored]["iou"] == pytest.approx(reference[mirrored]["iou"])
    assert "label_resampled" in found[mirrored]["warnings"]
    assert found[elsewhere]["iou"] is None
    assert found[elsewhere]["label_reason"].startswith("label_geometry_mismatch")
    assert (found[without]["iou"], found[without]["label_reason"]) == (None, None)


def test_one_value_of_labels_is_chosen(submitted: Submission, archive: Path, tmp_path: Path) -> None:
    """With lungs as 2 around tumours as 1 there is no IoU but a reason; with 1 chosen, that of tumours alone."""
    (tmp_path / "labels").mkdir()
    for path in (archive / "labels").iterdir():
        image = nibabel.load(path)
        tumour = np.asarray(image.dataobj)
        with_lungs = np.where(tumour == 0, 2, tumour)
        nibabel.save(nibabel.Nifti1Image(with_lungs, image.affine), tmp_path / "labels" / path.name)
    of_all = replace(
        submitted, store_root=tmp_path / "other", config=replace(submitted.config, label_dir=str(tmp_path / "labels"))
    )
    submit(of_all)
    found = rows(of_all, "SELECT iou, label_reason FROM findings WHERE outcome = 'segmented'")
    assert {row["iou"] for row in found} == {None}
    assert all(row["label_reason"].startswith("several_label_values") for row in found)
    segmentation = replace(of_all.config.segmentation, organ=1)
    submit(replace(of_all, config=replace(of_all.config, segmentation=segmentation)))
    query = "SELECT series_instance_uid, iou, dice, label_reason FROM latest_findings ORDER BY series_instance_uid"
    assert rows(of_all, query) == rows(submitted, query)
