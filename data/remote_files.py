"""What there is to download: files with their addresses and contents, all of one version.

Sites' modules make such lists (wikimedia_dumps.py, hub_files.py); dataset_downloads.py has them downloaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from data.downloads import Content


@dataclass(frozen=True)
class RemoteFile:
    """A file; `path` is relative to the folder that receives the data set."""

    path: str
    address: str
    content: Content


@dataclass(frozen=True)
class Listing:
    """The files of one version.

    Attributes:
        version: what stays the same when the site gets newer files: a dump's date, a commit.
        headers: what the site wants to be sent with each request.
    """

    version: str
    files: tuple[RemoteFile, ...]
    headers: Mapping[str, str] = field(default_factory=dict)
