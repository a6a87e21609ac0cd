"""What commands print: values to text and to JSON. No I/O."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from vla_store.errors import DataError
from vla_store.format.schema import FORMAT_VERSION
from vla_store.text import WIDTH, counted, size_text, table

if TYPE_CHECKING:
    from vla_store.builder import BuildReport
    from vla_store.format.schema import Root
    from vla_store.format.views import View
    from vla_store.reader import Store

MAX_TASKS = 20
MAX_TEXTS = 8


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
        [each.name, "x".join(map(str, each.shape)), prediction_text(each.prediction), each.codec, f"{each.share:.3f}"]
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
        f"episodes       {described['episodes']:,} ({described['rows']:,} steps) in {counted(described['parts'], 'part')}",
        f"fingerprint    {described['fingerprint'][:16]}  (content)",
        f"digest         {described['digest'][:16]}  (this root, generation {described['generation']})",
    ]
    if described.get("added"):
        lines.append(
            f"added          {described['added']['episodes']:,} episodes ({described['added']['rows']:,} steps)"
        )
    if "removed" in described:
        lines.append(f"removed        {', '.join(described['removed']) or 'no view'}")
    if "copied_nbytes" in described:
        lines.append(f"copied         {size_text(described['copied_nbytes'])}")
    if "sent_nbytes" in described:
        lines.append(f"sent           {size_text(described['sent_nbytes'])}")
    return "\n".join(lines)


def damaged_views(store: Store) -> DataError | None:
    """Why the views of a store cannot be read; None where they can."""
    try:
        _ = store.views
    except DataError as error:
        return error
    return None


def excluded(store: Store) -> list[str]:
    """What the builds of a store were told to leave out, by `--exclude`; another writer's plan may have another form."""
    plans = [document.plan for _, document in store.parts]
    said = [each for plan in plans for each in (plan.get("options"), *(plan.get("sources") or ()))]
    given = [each["exclude"] for each in said if isinstance(each, dict) and isinstance(each.get("exclude"), list)]
    return sorted({str(path) for each in given for path in each})


def store_json(store: Store) -> dict[str, Any]:
    """What a store holds, for programs."""
    documents = [document for _, document in store.parts]
    broken = damaged_views(store)
    damage = None if broken is None else {"object": broken.places.get("object", ""), "what": broken.what}
    counts = {suite: {"episodes": 0, "steps": 0, "tasks": 0} for suite in store.suites}
    for task in store.tasks:
        counts[task.suite]["tasks"] += 1
    for episode in store.episodes:
        counts[episode.suite]["episodes"] += 1
        counts[episode.suite]["steps"] += episode.length
    return {
        "conventions": [
            {
                "codec": each.codec,
                "decoder": each.decoder,
                "file": each.file,
                "observation": each.observation,
                "orientation": each.orientation,
                "said": list(each.said),
                "suite": each.suite,
            }
            for each in store.conventions.sources
        ],
        "digest": store.digest,
        "episodes": len(store.episodes),
        "excluded": excluded(store),
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
        "nonfinite": {name: {**each.to_json(), "text": each.text} for name, each in store.nonfinite.items()},
        "parts": [entry.to_json() for entry, _ in store.parts],
        "rows": store.rows,
        "skipped": [
            {"demo": each.demo, "file": each.file, "reason": each.reason, "suite": each.suite} for each in store.skipped
        ],
        "suites": counts,
        "tasks": [
            {"name": each.name, "suite": each.suite, "text": each.text, "texts": list(each.texts)}
            for each in store.tasks
        ],
        "url": store.url,
        "views": {} if damage else views_json(store.views.values()),
        "views_damaged": damage,
        "warnings": list(store.warnings),
    }


def views_json(views: Iterable[View]) -> dict[str, Any]:
    """Views by name, for programs; without their rows."""
    return {
        each.name: {
            "counts": [count.to_json() for count in each.counts],
            "covered_steps": each.covered_steps,
            "description": each.description,
            "kind": each.kind,
            "kept_steps": each.steps,
            "options": dict(each.options),
            "rule": each.rule,
        }
        for each in views
    }


