"""Completion of the command line: the script that is printed, sourced in a real shell and asked."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from store_tools import assert_one_screen, run

from vla_store import cli

pytest.importorskip("shtab")

Complete = Callable[[str], list[str]]

# What bash does when Tab is pressed: the words of the line, the last of which is being written.
ASK = """
source "$1"
COMP_LINE="$2"; COMP_POINT=${#COMP_LINE}
read -r -a COMP_WORDS <<< "$2"
[[ "$2" == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
function_of=$(complete -p vla-store | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
"$function_of" vla-store "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Complete:
    """A function: a line that is being written -> what Tab offers, in a folder with a store, a suite and a file."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    folder = tmp_path_factory.mktemp("completion")
    ran = run("--print-completion", "bash")
    assert ran.code == 0, ran.err
    script = folder / "vla-store.bash"
    script.write_text(ran.out)
    place = folder / "work"
    for name in ("libero.vla", "LIBERO", "other"):
        (place / name).mkdir(parents=True)
    for name in ("demo.hdf5", "libero.txt"):
        (place / name).touch()

    def asked(line: str) -> list[str]:
        done = subprocess.run(
            [bash, "--norc", "-c", ASK, "bash", str(script), line],
            cwd=place,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return sorted(set(done.stdout.split()))

    return asked


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("vla-store inf", ["info"]),
        ("vla-store ep", ["episodes"]),
        ("vla-store views ", ["add", "list", "remove"]),
        ("vla-store cache f", ["fill"]),
        ("vla-store show --im", ["--images"]),
        ("vla-store show --images up", ["upright"]),
        ("vla-store episodes --success ", ["no", "yes"]),
        ("vla-store append --preset ", ["fast", "raw", "small"]),
        ("vla-store build --preset ", ["fast", "raw", "small"]),
        ("vla-store build --orientation ", ["bottom_up", "rot180", "top_down"]),
        ("vla-store append --colour b", ["bgr"]),
        ("vla-store show --steps ", ["events"]),
        ("vla-store info lib", ["libero.vla"]),
        ("vla-store info --json lib", ["libero.vla"]),
        ("vla-store copy libero.vla ot", ["other"]),
        ("vla-store build dem", ["demo.hdf5"]),
        ("vla-store build LIB", ["LIBERO"]),
        ("vla-store layout dem", ["demo.hdf5"]),
    ],
)
def test_tab_offers(complete: Complete, line: str, offered: list[str]) -> None:
    assert complete(line) == offered


def test_a_store_completes_as_a_folder_and_every_command_is_offered(complete: Complete) -> None:
    assert complete("vla-store verify ") == ["LIBERO", "libero.vla", "other"]
    assert {"build", "info", "episodes", "tasks", "show", "export", "views"} <= set(complete("vla-store "))


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_script_for_each_shell_is_one_that_it_can_read(shell: str, tmp_path: Path) -> None:
    ran = run("--print-completion", shell)
    assert (ran.code, ran.err) == (0, "")
    assert "episodes" in ran.out
    program = shutil.which(shell)
    if program:
        (tmp_path / "script").write_text(ran.out)
        done = subprocess.run([program, "-n", str(tmp_path / "script")], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


def test_without_shtab_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["--print-completion", "bash"]) == 3
    assert_one_screen(capsys.readouterr().err, 'pip install "vla-store[completion]"')
