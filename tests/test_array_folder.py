"""Arrays that grow on disk are NumPy's own files, complete or absent, and mapped instead of read."""

import json

import numpy as np
import pytest

from array_folder import ArrayFolder, ArrayWriters

DTYPES = {"numbers": np.int32, "pairs": np.float32, "ends": np.int64, "flags": np.bool_, "nothing": np.uint8}
SETTINGS = {"made from": "this", "version": 3}


def _write(folder, rows: int = 12_345) -> None:
    folder.mkdir(exist_ok=True)
    with ArrayWriters(folder, DTYPES, {"pairs": (2,)}) as writers:
        for row in range(rows):
            writers.append("numbers", [row] * (row % 3))
            writers.append("pairs", [[row, row + 0.5]])
            writers.append("flags", [row % 2 == 0])
            writers.end_row("ends", "numbers")
        writers.finish(SETTINGS)


@pytest.fixture
def folder(tmp_path):
    _write(tmp_path / "arrays")
    return tmp_path / "arrays"


def test_numpy_reads_what_was_appended(folder):
    arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in DTYPES}
    assert {name: array.dtype for name, array in arrays.items()} == DTYPES
    rows = np.arange(12_345)
    np.testing.assert_array_equal(arrays["numbers"], np.repeat(rows, rows % 3))
    np.testing.assert_array_equal(arrays["pairs"], np.stack([rows, rows + 0.5], axis=1))
    np.testing.assert_array_equal(arrays["ends"], np.cumsum(rows % 3))
    np.testing.assert_array_equal(arrays["flags"], rows % 2 == 0)
    assert arrays["nothing"].shape == (0,)


def test_mapped_arrays_are_those_of_the_files(folder):
    opened = ArrayFolder.open(folder, SETTINGS)
    for name in DTYPES:
        expected = np.load(folder / f"{name}.npy", allow_pickle=False)
        np.testing.assert_array_equal(opened.arrays[name], expected)
        assert opened.arrays[name].dtype == expected.dtype and not opened.arrays[name].flags.writeable
    opened.release_memory()
    np.testing.assert_array_equal(opened.arrays["pairs"][-1], [12_344, 12_344.5])


def test_released_pages_leave_this_processs_memory(tmp_path):
    """Resident memory by the kernel's account; 40 MB are read through the map."""

    def resident() -> int:
        with open("/proc/self/statm") as stream:
            return int(stream.read().split()[1]) * 4096

    tmp_path = tmp_path / "large"
    tmp_path.mkdir()
    with ArrayWriters(tmp_path, {"numbers": np.int64}, {}) as writers:
        writers.append("numbers", np.arange(5_000_000))
        writers.finish(SETTINGS)
    opened = ArrayFolder.open(tmp_path, SETTINGS)
    total = int(opened.arrays["numbers"].sum())
    read = resident()
    opened.release_memory()
    assert read - resident() > 30e6
    assert int(opened.arrays["numbers"].sum()) == total


def test_a_folder_without_its_manifest_is_not_complete(tmp_path):
    with ArrayWriters(tmp_path, DTYPES, {"pairs": (2,)}) as writers:
        writers.append("numbers", [1, 2, 3])
    assert ArrayFolder.open(tmp_path, SETTINGS) is None
    assert ArrayFolder.open(tmp_path / "absent", SETTINGS) is None


def test_other_settings_are_other_arrays(folder):
    assert ArrayFolder.open(folder, SETTINGS | {"version": 4}) is None
    assert ArrayFolder.open(folder, SETTINGS) is not None


@pytest.mark.parametrize("name", DTYPES)
def test_every_file_is_checked(folder, name):
    path = folder / f"{name}.npy"
    content = path.read_bytes()
    for damaged in (content[:-1], content + b"\0", content[:-1] + bytes([content[-1] ^ 4]), b""):
        path.write_bytes(damaged)
        assert ArrayFolder.open(folder, SETTINGS) is None
    path.unlink()
    assert ArrayFolder.open(folder, SETTINGS) is None
    path.write_bytes(content)
    assert ArrayFolder.open(folder, SETTINGS) is not None


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", '{"settings": null, "sha256": {}}', None])
def test_a_damaged_manifest_is_noticed(folder, content):
    wrong = json.dumps({"settings": SETTINGS, "sha256": ["numbers"]}) if content is None else content
    (folder / "manifest.json").write_text(wrong)
    assert ArrayFolder.open(folder, SETTINGS) is None
