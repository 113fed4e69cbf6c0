"""A check of what a night needs: what was looked at, what was found, and what to do about it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from vaeseg.errors import VaesegError

Status = Literal["ok", "warning", "failed"]

LOOK_SECONDS = 30.0
"""A look that takes longer hangs: a network file system that went away, for one."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    """Of the kind of check, as docs/doctor.md lists it."""
    status: Status
    found: str
    """A sentence with what there is; no password, and no path but the store's own."""
    advice: str = ""
    """What to do; empty for one that is ok."""
    node: str | None = None
    """Of a cluster; None for this machine."""

    def as_json(self) -> dict[str, Any]:
        """Flat, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class ArchiveRoot:
    """Where an archive should be, and what is known of it."""

    name: str
    root: str
    n_files: int
    """In the index, those that are gone not counted."""
    is_registered: bool
    """By `archive add`; others are the directories of earlier submissions."""


def passed(name: str, found: str) -> Check:
    """All is well."""
    return Check(name=name, status="ok", found=found)


def warned(name: str, found: str, advice: str) -> Check:
    """A night can do with it."""
    return Check(name=name, status="warning", found=found, advice=advice)


def failed(name: str, found: str, advice: str) -> Check:
    """A night cannot do with it."""
    return Check(name=name, status="failed", found=found, advice=advice)


Look = Callable[[], Iterable[Check]]


def looked(name: str, look: Look, advice: str, seconds: float = LOOK_SECONDS) -> list[Check]:
    """What a look found; one that raises or hangs is a check that failed, and others go on.

    Args:
        name: of the check that stands for a look without a result.
        look: done in a thread of its own, which is left behind if it hangs.
        advice: what to do where the look itself is impossible.
        seconds: how long it is waited for.
    """
    outcome: Future[list[Check]] = Future()

    def work() -> None:
        try:
            outcome.set_result(list(look()))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the check found
            outcome.set_exception(error)

    threading.Thread(target=work, name=f"check-{name}", daemon=True).start()
    try:
        return outcome.result(timeout=seconds)
    except TimeoutError as error:
        hung = not outcome.done()  # a TimeoutError may also be what the look raised
        return [failed(name, f"no answer within {seconds:.0f} s" if hung else _said(error), advice)]
    except Exception as error:  # noqa: BLE001 - as above
        return [failed(name, _said(error), advice)]


def _said(error: Exception) -> str:
    """Our own messages hold nothing private; those of others may quote a path or a value."""
    if isinstance(error, VaesegError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, ImportError):
        return f"{type(error).__name__}: {error.msg}"
    return f"{type(error).__name__}"


def on_node(node: str, checks: Iterable[Check]) -> list[Check]:
    """The same checks, said of a node."""
    return [replace(check, node=node) for check in checks]


def are_well(checks: Sequence[Check]) -> bool:
    """Whether a night can begin: nothing failed."""
    return all(check.status != "failed" for check in checks)
