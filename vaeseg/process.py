"""Names of processes, by which another process on the same machine can tell that one is dead."""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")
START_FIELD = 19
"""Of `/proc/<pid>/stat` behind the command's name: clock ticks from boot to the start of the process."""


def this_process() -> str:
    """Name of this process; empty where the system does not tell."""
    return process_name(os.getpid())


def process_name(pid: int) -> str:
    """Boot, pid namespace, pid and start of a process; empty for one that is gone or where the system does not tell."""
    started = _started(pid)
    return f"{_machine()}; {pid} {started}" if started else ""


def is_surely_dead(name: str) -> bool:
    """Whether a process, as `this_process` named it, has ended; False also where that cannot be known from here."""
    machine, _, process = name.partition("; ")
    if not process or machine != _machine():
        return False
    pid, _, started = process.partition(" ")
    return _started(int(pid)) != started and not _is_hidden(int(pid))


def _is_hidden(pid: int) -> bool:
    """Whether there is a process that /proc does not show: one of another account, under hidepid or ProtectProc."""
    if (PROC / str(pid)).exists():
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _machine() -> str:
    """The running kernel and the namespace in which pids mean something."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {(PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started; empty for one that is gone, or that waits only to be noticed (a zombie)."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[START_FIELD]
