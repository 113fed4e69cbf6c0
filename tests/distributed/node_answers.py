"""Answers of nodes as a healthy cluster gives them."""

from __future__ import annotations

from typing import Any

from vaeseg.checks import passed
from vaeseg.distributed.machine_checks import MachineFacts
from vaeseg.distributed.node_facts import NodeFacts

DIGEST = "a" * 64
VERSIONS = {"python": "3.11.7", "vaeseg": "0.1.0", "torch": "2.13.0+cu130", "ray": "2.60.0"}


def driver() -> MachineFacts:
    """What nodes are compared with."""
    return MachineFacts(versions={**VERSIONS, "torch": "2.13.0+cpu"}, model_digest=DIGEST)


def node_facts(**changes: Any) -> NodeFacts:
    """A node that is well, and has a GPU build of torch."""
    values: dict[str, Any] = {
        "node": "worker-1 0123abcd",
        "node_id": "0123abcd" * 7,
        "checks": [passed("store", "takes files"), passed("versions", "all load"), passed("model", "phantom-v1")],
        "versions": VERSIONS,
        "model_digest": DIGEST,
        "clock": (0.2, 0.01),
    }
    return NodeFacts(**values | changes)
