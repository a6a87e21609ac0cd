"""The progress bar: one line that never wraps in a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from store_tools import COMMAND, environment

from vla_store import progress
from vla_store.progress import ProgressBar


class Clock:
    """A time that the test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress.time, "monotonic", made.monotonic)
    return made


class Terminal(io.StringIO):
    """A stream that says it is a terminal. width: what its screen has; None: it cannot say."""

    def isatty(self) -> bool:
        return True

    def shown(self) -> list[str]:
        """What stood on the line after each redraw."""
        return [each.rstrip(" ") for each in self.getvalue().split("\r")]


def test_elsewhere_a_line_is_printed_at_most_every_ten_seconds(clock: Clock) -> None:
    stream = io.StringIO()
    with ProgressBar(stream) as bar:
        bar.talk("scanning")
        bar.begin(1_000, 10_000_000, 0)
        for _ in range(100):
            clock.now += 0.5
            bar.advance(100_000)
        bar.end()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 5  # every ten seconds of fifty; the fifth is the end, said once
    assert sum("100%" in line for line in lines) == 1
    assert lines[0] == " 20%  200 of 1,000 steps  20 steps/s  0 MB/s  0:40 left"
    assert lines[-1] == "100%  1,000 of 1,000 steps  20 steps/s  0 MB/s  in 0:50"
    assert not re.search(r"[\r\x1b\b]", stream.getvalue())


def test_what_comes_after_the_last_line_is_told_ten_seconds_later(clock: Clock) -> None:
    stream = io.StringIO()
    with ProgressBar(stream) as bar:
        bar.begin(100, 1_000, 0)
        clock.now += 9.5
        bar.advance(1_000)
        clock.now += 2
        bar.end()
        bar.talk("writing tables")
        clock.now += 10
        bar.talk("still writing")
    assert len(stream.getvalue().splitlines()) == 2
    assert stream.getvalue().endswith("still writing\n")


def test_a_long_silence_before_the_first_shard_is_broken(clock: Clock) -> None:
    stream = io.StringIO()
    bar = ProgressBar(stream)
    for number in range(50):
        clock.now += 1
        bar.talk(f"scanning source {number + 1} of 50")
    assert stream.getvalue().splitlines() == [f"scanning source {number} of 50" for number in (10, 20, 30, 40, 50)]


def test_a_resumed_build_says_what_is_done_and_does_not_count_it_as_speed(clock: Clock) -> None:
    stream = io.StringIO()
    bar = ProgressBar(stream)
    bar.begin(1_000, 10_000_000, 5_000_000)
    clock.now += 20
    bar.advance(1_000_000)
    assert stream.getvalue().splitlines() == [
        "resuming: 50% of the data is encoded already",
        " 60%  600 of 1,000 steps  5 steps/s  0 MB/s  1:20 left",
    ]


def test_quiet_is_silent_in_a_terminal_too(clock: Clock) -> None:
    for stream in (io.StringIO(), Terminal()):
        with ProgressBar(stream, quiet=True) as bar:
            bar.talk("scanning")
            bar.begin(10, 10, 5)
            clock.now += 100
            bar.advance(5)
            bar.end()
        assert stream.getvalue() == ""


def test_a_terminals_line_is_redrawn_and_left_clean(clock: Clock) -> None:
    stream = Terminal()
    with ProgressBar(stream) as bar:
        bar.talk("a long line about the stage that the build is in")
        bar.talk("short")
        bar.begin(100, 100, 0)
        for _ in range(10):
            clock.now += 1
            bar.advance(10)
        bar.end()
        bar.talk("writing tables")
    shown = stream.shown()
    assert "short" in shown
    assert "\r100%  100 of 100 steps  10 steps/s  0 MB/s  in 0:10\n" in stream.getvalue().replace(" " * 60, "")
    assert shown[-1] == ""  # nothing stands in the way of what is printed next
    assert all(len(each) < progress.DEFAULT_COLUMNS for each in shown)


