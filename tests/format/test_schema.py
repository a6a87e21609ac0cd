"""Documents of parts and roots: there and back, hostile, newer."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_store.errors import SourceError, StoreDamaged, UnsupportedStore
from vla_store.format import arrays, canonical, schema
from vla_store.format.codecs import NONE, Blosc
from vla_store.format.digests import NO_DIGEST
from vla_store.format.json_reader import check_key
from vla_store.format.part_arrays import part_arrays
from vla_store.format.schema import Field, Meta, PartDocument, PartEntry, Root, RootField, Source, Task

LZ4HC = Blosc("lz4hc", 5)
PART = PartDocument(
    plan={"format_version": 1, "sources": []},
    tasks=(Task("libero_goal", "open_the_drawer", "open the drawer", "open it"), Task("s", "t", "t", None)),
    sources=(
        Source("libero_goal", "a_demo.hdf5", "bottom_up", "after", (100, 20)),
        Source("s", "a_demo.hdf5", "rot180", "before", (120, 2)),
    ),
    fields={
        "actions": Field("actions", "fixed", "float64", (7,), "step", NONE, (), "steps/actions"),
        "depth": Field("depth", "fixed", "float32", (8, 9, 1), "observation", LZ4HC, (), "frames/depth"),
        "dones": Field("dones", "fixed", "bool", (), "step", NONE, (), "steps/dones"),
        "front": Field(
            "front", "fixed", "uint8", (8, 9, 3), "observation", LZ4HC, ("background", "green"), "residuals/front"
        ),
        "states": Field("states", "ragged-episode", "float64", (None,), "step", NONE, (), "steps/states"),
    },
)
ROOT = Root(
    generation=2,
    parent="ab" * 32,
    fingerprint="cd" * 32,
    parts=(PartEntry("parts/0123456789abcdef", 100, 3, "ef" * 32), PartEntry("other.vla/parts/00", 7, 7, "01" * 32)),
    fields={name: RootField(each.kind, each.dtype, each.shape) for name, each in PART.fields.items()},
    meta=Meta(statistics="23" * 32),
).sealed()


def part_bytes(document: Any) -> bytes:
    return canonical.dumps({"attributes": {"vla_store": document}, "node_type": "group", "zarr_format": 3})


def root_bytes(document: Any) -> bytes:
    """The bytes of a root document, with the digest that makes it sound as far as digests go."""
    if isinstance(document, dict) and "digest" in document:
        document = document | {"digest": NO_DIGEST}
        document["digest"] = canonical.sha256_hex(canonical.dumps(arrays.root_metadata(document)))
    return canonical.dumps(arrays.root_metadata(document))


def read_part(data: bytes) -> PartDocument:
    return PartDocument.from_zarr_json(data, "parts/x/zarr.json")


def read_root(data: bytes) -> Root:
    return Root.from_bytes(data, "zarr.json")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a document, the document itself included."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*path, index))


def with_value(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    made = copy.deepcopy(document)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return made


def without(document: Any, path: tuple[Any, ...]) -> Any:
    made = copy.deepcopy(document)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return made


JUNK: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**53 - 1,
    -(2**53) + 1,
    "",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "parts/../..",
    "C:\\windows",
    "a\x00b",
    "\x1b[31mred",
    "\U0001f600" * 100,
    "0" * 64,
    "g" * 64,
    "x" * 5000,
    [],
    [None],
    [2**53 - 1] * 8,
    [1] * 9,
    [-1],
    [0],
    [True],
    [[1]],
    ["background"] * 17,
    {},
    {"name": "blosc"},
    {"name": None},
    {"": {}},
]


def fits_a_screen(error: Exception) -> bool:
    return len(str(error)) < 1000 and "\x1b" not in str(error)


def read_or_refused(read: Callable[[bytes], Any], data: bytes) -> Any:
    """What was read, or None where it was refused in the way it should be."""
    try:
        return read(data)
    except (StoreDamaged, UnsupportedStore) as refused:
        error = refused
    assert fits_a_screen(error)
    return None


def test_a_part_document_reads_back_as_it_was_written() -> None:
    data = canonical.dumps(arrays.part_metadata(PART.to_json(), {}))
    assert read_part(data) == PART


def test_a_root_reads_back_as_it_was_written() -> None:
    assert read_root(ROOT.to_bytes()) == ROOT
    assert (ROOT.rows, ROOT.episodes) == (107, 10)
    first = Root(1, None, "cd" * 32, ROOT.parts[:1], ROOT.fields).sealed()
    assert read_root(first.to_bytes()) == first


def test_a_root_s_digest_is_over_its_file_with_the_digest_s_digits_as_zeros() -> None:
    data = ROOT.to_bytes()
    assert data.count(ROOT.digest.encode()) == 1
    assert canonical.sha256_hex(data.replace(ROOT.digest.encode(), b"0" * 64)) == ROOT.digest


def test_every_changed_byte_of_a_root_is_refused() -> None:
    data = ROOT.to_bytes()
    for place in range(len(data)):
        spoilt = bytearray(data)
        spoilt[place] ^= 1
        with pytest.raises((StoreDamaged, UnsupportedStore)):
            read_root(bytes(spoilt))


@pytest.mark.parametrize("path", list(places(PART.to_json())), ids=str)
def test_a_part_document_with_any_value_replaced_is_read_or_refused(path: tuple[Any, ...]) -> None:
    for junk in JUNK:
        part = read_or_refused(read_part, part_bytes(with_value(PART.to_json(), path, junk)))
        if part is not None:
            use(part)


@pytest.mark.parametrize("path", [path for path in places(PART.to_json()) if path], ids=str)
def test_a_part_document_with_anything_left_out_is_read_or_refused(path: tuple[Any, ...]) -> None:
    try:
        part = read_part(part_bytes(without(PART.to_json(), path)))
    except StoreDamaged:
        return
    use(part)


def use(part: PartDocument) -> None:
    """What a reader does with every part it has accepted."""
    assert part.columns[: len(schema.TABLE_COLUMNS)] == list(schema.TABLE_COLUMNS)
    for field in part.fields.values():
        if field.unsupported() is not None:
            with pytest.raises(UnsupportedStore, match=field.name) as caught:
                field.check_supported()
            assert fits_a_screen(caught.value)
            continue
        assert (
            part_arrays(part, 1000, 2, dict.fromkeys(part.ragged, 5000), 10)[field.array].metadata["data_type"]
            == field.dtype
        )
        assert field.step_nbytes <= schema.MAX_FRAME_BYTES


@pytest.mark.parametrize("path", list(places(ROOT.to_json())), ids=str)
def test_a_root_with_any_value_replaced_and_a_fresh_digest_is_read_or_refused(path: tuple[Any, ...]) -> None:
    for junk in JUNK:
        root = read_or_refused(read_root, root_bytes(with_value(ROOT.to_json(), path, junk)))
        if root is not None:
            assert root.sealed() == root
            assert 0 < root.episodes <= root.rows <= schema.MAX_ROWS


@pytest.mark.parametrize("path", [path for path in places(ROOT.to_json()) if path], ids=str)
def test_a_root_with_anything_left_out_is_read_or_refused(path: tuple[Any, ...]) -> None:
    try:
        read_root(root_bytes(without(ROOT.to_json(), path)))
    except StoreDamaged:
        return


HOSTILE_ROOTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a part outside the store": lambda d: d["parts"][0].update(path="../elsewhere/parts/00"),
    "a part at an absolute path": lambda d: d["parts"][0].update(path="/etc"),
    "a part at a URL": lambda d: d["parts"][0].update(path="https://example.org/x"),
    "a part behind a dot": lambda d: d["parts"][0].update(path="parts/./00"),
    "a part behind an empty segment": lambda d: d["parts"][0].update(path="parts//00"),
    "a part with a percent sign": lambda d: d["parts"][0].update(path="parts/%2e%2e/00"),
    "a part with a backslash": lambda d: d["parts"][0].update(path="parts\\..\\00"),
    "a part with a newline": lambda d: d["parts"][0].update(path="parts/00\n"),
    "a part's path of megabytes": lambda d: d["parts"][0].update(path="a/" * 600_000 + "a"),
    "the same part twice": lambda d: d["parts"].append(d["parts"][0]),
    "more rows than a part can have": lambda d: d["parts"][0].update(rows=2**31),
    "more rows than a store can have": lambda d: d.update(
        parts=[{"path": f"p{n}", "rows": 2**31 - 1, "episodes": 1, "listing": "00" * 32} for n in range(513)]
    ),
    "more episodes than rows": lambda d: d["parts"][0].update(episodes=101),
    "a part without rows": lambda d: d["parts"][0].update(rows=0),
    "rows of true": lambda d: d["parts"][0].update(rows=True, episodes=True),
    "no parts": lambda d: d.update(parts=[], rows=0, episodes=0),
    "no fields": lambda d: d.update(fields={}),
    "too many fields": lambda d: d.update(fields={f"f{n}": d["fields"]["actions"] for n in range(257)}),
    "a field whose name leaves the store": lambda d: d["fields"].update({"../x": d["fields"]["actions"]}),
    "a step of an exabyte": lambda d: d["fields"]["actions"].update(shape=[2**28, 2**28]),
    "a step of nine axes": lambda d: d["fields"]["actions"].update(shape=[1] * 9),
    "generation 0": lambda d: d.update(generation=0),
    "a generation of nine digits": lambda d: d.update(generation=100_000_000),
    "a digest in capitals": lambda d: d.update(fingerprint="CD" * 32),
    "a digest with a newline": lambda d: d.update(fingerprint="cd" * 31 + "c\n"),
    "something more": lambda d: d.update(more=1),
    "something more in a part": lambda d: d["parts"][0].update(more=1),
    "format version true": lambda d: d.update(format_version=True),
    "format version 0": lambda d: d.update(format_version=0),
    "format version '1'": lambda d: d.update(format_version="1"),
    "no format version": lambda d: d.pop("format_version"),
}


@pytest.mark.parametrize("name", HOSTILE_ROOTS)
def test_a_hostile_root_is_damage_even_with_the_right_digest(name: str) -> None:
    document = ROOT.to_json()
    assert read_root(root_bytes(document)) == ROOT
    HOSTILE_ROOTS[name](document)
    # The sums are made right again, so that it is the abuse itself that is refused.
    document["rows"] = sum(part["rows"] for part in document["parts"])
    document["episodes"] = sum(part["episodes"] for part in document["parts"])
    with pytest.raises(StoreDamaged) as caught:
        read_root(root_bytes(document))
    assert "zarr.json" in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("key", ["rows", "episodes"])
def test_a_root_whose_sums_are_not_its_parts_is_damage(key: str) -> None:
    document = ROOT.to_json()
    document[key] += 1
    with pytest.raises(StoreDamaged):
        read_root(root_bytes(document))


HOSTILE_PARTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an array elsewhere": lambda d: d["fields"]["actions"].update(array="steps/other"),
    "an array outside": lambda d: d["fields"]["actions"].update(array="../steps/actions"),
    "a frame of more than 256 MiB": lambda d: d["fields"]["depth"].update(shape=[16384, 16384, 1]),
    "a camera of five channels": lambda d: d["fields"]["depth"].update(shape=[8, 9, 5]),
    "a camera of two axes": lambda d: d["fields"]["depth"].update(shape=[8, 9]),
    "a camera without a size": lambda d: d["fields"]["depth"].update(shape=[None, 9, 1]),
    "a camera of float64": lambda d: d["fields"]["depth"].update(dtype="float64"),
    "a predicted depth": lambda d: d["fields"]["depth"].update(prediction=["above"], array="residuals/depth"),
    "frames that are residuals": lambda d: d["fields"]["front"].update(array="frames/front"),
    "residuals that are frames": lambda d: d["fields"]["depth"].update(array="residuals/depth"),
    "green of one channel": lambda d: d["fields"]["front"].update(shape=[8, 9, 1]),
    "background last": lambda d: d["fields"]["front"].update(prediction=["green", "background"]),
    "green twice": lambda d: d["fields"]["front"].update(prediction=["green", "green"]),
    "an encoded number": lambda d: d["fields"]["actions"].update(codec=LZ4HC.to_json()),
    "a predicted number": lambda d: d["fields"]["actions"].update(prediction=["above"]),
    "a step of 2 GiB": lambda d: d["fields"]["actions"].update(shape=[2**28]),
    "a width of 0": lambda d: d["fields"]["actions"].update(shape=[0]),
    "a width of true": lambda d: d["fields"]["actions"].update(shape=[True]),
    "a fixed field without a width": lambda d: d["fields"]["actions"].update(shape=[None]),
    "a ragged field with a width": lambda d: d["fields"]["states"].update(shape=[7]),
    "a ragged field of two axes": lambda d: d["fields"]["states"].update(shape=[None, 7]),
    "a ragged camera": lambda d: d["fields"]["depth"].update(kind="ragged-episode", shape=[None]),
    "a level of 10": lambda d: d["fields"]["front"]["codec"].update(clevel=10),
    "an orientation of sideways": lambda d: d["sources"][0].update(orientation="sideways"),
    "an observation of during": lambda d: d["sources"][0].update(observation="during"),
    "attributes before the beginning": lambda d: d["sources"][0].update(attributes=[-1, 5]),
    "attributes of three numbers": lambda d: d["sources"][0].update(attributes=[0, 5, 5]),
    "a source twice": lambda d: d["sources"].append(d["sources"][0]),
    "a task twice": lambda d: d["tasks"].append(d["tasks"][0]),
    "no tasks": lambda d: d.update(tasks=[]),
    "no sources": lambda d: d.update(sources=[]),
    "no fields": lambda d: d.update(fields={}),
    "too many fields": lambda d: d.update(
        fields={f"f{n}": d["fields"]["actions"] | {"array": f"steps/f{n}"} for n in range(257)}
    ),
    "an instruction of 5": lambda d: d["tasks"][0].update(instruction=5),
    "format version true": lambda d: d.update(format_version=True),
}


@pytest.mark.parametrize("name", HOSTILE_PARTS)
def test_a_hostile_part_document_is_damage(name: str) -> None:
    document = PART.to_json()
    read_part(part_bytes(document))
    HOSTILE_PARTS[name](document)
    with pytest.raises(StoreDamaged) as caught:
        read_part(part_bytes(document))
    assert "parts/x/zarr.json" in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("read", [read_part, read_root])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b'"text"',
        b"7",
        b"null",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"attributes":null}',
        b'{"attributes":{}}',
        b'{"attributes":{"vla_store":null}}',
        b'{"attributes":{"vla_store":[]}}',
        b'{"attributes":{"vla_store":{"format_version":1}}}',
        b'{"attributes":{"vla_store":{"format_version":1.0}}}',
        b'{"attributes":{"vla_store":{"format_version":null}}}',
        b'{"attributes":{"vla_store":{"format_version":-1}}}',
    ],
    ids=repr,
)
def test_a_document_that_is_none_is_damage(read: Callable[[bytes], Any], data: bytes) -> None:
    with pytest.raises(StoreDamaged):
        read(data)


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text("abc./_-\n", max_size=9),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["fields", "parts", "tasks", "sources", "plan", "meta", "rows", "x"]), inner),
    max_leaves=15,
))  # fmt: skip
def test_whatever_a_document_says_the_answer_is_one_of_ours(value: Any) -> None:
    for read, data in (
        (read_part, part_bytes(value)),
        (read_root, root_bytes(value)),
        (read_part, part_bytes(PART.to_json() | value if isinstance(value, dict) else value)),
        (read_root, root_bytes(ROOT.to_json() | value if isinstance(value, dict) else value)),
    ):
        try:
            read(data)
        except (StoreDamaged, UnsupportedStore):
            continue


@pytest.mark.parametrize("read", [read_part, read_root])
@pytest.mark.parametrize("spell", [canonical.dumps, lambda value: json.dumps(value, indent=2).encode()])
@pytest.mark.parametrize("version", [2, 10, 2**53 - 1])
def test_a_newer_version_is_refused_as_newer_whatever_else_it_says(
    read: Callable[[bytes], Any], spell: Callable[[Any], bytes], version: int
) -> None:
    with pytest.raises(UnsupportedStore, match="newer") as caught:
        read(spell({"attributes": {"vla_store": {"format_version": version, "shards": "elsewhere"}}}))
    assert "upgrade" in str(caught.value)


def test_a_version_of_a_thousand_digits_does_not_fill_the_screen() -> None:
    with pytest.raises(UnsupportedStore) as caught:
        read_root(b'{"attributes":{"vla_store":{"format_version":' + b"9" * 1000 + b"}}}")
    assert len(str(caught.value)) < 500


def test_a_document_above_its_stated_maximum_is_refused_unread() -> None:
    with pytest.raises(StoreDamaged, match="too large"):
        read_root(b" " * (schema.MAX_ROOT_BYTES + 1))
    with pytest.raises(StoreDamaged, match="too large"):
        read_part(b" " * (schema.MAX_DOCUMENT_BYTES + 1))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kind": "ragged-row", "shape": [None, 4], "array": "rows/front/data"}, "kind 'ragged-row'"),
        ({"role": "goal"}, "role 'goal'"),
        ({"dtype": "bfloat16"}, "dtype 'bfloat16'"),
        ({"codec": {"name": "webp", "quality": 80}}, "codec 'webp'"),
        ({"codec": {"name": "blosc", "cname": "lz5", "clevel": 1}}, "codec 'blosc lz5'"),
        ({"prediction": ["background", "left"]}, "prediction 'left'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_newer_writer_may_add_is_kept_and_refused_at_its_use_by_name(change: dict[str, Any], named: str) -> None:
    document = PART.to_json()
    document["fields"]["front"].update(change)
    part = read_part(part_bytes(document))
    assert part.fields["actions"].unsupported() is None
    with pytest.raises(UnsupportedStore) as caught:
        part.fields["front"].check_supported()
    assert named in str(caught.value)
    assert "front" in str(caught.value)
    assert ("codecs.register" in caught.value.hint) == ("codec" in change)


def test_a_root_keeps_kinds_it_does_not_know() -> None:
    document = ROOT.to_json()
    document["fields"]["boxes"] = {"kind": "ragged-row", "dtype": "float32", "shape": [None, 4]}
    assert read_root(root_bytes(document)).fields["boxes"].kind == "ragged-row"


def test_columns_are_the_fixed_ones_then_two_for_every_ragged_field_by_name() -> None:
    fields = PART.fields | {"b": PART.fields["states"], "a": PART.fields["states"]}
    part = PartDocument(PART.plan, PART.tasks, PART.sources, fields)
    assert part.columns == [
        *("start", "length", "task", "source", "number", "success", "attributes_start", "attributes_bytes"),
        *("a_start", "a_width", "b_start", "b_width", "states_start", "states_width"),
    ]


@pytest.mark.parametrize(
    "key", ["a", "a/b", "parts/0123/zarr.json", "a.b-c_d/0", "...", ".a", "a..b", "c/0/0", "x" * 255]
)
def test_a_key_that_stays_below_is_let_through(key: str) -> None:
    assert check_key(key, "x") == key


@pytest.mark.parametrize(
    "key",
    ["", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "./a", "a\\b", "a b", "a\n", "\x00", "é", "a:b",
     "%2e%2e", "~", "x" * 256, "a/" * 512 + "a"],
    ids=lambda key: repr(key[:20]),
)  # fmt: skip
def test_a_key_that_leaves_or_could_leave_is_damage(key: str) -> None:
    with pytest.raises(StoreDamaged, match="leaves"):
        check_key(key, "x")


@given(st.text(max_size=30))
def test_a_key_never_leads_out_of_a_folder(key: str) -> None:
    import posixpath

    try:
        check_key(key, "x")
    except StoreDamaged:
        return
    assert posixpath.normpath(posixpath.join("/store", key)) == f"/store/{key}"


@pytest.mark.parametrize("name", ["a", "A-b_9", "_a", "-", "x" * 64, "attributes_", "Attributes"])
def test_a_name_can_be_a_field_s(name: str) -> None:
    schema.check_field_names([name])


@pytest.mark.parametrize("name", ["", "__a", "attributes", "a.b", "a/b", "a b", "é", "a\n", "x" * 65])
def test_a_name_cannot_be_a_field_s(name: str) -> None:
    with pytest.raises(SourceError, match="name") as caught:
        schema.check_field_names(["ok", name], file="some.hdf5")
    assert "some.hdf5" in str(caught.value)


def test_names_that_differ_in_case_only_are_refused() -> None:
    with pytest.raises(SourceError, match="same field name"):
        schema.check_field_names(["Actions", "actions"])
