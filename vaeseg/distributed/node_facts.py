"""What a node of a cluster is asked, and what it answers.

No Ray in here. It is text both ways, so that unlike versions of vaeseg understand each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from vaeseg.checks import ArchiveRoot, Check, failed, looked
from vaeseg.distributed.machine_checks import MachineFacts, machine_facts
from vaeseg.io.health import store_checks
from vaeseg.io.probe import StoreProbe
from vaeseg.io.store import Store
from vaeseg.paths import any_path

ASKED = "asked"
"""Name of the driver's file in the store."""
MOUNT_STORE = "mount the store at the same path on every node, writable for the account that Ray runs as"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What every node is to look for."""

    model: str
    """Name, or path of its file."""
    archives: tuple[ArchiveRoot, ...] = ()
    store_root: str | None = None
    """None where the driver has no store."""
    probe_id: str = ""
    """Of the directory in the store that the driver made."""
    nonce: str = ""
    """What the driver wrote there."""

    def as_json(self) -> str:
        """For the way to a node."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Question:
        """As `as_json` wrote it."""
        values = json.loads(text)
        values["archives"] = tuple(ArchiveRoot(**archive) for archive in values["archives"])
        return cls(**values)


@dataclass(kw_only=True)
class NodeFacts(MachineFacts):
    """What a node answered, and what the driver added."""

    node: str = ""
    """Name and beginning of the id, for people."""
    node_id: str = ""
    clock: tuple[float, float] | None = None
    """Seconds by which its clock is ahead of the driver's, and how far that may be off; None where it was not told."""

    @classmethod
    def from_json(cls, text: str, node: str, node_id: str) -> NodeFacts:
        """As `answer` wrote it."""
        values = json.loads(text)
        checks = [Check(**check) for check in values["checks"]]
        return cls(
            node=node,
            node_id=node_id,
            checks=checks,
            versions=values["versions"],
            model_digest=values["model_digest"],
        )


def answer(question: str, node_id: str) -> str:
    """Look at this node.

    Args:
        question: as `Question.as_json` wrote it.
        node_id: of this node; names the file that it leaves in the store.
    """
    asked = Question.from_json(question)
    checks = [] if asked.store_root is None else looked("store", lambda: _store(asked, node_id), MOUNT_STORE)
    models = None if asked.store_root is None else Store(any_path(asked.store_root)).models
    facts = machine_facts(models, asked.model, asked.archives)
    values = {"checks": [check.as_json() for check in (*checks, *facts.checks)], "versions": facts.versions}
    return json.dumps({**values, "model_digest": facts.model_digest})


def _store(asked: Question, node_id: str) -> Iterator[Check]:
    """Find what the driver wrote, and leave something for it."""
    root = any_path(str(asked.store_root))
    probe = StoreProbe(root=root, id=asked.probe_id)
    if probe.read(ASKED) != asked.nonce:
        found = f"{root} is not the driver's" if root.is_dir() else f"there is no {root}"
        yield failed("store", found, MOUNT_STORE)
        return
    probe.write(node_id, asked.nonce)
    yield from store_checks(root)
