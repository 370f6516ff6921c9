"""One file from the web: resumed where it broke off, checked, and under its own name only when it is whole.

What has come so far lies beside the file as .<name>.partial, and where it came from and in which version as
.<name>.partial.json; a later run asks the server for the rest. Proxies are taken from the environment.

Here is neither a list of files nor a program: those are the modules that call `download`. Files of the
Hugging Face hub come through huggingface_hub.
"""

import contextlib
import email.utils
import errno
import hashlib
import http.client
import json
import re
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

import requests
import urllib3
from tqdm import tqdm

import files
from command_line import RunFailure, UsageError

_CHUNK_BYTES = 1 << 20
_BUSY = (http.client.TOO_MANY_REQUESTS, http.client.SERVICE_UNAVAILABLE)
_PASSING = (*_BUSY, http.client.INTERNAL_SERVER_ERROR, http.client.BAD_GATEWAY, http.client.GATEWAY_TIMEOUT)
# Redirects included. Wikimedia's servers turn programs away that do not say what they are.
_HEADERS = {"User-Agent": "ELECTRA-TensorFlow2-toolkit (data preparation)", "Accept-Encoding": "identity"}
_ALGORITHMS = {40: "sha1", 64: "sha256"}
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)


@dataclass(frozen=True)
class Patience:
    """How long a download waits, and how often it tries again; times in seconds.

    `attempts` bring nothing new, one after the other, before it gives up; `first_attempts` where the server
    has never answered, as it is then likelier to be out of reach than busy. Pauses double from `first_pause`
    to `longest_pause`; a server's Retry-After may lengthen one, up to `longest_retry_after`. `timeout` is how
    long a server may be silent.
    """

    attempts: int = 8
    first_attempts: int = 3
    first_pause: float = 1
    longest_pause: float = 60
    longest_retry_after: float = 600
    connect_timeout: float = 15
    timeout: float = 60
    pause: Callable[[float], None] = time.sleep

    def pause_after(self, fruitless: int, retry_after: float) -> float:
        growing = min(self.longest_pause, self.first_pause * 2 ** max(0, fruitless - 1))
        return max(growing, min(retry_after, self.longest_retry_after))


@dataclass(frozen=True)
class Content:
    """What a file must be: its size in bytes and its hexadecimal SHA-1 or SHA-256, each where it is known."""

    size: int | None = None
    checksum: str | None = None

    def __post_init__(self):
        if self.checksum is not None and len(bytes.fromhex(self.checksum)) * 2 not in _ALGORITHMS:
            raise ValueError(f"{self.checksum}: neither a SHA-1 nor a SHA-256")

    def difference(self, path: Path) -> str | None:
        """In which way a file is another one; None where it is not."""
        size = path.stat().st_size
        if self.size not in (None, size):
            return f"{self.size} bytes are expected, {size} found"
        if self.checksum is None:
            return None
        algorithm = _ALGORITHMS[len(self.checksum)]
        with open(path, "rb") as stream:
            found = hashlib.file_digest(stream, algorithm).hexdigest()
        if found == self.checksum.lower():
            return None
        return f"{algorithm.upper()} {self.checksum} is expected, {found} found"


def require_web_address(url: str, name: str) -> None:
    """Stop unless a flag's value is an address that `download` takes.

    Raises:
        UsageError: it is not.
    """
    if not _is_web_address(url):
        raise UsageError(f"--{name} {url}: must begin with http:// or https:// and name a host")


def address_below(base: str, name: str) -> str:
    """The address of a file under the address of a folder, be that the site's own or a mirror's."""
    return f"{base.rstrip('/')}/{quote(name)}"


def download(
    address: str, path: str | Path, content: Content = Content(), patience: Patience = Patience()
) -> bool:
    """Have a file; returns whether it had to be downloaded.

    A file that is there stays if it is the wanted one, as far as `content` tells. Where another process
    downloads it, wait for that one's.

    Raises:
        RunFailure: it cannot be had, or has another content than it should; names the address and the cause.
    """
    path = Path(path)
    if not _is_web_address(address):
        raise RunFailure(f"{address}: is no address of http or https")
    if path.is_file() and content.difference(path) is None:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with _only_writer(path):
        if path.is_file() and content.difference(path) is None:
            return False
        _Transfer(address, path, content, patience).run()
    return True


class _Interrupted(Exception):
    """An attempt that ended early, where another may go further."""

    def __init__(self, cause: str, *, answered: bool = True, retry_after: float = 0):
        super().__init__(cause)
        self.answered = answered
        self.retry_after = retry_after


