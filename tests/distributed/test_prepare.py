"""`vaeseg-batch prepare` on Ray: every item accounted for, the same bytes every time, and never half a data set."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from click.testing import CliRunner, Result
from factories import CANARIES, SERIES_UID, write_nifti, write_series
from local_rays import another

from vaeseg.cli import main
from vaeseg.config import PhantomConfig, PreprocessingConfig, ReadingConfig
from vaeseg.distributed import prepare as prepare_module
from vaeseg.distributed.lifecycle import RunInterruptedError
from vaeseg.distributed.prepare import ArchiveSource, PreparationRequest, Progress, prepare
from vaeseg.errors import StoreError, TrainingError, UsageError
from vaeseg.io.dataset import open_data_set
from vaeseg.io.dataset_manifest import Recipe
from vaeseg.io.location import locate
from vaeseg.io.slices import PreparedVolume
from vaeseg.phantom.msd_writer import write_msd_dataset
from vaeseg.training.preparation import PreparationItem, prepare_item

RECIPE = Recipe(preprocessing=PreprocessingConfig(image_size=16, window_low_hu=0, window_high_hu=255))
DYING_DECODER = """
import os, signal

__version__ = "1.5.1"

def decode_pixel_data(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGSEGV)

decode_buffer = decode = encode_buffer = encode_array = encode_pixel_data = decode_pixel_data
"""
"""Takes the place of pyjpegls in workers: a decoder in C that reads beyond its buffer ends just so."""


@pytest.fixture(scope="module", autouse=True)
def ray_with_dying_decoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Ray for this module, in whose workers JPEG-LS kills the process."""
    decoder = tmp_path_factory.mktemp("decoder")
    (decoder / "jpeg_ls").mkdir()
    (decoder / "jpeg_ls/__init__.py").write_text(DYING_DECODER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(decoder))
        with another(n_cpus=2):
            yield


def write_msd(
    root: Path, names: str = "cabdef", unlabelled: str = "f", damaged: str = "d", first_slices: int = 30
) -> Path:
    """A data set of tiny volumes, of which some lack a label and some are cut."""
    for n, name in enumerate(names):
        rng = np.random.default_rng(ord(name))
        for kind, dtype, high in (("imagesTr", np.int16, 256), ("labelsTr", np.uint8, 3)):
            (root / kind).mkdir(parents=True, exist_ok=True)
            write_nifti(
                root / kind / f"{name}.nii",
                rng.integers(0, high, (16, 16, n + 30 if n else first_slices)).astype(dtype),
            )
    for name in damaged:
        path = root / f"imagesTr/{name}.nii"
        path.write_bytes(path.read_bytes()[:-100])
    entries = [{"image": f"imagesTr/{name}.nii", "label": f"labelsTr/{name}.nii"} for name in names]
    training = [entry for name, entry in zip(names, entries, strict=True) if name not in unlabelled]
    test = [entry["image"] for name, entry in zip(names, entries, strict=True) if name in unlabelled]
    listed = {"labels": {"0": "background", "1": "tumour", "2": "lungs"}, "training": training, "test": test}
    (root / "dataset.json").write_text(json.dumps(listed))
    return root


def request(source: Path | ArchiveSource, out: Path | str, **changes: object) -> PreparationRequest:
    return replace(PreparationRequest(source=source, recipe=RECIPE, out=str(out)), **changes)  # type: ignore[arg-type]


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["prepare", *map(str, arguments)])


def test_every_item_is_accounted_for(tmp_path: Path) -> None:
    """Prepared in the order of dataset.json, damaged with its reason, unlabelled left out: the counts add up.

    The first volume is the longest by far, so that others are finished before it.
    """
    seen: list[Progress] = []
    report = prepare(request(write_msd(tmp_path / "msd", first_slices=4000), tmp_path / "out"), seen.append)
    assert report.manifest.counts == {"items": 6, "prepared": 4, "unlabelled": 1, "refused": 1, "crashed": 0}
    assert report.manifest.unlabelled == ("f",)
    assert [(item.name, item.reason) for item in report.manifest.refused] == [("d", "truncated_pixel_data")]
    assert not report.complete
    assert report.n_split_folds == {"subject": 1, "slice": 1}
    assert [(progress.done, progress.total) for progress in seen] == [(n, 5) for n in range(1, 6)]
    data = open_data_set(str(tmp_path / "out"))
    assert data.index.subjects == ("c", "a", "b", "e")
    assert data.manifest.n_slices == 4000 + 31 + 32 + 34
    assert np.array_equal(data.read().images, np.concatenate([_directly(tmp_path, name) for name in "cabe"]))


