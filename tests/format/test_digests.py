"""Digests, computed once more from the specification's words with hashlib and json alone."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_store.format import digests
from vla_store.format.digests import field_digest


def test_a_field_s_digest_is_over_its_head_a_newline_and_its_data() -> None:
    actions = np.arange(6, dtype="<f8").reshape(3, 2)
    made = field_digest("actions", "float64", (3, 2))
    made.update(actions[:1].tobytes())
    made.update(memoryview(actions[1:].tobytes()))
    expected = hashlib.sha256(b'{"dtype":"float64","name":"actions","shape":[3,2]}\n' + actions.tobytes())
    assert made.hexdigest() == expected.hexdigest()
    assert made.hexdigest() == "fff62aedc859d8e4f86a30b3239f5e8150a04d98330d0c4a1e772beff5ff2124"


def test_a_camera_s_digest_is_over_the_digests_of_its_frames() -> None:
    frames = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    made = field_digest("agentview_rgb", "uint8", frames.shape)
    for frame in frames:
        made.update(hashlib.sha256(frame.tobytes()).digest())
    total = hashlib.sha256(b'{"dtype":"uint8","name":"agentview_rgb","shape":[2,2,2,3]}\n')
    total.update(hashlib.sha256(bytes(range(12))).digest() + hashlib.sha256(bytes(range(12, 24))).digest())
    assert made.hexdigest() == total.hexdigest()


@pytest.mark.parametrize(
    "other", [("b", "uint8", (3,)), ("a", "int8", (3,)), ("a", "uint8", (3, 1)), ("a", "uint8", (1, 3))]
)
def test_name_dtype_and_shape_enter_a_field_s_digest(other: tuple[str, str, tuple[int, ...]]) -> None:
    one, two = field_digest("a", "uint8", (3,)), field_digest(*other)
    one.update(b"abc")
    two.update(b"abc")
    assert one.hexdigest() != two.hexdigest()


EPISODE = {
    "suite": "libero_goal",
    "file": "open_the_drawer_demo.hdf5",
    "task": "open_the_drawer",
    "number": 10,
    "steps": 3,
    "attributes": "aa" * 32,
    "file_attributes": "bb" * 32,
    "fields": {"states": "cc" * 32, "actions": "dd" * 32},
}


def test_an_episode_s_digest_is_over_this_line() -> None:
    line = (
        '{"attributes":"' + "aa" * 32 + '","demo":"demo_10","fields":{"actions":"' + "dd" * 32 + '","states":"'
        + "cc" * 32 + '"},"file":"open_the_drawer_demo.hdf5","file_attributes":"' + "bb" * 32
        + '","steps":3,"suite":"libero_goal","task":"open_the_drawer"}'
    )  # fmt: skip
    assert digests.episode_digest(**EPISODE) == hashlib.sha256(line.encode()).digest()


@pytest.mark.parametrize("key", EPISODE)
def test_everything_said_of_an_episode_enters_its_digest(key: str) -> None:
    value = EPISODE[key]
    changed = {"states": "cc" * 32} if key == "fields" else value + 1 if isinstance(value, int) else value[:-1] + "0"
    assert digests.episode_digest(**(EPISODE | {key: changed})) != digests.episode_digest(**EPISODE)


def test_the_fingerprint_is_over_the_episodes_digests_in_order() -> None:
    a, b = hashlib.sha256(b"a").digest(), hashlib.sha256(b"b").digest()
    assert digests.fingerprint([a, b]) == hashlib.sha256(b"vla_store content 1\n" + a + b).hexdigest()
    assert digests.fingerprint(iter([b, a])) != digests.fingerprint([a, b])


def naive_in_train(digest: bytes, fraction: float, seed: int) -> bool:
    text = b"split 1\n" + str(seed).encode() + b"\n" + digest.hex().encode()
    drawn = int(hashlib.sha256(text).hexdigest()[:16], 16)
    numerator, denominator = fraction.as_integer_ratio()
    return drawn * denominator < numerator * 2**64


@given(st.binary(min_size=32, max_size=32), st.floats(0, 1), st.integers(-(2**40), 2**40))
def test_a_split_is_what_the_specification_says_exactly(digest: bytes, fraction: float, seed: int) -> None:
    assert digests.in_train(digest, fraction, seed) is naive_in_train(digest, fraction, seed)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 9))
def test_all_are_in_train_at_one_and_none_at_zero(digest: bytes, seed: int) -> None:
    assert digests.in_train(digest, 1.0, seed)
    assert not digests.in_train(digest, 0.0, seed)


def test_the_largest_draw_is_in_train_at_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Largest:
        def digest(self) -> bytes:
            return b"\xff" * 32

    monkeypatch.setattr(digests.hashlib, "sha256", lambda _: Largest())
    assert digests.in_train(b"", 1.0, 0)
    assert not digests.in_train(b"", math.nextafter(1.0, 0.0), 0)


def test_a_split_gives_about_the_fraction_and_another_seed_another_split() -> None:
    drawn = [hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(2000)]
    train = [digests.in_train(each, 0.9, 0) for each in drawn]
    assert 1740 < sum(train) < 1860  # five standard deviations
    assert [digests.in_train(each, 0.9, 1) for each in drawn] != train
