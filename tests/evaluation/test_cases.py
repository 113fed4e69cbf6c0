from __future__ import annotations

import numpy as np

from vaeseg.evaluation.cases import choose_cases
from vaeseg.evaluation.slices import SliceCounts
from vaeseg.evaluation.subjects import EvaluationTable, SubjectRecord, whole_volume


def table_of(*rows: tuple[int, int, int, int]) -> EvaluationTable:
    """Slices as (subject, label, predicted, shared)."""
    columns = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    n_subjects = int(columns[0].max(initial=-1)) + 1
    record = SubjectRecord(
        name="s", n_slices=0, grid=None, labelled_ml=None, predicted_ml=None, lesions=(), n_false_lesions=0
    )
    return EvaluationTable(
        subjects=(record,) * n_subjects,
        counts=SliceCounts(label=columns[1], predicted=columns[2], shared=columns[3]),
        subject_of_slice=columns[0],
        places=whole_volume("s", columns.shape[1]),
    )


def rows_of(table: EvaluationTable, kind: str, n_each: int = 2) -> list[int]:
    return [case.row for case in choose_cases(table, n_each) if case.kind == kind]


def test_each_kind_takes_its_own_and_one_of_a_subject() -> None:
    """IoU 1, 0.9, 0.5, 0 and 0 in subjects 0 0 1 2 3; invented 7 and 9 pixels in subject 1."""
    table = table_of(
        (0, 10, 10, 10), (0, 10, 9, 9), (1, 10, 5, 5), (1, 0, 7, 0), (1, 0, 9, 0), (2, 10, 0, 0), (3, 50, 0, 0)
    )
    assert rows_of(table, "best") == [0, 2]
    assert rows_of(table, "median") == [2, 1]
    assert rows_of(table, "worst") == [6, 5]
    assert rows_of(table, "false_alarm") == [4]


def test_nothing_to_show() -> None:
    """No slices, or slices in which nothing is and nothing was found."""
    assert choose_cases(table_of()) == ()
    assert choose_cases(table_of((0, 0, 0, 0))) == ()


def test_false_alarms_alone_are_shown() -> None:
    """A data set without any tumour has no best slice."""
    assert [case.kind for case in choose_cases(table_of((0, 0, 3, 0)))] == ["false_alarm"]
