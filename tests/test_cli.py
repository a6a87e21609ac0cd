"""The command line: help that ends with an example, results on stdout, talk on stderr, the designed exit codes."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import store_tools
from own_looks import Odd
from store_tools import COMMAND, environment, run

from vla_store import MachineError, OptionError, __version__, cli, open_store
from vla_store.builder import build_store
from vla_store.cli import look
from vla_store.cli.parser import make_parser


def commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = [action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found.choices)


def code_of(words: list[str]) -> object:
    """What the process would end with."""
    try:
        return cli.main(words)
    except SystemExit as ended:
        return ended.code


def help_of(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main([*arguments, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_the_commands_are_the_designed_ones() -> None:
    assert {"build", "info", "verify", "demo", "append", "merge", "copy", "recode", "repair"} <= commands().keys()


@pytest.mark.parametrize("name", commands())
def test_the_help_of_a_command_ends_with_an_example_that_parses(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(name, capsys=capsys)
    example = text.strip().split("\n\n")[-1].replace("\n", " ")
    assert example.startswith(f"example: vla-store {name}")
    assert all(len(line) <= 80 for line in text.splitlines())
    parsed = make_parser().parse_args(example.removeprefix("example: vla-store ").split())
    assert parsed.command == name
    assert callable(parsed.run)


def test_the_help_says_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(help_of(capsys=capsys).split())
    assert "exit codes: 0 fine, 1 the data or the store is bad, 2 wrong use, 3 the machine failed us, 130" in text


def test_no_command_is_wrong_use_and_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["buidl"], ["build"], ["info"], ["info", "a", "b"], ["verify", "x", "--againts", "y"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "error: " in err
        assert "\n\nhint: " in err
        assert all(len(line) <= 80 for line in err.splitlines())
    for arguments in (["--version"], ["version"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 0
        assert capsys.readouterr().out == f"vla-store {__version__}\n"
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", help_of(capsys=capsys))


@pytest.mark.parametrize("words", [[], *([name] for name in commands()), ["views", "add"]], ids=" ".join)
def test_help_is_a_command_too(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    expected = help_of(*words, capsys=capsys)
    with pytest.raises(SystemExit) as caught:
        cli.main(["help", *words])
    assert caught.value.code == 0
    assert capsys.readouterr().out == expected


def test_the_package_is_the_command_under_the_same_name(tmp_path: Path) -> None:
    assert COMMAND[-1] == "vla_store"
    assert run("build", "x").err.startswith("usage: vla-store build ")
    ran = run("info", "nowhere.vla", cwd=tmp_path)
    assert (ran.code, ran.err.splitlines()[0]) == (2, "vla-store: error: no store at this path")


HINTS = {
    "verfy x": "did you mean verify?",
    "convert x y": "did you mean build?",
    "validate x": "did you mean verify?",
    "ls x": "did you mean info?",
    "list x": "did you mean info?",
    "views ls x": "did you mean list?",
    "views rm x y": "did you mean remove?",
    "frobnicate x": "hint: see vla-store --help",
    "build x --out y": "give SOURCE and STORE without --out, STORE as the last argument",
    "build x --output=y": "give SOURCE and STORE without --output, STORE as the last argument",
    "build x -o y": "give SOURCE and STORE without -o, STORE as the last argument",
    "build --input x --dest y": "give SOURCE and STORE without --dest",
    "copy x --to y": "give STORE and NEW without --to, NEW as the last argument",
    "merge x y --output-dir z": "give STORE and NEW without --output-dir, NEW as the last argument",
    "info --store x": "give STORE without --store",
    "build x": "as in: vla-store build LIBERO/libero_spatial",
    "views list": "as in: vla-store views list libero.vla",
    "show x": "as in: vla-store show libero.vla",
    "verify x --againts y": "did you mean --against?",
    "build x y --force": "did you mean --overwrite?",
    "build x y -j 4": "did you mean --workers?",
    "verify x --source y": "did you mean --against?",
    "info x -f": "hint: see vla-store info --help",
    "build x y --exeutor threads": "did you mean --executor?",
    "build x y --executor thread": "did you mean threads?",
    "build x y --workers abc": "hint: see vla-store build --help",
    "build x y --preset": "hint: see vla-store build --help",
    "bench x --windows 3": "hint: see vla-store bench --help",
    "coverage x --window 3": "hint: see vla-store coverage --help",
    "append x y --o z": "hint: see vla-store append --help",
    "info -x.vla": "write ./-x.vla",
    "--jsom info x": "hint: see vla-store --help",
}


@pytest.mark.parametrize("words", HINTS)
def test_wrong_use_says_the_next_command(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-x.vla").mkdir()
    with pytest.raises(SystemExit) as caught:
        cli.main(words.split())
    assert caught.value.code == 2
    hint = "hint: " + store_tools.in_words(capsys.readouterr().err.rpartition("\n\nhint: ")[2])
    assert HINTS[words].removeprefix("hint: ") in hint
    assert hint.endswith(" --help")
    assert "did you mean" in HINTS[words] or "did you mean" not in hint


@pytest.mark.parametrize(
    ("words", "code", "error", "message", "hint"),
    [
        ("info nowhere.vla --json", 2, "StoreNotFound", "no store at this path", "check the path"),
        ("verify --json", 2, "UsageError", "arguments are required: STORE", "see vla-store verify --help"),
        ("convert x y --json", 2, "UsageError", "invalid choice: 'convert'", "did you mean build?"),
        ("build x y --orientation up --json", 2, "UsageError", "invalid choice: 'up'", "see vla-store build --help"),
        ("info --json x y", 2, "UsageError", "unrecognized arguments: y", "see vla-store info --help"),
        ("views add x.vla nope --json", 2, "UnknownName", "there is no", ""),
        ("build nothing x.vla --json", 2, "SourceNotFound", "no such source", "check the path"),
    ],
)
def test_errors_under_json_are_one_object_on_stderr(
    words: str,
    code: int,
    error: str,
    message: str,
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert code_of(words.split()) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    found = json.loads(err)
    assert found.keys() == {"error", "exit_code", "hint", "message", "where"}
    assert (found["error"], found["exit_code"]) == (error, code)
    assert message in found["message"]
    assert hint in found["hint"]
    assert all(isinstance(each, str) for each in found["where"].values())
    assert len(found["message"]) <= 80
    assert "usage: " not in err
    assert ("invalid choice" in message) == ("expected" in found["where"])


def test_an_interruption_under_json_says_so_and_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vla_store.manage.copy.copy_store", interrupted)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert cli.main(["copy", "x", "y", "--json"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    found = json.loads(capsys.readouterr().err)
    assert (found["error"], found["exit_code"]) == ("KeyboardInterrupt", 130)
    assert found["hint"] == "the same command goes on"


def test_json_is_alone_on_stdout_and_talk_is_on_stderr(tiny_source: Path, tmp_path: Path) -> None:
    store = tmp_path / "x.vla"
    for arguments, keys in (
        (["build", tiny_source, store, "--dry-run"], {"rows", "memory_nbytes", "written"}),
        (["build", tiny_source, store], {"rows", "fingerprint", "cameras", "written"}),
        (["info", store], {"rows", "suites", "fields", "conventions"}),
        (["verify", store, "--against", tiny_source], {"sound", "problems", "leftovers", "compared_episodes"}),
    ):
        ran = run(*arguments, "--json")
        assert ran.code == 0, ran.err
        assert ran.out.count("\n") == 1
        assert keys <= json.loads(ran.out).keys()
        assert ran.out.isascii()
    quiet = run("verify", store, "--quiet")
    assert quiet.err == ""
    assert quiet.out.startswith("sound")


def test_plain_lines_go_to_a_stderr_that_is_no_terminal(tiny_source: Path, tmp_path: Path) -> None:
    ran = run("build", tiny_source, tmp_path / "x.vla")
    assert ran.code == 0
    assert ran.err.splitlines()[-1].startswith("100%  137 of 137 steps")
    assert not set("\r\x1b\b") & set(ran.err + ran.out)
    assert ran.out.startswith("camera")


def test_a_dry_run_writes_nothing(tiny_source: Path, tmp_path: Path) -> None:
    ran = run("build", tiny_source, tmp_path / "deep" / "x.vla", "--dry-run")
    assert ran.code == 0
    assert "would write" in ran.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("1", 1),
        ("1k", 1_000),
        ("1kB", 1_000),
        ("1KiB", 1_024),
        ("500 MB", 500_000_000),
        ("1.5GiB", 3 << 29),
        (" 2g ", 2_000_000_000),
        ("1TiB", 1 << 40),
        ("0.1k", 100),
        ("9" * 20, int("9" * 20)),
    ],
)
def test_a_size_has_a_unit_of_thousands_or_of_1024(text: str, nbytes: int) -> None:
    assert cli.parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "lots", "-1", "1e9", "1i", "GiB", "1 2", "1.", "0x10", "nan", "1PB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="not a size"):
        cli.parse_size(text)


def test_a_reader_that_leaves_early_is_no_error(tiny_store: Path) -> None:
    command = " ".join([*COMMAND, "info", str(tiny_store)])
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} | head -1"], env=environment(), capture_output=True, text=True
    )
    assert done.returncode in (0, 141)
    assert done.stdout.startswith("store")
    assert done.stderr == ""


def shell(line: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A line of bash in which `vla` is the command, and $1, $2, ... are these arguments."""
    script = f'vla() {{ {shlex.join(COMMAND)} "$@"; }}; set -o pipefail; {line}'
    return subprocess.run(
        ["bash", "-c", script, "bash", *map(str, arguments)], env=environment(), capture_output=True, text=True
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_damage_is_the_exit_code_when_nobody_reads_what_is_printed(
    tiny_store: Path, tmp_path: Path, unbuffered: str
) -> None:
    shutil.copytree(tiny_store, tmp_path / "x.vla")
    next((tmp_path / "x.vla").glob("parts/*/index/steps/zarr.json")).unlink()
    done = shell(f"export PYTHONUNBUFFERED={unbuffered}; vla verify $1 | true", tmp_path / "x.vla")
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("lost", ["2>&1 >&3; } 3>$3 | true", "> $3 2> /dev/full; }"])
def test_a_build_goes_on_when_its_progress_cannot_be_written(tiny_source: Path, tmp_path: Path, lost: str) -> None:
    done = shell(f"{{ vla build $1 $2 {lost}", tiny_source, tmp_path / "x.vla", tmp_path / "said")
    assert (done.returncode, done.stderr) == (0, "")
    assert "fingerprint" in (tmp_path / "said").read_text()
    assert len(open_store(tmp_path / "x.vla")) == 137


def test_wrong_use_is_the_exit_code_when_nobody_reads_the_message() -> None:
    assert shell("vla bogus 2>&1 | true").returncode == 2


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_process_without_stdout_or_stderr_does_its_work(tiny_store: Path, closed: str) -> None:
    done = shell(f"vla info $1 {closed}", tiny_store)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_result_that_cannot_be_written_is_said_once(tiny_store: Path, unbuffered: str) -> None:
    done = shell(f"export PYTHONUNBUFFERED={unbuffered}; vla info $1 > /dev/full", tiny_store)
    assert done.returncode == 3
    store_tools.assert_one_screen(done.stderr, "No space left on device while writing the result")


def test_what_files_say_cannot_steer_the_terminal(tmp_path: Path) -> None:
    build_store([Odd(lengths={0: 2})], tmp_path / "odd.vla")
    for words in (["info", "odd.vla"], ["show", "odd.vla", "-o", "x.png", "--episode", "\x1b[31m"]):
        ran = run(*words, cwd=tmp_path)
        assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e\u2066-\u2069]", ran.out + ran.err), words
    assert "[31m" in ran.err


