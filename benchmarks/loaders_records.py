"""Loaders of whole records, one a sample: MosaicML Streaming, LitData and WebDataset, each set as its own documentation asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loaders_source import BATCH, CAMERAS, PNG, SEED, Source, load
from benchmarks.loaders_torch import decoded, let_torchvision_import, torch_loader

CHUNK = "64MB"
WDS_SHARD, WDS_BUFFER = 128, 1_000


def record_of(source: Source, index: int, kind: str, pictures: str) -> dict[str, Any]:
    """A whole sample, its pictures as arrays or, each by itself, as PNG."""
    made: dict[str, Any] = source.sample(index, kind)
    for camera in CAMERAS if pictures == PNG else ():
        del made[camera]
        rows = source.frames[index] if kind == "window" else source.frames[index, 1:]
        made |= {f"{camera}_{at}": source.png(camera, row) for at, row in enumerate(rows)}
    made |= {name: made[name].view(np.uint8) for name in made if name.endswith("_is_pad")}  # MDS has no type for bool
    return {"index": index, **made}


def unpacked(record: dict[str, Any], kind: str, pictures: str) -> dict[str, Any]:
    """A record's pictures as arrays again."""
    record |= {name: record[name].view(bool) for name in record if name.endswith("_is_pad")}
    for camera in CAMERAS if pictures == PNG else ():
        parts = [decoded(record.pop(f"{camera}_{at}")) for at in range(2 if kind == "window" else 1)]
        record[camera] = np.stack(parts) if kind == "window" else parts[0]
    return record


def make_streaming(source: Source, to: Path, kind: str, pictures: str) -> None:
    """Types of fixed shape, as its documentation advises for arrays; no compression of shards, which are read from this disk."""
    let_torchvision_import()
    from streaming import MDSWriter

    def type_of(value: Any) -> str:
        if isinstance(value, (int, bytes)):
            return "int" if isinstance(value, int) else "bytes"
        return f"ndarray:{value.dtype}:{','.join(map(str, value.shape))}"

    first = record_of(source, 0, kind, pictures)
    columns = {name: type_of(value) for name, value in first.items()}
    with MDSWriter(out=str(to), columns=columns) as writer:
        for index in range(len(source)):
            writer.write(record_of(source, index, kind, pictures))


def streaming(source: Source, folder: Path, kind: str, pictures: str, workers: int) -> Iterator[Any]:
    """Shuffled in blocks of its own choice, of 262,144 samples and more, which are all here; `batch_size` as in the DataLoader, and one
    canonical node, as its documentation asks. An epoch is many times all samples, so that no turn measures the end of one."""
    let_torchvision_import()
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    class Samples(StreamingDataset):  # type: ignore[misc,unused-ignore]
        def __getitem__(self, at: int) -> dict[str, Any]:
            return unpacked(super().__getitem__(at), kind, pictures)

    clean_stale_shared_memory()
    options = {"shuffle": True, "shuffle_seed": SEED, "num_canonical_nodes": 1, "epoch_size": 50 * len(source)}
    yield from torch_loader(Samples(local=str(folder), batch_size=BATCH, **options), workers)


class LitRecord:
    """What `optimize` calls for each number."""

    def __init__(self, folder: str, kind: str, pictures: str) -> None:
        self._folder, self._kind, self._pictures = folder, kind, pictures
        self._source: Source | None = None

    def __call__(self, index: int) -> dict[str, Any]:
        self._source = self._source or load(Path(self._folder))
        return record_of(self._source, index, self._kind, self._pictures)


def make_litdata(source: Source, to: Path, kind: str, pictures: str) -> None:
    """Chunks of 64 MB, the size that its documentation names."""
    from litdata import optimize

    record = LitRecord(str(source.folder), kind, pictures)
    optimize(fn=record, inputs=list(range(len(source))), output_dir=str(to), chunk_bytes=CHUNK, num_workers=1)


def litdata(source: Source, folder: Path, kind: str, pictures: str, workers: int) -> Iterator[Any]:
    from litdata import StreamingDataLoader, StreamingDataset

    class Samples(StreamingDataset):  # type: ignore[misc,unused-ignore]
        def __getitem__(self, at: Any) -> dict[str, Any]:
            return unpacked(super().__getitem__(at), kind, pictures)

    # Of arrays "auto" decodes 256 for each that is wanted (0.2.76: 56 times the work here); one by one, its own choice for pictures, lets
    # all samples of a chunk be mixed.
    options = {"batch_decode": 0, "item_shuffle_window": 0}
    dataset = Samples(str(folder), shuffle=True, seed=SEED, **options)
    loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0)
    while True:
        yield from loader


def make_webdataset(source: Source, to: Path, kind: str, pictures: str) -> None:
    """Several shards a worker, as its documentation asks."""
    import webdataset

    with webdataset.ShardWriter(str(to / "%06d.tar"), maxcount=WDS_SHARD, verbose=0) as writer:
        for index in range(len(source)):
            record = record_of(source, index, kind, pictures)
            named = {"index.cls": record.pop("index")}
            named |= {f"{name}.{'png' if isinstance(each, bytes) else 'npy'}": each for name, each in record.items()}
            writer.write({"__key__": f"{index:06d}", **named})


def webdataset(source: Source, folder: Path, kind: str, pictures: str, workers: int) -> Iterator[Any]:
    """Shards shuffled, samples through a buffer, batches made in the workers, WebLoader without batches: as its documentation has it.
    Mixing the workers' batches once more in the consumer, which it also names, would cost besides and is left out."""
    import webdataset

    shards = sorted(map(str, folder.glob("*.tar")))

    def sample(record: dict[str, Any]) -> dict[str, Any]:
        named = {name.rpartition(".")[0]: value for name, value in record.items() if not name.startswith("__")}
        return unpacked(named, kind, pictures)

    dataset = (
        webdataset.WebDataset(shards, shardshuffle=len(shards), seed=SEED, empty_check=False)
        .repeat()
        .shuffle(
            WDS_BUFFER, initial=WDS_BUFFER
        )  # full from the start: while it fills, two are read for each that is given
        .decode(_png_stays)
        .map(sample)
        .batched(BATCH, partial=False, collation_fn=_collated)
    )
    yield from webdataset.WebLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=workers > 0)


def _png_stays(key: str, data: Any) -> Any:
    return data if key.endswith(".png") else None


def _collated(samples: Any) -> Any:
    from torch.utils.data import default_collate

    return default_collate(samples)
