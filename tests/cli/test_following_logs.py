"""`logs --follow` of a cluster that stops answering for a while, or for good."""

from __future__ import annotations

from typing import Any

import pytest

from vaeseg.cli import logs
from vaeseg.errors import ClusterAwayError, ClusterError


class Cluster:
    """Stands for `JobsApi`: one answer a question, a log or a failure."""

    def __init__(self, *answers: str | Exception) -> None:
        self._answers = list(answers)

    def state(self, _submission_id: str) -> str:
        if isinstance(self._answers[0], Exception):
            raise self._answers.pop(0)
        return "ended" if len(self._answers) == 1 else "running"

    def logs(self, _submission_id: str) -> Any:
        return self._answers.pop(0)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FOLLOW_SECONDS", 0.0)


def test_what_comes_after_silence_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of the log is lost or said again, and the silence is told in one line."""
    away = ClusterAwayError("the cluster does not answer")
    logs._print_logs(Cluster("one\n", away, away, "one\ntwo\n", "one\ntwo\nthree\n"), "vaeseg-r1-a1", follow=True)
    shown = capsys.readouterr()
    assert shown.out == "one\ntwo\nthree\n"
    assert shown.err == "the cluster does not answer; it is waited for up to 120 s\n"


def test_a_cluster_that_stays_away_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody follows for ever what is not there."""
    monkeypatch.setattr(logs, "AWAY_SECONDS", 0.01)
    away = [ClusterAwayError("the cluster does not answer")] * 100_000
    with pytest.raises(ClusterAwayError):
        logs._print_logs(Cluster("one\n", *away), "vaeseg-r1-a1", follow=True)


@pytest.mark.parametrize(("failure", "follow"), [(ClusterAwayError("away"), False), (ClusterError("no token"), True)])
def test_other_failures_end_it_at_once(failure: ClusterError, follow: bool) -> None:
    """Without --follow there is nothing to wait for, and a token does not appear by waiting."""
    with pytest.raises(type(failure)):
        logs._print_logs(Cluster(failure, "one\n"), "vaeseg-r1-a1", follow)