def _directly(tmp_path: Path, name: str) -> np.ndarray:
    paths = {kind: str(tmp_path / f"msd/{kind}sTr/{name}.nii") for kind in ("image", "label")}
    outcome = prepare_item(PreparationItem(name=name, subject=name, **paths), RECIPE, ReadingConfig(), True)
    assert isinstance(outcome, PreparedVolume)
    return outcome.slices.images


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """Into a path and into a URL; the second time into the same place there is nothing to do, and no file changes."""
    write_msd(tmp_path / "msd")
    first = prepare(request(tmp_path / "msd", tmp_path / "a"))
    second = prepare(request(tmp_path / "msd", f"file://{tmp_path}/b"))
    assert first.manifest.digest == second.manifest.digest
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    again = prepare(request(tmp_path / "msd", tmp_path / "a"))
    assert again.status == "nothing_to_do"
    assert again.manifest.digest == first.manifest.digest
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")} == written


def test_another_data_set_is_not_overwritten_unless_told(tmp_path: Path) -> None:
    """Another recipe is noticed at once, another input by its digest; each message says both. --force replaces."""
    source = write_msd(tmp_path / "msd", "abc", "", "")
    kept = prepare(request(source, tmp_path / "out")).manifest
    other = Recipe(preprocessing=PreprocessingConfig(image_size=32))
    with pytest.raises(UsageError, match=r"image_size 16, asked for is 32: choose another --out, or .* --force"):
        prepare(request(source, tmp_path / "out", recipe=other))
    with pytest.raises(UsageError, match="seed 0, asked for is 1"):
        prepare(request(source, tmp_path / "out", recipe=replace(RECIPE, seed=1)))
    write_msd(source, "abcg", "", "")
    with pytest.raises(UsageError, match=f"digest {kept.digest[:12]}, this input gives "):
        prepare(request(source, tmp_path / "out"))
    assert open_data_set(str(tmp_path / "out")).manifest == kept
    assert prepare(request(source, tmp_path / "out", force=True)).status == "written"
    assert open_data_set(str(tmp_path / "out")).manifest.n_subjects == 4


def test_a_damaged_data_set_is_replaced_when_told(tmp_path: Path) -> None:
    """Without --force it says what to do; with it the data set is whole again."""
    source = write_msd(tmp_path / "msd", "abc", "", "")
    digest = prepare(request(source, tmp_path / "out")).manifest.digest
    (tmp_path / "out/slices/part-00000.parquet").unlink()
    with pytest.raises(StoreError, match=r"is not there.* prepare it again, with --force"):
        prepare(request(source, tmp_path / "out"))
    assert prepare(request(source, tmp_path / "out", force=True)).manifest.digest == digest


def test_an_interrupted_preparation_leaves_no_data_set(tmp_path: Path) -> None:
    """SIGTERM in the middle ends with one clear error and no manifest; the same command completes it."""
    source = write_msd(tmp_path / "msd")

    def stop(progress: Progress) -> None:
        if progress.done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(RunInterruptedError, match="no data set was made, the same command starts over"):
        prepare(request(source, tmp_path / "out"), stop)
    with pytest.raises(UsageError, match="is no data set"):
        open_data_set(str(tmp_path / "out"))
    (tmp_path / "out/slices/part-00007.parquet").write_bytes(b"left by a preparation that had come further")
    assert prepare(request(source, tmp_path / "out")).status == "written"
    assert len(list((tmp_path / "out/slices").iterdir())) == 1


