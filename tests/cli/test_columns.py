from __future__ import annotations

import pytest

from vaeseg.cli.columns import Column, fitting, print_columns, tells_apart


def columns_of(*ranks: int) -> list[Column]:
    """Of four characters each, named by their place."""
    return [Column(heading=f"col{place}", cells=["1", "2"], rank=rank) for place, rank in enumerate(ranks)]


@pytest.mark.parametrize(
    ("width", "left"),
    [(22, "0123"), (21, "012"), (16, "012"), (15, "02"), (10, "02"), (9, "2"), (3, "2")],
)
def test_the_highest_rank_gives_way_first(width: int, left: str) -> None:
    """Of equal ones the last, and of rank 0 none; two characters lie between two columns."""
    shown = fitting(columns_of(1, 2, 0, 2), width, gap=2)
    assert [column.heading for column in shown] == [f"col{place}" for place in left]


def test_a_column_that_folds_needs_less() -> None:
    """Never more than it has, and never less than its heading."""
    uid = "1" * 64
    assert Column(heading="series", cells=[uid]).width == 64
    assert Column(heading="series", cells=[uid], folds_to=22).width == 22
    assert Column(heading="series", cells=["1.2.3"], folds_to=22).width == 6
    assert Column(heading="series", cells=[uid], folds_to=3).width == 6


def test_what_differs_tells_apart() -> None:
    """One value, however often, does not, nor does none."""
    assert tells_apart(["a", "b", "a"])
    assert not tells_apart(["a", "a"])
    assert not tells_apart([])


def test_columns_stand_side_by_side(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers to the right, the gap as asked for, what is too long folded and whole."""
    monkeypatch.setenv("COLUMNS", "13")
    columns = [
        Column(heading="name", cells=["abcdefgh", "b"], folds_to=4),
        Column(heading="n", cells=["1", "20"], is_number=True),
    ]
    print_columns([*columns, Column(heading="more", cells=["x", "y"], rank=1)], gap=3)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "name        n",
        "abcdefgh    1",
        "b          20",
    ]
    monkeypatch.setenv("COLUMNS", "9")
    print_columns(columns, gap=3)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "name    n",
        "abcd    1",
        "efgh",
        "b      20",
    ]


def test_a_name_in_brackets_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """Two archives are told apart by it, and one of them would end the command."""
    print_columns([Column(heading="archive", cells=["ct[old]", "ct[new]", "[/x]", ":cat:"])])
    assert capsys.readouterr().out.split() == ["archive", "ct[old]", "ct[new]", "[/x]", ":cat:"]


def test_what_has_no_room_is_folded_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Columns that never give way are made narrower, the widest first; a character of two cells takes two."""
    monkeypatch.setenv("COLUMNS", "9")
    print_columns([Column(heading="name", cells=["abcdefghij", "肺肺肺肺"]), Column(heading="n", cells=["1", "2"])])
    assert capsys.readouterr().out.splitlines() == ["name    n", "abcdef  1", "ghij", "肺肺肺  2", "肺"]
    monkeypatch.setenv("COLUMNS", "1")
    print_columns([Column(heading="n", cells=["12"]), Column(heading="m", cells=["3"])], gap=1)
    assert capsys.readouterr().out.splitlines() == ["n m", "1 3", "2"]


def test_room_that_is_left_goes_to_what_folds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first before the others, up to what they need."""
    monkeypatch.setenv("COLUMNS", "13")
    columns = [
        Column(heading="uid", cells=["123456"], folds_to=3),
        Column(heading="name", cells=["abcdef"], folds_to=4),
    ]
    print_columns(columns, gap=2)
    assert capsys.readouterr().out.splitlines() == ["uid     name", "123456  abcde", "        f"]


def test_a_row_without_anything_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty line, so that rows can be counted."""
    print_columns([Column(heading="reason", cells=["", "x", ""])])
    assert capsys.readouterr().out.splitlines() == ["reason", "", "x", ""]
