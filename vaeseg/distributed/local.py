"""Ray, for as long as one command needs it: on this machine, or a cluster that this machine is a node of."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import TextIOBase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.job_config import JobConfig

from vaeseg.errors import ClusterAwayError, ClusterError, UsageError
from vaeseg.limits import usable_cores
from vaeseg.logs import for_printing

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 2 * 2**30
"""Two series of 2,000 slices on a 256 x 256 grid take 0.5 GB; more only fills /dev/shm."""
PASS_MEMORY_BYTES = 2**26
"""Of a model's pass on a processor: 21 MiB were measured with `phantom-v1`."""
REACH_SECONDS = 10.0
"""A cluster that has not answered by then is not there."""
SIGACTION_BYTES = 1024
"""More than C's `struct sigaction` takes anywhere."""
DEFAULT_PORTS = {"http": 80, "https": 443}
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # a hospital's cluster reports to nobody
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # the rest is in Ray's log files
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # of tasks that nobody waits for any more: the first that failed was told
}
_directories: list[Path] = []
"""Of the Ray that this process started, while it runs."""
_starting = threading.Lock()
"""Held while one thread starts Ray or ends it: another waits for it."""


def start_ray(address: str | None, n_cpus: int) -> None:
    """Connect to a running cluster, or start Ray here.

    Args:
        address: of a cluster, as `ray.init` takes it; None for a local one.
        n_cpus: logical CPUs of a local one.

    Raises:
        ClusterError: it cannot be reached, or not be started.
    """
    if address is None:
        start_local_ray(n_cpus)
    else:
        join_cluster(address)


