"""Hosts on a network of their own that can be cut: network namespaces of this machine, behind one bridge.

Needs root and iproute2. Whatever is started inside `Network.inside` has that host's network and no other.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SWITCH = "switch"
"""The namespace that holds the bridge."""
NOBODY = "02:00:00:00:00:99"
"""A hardware address that no host has: what is sent there is lost without a word, as on a cable that is cut."""
CLONE_NEWNET = 0x40000000


def reason_against() -> str:
    """Why there can be no such network here; empty where there can."""
    if shutil.which("ip") is None:
        return "'ip' is not installed: apt-get install iproute2"
    probe = f"vaeseg-{os.getpid()}-probe"
    tried = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"'ip netns add' is not permitted: {tried.stderr.strip()}"
    _ip("netns", "del", probe)
    return ""


@dataclass(frozen=True)
class Host:
    """A network namespace with one address."""

    name: str
    namespace: str
    address: str


class Network:
    """Hosts that reach each other and nothing else.

    Args:
        names: of hosts, at most 200.
    """

    def __init__(self, *names: str) -> None:
        self._prefix = f"vaeseg-{os.getpid()}-"
        self.hosts = {
            name: Host(name, self._prefix + name, f"10.77.0.{number}") for number, name in enumerate(names, start=2)
        }
        try:
            self._lay()
        except BaseException:
            self.remove()
            raise

    def address(self, name: str) -> str:
        """Of a host."""
        return self.hosts[name].address

    @contextmanager
    def inside(self, name: str) -> Iterator[Host]:
        """This thread, and every process that it starts meanwhile, is on a host."""
        host = self.hosts[name]
        with Path("/proc/thread-self/ns/net").open() as home, Path("/run/netns", host.namespace).open() as away:
            _enter(away.fileno())
            try:
                yield host
            finally:
                _enter(home.fileno())

    def cut(self, name: str, *others: str) -> None:
        """Drop packets between a host and others, both ways, from now on; by default between it and all others."""
        for one, other in self._ends(name, others):
            entry = (other.address, "lladdr", NOBODY, "dev", "eth0", "nud", "permanent")
            _ip("-n", one.namespace, "neigh", "replace", *entry)

    def mend(self, name: str, *others: str) -> None:
        """Let packets through again that `cut` dropped."""
        for one, other in self._ends(name, others):
            _ip("-n", one.namespace, "neigh", "del", other.address, "dev", "eth0", check=False)

    def remove(self) -> None:
        """Take the hosts away; processes in them stay, without a network that leads anywhere."""
        for name in (*self.hosts, SWITCH):
            _ip("netns", "del", self._prefix + name, check=False)

    def _lay(self) -> None:
        switch = self._prefix + SWITCH
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for number, host in enumerate(self.hosts.values()):
            port, at_host = f"port{number}", ("-n", host.namespace)
            _ip("netns", "add", host.namespace)
            _ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
            _ip("-n", switch, "link", "set", port, "master", "bridge", "up")
            _ip(*at_host, "addr", "add", f"{host.address}/24", "dev", "eth0")
            _ip(*at_host, "link", "set", "eth0", "up")
            _ip(*at_host, "link", "set", "lo", "up")

    def _ends(self, name: str, others: tuple[str, ...]) -> Iterator[tuple[Host, Host]]:
        here = self.hosts[name]
        for other in others or tuple(self.hosts.keys() - {name}):
            yield here, self.hosts[other]
            yield self.hosts[other], here


def _enter(namespace: int) -> None:
    """Move this thread to a network namespace, given a descriptor of it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*arguments: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
