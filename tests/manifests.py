"""What the files for clusters say: Kubernetes objects, pods, containers, and the commands in them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import yaml

from vaeseg.cli import main

REPOSITORY = Path(__file__).parents[1]
CLUSTER = REPOSITORY / "cluster"
KUBERNETES = CLUSTER / "kubernetes"

Tree = dict[str, Any]


@cache
def objects(name: str) -> list[Tree]:
    """Those of one file; nobody changes them."""
    return list(yaml.safe_load_all((KUBERNETES / name).read_text()))


def all_objects() -> list[Tree]:
    """Those of every file."""
    return [found for path in sorted(KUBERNETES.glob("*.yaml")) for found in objects(path.name)]


def ray_spec(found: Tree) -> Tree:
    """The cluster that a RayCluster or a RayJob describes."""
    spec: Tree = found["spec"].get("rayClusterSpec", found["spec"])
    return spec


def pod_templates() -> Iterator[tuple[str, Tree]]:
    """Every pod that the files lead to, with a name for the test's report."""
    for found in all_objects():
        kind, name, spec = found["kind"], found.get("metadata", {}).get("name", "one-run"), found.get("spec", {})
        if kind == "Pod":
            yield name, found
        elif kind == "Deployment":
            yield name, spec["template"]
        elif kind == "CronJob":
            yield name, spec["jobTemplate"]["spec"]["template"]
        elif kind in ("RayCluster", "RayJob"):
            cluster = ray_spec(found)
            yield f"{name}-head", cluster["headGroupSpec"]["template"]
            for group in cluster["workerGroupSpecs"]:
                yield f"{name}-{group['groupName']}", group["template"]
            if kind == "RayJob":
                yield f"{name}-submitter", spec["submitterPodTemplate"]


def component(template: Tree) -> str:
    """Which part of vaeseg a pod is; policies select by it."""
    labels = template["metadata"]["labels"]
    assert labels["app.kubernetes.io/part-of"] == "vaeseg"
    name: str = labels["app.kubernetes.io/component"]
    return name


def check_command(arguments: list[str]) -> None:
    """That `vaeseg-batch` takes them; nothing is run.

    Raises:
        click.UsageError: it does not.
    """
    command: click.Command | None = main
    name = "vaeseg-batch"
    while isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.get_command(click.Context(command), name)
    assert command is not None, f"there is no command {name}"
    command.make_context(name, arguments)
