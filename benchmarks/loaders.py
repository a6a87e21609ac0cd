"""The loaders that others use, on this machine: LeRobotDataset, Lance, MosaicML Streaming, LitData, WebDataset and RLDS beside ours.

    python -m benchmarks.loaders [NAME ...] [--quick] [--save] [--work FOLDER] [--environments FOLDER]

Each library is installed into an environment of its own, kept in a cache outside of the checkout, writes the demonstrations by its own
writer, and takes turns with the Loader over `fast`: round after round, in an order drawn anew, each turn in a process of its own. With a
NAME: that one alone. What a sample is: benchmarks/loaders_source.py; how each is set: benchmarks/loaders_rivals.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import environments, loaders_page, processes
from benchmarks.loaders_rivals import COLUMNS, RIVALS, Rival, link_ffmpeg
from benchmarks.loaders_source import BATCH, CAMERAS, KINDS, VIDEO, Source, digests, load, write
from benchmarks.loaders_turn import WORKERS
from benchmarks.measure import (
    CHECKOUT,
    RESULTS,
    Neighbours,
    Spread,
    arguments,
    environment,
    find_demos,
    work_folder,
    write_result,
)

YARDSTICK = "fast"
OURS = ("fast", "fast_dataset", "small")
FIGURES = ("samples_per_s", "us", "us_with_workers", "first_s", "since_start_s", "pss_nbytes")
POLL_S = 0.2
LIMIT_S = 1800
SECONDS = 1.5


class TurnFailed(Exception):
    """A library could not be installed, written or read here. Its text is the reason."""


@dataclass(frozen=True)
class Contender:
    """A library, and how its pictures lie."""

    name: str
    rival: Rival
    pictures: str

    @property
    def title(self) -> str:
        return self.rival.title if self.name in OURS else f"{self.rival.title}, {self.pictures}"

    @property
    def is_lossless(self) -> bool:
        return self.pictures != VIDEO


@dataclass(frozen=True)
class Bench:
    """Where all lies. pythons: of whom could be installed, by name."""

    work: Path
    source: Source
    pythons: dict[str, str]

    def folder(self, contender: Contender, kind: str) -> Path:
        if contender.name in OURS:
            return self.work / f"{contender.pictures}.vla"
        parts = [contender.name, contender.pictures.lower(), *([] if contender.rival.of_rows else [kind])]
        return self.work / "-".join(parts)

    def turn(self, contender: Contender, kind: str, **told: Any) -> dict[str, Any]:
        """Start a process for one turn, and look at its memory while its workers run. Raises TurnFailed."""
        told |= {"rival": contender.name, "kind": kind, "pictures": contender.pictures}
        told |= {"source": str(self.source.folder), "folder": str(self.folder(contender, kind))}
        over = self.work / "over"  # comes into being when its part with workers is over
        over.unlink(missing_ok=True)
        told["over"] = str(over)
        python = self.pythons[contender.name]
        started = time.time()
        process = subprocess.Popen(
            [python, "-m", "benchmarks.loaders_turn", json.dumps(told | {"started_at": started})],
            cwd=self.work,
            env=_surroundings(python, contender.name),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with _watched(process, over) as peak:
            try:
                out, errors = process.communicate(timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise TurnFailed(f"took more than {LIMIT_S} s") from None
        if process.returncode:
            lines = errors.strip().splitlines() or [f"ended with {process.returncode}"]
            print(errors[-3000:], file=sys.stderr)
            raise TurnFailed(lines[-1].replace(str(self.work), "FOLDER")[:200])
        return {} if told["do"] == "make" else json.loads(out.splitlines()[-1]) | {"pss_nbytes": peak()}


def _surroundings(python: str, name: str) -> dict[str, str]:
    """Variables of a turn's process; nobody may ask a hub for data that lie here."""
    made = {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
    }
    if name == "lerobot":
        made["LD_LIBRARY_PATH"] = str(link_ffmpeg(environments.purelib(python)))
    return made


