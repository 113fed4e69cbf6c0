"""A cluster, looked at from the process that would drive a night on it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import replace

from vaeseg.checks import ArchiveRoot, Check, looked
from vaeseg.distributed.cluster_access import check_token_here, cluster_token_check, reached_check
from vaeseg.distributed.local import RayChatter, join_cluster, stop_local_ray
from vaeseg.distributed.machine_checks import MachineFacts
from vaeseg.distributed.needs import Findings, Needs
from vaeseg.distributed.node_facts import ASKED, Question
from vaeseg.distributed.node_questions import nodes_checked
from vaeseg.errors import ModelNotFoundError, StoreError
from vaeseg.io.probe import StoreProbe, store_probe
from vaeseg.models.files import name_or_path
from vaeseg.paths import AnyPath

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
        nodes = nodes_of_cluster(needs, here.machine, here.ledger.archives, lambda: _join(address))
        if all(check.name != "cluster" for check in nodes):
            stop_local_ray()  # after a failure, threads may be in it still: it ends with the process
    return [reached, *token, *nodes]


def _join(address: str) -> None:
    check_token_here(address)
    join_cluster(address)


def nodes_of_cluster(
    needs: Needs, driver: MachineFacts, archives: tuple[ArchiveRoot, ...], join: Callable[[], None]
) -> list[Check]:
    """Join a cluster and look at each of its nodes.

    Args:
        needs: of the night; a store that takes no file is left out, since that has been told.
        driver: what the nodes are compared with.
        archives: whose roots each node should see.
        join: done first, within the same time limit.
    """
    question = Question(model=model_elsewhere(needs), archives=archives)
    with usable_probe(needs.store.root) as probe:
        if probe is not None:
            nonce = secrets.token_hex(16)
            probe.write(ASKED, nonce)
            question = replace(question, store_root=str(probe.root), probe_id=probe.id, nonce=nonce)

        def look() -> list[Check]:
            join()
            return nodes_checked(question, driver, probe)

        return looked("cluster", look, JOIN, seconds=CLUSTER_SECONDS)


@contextmanager
def usable_probe(root: AnyPath) -> Iterator[StoreProbe | None]:
    """A directory in the store, removed also where a node hangs; None where the store takes none."""
    with ExitStack() as stack:
        probe = None
        with suppress(StoreError):
            probe = stack.enter_context(store_probe(root))
        yield probe


def model_elsewhere(needs: Needs) -> str:
    """How another machine finds the model; as it was given where there is none."""
    try:
        return name_or_path(needs.model, needs.store.models)
    except ModelNotFoundError:
        return needs.model
