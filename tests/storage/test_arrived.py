"""What storage tells of an object against the file that was sent."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest
from s3_server import BUCKET, S3Server

from vla_store.storage import arrived, open_storage
from vla_store.storage.arrived import digest_of, is_told

DATA = bytes(range(256)) * 40
MD5 = hashlib.md5(DATA).digest()


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "sent").write_bytes(DATA)
    return str(tmp_path / "sent")


@pytest.mark.parametrize(
    ("info", "told"),
    [
        ({"ETag": f'"{MD5.hex()}"'}, True),  # S3
        ({"ETag": MD5.hex().upper()}, True),
        ({"md5Hash": base64.b64encode(MD5).decode()}, True),  # Google
        ({"ETag": "0x8D", "content_settings": {"content_md5": bytearray(MD5)}}, True),  # Azure
        ({"ETag": f'"{"0" * 32}"'}, False),
        ({"md5Hash": base64.b64encode(bytes(16)).decode()}, False),
        ({"content_settings": {"content_md5": None}}, False),
        ({"ETag": None, "size": len(DATA)}, False),
        ({}, False),
    ],
)
def test_a_digest_that_storage_tells_decides(path: str, info: dict[str, Any], told: bool) -> None:
    assert is_told(info, path) is told


@pytest.mark.parametrize("nbytes", [4096, 5120, len(DATA)])
def test_the_digest_of_an_upload_in_pieces_is_that_of_the_digests_of_its_pieces(
    path: str, nbytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrived, "UPLOADED_NBYTES", nbytes)
    monkeypatch.setattr(arrived, "READ_NBYTES", 1024)
    pieces = [hashlib.md5(DATA[at : at + nbytes]).digest() for at in range(0, len(DATA), nbytes)]
    etag = f"{hashlib.md5(b''.join(pieces)).hexdigest()}-{len(pieces)}"
    assert is_told({"ETag": f'"{etag}"'}, path)
    assert not is_told({"ETag": f'"{etag}1"'}, path)


def test_a_digest_is_of_the_whole_file(path: str) -> None:
    assert digest_of(path, "sha256") == hashlib.sha256(DATA).hexdigest()
    assert digest_of(path, "md5") == MD5.hex()


@pytest.mark.campaign
def test_a_large_object_goes_to_a_bucket_in_pieces_and_is_verified_without_being_read_back(
    bucket: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(f"s3://{BUCKET}/large")
    read: list[str] = []
    monkeypatch.setattr(type(storage), "digest", lambda self, key: read.append(key))
    with storage.stream("object") as file:
        for number in range(101):
            file.write(bytes([number]) * (1 << 20))
    assert bucket.client.head_object(Bucket=BUCKET, Key="large/object")["ETag"].endswith('-3"')
    assert read == []
