"""Rules of a scan against the ledger: what is asked, what is recalled, and what is taken; no Ray."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from factories import CANARIES, stored_values, write_series
from ledger_factories import DIGEST, MODEL, failed, segmented
from sqlalchemy import select

from vaeseg.canonical import as_json, digest
from vaeseg.config import ReadingConfig, RunConfig
from vaeseg.db.archives import ensure_archive
from vaeseg.db.runs import ModelRow, register_model, run_task, start_run
from vaeseg.db.session import Database
from vaeseg.db.tables import ExclusionTable, SeriesTable
from vaeseg.db.work import plan_work, run_key
from vaeseg.distributed import asking
from vaeseg.distributed.commit import commit_group
from vaeseg.distributed.indexing import IndexJob, update_index
from vaeseg.distributed.rules import Selection, left_out_of_scan, select_series
from vaeseg.errors import StoreError
from vaeseg.io.archive import scan_archive
from vaeseg.io.store import Store

UID = "1.2.826.0.1.88"
CHEST = {"require": [{"rule": "chest", "keyword": "BodyPartExamined", "equals": "CHEST"}]}
THINNEST = {"prefer": ["thinnest"]}
TALL = stored_values((10, 12, 16))
WIDE = {"PixelSpacing": [10.0, 10.0]}
"""Slices of 12 x 16 cm: nothing that every run skips."""


def nothing() -> None:
    return


@dataclass
class Ward:
    """An archive with its index, that runs follow rules on."""

    database: Database
    store: Store
    root: Path
    asked: list[str]
    """Paths of the headers that were read for rules, since it was last emptied."""

    def write(self, name: str, study: str = "1", spacing_mm: float = 2.5, **overrides: Any) -> None:
        """A series that no rule but those of `--select` leaves out; written again, it is another."""
        places = {k: {"ImagePositionPatient": [-40.0, -30.0, k * spacing_mm]} for k in range(len(TALL))}
        identity = {"SeriesInstanceUID": f"{UID}.{name}", "StudyInstanceUID": f"{UID}.9{study}"}
        shutil.rmtree(self.root / name, ignore_errors=True)
        write_series(self.root / name, TALL, per_slice=places, **{**WIDE, **identity, **overrides})

    def job(self) -> IndexJob:
        return IndexJob(
            archive_id=ensure_archive(self.database, str(self.root)),
            root=self.root,
            reading=ReadingConfig(),
            exclude=(),
            secret=b"k" * 32,
            stable_seconds=0.0,
        )

    def begin(self, config: RunConfig) -> str:
        update_index(self.database, self.job(), nothing)
        register_model(self.database, ModelRow(digest=DIGEST, name=MODEL))
        return start_run(
            self.database,
            kind="segment",
            archive_id=self.job().archive_id,
            model_digest=DIGEST,
            config_json=as_json(config),
            config_digest=digest(config.segmentation),
        )

    def select(self, rules: dict[str, Any], waiting: tuple[str, ...] = (), **options: Any) -> tuple[str, Selection]:
        """What a run with these rules takes; the run, and its selection with series under their short names."""
        config = RunConfig(model_path="", rules=rules, **options)
        run_id = self.begin(config)
        self.asked.clear()
        key = run_key(self.database, run_id)
        studies = [f"{UID}.9{study}" for study in waiting]
        chosen = select_series(self.database, self.job(), key, config, studies, nothing)
        return run_id, Selection(
            left_out={name.removeprefix(f"{UID}."): rule for name, rule in chosen.left_out.items()},
            unread={name.removeprefix(f"{UID}."): failure for name, failure in chosen.unread.items()},
        )

    def left_out(self, rules: dict[str, Any], **options: Any) -> dict[str, str]:
        return dict(self.select(rules, **options)[1].left_out)

    def finish(self, run_id: str, *names: str, outcome: Callable[..., Any] = segmented) -> None:
        """Plan series, and end them so."""
        items = plan_work(self.database, run_id, [f"{UID}.{name}" for name in names], retry=True).pending
        commit_group(run_id, [(item, outcome(item)) for item in items], self.store, self.database)

    def exclusions(self) -> dict[str, tuple[str, str]]:
        """Short name to rule and sentence, of all rules."""
        statement = select(SeriesTable.series_key, ExclusionTable.rule, ExclusionTable.detail).join(ExclusionTable)
        with self.database.read() as connection:
            return {key.removeprefix(f"{UID}."): (rule, text) for key, rule, text in connection.execute(statement)}


@pytest.fixture
def ward(database: Database, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ward:
    asked: list[str] = []
    really_ask = asking.ask_header

    def noted(root: Path, path: str, *arguments: Any) -> Any:
        asked.append(path)
        return really_ask(root, path, *arguments)

    monkeypatch.setattr(asking, "ask_header", noted)
    (tmp_path / "ward").mkdir()
    return Ward(database=database, store=store, root=tmp_path / "ward", asked=asked)


def test_each_series_is_asked_once_and_recorded(ward: Ward) -> None:
    """One header a series; what is left out has a row with both values, and neither is asked again."""
    ward.write("1", BodyPartExamined="CHEST")
    ward.write("2", BodyPartExamined="ABDOMEN")
    ward.write("3")
    run_id, chosen = ward.select(CHEST)
    assert (chosen.left_out, len(ward.asked)) == ({"2": "chest", "3": "chest"}, 3)
    assert ward.exclusions() == {
        "2": ("chest", "BodyPartExamined is ABDOMEN, expected CHEST"),
        "3": ("chest", "BodyPartExamined has no value in the header"),
    }
    ward.finish(run_id, "1")
    assert (ward.left_out(CHEST), ward.asked) == (chosen.left_out, [])


def test_a_series_that_changed_is_asked_again(ward: Ward) -> None:
    """With those of its study; its decision is another."""
    ward.write("1", BodyPartExamined="ABDOMEN")
    ward.write("2", BodyPartExamined="ABDOMEN")
    assert ward.left_out(CHEST) == {"1": "chest", "2": "chest"}
    ward.write("1", BodyPartExamined="CHEST", ImageComments="now larger")
    assert (ward.left_out(CHEST), len(ward.asked)) == ({"2": "chest"}, 2)
    assert ward.exclusions().keys() == {"2"}


def test_a_preferred_series_that_was_corrected_gives_way(ward: Ward) -> None:
    """In place, with as many bytes: the other one of its study is preferred now."""
    by_kernel = {"prefer": ["kernel"], "kernels": ["LUNG", "SOFT"]}
    ward.write("1", ConvolutionKernel="LUNG")
    ward.write("2", ConvolutionKernel="SOFT")
    assert ward.left_out(by_kernel) == {"2": "prefer_kernel"}
    ward.write("1", ConvolutionKernel="BONE")
    assert ward.left_out(by_kernel) == {"1": "prefer_kernel"}


def test_other_rules_decide_anew_and_undo_nothing(ward: Ward) -> None:
    """What is segmented stays so; the decisions of either rules are kept side by side."""
    ward.write("1", BodyPartExamined="CHEST")
    ward.write("2", BodyPartExamined="HEAD")
    run_id, _ = ward.select(CHEST)
    ward.finish(run_id, "1")
    head = {"require": [{"rule": "head", "keyword": "BodyPartExamined", "equals": "HEAD"}]}
    assert (ward.left_out(head), len(ward.asked)) == ({}, 1)
    assert (ward.left_out(CHEST), ward.asked) == ({"2": "chest"}, [])


def test_work_that_a_killed_run_left_is_asked_about_unless_its_rules_were_the_same(ward: Ward) -> None:
    """A run without rules had planned everything."""
    ward.write("1", BodyPartExamined="HEAD")
    ward.write("2", BodyPartExamined="CHEST")
    planned = ward.begin(RunConfig(model_path=""))
    plan_work(ward.database, planned, [f"{UID}.1", f"{UID}.2"])
    run_id, chosen = ward.select(CHEST)
    assert (chosen.left_out, len(ward.asked)) == ({"1": "chest"}, 2)
    plan_work(ward.database, run_id, [f"{UID}.2"])
    assert (ward.left_out(CHEST), ward.asked) == ({"1": "chest"}, [])


def test_what_failed_is_asked_about_when_it_is_retried(ward: Ward) -> None:
    """It waits to be retried under any rules, and is then left out by these."""
    ward.write("1", BodyPartExamined="HEAD")
    ward.finish(ward.begin(RunConfig(model_path="")), "1", outcome=failed)
    assert (ward.left_out(CHEST), ward.asked) == ({}, [])
    assert ward.left_out(CHEST, retry=True) == {"1": "chest"}
    assert ward.left_out(CHEST) == {"1": "chest"}


def test_what_failed_for_now_is_asked_about_again_by_the_same_rules(ward: Ward) -> None:
    """It was planned without an answer where its header could not be read, and is tried again unasked."""
    ward.write("1", BodyPartExamined="HEAD")
    run_id = ward.begin(RunConfig(model_path="", rules=CHEST))
    ward.finish(run_id, "1", outcome=lambda item: replace(failed(item), reason="unreadable_file"))
    assert ward.left_out(CHEST) == {"1": "chest"}


def test_no_header_is_opened_that_nobody_asks(ward: Ward) -> None:
    """Rules on sizes need none, and a series that its size leaves out is not asked further."""
    ward.write("1", BodyPartExamined="CHEST")
    ward.write("2", spacing_mm=5.0, BodyPartExamined="CHEST")
    sizes = {"slice_spacing_mm": {"max": 3}}
    assert (ward.left_out(sizes), ward.asked) == ({"2": "slice_spacing"}, [])
    assert (ward.left_out(sizes | CHEST), len(ward.asked)) == ({"2": "slice_spacing"}, 1)


def test_a_study_that_still_arrives_is_not_asked_about(ward: Ward) -> None:
    """Its series are neither left out nor recorded."""
    ward.write("1", study="1")
    ward.write("2", study="2")
    assert ward.select(CHEST, waiting=("1",))[1].left_out == {"2": "chest"}
    assert ward.exclusions().keys() == {"2"}


def test_a_nifti_volume_has_sizes_and_no_elements(ward: Ward) -> None:
    """No header of it is opened."""
    nibabel.save(nibabel.Nifti1Image(np.zeros((64, 64, 12), dtype=np.int16), np.eye(4)), ward.root / "v.nii.gz")
    assert ward.left_out({"slice_spacing_mm": {"max": 3}}) == {}
    assert (list(ward.left_out(CHEST).values()), ward.asked) == (["chest"], [])


def test_the_best_series_of_a_study_is_taken(ward: Ward) -> None:
    """Of each study by itself; what comes later is compared with all of its study, and nothing else is asked."""
    by_kernel = {"prefer": ["kernel", "thinnest"], "kernels": ["LUNG"]}
    ward.write("1", ConvolutionKernel="B30f")
    ward.write("2", ConvolutionKernel="LUNG", spacing_mm=4.0)
    ward.write("3", study="2", ConvolutionKernel="B30f")
    run_id, chosen = ward.select(by_kernel)
    assert chosen.left_out == {"1": "prefer_kernel"}
    assert ward.exclusions()["1"][1] == f"kernel B30f, series {UID}.2 of the study has kernel LUNG"
    ward.finish(run_id, "2", "3")
    ward.write("4", ConvolutionKernel="LUNG", spacing_mm=5.0)
    assert (ward.left_out(by_kernel), len(ward.asked)) == ({"1": "prefer_kernel", "4": "prefer_thinnest"}, 3)
    ward.write("5", ConvolutionKernel="LUNG", spacing_mm=3.0)
    left_out = {"1": "prefer_kernel", "4": "prefer_thinnest"}
    assert ward.left_out(by_kernel) == left_out, "series 2 is segmented and stays so, 5 is better and is taken too"
    assert ward.exclusions().keys() == left_out.keys()


def test_a_study_that_lost_its_best_series_takes_the_next(ward: Ward) -> None:
    """Without a series that is new or changed."""
    ward.write("1", spacing_mm=2.5)
    ward.write("2", spacing_mm=3.0)
    ward.write("3", spacing_mm=3.5)
    run_id, chosen = ward.select(THINNEST)
    assert chosen.left_out == {"2": "prefer_thinnest", "3": "prefer_thinnest"}
    ward.finish(run_id, "1")
    shutil.rmtree(ward.root / "1")
    assert ward.left_out(THINNEST) == {"3": "prefer_thinnest"}
    assert ward.exclusions().keys() == {"3"}


def test_no_series_is_left_out_for_one_that_is_skipped_anyway(ward: Ward) -> None:
    """The thinnest holds no Hounsfield units, so that the next is taken; the thinnest then gets its own finding."""
    ward.write("1", spacing_mm=2.0, RescaleSlope=None, RescaleIntercept=None)
    ward.write("2", spacing_mm=3.0)
    ward.write("3", spacing_mm=4.0)
    assert ward.left_out(THINNEST) == {"3": "prefer_thinnest"}


def test_a_header_that_cannot_be_read_fails_and_is_asked_again(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for one that the rules leave out, and no series is left out for it."""
    ward.write("1", spacing_mm=2.0, BodyPartExamined="CHEST")
    ward.write("2", spacing_mm=3.0, BodyPartExamined="CHEST")
    update_index(ward.database, ward.job(), nothing)
    path = ward.root / "1" / "000.dcm"
    away = ward.root.parent / "away.dcm"
    really_update = update_index
    monkeypatch.setattr(f"{__name__}.update_index", lambda *_: None)
    path.rename(away)
    _, chosen = ward.select(CHEST | THINNEST)
    assert chosen == Selection(
        unread={"1": ("changed_while_reading", "a file of it vanished since it was listed")}, left_out={}
    )
    away.rename(path)
    monkeypatch.setattr(f"{__name__}.update_index", really_update)
    assert ward.left_out(CHEST | THINNEST) == {"2": "prefer_thinnest"}


