"""A source that is only read from front to back: built, verified, recoded and resumed like any other."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from own_sources import Own, drawn

import vla_store
from vla_store import MachineError, SourceError
from vla_store.audit import verify_store
from vla_store.builder import build_store
from vla_store.sources.protocol import Array

AS_ROWS = Own(lengths={0: 20, 3: 7, 4: 30})


@dataclass(frozen=True)
class Stream:
    """The episodes of `AS_ROWS`, the last first, in blocks of 8 steps. mend: what becomes of the blocks on their way."""

    mend: Callable[[list[Any]], list[Any]] | None = None
    suite = AS_ROWS.suite
    file = AS_ROWS.file

    def scan(self) -> vla_store.builder.SourceInfo:  # type: ignore[name-defined]
        return AS_ROWS.scan()

    def attributes(self, number: int | None) -> dict[str, Any]:
        return AS_ROWS.attributes(number)

    def stream(self) -> Iterator[tuple[int, dict[str, Array]]]:
        blocks = [
            (number, {name: drawn(name, number, at, min(at + 8, steps), spec) for name, spec in AS_ROWS.fields.items()})
            for number, steps in reversed(AS_ROWS.lengths.items())
            for at in range(0, steps, 8)
        ]
        yield from self.mend(blocks) if self.mend else blocks


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, which must be empty in the end."""
    folder = tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    gc.collect()
    assert not list(folder.iterdir())


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_a_streamed_source_makes_the_bytes_of_one_that_is_read_by_rows(tmp_path: Path, executor: str) -> None:
    report = build_store(Stream(), tmp_path / "stream.vla", executor=executor, workers=2)
    assert report.root is not None
    assert report.root.digest == build_store(AS_ROWS, tmp_path / "rows.vla").root.digest  # type: ignore[union-attr]


def test_a_store_is_verified_against_a_stream(tmp_path: Path) -> None:
    build_store(AS_ROWS, tmp_path / "x.vla")
    assert verify_store(tmp_path / "x.vla", against=Stream()).compared_episodes == 3
    report = verify_store(tmp_path / "x.vla", against=Stream(lambda blocks: [_doubled(*each) for each in blocks]))
    assert len(report.problems) == 3


def _doubled(number: int, block: dict[str, Array]) -> tuple[int, dict[str, Array]]:
    return number, block | {"joints": block["joints"] * 2}


WRONG: dict[str, tuple[Callable[[list[Any]], list[Any]], str]] = {
    "an episode is missing": (lambda blocks: blocks[:-3], "a stream that ends before it"),
    "an episode is short": (lambda blocks: blocks[1:], "22 steps"),
    "an episode is long": (lambda blocks: [*blocks, blocks[-1]], "24 steps"),
    "an episode comes again": (lambda blocks: [*blocks, blocks[0]], "comes again"),
    "an episode is in two": (lambda blocks: [*blocks[1:], blocks[0]], "22 steps"),
    "nobody promised it": (lambda blocks: [(9, blocks[0][1]), *blocks], "an episode that is none"),
    "a field is missing": (lambda blocks: [(n, {"actions": b["actions"]}) for n, b in blocks], "actions"),
    "a block is empty": (lambda blocks: [(4, {n: b[:0] for n, b in blocks[0][1].items()}), *blocks], "a block of none"),
    "a block is a number": (lambda blocks: [(4, dict.fromkeys(blocks[0][1], 1.0)), *blocks], "a block of none"),
    "another dtype": (lambda blocks: [(n, b | {"joints": b["joints"].astype("f2")}) for n, b in blocks], "float16"),
    "fields of several lengths": (lambda blocks: [(n, b | {"joints": b["joints"][1:]}) for n, b in blocks], "(7, 6)"),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_stream_that_is_not_what_its_scan_promised_is_refused(tmp_path: Path, how: str) -> None:
    mend, found = WRONG[how]
    with pytest.raises(SourceError, match="does not give what its scan promised") as caught:
        build_store(Stream(mend), tmp_path / "x.vla")
    assert found in str(caught.value)
    assert caught.value.places["file"] == "Stream"


def test_a_stream_when_it_numbers_by_floats_then_its_steps_are_found(tmp_path: Path) -> None:
    build_store(Stream(lambda blocks: [(float(n), b) for n, b in blocks]), tmp_path / "x.vla")  # type: ignore[misc]
    assert verify_store(tmp_path / "x.vla", against=AS_ROWS).sound


def test_a_folder_that_cannot_be_made_is_the_machines_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(MachineError, match="while keeping the steps of a streamed source"):
        build_store(Stream(), tmp_path / "x.vla")


def test_a_stream_that_fails_is_left_out_with_skip_bad(tmp_path: Path) -> None:
    other = replace(AS_ROWS, file="another")
    report = build_store([Stream(lambda blocks: blocks[1:]), other], tmp_path / "x.vla", skip_bad=True)
    assert (report.episodes, [each.file for each in report.skipped]) == (3, [AS_ROWS.file])
