"""The options of a build are listed once: functions take them by keyword and show them, a plan records those that decide bytes."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from vla_store.builder import build_store
from vla_store.builder.options import AppendOptions, BuildOptions
from vla_store.errors import OptionError, UnknownOption
from vla_store.manage.append import append_store


def test_an_option_that_does_not_exist_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownOption, match="did you mean 'overwrite'"):
        build_store(tmp_path, tmp_path / "x.vla", overwrit=True)  # type: ignore[call-arg]
    with pytest.raises(OptionError, match="build_store takes options by name"):
        build_store(tmp_path, tmp_path / "x.vla", "fast")  # type: ignore[misc]


def test_functions_show_the_fields_of_their_options() -> None:
    for function, options in ((build_store, BuildOptions), (append_store, AppendOptions)):
        parameters = inspect.signature(function).parameters
        assert list(parameters)[:2] == ["sources", "store"]
        assert list(parameters)[2:] == list(inspect.signature(options).parameters)
        assert all(f"\n{name}\n" in (function.__doc__ or "") or "," in name for name in ("workers", "skip_bad"))


def test_a_plan_records_the_options_that_decide_bytes() -> None:
    plain = {"observation": None, "orientation": None, "preset": "fast"}
    assert BuildOptions(workers=3, overwrite=True, skip_bad=True).recorded() == plain
    given = BuildOptions(orientation={"a.hdf5": "rot180", None: "top_down"}, exclude=["obs/b/", "a"])
    assert given.recorded() == plain | {"orientation": "top_down", "exclude": ["a", "obs/b"]}


def test_an_appends_preset_is_that_of_the_last_part_only_where_none_is_given() -> None:
    assert AppendOptions().to_build({"preset": "raw"}).preset == "raw"
    assert AppendOptions(preset="small").to_build({"preset": "raw"}).preset == "small"
    with pytest.raises(OptionError, match="there is no preset ''"):
        AppendOptions(preset="").to_build({"preset": "raw"})
