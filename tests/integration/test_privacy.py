"""Canary values planted wherever a hospital has names: nothing may hold them but the columns that docs name.

The run that is searched has every outcome: series are segmented, refused, fail, and crash with their decoder.
"""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import canaries
import nibabel
import numpy as np
import pydicom
import pytest
from click.testing import CliRunner, Result
from prometheus_client import generate_latest
from pydicom.uid import JPEGLSLossless
from test_command_line import DYING_DECODER, submit_arguments, vaeseg_batch

from vaeseg.cli import main
from vaeseg.db.session import open_database, sqlite_url
from vaeseg.db.tables import Base
from vaeseg.exporter.families import exporter_registry
from vaeseg.exporter.watcher import Watcher

MAY_HOLD_PATHS = {
    ("archives", "root"),
    ("archives", "label_root"),
    ("instances", "path"),
    ("instances", "directory"),
    ("runs", "config"),
}
"""The columns that docs/data-model.md gives to paths."""

KEEPING_LOGS = """
from types import SimpleNamespace
from vaeseg.cli import main
from vaeseg.distributed import local

local.shutil = SimpleNamespace(rmtree=lambda *_, **__: None)
"""
"""Ray's directory stays, to be searched."""

WITH_METRICS = f"""{KEEPING_LOGS}
import sys, time
from urllib.request import urlopen
import ray
from vaeseg.distributed import submit

really_stop = submit.stop_local_ray

def scrape_and_stop():
    until = time.monotonic() + 60
    (node,) = ray.nodes()
    metrics = b""
    while b"ray_vaeseg_series_finished_total" not in metrics and time.monotonic() < until:
        time.sleep(0.5)
        metrics = urlopen(f"http://{{node['NodeManagerAddress']}}:{{node['MetricsExportPort']}}/metrics").read()
    sys.stderr.write(metrics.decode())
    really_stop()

submit.stop_local_ray = scrape_and_stop
main()
"""
"""A submission that prints, before its Ray ends, what a scraper of the node would read."""


@pytest.fixture
def ray_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short path for Ray's own files (sockets must fit in 107 bytes), so that they can be searched too."""
    directory = Path(tempfile.mkdtemp(prefix="rp"))
    monkeypatch.setenv("RAY_TMPDIR", str(directory))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def named_study(archive: Path, tmp_path: Path) -> Path:
    """Of a named patient: a good series, one with a slice cut short, one that is no CT, one in NIfTI, and junk."""
    study = tmp_path / f"{canaries.PATH}-root"
    for number, source in enumerate(sorted((archive / "dicom").iterdir())):
        directory = study / f"{canaries.PATH}-{number}"
        directory.mkdir(parents=True)
        for path in source.rglob("*.dcm"):
            dataset = pydicom.dcmread(path)
            canaries.plant(dataset)
            if number > 0:
                dataset.compress(JPEGLSLossless, generate_instance_uid=False)
            dataset.save_as(directory / f"{canaries.PATH}-{path.name}")
    truncated = sorted((study / f"{canaries.PATH}-1").iterdir())[2]
    truncated.write_bytes(truncated.read_bytes()[:-500])
    refused = pydicom.dcmread(sorted((study / f"{canaries.PATH}-0").iterdir())[0])
    refused.Modality, refused.SeriesInstanceUID, refused.SOPInstanceUID = "MR", "1.2.3", "1.2.3.4"
    refused.save_as(study / f"{canaries.PATH}-magnet.dcm")
    write_nifti(study / f"{canaries.PATH}.nii.gz")
    (study / f"{canaries.PATH}.txt").write_text(" ".join(canaries.WORDS))
    return study


def write_nifti(path: Path) -> None:
    """A block in air, large enough to be segmented, with names in every text field of its header."""
    volume = np.full((40, 40, 12), -1000, dtype=np.int16)
    volume[10:30, 10:30, 3:9] = 40
    image = nibabel.Nifti1Image(volume, np.diag([2.0, 2.0, 3.0, 1.0]))
    image.header["descrip"] = image.header["aux_file"] = image.header["intent_name"] = canaries.NIFTI.encode()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", canaries.NIFTI.encode()))
    nibabel.save(image, path)


@pytest.fixture
def dying_decoder(tmp_path: Path) -> Path:
    """A directory for PYTHONPATH with a JPEG-LS decoder that kills its process."""
    decoder = tmp_path / "decoder" / "jpeg_ls"
    decoder.mkdir(parents=True)
    (decoder / "__init__.py").write_text(DYING_DECODER)
    return decoder.parent


