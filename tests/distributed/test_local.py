"""Ray that cannot be started, or reached, is one line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from vaeseg.distributed import local
from vaeseg.distributed.local import cores_at_hand, hardware, start_ray
from vaeseg.errors import ClusterError, UsageError

A_RAY = """
import importlib.util, json, os, signal, time
from pathlib import Path
import ray
from vaeseg.distributed.local import start_local_ray, stop_local_ray

told = []
signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
start_local_ray(1)
found = ray.get(ray.remote(lambda: importlib.util.find_spec("dl") is not None).remote())
directory = Path(os.environ["RAY_TMPDIR"], "ray")
before = [path.name for path in directory.iterdir() if path.is_dir()]
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.1)
seconds_to_live, _ = signal.getitimer(signal.ITIMER_REAL)
stop_local_ray()
after = [path.name for path in directory.iterdir() if path.is_dir()]
print(json.dumps([found, before, after, told, seconds_to_live]))
"""
"""Whether a worker would import from the working directory; what lies in Ray's directory before and after the end; what
a handler of SIGTERM is told, and seconds on an alarm after it."""


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
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Ray's own greeting is held back; a process that is told to stop meanwhile can say so."""
    seen = []

    def greet(**options: object) -> SimpleNamespace:
        os.write(2, b"greeting\n")
        sys.stderr.write("interrupted\n")
        seen.append(capfd.readouterr().err)
        return SimpleNamespace(address_info={"session_dir": str(tmp_path / "session")})

    monkeypatch.setattr(ray, "init", greet)
    start_ray(None, 2)
    assert seen == ["interrupted\n"]
    assert capfd.readouterr().err == ""


def test_what_a_ray_leaves_alone(tmp_path: Path) -> None:
    """A folder of data named like a module is not one; what Ray wrote of a command goes with it; SIGTERM is ours.

    Ray's own handler for it says so on stderr, and has the process abort three seconds later.
    """
    (tmp_path / "dl").mkdir()
    with tempfile.TemporaryDirectory(prefix="rl") as directory:  # short: sockets must fit in 107 bytes
        environment = {**os.environ, "RAY_TMPDIR": directory}
        command = [sys.executable, "-P", "-c", A_RAY]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    found, before, after, told, seconds_to_live = json.loads(done.stdout.splitlines()[-1])
    assert not found
    assert (bool(before), after) == (True, [])
    assert (told, seconds_to_live, "SIGTERM" in done.stderr) == ([signal.SIGTERM], 0.0, False)


def test_cores_at_hand_are_the_clusters_or_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """By which portions of a run are sized: before a Ray of this machine is up too, and as a cluster grows."""
    elsewhere = {"Alive": True, "NodeManagerHostname": "elsewhere", "Resources": {"CPU": 60.0}}
    monkeypatch.setattr(local, "usable_cores", lambda: 4)
    monkeypatch.setattr(
        local,
        "ray",
        SimpleNamespace(is_initialized=lambda: False, nodes=lambda: [elsewhere, elsewhere], cluster_resources=dict),
    )
    assert cores_at_hand() == 4
    monkeypatch.setattr(local.ray, "is_initialized", lambda: True)
    assert cores_at_hand() == 120


def test_a_share_of_this_machine_counts_where_ray_shares_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Ray that this process started; one that was there before may have more of the machine, and no more than all."""
    here = {"Alive": True, "NodeManagerHostname": socket.gethostname(), "Resources": {"CPU": 64.0}}
    monkeypatch.setattr(local, "ray", SimpleNamespace(nodes=lambda: [here], cluster_resources=dict))
    monkeypatch.setattr(local, "usable_cores", lambda: 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(local, "_directories", [])
    assert hardware().n_cores == 8
    monkeypatch.setattr(local, "_directories", [tmp_path])
    assert hardware().n_cores == 1
