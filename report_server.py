"""Serves a page that is made anew at every request, on this machine alone."""

import http.server
from collections.abc import Callable

from command_line import RunFailure, UsageError
from web_page import LOOPBACK, is_own_name


class PageServer(http.server.ThreadingHTTPServer):
    """Answers / with what `make_page` returns; another path is not found.

    Args:
        port: 0 takes a free one.

    Raises:
        UsageError: the port is taken or not allowed.
    """

    daemon_threads = True

    def __init__(self, make_page: Callable[[], str], port: int):
        self.make_page = make_page
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            raise UsageError(f"--port {port}: {error.strerror}") from None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}/"


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
            page = self.server.make_page().encode("utf-8")
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
