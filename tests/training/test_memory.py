"""A process that trains keeps the memory that it frees."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from vaeseg.training.memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.empty(2**26, dtype=np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults_of_a_step()
print(faults_of_a_step())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_pages_are_not_taken_anew() -> None:
    """Without it each piece of 64 MiB costs its pages again, in whatever size the system has them."""
    assert _faults("as it was") > 4 * 16
    assert _faults("kept") < 4 * 16


def _faults(how: str) -> int:
    made = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, timeout=60)
    return int(made.stdout)
