"""Data sets of the Hugging Face hub come whole, of one commit, by the list that the hub gives out.

The hub is a real server on this machine with the hub's paths; the programs are real too, because HF_ENDPOINT
is read when they start. What befalls a single file is in test_downloads.py.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from glue_files import FORMS, write_hub_files
from web_site import Answer, Asked, FileSite, serving

from data.dataset_downloads import folder_of, read_record
from glue_tasks import find_files, find_task

ROOT = Path(__file__).parents[1]
BOOKS = "datasets/lucadiliello/bookcorpusopen"
WEB = "datasets/Skylion007/openwebtext"
ENCODERS = [
    f"google/electra-{size}-{network}"
    for size in ("small", "base", "large")
    for network in ("discriminator", "generator")
]
OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"
SIZE = 200_000
HALF = 100_000
PROGRAM = """
import sys
from command_line import run_program
from data import dataset_downloads
from data.downloads import Patience
patience = Patience(pause=lambda seconds: print("pause", seconds))
def main():
    if sys.argv[1] == "vocabulary":
        print(dataset_downloads.download_vocabulary(sys.argv[2], patience))
    else:
        print(*dataset_downloads.download_dataset(*sys.argv[1:], patience=patience), sep="\\n")
run_program(main)
"""


def bytes_of(name: str, size: int = SIZE) -> bytes:
    return random.Random(name).randbytes(size)


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """Repositories by their paths (`datasets/owner/name`, `owner/model`), in the hub's paths and JSON.

    Large files are redirected to another host, as the hub does.
    """

    def __init__(self, site: FileSite):
        self.site = site

    def commit(self, repository: str, sha: str, contents: dict[str, bytes], **listed: dict) -> None:
        """The newest commit; `listed` is by a file's name without dots, what its list says of it instead."""
        siblings = [{"rfilename": ".gitattributes", "size": 1, "blobId": git_blob(b"x")}]
        for path, content in contents.items():
            entry = {"rfilename": path, "size": len(content), "blobId": git_blob(content)}
            address = f"/{repository}/resolve/{sha}/{path}"
            if len(content) >= SIZE:
                checksum = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": checksum, "size": len(content), "pointerSize": 130}
                self.site.contents[f"/cdn/{checksum}"] = content
                cdn = self.site.url.replace("127.0.0.1", "localhost")
                self.site.contents[address] = f"{cdn}/cdn/{checksum}?signature=x"
            else:
                self.site.contents[address] = content
            siblings.append(entry | listed.get(Path(path).name.replace(".", ""), {}))
        kind, _, name = f"{'' if repository.startswith('datasets/') else 'models/'}{repository}".partition(
            "/"
        )
        info = {"_id": "x", "id": name, "sha": sha, "siblings": siblings, "tags": [], "private": False}
        for address in (f"/api/{kind}/{name}", f"/api/{kind}/{name}/revision/{sha}"):
            self.site.contents[address] = json.dumps(info).encode()

    @property
    def log(self) -> list[Asked]:
        """Without what huggingface_hub asks once a day for its own purposes."""
        return [asked for asked in self.site.log if asked.path != "/api/agent-harnesses"]

    def asked(self, part: str) -> list[str]:
        return [asked.path for asked in self.log if part in asked.path]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(FileSite()) as site:
        yield Hub(site)


