"""A codec that the package does not know, added from outside: a store is built with it, read back and verified."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vla_store
from tests.own_sources import Own
from vla_store.audit.verify import verify_store
from vla_store.builder import build_store
from vla_store.errors import OptionError, StoreDamaged, UnsupportedStore
from vla_store.format import codecs
from vla_store.format.json_reader import JsonReader

pytest.importorskip("zarr", reason="it builds a store")


class Gzip(codecs.Codec):
    """Gzip of the bytes in C order, as Zarr knows it too."""

    name = "gzip"

    def zarr_codecs(self, typesize: int, chunk_nbytes: int) -> list[dict[str, Any]]:
        return [codecs.ZARR_BYTES, {"configuration": {"level": 1}, "name": "gzip"}]

    def encode(self, data: np.ndarray) -> bytes:
        return gzip.compress(data.tobytes(), 1, mtime=0)

    def decode(self, body: Any, out: np.ndarray) -> None:
        try:
            out[...] = np.frombuffer(gzip.decompress(body), out.dtype).reshape(out.shape)
        except (OSError, EOFError) as error:
            raise ValueError(str(error)) from None

    def largest(self, nbytes: int) -> int:
        return nbytes + nbytes // 1_000 + 64


WRONG: dict[str, dict[str, Any]] = {
    "a codec is not registered": {"name": "other"},
    "does not describe itself as stores do": {"name": "two words"},
    "gives another number of bytes than it says": {"largest": lambda self, nbytes: 3},
    "'gzip' gives another number of bytes": {"fixed": lambda self, nbytes: nbytes},
    "expected  1 to": {"encode": lambda self, data: b""},
}


@pytest.mark.parametrize("says", WRONG)
def test_build_when_a_codec_makes_what_nobody_could_read_then_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    wrong = type("Wrong", (Gzip,), WRONG[says])
    monkeypatch.setitem(codecs._REGISTERED, Gzip.name, wrong)
    monkeypatch.setitem(codecs.PRESETS, "gzip", codecs.Preset(wrong(), ((),)))
    with pytest.raises(OptionError, match=says):
        build_store([Own()], tmp_path / "toy.vla", preset="gzip")
    assert not (tmp_path / "toy.vla").exists()


def test_from_json_when_a_codec_of_ones_own_raises_then_the_store_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    from_json = classmethod(lambda kind, read: kind(read.value["level"]))
    monkeypatch.setitem(codecs._REGISTERED, "gzip", type("Wrong", (Gzip,), {"from_json": from_json}))
    with pytest.raises(StoreDamaged, match="KeyError: 'level'") as caught:
        codecs.from_json(JsonReader({"name": "gzip"}, "parts/0/zarr.json"))
    assert caught.value.places["object"] == "parts/0/zarr.json"


def test_a_codec_from_outside_is_built_read_and_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(codecs._REGISTERED, "gzip", Gzip)  # codecs.register(Gzip), undone after the test
    monkeypatch.setitem(codecs.PRESETS, "gzip", codecs.Preset(Gzip(), ((), ("background",))))
    source, path = Own(), tmp_path / "toy.vla"
    build_store([source], path, preset="gzip")
    store = vla_store.open_store(path)
    assert store.parts[0][1].fields["front"].codec.name == "gzip"
    expected = np.concatenate([source.read(n, "front", 0, steps) for n, steps in source.lengths.items()])
    assert np.array_equal(store.read("front", range(store.rows)), expected)
    assert verify_store(path).sound
    monkeypatch.delitem(codecs._REGISTERED, "gzip")
    unaware = vla_store.open_store(path)
    assert unaware.read("actions", [0]).shape == (1, 4)
    with pytest.raises(UnsupportedStore, match=r"'front'.*'gzip'"):
        unaware.read("front", [0])
