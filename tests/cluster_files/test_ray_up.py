"""`cluster/ray-cluster.yaml` is what `ray up` takes, and starts the cluster that the manifests describe."""

from __future__ import annotations

import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import yaml
from manifests import CLUSTER, REPOSITORY, Tree, objects

from vaeseg import __version__

CONFIGURATION: Tree = yaml.safe_load((CLUSTER / "ray-cluster.yaml").read_text())
HEAD: str = CONFIGURATION["head_start_ray_commands"][1]
WORKER: str = CONFIGURATION["worker_start_ray_commands"][1]


def options_of(command: str) -> dict[str, str]:
    """Options of the `ray start` in it."""
    return dict(re.findall(r"--([\w-]+)=(\S+)", command))


def test_ray_takes_the_file() -> None:
    """By the schema that comes with it."""
    spec = find_spec("ray")
    assert spec is not None
    (directory,) = spec.submodule_search_locations or []
    schema = json.loads((Path(directory) / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(CONFIGURATION, schema)
    assert CONFIGURATION["provider"]["type"] == "local"


def test_nodes_are_installed_by_the_steps_of_the_images() -> None:
    """What the steps need is copied; the wheel is that of this version."""
    mounts: dict[str, str] = CONFIGURATION["file_mounts"]
    wheel = f"vaeseg-{__version__}-py3-none-any.whl"
    assert {Path(source).name for source in mounts.values()} == {"install.sh", "constraints.txt", wheel, "ray-token"}
    assert all((REPOSITORY / source).exists() for source in mounts.values() if source.startswith(("docker/i", "const")))
    steps = " ".join(CONFIGURATION["setup_commands"])
    assert set(re.findall(r"/opt/vaeseg-install/\S+", steps)) == set(mounts)


def test_every_node_demands_the_token_and_the_head_alone_has_the_database() -> None:
    """The dashboard, which takes submissions, is on loopback."""
    for command in (HEAD, WORKER):
        words = shlex.split(command)
        assert "RAY_AUTH_MODE=token" in words
        (path,) = (word.split("=")[1] for word in words if word.startswith("RAY_AUTH_TOKEN_PATH="))
        assert path in CONFIGURATION["file_mounts"]
        assert ("VAESEG_DB_FILE" in command) == (command == HEAD)
        assert "VAESEG_DB=" not in command
    assert options_of(HEAD)["dashboard-host"] == "127.0.0.1"


def test_the_ports_are_those_of_the_manifests() -> None:
    """One list to open in a firewall, whatever the cluster runs on."""
    (cluster,) = objects("ray-cluster.yaml")
    wanted = {
        key: value for key, value in cluster["spec"]["headGroupSpec"]["rayStartParams"].items() if key != "num-cpus"
    }
    given = options_of(WORKER)
    assert given.pop("address") == "$RAY_HEAD_IP:6379"
    assert given == wanted
    assert wanted.items() <= options_of(HEAD).items()
