"""The page's server answers what the models answer, over HTTP; what does not belong there it refuses."""

import asyncio
import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from answering_cases import VOCABULARY, answerer, made_up_questions, write_answering_model
from demo_servers import ROOT, served, waiting
from weight_cases import huggingface

from answering_inputs import load_named
from command_line import UsageError
from detection_inputs import open_detection
from replaced_tokens import TokenDetector
from squad_configuration import InferenceConfig
from web_page import is_own_name

pytest.importorskip("tornado", reason="the server is built on Tornado")

LENGTHS = ("--doc_stride", "16", "--max_query_length", "12")
STRANGE = "an <script>alert(1)</script> \U0001f642 שלום in " + "h" * 300 + " \ud800 tin"


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joint") / "model"
    return write_answering_model(folder, joint_head=True, version_2=True)


@pytest.fixture(scope="module")
def asked(joint):
    with served("--electra_model", joint, *LENGTHS, "--max_characters", "2000") as server:
        yield server


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A discriminator and a generator that read letters."""
    pytest.importorskip("torch", reason="the networks are made by Hugging Face's code")
    pytest.importorskip("transformers", reason="the networks are made by Hugging Face's code")
    folder = tmp_path_factory.mktemp("pair")
    kinds = {"discriminator": "ElectraForPreTraining", "generator": "ElectraForMaskedLM"}
    for seed, (name, kind) in enumerate(kinds.items()):
        huggingface(kind, folder / name, seed=seed, vocab_size=VOCABULARY.size)
        VOCABULARY.save(folder / name / "vocab.txt")
    return folder


@pytest.fixture(scope="module")
def examined(pair):
    with served("--electra_model", pair / "discriminator") as server:
        yield server


def refused(server, path: str, body, status: int, told: str, **headers) -> None:
    found, _, answer = server.request("POST", path, body, **headers)
    assert found == status, answer
    assert told in json.loads(answer)["error"]


# ------------------------------------------------------------------------------------------------ answers


@pytest.mark.slow
def test_answers_are_the_answerers(asked, joint):
    """Also of texts with characters that JavaScript counts as two; `begin` and `end` count as it does."""
    model = answerer(joint)
    questions = [*made_up_questions(12), ("what", STRANGE), ("\U0001f642?", "a \U0001f642\U0001f642 tin")]
    for question, context in questions:
        expected = model.answer(question, context)
        found = asked.ask("/answer", {"question": question, "context": context})
        assert found["answer"] == expected.text
        assert found["probability"] == pytest.approx(expected.probability, abs=1e-4)
        assert found["null_odds"] == pytest.approx(expected.null_odds, abs=1e-3)
        assert [entry["text"] for entry in found["n_best"]] == [entry["text"] for entry in expected.n_best]
        units = context.replace("\ud800", "\ufffd").encode("utf-16-le")
        for entry in found["n_best"]:
            marked = units[2 * entry["begin"] : 2 * entry["end"]].decode("utf-16-le")
            assert marked == entry["text"]


@pytest.mark.slow
def test_tokens_and_alternatives_are_the_networks(examined, pair):
    config = InferenceConfig(electra_model=str(pair), serve=True)
    model = TokenDetector(open_detection(config, load_named(config)), alternatives=5, batch_size=4)
    for text in (STRANGE, "an apple in a tin. " * 20):
        expected = model.tokens(text)
        found = examined.ask("/tokens", {"text": text})["tokens"]
        units = text.replace("\ud800", "\ufffd").encode("utf-16-le")
        for entry, token in zip(found, expected, strict=True):
            assert entry["token"] == token.piece
            assert entry["probability"] == pytest.approx(token.probability, abs=1e-4)
            piece = units[2 * entry["begin"] : 2 * entry["end"]].decode("utf-16-le")
            assert piece == text.replace("\ud800", "\ufffd")[token.begin : token.end]
        places = [0, len(expected) - 1, 3]
        answer = examined.ask("/alternatives", {"text": text, "places": places})["alternatives"]
        for entry, alternatives in zip(answer, model.alternatives(text, places), strict=True):
            assert [one["token"] for one in entry["best"]] == [piece for piece, _ in alternatives.best]
            assert entry["probability"] == pytest.approx(alternatives.probability, abs=1e-4)


@pytest.mark.slow
def test_the_page_is_served_with_its_policy_and_nothing_else_is(asked, examined):
    for server, path in ((asked, "/answer"), (examined, "/tokens")):
        status, headers, body = server.request("GET", "/")
        page = body.decode()
        assert status == 200 and headers["Content-Type"] == "text/html; charset=UTF-8"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store" and headers["X-Content-Type-Options"] == "nosniff"
        assert "Server" not in headers
        assert (
            "default-src 'none'" in page and "unsafe" not in page and "http" not in page.split("<style>")[1]
        )
        for method, wrong, expected in (
            ("GET", path, 405),
            ("GET", "/../etc/passwd", 404),
            ("PUT", "/", 405),
        ):
            status, _, body = server.request(method, wrong)
            assert status == expected and "error" in json.loads(body)
    # A page has what its own model can do.
    assert asked.request("POST", "/tokens", b"{}")[0] == examined.request("POST", "/answer", b"{}")[0] == 404


@pytest.mark.slow
def test_what_is_too_long_or_no_request_is_refused_with_a_reason(asked, examined):
    good = {"question": "a", "context": "b"}
    for change, status, told in (
        ({"context": "x" * 2001}, 413, "'context' has 2,001 characters; the most is 2,000"),
        ({"question": "x" * 1001}, 413, "'question' has 1,001 characters"),
        ({"question": 1}, 400, "'question' is no text"),
        ({"context": None}, 400, "'context' is no text"),
    ):
        refused(asked, "/answer", json.dumps(good | change), status, told)
    refused(asked, "/answer", b'{"context": "a"}', 400, "'question' is missing")
    for body, told in (
        (b"{", "no JSON"),
        (b"[" * 50_000, "no JSON"),
        (b"\xff", "no JSON"),
        (b"[]", "object"),
    ):
        refused(asked, "/answer", body, 400, told)
    refused(asked, "/answer", json.dumps(good), 415, "application/json", **{"Content-Type": "text/plain"})
    for places, status in (
        ([99], 400),
        ([-1], 400),
        ([0.5], 400),
        ("0", 400),
        ([10**30], 400),
        ([0] * 17, 413),
    ):
        body = json.dumps({"text": "an in", "places": places})
        assert examined.request("POST", "/alternatives", body)[0] == status
    # Longer than anything that it takes, by the header alone: not even read.
    with contextlib.suppress(OSError):
        assert asked.request("POST", "/answer", b"{}", **{"Content-Length": str(10**9)})[0] == 400
    assert asked.ask("/answer", good)["answer"] in ("", "b")


@pytest.mark.slow
def test_another_name_is_refused(asked):
    body = json.dumps({"question": "a", "context": "b"})
    for name in ("elsewhere.example", f"elsewhere.example:{asked.port}", "127.0.0.1.example", "10.0.0.1"):
        assert asked.request("GET", "/", Host=name)[0] == 403
        refused(asked, "/answer", body, 403, "another name", Host=name)
        assert asked.request("GET", "/nothing", Host=name)[0] == 403
    for name in ("localhost", f"LOCALHOST:{asked.port}", "127.0.0.1"):
        assert asked.request("GET", "/", Host=name)[0] == 200


def test_names_of_a_server_for_others_are_its_own_and_numbers():
    for host, address, expected in (
        ("10.1.2.3:8009", "0.0.0.0", True),
        ("[fe80::1]:8009", "::", True),
        (f"{socket.gethostname()}:8009", "0.0.0.0", True),
        ("model.example", "model.example", True),
        ("other.example", "0.0.0.0", False),
        ("10.1.2.3", "127.0.0.1", False),
        ("[::1]:80", "::1", True),
        ("", "127.0.0.1", False),
        ("127.0.0.2:8009", "127.0.0.2", True),
        ("127.0.1.1", "127.0.1.1", True),
        ("localhost:8009", "127.0.0.2", True),
        ("127.0.0.3", "127.0.0.2", False),
        ("elsewhere.example:8009", "127.0.0.2", False),
        ("127.0.0.2.elsewhere.example", "127.0.0.2", False),
    ):
        assert is_own_name(host, address) is expected, (host, address)


@pytest.mark.parametrize("host", ["local..host", "a" * 64 + ".example"])
def test_a_host_that_no_name_can_be_is_a_mistake_of_the_flag(host):
    import demo_server

    with pytest.raises(UsageError, match=f"^--host {host}: is no name of a host$"):
        demo_server.bind(InferenceConfig(electra_model="none", serve=True, host=host, port=0))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "127.0.1.1", "localhost", "0.0.0.0"])
def test_the_address_that_it_prints_is_one_that_it_answers_at(host):
    import demo_server

    sockets = demo_server.bind(InferenceConfig(electra_model="none", serve=True, host=host, port=0))
    try:
        assert is_own_name(urlsplit(demo_server._url(host, sockets)).netloc, host)
    finally:
        for one in sockets:
            one.close()


# ---------------------------------------------------------------------------------------- while it computes


def asked_in_the_background(server, folder, numbers) -> list[threading.Thread]:
    """Questions whose answers come when their files are there; the first one is being computed on return."""

    def ask(number: int) -> None:
        # The server may end before it answers.
        with contextlib.suppress(OSError, http.client.HTTPException):
            server.ask("/answer", {"question": str(folder / f"{number}"), "context": "a"})

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in numbers]
    for thread in threads:
        thread.start()
    wait_for(lambda: any(folder.glob("*.asked")))
    return threads


def wait_for(is_so) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_the_server_answers_while_it_computes(joint, tmp_path):
    with waiting(joint) as server:
        threads = asked_in_the_background(server, tmp_path, range(3))
        assert server.request("GET", "/")[0] == 200
        for number in range(3):
            (tmp_path / f"{number}").touch()
        for thread in threads:
            thread.join(60)
        assert len(list(tmp_path.glob("*.asked"))) == 3


def test_more_than_may_wait_are_told_to_come_again():
    """Sixteen at a time, the one that is being computed among them; then there is room again."""
    import demo_server

    answered, may_answer = [], threading.Event()

    def answer(request: dict) -> dict:
        assert may_answer.wait(60)
        answered.append(request["number"])
        return request

    async def ask() -> None:
        with ThreadPoolExecutor(1) as executor:
            worker = demo_server._Worker(executor)
            runs = [worker.run(SimpleNamespace(), answer, {"number": number}) for number in range(16)]
            tasks = [asyncio.ensure_future(run) for run in runs]
            await asyncio.sleep(0)
            with pytest.raises(demo_server.BadRequest, match="too many questions at once"):
                await worker.run(SimpleNamespace(), answer, {"number": 16})
            may_answer.set()
            await asyncio.gather(*tasks)
            assert await worker.run(SimpleNamespace(), answer, {"number": 17}) == {"number": 17}

    asyncio.run(ask())
    assert answered == [*range(16), 17]


def test_who_goes_away_while_waiting_is_not_computed_for():
    import tornado.web

    import demo_server

    answered, may_answer = [], threading.Event()

    def answer(request: dict) -> dict:
        assert may_answer.wait(60)
        answered.append(request["number"])
        return request

    async def ask() -> None:
        with ThreadPoolExecutor(1) as executor:
            worker, handlers = demo_server._Worker(executor), [SimpleNamespace() for _ in range(3)]
            tasks = [
                asyncio.ensure_future(worker.run(handler, answer, {"number": number}))
                for number, handler in enumerate(handlers)
            ]
            await asyncio.sleep(0)
            handlers[1].future.cancel()
            with pytest.raises(tornado.web.Finish):
                await tasks[1]
            may_answer.set()
            await asyncio.gather(tasks[0], tasks[2])

    asyncio.run(ask())
    assert answered == [0, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "told"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signals_end_it_with_their_codes(number, code, told, joint, tmp_path):
    """Idle; and while it computes, as soon as that is done: what waits behind it is not begun."""
    with waiting(joint) as server:
        assert server.end(number)[0] == code
    with waiting(joint) as server:
        asked_in_the_background(server, tmp_path, range(3))
        server.process.send_signal(number)
        time.sleep(0.2)
        begun = list(tmp_path.glob("*.asked"))
        assert len(begun) == 1
        begun[0].with_suffix("").touch()
        _, errors = server.process.communicate(timeout=60)
        assert server.process.returncode == code and errors.splitlines()[-1].endswith(f"error: {told}")
        assert list(tmp_path.glob("*.asked")) == begun


@pytest.mark.slow
def test_the_program_ends_by_ctrl_c_without_a_traceback(joint):
    with served("--electra_model", joint, *LENGTHS) as server:
        assert server.end(signal.SIGINT) == (130, "run_inference.py: error: interrupted\n")


# -------------------------------------------------------------------------------------------------- starts


def test_a_port_that_is_taken_is_named_before_anything_is_loaded(usage_error, joint):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        error = usage_error("run_inference.py", "--electra_model", "nowhere", "--serve", "--port", port)
        assert f"--host 127.0.0.1 --port {port}: Address already in use" in error
    flags = ("--electra_model", "nowhere", "--serve", "--port", "0")
    assert "--host no.such.invalid: " in usage_error("run_inference.py", *flags, "--host", "no.such.invalid")
    assert "--electra_model nowhere" in usage_error("run_inference.py", *flags)


def test_without_tornado_it_says_what_to_install():
    code = "import sys; sys.modules['tornado'] = None; import run_inference, command_line\n"
    code += "sys.argv = ['run_inference.py', '--serve', '--electra_model', 'nowhere']\n"
    code += "command_line.run_program(run_inference.main)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        "run_inference.py: error: --serve: needs the package tornado (bash scripts/install.sh)\n"
    )


def test_a_text_that_the_page_could_not_ask_about_is_refused(joint):
    import demo_server

    config = InferenceConfig(electra_model=str(joint), serve=True, max_characters=3)
    with pytest.raises(UsageError, match="--max_characters 3: the text that the page begins with has 4"):
        demo_server.serve(config, [], load_named(config), "abcd", answerer=object())
