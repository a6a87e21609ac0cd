"""`vla-store bench STORE`: how fast this machine serves samples of this store, and whether a GPU would wait for it.

The short form of benchmarks/ in the checkout, for a store and a machine of one's own. What is read is hashed, and everybody must
have read the same. It stands on reader and loader, and needs no torch: what is measured is the core of `vla_store.torch.Loader`.

    near     a store on this machine's disks
    far      a store at a URL: what storage gives, and what is in the way: delay, bandwidth or CPU
    turns    what both share
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from vla_store.bench import far, near, turns
from vla_store.bench.far import FarReport, Probe, Run
from vla_store.bench.near import BenchReport, LoaderRate
from vla_store.bench.turns import Setting
from vla_store.errors import OptionError, several, whole_number
from vla_store.progress import Shown, takes_progress, told_to
from vla_store.reader.parts import parts_of
from vla_store.reader.samples import Samples
from vla_store.reader.store import open_store
from vla_store.storage import locate
from vla_store.types import Fetcher, Images

__all__ = ["BenchReport", "FarReport", "LoaderRate", "Probe", "Run", "bench_store"]


@takes_progress
def bench_store(
    url: str | os.PathLike[str],
    *,
    batch_size: int = 64,
    workers: Sequence[int] | None = None,
    images: Images = "as_stored",
    view: str | Sequence[str] | None = None,
    fetcher: Fetcher | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_size: str | int | None = None,
    progress: Shown = None,
) -> BenchReport | FarReport:
    """Measure a store on this machine: some ten seconds, and two more for each number of workers; at a URL, under a minute.

    A sample is every camera at [-1, 0], actions at range(16), every other fixed field at 0.

    Parameters
    ----------
    url
        A path or a URL.
    batch_size
        Samples in a batch; default 64.
    workers
        Numbers to try; default: 1, 2, 4 ... up to the cores, at most 8; at a URL the last of these alone.
    images, fetcher, cache, cache_size
        As for `vla_store.Samples` and `open_store`.
    view
        The name of a view whose samples are served, a View, or several; default: all samples.
    progress
        True shows what it is at, as `build_store` does; or an object whose `talk` is told.

    Returns
    -------
    BenchReport or FarReport
        All figures, and what they mean; a FarReport of a store at a URL.

    Raises
    ------
    OptionError
        `batch_size` or a number of workers is not a whole number of at least 1, or no number of workers is given.
    StoreDamaged
        Two ways to read disagree.
    StoreNotFound, UnknownName, UnsupportedStore, FetchError, MachineError
        What opening and reading raise.
    """
    talk = told_to(progress).talk
    began = time.perf_counter()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    whole_number("batch_size", batch_size)
    if workers is not None and not workers:
        raise OptionError("give at least one number of workers to try")
    for count in workers or ():
        whole_number("each number of workers", count)

    def samples_with(cache: str | os.PathLike[str] | None) -> Samples:
        store = open_store(url, fetcher=fetcher, cache=cache, cache_size=cache_size if cache != "" else None)
        return Samples(store, windows=turns.windows(store), alignment="causal", images=images, view=view)

    samples = samples_with(cache)
    setting = Setting(
        samples,
        size=min(batch_size, len(samples)),
        open_ms=(time.perf_counter() - began) * 1e3,
        began=began,
        cores=cores,
        views=tuple(getattr(each, "name", each) for each in several(view)),
    )
    if parts_of(samples.store).fetcher.is_near:
        return near.measure(setting, tuple(workers or turns.doubling(cores)), talk)
    kept = locate(url, fetcher, cache=cache, cache_size=cache_size).cache
    plain = samples_with("") if kept else samples
    return far.measure(setting, plain, tuple(workers or turns.doubling(cores)[-1:]), kept[0] if kept else None, talk)
