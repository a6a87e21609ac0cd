"""The benchmarks run, on a tiny store, and find that all contenders read the same; the page of figures is what the results make it."""

from __future__ import annotations

import json
import sys
import time
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_libero

pytest.importorskip("h5py", reason="the benchmarks read HDF5")
pytest.importorskip("zarr", reason="the benchmarks read with zarr-python")
pytest.importorskip("tensorstore", reason="the benchmarks read with tensorstore")

if not (Path(__file__).resolve().parents[1] / "benchmarks").exists():
    pytest.skip("the tests of an installed wheel run without the checkout", allow_module_level=True)

from odd_files import with_liberos_hand

from benchmarks import (
    build_sources,
    build_speed,
    codec_levels,
    journeys,
    kept_jpeg,
    loader,
    measure,
    micro,
    mixing,
    mixtures,
    reading,
    recipes,
    report,
    roof,
    sampling,
    scale,
    size,
    workload,
)
from vla_store.format.codecs import Blosc
from vla_store.loader.order import Blocks
from vla_store.reader.store import open_store


@pytest.fixture(scope="module")
def read(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One quick run of the reading benchmark."""
    work = tmp_path_factory.mktemp("reading")
    return reading.measure(
        tiny_source, work, rounds=2, batches=2, slow_batches=1, with_cold=sys.platform == "linux", pool=3
    )


def test_all_contenders_read_the_same_samples(read: dict[str, Any]) -> None:
    # `measure` compares them itself, and raises where they differ: here, that none was left out.
    names = set(read["contenders"])
    assert {f"{who}, {preset}" for who in ("roof", "ours") for preset in reading.PRESETS} <= names
    assert set(reading.RIVALS) <= names
    assert {f"roof, fast{reading.CHECKED}", f"ours, fast{reading.CHECKED}, out="} <= names
    assert all(each["us_per_sample"]["median"] > 0 for each in read["contenders"].values())
    assert len(read["digest_of_batches"]) == 64


def test_a_contender_that_reads_other_bytes_is_found() -> None:
    out = workload.buffers(2, (4, 4, 3))
    honest = reading.Contender("honest", lambda at: None, lambda: out, 1)
    other = {name: array.copy() for name, array in out.items()}
    other["actions"][1, 63, 6] += 1
    wrong = reading.Contender("wrong", lambda at: None, lambda: other, 1)
    assert len(reading.check_batches([honest, honest], upright=False)) == 1
    with pytest.raises(AssertionError, match="wrong: batch 0 has other bytes"):
        reading.check_batches([honest, wrong], upright=False)


def test_every_row_of_the_design_that_reading_measures_is_there(read: dict[str, Any]) -> None:
    rows = {row["what"]: row for row in read["rows"]}
    assert len(rows) == len(read["rows"])
    assert all(row["met"] in (True, False) for what, row in rows.items() if "cold" not in what)
    assert rows["against opening HDF5 per sample, as RDT's port does"]["target"] == ">= 12 x"
    assert "against zarr-python slicing" in rows


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("preset", reading.PRESETS)
def test_the_roof_does_the_whole_work(
    tiny_stores: dict[str, Path], tiny_source: Path, preset: str, upright: bool
) -> None:
    store = open_store(tiny_stores[preset])
    units = workload.make_workload(store, tiny_source, None).batches[0]
    out = workload.buffers(len(units), (16, 24, 3))
    roof.batch_work(roof.locate(store), store, units, out, upright=upright)()
    for camera in workload.CAMERAS:
        expected = store.read(camera, units.frame_rows.reshape(-1)).reshape(out[camera].shape)
        assert np.array_equal(out[camera], expected[:, :, ::-1] if upright else expected)


def test_a_roof_that_checks_finds_a_chunk_that_changed(tiny_stores: dict[str, Path], tiny_source: Path) -> None:
    store = open_store(tiny_stores["fast"])
    units = workload.make_workload(store, tiny_source, None).batches[0]
    cameras = roof.locate(store)
    spoilt = {
        name: roof.Camera(each.field, each.chunks, tuple(sum_ ^ 1 for sum_ in each.checksums), each.backgrounds)
        for name, each in cameras.items()
    }
    with pytest.raises(AssertionError, match="crc32c"):
        roof.batch_work(spoilt, store, units, workload.buffers(len(units), (16, 24, 3)), checked=True)()
    roof.batch_work(spoilt, store, units, workload.buffers(len(units), (16, 24, 3)))()  # nor does a batch that is warm


def test_codec_levels_compares_what_it_decodes(tiny_source: Path) -> None:
    codecs = (Blosc("lz4hc", 9), Blosc("zstd", 1))
    result = codec_levels.measure(tiny_source, rounds=2, frames=None, encoded_frames=3, codecs=codecs)
    assert [(row["camera"], row["codec"]) for row in result["rows"]] == [
        (camera, str(codec)) for camera in workload.CAMERAS for codec in codecs
    ]
    case = codec_levels.make_case("front", np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3), codecs[0])
    codec_levels.check(case, np.ones((4, 4, 3), np.uint8))
    swapped = codec_levels.Case(case.camera, case.codec, case.chunks, case.bodies[::-1], case.checksum)
    with pytest.raises(AssertionError, match="not what was encoded"):
        codec_levels.check(swapped, np.ones((4, 4, 3), np.uint8))


def test_every_kind_of_source_is_built_from_the_same_steps(tiny_source: Path, tmp_path: Path) -> None:
    for module in ("PIL", "av", "pyarrow"):
        pytest.importorskip(module)
    result = build_sources.measure(tiny_source, tmp_path, rounds=2, steps=20, side=48)
    rows = {row["source"]: row for row in result["rows"]}
    assert len(rows) == 6
    assert rows[build_sources.BASE]["speed_to_hdf5"]["median"] == 1
    assert rows["ALOHA's HDF5, JPEG kept"]["nbytes"] < rows["ALOHA's HDF5, JPEG decoded"]["nbytes"]
    assert "LeRobot v3.0, video" in build_sources.summary(result)
    assert "| RLDS, PNG |" in "".join(build_sources.page(result))


def test_kept_jpeg_gives_the_same_pixels_for_fewer_bytes(tiny_source: Path, tmp_path: Path) -> None:
    pytest.importorskip("simplejpeg")
    result = kept_jpeg.measure(tiny_source, tmp_path, rounds=2, pictures=3, sizes=[(64, 64), (48, 96)])
    nbytes = {(row["pictures"], row["store"]): row["nbytes"] for row in result["rows"]}
    assert len(nbytes) == 4 * 5
    for what in {pictures for pictures, _ in nbytes}:
        assert nbytes[what, "kept"] < nbytes[what, "small"] < nbytes[what, "raw"]
    assert all(row["cpu_us"]["median"] > 0 for row in result["rows"])
    assert "kept, Pillow decodes" in kept_jpeg.summary(result)
    assert "| kept |" in "".join(kept_jpeg.page(result))


def test_build_speed_encodes_the_same_bytes_as_the_build(tiny_source: Path, tmp_path: Path) -> None:
    result = build_speed.measure(tiny_source, tmp_path, rounds=1, copies=2)
    assert set(result["contenders"]) == {
        *(f"{what}, {each}" for what in ("build", "bare") for each in ("1 thread", "2 threads")),
        "build, 2 processes",
    }
    # The store has, besides, metadata, tables, digests, attributes, backgrounds and the shards' indices.
    assert 0.5 * result["store_nbytes"] < result["encoded_nbytes"] < result["store_nbytes"]


def test_sampling_attributes_all_of_the_time(tiny_source: Path, tmp_path: Path) -> None:
    result = sampling.measure(tiny_source, tmp_path, seconds=0.1, batches=1)
    for each in result["subjects"].values():
        assert each["interruptions"] > 0
        assert sum(each["kinds"].values()) == pytest.approx(each["us_per_sample"], rel=0.01)
    assert sampling.kind_of("codecs.py", "    decompress(data, out)") == "decode"


@pytest.fixture(scope="module")
def loaded(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One quick run of the Loader's benchmark."""
    if sys.platform != "linux":
        pytest.skip("it reads /proc")
    pytest.importorskip("torch")
    rows = 64 * (loader.SKIPPED + 10)
    return loader.measure(
        tiny_source,
        tmp_path_factory.mktemp("loader"),
        rounds=1,
        batches=4,
        copies=-(-rows // 40),
        epochs=2,
        variant_rows=64,
        variants=(loader.VARIANTS[0],),
        ranks=2,
    )


def test_the_loaders_benchmark_has_every_row_of_the_design(loaded: dict[str, Any]) -> None:
    # `measure` compares the bytes that all read itself.
    whats = [row["what"] for row in loaded["rows"]]
    assert any("two bare processes" in each for each in whats)
    assert any("torch DataLoader" in each for each in whats)
    assert any("CPU time per sample" in each for each in whats)
    assert any("p99" in each for each in whats)
    assert any("private memory" in each for each in whats)
    assert all(row["met"] in (True, False) for row in loaded["rows"])
    assert loaded["memory"]["ranks"]["workers"] == 4
    assert min(loaded["memory"]["private_nbytes"]) > 1e6


def test_an_inverted_spread_is_that_of_the_inverse_ratios() -> None:
    ratios = [0.5, 0.8, 1.0, 2.0, 4.0]
    spread = measure.Spread.of(ratios).to_json()
    found = {name: loader._inverse(value, name) for name, value in loader._turned(spread).items()}
    assert found == measure.Spread.of([1 / each for each in ratios]).to_json()


def test_a_consumer_that_is_never_late_waits_for_nothing_and_a_slow_stream_is_waited_for() -> None:
    took, waits = loader.consume(iter(range(5)), 5, 0.002)
    assert len(waits) == 5
    assert took >= 0.009

    def slow() -> Any:
        while True:
            time.sleep(0.005)
            yield None

    _, waits = loader.consume(slow(), 3, 0.001)
    assert min(waits) >= 0.004


@pytest.fixture(scope="module")
def sized(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return size.measure(tiny_source, tmp_path_factory.mktemp("size"), rounds=1, batches=2, slow=1)


def test_every_layout_is_read_and_weighed(sized: dict[str, Any]) -> None:
    layouts = sized["layouts"]
    assert {*(f"vla_store {preset}" for preset in size.PRESETS), size.SOURCE} < set(layouts)
    buffer = layouts["RDT's buffer: npz and json a step"]
    assert buffer["files"] == 2 * sized["steps"]
    assert layouts[size.SOURCE]["share"] == 1
    assert all(each["us_per_sample"]["median"] > 0 for each in layouts.values())


def test_the_chart_is_a_picture_with_every_layout(sized: dict[str, Any]) -> None:
    root = xml.etree.ElementTree.fromstring(report.chart(sized))
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert set(sized["layouts"]) <= set(texts)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == len(sized["layouts"])


def test_mixing_and_requests_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, tasks = np.full(20, 64), np.arange(20) // 10
    in_order = mixing.mixed(False, lengths, tasks)
    assert (in_order["episodes"], in_order["tasks"]) == (1, 1)
    assert in_order["requests_per_sample"] == 2 * 20 / 1_280  # all at once: one run a shard of 64 rows and a camera
    one_pool, pools = (mixing.mixed(Blocks(16, pool), lengths, tasks) for pool in (256, 2))
    assert one_pool["requests_per_sample"] == in_order["requests_per_sample"]
    assert one_pool["rows_per_sample"] == 1
    assert pools["episodes"] <= 4 < 15 < one_pool["episodes"]  # of two pools of two blocks
    assert 1 < pools["rows_per_sample"] <= 17 / 16
    monkeypatch.setattr(mixing, "stores", lambda: {"LIBERO": (lengths, tasks)})
    result = mixing.measure()
    assert "| 16 x 256 | 19" in report.page({"mixing": result})
    texts = [each.text for each in xml.etree.ElementTree.fromstring(mixing.chart(result)).iter()]
    assert {"global order", "16 x 256", "64 x 64"} <= set(texts)


def test_the_pieces_are_measured(tiny_source: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    result = micro.measure(tiny_source, tmp_path, rounds=1, batches=2)
    assert all(each["us"]["median"] > 0 for each in result["pieces"].values())
    assert set(result["single"]) == set(micro.PRESETS)
    assert "## The pieces" in report.page({"micro": result})


def test_recipes_make_the_same_batches_at_once_as_one_by_one(tmp_path: Path) -> None:
    import h5py

    source = tiny_libero.write_suites(tmp_path / "source")
    for path in source.glob("*/*.hdf5"):
        with h5py.File(path, "r+") as file:
            with_liberos_hand(file)
    # `measure` compares them itself, and raises where they differ: here, that none was left out.
    result = recipes.measure(source, tmp_path / "made", rounds=1, batches=1)
    assert set(result["recipes"]) == set(recipes.RECIPES)
    for each in result["recipes"].values():
        assert set(each["cpu_us_per_sample"]) == set(recipes.CONTENDERS)
        assert set(each["saved"]) == {recipes.AT_ONCE, recipes.LIST}
    text = report.page({"recipes": result})
    assert "## Recipes" in text
    assert "| `openvla_oft`, normalised | " in text


@pytest.mark.skipif(sys.platform != "linux", reason="it reads the memory of other processes from /proc")
def test_a_mixture_is_measured_against_one_store(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import h5py

    source = tiny_libero.write_suites(tmp_path / "source")
    for path in source.glob("*/*.hdf5"):
        with h5py.File(path, "r+") as file:
            with_liberos_hand(file)
    result = mixtures.measure(source, tmp_path / "made", rounds=1, batches=1, copies=40, epochs=2)
    assert {each["parts"] for each in result["kinds"].values()} == {3}
    assert all(len(set(each["samples"].values())) == 1 for each in result["kinds"].values())
    assert "| items of a recipe |" in report.page({"mixtures": result})
    assert {row["target"] for row in result["rows"]} == {">= 0.95", "flat"}


def test_stores_of_any_size_are_read_right(tmp_path: Path) -> None:
    result = scale.measure(tmp_path, rounds=1, sizes=(1_000, 20_000))
    assert set(result["sizes"]) == {"1000", "20000"}
    assert {row["what"].split(",")[0] for row in result["rows"]} >= {"`ds[i]`", "bytes of a pickled dataset"}
    assert not (tmp_path / "scale").exists()
    assert "10^3 to 2*10^4" in result["rows"][0]["what"]


def test_a_synthetic_store_that_gives_other_samples_is_found(tmp_path: Path) -> None:
    samples = scale.samples_of(scale.make_store(tmp_path / "a.vla", 5_000))
    scale.check(samples, 5_000)
    path = next((tmp_path / "a.vla").glob("parts/*/steps/actions/c/0/0"))
    data = np.memmap(path, np.float64, "r+", shape=(5_000, 7))
    data[:, 6] += 1
    data.flush()
    with pytest.raises(AssertionError, match="other samples"):
        scale.check(samples, 5_000)


def test_the_page_has_a_part_for_every_benchmark(loaded: dict[str, Any], sized: dict[str, Any]) -> None:
    text = report.page({"loader": loaded, "size": sized})
    for title in ("## The Loader", "### A consumer that takes 80 %", "### Memory", "## Size and speed"):
        assert title in text
    assert "from 10^3 to 5*10^8 rows | flat" in text  # of `scale`, which has no result here
    assert text.count("not measured yet") == sum(len(report.EXPECTED[name]) for name in ("scale", "mixtures"))


def test_ratios_compare_the_batches_that_both_read() -> None:
    mine = [measure.Pass((1.0, 2.0, 9.0), (1.0, 2.0, 9.0))]
    other = [measure.Pass((4.0, 2.0), (3.0, 3.0))]
    assert measure.speed_ratio(mine, other).median == 2
    assert measure.speed_ratio(other, mine).median == 0.5
    assert measure.cpu_ratio(mine, other).median == 2


def test_contenders_take_turns() -> None:
    turns: list[str] = []

    def turn(name: str) -> measure.Pass:
        turns.append(name)
        return measure.Pass((1.0,), (1.0,))

    passes = measure.interleave({name: lambda name=name: turn(name) for name in "abc"}, 20)
    assert all(sorted(turns[at : at + 3]) == ["a", "b", "c"] for at in range(0, 60, 3))
    assert len({tuple(turns[at : at + 3]) for at in range(0, 60, 3)}) > 1
    assert {name: len(each) for name, each in passes.items()} == {"a": 20, "b": 20, "c": 20}


def test_the_page_is_what_the_committed_results_make_it() -> None:
    results = report.load()
    if not results:
        pytest.skip("no results are committed")
    for path, text in {report.PAGE: report.page(results), **report.charts(results)}.items():
        assert path.read_text() == text, "run `python -m benchmarks.report`"


def test_the_page_names_what_is_missed_and_why(read: dict[str, Any]) -> None:
    result = json.loads(json.dumps(read))
    for row in result["rows"]:
        row["met"] = row["what"] != "`raw` against h5py with kept handles, all in memory"
    text = report.page({"reading": result})
    assert "**NOT MET**" in text
    missed = text[text.index("## What is missed") : text.index("## Reading")]
    assert missed.count("\n- ") == 1
    assert "The roof itself is only" in missed


def test_results_name_no_place_of_this_machine(read: dict[str, Any], tiny_source: Path) -> None:
    import platform

    texts = [json.dumps(read), *(path.read_text() for path in measure.RESULTS.glob("*.json"))]
    for text in texts:
        assert str(tiny_source) not in text
        assert str(Path.home()) not in text
        assert platform.node() not in text or not platform.node()
        assert '"/' not in text


def test_without_demonstrations_a_benchmark_says_what_to_give(tmp_path: Path) -> None:
    for given in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(SystemExit, match="--demos FOLDER"):
            measure.find_demos(given, tmp_path)


def test_journeys_are_counted_in_this_process_and_in_a_worker(tiny_source: Path, tmp_path: Path) -> None:
    counts = dict(journeys.journeys(tiny_source, tmp_path, batch=8))
    assert len(counts) == 6
    assert all(0 < each["files"] <= each["functions"] <= each["calls"] for each in counts.values())
    assert counts["samples.sample(i)"]["calls"] < counts["samples.batch(8)"]["calls"]
