"""How many models a run has, and on which nodes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import ray

from vaeseg.distributed import batch
from vaeseg.distributed.batch import EvenPlacement, _actors
from vaeseg.distributed.local import PASS_MEMORY_BYTES, cores_of_this_node, memory_of_passes


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of nodes with CPUs, as Ray lists them; may be changed."""
    listed = ["a" * 56, "b" * 56]
    monkeypatch.setattr(batch, "nodes_with_cpus", lambda: listed)
    return listed


def test_models_are_spread_evenly(nodes: list[str]) -> None:
    """Each goes to the node with the fewest; one that joins has none yet. None is bound to a node that dies."""
    place = EvenPlacement()
    chosen = [place()["scheduling_strategy"] for _ in range(3)]
    nodes.append("c" * 56)
    chosen += [place()["scheduling_strategy"] for _ in range(3)]
    assert [strategy.node_id[0] for strategy in chosen] == ["a", "b", "a", "c", "b", "c"]
    assert all(strategy.soft for strategy in chosen)


def test_a_model_waits_where_there_is_no_node_yet(nodes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a cluster that scales from nothing, or has just lost its last worker: Ray decides, once there is one."""
    nodes.clear()
    monkeypatch.setattr(ray, "cluster_resources", dict)
    assert EvenPlacement()() == {}
    assert _actors(on_gpu=False, n_series=40) == (1, 1)


@pytest.mark.parametrize(
    ("cpus", "gpus", "n_series", "expected"),
    [
        (8, 0, 40, (2, 2)),  # one a node
        (8, 0, 1, (1, 2)),  # not more than there are series
        (2, 0, 40, (2, 2)),
        (64, 4, 40, (1, 4)),  # one a GPU
    ],
)
def test_models_by_nodes_series_and_processors(
    cpus: int, gpus: int, n_series: int, expected: tuple[int, int], nodes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two nodes."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": float(cpus), "GPU": float(gpus)})
    assert _actors(gpus > 0, n_series) == expected


@pytest.mark.parametrize(("given", "allowed", "expected"), [(2, 8, 2), (8, 2, 2), (0, 8, 1)])
def test_a_model_uses_the_cores_that_ray_was_given_on_its_node(
    given: int, allowed: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those of another node, and no more than there are: a Ray of one machine is told of one more."""
    listed = [{"NodeID": "a", "Resources": {"CPU": 64.0}}, {"NodeID": "b", "Resources": {"CPU": float(given)}}]
    monkeypatch.setattr(ray, "nodes", lambda: listed)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "b"))
    monkeypatch.setattr("vaeseg.distributed.local.usable_cores", lambda: allowed)
    assert cores_of_this_node() == expected


def test_memory_is_asked_for_by_the_largest_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that died and one without CPUs do not count; where there is none yet, one core is all that is known."""
    listed = [
        {"NodeID": "a", "Alive": True, "Resources": {"CPU": 8.0}},
        {"NodeID": "b", "Alive": False, "Resources": {"CPU": 64.0}},
        {"NodeID": "c", "Alive": True, "Resources": {}},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: listed)
    assert memory_of_passes() == 8 * PASS_MEMORY_BYTES
    monkeypatch.setattr(ray, "nodes", list)
    assert memory_of_passes() == PASS_MEMORY_BYTES
