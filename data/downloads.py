"""One file from the web: resumed where it broke off, checked, and under its own name only when it is whole.

What has come so far lies beside the file as .<name>.partial, and where it came from and in which version as
.<name>.partial.json; a later run asks the server for the rest. Proxies are taken from the environment.

Here is neither a list of files nor a program: those are the modules that call `download`. Files of the
Hugging Face hub come through huggingface_hub.
"""

import contextlib
import functools
import hashlib
import http.client
import json
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

import requests
import urllib3
from tqdm import tqdm

import disk_space
import files
from command_line import RunFailure, UsageError
from data import http_answers

_CHUNK_BYTES = 1 << 20
# Redirects included. Wikimedia's servers turn programs away that do not say what they are.
_HEADERS = {"User-Agent": "ELECTRA-TensorFlow2-toolkit (data preparation)", "Accept-Encoding": "identity"}
_ALGORITHMS = {40: "sha1", 64: "sha256"}


class NotThere(RunFailure):
    """The server answers, and has no such file."""


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

    def before_another(
        self,
        shown: str,
        cause: str,
        fruitless: int,
        *,
        answered: bool,
        retry_after: float = 0,
        kept: str = "",
    ) -> None:
        """Wait before another attempt, or give up.

        Args:
            shown: what cannot be had, for messages; `kept` says what is left of it.
            fruitless: attempts in a row that brought nothing.
            answered: whether the server ever did.
            retry_after: seconds that it asks for.

        Raises:
            RunFailure: there were enough.
        """
        if fruitless >= (self.attempts if answered else self.first_attempts):
            raise RunFailure(f"{shown}: cannot be downloaded ({cause}), tried {fruitless} times{kept}")
        growing = min(self.longest_pause, self.first_pause * 2 ** max(0, fruitless - 1))
        seconds = max(growing, min(retry_after, self.longest_retry_after))
        _tell(f"{shown}: {cause}; again in {seconds:.0f} s")
        self.pause(seconds)


@dataclass(frozen=True)
class Content:
    """What a file must be: its size in bytes and its hexadecimal SHA-1 or SHA-256, each where it is known.

    `is_git_blob` has the SHA-1 be git's name of the file: that of `blob <size>`, a zero byte and the content.
    """

    size: int | None = None
    checksum: str | None = None
    is_git_blob: bool = False

    def __post_init__(self):
        if self.checksum is not None and len(bytes.fromhex(self.checksum)) * 2 not in _ALGORITHMS:
            raise ValueError(f"{self.checksum}: neither a SHA-1 nor a SHA-256")

    @property
    def algorithm(self) -> str:
        """What the checksum is, which must be known: sha1, sha256 or git_blob_sha1."""
        return "git_blob_sha1" if self.is_git_blob else _ALGORITHMS[len(self.checksum)]

    def difference(self, path: Path) -> str | None:
        """In which way a file is another one; None where it is not."""
        size = path.stat().st_size
        if self.size not in (None, size):
            return f"{self.size} bytes are expected, {size} found"
        if self.checksum is None:
            return None
        prefix = b"blob %d\0" % size if self.is_git_blob else b""
        start = functools.partial(hashlib.new, _ALGORITHMS[len(self.checksum)], prefix)
        with open(path, "rb") as stream:
            found = hashlib.file_digest(stream, start).hexdigest()
        if found == self.checksum.lower():
            return None
        return f"{self.algorithm.upper()} {self.checksum} is expected, {found} found"


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


def on_mirror(address: str, mirror: str | None) -> str:
    """The address with a mirror's in the place of its scheme and host."""
    return address if mirror is None else mirror.rstrip("/") + urlsplit(address).path


