"""How a store is read: rows to byte ranges to frames to samples. Costs NumPy; no zarr, dask, h5py or torch."""

from vla_store.reader.batch import Batch
from vla_store.reader.samples import Samples
from vla_store.reader.store import Store, open_store

__all__ = ["Batch", "Samples", "Store", "open_store"]
