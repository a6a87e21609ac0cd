"""The journal: one process at a time, receipts that hold, and only the same build of unchanged sources goes on."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest
from own_sources import FIELDS, Own, plan_of

from vla_store.builder.journal import Journal
from vla_store.builder.plan import Plan
from vla_store.builder.units import Receipt, work_units
from vla_store.errors import DestinationExists, MachineError, SourceError
from vla_store.format.layout import BUILD_LOCK
from vla_store.format.listing import ObjectEntry
from vla_store.sources.protocol import FieldSpec


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of([Own()])


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return tmp_path / "x.vla.partial"


def test_a_new_build_begins_without_receipts(plan: Plan, partial: Path) -> None:
    journal = Journal(partial, plan)
    assert journal.open() == {}
    assert journal.part.is_dir()
    journal.close()


def test_what_was_recorded_is_found_again(plan: Plan, partial: Path) -> None:
    journal = Journal(partial, plan)
    journal.open()
    tasks = work_units(plan, journal.part)
    receipts = {task.name: task.run() for task in tasks[:3]}
    for receipt in receipts.values():
        journal.record(receipt)
    journal.close()
    again = Journal(partial, plan)
    assert again.open() == receipts
    again.close()


def test_a_receipt_for_what_is_not_there_is_refused(plan: Plan, partial: Path) -> None:
    """The disk of a cluster's worker may be another one."""
    journal = Journal(partial, plan)
    journal.open()
    with pytest.raises(MachineError, match="what a worker wrote is not there") as caught:
        journal.record(Receipt("front.0", (ObjectEntry("frames/front/c/0/0/0/0", "0" * 64, 10),)))
    assert "same file system" in caught.value.hint
    journal.close()


def test_one_build_at_a_time(plan: Plan, partial: Path) -> None:
    first, second = Journal(partial, plan), Journal(partial, plan)
    first.open()
    for discard in (False, True):
        with pytest.raises(DestinationExists, match="another build is writing there now"):
            second.open(discard=discard)
    first.close()
    second.open()
    second.close()


def test_a_lock_whose_file_was_taken_away_is_no_lock(
    plan: Plan, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build that waits at the door while another one is committed must not go on in what is now a store."""
    first = Journal(partial, plan)
    first.open()
    real = fcntl.flock
    moved = []

    def late(file: object, how: int) -> None:
        if not moved:  # between opening the lock and taking it, the first build is committed
            moved.append(os.rename(partial, partial.with_suffix("")))
            first.close(partial.with_suffix(""))
        real(file, how)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", late)
    second = Journal(partial, plan)
    assert second.open() == {}
    assert (partial / BUILD_LOCK).exists()
    assert not (partial.with_suffix("") / BUILD_LOCK).exists()
    second.close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_can_be_built_on(
    plan: Plan, partial: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def without(file: object, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", without)
    journal = Journal(partial, plan)
    assert journal.open() == {}
    journal.close()


def test_another_plan_is_refused_or_discarded(plan: Plan, partial: Path) -> None:
    other = Journal(partial, plan_of([Own(orientation="bottom_up")]))
    other.open()
    other.close()
    journal = Journal(partial, plan)
    with pytest.raises(DestinationExists, match="other sources or options") as caught:
        journal.open()
    assert "--overwrite" in caught.value.hint
    journal.close()
    assert other.part.exists()
    again = Journal(partial, plan)
    again.open(discard=True)
    assert not other.part.exists()
    assert again.part.exists()
    again.close()


def test_a_source_that_changed_is_named(tiny_source: Path, tmp_path: Path) -> None:
    import shutil

    source = Path(shutil.copytree(tiny_source, tmp_path / "source"))
    plan = plan_of([source])
    partial = tmp_path / "x.vla.partial"
    journal = Journal(partial, plan)
    journal.open()
    journal.close()
    path = sorted(source.glob("*/*.hdf5"))[1]
    os.utime(path, (1, 1))
    with pytest.raises(SourceError, match="changed since the unfinished build began") as caught:
        Journal(partial, plan).open()
    assert caught.value.places["file"] == str(path)
    assert caught.value.places["found"].endswith("changed at 1000000000 ns")


def test_what_a_stopped_commit_left_is_swept(plan: Plan, partial: Path) -> None:
    journal = Journal(partial, plan)
    journal.open()
    journal.close()
    left = [
        "zarr.json",
        "roots/00000001.json",
        "meta/0.json",
        "meta/1.json.0123abcd.tmp",
        "parts/zarr.json.0123abcd.tmp",
        f"parts/{plan.part_id}/x.0123abcd.tmp",
    ]
    for key in left:
        (partial / key).parent.mkdir(exist_ok=True)
        (partial / key).write_bytes(b"{}")
    journal = Journal(partial, plan)
    journal.open()
    assert not any((partial / key).exists() for key in left)
    journal.close()


def test_a_finished_build_leaves_only_its_lock_and_then_not_that(plan: Plan, partial: Path) -> None:
    journal = Journal(partial, plan)
    journal.open()
    journal.remove()
    assert sorted(path.name for path in partial.iterdir()) == [BUILD_LOCK, "parts"]
    assert [path.name for path in (partial / "parts").iterdir()] == [plan.part_id]
    store = partial.rename(partial.with_suffix(""))
    journal.close(store)
    assert [path.name for path in store.iterdir()] == ["parts"]


def test_the_journal_is_small_documents(plan: Plan, partial: Path) -> None:
    journal = Journal(partial, plan)
    journal.open()
    journal.record(next(task for task in work_units(plan, journal.part) if task.name == "attributes").run())
    journal.close()
    kept = sorted((partial / f"parts/{plan.part_id}.build").iterdir())
    assert [path.name for path in kept] == ["attributes.json", "source.json"]
    assert json.loads(kept[1].read_bytes()) == [{"type": "Own"}]


def test_a_field_called_source_has_a_receipt_of_its_own(partial: Path) -> None:
    """source.json is the name of what the build is made from."""
    plan = plan_of([Own(fields={**FIELDS, "source": FieldSpec("float32", (2,), "step")})])
    journal = Journal(partial, plan)
    journal.open()
    receipts = {task.name: task.run() for task in work_units(plan, journal.part)}
    assert "source" in receipts
    for receipt in receipts.values():
        journal.record(receipt)
    journal.close()
    again = Journal(partial, plan)
    assert again.open() == receipts
    again.close()


def test_receipts_of_nobody_knows_which_sources_count_for_nothing(plan: Plan, partial: Path) -> None:
    journal = Journal(partial, plan)
    journal.open()
    journal.record(work_units(plan, journal.part)[0].run())
    journal.close()
    noted = partial / f"parts/{plan.part_id}.build/source.json"
    for torn in (b"", b"{}"):
        noted.write_bytes(torn)
        again = Journal(partial, plan)
        assert again.open() == {}
        again.close()
        assert json.loads(noted.read_bytes()) == [{"type": "Own"}]
