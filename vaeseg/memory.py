"""How much memory there is left, of a machine or of the container that a process is in."""

from __future__ import annotations

import re
from pathlib import Path

MEMORY_FACTS = Path("/proc/meminfo")
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
MEMORY_USED = Path("/sys/fs/cgroup/memory.current")
MEMORY_PARTS = Path("/sys/fs/cgroup/memory.stat")


def memory_available() -> int:
    """Bytes that a process may still take: of the machine, or of the container where that is less.

    Raises:
        OSError: the system does not tell.
    """
    of_machine = _number(r"MemAvailable:\s+(\d+) kB", MEMORY_FACTS) * 1024
    try:
        cached = _number(r"inactive_file (\d+)", MEMORY_PARTS)  # counts as used, and is given up when it is needed
        in_container = int(MEMORY_LIMIT.read_text()) - int(MEMORY_USED.read_text()) + cached
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return of_machine
    return min(of_machine, in_container)


def _number(pattern: str, file: Path) -> int:
    found = re.search(f"^{pattern}$", file.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(0, f"{file} does not say it")
    return int(found[1])
