"""What nodes of a cluster said, compared with the driver and with each other. No Ray in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vaeseg.checks import Check, failed, on_node, passed, warned
from vaeseg.distributed.machine_checks import MachineFacts
from vaeseg.distributed.node_facts import MOUNT_STORE, NodeFacts
from vaeseg.io.probe import StoreProbe

CLOCK_WARNING_SECONDS = 5.0
"""Times in SQL and logs are compared by people."""
CLOCK_FAILURE_SECONDS = 60.0
"""The patience of the ledger: a run that was not heard of for so long is lost."""
SET_CLOCK = "let chrony or systemd-timesyncd set the clock of every node"


@dataclass(frozen=True, kw_only=True)
class Silence:
    """A node that did not answer."""

    node: str
    reason: str


def node_checks(facts: NodeFacts, driver: MachineFacts, probe: StoreProbe | None) -> list[Check]:
    """All that is known of one node: what it found, and how it differs.

    Args:
        facts: its answer.
        driver: of the driver, with the model's digest that the night would be started with.
        probe: the driver's directory in the store, in which each node left a file.
    """
    differing = [*_versions(driver.versions, facts.versions), *_model(driver.model_digest, facts.model_digest)]
    if probe is not None and _is_well(facts, "store") and probe.read(facts.node_id) is None:
        found = f"the driver does not see what this node writes into {probe.root}"
        differing.append(failed("store", found, MOUNT_STORE))
    differing.append(
        clock_check(*facts.clock) if facts.clock else warned("clock", "it was not told in time", SET_CLOCK)
    )
    replaced = {check.name for check in differing}
    kept = [check for check in facts.checks if check.status != "ok" or check.name not in replaced]
    return on_node(facts.node, [passed("node", "it answers"), *kept, *differing])


def silent_check(silence: Silence) -> Check:
    """A node that did not answer."""
    advice = "install the same vaeseg there, see whether the machine hangs, or take it out of the cluster"
    (check,) = on_node(silence.node, [failed("node", silence.reason, advice)])
    return check


def dead_check(n_alive: int, dead: Sequence[str]) -> Check:
    """Nodes that Ray knows; those that were taken out on purpose stay in its list."""
    if not dead:
        return passed("nodes", f"{n_alive} alive")
    found = f"{n_alive} alive, {len(dead)} dead: {', '.join(dead[:5])}"
    return warned("nodes", found, "start them again, unless they were taken out on purpose")


def clock_check(offset_seconds: float, bound_seconds: float) -> Check:
    """How far a node's clock is from the driver's.

    Args:
        offset_seconds: positive where the node is ahead.
        bound_seconds: half the time that the question was under way, within which the offset is not known.
    """
    found = f"{offset_seconds:+.1f} s against the driver's, within {bound_seconds:.1f} s"
    surely = abs(offset_seconds) - bound_seconds
    if surely > CLOCK_FAILURE_SECONDS:
        return failed("clock", found, SET_CLOCK)
    if surely > CLOCK_WARNING_SECONDS:
        return warned("clock", found, SET_CLOCK)
    return passed("clock", found)


def _versions(of_driver: Mapping[str, str], of_node: Mapping[str, str]) -> list[Check]:
    """Builds of torch for CPUs and for GPUs count as the same."""
    if not of_node or not of_driver:
        return []  # it has failed by itself
    there = {name: _public(version) for name, version in of_node.items()}
    here = {name: _public(version) for name, version in of_driver.items()}
    unlike = [
        f"{name} {there.get(name, 'none')}, the driver has {here[name]}"
        for name in here
        if there.get(name) != here[name]
    ]
    return (
        [failed("versions", "; ".join(unlike), "install the same on every node, and start its Ray anew")]
        if unlike
        else []
    )


def _public(version: str) -> str:
    """Without the name of the build behind the plus (PEP 440)."""
    return version.partition("+")[0]


def _model(of_driver: str | None, of_node: str | None) -> list[Check]:
    if of_node is None or of_driver is None or of_node == of_driver:
        return []
    found = f"the model here is {of_node[:12]}, the run would be submitted with {of_driver[:12]}"
    return [failed("model", found, "install the same vaeseg and the same model file on every node")]


def _is_well(facts: NodeFacts, name: str) -> bool:
    return any(check.name == name and check.status == "ok" for check in facts.checks)