@contextlib.contextmanager
def _watched(process: subprocess.Popen[str], over: Path) -> Iterator[Callable[[], int]]:
    """Look at the memory of a process and all below it, from outside, until the file `over` is there."""
    ended, most = threading.Event(), [0]

    def look() -> None:
        while not ended.wait(POLL_S) and not over.exists():
            below = processes.below(process.pid)
            with contextlib.suppress(OSError, KeyError):  # one that has just ended
                most[0] = max(most[0], sum(processes.memory(pid).pss for pid in (process.pid, *below)))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield lambda: most[0]
    finally:
        ended.set()
        thread.join()


def contenders(names: Sequence[str]) -> list[Contender]:
    """Those of these names and ours, the yardstick first."""
    chosen = [*OURS, *(name for name in RIVALS if name in names and name not in OURS)]
    return [Contender(name, RIVALS[name], each) for name in chosen for each in RIVALS[name].pictures]


def prepared(demos: Path, work: Path, kept: Path, names: Sequence[str], failed: dict[str, str]) -> Bench:
    """Stores, plain arrays and environments, made where they are not there yet."""
    from vla_store.builder import build_store
    from vla_store.reader.store import open_store

    for preset in ("fast", "small"):
        if not (work / f"{preset}.vla").exists():
            build_store([demos], work / f"{preset}.vla", preset=preset)
    if not (work / "source" / "samples.npz").exists():
        write(open_store(work / "fast.vla"), demos, work / "source")
    pythons = {}
    for name in dict.fromkeys((*OURS, *names)):
        try:
            installs = RIVALS[name].installs
            pythons[name] = environments.made(kept / name, installs, sees_ours=False) if installs else sys.executable
        except subprocess.CalledProcessError as error:
            failed[name] = f"pip ends with {error.returncode}"
    return Bench(work, load(work / "source"), pythons)


def converted(bench: Bench, contender: Contender, kinds: Sequence[str]) -> dict[str, int]:
    """Bytes of its data sets, by kind, written where they are not there yet. Raises TurnFailed."""
    nbytes = {}
    for kind in kinds:
        folder = bench.folder(contender, kind)
        if not folder.exists():
            try:
                if contender.name == "lerobot":
                    _export(bench, folder, contender.pictures == VIDEO)
                else:
                    folder.mkdir()
                    bench.turn(contender, kind, do="make")
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        nbytes[kind] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return nbytes


def _export(bench: Bench, folder: Path, video: bool) -> None:
    """LeRobot's data set as `vla-store export` writes it: LeRobot's own layout and settings of PNG and AV1, and only the fields that the
    samples have."""
    from vla_store.export import export_store
    from vla_store.reader.store import open_store

    store = open_store(bench.work / "fast.vla")
    rename = {camera: f"observation.images.{short}" for camera, short in COLUMNS.items()}
    others = [name for name in store.fields if name not in (*CAMERAS, "robot_states", "actions")]
    export_store(
        store,
        folder,
        to="lerobot",
        alignment="causal",
        state=["robot_states"],
        rename=rename,
        exclude=others,
        video=video,
    )


def checked(contender: Contender, found: dict[str, Any], right: list[str]) -> None:
    """Raises AssertionError where a turn has delivered other samples than the source's."""
    if not found["numbers_are_equal"]:
        raise AssertionError(f"{contender.title} reads other numbers")
    wrong = [at for at, each in found["digests"].items() if each != right[int(at)]]
    if contender.is_lossless and wrong:
        raise AssertionError(f"{contender.title}: sample {wrong[0]} has other bytes, and {len(wrong) - 1} more")


