"""A process that trains keeps the memory that it frees."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from vaeseg.training.memory import keep_freed_memory

PROGRAM = """
import resource, sys
import numpy as np
from vaeseg.training.memory import keep_freed_memory

is_kept = sys.argv[1] == "kept" and keep_freed_memory()

def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.empty(2**26, dtype=np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults_of_a_step()
print(int(is_kept), faults_of_a_step())
"""


def test_pages_are_not_taken_anew() -> None:
    """Without it each piece of 64 MiB costs its pages again, in whatever size the system has them."""
    is_kept, faults = _faults("kept")
    if not is_kept:
        pytest.skip("this C library keeps its own ways")
    assert faults < 4 * 16 < _faults("as it was")[1]


def test_a_library_that_refuses_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trim threshold alone would have glibc map everything above 128 KiB anew."""
    asked: list[tuple[int, int]] = []

    def refuse(option: int, value: int) -> int:
        asked.append((option, value))
        return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=refuse))
    assert not keep_freed_memory()
    assert len(asked) == 1


def test_a_library_without_options_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    assert not keep_freed_memory()


def _faults(how: str) -> tuple[bool, int]:
    made = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, timeout=60)
    is_kept, faults = made.stdout.split()
    return is_kept == "1", int(faults)
