"""Reading samples: ours against the roof, HDF5, zarr-python and tensorstore.

    python -m benchmarks.reading [--quick] [--save] [--work FOLDER]

One process; two cameras at [-1, 0], robot_states at 0, actions at range(64); batches of 64, causal, the same samples in the
same random order for everyone, and a sha256 over everything read that must be the same for all.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import blosc

from benchmarks import cold, rivals, roof
from benchmarks.measure import (
    Neighbours,
    Pass,
    Spread,
    arguments,
    cpu_ratio,
    environment,
    interleave,
    run,
    speed_ratio,
    table,
    timed,
)
from benchmarks.workload import (
    BATCH,
    CAMERAS,
    WINDOWS,
    Array,
    Units,
    Workload,
    buffers,
    digest,
    make_workload,
    stacked,
)

PRESETS = ("raw", "fast", "small")
LIBERO_EPISODES = 6_500
CHECKED = ", each crc32c checked"  # that of every chunk, every time; elsewhere a process checks a chunk once


@dataclass(frozen=True)
class Contender:
    """One way to read a batch.

    work: reads unit number i. result: what it read last, as a batch. batches: how many of the pass it reads in a round.
    before: what is done, untimed, before each unit.
    """

    name: str
    work: Callable[[int], Any]
    result: Callable[[], dict[str, Array]]
    batches: int
    before: Callable[[int], object] | None = None

    def turn(self) -> Pass:
        return timed(range(self.batches), self.work, self.before)


@dataclass(frozen=True)
class Setting:
    """What the contenders share."""

    stores: dict[str, Path]
    sources: Path
    workload: Workload
    out: dict[str, Array]  # a batch, reused by all, touched

    @property
    def batches(self) -> tuple[Units, ...]:
        return self.workload.batches


def _roof(
    setting: Setting,
    preset: str,
    *,
    upright: bool = False,
    pool: Array | None = None,
    checked: bool = False,
    name: str = "",
) -> Contender:
    store = _open(setting, preset)
    cameras = roof.locate(store)
    works = [
        roof.batch_work(cameras, store, units, setting.out, upright=upright, pool=pool, checked=checked)
        for units in setting.batches
    ]
    label = name or f"roof, {preset}{', upright' if upright else ''}{CHECKED if checked else ''}"
    return Contender(label, lambda at: works[at](), lambda: setting.out, len(works))


def _ours(setting: Setting, preset: str, *, reuse: bool, upright: bool = False, checked: bool = False) -> Contender:
    samples = _samples(setting, preset, upright, checked=checked)
    out = samples.allocate(BATCH) if reuse else None
    for array in (out or {}).values():
        array.fill(1)
    held: list[Any] = [None]

    def work(at: int) -> None:
        held[0] = samples.__getitems__(setting.batches[at].indices, out)

    label = f"ours, {preset}{', upright' if upright else ''}{CHECKED if checked else ''}{', out=' if reuse else ''}"
    return Contender(label, work, lambda: held[0].arrays, len(setting.batches))


def _ours_single(setting: Setting, preset: str, batches: int) -> Callable[[], Pass]:
    samples = _samples(setting, preset, False)
    indices = [units.indices.tolist() for units in setting.batches[:batches]]

    def work(at: int) -> None:
        for index in indices[at]:
            samples[index]

    return lambda: timed(range(len(indices)), work)


def _roof_single(setting: Setting, preset: str, batches: int) -> Callable[[], Pass]:
    store = _open(setting, preset)
    cameras = roof.locate(store)
    out = buffers(1, setting.out[CAMERAS[0]].shape[2:])
    works = [
        [roof.batch_work(cameras, store, one, out) for one in units.singly()] for units in setting.batches[:batches]
    ]

    def work(at: int) -> None:
        for each in works[at]:
            each()

    return lambda: timed(range(len(works)), work)


def _rival(setting: Setting, name: str, read: rivals.Read, batches: int) -> Contender:
    return Contender(
        name,
        lambda at: read(setting.batches[at], setting.out),
        lambda: setting.out,
        min(batches, len(setting.batches)),
    )


def _open(setting: Setting, preset: str, fetcher: str | None = None, *, checked: bool = False) -> Any:
    from vla_store.reader.store import open_store

    return open_store(setting.stores[preset], fetcher=fetcher, check="every" if checked else "first")


def _samples(setting: Setting, preset: str, upright: bool, fetcher: str | None = None, *, checked: bool = False) -> Any:
    from vla_store.reader.samples import Samples

    images = "upright" if upright else "as_stored"
    return Samples(_open(setting, preset, fetcher, checked=checked), windows=WINDOWS, alignment="causal", images=images)


def check_batches(contenders: list[Contender], upright: bool) -> list[str]:
    """Every contender reads all its batches once; returns the digests of the batches. AssertionError where two differ."""
    known: dict[int, str] = {}
    for contender in contenders:
        for at in range(contender.batches):
            for array in contender.result().values() if at == 0 and "roof" in contender.name else ():
                array.fill(0)  # what an earlier contender left in the shared batch is no result
            contender.work(at)
            found = digest(contender.result())
            if known.setdefault(at, found) != found:
                raise AssertionError(f"{contender.name}{', upright' if upright else ''}: batch {at} has other bytes")
    return [known[at] for at in sorted(known)]


def check_singles(setting: Setting, presets: tuple[str, ...], batches: int, expected: list[str]) -> None:
    """ds[i] and the roof of single samples read the same bytes as the batches."""
    for preset in presets:
        samples = _samples(setting, preset, False)
        store = _open(setting, preset)
        cameras = roof.locate(store)
        out = buffers(1, setting.out[CAMERAS[0]].shape[2:])
        for at, units in enumerate(setting.batches[:batches]):
            if digest(stacked([samples[index] for index in units.indices.tolist()])) != expected[at]:
                raise AssertionError(f"ds[i] on {preset} reads other bytes than a batch")
            made = []
            for one in units.singly():
                roof.batch_work(cameras, store, one, out)()
                made.append({name: array[0].copy() for name, array in out.items()})
            if digest(stacked(made)) != expected[at]:
                raise AssertionError(f"the roof of single samples on {preset} reads other bytes than a batch")


def make_stores(demos: Path, work: Path) -> dict[str, Path]:
    """A store of the demonstrations by preset; found again if this very code built it."""
    from vla_store.builder import build_store
    from vla_store.format.codecs import PRESETS as CODECS
    from vla_store.reader.store import open_store

    made = {}
    for preset in PRESETS:
        path = work / "stores" / f"{preset}.vla"
        if path.exists():
            fields = open_store(path).parts[0][1].fields
            if any(fields[name].codec != CODECS[preset].codec for name in CAMERAS):
                raise SystemExit(f"{path} was built with another codec: remove it")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            build_store([demos], path, preset=preset)
        made[preset] = path
    return made


def measure_warm(setting: Setting, rounds: int, slow_batches: int, singles: int, pool_pictures: int) -> dict[str, Any]:
    """All in memory: passes by contender, and the digests of what they read."""
    batches = len(setting.batches)
    picture = setting.out[CAMERAS[0]].shape[2:]
    pool = np.random.default_rng(5).integers(0, 256, (pool_pictures, *picture), dtype=np.uint8)
    stored = [_roof(setting, preset) for preset in PRESETS]
    stored += [_ours(setting, preset, reuse=reuse) for preset in PRESETS for reuse in (True, False)]
    for preset in ("raw", "fast"):
        stored += [_roof(setting, preset, checked=True), _ours(setting, preset, reuse=True, checked=True)]
    kept = rivals.KeptHandles(setting.workload.demos)
    store = _open(setting, "fast")
    stored += [
        _rival(setting, "HDF5 opened per sample", rivals.hdf5_as_the_port(setting.workload.demos), slow_batches),
        _rival(setting, "HDF5 opened, slices only", rivals.hdf5_slices_only(setting.workload.demos), slow_batches),
        _rival(setting, "h5py, kept handles", kept.read, batches),
        _rival(setting, "zarr-python slices", rivals.zarr_slices(store), max(1, slow_batches // 4)),
        _rival(setting, "tensorstore batches", rivals.tensorstore_batches(store), slow_batches),
        _rival(setting, "tensorstore batches, 1 thread", rivals.tensorstore_batches(store, 1), slow_batches),
    ]
    upright = [_roof(setting, "fast", upright=True)]
    upright += [_ours(setting, "fast", reuse=reuse, upright=True) for reuse in (True, False)]
    print("checking that all read the same bytes", file=sys.stderr)
    digests = check_batches(stored, upright=False)
    check_batches(upright, upright=True)
    check_singles(setting, ("raw", "fast"), min(singles, 2), digests)
    single = {f"roof, {preset}, one sample": _roof_single(setting, preset, singles) for preset in ("raw", "fast")}
    single |= {f"ours, {preset}, ds[i]": _ours_single(setting, preset, singles) for preset in ("raw", "fast")}
    for turn in single.values():
        turn()  # and each chunk's crc32c is checked
    other = [_roof(setting, "fast", pool=pool, name=f"roof, fast, {pool_pictures:,} backgrounds")]
    gc.collect()
    gc.freeze()  # the prepared work is thousands of objects, which the collector would visit on everybody's time
    passes = interleave({each.name: each.turn for each in (*stored, *upright, *other)} | single, rounds)
    gc.unfreeze()
    check_batches(stored, upright=False)
    kept.close()
    return {"passes": passes, "digest": digests}


def measure_cold(setting: Setting, rounds: int, batches: int) -> dict[str, Any]:
    """Before every batch all files are dropped from the page cache. Passes by contender, and bytes from storage per sample."""
    hdf5 = sorted({demo.path for demo in setting.workload.demos})
    cold.sync(hdf5)
    kept = rivals.KeptHandles(setting.workload.demos)
    contenders: list[Contender] = []
    read: dict[str, list[int]] = {}

    def dropping(contender: Contender, files: list[Path]) -> Contender:
        counted = read.setdefault(contender.name, [])

        def work(at: int) -> None:
            before = cold.storage_nbytes()
            contender.work(at)
            counted.append(cold.storage_nbytes() - before)

        return Contender(
            contender.name, work, contender.result, min(batches, contender.batches), lambda _: cold.drop(files)
        )

    contenders.append(dropping(_rival(setting, "h5py, kept handles, cold", kept.read, batches), hdf5))
    for preset in ("raw", "fast", "small"):
        files = cold.files_below(setting.stores[preset])
        cold.sync(files)
        for fetcher in ("mmap", "pread"):
            samples = _samples(setting, preset, False, fetcher)
            out = samples.allocate(BATCH)
            held: list[Any] = [None]

            def work(at: int, samples: Any = samples, out: Any = out, held: Any = held) -> None:
                held[0] = samples.__getitems__(setting.batches[at].indices, out)

            name = f"ours, {preset}, {fetcher}, cold"
            contenders.append(
                dropping(Contender(name, work, lambda held=held: held[0].arrays, batches), files)  # type: ignore[misc]
            )
    for contender in contenders:
        contender.turn()  # opened, and whatever is slow the first time
    for counted in read.values():
        counted.clear()
    passes = interleave({each.name: each.turn for each in contenders}, rounds, seed=1)
    kept.close()
    return {"passes": passes, "storage_nbytes": {name: sum(each) / len(each) / BATCH for name, each in read.items()}}


def needed_nbytes(setting: Setting) -> dict[str, float]:
    """Bytes of a sample that each layout has to touch: encoded frames (or pixels) and numbers."""
    numbers = sum(array[0].nbytes for name, array in setting.out.items() if name in ("robot_states", "actions"))
    pixels = sum(setting.out[camera][0].nbytes for camera in CAMERAS)
    made = {"hdf5": float(pixels + numbers)}
    for preset in PRESETS:
        cameras = roof.locate(_open(setting, preset))
        frames = sum(2 * each.encoded_nbytes / len(each.chunks) for each in cameras.values())
        made[preset] = frames + numbers
    return made


def sizes(setting: Setting) -> dict[str, float]:
    """Bytes of all objects of a store over the source's."""
    source = sum(path.stat().st_size for path in sorted({demo.path for demo in setting.workload.demos}))
    return {
        preset: sum(path.stat().st_size for path in cold.files_below(folder)) / source
        for preset, folder in setting.stores.items()
    }


