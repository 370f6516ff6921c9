"""Serves the page of run_inference.py --serve and answers what its script asks, on Tornado.

One thread computes, one request after the other; the server goes on answering beside it. What comes in is
bounded in size and number, checked, and asked for under the server's own name (web_page.is_own_name).
"""

import asyncio
import json
import logging
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import tornado.httpserver
import tornado.netutil
import tornado.web

import demo_page
import web_page
from command_line import RunFailure, Terminated, UsageError
from pretrained_models import PretrainedModel
from squad_configuration import InferenceConfig
from tokenization import encodable
from weight_conversion import architecture_name

# Requests that may wait for the thread; one more is told to come again.
_MOST_WAITING = 16
_MOST_PLACES = 16
_SECONDS_FOR_A_BODY, _SECONDS_IDLE = 30, 120
# JSON may write a character as two escapes, \uXXXX\uXXXX.
_BYTES_OF_A_CHARACTER, _BYTES_BESIDE = 12, 65536
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class BadRequest(Exception):
    """A request that cannot be answered: a status of HTTP and a sentence for whoever asked."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


Answer = Callable[[dict], dict]


def bind(config: InferenceConfig) -> list[socket.socket]:
    """The sockets to serve on; to be called before anything that takes long.

    Raises:
        UsageError: no such address, or the port is taken or not allowed.
    """
    try:
        return tornado.netutil.bind_sockets(config.port, config.host)
    except socket.gaierror as error:
        raise UsageError(f"--host {config.host}: {error.strerror}") from None
    except UnicodeError:  # of the encoding of names: two dots in a row, say
        raise UsageError(f"--host {config.host}: is no name of a host") from None
    except OSError as error:
        raise UsageError(f"--host {config.host} --port {config.port}: {error.strerror}") from None


def serve(
    config: InferenceConfig,
    sockets: list[socket.socket],
    model: PretrainedModel,
    context: str,
    *,
    answerer=None,
    detector=None,
) -> None:
    """Serve until a signal, then raise what it means to run_program: KeyboardInterrupt or Terminated.

    Args:
        sockets: of `bind`.
        context: the text that the page begins with; "" for an example.
        answerer, detector: a question_answerer.Answerer or a replaced_tokens.TokenDetector.
    """
    if len(context) > config.max_characters:
        raise UsageError(
            f"--max_characters {config.max_characters}: the text that the page begins with has {len(context)}"
        )
    # What strangers send is answered, and no news.
    for name in ("tornado.access", "tornado.general"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if answerer is not None:
        answers = _answering(config, answerer)
        page = demo_page.answering_page(_named(model), config.max_characters, context)
    else:
        answers = _detection(config, detector)
        page = demo_page.detection_page(
            _named(model), config.max_characters, context, has_generator=detector.has_generator
        )
    with ThreadPoolExecutor(1) as executor:
        worker = _Worker(executor)
        shared = {"address": config.host}
        routes = [("/", _PageHandler, shared | {"page": page})]
        routes += [
            (f"/{path}", _AnswerHandler, shared | {"answer": answer, "worker": worker})
            for path, answer in answers.items()
        ]
        application = tornado.web.Application(
            routes, default_handler_class=_NothingHandler, default_handler_args=shared
        )
        number = asyncio.run(_serve_until_signal(application, sockets, config))
        executor.shutdown(cancel_futures=True)
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _named(model: PretrainedModel) -> str:
    count = sum(tensor.size for tensor in model.tensors.values())
    return f"{architecture_name(model.tensors)} of {count:,} parameters, {model.source}"


# ----------------------------------------------------------------------------------------------- answers


def _answering(config: InferenceConfig, answerer) -> dict[str, Answer]:
    """What the page of a model that answers questions asks for, by path."""

    def answer(request: dict) -> dict:
        context = _text(request, "context", config.max_characters)
        question = _text(request, "question", demo_page.MOST_QUESTION_CHARACTERS)
        found = answerer.answer(question, context)
        units = _utf16_units(context)
        n_best = [
            entry | {"begin": units[begin], "end": units[end]}
            for entry, (begin, end) in zip(found.n_best, found.spans, strict=True)
        ]
        return found.as_json() | {"n_best": n_best}

    return {"answer": answer}


def _detection(config: InferenceConfig, detector) -> dict[str, Answer]:
    """What the page of a discriminator asks for, by path."""

    def tokens(request: dict) -> dict:
        text = _text(request, "text", config.max_characters)
        units = _utf16_units(text)
        return {
            "tokens": [
                {
                    "token": token.piece,
                    "begin": units[token.begin],
                    "end": units[token.end],
                    "probability": token.probability,
                }
                for token in detector.tokens(text)
            ]
        }

    def alternatives(request: dict) -> dict:
        text, places = _text(request, "text", config.max_characters), request.get("places")
        if not isinstance(places, list) or not all(type(place) is int for place in places):
            raise BadRequest(400, "'places' is no list of whole numbers")
        if len(places) > _MOST_PLACES:
            raise BadRequest(413, f"{len(places)} places; the most is {_MOST_PLACES}")
        try:
            found = detector.alternatives(text, places)
        except (IndexError, OverflowError):
            raise BadRequest(400, "a place outside the text") from None
        return {"alternatives": [entry.as_json() for entry in found]}

    return {"tokens": tokens} | ({"alternatives": alternatives} if detector.has_generator else {})


def _text(request: dict, name: str, most: int) -> str:
    value = request.get(name)
    if not isinstance(value, str):
        raise BadRequest(400, f"{name!r} is {'no text' if name in request else 'missing'}")
    if len(value) > most:
        raise BadRequest(413, f"{name!r} has {len(value):,} characters; the most is {most:,}")
    return encodable(value)


def _utf16_units(text: str) -> list[int]:
    """How many units of UTF-16, in which JavaScript counts, stand before each character, and in all."""
    units = [0]
    for character in text:
        units.append(units[-1] + (2 if ord(character) > 0xFFFF else 1))
    return units


# ------------------------------------------------------------------------------------------------ server


async def _serve_until_signal(
    application: tornado.web.Application, sockets: list[socket.socket], config: InferenceConfig
) -> int:
    """The number of the signal that ended it."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def end(number: int) -> None:
        if not ended.done():
            ended.set_result(number)

    # A signal's exception would else be raised, and lost, in whatever callback is running.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        loop.add_signal_handler(number, end, number)
    server = tornado.httpserver.HTTPServer(
        application,
        max_body_size=_BYTES_OF_A_CHARACTER * config.max_characters + _BYTES_BESIDE,
        body_timeout=_SECONDS_FOR_A_BODY,
        idle_connection_timeout=_SECONDS_IDLE,
    )
    server.add_sockets(sockets)
    if not web_page.is_loopback(config.host):
        print(f"note: whoever reaches {config.host} can ask here: there is no password", flush=True)
    print(f"{_url(config.host, sockets)} serves the page; Ctrl-C ends this", flush=True)
    number = await ended
    server.stop()
    await server.close_all_connections()
    return number


