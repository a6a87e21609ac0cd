"""`progress=True`: tqdm's bar where tqdm is, our own without it; it reaches its end, and is closed at an error."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
from store_tools import environment

from vla_store import OptionError
from vla_store.audit import verify_store
from vla_store.builder import build_store
from vla_store.export import export_store
from vla_store.manage.copy import copy_store
from vla_store.manage.merge import merge_stores
from vla_store.progress import ProgressBar, TqdmBar, showing, told_to

tqdm = pytest.importorskip("tqdm.auto").tqdm

WITHOUT_TQDM = "import sys; sys.modules['tqdm'] = sys.modules['tqdm.auto'] = None\n"
BUILD = "from vla_store.builder import build_store\nbuild_store(sys.argv[1], sys.argv[2], progress=True)\n"


def in_a_terminal(code: str, *arguments: Any) -> str:
    """What a script writes to its terminal."""
    own, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-c", "import sys\n" + code, *map(str, arguments)]
    done = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment(), close_fds=True)
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(own, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        seen += piece
    os.close(own)
    assert done.wait(timeout=120) == 0, seen.decode()
    return seen.decode()


def test_a_terminal_shows_tqdms_bar_to_its_end(tiny_source: Path, tmp_path: Path) -> None:
    seen = in_a_terminal(BUILD, tiny_source, tmp_path / "x.vla")
    assert re.search(r"100%\|█+\| (\d+)/\1 ", seen), seen
    assert "scanning source 1" in seen


def test_without_tqdm_our_own_bar_is_shown(tiny_source: Path, tmp_path: Path) -> None:
    seen = in_a_terminal(WITHOUT_TQDM + BUILD, tiny_source, tmp_path / "x.vla")
    assert "steps/s" in seen or "of" in seen
    assert "█" not in seen
    assert re.search(r"100%  ", seen), seen


def test_what_is_not_asked_for_is_not_shown(
    tiny_source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    build_store(tiny_source, tmp_path / "x.vla", progress=False)
    build_store(tiny_source, tmp_path / "y.vla")
    assert capfd.readouterr() == ("", "")


def test_every_long_function_shows_it(tiny_source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def shown() -> str:
        return capfd.readouterr().err

    store = tmp_path / "x.vla"
    build_store(tiny_source, store, progress=True)
    assert "100%" in shown()
    verify_store(store, progress=True)
    assert "checking" in shown()
    copy_store(store, tmp_path / "y.vla", progress=True)
    assert "copying object" in shown()
    merge_stores([store], tmp_path / "z.vla", progress=True)
    assert "writing the root" in shown()
    export_store(store, tmp_path / "out", to="rlds", alignment="as_stored", progress=True)
    assert "100%" in shown()


class Kept(tqdm):  # type: ignore[misc,valid-type]
    """tqdm's own bar, which keeps every one that was made."""

    made: list[Any] = []  # noqa: RUF012  # of the class

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        Kept.made.append(self)


@pytest.fixture(autouse=True)
def none_kept() -> None:
    Kept.made.clear()


def test_a_bar_reaches_its_total_and_is_closed(tiny_source: Path, tmp_path: Path) -> None:
    with TqdmBar(Kept) as bar:
        report = build_store(tiny_source, tmp_path / "x.vla", progress=bar)
    assert [(each.n, each.total) for each in Kept.made if each.total] == [(report.rows, report.rows)]
    assert all(each.disable for each in Kept.made)  # what tqdm says of one that is closed


def test_a_bar_is_closed_at_an_error() -> None:
    def fails() -> None:
        with TqdmBar(Kept) as bar:
            bar.talk("scanning")
            bar.begin(10, 100, 0)
            bar.advance(50)
            raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        fails()
    assert [each.n for each in Kept.made if each.total] == [5]
    assert all(each.disable for each in Kept.made)


def test_work_that_goes_on_begins_where_it_stood() -> None:
    with TqdmBar(Kept) as bar:
        bar.begin(10, 100, 40)
        bar.advance(60)
        bar.end()
    [made] = Kept.made
    assert (made.initial, made.n, made.total) == (4, 10, 10)


@pytest.mark.parametrize("given", ["yes", 1, 0, ProgressBar])
def test_what_cannot_be_told_is_refused(tiny_store: Path, given: Any) -> None:
    with pytest.raises(OptionError, match="progress is True, False, None or an object"):
        verify_store(tiny_store, progress=given)


def test_what_is_told_while_a_bar_runs_stands_beside_it() -> None:
    with TqdmBar(Kept) as bar:
        bar.begin(10, 100, 0)
        bar.talk("hashing\nsource")
        assert Kept.made[-1].postfix == "hashing source"
        bar.end()
        bar.talk("writing the root")
    assert len(Kept.made) == 2


def test_an_object_of_ones_own_is_told_as_before() -> None:
    class Own:
        def talk(self, text: str) -> None: ...

        def begin(self, steps: int, nbytes: int, done_nbytes: int) -> None: ...

        def advance(self, nbytes: int) -> None: ...

        def end(self) -> None: ...

    own = Own()
    with showing(own) as told:
        assert told is own
    assert told_to(own) is own
    with showing(True) as told:
        assert isinstance(told, TqdmBar)
    with ProgressBar(quiet=True) as bar, showing(bar) as told:
        assert told is bar


NOTEBOOK = """
from vla_store.builder import build_store
build_store({source!r}, {store!r}, progress=True)
"""


@pytest.mark.slow
def test_a_notebook_shows_the_bar_and_the_report(tiny_source: Path, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    cell = nbformat.v4.new_code_cell(NOTEBOOK.format(source=str(tiny_source), store=str(tmp_path / "x.vla")))
    book = nbformat.v4.new_notebook(cells=[cell])
    client.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    outputs = book.cells[0].outputs
    shown = "".join(str(each.get("text", "")) + str(each.get("data", "")) for each in outputs)
    assert "fingerprint" in shown
    assert "100%" in shown or "HBox" in shown