class _WrongContent(Exception):
    """The server has another content than it should."""


class _Session(requests.Session):
    """Follows redirects, but never from an encrypted address to an open one."""

    def get_redirect_target(self, resp):
        target = super().get_redirect_target(resp)
        if target is not None and urlsplit(resp.url).scheme == "https":
            scheme = urlsplit(urljoin(resp.url, target)).scheme
            if scheme != "https":
                raise requests.exceptions.InvalidSchema(f"is redirected from https to {scheme}")
        return target


class _Transfer:
    """A file on its way: what has come of it, and the attempts that bring the rest."""

    def __init__(self, address: str, path: Path, content: Content, patience: Patience):
        self._address, self._path, self._content, self._patience = address, path, content, patience
        self._shown = _without_credentials(address)
        self._partial = path.with_name(f".{path.name}.partial")
        self._record = path.with_name(f".{path.name}.partial.json")

    def run(self) -> None:
        try:
            with (
                _Session() as session,
                tqdm(
                    total=self._content.size,
                    initial=self._received(),
                    desc=self._path.name,
                    unit="B",
                    unit_scale=True,
                    disable=None,
                ) as bar,
            ):
                session.headers.update(_HEADERS)
                session.max_redirects = 10
                self._receive_right_content(session, bar)
            files.publish(self._partial, self._path)
        finally:
            if not self._received():
                self._discard()

    def _receive_right_content(self, session: requests.Session, bar: tqdm) -> None:
        """Fetch a wrong content once more: a proxy or an older partial file may be the cause."""
        for is_last in (False, True):
            try:
                self._receive_all(session, bar)
                difference = self._content.difference(self._partial)
                if difference is None:
                    return
                self._discard()
            except _WrongContent as error:
                difference = str(error)
            if is_last:
                raise RunFailure(f"{self._shown}: has another content than expected: {difference}")
            _tell(f"{self._shown}: {difference}; once more")

    def _receive_all(self, session: requests.Session, bar: tqdm) -> None:
        """Attempt after attempt until the server's file is here."""
        fruitless, answered, furthest = 0, False, self._received()
        while True:
            try:
                self._attempt(session, bar)
                return
            except _Interrupted as error:
                fruitless = 0 if self._received() > furthest else fruitless + 1
                furthest = max(furthest, self._received())
                answered = answered or error.answered
                patience = self._patience
                if fruitless >= (patience.attempts if answered else patience.first_attempts):
                    kept = f"; {self._received()} bytes are kept for the next run" * (self._received() > 0)
                    raise RunFailure(
                        f"{self._shown}: cannot be downloaded ({error}), tried {fruitless} times{kept}"
                    ) from None
                seconds = patience.pause_after(fruitless, error.retry_after)
                _tell(f"{self._shown}: {error}; again in {seconds:.0f} s")
            patience.pause(seconds)

    def _attempt(self, session: requests.Session, bar: tqdm) -> None:
        """Ask for what is missing, and append it.

        Raises:
            _Interrupted: another attempt may go further.
            _WrongContent: the file has another size than it should.
            RunFailure: no further attempt can help.
        """
        received = self._received()
        if received and received == self._content.size:
            return
        headers = {}
        version = self._recorded_version()
        # Without a version only a checksum can tell pieces of two files apart.
        if received and (version or self._content.checksum):
            headers["Range"] = f"bytes={received}-"
            if version:
                headers["If-Range"] = version
        with self._ask(session, headers) as response:
            status = response.status_code
            if status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and headers:
                if _content_range(response) == (None, received) and not _is_other_version(response, version):
                    return
                self._discard()
                raise _Interrupted("the file changed meanwhile")
            if status == http.client.PARTIAL_CONTENT and headers:
                start, total = _content_range(response)
                if start != received or total is None or _is_other_version(response, version):
                    self._discard()
                    raise _Interrupted("the server does not go on with the same file")
            elif status == http.client.OK:
                total = _length(response)
            else:
                raise RunFailure(f"{self._shown}: cannot be downloaded ({_status(response)})")
            if self._content.size is not None and total not in (None, self._content.size):
                # What a proxy sends in the place of the file must not cost what came of it.
                if status == http.client.PARTIAL_CONTENT:
                    self._discard()
                raise _WrongContent(f"{self._content.size} bytes are expected, the server has {total}")
            if status == http.client.OK:
                self._begin_anew(response)
            self._append(response, total, bar)

    def _ask(self, session: requests.Session, headers: dict[str, str]) -> requests.Response:
        try:
            timeouts = (self._patience.connect_timeout, self._patience.timeout)
            response = session.get(self._address, headers=headers, stream=True, timeout=timeouts)
        except requests.TooManyRedirects:
            raise RunFailure(f"{self._shown}: cannot be downloaded (is redirected without end)") from None
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            if _innermost(error, ssl.SSLCertVerificationError):
                raise RunFailure(f"{self._shown}: cannot be downloaded ({_cause(error)})") from None
            raise _Interrupted(_cause(error), answered=False) from None
        except (requests.RequestException, ValueError) as error:
            raise RunFailure(f"{self._shown}: cannot be downloaded ({error})") from None
        if response.status_code in _PASSING:
            response.close()
            retry_after = _retry_after(response) if response.status_code in _BUSY else 0
            raise _Interrupted(_status(response), retry_after=retry_after)
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity" and self._content.checksum is None:
            response.close()
            raise RunFailure(f"{self._shown}: cannot be downloaded (is sent as {encoding}, unasked)")
        return response

    def _begin_anew(self, response: requests.Response) -> None:
        self._discard()
        # The record first, so that whatever a kill leaves of the file is of a known version.
        self._record.write_text(json.dumps({"address": self._shown, "version": _version(response)}))

    def _append(self, response: requests.Response, total: int | None, bar: tqdm) -> None:
        received, size = self._received(), self._content.size if total is None else total
        bar.total = size
        bar.update(received - bar.n)
        with open(self._partial, "ab") as target:
            while chunk := _read(response):
                received += len(chunk)
                if size is not None and received > size:
                    break
                target.write(chunk)
                bar.update(len(chunk))
        if size is not None and received > size:
            self._discard()
            raise _WrongContent(f"{size} bytes are expected, the server has more")
        if size is not None and received < size:
            raise _Interrupted(f"the server ended it after {received} of {size} bytes")

    def _received(self) -> int:
        return self._partial.stat().st_size if self._partial.exists() else 0

    def _recorded_version(self) -> str | None:
        """The version of the partial file, if it came from the same address: each server has its own."""
        try:
            record = files.read_json(self._record)
        except (FileNotFoundError, ValueError):
            return None
        return record["version"] if record["address"] == self._shown else None

    def _discard(self) -> None:
        self._partial.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)


