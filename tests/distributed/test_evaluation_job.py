from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ledger_factories import begin_run, scan, series_row
from training_factories import request as training
from training_factories import write_squares

from vaeseg.db.runs import start_run
from vaeseg.db.session import Database, open_database, sqlite_url
from vaeseg.db.summaries import run_summary
from vaeseg.distributed import evaluation_job
from vaeseg.distributed.evaluate import EvaluationListener, EvaluationRequest, evaluate_as_asked
from vaeseg.distributed.evaluation_job import execute_evaluation
from vaeseg.errors import UsageError
from vaeseg.training.run import run_training

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> EvaluationRequest:
    place = tmp_path_factory.mktemp("evaluated")
    data = write_squares(place / "set")
    model = run_training(training(data, place / "m.safetensors")).path
    return EvaluationRequest(model=str(model), data=data, report_dir=str(place / "report"))


@pytest.fixture
def ledger(tmp_path: Path) -> Database:
    return open_database(sqlite_url(tmp_path / "results.db"))


def begin(database: Database, asked: EvaluationRequest) -> str:
    config = {"evaluation": asdict(asked), "jobs_address": "http://head:8265"}
    return start_run(
        database,
        kind="evaluate_model",
        archive_id=None,
        model_digest=None,
        config_json=json.dumps(config),
        config_digest="",
    )


def test_a_job_evaluates_as_the_command_does(asked: EvaluationRequest, ledger: Database) -> None:
    """The same object, kept with the run, and the same report."""
    here = evaluate_as_asked(asked, EvaluationListener())
    (report := Path(str(asked.report_dir)) / "report.html").unlink()
    run_id = begin(ledger, asked)
    assert execute_evaluation(ledger, run_id) == here
    summary = run_summary(ledger, run_id)
    assert (summary.status, summary.counts["evaluation"]) == ("finished", here)
    assert report.is_file()


def test_an_evaluation_that_cannot_be_is_a_run_that_failed(asked: EvaluationRequest, ledger: Database) -> None:
    """With the sentence that the command would have said."""
    run_id = begin(ledger, EvaluationRequest(model=asked.model, data=asked.data, organ="2"))
    with pytest.raises(UsageError, match="--organ does not go with --data"):
        execute_evaluation(ledger, run_id)
    assert run_summary(ledger, run_id).status == "failed"


def test_a_job_computes_on_all_cores_of_its_node(asked: EvaluationRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray tells torch of one: it is told otherwise before the model is loaded."""
    done = []
    monkeypatch.setattr(evaluation_job, "compute_on_own_cores", lambda: done.append("cores"))
    monkeypatch.setattr(evaluation_job, "evaluate_as_asked", lambda *_: done.append("evaluated"))
    evaluation_job._evaluated._function(asked)
    assert done == ["cores", "evaluated"]


@pytest.mark.parametrize(("has_gpu", "memory"), [(False, 2**31 + 5), (True, 2**31)])
def test_memory_is_asked_for_by_what_the_model_has(
    has_gpu: bool, memory: int, asked: EvaluationRequest, ledger: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On processors its passes need some, one for each core."""
    needs: list[dict[str, int]] = []

    def options(**given: int) -> SimpleNamespace:
        needs.append(given)
        return SimpleNamespace(remote=lambda _: "pending")

    monkeypatch.setattr(evaluation_job, "_evaluated", SimpleNamespace(options=options))
    monkeypatch.setattr(evaluation_job, "gpus_available", lambda: has_gpu)
    monkeypatch.setattr(evaluation_job, "memory_of_passes", lambda: 5)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "wait", lambda pending, **_: (pending, []))
    monkeypatch.setattr(ray, "get", lambda _: {})
    assert execute_evaluation(ledger, begin(ledger, asked)) == {}
    assert needs == [{"num_gpus": int(has_gpu), "memory": memory}]


def test_a_run_that_is_no_evaluation_is_refused(database: Database) -> None:
    """A segmentation run has another script."""
    run_id = begin_run(database, scan(database, [series_row("1.2.3")]))
    with pytest.raises(UsageError, match="no evaluation"):
        execute_evaluation(database, run_id)
