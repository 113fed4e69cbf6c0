"""The command says what is wrong, and exits with 1 for what a night needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from called import vaeseg
from click.testing import CliRunner

from vaeseg.cli import main
from vaeseg.distributed import machine_checks
from vaeseg.models.files import resolve_model

GIB = 2**30


@pytest.fixture(autouse=True)
def _a_large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks, "memory_available", lambda: 64 * GIB)
    for name in ("VAESEG_ADDRESS", "RAY_ADDRESS", "VAESEG_DB_FILE", "VAESEG_SUBJECT_KEY"):
        monkeypatch.delenv(name, raising=False)


def checks_of(directory: Path, *options: str) -> tuple[int, dict[str, Any]]:
    done = vaeseg(directory, "doctor", "--json", *options)
    told = json.loads(done.stdout)
    assert told["ok"] == (done.exit_code == 0)
    assert all(set(check) == {"name", "status", "found", "advice", "node"} for check in told["checks"])
    return done.exit_code, {check["name"]: check for check in told["checks"]}


def test_all_is_well_in_a_store_with_an_archive(ward: Path) -> None:
    """A line for each check, and nothing that failed."""
    done = vaeseg(ward, "doctor")
    assert (done.exit_code, "FAILED" in done.stdout) == (0, False)
    names = [line.split()[1] for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert names[:8] == ["database", "schema", "database_write", "runs", "store", "disk", "subject_key", "versions"]
    assert names[8:] == ["model", "codecs", "archives", "gpus", "memory", "shared_memory"]
    assert done.stderr.startswith("14 checks: 0 failed")


def test_before_the_first_archive_there_are_warnings(tmp_path: Path) -> None:
    """Nothing is made by looking."""
    code, checks = checks_of(tmp_path)
    assert (code, checks["database"]["status"], checks["store"]["status"]) == (0, "warning", "warning")
    assert list(tmp_path.iterdir()) == []


def test_what_is_broken_is_named_with_what_to_do(ward: Path) -> None:
    """A key that others may read, an archive that is gone, a damaged model."""
    (ward / "store/subject.key").write_text("k" * 64)
    (ward / "store/subject.key").chmod(0o644)
    (ward / "ward").rename(ward / "CANARY^Jane")
    model = resolve_model("phantom-v1").read_bytes()
    (ward / "store/models/phantom-v1.safetensors").write_bytes(model[:-1])
    done = vaeseg(ward, "doctor")
    lines = done.stdout.splitlines()
    failed = [line for line in lines if line.startswith("FAILED")]
    assert (done.exit_code, [line.split()[1] for line in failed]) == (1, ["subject_key", "model", "archives"])
    assert all(lines[lines.index(line) + 1].strip().startswith("-> ") for line in failed)
    assert "CANARY" not in done.output
    assert str(ward / "ward") not in done.output


def test_a_dead_server_fails_and_the_rest_is_looked_at(ward: Path) -> None:
    """Its password is in no output."""
    code, checks = checks_of(ward, "--db", "postgresql://vaeseg:secret77@127.0.0.1:1/night")
    assert (code, checks["database"]["status"], checks["store"]["status"]) == (1, "failed", "ok")
    assert "***" in checks["database"]["found"]
    assert "secret77" not in json.dumps(checks)


@pytest.mark.parametrize("options", [["--db", "mysql://host/name"], ["--no-such-option"]])
def test_options_that_make_no_sense_are_usage(options: list[str], tmp_path: Path) -> None:
    """Before anything is looked at."""
    done = CliRunner(env={"VAESEG_STORE": str(tmp_path / "store")}).invoke(main, ["doctor", *options])
    assert (done.exit_code, done.stdout) == (2, "")


def test_a_model_that_nobody_has_is_a_failed_check(ward: Path) -> None:
    """And no usage error: the store is looked at all the same."""
    code, checks = checks_of(ward, "--model", "phantom-v7")
    assert (code, checks["model"]["status"], checks["database"]["status"]) == (1, "failed", "ok")
