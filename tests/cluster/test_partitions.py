"""Runs on a cluster whose network is cut in the middle of them: nothing hangs, is lost, doubled or found otherwise.

Head, workers, client and PostgreSQL have hosts of their own. Ray is told to notice sooner than it does by itself: the
long forms are in `test_long_partitions.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from partitioned import NEEDS_A_NETWORK, QUICK_HEALTH_CHECKS, Place, awaited, in_the_middle, laid, result_of

from vaeseg.db.summaries import recent_runs

pytestmark = [pytest.mark.cluster, pytest.mark.slow, NEEDS_A_NETWORK]


@pytest.fixture(scope="module")
def place(ray_session: None, one_thread: None) -> Iterator[Place]:
    with laid(QUICK_HEALTH_CHECKS) as made:
        yield made


def test_a_client_elsewhere_needs_the_token(place: Place) -> None:
    """Without it nothing is written down, and one line says what is missing."""
    done = place.called(*place.submission(), RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN_PATH="/nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert "demands its token: set RAY_AUTH_MODE=token" in done.stderr
    assert done.stderr.count("\n") == 1
    assert recent_runs(place.database, 10) == []


def test_a_worker_that_is_cut_off_for_good_costs_nothing(place: Place) -> None:
    """The command waits, the others do what it had, and it ends itself once it hears that it was given up."""
    waiting = place.begun(*place.submission())
    run_id = str(awaited(lambda: recent_runs(place.database, 1), bool)[0].run_id)
    place.awaited(run_id, in_the_middle)
    place.network.cut("worker-1")
    place.check(run_id)
    told = result_of(waiting)
    assert (told.returncode, json.loads(told.stdout)["status"], told.stderr) == (0, "finished", "")
    assert place.cluster.states()["worker-1"] == "DEAD"
    place.network.mend("worker-1")
    awaited(lambda: place.cluster.is_running("worker-1"), lambda is_running: not is_running)
