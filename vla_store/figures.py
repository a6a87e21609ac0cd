"""What commands print: values to text and to JSON. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vla_store.format.schema import FORMAT_VERSION

if TYPE_CHECKING:
    from vla_store.builder import BuildReport
    from vla_store.format.schema import Root
    from vla_store.reader import Store


def size_text(nbytes: float) -> str:
    """1234567 -> "1.23 MB"."""
    if nbytes < 1000:
        return f"{nbytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        nbytes /= 1000
        if nbytes < 999.5:  # else three digits would be 1e+03
            return f"{nbytes:.3g} {unit}"
    nbytes /= 1000
    return f"{nbytes:,.3g} TB" if nbytes < 999.5 else f"{nbytes:,.0f} TB"


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


def root_json(url: str, root: Root) -> dict[str, Any]:
    """A store's root after it was made or changed, for programs."""
    return {
        "digest": root.digest,
        "episodes": root.episodes,
        "fingerprint": root.fingerprint,
        "generation": root.generation,
        "parts": len(root.parts),
        "rows": root.rows,
        "store": url,
    }


def root_text(described: dict[str, Any]) -> str:
    """The same for people, and what else the command tells of itself."""
    lines = [
        f"store          {described['store']}",
        f"episodes       {described['episodes']:,} ({described['rows']:,} steps) in {described['parts']} parts",
        f"fingerprint    {described['fingerprint'][:16]}  (content)",
        f"digest         {described['digest'][:16]}  (this root, generation {described['generation']})",
    ]
    if described.get("added"):
        lines.append(
            f"added          {described['added']['episodes']:,} episodes ({described['added']['rows']:,} steps)"
        )
    if "copied_nbytes" in described:
        lines.append(f"copied         {size_text(described['copied_nbytes'])}")
    if "sent_nbytes" in described:
        lines.append(f"sent           {size_text(described['sent_nbytes'])}")
    return "\n".join(lines)


def store_json(store: Store) -> dict[str, Any]:
    """What a store holds, for programs."""
    documents = [document for _, document in store.parts]
    counts = {suite: {"episodes": 0, "steps": 0, "tasks": 0} for suite in store.suites}
    for task in store.tasks:
        counts[task.suite]["tasks"] += 1
    for episode in store.episodes:
        counts[episode.suite]["episodes"] += 1
        counts[episode.suite]["steps"] += episode.length
    return {
        "conventions": [
            {"file": each.file, "observation": each.observation, "orientation": each.orientation, "suite": each.suite}
            for each in store.conventions.sources
        ],
        "digest": store.digest,
        "episodes": len(store.episodes),
        "fields": {
            name: {
                "camera": each.is_camera,
                "codec": sorted({str(document.fields[name].codec) for document in documents}),
                "dtype": each.dtype,
                "kind": each.kind,
                "prediction": sorted({prediction_text(document.fields[name].prediction) for document in documents}),
                "role": each.role,
                "shape": list(each.shape),
            }
            for name, each in store.fields.items()
        },
        "fingerprint": store.fingerprint,
        "format_version": FORMAT_VERSION,
        "generation": store.generation,
        "nbytes": store.nbytes,
        "parts": [entry.to_json() for entry, _ in store.parts],
        "rows": store.rows,
        "skipped": [
            {"demo": each.demo, "file": each.file, "reason": each.reason, "suite": each.suite} for each in store.skipped
        ],
        "suites": counts,
        "tasks": [{"name": each.name, "suite": each.suite, "text": each.text} for each in store.tasks],
        "url": store.url,
        "warnings": list(store.warnings),
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
            f"{'/'.join(each['codec'])}, {'/'.join(each['prediction'])}" if each["camera"] else "-",
        ]
        for name, each in sorted(described["fields"].items(), key=lambda item: (not item[1]["camera"], item[0]))
    ]
    lines.append(table(["field", "shape", "dtype", "role", "codec, prediction"], fields))
    skipped, warnings = described["skipped"], described["warnings"]
    if skipped or warnings:
        lines += ["", f"{len(skipped)} left out, {len(warnings)} warnings when it was built:"]
        lines += [f"  {each['suite']}/{each['file']} {each['demo'] or ''}: {each['reason']}" for each in skipped[:10]]
        lines += [f"  {each['suite']}/{each['file']}: {each['warning']}" for each in warnings[:10]]
        if max(len(skipped), len(warnings)) > 10:
            lines.append("  ... (--json lists all)")
    return "\n".join(lines)
