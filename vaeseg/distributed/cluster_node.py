"""One node of a small cluster on this machine: how it is started, which processes are its own, how they end.

No Ray in here: a node is `ray start --block`, in a session of its own. Each of its processes is known by a variable of
its environment, or, where Ray wrote a title over that, by the session.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vaeseg.errors import ClusterError
from vaeseg.process import is_surely_dead, process_name, processes_that, send_signal, session_of, title_of, variable_of

MARK = "VAESEG_CLUSTER_NODE"
"""Variable of the environment of every process of a node: the cluster's id and the node's name."""
PORT_RANGE = range(20000, 32000)
"""Below the ports that Linux gives to connections by itself, so that a port that was free stays so."""
NODE_PORTS = (
    "node-manager-port",
    "object-manager-port",
    "metrics-export-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
)
"""Options of `ray start` whose defaults would make the nodes of one machine collide, or be left to chance."""
HEAD_PORTS = ("port", "dashboard-port", "ray-client-server-port")
HEAD_PORT_VARIABLES = ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT")
"""Ports of a head for which `ray start` has no option."""
TERMINATE_SECONDS = 10.0
"""How long a node that was told to end is waited for; then it is killed."""
KILL_SECONDS = 10.0
POLL_SECONDS = 0.1
NOT_INHERITED = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_TMPDIR", "RAY_JOB_CONFIG_JSON_ENV_VAR")
"""Variables that speak of another cluster."""
NOT_FOR_WORKERS = ("VAESEG_DB", "VAESEG_DB_FILE")
"""The head's node runs drivers, which need it; workers hold no database password."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node that was started."""

    name: str
    """`head`, `worker-1` and so on; Ray knows it by this name too."""
    pid: int
    """Of `ray start`, which leads the session."""
    process: str
    """Name of that process, as `vaeseg.process` gives it."""
    mark: str
    """Value of MARK."""
    ports: dict[str, int]
    log: str
    """File that takes what `ray start` prints."""
    ray_logs: str
    """Directory of the logs of Ray's processes."""

    @property
    def is_running(self) -> bool:
        """Whether `ray start` runs; it ends as soon as one of its processes does."""
        return not is_surely_dead(self.process)

    def owns(self, pid: int) -> bool:
        """Whether a process is of this node: a daemon, a worker, a job's driver, or something that one of them started.

        Ray's daemons and workers lose the variable where their title lies over it; they stay in the session.
        """
        mark = variable_of(pid, MARK)
        if mark is not None:
            return mark == self.mark
        return session_of(pid) == self.pid and title_of(pid).startswith("ray")


def start_node(
    name: str,
    *,
    cluster_id: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    port_names: Sequence[str],
    temp_dir: Path,
    log: Path,
) -> Node:
    """Start a node, and do not wait for it.

    Args:
        name: unique in the cluster.
        cluster_id: unique for ever.
        arguments: of `ray start`, without ports.
        environment: in addition to that of this process.
        port_names: options of `ray start`, or variables, that take a port.
        temp_dir: of the node alone; may not exist yet.
        log: what it prints.

    Raises:
        ClusterError: the system can start no process.
    """
    ports = dict(zip(port_names, free_ports(len(port_names)), strict=True))
    options = [f"--{option}={port}" for option, port in ports.items() if option.islower()]
    variables = {variable: str(port) for variable, port in ports.items() if variable.isupper()}
    mark = f"{cluster_id}/{name}"
    ray_start = ("-m", "ray.scripts.scripts", "start", "--block", f"--node-name={name}", f"--temp-dir={temp_dir}")
    command = [sys.executable, *ray_start, "--log-style=record", "--log-color=false", *options, *arguments]
    pid = _detached(command, {**_inherited(name), **environment, **variables, MARK: mark}, log)
    return Node(
        name=name,
        pid=pid,
        process=process_name(pid),
        mark=mark,
        ports=ports,
        log=str(log),
        ray_logs=str(temp_dir / "session_latest" / "logs"),
    )


def free_ports(n: int) -> list[int]:
    """Ports that nothing listens on, on any interface.

    Raises:
        ClusterError: there are not that many.
    """
    free: list[int] = []
    for port in random.sample(PORT_RANGE, len(PORT_RANGE)):
        if len(free) == n:
            return free
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            free.append(port)
    raise ClusterError(f"no {n} free ports between {PORT_RANGE.start} and {PORT_RANGE.stop}")


def _inherited(name: str) -> dict[str, str]:
    hidden = NOT_INHERITED if name == "head" else (*NOT_INHERITED, *NOT_FOR_WORKERS)
    kept = {variable: value for variable, value in os.environ.items() if variable not in hidden}
    ours = str(Path(sys.executable).parent)  # entry points of jobs say `python`
    return {**kept, "PATH": os.pathsep.join([ours, *filter(None, [kept.get("PATH")])])}


def _detached(command: list[str], environment: dict[str, str], log: Path) -> int:
    """Start a process that outlives this one, in a session of its own; returns its pid."""
    written = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), written, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    try:
        return os.posix_spawn(command[0], command, environment, file_actions=files, setsid=True)
    except OSError as error:
        raise ClusterError(f"no process can be started: {error.strerror}") from error


def end_processes(
    owned: Callable[[int], bool], leaders: Collection[int], *, terminate_seconds: float = TERMINATE_SECONDS
) -> None:
    """End every process that is owned, and nothing else; does nothing where none runs.

    What leads a node is asked first, and so are drivers of jobs, which close their runs; what is left is killed.

    Args:
        owned: tells by its pid.
        leaders: pids of what leads the nodes' sessions.
        terminate_seconds: 0 to kill at once.

    Raises:
        ClusterError: a process does not end even so.
    """
    if terminate_seconds:
        # Ray starts a job's driver in a session of its own
        asked = [pid for pid in running(owned) if pid in leaders or session_of(pid) not in leaders]
        for pid in asked:
            send_signal(pid, signal.SIGTERM, owned)
        _await_end(owned, leaders, terminate_seconds)
    started = time.monotonic()
    while left := running(owned):
        if time.monotonic() - started > KILL_SECONDS:
            raise ClusterError(f"processes {', '.join(map(str, left))} of the cluster do not end")
        for pid in left:
            send_signal(pid, signal.SIGKILL, owned)
        _await_end(owned, leaders, 2 * POLL_SECONDS)


def running(owned: Callable[[int], bool]) -> list[int]:
    """Pids of what is owned and runs."""
    return list(processes_that(owned))


def _await_end(owned: Callable[[int], bool], leaders: Collection[int], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and running(owned):
        time.sleep(POLL_SECONDS)
    for pid in leaders:
        with suppress(ChildProcessError):  # of another process than this, or noticed before
            os.waitpid(pid, os.WNOHANG)