def measure(
    demos: Path,
    work: Path,
    kept: Path,
    *,
    rounds: int,
    seconds: float,
    names: Sequence[str],
    kinds: Sequence[str] = KINDS,
) -> dict[str, Any]:
    """All that benchmarks/results/loaders.json holds."""
    neighbours, failed = Neighbours(), dict[str, str]()
    bench = prepared(demos, work, kept, names, failed)
    right = {kind: _right(bench.source, kind) for kind in kinds}
    chosen, nbytes = [], {}
    for each in contenders([name for name in names if name not in failed]):
        try:
            nbytes[each.title] = converted(bench, each, kinds)
            chosen.append(each)
        except TurnFailed as error:
            failed[each.title] = str(error)
    turns: dict[tuple[str, str], list[dict[str, Any]]] = {}
    rng = np.random.default_rng(0)
    for number in range(rounds):
        for kind in kinds:
            for at in rng.permutation(len(chosen)):
                each = chosen[at]
                if each.title in failed:
                    continue
                started = time.monotonic()
                try:
                    found = bench.turn(each, kind, do="read", seconds=seconds, least=2)
                except TurnFailed as error:
                    failed[each.title] = str(error)
                    continue
                checked(each, found, right[kind])
                turns.setdefault((each.title, kind), []).append(found | {"round": number})
                took = f"{time.monotonic() - started:.1f} s"
                print(f"round {number + 1}, {kind}: {each.title}: {_told(found)}; {took}", file=sys.stderr, flush=True)
    rows = [
        _row(each, kind, turns[each.title, kind], turns[chosen[0].title, kind], nbytes[each.title][kind])
        for kind in kinds
        for each in chosen
        if each.title not in failed
    ]
    return {
        "batch": BATCH,
        "digests": {kind: hashlib.sha256("".join(right[kind]).encode()).hexdigest() for kind in kinds},
        "environment": environment() | {"busy_cores_of_others": neighbours.cores()},
        "episodes": len(bench.source.first),
        "failed": failed,
        "pictures_nbytes": sum(each.nbytes for each in bench.source.pictures.values()),
        "rounds": rounds,
        "rows": rows,
        "samples": len(bench.source),
        "seconds": seconds,
        "steps": len(bench.source.state),
        "workers": WORKERS,
    }


def _told(found: dict[str, Any]) -> str:
    return f"{found['samples_per_s']:,.0f} samples/s, {found['us'] / 1e3:.3f} ms, first {found['first_s']:.2f} s"


def _right(source: Source, kind: str) -> list[str]:
    """sha256 of every sample as the demonstrations have it."""
    made: list[str] = []
    for start in range(0, len(source), BATCH):
        made += digests(source.batch(np.arange(start, min(start + BATCH, len(source))), kind), kind)
    return made


def _row(
    contender: Contender, kind: str, mine: list[dict[str, Any]], yard: list[dict[str, Any]], nbytes: int
) -> dict[str, Any]:
    by_round = {each["round"]: each for each in yard}
    pairs = [(by_round[each["round"]], each) for each in mine if each["round"] in by_round]
    seen = {at for each in mine for at in each["digests"]}
    return {
        "contender": contender.title,
        "grey_levels": None if contender.is_lossless else mine[0]["grey_levels"],
        "kind": kind,
        "name": contender.name,
        "nbytes": nbytes,
        "order": contender.rival.order,
        "psnr": None if contender.is_lossless else mine[0]["psnr"],
        "ratios": {
            "cpu": Spread.of([other["us"] / our["us"] for our, other in pairs]).to_json(),
            "rate": Spread.of([our["samples_per_s"] / other["samples_per_s"] for our, other in pairs]).to_json(),
        },
        "samples_checked": len(seen),
        "version": mine[0]["version"],
        **{figure: Spread.of([each[figure] for each in mine]).to_json() for figure in FIGURES},
    }


def main() -> None:
    rivals = [name for name in RIVALS if name not in OURS]
    parser = arguments(__doc__.splitlines()[0], rounds=3)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(rivals)} (default: all)")
    parser.add_argument(
        "--environments",
        type=Path,
        default=environments.cache_folder(),
        help="where they are kept (default: %(default)s)",
    )
    options = parser.parse_args()
    for name in options.names:
        if name not in rivals:
            parser.error(f"no loader {name}; there are {', '.join(rivals)}")
    if options.save and options.names:
        parser.error("--save goes with all of them: the figures of a page are of one run")
    names = options.names or rivals
    if options.quick and not options.names:
        names = [each for each in rivals if (options.environments / each / "ready").exists()]
    with work_folder(options.work) as work:
        result = measure(
            find_demos(options.demos, work),
            work.resolve(),
            options.environments.resolve(),
            rounds=1 if options.quick else options.rounds,
            seconds=0.3 if options.quick else SECONDS,
            names=names,
        )
    print(loaders_page.summary(result))
    write_result("loaders", result, RESULTS if options.save else None)


if __name__ == "__main__":
    main()
