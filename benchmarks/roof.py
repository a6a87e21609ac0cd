"""The roof: what the machine gives for only the unavoidable work of a warm batch.

For each distinct frame one decode call, on a chunk that is already located, into its place in buffers that are reused and
touched; the prediction undone with that episode's background, turned where asked; a copy for a frame that comes again; one copy
of the numeric bytes. Everything that can be prepared is prepared: objects, views and scratch are made before. No crc32c: a
process has checked a chunk when it first decoded it. What reads with check="every" is compared with the roof that checks each.
It shares no code with the reader, only the format's arithmetic.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google_crc32c import value as crc32c
from numcodecs import blosc

from benchmarks.workload import CAMERAS, READ, Array, Int64, Units
from vla_store.format import layout, predictions
from vla_store.format.codecs import CRC_BYTES
from vla_store.format.schema import Field, PartDocument
from vla_store.format.shard_index import index_nbytes, parse_index
from vla_store.reader.store import Store

GROUP_FRAMES = 64


@dataclass(frozen=True)
class Camera:
    """One camera of a store of one part: every chunk located, every background a view."""

    field: Field
    chunks: tuple[Array, ...]  # (nbytes,) uint8 views of the encoded frames, without their crc32c
    checksums: tuple[int, ...]
    backgrounds: Array | None  # (episodes, H, W, C)

    @property
    def encoded_nbytes(self) -> int:
        return sum(map(len, self.chunks)) + CRC_BYTES * len(self.chunks)


def locate(store: Store) -> dict[str, Camera]:
    """The cameras of a local store of one part."""
    ((entry, document),) = store.parts
    folder = Path(store.url) / entry.path
    return {name: _camera(folder, document, name, entry.rows, entry.episodes) for name in CAMERAS}


def _camera(folder: Path, document: PartDocument, name: str, rows: int, episodes: int) -> Camera:
    field = document.fields[name]
    grid = field.grid(rows)
    chunks: list[Array] = []
    checksums: list[int] = []
    for shard in range(grid.shards):
        data = _mapped(folder / field.array / grid.key(shard))
        nbytes = index_nbytes(grid.chunks_per_shard)
        body = len(data) - nbytes
        index = parse_index(memoryview(data[body:]), grid.chunks_per_shard, grid.present(shard), body, name)
        for start, size in index[: grid.present(shard)].tolist():
            chunks.append(data[start : start + size - CRC_BYTES])
            checksums.append(int.from_bytes(data[start + size - CRC_BYTES : start + size].tobytes(), "little"))
    backgrounds = None
    if "background" in field.prediction:
        grid = layout.background_grid((episodes, *field.fixed_shape), field.dtype)
        data = _mapped(folder / "backgrounds" / name / grid.key(0))
        strides = (grid.row_nbytes + CRC_BYTES, *np.empty(field.fixed_shape, np.uint8).strides)
        backgrounds = np.ndarray((episodes, *field.fixed_shape), np.uint8, data.data, 0, strides)
    return Camera(field, tuple(chunks), tuple(checksums), backgrounds)


def _mapped(path: Path) -> Array:
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def numeric(store: Store, units: Units) -> list[tuple[str, Array]]:
    """The numeric values of a batch, already gathered."""
    robot_states = store.read("robot_states", units.frame_rows[:, 1])
    actions = store.read("actions", (units.actions + units.start[:, None]).reshape(-1))
    return [
        ("robot_states", robot_states),
        ("actions", actions.reshape(len(units), -1, actions.shape[-1])),
        *units.pads.items(),
    ]


def batch_work(
    cameras: dict[str, Camera],
    store: Store,
    units: Units,
    out: dict[str, Array],
    *,
    upright: bool = False,
    pool: Array | None = None,
    checked: bool = False,
) -> Callable[[], None]:
    """The unavoidable work of one batch into `out`.

    upright: pictures stored bottom up are turned. checked: the crc32c of each chunk is compared before it is decoded. pool: (n, H, W, C) other backgrounds, as many as all of LIBERO has, drawn at
    random instead of the store's few: the same work, but the processor does not have them at hand (and the pixels are wrong).
    """
    steps: list[Callable[[], None]] = [
        _camera_work(
            camera,
            units.frame_rows,
            units.episode,
            out[name].reshape(-1, *camera.field.fixed_shape),
            upright,
            pool,
            checked,
        )
        for name, camera in cameras.items()
    ]
    copies = [(out[name], values) for name, values in numeric(store, units)]
    assert {name for name, _ in numeric(store, units)} | set(cameras) == set(READ)

    def numbers() -> None:
        for target, values in copies:
            np.copyto(target, values)

    steps.append(numbers)

    def run() -> None:
        for step in steps:
            step()

    return run


def _camera_work(
    camera: Camera, rows: Int64, episodes: Int64, out: Array, upright: bool, pool: Array | None, checked: bool
) -> Callable[[], None]:
    repeats: list[tuple[Array, Array]] = []
    first: dict[int, int] = {}
    for at, row in enumerate(rows.reshape(-1).tolist()):
        if row in first:
            repeats.append((out[at], out[first[row]]))
        else:
            first[row] = at
    per_row = rows.shape[1]
    drawn = np.random.default_rng(int(rows[0, 0]))
    background: Callable[[int], Array | None] = lambda at: None  # noqa: E731
    if camera.backgrounds is not None:
        own = camera.backgrounds
        if pool is None:
            background = lambda at: own[episodes[at // per_row]]  # noqa: E731
        else:
            background = lambda at: pool[int(drawn.integers(len(pool)))]  # noqa: E731
    jobs = [(camera.chunks[row], camera.checksums[row], out[at], background(at)) for row, at in first.items()]
    grouped = [name for name in camera.field.prediction if name != "background"]
    if camera.field.codec.name == "none":
        return _raw(jobs, repeats, camera.field, upright, checked)
    if grouped:
        return _grouped(jobs, repeats, grouped, upright, checked)
    return _each(jobs, repeats, upright, checked)


Jobs = list[tuple[Array, int, Array, Any]]
Repeats = list[tuple[Array, Array]]


def _each(jobs: Jobs, repeats: Repeats, upright: bool, checked: bool) -> Callable[[], None]:
    decompress, add, copyto = blosc.decompress, np.add, np.copyto
    scratch = np.ones(jobs[0][2].shape, np.uint8)
    turned = scratch[::-1]
    prepared = [
        (
            chunk,
            memoryview(chunk),
            checksum,
            target,
            background[::-1] if upright and background is not None else background,
        )
        for chunk, checksum, target, background in jobs
    ]

    def as_stored() -> None:
        for chunk, body, checksum, target, background in prepared:
            if checked and crc32c(chunk) != checksum:
                raise AssertionError("crc32c")
            decompress(body, target)
            if background is not None:
                add(target, background, target)
        for target, source in repeats:
            copyto(target, source)

    def flipped() -> None:
        for chunk, body, checksum, target, background in prepared:
            if checked and crc32c(chunk) != checksum:
                raise AssertionError("crc32c")
            decompress(body, scratch)
            if background is not None:
                add(turned, background, target)
            else:
                copyto(target, turned)
        for target, source in repeats:
            copyto(target, source)

    return flipped if upright else as_stored


def _grouped(jobs: Jobs, repeats: Repeats, grouped: list[str], upright: bool, checked: bool) -> Callable[[], None]:
    decompress, add, copyto, undo = blosc.decompress, np.add, np.copyto, predictions.undo
    scratch = np.ones((GROUP_FRAMES, *jobs[0][2].shape), np.uint8)
    groups = []
    for start in range(0, len(jobs), GROUP_FRAMES):
        prepared = []
        for number, (chunk, checksum, target, background) in enumerate(jobs[start : start + GROUP_FRAMES]):
            place = scratch[number]
            if upright:
                turned = None if background is None else background[::-1]
                prepared.append((chunk, checksum, target, place, place[::-1], turned))
            else:
                prepared.append((chunk, checksum, target, place, place, background))
        groups.append((scratch[: len(prepared)], prepared))

    def run() -> None:
        for residuals, prepared in groups:
            for chunk, checksum, _, place, _, _ in prepared:
                if checked and crc32c(chunk) != checksum:
                    raise AssertionError("crc32c")
                decompress(chunk, place)
            undo(residuals, grouped)
            for _, _, target, _, turned, background in prepared:
                if background is not None:
                    add(turned, background, target)
                else:
                    copyto(target, turned)
        for target, source in repeats:
            copyto(target, source)

    return run


def _raw(jobs: Jobs, repeats: Repeats, field: Field, upright: bool, checked: bool) -> Callable[[], None]:
    copyto = np.copyto
    prepared = []
    for chunk, checksum, target, _ in jobs:
        picture = chunk.view(field.dtype).reshape(field.fixed_shape)
        prepared.append((chunk, checksum, target, picture[::-1] if upright else picture))

    def run() -> None:
        for chunk, checksum, target, picture in prepared:
            if checked and crc32c(chunk) != checksum:
                raise AssertionError("crc32c")
            copyto(target, picture)
        for target, source in repeats:
            copyto(target, source)

    return run
