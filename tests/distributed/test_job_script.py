from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

from vaeseg.distributed.job_script import jobs_directory
from vaeseg.distributed.jobs_api import JobScript, entry_point, is_jobs_address


def test_every_script_that_is_submitted_is_there() -> None:
    """And none that nobody submits."""
    assert sorted(path.stem for path in jobs_directory().glob("*.py")) == sorted(get_args(JobScript))


@pytest.mark.parametrize("name", ["", "../setup", "no_such_job"])
def test_a_script_that_is_not_there_is_a_usage_error(name: str) -> None:
    """The message has those that are."""
    command = [sys.executable, "-P", "-m", "vaeseg.distributed.job_script", *([name] if name else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there are" in done.stderr
    assert "segment_archive" in done.stderr


def test_an_entry_point_carries_the_run_and_nothing_else() -> None:
    """Everybody who may look at the cluster sees it."""
    command = entry_point("segment_archive", "20261122T013000-1a2b3c")
    assert command.split()[:4] == ["python", "-P", "-m", "vaeseg.distributed.job_script"]
    assert command.split()[4:] == ["segment_archive", "--run-id", "20261122T013000-1a2b3c"]


def test_an_address_says_whether_it_is_submitted_to() -> None:
    """A Jobs API is spoken to over http; anything else is joined."""
    assert is_jobs_address("http://head:8265")
    assert is_jobs_address("https://head")
    assert not is_jobs_address("head:6379")
    assert not is_jobs_address(None)
