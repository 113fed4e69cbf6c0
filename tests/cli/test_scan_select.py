"""`scan --select` from the command line, as far as nothing is segmented."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from called import InThisProcess, vaeseg
from click.testing import Result
from factories import write_series

CHEST = '[[require]]\nrule = "chest"\nkeyword = "BodyPartExamined"\nequals = "CHEST"\n'


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """An archive of two series, one of the chest, and a file of rules."""
    write_series(tmp_path / "ward" / "a", BodyPartExamined="CHEST")
    write_series(tmp_path / "ward" / "b", BodyPartExamined="HEAD", SeriesInstanceUID="1.2.3.4")
    (tmp_path / "rules.toml").write_text(CHEST)
    assert vaeseg(tmp_path, "archive", "add", "ward", "--root", str(tmp_path / "ward")).exit_code == 0
    return tmp_path


def scan(ward: Path, *options: str) -> Result:
    return vaeseg(ward, "scan", "ward", "--stable-for", "0", "--select", str(ward / "rules.toml"), *options)


def test_a_dry_run_shows_what_would_be_left_out(ward: Path) -> None:
    """By the name of the rule, for people and programs."""
    shown = json.loads(scan(ward, "--dry-run", "--json").stdout)
    assert (shown["left_out_by_rule"], shown["to_segment"] + shown["to_skip"]) == ({"chest": 1}, 1)
    assert "rules   left out: chest 1\n" in scan(ward, "--dry-run").stdout


def test_a_scan_with_nothing_to_do_says_what_is_left_out(ward: Path, in_this_process: InThisProcess) -> None:
    """Exit code 0: nothing was refused and nothing failed."""
    (ward / "rules.toml").write_text("min_slices = 40")
    options = ["--stable-for", "0", "--select", ward / "rules.toml", "--store", ward / "store", "--json"]
    done = in_this_process("scan", "ward", *options)
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["left_out_by_rule"], report["outcomes"]["left_out_by_rule"]) == ({"min_slices": 2}, 2)
    assert (report["status"], report["n_series"]) == ("nothing_to_do", 2)


@pytest.mark.parametrize("content", ["", "min_slice = 3", "[[require]]\nkeyword = 'Nonsense'\nequals = 'x'", None])
def test_rules_that_cannot_be_followed_start_nothing(ward: Path, content: str | None) -> None:
    """Exit code 2 and one line, before a run is written down."""
    (ward / "rules.toml").unlink()
    if content is not None:
        (ward / "rules.toml").write_text(content)
    result = scan(ward)
    assert (result.exit_code, "rules.toml" in result.stderr, result.stderr.count("\n")) == (2, True, 1)
    assert json.loads(vaeseg(ward, "status", "--json").stdout) == []


def test_rules_are_of_no_use_where_nothing_is_segmented(ward: Path) -> None:
    """Said, and not passed over."""
    result = scan(ward, "--index-only")
    assert (result.exit_code, "--index-only" in result.stderr) == (2, True)
