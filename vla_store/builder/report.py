"""What a build gave, as a value, as text and as JSON. No I/O. Imports format and the plan of memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_store.builder.memory import MemoryPlan
from vla_store.format.nonfinite import NonFinite
from vla_store.format.schema import PartDocument, Root
from vla_store.format.skipped import Skipped
from vla_store.text import Report, counted, encoding_text, size_text, table


@dataclass(frozen=True)
class CameraReport:
    """What a build chose for one camera.

    Attributes
    ----------
    name
        The field.
    shape
        Shape of one picture.
    prediction
        Names of the predictions that its pictures are encoded by, in order; empty for none.
    codec
        The codec as text, with its level where it has one.
    share
        Stored bytes over raw pixels, backgrounds included.
    """

    name: str
    shape: tuple[int, ...]
    prediction: tuple[str, ...]
    codec: str
    share: float


@dataclass(frozen=True, repr=False)
class BuildReport(Report):
    """Result of a build.

    Attributes
    ----------
    store
        Path or URL of the store; in the report of an append, the folder in which the part was encoded.
    root
        The root that was committed; None for a dry run, and in the report of an append (see `AppendReport.root`).
    part_id
        Name of the part: the first 16 hexadecimal digits of the SHA-256 of its plan.
    document
        Document of the part: fields, sources and tasks.
    preset
        "raw", "fast" or "small".
    rows, episodes
        Numbers of steps and of episodes in the part.
    pieces
        Number of pieces of work that the build consists of.
    cameras
        What was chosen for each camera.
    nbytes
        Bytes of all objects that the store needs, as `Store.nbytes` says; where nothing was encoded, a projection from the frames
        that the build's probe encoded.
    source_nbytes
        Bytes of the sources.
    memory
        Executor, workers and the projected peak of memory.
    skipped
        Demonstrations that were left out, each with its reason.
    warnings
        Lines about the sources, each with the file's name.
    seconds
        Time since planning began.
    resumed
        True if an earlier call had begun the build.
    nonfinite
        One entry for each field that has a number that is NaN or infinite; empty for a dry run, which reads too little
        to know.
    """

    store: Path | str
    root: Root | None
    part_id: str
    document: PartDocument
    preset: str
    rows: int
    episodes: int
    pieces: int
    cameras: tuple[CameraReport, ...]
    nbytes: int
    source_nbytes: int
    memory: MemoryPlan
    skipped: tuple[Skipped, ...]
    warnings: tuple[str, ...]
    seconds: float
    resumed: bool
    nonfinite: tuple[NonFinite, ...] = ()

    def told(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Yield what the command says of the sources, on stderr."""
        yield "warning", [*self.warnings, *(each.text for each in self.nonfinite)]
        yield "left out", [f"{each.place}: {each.reason}" for each in self.skipped]

    def to_json(self) -> dict[str, Any]:
        """Return the report for programs.

        Returns
        -------
        dict
            Values that JSON can hold; `written` tells whether there is a root.
        """
        plain = ("episodes", "nbytes", "pieces", "preset", "resumed", "rows", "seconds", "source_nbytes")
        return {name: getattr(self, name) for name in plain} | {
            "cameras": [dict(sorted(vars(each).items())) for each in self.cameras],
            "digest": self.root.digest if self.root else None,
            "fingerprint": self.root.fingerprint if self.root else None,
            "executor": self.memory.executor,
            "memory_nbytes": self.memory.nbytes,
            "nonfinite": {each.field: each.to_json() for each in self.nonfinite},
            "part": self.part_id,
            "skipped": [each.to_json() for each in self.skipped],
            "store": str(self.store),
            "tasks": len(self.document.tasks),
            "warnings": list(self.warnings),
            "workers": self.memory.workers,
            "written": self.root is not None,
        }

    def text(self) -> str:
        """Return the report for people: what was chosen per camera, and what came out.

        Returns
        -------
        str
            Several lines; without a root, what would be written and the memory that it would take.
        """
        cameras = [
            [
                each.name,
                "x".join(map(str, each.shape)),
                "+".join(each.prediction) or "none",
                each.codec,
                f"{each.share:.3f}",
            ]
            for each in self.cameras
        ]
        share = self.nbytes / max(1, self.source_nbytes)
        source = f"of the source's {size_text(self.source_nbytes)}"
        episodes = f"episodes       {self.episodes:,} ({counted(self.rows, 'step')})"
        lines = [table(["camera", "shape", "prediction", "codec", "of raw"], cameras), ""] if cameras else []
        if self.root is None:
            worker = ("thread", "threads") if self.memory.executor == "threads" else ("process", "processes")
            lines += [
                f"would write    {self.store}",
                f"{episodes}, encoded in {counted(self.pieces, 'piece')}",
                f"size           about {size_text(self.nbytes)}, {share:.2f} {source}",
                f"memory         at most {self.memory.nbytes >> 20} MiB with {counted(self.memory.workers, *worker)}",
            ]
        else:
            lines += [
                f"store          {self.store}",
                episodes,
                f"size           {size_text(self.nbytes)}, {share:.3f} {source}",
                f"fingerprint    {self.root.fingerprint[:16]}  (content; the same for every preset)",
                f"time           {self.seconds:.1f} s{', resumed' if self.resumed else ''}",
            ]
        decoded = {(each.codec, each.decoder) for each in self.document.sources if each.codec}
        lines += [
            f"decoded        from {encoding_text(codec)} by {decoder}; the store keeps the pixels"
            for codec, decoder in sorted(decoded)
        ]
        if self.skipped:
            lines.append(f"left out       {len(self.skipped)} (see above; recorded in the store)")
        return "\n".join(lines)
