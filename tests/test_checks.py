"""A look that raises or hangs is a check that failed, and tells nothing private."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from vaeseg.checks import Check, are_well, failed, looked, on_node, passed, warned
from vaeseg.errors import StoreError


def raising(error: Exception) -> list[Check]:
    def look() -> Iterator[Check]:
        yield passed("store", "half of it")
        raise error

    return looked("store", look, "do this")


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (StoreError("the store is full"), "the store is full"),
        (OSError(5, "Input/output error", "/archive/Doe^Jane"), "Input/output error"),
        (ModuleNotFoundError("No module named 'gdcm'"), "ModuleNotFoundError: No module named 'gdcm'"),
        (ValueError("Doe^Jane"), "ValueError"),
        (TimeoutError(110, "Connection timed out"), "Connection timed out"),
    ],
)
def test_a_look_that_raises_has_failed_with_its_reason(error: Exception, found: str) -> None:
    """Our own words and the system's; of others only the type, since they may quote a path."""
    assert raising(error) == [failed("store", found, "do this")]


def test_a_look_that_hangs_has_failed() -> None:
    """After the time that it is given; it is left behind."""
    never = threading.Event()

    def look() -> list[Check]:
        never.wait()
        return []

    (check,) = looked("archives", look, "is it mounted?", seconds=0.05)
    never.set()
    assert (check.status, check.found, check.advice) == ("failed", "no answer within 0 s", "is it mounted?")


def test_what_a_look_finds_is_kept_in_order() -> None:
    """More than one check may come of it."""
    checks = [passed("store", "there"), warned("disk", "little", "free some")]
    assert looked("store", lambda: iter(checks), "") == checks


def test_warnings_are_well_and_failures_are_not() -> None:
    """Also on a node, whose name goes with each."""
    checks = [passed("store", "there"), warned("disk", "little", "free some")]
    assert are_well(checks)
    of_node = on_node("worker-1", [*checks, failed("disk", "none", "free some")])
    assert not are_well(of_node)
    assert {check.node for check in of_node} == {"worker-1"}
    assert of_node[2].as_json() == {
        "name": "disk",
        "status": "failed",
        "found": "none",
        "advice": "free some",
        "node": "worker-1",
    }