def test_no_output_names_a_patient(
    named_study: Path, archive: Path, model_path: Path, tmp_path: Path, ray_directory: Path, dying_decoder: Path
) -> None:
    """Whatever is printed, logged, measured, stored or left behind by Ray is searched; so is an erasure."""
    store = tmp_path / "store"
    labels = tmp_path / f"{canaries.PATH}-labels"
    shutil.copytree(archive / "labels", labels)
    next(labels.iterdir()).write_bytes(b"damaged")
    arguments = [*submit_arguments(named_study, store, model_path), "--output-type", "nifti,png"]
    arguments += ["--label-dir", labels]

    in_a_hurry = {"RAY_metrics_report_interval_ms": "500", "PYTHONPATH": str(dying_decoder)}
    crashed = vaeseg_batch(*arguments, program=WITH_METRICS, **in_a_hurry)
    outcomes = json.loads(crashed.stdout)["outcomes"]
    assert (outcomes["segmented"], outcomes["crashed"], outcomes["refused"]) == (2, 2, 1), crashed.stderr
    assert "ray_vaeseg_series_finished_total{" in crashed.stderr
    run_id = json.loads(crashed.stdout)["run_id"]
    as_json = ("--log-format", "json", "--log-level", "debug")
    searched = f"{KEEPING_LOGS}main()"
    retried = vaeseg_batch(*as_json, "retry", run_id, "--store", store, "--json", program=searched)
    assert "debug" in {json.loads(line)["level"] for line in retried.stderr.splitlines()}
    assert json.loads(retried.stdout)["outcomes"]["failed"] == 1, retried.stderr
    key = asked("subject-key", "--store", store, text=canaries.ELEMENTS["PatientID"])
    shown = [
        asked("--debug", "status", "--store", store, "--json"),
        asked("status", run_id, "--store", store),
        asked("findings", "--store", store, "--json"),
        asked("findings", "--store", store, "--format", "csv"),
        asked("findings", "--store", store),
        asked("verify", "--store", store, "--json"),
        asked("doctor", "--store", store, "--json"),
    ]
    assert [result.exit_code for result in (key, *shown)] == [0] * 8, [result.output for result in (key, *shown)]
    inspected = asked("inspect", named_study, "--json")
    assert_printed_clean(crashed.stdout, crashed.stderr, retried.stdout, retried.stderr)
    assert_printed_clean(*(result.output for result in (key, *shown)), exported(store))
    assert_printed_clean(inspected.output.replace(str(named_study), ""))
    assert_files_clean(store, ray_directory)
    assert_tables_clean(store)

    shutil.rmtree(named_study)
    failed = vaeseg_batch("--debug", "retry", run_id, "--store", store)
    assert (failed.returncode, "Traceback" in failed.stderr) == (1, True)
    subject = key.stdout.strip()
    erased = [asked("erase", subject, "--store", store), asked("erase", subject, "--yes", "--store", store)]
    assert [result.exit_code for result in erased] == [2, 0]
    assert_printed_clean(failed.stdout, failed.stderr, *(result.output for result in erased))
    assert_files_clean(store, ray_directory)
    assert_tables_clean(store)


def test_the_search_finds_every_form() -> None:
    """As bytes, escaped, in wide characters and within base64; and nothing in what holds nothing."""
    name = canaries.ELEMENTS["PatientName"]
    encoded = [name.encode(encoding) for encoding in ("utf-8", "latin-1", "utf-16", "utf-16-be")]
    encoded += [base64.b64encode(b"x" * shift + f"{name} and more".encode()) for shift in range(4)]
    encoded += [json.dumps([name]).encode(), repr(name.encode("latin-1")).encode()]
    assert [canaries.found_in(data) for data in encoded] == [[name]] * len(encoded)
    assert canaries.found_in(b"VSMK" + bytes(range(256)) * 100) == []


def asked(*arguments: str | Path, text: str = "") -> Result:
    """A command that needs no process of its own."""
    return CliRunner(env={"VAESEG_DB": ""}).invoke(main, list(map(str, arguments)), input=text)


def exported(store: Path) -> str:
    """What the exporter would serve."""
    with closing(open_database(sqlite_url(store / "results.db"))) as database:
        watcher = Watcher(database, volume_threshold_ml=0.0, every_seconds=1.0, say=print)
        watcher.look()
        text = generate_latest(exporter_registry(watcher)).decode()
    assert 'vaeseg_series_current{archive="archive-' in text
    return text


def assert_clean(where: str, data: bytes) -> None:
    found = canaries.found_in(data)
    assert not found, f"{found} in {where}"


def assert_printed_clean(*texts: str) -> None:
    for number, text in enumerate(texts):
        assert_clean(f"text {number} that was printed: {text[-2000:]}", text.encode())


def assert_files_clean(store: Path, ray_directory: Path) -> None:
    """Masks, previews, Parquet and names in the store, but for the database; all that Ray left."""
    assert list(ray_directory.rglob("raylet.out")), "Ray left no logs to search"
    for path in sorted((*store.rglob("*"), *ray_directory.rglob("*"))):
        assert_clean("a file name", str(path).encode())
        if path.is_file() and not path.name.startswith("results.db"):
            assert_clean(str(path), canaries.readable_content(path))


def assert_tables_clean(store: Path) -> None:
    """Column by column: those that may hold paths hold them and nothing else."""
    held = set()
    with closing(sqlite3.connect(store / "results.db")) as connection:
        for table in Base.metadata.sorted_tables:
            for column in table.columns:
                rows = connection.execute(f"SELECT {column.name} FROM {table.name}").fetchall()
                found = canaries.found_in(canaries.rows_as_text(rows))
                if (table.name, column.name) in MAY_HOLD_PATHS:
                    held.update(found)
                    found = [word for word in found if word != canaries.PATH]
                assert not found, f"{found} in {table.name}.{column.name}"
    assert held == {canaries.PATH}, "the canaries were not planted: no column holds a path"
