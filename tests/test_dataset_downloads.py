"""A data set is whole, of one version and recorded, or it is not there, whatever its site does meanwhile.

The site is a real server on this machine that lays its files out as dumps.wikimedia.org does. What befalls a
single file is in test_downloads.py, the Hugging Face hub in test_hub_files.py.
"""

import dataclasses
import hashlib
import json
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from web_site import Answer, FileSite, serving

import files
from command_line import RunFailure, UsageError
from data import squad_download
from data.dataset_downloads import download_dataset, folder_of, read_record
from data.dataset_names import members, origin
from data.downloads import NotThere, Patience
from data.squad_download import DataFile

DUMP = "pages-articles-multistream.xml.bz2"
INDEX = "pages-articles-multistream-index.txt.bz2"
SIZES = {DUMP: 200_000, INDEX: 20_000}
HALF = 100_000


class Usage(NamedTuple):
    """What is used of shutil.disk_usage's answer."""

    free: int


def bytes_of(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


def sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def visible_files(folder: Path) -> dict[str, bytes]:
    """What a reader of the folder finds, hidden files left out."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture
def site(monkeypatch) -> Iterator[FileSite]:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    with serving(FileSite()) as site:
        yield site


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def patience(pauses) -> Patience:
    return Patience(pause=pauses.append)


# --------------------------------------------------------------------------------------------- Wikipedia


@dataclasses.dataclass
class Dumps:
    """A mirror of dumps.wikimedia.org: runs by their dates, and `latest`, whose lists have dated names."""

    site: FileSite
    wiki: str = "enwiki"

    def add(self, date: str, done=(DUMP, INDEX), salt: str = "") -> dict[str, bytes]:
        """A run, of which only what is done is there and listed."""
        names = {f"{self.wiki}-{date}-{file}": file for file in done}
        run = {name: bytes_of(name + salt, SIZES[file]) for name, file in names.items()}
        for name, content in run.items():
            self.site.contents[f"/{self.wiki}/{date}/{name}"] = content
        listed = run | {f"{self.wiki}-{date}-site_stats.sql.gz": b"", f"{self.wiki}-{date}-page.sql.gz": b"x"}
        lines = [f"{sha1(content)}  {name}\n" for name, content in listed.items()]
        self.site.contents[f"/{self.wiki}/{date}/{self.wiki}-{date}-sha1sums.txt"] = "".join(lines).encode()
        dates = sorted({path.split("/")[2] for path in self.site.contents if path.count("/") == 3} | {date})
        links = [f'<a href="{name}/">{name}/</a>\n' for name in ["../", *dates, "latest"]]
        self.site.contents[f"/{self.wiki}/"] = b"<html><pre>" + "".join(links).encode()
        return run

    def make_latest(self, date: str) -> None:
        """The list is copied; the files are there under other names too, as they are on the site."""
        for path, content in list(self.site.contents.items()):
            if f"/{date}/" in path:
                self.site.contents[path.replace(date, "latest")] = content

    def remove(self, date: str) -> None:
        for path in [path for path in self.site.contents if f"/{date}/" in path]:
            del self.site.contents[path]


@pytest.fixture
def dumps(site) -> Dumps:
    return Dumps(site)


@pytest.fixture
def wikipedia(site, tmp_path, patience) -> Callable[[], list[Path]]:
    return lambda: download_dataset("wikicorpus_en", tmp_path, site.url, patience)


def test_the_newest_dump_is_downloaded_once_and_recorded(dumps, site, wikipedia, tmp_path):
    dumps.add("20261001")
    run = dumps.add("20261101")
    dumps.make_latest("20261101")
    paths = wikipedia()
    folder = tmp_path / "download" / "wikicorpus_en"
    assert [path.name for path in paths] == [f"enwiki-20261101-{DUMP}", f"enwiki-20261101-{INDEX}"]
    record = json.loads((folder / "download.json").read_text())
    assert visible_files(folder) == run | {"download.json": (folder / "download.json").read_bytes()}
    assert record["files"] == [
        {
            "path": name,
            "address": f"{site.url}/enwiki/20261101/{name}",
            "size": len(content),
            "sha1": sha1(content),
        }
        for name, content in run.items()
    ]
    assert record["versions"] == {"enwiki": "20261101"} and record["dataset"] == "wikicorpus_en"
    assert "CC BY-SA" in record["licence"] and record["url"] == "https://dumps.wikimedia.org/enwiki/"
    # `latest` was only asked which run it is: it may be another one by the next request.
    assert [path for path in site.asked if "/latest/" in path] == [
        "/enwiki/latest/enwiki-latest-sha1sums.txt"
    ]
    site.log.clear()
    assert wikipedia() == paths and site.log == []
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []


def test_a_dump_that_was_begun_is_finished_when_there_is_a_newer_one(dumps, site, wikipedia, tmp_path):
    run = dumps.add("20261001")
    dumps.make_latest("20261001")
    dump = f"/enwiki/20261001/enwiki-20261001-{DUMP}"
    site.faults[dump] = [Answer(cut=HALF)] + [Answer(status=500)] * 8
    with pytest.raises(RunFailure, match=f"{HALF} bytes are kept for the next run"):
        wikipedia()
    assert visible_files(tmp_path / "download") == {}
    dumps.add("20261101")
    dumps.make_latest("20261101")
    site.log.clear()
    assert [path.read_bytes() for path in wikipedia()] == list(run.values())
    assert [asked.range for asked in site.log if asked.path == dump] == [f"bytes={HALF}-"]
    assert read_record(tmp_path / "download/wikicorpus_en")["versions"] == {"enwiki": "20261001"}


def test_a_dump_that_was_begun_and_is_gone_is_said_to_be(dumps, site, wikipedia, tmp_path):
    dumps.add("20261001")
    dumps.make_latest("20261001")
    site.faults[f"/enwiki/20261001/enwiki-20261001-{DUMP}"] = [Answer(cut=HALF)] + [Answer(status=500)] * 8
    with pytest.raises(RunFailure):
        wikipedia()
    dumps.remove("20261001")
    run = dumps.add("20261101")
    dumps.make_latest("20261101")
    folder = tmp_path / "download/wikicorpus_en"
    with pytest.raises(
        NotThere, match=rf"^{folder}: .*20261001-sha1sums.*404.*delete it to begin"
    ) as failure:
        wikipedia()
    assert "\n" not in str(failure.value)
    files.remove_folder(folder)
    assert [path.read_bytes() for path in wikipedia()] == list(run.values())


def test_a_dump_that_was_made_again_meanwhile_is_taken_by_its_new_checksum(dumps, site, wikipedia):
    dumps.add("20261001")
    dumps.make_latest("20261001")
    site.faults[f"/enwiki/20261001/enwiki-20261001-{DUMP}"] = [Answer(cut=HALF)] + [Answer(status=500)] * 8
    with pytest.raises(RunFailure):
        wikipedia()
    again = dumps.add("20261001", salt="again")
    assert [path.read_bytes() for path in wikipedia()] == list(again.values())


@pytest.mark.parametrize("done", [None, (), (DUMP,), (INDEX,)])
def test_while_the_newest_run_lacks_a_file_the_one_before_it_is_taken(dumps, wikipedia, done):
    """None is a mirror without `latest`."""
    dumps.add("20260901")
    run = dumps.add("20261001")
    if done is not None:
        dumps.add("20261101", done=done)
        dumps.make_latest("20261101")
    assert [path.read_bytes() for path in wikipedia()] == list(run.values())


def test_a_site_without_any_whole_run_is_a_failure_in_one_line(dumps, site, wikipedia, tmp_path):
    dumps.add("20261001", done=(DUMP,))
    site.contents["/enwiki/"] += b'<a href="20260901/">a run whose list is gone</a>'
    with pytest.raises(RunFailure, match=rf"^{site.url}/enwiki: no run there lists its {DUMP} and {INDEX}$"):
        wikipedia()
    # What a login page answers to every request.
    for path in site.contents:
        site.contents[path] = b"<html>log in</html>"
    site.contents["/enwiki/latest/enwiki-latest-sha1sums.txt"] = b"<html>log in</html>"
    with pytest.raises(RunFailure, match="no run there lists"):
        wikipedia()
    assert visible_files(tmp_path) == {}


def test_a_file_that_is_not_the_listed_one_is_not_taken(dumps, site, wikipedia, tmp_path):
    run = dumps.add("20261001")
    dumps.make_latest("20261001")
    index = f"enwiki-20261001-{INDEX}"
    site.contents[f"/enwiki/20261001/{index}"] = run[index][:-1] + b"x"
    with pytest.raises(RunFailure, match=rf"{index}: has another content.*SHA1 {sha1(run[index])}"):
        wikipedia()
    folder = folder_of("wikicorpus_en", tmp_path)
    assert list(visible_files(folder)) == [f"enwiki-20261001-{DUMP}"] and read_record(folder) is None
    site.contents[f"/enwiki/20261001/{index}"] = run[index]
    assert [path.read_bytes() for path in wikipedia()] == list(run.values())


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_site_is_left_alone_as_long_as_it_asks(dumps, site, wikipedia, pauses, status):
    dumps.add("20261001")
    dumps.make_latest("20261001")
    busy = Answer(status=status, headers={"Retry-After": "77"})
    site.faults["/enwiki/latest/enwiki-latest-sha1sums.txt"] = [busy]
    site.faults[f"/enwiki/20261001/enwiki-20261001-{DUMP}"] = [busy, busy]
    assert len(wikipedia()) == 2
    assert pauses == [77, 77, 77]


@pytest.mark.parametrize(("name", "wiki"), [("wikicorpus_zh", "zhwiki"), ("wikicorpus_simple", "simplewiki")])
def test_another_language_is_another_wiki(site, tmp_path, patience, name, wiki):
    dumps = Dumps(site, wiki)
    run = dumps.add("20261001")
    dumps.make_latest("20261001")
    paths = download_dataset(name, tmp_path, site.url + "/", patience)
    assert {path.name: path.read_bytes() for path in paths} == run
    assert paths[0].parent == tmp_path / "download" / name


def test_a_mirrors_password_is_neither_recorded_nor_shown(dumps, site, tmp_path, patience, capsys):
    dumps.add("20261001")
    dumps.make_latest("20261001")
    mirror = site.url.replace("//", "//user:secret@")
    download_dataset("wikicorpus_en", tmp_path, mirror, patience)
    site.contents["/zhwiki/"] = b"<html>no run</html>"
    with pytest.raises(RunFailure, match=f"^{site.url}/zhwiki: "):
        download_dataset("wikicorpus_zh", tmp_path, mirror, patience)
    assert {asked.authorization[:6] for asked in site.log} == {"Basic "}
    assert "secret" not in (folder_of("wikicorpus_en", tmp_path) / "download.json").read_text()
    assert "secret" not in capsys.readouterr().out


def test_offline_is_told_in_one_line_unless_all_is_there(
    dumps, site, wikipedia, tmp_path, patience, monkeypatch
):
    dumps.add("20261001")
    dumps.make_latest("20261001")
    paths = wikipedia()

    def fail(*arguments, **options):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert wikipedia() == paths
    with pytest.raises(RunFailure, match=r"^https://dumps.wikimedia.org/zhwiki/.*name is not found.*offline"):
        download_dataset("wikicorpus_zh", tmp_path, None, patience)


def test_a_dump_that_does_not_fit_is_said_to_before_it_is_received(
    dumps, site, wikipedia, tmp_path, monkeypatch
):
    dumps.add("20261001")
    dumps.make_latest("20261001")
    free = SIZES[DUMP] - 1
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(free))
    with pytest.raises(
        RunFailure, match=rf"{DUMP}: 200,000 bytes do not fit into .*, which has 199,999 free$"
    ):
        wikipedia()
    assert visible_files(tmp_path) == {}
    free += 1
    assert len(wikipedia()) == 2


def test_what_has_gone_is_downloaded_again_in_the_same_version(dumps, site, wikipedia, tmp_path):
    run = dumps.add("20261001")
    dumps.make_latest("20261001")
    dump, index = wikipedia()
    dumps.add("20261101")
    dumps.make_latest("20261101")
    index.write_bytes(b"cut off")
    site.log.clear()
    assert wikipedia() == [dump, index] and index.read_bytes() == run[index.name]
    assert site.asked == ["/enwiki/20261001/enwiki-20261001-sha1sums.txt", f"/enwiki/20261001/{index.name}"]


# ------------------------------------------------------------------------------------------------- SQuAD


def test_squad_has_a_folder_for_each_version(site, tmp_path, patience, monkeypatch):
    contents = {name: bytes_of(name, 1000) for name in ("train-v1.1.json", "dev-v1.1.json", "dev-v2.0.json")}
    data_files = {
        version: tuple(
            DataFile(name, 1000, sha256(content))
            for name, content in contents.items()
            if name.endswith(f"v{version}.json")
        )
        for version in ("1.1", "2.0")
    }
    monkeypatch.setattr(squad_download, "DATA_FILES", data_files)
    site.contents = {f"/SQuAD-explorer/dataset/{name}": content for name, content in contents.items()}
    paths = download_dataset("squad", tmp_path, site.url, patience)
    folder = tmp_path / "download" / "squad"
    assert paths == [folder / name[-9:-5] / name for name in contents]
    assert [path.read_bytes() for path in paths] == list(contents.values())
    assert [file["sha256"] for file in read_record(folder)["files"]] == [*map(sha256, contents.values())]
    paths[1].unlink()
    site.contents["/SQuAD-explorer/dataset/dev-v1.1.json"] = b"x" * 1000
    with pytest.raises(RunFailure, match=r"SHA256 .* is expected"):
        download_dataset("squad", tmp_path, site.url, patience)
    assert read_record(folder) is None


# ------------------------------------------------------------------------------------------------- names


def test_groups_are_their_members():
    assert members("books_wiki_en_corpus") == ("bookscorpus", "wikicorpus_en")
    assert set(members("all")) == {"wikicorpus_en", "bookscorpus", "squad", "google_pretrained_weights"}
    assert members("wikicorpus_zh") == ("wikicorpus_zh",)


@pytest.mark.parametrize("name", ["wikicorpus_de", "openwebtext", "glue", "mrpc", *members("all")])
def test_each_data_set_says_where_it_is_from_and_under_which_licence(name):
    (member,) = members(name)
    source = origin(member)
    assert source.title and source.licence and source.url.startswith("https://")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nvidia_pretrained_weights", "google_pretrained_weights"),
        ("text", "--input_files"),
        ("wikicorpus", "is none of wikicorpus_en"),
        ("wikicorpus_../x", "is none of"),
        ("", "is none of"),
    ],
)
def test_what_is_not_downloaded_is_refused_with_what_to_take_instead(tmp_path, name, told):
    with pytest.raises(UsageError, match=f"^--dataset {name}: .*{told}"):
        download_dataset(name, tmp_path)
    assert list(tmp_path.iterdir()) == []
