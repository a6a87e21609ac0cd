"""Whether an object arrived whole: what storage tells of it, against the file that was sent. Imports nothing of this package."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

UPLOADED_NBYTES = 50 << 20  # of one piece of a large object, as s3fs sends it
READ_NBYTES = 1 << 20


def is_told(info: Mapping[str, Any], path: str) -> bool:
    """Tell whether storage says of an object the digest that a file has.

    S3 tells an MD5 as ETag (but not of what it encrypts with a key of the user's), Google as md5Hash, Azure as content_md5.

    Parameters
    ----------
    info
        What fsspec says of the object.
    path
        The file that was sent.

    Returns
    -------
    bool
        False also where storage tells none.
    """
    etag = str(info.get("ETag") or "").strip('"').lower()
    if "-" in etag:  # of the digests of its pieces
        pieces = [digest.digest() for digest in _digests(path, "md5", UPLOADED_NBYTES)]
        return etag == f"{hashlib.md5(b''.join(pieces), usedforsecurity=False).hexdigest()}-{len(pieces)}"
    settings = info.get("content_settings")
    said = info.get("md5Hash") or (settings.get("content_md5") if isinstance(settings, Mapping) else None)
    if isinstance(said, str):
        said = base64.b64decode(said)
    told = {etag, bytes(said).hex() if isinstance(said, (bytes, bytearray)) else ""} - {""}
    return bool(told) and digest_of(path, "md5") in told


def digest_of(path: str, algorithm: str) -> str:
    """Return the digest of a file, in hexadecimal digits."""
    return next(_digests(path, algorithm, None)).hexdigest()  # type: ignore[no-any-return]


def _digests(path: str, algorithm: str, nbytes: int | None) -> Iterator[Any]:
    """Yield a digest for each piece of a file; of the whole file, where `nbytes` is None."""
    with open(path, "rb") as file:
        file.seek(0)
        data = file.read(READ_NBYTES)
        while True:
            digest, left = hashlib.new(algorithm, usedforsecurity=False), nbytes
            while data and left != 0:
                digest.update(data)
                left = None if left is None else left - len(data)
                data = file.read(READ_NBYTES)
            yield digest
            if not data:
                return
