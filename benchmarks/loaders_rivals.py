"""The loaders that benchmarks/loaders.py compares, each set as its own documentation asks, and each written by its own writer.

This runs in a rival's environment, which has neither vla_store nor what that needs. What a setting is for, and whose word it is, stands
beside it. Those of whole records are in loaders_records.py, RLDS in loaders_rlds.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loaders_records import (
    WDS_BUFFER,
    WDS_SHARD,
    litdata,
    make_litdata,
    make_streaming,
    make_webdataset,
    streaming,
    webdataset,
)
from benchmarks.loaders_rlds import RLDS_BUFFER, make_rlds, rlds
from benchmarks.loaders_source import BATCH, CAMERAS, PNG, RAW, SEED, SHAPE, VIDEO, Array, Source
from benchmarks.loaders_torch import decoded, let_torchvision_import, torch_loader

COLUMNS = {"agentview_rgb": "agentview", "eye_in_hand_rgb": "wrist"}


@dataclass(frozen=True)
class Rival:
    """A library, how it is installed, and who reads.

    installs: arguments of pip, one call after the other; none for what this environment has. package: whose version is told. order: in
    which the samples come. pictures: the ways in which they lie. make(source, folder, kind, pictures): writes a data set; None: the
    parent does. stream(source, folder, kind, pictures, workers): its batches for ever. plain(batch, kind): one of them as NumPy arrays,
    not timed. of_rows: one data set serves steps and windows.
    """

    title: str
    installs: Sequence[Sequence[str]]
    package: str
    order: str
    pictures: tuple[str, ...]
    stream: Callable[[Source, Path, str, str, int], Iterator[Any]]
    make: Callable[[Source, Path, str, str], None] | None = None
    plain: Callable[[Any, str], dict[str, Array]] = lambda batch, kind: _numpy(batch)
    of_rows: bool = False


def forever(count: int) -> Iterator[int]:
    """Numbers below `count` in a global random order, a new one each time."""
    rng = np.random.default_rng(SEED)
    while True:
        yield from rng.permutation(count).tolist()


def _mapped(dataset: Any, workers: int, **options: Any) -> Iterator[Any]:
    """Batches of a data set that gives any sample by its number."""
    return iter(torch_loader(dataset, workers, sampler=_Endless(len(dataset)), **options))


class _Endless:
    def __init__(self, count: int) -> None:
        self._count = count

    def __iter__(self) -> Iterator[int]:
        return forever(self._count)


def _numpy(batch: Any) -> dict[str, Array]:
    return {name: np.asarray(values) for name, values in batch.items()}


# --- vla_store ----------------------------------------------------------------------------------------------------------


def _ours(folder: Path, kind: str, rows: Any = None) -> Any:
    from vla_store.torch import StepDataset

    offsets, chunk = ([-1, 0], range(64)) if kind == "window" else (0, 0)
    windows = {**dict.fromkeys(CAMERAS, offsets), "robot_states": 0, "actions": chunk}
    return StepDataset(folder, windows=windows, alignment="causal", images="as_stored", dtype="float32", rows=rows)


def _our_loader(source: Source, folder: Path, kind: str, pictures: str, workers: int) -> Iterator[Any]:
    """The Loader in its global order; every step many times an epoch, so that no turn measures the end of one."""
    import vla_store
    from vla_store.torch import Loader

    rows = np.tile(np.arange(vla_store.open_store(folder).rows), 50)
    loader = Loader(_ours(folder, kind, rows), batch_size=BATCH, seed=SEED, workers=workers, drop_last=True)
    while True:
        yield from loader


def _our_dataset(source: Source, folder: Path, kind: str, pictures: str, workers: int) -> Iterator[Any]:
    """StepDataset in torch's DataLoader, whole batches decoded at once."""
    from vla_store.torch import collate

    return _mapped(_ours(folder, kind), workers, collate_fn=collate)


def _our_plain(batch: Any, kind: str) -> dict[str, Array]:
    made = {"state": batch["robot_states"], "actions": batch["actions"], **{name: batch[name] for name in CAMERAS}}
    if kind == "window":
        made |= {"pictures_is_pad": batch[f"{CAMERAS[0]}_is_pad"], "actions_is_pad": batch["actions_is_pad"]}
    return _numpy(made) | {"episode": np.asarray(batch["episode"]), "step": np.asarray(batch["step"])}


