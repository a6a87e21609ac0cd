"""A kind of source that the package does not know, in one file: folders of text files, one an episode, of three tasks."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import vla_store
from vla_store.builder import EpisodeInfo, FieldSpec, SourceInfo, TaskInfo
from vla_store.cli import main
from vla_store.sources import Claim, SourceKind, register, unregister

FIELDS = {"actions": FieldSpec("float64", (3,), "step"), "front": FieldSpec("uint8", (8, 8, 3), "observation")}
TASKS = [TaskInfo(f"{word}_it", f"{word} it") for word in ("open", "close", "turn")]


@dataclass(frozen=True)
class Log:
    path: str

    def scan(self) -> SourceInfo:
        numbers = sorted(int(file.stem) for file in Path(self.path).glob("*.log"))
        episodes = tuple(EpisodeInfo(number, 9, FIELDS, task=TASKS[number % 3]) for number in numbers)
        names = {"suite": "logs", "file": Path(self.path).name}
        return SourceInfo(**names, orientation="top_down", observation="before", nbytes=1, episodes=episodes)

    def read(self, number: int, field: str, start: int, stop: int) -> np.ndarray:
        rows = np.loadtxt(f"{self.path}/{number}.log")[start:stop]
        return rows if field == "actions" else np.full((len(rows), 8, 8, 3), number, np.uint8)

    def attributes(self, number: int | None) -> dict:
        return {"/": {}}


class Logs(SourceKind):
    name = "logs"

    def claim(self, path: Path) -> Claim:
        return Claim.MARK if (path / "0.log").exists() else Claim.NONE

    def open(self, path: Path, *, skip_bad: bool) -> list[Log]:
        return [Log(str(path))]


def test_a_registered_kind_is_built_verified_appended_and_recoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a/logs", "b/more"):
        Path(folder).mkdir(parents=True)
        for number in range(6):
            np.savetxt(f"{folder}/{number}.log", np.arange(27).reshape(9, 3) * number)
    kind = register(Logs())
    for command in ("build a s", "append b/more s", "recode s t --preset small", "verify t --against a --against b"):
        assert main([*command.split(), "--quiet"]) == 0, command
    unregister(kind)
    samples = vla_store.Samples("t", tasks="turn it", windows={"actions": 0}, alignment="as_stored")
    assert (len(samples), samples[-1]["actions"][2]) == (2 * 2 * 9, 26 * 5)
