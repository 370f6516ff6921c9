"""What an answer over HTTP says, and why there was none: sizes, versions, pauses, causes.

Nothing is asked here; that is downloads.py and hub_files.py, whose library has another class of answers with
the same `status_code` and `headers`.
"""

import email.utils
import errno
import http.client
import re
import socket
import time
from collections.abc import Iterator

import requests

_BUSY = (http.client.TOO_MANY_REQUESTS, http.client.SERVICE_UNAVAILABLE)
_PASSING = (*_BUSY, http.client.INTERNAL_SERVER_ERROR, http.client.BAD_GATEWAY, http.client.GATEWAY_TIMEOUT)
_ABSENT = (http.client.NOT_FOUND, http.client.GONE)
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)


def is_passing(response: requests.Response) -> bool:
    """Whether it is a failure of a kind that may be over soon."""
    return response.status_code in _PASSING


def is_absent(response: requests.Response) -> bool:
    """Whether the server says that there is no such file."""
    return response.status_code in _ABSENT


def length(response: requests.Response) -> int | None:
    """Bytes of the body, where the server says it."""
    value = response.headers.get("Content-Length", "")
    return int(value) if value.isascii() and value.isdigit() else None


def content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """First byte and size of the whole file, of `bytes 5-9/10` or `bytes */10`."""
    pattern = r"bytes (?:(\d+)-\d+|\*)/(\d+)"
    match = re.fullmatch(pattern, response.headers.get("Content-Range", ""), re.ASCII | re.IGNORECASE)
    start, total = match.groups() if match else (None, None)
    return start and int(start), total and int(total)


def version_of(response: requests.Response) -> str | None:
    """What If-Range takes: a strong ETag, else the date of the last change."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def is_other_version(response: requests.Response, version: str | None) -> bool:
    """Whether a server sends a part of another version than asked for; it need not say which one it sends."""
    if version is None:
        return False
    return response.headers.get("ETag" if version.startswith('"') else "Last-Modified", version) != version


def retry_after(response: requests.Response) -> float:
    """Seconds that a busy server wants to be left alone, which it gives as such or as a date."""
    if response.status_code not in _BUSY:
        return 0
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0


def status(response: requests.Response) -> str:
    """Code and phrase, as `404 Not Found`."""
    code = response.status_code
    return f"{code} {http.client.responses.get(code, '')}".strip()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those within it, the innermost last."""
    while error is not None:
        yield error
        within = [getattr(error, "reason", None), *error.args, error.__cause__, error.__context__]
        error = next((inner for inner in within if isinstance(inner, BaseException)), None)


def innermost(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    """Of an error and those within it, the innermost of a kind."""
    return next((inner for inner in reversed(list(_chain(error))) if isinstance(inner, kind)), None)


def cause(error: BaseException) -> str:
    """What went wrong on the way to a server, in words for the user."""
    chain = list(_chain(error))
    if any(isinstance(inner, socket.gaierror) for inner in chain):
        return "its host's name is not found, as when this machine is offline"
    if any(isinstance(inner, OSError) and inner.errno in _UNREACHABLE for inner in chain):
        return "there is no route to its host, as when this machine is offline"
    if any(isinstance(inner, TimeoutError) for inner in chain):
        return "the server fell silent"
    if any(isinstance(inner, http.client.IncompleteRead) for inner in chain):
        return "the connection ended early"
    failed = innermost(error, OSError)
    return str(getattr(failed, "strerror", None) or chain[-1])
