from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePath

import pytest
from ledger_factories import Clock, begin_run, failed, scan, segmented, series_row, skipped
from sqlalchemy import delete, select, update

from vaeseg.db.audit import RecordedMask
from vaeseg.db.drivers import take_archive
from vaeseg.db.runs import finish_run
from vaeseg.db.session import Database
from vaeseg.db.tables import EventTable, FindingTable, LesionTable, WorkItemTable
from vaeseg.db.work import WorkItem, plan_work
from vaeseg.distributed import verify as verify_module
from vaeseg.distributed.commit import commit_group, recover_parts
from vaeseg.distributed.lifecycle import RunInterruptedError
from vaeseg.distributed.verify import collect_garbage, verify
from vaeseg.errors import ArchiveBusyError, UsageError
from vaeseg.io.store import Store
from vaeseg.paths import AnyPath, below, matches
from vaeseg.records import PartFile, SegmentedSeries

KEYS = [f"1.2.{n}" for n in range(4)]


def with_mask(item: WorkItem, store: Store) -> SegmentedSeries:
    """An outcome whose mask file is there."""
    outcome = segmented(item)
    path = store.root / outcome.mask_uri
    path.parent.mkdir(parents=True)
    path.write_bytes(item.series_key.encode())
    path.with_name("preview.png").write_bytes(b"")
    return replace(outcome, mask_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def store(any_store: Store) -> Store:
    return any_store


@pytest.fixture
def run_id(database: Database, store: Store) -> str:
    """A finished run of two parts: two segmented, one skipped, one failed."""
    run_id = begin_run(database, scan(database, [series_row(key) for key in KEYS]))
    one, two, three, four = plan_work(database, run_id, KEYS).pending
    commit_group(run_id, [(one, with_mask(one, store)), (three, skipped(three))], store, database)
    commit_group(run_id, [(two, with_mask(two, store)), (four, failed(four))], store, database)
    finish_run(database, run_id, "finished")
    return run_id


def put(path: AnyPath) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def kinds(store: Store, database: Database, run_id: str | None = None) -> list[str]:
    return [disagreement.kind for disagreement in verify(store, database, run_id)]


def test_what_was_committed_agrees(database: Database, store: Store, run_id: str) -> None:
    """Of the run, and of all."""
    assert kinds(store, database) == kinds(store, database, run_id) == []


def part(store: Store, dataset: str, number: int = 0) -> AnyPath:
    return matches(store.parquet / dataset, "*/*.parquet")[number]


def mask(store: Store) -> AnyPath:
    return matches(store.masks, "*/*/*/mask.nii.gz")[0]


FILE_DAMAGE: dict[str, tuple[Callable[[Store], object], list[str]]] = {
    "a part is deleted": (lambda store: part(store, "findings").unlink(), ["part_missing"]),
    "a part is changed": (lambda store: part(store, "slices").write_bytes(b"PAR1"), ["part_changed"]),
    "a part is replaced by another": (
        lambda store: part(store, "lesions").write_bytes(matches(part(store, "lesions").parent, "*")[1].read_bytes()),
        ["part_changed"],
    ),
    "a part that nobody wrote": (
        lambda store: part(store, "masks").with_name("part-00009.parquet").write_bytes(b""),
        ["part_unknown"],
    ),
    "a staged file of a dead run": (
        lambda store: (
            (store.staging / "r" / "findings").mkdir(parents=True),
            (store.staging / "r" / "findings" / "part-00001.parquet").write_bytes(b""),
        ),
        ["part_staged"],
    ),
    "a mask is deleted": (lambda store: mask(store).unlink(), ["mask_missing"]),
    "a mask is changed": (lambda store: mask(store).write_bytes(b"x"), ["mask_changed"]),
    "a mask that no finding names": (
        lambda store: (store.masks / "1" / "2" / "m").mkdir(parents=True),
        ["mask_unknown"],
    ),
}


@pytest.mark.parametrize("damage", FILE_DAMAGE)
def test_damaged_files_are_named(database: Database, store: Store, run_id: str, damage: str) -> None:
    """One disagreement, of its kind."""
    hurt, expected = FILE_DAMAGE[damage]
    hurt(store)
    assert kinds(store, database) == expected


def test_rows_that_differ_are_named(database: Database, store: Store, run_id: str) -> None:
    """A volume changed in SQL, a lesion and a finding deleted, an item's state changed."""
    with database.write() as connection:
        connection.execute(update(FindingTable).where(FindingTable.id == 1).values(tumour_volume_ml=9.0))
    assert kinds(store, database) == ["rows_differ"]
    with database.write() as connection:
        connection.execute(delete(LesionTable).where(LesionTable.finding_id == 1))
    assert kinds(store, database, run_id) == ["rows_differ", "rows_differ"]
    with database.write() as connection:
        connection.execute(delete(FindingTable).where(FindingTable.id == 1))
        connection.execute(update(WorkItemTable).where(WorkItemTable.state == "failed").values(state="segmented"))
    assert sorted(set(kinds(store, database))) == ["mask_unknown", "rows_differ", "work_differs"]


def test_another_run_is_not_looked_at(database: Database, store: Store, run_id: str) -> None:
    """With a run id, its own parts and masks alone."""
    mask(store).unlink()
    assert kinds(store, database, begin_run(database, 1)) == []


def test_a_run_that_is_alive_is_not_blamed(database: Database, store: Store, run_id: str, clock: Clock) -> None:
    """Its staged files and its masks without findings are on their way; once it is dead they are named."""
    live = begin_run(database, 1)
    (store.staging / live / "findings").mkdir(parents=True)
    (store.staging / live / "findings" / "part-00001.parquet").write_bytes(b"")
    (store.masks / "1" / "2" / "m").mkdir(parents=True)
    assert kinds(store, database) == []
    with pytest.raises(UsageError, match="alive"):
        collect_garbage(store, database, dry_run=False)
    clock.advance(3600)
    assert kinds(store, database) == ["part_staged", "mask_unknown"]


def test_garbage_is_named_and_removed_and_nothing_else(database: Database, store: Store, run_id: str) -> None:
    """A second collection finds nothing, and what is left agrees."""
    part(store, "masks").with_name("part-00009.parquet").write_bytes(b"")
    lost = store.masks / "1" / "2" / "m"
    lost.mkdir(parents=True)
    (lost / "mask.nii.gz").write_bytes(b"")
    staged = store.staging / "dead" / "findings" / "part-00001.parquet"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(b"")
    expected = [
        "masks/1/2/m/mask.nii.gz",
        f"parquet/masks/run_id={run_id}/part-00009.parquet",
        "staging/dead/findings/part-00001.parquet",
    ]
    assert collect_garbage(store, database, dry_run=True) == expected
    assert lost.exists()
    assert collect_garbage(store, database, dry_run=False) == expected
    assert not (store.masks / "1").exists()
    assert not staged.exists()
    assert collect_garbage(store, database, dry_run=False) == []
    assert kinds(store, database) == []


def test_an_empty_directory_of_a_mask_is_garbage(database: Database, store: Store, run_id: str) -> None:
    """As a run leaves that is killed before it writes the file; an empty one above it is nobody's concern."""
    (store.masks / "1" / "2" / "m").mkdir(parents=True)
    (store.masks / "3" / "4").mkdir(parents=True)
    assert kinds(store, database) == ["mask_unknown"]
    assert collect_garbage(store, database, dry_run=True) == ["masks/1/2/m"]
    assert collect_garbage(store, database, dry_run=False) == ["masks/1/2/m"]
    assert not (store.masks / "1").exists()
    assert mask(store).exists()
    assert kinds(store, database) == []


@pytest.mark.parametrize("any_store", ["directory"], indirect=True)
def test_a_directory_that_is_not_known_to_be_empty_stays(
    database: Database, store: Store, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link to an empty one, and one that is closed or filled meanwhile; the rest is collected all the same."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (Path(str(store.masks)) / "1" / "2").mkdir(parents=True)
    (Path(str(store.masks)) / "1" / "2" / "link").symlink_to(elsewhere)
    for name in ("closed", "filled"):
        (store.masks / "1" / "2" / name).mkdir()
    put(store.masks / "3" / "3" / "m" / "mask.nii.gz")
    really, is_dry_run = Path.iterdir, True

    def listed(path: Path) -> Iterator[Path]:
        if path.name == "closed":
            raise PermissionError
        found = list(really(path))
        if path.name == "filled" and not is_dry_run:
            put(path / "notes.txt")
        return iter(found)

    monkeypatch.setattr(Path, "iterdir", listed)
    assert collect_garbage(store, database, dry_run=True) == ["masks/1/2/filled", "masks/3/3/m/mask.nii.gz"]
    is_dry_run = False
    assert collect_garbage(store, database, dry_run=False) == ["masks/3/3/m/mask.nii.gz"]
    assert sorted(path.name for path in really(Path(str(store.masks)) / "1" / "2")) == ["closed", "filled", "link"]


@pytest.mark.parametrize("any_store", ["directory"], indirect=True)
def test_a_mask_is_no_garbage_by_way_of_a_link(database: Database, store: Store, run_id: str) -> None:
    """Under another name no finding names it, and it is the finding's own."""
    study = Path(str(mask(store).parents[2]))
    study.with_name("alias").symlink_to(study)
    assert kinds(store, database) == ["stray"]
    assert collect_garbage(store, database, dry_run=False) == []
    assert mask(store).exists()


def stray_files(store: Store, run_id: str) -> list[str]:
    """Files that a person may have put anywhere, made here; relative to the store."""
    of_mask = below(mask(store), store.root).parent
    names = [
        "parquet/findings.parquet",
        "parquet/findings/part-00001.parquet",
        "parquet/findings/x.parquet",
        "parquet/findings/old/part-00001.parquet",
        f"parquet/other/run_id={run_id}/part-00001.parquet",
        f"parquet/findings/run_id={run_id}/part-00001 (copy).parquet",
        "masks/.part-0123456789abcdef",
        "masks/1.2/notes.txt",
        "masks/1.2/1.2.0/mask.nii.gz",
        "masks/8/8/lone/notes.txt",
        "masks/9/9/killed/mask-corrected.nii.gz",
        f"{of_mask}/.part-mine",
        f"{of_mask}/mask-corrected.nii.gz",
    ]
    deeper = [f"parquet/findings/run_id={run_id}/old", f"{of_mask}/old"]
    for name in names:
        put(store.root / name)
    for name in deeper:
        put(store.root / name / "below" / "part-00001.parquet")
    return [*names, *deeper]


def test_strays_are_named_also_beside_a_run_and_never_removed(
    database: Database, store: Store, run_id: str, clock: Clock
) -> None:
    """Wherever they lie, each once; what vaeseg left in the same directories goes."""
    strays = stray_files(store, run_id)
    half_written = mask(store).with_name(".part-0123456789abcdef")
    killed = store.masks / "9" / "9" / "killed"
    for path in (half_written, killed / "mask.nii.gz", killed / ".part-00112233445566ff"):
        put(path)
    begin_run(database, 1)
    found = list(verify(store, database))
    assert {disagreement.kind for disagreement in found} == {"stray"}
    assert sorted(disagreement.where for disagreement in found) == sorted(strays)
    assert kinds(store, database, run_id) == []

    clock.advance(3600)
    garbage = [half_written, killed / "mask.nii.gz", killed / ".part-00112233445566ff"]
    unknown = {disagreement.where for disagreement in verify(store, database) if disagreement.kind == "mask_unknown"}
    assert unknown == {str(below(half_written, store.root)), "masks/9/9/killed"}
    removed = collect_garbage(store, database, dry_run=False)
    assert removed == sorted(str(below(path, store.root)) for path in garbage)
    found = list(verify(store, database))
    assert {disagreement.kind for disagreement in found} == {"stray"}
    assert sorted(disagreement.where for disagreement in found) == sorted(strays)


def test_a_mask_that_got_its_name_meanwhile_is_not_half_written(
    database: Database, store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run was alive when files were listed, and had ended when runs were."""
    half_written = mask(store).with_name(".part-0123456789abcdef")
    put(half_written)
    asked = verify_module.running_runs

    def late(database: Database) -> list[str]:
        half_written.unlink(missing_ok=True)
        return asked(database)

    monkeypatch.setattr(verify_module, "running_runs", late)
    assert kinds(store, database) == []


def test_a_collection_that_is_stopped_records_what_it_removed(
    database: Database, store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file of three, when the signal comes; the next collection removes the others."""
    for number in range(7, 10):
        part(store, "masks").with_name(f"part-0000{number}.parquet").write_bytes(b"")
    remove = verify_module.remove_file

    def signalled(store: Store, path: PurePath) -> None:
        remove(store, path)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as stopping:
        stopping.setattr(verify_module, "remove_file", signalled)
        with pytest.raises(RunInterruptedError):
            collect_garbage(store, database, dry_run=False)
    assert len(collect_garbage(store, database, dry_run=False)) == 2
    with database.read() as connection:
        removed = select(EventTable.detail).where(EventTable.kind == "garbage_removed").order_by(EventTable.id)
        assert connection.scalars(removed).all() == [{"n_files": 1}, {"n_files": 2}]


def test_a_part_that_comes_meanwhile_is_not_unknown(
    database: Database, store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of another archive commits while files and SQL are compared: SQL is asked after the files were listed."""
    other = begin_run(database, scan(database, [series_row("1.2.77")], root="/archive/other"))
    (item,) = plan_work(database, other, ["1.2.77"]).pending
    recorded = verify_module.recorded_parts

    def asked(database: Database) -> list[tuple[PartFile, bool]]:
        known = recorded(database)
        commit_group(other, [(item, failed(item))], store, database)
        return known

    monkeypatch.setattr(verify_module, "recorded_parts", asked)
    assert verify_module.unknown_parts(store, database) == []


def commit_elsewhere(database: Database, store: Store) -> None:
    """A run of another archive, from its begin to its end: a series that was segmented and one that failed."""
    run_id = begin_run(database, scan(database, [series_row("1.2.77"), series_row("1.2.78")], root="/archive/other"))
    one, two = plan_work(database, run_id, ["1.2.77", "1.2.78"]).pending
    commit_group(run_id, [(one, with_mask(one, store)), (two, failed(two))], store, database)
    finish_run(database, run_id, "finished")


def record_elsewhere(database: Database, store: Store) -> str:
    """A run of another archive, up to where its part is recorded and not in its place yet."""
    run_id = begin_run(database, scan(database, [series_row("1.2.77")], root="/archive/other"))
    (item,) = plan_work(database, run_id, ["1.2.77"]).pending

    def killed(name: str) -> None:
        if name == "recorded":
            raise InterruptedError

    with pytest.raises(InterruptedError):
        commit_group(run_id, [(item, failed(item))], store, database, killed)
    return run_id


def test_a_run_that_begins_meanwhile_and_records_a_part_is_not_blamed(
    database: Database, store: Store, run_id: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the files and SQL; only once it is dead its part will not be moved to its place."""
    asked = verify_module.parts_of_findings

    def late(database: Database, run_id: str | None) -> set[tuple[str, str]]:
        monkeypatch.setattr(verify_module, "parts_of_findings", asked)
        record_elsewhere(database, store)
        return asked(database, run_id)

    monkeypatch.setattr(verify_module, "parts_of_findings", late)
    assert kinds(store, database) == []
    clock.advance(3600)
    assert set(kinds(store, database)) == {"part_unpublished"}


def before_the_first_digest(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Have something done once `verify` has asked SQL, and computes digests."""
    digest = verify_module.sha256_of

    def slowly(path: AnyPath) -> str:
        monkeypatch.setattr(verify_module, "sha256_of", digest)
        do()
        return digest(path)

    monkeypatch.setattr(verify_module, "sha256_of", slowly)


def test_a_run_that_begins_and_ends_meanwhile_is_not_blamed(
    database: Database, store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While digests are computed, which takes hours where there are many masks."""
    before_the_first_digest(monkeypatch, lambda: commit_elsewhere(database, store))
    assert kinds(store, database) == []


def test_a_run_that_publishes_and_ends_meanwhile_is_not_blamed(
    database: Database, store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its part was recorded, and not in its place yet, when SQL was asked."""
    live = record_elsewhere(database, store)

    def publish_and_end() -> None:
        recover_parts(store, database)
        finish_run(database, live, "finished")

    before_the_first_digest(monkeypatch, publish_and_end)
    assert kinds(store, database) == []


def test_no_run_works_on_an_archive_while_garbage_is_removed(
    database: Database, store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It might write its masks where a dead run left some; after the removal it may."""
    lost = store.masks / "1.2" / KEYS[3] / "m" / "mask.nii.gz"
    lost.parent.mkdir(parents=True)
    lost.write_bytes(b"")
    late: list[str] = []
    recorded = verify_module.recorded_masks

    def asked(database: Database, run_id: str | None) -> Iterator[RecordedMask]:
        late.append(begin_run(database, 1))
        with pytest.raises(ArchiveBusyError):
            take_archive(database, 1, late[0])
        return recorded(database, run_id)

    monkeypatch.setattr(verify_module, "recorded_masks", asked)
    assert len(collect_garbage(store, database, dry_run=False)) == 1
    take_archive(database, 1, late[0])


def test_masks_of_a_run_that_begins_while_files_are_listed_are_no_garbage(
    database: Database, store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an archive that is new, so that nobody holds it: the run goes on, nothing is removed."""
    new = store.masks / "1.2" / "1.2.77" / "m" / "mask.nii.gz"
    listed = verify_module.published_files

    def listing(store: Store) -> tuple[list[PartFile], list[PurePath]]:
        begin_run(database, scan(database, [series_row("1.2.77")], root="/archive/other"))
        new.parent.mkdir(parents=True)
        new.write_bytes(b"")
        return listed(store)

    monkeypatch.setattr(verify_module, "published_files", listing)
    with pytest.raises(UsageError, match="alive"):
        collect_garbage(store, database, dry_run=False)
    assert new.exists()
