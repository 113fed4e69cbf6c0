from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vaeseg import process
from vaeseg.process import is_surely_dead, process_name, this_process

UNUSED_PID = 2**22 + 1
"""Beyond what Linux gives to a process."""


def test_a_process_that_lives_is_not_dead_and_one_that_ended_is() -> None:
    """Also one that ended and was not waited for yet."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = process_name(child.pid)
    assert not is_surely_dead(this_process())
    assert not is_surely_dead(name)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_surely_dead(name)  # a zombie
    child.communicate()
    assert is_surely_dead(name)


def test_another_process_that_got_the_same_pid_is_not_it() -> None:
    """It started at another time."""
    machine, _, own = this_process().partition("; ")
    pid, _, started = own.partition(" ")
    assert is_surely_dead(f"{machine}; {pid} {int(started) + 1}")


@pytest.mark.parametrize("name", ["", "another boot pid:[1]; 1 2"])
def test_nothing_is_known_of_another_machine(name: str) -> None:
    """Silence will tell."""
    assert not is_surely_dead(name)


def test_a_process_that_is_hidden_is_not_dead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Under hidepid, /proc does not show what runs under other accounts; the kernel still says that it is there."""
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("boot\n")
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").symlink_to("pid:[1]")
    monkeypatch.setattr(process, "PROC", tmp_path)
    assert not is_surely_dead(f"boot pid:[1]; {os.getpid()} 17")
    assert is_surely_dead(f"boot pid:[1]; {UNUSED_PID} 17")
