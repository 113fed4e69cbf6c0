"""`vaeseg-batch` as a process of its own: exit codes, clear lines, and what survives when things die."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pydicom
import pytest
from called import InThisProcess

from vaeseg.db.drivers import hand_over
from vaeseg.db.session import open_database, sqlite_url
from vaeseg.distributed import batch
from vaeseg.distributed.reading import read
from vaeseg.distributed.rows import SeriesRow
from vaeseg.distributed.stage import StageConfig
from vaeseg.distributed.submit import Submission, write_down
from vaeseg.io.store import create_store
from vaeseg.models.checkpoint import load_checkpoint
from vaeseg.telemetry import Write

DYING_DECODER = """
import os, signal

__version__ = "1.5.1"

def decode_pixel_data(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGSEGV)

decode_buffer = decode = encode_buffer = encode_array = encode_pixel_data = decode_pixel_data
"""
"""Takes the place of pyjpegls: a decoder in C that reads beyond its buffer ends just so."""


pytestmark = pytest.mark.usefixtures("ray_session")

COMMAND = "from vaeseg.cli import main; main()"

IN_SMALL_PORTIONS = """
from vaeseg.distributed import indexing, runs, spread
indexing.TREES, indexing.LISTED_HERE_SECONDS, spread.HERE_SECONDS, spread.SOON_SECONDS = 2, 0, 0, 0
runs.series_at_once = lambda _: 2
"""
"""What a large archive does, with a small one: directories and headers by tasks, series in several pipelines."""


def vaeseg_batch(
    *arguments: str | Path, program: str = COMMAND, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
        check=False,
    )


def submit_arguments(study_dir: Path, store: Path, model: Path) -> list[str | Path]:
    return ["submit", "--study-dir", study_dir, "--store", store, "--model", model, "--json"]


def query(store: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(store / "results.db")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


@pytest.fixture
def study_with_jpegls(archive: Path, tmp_path: Path) -> Path:
    """Three series, the first of them JPEG-LS."""
    study = tmp_path / "study"
    shutil.copytree(archive / "dicom", study)
    for path in sorted(study.iterdir())[0].rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.compress(pydicom.uid.JPEGLSLossless, generate_instance_uid=False)
        dataset.save_as(path)
    return study


def test_a_decoder_that_dies_costs_its_series_and_nothing_else(
    study_with_jpegls: Path, model_path: Path, tmp_path: Path, in_this_process: InThisProcess
) -> None:
    """The JPEG-LS series is `crashed`, the others are segmented, later runs leave it out until --retry.

    Done as in a large archive: listing, reading and each portion of series in threads of their own, the first of which
    Ray must outlive.
    """
    decoder = tmp_path / "decoder" / "jpeg_ls"
    decoder.mkdir(parents=True)
    (decoder / "__init__.py").write_text(DYING_DECODER)
    store = tmp_path / "store"
    arguments = submit_arguments(study_with_jpegls, store, model_path)

    died = vaeseg_batch(*arguments, program=IN_SMALL_PORTIONS + COMMAND, PYTHONPATH=str(decoder.parent))
    assert died.returncode == 3, died.stderr
    outcomes = json.loads(died.stdout)["outcomes"]
    assert (outcomes["segmented"], outcomes["crashed"]) == (2, 1)
    assert "Traceback" not in died.stderr

    again = in_this_process(*arguments)
    assert (again.exit_code, json.loads(again.stdout)["outcomes"]["left_out"]) == (3, 1)

    retried = in_this_process(*arguments, "--retry")
    assert retried.exit_code == 0, retried.stderr
    assert json.loads(retried.stdout)["outcomes"]["segmented"] == 1
    assert query(store, "SELECT count(*) FROM latest_findings WHERE outcome = 'segmented'") == [(3,)]
    assert in_this_process("verify", "--store", store).exit_code == 0


def test_what_dies_with_a_node_is_done_in_a_second_pass(
    archive: Path, model_path: Path, tmp_path: Path, in_this_process: InThisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray gives up a series on a node that died, as it tries again before it knows; the night does not."""
    deaths = tmp_path / "deaths"
    deaths.mkdir()

    def read_fatally(row: SeriesRow, config: StageConfig, write: Write) -> SeriesRow:
        n_deaths = len(list(deaths.iterdir()))
        if row["work_item"] == 1 and n_deaths <= batch.TASK_RETRIES:
            (deaths / str(n_deaths)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return read(row, config, write)

    monkeypatch.setattr(batch, "read", read_fatally)
    done = in_this_process(*submit_arguments(archive / "dicom", tmp_path / "store", model_path))
    outcomes = json.loads(done.stdout)["outcomes"]
    assert (done.exit_code, outcomes["segmented"], outcomes["crashed"]) == (0, 3, 0)
    assert len(list(deaths.iterdir())) == 1 + batch.TASK_RETRIES


@pytest.mark.slow
def test_one_cpu_is_enough(archive: Path, model_path: Path, tmp_path: Path) -> None:
    """A model never takes the last CPU from the tasks that feed it, which would hang the run for good."""
    arguments = submit_arguments(archive / "dicom", tmp_path / "store", model_path)
    done = vaeseg_batch(
        *arguments, program="import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n" + COMMAND
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcomes"]["segmented"] == 3


def test_sigterm_leaves_a_run_that_can_be_gone_on_with(
    archive: Path, model_path: Path, tmp_path: Path, in_this_process: InThisProcess
) -> None:
    """SIGTERM in mid-run ends with one clear line; submitting again finishes, and nothing is done twice."""
    store = tmp_path / "store"
    arguments = submit_arguments(archive / "dicom", store, model_path)
    process = subprocess.Popen(
        [sys.executable, "-c", "from vaeseg.cli import main; main()", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: (store / "results.db").exists() and query(store, "SELECT count(*) FROM work_items") == [(3,)])
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "interrupted by SIGTERM" in errors
    assert "Traceback" not in errors
    assert query(store, "SELECT status FROM runs") == [("interrupted",)]

    again = in_this_process(*arguments)
    assert again.exit_code == 0, again.stderr
    assert query(store, "SELECT count(*) FROM findings WHERE outcome = 'segmented'") == [(3,)]


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except sqlite3.OperationalError:
            pass
        time.sleep(0.1)
    raise AssertionError("the run did not plan its work in time")


def test_a_job_executes_a_run_by_its_id(
    submission: Submission, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`jobs/segment_archive.py` needs the run id and the store, and nothing else."""
    checkpoint = load_checkpoint(Path(submission.config.model_path))
    store = create_store(submission.store_root)
    with closing(open_database(sqlite_url(store.database_path))) as database:
        run_id = write_down(submission, checkpoint, database)
        hand_over(database, run_id)

    def job(given_id: str) -> Any:
        monkeypatch.setattr("sys.argv", ["segment_archive.py", "--run-id", given_id, "--store", str(store.root)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(Path(__file__).parents[2] / "jobs" / "segment_archive.py"), run_name="__main__")
        return ended.value.code

    assert job(run_id) == 0
    assert query(store.root, "SELECT run_id, count(*) FROM findings GROUP BY run_id") == [(run_id, 3)]
    capfd.readouterr()
    assert (job("nowhere"), "nowhere" in capfd.readouterr().err) == (2, True)


@pytest.fixture
def usable(archive: Path, model_path: Path, tmp_path: Path) -> dict[str, Path]:
    return {"study": archive / "dicom", "model": model_path, "store": tmp_path / "store"}


def refused(in_this_process: InThisProcess, usable: dict[str, Path], exit_code: int, *words: str) -> None:
    result = in_this_process(*submit_arguments(usable["study"], usable["store"], usable["model"]))
    assert result.exit_code == exit_code, result.stderr
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr


def test_a_missing_directory_is_a_usage_error(
    usable: dict[str, Path], tmp_path: Path, in_this_process: InThisProcess
) -> None:
    """Exit 2, and the path that does not exist."""
    refused(in_this_process, {**usable, "study": tmp_path / "nowhere"}, 2, "nowhere")


def test_an_unknown_model_is_a_usage_error(usable: dict[str, Path], in_this_process: InThisProcess) -> None:
    """Exit 2, and the name."""
    refused(in_this_process, {**usable, "model": Path("no-such-model")}, 2, "no-such-model")


def test_a_damaged_checkpoint_is_named(usable: dict[str, Path], tmp_path: Path, in_this_process: InThisProcess) -> None:
    """Exit 1, and the file."""
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(usable["model"].read_bytes()[:-1000])
    refused(in_this_process, {**usable, "model": damaged}, 1, "damaged.safetensors")


def test_a_store_that_cannot_be_written_is_named(
    usable: dict[str, Path], tmp_path: Path, in_this_process: InThisProcess
) -> None:
    """Exit 1: the store would lie below a file."""
    (tmp_path / "file").write_text("not a directory")
    refused(in_this_process, {**usable, "store": tmp_path / "file" / "store"}, 1, "store")


def test_a_newer_database_is_refused(usable: dict[str, Path], in_this_process: InThisProcess) -> None:
    """Exit 1, and nothing in it is changed."""
    store = create_store(usable["store"])
    open_database(sqlite_url(store.database_path)).close()
    with closing(sqlite3.connect(store.database_path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    refused(in_this_process, usable, 1, "9999", "upgrade vaeseg")


def test_an_empty_study_is_no_error(usable: dict[str, Path], tmp_path: Path, in_this_process: InThisProcess) -> None:
    """Exit 0, no series, no files, nothing to do."""
    empty = tmp_path / "empty"
    empty.mkdir()
    result = in_this_process(*submit_arguments(empty, usable["store"], usable["model"]))
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["status"], answer["n_series"], answer["files"]["found"]) == ("nothing_to_do", 0, 0)


def test_a_dry_run_writes_nothing(usable: dict[str, Path], in_this_process: InThisProcess) -> None:
    """Not even the store's directory."""
    result = in_this_process(*submit_arguments(usable["study"], usable["store"], usable["model"]), "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["to_segment"] == 3
    assert not usable["store"].exists()


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    """`--help` imports neither torch nor ray nor pydicom."""
    code = (
        "import sys; sys.argv = ['vaeseg-batch', '--help']\n"
        "from vaeseg.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'ray', 'pydicom', 'sqlalchemy', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "not for clinical use" in result.stdout