@pytest.fixture
def start(hub, tmp_path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start a program that downloads a data set into tmp_path/data, and end it with the test."""
    with contextlib.ExitStack() as stack:

        def run(name: str, stderr=subprocess.PIPE, **environment: str) -> subprocess.Popen:
            inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
            settings = {"HF_ENDPOINT": hub.site.url, "HF_HOME": str(tmp_path / "home")}
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, name, str(tmp_path / "data")],
                cwd=ROOT,
                env=inherited | settings | {"no_proxy": "127.0.0.1,localhost"} | environment,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield run


@pytest.fixture
def downloaded(start) -> Callable[..., list[str]]:
    """Run the program to its end; what it says on stdout, by lines, that of its files left out."""

    def run(name: str, **environment: str) -> list[str]:
        stdout, stderr = (process := start(name, **environment)).communicate(timeout=60)
        assert process.returncode == 0, stderr
        return [line for line in stdout.splitlines() if ": file " not in line]

    return run


@pytest.fixture
def failure(start) -> Callable[..., str]:
    """Run a program that must fail, and return the one line that it says why."""

    def run(name: str, **environment: str) -> str:
        _, stderr = (process := start(name, **environment)).communicate(timeout=60)
        assert process.returncode == 1, stderr
        (line,) = stderr.splitlines()
        return line

    return run


def visible_files(folder: Path) -> dict[str, bytes]:
    """What a reader of the folder finds, hidden files and the record left out."""
    paths = [path for path in folder.rglob("[!.]*") if path.is_file() and path.name != "download.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_data_set_of_the_hub_is_downloaded_once_and_recorded(hub, downloaded, tmp_path):
    books = {f"data/train-0000{i}-of-00002.parquet": bytes_of(f"book {i}") for i in range(2)}
    hub.commit(BOOKS, OLD, books | {"README.md": b"a card"})
    folder = tmp_path / "data/download/bookscorpus"
    assert downloaded("bookscorpus") == [str(folder / path) for path in books]
    assert visible_files(folder) == books
    record = read_record(folder)
    assert record["files"] == [
        {
            "path": path,
            "address": f"{hub.site.url}/{BOOKS}/resolve/{OLD}/{path}",
            "size": SIZE,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        for path, content in books.items()
    ]
    assert record["versions"] == {"lucadiliello/bookcorpusopen": OLD}
    assert record["url"] == "https://huggingface.co/" + BOOKS
    hub.site.log.clear()
    assert downloaded("bookscorpus") == [str(folder / path) for path in books]
    assert hub.log == []


def test_a_killed_download_goes_on_with_the_missing_bytes_of_the_same_commit(
    hub, start, downloaded, tmp_path
):
    old = {f"data/{i}.parquet": bytes_of(f"old {i}") for i in range(2)}
    hub.commit(BOOKS, OLD, old)
    second = "/cdn/" + hashlib.sha256(old["data/1.parquet"]).hexdigest()
    hub.site.faults[second] = [Answer(cut=HALF, stalls=True)]
    process = start("bookscorpus")
    partial = tmp_path / "data/download/bookscorpus/data/.1.parquet.partial"
    wait_for(lambda: partial.exists() and partial.stat().st_size == HALF)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    hub.commit(BOOKS, NEW, {"data/0.parquet": bytes_of("new")})
    hub.site.log.clear()
    downloaded("bookscorpus")
    assert visible_files(tmp_path / "data/download/bookscorpus") == old
    received = [(asked.path, asked.range) for asked in hub.log if asked.path.startswith("/cdn/")]
    assert received == [(second, f"bytes={HALF}-")]


def test_a_commit_that_is_gone_is_said_to_be(hub, failure, tmp_path):
    hub.commit(BOOKS, OLD, {"data/0.parquet": bytes_of("old")})
    hub.site.faults[f"/{BOOKS}/resolve/{OLD}/data/0.parquet"] = [Answer(status=500)] * 8
    failure("bookscorpus")
    hub.site.contents = {}
    hub.commit(BOOKS, NEW, {"data/0.parquet": bytes_of("new")})
    assert "was begun with a version that is gone" in failure("bookscorpus")
    assert read_record(folder_of("bookscorpus", tmp_path / "data")) is None


def test_of_openwebtext_the_tars_are_taken_where_they_are(hub, downloaded, tmp_path):
    tars = {f"subsets/urlsf_subset0{i}.tar": bytes_of(f"tar {i}", 1000) for i in range(2)}
    parquet = {f"plain_text/train-0000{i}-of-00002.parquet": bytes_of(f"rows {i}", 1000) for i in range(2)}
    code = {"openwebtext.py": b"import os", "README.md": b"a card"}
    folder = tmp_path / "data/download/openwebtext"
    hub.commit(WEB, OLD, tars | parquet | code)
    downloaded("openwebtext")
    assert visible_files(folder) == tars
    for path in folder.iterdir():
        subprocess.run(["rm", "-r", path], check=True)
    hub.commit(WEB, NEW, parquet | code)
    downloaded("openwebtext")
    assert visible_files(folder) == parquet


def test_glue_comes_in_folders_that_fine_tuning_reads(hub, downloaded, tmp_path):
    for task in FORMS:
        write_hub_files(tmp_path / "hub", task)
    contents = visible_files(tmp_path / "hub")
    hub.commit(
        "datasets/nyu-mll/glue", OLD, contents | {"README.md": b"x", "mnli_matched/test.parquet": b"x"}
    )
    lines = downloaded("glue")
    folder = tmp_path / "data/download/glue"
    # Eight tasks of three files, MNLI's five, and the diagnostic set.
    assert len(lines) == 8 * 3 + 5 + 1 and visible_files(folder) == contents
    for task in FORMS:
        for part in ("train", "eval", "test"):
            found = find_files(find_task(task), str(folder), part)
            assert all(Path(path).is_file() for file in found for path in file.paths)
    lines = downloaded("mrpc")
    assert [Path(line).parent.name for line in lines] == ["mrpc"] * 3
    (file,) = find_files(find_task("MRPC"), str(tmp_path / "data/download/mrpc"), "eval")
    assert Path(file.paths[0]).read_bytes() == contents["mrpc/validation-00000-of-00001.parquet"]


def test_a_repository_without_the_wanted_files_is_a_failure(hub, failure):
    hub.commit(BOOKS, OLD, {"books.zip": b"x", "data/books.json": b"x"})
    line = failure("bookscorpus")
    assert f"{hub.site.url}/{BOOKS}: holds no file that fits" in line and "parquet" in line


def test_no_path_of_the_list_leads_outside(hub, downloaded, tmp_path):
    outside = ["../x.parquet", "/x.parquet", "../../../x.parquet", "data/../../x.parquet", "..\\x.parquet"]
    hub.commit(BOOKS, OLD, {"data/0.parquet": b"rows"} | dict.fromkeys(outside, b"outside"))
    downloaded("bookscorpus")
    assert visible_files(tmp_path) == {"data/download/bookscorpus/data/0.parquet": b"rows"}


@pytest.mark.parametrize(
    ("size", "listed", "told"),
    [
        (SIZE, {"lfs": {"sha256": "0" * 64, "size": SIZE, "pointerSize": 130}}, "SHA256 0000"),
        (
            SIZE,
            {"lfs": {"sha256": "0" * 64, "size": SIZE + 1, "pointerSize": 130}},
            "200001 bytes are expected",
        ),
        (10, {"blobId": "0" * 40}, "GIT_BLOB_SHA1 0000"),
        (10, {"size": 9}, "9 bytes are expected"),
    ],
)
def test_a_file_that_is_not_the_listed_one_is_not_taken(hub, failure, tmp_path, size, listed, told):
    hub.commit(BOOKS, OLD, {"data/0.parquet": bytes_of("rows", size)}, **{"0parquet": listed})
    line = failure("bookscorpus")
    assert "has another content than expected" in line and told in line
    assert visible_files(tmp_path) == {} and not list(tmp_path.rglob("*.json"))[1:]


def test_a_data_set_that_does_not_fit_on_the_disk_is_not_begun(hub, failure):
    whole_disk = {"lfs": {"sha256": "0" * 64, "size": 10**18, "pointerSize": 130}}
    hub.commit(BOOKS, OLD, {"data/0.parquet": b"x", "data/1.parquet": b"x"}, **{"1parquet": whole_disk})
    line = failure("bookscorpus")
    assert "the download of bookscorpus: 1,000,000,000,000,000,001 bytes do not fit into" in line
    assert hub.asked("/resolve/") == []


def test_a_busy_hub_is_left_alone_as_long_as_it_asks(hub, downloaded):
    hub.commit(BOOKS, OLD, {"data/0.parquet": b"rows"})
    busy = [Answer(status=429, headers={"Retry-After": "77"}), Answer(status=503), Answer(cut=5)]
    hub.site.faults[f"/api/{BOOKS}"] = busy
    pauses = [line for line in downloaded("bookscorpus") if line.startswith("pause")]
    assert pauses == ["pause 77.0", "pause 2", "pause 4"]


@pytest.mark.parametrize(
    ("content", "environment", "told"),
    [
        (None, {}, "404 Not Found"),
        (b"<html>log in</html>", {}, "is none of a Hugging Face hub's"),
        (b'{"id": "x"}', {}, "names no commit"),
        (b"[]", {}, "is none of a Hugging Face hub's"),
        (
            b'{"id": "x", "sha": "1", "siblings": [{"rfilename": "a.parquet"}]}',
            {},
            "no checksum of a.parquet",
        ),
        (b"", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        (b"", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "Connection refused), tried 3 times"),
        (b"", {"HF_ENDPOINT": "http://hub.invalid"}, "as when this machine is offline), tried 3 times"),
    ],
)
def test_a_hub_that_cannot_be_asked_is_told_in_one_line(hub, failure, content, environment, told):
    if content is not None:
        hub.site.contents[f"/api/{BOOKS}"] = content
    endpoint = environment.get("HF_ENDPOINT", hub.site.url)
    line = failure("bookscorpus", **environment)
    assert line.startswith(f"-c: error: {endpoint}/{BOOKS}") and told in line


def test_a_token_goes_to_the_hub_alone(hub, downloaded):
    hub.commit(BOOKS, OLD, {"data/0.parquet": bytes_of("rows")})
    downloaded("bookscorpus", HF_TOKEN="hf_secret")
    sent = {asked.path: asked.authorization for asked in hub.log}
    at_cdn = [path for path in sent if path.startswith("/cdn/")]
    assert at_cdn and all(sent[path] is None for path in at_cdn)
    assert {sent[path] for path in sent if path not in at_cdn} == {"Bearer hf_secret"}


def test_weights_come_with_their_vocabulary_into_the_working_folder(hub, downloaded, tmp_path):
    vocabulary, config = b"[PAD]\n[UNK]\nthe\n", b'{"model_type": "electra"}'
    small = {"vocab.txt": vocabulary, "config.json": config, "pytorch_model.bin": bytes_of("small")}
    for repository in ENCODERS:
        hub.commit(repository, OLD, small | {"tf_model.h5": b"x", "README.md": b"x"})
    hub.commit(ENCODERS[2], NEW, small | {"model.safetensors": bytes_of("base")})
    downloaded("google_pretrained_weights")
    folder = tmp_path / "data/download/google_pretrained_weights"
    expected = {f"{name.removeprefix('google/')}/{path}": small[path] for name in ENCODERS for path in small}
    del expected["electra-base-discriminator/pytorch_model.bin"]
    expected["electra-base-discriminator/model.safetensors"] = bytes_of("base")
    assert visible_files(folder) == expected
    assert (tmp_path / "data/vocab.txt").read_bytes() == vocabulary
    assert read_record(folder)["versions"] == dict.fromkeys(ENCODERS, OLD) | {ENCODERS[2]: NEW}
    (tmp_path / "data/vocab.txt").write_bytes(b"own")
    lines = downloaded("google_pretrained_weights")
    assert lines[0].startswith(f"{tmp_path}/data/vocab.txt: is another vocabulary than")
    assert (tmp_path / "data/vocab.txt").read_bytes() == b"own"


def test_the_vocabulary_comes_alone_too_unless_there_is_one(hub, downloaded, tmp_path):
    hub.commit(ENCODERS[0], OLD, {"vocab.txt": b"[PAD]\n", "pytorch_model.bin": bytes_of("small")})
    path = tmp_path / "data/vocab.txt"
    assert downloaded("vocabulary") == [str(path)] and path.read_bytes() == b"[PAD]\n"
    assert hub.asked("/resolve/") == [f"/{ENCODERS[0]}/resolve/{OLD}/vocab.txt"]
    path.write_bytes(b"own")
    hub.site.log.clear()
    assert downloaded("vocabulary") == [str(path)] and path.read_bytes() == b"own"
    assert hub.log == []


def test_of_two_programs_one_downloads_and_the_other_waits_for_it(hub, start, tmp_path):
    content = bytes_of("rows")
    hub.commit(BOOKS, OLD, {"data/0.parquet": content})
    hub.site.faults["/cdn/" + hashlib.sha256(content).hexdigest()] = [Answer(cut=HALF, stalls=True)]
    first = start("bookscorpus")
    wait_for(lambda: hub.asked("/cdn/"))
    second = start("bookscorpus")
    assert f"in use by process {first.pid} on" in second.stdout.readline()
    hub.site.go_on.set()
    path = str(tmp_path / "data/download/bookscorpus/data/0.parquet")
    for process in (first, second):
        assert process.communicate(timeout=60)[0].endswith(f"{path}\n")
    assert len(hub.asked("/cdn/")) == len(hub.asked("/api/")) == 1


def test_on_a_terminal_each_file_shows_its_rate_and_the_time_left(hub, start):
    hub.commit(BOOKS, OLD, {f"data/{i}.parquet": bytes_of(f"rows {i}") for i in range(2)})
    terminal, program_side = os.openpty()
    termios.tcsetwinsize(program_side, (25, 100))
    process = start("bookscorpus", stderr=program_side)
    os.close(program_side)
    shown = b""
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 1000):
            shown += piece
    os.close(terminal)
    assert "bookscorpus: file 2 of 2, data/1.parquet" in process.communicate(timeout=60)[0]
    for name in (b"0.parquet", b"1.parquet"):
        assert re.search(
            rb"\r%s: 100%%[^\r]*200k/200k \[\d\d:\d\d<\d\d:\d\d, [\d.]+[kMG]?B/s\]" % name, shown
        )
