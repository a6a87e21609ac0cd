"""What a store and its views hold, gathered as one JSON document, and the text for people that is made of it.

Reads tables and documents of a store, no data. Imports the reader, and nothing of pictures.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from vla_store.errors import DataError
from vla_store.format.schema import FORMAT_VERSION
from vla_store.look.listing import tasks_json
from vla_store.look.saying import labels_of, rate_text, texts_json, texts_notes
from vla_store.text import WIDTH, counted, encoding_text, shown, size_text, table, wrapped

if TYPE_CHECKING:
    from vla_store.format.views import View
    from vla_store.reader import Store

MAX_LOSING_TASKS = 20
MAX_TEXTS = 8
MAX_LEFT_OUT = 10


def damaged_views(store: Store) -> DataError | None:
    """Return why the views of a store cannot be read; None where they can."""
    try:
        _ = store.views
    except DataError as error:
        return error
    return None


def excluded(store: Store) -> list[str]:
    """Return the paths that builds of a store left out by `--exclude`; another writer's plan may have another form."""
    plans = [document.plan for _, document in store.parts]
    options = [each for plan in plans for each in (plan.get("options"), *(plan.get("sources") or ()))]
    given = [each["exclude"] for each in options if isinstance(each, dict) and isinstance(each.get("exclude"), list)]
    return sorted({str(path) for each in given for path in each})


