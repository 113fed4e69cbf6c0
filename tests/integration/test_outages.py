"""What a run depends on goes away in the middle of it, and comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from postgres import start_server

from vaeseg.db import session
from vaeseg.db.session import open_database, sqlite_url
from vaeseg.db.summaries import Progress, recent_runs, run_summary
from vaeseg.distributed import commit, runs
from vaeseg.distributed.submit import Submission, resume, submit
from vaeseg.distributed.verify import verify
from vaeseg.errors import DatabaseAwayError
from vaeseg.io.store import create_store

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A PostgreSQL of its own, that may be stopped."""
    own = start_server(tmp_path_factory.mktemp("outage"))
    yield own
    own.start()  # its end needs it running
    own.cleanup()


@pytest.fixture
def on_server(submission: Submission, server: Any) -> Submission:
    config = replace(submission.config, commit_every=1)
    return replace(submission, database_url=server.get_uri(), config=config)


@pytest.mark.parametrize("seconds", [4.0, pytest.param(30.0, marks=pytest.mark.slow)])
def test_a_run_outlasts_a_restart_of_the_database(
    on_server: Submission, server: Any, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped after the first series and started again, PostgreSQL has every finding once; the run never ended."""

    def stop_once(progress: Progress) -> None:
        if progress.series_done == 1:
            server.stop()
            threading.Timer(seconds, server.start).start()

    report = submit(on_server, stop_once)
    assert (report.status, report.outcomes["segmented"], report.complete) == ("finished", 3, True)
    assert "the database is away" in caplog.text
    with closing(open_database(server.get_uri())) as database:
        (run,) = recent_runs(database)
        assert (run.run_id, run.status) == (report.run_id, "finished")
        assert run_summary(database, report.run_id).outcomes["segmented"] == 3
        assert list(verify(create_store(on_server.store_root), database)) == []


@pytest.mark.slow
def test_a_database_that_stays_away_ends_the_run_resumably(
    on_server: Submission, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One clear error, no hang; once it is back, the run is resumed and nothing is lost or doubled."""
    monkeypatch.setattr(session, "PATIENCE_SECONDS", 1.0)

    def stop(progress: Progress) -> None:
        if progress.series_done == 1:
            server.stop()

    with pytest.raises(DatabaseAwayError, match=r"^database postgresql://"):
        submit(on_server, stop)
    server.start()
    store = create_store(Path(on_server.store_root))
    with closing(open_database(server.get_uri())) as database:
        (run,) = recent_runs(database)
        monkeypatch.setattr("vaeseg.db.drivers.is_surely_dead", lambda driver: True)  # this process was the driver
        assert resume(store, database, run.run_id).complete
        assert run_summary(database, run.run_id).outcomes["segmented"] == 3
        assert list(verify(store, database)) == []


def test_every_step_of_a_run_is_done_again_where_the_database_goes_away_in_it(
    submission: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Index, plan, manifests, publishing, coverage, end: each fails once when done; nothing is lost or doubled."""
    monkeypatch.setattr(session, "RECONNECT_SECONDS", 0.0)
    failed: list[str] = []

    def failing_once(name: str, really: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            result = really(*arguments, **named)
            is_idle = arguments[-1:] == ((),)  # recovery before the run, with nothing to publish
            if name not in failed and not is_idle:
                failed.append(name)
                raise DatabaseAwayError(f"in {name}")
            return result

        return call

    steps = {
        runs: ("update_index", "plan_work", "manifests_of", "count_coverage", "finish_run"),
        commit: ("run_key", "next_part_name", "mark_published"),
    }
    for module, names in steps.items():
        for name in names:
            monkeypatch.setattr(module, name, failing_once(name, getattr(module, name)))
    report = submit(submission)
    assert sorted(failed) == sorted(name for names in steps.values() for name in names)
    assert (report.status, report.outcomes["segmented"], report.files.refused) == ("finished", 3, 0)
    store = create_store(submission.store_root)
    with closing(open_database(sqlite_url(store.database_path))) as database:
        assert run_summary(database, report.run_id).outcomes["segmented"] == 3
        assert list(verify(store, database)) == []
