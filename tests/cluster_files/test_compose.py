"""`docker/compose.yaml` publishes nothing but loopback, asks for few rights, and fits to the rest."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import REPOSITORY, Tree, check_command

from vaeseg import __version__

DOCKER = REPOSITORY / "docker"
COMPOSE: Tree = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, Tree] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("vaeseg:")}
RAY_NODES = {name: service for name, service in OURS.items() if service.get("command", [""])[0] == "ray"}


def secrets_of(service: Tree) -> set[str]:
    return set(service.get("secrets", []))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_few_rights(name: str) -> None:
    """Not root, no capability, a root file system that cannot be written to, and an end to its memory and logs."""
    service = SERVICES[name]
    assert service["read_only"]
    assert service["user"].split(":")[0] not in ("", "0", "root")
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["deploy"]["resources"]["limits"]["memory"]
    assert "privileged" not in service
    assert service["logging"]["options"]["max-size"]


def test_only_loopback_is_published() -> None:
    """Dashboard, Prometheus and Grafana, for who is on this machine."""
    published = {port for service in SERVICES.values() for port in service.get("ports", [])}
    assert published == {"127.0.0.1:8265:8265", "127.0.0.1:9090:9090", "127.0.0.1:3000:3000"}


def test_an_image_has_an_exact_version() -> None:
    """Ours is that of the package."""
    images = {service["image"] for service in SERVICES.values()}
    assert {image for image in images if image.startswith("vaeseg:")} == {
        f"vaeseg:{__version__}-cpu",
        f"vaeseg:{__version__}-gpu",
    }
    assert all(re.search(r":v?\d+\.\d", image) for image in images)
    assert (SERVICES["head"]["build"]["target"], SERVICES["worker-gpu"]["build"]["target"]) == ("cpu", "gpu")


def test_secrets_are_files_that_the_script_makes() -> None:
    """No password is in the file, and none is asked for that is not made."""
    made = re.findall(r"^secret ([\w-]+) ", (DOCKER / "make-secrets.sh").read_text(), re.MULTILINE)
    assert {entry["file"] for entry in COMPOSE["secrets"].values()} == {
        f"secrets/{name}" for name in COMPOSE["secrets"]
    }
    assert set(COMPOSE["secrets"]) | {"writer-password"} == set(made)
    assert {name for service in SERVICES.values() for name in secrets_of(service)} == set(COMPOSE["secrets"])
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if "PASSWORD" in name or name.endswith(("TOKEN_PATH", "DB_FILE")):
                assert value.startswith("/run/secrets/")
                assert value.removeprefix("/run/secrets/") in secrets_of(service)


def test_workers_have_no_database() -> None:
    """No URL, no key, and no network that leads to it."""
    with_url = {name for name, service in SERVICES.items() if secrets_of(service) & {"owner-url", "writer-url"}}
    assert with_url == {"owner", "head", "scheduler", "exporter"}
    on_its_network = {name for name, service in SERVICES.items() if "ledger" in service.get("networks", [])}
    assert on_its_network == with_url | {"db"}
    assert COMPOSE["networks"]["ledger"] == {"internal": True}


def test_every_ray_node_has_the_token_the_archive_and_the_store() -> None:
    """The archive cannot be written to."""
    assert set(RAY_NODES) == {"head", "worker", "worker-gpu"}
    for service in [*RAY_NODES.values(), SERVICES["scheduler"]]:
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert "ray-token" in secrets_of(service)
        assert any(volume.endswith("}:/archive:ro") for volume in service["volumes"])
        assert "store:/store" in service["volumes"]


@pytest.mark.parametrize("name", [name for name, service in OURS.items() if service["command"][0] == "vaeseg-batch"])
def test_a_service_calls_a_command_that_exists(name: str) -> None:
    """With options that it has."""
    check_command(OURS[name]["command"][1:])


def test_the_nodes_start_as_ray_takes_it() -> None:
    """Every option is one of `ray start`."""
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    for service in RAY_NODES.values():
        given = {argument.split("=")[0] for argument in service["command"][2:]}
        assert given <= known


def test_compose_understands_the_file(tmp_path: Path) -> None:
    """Where Docker's compose is installed: variables, merges and references resolve, with the GPU and without."""
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not installed")
    command = ["docker", "compose", "-f", str(DOCKER / "compose.yaml"), "--profile", "gpu", "--profile", "owner"]
    environment: dict[str, Any] = {
        "CT_ARCHIVE": str(tmp_path),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(tmp_path),
    }
    done = subprocess.run([*command, "config", "--quiet"], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