# --- LeRobot ------------------------------------------------------------------------------------------------------------

LEROBOT_FPS = 20


def _lerobot(source: Source, folder: Path, kind: str, pictures: str, workers: int) -> Iterator[Any]:
    """LeRobotDataset in torch's DataLoader with a random sampler, as `lerobot-train` of 0.4.4 makes them; `video_backend` is left to
    LeRobot, which takes torchcodec where that is installed (its docstring)."""
    let_torchvision_import()
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    offsets = {}
    if kind == "window":
        offsets = {f"observation.images.{COLUMNS[camera]}": [-1 / LEROBOT_FPS, 0.0] for camera in CAMERAS}
        offsets["action"] = [step / LEROBOT_FPS for step in range(64)]
    dataset = LeRobotDataset("local/demonstrations", root=folder, delta_timestamps=offsets or None)
    return _mapped(dataset, workers)


def _lerobot_plain(batch: Any, kind: str) -> dict[str, Array]:
    """Its pictures are float32 from 0 to 1, channels first."""
    made = {"index": batch["index"], "state": batch["observation.state"], "actions": batch["action"]}
    for camera in CAMERAS:
        pixels = np.rint(np.asarray(batch[f"observation.images.{COLUMNS[camera]}"]) * 255).astype(np.uint8)
        made[camera] = np.moveaxis(pixels, -3, -1)
    if kind == "window":
        made["pictures_is_pad"] = batch[f"observation.images.{COLUMNS[CAMERAS[0]]}_is_pad"]
        made["actions_is_pad"] = batch["action_is_pad"]
    return _numpy(made)


def link_ffmpeg(packages: Path) -> Path:
    """Let torchcodec find an FFmpeg where the system has none: PyAV's wheel brings one, under names of its own.

    Returns the folder that LD_LIBRARY_PATH has to name.
    """
    folder = packages / "ffmpeg"
    if not folder.exists():
        folder.mkdir()
        for library in (packages / "av.libs").glob("*.so*"):
            stem, _, version = library.name.partition(".so")
            (folder / library.name).symlink_to(library)
            public = folder / f"{stem.rpartition('-')[0]}.so.{version.split('.')[1] if version else ''}"
            if public.name.startswith(("libav", "libsw")) and not public.exists():
                public.symlink_to(library)
    return folder


# --- Lance --------------------------------------------------------------------------------------------------------------


def _make_lance(source: Source, to: Path, kind: str, pictures: str) -> None:
    """A row a recorded step."""
    import lance
    import pyarrow as pa

    def fixed(values: Array) -> Any:
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))

    def batches() -> Iterator[Any]:
        for start in range(0, len(source.state), 256):
            rows = slice(start, start + 256)
            columns = {"state": fixed(source.state[rows]), "actions": fixed(source.actions[rows])}
            for camera, values in source.pictures.items():
                numbers = range(*rows.indices(len(values)))
                encoded = pa.array([source.png(camera, each) for each in numbers], pa.binary())
                columns[camera] = fixed(values[rows]) if pictures == RAW else encoded
            yield pa.record_batch(columns)

    first = next(batches())
    lance.write_dataset(pa.RecordBatchReader.from_batches(first.schema, batches()), str(to))


