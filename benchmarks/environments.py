"""Environments that other libraries have to themselves: no requirement of the tests, made by pip by name, and kept."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import CHECKOUT


def cache_folder() -> Path:
    """Where environments are kept between runs, outside of the checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vla_store" / "benchmarks"


def made(folder: Path, installs: Sequence[Sequence[str]], *, sees_ours: bool) -> str:
    """Return the Python of an environment, made where it is not there yet or holds what another list asked for.

    Parameters
    ----------
    folder
        Where it lies.
    installs
        Arguments of one `pip install` after the other; none may take another torch than the tests' own.
    sees_ours
        True: packages of this environment can be imported there, after those of its own.
    """
    python, ready, wanted = folder / "bin" / "python", folder / "ready", repr(installs)
    if ready.exists() and ready.read_text() == wanted:
        return str(python)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    for arguments in installs:
        pinned = ["-c", str(CHECKOUT / "constraints.txt")]
        subprocess.run([python, "-m", "pip", "install", "-qq", *arguments, *pinned], check=True)
    if sees_ours:
        # Named to come last: what both have is theirs.
        paths = {sysconfig.get_paths()["purelib"], *(each for each in sys.path if each.endswith("site-packages"))}
        (purelib(str(python)) / "zz_ours.pth").write_text("\n".join(sorted(paths)) + "\n")
    ready.write_text(wanted)
    return str(python)


def purelib(python: str) -> Path:
    """The folder of packages of an environment."""
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    return Path(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
