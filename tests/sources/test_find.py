"""Which sources there are: what paths and objects stand for, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from own_sources import Own

from vla_store.errors import OptionError, SourceNotFound
from vla_store.sources.find import find_sources


def test_a_source_is_a_path_or_an_object() -> None:
    with pytest.raises(SourceNotFound):
        find_sources(["nowhere"])
    with pytest.raises(OptionError, match="methods of EpisodeSource"):
        find_sources([42])  # type: ignore[list-item]
    with pytest.raises(OptionError, match="nothing to build from"):
        find_sources([])
    own = Own()
    assert find_sources([own]) == [own]


@pytest.mark.parametrize(("name", "value"), [("orientation", "upright"), ("observation", "during")])
def test_an_option_that_cannot_be_lists_those_that_can(tiny_source: Path, name: str, value: str) -> None:
    with pytest.raises(OptionError) as caught:
        find_sources([tiny_source], **{name: value})  # type: ignore[arg-type]
    assert "allowed" in caught.value.places