def _url(host: str, sockets: list[socket.socket]) -> str:
    name = socket.gethostname() if host in ("", "0.0.0.0", "::") else host
    return f"http://{f'[{name}]' if ':' in name else name}:{sockets[0].getsockname()[1]}/"


class _Worker:
    """The thread that computes."""

    def __init__(self, executor: ThreadPoolExecutor):
        self._executor, self._waiting = executor, 0

    async def run(self, handler: "_AnswerHandler", answer: Answer, request: dict) -> dict:
        """The answer, unless whoever asked goes away while it waits.

        Raises:
            BadRequest: too many wait already; or the answer's.
        """
        if self._waiting >= _MOST_WAITING:
            raise BadRequest(503, "too many questions at once; ask again in a moment")
        self._waiting += 1
        handler.future = asyncio.wrap_future(self._executor.submit(answer, request))
        try:
            return await handler.future
        except asyncio.CancelledError:
            raise tornado.web.Finish from None
        finally:
            self._waiting -= 1


class _Handler(tornado.web.RequestHandler):
    """What all answers have in common."""

    def initialize(self, address: str) -> None:
        self.address = address

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in _HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        if not web_page.is_own_name(self.request.headers.get("Host", ""), self.address):
            self._refuse(BadRequest(403, "this server has another name"))

    def write_error(self, status_code: int, **kwargs) -> None:
        self.finish({"error": f"{status_code} {self._reason}"})

    def _refuse(self, error: BadRequest) -> None:
        self.set_status(error.status)
        self.finish({"error": str(error)})


class _NothingHandler(_Handler):
    def prepare(self) -> None:
        super().prepare()
        if not self._finished:
            self._refuse(BadRequest(404, "there is no such page"))


class _PageHandler(_Handler):
    def initialize(self, address: str, page: str) -> None:
        super().initialize(address)
        self._page = page

    def get(self) -> None:
        self.finish(self._page)

    head = get


class _AnswerHandler(_Handler):
    def initialize(self, address: str, answer: Answer, worker: _Worker) -> None:
        super().initialize(address)
        self._answer, self._worker = answer, worker
        self.future: asyncio.Future | None = None

    async def post(self) -> None:
        try:
            answer = await self._worker.run(self, self._answer, self._request())
        except BadRequest as error:
            self._refuse(error)
        except RunFailure as error:
            self._refuse(BadRequest(500, str(error)))
        else:
            self.finish(answer)

    def on_connection_close(self) -> None:
        if self.future is not None:
            self.future.cancel()

    def _request(self) -> dict:
        # A page of another site can send a form, but no JSON without asking first.
        if self.request.headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
            raise BadRequest(415, "application/json is wanted")
        try:
            request = json.loads(self.request.body)
        except (ValueError, RecursionError):
            raise BadRequest(400, "this is no JSON") from None
        if not isinstance(request, dict):
            raise BadRequest(400, "an object of JSON is wanted")
        return request
