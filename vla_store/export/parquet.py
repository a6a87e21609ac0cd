"""Parquet files as LeRobot has them: tables that go on in a next file, numbers as lists, and the table of tasks."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from vla_store.extras import needed

if TYPE_CHECKING:
    import pyarrow as pa

Array = np.ndarray[Any, Any]

DATA_MB = 100
CHUNK = 1000  # files of v3.0, episodes of v2.1


class RollingParquet:
    """Parquet files below a folder; a new one where the last would be larger than DATA_MB. A table is one row group.

    Parameters
    ----------
    folder
        Where they lie.
    template
        Their path, by chunk_index and file_index.
    schema
        Of all tables; None: that of the first.
    """

    def __init__(self, folder: Path, template: str, schema: pa.Schema | None) -> None:
        self._folder, self._template, self._schema = folder, template, schema
        self._number = 0
        self._out: BinaryIO | None = None
        self._writer: Any = None

    @property
    def place(self) -> tuple[int, int]:
        """Chunk and file that the next table goes to, unless it is too large."""
        if self._out is not None and self._out.tell() >= DATA_MB << 20:
            self._next()
        chunk, file = divmod(self._number, CHUNK)
        return chunk, file

    def write(self, *tables: pa.Table) -> tuple[int, int]:
        """Append tables, to one file; return its chunk and file."""
        nbytes = sum(table.nbytes for table in tables)
        if self._schema is not None and self._out is not None and self._out.tell() + nbytes > DATA_MB << 20:
            self._next()
        place = self.place
        if self._out is None:
            path = self._folder / self._template.format(chunk_index=place[0], file_index=place[1])
            path.parent.mkdir(parents=True, exist_ok=True)
            self._out = path.open("wb")
            self._writer = writer_of(self._out, self._schema or tables[0].schema)
        for table in tables:
            self._writer.write_table(table, len(table))
        return place

    def close(self) -> None:
        """Finish the file that grows."""
        if self._out is not None:
            out, self._out = self._out, None
            with out, closed(self._writer):
                pass

    def _next(self) -> None:
        self.close()
        self._number += 1


def writer_of(out: BinaryIO, schema: pa.Schema) -> Any:
    """Return a writer of parquet. Raises what `needed` raises."""
    needed("pyarrow", "lerobot")
    import pyarrow.parquet

    # A dictionary of pictures would hold each once, and itself be all of them.
    plain = [name for name in schema.names if not str(schema.field(name).type).startswith("struct")]
    return pyarrow.parquet.ParquetWriter(out, schema, compression="snappy", use_dictionary=plain)


@contextlib.contextmanager
def closed(writer: Any) -> Iterator[Any]:
    """Close a writer of parquet at the end of the block. One that cannot be closed is not tried again when it is collected."""
    try:
        yield writer
        writer.close()
    finally:
        writer.is_open = False


def lists_of(rows: Array, kind: Any) -> Any:
    """Return (n, *shape) rows as an array of lists of this type."""
    pa = needed("pyarrow", "lerobot")
    made = pa.array(np.ascontiguousarray(rows).reshape(-1))
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(made, type=kind)
    for axis in range(rows.ndim - 1, 0, -1) if pa.types.is_list(kind) else ():
        count = math.prod(rows.shape[:axis])
        made = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * rows.shape[axis], made)
    return made


def write_tasks(path: Path, texts: Sequence[str]) -> None:
    """Write the table of tasks whose index, as pandas has it, is the text."""
    pa = needed("pyarrow", "lerobot")
    index = "__index_level_0__"
    said = {
        "index_columns": [index],
        "column_indexes": [
            {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
        ],
        "columns": [
            {
                "name": "task_index",
                "field_name": "task_index",
                "pandas_type": "int64",
                "numpy_type": "int64",
                "metadata": None,
            },
            {"name": None, "field_name": index, "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    schema = pa.schema([("task_index", pa.int64()), (index, pa.string())], {"pandas": json.dumps(said)})
    with path.open("wb") as out, closed(writer_of(out, schema)) as writer:
        writer.write_table(
            pa.table([pa.array(range(len(texts)), pa.int64()), pa.array(texts, pa.string())], schema=schema)
        )
