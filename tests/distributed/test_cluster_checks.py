"""How one node differs from the driver is found, with its name."""

from __future__ import annotations

from pathlib import Path

import pytest
from node_answers import DIGEST, VERSIONS, driver, node_facts

from vaeseg.checks import Check, are_well, failed
from vaeseg.distributed.cluster_checks import Silence, clock_check, dead_check, node_checks, silent_check
from vaeseg.distributed.node_facts import NodeFacts
from vaeseg.io.probe import StoreProbe, store_probe
from vaeseg.io.store import Store


def of(facts: NodeFacts, probe: StoreProbe | None = None) -> dict[str, Check]:
    checks = node_checks(facts, driver(), probe)
    assert {check.node for check in checks} == {"worker-1 0123abcd"}
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def test_a_node_like_the_driver_is_well() -> None:
    """Its torch may be built for other devices."""
    checks = of(node_facts())
    assert set(checks) == {"node", "store", "versions", "model", "clock"}
    assert are_well(list(checks.values()))


@pytest.mark.parametrize("name", sorted(VERSIONS))
def test_another_version_is_named(name: str) -> None:
    """With both, in place of what the node said of itself."""
    check = of(node_facts(versions={**VERSIONS, name: "1.0.0"}))["versions"]
    assert check.status == "failed"
    assert check.found.startswith(f"{name} 1.0.0, the driver has ")


def test_a_node_whose_libraries_do_not_load_is_not_compared() -> None:
    """It has failed by itself."""
    broken = failed("versions", "ImportError: libcudart", "install")
    checks = of(node_facts(checks=[broken], versions={}))
    assert checks["versions"].found == "ImportError: libcudart"


def test_another_model_is_named() -> None:
    """A node with an older file would refuse every series."""
    check = of(node_facts(model_digest="b" * 64))["model"]
    assert (check.status, check.found) == (
        "failed",
        f"the model here is {'b' * 12}, the run would be submitted with {DIGEST[:12]}",
    )


def test_a_store_in_which_a_node_writes_elsewhere_is_found_out(store: Store) -> None:
    """The node sees the driver's file, and the driver must see the node's."""
    facts = node_facts()
    with store_probe(store.root) as probe:
        assert of(facts, probe)["store"].found == f"the driver does not see what this node writes into {store.root}"
        probe.write(facts.node_id, "there")
        assert of(facts, probe)["store"].status == "ok"
    assert list(store.root.glob(".doctor-*")) == []


@pytest.mark.parametrize(
    ("offset", "bound", "status"),
    [
        (4.9, 0.0, "ok"),
        (-5.1, 0.0, "warning"),
        (6.0, 2.0, "ok"),
        (59.0, 0.0, "warning"),
        (-60.5, 0.1, "failed"),
        (3600.0, 1.0, "failed"),
    ],
)
def test_a_clock_that_is_surely_off_is_told(offset: float, bound: float, status: str) -> None:
    """Either way; what the question's own way may account for is not held against it."""
    check = clock_check(offset, bound)
    assert (check.status, check.found.startswith(f"{offset:+.1f} s")) == (status, True)


def test_a_clock_that_was_not_told_is_a_warning() -> None:
    """It is not taken for a right one."""
    assert of(node_facts(clock=None))["clock"].status == "warning"


def test_a_node_that_says_nothing_has_failed() -> None:
    """With its name."""
    check = silent_check(Silence(node="worker-2 4567cdef", reason="no answer within 60 s"))
    assert (check.name, check.status, check.node) == ("node", "failed", "worker-2 4567cdef")


def test_dead_nodes_are_a_warning() -> None:
    """Those that were taken out stay in Ray's list."""
    assert dead_check(3, []).status == "ok"
    check = dead_check(2, ["worker-1 0123abcd"])
    assert (check.status, check.found) == ("warning", "2 alive, 1 dead: worker-1 0123abcd")


@pytest.mark.parametrize("check_id", ["", "../../etc", "0123456789ABCDEF"])
def test_an_id_of_a_check_is_no_path(check_id: str, tmp_path: Path) -> None:
    """It comes with a command line."""
    with pytest.raises(ValueError, match="no id of a check"):
        StoreProbe(root=tmp_path, id=check_id)
