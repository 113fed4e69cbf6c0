"""A cluster, looked at from the process that would drive a night on it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace

from vaeseg.checks import ArchiveRoot, Check, looked, passed
from vaeseg.distributed.cluster_access import check_token_here, cluster_token_check, reached_check
from vaeseg.distributed.local import RayChatter, join_cluster, stop_local_ray
from vaeseg.distributed.machine_checks import MachineFacts
from vaeseg.distributed.needs import Findings, Needs
from vaeseg.distributed.node_facts import ASKED, Question
from vaeseg.distributed.node_questions import nodes_checked
from vaeseg.errors import ModelNotFoundError
from vaeseg.io.probe import store_probe
from vaeseg.models.checkpoint import name_or_path

CLUSTER_SECONDS = 120.0
"""For all that is asked of a cluster; what has not answered by then is told."""
JOIN = (
    "is it up, and this machine a node of it? The address is the one that 'ray start' printed; RAY_AUTH_MODE=token and "
    "RAY_AUTH_TOKEN_PATH must be set here"
)


def examine_joined_cluster(needs: Needs, here: Findings, address: str) -> list[Check]:
    """Look at a cluster that this machine is a node of, and at each of its nodes.

    Args:
        needs: of the night that this process would drive.
        here: what was found on this machine.
        address: ``HOST:PORT``.

    Raises:
        UsageError: the address is that of something else.
    """
    reached = reached_check(address, JOIN)
    if reached.status == "failed":
        return [reached]
    token = looked("token", lambda: [cluster_token_check(address)], "run the check again", seconds=60.0)
    with redirect_stdout(RayChatter()):
        nodes = looked("cluster", lambda: _joined(needs, here, address), JOIN, seconds=CLUSTER_SECONDS)
    return [reached, *token, *nodes]


def _joined(needs: Needs, here: Findings, address: str) -> Iterator[Check]:
    check_token_here(address)
    join_cluster(address)
    yield from nodes_of_cluster(needs, here.machine, here.ledger.archives)
    stop_local_ray()  # after a failure, threads may be in it still: it ends with the process


def nodes_of_cluster(needs: Needs, driver: MachineFacts, archives: tuple[ArchiveRoot, ...]) -> list[Check]:
    """Look at each node of the cluster that this process has joined.

    Args:
        needs: of the night; a store that is not there is left out, since the driver has told of it.
        driver: what the nodes are compared with.
        archives: whose roots each node should see.

    Raises:
        StoreError: the store takes no file.
    """
    question = Question(model=model_elsewhere(needs), archives=archives)
    if not needs.store.root.is_dir():
        return nodes_checked(question, driver, None)
    with store_probe(needs.store.root) as probe:
        nonce = secrets.token_hex(16)
        probe.write(ASKED, nonce)
        in_store = replace(question, store_root=str(needs.store.root), probe_id=probe.id, nonce=nonce)
        return nodes_checked(in_store, driver, probe)


def model_elsewhere(needs: Needs) -> str:
    """How another machine finds the model; as it was given where there is none."""
    try:
        return name_or_path(needs.model, needs.store.models)
    except ModelNotFoundError:
        return needs.model