def join_cluster(address: str) -> None:
    """Connect to a running cluster, of which this machine is a node; one that this process is connected to is kept.

    Args:
        address: ``HOST:PORT``, or ``auto`` for the cluster that runs on this machine.

    Raises:
        UsageError: it is the address of something else.
        ClusterError: the cluster cannot be reached.
    """
    if ray.is_initialized():
        return
    if "://" in address:
        raise UsageError(
            f"--address {address} is not HOST:PORT: this command is driven from a node of the cluster, with the "
            "address that 'ray start' printed there"
        )
    if address != "auto":
        check_reachable(address)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _failure_in_a_line(f"the Ray cluster {address} cannot be reached"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray warns of its own settings
        _init(address=address, log_to_driver=False, logging_level=logging.ERROR)


def is_jobs_address(address: str | None) -> bool:
    """Whether it is one of a Jobs API, and not of a cluster that this machine is a node of."""
    return address is not None and address.startswith(("http://", "https://"))


def check_reachable(address: str) -> None:
    """Find out at once whether anybody answers; Ray itself tries for minutes.

    Args:
        address: ``HOST:PORT``, or ``http://HOST:PORT`` or ``https://HOST[:PORT]`` of a Jobs API.

    Raises:
        UsageError: it is something else.
        ClusterAwayError: nobody answers.
    """
    url = urlsplit(address if "://" in address else f"//{address}")
    try:
        port = url.port or DEFAULT_PORTS.get(url.scheme)
    except ValueError:
        port = None
    if url.scheme not in ("", *DEFAULT_PORTS) or not url.hostname or not port or url.path.strip("/"):
        raise UsageError(
            f"--address {address} is neither http://HOST:PORT of a cluster's dashboard nor HOST:PORT, as 'ray start' "
            "prints it on a node of the cluster"
        )
    try:
        socket.create_connection((url.hostname, port), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise ClusterAwayError(f"the Ray cluster {address} cannot be reached: {error.strerror or error}") from error


def start_local_ray(n_cpus: int | None = None) -> None:
    """Start Ray with token authentication, no dashboard and no telemetry; one that runs in this process is kept.

    Args:
        n_cpus: logical CPUs; by default one for each core that this process may use.

    Raises:
        ClusterError: it cannot be started.
    """
    with _starting:
        if not ray.is_initialized():
            _start_local_ray(n_cpus)


def _start_local_ray(n_cpus: int | None) -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    could_not = "Ray cannot be started on this machine"
    with _failure_in_a_line(could_not), _native_stderr_held_back(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray warns of its own settings
        context = _init(
            address="local",
            num_cpus=n_cpus or usable_cores(),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
        )
    _directories.append(Path(context.address_info["session_dir"]))


class _InstalledCodeOnly(JobConfig):  # type: ignore[misc]  # ray has no types
    """Keeps the driver's working directory off its workers' path, where Ray puts it first unless a job brings its own.

    A folder of somebody's data that is named like a module, such as ``dl``, would be imported in its place.
    """

    def _runtime_env_has_working_dir(self) -> bool:
        return True


def _init(**options: Any) -> Any:
    """`ray.init` in a thread that stays, from where any other thread may use Ray.

    In the main thread it would take SIGTERM for itself and end the process without a word to the database. In a thread
    that ends, the next thread that uses Ray would end the process on the spot (exit code 1, no message).
    """
    started: Future[Any] = Future()

    def keep() -> None:
        try:
            with _sigterm_handler_kept():
                context = ray.init(job_config=_InstalledCodeOnly(), **options)
        except Exception as error:  # noqa: BLE001 - handed over, and raised in the thread that waits for it
            started.set_exception(error)
            return
        started.set_result(context)
        threading.Event().wait()

    threading.Thread(target=keep, name="ray", daemon=True).start()
    return started.result()


@contextmanager
def _sigterm_handler_kept() -> Iterator[None]:
    """Ray's C++ puts a handler before Python's, which has the process abort three seconds after SIGTERM.

    Asked of libc, since Python lets only the main thread set one.
    """
    libc, kept = ctypes.CDLL(None), ctypes.create_string_buffer(SIGACTION_BYTES)
    libc.sigaction(signal.SIGTERM, None, kept)
    try:
        yield
    finally:
        libc.sigaction(signal.SIGTERM, kept, None)


def stop_local_ray() -> None:
    """End the Ray that `start_local_ray` started, or is starting; only once no other thread uses it.

    Object references that are collected after the end, in whichever thread, would end the process on the spot (exit
    code 1, no message): they are collected first. Its directory goes with it: Ray itself leaves all logs behind.
    """
    with _starting:
        if not ray.is_initialized():
            return
        gc.collect()
        ray.shutdown(wait_for_processes=True)
        while _directories:
            shutil.rmtree(_directories.pop(), ignore_errors=True)


def nodes_with_cpus() -> list[str]:
    """Ids of the cluster's nodes that run tasks."""
    return [node["NodeID"] for node in _nodes_with_cpus()]


def memory_of_passes() -> int:
    """Bytes of main memory for the passes of a model on any node, one for each core that Ray was given there."""
    cores = max((int(node["Resources"]["CPU"]) for node in _nodes_with_cpus()), default=1)
    return cores * PASS_MEMORY_BYTES


def _nodes_with_cpus() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]


def cores_of_this_node() -> int:
    """Those that Ray was given on the node of this worker, as far as there are so many.

    Ray itself tells torch of as many as the worker asked for, which is one: on a node of 32, all others would stand
    still while a model segments.
    """
    node_id = ray.get_runtime_context().get_node_id()
    given = next((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["NodeID"] == node_id), 1)
    return max(1, min(given, usable_cores()))


def compute_on_own_cores(n_sharing: int = 1) -> None:
    """Have torch use the cores of this node, or what is this worker's of them where several share it."""
    import torch  # which a driver does without

    torch.set_num_threads(max(1, cores_of_this_node() // n_sharing))


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What Ray can give, as the machines have it."""

    n_cores: int
    """Of all nodes that run tasks."""
    n_gpus: int
    n_nodes: int
    """That run tasks."""


def hardware() -> Hardware:
    """What the cluster has.

    A Ray of this machine is told of more logical CPUs than there are, and several nodes may share it: of this machine
    no more cores count than it has, or than this process may use where it started Ray itself.
    """
    cores: Counter[str] = Counter()
    nodes = _nodes_with_cpus()
    for node in nodes:
        cores[node["NodeManagerHostname"]] += int(node["Resources"]["CPU"])
    here = socket.gethostname()
    cores[here] = min(cores[here], usable_cores() if _directories else os.cpu_count() or 1)
    n_gpus = int(ray.cluster_resources().get("GPU", 0))
    return Hardware(n_cores=max(1, cores.total()), n_gpus=n_gpus, n_nodes=max(1, len(nodes)))


def cores_at_hand() -> int:
    """Of the cluster that this process is connected to; else of this machine, on which a Ray would be started."""
    return hardware().n_cores if ray.is_initialized() else usable_cores()


def gpus_available() -> bool:
    """Whether Ray has a GPU to give."""
    return bool(ray.cluster_resources().get("GPU", 0) >= 1)


class RayChatter(TextIOBase):
    """Takes the place of `sys.stdout` while Ray runs.

    Ray prints there what its daemons say, where our JSON belongs; it becomes debug output.
    """

    def write(self, text: str) -> int:
        """Log a line."""
        if text.strip():
            logger.debug("ray: %s", text.strip())
        return len(text)


@contextmanager
def _failure_in_a_line(what: str) -> Iterator[None]:
    """Ray's failures to start come as many types, with whole logs in them."""
    try:
        yield
    except Exception as error:  # a raylet that dies while it starts is a bare Exception
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = "is the machine overloaded, or its temporary directory full?"
        raise ClusterError(f"{what}: {said[:200]}; {hint}") from error


@contextmanager
def _native_stderr_held_back() -> Iterator[None]:
    """Ray's C++ greets on file descriptor 2, where no logger reaches; shown only if starting fails.

    What Python says meanwhile is shown at once: the process may be told to stop while Ray starts.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with (
        tempfile.TemporaryFile() as held,
        os.fdopen(kept, "w", buffering=1) as shown,
        redirect_stderr(for_printing(shown)),
    ):
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
