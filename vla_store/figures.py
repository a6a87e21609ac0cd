"""What commands print: values to text and to JSON. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vla_store.builder import BuildReport
    from vla_store.reader import Store


def size_text(nbytes: float) -> str:
    """1234567 -> "1.23 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}" if unit != "B" else f"{nbytes:.0f} B"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell; the first is left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def prediction_text(prediction: Sequence[str]) -> str:
    """("background", "green") -> "background+green"; () -> "none"."""
    return "+".join(prediction) or "none"


def build_json(report: BuildReport) -> dict[str, Any]:
    """The report of a build, for programs."""
    return {
        "cameras": [
            {
                "codec": each.codec,
                "name": each.name,
                "prediction": list(each.prediction),
                "shape": list(each.shape),
                "share": each.share,
            }
            for each in report.cameras
        ],
        "digest": report.root.digest if report.root else None,
        "episodes": report.episodes,
        "fingerprint": report.root.fingerprint if report.root else None,
        "memory_nbytes": report.memory.nbytes,
        "nbytes": report.nbytes,
        "part": report.part_id,
        "preset": report.preset,
        "resumed": report.resumed,
        "rows": report.rows,
        "seconds": report.seconds,
        "skipped": [each.to_json() for each in report.skipped],
        "source_nbytes": report.source_nbytes,
        "store": str(report.store),
        "tasks": report.tasks,
        "warnings": list(report.warnings),
        "workers": report.memory.workers,
        "written": report.root is not None,
    }


def build_table(report: BuildReport) -> str:
    """The report of a build, for people: what was chosen per camera, and what came out."""
    cameras = [
        [each.name, "x".join(map(str, each.shape)), prediction_text(each.prediction), each.codec, f"{each.share:.3f}"]
        for each in report.cameras
    ]
    ratio = report.nbytes / max(1, report.source_nbytes)
    lines = [table(["camera", "shape", "prediction", "codec", "of raw"], cameras), ""] if cameras else []
    if report.root is None:
        lines += [
            f"would write    {report.store}",
            f"episodes       {report.episodes:,} ({report.rows:,} steps) in {report.tasks} tasks",
            f"size           about {size_text(report.nbytes)}, {ratio:.2f} of the source's {size_text(report.source_nbytes)}",
            f"memory         at most {report.memory.nbytes >> 20} MiB with {report.memory.workers} workers",
        ]
    else:
        lines += [
            f"store          {report.store}",
            f"episodes       {report.episodes:,} ({report.rows:,} steps)",
            f"size           {size_text(report.nbytes)}, {ratio:.3f} of the source's {size_text(report.source_nbytes)}",
            f"fingerprint    {report.root.fingerprint[:16]}  (content; the same for every preset)",
            f"time           {report.seconds:.1f} s{', resumed' if report.resumed else ''}",
        ]
    if report.skipped:
        lines.append(f"left out       {len(report.skipped)} (see above; recorded in the store)")
    return "\n".join(lines)


def store_json(store: Store) -> dict[str, Any]:
    """What a store holds, for programs."""
    root = store.root
    return {
        "conventions": [
            {"file": each.file, "observation": each.observation, "orientation": each.orientation, "suite": each.suite}
            for each in store.sources
        ],
        "digest": root.digest,
        "episodes": root.episodes,
        "fields": {
            field.name: {
                "camera": field.is_camera,
                "codec": str(field.codec),
                "dtype": field.dtype,
                "kind": field.kind,
                "prediction": list(field.prediction),
                "role": field.role,
                "shape": list(field.shape),
            }
            for field in store.fields.values()
        },
        "fingerprint": root.fingerprint,
        "format_version": 1,
        "generation": root.generation,
        "nbytes": store.nbytes,
        "parts": [each.to_json() for each in root.parts],
        "rows": root.rows,
        "skipped": store.skipped,
        "suites": {
            suite: {"episodes": episodes, "steps": steps, "tasks": tasks}
            for suite, (tasks, episodes, steps) in store.suite_counts().items()
        },
        "url": store.url,
    }


def store_text(described: dict[str, Any]) -> str:
    """What a store holds, for people."""
    conventions = {(each["orientation"], each["observation"]) for each in described["conventions"]}
    lines = [
        f"store          {described['url']}",
        f"rows           {described['rows']:,} steps of {described['episodes']:,} episodes in {len(described['parts'])} part(s)",
        f"size           {size_text(described['nbytes'])}",
        f"fingerprint    {described['fingerprint'][:16]}  (content)",
        f"digest         {described['digest'][:16]}  (this root, generation {described['generation']})",
    ]
    for orientation, observation in sorted(conventions):
        lines.append(f"conventions    pictures {orientation}, observations recorded {observation} the action")
    suites = [
        [name, str(each["tasks"]), str(each["episodes"]), f"{each['steps']:,}"]
        for name, each in described["suites"].items()
    ]
    lines += ["", table(["suite", "tasks", "episodes", "steps"], suites), ""]
    fields = [
        [
            name,
            "x".join("?" if axis is None else str(axis) for axis in each["shape"]) or "-",
            each["dtype"],
            each["role"],
            f"{each['codec']}, {prediction_text(each['prediction'])}" if each["camera"] else "-",
        ]
        for name, each in sorted(described["fields"].items(), key=lambda item: (not item[1]["camera"], item[0]))
    ]
    lines.append(table(["field", "shape", "dtype", "role", "codec, prediction"], fields))
    skipped = described["skipped"] or {"skipped": [], "warnings": []}
    if skipped["skipped"] or skipped["warnings"]:
        lines += ["", f"{len(skipped['skipped'])} left out, {len(skipped['warnings'])} warnings when it was built:"]
        lines += [
            f"  {each['suite']}/{each['file']} {each['demo'] or ''}: {each['reason']}" for each in skipped["skipped"]
        ]
        lines += [f"  {each['suite']}/{each['file']}: {each['warning']}" for each in skipped["warnings"]]
    if len(described["parts"]) > 64:
        lines += ["", "hint: a store of more than 64 parts opens slowly; `vla-store recode` makes one part of them"]
    return "\n".join(lines)
