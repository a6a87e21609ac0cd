"""Robot demonstrations as a random-access sample store: every step once, any sample O(1), bit-exact.

    store = vla_store.open_store("libero.vla")
    samples = vla_store.Samples(store, windows={"agentview_rgb": [-1, 0], "actions": range(64)}, alignment="causal", images="upright")
    samples[0], samples.batch([0, 5, 7])

For torch: `from vla_store.torch import StepDataset`. To build a store: `vla-store build`, or `vla_store.builder`.
"""

from vla_store.errors import (
    DataError,
    DestinationExists,
    FetchError,
    MachineError,
    OptionError,
    SourceError,
    SourceNotFound,
    StoreDamaged,
    StoreNotFound,
    StoreUnfinished,
    TransformError,
    UnknownName,
    UnknownOption,
    UnsupportedStore,
    UsageError,
    VlaStoreError,
    WorkerDied,
)
from vla_store.format.skipped import Skipped
from vla_store.format.views import View
from vla_store.loader.mixture import Mixture, mixture
from vla_store.loader.weighted import Weighted, weighted
from vla_store.reader.batch import Batch
from vla_store.reader.episodes import Episodes
from vla_store.reader.samples import Samples
from vla_store.reader.seconds import seconds
from vla_store.reader.store import Store, open_store
from vla_store.reader.values import (
    Conventions,
    Episode,
    Provenance,
    SourceConvention,
    Split,
    Statistics,
    StoreField,
    StoreTask,
)

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Conventions",
    "DataError",
    "DestinationExists",
    "Episode",
    "Episodes",
    "FetchError",
    "MachineError",
    "Mixture",
    "OptionError",
    "Provenance",
    "Samples",
    "Skipped",
    "SourceConvention",
    "SourceError",
    "SourceNotFound",
    "Split",
    "Statistics",
    "Store",
    "StoreDamaged",
    "StoreField",
    "StoreNotFound",
    "StoreTask",
    "StoreUnfinished",
    "TransformError",
    "UnknownName",
    "UnknownOption",
    "UnsupportedStore",
    "UsageError",
    "View",
    "VlaStoreError",
    "Weighted",
    "WorkerDied",
    "__version__",
    "mixture",
    "open_store",
    "seconds",
    "weighted",
]
