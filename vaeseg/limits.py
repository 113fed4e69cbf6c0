"""How many cores and how much memory a process may take: of the machine, or of the container or service that it is in.

Containers and services (docker's `--cpus` and `--memory`, systemd's `CPUQuota` and `MemoryMax`) are control groups of
Linux, one inside the other, each with its own limits: files, of version 2 as most systems have it or of version 1.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

MEMORY_FACTS = Path("/proc/meminfo")
OWN_GROUPS = Path("/proc/self/cgroup")
"""A line for each hierarchy: number, controllers (none in version 2), and the group that this process is in."""
GROUPS = Path("/sys/fs/cgroup")
_MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.high", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Limit (of version 2 also that from which on it is slowed down), use, and what of `memory.stat` is files that nobody
used of late."""


def usable_cores() -> int:
    """Cores that this process may compute on: those it is bound to, or its share of time where that is less.

    A share of one and a half cores counts as two.
    """
    bound = len(os.sched_getaffinity(0))
    return max(1, math.ceil(min([bound, *(_cores_of(group) for group in _groups("cpu"))])))


def memory_available() -> int:
    """Bytes that a process may still take: of the machine, or of the container or service where that is less.

    Raises:
        OSError: the system does not tell.
    """
    of_machine = _number(r"MemAvailable:\s+(\d+) kB", MEMORY_FACTS) * 1024
    return max(0, int(min([of_machine, *(_memory_of(group) for group in _groups("memory"))])))


def _groups(controller: str) -> Iterator[Path]:
    """Directories of the groups that may limit this process, inner ones first.

    In a container of version 1 its group has the name that the host knows, and only the outermost directory is there.
    """
    try:
        lines = OWN_GROUPS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        root = GROUPS / controller if controllers else GROUPS
        group = PurePosixPath(name.lstrip("/"))
        for each in (group, *group.parents):
            yield root / each


def _cores_of(group: Path) -> float:
    """Infinite for a group without a limit, or that is not to be seen from here."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        share, period = (group / "cpu.max").read_text().split()  # "max" for the first where there is none
        return int(share) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        share, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(share) / int(period) if int(share) > 0 else math.inf
    return math.inf


def _memory_of(group: Path) -> float:
    """Bytes that are left of it; infinite as above. Of files kept in memory, which count as used, those are left that
    the system gives up first."""
    left = [math.inf]
    for limit, used, cached in _MEMORY_FILES:
        with suppress(OSError, ValueError):
            unused = int((group / limit).read_text()) - int((group / used).read_text())
            left.append(unused + _number(rf"{cached} (\d+)", group / "memory.stat"))
    return min(left)


def _number(pattern: str, file: Path) -> int:
    found = re.search(f"^{pattern}$", file.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(0, f"{file} does not say it")
    return int(found[1])
