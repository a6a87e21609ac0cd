"""The benchmark over object storage: a quick turn of it runs, reads what the local Loader reads, and its table says what was met."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("h5py", reason="its store is built from HDF5")
pytest.importorskip("aiohttp", reason="it reads over http")
if sys.platform != "linux":
    pytest.skip("it reads /proc", allow_module_level=True)
if not (Path(__file__).resolve().parents[1] / "benchmarks").exists():
    pytest.skip("the tests of an installed wheel run without the checkout", allow_module_level=True)

from benchmarks import cloud
from benchmarks.object_server import NoServer

READ = "first epoch, no cache, global order: fsspec http, 1 ms"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    try:
        return cloud.measure(tmp_path_factory.mktemp("cloud"), rounds=1, latencies=(1,), quick=True, only=READ)
    except NoServer as error:
        pytest.skip(str(error))


def test_a_turn_over_the_server_is_compared_with_the_local_one_before_it(measured: dict[str, Any]) -> None:
    # `measure` compares the bytes that both read itself.
    assert not measured["failed"]
    remote, local = measured["turns"][READ], measured["turns"]["local"]
    assert local["requests_per_sample"]["median"] == 0 < remote["requests_per_sample"]["median"]
    assert remote["of_local"]["median"] == pytest.approx(
        remote["samples_per_s"]["median"] / local["samples_per_s"]["median"], rel=1e-3
    )
    assert remote["server_us"]["median"] > 0 < remote["cpu_us"]["workers"]["median"]
    assert [(row["what"], row["met"] in (True, False)) for row in measured["rows"]] == [(READ, True)]
    assert READ in cloud.text(measured)


def test_a_turn_that_fails_is_told_and_its_row_not_measured(tmp_path: Path, measured: dict[str, Any]) -> None:
    turn = dict(measured["turns"][READ])
    blocks = "first epoch, empty cache, blocks: fsspec http, 1 ms"
    turn["of_local"] = {"median": 0.7, "low": 0.6, "high": 0.8}
    turn["requests_per_sample"] = {"median": 0.2, "low": 0.1, "high": 0.2, "count": 1}
    result = measured | {"turns": {blocks: turn}, "failed": {READ: "Traceback\nOptionError: no"}}
    rows = {row["what"]: row["met"] for row in cloud.rows_of(result, (1,))}
    assert rows[blocks] is True
    assert rows["requests a sample, blocks, 1 ms"] is False
    assert rows[READ] is None
    assert "OptionError: no" in cloud.text(result | {"rows": cloud.rows_of(result, (1,))})
