"""The Kubernetes manifests are valid, ask for few rights, and fit to each other and to the package."""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate
import pytest
from manifests import (
    KUBERNETES,
    REPOSITORY,
    Tree,
    all_objects,
    check_command,
    component,
    objects,
    pod_templates,
    ray_spec,
)

from vaeseg import __version__

KUBERNETES_VERSION = "1.37"

TEMPLATES = list(pod_templates())
PODS = pytest.mark.parametrize("template", [template for _, template in TEMPLATES], ids=[name for name, _ in TEMPLATES])

OTHER_OPERATORS = ("RayCluster", "RayJob", "ServiceMonitor", "PodMonitor", "Kustomization")
"""Kinds without a schema in Kubernetes itself."""

KNOWN_ELSEWHERE = {"HOME", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"}

RAY_FIELDS = {
    "cluster": "rayVersion authOptions enableInTreeAutoscaling autoscalerOptions headGroupSpec workerGroupSpecs",
    "authOptions": "mode secretName",
    "autoscalerOptions": "version idleTimeoutSeconds resources securityContext volumeMounts",
    "headGroupSpec": "serviceType rayStartParams template",
    "workerGroup": "groupName replicas minReplicas maxReplicas rayStartParams template",
    "job": "entrypoint submissionMode backoffLimit activeDeadlineSeconds shutdownAfterJobFinishes "
    "ttlSecondsAfterFinished submitterConfig submitterPodTemplate rayClusterSpec",
}
"""Fields of KubeRay 1.6 that are used, as its API reference spells them."""


def environment(template: Tree) -> dict[str, Any]:
    """Variables of a pod's one container; a reference to a secret is a dictionary."""
    (container,) = template["spec"]["containers"]
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container.get("env", [])}


def mounts(container: Tree) -> dict[str, bool]:
    """Where something is mounted, and whether it cannot be written to."""
    return {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}


def template_of(name: str) -> Tree:
    return dict(TEMPLATES)[name]


def policy(name: str) -> Tree:
    found: Tree = next(one["spec"] for one in objects("network-policy.yaml") if one["metadata"]["name"] == name)
    return found


def ports_of(rule: Tree) -> set[int]:
    return {n for port in rule["ports"] for n in range(port["port"], port.get("endPort", port["port"]) + 1)}


def test_kubernetes_knows_every_field() -> None:
    """The objects, and as pods the templates that KubeRay makes pods of; an unknown field is an error."""
    plain = [found for found in all_objects() if found["kind"] not in OTHER_OPERATORS]
    pods = [{"apiVersion": "v1", "kind": "Pod", **template} for _, template in TEMPLATES]
    assert len(plain) >= 15
    for found in plain + pods:
        kubernetes_validate.validate(found, KUBERNETES_VERSION, strict=True)


@pytest.mark.parametrize("name", ["ray-cluster.yaml", "one-run.yaml"])
def test_kuberay_knows_every_field(name: str) -> None:
    """Misspelt, it would be dropped without a word; Ray is the version that the images have."""
    (found,) = objects(name)
    cluster = ray_spec(found)
    parts = {"cluster": cluster, "job": found["spec"]} if found["kind"] == "RayJob" else {"cluster": cluster}
    parts |= {key: cluster[key] for key in ("authOptions", "autoscalerOptions", "headGroupSpec")}
    for part, content in parts.items():
        assert set(content) <= set(RAY_FIELDS[part].split()), part
    for group in cluster["workerGroupSpecs"]:
        assert set(group) == set(RAY_FIELDS["workerGroup"].split())
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert f"ray=={cluster['rayVersion']}" in (REPOSITORY / "constraints.txt").read_text().splitlines()
    assert cluster["authOptions"] == {"mode": "token", "secretName": "vaeseg-ray-token"}


def test_a_run_of_its_own_gets_the_cluster_that_nights_get() -> None:
    """And the line that everybody with the dashboard sees holds its id alone."""
    (run,), (cluster,) = objects("one-run.yaml"), objects("ray-cluster.yaml")
    assert run["spec"]["rayClusterSpec"] == cluster["spec"]
    program, *arguments = run["spec"]["entrypoint"].split()
    assert program == "vaeseg-batch"
    assert arguments == ["resume", "RUN_ID", "--address", "auto"]
    check_command(arguments)