def test_an_unexpected_system_error_is_the_machines_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, says in (
        (OSError(24, "Too many open files"), "ulimit -n"),
        (MemoryError(), "out of memory"),
        (MachineError("the network is down", host="h"), "the network is down"),
    ):

        def fail(*arguments: object, error: BaseException = error, **options: object) -> None:
            raise error

        monkeypatch.setattr(look, "open_store", fail)
        assert cli.main(["info", "x.vla"]) == 3
        err = capsys.readouterr().err
        store_tools.assert_one_screen(err, says)


def test_a_zarr_2_is_left_alone_and_building_names_the_command(tiny_source: Path, tmp_path: Path) -> None:
    code = "import sys, zarr\nzarr.__version__ = '2.18.7'\nfrom vla_store import cli\nsys.exit(cli.main(sys.argv[1:]))"
    for arguments, status in ((["build", tiny_source, tmp_path / "y.vla"], 3), (["demo"], 3)):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], env=environment(), capture_output=True, text=True
        )
        assert done.returncode == status, done.stderr
        store_tools.assert_one_screen(
            done.stderr, "building needs zarr 3.0.8 or newer", "2.18.7", 'pip install "vla-store[build]"'
        )
    assert not (tmp_path / "y.vla.partial").exists()


def test_what_building_needs_and_is_not_installed_is_said(tiny_source: Path, tmp_path: Path) -> None:
    """As on Python 3.10, where zarr and h5py are not among the requirements."""
    hide = "import sys\nfor name in ('h5py', 'zarr'): sys.modules[name] = None\n"
    code = f"{hide}from vla_store import cli\nsys.exit(cli.main(sys.argv[1:]))"
    store = store_tools.built(tmp_path / "x.vla", [tiny_source / "libero_goal"])
    for arguments in (["build", tiny_source, tmp_path / "y.vla"], ["verify", store, "--against", tiny_source]):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], env=environment(), capture_output=True, text=True
        )
        assert done.returncode == 3, done.stderr
        store_tools.assert_one_screen(done.stderr, f"`vla-store {arguments[0]}` needs", "Python 3.11 or newer")
    for arguments in (["info", store], ["verify", store]):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], env=environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_the_error_text_wraps_its_hint_and_leaves_paths_whole() -> None:
    error = OptionError("it is wrong", path="/a" * 100, hint="do this, or that, " * 10)
    lines = cli.error_text(error).splitlines()
    assert lines[0] == "vla-store: error: it is wrong"
    assert lines[1] == f"  path  {'/a' * 100}"
    assert lines[3].startswith("hint: do this")
    assert all(len(line) <= 80 for line in lines[3:])
    assert all(line.startswith("      ") for line in lines[4:])
    assert cli.error_text(OptionError("plain")) == "vla-store: error: plain"


def test_a_long_path_in_a_hint_can_be_copied() -> None:
    path = "/long" * 30
    assert f"      {path}" in cli.error_text(OptionError("it is wrong", hint=f"give {path}")).splitlines()


def test_a_path_that_is_not_utf8_can_be_printed(tiny_store: Path, tmp_path: Path) -> None:
    place = os.fsencode(tmp_path) + b"/caf\xe9.vla"
    os.symlink(tiny_store, place)
    done = subprocess.run([*COMMAND, "info", place], env=environment(), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"caf\\udce9.vla" in done.stdout


def test_importing_the_command_line_costs_no_library() -> None:
    code = "import sys, vla_store.cli; print(*[n for n in ('torch', 'zarr', 'dask', 'h5py', 'fsspec') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
