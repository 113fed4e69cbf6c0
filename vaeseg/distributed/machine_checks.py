"""All that is checked of one machine: this one, or a node of a cluster. No Ray in here, but to see that it loads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from vaeseg.checks import ArchiveRoot, Check, Look, looked
from vaeseg.distributed import machine
from vaeseg.limits import memory_available
from vaeseg.paths import AnyPath

REINSTALL = "install vaeseg anew: pip install -c constraints.txt vaeseg"


@dataclass(kw_only=True)
class MachineFacts:
    """What was found, and what is compared between machines."""

    checks: list[Check] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    """Empty where something cannot be loaded, which is a failed check."""
    model_digest: str | None = None
    """None where the model cannot be used, which is a failed check."""


def machine_facts(store_models: AnyPath | None, model: str, archives: Sequence[ArchiveRoot]) -> MachineFacts:
    """Check a machine, but for its store.

    Args:
        store_models: directory of the store's models; None where there is no store.
        model: name, or path of its file.
        archives: whose roots should be seen.
    """
    facts = MachineFacts()

    def versions() -> Iterator[Check]:
        yield from machine.version_checks()
        facts.versions = machine.versions()

    def model_look() -> Iterator[Check]:
        from vaeseg.models.health import model_check

        check, facts.model_digest = model_check(model, store_models)
        yield check

    facts.checks += looked("versions", versions, REINSTALL, seconds=60.0)  # torch loads slowly from a cold disk
    facts.checks += looked("model", model_look, "name another with --model")
    facts.checks += looked("codecs", _codecs, REINSTALL)
    for archive in archives:
        look = partial(_archive, archive)
        facts.checks += looked("archives", look, f"{archive.name}: is its file server there?")
    for name, one in _MEANS.items():
        facts.checks += looked(name, one, "report it: this check should work on any Linux")
    return facts


def _codecs() -> Iterator[Check]:
    from vaeseg.io.codec_health import codec_checks

    return codec_checks()


def _archive(archive: ArchiveRoot) -> list[Check]:
    from vaeseg.io.health import archive_check

    return [archive_check(archive)]


_MEANS: dict[str, Look] = {
    "gpus": lambda: [machine.gpu_check(machine.gpus_seen(), machine.gpu_devices())],
    "memory": lambda: [machine.memory_check(memory_available())],
    "shared_memory": lambda: [machine.shared_memory_check(shutil.disk_usage(machine.SHARED_MEMORY).total)],
}
