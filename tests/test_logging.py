"""What the library says that is no error goes to loggers below `vla_store`; nothing of it is shown unless it is asked for."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from store_tools import environment

import vla_store
from vla_store.builder import build_store
from vla_store.progress import Silent
from vla_store.storage import retrying

PACKAGE = Path(vla_store.__file__).parent


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    return [(each.name, each.levelname, each.getMessage()) for each in caplog.records if "vla_store" in each.name]


class Stops(Silent):
    """Ends a build, as Ctrl-C does, once two pieces were encoded."""

    pieces = 0

    def advance(self, nbytes: int) -> None:
        self.pieces += 1
        if self.pieces == 2:
            raise KeyboardInterrupt


def test_a_build_that_goes_on_says_so(tiny_source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_store(tiny_source, tmp_path / "x.vla", workers=1, progress=Stops())
    with caplog.at_level(logging.INFO, "vla_store"):
        build_store(tiny_source, tmp_path / "x.vla", workers=1)
    [(name, level, text)] = said(caplog)
    assert (name, level) == ("vla_store.builder", "INFO")
    assert re.fullmatch(r"resuming: \d+ of \d+ pieces are encoded already", text)


def test_stages_are_there_for_who_looks_closely(
    tiny_source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "vla_store"):
        build_store(tiny_source, tmp_path / "x.vla")
    stages = [text for name, level, text in said(caplog) if (name, level) == ("vla_store.progress", "DEBUG")]
    assert stages[0].startswith("scanning source 1")
    assert stages[-1] == "writing tables, statistics and the root"


def test_what_is_left_out_is_named(tiny_source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(tiny_source, tmp_path / "source")
    first = min((tmp_path / "source").rglob("*.hdf5"))
    first.write_bytes(first.read_bytes()[:1_000])
    with caplog.at_level(logging.INFO, "vla_store"):
        report = build_store(tmp_path / "source", tmp_path / "x.vla", skip_bad=True)
    assert len(report.skipped) == 1
    assert [text for name, _, text in said(caplog) if name == "vla_store.builder"] == [
        f"left out: {report.skipped[0].place}: {report.skipped[0].reason}"
    ]


def test_a_request_that_is_made_again_is_told_without_its_url(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retrying, "FIRST_WAIT_S", 0.001)

    def ask(wanted: list[int], number: int) -> list[Any]:
        return [b"bytes" if number else TimeoutError("https://signed?secret=1") for _ in wanted]

    with caplog.at_level(logging.INFO, "vla_store"):
        assert retrying.retried(ask, 2, lambda error: True) == ([b"bytes", b"bytes"], 2)
    [(name, level, text)] = said(caplog)
    assert (name, level) == ("vla_store.storage", "INFO")
    assert text.startswith("2 of 2 requests are made again in ")
    assert "secret" not in text


def test_nothing_is_shown_unless_it_is_asked_for(tiny_source: Path, tmp_path: Path) -> None:
    code = "import sys\nfrom vla_store.builder import build_store\nbuild_store(sys.argv[1], sys.argv[2])\n"
    command = [sys.executable, "-c", code, str(tiny_source), str(tmp_path / "x.vla")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120)
    assert (done.stdout, done.stderr) == ("", "")


def test_every_logger_is_one_of_a_part() -> None:
    named = {
        name
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r"""getLogger\(["']([\w.]+)["']\)""", path.read_text())
    }
    ours = {each for each in named if each.startswith("vla_store")}
    assert ours == {f"vla_store.{part}" for part in ("builder", "loader", "progress", "storage")}
