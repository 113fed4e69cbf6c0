from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import requests

from vaeseg.distributed import jobs_api
from vaeseg.distributed.job_script import jobs_directory
from vaeseg.distributed.jobs_api import CHECK_SCRIPT, JobsApi, JobScript, entry_point
from vaeseg.distributed.local import is_jobs_address
from vaeseg.errors import ClusterAwayError, ClusterError, UsageError


def test_every_script_that_is_submitted_is_there() -> None:
    """And none that nobody submits."""
    assert sorted(path.stem for path in jobs_directory().glob("*.py")) == sorted([*get_args(JobScript), CHECK_SCRIPT])


@pytest.mark.parametrize("name", ["", "../setup", "no_such_job"])
def test_a_script_that_is_not_there_is_a_usage_error(name: str) -> None:
    """The message has those that are."""
    command = [sys.executable, "-P", "-m", "vaeseg.distributed.job_script", *([name] if name else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there are" in done.stderr
    assert "segment_archive" in done.stderr


def test_a_job_says_why_it_failed_in_json_where_its_node_asks_for_it(tmp_path: Path) -> None:
    """One object; what the job prints on stdout is its log as ever."""
    command = [sys.executable, "-P", str(jobs_directory() / "segment_archive.py"), "--run-id", "20261122T013000-1a2b3c"]
    environment = {**os.environ, "VAESEG_LOG_FORMAT": "json", "VAESEG_STORE": str(tmp_path / "none"), "VAESEG_DB": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    record = json.loads(done.stderr)
    assert (done.returncode, record["level"]) == (2, "error")
    assert record["message"].startswith("run 20261122T013000-1a2b3c: no store at")


UNEXPECTED = """
from pathlib import Path
from vaeseg.distributed import {module}

def broken(*_):
    Path("/archive/" + "CANARY" + "NAME").read_bytes()

{module}.{name} = broken
{module}.{call}
"""


@pytest.mark.parametrize(
    ("module", "name", "call", "option"),
    [
        ("job", "existing_store", "run_job('', broken)", "--run-id"),
        ("doctor_job", "checks_of_head", "run_check('')", "--check-id"),
    ],
)
def test_a_job_that_ends_with_an_error_of_others_does_not_quote_it(
    module: str, name: str, call: str, option: str
) -> None:
    """It is the log of the job, for everybody who may look at the cluster."""
    program = UNEXPECTED.format(module=module, name=name, call=call)
    command = [sys.executable, "-c", program, option, "1"]
    environment = {**os.environ, "VAESEG_DB": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, "FileNotFoundError" in done.stderr) == (1, True)
    assert "CANARYNAME" not in done.stdout + done.stderr


def test_an_entry_point_carries_the_run_and_nothing_else() -> None:
    """Everybody who may look at the cluster sees it."""
    command = entry_point("segment_archive", "20261122T013000-1a2b3c")
    assert command.split()[:4] == ["python", "-P", "-m", "vaeseg.distributed.job_script"]
    assert command.split()[4:] == ["segment_archive", "--run-id", "20261122T013000-1a2b3c"]


@pytest.mark.parametrize("address", ["head:6379", "auto", "ray://head:10001"])
def test_what_is_no_jobs_api_is_a_usage_error(address: str) -> None:
    """Of `logs` and `evaluate`, which know no other address."""
    with pytest.raises(UsageError, match=f"--address {address} is not http://HOST:PORT"):
        JobsApi(address)


@pytest.mark.parametrize(("code", "state"), [(404, "unknown"), (500, None)])
def test_a_job_is_unknown_only_to_a_cluster_that_says_so(
    code: int, state: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id with 404 in it, in the message of another failure, does not make it so."""
    submission = "vaeseg-20261125T040404-404404-a1"

    def refuse(*_: object) -> None:
        raise RuntimeError(f"Request failed with status code {code}: {submission}.")

    cluster = JobsApi.__new__(JobsApi)
    cluster._address = "http://head:8265"
    cluster._client = SimpleNamespace(get_job_info=refuse)
    if state is None:
        with pytest.raises(ClusterError, match="status code 500"):
            cluster.state(submission)
    else:
        assert cluster.state(submission) == state


def test_a_job_runs_on_the_head_and_tells_the_run_and_nothing_else() -> None:
    """Workers hold no database password, so that no driver may land there."""
    told: dict[str, Any] = {}
    cluster = JobsApi.__new__(JobsApi)
    cluster._client = SimpleNamespace(submit_job=told.update)
    cluster.submit("train_vae", "r1", "vaeseg-r1-a2")
    assert told.pop("entrypoint_memory") > 0
    assert told == {
        "entrypoint": "python -P -m vaeseg.distributed.job_script train_vae --run-id r1",
        "submission_id": "vaeseg-r1-a2",
        "metadata": {"run_id": "r1"},
        "entrypoint_resources": {"node:__internal_head__": 0.001},
    }


@contextmanager
def server(answers: bool) -> Iterator[str]:
    """Address of something that says what version of Ray it is, or takes connections and says nothing."""

    class Version(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"ray_version": "2.60.0"}')

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Version, bind_and_activate=True) as httpd:
        if answers:
            threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        if answers:
            httpd.shutdown()


def test_the_address_that_was_given_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own client would go where RAY_ADDRESS says."""
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    with server(answers=True) as address:
        JobsApi(address)
    assert "RAY_API_SERVER_ADDRESS" not in os.environ


def test_a_head_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition of the network hangs no night."""
    monkeypatch.setattr(jobs_api, "ANSWER_SECONDS", 0.3)
    with server(answers=False) as address, pytest.raises(ClusterAwayError, match="does not answer: nothing came for"):
        JobsApi(address)


@pytest.mark.parametrize("away", [requests.ConnectionError("refused"), requests.ConnectTimeout("slow")])
def test_a_cluster_that_goes_away_is_told_from_one_that_refuses(away: Exception) -> None:
    """It may come back, so that `logs --follow` waits for it."""

    def fail(*_: object) -> None:
        raise away

    cluster = JobsApi.__new__(JobsApi)
    cluster._address = "http://head:8265"
    cluster._client = SimpleNamespace(get_job_info=fail)
    with pytest.raises(ClusterAwayError, match="http://head:8265 does not answer: it cannot be reached; see whether"):
        cluster.state("vaeseg-r1-a1")


def test_an_address_says_whether_it_is_submitted_to() -> None:
    """A Jobs API is spoken to over http; anything else is joined."""
    assert is_jobs_address("http://head:8265")
    assert is_jobs_address("https://head")
    assert not is_jobs_address("head:6379")
    assert not is_jobs_address(None)
