"""A folder of NumPy arrays that are written piece by piece, checked, and read through memory maps.

Each array is a .npy file, so that NumPy alone can read it (no pickle); `manifest.json` says what the arrays
were made from and holds a checksum of each.
"""

import json
import mmap
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

import files

_MANIFEST = "manifest.json"


class ArrayWriters:
    """Files of one-dimensional rows that grow at their end.

    Args:
        folder: exists, and is written to.
        dtypes: of each array, by name.
        row_shapes: shape of an entry, for the arrays whose entries are no scalars.
    """

    def __init__(self, folder: Path, dtypes: dict[str, type], row_shapes: dict[str, tuple[int, ...]]):
        self._folder = folder
        self._dtypes = {name: np.dtype(dtype) for name, dtype in dtypes.items()}
        self._row_shapes = {name: row_shapes.get(name, ()) for name in dtypes}
        self._counts = dict.fromkeys(dtypes, 0)
        self._streams = {}

    def __enter__(self) -> "ArrayWriters":
        for name in self._dtypes:
            self._streams[name] = open(self._path(name), "wb")
            self._write_header(name)
        return self

    def __exit__(self, *exception) -> None:
        for stream in self._streams.values():
            stream.close()

    def append(self, name: str, entries: np.ndarray | Iterable) -> None:
        """Put entries at the end of an array."""
        entries = np.asarray(entries, self._dtypes[name]).reshape(-1, *self._row_shapes[name])
        self._streams[name].write(entries.tobytes())
        self._counts[name] += len(entries)

    def end_row(self, ends: str, values: str) -> None:
        """Note in the array `ends` that a row of the array `values` is complete."""
        self.append(ends, [self._counts[values]])

    def finish(self, settings: dict) -> None:
        """Write the final shapes, and the manifest last: a folder with one is complete."""
        for name, stream in self._streams.items():
            stream.seek(0)
            self._write_header(name)
            stream.close()
        checksums = {name: files.sha256_of_file(self._path(name)) for name in self._dtypes}
        # Not flushed here: who publishes the folder flushes all of it, and for a temporary one nobody need.
        manifest = json.dumps({"settings": settings, "sha256": checksums}, indent=2)
        (self._folder / _MANIFEST).write_text(manifest, encoding="utf-8")

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.npy"

    def _write_header(self, name: str) -> None:
        # NumPy leaves room in the header for the first axis to grow, so the final one takes the same place.
        header = {
            "descr": npy.dtype_to_descr(self._dtypes[name]),
            "fortran_order": False,
            "shape": (self._counts[name], *self._row_shapes[name]),
        }
        npy.write_array_header_1_0(self._streams[name], header)


class ArrayFolder:
    """Arrays by name, read-only and memory-mapped.

    Attributes:
        arrays: by name.
        owner: whatever must live as long as the arrays do.
    """

    def __init__(self, arrays: dict[str, np.ndarray], maps: list[mmap.mmap]):
        self.arrays = arrays
        self.owner: object = None
        self._maps = maps

    @classmethod
    def open(cls, folder: str | Path, settings: dict, *, verify: bool = True) -> "ArrayFolder | None":
        """The arrays of a folder; None if it is absent, incomplete, damaged or made from other settings.

        Args:
            settings: as they were given to `ArrayWriters.finish`.
            verify: compare checksums, which reads every file once.
        """
        folder = Path(folder)
        arrays, maps = {}, []
        try:
            manifest = files.read_json(folder / _MANIFEST)
            if manifest["settings"] != settings:
                return None
            for name, checksum in manifest["sha256"].items():
                path = folder / f"{name}.npy"
                if verify and files.sha256_of_file(path) != checksum:
                    return None
                arrays[name], mapped = _map_array(path)
                maps.append(mapped)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return cls(arrays, maps)

    def release_memory(self) -> None:
        """Drop the pages that were read from this process's memory; they come back when touched."""
        for mapped in self._maps:
            mapped.madvise(mmap.MADV_DONTNEED)


def _map_array(path: Path) -> tuple[np.ndarray, mmap.mmap]:
    with open(path, "rb") as stream:
        if npy.read_magic(stream) != (1, 0):
            raise ValueError(f"{path}: not of version 1.0 of the format")
        shape, _, dtype = npy.read_array_header_1_0(stream)
        offset = stream.tell()
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    count = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(mapped, dtype, count, offset).reshape(shape), mapped
