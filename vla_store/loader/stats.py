"""What a Loader counts. May import the pool's `Made` only."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from vla_store.loader.pool import Made

MAX_WAITS = 10_000


@dataclass
class Stats:
    """What a loader did: batches, rows and bytes that it handed out; seconds that the consumer waited, and of all time since it
    asked for the first batch; seconds that workers worked; batches that were ready when asked for; batches that had to be copied;
    bytes that travelled pickled."""

    batches: int = 0
    rows: int = 0
    nbytes: int = 0
    waited_s: float = 0.0
    elapsed_s: float = 0.0
    work_s: float = 0.0
    ready: int = 0
    copies: int = 0
    pickled_nbytes: int = 0
    waits_s: list[float] = field(default_factory=list, repr=False)  # of the last 10,000 batches

    def count(self, made: Made, waited_s: float, elapsed_s: float) -> None:
        """Add one batch. elapsed_s: since the one before was handed out."""
        self.batches += 1
        self.rows += len(made.job.indices)
        self.nbytes += made.nbytes
        self.waited_s += waited_s
        self.elapsed_s += elapsed_s
        self.work_s += made.work_s
        self.ready += made.was_ready
        self.copies += made.copied
        self.pickled_nbytes += made.pickled_nbytes
        self.waits_s.append(waited_s)
        if len(self.waits_s) >= 2 * MAX_WAITS:
            del self.waits_s[:-MAX_WAITS]

    def since(self, earlier: Stats) -> Stats:
        """Return what came after `earlier`, a copy of this taken before."""
        names = [each.name for each in fields(self) if each.name != "waits_s"]
        made = Stats(**{name: getattr(self, name) - getattr(earlier, name) for name in names})
        made.waits_s = self.waits_s[max(0, len(self.waits_s) - made.batches) :]
        return made

    def copy(self) -> Stats:
        return replace(self, waits_s=self.waits_s[-MAX_WAITS:])

    def summary(self) -> str:
        """Return one line: is it the loader?"""
        share = self.waited_s / self.elapsed_s if self.elapsed_s else 0.0
        return (
            f"{self.batches} batches, {self.rows} rows in {self.elapsed_s:.1f} s; the consumer waited {share:.0%} of the time; "
            f"{self.ready} batches were ready when asked for; workers worked {self.work_s:.1f} s; "
            f"{self.nbytes / 1e6:.0f} MB, {self.pickled_nbytes / 1e6:.1f} MB pickled, {self.copies} batches copied"
        )