def test_a_decoder_that_dies_costs_its_item_and_nothing_else(tmp_path: Path) -> None:
    """The JPEG-LS series is `crashed`, the unlabelled left out, the MR refused, and no patient's data gets anywhere."""
    archive, labels = tmp_path / "archive", tmp_path / "labels"
    labels.mkdir()
    for n in range(6):
        uid = f"{SERIES_UID}.{n}"
        instances = {k: {"SOPInstanceUID": f"{uid}.{k}"} for k in range(6)}
        encode = _jpegls if n == 2 else None
        modality = "MR" if n == 5 else "CT"
        own = {"SeriesInstanceUID": uid, "PatientID": f"{CANARIES['PatientID']}-{n}", "Modality": modality}
        series = write_series(archive / f"CANARYPATH{n}", per_slice=instances, encode=encode, **own)
        label = (series.stored % 7 == 0).astype(np.uint8).transpose(2, 1, 0)
        if n != 3:
            write_nifti(labels / f"{uid}.nii", label, series.affine_ras)
    source = ArchiveSource(path=archive, label_dir=labels, store_root=tmp_path / "store")
    manifest = prepare(request(source, tmp_path / "out")).manifest
    assert manifest.counts == {"items": 6, "prepared": 3, "unlabelled": 1, "refused": 1, "crashed": 1}
    assert {item.name: item.reason for item in manifest.refused} == {
        f"{SERIES_UID}.5": "wrong_modality",
        f"{SERIES_UID}.2": "crashed",
    }
    assert manifest.sources == {
        "files": {"found": 36, "in_series": 30, "refused": 6, "refused_by_reason": {"wrong_modality": 6}},
        "unmatched_labels": 1,
    }
    assert all(subject.n_label_slices for subject in manifest.subjects)
    assert all("subject:" in " ".join(subject.tokens) for subject in manifest.subjects)
    assert prepare(request(source, tmp_path / "again")).manifest.digest == manifest.digest
    for path in (tmp_path / "out").glob("*.json"):
        assert "CANARY" not in path.read_text()
    names = pq.read_table(tmp_path / "out/slices", columns=["subject_key", "series"]).to_pydict()
    assert len(names["series"]) == 18
    assert "CANARY" not in str(names)


