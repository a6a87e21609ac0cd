"""A storage scheme of one's own, in one file: a store in a database."""

from __future__ import annotations

import contextlib
import pickle
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import vla_store
from vla_store.audit import verify_store
from vla_store.manage.copy import copy_store
from vla_store.manage.views import add_views
from vla_store.storage import ObjectMissing, Range, Storage, cut, register
from vla_store.view_rules import parse_view


class Database(Storage):
    def __init__(self, url: str) -> None:
        self.url = url
        self._do("CREATE TABLE IF NOT EXISTS objects (key PRIMARY KEY, bytes)")

    def size(self, key: str) -> int:
        return len(self._bytes(key))

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        return [cut(memoryview(self._bytes(key)), key, start, stop) for key, start, stop in ranges]

    def keys(self, prefix: str = "") -> list[str]:
        return [key for (key,) in self._do("SELECT key FROM objects WHERE key GLOB ? ORDER BY key", f"{prefix}*")]

    def write(self, key: str, data: bytes) -> None:
        self._do("REPLACE INTO objects VALUES (?, ?)", key, data)

    def create(self, key: str, data: bytes) -> bool:
        return bool(self._do("INSERT OR IGNORE INTO objects VALUES (?, ?) RETURNING key", key, data))

    def _bytes(self, key: str) -> bytes:
        if rows := self._do("SELECT bytes FROM objects WHERE key = ?", key):
            return bytes(rows[0][0])
        raise ObjectMissing("an object of the store is missing", object=key, store=self.url)

    def _do(self, statement: str, *values: object) -> list[Any]:
        with contextlib.closing(sqlite3.connect(self.url.partition("://")[2], isolation_level=None)) as database:
            return database.execute(statement, values).fetchall()


def test_a_store_in_a_database_is_copied_read_and_changed(tiny_store: Path, tmp_path: Path) -> None:
    register("sqlite", Database)
    copy_store(tiny_store, url := f"sqlite://{tmp_path}/stores.db")
    there, here = pickle.loads(pickle.dumps(vla_store.open_store(url))), vla_store.open_store(tiny_store)
    assert np.array_equal(there.read("agentview_rgb", range(20)), here.read("agentview_rgb", range(20)))
    add_views(url, [parse_view("drop_tail:steps=1")])
    assert (verify_store(url).sound, vla_store.open_store(url).generation) == (True, 2)
