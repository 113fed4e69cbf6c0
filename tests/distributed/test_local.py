"""Ray that cannot be started, or reached, is one line."""

from __future__ import annotations

import os
import socket
import sys

import pytest
import ray

from vaeseg.distributed.local import start_ray
from vaeseg.errors import ClusterError, UsageError


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


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379"])
def test_a_cluster_that_is_not_there_is_named(address: str) -> None:
    """The address is what the user typed; Ray itself would try for minutes."""
    with pytest.raises(ClusterError, match=rf"cluster {address} cannot be reached: "):
        start_ray(address, 2)


@pytest.mark.parametrize("address", ["http://head:8265", "ray://head:10001", "head", "head:", ":6379"])
def test_an_address_of_something_else_is_a_usage_error(address: str) -> None:
    """What can be given, and where it is found."""
    with pytest.raises(UsageError, match=rf"--address {address} is (not|neither) .*HOST:PORT"):
        start_ray(address, 2)


def test_what_ray_says_of_a_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something answers at the address, and is no cluster that can be joined."""

    def refused(**options: object) -> None:
        raise ConnectionError("version mismatch\nand much more")

    monkeypatch.setattr(ray, "init", refused)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(ClusterError, match=rf"cluster {address} cannot be reached: version mismatch; "):
            start_ray(address, 2)


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
