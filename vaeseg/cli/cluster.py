"""`vaeseg-batch cluster`: a small Ray cluster on this machine."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaeseg.cli.options import json_option
from vaeseg.errors import EXIT_ERROR, EXIT_OK

if TYPE_CHECKING:
    from vaeseg.distributed.cluster import Cluster

DEFAULT_DIRECTORY = Path("vaeseg-cluster")

directory_option = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_DIRECTORY,
    show_default=True,
    help="Holds what is needed to stop it, the token, and logs.",
)


@click.group()
def command() -> None:
    """Start and stop a small Ray cluster on this machine, for trying things out and for tests.

    Its nodes are processes of their own with their own ports. Every client and node shows a token; the dashboard and
    the Jobs API answer on 127.0.0.1 only.
    """


@command.command()
@click.option("--workers", type=click.IntRange(min=0), default=2, show_default=True, help="Nodes beside the head.")
@click.option(
    "--cpus", type=click.IntRange(min=1), default=2, show_default=True, help="Logical CPUs of each node, and the head."
)
@directory_option
@json_option
def start(workers: int, cpus: int, directory: Path, as_json: bool) -> None:
    """Start a head and workers, and return when all are ready; they run until `vaeseg-batch cluster stop`.

    Exit codes: 0 it runs, 1 a node did not come up (nothing stays but its logs), 2 one runs in DIR already.
    """
    from vaeseg.distributed.cluster import start_cluster

    print(f"starting a head and {workers} workers; this takes half a minute", file=sys.stderr)
    cluster = start_cluster(directory, workers, cpus)
    print(json.dumps(_as_json(cluster)) if as_json else _how_to_use(cluster, directory))


@command.command()
@directory_option
def stop(directory: Path) -> None:
    """End exactly what `cluster start` started, and remove its files; does nothing where nothing runs.

    Exit codes: 0 nothing of it runs, 1 a process does not end, 2 it is on another machine.
    """
    from vaeseg.distributed.cluster import stop_cluster

    ended = stop_cluster(directory)
    print("no cluster was started there" if ended is None else f"stopped: {ended} processes ended", file=sys.stderr)


@command.command()
@directory_option
@json_option
@click.pass_context
def status(ctx: click.Context, /, directory: Path, as_json: bool) -> None:
    """Show the addresses of a running cluster, and what Ray says of its nodes.

    Exit codes: 0 all nodes are alive, 1 a node is not, 2 no cluster runs in DIR.
    """
    from vaeseg.distributed.cluster import running_cluster

    cluster = running_cluster(directory)
    shown = _as_json(cluster)
    if as_json:
        print(json.dumps(shown))
    else:
        print(_how_to_use(cluster, directory))
        print()
        for node in shown["nodes"]:
            print(f"{node['name']:<12} {node['state']}")
    ctx.exit(EXIT_OK if all(node["state"] == "ALIVE" for node in shown["nodes"]) else EXIT_ERROR)


def _as_json(cluster: Cluster) -> dict[str, Any]:
    states = cluster.states()
    return {
        "directory": str(cluster.directory),
        "jobs_address": cluster.jobs_address,
        "gcs_address": cluster.gcs_address,
        "environment": cluster.environment,
        "temp_dir": str(cluster.temp_dir),
        "nodes": [
            {"name": node.name, "pid": node.pid, "state": states.get(node.name, "DEAD"), "log": node.log}
            for node in cluster.nodes
        ],
    }


def _how_to_use(cluster: Cluster, directory: Path) -> str:
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in cluster.environment.items())
    chosen = "" if directory == DEFAULT_DIRECTORY else f" --dir {shlex.quote(str(directory))}"
    return "\n".join(
        [
            f"a head and {len(cluster.nodes) - 1} workers, {cluster.cpus_per_node} CPUs each",
            "",
            "  show the token:        export " + variables,
            f"  jobs and dashboard:    {cluster.jobs_address}",
            f"  --address takes:       {cluster.gcs_address}",
            f"  stop it:               vaeseg-batch cluster stop{chosen}",
        ]
    )
