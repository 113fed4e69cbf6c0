"""Names of processes, by which another on the same machine can tell that one is dead; and finding and ending them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
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


def processes_that(are_meant: Callable[[int], bool]) -> Iterator[int]:
    """Pids of this machine for which a function is true; one that ends meanwhile is nobody's."""
    return (int(path.name) for path in PROC.iterdir() if path.name.isdecimal() and are_meant(int(path.name)))


def variable_of(pid: int, name: str) -> str | None:
    """A variable of the environment that a process was started with.

    None where there is none, for a process that is gone or of another account, and for one that gave itself a title,
    which may lie where its environment was.
    """
    prefix = f"{name}=".encode()
    values = [line.removeprefix(prefix) for line in _read(pid, "environ").split(b"\0") if line.startswith(prefix)]
    return os.fsdecode(values[0]) if values else None


def title_of(pid: int) -> str:
    """What `ps` shows of a process; empty for one that is gone or waits only to be noticed."""
    return os.fsdecode(_read(pid, "cmdline").replace(b"\0", b" "))


def session_of(pid: int) -> int | None:
    """The session that a process is in; None for one that is gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return None


def send_signal(pid: int, number: signal.Signals, is_meant: Callable[[int], bool]) -> None:
    """Signal a process, unless it is gone or the function says that the pid is another's by now."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if is_meant(pid):  # the handle keeps the pid from changing hands between this and the signal
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return
    finally:
        os.close(handle)


def _read(pid: int, name: str) -> bytes:
    try:
        return (PROC / str(pid) / name).read_bytes()
    except OSError:
        return b""


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
