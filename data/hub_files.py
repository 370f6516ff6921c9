"""Files of the Hugging Face hub: which ones a repository holds at one commit, with sizes and checksums.

What is asked is huggingface_hub's: the list, the addresses, the token, HF_ENDPOINT, HF_HUB_OFFLINE. The files
themselves come through downloads.py: huggingface_hub throws away what has come of a file when it is
interrupted, and these are gigabytes.
"""

import re
from dataclasses import dataclass

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers

from command_line import RunFailure
from data import http_answers
from data.downloads import Content, NotThere, Patience
from data.remote_files import Listing, RemoteFile


@dataclass(frozen=True)
class HubRepository:
    """A repository and which of its files are wanted.

    Attributes:
        kind: dataset or model.
        wanted: for each kind of file its patterns, of which the first that any file fits is taken. A pattern
            is a regular expression for the whole path; it must not fit a path outside the repository.
        folder: put before the paths here; ends with a slash, if anything.
    """

    name: str
    kind: str
    wanted: tuple[tuple[str, ...], ...]
    folder: str = ""


def list_files(repository: HubRepository, commit: str | None, patience: Patience) -> Listing:
    """The wanted files of a repository, at the newest commit of its main branch unless one is given.

    Raises:
        NotThere: there is no such repository or commit.
        RunFailure: the hub cannot be reached, or the repository lacks a wanted file.
    """
    where = f"{constants.ENDPOINT}/{'datasets/' * (repository.kind == 'dataset')}{repository.name}"
    info = _ask(repository, where, commit, patience)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    paths = [path for patterns in repository.wanted for path in _first_fitting(patterns, siblings, where)]
    headers = build_hf_headers()
    return Listing(
        version=info.sha,
        files=tuple(_remote_file(repository, info.sha, siblings[path], where) for path in paths),
        headers={name: headers[name] for name in headers if name.lower() == "authorization"},
    )


def _ask(repository: HubRepository, where: str, commit: str | None, patience: Patience):
    shown = f"{where}, the list of its files"
    fruitless, answered = 0, False
    while True:
        retry_after = 0.0
        try:
            info = HfApi().repo_info(
                repository.name,
                repo_type=repository.kind,
                revision=commit,
                files_metadata=True,
                timeout=patience.timeout,
            )
            if info.sha is None:
                raise ValueError("names no commit")
            return info
        except OfflineModeIsEnabled:
            raise RunFailure(f"{shown}: cannot be downloaded (HF_HUB_OFFLINE forbids it)") from None
        except HfHubHTTPError as error:
            answered, response = True, error.response
            cause, retry_after = http_answers.status(response), http_answers.retry_after(response)
            if not http_answers.is_passing(response):
                failure = NotThere if http_answers.is_absent(response) else RunFailure
                raise failure(f"{shown}: cannot be downloaded ({cause})") from None
        except (ValueError, TypeError, KeyError) as error:
            raise RunFailure(f"{shown}: is none of a Hugging Face hub's ({error})") from None
        except Exception as error:  # the library passes on the errors of the HTTP library that it is built on
            cause = http_answers.cause(error)
        fruitless += 1
        patience.before_another(shown, cause, fruitless, answered=answered, retry_after=retry_after)


def _remote_file(repository: HubRepository, commit: str, sibling, where: str) -> RemoteFile:
    path = sibling.rfilename
    if sibling.lfs is not None:
        content = Content(sibling.lfs.size, sibling.lfs.sha256)
    elif sibling.blob_id is not None:
        content = Content(sibling.size, sibling.blob_id, is_git_blob=True)
    else:
        raise RunFailure(f"{where}: the list of its files has no checksum of {path}")
    address = hf_hub_url(repository.name, path, repo_type=repository.kind, revision=commit)
    return RemoteFile(repository.folder + path, address, content)


def _first_fitting(patterns: tuple[str, ...], paths, where: str) -> list[str]:
    for pattern in patterns:
        if fitting := sorted(path for path in paths if re.fullmatch(pattern, path)):
            return fitting
    raise RunFailure(f"{where}: holds no file that fits {' or '.join(patterns)}")
