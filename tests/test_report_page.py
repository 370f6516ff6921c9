"""The page in headless Chromium: from disk, without the network, with all curves; a log's text stays text."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from run_logs import ROOT, real_quickstart_log, write_run
from test_run_report import NVIDIA

import report_page
import run_curves
import run_report
import svg_chart
from command_line import UsageError
from report_configuration import ReportConfig
from report_server import PageServer
from run_log import read_run

ATTACK = '<img src=x onerror="document.title=1"><script>document.title=2</script>\'"&amp;'


def write_page(folder: Path, *runs: Path) -> str:
    path = folder / "report.html"
    path.write_text(report_page.render([read_run(str(run)) for run in runs]), encoding="utf-8")
    return path.as_uri()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_page_opens_from_disk_with_all_curves(width, scheme, opened, tmp_path):
    address = write_page(tmp_path, real_quickstart_log())
    page = opened(address, width, scheme)
    # Nothing but the page itself and its empty icon was asked for, and the console has nothing to say.
    assert [text for text in page.told if text not in (address, "data:,")] == []
    assert page.locator("figure").count() == 13
    for path in page.locator("path.curve").all():
        box = path.bounding_box()
        assert box["width"] > 20 or box["height"] > 20
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    darkness = max(map(int, re.findall(r"\d+", background)))
    assert darkness < 60 if scheme == "dark" else darkness > 200
    assert page.locator(".verdict strong").first.inner_text() == "✓ healthy"


@pytest.mark.slow
def test_pointer_reads_values_off_the_curve(opened, tmp_path):
    """At the middle of the axis: update 10,000 of a loss that falls from 25 to 12 over 20,000."""
    page = opened(write_page(tmp_path, write_run(tmp_path / "run")))
    chart = page.locator("figure").first.locator("svg.chart")
    box = chart.bounding_box()
    left, right = 46 / 360, (360 - 18) / 360
    page.mouse.move(box["x"] + box["width"] * (left + right) / 2, box["y"] + box["height"] / 2)
    update, training, held_out = page.locator("figure").first.locator("output").all_inner_texts()
    assert abs(int(update.removeprefix("update ").replace(",", "")) - 10_000) < 100
    assert float(training) == pytest.approx(18.5, abs=0.2)
    assert float(held_out) == pytest.approx(19.5, abs=0.2)
    page.mouse.move(0, 0)
    assert set(page.locator("figure").first.locator("output").all_inner_texts()) == {""}


@pytest.mark.slow
def test_whatever_a_log_brings_is_text(opened, tmp_path):
    run = write_run(tmp_path / "run", {"model_name": ATTACK, "vocab_file": ATTACK, ATTACK: ATTACK})
    other = write_run(tmp_path / ATTACK.replace("/", ""), {"model_name": None})
    page = opened(write_page(tmp_path, run, other))
    assert [text for text in page.told if not text.startswith(("file:", "data:,"))] == []
    assert page.title().startswith(ATTACK)
    assert page.locator("img").count() == 0 and page.locator("script").count() == 1


@pytest.mark.slow
def test_watched_page_is_current_and_stays_on_this_machine(opened, tmp_path):
    folder = write_run(tmp_path / "run", updates=range(500, 5001, 500))
    command = [sys.executable, str(ROOT / "run_report.py"), "--watch", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().split()[0]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        page = opened(address)
        assert "5,000 of 40,000 updates" in page.locator(".verdict").inner_text()
        assert page.locator('meta[http-equiv="refresh"]').count() == 1
        write_run(folder, updates=range(5500, 6001, 500))
        page.reload()
        assert "6,000 of 40,000 updates" in page.locator(".verdict").inner_text()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (130, "run_report.py: error: interrupted\n")
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def served():
    """Serve a page meanwhile: served(make_page, stamp) returns its address."""
    servers = []

    def serve(make_page, stamp) -> str:
        servers.append(PageServer(make_page, stamp, 0))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1].url

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def read(address: str) -> bytes:
    return urllib.request.urlopen(address, timeout=10).read()


def test_a_page_is_made_once_for_all_tabs_until_what_it_shows_changes(served):
    """Eight requests at once and two later ones: two pages, as the stamp changed once."""
    now, made = ["first"], []

    def make_page() -> str:
        made.append(now[0])
        time.sleep(0.2)
        return f"page {now[0]}"

    address = served(make_page, lambda: now[0])
    with ThreadPoolExecutor(8) as tabs:
        assert set(tabs.map(read, [address] * 8)) == {b"page first"}
    assert made == ["first"]
    now[0] = "second"
    assert read(address) == read(address) == b"page second"
    assert made == ["first", "second"]


def test_a_page_that_could_not_be_made_is_made_at_the_next_request(served):
    failures = [UsageError("no log yet")]

    def make_page() -> str:
        if failures:
            raise failures.pop()
        return "page"

    address = served(make_page, lambda: 1)
    with pytest.raises(urllib.error.HTTPError) as refused:
        read(address)
    assert refused.value.code == 500 and b"no log yet" in refused.value.read()
    assert read(address) == b"page"


def test_watch_reads_a_log_again_only_when_it_has_grown(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", updates=(500,))
    reads, pages = [], []
    monkeypatch.setattr(run_report, "read_run", lambda name: reads.append(name) or read_run(name))

    class Requests(PageServer):
        """Two requests, an update, and two more."""

        def serve_forever(self):
            pages.extend([self.page(), self.page()])
            write_run(folder, updates=(1000,))
            pages.extend([self.page(), self.page()])

    monkeypatch.setattr(run_report, "PageServer", Requests)
    run_report._serve(ReportConfig(run_dir=(str(folder),), watch=True, port=0))
    assert len(reads) == 2
    assert pages[0] == pages[1] and pages[2] == pages[3] and "1,000 of 40,000 updates" in pages[2]


def test_server_answers_its_own_name_alone(tmp_path):
    with PageServer(lambda: "page", lambda: 1, 0) as server:
        assert server.server_address[0] == "127.0.0.1"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert urllib.request.urlopen(server.url, timeout=10).read() == b"page"
        for request, code in (
            (urllib.request.Request(server.url, headers={"Host": "elsewhere.example"}), 403),
            (urllib.request.Request(server.url + "../../etc/passwd"), 404),
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=10)
            assert refused.value.code == code
        server.shutdown()


def test_page_has_configuration_data_environment_and_checkpoints(tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "pretrain_data.tfrecord-0-of-1").write_bytes(b"")
    (shards / "manifest.json").write_text(
        '{"documents": 4321, "padding_share": 0.0625, "settings": {"max_seq_length": 128},'
        ' "sources": [{"name": "a.txt", "licence": "CC BY-SA"}]}'
    )
    run = write_run(tmp_path / "run", NVIDIA | {"pretrain_tfrecords": str(shards), "num_train_steps": 20_000})
    (run / "checkpoints" / "ckpt-20000").mkdir(parents=True)
    page = report_page.render([read_run(str(run))])
    for cell in ("20,000", "67,584", "4,321", "0.0625", "CC BY-SA", "TENSORFLOW_VERSION", "2.18.1"):
        assert f"<td>{cell}</td>" in page, cell
    assert "checkpoints/ckpt-20000" in page


@pytest.mark.parametrize("damage", [[], "text", {"settings": 3, "sources": 5, "documents_dropped": 1}])
def test_a_strange_manifest_does_no_harm(damage, tmp_path):
    (tmp_path / "pretrain_data.tfrecord-0-of-1").write_bytes(b"")
    (tmp_path / "manifest.json").write_text(json.dumps(damage))
    run = write_run(tmp_path / "run", {"pretrain_tfrecords": str(tmp_path)})
    assert "<h2>Curves</h2>" in report_page.render([read_run(str(run))])


def test_axes_have_round_ticks_within_their_range():
    for values, expected in (
        ([0, 290], [0, 100, 200]),
        ([0.41, 0.88], [0.5, 0.6, 0.7, 0.8]),
        ([19.2, 43.9], [20, 25, 30, 35, 40]),
        ([7.0, 7.0], [6.5, 7.0, 7.5]),
    ):
        assert svg_chart._Axis(values, 0, 100).ticks() == pytest.approx(expected)
    assert svg_chart._Axis([6.0, 48.0], 0, 1, True).ticks() == [10, 20]
    assert svg_chart._Axis([1e-3, 1e4], 0, 1, True).ticks() == pytest.approx([1e-3, 1e-1, 1e1, 1e3])


def test_one_value_alone_and_equal_values_are_drawn(tmp_path):
    run = read_run(str(write_run(tmp_path, updates=[500])))
    drawn = [svg_chart.draw(chart) for chart in run_curves.charts([run])]
    assert len(drawn) == 16 and all("<circle" in chart and "nan" not in chart for chart in drawn)


def test_the_only_value_of_a_phase_is_drawn_beside_the_curve_of_the_other(tmp_path):
    write_run(tmp_path, updates=(500, 1000))
    write_run(tmp_path, {"phase2": True}, updates=(250,))
    (losses, *_) = run_curves.charts([read_run(str(tmp_path))])
    assert [len(part) for part in losses.series[0].parts] == [2, 1]
    assert svg_chart.draw(losses).count("<circle") == 1