class LanceSamples:
    """Samples from a data set of rows: the pictures of a batch by one `take` of distinct rows, numbers held in memory, the rows of each
    window worked out beforehand. Opened in the process that reads, as lance's own SafeLanceDataset does."""

    def __init__(self, source: Source, folder: Path, kind: str, pictures: str) -> None:
        self._frames = source.frames if kind == "window" else source.frames[:, 1:]
        self._chunks = source.chunks if kind == "window" else source.chunks[:, 0]
        self._pads = {"pictures_is_pad": source.pictures_is_pad, "actions_is_pad": source.actions_is_pad}
        self._folder, self._kind, self._are_raw = str(folder), kind, pictures == RAW
        self._opened: Any = None

    def __len__(self) -> int:
        return len(self._frames)

    def _open(self) -> Any:
        import lance

        if self._opened is None:
            self._opened = lance.dataset(self._folder)
            numbers = self._opened.to_table(columns=["state", "actions"])
            flat = {name: numbers[name].combine_chunks().flatten().to_numpy() for name in ("state", "actions")}
            self._numbers = {name: each.reshape(len(numbers), -1) for name, each in flat.items()}
        return self._opened

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        import torch

        opened, chosen = self._open(), np.asarray(indices)
        rows = self._frames[chosen]
        wanted, places = np.unique(rows, return_inverse=True)
        table = opened.take(wanted.tolist(), columns=list(CAMERAS))
        made: dict[str, Any] = {}
        for camera in CAMERAS:
            column = table[camera].combine_chunks()
            if self._are_raw:
                pixels = column.flatten().to_numpy().reshape(-1, *SHAPE)
            else:
                pixels = np.stack([decoded(each.as_buffer()) for each in column])
            shape = (len(chosen), *((2,) if self._kind == "window" else ()), *SHAPE)
            made[camera] = pixels[places.reshape(-1)].reshape(shape)
        made["state"] = self._numbers["state"][rows[:, -1]]
        made["actions"] = self._numbers["actions"][self._chunks[chosen]]
        if self._kind == "window":
            made |= {name: values[chosen] for name, values in self._pads.items()}
        return {name: torch.from_numpy(values) for name, values in made.items()} | {"index": torch.from_numpy(chosen)}


def _itself(batch: Any) -> Any:
    return batch


def _lance(source: Source, folder: Path, kind: str, pictures: str, workers: int) -> Iterator[Any]:
    """Lance is not safe with fork: its documentation, and `get_safe_loader`, ask for spawn."""
    options = {"multiprocessing_context": "spawn"} if workers else {}
    return _mapped(LanceSamples(source, folder, kind, pictures), workers, collate_fn=_itself, **options)


# The last LeRobot for Python 3.11, without its ceiling on torch; the last torchcodec that needs no CUDA; what reading imports of the rest.
LEROBOT = (
    ("--no-deps", "lerobot==0.4.4", "torchcodec==0.13.0"),
    ("torch", "torchvision", "datasets>=4,<5", "huggingface-hub<0.36", "av>=15,<16"),
    ("accelerate", "packaging", "pandas"),
)
GLOBAL = "global"

RIVALS = {
    "fast": Rival("vla_store `fast`, Loader", (), "torch", GLOBAL, ("fast",), _our_loader, None, _our_plain, True),
    "fast_dataset": Rival(
        "vla_store `fast`, DataLoader", (), "torch", GLOBAL, ("fast",), _our_dataset, None, _our_plain, True
    ),
    "small": Rival("vla_store `small`, Loader", (), "torch", GLOBAL, ("small",), _our_loader, None, _our_plain, True),
    "lerobot": Rival(
        "LeRobotDataset v3", LEROBOT, "lerobot", GLOBAL, (PNG, VIDEO), _lerobot, None, _lerobot_plain, True
    ),
    "lance": Rival(
        "Lance", (("pylance", "pillow", "torch"),), "pylance", GLOBAL, (RAW, PNG), _lance, _make_lance, of_rows=True
    ),
    "streaming": Rival(
        "MosaicML Streaming",
        (("mosaicml-streaming", "torch"),),
        "mosaicml-streaming",
        "global (blocks of 262,144)",
        (RAW, PNG),
        streaming,
        make_streaming,
    ),
    "litdata": Rival(
        "LitData",
        (("litdata", "pillow", "torch"),),
        "litdata",
        "chunks of 64 MB at random, all samples of a chunk mixed",
        (RAW, PNG),
        litdata,
        make_litdata,
    ),
    "webdataset": Rival(
        "WebDataset",
        (("webdataset", "pillow", "torch"),),
        "webdataset",
        f"buffer of {WDS_BUFFER:,} a worker, shards of {WDS_SHARD}",
        (RAW, PNG),
        webdataset,
        make_webdataset,
    ),
    "rlds": Rival(
        "RLDS",
        (("tensorflow-cpu", "tensorflow-datasets", "importlib_resources", "torch"),),
        "tensorflow-datasets",
        f"episodes through a buffer of {RLDS_BUFFER:,} samples",
        (RAW, PNG),
        rlds,
        make_rlds,
        of_rows=True,
    ),
}