def test_redraws_are_few(clock: Clock) -> None:
    stream = Terminal()
    bar = ProgressBar(stream)
    bar.begin(100_000, 100_000, 0)
    for _ in range(100_000):
        clock.now += 0.0001
        bar.advance(1)
    assert stream.getvalue().count("\r") <= 10 / progress.REDRAW_S + 2


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (80, " 20%  200 of 1,000 steps  20 steps/s  2 MB/s  0:40 left"),
        (54, " 20%  200 of 1,000 steps  20 steps/s  0:40 left"),
        (40, " 20%  20 steps/s  0:40 left"),
        (20, " 20%  0:40 left"),
        (10, " 20%"),
    ],
)
def test_in_a_narrow_terminal_what_matters_least_goes_first(clock: Clock, columns: int, text: str) -> None:
    bar = ProgressBar(io.StringIO())
    bar.begin(1_000, 100_000_000, 0)
    bar.advance(20_000_000)
    assert bar.line(10.0, columns) == text


def test_nothing_to_do_divides_by_nothing(clock: Clock) -> None:
    bar = ProgressBar(io.StringIO())
    bar.begin(0, 0, 0)
    bar.end()
    assert bar.line(0.0).startswith("  0%")


# In a real terminal


def in_terminal(
    arguments: list[object], columns: int, *, stdout: Path | None = None, write: Callable[[int], None] | None = None
) -> tuple[int, str]:
    """Runs a command whose stderr (and stdout, unless it goes to a file) is a terminal of so many columns; code and output."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(open(stdout, "wb")) if stdout else theirs
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], stdin=theirs, stdout=out, stderr=theirs, env=environment()
        )
        os.close(theirs)
        data = b""
        while True:
            has_ended = process.poll() is not None  # before looking: what it wrote last is there then
            ready, _, _ = select.select([ours], [], [], 0.1)
            if ready:
                try:
                    piece = os.read(ours, 1 << 16)
                except OSError:  # the last writer has left
                    break
                if not piece:
                    break
                data += piece
            elif has_ended:
                break
        os.close(ours)
    return process.wait(), data.decode()


def screen(output: str, columns: int) -> list[str]:
    """The lines of a terminal after such output, without wrapping: a line that is too long fails."""
    lines = [""]
    for piece in re.split(r"(\r\n|\r|\n)", output):
        if piece in ("\r\n", "\n"):
            lines.append("")
        elif piece == "\r":
            lines[-1] = "\r" + lines[-1].lstrip("\r")  # the cursor is at the start: what comes is written over it
        elif lines[-1].startswith("\r"):
            old = lines[-1][1:]
            lines[-1] = piece + old[len(piece) :]
        else:
            lines[-1] += piece
    return [line.lstrip("\r").rstrip() for line in lines]


@pytest.mark.parametrize("columns", [40, 20, 0])
def test_the_bar_of_a_build_never_wraps_in_a_narrow_terminal(demos: Path, tmp_path: Path, columns: int) -> None:
    code, output = in_terminal(
        ["build", demos / "libero/libero_spatial", tmp_path / "x.vla", "--json"],
        columns,
        stdout=tmp_path / "out.json",
    )
    assert code == 0, output
    drawn = [line for piece in output.split("\r\n") for line in piece.split("\r")]
    assert max(len(line) for line in drawn) < (columns or 80)
    assert "\x1b" not in output
    shown = screen(output, columns)
    assert [line[:4] for line in shown if line] == ["100%"]
    assert re.search(r"in [0-9:]+$", shown[0])  # what matters most is there in any width


def test_results_do_not_run_into_the_bar(tiny_store: Path, tiny_source: Path) -> None:
    code, output = in_terminal(["verify", tiny_store, "--against", tiny_source], 60)
    assert code == 0
    shown = screen(output, 60)
    assert shown[0].startswith("sound          ")
    assert not any("checking" in line or "hashing" in line for line in shown)


def test_an_error_does_not_run_into_the_bar(tiny_source: Path, tmp_path: Path) -> None:
    import shutil

    import tiny_libero

    source = Path(shutil.copytree(tiny_source, tmp_path / "LIBERO"))
    tiny_libero.BROKEN["zero_steps"](source)
    code, output = in_terminal(["build", source, tmp_path / "x.vla"], 60)
    assert code == 1
    assert screen(output, 60)[0] == "vla-store: error: a demonstration without steps"


def test_time_is_taken_from_a_clock_that_does_not_jump() -> None:
    assert ProgressBar(io.StringIO())._began <= time.monotonic()
