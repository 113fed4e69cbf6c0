from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from ledger_factories import Clock, begin_run, failed, scan, segmented, series_row

from vaeseg.db.drivers import take_up
from vaeseg.db.runs import finish_run, reopen_run
from vaeseg.db.session import Database
from vaeseg.db.summaries import Progress, progress_of, run_summary
from vaeseg.db.work import plan_work
from vaeseg.distributed import jobs
from vaeseg.distributed.commit import commit_group
from vaeseg.distributed.jobs import followed, hand_to_cluster, indexed_by_job, segmented_by_job, take_back
from vaeseg.errors import ClusterError, VaesegError
from vaeseg.io.store import Store

COUNTS: dict[str, Any] = {
    "outcomes": {"segmented": 2, "failed": 1},
    "left_out_by_rule": {"thin": 1},
    "n_slices": 60,
    "seconds": 8.5,
    "index": {"n_read": 9, "n_vanished": 0},
    "is_retry": False,
    "unmatched_labels": 1,
}


@dataclass
class Cluster:
    """Stands for `JobsApi`: a job that goes through states, one a question."""

    states: list[Any] = field(default_factory=list)
    log: str = ""
    refuses: bool = False
    submitted: list[tuple[str, str, str]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    def submit(self, script: str, run_id: str, submission_id: str) -> None:
        if self.refuses:
            raise ClusterError("no room")
        self.submitted.append((script, run_id, submission_id))

    def state(self, submission_id: str) -> str:
        state = self.states.pop(0)
        if callable(state):
            state = state()
        if state == "away":
            raise ClusterError("nobody there")
        return str(state)

    def ending(self, submission_id: str) -> str:
        return "exit code 1"

    def logs(self, submission_id: str) -> str:
        return self.log

    def stop(self, submission_id: str) -> None:
        self.stopped.append(submission_id)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(jobs, "ASK_SECONDS", 0.0)


@pytest.fixture
def run_id(database: Database) -> str:
    begun = begin_run(database, scan(database, [series_row("1.2.3")]))
    finish_run(database, begun, "interrupted")
    reopen_run(database, begun, {"jobs_address": "http://head:8265"})
    return begun


def ended(database: Database, run_id: str, status: Any, counts: dict[str, Any] | None = None) -> Callable[[], str]:
    """What a job does to the database before somebody asks for it."""

    def end() -> str:
        take_up(database, run_id)
        finish_run(database, run_id, status, counts)
        return "ended"

    return end


def test_what_a_job_did_is_reported_as_if_it_had_been_done_here(database: Database, run_id: str) -> None:
    """From the run's row alone; the job carries the run's id."""
    cluster = Cluster(states=["pending", "running", ended(database, run_id, "finished", COUNTS)])
    shown: list[Progress] = []
    report = segmented_by_job(cluster, database, run_id, True, shown.append)  # type: ignore[arg-type]
    assert cluster.submitted == [("segment_archive", run_id, f"vaeseg-{run_id}-a2")]
    assert (report.outcomes, report.n_slices, report.seconds) == (COUNTS["outcomes"], 60, 8.5)
    assert (report.left_out_by_rule, report.unmatched_labels) == ({"thin": 1}, 1)
    assert not report.complete
    assert shown[0] == Progress(series_done=0, series_total=0, slices_done=0, failures=0)


def test_a_job_that_nobody_waits_for_is_under_way(database: Database, run_id: str) -> None:
    """Nothing is known of it, and it is not lost."""
    report = segmented_by_job(Cluster(), database, run_id, False)  # type: ignore[arg-type]
    assert (report.is_under_way, report.complete) == (True, True)
    assert run_summary(database, run_id).status == "submitted"


def test_an_index_is_brought_up_to_date_by_a_job(database: Database, run_id: str) -> None:
    """Its counts; none where nobody waits."""
    cluster = Cluster(states=[ended(database, run_id, "finished", COUNTS)])
    assert indexed_by_job(cluster, database, run_id, True) == COUNTS["index"]  # type: ignore[arg-type]
    assert cluster.submitted[0][0] == "index_archive"
    assert indexed_by_job(cluster, database, run_id, False) == {}  # type: ignore[arg-type]


def test_a_cluster_that_refuses_leaves_a_run_that_failed(database: Database, run_id: str) -> None:
    """It does not wait for a job that nobody has."""
    with pytest.raises(ClusterError, match="no room"):
        segmented_by_job(Cluster(refuses=True), database, run_id, True)  # type: ignore[arg-type]
    assert run_summary(database, run_id).status == "failed"


def test_a_job_that_dies_closes_its_run_at_once(database: Database, run_id: str) -> None:
    """Nobody must wait a minute for a driver that the cluster knows to be dead; its last words are told."""
    said = f"Traceback\nrun {run_id}: no space left\nrun x: other\n"
    with pytest.raises(ClusterError, match=f"before the run: no space left; .*'vaeseg-batch resume {run_id}'"):
        segmented_by_job(Cluster(["running", "ended"], said), database, run_id, True)  # type: ignore[arg-type]
    assert run_summary(database, run_id).status == "interrupted"


def test_a_job_that_says_nothing_is_known_by_what_ray_says(database: Database, run_id: str) -> None:
    """Killed, say."""
    with pytest.raises(ClusterError, match="before the run: exit code 1;"):
        segmented_by_job(Cluster(["ended"]), database, run_id, True)  # type: ignore[arg-type]


def test_a_cluster_that_is_away_for_a_while_is_waited_for(database: Database, run_id: str) -> None:
    """The database tells how the run goes."""
    cluster = Cluster(states=["away", "away", ended(database, run_id, "nothing_to_do", COUNTS)])
    assert segmented_by_job(cluster, database, run_id, True).status == "nothing_to_do"  # type: ignore[arg-type]


def test_a_cluster_that_is_gone_makes_its_run_lost(database: Database, run_id: str, clock: Clock) -> None:
    """After a minute without a sign of life; it can be gone on with elsewhere."""

    def fall_silent() -> str:
        take_up(database, run_id)
        clock.advance(61)
        return "away"

    with pytest.raises(ClusterError, match=r"nothing was heard .* 'vaeseg-batch resume"):
        segmented_by_job(Cluster([fall_silent]), database, run_id, True)  # type: ignore[arg-type]
    assert run_summary(database, run_id).status == "lost"


def test_a_run_that_fails_in_its_job_fails_here(database: Database, run_id: str) -> None:
    """With what its driver said."""
    cluster = Cluster([ended(database, run_id, "failed")], f"run {run_id}: the store is full\n")
    with pytest.raises(VaesegError, match=r"^the store is full$"):
        segmented_by_job(cluster, database, run_id, True)  # type: ignore[arg-type]


def test_a_run_that_was_gone_on_with_elsewhere_is_not_closed(database: Database, run_id: str) -> None:
    """Its first job is dead, and its second at work: whoever waits for the first stops waiting, and no more."""

    def taken_elsewhere() -> str:
        finish_run(database, run_id, "interrupted")
        reopen_run(database, run_id, {"jobs_address": "http://other:8265"})
        return "unknown"

    with pytest.raises(ClusterError, match="before the run"):
        segmented_by_job(Cluster([taken_elsewhere]), database, run_id, True)  # type: ignore[arg-type]
    assert run_summary(database, run_id).status == "running"


def test_a_log_is_told_in_whole_lines(database: Database, run_id: str) -> None:
    """Also where it is read in the middle of one."""
    cluster = Cluster(log="one\ntw")

    def written() -> str:
        cluster.log = "one\ntwo\n"
        return ended(database, run_id, "finished", COUNTS)()

    cluster.states = ["running", written]
    told: list[str] = []
    followed(hand_to_cluster(cluster, database, "train_vae", run_id), told.append)  # type: ignore[arg-type]
    assert told == ["one", "two"]


def test_a_job_that_waits_for_its_cluster_can_be_taken_back(
    database: Database, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is closed whether the cluster answers or not, and the job is stopped if it does."""
    cluster = Cluster()
    monkeypatch.setattr(jobs, "JobsApi", lambda address: cluster)
    monkeypatch.setattr(jobs, "last_submission", lambda *_: ("http://head:8265", "vaeseg-x-a1"))
    take_back(database, run_id)
    assert (run_summary(database, run_id).status, cluster.stopped) == ("interrupted", ["vaeseg-x-a1"])


def test_progress_is_what_is_committed(database: Database, store: Store) -> None:
    """Slices are those that were segmented; a series that failed is done, and counted as a failure."""
    run_id = begin_run(database, scan(database, [series_row(f"1.2.{n}") for n in range(3)]))
    one, two, _ = plan_work(database, run_id, ["1.2.0", "1.2.1", "1.2.2"]).pending
    commit_group(run_id, [(one, segmented(one)), (two, failed(two))], store, database)
    progress = progress_of(run_summary(database, run_id))
    assert progress == Progress(series_done=2, series_total=3, slices_done=3, failures=1)
