"""Ray that cannot be started, or reached, is one line."""

from __future__ import annotations

import os
import sys

import pytest
import ray

from vaeseg.distributed.local import start_ray
from vaeseg.errors import ClusterError


@pytest.fixture(autouse=True)
def _no_ray_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever other modules have started in this process."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.parametrize("kind", [TimeoutError, RuntimeError, Exception])
def test_ray_that_cannot_be_started_is_one_line(monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    """A node that does not come up in time says so, with the first line of what Ray says, whatever it raises."""

    def never(**options: object) -> None:
        raise kind("node timed out\nand the log of all daemons")

    monkeypatch.setattr(ray, "init", never)
    with pytest.raises(ClusterError) as caught:
        start_ray(None, 2)
    assert "cannot be started" in str(caught.value)
    assert "node timed out" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is what the user typed."""

    def refused(**options: object) -> None:
        raise ConnectionError("connection refused")

    monkeypatch.setattr(ray, "init", refused)
    with pytest.raises(ClusterError, match=r"cluster nowhere:6379 cannot be reached: connection refused"):
        start_ray("nowhere:6379", 2)


def test_what_python_says_while_ray_starts_is_shown_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ray's own greeting is held back; a process that is told to stop meanwhile can say so."""
    seen = []

    def greet(**options: object) -> None:
        os.write(2, b"greeting\n")
        sys.stderr.write("interrupted\n")
        seen.append(capfd.readouterr().err)

    monkeypatch.setattr(ray, "init", greet)
    start_ray(None, 2)
    assert seen == ["interrupted\n"]
    assert capfd.readouterr().err == ""
