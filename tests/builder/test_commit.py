"""From finished shards to a store: metadata that zarr-python reads, a listing of everything, statistics of the data, the root last."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import store_tools
import tiny_libero
import zarr
from own_sources import Own, plan_of

from vla_store import open_store
from vla_store.builder import FieldSpec, commit
from vla_store.builder.plan import Plan
from vla_store.errors import MachineError
from vla_store.format import canonical
from vla_store.format.listing import parse_listing
from vla_store.format.statistics import FLOATS, FieldStatistics


@pytest.fixture(scope="module")
def plan(tiny_source: Path) -> Plan:
    return plan_of([tiny_source])


def test_metadata_describes_every_array_and_zarr_reads_it(plan: Plan, tmp_path: Path) -> None:
    written = commit.write_metadata(plan, tmp_path)
    assert {each.key for each in written} == store_tools.objects(tmp_path).keys()
    group = zarr.open_group(str(tmp_path), mode="r")
    arrays = {path: node for path, node in group.members(max_depth=None) if isinstance(node, zarr.Array)}
    assert {path: (array.shape, str(array.dtype)) for path, array in arrays.items()} == {
        "backgrounds/agentview_rgb": ((10, 16, 24, 3), "uint8"),
        "episodes/attributes": ((plan.attributes_nbytes,), "uint8"),
        "episodes/digest": ((10, 32), "uint8"),
        "episodes/table": ((10, 10), "int64"),
        "frames/eye_in_hand_rgb": ((137, 16, 24, 3), "uint8"),
        "index/steps": ((137, 2), "int32"),
        "residuals/agentview_rgb": ((137, 16, 24, 3), "uint8"),
        "steps/actions": ((137, 7), "float64"),
        "steps/dones": ((137,), "uint8"),
        "steps/ee_ori": ((137, 3), "float64"),
        "steps/ee_pos": ((137, 3), "float64"),
        "steps/ee_states": ((137, 6), "float64"),
        "steps/gripper_states": ((137, 2), "float64"),
        "steps/joint_states": ((137, 7), "float64"),
        "steps/rewards": ((137,), "uint8"),
        "steps/robot_states": ((137, 9), "float64"),
        "steps/states": ((plan.elements["states"],), "float64"),
    }


def test_metadata_that_zarr_reads_in_another_way_stops_the_build(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = commit.write_metadata(plan, tmp_path)
    assert written
    found = commit.metadata_of(plan)
    found["steps/actions"] = {**found["steps/actions"], "shape": [137, 8]}
    with pytest.raises(MachineError, match="in another way") as caught:
        commit._check_with_zarr(tmp_path, found)
    assert caught.value.places["array"] == "steps/actions"


def test_the_listing_names_every_object_of_the_part_but_itself(tiny_stores: Mapping[str, Path]) -> None:
    for store in tiny_stores.values():
        part = store_tools.part_of(store)
        listed = parse_listing((part / "objects.jsonl").read_bytes(), "objects.jsonl")
        there = store_tools.objects(part)
        del there["objects.jsonl"]
        assert [(each.key, each.size, each.sha256) for each in listed] == [
            (key, len(data), canonical.sha256_hex(data)) for key, data in sorted(there.items())
        ]


def test_a_first_build_holds_what_the_format_names_and_nothing_else(tiny_store: Path) -> None:
    root = store_tools.root_of(tiny_store)
    (entry,) = root.parts
    outside = {key for key in store_tools.objects(tiny_store) if not key.startswith(f"{entry.path}/")}
    assert outside == {
        "zarr.json",
        "roots/00000001.json",
        "parts/zarr.json",
        f"meta/{root.meta.statistics}.json",
    }
    assert (root.generation, root.parent, root.rows, root.episodes) == (1, None, 137, 10)
    assert root.meta.skipped is None


def naive_statistics(values: np.ndarray) -> dict[str, float]:
    """Of one component, by NumPy's own functions."""
    return {
        "min": values.min(),
        "max": values.max(),
        "mean": values.mean(),
        "std": values.std(),
        "q01": np.quantile(values, 0.01),
        "q99": np.quantile(values, 0.99),
    }


def assert_statistics(found: FieldStatistics, rows: np.ndarray) -> None:
    flat = rows.astype(np.float64).reshape(len(rows), -1)
    assert (found.count == len(rows)).all()
    for name in FLOATS:
        expected = [naive_statistics(flat[:, i])[name] for i in range(flat.shape[1])]
        assert np.allclose(np.ravel(getattr(found, name)), expected, rtol=1e-12, atol=1e-12), name


def test_statistics_are_those_of_the_rows_over_all_and_by_suite(tiny_store: Path) -> None:
    statistics = open_store(tiny_store).statistics
    rows = list(tiny_libero.store_rows())
    names = [name for name, array in rows[0][1].items() if not name.endswith("_rgb") and name != "states"]
    assert sorted(statistics.all) == sorted(names)
    for name in names:
        assert_statistics(statistics.all[name], np.concatenate([arrays[name] for _, arrays in rows]))
        for suite in ("libero_10", "libero_goal", "libero_spatial"):
            of_suite = np.concatenate([arrays[name] for each, arrays in rows if each.file.suite == suite])
            assert_statistics(statistics.suites[suite][name], of_suite)


@dataclass(frozen=True)
class Cubes(Own):
    """Fields of other ranks, and missing numbers."""

    fields: Mapping[str, FieldSpec] = field(
        default_factory=lambda: {
            "actions": FieldSpec("float32", (4,), "step"),
            "cube": FieldSpec("float64", (2, 3), "step"),
            "flag": FieldSpec("bool", (), "step"),
        }
    )

    def read(self, number: int, field: str, start: int, stop: int) -> np.ndarray:
        rows = super().read(number, field, start, stop)
        if field == "cube":
            rows[rows == rows.max()] = np.nan
        return rows


def test_statistics_keep_a_fields_shape_and_leave_out_what_is_no_number(tmp_path: Path) -> None:
    store = open_store(store_tools.built(tmp_path / "x.vla", [Cubes()], preset="raw"))
    cube = store.read("cube", range(store.rows))
    found = store.statistics.all["cube"]
    assert found.mean.shape == (2, 3)
    assert found.nan.sum() == np.isnan(cube).sum() > 0
    assert np.allclose(found.mean, np.nanmean(cube, axis=0))
    assert store.statistics.all["flag"].mean.shape == ()
    assert store.cameras == ()


def test_what_was_left_out_and_noticed_is_one_document_or_none(tiny_source: Path, tmp_path: Path) -> None:
    import shutil

    source = Path(shutil.copytree(tiny_source, tmp_path / "source"))
    tiny_libero.BROKEN["without_actions"](source)
    tiny_libero.set_attribute(next((source / "libero_goal").glob("*.hdf5")), "data", "total", np.int64(1))
    store = store_tools.built(tmp_path / "x.vla", [source], skip_bad=True)
    digest = store_tools.root_of(store).meta.skipped
    document = json.loads((store / f"meta/{digest}.json").read_bytes())
    assert [each["demo"] for each in document["skipped"]] == ["demo_1"]
    # The counts of the file that lost a demo are no warning of their own.
    assert [each["warning"] for each in document["warnings"] if each["suite"] == "libero_goal"] == [
        "total says 1, the arrays have 22"
    ]