@PODS
def test_a_pod_fits_the_restricted_profile(template: Tree) -> None:
    """Of Pod Security; it has no token for the API server either, and is told nothing of other services."""
    pod = template["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["runAsGroup"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
    kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"persistentVolumeClaim", "secret", "emptyDir", "projected"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@PODS
def test_a_container_has_bounds_and_room(template: Tree) -> None:
    """Memory asked for is memory granted; what it writes beside the store has an end; both fit each other."""
    (container,) = template["spec"]["containers"]
    asked, granted = container["resources"]["requests"], container["resources"]["limits"]
    for kind in ("memory", "ephemeral-storage"):
        assert asked[kind] == granted[kind]
    assert {"cpu"} <= set(asked) & set(granted)
    assert mounts(container)["/tmp"] is False
    assert all("sizeLimit" in volume["emptyDir"] for volume in template["spec"]["volumes"] if "emptyDir" in volume)


@PODS
def test_an_image_is_that_of_this_version(template: Tree) -> None:
    """The GPU's where a GPU is asked for, and only there."""
    (container,) = template["spec"]["containers"]
    build = "gpu" if "nvidia.com/gpu" in container["resources"]["limits"] else "cpu"
    assert container["image"] == f"vaeseg:{__version__}-{build}"


@PODS
def test_no_secret_is_written_into_the_environment(template: Tree) -> None:
    """Passwords and keys are references or files, and each variable is one that somebody reads."""
    source = "".join(path.read_text() for path in (REPOSITORY / "vaeseg").rglob("*.py"))
    known = KNOWN_ELSEWHERE | set(re.findall(r"VAESEG_[A-Z_]+", source))
    for name, value in environment(template).items():
        assert name in known
        secret = name.endswith(("KEY", "TOKEN", "PASSWORD")) or name == "VAESEG_DB"
        assert isinstance(value, dict) == secret


@PODS
def test_nobody_can_write_to_the_archive(template: Tree) -> None:
    """Neither by its mount nor by its claim; who has it has the store beside it."""
    pod = template["spec"]
    (container,) = pod["containers"]
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert claims in (
        {},
        {"archive": {"claimName": "ct-archive", "readOnly": True}, "store": {"claimName": "vaeseg-store"}},
    )
    assert {path: readonly for path, readonly in mounts(container).items() if path in ("/archive", "/store")} == (
        {"/archive": True, "/store": False} if claims else {}
    )


def test_workers_have_no_database_and_no_key() -> None:
    """The driver on the head is the only writer."""
    for name, template in TEMPLATES:
        has_url = "/run/secrets/vaeseg" in mounts(template["spec"]["containers"][0])
        has_key = "VAESEG_SUBJECT_KEY" in environment(template)
        part = component(template)
        assert has_url == ("VAESEG_DB_FILE" in environment(template)) == (part not in ("ray-worker", "submitter")), name
        assert has_key == (part in ("ray-head", "scheduler", "scan", "console")), name


def test_only_the_autoscaler_has_a_token_for_the_api_server() -> None:
    """Where it looks for one; the container in which jobs run has none."""
    (cluster,) = objects("ray-cluster.yaml")
    options, head = cluster["spec"]["autoscalerOptions"], cluster["spec"]["headGroupSpec"]["template"]["spec"]
    (volume,) = (volume["name"] for volume in head["volumes"] if "projected" in volume)
    assert {"name": volume, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True} in options[
        "volumeMounts"
    ]
    assert volume not in {mount["name"] for mount in head["containers"][0]["volumeMounts"]}
    assert options["securityContext"] == head["containers"][0]["securityContext"]


def test_every_pod_is_closed_but_for_what_a_policy_names() -> None:
    """Every component that a policy selects exists, and every pod has one of them."""
    assert policy("nothing") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    text = (KUBERNETES / "network-policy.yaml").read_text()
    lists = re.findall(r"component, operator: In, values: \[(.*)\]", text)
    named = set(re.findall(r"component: ([\w-]+)", text)) | {name for one in lists for name in one.split(", ")}
    assert named == {component(template) for _, template in TEMPLATES}
    databases = policy("database")["podSelector"]["matchExpressions"][0]["values"]
    with_url = {component(template) for _, template in TEMPLATES if "VAESEG_DB_FILE" in environment(template)}
    assert set(databases) == with_url


def test_the_ports_of_ray_are_those_that_are_open() -> None:
    """Each port that `ray start` is given is open between the nodes, and only those; no port is Ray's own choice."""
    (cluster,) = objects("ray-cluster.yaml")
    head = cluster["spec"]["headGroupSpec"]["rayStartParams"]
    for group in cluster["spec"]["workerGroupSpecs"]:
        assert group["rayStartParams"] == {key: value for key, value in head.items() if key != "num-cpus"}
    given = {int(value) for key, value in head.items() if key.endswith("-port") and "worker" not in key}
    drivers = set(range(int(head["min-worker-port"]), int(head["max-worker-port"]) + 1))
    nodes = given - {8080} | drivers
    to_head = ports_of(policy("ray-head")["ingress"][0])
    to_worker = ports_of(policy("ray-worker")["ingress"][0])
    assert (to_head, to_worker) == (nodes - {52365} | {6379}, nodes)
    assert ports_of(policy("ray-head")["egress"][0]) == to_worker
    assert ports_of(policy("ray-worker")["egress"][0]) == to_head


def test_what_is_scraped_and_submitted_to_is_reachable_there() -> None:
    """Ports of containers, of the exporter's service, of monitors and of policies are the same."""
    ports = {
        component(template): {
            port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]
        }
        for _, template in TEMPLATES
        if "ports" in template["spec"]["containers"][0]
    }
    assert ports_of(policy("exporter")["ingress"][0]) == {ports["exporter"]["exporter"]} == {9187}
    assert ports_of(policy("ray-head")["ingress"][1]) == {ports["ray-head"]["dashboard"]}
    assert (
        ports_of(policy("ray-head")["ingress"][2]) == {ports["ray-head"]["metrics"]} == {ports["ray-worker"]["metrics"]}
    )
    service = next(found for found in objects("exporter.yaml") if found["kind"] == "Service")
    assert service["spec"]["selector"] == template_of("vaeseg-exporter")["metadata"]["labels"]
    service_monitor, pod_monitor = objects("monitors.yaml")
    assert service_monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    assert pod_monitor["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"
    assert environment(template_of("vaeseg-scheduler"))["RAY_ADDRESS"] == "http://vaeseg-head-svc:8265"


def test_the_kustomization_has_all_that_stays() -> None:
    """And says of every other file when it is applied."""
    (kustomization,) = objects("kustomization.yaml")
    others = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml", *kustomization["resources"]}
    assert others == {"one-run.yaml", "console.yaml", "nightly-scan.yaml", "monitors.yaml"}
    text = (KUBERNETES / "kustomization.yaml").read_text()
    assert all(name in text for name in others)
    namespaces = {found["metadata"]["namespace"] for name in others for found in objects(name)}
    assert namespaces == {kustomization["namespace"]} == {objects("namespace.yaml")[0]["metadata"]["name"]}


def test_the_nightly_scan_does_not_overlap() -> None:
    """Nor is it repeated where that would help nobody; it has /dev/shm for its own Ray."""
    (job,) = objects("nightly-scan.yaml")
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    (rule,) = job["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2, 3])
    assert "/dev/shm" in mounts(template_of("vaeseg-scan-ward")["spec"]["containers"][0])


COMMAND_LINES = {
    name: template["spec"]["containers"][0]["command"][1:]
    for name, template in TEMPLATES
    if template["spec"]["containers"][0].get("command", ["ray"])[0] == "vaeseg-batch"
}


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_a_pod_calls_a_command_that_exists(name: str) -> None:
    """With options that it has."""
    check_command(COMMAND_LINES[name])
