"""`vaeseg-batch inspect` as it is called: rows, exit codes, exports, and decoders that die or hang."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from factories import (
    CANARIES,
    SERIES_UID,
    STUDY_UID,
    axial_affine_ras,
    ct_slice,
    save,
    stored_values,
    write_nifti,
    write_series,
)

from vaeseg.cli import main
from vaeseg.config import ReadingConfig
from vaeseg.io.archive import scan_archive
from vaeseg.io.inspection import _serve, inspect_paths

KEYS = {
    "root",
    "series_instance_uid",
    "study_instance_uid",
    "modality",
    "verdict",
    "reason",
    "detail",
    "warnings",
    "n_instances",
    "n_files",
    "shape",
    "spacing_mm",
    "voxel_volume_mm3",
    "affine_ras",
    "hu_min",
    "hu_max",
    "hu_mean",
    "nifti",
}
MEASURED = ("shape", "spacing_mm", "voxel_volume_mm3", "affine_ras", "hu_min", "hu_max", "hu_mean", "nifti")


def inspect(*arguments: str | Path) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, rows and everything printed to either stream."""
    result = CliRunner().invoke(main, ["inspect", "--json", *map(str, arguments)])
    rows = [json.loads(line, parse_constant=pytest.fail) for line in result.stdout.splitlines()]
    assert all(set(row) == KEYS for row in rows)
    return result.exit_code, rows, result.output + result.stderr


def write_mixture(directory: Path) -> int:
    """A readable series, a refused one, other objects, NIfTI and junk; returns the number of files."""
    write_series(directory / "good")
    write_series(directory / "gap", per_slice={3: {"ImagePositionPatient": [0, 0, 0]}}, SeriesInstanceUID="1.2.3")
    save(ct_slice(stored_values()[0], 0, Modality="MR"), directory / "mr.dcm")
    write_nifti(directory / "v.nii.gz", stored_values().T.astype(np.int16))
    (directory / "readme.txt").write_text("hello")
    (directory / "empty").touch()
    return 6 + 6 + 1 + 1 + 2


def test_a_readable_series(tmp_path: Path) -> None:
    """Every field of the one row, by hand."""
    series = write_series(tmp_path / "in")
    code, (row,), _ = inspect(tmp_path / "in", "--export-nifti", tmp_path / "out")
    assert code == 0
    assert row["root"] == str(tmp_path / "in")
    assert (row["series_instance_uid"], row["study_instance_uid"]) == (SERIES_UID, STUDY_UID)
    assert (row["modality"], row["verdict"], row["reason"], row["warnings"]) == ("CT", "readable", None, [])
    assert (row["n_instances"], row["n_files"]) == (6, 6)
    assert row["shape"] == [6, 12, 16]
    assert row["spacing_mm"] == [2.5, 0.75, 0.5]
    assert row["voxel_volume_mm3"] == pytest.approx(2.5 * 0.75 * 0.5)
    np.testing.assert_allclose(row["affine_ras"], axial_affine_ras())
    assert (row["hu_min"], row["hu_max"]) == (series.hu.min(), series.hu.max())
    assert row["hu_mean"] == pytest.approx(series.hu.mean())
    image = nibabel.load(row["nifti"])
    assert image.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, series.hu)
    np.testing.assert_allclose(image.affine, axial_affine_ras(), rtol=1e-6)


def test_a_refused_series_has_nulls(tmp_path: Path) -> None:
    """Exit 3, a reason, and nothing measured that was not."""
    write_series(tmp_path, stored_values()[:1])
    code, (row,), _ = inspect(tmp_path)
    assert code == 3
    assert (row["verdict"], row["reason"], row["n_files"]) == ("refused", "single_slice", 1)
    assert all(row[key] is None for key in MEASURED)


def test_every_file_is_in_one_row(tmp_path: Path) -> None:
    """Files found = files in rows; junk is no instance."""
    n_files = write_mixture(tmp_path)
    code, rows, _ = inspect(tmp_path)
    assert code == 3
    assert sum(row["n_files"] for row in rows) == n_files
    assert sorted(row["reason"] or "readable" for row in rows) == [
        "empty_file", "missing_slices", "not_an_image", "readable", "readable", "wrong_modality",
    ]  # fmt: skip
    assert {row["n_instances"] for row in rows if row["reason"] in ("empty_file", "not_an_image")} == {0}


def test_an_empty_folder_is_no_error(tmp_path: Path) -> None:
    """Nothing found, nothing refused."""
    assert inspect(tmp_path)[:2] == (0, [])


def test_several_paths_with_the_same_series(tmp_path: Path) -> None:
    """Each path has its own rows, and exports do not overwrite each other."""
    write_series(tmp_path / "a")
    write_series(tmp_path / "b", stored_values() + 1)
    code, rows, _ = inspect(tmp_path / "a", tmp_path / "b", "--export-nifti", tmp_path / "out")
    assert code == 0
    assert [row["root"] for row in rows] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert [np.asarray(nibabel.load(row["nifti"]).dataobj).min() for row in rows] == [-1024, -1023]


def test_fractional_rescale_is_exported_as_float32(tmp_path: Path) -> None:
    """Not rounded on the way."""
    write_series(tmp_path / "in", RescaleSlope="0.5")
    _, (row,), _ = inspect(tmp_path / "in", "--export-nifti", tmp_path / "out")
    image = nibabel.load(row["nifti"])
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, stored_values() * 0.5 - 1024)


