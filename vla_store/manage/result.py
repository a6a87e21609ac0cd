"""What a change of a store gave: the state of its current root, for people and programs. Imports the roots of the format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vla_store.format.schema import Root
from vla_store.text import Report, counted, size_text


@dataclass(frozen=True, repr=False)
class ChangedStore(Report):
    """A store after a change.

    Attributes
    ----------
    root
        The root that is current now.
    url
        Where the store is: an absolute path, or a URL.
    """

    root: Root
    url: str

    def more(self) -> dict[str, Any]:
        """Return what this change has to tell besides: values that JSON can hold."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """Return it for programs: values that JSON can hold."""
        root = self.root
        return {
            "digest": root.digest,
            "episodes": root.episodes,
            "fingerprint": root.fingerprint,
            "generation": root.generation,
            "parts": len(root.parts),
            "rows": root.rows,
            "store": self.url,
        } | self.more()

    def text(self) -> str:
        """Return it for people."""
        root, more = self.root, self.more()
        lines = [
            f"store          {self.url}",
            f"episodes       {root.episodes:,} ({counted(root.rows, 'step')}) in {counted(len(root.parts), 'part')}",
            f"fingerprint    {root.fingerprint[:16]}  (content)",
            f"digest         {root.digest[:16]}  (this root, generation {root.generation})",
        ]
        if added := more.get("added"):
            lines.append(f"added          {counted(added['episodes'], 'episode')} ({counted(added['rows'], 'step')})")
        if "removed" in more:
            lines.append(f"removed        {', '.join(more['removed']) or 'no view'}")
        lines += [
            f"{what:<13}  {size_text(more[f'{what}_nbytes'])}  (objects of parts; not documents and roots)"
            for what in ("copied", "sent")
            if f"{what}_nbytes" in more
        ]
        return "\n".join(lines)
