"""`vla-store bench`: every way to read gives the same bytes, or it says so; what it prints follows from what it measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from range_server import RangeServer
from store_tools import in_words

import vla_store
from vla_store import bench, cli
from vla_store.errors import OptionError, StoreDamaged
from vla_store.reader.samples import Samples


@pytest.fixture(scope="module", autouse=True)
def _short_turns() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.turns, "TURN_S", 0.01)
        patch.setattr(bench.turns, "LOADER_S", 0.05)
        patch.setattr(bench.turns, "ROUNDS", 2)
        yield


@pytest.fixture(scope="module")
def report(tiny_store: Path) -> bench.BenchReport:
    return bench.bench_store(tiny_store, batch_size=8, workers=(1,))


def test_the_digest_is_that_of_the_loaders_first_batch(report: bench.BenchReport, tiny_store: Path) -> None:
    from vla_store.loader.batches import Batches

    store = vla_store.open_store(tiny_store)
    samples = Samples(store, windows=bench.turns.windows(store), alignment="causal", images="as_stored")
    first = next(iter(Batches(samples, batch_size=8, workers=0)))
    assert report.digest == bench.turns.digest(first)
    assert report.anchors == len(samples)


def test_every_way_to_read_has_a_rate_and_the_report_says_them(report: bench.BenchReport) -> None:
    assert min(report.roof_samples_per_s, report.batch_samples_per_s, report.single_samples_per_s) > 0
    assert [each.workers for each in report.loaders] == [1]
    text = report.text()
    for name in ("roof", "batches, one process", "ds[i]", "Loader, 1 worker ", "waits"):
        assert name in text
    assert max(map(len, text.splitlines()[2:])) < 130


def test_the_json_has_the_spread_of_its_rates_and_the_versions_that_decide_them(report: bench.BenchReport) -> None:
    told = json.loads(json.dumps(report.to_json()))
    for name in ("roof_samples_per_s", "batch_samples_per_s"):
        low, high = told["quartiles"][name]
        assert low <= told[name] <= high
    assert {"version", "python", "numpy", "numcodecs", "google_crc32c"} <= set(told)


@pytest.mark.parametrize("images", ["as_stored", "upright"])
@pytest.mark.parametrize("preset", ["raw", "fast", "small"])
def test_the_roof_of_every_preset_reads_what_a_batch_reads(
    tiny_stores: dict[str, Path], preset: str, images: str
) -> None:
    samples = Samples(
        tiny_stores[preset], windows={"agentview_rgb": [-1, -1, 0], "actions": 0}, alignment="causal", images=images
    )
    indices = np.array([3, 1, 4, 1, 5])
    expected = {name: np.copy(value) for name, value in samples.batch(indices).items() if name != "task"}
    out = samples.allocate(5)
    roof = bench.turns.roof_work(samples, indices, out)
    for name, array in out.items():
        if name == "agentview_rgb":
            array.fill(0)
    roof()
    assert all(np.array_equal(out[name], value) for name, value in expected.items())
    assert samples.batch(indices)["agentview_rgb"].any()  # and the cameras fill as before


def test_a_reader_that_disagrees_is_an_error(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Samples.sample

    def wrong(self: Samples, index: Any) -> dict[str, Any]:
        sample = honest(self, index)
        sample["actions"][0] += 1
        return sample

    monkeypatch.setattr(Samples, "sample", wrong)
    with pytest.raises(StoreDamaged, match="ds\\[i\\] reads other bytes"):
        bench.bench_store(tiny_store, batch_size=8, workers=(1,))


def test_the_verdict_follows_from_the_figures(report: bench.BenchReport) -> None:
    rates = tuple(bench.LoaderRate(workers, rate, 0.1) for workers, rate in ((1, 500.0), (2, 970.0), (4, 1000.0)))
    one = dataclasses.replace(
        report,
        batch_size=64,
        loaders=rates,
        cores=4,
        roof_samples_per_s=1000.0,
        batch_samples_per_s=900.0,
        is_cold=True,
        busy_cores_of_others=0.0,
        wait_p99_ms=0.1,
    )
    text = " ".join(one.verdict())
    assert "takes longer than 66.0 ms does not wait for this loader (2 workers, 970 samples/s on 4 cores)" in text
    assert "Decoding is 90% of the work" in text
    assert "More workers than 2 gain nothing" in text
    assert "came from storage" in text
    other = dataclasses.replace(
        one, batch_samples_per_s=500.0, is_cold=False, loaders=rates[:1], cores=1, busy_cores_of_others=0.7
    )
    text = " ".join(other.verdict())
    assert "only 50% of the work" in text
    assert "more cores would help" in text
    assert "right after a boot" in text
    assert "Other programs kept 0.7 of 1 cores busy" in text
    late = dataclasses.replace(one, wait_p99_ms=500.0)
    assert "Some batches came late" in " ".join(late.verdict())


def test_the_command_prints_the_report_or_json(tiny_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", str(tiny_store), "--batch-size", "8", "--workers", "1", "--json", "--quiet"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert said.err == ""
    assert found["batch_size"] == 8
    assert found["loaders"][0]["workers"] == 1
    assert found["verdict"]


@pytest.mark.parametrize("wrong", [["--workers", "0"], ["--batch-size", "0"]])
def test_wrong_numbers_are_wrong_use(tiny_store: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", str(tiny_store), *wrong]) == 2
    assert "at least 1" in in_words(capsys.readouterr().err)


def test_no_workers_to_try_is_an_error(tiny_store: Path) -> None:
    with pytest.raises(OptionError):
        bench.bench_store(tiny_store, workers=())


def test_numbers_of_workers_double_up_to_the_cores() -> None:
    assert [bench.turns.doubling(cores) for cores in (1, 2, 3, 4, 6, 64)] == [
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 2, 4),
        (1, 2, 4, 6),
        (1, 2, 4, 8),
    ]


def test_a_view_is_served_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    golden = Path(__file__).parent / "golden/version-1/views.vla"
    store = vla_store.open_store(golden)
    samples = Samples(
        store, windows=bench.turns.windows(store), alignment="causal", view=["moving", "drawn"], images="as_stored"
    )
    report = bench.bench_store(golden, batch_size=4, workers=(1,), view=["moving", "drawn"])
    assert (report.anchors, report.views) == (len(samples), ("moving", "drawn"))
    assert "view moving and drawn" in report.text()
    assert cli.main(["bench", str(golden), "--view", "nope", "--quiet"]) == 2
    assert "no view 'nope'" in in_words(capsys.readouterr().err)


@pytest.fixture(scope="module")
def far_report(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> bench.FarReport:
    pytest.importorskip("aiohttp")
    with RangeServer(tiny_store) as server:
        cache = tmp_path_factory.mktemp("bench") / "cache"
        made = bench.bench_store(server.url, batch_size=8, workers=(1,), cache=cache)
    assert isinstance(made, bench.FarReport)
    return made


def test_at_a_url_both_orders_are_measured_and_what_lies_in_the_cache_needs_no_request(
    far_report: bench.FarReport, report: bench.BenchReport
) -> None:
    runs = {(each.order, each.cache): each for each in far_report.runs}
    assert list(runs) == [
        ("global order", "none"),
        ('shuffle="blocks"', "none"),
        ("global order", "filling"),
        ("global order", "filled"),
    ]
    assert min(each.samples_per_s for each in far_report.runs) > 0 < far_report.roof_samples_per_s
    assert runs["global order", "filled"].nbytes == 0
    assert far_report.digest == report.digest
    assert 0 < far_report.probe.latency_ms <= far_report.probe.latency_most_ms


def test_the_report_of_a_url_is_text_and_json(far_report: bench.FarReport) -> None:
    text = far_report.text()
    for name in ("a request takes", "decoding alone", "global order, 1 worker, from the cache", "-bound: "):
        assert name in text
    told = json.loads(json.dumps(far_report.to_json()))
    assert {"verdict", "bounds", "numpy", "probe", "runs", "nbytes"} <= set(told)
    assert set(told["bounds"]) <= {"CPU", "bandwidth", "latency"}


def _judged(report: bench.FarReport, *runs: bench.Run, mb_s: float | None = 500.0, others: float = 0.0) -> str:
    return " ".join(
        dataclasses.replace(
            report,
            backend="fsspec",
            cores=2,
            roof_samples_per_s=10_000.0,
            probe=bench.Probe(20.0, 25.0, 70.0, mb_s),
            runs=runs,
            cache=None,
            busy_cores_of_others=others,
        ).verdict()
    )


SLOW = bench.Run("global order", 2, "none", 500.0, 1.0, requests=2.0, nbytes=50e3, retries=0, cpu_us=600.0)


def test_the_verdict_of_a_url_names_what_is_in_the_way(far_report: bench.FarReport) -> None:
    text = _judged(far_report, SLOW)
    assert "It is latency-bound: 2 requests and 50 kB a sample, 20 ms each, 15% of the CPU" in text
    assert "20,000 would be decoded if all lay on this machine" in text
    assert "open_store(cache=DIR)" in text
    assert "More workers" in text
    narrow = _judged(far_report, SLOW, mb_s=30.0)
    assert "It is bandwidth-bound" in narrow
    assert "more workers would not" in narrow
    busy = _judged(far_report, dataclasses.replace(SLOW, samples_per_s=3000.0))
    assert "It is CPU-bound" in busy
    assert "vla-store[obstore]" in busy
    # What others take is not there to be used.
    assert "It is CPU-bound" in _judged(far_report, SLOW, others=1.7)


def test_the_verdict_of_a_url_says_what_blocks_and_the_cache_gain(far_report: bench.FarReport) -> None:
    blocks = dataclasses.replace(SLOW, order='shuffle="blocks"', samples_per_s=2000.0, cpu_us=100.0)
    filled = dataclasses.replace(SLOW, cache="filled", samples_per_s=19_000.0, requests=0.0, nbytes=0.0)
    text = _judged(far_report, SLOW, blocks, filled)
    assert '"blocks"): it is 4.0 times as fast here' in text
    assert "What lies in the cache comes at 19,000 samples/s" in text
    assert "open_store(cache=DIR)" not in text
    alike = dataclasses.replace(blocks, samples_per_s=510.0)
    assert "times as fast" not in _judged(far_report, SLOW, alike)
