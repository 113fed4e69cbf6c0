from __future__ import annotations

import json
from pathlib import Path

import pytest
from ledger_factories import begin_run, scan, series_row
from training_factories import request, write_squares

from vaeseg.db.drivers import run_config
from vaeseg.db.runs import cancel_run, start_run
from vaeseg.db.session import Database, open_database, sqlite_url
from vaeseg.db.summaries import run_summary
from vaeseg.distributed.job import said_each_epoch
from vaeseg.distributed.train import Workers
from vaeseg.distributed.training_job import _read, _written, execute_training
from vaeseg.errors import UsageError, VaesegError
from vaeseg.training.run import TrainingRequest, run_training

pytestmark = pytest.mark.usefixtures("one_thread")

WORKERS = Workers(fewest=1, most=1, address="http://head:8265")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_squares(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture
def ledger(tmp_path: Path) -> Database:
    return open_database(sqlite_url(tmp_path / "results.db"))


def begin(database: Database, asked: TrainingRequest) -> str:
    return start_run(
        database,
        kind="train_decoder",
        archive_id=None,
        model_digest=None,
        config_json=_written(asked, WORKERS),
        config_digest="",
    )


def test_a_request_comes_back_from_its_row(data: str, tmp_path: Path) -> None:
    """All of it; the address is that of the cluster on which the job finds itself."""
    asked = request(data, tmp_path / "m.safetensors", half=True, state_minutes=0.5)
    read, workers = _read(json.loads(_written(asked, Workers(fewest=2, most=3, address="http://h:1"))), "10.0.0.1:6379")
    assert read == asked
    assert workers == Workers(fewest=2, most=3, address="10.0.0.1:6379")


def test_a_job_trains_the_same_model_as_the_command(
    data: str, tmp_path: Path, ledger: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Byte for byte; its log has a line an epoch, its row what came of it."""
    here = run_training(request(data, tmp_path / "here" / "m.safetensors"))
    run_id = begin(ledger, request(data, tmp_path / "there" / "m.safetensors"))
    there = execute_training(ledger, run_id, None, said_each_epoch())
    assert (there.digest, there.metrics) == (here.digest, here.metrics)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        f"epoch {n}/4" for n in range(1, 5)
    ]
    summary = run_summary(ledger, run_id)
    assert (summary.status, summary.counts["trained"]["digest"]) == ("finished", here.digest)


def test_a_training_that_is_cancelled_keeps_its_state(data: str, tmp_path: Path, ledger: Database) -> None:
    """Its driver hears of it with its first heartbeat, and the same command with --resume goes on."""
    asked = request(data, tmp_path / "m.safetensors")
    run_id = begin(ledger, asked)
    assert cancel_run(ledger, run_id)
    with pytest.raises(VaesegError, match="--resume"):
        execute_training(ledger, run_id, None, said_each_epoch())
    assert run_summary(ledger, run_id).status == "interrupted"
    assert asked.state_path.is_file()


def test_a_training_that_fails_says_so_in_its_row(tmp_path: Path, data: str, ledger: Database) -> None:
    """Nothing to resume, say."""
    run_id = begin(ledger, request(data, tmp_path / "m.safetensors", resume=True))
    with pytest.raises(VaesegError, match="resume"):
        execute_training(ledger, run_id, None, said_each_epoch())
    assert run_summary(ledger, run_id).status == "failed"


def test_a_run_that_is_no_training_is_refused(database: Database) -> None:
    """A segmentation run has another script."""
    run_id = begin_run(database, scan(database, [series_row("1.2.3")]))
    assert "request" not in run_config(database, run_id)
    with pytest.raises(UsageError, match="no training"):
        execute_training(database, run_id, None, said_each_epoch())
