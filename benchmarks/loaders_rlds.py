"""RLDS, as tensorflow_datasets writes it and tf.data reads it, set as OpenVLA's and Octo's loaders set it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loaders_source import BATCH, CAMERAS, PNG, SEED, SHAPE, Source

RLDS_BUFFER, MOST_STEPS = 1_000, 100_000


def make_rlds(source: Source, to: Path, kind: str, pictures: str) -> None:
    """An episode a record, whose steps are the samples; by tensorflow_datasets' own writer."""
    import tensorflow_datasets as tfds

    def picture(camera: str, row: int) -> Any:
        return io.BytesIO(source.png(camera, row)) if pictures == PNG else source.pictures[camera][row]  # PNG as it is

    if pictures == PNG:
        camera = tfds.features.Image(shape=SHAPE, encoding_format="png")
    else:
        camera = tfds.features.Tensor(shape=SHAPE, dtype=np.uint8, encoding="bytes")  # else a number takes eight
    numbers = {
        name: tfds.features.Tensor(shape=each.shape[1:], dtype=np.float32)
        for name, each in {"state": source.state, "actions": source.actions}.items()
    }
    step = {"index": tfds.features.Scalar(dtype=np.int64), **dict.fromkeys(CAMERAS, camera), **numbers}

    class Demonstrations(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc,unused-ignore]
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict({"steps": tfds.features.Dataset(step)})
            )

        def _split_generators(self, manager: Any) -> Any:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[Any]:
            ends = [*source.first[1:], len(source)]
            for number, (start, stop) in enumerate(zip(source.first.tolist(), ends)):
                yield number, {"steps": [one(each) for each in range(start, int(stop))]}

    def one(index: int) -> dict[str, Any]:
        row = int(source.frames[index, 1])
        numbers = {"state": source.state[row], "actions": source.actions[source.chunks[index, 0]]}
        return {"index": index, **{camera: picture(camera, row) for camera in CAMERAS}, **numbers}

    Demonstrations(data_dir=str(to)).download_and_prepare()


def rlds(source: Source, folder: Path, kind: str, pictures: str, workers: int) -> Iterator[Any]:
    """tf.data as OpenVLA's and Octo's loaders set it: windows are made of whole episodes while pictures are still encoded, then single
    samples through a shuffle buffer, then decoded, in parallel, and batched. Its threads are what DataLoader's workers are to others."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    tf.config.set_visible_devices([], "GPU")
    (place,) = folder.glob("*/1.0.0")
    parallel = workers or None
    decoders = {"steps": dict.fromkeys(CAMERAS, tfds.decode.SkipDecoding())} if pictures == PNG else None
    builder = tfds.builder_from_directory(str(place))
    options = tfds.ReadConfig(shuffle_seed=SEED, skip_prefetch=True, num_parallel_calls_for_decode=parallel or 1)
    episodes = builder.as_dataset("train", shuffle_files=True, decoders=decoders, read_config=options)

    def whole(episode: Any) -> Any:
        return episode["steps"].batch(MOST_STEPS).get_single_element()

    def windows(steps: Any) -> Any:
        count = tf.shape(steps["index"])[0]
        made = dict(steps)
        if kind == "window":
            here = tf.range(count)[:, None]
            frames, chunks = here + tf.range(-1, 1)[None], here + tf.range(64)[None]
            for camera in CAMERAS:
                made[camera] = tf.gather(steps[camera], tf.maximum(frames, 0))
            made["actions"] = tf.gather(steps["actions"], tf.minimum(chunks, count - 1))
            made |= {"pictures_is_pad": frames < 0, "actions_is_pad": chunks >= count}
        return made

    def decoded(sample: Any) -> Any:
        for camera in CAMERAS if pictures == PNG else ():
            if kind == "window":
                pixels = tf.stack([tf.io.decode_png(sample[camera][at], channels=3) for at in range(2)])
            else:
                pixels = tf.io.decode_png(sample[camera], channels=3)
            sample = {**sample, camera: tf.ensure_shape(pixels, (*((2,) if kind == "window" else ()), *SHAPE))}
        return sample

    samples = (
        episodes.repeat()
        .map(whole, num_parallel_calls=parallel)
        .map(windows, num_parallel_calls=parallel)
        .flat_map(tf.data.Dataset.from_tensor_slices)
        .shuffle(RLDS_BUFFER, seed=SEED)
        .map(decoded, num_parallel_calls=parallel)
        .batch(BATCH, drop_remainder=True)
    )
    threads = tf.data.Options()
    threads.threading.private_threadpool_size = workers or 1
    samples = samples.with_options(threads)
    yield from (samples.prefetch(workers) if workers else samples).as_numpy_iterator()
