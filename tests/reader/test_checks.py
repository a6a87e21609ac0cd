"""When the crc32c of a frame is checked: when this process first decodes it, or every time."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path

import pytest

from vla_store import Samples, StoreDamaged, UnknownName, open_store
from vla_store.reader.parts import parts_of

CAMERA = "eye_in_hand_rgb"  # whose frames have no background


def flip_in_place(store: Path, array: str = f"frames/{CAMERA}") -> None:
    """Flip a byte in the middle of an array's last encoded frame but one, as a disk does: maps of the file see it."""
    (path,) = (path for path in store.glob(f"parts/*/{array}/c/**/0") if path.is_file())
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x55]))


def samples_of(store: Path, check: str = "first", fetcher: str | None = None) -> Samples:
    opened = open_store(store, check=check, fetcher=fetcher)
    return Samples(opened, windows={CAMERA: 0}, alignment="as_stored", images="as_stored")


def read(samples: Samples) -> None:
    """Read every sample, in a batch and one by one."""
    samples.batch(range(len(samples)))
    for _ in samples:  # type: ignore[attr-defined]
        pass


@pytest.mark.parametrize("check", ["first", "every"])
@pytest.mark.parametrize("fetcher", ["mmap", "pread", "fsspec"])
def test_damage_before_the_first_use_is_found(copied_store: Path, check: str, fetcher: str) -> None:
    flip_in_place(copied_store)
    with pytest.raises(StoreDamaged, match="crc32c"):
        read(samples_of(copied_store, check, fetcher))


@pytest.mark.parametrize(("check", "fetcher"), [("every", "mmap"), ("first", "pread"), ("first", "fsspec")])
def test_damage_after_the_first_use_is_found_where_each_is_checked(
    copied_store: Path, check: str, fetcher: str
) -> None:
    samples = samples_of(copied_store, check, fetcher)
    read(samples)
    flip_in_place(copied_store)
    with pytest.raises(StoreDamaged, match="crc32c"):
        read(samples)


def test_a_map_is_checked_once_a_process_and_again_in_a_copy(copied_store: Path) -> None:
    samples = samples_of(copied_store)
    read(samples)
    flip_in_place(copied_store)
    with contextlib.suppress(StoreDamaged):  # the codec may notice it, or not: nobody looks at the crc32c
        read(samples)
    with pytest.raises(StoreDamaged, match="crc32c"):
        read(pickle.loads(pickle.dumps(samples)))


def test_a_copy_checks_every_time_as_the_original_does(copied_store: Path) -> None:
    copy = pickle.loads(pickle.dumps(samples_of(copied_store, "every")))
    read(copy)
    flip_in_place(copied_store)
    with pytest.raises(StoreDamaged, match="crc32c"):
        read(copy)


def test_marks_go_with_their_shard_and_are_bounded(copied_store: Path) -> None:
    samples = samples_of(copied_store)
    read(samples)
    opened = parts_of(samples.store)._opened
    marks = [
        (len(shard.entries) // 2, shard.marks or b"") for shard in opened.shards.values()
    ]  # empty entries are of no chunk
    assert marks
    assert all(sum(map(int.bit_count, each)) > 0 and len(each) <= count // 8 + 1 for count, each in marks)
    opened.shards.clear()  # as where too many are open
    flip_in_place(copied_store)
    with pytest.raises(StoreDamaged, match="crc32c"):
        read(samples)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_keeps_the_marks_and_reads(copied_store: Path) -> None:
    samples = samples_of(copied_store)
    read(samples)
    child = os.fork()
    if not child:
        try:
            read(samples)
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_another_word_for_check_is_refused(copied_store: Path) -> None:
    with pytest.raises(UnknownName, match="every"):
        open_store(copied_store, check="always")