def test_what_pixels_reveal_makes_a_refusal(tmp_path: Path) -> None:
    """A row that headers called readable becomes refused, without geometry."""
    series = write_series(tmp_path, encode=lambda dataset: dataset.compress("1.2.840.10008.1.2.5"))
    dataset = pydicom.dcmread(series.paths[2])
    dataset.PixelData = pydicom.encaps.encapsulate([b"\0" * 100])
    save(dataset, series.paths[2])
    code, (row,), _ = inspect(tmp_path)
    assert (code, row["verdict"], row["reason"]) == (3, "refused", "decode_failed")
    assert all(row[key] is None for key in MEASURED)


def test_no_patient_in_any_output(tmp_path: Path) -> None:
    """Names, ids and dates of the headers are in no row, no message and no table, damage or not; nor in exports."""
    write_mixture(tmp_path / "in")
    for n, path in enumerate(sorted((tmp_path / "in" / "gap").iterdir())):
        path.write_bytes(path.read_bytes()[: 300 + 60 * n])
    _, _, as_json = inspect(tmp_path / "in", "--export-nifti", tmp_path / "out")
    as_text = CliRunner().invoke(main, ["--debug", "inspect", str(tmp_path / "in")])
    exported = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    for canary in CANARIES.values():
        assert canary.split("^")[0] not in as_json + as_text.output + as_text.stderr
        assert canary.encode() not in exported


def test_the_table_for_people(tmp_path: Path) -> None:
    """A line for each series and group, and the sum of files."""
    n_files = write_mixture(tmp_path)
    result = CliRunner().invoke(main, ["inspect", str(tmp_path)])
    assert result.exit_code == 3
    assert "6x12x16" in result.stdout
    assert "2.5 x 0.75 x 0.5 mm" in result.stdout
    assert "missing_slices: " in result.stdout
    assert result.stdout.endswith(f"{n_files} files: 2 readable series, 4 refused groups\n")


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    """Usage error, one line that names it."""
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "nothing")])
    assert result.exit_code == 2
    assert "nothing" in result.output


def test_an_export_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """One line, exit 1."""
    (tmp_path / "file").touch()
    result = CliRunner().invoke(main, ["inspect", str(tmp_path), "--export-nifti", str(tmp_path / "file" / "out")])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1


def test_a_bound_given_on_the_command_line(tmp_path: Path) -> None:
    """--max-voxels refuses what is larger."""
    write_series(tmp_path)
    code, (row,), _ = inspect(tmp_path, "--max-voxels", "1000")
    assert (code, row["reason"]) == (3, "too_large")


def test_as_a_process(tmp_path: Path) -> None:
    """The installed command: names that are not UTF-8 in the path, rows on stdout, nothing on stderr."""
    directory = tmp_path / os.fsdecode(b"caf\xe9\n")
    write_mixture(directory)
    command = [str(Path(sys.executable).with_name("vaeseg-batch")), "inspect", "--json", str(directory)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert done.returncode == 3
    assert done.stderr == b""
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["root"] for row in rows} == {str(directory)}


@pytest.fixture
def broken_codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A JPEG 2000 codec installed in front of the real one; child processes load it, this process never does."""
    package = tmp_path / "codecs" / "openjpeg"
    package.mkdir(parents=True)
    monkeypatch.syspath_prepend(package.parent)
    return package / "__init__.py"


@pytest.fixture
def archive_of_two(tmp_path: Path) -> Path:
    """A JPEG 2000 series, and an uncompressed one that must not suffer from it."""
    stored = np.tile(stored_values((3, 12, 16)), (1, 3, 2))
    write_series(tmp_path / "in" / "a", stored, encode=lambda dataset: dataset.compress("1.2.840.10008.1.2.4.90"))
    write_series(tmp_path / "in" / "b", SeriesInstanceUID="1.2.3")
    return tmp_path / "in"


CODEC = """
import os, time
__version__ = "2.6.0"
def decode_pixel_data(source, **options):
    {what_it_does}
encode_pixel_data = encode_buffer = decode_pixel_data
"""


@pytest.mark.parametrize(
    ("what_it_does", "reason"),
    [
        ("os.abort()", "decoder_crashed"),
        ("os._exit(0)", "decoder_crashed"),
        ("time.sleep(600)", "decoder_timeout"),
        ("raise SystemExit", "decoder_crashed"),
        ("raise ZeroDivisionError", "decode_failed"),
        ("return bytearray(3)", "decode_failed"),
    ],
)
def test_a_decoder_that_dies_or_hangs(archive_of_two: Path, broken_codec: Path, what_it_does: str, reason: str) -> None:
    """Costs its own series and no other."""
    broken_codec.write_text(CODEC.format(what_it_does=what_it_does))
    config = ReadingConfig(decode_timeout_seconds=5.0)
    rows = {row["series_instance_uid"]: row for row in inspect_paths([archive_of_two], config)}
    assert rows[SERIES_UID]["reason"] == reason
    assert rows["1.2.3"]["verdict"] == "readable"


def test_a_reader_that_goes_away_is_told_nothing(tmp_path: Path) -> None:
    """As `| head` does: neither by the command nor by its child process."""
    for n in range(60):
        write_series(tmp_path / str(n), SeriesInstanceUID=f"1.2.{n}")
    command = [sys.executable, "-c", "from vaeseg.cli import main; main()", "inspect", str(tmp_path), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == ""


def test_a_parent_that_hangs_up_in_the_middle_of_a_series(tmp_path: Path) -> None:
    """Its child ends, and quietly: the answer has nobody to go to."""
    write_series(tmp_path)
    (verdict,) = scan_archive(tmp_path, ReadingConfig()).verdicts
    ours, theirs = multiprocessing.Pipe()
    ours.send((tmp_path, verdict.manifest, None))
    ours.close()
    _serve(theirs, ReadingConfig())