def views_text(described: dict[str, Any], rows: int, *, by_task: bool) -> str:
    """Views of a store of so many rows, for people. by_task: with what each keeps of every task."""
    lines = [
        table(
            ["view", "kind", "kept", "of steps", "share", "episodes", "of"],
            [
                [
                    name,
                    each["kind"],
                    f"{each['kept_steps']:,}",
                    f"{each['covered_steps']:,}",
                    f"{each['kept_steps'] / max(1, each['covered_steps']):.1%}",
                    f"{sum(count['kept_episodes'] for count in each['counts']):,}",
                    f"{sum(count['episodes'] for count in each['counts']):,}",
                ]
                for name, each in described.items()
            ],
        )
    ]
    width = max(map(len, described))
    lines += ["", *(f"{name:<{width}}  {rule_text(each['rule'], each['options'])}" for name, each in described.items())]
    for name, each in described.items() if by_task else ():
        lines += ["", *textwrap.wrap(f"{name}: {each['description']}", WIDTH, break_on_hyphens=False)]
        losing = [count for count in each["counts"] if count["kept_steps"] < count["steps"]]
        losing.sort(key=lambda count: count["kept_steps"] / count["steps"])
        if losing:
            lines += ["", *_losses(losing[:MAX_TASKS])]
        if len(losing) > MAX_TASKS:
            lines.append(f"... and {len(losing) - MAX_TASKS} more that lose steps (--json lists all)")
        if len(losing) < len(each["counts"]):
            lines += ["", f"{len(each['counts']) - len(losing)} of {len(each['counts'])} tasks lose no step"]
    for name, each in described.items():
        if each["covered_steps"] < rows:
            lines += [
                "",
                f"{name} tells of {each['covered_steps']:,} of the store's {rows:,} steps; no others are in it.",
            ]
    return "\n".join(lines)


def _losses(counts: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each task that loses steps. Names of tasks are long: they stand last."""
    numbers = [
        [
            f"{count['steps'] - count['kept_steps']:,}",
            f"{count['steps']:,}",
            f"{1 - count['kept_steps'] / count['steps']:.1%}",
            f"{count['episodes'] - count['kept_episodes']:,}",
            f"{count['episodes']:,}",
        ]
        for count in counts
    ]
    names = ["task", *(f"{count['suite']}/{count['task']}" for count in counts)]
    shown = table(["steps lost", "of", "share", "episodes lost", "of"], numbers).split("\n")
    return [f"{line}  {name}" for line, name in zip(shown, names)]


def rule_text(rule: str, options: dict[str, Any]) -> str:
    """("length", {"shortest": 128}) -> "length(shortest=128)"."""
    said = [
        f"{key}={'+'.join(map(str, value)) if isinstance(value, list) else value}" for key, value in options.items()
    ]
    return f"{rule}({', '.join(said)})" if said else rule


def store_text(described: dict[str, Any]) -> str:
    """What a store holds, for people."""
    conventions = Counter(
        (each["orientation"], each["observation"], each["decoder"], tuple(each["said"]))
        for each in described["conventions"]
    )
    lines = [
        f"store          {described['url']}",
        f"rows           {described['rows']:,} steps of {described['episodes']:,} episodes in {counted(len(described['parts']), 'part')}",
        f"size           {size_text(described['nbytes'])}",
        f"fingerprint    {described['fingerprint'][:16]}  (content)",
        f"digest         {described['digest']}",
        f"               (this root, generation {described['generation']}: open_store(..., digest=) pins it)",
    ]
    for (orientation, observation, decoder, said), count in sorted(conventions.items()):
        if len(conventions) == 1:
            line = f"conventions    pictures {orientation}, observations recorded {observation} the action"
        else:
            of = f"{count} of {len(described['conventions'])} files"
            line = f"conventions    {of}: pictures {orientation}, observations {observation} the action"
        lines.append(line)
        if said:
            lines.append(f"               said at build: {' and '.join(reversed(said))}")
        if decoder:
            lines.append(f"               pictures were JPEG, decoded by {decoder}")
    suites = [
        [name, str(each["tasks"]), str(each["episodes"]), f"{each['steps']:,}"]
        for name, each in described["suites"].items()
    ]
    lines += ["", table(["suite", "tasks", "episodes", "steps"], suites), ""]
    texts = sorted({text for each in described["tasks"] for text in each["texts"]})
    if texts:
        lines += [
            f"texts that episodes have of their own ({len(texts):,}):",
            *(f"  {each}" for each in texts[:MAX_TEXTS]),
        ]
        lines += ["  ... (--json lists all)", ""] if len(texts) > MAX_TEXTS else [""]
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
    if described["nonfinite"]:
        found = [each["text"] for each in described["nonfinite"].values()]
        found.append(
            "Statistics are those of the finite values; `vla-store views add STORE finite` leaves such steps out."
        )
        lines += [
            "",
            *(
                textwrap.fill(each, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
                for each in found
            ),
        ]
    if described["views_damaged"]:
        lines += ["", f"views          DAMAGED: {described['views_damaged']['what']}"]
    if described["views"]:
        lines += ["", views_text(described["views"], described["rows"], by_task=False)]
    if described["excluded"]:
        lines += ["", f"left out of all demonstrations (--exclude): {', '.join(described['excluded'])}"]
    skipped, warnings = described["skipped"], described["warnings"]
    if skipped or warnings:
        lines += ["", f"{len(skipped)} left out, {len(warnings)} warnings when it was built:"]
        lines += [f"  {each['suite']}/{each['file']} {each['demo'] or ''}: {each['reason']}" for each in skipped[:10]]
        lines += [f"  {each['suite']}/{each['file']}: {each['warning']}" for each in warnings[:10]]
        if max(len(skipped), len(warnings)) > 10:
            lines.append("  ... (--json lists all)")
    return "\n".join(lines)
