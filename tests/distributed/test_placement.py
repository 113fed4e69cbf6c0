"""How many models a run has, and on which nodes."""

from __future__ import annotations

import pytest
import ray

from vaeseg.distributed import batch
from vaeseg.distributed.batch import EvenPlacement, _actors


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
        (3, 0, 40, (1, 2)),  # reading and measuring need processors too
        (1, 0, 40, (1, 2)),
        (64, 4, 40, (1, 4)),  # one a GPU
    ],
)
def test_models_by_nodes_series_and_processors(
    cpus: int, gpus: int, n_series: int, expected: tuple[int, int], nodes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two nodes."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": float(cpus), "GPU": float(gpus)})
    assert _actors(gpus > 0, n_series) == expected
