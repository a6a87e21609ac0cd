"""All benchmarks, saved, and the page made of them: python -m benchmarks [--demos FOLDER] [--work FOLDER]. Some fifteen minutes."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measure import CHECKOUT, find_demos, work_folder

NAMES = (
    "codec_levels",
    "reading",
    "sampling",
    "micro",
    "loader",
    "mixtures",
    "recipes",
    "size",
    "kept_jpeg",
    "scale",
    "build_speed",
    "build_sources",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demos", type=Path)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    with work_folder(options.work) as work:
        shared = ["--demos", find_demos(options.demos, work), "--work", work, "--save"]
        for name in NAMES:  # a process each: none inherits another's heap, threads or maps
            start = time.monotonic()
            ended = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *map(str, shared)], cwd=CHECKOUT)
            if ended.returncode:  # it has said why
                raise SystemExit(ended.returncode)
            print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "benchmarks.report"], check=True, cwd=CHECKOUT)


if __name__ == "__main__":
    main()
