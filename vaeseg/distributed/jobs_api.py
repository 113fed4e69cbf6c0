"""Runs as jobs of a Ray cluster: submitted, looked at, read and stopped through its Jobs API.

A job carries the id of its run and nothing else: entry point and metadata are for everybody to see who may look at the
cluster. What the run is to do is in the database, which the head node finds by its own VAESEG_STORE and VAESEG_DB.
"""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from requests import ConnectionError as RequestsConnectionError
from requests import ReadTimeout, RequestException, Timeout

from vaeseg.distributed.local import REACH_SECONDS, check_reachable, is_jobs_address
from vaeseg.errors import ClusterAwayError, ClusterError, UsageError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray warns of its own dependencies
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

JobScript = Literal["index_archive", "segment_archive", "train_vae", "train_decoder", "evaluate_model"]
"""The scripts of `jobs/` that execute a run."""
CHECK_SCRIPT = "check_cluster"
"""The one that executes none."""
JobState = Literal["pending", "running", "ended", "unknown"]

ANSWER_SECONDS = 30.0
"""A head node that says nothing for so long is not there."""
DRIVER_MEMORY_BYTES = 2**30
"""Of the head node, for a driver: 0.7 GB were measured at 100,000 planned series."""
NO_SUCH_JOB = "Request failed with status code 404:"
"""How Ray's client begins its message; what follows may hold any number, in an id for one."""
HEAD = "node:__internal_head__"
"""A resource that Ray gives to the head node alone."""


class JobsApi:
    """The Jobs API of a cluster.

    Args:
        address: ``http://HOST:PORT`` of its dashboard.

    Raises:
        UsageError: it is the address of something else.
        ClusterError: it cannot be reached, is no Ray cluster, or demands a token that we do not have.
    """

    def __init__(self, address: str) -> None:
        if not is_jobs_address(address):
            raise UsageError(f"--address {address} is not http://HOST:PORT of a cluster's dashboard, which takes jobs")
        self._address = address
        check_reachable(address)
        with self._failures_in_a_line(), _no_other_address(address):
            self._client = _Client(address)

    def submit(self, script: JobScript, run_id: str, submission_id: str) -> None:
        """Start a job that executes a run.

        Its driver runs on the head node, where the database can be reached and which workers' crashes do not touch.

        Raises:
            ClusterError: the cluster does not take it.
        """
        with self._failures_in_a_line():
            self._client.submit_job(
                entrypoint=entry_point(script, run_id),
                submission_id=submission_id,
                metadata={"run_id": run_id},
                entrypoint_resources={HEAD: 0.001},
                entrypoint_memory=DRIVER_MEMORY_BYTES,
            )

    def submit_check(self, check_id: str) -> str:
        """Start a job that looks at the cluster; returns its id.

        It takes neither CPU nor memory from those that count them, so that it begins beside a run that has them all.

        Raises:
            ClusterError: the cluster does not take it.
        """
        submission_id = f"vaeseg-doctor-{check_id}"
        with self._failures_in_a_line():
            self._client.submit_job(
                entrypoint=_command(CHECK_SCRIPT, "--check-id", check_id),
                submission_id=submission_id,
                entrypoint_resources={HEAD: 0.001},
            )
        return submission_id

    def state(self, submission_id: str) -> JobState:
        """How far a job is; ``unknown`` to a cluster that never had it, or forgot it.

        Raises:
            ClusterError: the cluster cannot be asked.
        """
        found = self._info(submission_id)
        if found is None:
            return "unknown"
        if found.status.is_terminal():
            return "ended"
        return "pending" if found.status == "PENDING" else "running"

    def ending(self, submission_id: str) -> str:
        """What Ray says of the end of a job, in a line; empty where it says nothing.

        Raises:
            ClusterError: the cluster cannot be asked.
        """
        found = self._info(submission_id)
        return "" if found is None else " ".join(str(found.message or "").split())[:300]

    def logs(self, submission_id: str) -> str:
        """All that a job has printed so far.

        Raises:
            UsageError: the cluster knows no such job.
            ClusterError: the cluster cannot be asked.
        """
        if self._info(submission_id) is None:
            raise UsageError(f"the cluster {self._address} knows no job {submission_id}: it was started anew since")
        with self._failures_in_a_line():
            return str(self._client.get_job_logs(submission_id))

    def stop(self, submission_id: str) -> None:
        """Ask a job to end, as SIGTERM would; one that has ended or is unknown stays as it is.

        Raises:
            ClusterError: the cluster cannot be asked.
        """
        if self.state(submission_id) in ("pending", "running"):
            with self._failures_in_a_line():
                self._client.stop_job(submission_id)

    def _info(self, submission_id: str) -> Any:
        with self._failures_in_a_line():
            try:
                return self._client.get_job_info(submission_id)
            except RuntimeError as error:
                if str(error).startswith(NO_SUCH_JOB):
                    return None
                raise

    @contextmanager
    def _failures_in_a_line(self) -> Iterator[None]:
        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(
                f"the Ray cluster {self._address} demands its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH "
                "to a file that holds it"
            ) from error
        except (RequestsConnectionError, Timeout, ConnectionError) as error:
            raise ClusterAwayError(f"the Ray cluster {self._address} does not answer: {_short(error)}") from error
        except (RequestException, RuntimeError, ValueError, KeyError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ClusterError(f"the Ray cluster {self._address} does not do as asked: {lines[-1][:300]}") from error


def _short(error: Exception) -> str:
    """What requests says has the address twice, and classes of two libraries."""
    what = f"nothing came for {ANSWER_SECONDS:.0f} s" if isinstance(error, ReadTimeout) else "it cannot be reached"
    return f"{what}; see whether its head runs, and the network between"


def entry_point(script: JobScript, run_id: str) -> str:
    """The command of a job: the script of whatever vaeseg the head node has installed."""
    return _command(script, "--run-id", run_id)


def _command(script: str, *arguments: str) -> str:
    return shlex.join(["python", "-P", "-m", "vaeseg.distributed.job_script", script, *arguments])


class _Client(JobSubmissionClient):  # type: ignore[misc]  # ray has no types
    """Ray's own, which would wait for ever for a head node that went away."""

    def _do_request(self, *args: Any, **options: Any) -> Any:
        return super()._do_request(*args, **{"timeout": (REACH_SECONDS, ANSWER_SECONDS), **options})


@contextmanager
def _no_other_address(address: str) -> Iterator[None]:
    """Ray's client would take the address from RAY_ADDRESS, whatever it is given."""
    name = "RAY_API_SERVER_ADDRESS"
    before = os.environ.get(name)
    os.environ[name] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
