"""The same as `test_partitions.py` with the settings that Ray has by itself: each takes minutes."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator

import pytest
from partitioned import (
    NEEDS_A_NETWORK,
    Place,
    awaited,
    has_ended,
    in_the_middle,
    laid,
    result_of,
)

import vaeseg.db.drivers
from vaeseg.db.summaries import recent_runs

pytestmark = [pytest.mark.cluster, pytest.mark.slow, NEEDS_A_NETWORK]

NOTICED_SECONDS = 90.0
"""Ray gives up a silent node after 65."""
LOST_SECONDS = 75.0
"""A silent driver is lost after 60."""


@pytest.fixture(scope="module")
def started(ray_session: None, one_thread: None) -> Iterator[Place]:
    with laid({}) as made:
        yield made


@pytest.fixture
def place(started: Place) -> Iterator[Place]:
    """The network is whole at the beginning of each test, and every node is there."""
    yield started
    for host in started.network.hosts:
        started.network.mend(host)
    for name in ("worker-1", "worker-2"):
        if not started.cluster.is_running(name):
            started.cluster.kill(name)
            started.cluster.start(name)


def in_progress(place: Place) -> str:
    """A run that nobody waits for, in the middle."""
    run_id = place.submitted()
    place.awaited(run_id, in_the_middle)
    return run_id


def newest(place: Place, before: int) -> str:
    """Id of the run that a command has just written down."""
    return str(awaited(lambda: recent_runs(place.database, 100), lambda runs: len(runs) > before)[0].run_id)


def test_a_worker_that_comes_back_in_time_stays(place: Place) -> None:
    """20 s of silence are no death: the run stands still, and goes on with the same node."""
    run_id = in_progress(place)
    place.network.cut("worker-1")
    time.sleep(20)
    place.network.mend("worker-1")
    place.check(run_id)
    assert place.cluster.states()["worker-1"] == "ALIVE"


def test_a_worker_that_comes_back_too_late_ends_itself(place: Place) -> None:
    """Ray notices within its health checks' time; what the node still does is not taken for done."""
    run_id = in_progress(place)
    place.network.cut("worker-1")
    since = time.monotonic()
    awaited(place.cluster.states, lambda states: states.get("worker-1") == "DEAD")
    assert time.monotonic() - since < NOTICED_SECONDS
    place.network.mend("worker-1")
    place.check(run_id)
    awaited(lambda: place.cluster.is_running("worker-1"), lambda is_running: not is_running)
    place.check(run_id)


def test_a_client_that_is_cut_off_waits_on(place: Place) -> None:
    """The run goes on; `logs --follow` says that nobody answers and is there again; the command tells the end."""
    before = len(recent_runs(place.database, 100))
    waiting = place.begun(*place.submission())
    run_id = newest(place, before)
    place.awaited(run_id, in_the_middle)
    following = place.begun("logs", run_id, "--follow")
    time.sleep(10)
    place.network.cut("client", "head")
    asked = place.called("status", run_id, "--json")
    assert json.loads(asked.stdout)["status"] in ("running", "finished")
    unread = place.called("logs", run_id)
    assert (unread.returncode, "cannot be reached" in unread.stderr) == (1, True)
    place.network.mend("client")
    told = result_of(waiting)
    assert (told.returncode, json.loads(told.stdout)["status"]) == (0, "finished")
    followed = result_of(following)
    assert (followed.returncode, f"run {run_id} is done" in followed.stdout) == (0, True)
    place.check(run_id)


def test_ctrl_c_ends_the_waiting_of_a_client_that_is_cut_off(place: Place) -> None:
    """Within half a minute, and the run goes on."""
    before = len(recent_runs(place.database, 100))
    waiting = place.begun(*place.submission())
    run_id = newest(place, before)
    place.awaited(run_id, in_the_middle)
    place.network.cut("client")
    time.sleep(10)
    since = time.monotonic()
    waiting.send_signal(signal.SIGINT)
    told = result_of(waiting)
    assert time.monotonic() - since < 60
    assert (told.returncode, f"'vaeseg-batch cancel {run_id}' stops it" in told.stderr) == (1, True)
    place.check(run_id)


def test_a_head_that_is_cut_off_from_the_database_for_30_s_goes_on(place: Place) -> None:
    """Its patience is five minutes; nothing is written twice."""
    run_id = in_progress(place)
    place.network.cut("head", "db")
    time.sleep(30)
    place.network.mend("head", "db")
    place.check(run_id)
    assert len(recent_runs(place.database, 1)) == 1


def test_a_head_that_comes_back_after_its_run_was_taken_over_does_nothing(place: Place) -> None:
    """The run is lost within a minute, goes on elsewhere, and is done once; the first driver stops."""
    run_id = in_progress(place)
    place.network.cut("head", "db")
    since = time.monotonic()
    place.awaited(run_id, lambda summary: summary.status == "lost")
    assert time.monotonic() - since < LOST_SECONDS
    resumed = place.called("resume", run_id, "--json")
    assert resumed.returncode == 0, resumed.stderr
    place.check(run_id)
    place.network.mend("head", "db")
    awaited(place.cluster.jobs, lambda jobs: jobs.get(f"vaeseg-{run_id}-a1") == "FAILED")
    place.check(run_id)


def test_a_run_whose_head_is_killed_is_lost_and_goes_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from another machine, where nobody sees that its driver has died; `resume` on a new cluster finishes it."""
    monkeypatch.setattr(vaeseg.db.drivers, "is_surely_dead", lambda driver: False)
    run_id = in_progress(place)
    since = time.monotonic()
    place.cluster.kill("head")
    place.awaited(run_id, lambda summary: summary.status == "lost")
    assert time.monotonic() - since < LOST_SECONDS
    for name in ("worker-1", "worker-2"):
        place.cluster.kill(name)
    place.cluster.start("head", "worker-1", "worker-2")
    resumed = place.called("resume", run_id, "--address", place.cluster.jobs_address, "--json")
    assert resumed.returncode == 0, resumed.stderr
    place.check(run_id)
    assert has_ended(recent_runs(place.database, 1)[0])
