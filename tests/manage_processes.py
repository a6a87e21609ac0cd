"""Writers in processes of their own, which a test moves step by step: each waits before each call to storage for its turn."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STEPS = ("get", "write", "create", "adopt", "settle")
LIMIT_S = 120


def append_in_turns(sources: Sequence[Path | str], store: Path, seed: int) -> list[dict[str, Any]]:
    """Append each source by a process of its own; after both have built their part, who goes next is drawn with `seed`.

    A source that is a text is a view to add: RULE[:option=value,...].
    """
    context = multiprocessing.get_context("spawn")
    draw = random.Random(seed)
    pipes, processes = [], []
    try:
        for source in sources:
            ours, theirs = context.Pipe()
            work = _add_view if isinstance(source, str) else _append
            process = context.Process(target=work, args=(theirs, source, store))
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        answers: dict[int, dict[str, Any]] = {}
        waiting = list(range(len(sources)))
        for number in waiting:
            _next(pipes[number], answers, number)
        while waiting := [number for number in range(len(sources)) if number not in answers]:
            # Also runs of several steps, so that one overtakes the other wholly now and then.
            number = draw.choice(waiting)
            for _ in range(draw.choice([1, 1, 2, 5, 20])):
                if number not in answers:
                    pipes[number].send("go on")
                    _next(pipes[number], answers, number)
        return [answers[number] for number in range(len(sources))]
    finally:
        for process in processes:
            process.join(5)
            process.kill()
            process.join()


def _next(pipe: Any, answers: dict[int, dict[str, Any]], number: int) -> None:
    assert pipe.poll(LIMIT_S), "an appender does not go on"
    said = pipe.recv()
    if said is not None:
        answers[number] = said


def _append(pipe: Any, source: Path, store: Path) -> None:
    from vla_store.manage import append
    from vla_store.storage import LocalStorage

    moved = append._move

    def move(*arguments: Any) -> None:
        for name in STEPS:
            setattr(LocalStorage, name, _in_turn(pipe, getattr(LocalStorage, name)))
        moved(*arguments)

    append._move = move
    try:
        append.append_store([source], store, workers=1)
        pipe.send({"error": ""})
    except BaseException as error:
        pipe.send({"error": repr(error)})


def _add_view(pipe: Any, rule: str, store: Path) -> None:
    from vla_store.manage.views import add_views
    from vla_store.storage import LocalStorage
    from vla_store.view_rules import parse_view

    for name in STEPS:
        setattr(LocalStorage, name, _in_turn(pipe, getattr(LocalStorage, name)))
    try:
        add_views(store, [parse_view(rule)])
        pipe.send({"error": ""})
    except BaseException as error:
        pipe.send({"error": repr(error)})


def _in_turn(pipe: Any, real: Any) -> Any:
    def call(*arguments: Any) -> Any:
        pipe.send(None)
        pipe.recv()
        return real(*arguments)

    return call