def test_a_preview_decides_the_same_and_records_nothing(ward: Ward) -> None:
    """Without an index."""
    rules = CHEST | {"prefer": ["kernel"], "kernels": ["LUNG"]}
    ward.write("1", BodyPartExamined="CHEST", ConvolutionKernel="LUNG")
    ward.write("2", BodyPartExamined="CHEST", ConvolutionKernel="B30f")
    ward.write("3", study="2", BodyPartExamined="HEAD")
    scan = scan_archive(ward.root, ReadingConfig())
    manifests = {verdict.series_key: verdict.manifest for verdict in scan.verdicts if verdict.manifest}
    previewed = left_out_of_scan(scan.root, manifests, RunConfig(model_path="", rules=rules))
    assert ward.exclusions() == {}
    assert previewed == {f"{UID}.{name}": rule for name, rule in ward.left_out(rules).items()}
    assert sorted(previewed.values()) == ["chest", "prefer_kernel"]


def test_nothing_that_is_recorded_names_a_patient(ward: Ward) -> None:
    """Although the rules ask for just that."""
    ward.write("1", ConvolutionKernel=CANARIES["PatientName"])
    ward.write("2", ConvolutionKernel="B30f")
    for keyword, value in CANARIES.items():
        ward.left_out({"leave_out": [{"keyword": keyword, "equals": value}]})
    ward.left_out({"prefer": ["kernel"], "kernels": ["B30f"]})
    with ward.database.read() as connection:
        text = repr(connection.execute(select(ExclusionTable.__table__)).all())
    assert text.count("prefer_kernel") == 1
    assert text.count("is left out") == 2 * len(CANARIES)
    assert not any(value in text for value in CANARIES.values())


def test_rules_of_another_version_end_the_run_with_a_line(ward: Ward) -> None:
    """A run that was written down elsewhere may know rules that this version does not."""
    ward.write("1")
    with pytest.raises(StoreError, match="unknown key 'future'"):
        ward.select({"future": 1})


def test_rules_survive_the_database(ward: Ward) -> None:
    """As a run that is resumed elsewhere finds them: the same digest, so that nothing is asked twice."""
    ward.write("1")
    rules = {**CHEST, "slice_spacing_mm": {"min": 1, "max": 2.75}}
    run_id, _ = ward.select(rules)
    again = RunConfig.from_json(run_task(ward.database, run_id).config)
    assert again.rules == rules
    assert (ward.left_out(again.rules), ward.asked) == ({"1": "chest"}, [])
