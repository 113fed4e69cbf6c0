"""Asking every node of a cluster, each by an actor that runs there, all at once and with a time limit."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vaeseg.checks import Check
from vaeseg.distributed.cluster_checks import Silence, dead_check, node_checks, silent_check
from vaeseg.distributed.failures import last_line
from vaeseg.distributed.machine_checks import MachineFacts
from vaeseg.distributed.node_facts import NodeFacts, Question, answer
from vaeseg.io.probe import StoreProbe

NODE_SECONDS = 60.0
"""For all nodes together: each starts a process, loads torch and tries its decoders."""
CLOCK_SECONDS = 2.0
CLOCK_QUESTIONS = 3
"""The quickest of them counts: the shorter the way, the nearer the clock is known."""


@dataclass(frozen=True, kw_only=True)
class _Node:
    id: str
    label: str
    """Name and beginning of the id."""


class Witness:
    """Runs on a node."""

    def answer(self, question: str, node_id: str) -> str:
        """As `node_facts.answer`."""
        return answer(question, node_id)

    def now(self) -> float:
        """Seconds since 1970 by its clock."""
        return time.time()


_WITNESS: Any = ray.remote(num_cpus=0, max_restarts=0)(Witness)
"""Takes no CPU from a run that is under way."""


def nodes_checked(question: Question, driver: MachineFacts, probe: StoreProbe | None) -> list[Check]:
    """Ask every node that is alive; one that does not answer in time is a check that failed, with its name.

    Args:
        question: for each of them.
        driver: what their answers are compared with.
        probe: the driver's directory in the store; None where it has none.
    """
    known = ray.nodes()
    alive = [_node(node) for node in known if node["Alive"]]
    dead = [_node(node).label for node in known if not node["Alive"]]
    checks = [dead_check(len(alive), dead)]
    witnesses = {node.id: _witness(node) for node in alive}
    try:
        for told in _answers(alive, witnesses, question):
            checks += [silent_check(told)] if isinstance(told, Silence) else node_checks(told, driver, probe)
    finally:
        for witness in witnesses.values():
            ray.kill(witness)
    return checks


def _node(node: dict[str, Any]) -> _Node:
    is_named = node["NodeName"] and node["NodeName"] != node["NodeManagerAddress"]
    name = node["NodeName"] if is_named else node["NodeManagerHostname"]
    return _Node(id=node["NodeID"], label=f"{name} {node['NodeID'][:8]}")


def _witness(node: _Node) -> Any:
    return _WITNESS.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote()


def _answers(alive: list[_Node], witnesses: dict[str, Any], question: Question) -> Iterator[NodeFacts | Silence]:
    pending = {node.id: witnesses[node.id].answer.remote(question.as_json(), node.id) for node in alive}
    ready, _ = ray.wait(list(pending.values()), num_returns=len(pending), timeout=NODE_SECONDS)
    for node in alive:
        if pending[node.id] not in ready:
            yield Silence(node=node.label, reason=f"no answer within {NODE_SECONDS:.0f} s")
            continue
        try:
            facts = NodeFacts.from_json(ray.get(pending[node.id]), node.label, node.id)
        except RayError as error:  # it died meanwhile, or has no such code
            yield Silence(node=node.label, reason=last_line(error))
        except (ValueError, KeyError, TypeError):
            yield Silence(node=node.label, reason="its answer is not understood: it has another vaeseg")
        else:
            facts.clock = _clock(witnesses[node.id])
            yield facts


def _clock(witness: Any) -> tuple[float, float] | None:
    """Seconds by which its clock is ahead, and how far that may be off; None where it does not answer any more."""
    best = (math.nan, math.inf)
    for _ in range(CLOCK_QUESTIONS):
        asked = time.time()
        started = time.monotonic()
        try:
            there = ray.get(witness.now.remote(), timeout=CLOCK_SECONDS)
        except RayError:
            return None
        bound = (time.monotonic() - started) / 2
        if bound < best[1]:
            best = (there - (asked + bound), bound)
    return best
