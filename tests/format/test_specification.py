"""The examples and tables of docs/reference/format.md are true, and say what the code says."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from vla_store.format import canonical, codecs, digests, predictions, schema

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "format.md"
if not PAGE.exists():
    pytest.skip("the documentation is not beside the tests", allow_module_level=True)
TEXT = PAGE.read_text(encoding="utf-8")


def block(after: str) -> str:
    """The first code block after these words."""
    return TEXT.split(after, 1)[1].split("```text\n", 1)[1].split("```", 1)[0]


def hex_of(line: str) -> bytes:
    return bytes.fromhex("".join(re.match(r"(?:[0-9a-f]{2} ?)+", line.replace("  ", " "))[0].split()))


def crc(data: bytes) -> bytes:
    return struct.pack("<I", google_crc32c.value(data))


def test_the_crc_is_the_one_that_is_meant() -> None:
    assert google_crc32c.value(b"123456789") == 0xE3069283
    assert "0xE3069283" in TEXT


def test_the_example_of_a_numeric_shard_is_true() -> None:
    rows, entry, checksum = block("### Example: three rows").splitlines()
    assert rows.startswith("00 00 01 and 61 times 00")
    assert hex_of(entry) == struct.pack("<QQ", 0, 64)
    assert hex_of(checksum) == crc(hex_of(entry))


def test_the_example_of_a_camera_shard_is_true() -> None:
    lines = [hex_of(line) for line in block("### Example: two pictures").splitlines()]
    pictures = [bytes([10, 20, 30, 40, 50, 60]), bytes([11, 20, 30, 40, 50, 61])]
    assert lines[:2] == [picture + crc(picture) for picture in pictures]
    assert lines[2:4] == [struct.pack("<QQ", 0, 10), struct.pack("<QQ", 10, 10)]
    assert lines[4] == crc(lines[2] + lines[3])
    assert sum(map(len, lines)) == 56
    for picture, line in zip(pictures, lines):
        assert codecs.encode(np.frombuffer(picture, np.uint8), codecs.NONE) == line


def test_the_example_of_predictions_is_true() -> None:
    frames = np.array([[[[10, 20, 30], [40, 50, 60]]], [[[11, 20, 30], [40, 50, 61]]]], np.uint8)
    assert "turns picture 0 into (246,20,10) (246,50,10)" in TEXT
    assert predictions.apply(frames, ["green"])[0].tolist() == [[[246, 20, 10], [246, 50, 10]]]
    assert "turns picture 1 into (1,0,0) (0,0,1)" in TEXT
    assert predictions.apply(frames, ["background"], frames[0])[1].tolist() == [[[1, 0, 0], [0, 0, 1]]]


def test_the_worked_example_is_true() -> None:
    said = re.findall(r"\b[0-9a-f]{64}\b", block("## 16. Worked example"))
    attributes = b'{"/data/demo_0":{"num_samples":{"base64":"AwAAAAAAAAA=","dtype":"int64","shape":[]}}}'
    assert attributes.decode() in TEXT
    own, files = hashlib.sha256(attributes).hexdigest(), hashlib.sha256(b"{}").hexdigest()
    field = hashlib.sha256(b'{"dtype":"uint8","name":"dones","shape":[3]}\n\x00\x00\x01').hexdigest()
    line = (
        f'{{"attributes":"{own}","demo":"demo_0","fields":{{"dones":"{field}"}},"file":"f_demo.hdf5",'
        f'"file_attributes":"{files}","steps":3,"suite":"s","task":"f"}}'
    )
    episode = hashlib.sha256(line.encode())
    fingerprint = hashlib.sha256(b"vla_store content 1\n" + episode.digest()).hexdigest()
    assert said == [own, files, field, episode.hexdigest(), fingerprint]
    assert digests.fingerprint([episode.digest()]) == fingerprint


def test_the_constant_group_and_its_listing_line_are_true() -> None:
    line, group = block("A line of a listing, and a group").splitlines()
    assert canonical.dumps(json.loads(group)).decode() == group
    entry = json.loads(line)
    assert (entry["sha256"], entry["size"]) == (hashlib.sha256(group.encode()).hexdigest(), len(group))


@pytest.mark.parametrize("preset", codecs.PRESETS)
def test_the_table_of_presets_is_the_code_s(preset: str) -> None:
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{preset}` |"))
    _, _, codec, lists, _ = (cell.strip() for cell in row.split("|"))
    found = codecs.PRESETS[preset]
    assert codec == (str(found.codec) if found.codec == codecs.NONE else f"blosc {found.codec}")
    assert [tuple(json.loads(each)) for each in re.findall(r"`(\[.*?\])`", lists)] == list(found.predictions)


def test_names_dtypes_columns_and_maxima_are_the_code_s() -> None:
    assert " ".join(schema.NUMERIC_DTYPES) in TEXT
    assert " ".join(codecs.BLOSC_CNAMES) in TEXT
    columns = TEXT.split("| column | content |", 1)[1].split("| `<f>_start`", 1)[0]
    assert tuple(re.findall(r"`([a-z_]+)`(?=[^|]*\|[^|]*\|\n)", columns)) == schema.TABLE_COLUMNS
    assert "root 16 MiB, any other document 64 MiB" in TEXT
    assert (schema.MAX_ROOT_BYTES, schema.MAX_DOCUMENT_BYTES) == (16 << 20, 64 << 20)
    assert "2^40 rows, 2^31 - 1 rows and episodes a part, 2^20 parts, 256 fields, 256 MiB a step" in TEXT
    found = (schema.MAX_ROWS, schema.MAX_PART_ROWS, schema.MAX_PARTS, schema.MAX_FIELDS, schema.MAX_FRAME_BYTES)
    assert found == (2**40, 2**31 - 1, 2**20, 256, 256 << 20)
    assert f"{canonical.MAX_DEPTH} levels" in TEXT


def test_every_link_within_the_page_leads_somewhere() -> None:
    anchors = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", TEXT, re.M)
    }
    links = re.findall(r"\]\(#(.*?)\)", TEXT)
    assert len(links) == 16
    assert set(links) <= anchors
