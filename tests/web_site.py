"""A web site on this machine that fails as it is told to, and keeps a log of what was asked of it."""

import contextlib
import dataclasses
import hashlib
import http.server
import re
import threading
from collections.abc import Iterator

TAG = {"ETag": '"first"'}


@dataclasses.dataclass
class Answer:
    """What the server does with one request; without anything said, what the standard says.

    `cut` is after how many bytes of the body the connection ends; `stalls` has it stay open instead, and
    `honest` has the headers speak of what is sent only.
    """

    status: int | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    content: bytes | None = None
    cut: int | None = None
    stalls: bool = False
    honest: bool = False
    chunked: bool = False
    knows_ranges: bool = True
    knows_if_range: bool = True


@dataclasses.dataclass
class Asked:
    path: str
    range: str | None
    if_range: str | None
    authorization: str | None = None
    status: int = 0
    sent: int = 0


class Site(http.server.ThreadingHTTPServer):
    """One file under every path; `answers` are those to the next requests, `usual` the one to all others."""

    def __init__(self, content: bytes = b""):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.address = f"{self.url}/file.bin"
        self.content = content
        self.validators = dict(TAG)
        self.usual = Answer()
        self.answers: list[Answer] = []
        self.log: list[Asked] = []
        self.go_on = threading.Event()

    @property
    def ranges(self) -> list[str | None]:
        return [asked.range for asked in self.log]

    def answer_to(self, path: str) -> Answer:
        return self.answers.pop(0) if self.answers else self.usual

    def content_at(self, path: str) -> bytes:
        return self.content

    def validators_of(self, content: bytes) -> dict[str, str]:
        return self.validators


class FileSite(Site):
    """Files by their paths, of which a string is an address to go to; `faults` are a path's next answers."""

    def __init__(self):
        super().__init__()
        self.contents: dict[str, bytes | str] = {}
        self.faults: dict[str, list[Answer]] = {}

    @property
    def asked(self) -> list[str]:
        return [asked.path for asked in self.log]

    def answer_to(self, path: str) -> Answer:
        if self.faults.get(path):
            return self.faults[path].pop(0)
        content = self.contents.get(path)
        if isinstance(content, str):
            return Answer(status=302, content=b"", headers={"Location": content})
        return Answer(status=404, content=b"not here") if content is None else self.usual

    def content_at(self, path: str) -> bytes:
        return self.contents[path]

    def validators_of(self, content: bytes) -> dict[str, str]:
        return {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'}


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Site
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        site = self.server
        path = self.path.partition("?")[0]
        answer = site.answer_to(path)
        asked = Asked(path, self.headers["Range"], self.headers["If-Range"], self.headers["Authorization"])
        site.log.append(asked)
        whole = site.content_at(path) if answer.content is None else answer.content
        headers = site.validators_of(whole) | answer.headers
        body, asked.status = whole, answer.status or 200
        current = asked.if_range in (None, headers.get("ETag"), headers.get("Last-Modified"))
        if answer.status is None and asked.range and answer.knows_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked.range)[1])
            if current or not answer.knows_if_range:
                asked.status, body = 206, whole[start:]
                headers["Content-Range"] = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
                if start >= len(whole):
                    asked.status, body = 416, b""
                    headers["Content-Range"] = f"bytes */{len(whole)}"
        if answer.honest:
            body = body[: answer.cut]
        headers |= {"Transfer-Encoding": "chunked"} if answer.chunked else {"Content-Length": str(len(body))}
        self.send_response(asked.status)
        for name, value in (headers | answer.headers | {"Connection": "close"}).items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            piece = body[: answer.cut]
            # Before the client can have all of it and look.
            asked.sent = len(piece)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if answer.chunked and piece else piece)
            if answer.stalls:
                site.go_on.wait(20)
                self.wfile.write(body[answer.cut :])
                asked.sent = len(body)
            if answer.chunked and (answer.cut is None or answer.honest):
                self.wfile.write(b"0\r\n\r\n")


@contextlib.contextmanager
def serving(site: Site) -> Iterator[Site]:
    with site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield site
        site.go_on.set()
        site.shutdown()
        thread.join()
