"""A small real Ray cluster on this machine: a head and workers as processes of their own, and nothing else touched.

No Ray in here. What was started is written to `cluster.json` in a directory, from which another process can stop it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

from vaeseg.distributed.cluster_node import (
    HEAD_PORT_VARIABLES,
    HEAD_PORTS,
    MARK,
    NODE_PORTS,
    POLL_SECONDS,
    TERMINATE_SECONDS,
    Node,
    end_processes,
    running,
    start_node,
)
from vaeseg.durable import write_atomically
from vaeseg.errors import ClusterError, UsageError
from vaeseg.process import variable_of

STATE_NAME = "cluster.json"
TOKEN_NAME = "token"
LOGS_NAME = "logs"
OBJECT_STORE_BYTES = 256 * 2**20
"""Of each node: Ray's least is 75 MiB, and by default each would take 30 % of the machine's memory."""
START_SECONDS = 300.0
"""A head on two busy cores took 23 s, and a worker 12 s."""
START_ATTEMPTS = 4
AGENT_SECONDS = 20.0
"""A node whose agents are not up by then ends itself, as happens on a busy machine: Ray has no setting for it, so that
the node is started again. One that ends sooner has another reason."""
ASK_SECONDS = 10.0
TEMP_ROOT = "/tmp"
"""Paths of sockets may have 107 bytes, of which Ray takes 74 and more: below a directory of the user's, or $TMPDIR,
there is no room."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster that was started; all that it takes to use and to stop it."""

    directory: Path
    """Holds state, token and logs."""
    id: str
    """Unique for ever."""
    host: str
    """Name of the machine."""
    temp_dir: Path
    """Of all nodes; a directory each."""
    cpus_per_node: int
    object_store_bytes: int
    nodes: tuple[Node, ...]
    """The head first; also those that have ended."""

    @property
    def token_path(self) -> Path:
        """File with the token that every client and node shows, mode 0600."""
        return self.directory / TOKEN_NAME

    @property
    def jobs_address(self) -> str:
        """Where Ray's Jobs API and dashboard are, on loopback."""
        return f"http://127.0.0.1:{self.head.ports['dashboard-port']}"

    @property
    def gcs_address(self) -> str:
        """What `--address` of other commands takes on this machine."""
        return f"127.0.0.1:{self.head.ports['port']}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that a client needs."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_path)}

    @property
    def head(self) -> Node:
        """The node with the control service, on which drivers of jobs run."""
        return self.nodes[0]

    def node(self, name: str) -> Node:
        """A node by its name.

        Raises:
            UsageError: there is none of that name.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise UsageError(f"no node {name}: there are {', '.join(node.name for node in self.nodes)}")

    def states(self) -> dict[str, str]:
        """What Ray says of each node by its name, such as ``ALIVE`` and ``DEAD``; empty where no head answers."""
        answer = self._asked("/api/v0/nodes") or {}
        listed = ((answer.get("data") or {}).get("result") or {}).get("result") or []
        return {node["node_name"]: node["state"] for node in listed}

    @property
    def leaders(self) -> tuple[int, ...]:
        """Pids of what leads the session of each node."""
        return tuple(node.pid for node in self.nodes)

    def owns(self, pid: int) -> bool:
        """Whether a process is of this cluster; also of a node that could not be written down any more."""
        mark = variable_of(pid, MARK)
        return mark.startswith(f"{self.id}/") if mark is not None else any(node.owns(pid) for node in self.nodes)

    def add_worker(self, *, start_seconds: float = START_SECONDS) -> Cluster:
        """Start another worker and wait for it; returns the cluster with it.

        Raises:
            ClusterError: it does not come up; the others stay.
        """
        try:
            return _grown(self, _with_worker, time.monotonic() + start_seconds)
        except BaseException:
            written = _read(self.directory) or self
            for node in written.nodes[len(self.nodes) :]:
                written.kill_node(node.name)
            _write(self)
            raise

    def kill_node(self, name: str) -> None:
        """Kill every process of a node at once; without its head, the cluster is gone.

        Raises:
            UsageError: there is none of that name.
        """
        node = self.node(name)
        end_processes(node.owns, [node.pid], terminate_seconds=0)

    def stop(self, *, terminate_seconds: float = TERMINATE_SECONDS, keep_logs: bool = False) -> int:
        """End what was started and remove what was written; returns how many processes ran.

        Raises:
            UsageError: it is on another machine.
            ClusterError: a process does not end.
        """
        _check_here(self)
        ran = len(running(self.owns))
        end_processes(self.owns, self.leaders, terminate_seconds=terminate_seconds)
        shutil.rmtree(self.temp_dir, ignore_errors=True)
        if not keep_logs:
            shutil.rmtree(self.directory / LOGS_NAME, ignore_errors=True)
        for name in (TOKEN_NAME, STATE_NAME):  # the state last: while it is there, stopping can be repeated
            (self.directory / name).unlink(missing_ok=True)
        with suppress(OSError):  # it holds logs, or something of others
            self.directory.rmdir()
        return ran

    def _comes_up(self, node: Node, until: float) -> bool:
        """Whether Ray says of a node that it is alive, before it ends by itself.

        Raises:
            ClusterError: neither in time.
        """
        while node.is_running:
            if self.states().get(node.name) == "ALIVE":
                return True
            if time.monotonic() > until:
                raise ClusterError(f"{node.name} did not come up in time: see {Path(node.log).parent}")
            time.sleep(POLL_SECONDS)
        return False

    def _asked(self, path: str) -> Any:
        """What the dashboard says; None while it says nothing. A proxy of the environment has no business here."""
        headers = {"Authorization": f"Bearer {self.token_path.read_text(encoding='ascii').strip()}"}
        try:
            opener = build_opener(ProxyHandler({}))
            with opener.open(Request(self.jobs_address + path, headers=headers), timeout=ASK_SECONDS) as response:
                return json.load(response)
        except (OSError, HTTPException, ValueError):
            return None


def start_cluster(
    directory: Path,
    n_workers: int = 2,
    cpus_per_node: int = 2,
    *,
    object_store_bytes: int = OBJECT_STORE_BYTES,
    start_seconds: float = START_SECONDS,
) -> Cluster:
    """Start a head and workers, and wait until all are alive; they stay when this process ends.

    Args:
        directory: made if missing; takes state, token and logs.
        n_workers: nodes beside the head.
        cpus_per_node: logical CPUs, of the head too.
        object_store_bytes: of each node.
        start_seconds: after which starting is given up.

    Raises:
        UsageError: a cluster runs in that directory already.
        ClusterError: a node does not come up; the message names its log, and nothing else stays.
    """
    cluster = _prepared(directory.absolute(), cpus_per_node, object_store_bytes)
    until = time.monotonic() + start_seconds
    try:
        cluster = _grown(cluster, _with_head, until)
        for _ in range(n_workers):  # one at a time: each must be up soon after its start, or it ends itself
            cluster = _grown(cluster, _with_worker, until)
    except BaseException:
        _give_up(_read(cluster.directory))
        raise
    return cluster


def running_cluster(directory: Path) -> Cluster:
    """The cluster that was started in a directory.

    Raises:
        UsageError: none was, or none is left of it, or it is on another machine.
    """
    cluster = _read(directory.absolute())
    if cluster is None or not _is_left(cluster):
        raise UsageError(f"no cluster runs in {directory}: start one with 'vaeseg-batch cluster start'")
    return cluster


def stop_cluster(directory: Path) -> int | None:
    """Stop the cluster of a directory and remove what is left of it; does nothing where there is none.

    Returns:
        How many processes ran; None where there was no cluster.

    Raises:
        UsageError: it is on another machine.
        ClusterError: a process does not end.
    """
    cluster = _read(directory.absolute())
    return None if cluster is None else cluster.stop()


def _prepared(directory: Path, cpus_per_node: int, object_store_bytes: int) -> Cluster:
    """A cluster without nodes, written down before any process runs."""
    earlier = _read(directory)
    if earlier is not None and _is_left(earlier):
        raise UsageError(f"a cluster runs in {directory}: stop it with 'vaeseg-batch cluster stop', or choose --dir")
    if earlier is not None:
        earlier.stop()
    shutil.rmtree(directory / LOGS_NAME, ignore_errors=True)
    try:
        (directory / LOGS_NAME).mkdir(mode=0o700, parents=True)
        cluster = Cluster(
            directory=directory,
            id=secrets.token_hex(8),
            host=socket.gethostname(),
            temp_dir=Path(tempfile.mkdtemp(prefix="vaeseg-", dir=TEMP_ROOT)),
            cpus_per_node=cpus_per_node,
            object_store_bytes=object_store_bytes,
            nodes=(),
        )
        _write_token(cluster.token_path)
        _write(cluster)
    except OSError as error:
        raise ClusterError(f"{directory} cannot be written: {error.strerror}; choose another with --dir") from error
    return cluster


def _write_token(path: Path) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))


def _grown(cluster: Cluster, with_node: Callable[[Cluster], Cluster], until: float) -> Cluster:
    """The cluster with another node that is alive.

    Raises:
        ClusterError: it does not come up.
    """
    for _ in range(START_ATTEMPTS):
        started = time.monotonic()
        grown = with_node(cluster)
        node = grown.nodes[-1]
        if grown._comes_up(node, until):
            return grown
        grown.kill_node(node.name)  # what it left
        if time.monotonic() - started < AGENT_SECONDS:
            break
    raise ClusterError(f"{node.name} ended while it started: {_last_words(node)}")


def _with_head(cluster: Cluster) -> Cluster:
    """The cluster with a head that was told to start."""
    arguments = ("--head", "--dashboard-host=127.0.0.1", "--include-dashboard=true")
    return _with_node(cluster, "head", arguments, (*HEAD_PORTS, *HEAD_PORT_VARIABLES, *NODE_PORTS))


def _with_worker(cluster: Cluster) -> Cluster:
    number = 1 + max((int(node.name.removeprefix("worker-")) for node in cluster.nodes[1:]), default=0)
    return _with_node(cluster, f"worker-{number}", (f"--address={cluster.gcs_address}",), NODE_PORTS)


def _with_node(cluster: Cluster, name: str, arguments: tuple[str, ...], port_names: tuple[str, ...]) -> Cluster:
    sizes = (f"--num-cpus={cluster.cpus_per_node}", f"--object-store-memory={cluster.object_store_bytes}")
    quiet = "--include-log-monitor=false"  # a process less for each node; nothing here needs what workers print
    node = start_node(
        name,
        cluster_id=cluster.id,
        arguments=(*arguments, *sizes, quiet),
        environment={
            **cluster.environment,
            "RAY_USAGE_STATS_ENABLED": "0",  # a hospital's cluster reports to nobody
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # of 30 s that every stop would take
        },
        port_names=port_names,
        temp_dir=cluster.temp_dir / name,
        log=cluster.directory / LOGS_NAME / f"{name}.log",
    )
    grown = replace(cluster, nodes=(*cluster.nodes, node))
    _write(grown)
    return grown


def _last_words(node: Node) -> str:
    """The last line that `ray start` printed, and where the others are."""
    try:
        lines = Path(node.log).read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return f"{lines[-1].strip()[:200] if lines else 'it said nothing'}; see {node.log}"


def _give_up(cluster: Cluster | None) -> None:
    """End what was started, and leave logs."""
    if cluster is None:
        return
    end_processes(cluster.owns, cluster.leaders, terminate_seconds=0)
    for node in cluster.nodes:
        for path in Path(node.ray_logs).glob("*.*"):
            with suppress(OSError):
                shutil.copyfile(path, Path(node.log).with_name(f"{node.name}-{path.name}"))
    cluster.stop(keep_logs=True)


def _is_left(cluster: Cluster) -> bool:
    """Whether a process of it runs.

    Raises:
        UsageError: that cannot be known from here, as it was started on another machine.
    """
    _check_here(cluster)
    return bool(running(cluster.owns))


def _check_here(cluster: Cluster) -> None:
    if cluster.host != socket.gethostname():
        raise UsageError(f"the cluster of {cluster.directory} was started on {cluster.host}: stop it there")


def _read(directory: Path) -> Cluster | None:
    """The cluster that is written down in a directory; None where none is.

    Raises:
        ClusterError: the file is damaged or not ours.
    """
    path = directory / STATE_NAME
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        nodes = tuple(Node(**node) for node in state.pop("nodes"))
        temp_dir = Path(state.pop("temp_dir"))
        return Cluster(**state, directory=directory, temp_dir=temp_dir, nodes=nodes)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ClusterError(f"{path} cannot be read ({type(error).__name__}): choose another directory") from error


def _write(cluster: Cluster) -> None:
    state = {**asdict(cluster), "temp_dir": str(cluster.temp_dir)}
    del state["directory"]
    write_atomically(cluster.directory / STATE_NAME, json.dumps(state, indent=1).encode())
