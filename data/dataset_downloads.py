"""The data sets of --dataset, each downloaded as a whole into `download/<name>` of a working folder.

A data set is of one version, a dump's date or a commit, from its first file to its last, even if the download
was interrupted and there is a newer one since. download.json beside the files is written last: it says which
version it is and what the files are, so that nobody need compute their checksums again.

What a site has is asked in wikimedia_dumps.py and hub_files.py; how a file comes is downloads.py's.
"""

from dataclasses import asdict
from pathlib import Path

import disk_space
import files
from data import hub_files, squad_download, wikimedia_dumps
from data.dataset_names import members, origin, wikipedia_of
from data.downloads import (
    Content,
    NotThere,
    Patience,
    address_below,
    bytes_missing,
    download,
    on_mirror,
    only_writer,
    without_credentials,
)
from data.hub_files import HubRepository
from data.remote_files import Listing, RemoteFile

RECORD_NAME = "download.json"
VOCABULARY_NAME = "vocab.txt"

_PATIENCE = Patience()
_VERSIONS_NAME = ".versions.json"
_VOCABULARY = (r"vocab\.txt",)
_WEIGHTS = (r"model\.safetensors", r"pytorch_model\.bin")
_USUAL_PARTS = ("train", "validation", "test")
_MATCHING = [f"{part}_{kind}matched" for part in ("validation", "test") for kind in ("", "mis")]
_GLUE_PARTS = dict.fromkeys(("cola", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"), _USUAL_PARTS)
_GLUE_PARTS |= {"mnli": ("train", *_MATCHING), "ax": ("test",)}


def _glue(*tasks: str) -> HubRepository:
    """The Parquet files of some of GLUE's tasks, each in a folder of the task's name."""
    wanted = tuple((rf"{task}/{part}-[\d-]+of-\d+\.parquet",) for task in tasks for part in _GLUE_PARTS[task])
    return HubRepository("nyu-mll/glue", "dataset", wanted)


_REPOSITORIES = {
    "glue": (_glue(*_GLUE_PARTS),),
    "mrpc": (_glue("mrpc"),),
    # Whole books. What the hub calls bookcorpus is sentences, without the bounds of books.
    "bookscorpus": (
        HubRepository("lucadiliello/bookcorpusopen", "dataset", ((r"(\w[\w.-]*/)?\w[\w.-]*\.parquet",),)),
    ),
    # The tars first, because the whole collection is in them; Parquet files were added in two halves.
    "openwebtext": (
        HubRepository(
            "Skylion007/openwebtext",
            "dataset",
            ((r"(subsets/)?urlsf_subset\d+\.tar", r"\w[\w.-]*/train-\w[\w.-]*\.parquet"),),
        ),
    ),
    "google_pretrained_weights": tuple(
        HubRepository(
            f"google/electra-{size}-{network}",
            "model",
            (_VOCABULARY, (r"config\.json",), _WEIGHTS),
            folder=f"electra-{size}-{network}/",
        )
        for size in ("small", "base", "large")
        for network in ("discriminator", "generator")
    ),
}


def folder_of(name: str, working_folder: str | Path) -> Path:
    """The folder that receives a data set, one of `members`."""
    return Path(working_folder) / "download" / name


def download_dataset(
    name: str, working_folder: str | Path, mirror: str | None = None, patience: Patience = _PATIENCE
) -> list[Path]:
    """Have a data set, or those of a group, and return their files; no network is needed once they are there.

    With google_pretrained_weights their vocabulary comes into the working folder, unless one is there.

    Args:
        working_folder: DATA_PREP_WORKING_DIR.
        mirror: address in the place of `https://<host>`, for what is not on the Hugging Face hub; for what
            is, HF_ENDPOINT has that meaning.

    Raises:
        UsageError: no data set of that name can be downloaded.
        RunFailure: a file cannot be had, or the data set does not fit on the disk; what came is kept.
    """
    paths = []
    for member in members(name):
        folder = folder_of(member, working_folder)
        folder.mkdir(parents=True, exist_ok=True)
        with only_writer(folder):
            record = read_record(folder) or _download(member, folder, mirror, patience)
        if member == "google_pretrained_weights":
            _place_vocabulary(folder, record, Path(working_folder) / VOCABULARY_NAME)
        paths += [folder / file["path"] for file in record["files"]]
    return paths


def download_vocabulary(working_folder: str | Path, patience: Patience = _PATIENCE) -> Path:
    """Have a vocab.txt in the working folder: the one that is there, else that of Google's ELECTRA.

    Raises:
        RunFailure: it cannot be had.
    """
    path = Path(working_folder) / VOCABULARY_NAME
    if not path.exists():
        repository = HubRepository("google/electra-small-discriminator", "model", (_VOCABULARY,))
        listing = hub_files.list_files(repository, None, patience)
        (file,) = listing.files
        download(file.address, path, file.content, patience, listing.headers)
    return path


def read_record(folder: str | Path) -> dict | None:
    """A data set's download.json if its files are all there, by their sizes; None otherwise.

    It has dataset, title, licence, url, versions (by wiki or repository) and files: path within the folder,
    address, size in bytes, and sha1, sha256 or git_blob_sha1.
    """
    folder = Path(folder)
    try:
        record = files.read_json(folder / RECORD_NAME)
    except (FileNotFoundError, ValueError):
        return None
    places = [(folder / file["path"], file["size"]) for file in record["files"]]
    whole = all(path.is_file() and path.stat().st_size == size for path, size in places)
    return record if whole else None


def _download(name: str, folder: Path, mirror: str | None, patience: Patience) -> dict:
    listings = _listings(name, folder, mirror, patience)
    wanted = [(file, listing.headers) for listing in listings.values() for file in listing.files]
    needed = sum(bytes_missing(folder / file.path, file.content.size) for file, _ in wanted)
    disk_space.require(folder, needed, f"the download of {name}")
    for number, (file, headers) in enumerate(wanted, start=1):
        print(f"{name}: file {number} of {len(wanted)}, {file.path}", flush=True)
        download(file.address, folder / file.path, file.content, patience, headers)
    record = {
        "dataset": name,
        **asdict(origin(name)),
        "versions": _versions(listings),
        "files": [_entry(file, folder) for file, _ in wanted],
    }
    files.write_json(folder / RECORD_NAME, record)
    (folder / _VERSIONS_NAME).unlink()
    return record


def _entry(file: RemoteFile, folder: Path) -> dict:
    return {
        "path": file.path,
        "address": without_credentials(file.address),
        "size": (folder / file.path).stat().st_size,
        file.content.algorithm: file.content.checksum,
    }


# ---------------------------------------------------------------------------------------------- versions


def _listings(name: str, folder: Path, mirror: str | None, patience: Patience) -> dict[str, Listing]:
    """What to download, by wiki or repository; of the versions that an earlier run began with.

    Raises:
        NotThere: the site has them no more.
    """
    versions = _begun(folder)
    try:
        listings = _list_files(name, versions, mirror, patience)
    except NotThere as error:
        if not versions:
            raise
        raise NotThere(
            f"{folder}: was begun with a version that is gone ({error}); delete it to begin with the newest"
        ) from None
    files.write_json(folder / _VERSIONS_NAME, _versions(listings))
    return listings


def _begun(folder: Path) -> dict[str, str]:
    """The versions of a download that broke off, or of one whose files are there no more."""
    for name, versions_in in ((_VERSIONS_NAME, dict), (RECORD_NAME, lambda record: record["versions"])):
        try:
            return versions_in(files.read_json(folder / name))
        except (FileNotFoundError, ValueError):
            continue
    return {}


def _versions(listings: dict[str, Listing]) -> dict[str, str]:
    return {key: listing.version for key, listing in listings.items()}


def _list_files(
    name: str, versions: dict[str, str], mirror: str | None, patience: Patience
) -> dict[str, Listing]:
    if name == "squad":
        return {name: _squad_files(mirror)}
    if wiki := wikipedia_of(name):
        return {wiki: wikimedia_dumps.list_files(wiki, versions.get(wiki), mirror, patience)}
    return {
        repository.name: hub_files.list_files(repository, versions.get(repository.name), patience)
        for repository in _REPOSITORIES[name]
    }


def _squad_files(mirror: str | None) -> Listing:
    site = on_mirror(squad_download.SITE, mirror)
    data_files = squad_download.DATA_FILES
    return Listing(
        " and ".join(data_files),
        tuple(
            RemoteFile(
                f"v{version}/{file.name}", address_below(site, file.name), Content(file.size, file.sha256)
            )
            for version in data_files
            for file in data_files[version]
        ),
    )


# -------------------------------------------------------------------------------------------- vocabulary


def _place_vocabulary(folder: Path, record: dict, path: Path) -> None:
    source = next(folder / file["path"] for file in record["files"] if file["path"].endswith(VOCABULARY_NAME))
    content = source.read_bytes()
    if not path.exists():
        files.write_bytes(path, content)
    elif path.read_bytes() != content:
        print(f"{path}: is another vocabulary than {source}, and stays", flush=True)
