"""Options are given by name, and one that does not exist is an error that says what to write instead."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import ParamSpec, TypeVar

from vla_store.errors import OptionError, UnknownOption

Parameters = ParamSpec("Parameters")
Made = TypeVar("Made")

# What people write out of habit, and what does it here; {value} is what they gave.
OF_A_DATASET = {
    "batch_size": "a dataset has single samples: Loader(dataset, batch_size={value})",
    "shuffle": "that is the Loader's: Loader(dataset, batch_size=64, shuffle={value})",
    "num_workers": "that is the Loader's: Loader(dataset, batch_size=64, workers={value})",
    "workers": "that is the Loader's: Loader(dataset, batch_size=64, workers={value})",
    "device": "that is the Loader's: Loader(dataset, batch_size=64, device={value})",
    "delta_timestamps": "write windows={{field: offsets}}; offsets are steps, or vla_store.seconds([-0.1, 0])",
    "horizon": 'write windows={{"actions": range({value})}}',
    "chunk_size": 'write windows={{"actions": range({value})}}',
    "image_transforms": "write transform=, which is called with each sample",
    "root": "the store is the first argument, without a name",
    "path": "the store is the first argument, without a name",
}
_TORCHS = "or use torch's: DataLoader(dataset, batch_size=64, {name}=..., collate_fn=vla_store.torch.collate)"
_ORDER = (
    "a Loader takes its order from seed= and shuffle=, a choice of rows as torch.utils.data.Subset, and weights of rows as "
    "vla_store.weighted; " + _TORCHS
)
OF_A_LOADER = {
    "num_workers": "write workers={value}",
    "collate_fn": "a Loader stacks arrays, numbers and texts by itself: change batches by batch_transform=; or use torch's: "
    "DataLoader(dataset, batch_size=64, shuffle=True, collate_fn=...)",
    "sampler": _ORDER,
    "batch_sampler": "a Loader takes its order from seed= and shuffle=, and batch_size=; or use torch's: "
    "DataLoader(dataset, batch_sampler=..., collate_fn=vla_store.torch.collate)",
    "persistent_workers": "leave it out: the workers stay until close()",
    "prefetch_factor": "leave it out: each worker is up to two batches ahead",
    "timeout": "leave it out: a worker that dies is an error at once, and one that is silent is named in the log",
    "worker_init_fn": "leave it out: a transform with an argument `generator` gets one that is seeded for each sample",
    "generator": "write seed=: the order depends on seed, epoch and the number of rows alone",
    "multiprocessing_context": "leave it out: workers are fresh interpreters, whatever the context",
    "pin_memory_device": "write device={value}",
    "in_order": "leave it out: batches always come in order",
    "num_replicas": "write world_size={value}",
}
OF_A_SAMPLER = {
    "num_replicas": "leave it out: accelerate and Lightning shard the DataLoader; vla_store.torch.Loader shards by itself",
    "rank": "leave it out: accelerate and Lightning shard the DataLoader; vla_store.torch.Loader shards by itself",
    "generator": "write seed=: the order depends on seed, epoch and the number of rows alone",
    "replacement": "leave it out: every row comes once an epoch",
    "num_samples": "leave it out: every row comes once an epoch",
    "drop_last": "that is the DataLoader's",
}

OF_WEIGHTS = {
    "num_samples": "write epoch={value}",
    "replacement": "leave it out: nothing is drawn, and each sample comes as often as its share, rounded down or up",
    "seed": "that is the Loader's: Loader(weighted(dataset, weights), batch_size=64, seed={value})",
    "generator": "the order depends on the Loader's seed=, the epoch and the weights alone",
}


def by_name(
    habits: Mapping[str, str], also: Iterable[str] = ()
) -> Callable[[Callable[Parameters, Made]], Callable[Parameters, Made]]:
    """Decorate a function: it raises OptionError for options that are given by place or left out, and UnknownOption for others.

    habits: by the name of an option that it has not, what to write. also: options that it takes as **options.
    """

    def decorate(function: Callable[Parameters, Made]) -> Callable[Parameters, Made]:
        shown = function.__qualname__.removesuffix(".__init__")

        @functools.cache  # at the first call, and not for whoever only imports
        def taken() -> tuple[list[str], list[str], list[str]]:
            parameters = inspect.signature(function).parameters.values()
            places = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
            own = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
            needed = [each.name for each in parameters if each.name in places + own and each.default is each.empty]
            return places, own, needed

        @functools.wraps(function)
        def checked(*arguments: Parameters.args, **options: Parameters.kwargs) -> Made:
            places, own, needed = taken()
            names = [each for each in places if each != "self"]
            known = list(dict.fromkeys([*own, *also, *names]))
            start = ", ".join(each for each in names if each in needed)
            extra = arguments[len(places) :]
            if extra and not own:
                raise OptionError(f"{shown} has no more options", found=repr(extra[0])[:40], exists=", ".join(known))
            if extra:
                named = ", ".join(f"{name}={str(value)[:40]}" for name, value in zip(own, map(repr, extra)))
                raise OptionError(f"{shown} takes options by name", hint=f"write {shown}({start}, {named})")
            for name, value in options.items():
                if name not in known:
                    error = UnknownOption.among("option", name, known)
                    if name in habits:
                        error.hint = habits[name].format(value=repr(value)[:40], name=name)
                    raise error
            for name in needed[len(arguments) :]:
                if name not in options and not (name in places and places.index(name) < len(arguments)):
                    write = f"{name}=..." if not own else f"{start}, {'...' if name in places else f'{name}=...'}"
                    raise OptionError(f"{shown} needs {name}", hint=f"write {shown}({write})")
            return function(*arguments, **options)

        return checked

    return decorate