@contextlib.contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    lock = path.with_name(f".{path.name}.lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.lock(lock))
        except BlockingIOError as error:
            _tell(f"{path}: {error}; waiting for it")
            stack.enter_context(files.lock(lock, wait=True))
        yield


def _tell(line: str) -> None:
    tqdm.write(line)
    sys.stdout.flush()


def _is_web_address(url: str) -> bool:
    try:
        return urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname)
    except ValueError:
        return False


def _without_credentials(address: str) -> str:
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _read(response: requests.Response) -> bytes:
    """The next bytes of a body as they are sent; those that came before an error are not lost with it."""
    try:
        return response.raw.read1(_CHUNK_BYTES, decode_content=False)
    except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
        raise _Interrupted(_cause(error)) from None


def _length(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() else None


def _content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """First byte and size of the whole file, of `bytes 5-9/10` or `bytes */10`."""
    pattern = r"bytes (?:(\d+)-\d+|\*)/(\d+)"
    match = re.fullmatch(pattern, response.headers.get("Content-Range", ""), re.ASCII | re.IGNORECASE)
    start, total = match.groups() if match else (None, None)
    return start and int(start), total and int(total)


def _version(response: requests.Response) -> str | None:
    """What If-Range takes: a strong ETag, else the date of the last change."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _is_other_version(response: requests.Response, version: str | None) -> bool:
    """Whether a server sends a part of another version than asked for; it need not say which one it sends."""
    if version is None:
        return False
    return response.headers.get("ETag" if version.startswith('"') else "Last-Modified", version) != version


def _retry_after(response: requests.Response) -> float:
    """Seconds that a busy server wants to be left alone, which it gives as such or as a date."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0


def _status(response: requests.Response) -> str:
    code = response.status_code
    return f"{code} {http.client.responses.get(code, '')}".strip()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those within it, the innermost last."""
    while error is not None:
        yield error
        within = [getattr(error, "reason", None), *error.args, error.__cause__, error.__context__]
        error = next((inner for inner in within if isinstance(inner, BaseException)), None)


def _innermost(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    return next((inner for inner in reversed(list(_chain(error))) if isinstance(inner, kind)), None)


def _cause(error: BaseException) -> str:
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
    failed = _innermost(error, OSError)
    return str(getattr(failed, "strerror", None) or chain[-1])
