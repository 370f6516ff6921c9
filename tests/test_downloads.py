"""A file from the web is whole under its name or absent, whatever a server, a network or a kill does to it.

The server here is a real one on this machine; its log says what was asked of it, and how much it sent.
"""

import contextlib
import dataclasses
import email.utils
import errno
import hashlib
import io
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import urllib3
from web_site import TAG, Answer, Site, serving

from command_line import RunFailure, UsageError
from data.downloads import (
    Content,
    NotThere,
    Patience,
    address_below,
    bytes_missing,
    download,
    on_mirror,
    require_web_address,
)

ROOT = Path(__file__).parents[1]
CONTENT = random.Random(1).randbytes(300_000)
HALF = 150_000
DATES = {"Last-Modified": "Tue, 01 Jul 2025 10:00:00 GMT"}
DOWNLOADER = """
import sys
from command_line import run_program
from data.downloads import Content, download
size = int(sys.argv[3]) if sys.argv[3:] else None
run_program(lambda: print("downloaded:", download(sys.argv[1], sys.argv[2], Content(size))))
"""


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    with serving(Site(CONTENT)) as site:
        yield site


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def patience(pauses) -> Patience:
    return Patience(pause=pauses.append)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "folder" / "file.bin"


@pytest.fixture
def start(site, path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start a program that downloads the file, and end it with the test."""
    with contextlib.ExitStack() as stack:

        def run(*arguments, stderr=subprocess.PIPE) -> subprocess.Popen:
            command = [sys.executable, "-c", DOWNLOADER, site.address, str(path), *map(str, arguments)]
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield run


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


def assert_is_whole(path: Path, content: bytes = CONTENT) -> None:
    """The bytes are those that were served, and nothing lies beside them."""
    assert path.read_bytes() == content
    assert names(path) == [path.name]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def bytes_beside(path: Path) -> int:
    partial = path.with_name(f".{path.name}.partial")
    return partial.stat().st_size if partial.exists() else 0


def test_a_file_is_downloaded_once(site, path, patience):
    for content in (Content(), Content(len(CONTENT), sha256(CONTENT))):
        assert download(site.address, path, content, patience) == (not site.log[1:] and content == Content())
        assert_is_whole(path)
    assert site.ranges == [None]


def test_an_empty_file_is_a_file(site, path, patience):
    site.content = b""
    assert download(site.address, path, Content(0, sha256(b"")), patience)
    assert_is_whole(path, b"")


@pytest.mark.parametrize("validators", [TAG, DATES, DATES | {"ETag": 'W/"weak"'}])
@pytest.mark.parametrize("chunked", [False, True])
def test_after_a_dropped_connection_only_the_rest_is_asked_for(
    site, path, patience, pauses, validators, chunked
):
    site.validators = dict(validators)
    site.answers = [Answer(cut=HALF, chunked=chunked), Answer(cut=HALF // 2)]
    assert download(site.address, path, patience=patience)
    assert_is_whole(path)
    assert site.ranges == [None, f"bytes={HALF}-", f"bytes={HALF + HALF // 2}-"]
    assert [asked.status for asked in site.log] == [200, 206, 206]
    assert sum(asked.sent for asked in site.log) == len(CONTENT)
    version = validators["Last-Modified"] if "Last-Modified" in validators else validators["ETag"]
    assert [asked.if_range for asked in site.log] == [None, version, version]
    assert pauses == [1, 1]


def test_a_download_that_gains_is_never_given_up(site, path, patience, pauses):
    site.answers = [Answer(cut=10_000) for _ in range(25)]
    assert download(site.address, path, patience=dataclasses.replace(patience, attempts=2))
    assert_is_whole(path)
    assert len(site.log) == 26 and set(pauses) == {1}


@pytest.mark.parametrize(("size", "statuses"), [(None, [200, 416]), (len(CONTENT), [200])])
def test_a_file_whose_end_alone_was_lost_is_complete(site, path, patience, size, statuses):
    site.answers = [Answer(cut=len(CONTENT), chunked=True)]
    assert download(site.address, path, Content(size), patience)
    assert_is_whole(path)
    assert [asked.status for asked in site.log] == statuses


def test_a_body_that_ends_too_early_without_saying_so_is_no_whole_file(site, path, patience):
    """The expected size tells it in the first answer, the size that comes beside a range in the second."""
    site.answers = [Answer(cut=HALF, chunked=True, honest=True), Answer(cut=HALF // 2, honest=True)]
    assert download(site.address, path, Content(len(CONTENT)), patience)
    assert_is_whole(path)
    assert site.ranges == [None, f"bytes={HALF}-", f"bytes={HALF + HALF // 2}-"]
    path.unlink()
    site.answers = [Answer(cut=HALF), Answer(cut=HALF // 2, honest=True)]
    assert download(site.address, path, patience=patience)
    assert_is_whole(path)


def test_a_stalled_server_is_left_and_asked_for_the_rest(site, path, patience, capsys):
    site.answers = [Answer(cut=HALF, stalls=True)]
    assert download(site.address, path, patience=dataclasses.replace(patience, timeout=0.2))
    assert_is_whole(path)
    assert site.ranges == [None, f"bytes={HALF}-"]
    assert "the server fell silent; again in 1 s" in capsys.readouterr().out


def test_a_server_without_ranges_sends_all_again(site, path, patience):
    site.usual = Answer(knows_ranges=False)
    site.answers = [Answer(cut=HALF)]
    assert download(site.address, path, patience=patience)
    assert_is_whole(path)
    assert [asked.status for asked in site.log] == [200, 200]


@pytest.mark.parametrize("knows_if_range", [True, False])
@pytest.mark.parametrize("length", [len(CONTENT) + 1000, len(CONTENT), HALF, HALF // 2])
def test_a_file_that_changed_meanwhile_is_no_mixture(site, path, patience, knows_if_range, length):
    new = random.Random(2).randbytes(length)
    site.answers = [Answer(cut=HALF)]
    site.usual = Answer(content=new, headers={"ETag": '"second"'}, knows_if_range=knows_if_range)
    assert download(site.address, path, patience=patience)
    assert_is_whole(path, new)
    assert site.ranges[1] == f"bytes={HALF}-"


@pytest.mark.parametrize(
    "content_range", [f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}", f"bytes {HALF}-{HALF}/*", "", "bytes 1"]
)
def test_another_part_than_asked_for_is_not_appended(site, path, patience, content_range):
    site.answers = [Answer(cut=HALF), Answer(status=206, headers={"Content-Range": content_range})]
    assert download(site.address, path, patience=patience)
    assert_is_whole(path)
    assert site.ranges == [None, f"bytes={HALF}-", None]


def test_without_a_version_pieces_are_joined_only_where_a_checksum_tells(site, path, patience):
    site.validators = {}
    site.answers = [Answer(cut=HALF)]
    assert download(site.address, path, patience=patience)
    assert_is_whole(path)
    assert site.ranges == [None, None]
    path.unlink()
    site.answers = [Answer(cut=HALF)]
    assert download(site.address, path, Content(checksum=sha256(CONTENT)), patience)
    assert_is_whole(path)
    assert site.ranges[2:] == [None, f"bytes={HALF}-"]
    assert site.log[3].if_range is None


def test_another_mirror_goes_on_by_the_checksum_alone(site, path, patience):
    site.usual = Answer(status=500)
    site.answers = [Answer(cut=HALF)]
    content = Content(checksum=sha256(CONTENT))
    with pytest.raises(RunFailure, match=f"{HALF} bytes are kept for the next run"):
        download(site.address, path, content, patience)
    site.usual, site.validators = Answer(), {"ETag": '"of the mirror"'}
    assert download(address_below(site.url + "/mirror/", path.name), path, content, patience)
    assert_is_whole(path)
    last = site.log[-1]
    assert (last.path, last.range, last.if_range) == ("/mirror/file.bin", f"bytes={HALF}-", None)


@pytest.mark.parametrize("status", [500, 502, 504, 429, 503])
def test_a_passing_failure_is_tried_again(site, path, patience, pauses, status):
    site.answers = [Answer(status=status)] * 4
    assert download(site.address, path, patience=patience)
    assert_is_whole(path)
    assert pauses == [1, 2, 4, 8]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 410, 501, 204, 304])
def test_any_other_status_ends_it_at_once(site, path, patience, pauses, status):
    site.usual = Answer(status=status, content=b"")
    with pytest.raises(RunFailure, match=f"^{site.address}: cannot be downloaded .{status} ") as failure:
        download(site.address, path, patience=patience)
    assert isinstance(failure.value, NotThere) == (status in (404, 410))
    assert len(site.log) == 1 and pauses == [] and names(path) == []


def test_busy_servers_are_left_alone_for_as_long_as_they_say_within_bounds(site, path, patience, pauses):
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    past = "Tue, 01 Jul 2025 10:00:00 GMT"
    values = ["7", date, "100000", "soon", "", "0", past]
    site.answers = [
        Answer(status=429 + 74 * (i % 2), headers={"Retry-After": v}) for i, v in enumerate(values)
    ]
    assert download(site.address, path, patience=patience)
    assert_is_whole(path)
    assert 95 < pauses.pop(1) <= 100
    assert pauses == [7, 600, 8, 16, 32, 60]


def test_it_gives_up_with_one_line_after_pauses_that_grow_to_a_bound(site, path, patience, pauses):
    site.answers = [Answer(cut=HALF)]
    site.usual = Answer(status=502)
    with pytest.raises(RunFailure) as failure:
        download(site.address, path, patience=dataclasses.replace(patience, longest_pause=10))
    line = f"{site.address}: cannot be downloaded (502 Bad Gateway), tried 8 times"
    assert str(failure.value) == f"{line}; {HALF} bytes are kept for the next run"
    assert pauses == [1, 1, 2, 4, 8, 10, 10, 10]
    assert not path.exists()


def test_a_server_that_never_gets_further_is_given_up(site, path, patience):
    site.answers = [Answer(cut=cut, knows_ranges=False) for cut in (HALF, HALF // 2)] * 10
    with pytest.raises(RunFailure, match="the connection ended early"):
        download(site.address, path, patience=patience)
    assert len(site.log) == 1 + patience.attempts


def test_a_server_that_sends_nothing_leaves_nothing(site, path, patience):
    site.usual = Answer(cut=0)
    with pytest.raises(RunFailure, match=r"ended early.*tried 8 times$"):
        download(site.address, path, patience=patience)
    assert names(path) == []


def test_an_older_and_longer_beginning_does_not_stay(site, path, patience):
    site.answers = [Answer(cut=HALF), Answer(status=404)]
    with pytest.raises(RunFailure, match="404 Not Found"):
        download(site.address, path, Content(len(CONTENT)), patience)
    site.content = CONTENT[1:1000]
    assert download(site.address, path, Content(999, sha256(site.content)), patience)
    assert_is_whole(path, site.content)


def test_a_server_out_of_reach_is_given_up_soon(path, patience, pauses):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/file.bin"
        with pytest.raises(RunFailure, match=rf"^{address}: .*\(Connection refused\), tried 3 times$"):
            download(address, path, patience=patience)
    assert pauses == [1, 2] and names(path) == []


@pytest.mark.parametrize(
    ("place", "error", "told"),
    [
        ((socket, "getaddrinfo"), socket.gaierror(-3, "Temporary failure"), "name is not found.*offline"),
        (
            (urllib3.util.connection, "create_connection"),
            OSError(errno.ENETUNREACH, "x"),
            "no route.*offline",
        ),
    ],
)
def test_being_offline_is_told_in_one_line(site, path, patience, monkeypatch, place, error, told):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(*place, fail)
    with pytest.raises(RunFailure, match=f"^http://host.example/a: cannot be downloaded .*{told}") as failure:
        download("http://host.example/a", path, patience=patience)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_wrong_checksum_is_given_one_more_try_from_the_start(site, path, patience, algorithm):
    right, wrong = CONTENT, CONTENT[:-1] + b"x"
    content = Content(len(right), hashlib.new(algorithm, right).hexdigest().upper())
    site.answers = [Answer(content=wrong, cut=HALF), Answer(content=wrong)]
    assert download(site.address, path, content, patience)
    assert_is_whole(path)
    assert site.ranges == [None, f"bytes={HALF}-", None]
    path.unlink()
    site.usual = Answer(content=wrong)
    with pytest.raises(RunFailure) as failure:
        download(site.address, path, content, patience)
    assert str(failure.value).startswith(f"{site.address}: has another content than expected: ")
    assert content.checksum in str(failure.value)
    assert hashlib.new(algorithm, wrong).hexdigest() in str(failure.value)
    assert site.ranges[3:] == [None, None] and names(path) == []


def test_a_file_of_a_git_repository_is_checked_by_the_name_that_git_gives_it(site, path, patience, tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    command = ["git", "hash-object", "--no-filters", tmp_path / "file"]
    blob = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    content = Content(len(CONTENT), blob, is_git_blob=True)
    assert download(site.address, path, content, patience)
    assert_is_whole(path)
    assert not download(site.address, path, content, patience)
    path.unlink()
    site.content = CONTENT[:-1] + b"x"
    with pytest.raises(RunFailure, match=f"GIT_BLOB_SHA1 {blob} is expected"):
        download(site.address, path, content, patience)


def test_a_file_that_does_not_fit_on_the_disk_is_not_begun_and_a_begun_one_needs_its_rest_only(
    site, path, patience, monkeypatch
):
    free = len(CONTENT) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, free))
    with pytest.raises(RunFailure, match=f"^{site.address}: 300,000 bytes do not fit into {path.parent}, "):
        download(site.address, path, patience=patience)
    assert len(site.log) == 1 and names(path) == []
    free = len(CONTENT)
    site.answers = [Answer(cut=HALF)] + [Answer(status=500)] * 8
    with pytest.raises(RunFailure, match="kept for the next run"):
        download(site.address, path, patience=patience)
    assert bytes_missing(path, len(CONTENT)) == len(CONTENT) - HALF
    free = len(CONTENT) - HALF
    assert download(site.address, path, patience=patience)
    assert_is_whole(path)
    assert bytes_missing(path, len(CONTENT)) == 0


@pytest.mark.parametrize("chunked", [False, True])
def test_nothing_is_written_beyond_the_expected_size(site, path, start, chunked):
    """The system refuses the program larger files, and would let it fail in other words than these."""
    site.usual = Answer(chunked=chunked)
    command = ["prlimit", f"--fsize={HALF}", sys.executable, "-c", DOWNLOADER, site.address, path, str(HALF)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    has = "more" if chunked else len(CONTENT)
    told = (
        f"{site.address}: has another content than expected: {HALF} bytes are expected, the server has {has}"
    )
    assert (done.returncode, done.stderr) == (1, f"-c: error: {told}\n")
    assert len(site.log) == 2 and names(path) == []


def test_a_part_that_is_longer_than_it_says_is_not_taken(site, path, patience):
    part = {"Content-Range": f"bytes {HALF}-{len(CONTENT) - 1}/{len(CONTENT)}"}
    site.answers = [Answer(cut=HALF), Answer(status=206, content=CONTENT, headers=part)]
    assert download(site.address, path, patience=patience)
    assert_is_whole(path)


def test_what_a_proxy_sends_in_its_place_does_not_cost_what_came(site, path, patience):
    page = Answer(status=200, content=b"<html>log in</html>", headers={"ETag": '"page"'})
    site.answers = [Answer(cut=HALF), page]
    assert download(site.address, path, Content(len(CONTENT)), patience)
    assert_is_whole(path)
    assert site.ranges[2:] == [f"bytes={HALF}-"]


def test_a_body_encoded_unasked_is_not_taken_for_the_file(site, path, patience):
    site.usual = Answer(headers={"Content-Encoding": "gzip"})
    with pytest.raises(RunFailure, match="sent as gzip, unasked"):
        download(site.address, path, patience=patience)
    assert download(site.address, path, Content(checksum=sha256(CONTENT)), patience)
    assert_is_whole(path)


def test_redirects_are_followed_with_the_range(site, path, patience):
    moved = Answer(status=302, content=b"elsewhere", headers={"Location": "/other"})
    site.answers = [moved, Answer(cut=HALF), moved]
    assert download(site.address, path, patience=patience)
    assert_is_whole(path)
    rest = f"bytes={HALF}-"
    assert [(asked.path, asked.range) for asked in site.log] == [
        ("/file.bin", None),
        ("/other", None),
        ("/file.bin", rest),
        ("/other", rest),
    ]


@pytest.mark.parametrize(
    ("target", "told"),
    [("/file.bin", "redirected without end"), ("ftp://127.0.0.1/", "ftp"), ("file:///etc/hostname", "file")],
)
def test_a_redirect_that_leads_nowhere_is_a_failure(site, path, patience, pauses, target, told):
    site.usual = Answer(status=302, content=b"", headers={"Location": target})
    with pytest.raises(RunFailure, match=f"^{site.address}: cannot be downloaded .*{told}"):
        download(site.address, path, patience=patience)
    assert len(site.log) <= 11 and pauses == [] and names(path) == []


def test_no_redirect_leads_from_https_to_http(site, path, patience, monkeypatch):
    real_send = requests.adapters.HTTPAdapter.send

    def send(adapter, request, **options):
        if request.url == "https://host.example/a":
            response = requests.Response()
            response.status_code, response.url, response.request = 302, request.url, request
            response.headers["location"] = target
            response.raw = urllib3.HTTPResponse(io.BytesIO(), preload_content=False)
            return response
        return real_send(adapter, request, **options)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    target = site.address
    with pytest.raises(RunFailure, match="redirected from https to http"):
        download("https://host.example/a", path, patience=patience)
    assert site.log == [] and names(path) == []
    target = "//127.0.0.1:1/b"
    with pytest.raises(RunFailure, match="Connection refused"):
        download("https://host.example/a", path, patience=patience)


def test_a_server_of_an_unknown_certificate_is_refused_at_once(site, path, patience, pauses, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", key, "-out", certificate, "-subj", "/CN=127.0.0.1"]
    try:
        subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl makes the certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    site.socket = context.wrap_socket(site.socket, server_side=True)
    with pytest.raises(RunFailure, match="CERTIFICATE_VERIFY_FAILED"):
        download(site.address.replace("http:", "https:"), path, patience=patience)
    assert site.log == [] and pauses == [] and names(path) == []


@pytest.mark.parametrize(
    "address", ["ftp://host/a", "file:///etc/hostname", "host/a", "", "http://", "https:///a"]
)
def test_only_the_web_is_asked(path, address):
    with pytest.raises(RunFailure, match="no address of http or https"):
        download(address, path)
    with pytest.raises(UsageError, match=f"^--mirror {address}: must begin with http"):
        require_web_address(address, "mirror")
    require_web_address("https://host", "mirror")


def test_a_token_goes_to_the_host_that_it_is_for_alone(site, path, patience):
    elsewhere = site.address.replace("127.0.0.1", "localhost")
    site.answers = [Answer(status=302, content=b"", headers={"Location": elsewhere})]
    assert download(site.address, path, patience=patience, headers={"Authorization": "Bearer secret"})
    assert_is_whole(path)
    assert [asked.authorization for asked in site.log] == ["Bearer secret", None]


def test_a_mirror_stands_in_the_place_of_the_host():
    assert on_mirror("https://host/a/b", None) == "https://host/a/b"
    assert on_mirror("https://host/a/b", "http://mirror:81") == "http://mirror:81/a/b"
    assert on_mirror("https://host/a/b", "http://mirror/pub/") == "http://mirror/pub/a/b"


def test_a_password_in_an_address_is_sent_and_not_shown(site, path, patience, capsys):
    site.answers = [Answer(status=500), Answer(status=404)]
    with pytest.raises(RunFailure) as failure:
        download(site.address.replace("//", "//user:secret@"), path, patience=patience)
    assert str(failure.value).startswith(site.address)
    assert "secret" not in str(failure.value) + capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143), (signal.SIGINT, 130)],
)
def test_a_program_that_was_ended_goes_on_with_the_missing_bytes(site, path, start, number, code):
    site.answers = [Answer(cut=HALF, stalls=True)]
    ended = start()
    wait_for(lambda: bytes_beside(path) == HALF)
    ended.send_signal(number)
    assert ended.wait(10) == code
    assert not path.exists() and bytes_beside(path) == HALF
    assert download(site.address, path)
    assert_is_whole(path)
    assert [(asked.range, asked.if_range) for asked in site.log] == [
        (None, None),
        (f"bytes={HALF}-", '"first"'),
    ]
    assert site.log[1].sent == len(CONTENT) - HALF


def test_of_two_programs_one_downloads_and_the_other_waits_for_it(site, path, start):
    site.answers = [Answer(cut=HALF, stalls=True)]
    first = start()
    wait_for(lambda: bytes_beside(path) == HALF)
    second = start()
    waits = f"{path}: in use by process {first.pid} on {os.uname().nodename}; waiting for it\n"
    assert second.stdout.readline() == waits
    site.go_on.set()
    assert first.communicate(timeout=20) == ("downloaded: True\n", "")
    assert second.communicate(timeout=20) == ("downloaded: False\n", "")
    assert_is_whole(path)
    assert len(site.log) == 1


def test_on_a_terminal_the_rate_is_shown(site, path, start):
    terminal, program_side = os.openpty()
    termios.tcsetwinsize(program_side, (25, 100))
    process = start(stderr=program_side)
    os.close(program_side)
    shown = b""
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 1000):
            shown += piece
    os.close(terminal)
    assert process.communicate(timeout=20)[0] == "downloaded: True\n"
    assert b"file.bin" in shown and b"B/s" in shown and b"300k/300k" in shown
