"""Canary values planted where a hospital has names: nothing but the `instances` table and the root may hold them."""

from __future__ import annotations

import gzip
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from factories import CANARIES
from pydicom.uid import JPEGLSLossless
from test_command_line import DYING_DECODER, submit_arguments, vaeseg_batch

PATH_CANARY = "CANARYFOLDER"
WORDS = [value.encode() for value in (*CANARIES.values(), PATH_CANARY)]
MAY_HOLD_PATHS = {"instances", "archives", "runs"}
"""`instances` has relative paths; `archives.root` and a run's label directory are what the operator configured."""


@pytest.fixture
def ray_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short path for Ray's own files (sockets must fit in 107 bytes), so that its logs can be searched too."""
    directory = Path(tempfile.mkdtemp(prefix="rp"))
    monkeypatch.setenv("RAY_TMPDIR", str(directory))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def named_study(archive: Path, tmp_path: Path) -> Path:
    """Three series of a named patient: one good, one truncated, one whose decoder dies; and a junk file."""
    study = tmp_path / "study"
    for number, source in enumerate(sorted((archive / "dicom").iterdir())):
        directory = study / f"{PATH_CANARY}-{number}"
        directory.mkdir(parents=True)
        for path in source.rglob("*.dcm"):
            dataset = pydicom.dcmread(path)
            for keyword, value in CANARIES.items():
                setattr(dataset, keyword, value)
            dataset.add_new((0x0009, 0x0010), "LO", "CANARYNAME")
            if number > 0:
                dataset.compress(JPEGLSLossless, generate_instance_uid=False)
            dataset.save_as(directory / f"{PATH_CANARY}-{path.name}")
    truncated = sorted((study / f"{PATH_CANARY}-1").iterdir())[2]
    truncated.write_bytes(truncated.read_bytes()[:-500])
    (study / f"{PATH_CANARY}.txt").write_text(" ".join(CANARIES.values()))
    return study


def test_no_output_names_a_patient(named_study: Path, model_path: Path, tmp_path: Path, ray_directory: Path) -> None:
    """Findings, logs, Parquet, masks, Ray's files and every other table are searched after a run with all outcomes."""
    decoder = tmp_path / "decoder" / "jpeg_ls"
    decoder.mkdir(parents=True)
    (decoder / "__init__.py").write_text(DYING_DECODER)
    store = tmp_path / "store"
    runs = [
        vaeseg_batch(*submit_arguments(named_study, store, model_path), PYTHONPATH=str(decoder.parent)),
        vaeseg_batch(*submit_arguments(named_study, store, model_path), "--retry"),
        vaeseg_batch("--debug", "status", "--store", store, "--json"),
        vaeseg_batch("findings", "--store", store, "--format", "json"),
    ]
    assert [run.returncode for run in runs] == [3, 3, 0, 0], [run.stderr for run in runs]
    for run in runs:
        assert_clean("printed", (run.stdout + run.stderr).encode())
    inspected = vaeseg_batch("inspect", named_study, "--json")
    assert_clean("inspect", (inspected.stdout + inspected.stderr).replace(str(named_study), "").encode())
    for path in sorted(store.rglob("*")):
        if path.is_file() and not path.name.startswith("results.db"):
            data = path.read_bytes()
            assert_clean(str(path), gzip.decompress(data) if path.suffix == ".gz" else data)
    for path in ray_directory.rglob("*.log"):
        assert_clean(str(path), path.read_bytes())
    assert_tables_clean(store)


def assert_clean(where: str, data: bytes) -> None:
    found = [word.decode() for word in WORDS if word in data]
    assert not found, f"{found} in {where}"


def assert_tables_clean(store: Path) -> None:
    connection = sqlite3.connect(store / "results.db")
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    held = []
    for table in tables:
        text = repr(connection.execute(f"SELECT * FROM {table}").fetchall()).encode()
        if table in MAY_HOLD_PATHS:
            held.append(PATH_CANARY.encode() in text)
            text = text.replace(PATH_CANARY.encode(), b"")
        assert_clean(table, text)
    connection.close()
    assert any(held), "the canaries were not planted: instances holds no path"
