"""Dumps of a Wikipedia on dumps.wikimedia.org or a mirror: the newest run, its articles and their SHA-1.

A run is a folder named by its date. `latest` beside it moves on while a dump is being downloaded, so it only
tells which run is meant, and the files are taken from the run itself.
"""

import re
import tempfile
from pathlib import Path

from command_line import RunFailure
from data.downloads import (
    Content,
    NotThere,
    Patience,
    address_below,
    download,
    on_mirror,
    without_credentials,
)
from data.remote_files import Listing, RemoteFile

_SITE = "https://dumps.wikimedia.org"
# The articles as bzip2 streams of a hundred pages each, and where each stream begins.
_FILES = ("pages-articles-multistream.xml.bz2", "pages-articles-multistream-index.txt.bz2")
_LINE = re.compile(r"([0-9a-f]{40}) [ *](\S+)")


def list_files(wiki: str, date: str | None, mirror: str | None, patience: Patience) -> Listing:
    """The multistream dump and its index.

    Args:
        wiki: as the site names it: enwiki.
        date: of the run, as YYYYMMDD; without it that which `latest` names, or else the newest run that has
            both files.

    Raises:
        NotThere: the site has no such wiki or run.
        RunFailure: the site cannot be reached, or the run lists no such files.
    """
    folder = address_below(on_mirror(_SITE, mirror), wiki)
    if date is not None:
        listing = _run(folder, wiki, date, _checksums(folder, date, wiki, patience))
        if listing is None:
            raise NotThere(f"{_shown(folder, date)}: does not list {_name(wiki, date, _FILES[0])}")
        return listing
    return _latest(folder, wiki, patience) or _newest(folder, wiki, patience)


def _latest(folder: str, wiki: str, patience: Patience) -> Listing | None:
    """None where `latest` is not kept, or is of a run that has not got so far."""
    try:
        checksums = _checksums(folder, "latest", wiki, patience)
    except NotThere:
        return None
    dates = {match[1] for name in checksums if (match := re.match(rf"{wiki}-(\d{{8}})-", name))}
    runs = (_run(folder, wiki, date, checksums) for date in sorted(dates, reverse=True))
    return next(filter(None, runs), None)


def _newest(folder: str, wiki: str, patience: Patience) -> Listing:
    dates = re.findall(r'href="(?:[^"]*/)?(\d{8})/?"', _fetch(f"{folder}/", patience))
    for date in sorted(set(dates), reverse=True):
        try:
            checksums = _checksums(folder, date, wiki, patience)
        except NotThere:
            continue
        if listing := _run(folder, wiki, date, checksums):
            return listing
    raise RunFailure(f"{without_credentials(folder)}: no run there lists its {_FILES[0]} and {_FILES[1]}")


def _run(folder: str, wiki: str, date: str, checksums: dict[str, str]) -> Listing | None:
    names = [_name(wiki, date, file) for file in _FILES]
    if not all(name in checksums for name in names):
        return None
    below = address_below(folder, date)
    return Listing(
        date,
        tuple(
            RemoteFile(name, address_below(below, name), Content(checksum=checksums[name])) for name in names
        ),
    )


def _checksums(folder: str, run: str, wiki: str, patience: Patience) -> dict[str, str]:
    """SHA-1 by file name; the names are those of the run, also in the list that `latest` has."""
    text = _fetch(address_below(address_below(folder, run), _name(wiki, run, "sha1sums.txt")), patience)
    return {match[2]: match[1] for line in text.splitlines() if (match := _LINE.fullmatch(line.strip()))}


def _fetch(address: str, patience: Patience) -> str:
    with tempfile.TemporaryDirectory(prefix="dump_list_") as folder:
        path = Path(folder) / (address.rstrip("/").rpartition("/")[2])
        download(address, path, patience=patience)
        return path.read_text(encoding="utf-8", errors="replace")


def _name(wiki: str, run: str, file: str) -> str:
    return f"{wiki}-{run}-{file}"


def _shown(folder: str, date: str) -> str:
    return without_credentials(address_below(folder, date))
