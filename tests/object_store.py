"""An S3 server on this machine, from a wheel, in a process of its own: nothing leaves the machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from vaeseg.paths import any_path
from vaeseg.remote import RemotePath

START_SECONDS = 60.0


@dataclass(frozen=True)
class Server:
    """A running one."""

    endpoint: str
    pid: int


@contextmanager
def s3_server() -> Iterator[Server]:
    """A server without buckets; its keys are any."""
    port = _free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(endpoint, process)
        yield Server(endpoint, process.pid)
    finally:
        process.kill()
        process.wait()


def credentials() -> dict[str, str]:
    """As the environment has them."""
    return {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def make_bucket(endpoint: str, name: str) -> RemotePath:
    """An empty bucket; its URL names the server."""
    request = urllib.request.Request(f"{endpoint}/{name}", method="PUT")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200
    made = any_path(f"s3://{name}?endpoint_override={urlsplit(endpoint).netloc}&scheme=http")
    assert isinstance(made, RemotePath)
    return made


def copy_tree(directory: Path, target: RemotePath) -> None:
    """Put every file of a directory into an object store, under its own relative name."""
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            (target / path.relative_to(directory)).write_bytes(path.read_bytes())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        assert process.poll() is None, f"the S3 server ended with exit code {process.returncode}"
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"no S3 server in {START_SECONDS:.0f} s, {os.cpu_count()} cores")
