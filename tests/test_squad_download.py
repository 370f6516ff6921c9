"""SQuAD's files are downloaded once, each against its checksum, and mistakes end in one line."""

import dataclasses
import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import RunFailure
from data.squad_download import DATA_FILES, DataFile, obtain

CONTENT = json.dumps({"version": "1.1", "data": []}).encode() * 1000


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()


@dataclasses.dataclass
class Mirror:
    """A site on this machine: the folder that it serves, its address, the paths that it was asked for."""

    folder: Path
    url: str
    asked: list[str]


@pytest.fixture
def mirror(tmp_path) -> Iterator[Mirror]:
    folder = tmp_path / "site"
    folder.mkdir()
    handler = functools.partial(_Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Mirror(folder, f"http://127.0.0.1:{server.server_port}", server.asked)
        server.shutdown()
        thread.join()


@pytest.fixture
def file(mirror) -> DataFile:
    (mirror.folder / "train.json").write_bytes(CONTENT)
    return DataFile("train.json", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def test_a_file_is_downloaded_once_and_again_where_it_was_damaged(mirror, file, tmp_path):
    output = tmp_path / "output"
    assert obtain(file, output, mirror.url + "/")
    assert (output / "train.json").read_bytes() == CONTENT
    assert not obtain(file, output, mirror.url)
    assert mirror.asked == ["/train.json"]
    (output / "train.json").write_bytes(CONTENT[:-1] + b"x")
    assert obtain(file, output, mirror.url)
    assert (output / "train.json").read_bytes() == CONTENT
    assert [path.name for path in output.iterdir()] == ["train.json"]


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT[:-1], CONTENT + b"x", b""])
def test_another_content_never_gets_the_name_and_what_differs_is_told(mirror, file, tmp_path, content):
    (mirror.folder / "train.json").write_bytes(content)
    with pytest.raises(RunFailure) as failure:
        obtain(file, tmp_path / "output", mirror.url)
    if len(content) == file.size:
        told = [file.sha256, hashlib.sha256(content).hexdigest()]
    else:
        told = [f"{file.size} bytes", f"has {len(content)}"]
    assert all(word in str(failure.value) for word in told)
    assert list((tmp_path / "output").iterdir()) == []


def test_a_site_without_the_file_is_a_failure_in_one_line(mirror, file, tmp_path):
    (mirror.folder / "train.json").unlink()
    address = f"{mirror.url}/train.json"
    with pytest.raises(RunFailure, match=f"{address}: cannot be downloaded .404 Not Found.$"):
        obtain(file, tmp_path / "output", mirror.url)


def test_the_program_ends_with_one_line_and_its_code(mirror, run_program, usage_error, tmp_path):
    done = run_program("data/squad_download.py", "--output_dir", tmp_path / "o", "--url", mirror.url)
    assert done.returncode == 1
    assert done.stderr.startswith(f"squad_download.py: error: {mirror.url}/train-v1.1.json: cannot be")
    assert done.stderr.count("\n") == 1
    assert "--url ftp" in usage_error("data/squad_download.py", "--output_dir", "o", "--url", "ftp://x")
    assert "squad_version" in usage_error(
        "data/squad_download.py", "--output_dir", "o", "--squad_version", "3"
    )


def test_both_versions_have_the_files_that_the_programs_read():
    for version, (train, dev) in DATA_FILES.items():
        assert (train.name, dev.name) == (f"train-v{version}.json", f"dev-v{version}.json")
        assert all(len(bytes.fromhex(file.sha256)) == 32 for file in (train, dev))