def store_json(store: Store) -> dict[str, Any]:
    """Return what a store holds, for programs."""
    documents = [document for _, document in store.parts]
    broken = damaged_views(store)
    damage = None if broken is None else {"object": broken.places.get("object", ""), "what": broken.what}
    tasks = tasks_json(store)
    counts = {suite: {"episodes": 0, "steps": 0, "tasks": 0} for suite in store.suites}
    for task in tasks:
        for name, number in (("tasks", 1), ("episodes", task["episodes"]), ("steps", task["steps"])):
            counts[task["suite"]][name] += number
    return {
        "conventions": [
            _chosen(each, "codec", "decoder", "file", "fps", "observation", "orientation", "said", "suite")
            for each in store.conventions.sources
        ],
        "digest": store.digest,
        "episodes": len(store.episodes),
        "excluded": excluded(store),
        "fetcher": store.fetcher,
        "fields": {
            name: {
                "camera": each.is_camera,
                "codec": sorted({str(document.fields[name].codec) for document in documents}),
                "dtype": each.dtype,
                "kind": each.kind,
                "names": list(each.names),
                "prediction": sorted(
                    # What is kept encoded is not predicted.
                    {
                        "+".join(field.prediction) or "none"
                        for field in (document.fields[name] for document in documents)
                        if not field.codec.keeps
                    }
                ),
                "role": each.role,
                "shape": list(each.shape),
                "units": list(each.units),
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
        "skipped": [_chosen(each, "demo", "file", "reason", "suite") for each in store.skipped],
        "suites": counts,
        "tasks": tasks,
        "texts": texts_json(store),
        "url": store.url,
        "views": {} if damage else views_json(store.views.values()),
        "views_damaged": damage,
        "warnings": list(store.warnings),
    }


def views_json(views: Iterable[View]) -> dict[str, Any]:
    """Return views by name, for programs; without their rows."""
    return {
        each.name: {
            "counts": [count.to_json() for count in each.counts],
            **_chosen(each, "covered_steps", "description", "kind"),
            "kept_steps": each.steps,
            "options": {name: _number(value) for name, value in each.options.items()},
            "rule": each.rule,
        }
        for each in views
    }


def _number(value: Any) -> Any:
    """Return an option of a rule with a number for its text: a document has no fractions."""
    is_number = isinstance(value, str) and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?", value)
    return float(value) if is_number else value


def _chosen(of: object, *names: str) -> dict[str, Any]:
    return {name: getattr(of, name) for name in names}


def views_text(described: dict[str, Any], rows: int, *, by_task: bool) -> str:
    """Return views of a store of so many rows, for people. by_task: with what each keeps of every task."""
    if not described:
        return "no views"
    rows_of_table = [
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
    ]
    width = max(map(len, described))
    lines = [
        table(["view", "kind", "kept", "of steps", "share", "episodes", "of"], rows_of_table),
        "",
        *(f"{name:<{width}}  {rule_text(each['rule'], each['options'])}" for name, each in described.items()),
    ]
    for name, each in described.items() if by_task else ():
        lines += ["", *textwrap.wrap(f"{name}: {each['description']}", WIDTH, break_on_hyphens=False)]
        lines += _losses(each["counts"])
    for name, each in described.items():
        if each["covered_steps"] < rows:
            told = f"{name} tells of {each['covered_steps']:,} of the store's {counted(rows, 'step')}; no others are in it."
            lines += ["", told]
    return "\n".join(lines)


def _losses(counts: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line for each task that loses steps, most of them first. Names of tasks are long: they stand last."""
    losing = [count for count in counts if count["kept_steps"] < count["steps"]]
    losing.sort(key=lambda count: count["kept_steps"] / count["steps"])
    listed = losing[:MAX_LOSING_TASKS]
    numbers = [
        [
            f"{count['steps'] - count['kept_steps']:,}",
            f"{count['steps']:,}",
            f"{1 - count['kept_steps'] / count['steps']:.1%}",
            f"{count['episodes'] - count['kept_episodes']:,}",
            f"{count['episodes']:,}",
        ]
        for count in listed
    ]
    lines: list[str] = []
    if losing:
        names = ["task", *(f"{count['suite']}/{count['task']}" for count in listed)]
        columns = table(["steps lost", "of", "share", "episodes lost", "of"], numbers).split("\n")
        lines += ["", *(f"{line}  {name}" for line, name in zip(columns, names))]
    if len(losing) > len(listed):
        lines.append(f"... and {len(losing) - len(listed)} more that lose steps (--json lists all)")
    if len(losing) < len(counts):
        lines += ["", f"without a step lost: {len(counts) - len(losing)} of {counted(len(counts), 'task')}"]
    return lines


def rule_text(rule: str, options: dict[str, Any]) -> str:
    """Return a rule as it is given: ("length", {"shortest": 128}) -> "length(shortest=128)"."""
    given = [
        f"{key}={'+'.join(map(str, value)) if isinstance(value, list) else value}" for key, value in options.items()
    ]
    return f"{rule}({', '.join(given)})" if given else rule


def store_text(described: dict[str, Any]) -> str:
    """Return what a store holds, for people. described: what `store_json` gave."""
    sections = [
        _identity(described),
        _conventions(described),
        ["", *_suites(described)],
        ["", *_fields(described)],
        _nonfinite(described),
        ["", f"views          DAMAGED: {described['views_damaged']['what']}"] if described["views_damaged"] else [],
        ["", views_text(described["views"], described["rows"], by_task=False)] if described["views"] else [],
        _left_out(described),
    ]
    return "\n".join(line for section in sections for line in section)


def _identity(described: dict[str, Any]) -> list[str]:
    return [
        f"store          {described['url']}",
        f"rows           {counted(described['rows'], 'step')} of {counted(described['episodes'], 'episode')} in {counted(len(described['parts']), 'part')}",
        f"size           {size_text(described['nbytes'])}",
        f"fingerprint    {described['fingerprint'][:16]}  (content)",
        f"digest         {described['digest']}",
        f"               (this root, generation {described['generation']}: open_store(..., digest=) pins it)",
    ]


def _conventions(described: dict[str, Any]) -> list[str]:
    found = Counter(
        (each["orientation"], each["observation"], each["codec"], each["decoder"], tuple(each["said"]))
        for each in described["conventions"]
    )
    lines = []
    for (orientation, observation, codec, decoder, said), count in sorted(found.items()):
        of, recorded = "", "recorded "
        if len(found) > 1:
            of, recorded = f"{count} of {counted(len(described['conventions']), 'file')}: ", ""
        lines.append(f"conventions    {of}pictures {orientation}, observations {recorded}{observation} the action")
        if said:
            lines.append(f"               said at build: {' and '.join(reversed(said))}")
        if decoder:
            lines.append(f"               pictures were {encoding_text(codec)}, decoded by {decoder}")
    rates = Counter(each["fps"] for each in described["conventions"])
    for fps, count in sorted((each for each in rates.items() if each[0] is not None), key=lambda each: each[0]):
        of = f"{count} of {counted(rates.total(), 'file')}: " if len(rates) > 1 else ""
        lines.append(f"rate           {of}{rate_text(fps)}")
    return lines


def _suites(described: dict[str, Any]) -> list[str]:
    rows = [
        [name, str(each["tasks"]), str(each["episodes"]), f"{each['steps']:,}"]
        for name, each in described["suites"].items()
    ]
    lines = [table(["suite", "tasks", "episodes", "steps"], rows)]
    texts = sorted({text for each in described["tasks"] for text in each["texts"]})
    if texts:
        lines += ["", f"texts that episodes have of their own ({len(texts):,}):"]
        lines += [f"  {shown(each)}" for each in texts[:MAX_TEXTS]]
    if len(texts) > MAX_TEXTS:
        lines.append("  ... (--json lists all)")
    further = [f"{name:<15}{text}" for name, text in texts_notes(described["texts"])]
    return [*lines, *([""] if further else []), *further]


def _fields(described: dict[str, Any]) -> list[str]:
    rows = [
        [
            name,
            "x".join("?" if axis is None else str(axis) for axis in each["shape"]) or "-",
            each["dtype"],
            each["role"],
            ", ".join(filter(None, ["/".join(each["codec"]), "/".join(each["prediction"])])) if each["camera"] else "-",
        ]
        for name, each in sorted(described["fields"].items(), key=lambda item: (not item[1]["camera"], item[0]))
    ]
    return [table(["field", "shape", "dtype", "role", "codec, prediction"], rows), *_named(described["fields"])]


def _named(fields: dict[str, Any]) -> list[str]:
    """Return a line of the names of a field's numbers, for each that has some."""
    named = {name: ", ".join(labels_of(each["names"], each["units"])) for name, each in sorted(fields.items())}
    told = {name: text for name, text in named.items() if text}
    width = max(map(len, told), default=0)
    lines = [wrapped(text, f"{name:<{width}}  ", " " * (width + 2)) for name, text in told.items()]
    return ["", *lines] if lines else []


def _nonfinite(described: dict[str, Any]) -> list[str]:
    if not described["nonfinite"]:
        return []
    found = [
        *(each["text"] for each in described["nonfinite"].values()),
        "Statistics are those of the finite values; `vla-store views add STORE finite` leaves such steps out.",
    ]
    return ["", *(wrapped(each, indent="  ") for each in found)]


def _left_out(described: dict[str, Any]) -> list[str]:
    lines = []
    if described["excluded"]:
        lines += ["", f"left out of all demonstrations (--exclude): {', '.join(described['excluded'])}"]
    skipped, warnings = described["skipped"], described["warnings"]
    if skipped or warnings:
        left_out = counted(len(skipped), "demonstration or file", "demonstrations or files") + " left out"
        told = [*([left_out] if skipped else []), *([counted(len(warnings), "warning")] if warnings else [])]
        lines += ["", f"{', '.join(told)} when it was built:"]
    for listed, name in ((skipped, "reason"), (warnings, "warning")):
        for each in listed[:MAX_LEFT_OUT]:
            demo = f" {each['demo'] or ''}" if name == "reason" else ""
            lines.append(wrapped(f"{each['suite']}/{each['file']}{demo}: {shown(each[name])}", "  ", "    "))
    if max(len(skipped), len(warnings)) > MAX_LEFT_OUT:
        lines.append("  ... (--json lists all)")
    return lines
