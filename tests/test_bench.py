"""`vla-store bench`: every way to read gives the same bytes, or it says so; what it prints follows from what it measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vla_store
from vla_store import bench, cli
from vla_store.errors import OptionError, StoreDamaged
from vla_store.reader.samples import Samples


@pytest.fixture(scope="module", autouse=True)
def _short_turns() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "TURN_S", 0.01)
        patch.setattr(bench, "LOADER_S", 0.05)
        patch.setattr(bench, "ROUNDS", 2)
        yield


@pytest.fixture(scope="module")
def report(tiny_store: Path) -> bench.BenchReport:
    return bench.bench_store(tiny_store, batch_size=8, workers=(1,))


def test_the_digest_is_that_of_the_loaders_first_batch(report: bench.BenchReport, tiny_store: Path) -> None:
    from vla_store.loader.batches import Batches

    store = vla_store.open_store(tiny_store)
    samples = Samples(store, windows=bench._windows(store), alignment="causal", images="as_stored")
    first = next(iter(Batches(samples, batch_size=8, workers=0)))
    assert report.digest == bench._digest(first)
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
    roof = bench._roof_work(samples, indices, out)
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


def test_of_a_store_at_a_url_nothing_is_said_of_this_machines_disk(report: bench.BenchReport) -> None:
    remote = dataclasses.replace(
        report, store="s3://bucket/x.vla", is_cold=False, batch_samples_per_s=10.0, roof_samples_per_s=1000.0
    )
    verdict = " ".join(remote.verdict())
    assert "Decoding is 1% of the work of a batch, the rest is fetching" in verdict
    assert "vla-store copy" in verdict
    assert "boot" not in verdict
    assert "over the network" in remote.text()


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
    assert "at least 1" in capsys.readouterr().err


def test_no_workers_to_try_is_an_error(tiny_store: Path) -> None:
    with pytest.raises(OptionError):
        bench.bench_store(tiny_store, workers=())


def test_numbers_of_workers_double_up_to_the_cores() -> None:
    assert [bench._doubling(cores) for cores in (1, 2, 3, 4, 6, 64)] == [
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
        store, windows=bench._windows(store), alignment="causal", view=["moving", "drawn"], images="as_stored"
    )
    report = bench.bench_store(golden, batch_size=4, workers=(1,), view=["moving", "drawn"])
    assert (report.anchors, report.views) == (len(samples), ("moving", "drawn"))
    assert "view moving and drawn" in report.text()
    assert cli.main(["bench", str(golden), "--view", "nope", "--quiet"]) == 2
    assert "no view 'nope'" in capsys.readouterr().err