def test_a_label_that_may_be_a_damaged_images_is_nobodys(tmp_path: Path) -> None:
    """Of two images `ct.nii` one is cut: its label is not the other's."""
    archive, labels = tmp_path / "archive", tmp_path / "labels"
    for path in (archive / "p1" / "ct.nii", archive / "p1" / "other.nii", archive / "p2" / "ct.nii"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(path, np.arange(-2048, 2048, dtype=np.int16).reshape(16, 16, 16))
    cut = archive / "p2" / "ct.nii"
    cut.write_bytes(cut.read_bytes()[:100])
    labels.mkdir()
    for name in ("ct.nii", "other.nii"):
        (labels / name).touch()
    source = ArchiveSource(path=archive, label_dir=labels, store_root=tmp_path / "store")
    items, _, sources = prepare_module._found(request(source, tmp_path / "out"), locate(str(tmp_path / "out")))
    assert {Path(item.label).name for item in items if item.label} == {"other.nii"}
    assert sources["unmatched_labels"] == 1


def _jpegls(dataset: pydicom.FileDataset) -> None:
    dataset.compress(pydicom.uid.JPEGLSLossless, generate_instance_uid=False)


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    """An empty data set serves nobody; the first reason is told."""
    source = write_msd(tmp_path / "msd", "ab", "", "ab")
    with pytest.raises(TrainingError, match="none of 2 volumes can be read; the first is truncated_pixel_data"):
        prepare(request(source, tmp_path / "out"))
    assert not (tmp_path / "out/manifest.json").exists()


def test_an_organ_is_chosen_by_number_or_name(tmp_path: Path) -> None:
    """On a phantom with two organs, 2 and lungs are the same data set, and it is not that of the tumours."""
    phantom = PhantomConfig(n_patients=3, seed=5, image_size=48, z_extent_mm=18.0, slice_spacing_mm=3.0)
    write_msd_dataset(tmp_path / "msd", phantom, organ_labels=True)
    given = ("--msd-dir", tmp_path / "msd", "--image-size", 24, "--json")
    answers = {}
    for organ in ("2", "lungs", "tumour"):
        result = command(*given, "--organ", organ, "--out", tmp_path / organ)
        assert result.exit_code == 0, result.output
        answers[organ] = json.loads(result.stdout)
    assert answers["2"]["digest"] == answers["lungs"]["digest"] != answers["tumour"]["digest"]
    assert (answers["2"]["organ"], answers["2"]["n_subjects"], answers["2"]["folds"]["subject"]) == (2, 3, 1)
    lungs, tumour = (open_data_set(str(tmp_path / organ)).index.tumour_pixels for organ in ("lungs", "tumour"))
    assert lungs.sum() > 10 * tumour.sum() > 0
    refused = command(*given, "--organ", "liver", "--out", tmp_path / "liver")
    assert refused.exit_code == 2
    assert "--organ liver: dataset.json has the labels 1 (tumour), 2 (lungs)" in refused.stderr


def test_a_label_that_ends_before_its_image_is_named(tmp_path: Path) -> None:
    """In the JSON and in the summary: what lies beyond it is learned as free of tumour."""
    root = write_msd(tmp_path / "msd", names="abc", unlabelled="", damaged="")
    write_nifti(root / "labelsTr/b.nii", np.ones((16, 16, 5), dtype=np.uint8))
    given = ("--msd-dir", root, "--image-size", 16, "--organ", 1, "--out", tmp_path / "out", "--json")
    assert json.loads(command(*given).stdout)["warnings"] == {"label_covers_part": ["b"], "label_resampled": ["b"]}
    said = command(*given[:-1]).stdout
    assert "label_covers_part: the label does not reach everywhere in its image" in said


def test_labels_of_several_values_are_named(tmp_path: Path) -> None:
    """Where no organ is chosen: 1 and 2 are learned as the same thing."""
    given = ("--msd-dir", write_msd(tmp_path / "msd", "ab", "", ""), "--image-size", 16, "--force", "--out")
    assert json.loads(command(*given, tmp_path / "out", "--json").stdout)["warnings"] == {
        "several_label_values": ["a", "b"]
    }
    assert "which count as one: choose one with --organ: 2 (a, b)" in command(*given, tmp_path / "out").stdout
    chosen = command(*given, tmp_path / "chosen", "--organ", 2, "--json")
    assert json.loads(chosen.stdout)["warnings"] == {}


def test_the_summary_tells_what_happened_and_how_to_go_on(tmp_path: Path) -> None:
    """Exit code 3 where something was refused; too few subjects for a split is said and no failure."""
    result = command("--msd-dir", write_msd(tmp_path / "msd", "abd", ""), "--out", tmp_path / "out", "--image-size", 16)
    assert result.exit_code == 3, result.output
    assert "3 found, 2 prepared, 0 unlabelled, 1 refused, 0 crashed" in result.stdout
    assert "d  truncated_pixel_data: " in result.stdout
    assert "by subject: none, fewer than 3 different subjects; by slice: 1 fold" in result.stdout
    assert "train vae --data" in result.stdout
    folds = ("--folds", 3, "--bits", 16, "--intensity", "minmax", "--json", "--force")
    write_msd(tmp_path / "msd", "abcd", "", "")
    result = command("--msd-dir", tmp_path / "msd", "--out", tmp_path / "out", "--image-size", 16, *folds)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["folds"] == {"subject": 3, "slice": 3}
    assert open_data_set(str(tmp_path / "out")).read(np.array([0])).images.dtype == np.uint16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of --msd-dir and --archive"),
        (["--msd-dir", ".", "--archive", "."], "one of --msd-dir and --archive"),
        (["--msd-dir", ".", "--label-dir", "."], "--label-dir goes with --archive"),
        (["--msd-dir", "."], "is this an MSD data set?"),
        (["--archive", ".", "--organ", "liver"], "give a value"),
        (["--archive", ".", "--intensity", "window:5:-5"], "window:LO:HI with LO below HI"),
        (["--archive", ".", "--intensity", "window:5"], "window:LO:HI with LO below HI"),
        (["--archive", ".", "--intensity", "window:nan:1"], "window:LO:HI with LO below HI"),
        (["--archive", ".", "--intensity", "window:-inf:inf"], "window:LO:HI with LO below HI"),
        (["--archive", ".", "--intensity", "level:0:1"], "window:LO:HI with LO below HI"),
        (["--archive", ".", "--folds", "2"], "at least 3"),
        (["--archive", ".", "--out", "gopher://out"], "no URL of a directory"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    """Before Ray starts or a file is written."""
    monkeypatch.chdir(tmp_path)
    result = command("--out", "out", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    """A file where a directory is needed, and a directory of somebody else's."""
    source = write_msd(tmp_path / "msd", "abc", "", "")
    (tmp_path / "file").touch()
    blocked = command("--msd-dir", source, "--out", tmp_path / "file/out")
    assert (blocked.exit_code, blocked.stdout) == (1, "")
    assert "cannot" in blocked.stderr
    assert len(blocked.stderr.strip().splitlines()) == 1
    (tmp_path / "home/documents").mkdir(parents=True)
    occupied = command("--msd-dir", source, "--out", tmp_path / "home")
    assert occupied.exit_code == 2
    assert "holds 'documents', which is of no data set" in occupied.stderr