def without_credentials(address: str) -> str:
    """The address as it may be shown and recorded."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def download(
    address: str,
    path: str | Path,
    content: Content = Content(),
    patience: Patience = Patience(),
    headers: Mapping[str, str] | None = None,
) -> bool:
    """Have a file; returns whether it had to be downloaded.

    A file that is there stays if it is the wanted one, as far as `content` tells. Where another process
    downloads it, wait for that one's.

    Args:
        headers: sent beside our own; `Authorization` is not passed on where another host is redirected to.

    Raises:
        NotThere: the server has no such file.
        RunFailure: it cannot be had, has another content than it should, or does not fit on the disk; names
            the address and the cause.
    """
    path = Path(path)
    if not _is_web_address(address):
        raise RunFailure(f"{address}: is no address of http or https")
    if path.is_file() and content.difference(path) is None:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with only_writer(path):
        if path.is_file() and content.difference(path) is None:
            return False
        _Transfer(address, path, content, patience, headers or {}).run()
    return True


def bytes_missing(path: str | Path, size: int | None) -> int:
    """How much of a file of this size `download` still has to bring; 0 for an unknown size."""
    path = Path(path)
    if path.is_file():
        return 0
    return max(0, (size or 0) - _size_of(_partial(path)))


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

    def __init__(
        self, address: str, path: Path, content: Content, patience: Patience, headers: Mapping[str, str]
    ):
        self._address, self._path, self._content, self._patience = address, path, content, patience
        self._headers = headers
        self._shown = without_credentials(address)
        self._partial = _partial(path)
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
                session.headers.update(_HEADERS | dict(self._headers))
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
                failed, retry_after = str(error), error.retry_after
            kept = f"; {self._received()} bytes are kept for the next run" * (self._received() > 0)
            self._patience.before_another(
                self._shown, failed, fruitless, answered=answered, retry_after=retry_after, kept=kept
            )

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
                complete = http_answers.content_range(response) == (None, received)
                if complete and not http_answers.is_other_version(response, version):
                    return
                self._discard()
                raise _Interrupted("the file changed meanwhile")
            if status == http.client.PARTIAL_CONTENT and headers:
                start, total = http_answers.content_range(response)
                if start != received or total is None or http_answers.is_other_version(response, version):
                    self._discard()
                    raise _Interrupted("the server does not go on with the same file")
            elif status == http.client.OK:
                total = http_answers.length(response)
            else:
                failure = NotThere if http_answers.is_absent(response) else RunFailure
                raise failure(f"{self._shown}: cannot be downloaded ({http_answers.status(response)})")
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
            cause = http_answers.cause(error)
            if http_answers.innermost(error, ssl.SSLCertVerificationError):
                raise RunFailure(f"{self._shown}: cannot be downloaded ({cause})") from None
            raise _Interrupted(cause, answered=False) from None
        except (requests.RequestException, ValueError) as error:
            raise RunFailure(f"{self._shown}: cannot be downloaded ({error})") from None
        if http_answers.is_passing(response):
            response.close()
            raise _Interrupted(http_answers.status(response), retry_after=http_answers.retry_after(response))
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity" and self._content.checksum is None:
            response.close()
            raise RunFailure(f"{self._shown}: cannot be downloaded (is sent as {encoding}, unasked)")
        return response

    def _begin_anew(self, response: requests.Response) -> None:
        self._discard()
        # The record first, so that whatever a kill leaves of the file is of a known version.
        self._record.write_text(
            json.dumps({"address": self._shown, "version": http_answers.version_of(response)})
        )

    def _append(self, response: requests.Response, total: int | None, bar: tqdm) -> None:
        received, size = self._received(), self._content.size if total is None else total
        if size is not None:
            disk_space.require(self._path.parent, size - received, self._shown)
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
        return _size_of(self._partial)

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
def only_writer(path: Path) -> Iterator[None]:
    """Hold a file or folder, by a lock beside it; where another process does, say so and wait for it."""
    lock = path.with_name(f".{path.name}.lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.lock(lock))
        except BlockingIOError as error:
            _tell(f"{path}: {error}; waiting for it")
            stack.enter_context(files.lock(lock, wait=True))
        yield


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tell(line: str) -> None:
    tqdm.write(line)
    sys.stdout.flush()


def _is_web_address(url: str) -> bool:
    try:
        return urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname)
    except ValueError:
        return False


def _read(response: requests.Response) -> bytes:
    """The next bytes of a body as they are sent; those that came before an error are not lost with it."""
    try:
        return response.raw.read1(_CHUNK_BYTES, decode_content=False)
    except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
        raise _Interrupted(http_answers.cause(error)) from None
