"""How a store is written: sources, scan, probe, plan, shards, commit. Costs zarr and h5py.

from vla_store.builder import build_store
build_store(["LIBERO/libero_spatial"], "libero_spatial.vla")
"""

from vla_store.builder.build import build_store
from vla_store.builder.report import BuildReport, CameraReport
from vla_store.format.attributes import encode_value
from vla_store.format.skipped import Skipped
from vla_store.progress import Progress
from vla_store.sources.protocol import (
    EpisodeInfo,
    EpisodeSource,
    FieldSpec,
    SourceInfo,
    StreamedSource,
    TaskInfo,
)

__all__ = [
    "BuildReport",
    "CameraReport",
    "EpisodeInfo",
    "EpisodeSource",
    "FieldSpec",
    "Progress",
    "Skipped",
    "SourceInfo",
    "StreamedSource",
    "TaskInfo",
    "build_store",
    "encode_value",
]
