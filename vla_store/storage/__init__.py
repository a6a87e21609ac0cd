"""Where bytes lie: one protocol for the storage of a store's objects, local or remote, opened by path or URL.

Everything else reads and writes stores by this folder, and by nothing else. It imports errors only.
"""

from __future__ import annotations

from vla_store.storage.base import Contents, ObjectMissing, Range, Storage, Traffic, cut, read_document, read_documents
from vla_store.storage.blocks import Blocks
from vla_store.storage.bounded import keep
from vla_store.storage.held import Held
from vla_store.storage.local import LocalStorage, holds_only, sync_folder
from vla_store.storage.locations import Location, locate, open_storage, register, transient
from vla_store.storage.locks import is_held, locked, surely_locked
from vla_store.storage.obstore import ObstoreStorage, open_remote
from vla_store.storage.paths import check_length, is_url, local_path, output_path, place_of
from vla_store.storage.remote import FsspecStorage

__all__ = [
    "Blocks",
    "Contents",
    "FsspecStorage",
    "Held",
    "LocalStorage",
    "Location",
    "ObjectMissing",
    "ObstoreStorage",
    "Range",
    "Storage",
    "Traffic",
    "check_length",
    "cut",
    "holds_only",
    "is_held",
    "is_url",
    "keep",
    "local_path",
    "locate",
    "locked",
    "open_remote",
    "open_storage",
    "output_path",
    "place_of",
    "read_document",
    "read_documents",
    "register",
    "surely_locked",
    "sync_folder",
    "transient",
]
