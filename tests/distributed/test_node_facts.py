"""What a node answers, asked in this process."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from node_answers import driver
from ray.exceptions import GetTimeoutError, RaySystemError

from vaeseg.checks import ArchiveRoot, Check
from vaeseg.distributed import machine_checks, node_facts, node_questions
from vaeseg.distributed.node_facts import NodeFacts, Question, answer
from vaeseg.io.probe import StoreProbe, store_probe
from vaeseg.io.store import Store
from vaeseg.models.checkpoint import load_checkpoint
from vaeseg.models.files import resolve_model

NODE = "0123abcd" * 7


def asked(probe: StoreProbe, **changes: Any) -> Question:
    probe.write("asked", "nonce")
    root = str(probe.root)
    values = {"model": "phantom-v1", "store_root": root, "probe_id": probe.id, "nonce": "nonce"}
    return Question(**values | changes)


def answered(question: Question) -> NodeFacts:
    return NodeFacts.from_json(answer(question.as_json(), NODE), "worker-1 0123abcd", NODE)


def store_of(facts: NodeFacts) -> Check:
    return next(check for check in facts.checks if check.name == "store")


@pytest.fixture(autouse=True)
def _few_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks, "_codecs", lambda: [])


def test_a_node_tells_versions_and_digest_and_leaves_a_file(store: Store, tmp_path: Path) -> None:
    """In the store, for the driver to see."""
    ward = ArchiveRoot(name="ward", root=str(tmp_path / "gone"), n_files=1, is_registered=True)
    with store_probe(store.root) as probe:
        facts = answered(asked(probe, archives=(ward,)))
        assert probe.read(NODE) == "nonce"
    assert set(facts.versions) == {"python", "vaeseg", "torch", "ray"}
    assert facts.model_digest == load_checkpoint(resolve_model("phantom-v1")).digest
    by_name = {check.name: check.status for check in facts.checks}
    assert (by_name["store"], by_name["archives"], by_name["model"]) == ("ok", "failed", "ok")


@pytest.mark.parametrize("other", ["empty", "missing", "older"])
def test_another_store_at_the_same_path_is_found_out(store: Store, tmp_path: Path, other: str) -> None:
    """Without the driver's file, not mounted at all, or with another driver's file."""
    with store_probe(store.root) as probe:
        question = asked(probe)
        if other == "older":
            probe.write("asked", "another nonce")
        elsewhere = store.root if other == "older" else tmp_path / other
        if other == "empty":
            elsewhere.mkdir()
        check = store_of(answered(Question(**{**vars(question), "store_root": str(elsewhere)})))
    assert check.status == "failed"
    assert check.found == (f"there is no {elsewhere}" if other == "missing" else f"{elsewhere} is not the driver's")
    assert "same path on every node" in check.advice


def test_a_store_that_a_node_cannot_write_is_found_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mounted read-only there."""

    def refuse(_probe: StoreProbe, name: str, _text: str) -> None:
        raise OSError(30, "Read-only file system", name)

    with store_probe(store.root) as probe:
        question = asked(probe)
        monkeypatch.setattr(node_facts.StoreProbe, "write", refuse)
        check = store_of(answered(question))
    assert (check.status, check.found) == ("failed", "Read-only file system")


class Cluster:
    """Stands for Ray: nodes with the answers that they give, in order."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.killed: list[str] = []

    def nodes(self) -> list[dict[str, Any]]:
        names = [*self.answers, "gone"]
        return [
            {
                "NodeID": name * 14,
                "NodeName": f"10.0.0.{n}" if n == 0 else name,
                "NodeManagerAddress": f"10.0.0.{n}",
                "NodeManagerHostname": f"host-{n}",
                "Alive": name != "gone",
            }
            for n, name in enumerate(names)
        ]

    def options(self, scheduling_strategy: Any) -> Any:
        name = next(name for name in self.answers if name * 14 == scheduling_strategy.node_id)
        ask = SimpleNamespace(remote=lambda *_: (name, self.answers[name]))
        return SimpleNamespace(remote=lambda: SimpleNamespace(answer=ask, now=SimpleNamespace(remote=lambda: name)))

    def wait(self, pending: list[Any], num_returns: int, timeout: float) -> Any:
        assert (num_returns, timeout) == (len(self.answers), node_questions.NODE_SECONDS)
        return [one for one in pending if one[1] is not None], []

    def get(self, one: Any, timeout: float | None = None) -> Any:
        if timeout is not None:
            raise GetTimeoutError
        if isinstance(one[1], Exception):
            raise one[1]
        return one[1]

    def kill(self, witness: Any) -> None:
        self.killed.append(witness.now.remote())


def test_nodes_that_hang_die_or_answer_nonsense_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the others are heard; what was started on each is ended."""
    good = json.dumps({"checks": [], "versions": driver().versions, "model_digest": driver().model_digest})
    answers = {"aaaa": good, "bbbb": None, "cccc": RaySystemError("No module named 'vaeseg'"), "dddd": '{"v": 9}'}
    cluster = Cluster(answers)
    monkeypatch.setattr(node_questions, "ray", cluster)
    monkeypatch.setattr(node_questions, "_WITNESS", cluster)
    checks = node_questions.nodes_checked(Question(model="phantom-v1"), driver(), None)
    told = [(check.node, check.name, check.status) for check in checks]
    assert told == [
        (None, "nodes", "warning"),
        ("host-0 aaaaaaaa", "node", "ok"),
        ("host-0 aaaaaaaa", "clock", "warning"),
        ("bbbb bbbbbbbb", "node", "failed"),
        ("cccc cccccccc", "node", "failed"),
        ("dddd dddddddd", "node", "failed"),
    ]
    assert checks[3].found == "no answer within 60 s"
    assert "another vaeseg" in checks[5].found
    assert cluster.killed == list(answers)


def test_the_clock_is_known_as_well_as_the_way_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quickest of three questions counts."""
    moments = iter([100.0, 200.0, 300.0])
    lengths = iter([0.0, 8.0, 8.0, 8.4, 8.4, 12.4])
    answers = iter([150.0, 261.2, 400.0])
    clock = SimpleNamespace(time=lambda: next(moments), monotonic=lambda: next(lengths))
    monkeypatch.setattr(node_questions, "time", clock)
    monkeypatch.setattr(node_questions, "ray", SimpleNamespace(get=lambda *_, **__: next(answers)))
    witness = SimpleNamespace(now=SimpleNamespace(remote=lambda: None))
    assert node_questions._clock(witness) == pytest.approx((61.0, 0.2))