def rows_of_the_design(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Section 8's rows that this benchmark measures: what, target, measured, met."""

    def at_most(what: str, limit: float, value: float) -> dict[str, Any]:
        return {"what": what, "target": f"<= {limit}", "measured": {"median": round(value, 4)}, "met": value <= limit}

    def at_least(what: str, limit: float, mine: str, other: str) -> dict[str, Any]:
        spread = result["ratios"].get(f"{mine} / {other}")
        met = None if spread is None else spread["median"] >= limit
        return {
            "what": what,
            "target": f">= {limit:g} x",
            "measured": spread,
            "by_cpu": result["cpu_ratios"].get(f"{mine} / {other}"),
            "met": met,
            "mine": mine,
            "other": other,
        }

    ours = "ours, fast, out="
    rows = [
        at_most("size of `fast`, of the source's bytes", 0.37, result["sizes"]["fast"]),
        at_most("size of `small`, of the source's bytes", 0.25, result["sizes"]["small"]),
        at_least(
            "`__getitems__`, `fast`, into a reused batch, of the design's roof, which checks each crc32c",
            0.85,
            ours,
            f"roof, fast{CHECKED}",
        ),
        at_least("the same, of a roof that checks none, as a warm process does", 0.85, ours, "roof, fast"),
        at_least(
            f"the same, of a roof with {result['pool']:,} backgrounds",
            0.85,
            ours,
            f"roof, fast, {result['pool']:,} backgrounds",
        ),
        at_least("the same, upright", 0.85, "ours, fast, upright, out=", "roof, fast, upright"),
        at_least("the same, as stored, into fresh arrays", 0.85, "ours, fast", "roof, fast"),
        at_least(
            'the same, into a reused batch, with each crc32c checked (`check="every"`, and so the roof)',
            0.85,
            f"ours, fast{CHECKED}, out=",
            f"roof, fast{CHECKED}",
        ),
        at_least("against opening HDF5 per sample, as RDT's port does", 12, ours, "HDF5 opened per sample"),
        at_least("the same, with no more read than the sample", 12, ours, "HDF5 opened, slices only"),
        at_least("against zarr-python slicing", 15, ours, "zarr-python slices"),
        at_least("against tensorstore in batches", 3, ours, "tensorstore batches"),
        at_least("the same, tensorstore on one core as ours is", 3, ours, "tensorstore batches, 1 thread"),
        at_least("`raw` against h5py with kept handles, all in memory", 2.5, "ours, raw, out=", "h5py, kept handles"),
        at_least("`fast` against h5py with kept handles, all in memory", 0.7, ours, "h5py, kept handles"),
    ]
    if "storage_nbytes" in result:
        for fetcher in ("mmap", "pread"):
            what = f"`fast` against h5py with kept handles, page cache cold, {fetcher}"
            rows.append(at_least(what, 1.5, f"ours, fast, {fetcher}, cold", "h5py, kept handles, cold"))
    rows.append(at_least("one sample `ds[i]`, `fast`, of the roof", 0.6, "ours, fast, ds[i]", "roof, fast, one sample"))
    return rows


RIVALS = (
    "HDF5 opened per sample",
    "HDF5 opened, slices only",
    "h5py, kept handles",
    "zarr-python slices",
    "tensorstore batches",
    "tensorstore batches, 1 thread",
)
RATIOS = (
    *((f"ours, {preset}{reuse}", f"roof, {preset}") for preset in PRESETS for reuse in (", out=", "")),
    *((f"ours, fast, upright{reuse}", "roof, fast, upright") for reuse in (", out=", "")),
    *(
        (f"ours, {preset}{checked}, out=", f"roof, {preset}{CHECKED}")
        for preset in ("raw", "fast")
        for checked in ("", CHECKED)
    ),
    *((f"ours, {preset}, out=", rival) for preset in PRESETS for rival in RIVALS),
    *((f"ours, {preset}, ds[i]", f"roof, {preset}, one sample") for preset in ("raw", "fast")),
    *((f"roof, raw{checked}", "h5py, kept handles") for checked in ("", CHECKED)),
    *(
        (f"ours, {preset}, {fetcher}, cold", "h5py, kept handles, cold")
        for preset in PRESETS
        for fetcher in ("mmap", "pread")
    ),
)


def measure(
    demos: Path, work: Path, *, rounds: int, batches: int | None, slow_batches: int, with_cold: bool = True, pool: int
) -> dict[str, Any]:
    """Everything that benchmarks/results/reading.json holds."""
    blosc.use_threads = False
    neighbours = Neighbours()
    stores = make_stores(demos, work)
    from vla_store.reader.store import open_store

    store = open_store(stores["fast"])
    workload = make_workload(store, demos, batches)
    picture = tuple(store.parts[0][1].fields[CAMERAS[0]].fixed_shape)
    setting = Setting(stores, demos, workload, buffers(BATCH, picture))
    warm = measure_warm(setting, rounds, slow_batches, singles=min(8, len(workload.batches)), pool_pictures=pool)
    passes: dict[str, list[Pass]] = warm["passes"]
    result: dict[str, Any] = {}
    if with_cold and sys.platform == "linux":
        with contextlib.suppress(OSError):  # a file system that cannot drop its pages, or a system that does not count
            chilled = measure_cold(setting, max(3, rounds // 3), min(8, len(workload.batches)))
            passes |= chilled["passes"]
            result["storage_nbytes"] = {name: round(value) for name, value in chilled["storage_nbytes"].items()}
    pairs = [*RATIOS, ("ours, fast, out=", f"roof, fast, {pool:,} backgrounds")]
    result |= {
        "batches": len(workload.batches),
        "batch_size": BATCH,
        "contenders": {
            name: {
                "us_per_sample": _per_sample(each, cpu=False).to_json(),
                "cpu_us_per_sample": _per_sample(each, cpu=True).to_json(),
                "batches": each[0].units,
            }
            for name, each in passes.items()
        },
        "cpu_ratios": {
            f"{mine} / {other}": cpu_ratio(passes[mine], passes[other]).to_json()
            for mine, other in pairs
            if mine in passes and other in passes
        },
        "digest_of_batches": warm["digest"][0],
        "episodes": len(store.episodes),
        "needed_nbytes": {name: round(value) for name, value in needed_nbytes(setting).items()},
        "ratios": {
            f"{mine} / {other}": speed_ratio(passes[mine], passes[other]).to_json()
            for mine, other in pairs
            if mine in passes and other in passes
        },
        "pool": pool,
        "rounds": rounds,
        "sizes": {name: round(value, 5) for name, value in sizes(setting).items()},
        "steps": store.rows,
        "windows": {name: str(window) for name, window in WINDOWS.items()},
    }
    result["rows"] = rows_of_the_design(result)
    result["environment"] = environment() | {"busy_cores_of_others": neighbours.cores()}
    return result


def _per_sample(passes: list[Pass], *, cpu: bool) -> Spread:
    return Spread.of([(each.cpu() if cpu else each.wall()) / each.units / BATCH * 1e6 for each in passes])


def summary(result: dict[str, Any]) -> str:
    """The tables for a terminal."""
    contenders = []
    for name, each in result["contenders"].items():
        wall, cpu = each["us_per_sample"], each["cpu_us_per_sample"]
        contenders.append(
            [
                name,
                f"{1e6 / wall['median']:,.0f}",
                f"{wall['median']:.1f} ({wall['low']:.1f}-{wall['high']:.1f})",
                f"{cpu['median']:.1f}",
            ]
        )
    rows = []
    for row in result["rows"]:
        measured, met = row["measured"], {True: "met", False: "NOT MET", None: "not measured"}[row["met"]]
        shown = "-" if measured is None else f"{measured['median']:.3g}"
        if measured is not None and "low" in measured:
            shown += f" ({measured['low']:.3g}-{measured['high']:.3g})"
        by_cpu = row.get("by_cpu")
        rows.append([row["what"], row["target"], shown, f"{by_cpu['median']:.3g}" if by_cpu else "-", met])
    ratios = [
        [name, f"{each['median']:.3f} ({each['low']:.3f}-{each['high']:.3f})"]
        for name, each in result["ratios"].items()
    ]
    return "\n\n".join(
        [
            table(["contender", "samples/s", "us a sample (quartiles)", "CPU us"], contenders),
            table(["speed ratio", "median (quartiles)"], ratios),
            table(["design, section 8", "to reach", "by the clock", "by CPU time", ""], rows),
            f"all read the same bytes; others kept {result['environment']['busy_cores_of_others']} cores busy meanwhile",
        ]
    )


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], rounds=21)
    parser.add_argument("--no-cold", action="store_true", help="leave out what drops the page cache")
    run(
        "reading",
        parser,
        lambda options, demos, work: measure(
            demos,
            work,
            rounds=3 if options.quick else options.rounds,
            batches=4 if options.quick else None,
            slow_batches=1 if options.quick else 8,
            with_cold=not options.no_cold,
            pool=64 if options.quick else LIBERO_EPISODES,
        ),
        summary,
    )


if __name__ == "__main__":
    main()
