"""What a build gave, as text and as JSON. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vla_store.text import counted, size_text, table

if TYPE_CHECKING:
    from vla_store.builder import BuildReport


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
        "executor": report.memory.executor,
        "memory_nbytes": report.memory.nbytes,
        "nbytes": report.nbytes,
        "nonfinite": {each.field: each.to_json() for each in report.nonfinite},
        "part": report.part_id,
        "pieces": report.pieces,
        "preset": report.preset,
        "resumed": report.resumed,
        "rows": report.rows,
        "seconds": report.seconds,
        "skipped": [each.to_json() for each in report.skipped],
        "source_nbytes": report.source_nbytes,
        "store": str(report.store),
        "tasks": len(report.document.tasks),
        "warnings": list(report.warnings),
        "workers": report.memory.workers,
        "written": report.root is not None,
    }


def build_table(report: BuildReport) -> str:
    """The report of a build, for people: what was chosen per camera, and what came out."""
    cameras = [
        [
            each.name,
            "x".join(map(str, each.shape)),
            "+".join(each.prediction) or "none",
            each.codec,
            f"{each.share:.3f}",
        ]
        for each in report.cameras
    ]
    ratio = report.nbytes / max(1, report.source_nbytes)
    lines = [table(["camera", "shape", "prediction", "codec", "of raw"], cameras), ""] if cameras else []
    if report.root is None:
        lines += [
            f"would write    {report.store}",
            f"episodes       {report.episodes:,} ({report.rows:,} steps), encoded in {report.pieces} pieces",
            f"size           about {size_text(report.nbytes)}, {ratio:.2f} of the source's {size_text(report.source_nbytes)}",
            f"memory         at most {report.memory.nbytes >> 20} MiB with {_workers(report)}",
        ]
    else:
        lines += [
            f"store          {report.store}",
            f"episodes       {report.episodes:,} ({report.rows:,} steps)",
            f"size           {size_text(report.nbytes)}, {ratio:.3f} of the source's {size_text(report.source_nbytes)}",
            f"fingerprint    {report.root.fingerprint[:16]}  (content; the same for every preset)",
            f"time           {report.seconds:.1f} s{', resumed' if report.resumed else ''}",
        ]
    decoders = {each.decoder for each in report.document.sources} - {""}
    lines += [f"decoded        from JPEG by {each}; the store keeps the pixels" for each in sorted(decoders)]
    if report.skipped:
        lines.append(f"left out       {len(report.skipped)} (see above; recorded in the store)")
    return "\n".join(lines)


def _workers(report: BuildReport) -> str:
    of = ("thread", "threads") if report.memory.executor == "threads" else ("process", "processes")
    return counted(report.memory.workers, *of)
