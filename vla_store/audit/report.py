"""The report of an audit, for people and for programs. Imports nothing of the package."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass, field
from typing import Any

from vla_store.text import MAX_LINES, Report, counted


@dataclass(frozen=True)
class Problem:
    """A finding of an audit.

    Attributes
    ----------
    object
        Key of the object that it was found in, below the store; "" where it is not one object.
    what
        What is wrong with it.
    """

    object: str
    what: str


@dataclass(repr=False)
class VerifyReport(Report):
    """The findings of an audit. A store is sound when there are no problems; left-overs are no damage.

    Attributes
    ----------
    url
        Where the store is: an absolute path, or a URL.
    problems
        All that was found wrong.
    differences
        How many of the problems are differences from the sources given; nothing of the store is damaged by these.
    leftovers
        Keys of objects that no root names, sorted.
    objects, nbytes
        Number of the objects that were checked, and their bytes.
    rows, episodes
        Numbers of steps and episodes that the root names.
    fingerprint
        Content fingerprint of the data that was read (64 hexadecimal digits); "" where the content was not checked.
    compared_episodes
        Number of episodes that were compared with their source; None where no sources were compared.
    decoded_episodes
        How many of those are of a source that holds pictures in a codec that loses, so that pixels were compared.
    generation
        Generation of the root that was checked; 0 where none could be read.
    damaged_views
        {key of a damaged document of views: generations of the roots that name it}.
    """

    url: str
    problems: list[Problem] = field(default_factory=list)
    differences: int = 0
    leftovers: list[str] = field(default_factory=list)
    objects: int = 0
    nbytes: int = 0
    rows: int = 0
    episodes: int = 0
    fingerprint: str = ""
    compared_episodes: int | None = None
    decoded_episodes: int = 0
    generation: int = 0
    damaged_views: dict[str, list[int]] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """True where there are no problems."""
        return not self.problems

    @property
    def state(self) -> str:
        """The result in one word.

        "sound"; "DIFFERS": a whole store of other content than the sources given; "DAMAGED".
        """
        if self.sound:
            return "sound"
        return "DIFFERS" if self.differences == len(self.problems) else "DAMAGED"

    @property
    def has_sound_samples(self) -> bool:
        """True where nothing is wrong but views, which no sample needs that names none."""
        return all(each.object in self.damaged_views for each in self.problems)

    def to_json(self) -> dict[str, Any]:
        """Return all of it but the generation, for programs.

        Returns
        -------
        dict
            Values that JSON can hold, `sound` among them, sorted by name.
        """
        described = dataclasses.asdict(self) | {"sound": self.sound}
        return {key: described[key] for key in sorted(described) if key != "generation"}

    def text(self) -> str:
        """Return it for people: at most a screen.

        Returns
        -------
        str
            Several lines; of problems and of left-overs at most 20 each.
        """
        lines = [
            f"{self.state:<13}  {self.url}",
            f"checked        {counted(self.objects, 'object')}, {self.nbytes:,} bytes",
            f"content        {counted(self.episodes, 'episode')}, {counted(self.rows, 'step')}",
        ]
        if self.fingerprint:
            lines.append(f"fingerprint    {self.fingerprint}")
        if self.compared_episodes is not None:
            lines.append(
                f"against        {counted(self.compared_episodes, 'episode')} compared with the source, bit for bit"
            )
        if self.decoded_episodes:
            lines.append(
                f"               {self.decoded_episodes:,} of them with the pixels that their encoded pictures decode to"
            )
        for title, items in (
            ("problems", [f"{each.object or '(store)'}: {each.what}" for each in self.problems]),
            ("left-overs, named by no root (not damage)", self.leftovers),
        ):
            if items:
                more = [f"... and {len(items) - MAX_LINES} more (--json lists all)"] if len(items) > MAX_LINES else []
                lines += ["", f"{title}:", *(f"  {item}" for item in [*items[:MAX_LINES], *more])]
        if self.state == "DIFFERS":
            lines += [
                "",
                "the store itself is whole; it is not what these sources are. Were all sources given, and the same ones?",
            ]
        if self.damaged_views:
            lines += ["", "views: samples that name no view are not touched by damaged views"]
        generations = sorted({n for each in self.damaged_views.values() for n in each})
        is_current = self.generation in generations
        if is_current:
            lines += [
                "  to mend them: vla-store repair STORE --from SOURCE, or a copy of the object;",
                "  to drop them: vla-store views remove STORE --all",
            ]
        elif self.state == "DAMAGED":
            lines += ["", f"to mend it: vla-store repair {shlex.quote(self.url)} --from SOURCE"]
        older = [str(each) for each in generations if each != self.generation]
        if older:
            named = (
                f"generation{'s' if len(older) > 1 else ''} {', '.join(older[:8])}{' ...' if len(older) > 8 else ''}"
            )
            lines.append(
                f"  of {named}: {'also missed' if is_current else 'missed only'} by handles and digests of older roots"
            )
        return "\n".join(lines)
