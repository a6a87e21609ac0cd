"""The tasks of a build: together they write everything but the metadata, and each gives a receipt that a journal can keep."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import tiny_libero
from google_crc32c import value as crc32c
from own_sources import WRONG, Own, Wrong, plan_of

from vla_store.builder.plan import Plan
from vla_store.builder.units import AttributesArray, Backgrounds, FieldArray, FrameShard, Receipt, work_units
from vla_store.errors import SourceError
from vla_store.format import canonical, codecs, predictions
from vla_store.format.digests import field_digest
from vla_store.format.shard_index import parse_index
from vla_store.sources.protocol import close_files


@pytest.fixture(scope="module")
def plan(tiny_source: Path) -> Plan:
    return plan_of([tiny_source])


def shard(folder: Path, key: str, chunks: int, present: int) -> list[bytes]:
    """The inner chunks of a shard."""
    data = (folder / key).read_bytes()
    tail = 16 * chunks + 4
    entries = parse_index(memoryview(data[-tail:]), chunks, present, len(data) - tail, key)
    return [data[int(start) : int(start + nbytes)] for start, nbytes in entries[:present]]


def test_the_tasks_name_every_array_once(plan: Plan, tmp_path: Path) -> None:
    names = [task.name for task in work_units(plan, tmp_path)]
    cameras = ["agentview_rgb.0", "eye_in_hand_rgb.0", "agentview_rgb.backgrounds"]
    numeric = [name for name in plan.document.fields if not name.endswith("_rgb")]
    assert sorted(names) == sorted([*cameras, *numeric, "attributes"])
    assert len(set(names)) == len(names)


def test_frames_are_the_sources_pictures_less_their_prediction(plan: Plan, tmp_path: Path) -> None:
    rows = [arrays for _, arrays in tiny_libero.store_rows()]
    for task in work_units(plan, tmp_path):
        if not isinstance(task, FrameShard):
            continue
        receipt = task.run()
        field = task.field
        frames = np.concatenate([arrays[field.name] for arrays in rows])
        backgrounds = np.concatenate(
            [
                np.repeat(
                    predictions.background_of(a[field.name][predictions.background_rows(len(a[field.name]))])[None],
                    len(a[field.name]),
                    axis=0,
                )
                for a in rows
            ]
        )
        key = f"{field.array}/{task.grid.key(0)}"
        for row, chunk in enumerate(shard(tmp_path, key, task.grid.chunks_per_shard, task.grid.present(0))):
            out = np.empty((1, *field.fixed_shape), np.uint8)
            field.codec.decode(codecs.checked_body(memoryview(chunk)), out)
            predictions.undo(out, field.prediction)
            picture = out[0] + backgrounds[row] if "background" in field.prediction else out[0]
            assert np.array_equal(picture, frames[row])
            assert receipt.digests[row * 32 : row * 32 + 32] == hashlib.sha256(frames[row].tobytes()).digest()
        assert len(receipt.digests) == 32 * 137


def test_backgrounds_are_the_modes_of_their_episodes(plan: Plan, tmp_path: Path) -> None:
    (task,) = [task for task in work_units(plan, tmp_path) if isinstance(task, Backgrounds)]
    task.run()
    chunks = shard(tmp_path, f"backgrounds/{task.field.name}/{task.grid.key(0)}", task.grid.chunks_per_shard, 10)
    for (_, arrays), chunk in zip(tiny_libero.store_rows(), chunks):
        frames = arrays[task.field.name]
        expected = predictions.background_of(frames[predictions.background_rows(len(frames))]).tobytes()
        assert chunk == expected + int(crc32c(expected)).to_bytes(4, "little")


def test_numeric_fields_are_their_rows_with_a_digest_an_episode(plan: Plan, tmp_path: Path) -> None:
    episodes = list(tiny_libero.store_rows())
    for task in work_units(plan, tmp_path):
        if not isinstance(task, FieldArray):
            continue
        receipt = task.run()
        name = task.field.name
        data = (tmp_path / f"steps/{name}" / task.grid.key(0)).read_bytes()
        rows = b"".join(arrays[name].tobytes() for _, arrays in episodes)
        assert data.startswith(rows)
        for number, (_, arrays) in enumerate(episodes):
            digest = field_digest(name, arrays[name].dtype.name, arrays[name].shape)
            digest.update(arrays[name].tobytes())
            assert receipt.digests[32 * number : 32 * number + 32].hex() == digest.hexdigest()


def test_attributes_are_the_documents_end_to_end(plan: Plan, tmp_path: Path) -> None:
    (task,) = [task for task in work_units(plan, tmp_path) if isinstance(task, AttributesArray)]
    receipt = task.run()
    assert receipt.digests == b""
    (chunk,) = shard(tmp_path, "episodes/attributes/c/0", 1, 1)
    out = np.empty(task.grid.chunk, np.uint8)
    codecs.ATTRIBUTES.decode(codecs.checked_body(memoryview(chunk)), out)
    data = out[: plan.attributes_nbytes].tobytes()
    assert not out[plan.attributes_nbytes :].any()
    for each in plan.episodes:
        start, nbytes, sha256 = each.attributes
        assert canonical.sha256_hex(data[start : start + nbytes]) == sha256
        assert f"/data/demo_{each.number}/actions" in json.loads(data[start : start + nbytes])
    for source in plan.document.sources:
        start, nbytes = source.attributes
        assert json.loads(data[start : start + nbytes]).keys() == {"/", "/data"}


def test_receipts_and_tasks_survive_their_journeys(plan: Plan, tmp_path: Path) -> None:
    for task in work_units(plan, tmp_path):
        receipt = pickle.loads(pickle.dumps(task)).run()
        assert Receipt.from_json(json.loads(canonical.dumps(receipt.to_json()))) == receipt
        for each in receipt.objects:
            data = (tmp_path / each.key).read_bytes()
            assert (each.size, each.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_the_raw_bytes_of_all_tasks_are_those_of_the_data(plan: Plan, tmp_path: Path) -> None:
    data = sum(array.nbytes for _, arrays in tiny_libero.store_rows() for array in arrays.values())
    assert sum(task.raw_nbytes for task in work_units(plan, tmp_path)) == data + plan.attributes_nbytes


@pytest.mark.parametrize("how", ["another dtype", "another shape", "too few steps"])
@pytest.mark.parametrize("field", ["joints", "front"])
def test_a_source_that_breaks_its_promise_is_refused_and_leaves_no_file(tmp_path: Path, how: str, field: str) -> None:
    assert how in WRONG
    wrong = Wrong(faulty=field, how=how)
    sound = plan_of([Own()])
    tasks = [task for task in work_units(sound, tmp_path) if task.name.partition(".")[0] == field]
    for task in tasks:
        pieces = tuple(type(piece)(wrong, piece.episode, piece.start, piece.stop) for piece in task.pieces)
        object.__setattr__(task, "pieces", pieces)
        with pytest.raises(SourceError, match="does not give what its scan promised"):
            task.run()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_attributes_that_change_during_a_build_are_refused(tiny_source: Path, tmp_path: Path) -> None:
    import shutil

    source = Path(shutil.copytree(tiny_source, tmp_path / "source"))
    plan = plan_of([source])
    close_files()
    tiny_libero.set_attribute(tiny_libero.victim(source), "data/demo_0", "tag", "new")
    (task,) = [task for task in work_units(plan, tmp_path / "part") if isinstance(task, AttributesArray)]
    with pytest.raises(SourceError, match="a source changed while it was being read") as caught:
        task.run()
    assert caught.value.places["file"] == str(tiny_libero.victim(source))
