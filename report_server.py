"""Serves a page that is made anew when what it shows has changed, on this machine alone."""

import http.server
import threading
from collections.abc import Callable

from command_line import RunFailure, UsageError
from web_page import LOOPBACK, is_own_name


class PageServer(http.server.ThreadingHTTPServer):
    """Answers / with what `make_page` returns; another path is not found.

    Args:
        stamp: what the page follows from; the last one is given again while this is the same.
        port: 0 takes a free one.

    Raises:
        UsageError: the port is taken or not allowed.
    """

    daemon_threads = True

    def __init__(self, make_page: Callable[[], str], stamp: Callable[[], object], port: int):
        self._make_page, self._stamp = make_page, stamp
        # By one request at a time: every open tab asks again every few seconds.
        self._making = threading.Lock()
        self._made: tuple[object, str] | None = None
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            raise UsageError(f"--port {port}: {error.strerror}") from None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}/"

    def page(self) -> str:
        """The page as it is now.

        Raises:
            whatever `make_page` or `stamp` raises; the next request tries again.
        """
        with self._making:
            # Before the page: what comes while that is made is shown at the next request.
            stamp = self._stamp()
            if self._made is None or self._made[0] != stamp:
                self._made = stamp, self._make_page()
            return self._made[1]


class _Handler(http.server.BaseHTTPRequestHandler):
    # A connection that sends nothing does not keep its thread for ever.
    timeout = 30

    def do_GET(self):
        if not is_own_name(self.headers.get("Host", ""), LOOPBACK):
            self.send_error(403)
        elif self.path != "/":
            self.send_error(404)
        else:
            self._send_page()

    def _send_page(self):
        try:
            page = self.server.page().encode("utf-8")
        except (UsageError, RunFailure, OSError) as error:
            self.send_error(500, explain=str(error))
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format, *arguments):
        """Requests every few seconds are no news."""
