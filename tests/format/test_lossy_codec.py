"""A codec that loses: digests are of the encoded bytes, because the values that were encoded are gone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vla_store
from tests.format.test_toy_codec import Gzip
from tests.own_sources import Own
from vla_store.audit.verify import verify_store
from vla_store.builder import build_store
from vla_store.format import codecs

pytest.importorskip("zarr", reason="it builds a store")


class Rough(Gzip):
    """Gzip of the upper four bits of each number."""

    name = "rough"
    is_lossy = True

    def encode(self, data: np.ndarray) -> bytes:
        return super().encode(data & 0xF0)


def test_a_store_of_a_codec_that_loses_is_verified_by_its_encoded_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(codecs._REGISTERED, "rough", Rough)
    monkeypatch.setitem(codecs.PRESETS, "rough", codecs.Preset(Rough(), ((),)))
    source, path = Own(), tmp_path / "toy.vla"
    build_store([source], path, preset="rough")
    store = vla_store.open_store(path)
    expected = np.concatenate([source.read(n, "front", 0, steps) for n, steps in source.lengths.items()])
    assert np.array_equal(store.read("front", range(store.rows)), expected & 0xF0)
    assert verify_store(path).problems == []
